"""Small drawings written as SVG text: a chart made by Altair takes as long as six pages."""

from __future__ import annotations

from itertools import accumulate
from math import sqrt

import numpy as np

LEVELS = 32
_STEPS = [f" 1 {d}" if d >= 0 else f" 1{d}" for d in (*range(LEVELS), *range(-LEVELS, 0))]
"""A line's continuation by one step to the right and d down, by d; negative d count from the end as Python's indices do."""


def number(value: float | None) -> str:
    """A value to three figures; a dash when it is undefined."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if 0.001 <= size < 10_000:
        return f"{value:.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3}f}".replace("-", "−")
    return f"{value:.1e}".replace("-", "−")


def courses(steps: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[str]:
    """Path data of activation courses, one row of `steps` (rows x time) each, between each row's `low` and `high`.

    A row ends at its first NaN. The line runs through the middles of the steps, in a box as many units wide as steps and LEVELS high,
    and keeps 2 off its edges so that none of its width is lost.
    """
    span = np.where(high > low, high - low, 1)[:, None]
    with np.errstate(invalid="ignore"):
        level = np.nan_to_num(LEVELS - 2 - (LEVELS - 4) * (steps - low[:, None]) / span).round().astype(np.int64)
    lengths = np.isfinite(steps).cumprod(axis=1).sum(axis=1).tolist()
    moves = np.diff(level, axis=1).tolist()
    first = level[:, 0].tolist()
    paths = []
    for start, row, length in zip(first, moves, lengths, strict=True):
        if length == 0:
            paths.append("")
        elif length == 1:
            paths.append(f"M0 {start}h1")
        else:
            paths.append(f"M0 {start}h.5l{''.join([_STEPS[d] for d in (row if length > len(row) else row[: length - 1])])[1:]}h.5")
    return paths


def histogram(counts: list[int], minimum: float, maximum: float, quantiles: tuple[float, ...]) -> str:
    """A histogram with a line below it from the 5 % to the 95 % quantile, thick between the quartiles, with a mark at the median."""
    top = sqrt(max(counts)) or 1
    bars = "".join([f"M{10 * i} 60v-{60 * sqrt(c) / top:.1f}h9V60z" for i, c in enumerate(counts) if c])
    scale = 10 * len(counts) / (maximum - minimum)
    a, b, median, c, d = [f"{(q - minimum) * scale:.1f}" for q in quantiles]
    zero = f'<path class="zero" d="M{-minimum * scale:.1f} 0V60"/>' if minimum < 0 < maximum else ""
    return (
        f'<svg class="histogram" viewBox="0 -2 {10 * len(counts)} 76" role="img" aria-label="Histogram of the activations of all clips">'
        f'<path class="bars" d="{bars}"/>{zero}<path class="whisker" d="M{a} 69H{d}"/><path class="box" d="M{b} 69H{c}"/>'
        f'<path class="median" d="M{median} 64v10"/></svg>'
    )


def profile(means: list[float]) -> str:
    """Bars of class means from the highest down, to show how few classes stand out; `means` must be sorted and hold no None."""
    low, high = min(0.0, means[-1]), max(0.0, means[0])
    if high == low:
        return ""
    unit = 40 / (high - low)
    base = high * unit
    width = 240 / len(means)
    heights = [f"{m * unit:.1f}" for m in means]
    lefts = accumulate([width] * (len(means) - 1), initial=0.0)
    bars = "".join([f"M{x:.1f} {base:.1f}v{-float(h):g}h{width * 0.8:.1f}v{h}z" for x, h in zip(lefts, heights, strict=True)])
    return (
        f'<svg class="means" viewBox="0 0 240 40" preserveAspectRatio="none" role="img" '
        f'aria-label="Mean activation of each of {len(means)} classes, highest first"><path class="bars" d="{bars}"/></svg>'
    )


def spark(counts: list[int]) -> str:
    """A histogram in a table's cell."""
    top = sqrt(max(counts)) or 1
    bars = "".join([f"M{2 * i} 12v-{max(1, round(12 * sqrt(c) / top))}h2V12z" for i, c in enumerate(counts) if c])
    return f'<svg class="spark" viewBox="0 0 48 12" aria-hidden="true"><path d="{bars}"/></svg>'
