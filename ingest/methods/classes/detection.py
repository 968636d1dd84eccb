"""Neurons as detectors of classes: average precision and AUROC of their activation."""

from __future__ import annotations

import numpy as np

from ingest.methods.classes.membership import Labels, blocks, labelled, summed

COUNTED_CLIPS = 16_384
"""Of float16 values of so many clips the order is counted, not sorted: there are 65,536 different ones."""


def average_precision(activations: np.ndarray, labels: Labels) -> np.ndarray:
    """Average precision of each neuron's activation as a detector of each class, [neurons, classes]: see `detection`."""
    return detection(activations, labels)[0]


def auroc(activations: np.ndarray, labels: Labels) -> np.ndarray:
    """Area under the ROC curve of each neuron's activation as a detector of each class, [neurons, classes]: see `detection`."""
    return detection(activations, labels)[1]


def detection(activations: np.ndarray, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and AUROC of each neuron's activation as a detector of each class, among the labelled clips, from one sort a neuron.

    AP = mean over the class's clips i of (class clips with value >= v_i) / (clips with value >= v_i). AUROC = share of pairs of a class
    clip and another in which the class clip has the greater value, equal values counting half (Mann-Whitney). Both are scikit-learn's,
    ties included. `activations` is [neurons, clips], `labels` class numbers [clips] or membership [clips, classes]; both results are
    [neurons, classes]; NaN for a class without clips or without other clips. A value that is not finite leaves its clip out for that neuron.
    """
    known, members = labelled(labels)
    classes, clips = members.shape
    class_of_pair, clip_of_pair = np.repeat(np.arange(classes), np.diff(members.indptr)), members.indices
    precision = np.full((len(activations), classes), np.nan)
    area = precision.copy()
    dtype = np.result_type(activations.dtype, np.float32)
    counted = activations.dtype == np.float16 and clips >= COUNTED_CLIPS and classes < 2**15
    for rows in blocks((len(activations), max(clips, len(clip_of_pair)))):
        if not len(clip_of_pair):
            break
        if counted:
            for neuron in range(rows.start, min(rows.stop, len(activations))):
                row = np.ascontiguousarray(activations[neuron])[known]
                precision[neuron], area[neuron] = _counted_detection(row, class_of_pair, clip_of_pair, classes)
            continue
        values = np.asarray(activations[rows], dtype=dtype)[:, known]
        finite = np.isfinite(values)
        values = np.where(finite, values, -np.inf)
        above, at_least = _above_and_at_least(values)
        positives = summed(finite, members)
        negatives = finite.sum(axis=1, keepdims=True) - positives
        # The mean rank from below of equal values, from how many are above and how many at least as great.
        ranks = np.where(finite, finite.sum(axis=1, keepdims=True) + 0.5 - (above + at_least) / 2, 0)
        total = _summed_precision(np.where(finite, at_least, values.shape[1] + 1), class_of_pair, clip_of_pair, classes)
        defined = (positives > 0) & (negatives > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision[rows] = np.where(defined, total / positives, np.nan)
            area[rows] = np.where(defined, (summed(ranks, members) - positives * (positives + 1) / 2) / (positives * negatives), np.nan)
    return precision, area


def _counted_detection(row: np.ndarray, class_of_pair: np.ndarray, clip_of_pair: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and AUROC [classes] of one neuron's values [clips] (float16), from how often each value is there, in all and by class;
    pairs of class and clip are sorted by class."""
    bits = row.view(np.uint16)
    bits = np.where(bits == 0x8000, np.uint16(0), bits)  # -0 is 0
    finite = bits & 0x7C00 != 0x7C00
    code = np.where(bits & 0x8000, bits, 0x7FFF - bits).astype(np.int32)  # 0 for the greatest value
    among = np.bincount(code[finite], minlength=2**16)
    at_least = np.cumsum(among)
    kept = finite[clip_of_pair]
    key = np.sort((class_of_pair[kept].astype(np.int32) << 16) + code[clip_of_pair[kept]])
    last = np.flatnonzero(np.append(key[1:] != key[:-1], True)) if len(key) else np.zeros(0, dtype=np.int64)
    of_class, value = key[last] >> 16, key[last] & 0xFFFF
    here = np.diff(last, prepend=-1)
    positives = np.bincount(of_class, here, minlength=classes)
    before = np.cumsum(positives) - positives
    summed = np.bincount(of_class, here * (last + 1 - before[of_class]) / at_least[value], minlength=classes)
    # The mean rank from below of equal values.
    ranks = np.bincount(of_class, here * (finite.sum() + 0.5 - at_least[value] + among[value] / 2), minlength=classes)
    negatives = finite.sum() - positives
    defined = (positives > 0) & (negatives > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, area = summed / positives, (ranks - positives * (positives + 1) / 2) / (positives * negatives)
    return np.where(defined, precision, np.nan), np.where(defined, area, np.nan)


def _summed_precision(at_least: np.ndarray, class_of_pair: np.ndarray, clip_of_pair: np.ndarray, classes: int) -> np.ndarray:
    """Sum over each class's clips of (class clips with at least their value) / (clips with at least their value), [neurons, classes].

    `at_least` [neurons, clips] is the denominator, clips + 1 for a clip that is left out; pairs of class and clip are sorted by class.
    """
    clips = at_least.shape[1]
    # One sort of integers gives the counts within all classes: by class, then by the value's place among all clips.
    offset = class_of_pair * (clips + 2)
    key = np.sort(offset + at_least[:, clip_of_pair], axis=1)
    position = np.arange(key.shape[1])
    last = np.ones(key.shape, dtype=bool)
    last[:, :-1] = key[:, 1:] != key[:, :-1]
    # The end of each run of equal keys, carried back to its members.
    end = np.minimum.accumulate(np.where(last, position, key.shape[1])[:, ::-1], axis=1)[:, ::-1]
    class_start = np.searchsorted(class_of_pair, np.arange(classes))
    among_all = key - offset
    precision = np.where(among_all <= clips, (end + 1 - class_start[class_of_pair]) / among_all, 0)
    present = np.unique(class_of_pair)
    result = np.zeros((len(at_least), classes))
    result[:, present] = np.add.reduceat(precision, class_start[present], axis=1)
    return result


def _above_and_at_least(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every value of a row, how many of the row's values are greater, and how many at least as great, [neurons, clips] each."""
    clips = values.shape[1]
    order = np.argsort(-values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    change = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), dtype=bool)
    position = np.arange(clips)
    start = np.maximum.accumulate(np.where(np.concatenate([edge, change], axis=1), position, 0), axis=1)
    end = np.where(np.concatenate([change, edge], axis=1), position + 1, clips)
    end = np.minimum.accumulate(end[:, ::-1], axis=1)[:, ::-1]
    above, at_least = np.empty_like(start), np.empty_like(start)
    np.put_along_axis(above, order, start, axis=1)
    np.put_along_axis(at_least, order, end, axis=1)
    return above, at_least
