"""How often tuning, and rules over measured properties, find what was planted in a network (see ingest.networks.tuned.planted)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ingest.methods.validation import OCTAVE_PATTERNS, RULE_PATTERNS, Counts, Neuron, Score
from ingest.networks.tuned.planted import Tuned
from ingest.sounds.bands import OCTAVES_HZ
from ingest.sounds.stimuli import GAPS_MS, LEVELS_DBFS

SIXTH, HALF = 1 / 6, 0.5
"""Octaves within which frequencies and rates, bandwidths and pitches are right."""
ALONE = 0.95
"""AUROC from which on one part of a pair tells the pair's clips."""
NOTHING = ("dead", "noise")
SENSES = {
    "loud": RULE_PATTERNS["loud"], "quiet": RULE_PATTERNS["quiet"], "noisy": RULE_PATTERNS["noisy"], "tonal": RULE_PATTERNS["tonal"],
    "fluctuating": RULE_PATTERNS["fast"], "steady": RULE_PATTERNS["steady"],
    "low": OCTAVE_PATTERNS["low"], "middle": OCTAVE_PATTERNS["middle"], "high": OCTAVE_PATTERNS["high"],
}  # fmt: skip


def _octaves(off: float) -> Callable[[float, Tuned], bool]:
    return lambda value, what: abs(np.log2(value / (what.value or np.nan))) <= off


def _first_above(steps: Sequence[float]) -> Callable[[float, Tuned], bool]:
    return lambda value, what: value == min(step for step in steps if step > (what.value or 0))


RIGHT: dict[str, tuple[tuple[str, str, Callable[[float, Tuned], bool]], ...]] = {
    "frequency": (
        ("best frequency within 1/6 octave", "frequency_hz", _octaves(SIXTH)),
        ("bandwidth within 1/2 octave", "bandwidth_octaves", lambda value, what: abs(value - (what.width or np.nan)) <= HALF),
    ),
    "rate": (("best rate within 1/2 octave", "rate_hz", _octaves(HALF)),),
    "direction": (("direction", "direction", lambda value, what: np.sign(value) == what.value),),
    "level": (("level threshold", "level_dbfs", _first_above(LEVELS_DBFS)),),
    "gap": (("shortest gap", "gap_ms", _first_above(GAPS_MS)),),
    "pitch": (("pitch within 1/2 octave", "pitch_hz", _octaves(HALF)),),
}
"""By kind: what is judged, by which measure, and whether its value is right."""


def score_tuning(found: Mapping[Neuron, Mapping[str, float]], planted: Sequence[Tuned]) -> list[Score]:
    """How often measures of tuning are right: `found` has the defined ones by neuron and measure; one that is missing is wrong. Thresholds and gaps
    are right at the first step of the battery beyond what was planted. Measure `not tuned`: dead neurons and noise that are given nothing."""
    counts = Counts()
    for what in planted:
        its = found.get((what.layer, what.unit))
        if its is None:
            continue
        for name, measure, is_right in RIGHT.get(what.kind, ()):
            counts.add(name, what.layer, what.kind, measure in its and is_right(its[measure], what))
        if what.kind in NOTHING:
            counts.add("not tuned", what.layer, what.kind, not its)
    return counts.scores()


def score_properties(
    found: Mapping[Neuron, Sequence[tuple[str, bool]]], planted: Sequence[Tuned], alone: Mapping[Neuron, float]
) -> list[Score]:
    """How often rules name the property planted: `found` as of validation.score_rules; `alone` [of pairs] is the AUROC with which the better of a pair's
    parts tells the pair's clips by itself.

    Measure `property named`: of neurons that hear one property or frequency, a condition says it or what follows from it. `both named`, of two
    together or one without another: a condition each. Where one part alone tells the clips (ALONE) the other is not to be found in
    them: those neurons count as `the one that tells them named`. `no rule`: noise.
    """
    counts = Counts()
    for what in planted:
        place = (what.layer, what.unit)
        conditions = found.get(place)
        if conditions is None:
            continue
        if what.kind == "noise":
            counts.add("no rule", what.layer, what.kind, not conditions)
        elif what.kind == "frequency":
            counts.add("property named", what.layer, what.kind, _says(conditions, _near(what.value or np.nan), True))
        elif what.kind == "sense":
            counts.add("property named", what.layer, what.kind, _says(conditions, SENSES[what.senses[0]], True))
        elif what.kind in ("both", "but not") and place in alone:
            said = [_says(conditions, SENSES[name], place == 0 or what.kind == "both") for place, name in enumerate(what.senses)]
            if alone[place] < ALONE:
                counts.add("both named", what.layer, what.kind, all(said))
            else:
                counts.add("the one that tells them named", what.layer, what.kind, any(said))
    return counts.scores()


def _says(conditions: Sequence[tuple[str, bool]], patterns: tuple[str, str], wanted: bool) -> bool:
    """Whether a condition over or under its threshold says what `patterns` name, or the contrary."""
    over, under = patterns if wanted else patterns[::-1]
    return any(re.fullmatch(over if is_over else under, name) for name, is_over in conditions)


def _near(hertz: float) -> tuple[str, str]:
    """Properties that, over a threshold, say that a sound is strong within an octave of a frequency."""
    near = [str(centre) for centre in OCTAVES_HZ if abs(np.log2(centre / hertz)) <= 1]
    share = "low_share" if hertz < 500 else "middle_share" if hertz < 2000 else "high_share"
    return rf"(mean|peak|balance)_({'|'.join(near)})_dbf?s?|{share}", ""
