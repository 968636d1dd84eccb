"""Held-out scores: how well a description alone tells which clips, none of those it was written from, activate its neuron."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ingest.methods.extremes import is_signed

POSITIVE_SHARE = 0.1
FEWEST_POSITIVES = 5
PERMUTATIONS = 1000


def split(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which clips are held out, [clips] (bool): about `share` of the groups, each as a whole, by a hash of its name and the seed, so that a
    clip's part does not depend on the others."""
    marks = {
        group: int.from_bytes(hashlib.sha256(f"{seed} {group}".encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
        for group in set(groups)
    }
    return np.array([marks[group] < share for group in groups], dtype=bool)


def positives(activations: np.ndarray, signed: np.ndarray | None = None) -> np.ndarray:
    """The tenth of the clips that activate each neuron most, and those equal to the last of them, which of a neuron that is never below 0 must
    be above it, of another above its lowest: [neurons, clips] (bool) from activations [neurons, clips]; none for a neuron with fewer than
    five, or nothing but positives.

    `signed` [neurons] says which are below 0 somewhere; by default, among these clips.
    """
    values = np.asarray(activations, dtype=np.float32)
    signed = is_signed(values) if signed is None else signed
    count = max(FEWEST_POSITIVES, round(POSITIVE_SHARE * values.shape[1]))
    if values.shape[1] <= count:
        return np.zeros(values.shape, dtype=bool)
    edge = np.partition(values, -count, axis=1)[:, -count, None]
    found = (values >= edge) & (values > np.where(signed, values.min(axis=1), 0)[:, None])
    number = found.sum(axis=1, keepdims=True)
    return found & (number >= FEWEST_POSITIVES) & (number < values.shape[1])


def rank_correlation(predicted: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """Spearman's correlation of predictions and activations, both [neurons, clips], by neuron; NaN where either is constant."""
    from scipy.stats import rankdata

    one, other = (rankdata(np.asarray(values, dtype=np.float32), axis=1) for values in (predicted, activations))
    one, other = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (one, other))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (one * other).sum(axis=1) / np.sqrt(np.square(one).sum(axis=1) * np.square(other).sum(axis=1))


@dataclass(frozen=True)
class Scores:
    """Per neuron [neurons]; NaN for one without positives. `low` to `high` is the 95 % interval of the AUROC (see `interval`), `floor` the 95 %
    quantile of the AUROC of the other neurons' texts, `p_value` the share of them, the own one counted with them, that reach the own."""

    auroc: np.ndarray
    low: np.ndarray
    high: np.ndarray
    average_precision: np.ndarray
    floor: np.ndarray
    p_value: np.ndarray


def score(similarity: np.ndarray, positive: np.ndarray, groups: Sequence[str]) -> Scores:
    """Scores of texts by their `similarity` [neurons, clips] to clips, with `positive` [neurons, clips] the clips that each should find, and
    `groups` [clips] what clips were cut from.

    Equal similarities count half. The floor compares every neuron's positives with all other neurons' texts.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import average_precision_score

    number = positive.sum(axis=1).astype(np.float64)
    others = positive.shape[1] - number
    member = positive.astype(np.float64)
    ranks = rankdata(similarity, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        above = (member @ ranks.T - (number * (number + 1) / 2)[:, None]) / (number * others)[:, None]  # [neuron, text]
    auroc = np.diagonal(above).copy()
    precision = np.full(len(auroc), np.nan)
    for row in np.flatnonzero((number > 0) & (others > 0)):
        precision[row] = average_precision_score(positive[row], similarity[row])
    low, high = interval(similarity, positive, groups)
    np.fill_diagonal(above, np.nan)
    known = np.isfinite(auroc) & (len(auroc) > 1)
    floor, p_value = np.full((2, len(auroc)), np.nan)
    if known.any():
        floor[known] = np.nanquantile(above[known], 0.95, axis=1)
        p_value[known] = ((above[known] >= auroc[known, None] - 1e-12).sum(axis=1) + 1) / len(auroc)
    return Scores(auroc, low, high, precision, floor, p_value)


def interval(similarity: np.ndarray, positive: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of each neuron's AUROC, [neurons] each, from `similarity` and `positive` [neurons, clips], over `groups` [clips],
    because clips of one recording are no independent witnesses.

    The variance is DeLong's, by groups (Obuchowski 1997, Biometrics 53, 567-578), the interval Wilson's for the number of independent clips that
    would be as uncertain, which neither leaves 0 to 1 nor shrinks to a point at its ends, with Student's t for the effective number of groups,
    1 / sum of squared shares: resampled groups are too alike when few hold a positive. NaN where that is below 2 among the positives or the others.
    """
    from scipy.stats import rankdata

    _, member = np.unique(np.asarray(groups), return_inverse=True)
    ends = np.full((2, len(positive)), np.nan)
    for row, inside in enumerate(positive):
        sides = [effective_groups(member[side]) for side in (inside, ~inside)]
        if min(sides) < 2:
            continue
        ranks, errors, area = rankdata(similarity[row]), np.zeros(len(inside)), 0.0
        for side, number in ((~inside, sides[1]), (inside, sides[0])):
            above = (ranks[side] - rankdata(ranks[side])) / (~side).sum()  # share of the other side that a clip is put before
            area = above.mean()  # in the end that of the positives
            errors[side] = np.where(inside[side], 1, -1) * (above - area) / side.sum() * np.sqrt(number / (number - 1))
        variances = [(np.bincount(member[side], errors[side]) ** 2).sum() for side in (inside, ~inside)]
        variance = (np.bincount(member, errors) ** 2).sum()
        ends[:, row] = around(area, variance, student(variances, sides), min(sides))
    return ends[0], ends[1]


def student(variances: Sequence[float], groups: Sequence[float]) -> float:
    """Student's quantile of a 95 % interval for a sum of parts with these variances, each over effectively so many groups (Welch 1947, Biometrika 34)."""
    from scipy.stats import t

    below = sum(variance**2 / (number - 1) for variance, number in zip(variances, groups, strict=True))
    return float(t.ppf(0.975, sum(variances) ** 2 / below if below else min(groups) - 1))


def around(share: float, variance: float, quantile: float, least: float) -> np.ndarray:
    """Wilson's interval [2] of a share with that `variance`, for the number of independent cases that would be as uncertain; at the ends of 0 to 1, or
    without variance, which say nothing of that, for `least` cases. `quantile` is Student's."""
    cases = share * (1 - share) / variance if 0 < share < 1 and variance > 0 else least
    half = quantile * np.sqrt(share * (1 - share) / cases + quantile**2 / (4 * cases**2))
    center = share + quantile**2 / (2 * cases)
    return np.clip((center + np.array([-half, half])) / (1 + quantile**2 / cases), 0, 1)


def effective_groups(groups: np.ndarray) -> float:
    """Effective number of groups of clips [clips], numbered from 0; 0 of no clips."""
    return len(groups) ** 2 / float((np.bincount(groups) ** 2).sum()) if len(groups) else 0.0


def permuted_areas(similarity: np.ndarray, positive: np.ndarray, groups: Sequence[str], *, seed: int | Sequence[int] = 0) -> np.ndarray:
    """AUROC [permutations] of one neuron's `similarity` [clips] when the clips it should find are drawn anew, as many as in `positive` [clips]; none
    without any, or nothing else.

    Clips of one of `groups` [clips] stay together, because what is alike in them is no finding: similarities and positives are laid group by
    group, each in an order of its own, and then compared clip by clip (restricted permutation; Winkler et al. 2015, NeuroImage 123, 253-268).
    """
    from scipy.stats import rankdata

    number = int(positive.sum())
    if not 0 < number < len(positive):
        return np.zeros(0)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    within = rng.random((2, PERMUTATIONS, len(member)))
    order = np.argsort(rng.random((2, PERMUTATIONS, member.max() + 1))[:, :, member] + 1e-9 * within, axis=2)
    drawn = (rankdata(similarity)[order[0]] * positive[order[1]]).sum(axis=1)
    return (drawn - number * (number + 1) / 2) / (number * (len(positive) - number))


def permutation_floor(
    similarity: np.ndarray, positive: np.ndarray, groups: Sequence[str], *, seed: int | Sequence[int] = 0
) -> tuple[float, float]:
    """The 95 % quantile of `permuted_areas`, and the share of them, the one that is counted with them, that reach the AUROC as it is; NaN without
    any."""
    found = permuted_areas(similarity, positive, groups, seed=seed)
    if not len(found):
        return float("nan"), float("nan")
    from sklearn.metrics import roc_auc_score

    reached = (found >= roc_auc_score(positive, similarity) - 1e-12).sum()
    return float(np.quantile(found, 0.95)), float((reached + 1) / (len(found) + 1))
