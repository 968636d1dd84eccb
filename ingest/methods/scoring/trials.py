"""Trials that a description passes only if it is true of the neuron's clips and of no others: near misses, and the intruder among five clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ingest.methods.held_out import around, effective_groups, interval, student

DIGITS = 6
"""Similarities equal to so many decimals are ties: equal captions have cosines that differ by rounding alone."""
LINED_UP = 4
"""Clips of the neuron's among which an intruder stands."""
OTHERS = 256
"""Other texts, drawn, that intruders are tried on."""


@dataclass(frozen=True)
class Trials:
    """Per neuron [neurons], NaN where it could not be tried. `value` is the AUROC or the share right, `low` to `high` its 95 % interval over what
    clips were cut from (NaN where the clips, or those they are set against, are effectively of fewer than two sources), `floor` the 95 % quantile of
    what other neurons' texts reach, `p_value` the share of these, the own one counted with them, that reach as much, and `clips` how many took part."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray
    p_value: np.ndarray
    clips: np.ndarray

    @classmethod
    def none(cls, neurons: int) -> Trials:
        """Nothing tried yet."""
        value, low, high, floor, p_value = np.full((5, neurons), np.nan)
        return cls(value, low, high, floor, p_value, np.zeros(neurons, dtype=np.int64))

    def put(self, row: int, values: np.ndarray, own: int, ends: Sequence[float] | np.ndarray, clips: int) -> None:
        """Set a neuron's row: the `values` [texts] that all texts reach on its clips, its own text's place among them, and the interval's ends."""
        others = np.delete(values, own)
        others = others[np.isfinite(others)]
        self.value[row], self.clips[row] = values[own], clips
        self.low[row], self.high[row] = ends
        if len(others):
            self.floor[row] = np.quantile(others, 0.95)
            self.p_value[row] = ((others >= values[own] - 1e-12).sum() + 1) / (len(others) + 1)


def near_misses(similarity: np.ndarray, positive: np.ndarray, misses: Sequence[np.ndarray], groups: Sequence[str]) -> Trials:
    """AUROC of texts by their `similarity` [neurons, clips], for the clips in `positive` [neurons, clips] against each neuron's near `misses`
    alone (columns; see ingest.methods.contrast.matched); `groups` [clips] is what clips were cut from. Equal similarities count half."""
    from scipy.stats import rankdata

    found, similarity = Trials.none(len(positive)), np.round(similarity, DIGITS)
    for row, near in enumerate(misses):
        high = np.flatnonzero(positive[row])
        if not len(high) or not len(near):
            continue
        columns = np.concatenate([high, near])
        ranks = rankdata(similarity[:, columns], axis=1)[:, : len(high)]
        areas = (ranks.sum(axis=1) - len(high) * (len(high) + 1) / 2) / (len(high) * len(near))
        inside = np.arange(len(columns)) < len(high)
        low, high_end = interval(similarity[row : row + 1, columns], inside[None], [groups[column] for column in columns])
        found.put(row, areas, row, (low[0], high_end[0]), len(columns))
    return found


def intruder(
    similarity: np.ndarray, high: Sequence[np.ndarray], cold: Sequence[np.ndarray], groups: Sequence[str], *, seed: int = 0
) -> Trials:
    """Share right of texts that are to tell which of five clips does not belong: four of a neuron's `high` clips and one of its `cold` (columns, each
    by neuron), told by the lowest `similarity` [neurons, clips]. Chance is 0.2; a lowest that is no single one is guessed among its equals.

    No trials are drawn: the share is that of all that can be. Its variance is the jackknife's over `groups` [clips] on both sides (Arvesen 1969,
    Ann. Math. Stat. 40, 2076-2100). `seed` draws the other texts.
    """
    found, similarity = Trials.none(len(high)), np.round(similarity, DIGITS)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    for row, (ours, others) in enumerate(zip(high, cold, strict=True)):
        texts = rng.permutation(np.delete(np.arange(len(similarity)), row))[:OTHERS]
        if len(ours) < LINED_UP or not len(others):
            continue
        texts = np.concatenate([[row], texts])
        values = similarity[texts]
        shares = _told(values[:, ours][:, :, None], values[:, others][:, None]).mean(axis=1)
        sides = [effective_groups(np.unique(member[side], return_inverse=True)[1]) for side in (ours, others)]
        ends = np.full(2, np.nan)
        own = similarity[row]
        variances = [_without(own[ours], own[others], member[ours], None), _without(own[ours], own[others], None, member[others])]
        if min(sides) >= 2 and np.isfinite(variances).all():
            ends = around(float(shares[0]), sum(variances), student(variances, sides), min(sides))
        found.put(row, shares, 0, ends, len(ours) + len(others))
    return found


def _told(ours: np.ndarray, others: np.ndarray, there: np.ndarray | None = None) -> np.ndarray:
    """Probability [..., cold clips] that a cold clip is told among four high ones drawn, from similarities `ours` [..., high clips, 1] and `others`
    [..., 1, cold clips]; `there` [..., high clips, 1] says which high clips may be drawn."""
    there = np.ones(ours.shape, dtype=bool) if there is None else there
    above, equal = ((ours > others) & there).sum(axis=-2), ((ours == others) & there).sum(axis=-2)
    number = np.broadcast_to(there, np.broadcast_shapes(there.shape, ours.shape)).sum(axis=-2)
    ways = sum(_choose(equal, tied) * _choose(above, LINED_UP - tied) / (tied + 1) for tied in range(LINED_UP + 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return ways / _choose(number, LINED_UP)


def _choose(number: np.ndarray, taken: int) -> np.ndarray:
    """Ways to take so many of a number; 0 where there are fewer."""
    ways = np.ones(np.shape(number))
    for place in range(taken):
        ways = ways * np.maximum(number - place, 0) / (place + 1)
    return ways


def _without(ours: np.ndarray, others: np.ndarray, high: np.ndarray | None, cold: np.ndarray | None) -> float:
    """The jackknife's variance of the share right over groups of `high` clips or of `cold` ones; NaN where too few are left without one."""
    if high is not None:
        kept = np.unique(high)[:, None] != high
        shares = _told(ours[None, :, None], others[None, None], kept[:, :, None]).mean(axis=1)
    else:
        assert cold is not None
        told, kept = _told(ours[:, None], others[None]), np.unique(cold)[:, None] != cold
        with np.errstate(invalid="ignore"):
            shares = kept @ told / kept.sum(axis=1)
    return float((len(shares) - 1) / len(shares) * ((shares - shares.mean()) ** 2).sum())
