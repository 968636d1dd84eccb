"""What each neuron is tuned to: frequency, level, amplitude modulation, the direction of sweeps, pitch, gaps and ripples.

A measure has a value where the responses it rests on differ beyond chance: q <= Q, with q over the neurons given together (Benjamini and Hochberg
1995), each p times the number of tests of a neuron; so that a neuron that answers to nothing is given nothing, mostly. It is NaN elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from ingest.methods.tuning import curves
from ingest.methods.tuning.curves import Curve, curve, drawn

Q = 0.05
TESTS = ("frequency", "level", "tone rate", "noise rate", "direction", "pitch", "gap", "ripple")
ALIKE = 1.0
"""Octaves within which best rates for tones and noise are one."""
SAME_PITCH = 0.5
"""Octaves within which best fundamentals are one."""


class Measure(NamedTuple):
    """A number of each neuron with its interval and q, all [neurons]; NaN where undefined."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    q: np.ndarray


class Drawn(NamedTuple):
    """A curve: which stimuli it is over, what its conditions are (each value by column of their table), and the responses."""

    which: dict[str, Any]
    conditions: list[dict[str, Any]]
    curve: Curve


@dataclass
class Tuning:
    """Measures by name, and curves by name."""

    measures: dict[str, Measure] = field(default_factory=dict)
    curves: dict[str, Drawn] = field(default_factory=dict)


class Responses:
    """Responses [neurons, stimuli] to stimuli of which `table` has a row each; see ingest.sounds.stimuli.Stimulus for the columns. Tones and bands
    above `highest_hz`, which the network does not hear, are left out."""

    def __init__(self, values: np.ndarray, table: pl.DataFrame, highest_hz: float) -> None:
        unheard = pl.col("kind").is_in(["tone", "band"]) & (pl.col("frequency_hz") > highest_hz)
        self.values, self.table = values, table.with_row_index("place").filter(~unheard)

    def of(self, by: tuple[str, ...], cells: tuple[str, ...] = (), **which: Any) -> Drawn:
        """The curve over the values of columns `by`, rising, of the stimuli that are `which`."""
        rows = self.table.filter(*(pl.col(name).eq_missing(pl.lit(value)) for name, value in which.items())).sort(*by, *cells, "repeat")
        conditions = rows.select(by).unique(maintain_order=True)
        inner = rows.select(*by, *cells).unique().height // conditions.height
        place = rows["place"].to_numpy().reshape(conditions.height, inner, -1)
        return Drawn(which, conditions.to_dicts(), curve(self.values[:, place]))

    def repeats(self, by: tuple[str, ...], **which: object) -> np.ndarray:
        """Responses [neurons, conditions, repeats] in the order of `of`."""
        rows = self.table.filter(*(pl.col(name).eq_missing(pl.lit(value)) for name, value in which.items())).sort(*by, "repeat")
        return self.values[:, rows["place"].to_numpy().reshape(rows.select(by).unique().height, -1)]


def measure(values: np.ndarray, table: pl.DataFrame, highest_hz: float = np.inf) -> Tuning:
    """Measures and curves of all neurons from their responses [neurons, stimuli]; see Responses. A neuron with a value that is not finite has no
    measure."""
    whole = np.isfinite(values).all(axis=1)
    responses = Responses(np.where(whole[:, None], values, 0).astype(np.float64), table, highest_hz)
    scale = np.abs(responses.values).max(axis=1)
    tuning = Tuning(curves=_curves(responses))
    drawings = {name: found.curve for name, found in tuning.curves.items()}
    sweep, gaps, pitch_p = _direction(responses, scale), _gaps(responses, scale), _pitch_p(drawings, scale)
    p = {
        "frequency": drawings["frequency"].p, "level": drawings["level"].p, "tone rate": drawings["tone rate"].p,
        "noise rate": drawings["noise rate"].p, "direction": sweep.p, "pitch": pitch_p, "gap": gaps.p, "ripple": drawings["ripple"].p,
    }  # fmt: skip
    q = {name: stats.false_discovery_control(np.minimum(1, len(TESTS) * p[name])) for name in TESTS}
    found = {
        **_frequency(tuning, q["frequency"]),
        **_level(tuning, q["level"], scale),
        **_rates(tuning, q["tone rate"], q["noise rate"]),
        "direction": Measure(sweep.preference, *sweep.ends, q["direction"]),
        **_pitch(tuning, q["pitch"]),
        "gap_ms": Measure(gaps.shortest, *gaps.ends, q["gap"]),
        **_ripple(tuning, q["ripple"]),
    }
    for name, (value, low, high, own) in found.items():
        told = whole & (own <= Q) & np.isfinite(value)
        value, low, high = (np.where(told, part, np.nan) for part in (value, low, high))
        tuning.measures[name] = Measure(value, low, high, np.where(whole, own, np.nan))
    return tuning


def _curves(responses: Responses) -> dict[str, Drawn]:
    found = {
        "frequency": responses.of(("frequency_hz",), ("level_dbfs",), kind="tone"),
        "band": responses.of(("frequency_hz",), kind="band"),
        "level": responses.of(("level_dbfs",), kind="level"),
    }
    for carrier in ("tone", "noise"):
        for depth, name in ((1.0, "rate"), (0.5, "rate at half depth"), (0.25, "rate at a quarter of depth"), (0.0, "unmodulated")):
            found[f"{carrier} {name}"] = responses.of(("rate_hz",), kind="modulation", carrier=carrier, depth=depth)
    for direction in ("up", "down"):
        found[f"sweep {direction}"] = responses.of(("speed",), kind="sweep", direction=direction)
    for partials in ("all", "no fundamental", "jittered"):
        found[f"harmonics, {partials}"] = responses.of(("f0_hz",), kind="complex", partials=partials)
    return found | {
        "clicks": responses.of(("rate_hz",), kind="clicks"),
        "gap": responses.of(("gap_ms",), kind="gap"),
        "onset": responses.of(("ramp_ms",), kind="onset"),
        "ripple": responses.of(("rate_hz", "density"), kind="ripple"),
    }


def _axis(drawn: Drawn, column: str) -> np.ndarray:
    return np.array([condition[column] for condition in drawn.conditions], dtype=np.float64)


def _some(curve_: Curve, chosen: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic of the chosen neurons' curves, and its interval."""
    out = np.full((3, len(chosen)), np.nan)
    if chosen.any():
        part = Curve(curve_.mean[chosen], curve_.error[chosen], curve_.freedom, curve_.p[chosen])
        out[:, chosen] = statistic(part.mean), *drawn(part, statistic)
    return out[0], out[1], out[2]


def _above(high: Curve, rest: Curve, place: int = 0) -> np.ndarray:
    """Whether the highest of a curve, smoothed, is above one response of another by two standard errors: what only silences has no best."""
    return curves.smooth(high.mean).max(axis=1) - rest.mean[:, place] > 2 * np.hypot(high.error, rest.error)


def _frequency(tuning: Tuning, q: np.ndarray) -> dict[str, Measure]:
    """Best frequency in hertz, of the mean over levels, and bandwidth in octaves; of neurons that some tone moves above next to no sound."""
    its = tuning.curves["frequency"]
    octaves = np.log2(_axis(its, "frequency_hz"))
    some = (q <= Q) & _above(its.curve, tuning.curves["level"].curve)
    best = _some(its.curve, some, lambda mean: 2 ** curves.peak(octaves, mean))
    wide = _some(its.curve, some, lambda mean: curves.width(octaves, mean))
    return {"frequency_hz": Measure(*best, q), "bandwidth_octaves": Measure(*wide, q)}


def _level(tuning: Tuning, q: np.ndarray, scale: np.ndarray) -> dict[str, Measure]:
    """The lowest level of noise, in dBFS, whose response differs from the one to the lowest of all (Bonferroni over levels); monotonicity: what the
    response rises by from the lowest to the highest level, as a part of its range, 1: all of it, less where it falls again, -1: it only falls."""
    its = tuning.curves["level"]
    levels = _axis(its, "level_dbfs")
    limit = stats.t.isf(Q / 2 / (len(levels) - 1), its.curve.freedom)
    least = np.maximum(limit * np.sqrt(2) * its.curve.error, curves.LEAST * scale)

    def threshold(mean: np.ndarray) -> np.ndarray:
        beyond = np.abs(mean[:, 1:] - mean[:, :1]) > least[q <= Q][:, None]
        return np.where(beyond.any(axis=1), levels[1 + beyond.argmax(axis=1)], np.nan)

    def monotonicity(mean: np.ndarray) -> np.ndarray:
        return (mean[:, -1] - mean[:, 0]) / np.ptp(mean, axis=1)

    return {
        "level_dbfs": Measure(*_some(its.curve, q <= Q, threshold), q),
        "monotonicity": Measure(*_some(its.curve, q <= Q, monotonicity), q),
    }


def _rates(tuning: Tuning, q_tone: np.ndarray, q_noise: np.ndarray) -> dict[str, Measure]:
    """Best rates of full modulation in hertz, where they are above the unmodulated carrier: for either carrier, and for both their geometric mean
    where they are alike, else the one that is surer; and whether they are alike, 1 or 0."""
    best = {}
    for carrier, q in (("tone", q_tone), ("noise", q_noise)):
        its = tuning.curves[f"{carrier} rate"]
        octaves = np.log2(_axis(its, "rate_hz"))
        some = (q <= Q) & _above(its.curve, tuning.curves[f"{carrier} unmodulated"].curve)
        best[carrier] = Measure(*_some(its.curve, some, lambda mean, x=octaves: 2 ** curves.peak(x, mean)), q)  # type: ignore[misc]
    tone, noise = best["tone"], best["noise"]
    alike = np.abs(np.log2(tone.value / noise.value)) <= ALIKE
    by_tone = np.isfinite(tone.value) & (~np.isfinite(noise.value) | (q_tone <= q_noise))
    surer = np.where(by_tone, tone, noise)
    mean = np.sqrt(np.stack(tone[:3]) * np.stack(noise[:3]))
    value, low, high = np.where(alike, mean, surer[:3])
    q, none = np.minimum(q_tone, q_noise), np.full(len(alike), np.nan)
    return {
        "tone_rate_hz": tone,
        "noise_rate_hz": noise,
        "rate_hz": Measure(value, low, high, q),
        "rate_holds": Measure(np.where(np.isfinite(value), alike, np.nan), none, none, q),
    }


class _Direction(NamedTuple):
    preference: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]
    p: np.ndarray


def _direction(responses: Responses, scale: np.ndarray) -> _Direction:
    """(up - down) / (|up| + |down|) of responses to sweeps beyond that to next to no sound; -1 to 1. Pairs of a sweep and the same backwards are
    compared, and drawn for the interval."""
    up, down = (responses.repeats(("speed",), kind="sweep", direction=way).reshape(len(scale), -1) for way in ("up", "down"))
    quiet = responses.of(("level_dbfs",), kind="level").curve.mean[:, 0]
    pairs = up.shape[1]
    difference = up - down
    p = curves.two_sided(difference.mean(axis=1), difference.std(axis=1, ddof=1) / np.sqrt(pairs), pairs - 1, scale)

    def index(weights: np.ndarray) -> np.ndarray:
        """[..., neurons] of weights of pairs [..., pairs]."""
        rises, falls = weights @ up.T - quiet, weights @ down.T - quiet
        with np.errstate(divide="ignore", invalid="ignore"):
            return (rises - falls) / (np.abs(rises) + np.abs(falls))

    again = np.random.default_rng(0).multinomial(pairs, np.full(pairs, 1 / pairs), size=curves.DRAWS) / pairs
    return _Direction(index(np.full(pairs, 1 / pairs)), curves.interval(index(again)), p)


def _pitch_p(drawings: Mapping[str, Curve], scale: np.ndarray) -> np.ndarray:
    """p of pitch, the largest of three: harmonics vary with f0, so do those without the fundamental, and at the best f0 both are above jittered
    ones."""
    whole, missing, jittered = (drawings[f"harmonics, {name}"] for name in ("all", "no fundamental", "jittered"))
    harmonic = (whole.mean + missing.mean) / 2
    rows, best = np.arange(len(scale)), curves.smooth(harmonic).argmax(axis=1)
    above = (harmonic - jittered.mean)[rows, best]
    error = np.sqrt((whole.error**2 + missing.error**2) / 4 + jittered.error**2)
    beyond = curves.two_sided(above, error, whole.freedom + missing.freedom + jittered.freedom, scale)
    return np.maximum.reduce([whole.p, missing.p, np.where(above > 0, beyond, 1)])


def _pitch(tuning: Tuning, q: np.ndarray) -> dict[str, Measure]:
    """The best f0 in hertz, where it is one with and without fundamental: a tone of the spectrum would not be."""
    whole, missing = (tuning.curves[f"harmonics, {name}"] for name in ("all", "no fundamental"))
    octaves = np.log2(_axis(whole, "f0_hz"))
    apart = np.abs(curves.peak(octaves, whole.curve.mean) - curves.peak(octaves, missing.curve.mean)) > SAME_PITCH
    error = np.sqrt(whole.curve.error**2 + missing.curve.error**2) / 2
    both = Curve((whole.curve.mean + missing.curve.mean) / 2, error, whole.curve.freedom + missing.curve.freedom, q)
    value, low, high = _some(both, (q <= Q) & ~apart, lambda mean: 2 ** curves.peak(octaves, mean))
    return {"pitch_hz": Measure(value, low, high, q)}


class _Gaps(NamedTuple):
    shortest: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]
    p: np.ndarray


def _gaps(responses: Responses, scale: np.ndarray) -> _Gaps:
    """The shortest gap in milliseconds whose response differs from the one to the same noise without (Bonferroni over gaps), and p of any gap."""
    each = responses.repeats(("gap_ms",), kind="gap")
    gaps = np.unique(responses.table.filter(pl.col("kind") == "gap")["gap_ms"].to_numpy())[1:]
    difference = each[:, 1:] - each[:, :1]
    repeats, freedom = each.shape[2], len(gaps) * (each.shape[2] - 1)
    mean = difference.mean(axis=2)
    error = np.sqrt(np.square(difference - mean[..., None]).sum(axis=(1, 2)) / freedom / repeats)
    p = curves.two_sided(mean, error[:, None], freedom, scale[:, None])
    least = np.maximum(stats.t.isf(Q / 2 / len(gaps), freedom) * error, curves.LEAST * scale)[:, None]

    def shortest(mean: np.ndarray) -> np.ndarray:
        beyond = np.abs(mean) > least
        return np.where(beyond.any(axis=1), gaps[beyond.argmax(axis=1)], np.nan)

    return _Gaps(shortest(mean), drawn(Curve(mean, error, freedom, p), shortest), np.minimum(1, len(gaps) * p.min(axis=1)))


def _ripple(tuning: Tuning, q: np.ndarray) -> dict[str, Measure]:
    """Rate in hertz and density in cycles per octave of the ripple that is answered to most; rates above 0 fall in frequency."""
    its = tuning.curves["ripple"]
    rates, densities = _axis(its, "rate_hz"), _axis(its, "density")
    return {
        "ripple_rate_hz": Measure(*_some(its.curve, q <= Q, lambda mean: rates[mean.argmax(axis=1)]), q),
        "ripple_density": Measure(*_some(its.curve, q <= Q, lambda mean: densities[mean.argmax(axis=1)]), q),
    }
