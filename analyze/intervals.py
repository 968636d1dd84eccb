"""Intervals and tests of the derived tables, which know who is no independent witness.

Units (neurons, clusters, clips) of one group count as one: errors are summed by group before they are squared (the resampling of whole groups in
closed form; Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29, 238-249), and quantiles are Student's for the *effective* number of groups
1 / sum of squared shares (Carter, Schnepel & Steigerwald 2017, Rev. Econ. Stat. 99, 698-709), because quantiles of resamples are too narrow for a few
groups. With every unit a group of its own these are the textbook's intervals. All are of 95 %, and None where fewer than two effective groups say
anything. benchmarks/coverage.py measures how often each holds the truth.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import duckdb
import numpy as np
import polars as pl
from duckdb.func import DEFAULT, SPECIAL

from analyze import trust

LEVEL = 0.975
Interval = dict[str, float | None]
"""low and high; None where undefined."""
UNKNOWN: Interval = {"low": None, "high": None}


def near_copies(heard: Sequence[Sequence[str]]) -> list[int]:
    """A group number for every neuron, given what its highest clips were cut from, as many for each: a neuron joins the one that it shares more than
    half with, those first that most others are like. Not whoever is joined to whom by others: that soon is a whole layer."""
    digest = hashlib.sha256(repr([*map(tuple, heard)]).encode("utf-8", "surrogatepass")).digest()
    if digest not in _COPIES:
        if len(_COPIES) == MOST_COPIES:
            _COPIES.clear()
        _COPIES[digest] = _near_copies(heard)
    return list(_COPIES[digest])


_COPIES: dict[bytes, list[int]] = {}
MOST_COPIES = 1000
"""Near-copies kept: many tables ask for those of the same neurons."""


def _near_copies(heard: Sequence[Sequence[str]]) -> list[int]:
    need = max(map(len, heard), default=0) // 2 + 1
    places = {source: at for at, source in enumerate(sorted({source for sources in heard for source in sources}))}
    numbers: dict[tuple[int, ...], int] = {}
    parts: list[list[int]] = []
    for sources in heard:
        drawn = itertools.combinations(sorted([places[source] for source in sources]), min(need, len(sources))) if sources else ()
        parts.append([numbers.setdefault(part, len(numbers)) for part in dict.fromkeys(drawn)])
    common, first = Counter(itertools.chain.from_iterable(parts)), [-1] * len(numbers)
    found = list(range(len(heard)))
    for unit in sorted(found, key=lambda unit: -sum([common[part] for part in parts[unit]])):
        shared = [first[part] for part in parts[unit] if first[part] >= 0]
        if shared:
            found[unit] = max(dict.fromkeys(shared), key=shared.count)
        else:
            for part in parts[unit]:
                first[part] = unit
    return found


# --- Means, shares, medians ---------------------------------------------------------------------------------------------------------------


def mean(values: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """Interval of a mean over units of `groups`."""
    x, group = _read(values, groups)
    errors, effective = _errors(x, np.full(len(x), 1 / max(1, len(x))), [group])
    return _around(float(x.mean()) if len(x) else math.nan, _variance(errors, [group]), effective - 1)


def share(values: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """Interval of a share of units, from values 0 and 1: Wilson's for the number of independent units that would be as uncertain (Korn & Graubard
    1998, Surv. Methodol. 24, 193-201); where all are equal, which says nothing of that, for the effective number of groups."""
    x, group = _read(values, groups)
    errors, effective = _errors(x, np.full(len(x), 1 / max(1, len(x))), [group])
    if effective < 2:
        return UNKNOWN
    p, variance = float(x.mean()), _variance(errors, [group])
    number = min(len(x), p * (1 - p) / variance) if 0 < p < 1 and variance > 0 else effective
    t = _quantile(effective - 1)
    center, half = p + t * t / (2 * number), t * math.sqrt(p * (1 - p) / number + t * t / (4 * number * number))
    low, high = (center - half) / (1 + t * t / number), (center + half) / (1 + t * t / number)
    # At the ends the interval closes exactly; rounding must not open it.
    return {"low": 0.0 if p == 0 else max(0.0, low), "high": 1.0 if p == 1 else min(1.0, high)}


def median(values: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """Interval of a median over units: the quantiles between which one half lies, as share of the units below (Woodruff 1952, J. Am. Stat. Assoc. 47,
    635-646). None where the groups are too few to bound it."""
    x, group = _read(values, groups)
    if not len(x):
        return UNKNOWN
    below = (x < np.median(x)) + 0.5 * (x == np.median(x))
    errors, effective = _errors(below, np.full(len(x), 1 / len(x)), [group])
    found = _around(0.5, _variance(errors, [group]), effective - 1)
    if found["low"] is None or found["high"] is None or found["low"] < 0:
        return UNKNOWN
    low, high = np.quantile(x, [found["low"], min(1.0, found["high"])])
    return {"low": float(low), "high": float(high)}


def difference(
    values: Sequence[float], weights: Sequence[float], inside: Sequence[bool], one: Sequence[Hashable], other: Sequence[Hashable]
) -> Interval:
    """Interval of the weighted mean over rows `inside` minus that over the rest, where rows depend on each other that share a group of `one` kind or
    of the `other` (two-way clusters: both variances, less what they have in common). Degrees of freedom after Welch."""
    x, group = _read(values, one)
    w, chosen = np.array(weights, dtype=np.float64), np.array(inside, dtype=bool)
    ways = [group, _numbers(other)]
    every, variances, freedom = np.zeros(len(x)), [], []
    estimate = 0.0
    for side, sign in ((chosen, 1.0), (~chosen, -1.0)):
        if not side.any():
            return UNKNOWN
        part = [way[side] for way in ways]
        its = w[side] / w[side].sum()
        errors, effective = _errors(x[side], its, part)
        if effective < 2:
            return UNKNOWN
        every[side] = sign * errors
        estimate += sign * float(its @ x[side])
        variances.append(_variance(errors, part))
        freedom.append(effective - 1)
    below = sum(variance**2 / count for variance, count in zip(variances, freedom, strict=True))
    return _around(estimate, _variance(every, ways), sum(variances) ** 2 / below if below > 0 else min(freedom))


def _read(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(values, dtype=np.float64), _numbers(groups)


def _numbers(groups: Sequence[Hashable]) -> np.ndarray:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _errors(x: np.ndarray, shares: np.ndarray, ways: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """What each row adds to the error of the mean, made up for what fitting that took, and the effective number of groups, of the kind that has
    fewer."""
    plain = shares * (x - shares @ x)
    sums = [np.bincount(way, shares) for way in ways]
    weights = max(sums, key=lambda found: float(found @ found), default=np.zeros(0))
    square, cube = float((weights**2).sum()), float((weights**3).sum())
    # Of groups of equal variance the mean has `square` times it, while the errors' squares come to `left` times it.
    left = square + square**2 - 2 * cube
    return plain * math.sqrt(square / left) if left > 1e-12 else plain, 1 / square if square else 0.0


def _variance(errors: np.ndarray, ways: list[np.ndarray]) -> float:
    single = [float((np.bincount(way, errors) ** 2).sum()) for way in ways]
    if len(ways) == 1:
        return single[0]
    both = ways[0] * (ways[1].max(initial=0) + 1) + ways[1]
    _, both = np.unique(both, return_inverse=True)
    return max(*single, sum(single) - float((np.bincount(both, errors) ** 2).sum()))  # the difference can come out too small


def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(LEVEL, freedom))


def _around(estimate: float, variance: float, freedom: float) -> Interval:
    if not (freedom >= 1 and math.isfinite(variance)):
        return UNKNOWN
    half = _quantile(freedom) * math.sqrt(variance)
    return {"low": estimate - half, "high": estimate + half}


# --- Tests --------------------------------------------------------------------------------------------------------------------------------


def sign_test(worse: int, better: int) -> float:
    """Probability that fair coins fall at least as unevenly: two-sided, exact; 1 when nothing changed."""
    from scipy.stats import binomtest

    return float(binomtest(worse, worse + better).pvalue) if worse + better else 1.0


def q_values(p_values: Sequence[float | None]) -> list[float | None]:
    """The least share of false discoveries at which each would be one (Benjamini & Hochberg 1995); None stays, and is no test."""
    from scipy.stats import false_discovery_control

    known = [p for p in p_values if p is not None]
    found = iter(false_discovery_control(known).tolist() if known else ())
    return [None if p is None else next(found) for p in p_values]


def with_q_values(frame: pl.DataFrame) -> pl.DataFrame:
    """A table with column q_value behind its p_value: the rows of a run are one family of tests. Tables
    without p-values, or with q-values of their own, stay as they are."""
    if "p_value" not in frame.columns or "q_value" in frame.columns:
        return frame
    families = [
        rows.select("row", pl.Series("q_value", q_values(rows["p_value"].to_list()), dtype=pl.Float64))
        for rows in frame.with_row_index("row").partition_by("run_id")
    ]
    found = pl.concat(families).sort("row")["q_value"] if families else pl.Series("q_value", [], dtype=pl.Float64)
    return frame.clone().insert_column(frame.columns.index("p_value") + 1, found)


# --- In SQL -------------------------------------------------------------------------------------------------------------------------------

BOUNDS = "STRUCT(low DOUBLE, high DOUBLE)"
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[Any], str]] = {
    "near_copies": (near_copies, ["VARCHAR[][]"], "BIGINT[]"),
    "mean_interval": (mean, ["DOUBLE[]", "VARCHAR[]"], BOUNDS),
    "share_interval": (share, ["DOUBLE[]", "VARCHAR[]"], BOUNDS),
    "median_interval": (median, ["DOUBLE[]", "VARCHAR[]"], BOUNDS),
    "difference_interval": (difference, ["DOUBLE[]", "DOUBLE[]", "BOOLEAN[]", "VARCHAR[]", "VARCHAR[]"], BOUNDS),
    "sign_test": (sign_test, ["BIGINT", "BIGINT"], "DOUBLE"),
    "q_values": (q_values, ["DOUBLE[]"], "DOUBLE[]"),
    "trust_level": (trust.level, ["DOUBLE", "DOUBLE", "DOUBLE"], "VARCHAR"),
}
"""Functions that the tables' SQL may call, on lists over a group of rows, ordered alike, or on values."""


def register(con: duckdb.DuckDBPyConnection) -> None:
    """Make these functions known to a connection. The warehouse is not touched."""
    [(known,)] = con.execute("SELECT count(*) FROM duckdb_functions() WHERE function_name = 'near_copies'").fetchall()
    if not known:
        for name, (function, parameters, result) in FUNCTIONS.items():
            nulls = SPECIAL if function is trust.level else DEFAULT  # trust.level says what a missing q-value means
            con.create_function(name, function, parameters, result, null_handling=nulls)
