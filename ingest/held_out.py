"""Held-out scores: how well a description alone tells which clips, none of those it was written from, activate its neuron."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POSITIVE_SHARE = 0.1
FEWEST_POSITIVES = 5
Z95 = 1.959963984540054


def split(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which clips are held out, [clips] (bool): about `share` of the groups, each as a whole, by a hash of its name and the seed, so that a
    clip's part does not depend on the others."""
    marks = {
        group: int.from_bytes(hashlib.sha256(f"{seed} {group}".encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
        for group in set(groups)
    }
    return np.array([marks[group] < share for group in groups], dtype=bool)


def positives(activations: np.ndarray) -> np.ndarray:
    """The tenth of the clips that activate each neuron most, and those equal to the last of them, all above 0: [neurons, clips] (bool) from
    activations [neurons, clips]; none for a neuron with fewer than five, or nothing but positives."""
    values = np.asarray(activations, dtype=np.float32)
    count = max(FEWEST_POSITIVES, round(POSITIVE_SHARE * values.shape[1]))
    if values.shape[1] <= count:
        return np.zeros(values.shape, dtype=bool)
    edge = np.partition(values, -count, axis=1)[:, -count, None]
    found = (values >= edge) & (values > 0)
    number = found.sum(axis=1, keepdims=True)
    return found & (number >= FEWEST_POSITIVES) & (number < values.shape[1])


@dataclass(frozen=True)
class Scores:
    """Per neuron [neurons]; NaN for one without positives. `low` to `high` is the 95 % interval of the AUROC (DeLong et al. 1988), `floor` the
    95 % quantile of the AUROC of the other neurons' texts."""

    auroc: np.ndarray
    low: np.ndarray
    high: np.ndarray
    average_precision: np.ndarray
    floor: np.ndarray


def score(similarity: np.ndarray, positive: np.ndarray) -> Scores:
    """Scores of texts by their `similarity` [neurons, clips] to clips, with `positive` [neurons, clips] the clips that each should find.

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
        low, high, precision = (np.full(len(auroc), np.nan) for _ in range(3))
        for row in np.flatnonzero((number > 1) & (others > 1)):
            inside = positive[row]
            placed = (ranks[row, inside] - rankdata(similarity[row, inside])) / others[row]  # of each positive, the share of others below
            beaten = 1 - (ranks[row, ~inside] - rankdata(similarity[row, ~inside])) / number[row]
            error = np.sqrt(placed.var(ddof=1) / number[row] + beaten.var(ddof=1) / others[row])
            low[row], high[row] = max(0.0, auroc[row] - Z95 * error), min(1.0, auroc[row] + Z95 * error)
            precision[row] = average_precision_score(inside, similarity[row])
    np.fill_diagonal(above, np.nan)
    known = np.isfinite(auroc) & (len(auroc) > 1)
    floor = np.full(len(auroc), np.nan)
    if known.any():
        floor[known] = np.nanquantile(above[known], 0.95, axis=1)
    return Scores(auroc, low, high, precision, floor)
