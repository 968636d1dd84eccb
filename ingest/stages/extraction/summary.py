"""Distributions of neurons' activations over clips: rows of table activation_summary, in bounded memory.

The values of few clips are sorted. float16 has 65,536 codes: of more clips than that it is counted how often each occurs, which gives the same order
statistics as sorting.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import polars as pl

BINS = 24
QUANTILES = {
    "minimum": 0.0,
    "quantile_05": 0.05,
    "quantile_25": 0.25,
    "median": 0.5,
    "quantile_75": 0.75,
    "quantile_95": 0.95,
    "maximum": 1.0,
}
COUNTED_CLIPS = 65_536
SORTED_VALUES, COUNTED_NEURONS = 3_000_000, 32
"""What is worked on at a time, whose copies in float64 take some 200 MB."""

_CODES = np.arange(65_536, dtype=np.uint32).astype(np.uint16)
_FINITE = _CODES[np.isfinite(_CODES.view(np.float16))]
ORDER = _FINITE[np.argsort(_FINITE.view(np.float16), kind="stable")]
"""The codes of float16 that are numbers, in ascending order."""


def summary(matrix: np.ndarray, neuron_ids: np.ndarray) -> pl.DataFrame:
    """Rows of activation_summary for a matrix [neurons, clips]; NaN entries are left out."""
    counting = matrix.dtype == np.float16 and matrix.shape[1] > COUNTED_CLIPS
    step = COUNTED_NEURONS if counting else max(1, SORTED_VALUES // max(matrix.shape[1], 1))
    parts = [slice(start, start + step) for start in range(0, len(matrix), step)]
    return pl.concat([(_counted if counting else _sorted)(matrix[rows], neuron_ids[rows]) for rows in parts])


def _sorted(matrix: np.ndarray, neuron_ids: np.ndarray) -> pl.DataFrame:
    ordered = np.sort(matrix.astype(np.float64), axis=1)  # NaN last
    finite = np.isfinite(ordered)
    count = finite.sum(axis=1)
    values = np.where(finite, ordered, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values.sum(axis=1) / count
        deviation = np.sqrt((np.where(finite, values - mean[:, None], 0) ** 2).sum(axis=1) / count)
    order = {name: _between(count, q, lambda place: np.take_along_axis(ordered, place[:, None], 1)[:, 0]) for name, q in QUANTILES.items()}
    counts = histograms(ordered, None, order["minimum"], order["maximum"])
    return _rows(neuron_ids, count, mean, deviation, order, (values > 0).sum(axis=1), (values == 0).all(axis=1), counts)


def _counted(matrix: np.ndarray, neuron_ids: np.ndarray) -> pl.DataFrame:
    """The same of float16: the order statistics are equal, mean and deviation but for rounding."""
    values = ORDER.view(np.float16).astype(np.float64)
    times = np.stack([np.bincount(np.ascontiguousarray(row).view(np.uint16), minlength=len(_CODES))[ORDER] for row in matrix])
    up_to = times.cumsum(axis=1)
    count = up_to[:, -1]

    def at(place: np.ndarray) -> np.ndarray:
        code = np.array([np.searchsorted(row, k, side="right") for row, k in zip(up_to, place, strict=True)])
        return np.append(values, np.nan)[code]  # none of those without a value

    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (times * values).sum(axis=1) / count
        deviation = np.sqrt((times * (values - mean[:, None]) ** 2).sum(axis=1) / count)
    order = {name: _between(count, q, at) for name, q in QUANTILES.items()}
    counts = histograms(np.broadcast_to(values, times.shape), times, order["minimum"], order["maximum"])
    dead = times[:, values == 0].sum(axis=1) == count
    return _rows(neuron_ids, count, mean, deviation, order, times[:, values > 0].sum(axis=1), dead, counts)


def _between(count: np.ndarray, q: float, at: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Linearly interpolated quantile of each row's `count` values; `at` gives each row's value at a place in ascending order, NaN without any."""
    place = np.maximum(count - 1, 0) * q
    low = np.floor(place)
    below, above = at(low.astype(int)), at(np.ceil(place).astype(int))
    return below + (above - below) * (place - low)


def histograms(values: np.ndarray, times: np.ndarray | None, low: np.ndarray, high: np.ndarray) -> list[str | None]:
    """Counts of each row in equal bins from its least value `low` to its greatest `high`, as JSON; None without a range. `times`: how often each value
    occurs, once where it is None."""
    low, high = low[:, None], high[:, None]
    spread = np.isfinite(low) & (high > low)
    with np.errstate(invalid="ignore", divide="ignore"):
        place = (values - low) / (high - low) * BINS
        edges = np.linspace(low[:, 0], high[:, 0], BINS + 1, axis=1)
    usable = np.isfinite(place) & spread
    if times is not None:
        usable &= times > 0
    place = np.minimum(np.where(usable, place, 0), BINS - 1).astype(np.int64)
    # Rounding may put a value beside its bin: the edges decide, as in numpy.histogram.
    place -= usable & (values < np.take_along_axis(edges, place, 1))
    place += usable & (values >= np.take_along_axis(edges, place + 1, 1)) & (place < BINS - 1)
    flat = (np.arange(len(values))[:, None] * BINS + place)[usable]
    found = np.bincount(flat, None if times is None else times[usable], minlength=len(values) * BINS).astype(np.int64).reshape(-1, BINS)
    return [json.dumps(row, separators=(",", ":")) if ok else None for row, ok in zip(found.tolist(), spread[:, 0].tolist(), strict=True)]


def _rows(
    neuron_ids: np.ndarray,
    count: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    order: dict[str, np.ndarray],
    active: np.ndarray,
    zero: np.ndarray,
    counts: list[str | None],
) -> pl.DataFrame:
    with np.errstate(invalid="ignore"):
        share = active / count
    columns = {"neuron_id": neuron_ids, "clips": count, "mean": mean, "deviation": deviation, **order, "share_active": share}
    told = {"is_dead": pl.Series((count > 0) & zero), "histogram": pl.Series(counts, dtype=pl.String)}
    return pl.DataFrame({**columns, **told}).with_columns(pl.selectors.float().fill_nan(None))
