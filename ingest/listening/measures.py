"""Where values stand among those of a data set's clips, and whether two groups of sounds differ: arrays in, arrays out."""

from __future__ import annotations

import itertools
import math

import numpy as np

from warehouse.matrices import BLOCK_VALUES, Matrix

ARRANGEMENTS = 20_000
"""Ways to part the sounds that are gone through, or drawn where there are more."""
SEED = 0
FEW = 4
BLOCK = 1024


def percentiles(values: np.ndarray, population: np.ndarray | Matrix) -> np.ndarray:
    """Percentile of each of a neuron's values [neurons, sounds] among its values for a data set's clips [neurons, clips]: 100 times the share of
    the clips that are below, plus half of the share of those that are equal (scipy's percentileofscore with kind "mean"). Clips without a value do not
    count; NaN for a sound without one, and where no clip has any."""
    out = np.full(values.shape, np.nan)
    step = min(BLOCK, max(1, BLOCK_VALUES // max(population.shape[1], 1)))
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        # Comparing float16 takes twice as long as comparing float32, which has all of its values.
        clips, sounds = population[rows].astype(np.float32), values[rows].astype(np.float32)
        present = np.isfinite(clips)
        count = present.sum(axis=1)
        if values.shape[1] <= FEW:
            below = np.stack([np.count_nonzero(clips < column[:, None], axis=1) for column in sounds.T], axis=1)
            up_to = np.stack([np.count_nonzero(clips <= column[:, None], axis=1) for column in sounds.T], axis=1)
        else:
            ordered = np.sort(np.where(present, clips, np.inf), axis=1)
            pairs = list(zip(ordered, count, sounds, strict=True))
            below = np.stack([np.searchsorted(row[:n], its, side="left") for row, n, its in pairs])
            up_to = np.stack([np.searchsorted(row[:n], its, side="right") for row, n, its in pairs])
        with np.errstate(invalid="ignore", divide="ignore"):
            out[rows] = np.where(np.isfinite(sounds), 50 * (below + up_to) / count[:, None], np.nan)
    return out


def two_sample_p_values(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two-sided p-values [neurons] that two groups of sounds, values [neurons, sounds], come from one population: the rank-sum test (Wilcoxon 1945;
    Mann & Whitney 1947) with mean ranks for ties, by permutation (see `_by_arrangement`). NaN where a value is missing."""
    from scipy.stats import rankdata

    first, second = one.shape[1], other.shape[1]
    total = first + second
    values = np.concatenate([one, other], axis=1)
    ranks = rankdata(values, axis=1)
    if math.comb(total, first) <= ARRANGEMENTS:
        chosen = np.array(list(itertools.combinations(range(total), first)))
    else:
        chosen = np.random.default_rng(SEED).permuted(np.tile(np.arange(total), (ARRANGEMENTS, 1)), axis=1)[:, :first]
    ways = np.full((len(chosen), total), -first / total, dtype=np.float32)
    np.put_along_axis(ways, chosen, 1 - first / total, axis=1)
    own = np.full(total, -first / total)
    own[:first] += 1
    spread = ranks.var(axis=1, ddof=1) * first * second / total
    found = _by_arrangement(ranks, own, ways, spread, exact=math.comb(total, first) <= ARRANGEMENTS)
    return np.where(np.isfinite(values).all(axis=1), found, np.nan)


def paired_p_values(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two-sided p-values [neurons] that pairs of sounds, values [neurons, pairs] each, differ no more in one direction than in the other: the
    signed-rank test (Wilcoxon 1945), pairs without difference left out, mean ranks for ties, by changes of sign (see `_by_arrangement`). NaN where a
    value is missing."""
    from scipy.stats import rankdata

    differences = one - other
    sizes = np.abs(differences)
    zero = (sizes == 0).sum(axis=1, keepdims=True)
    ranks = np.where(sizes == 0, 0, rankdata(sizes, axis=1) - zero)
    pairs = differences.shape[1]
    exact = 2**pairs <= ARRANGEMENTS
    if exact:
        ways = np.array(list(itertools.product((-1, 1), repeat=pairs)), dtype=np.float32)
    else:
        ways = np.random.default_rng(SEED).choice(np.array([-1, 1], dtype=np.float32), (ARRANGEMENTS, pairs))
    found = _by_arrangement(ranks, np.sign(differences), ways, (ranks**2).sum(axis=1), exact=exact)
    return np.where(np.isfinite(differences).all(axis=1), found, np.nan)


def _by_arrangement(ranks: np.ndarray, own: np.ndarray, ways: np.ndarray, variance: np.ndarray, *, exact: bool) -> np.ndarray:
    """Share of the arrangements in `ways` [arrangements, sounds] whose sum of ranks [neurons, sounds] is as far from 0 as that of `own`, the observed
    one ([sounds], or one a neuron), which counts as one of them where they are drawn (Phipson & Smyth 2010). Where no drawn one is as far, the tail
    of the normal distribution with the statistic's `variance` [neurons], if that is less."""
    from scipy.stats import norm

    observed = np.abs((ranks * own).sum(axis=1))
    found = np.empty(len(ranks))
    for start in range(0, len(ranks), BLOCK):
        rows = slice(start, start + BLOCK)
        sums = np.abs(ways @ ranks[rows].T.astype(np.float32))
        reached = (sums >= observed[rows] * (1 - 1e-6) - 1e-3).sum(axis=0)
        found[rows] = reached / len(ways) if exact else (reached + 1) / (len(ways) + 1)
        if not exact:
            with np.errstate(invalid="ignore", divide="ignore"):
                tail = 2 * norm.sf((observed[rows] - 0.5) / np.sqrt(variance[rows]))
            found[rows] = np.where(reached == 0, np.fmin(found[rows], tail), found[rows])
    return found


def q_values(p_values: np.ndarray) -> np.ndarray:
    """The least share of false discoveries at which each would be one (Benjamini & Hochberg 1995); NaN stays, and is no test."""
    from scipy.stats import false_discovery_control

    known = np.isfinite(p_values)
    out = np.full(len(p_values), np.nan)
    if known.any():
        out[known] = false_discovery_control(p_values[known])
    return out
