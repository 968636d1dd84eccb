"""Fuzz in time: does a text say *when* in a clip its neuron is active, or only in which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingest.methods.held_out import around, effective_groups
from ingest.methods.scoring.trials import DIGITS, Trials

FLAT = 0.05
"""Range of a course, as part of its largest absolute value, up to which it counts as constant."""
FEWEST_CLIPS = 5
"""Clips with a course that is not constant, below which nothing is said of a neuron."""
FEWEST_WINDOWS = 3


def starts(clip_s: float, window_s: float) -> np.ndarray:
    """Where windows of `window_s` seconds begin in a clip, one every half window, all of them whole."""
    return np.arange(0, max(0.0, clip_s - window_s) + 1e-9, window_s / 2)


def windowed(courses: np.ndarray, clip_s: float, window_s: float) -> np.ndarray:
    """Courses [clips, steps] over equal steps of `clip_s` as their means over windows [clips, windows] (see `starts`); steps that are not finite
    count for nothing, and a window without others is NaN."""
    edges = np.linspace(0, clip_s, courses.shape[1] + 1)
    begin = starts(clip_s, window_s)
    overlap = np.minimum(edges[1:, None], begin + window_s) - np.maximum(edges[:-1, None], begin)
    overlap = overlap.clip(0)
    known = np.isfinite(courses)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, courses, 0) @ overlap / (known @ overlap)


def areas(predicted: np.ndarray, course: np.ndarray) -> np.ndarray:
    """AUROC [texts, clips] of what texts predict of windows, `predicted` [texts, clips, windows], for those in which the `course` [clips, windows] is
    at its half height (between its lowest and its highest) or above, each clip by itself. NaN for a clip whose course is constant, or with fewer than
    three windows. Windows that are not finite in either are left out; equal predictions count half."""
    found = np.full(predicted.shape[:2], np.nan)
    predicted = np.round(predicted, DIGITS)
    for clip, line in enumerate(course):
        known = np.isfinite(line) & np.isfinite(predicted[:, clip]).all(axis=0)
        if known.sum() < FEWEST_WINDOWS:
            continue
        line, said = line[known], predicted[:, clip, known]
        low, high = line.min(), line.max()
        if high - low <= FLAT * np.abs(line).max():
            continue
        inside = line >= (low + high) / 2
        found[:, clip] = (np.sign(said[:, inside, None] - said[:, None, ~inside]).mean(axis=(1, 2)) + 1) / 2
    return found


def fuzz(
    predicted: np.ndarray, courses: Sequence[np.ndarray], clips: Sequence[np.ndarray], rows: Sequence[int], groups: Sequence[str]
) -> Trials:
    """Mean AUROC over each neuron's clips (see `areas`), from `predicted` [texts, clips, windows] and by neuron its `courses` [its clips, windows], these
    `clips` (places in `predicted`), and the row of its own text; `groups` [clips] is what clips were cut from. Chance is 0.5. NaN with fewer than five
    clips whose course is not constant."""
    from scipy.stats import t

    found = Trials.none(len(rows))
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    for neuron, (course, its, own) in enumerate(zip(courses, clips, rows, strict=True)):
        every = areas(predicted[:, its], course)
        kept = np.isfinite(every[own])
        if kept.sum() < FEWEST_CLIPS:
            continue
        mine = every[own, kept]
        value, group = float(mine.mean()), np.unique(member[its][kept], return_inverse=True)[1]
        number, ends = effective_groups(group), np.full(2, np.nan)
        if number >= 2:
            errors = np.bincount(group, (mine - value) / len(mine))
            variance = float((errors**2).sum()) * number / (number - 1)
            ends = around(value, variance, float(t.ppf(0.975, number - 1)), number)
        found.put(neuron, every[:, kept].mean(axis=1), own, ends, int(kept.sum()))
    return found
