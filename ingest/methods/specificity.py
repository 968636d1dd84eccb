"""Measures of how specific a neuron is to a class, the sets of class-specific neurons they give, and how far these agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from ingest.methods.classes.detection import auroc as auroc
from ingest.methods.classes.detection import average_precision as average_precision
from ingest.methods.classes.detection import detection as detection
from ingest.methods.classes.membership import Labels, blocks, by_class, labelled, summed
from ingest.methods.classes.membership import membership as membership
from warehouse.store import UserError

Activity = Literal["mean", "max"]
EntropyAmong = Literal["all neurons", "active neurons"]
Population = Literal["all pairs", "kept pairs", "per class", "per neuron"]


# --- Means and shares of classes ----------------------------------------------------------------------------------------------------------


def class_means(activations: np.ndarray, labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, share active and number of clips with a finite value, per neuron and class.

    `activations` is [neurons, clips]; all results are [neurons, classes]; NaN where a class has no finite value.
    """
    members = by_class(labels)
    parts = []
    for rows in blocks(activations.shape):
        values = np.asarray(activations[rows], dtype=np.float64)
        finite = np.isfinite(values)
        values = np.where(finite, values, 0)
        clips = summed(finite, members)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append((summed(values, members) / clips, summed(values > 0, members) / clips, clips.astype(np.int64)))
    mean, share, count = (np.concatenate(part) for part in zip(*parts, strict=True))
    return mean, share, count


def selectivity_index(activations: np.ndarray, labels: Labels) -> np.ndarray:
    """(m - r) / (m + r) with m a neuron's mean over a class and r its mean over all other labelled clips (Morcos et al. 2018, arXiv
    1803.06959, equation 3, one class against the rest).

    `activations` is [neurons, clips], `labels` class numbers [clips] or membership [clips, classes]; returns [neurons, classes], NaN where
    undefined: a class or its rest without clips, m + r = 0, or a neuron with negative values, for which the ratio has no meaning.
    """
    known, members = labelled(labels)
    parts = []
    for rows in blocks(activations.shape):
        values = np.asarray(activations[rows], dtype=np.float64)[:, known]
        finite = np.isfinite(values)
        values = np.where(finite, values, 0)
        total, count = summed(values, members), summed(finite, members)
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = total / count
            outside = (values.sum(axis=1, keepdims=True) - total) / (finite.sum(axis=1, keepdims=True) - count)
            index = (inside - outside) / (inside + outside)
        index[(values < 0).any(axis=1)] = np.nan
        parts.append(np.where(np.isfinite(index), index, np.nan))
    return np.concatenate(parts)


def activation_probability(active: np.ndarray, labels: Labels, weights: np.ndarray | None = None) -> np.ndarray:
    """P(neuron, class), the share of a class's samples on which a neuron is active ("What do neurons listen to?", 2026; LAPE, equation 4).

    `active` [neurons, clips] says whether a clip activates a neuron (bool), or what share of its tokens do; with tokens as samples,
    `weights` [clips] are the clips' numbers of tokens, equal by default. `labels` are class numbers [clips] or membership [clips, classes].
    Returns [neurons, classes]. A value that is not finite leaves its clip out for that neuron; NaN for a class without clips.
    """
    members = by_class(labels)
    if weights is not None:
        members.data *= np.asarray(weights, dtype=np.float64)[members.indices]
    parts = []
    for rows in blocks(active.shape):
        values = np.asarray(active[rows], dtype=np.float64)
        finite = np.isfinite(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(summed(np.where(finite, values, 0), members) / summed(finite, members))
    return np.concatenate(parts)


# --- Class-specific neurons by the entropy of their activation probabilities --------------------------------------------------------------


def activation_probability_entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in nats of activation probabilities [neurons, classes] normalised over the classes, [neurons].

    AAPE ("What do neurons listen to?", 2026) and LAPE (Tang et al. 2024, arXiv 2402.16438, equation 6) are this number: 0 for a neuron that
    one class alone activates, ln(classes) for one that all activate alike. Classes whose P is NaN are left out; NaN for a neuron that
    nothing activates.
    """
    p = np.where(np.isfinite(p), p, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = p / p.sum(axis=1, keepdims=True)
        return -np.where(share == 0, 0, share * np.log(share)).sum(axis=1) + 0.0


class Lape(NamedTuple):
    """Entropy [neurons], and which neurons are specific to which classes (bool [neurons, classes])."""

    entropy: np.ndarray
    specific: np.ndarray


def lape(
    p: np.ndarray, *, filter_quantile: float = 0.95, lowest_entropy: float = 0.01, class_quantile: float = 0.95, with_ties: bool = False
) -> Lape:
    """Language activation probability entropy with its thresholds (Tang et al. 2024, arXiv 2402.16438, section 2.2 and released program).

    Of the activation probabilities `p` [neurons, classes], neurons without one above the `filter_quantile` of all pairs are dropped; of the
    others those of lowest entropy are kept, as many as the share `lowest_entropy` of all neurons; they are specific to the classes whose P
    is above the `class_quantile` of all pairs. Equal entropies are kept or dropped together, where the released program takes any of them;
    pairs equal to a quantile count as above it `with_ties` only.
    """
    entropy = activation_probability_entropy(p)
    finite = np.isfinite(p) & (p > 0 if with_ties else True)
    above = np.greater_equal if with_ties else np.greater
    first, last = (_quantile(p[np.isfinite(p)], quantile) for quantile in (filter_quantile, class_quantile))
    kept = _lowest(entropy, (finite & above(p, first)).any(axis=1), round(lowest_entropy * len(p)))
    return Lape(entropy, kept[:, None] & finite & above(p, last))


def specific_neurons(
    p: np.ndarray,
    *,
    least_active: float = 0.05,
    lowest_entropy: float = 0.02,
    class_quantile: float = 0.95,
    activity: Activity = "mean",
    entropy_among: EntropyAmong = "all neurons",
    population: Population = "all pairs",
    with_ties: bool = False,
    seed: int | None = None,
) -> np.ndarray:
    """Which neurons are specific to which classes (bool [neurons, classes]), by the filters of "What do neurons listen to?" (2026).

    Of the activation probabilities `p` [neurons, classes] (1) the share `least_active` of neurons with the lowest activity is dropped,
    activity being the `mean` or `max` of a neuron's P; (2) the share `lowest_entropy` (the paper: 0.02 for ESC-50 and GISE-51, else 0.01)
    of `entropy_among` all neurons, or of those left by (1), is kept; (3) a neuron is specific to the classes whose P is above the
    `class_quantile` of `population`: all (neuron, class) pairs, those of the neurons kept so far, those of the same class, or those of the
    same neuron. The paper leaves `activity`, `entropy_among` and `population` open. Equal values fall together: all are dropped in (1),
    all kept in (2), unless a `seed` is given: it draws as many of those equal to the last one as the share has room for. In (3) those
    equal to the quantile are taken `with_ties` only: LAPE's program takes none, which finds nothing where more pairs than 5 % have a P of 1.
    Neurons that nothing activates, and pairs whose P is NaN, are never specific. Raises UserError for a word that is not known.
    """
    for name, word, words in (
        ("activity", activity, Activity),
        ("entropy_among", entropy_among, EntropyAmong),
        ("population", population, Population),
    ):
        if word not in get_args(words):
            raise UserError(f"specific neurons: {name} {word!r} is not known: it must be one of {', '.join(get_args(words))}")
    finite = np.isfinite(p)
    known = finite.any(axis=1)
    active = known.copy()
    values = np.where(finite, p, 0)
    strength = values.sum(axis=1) / np.maximum(finite.sum(axis=1), 1) if activity == "mean" else values.max(axis=1, initial=0)
    active[known] = strength[known] > _kth(strength[known], round(least_active * int(known.sum())))
    among = len(p) if entropy_among == "all neurons" else int(active.sum())
    kept = _lowest(activation_probability_entropy(p), active, round(lowest_entropy * among), seed)
    if population in ("all pairs", "kept pairs"):
        pairs = finite if population == "all pairs" else finite & kept[:, None]
        bar: float | np.ndarray = _quantile(p[pairs], class_quantile)
    elif population == "per class":
        bar = np.array([_quantile(column[there], class_quantile) for column, there in zip(p.T, finite.T, strict=True)])
    else:
        bar = np.full((len(p), 1), np.inf)
        bar[kept, 0] = [_quantile(row[there], class_quantile) for row, there in zip(p[kept], finite[kept], strict=True)]
    return kept[:, None] & finite & (p > 0) & ((p >= bar) if with_ties else (p > bar))


def _lowest(entropy: np.ndarray, candidates: np.ndarray, count: int, seed: int | None = None) -> np.ndarray:
    """The `count` candidates (bool [neurons]) of lowest entropy, fewer where there are no more; of those equal to the last one all, or with
    a seed a draw."""
    candidates = candidates & np.isfinite(entropy)
    count = min(count, int(candidates.sum()))
    last = _kth(entropy[candidates], count)
    kept = candidates & (entropy <= last)
    if seed is not None and kept.sum() > count:
        equal = np.flatnonzero(kept & (entropy == last))
        kept[np.random.default_rng(seed).permutation(equal)[: kept.sum() - count]] = False
    return kept


def _quantile(values: np.ndarray, q: float) -> float:
    """The value at place round(q n) of n in ascending order, as LAPE's released program takes it; -inf when that is none."""
    return _kth(values, round(q * len(values)))


def _kth(values: np.ndarray, k: int) -> float:
    return float(np.partition(values, k - 1)[k - 1]) if k > 0 else -np.inf


# --- Sets of specific neurons -------------------------------------------------------------------------------------------------------------


def coverage(specific: np.ndarray) -> float:
    """Share of classes to which at least one neuron is specific, from bool [neurons, classes]; NaN without classes."""
    return float(specific.any(axis=0).mean()) if specific.shape[1] else np.nan


def neurons_per_class(specific: np.ndarray) -> np.ndarray:
    """Number of neurons specific to each class, [classes], from bool [neurons, classes]."""
    return specific.sum(axis=0)


def jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Jaccard index |A & B| / |A | B| of every set of neurons of `a` with every one of `b`, [sets of a, sets of b]; NaN for two empty sets.

    `a` and `b` are bool [neurons, sets] over the same neurons.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    both = a.T @ b
    with np.errstate(invalid="ignore", divide="ignore"):
        return both / (a.sum(axis=0)[:, None] + b.sum(axis=0)[None, :] - both)


def sharing(specific: np.ndarray) -> np.ndarray:
    """Jaccard index of the specific neurons of every two classes of a label set, [classes, classes]; NaN where neither has any."""
    return jaccard(specific, specific)


def across(specific_a: np.ndarray, specific_b: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Jaccard index of the specific neurons of classes of two label sets or data sets, [pairs]; NaN where neither has any.

    `pairs` are (class number in a, class number in b), such as the same octave in Surge and NSynth; both are bool [neurons, classes] over
    the same neurons.
    """
    of_a, of_b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return jaccard(specific_a, specific_b)[of_a, of_b]


# --- Agreement of measures ----------------------------------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """How far measures `a` and `b` rank (neuron, class) pairs alike: Spearman's correlation and the Jaccard index of their top shares."""

    a: str
    b: str
    pairs: int
    spearman: float
    top_jaccard: float


def rank_agreement(
    measures: Mapping[str, np.ndarray], *, top_share: float = 0.05, population: Literal["all pairs", "per class"] = "all pairs"
) -> list[Agreement]:
    """Agreement of every two measures over the (neuron, class) pairs on which both are defined (not NaN).

    A measure is [neurons, classes], or [neurons] to stand for every class; greater means more specific, so an entropy is given negated. The
    top share of a measure are the round(top_share n), at least one, greatest of n values, and those equal to the last of them. `per class`
    ranks the neurons of each class and gives the mean over the classes on which the number is defined. NaN without two pairs or where
    a measure is constant.
    """
    columns = {name: measure[:, None] if measure.ndim == 1 else measure for name, measure in measures.items()}
    found = []
    for (a, first), (b, second) in itertools.combinations(columns.items(), 2):
        first, second = np.broadcast_arrays(first, second)
        defined = ~(np.isnan(first) | np.isnan(second))
        groups = [defined] if population == "all pairs" else [defined & (np.arange(first.shape[1]) == k) for k in range(first.shape[1])]
        numbers = np.array([_agreement(first[group], second[group], top_share) for group in groups]).reshape(-1, 2)
        with np.errstate(invalid="ignore"):
            spearman, overlap = np.nansum(numbers, axis=0) / (~np.isnan(numbers)).sum(axis=0)
        found.append(Agreement(a, b, int(defined.sum()), float(spearman), float(overlap)))
    return found


def _agreement(first: np.ndarray, second: np.ndarray, top_share: float) -> tuple[float, float]:
    """Rank correlation of two lists of values, and the Jaccard index of their top shares."""
    if not len(first):
        return np.nan, np.nan
    ranks = np.array([pl.Series(values).rank("average").to_numpy() for values in (first, second)], dtype=np.float64)
    count = max(1, round(top_share * len(first)))
    tops = np.array([row >= -_kth(-row, count) for row in ranks])
    centered = ranks - ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt((centered**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(centered[0] @ centered[1] / norm[0] / norm[1]), float(jaccard(tops[:1].T, tops[1:].T)[0, 0])
