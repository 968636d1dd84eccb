"""Measures of how specific a neuron is to a class."""

from __future__ import annotations

import numpy as np

CHUNK_VALUES = 4_000_000


def membership(labels: np.ndarray) -> np.ndarray:
    """Class membership [clips, classes] (bool) from labels: class numbers [clips] (negative: no class), or membership already."""
    if labels.ndim == 2:
        return labels.astype(bool)
    return labels[:, None] == np.arange(labels.max(initial=-1) + 1)


def class_means(activations: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, share active and number of clips with a finite value, per neuron and class.

    `activations` is [neurons, clips]; all results are [neurons, classes]; NaN where a class has no finite value.
    """
    member = membership(labels).astype(np.float64)
    finite = np.isfinite(activations)
    values = np.where(finite, activations, 0).astype(np.float64)
    clips = finite.astype(np.float64) @ member
    with np.errstate(invalid="ignore", divide="ignore"):
        return values @ member / clips, (values > 0) @ member / clips, clips.astype(np.int64)


def selectivity_index(activations: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(m - r) / (m + r) with m a neuron's mean over a class and r its mean over all other labelled clips (Morcos et al. 2018, arXiv
    1803.06959, equation 3, one class against the rest).

    `activations` is [neurons, clips], `labels` class numbers [clips] or membership [clips, classes]; returns [neurons, classes], NaN where
    undefined: a class or its rest without clips, m + r = 0, or a neuron with negative values, for which the ratio has no meaning.
    """
    member = membership(labels)
    values = np.asarray(activations, dtype=np.float64)[:, member.any(axis=1)]
    member = member[member.any(axis=1)]
    finite = np.isfinite(values)
    values = np.where(finite, values, 0)
    total, count = values @ member, finite.astype(np.float64) @ member
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = total / count
        outside = (values.sum(axis=1, keepdims=True) - total) / (finite.sum(axis=1, keepdims=True) - count)
        index = (inside - outside) / (inside + outside)
    index[(values < 0).any(axis=1)] = np.nan
    return np.where(np.isfinite(index), index, np.nan)


def average_precision(activations: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each neuron's activation as a detector of each class, among the labelled clips.

    AP = mean over the class's clips i of (class clips with value >= v_i) / (clips with value >= v_i), which is scikit-learn's
    `average_precision_score`, ties included. `activations` is [neurons, clips], `labels` class numbers [clips] or membership
    [clips, classes]; returns [neurons, classes]; NaN for a class without clips or without other clips. A value that is not finite
    leaves its clip out for that neuron.
    """
    member = membership(labels)
    labelled = member.any(axis=1)
    member = member[labelled]
    clip_of_pair, class_of_pair = np.nonzero(member)
    by_class = np.argsort(class_of_pair, kind="stable")
    clip_of_pair, class_of_pair = clip_of_pair[by_class], class_of_pair[by_class]
    classes = member.shape[1]
    result = np.full((len(activations), classes), np.nan)
    if not len(clip_of_pair):
        return result
    step = max(1, CHUNK_VALUES // max(len(clip_of_pair), 1))
    for start in range(0, len(activations), step):
        values = np.asarray(activations[start : start + step], dtype=np.float32)[:, labelled]
        values = np.where(np.isfinite(values), values, -np.inf)
        result[start : start + step] = _average_precision(values, clip_of_pair, class_of_pair, classes)
    return result


def _average_precision(values: np.ndarray, clip_of_pair: np.ndarray, class_of_pair: np.ndarray, classes: int) -> np.ndarray:
    """`values` [neurons, clips] with -inf for left-out clips; pairs sorted by class."""
    neurons, clips = values.shape
    at_least_all = _clips_at_least(values)
    # Within-class counts come from one sort of integer keys: pairs ordered by class, then by the value's rank.
    key = class_of_pair[None, :] * (clips + 1) + at_least_all[:, clip_of_pair]
    order = np.argsort(key, axis=1)
    ordered = np.take_along_axis(key, order, axis=1)
    position = np.broadcast_to(np.arange(ordered.shape[1]), ordered.shape)
    last = np.ones(ordered.shape, dtype=bool)
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    # The end of each run of equal keys, carried back to its members.
    end = np.minimum.accumulate(np.where(last, position, ordered.shape[1])[:, ::-1], axis=1)[:, ::-1]
    class_start = np.searchsorted(class_of_pair, np.arange(classes))
    at_least_class = end + 1 - class_start[class_of_pair][None, :]
    precision = at_least_class / (ordered % (clips + 1))
    counts = np.isfinite(values)[:, clip_of_pair]
    precision *= np.take_along_axis(counts, order, axis=1)
    present = np.unique(class_of_pair)
    starts = class_start[present]
    result = np.full((neurons, classes), np.nan)
    positives = np.add.reduceat(counts, starts, axis=1, dtype=np.int64)
    defined = (positives > 0) & (positives < np.isfinite(values).sum(axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        result[:, present] = np.where(defined, np.add.reduceat(precision, starts, axis=1) / positives, np.nan)
    return result


def _clips_at_least(values: np.ndarray) -> np.ndarray:
    """For every value of a row, how many values of the row are at least as great, [neurons, clips]."""
    order = np.argsort(-values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    last = np.ones(ordered.shape, dtype=bool)
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    position = np.broadcast_to(np.arange(1, values.shape[1] + 1), ordered.shape)
    count = np.minimum.accumulate(np.where(last, position, values.shape[1] + 1)[:, ::-1], axis=1)[:, ::-1]
    result = np.empty_like(count)
    np.put_along_axis(result, order, count, axis=1)
    return result
