"""Small drawings written as SVG text: a chart made by Altair takes as long as six pages."""

from __future__ import annotations

from math import sqrt

import numpy as np

LEVELS = 32
_STEPS = [f" 1 {d}" if d >= 0 else f" 1{d}" for d in (*range(LEVELS), *range(-LEVELS, 0))]
"""A line's continuation by one step to the right and d down, by d; negative d count from the end as Python's indices do."""


DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
TOP = len(DIGITS) - 1
_DIGIT_BYTES = np.frombuffer(f"{DIGITS}.".encode(), np.uint8)


def number(value: float | None) -> str:
    """A value to three figures; a dash when it is undefined."""
    if value is None or value != value:
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
    """What atlas.js draws a histogram of: square roots of counts in DIGITS, and in hundredths of the width the quantiles below it (5 %, quartiles and
    median, 95 %) and, where the values are of both signs, 0."""
    top = sqrt(max(counts)) or 1
    bars = "".join([DIGITS[round(TOP * sqrt(count) / top)] for count in counts])
    scale = 100 / ((maximum - minimum) or 1)
    marks = [round((q - minimum) * scale) for q in (*quantiles, *([0.0] if minimum < 0 < maximum else []))]
    return f'data-c="{bars}" data-q="{",".join(map(str, marks))}"'


def levels(values: list[float]) -> str:
    """A level a value, from 0 or the lowest to 0 or the highest, and before them all that of 0, in DIGITS; atlas.js draws them, as lines or bars."""
    low, high = min(0.0, *values), max(0.0, *values)
    unit = TOP / ((high - low) or 1)
    return "".join([DIGITS[round((value - low) * unit)] for value in (0.0, *values)])


def traces(steps: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[str]:
    """Activation courses as `courses` takes them, in DIGITS, a full stop for each step that a row ends before; empty for a row that has none."""
    span = np.where(high > low, high - low, 1)[:, None]
    with np.errstate(invalid="ignore"):
        level = np.nan_to_num(TOP * (steps - low[:, None]) / span).round().clip(0, TOP).astype(np.uint8)
    level[~np.isfinite(steps).cumprod(axis=1).astype(bool)] = TOP + 1
    text, width = _DIGIT_BYTES[level].tobytes().decode("ascii"), steps.shape[1]
    return ["" if text[at] == "." else text[at : at + width] for at in range(0, len(text), width)]


def spark(counts: list[int]) -> str:
    """A histogram in a table's cell."""
    top = sqrt(max(counts)) or 1
    bars = "".join([f"M{2 * i} 12v-{max(1, round(12 * sqrt(c) / top))}h2V12z" for i, c in enumerate(counts) if c])
    return f'<svg class="spark" viewBox="0 0 48 12" aria-hidden="true"><path d="{bars}"/></svg>'


def class_bars(bars: list[tuple[float, int | None, str]], label: str | None = None) -> str:
    """Bars of (value, colour or None, escaped title), in order, each with its title on hover; empty when all are 0. `label` says what they
    are, escaped; by default activations."""
    label = label or f"Activation by each of {len(bars)} classes, highest first; the table holds the values"
    low, high = min([0.0, *(value for value, _, _ in bars)]), max([0.0, *(value for value, _, _ in bars)])
    if high == low:
        return ""
    unit, width = 80 / (high - low), 240 / len(bars)
    base = high * unit
    parts = []
    for at, (value, colour, title) in enumerate(bars):
        x, height = at * width, value * unit
        hover = f"M{x:.2f} 0h{width:.2f}v80h-{width:.2f}z"
        kind = "" if colour is None else f' class="k{colour}"'
        bar = f"M{x:.2f} {base:.1f}v{-height:.1f}h{width * 0.8:.2f}v{height:.1f}z"
        parts.append(f'<g{kind}><title>{title}</title><path class="hover" d="{hover}"/><path d="{bar}"/></g>')
    return f'<svg class="ccav" viewBox="0 0 240 80" preserveAspectRatio="none" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def strip(values: list[float], marked: float, label: str) -> str:
    """Values from 0 to 1 as ticks on a line, one of them marked; `label` must be escaped."""
    ticks = "".join([f"M{2 + 236 * min(1.0, max(0.0, v)):.1f} 5v8" for v in values])
    at = 2 + 236 * min(1.0, max(0.0, marked))
    return (
        f'<svg class="strip" viewBox="0 0 240 18" role="img" aria-label="{label}"><path class="line" d="M2 9H238M2 6v6M238 6v6"/>'
        f'<path class="ticks" d="{ticks}"/><circle cx="{at:.1f}" cy="9" r="4.5"/></svg>'
    )


PLANE, SHADES = 64, 6


def plane(counts: np.ndarray) -> str:
    """A map of counts (time x frequency), time to the right and frequency upwards, pooled to at most PLANE cells a side, in SHADES steps."""
    times, frequencies = (-(-size // -(-size // PLANE)) for size in counts.shape)
    steps = [-(-size // PLANE) for size in counts.shape]
    padded = np.zeros((times * steps[0], frequencies * steps[1]))
    padded[: counts.shape[0], : counts.shape[1]] = counts
    pooled = padded.reshape(times, steps[0], frequencies, steps[1]).mean(axis=(1, 3))
    shade = np.ceil(SHADES * pooled / (pooled.max() or 1)).astype(int)
    paths = []
    for level in range(1, SHADES + 1):
        cells = "".join([f"M{t} {frequencies - 1 - f}h1v1h-1z" for t, f in np.argwhere(shade == level).tolist()])
        if cells:
            paths.append(f'<path fill-opacity="{level / SHADES:.2f}" d="{cells}"/>')
    return (
        f'<svg class="plane" viewBox="0 0 {times} {frequencies}" preserveAspectRatio="none" role="img" '
        f'aria-label="Map of the neurons over time and frequency">{"".join(paths)}</svg>'
    )


Bar = tuple[float, float | None, float | None]
"""A value and the ends of its interval; None without one."""


def paired_bars(first: Bar, second: Bar, low: float, high: float) -> str:
    """A cluster's bar above its control's; see `bars`."""
    return bars([("cluster", first), ("control", second)], low, high)


def bars(named: list[tuple[str, Bar]], low: float, high: float) -> str:
    """Bars above each other, each of a class of the style sheet, on a scale from `low` to `high`, which holds 0."""
    unit = 200 / ((high - low) or 1)
    zero = -low * unit
    parts = []
    for at, (name, (value, start, end)) in enumerate(named):
        y = 3 + 12 * at
        parts.append(f'<path class="{name}" d="M{zero:.1f} {y}h{value * unit:.1f}v8H{zero:.1f}z"/>')
        if start is not None and end is not None:
            a, b = (start - low) * unit, (end - low) * unit
            parts.append(f'<path class="whisker" d="M{a:.1f} {y + 4}H{b:.1f}M{a:.1f} {y + 2}v4M{b:.1f} {y + 2}v4"/>')
    height = 12 * len(named) + 2
    return f'<svg class="paired" viewBox="-1 0 202 {height}" aria-hidden="true">{"".join(parts)}<path class="zero" d="M{zero:.1f} 0V{height}"/></svg>'
