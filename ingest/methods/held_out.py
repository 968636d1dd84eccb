"""Held-out scores: how well a description alone tells which clips, none of those it was written from, activate its neuron."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ingest.methods.extremes import is_signed

POSITIVE_SHARE = 0.1
FEWEST_POSITIVES = 5
RESAMPLES = 500
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
    be above it: [neurons, clips] (bool) from activations [neurons, clips]; none for a neuron with fewer than five, or nothing but positives.

    `signed` [neurons] says which are below 0 somewhere; by default, among these clips.
    """
    values = np.asarray(activations, dtype=np.float32)
    signed = is_signed(values) if signed is None else signed
    count = max(FEWEST_POSITIVES, round(POSITIVE_SHARE * values.shape[1]))
    if values.shape[1] <= count:
        return np.zeros(values.shape, dtype=bool)
    edge = np.partition(values, -count, axis=1)[:, -count, None]
    found = (values >= edge) & ((values > 0) | signed[:, None])
    number = found.sum(axis=1, keepdims=True)
    return found & (number >= FEWEST_POSITIVES) & (number < values.shape[1])


@dataclass(frozen=True)
class Scores:
    """Per neuron [neurons]; NaN for one without positives. `low` to `high` is the 95 % interval of the AUROC (see `interval`), `floor` the 95 %
    quantile of the AUROC of the other neurons' texts."""

    auroc: np.ndarray
    low: np.ndarray
    high: np.ndarray
    average_precision: np.ndarray
    floor: np.ndarray


def score(similarity: np.ndarray, positive: np.ndarray, groups: Sequence[str], *, seed: int = 0) -> Scores:
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
    low, high = interval(similarity, positive, groups, seed=seed)
    np.fill_diagonal(above, np.nan)
    known = np.isfinite(auroc) & (len(auroc) > 1)
    floor = np.full(len(auroc), np.nan)
    if known.any():
        floor[known] = np.nanquantile(above[known], 0.95, axis=1)
    return Scores(auroc, low, high, precision, floor)


def interval(
    similarity: np.ndarray, positive: np.ndarray, groups: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of each neuron's AUROC, [neurons] each, from `similarity` and `positive` [neurons, clips]: quantiles over
    resamples of `groups` [clips] with replacement (the cluster bootstrap, Davison & Hinkley 1997, section 3.8), because clips of one
    recording are no independent witnesses.

    The same resamples serve all neurons; those without a positive, or nothing else, do not count. NaN where the positives, or the others,
    are all of one group.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    member = np.array([numbers[group] for group in groups], dtype=np.int64)
    draws = np.random.default_rng(seed).multinomial(len(numbers), np.full(len(numbers), 1 / max(1, len(numbers))), size=resamples)
    weights = np.ascontiguousarray(draws.T[member], dtype=np.float32)  # [clips, resamples]: how often a clip is drawn
    areas = np.full((len(positive), resamples), np.nan)
    for row, inside in enumerate(positive):
        if min(len(np.unique(member[inside])), len(np.unique(member[~inside]))) < 2:
            continue
        values, ours, others = similarity[row], weights[inside], weights[~inside]
        order = np.sign(values[inside][:, None] - values[~inside]).astype(np.float32)  # 1 where the positive is put before the other
        with np.errstate(invalid="ignore"):
            areas[row] = 0.5 + 0.5 * (ours * (order @ others)).sum(axis=0) / (ours.sum(axis=0) * others.sum(axis=0))
    ends = np.full((2, len(positive)), np.nan)
    known = np.isfinite(areas).any(axis=1)
    if known.any():
        ends[:, known] = np.nanquantile(areas[known], [0.025, 0.975], axis=1)
    return ends[0], ends[1]


def permutation_floor(similarity: np.ndarray, positive: np.ndarray, *, seed: int | Sequence[int] = 0) -> float:
    """The 95 % quantile of the AUROC of one neuron's `similarity` [clips] when the clips it should find are drawn anew, as many as in
    `positive` [clips]; NaN without any, or nothing else."""
    from scipy.stats import rankdata

    number = int(positive.sum())
    if not 0 < number < len(positive):
        return float("nan")
    drawn = np.random.default_rng(seed).permuted(np.tile(rankdata(similarity), (PERMUTATIONS, 1)), axis=1)[:, :number].sum(axis=1)
    return float(np.quantile((drawn - number * (number + 1) / 2) / (number * (len(positive) - number)), 0.95))
