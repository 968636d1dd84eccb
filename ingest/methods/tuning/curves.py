"""Curves of responses over conditions that were repeated: whether they vary, where they are highest, and how wide that peak is.

Repeats are what chance is judged by: variances are those of repeats of one condition, pooled over a curve's conditions, and an interval is
found by drawing the curve anew within its standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 200
LEVEL = 0.95
LEAST = 1e-3
"""Of the largest response, how much a curve must vary at least: what is less may be of rounding, activations being kept in 16 bits."""


@dataclass(frozen=True)
class Curve:
    """Mean response [neurons, conditions], the standard error of such a mean [neurons] with its degrees of freedom, and p [neurons] of as much
    difference between conditions where there is none (analysis of variance)."""

    mean: np.ndarray
    error: np.ndarray
    freedom: int
    p: np.ndarray


def curve(values: np.ndarray) -> Curve:
    """The curve of responses [neurons, conditions, cells, repeats]. What differs between cells of a condition, such as levels, is no error."""
    _, conditions, cells, repeats = values.shape
    each = values.mean(axis=3)
    freedom = conditions * cells * (repeats - 1)
    variance = np.square(values - each[..., None]).sum(axis=(1, 2, 3)) / freedom
    mean = each.mean(axis=2)
    between = cells * repeats * mean.var(axis=1) * conditions / max(1, conditions - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.f.sf(between / variance, max(1, conditions - 1), freedom)
    varies = np.ptp(mean, axis=1) > LEAST * np.abs(values).max(axis=(1, 2, 3))
    return Curve(mean, np.sqrt(variance / (cells * repeats)), freedom, np.where(varies, np.nan_to_num(p, nan=1.0), 1.0))


def two_sided(difference: np.ndarray, error: np.ndarray, freedom: int, scale: np.ndarray) -> np.ndarray:
    """p of differences of which `error` is the standard error; 1 for those that are nothing beside the responses' `scale`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(difference / error), freedom)
    return np.where(np.abs(difference) > LEAST * scale, np.nan_to_num(p, nan=1.0), 1.0)


def smooth(mean: np.ndarray) -> np.ndarray:
    """Each condition's mean with half of its neighbours' [..., conditions]; ends count twice."""
    padded = np.concatenate([mean[..., :1], mean, mean[..., -1:]], axis=-1)
    return padded[..., :-2] / 4 + padded[..., 1:-1] / 2 + padded[..., 2:] / 4


def peak(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Where curves [neurons, conditions] over evenly spaced `x` are highest [neurons]: the parabola through the three highest points, smoothed."""
    smoothed = smooth(mean)
    top = smoothed.argmax(axis=1)
    inner = np.clip(top, 1, len(x) - 2)
    rows = np.arange(len(smoothed))
    left, middle, right = (smoothed[rows, inner + step] for step in (-1, 0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.nan_to_num(0.5 * (left - right) / (left - 2 * middle + right))
    return np.where(top == inner, x[inner] + np.clip(shift, -0.5, 0.5) * (x[1] - x[0]), x[top])


def width(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Width of the highest peak at half of its height [neurons], in the unit of `x`; where an end of `x` is reached, as far as that.

    The height is above the tenth part of the conditions that answer least. What smoothing adds to a peak of Gauss's form is taken off.
    """
    smoothed = smooth(mean)
    top = smoothed.argmax(axis=1)[:, None]
    half = (smoothed.max(axis=1) + np.quantile(smoothed, 0.1, axis=1))[:, None] / 2
    place, count, rows = np.arange(len(x))[None], len(x), np.arange(len(smoothed))
    below = smoothed < half
    right = np.where(below & (place > top), place, count).min(axis=1)
    left = np.where(below & (place < top), place, -1).max(axis=1)

    def crossing(out: np.ndarray, back: int) -> np.ndarray:
        """Between the last point above half, which is `back` from it, and the first below it."""
        there = np.clip(out, 0, count - 1)
        inside = np.clip(out + back, 0, count - 1)
        high, low = smoothed[rows, inside], smoothed[rows, there]
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.nan_to_num((high - half[:, 0]) / (high - low))
        return np.where(out == there, x[inside] + part * (x[there] - x[inside]), x[there])

    step = x[1] - x[0]
    added = 8 * np.log(2) * step**2 / 2  # variances add up, and a full width at half height is sqrt(8 ln 2) standard deviations
    return np.sqrt(np.maximum(np.square(crossing(right, -1) - crossing(left, 1)) - added, step**2))


def drawn(curve: Curve, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a statistic of a mean curve, whose value is a number a neuron: its quantiles over DRAWS curves drawn within the standard
    error."""
    normal = np.random.default_rng(seed).standard_normal((DRAWS, curve.mean.shape[1]))
    found = np.stack([statistic(curve.mean + curve.error[:, None] * draw) for draw in normal])
    return interval(found)


def interval(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle LEVEL of drawn values [draws, neurons]; values that are undefined are left out, and where more than half are so are both ends."""
    defined = np.isfinite(found).mean(axis=0) >= 0.5
    ends = np.full((2, found.shape[1]), np.nan)
    if defined.any():
        ends[:, defined] = np.nanquantile(found[:, defined], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return ends[0], ends[1]
