"""How often a dissection method finds what was planted (see ingest.networks.planted): counts with their 95% intervals, by layer and kind of neuron.

Results are given by neuron, (layer, unit). A neuron that is not among them was not examined and is in no count; nor is an undefined result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ingest.methods.probes import wilson
from ingest.networks.planted import CLASS_WORDS, DEEP, HIGH, MIDDLE, SENSES, Planted

Neuron = tuple[str, int]
NOTHING = ("dead", "noise")
"""Kinds of which nothing right can be said."""


@dataclass(frozen=True)
class Score:
    """`right` of `total` neurons, or of what `measure` counts, of one kind of a layer; `low` to `high` is Wilson's 95% interval of the share."""

    measure: str
    layer: str
    kind: str
    right: int
    total: int
    low: float
    high: float


class Counts:
    """Rights and totals by measure, layer and kind, in the order of their first appearance."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str], list[int]] = {}

    def add(self, measure: str, layer: str, kind: str, right: int, total: int = 1) -> None:
        """Count `right` of `total`."""
        count = self.counts.setdefault((measure, layer, kind), [0, 0])
        count[0] += right
        count[1] += total

    def scores(self) -> list[Score]:
        """What was counted."""
        return [Score(*key, right, total, *wilson(right, total)) for key, (right, total) in self.counts.items() if total]


def score_names(found: Mapping[Neuron, Sequence[str]], planted: Sequence[Planted]) -> list[Score]:
    """How often a neuron's names, open or closed concepts, hold what was planted.

    A name is right when it is, but for case, one of the neuron's words or a class it responds to. Measure `named`: at least one name is
    right; of a sum, one for either class, while `named in part` asks for one class. Measure `nothing named`: dead neurons and noise without
    a name. Negations are left out: there is no word for one.
    """
    counts = Counts()
    for what in planted:
        names = found.get((what.layer, what.unit))
        if names is None or what.kind == "negation":
            continue
        said = {name.strip().casefold() for name in names}
        if what.kind in NOTHING:
            counts.add("nothing named", what.layer, what.kind, not said)
        elif what.kind == "sum":
            parts = [_is_named(said, (name, *CLASS_WORDS[name])) for name in what.classes]
            counts.add("named", what.layer, what.kind, all(parts))
            counts.add("named in part", what.layer, what.kind, any(parts))
        else:
            counts.add("named", what.layer, what.kind, _is_named(said, (*what.words, *what.classes)))
    return counts.scores()


def _is_named(said: set[str], right: Sequence[str]) -> bool:
    return not said.isdisjoint(word.casefold() for word in right)


def score_sets(found: Mapping[str, np.ndarray], planted: Sequence[Planted], classes: Sequence[str]) -> list[Score]:
    """How well sets of class-specific neurons match the classes planted. `found` has a matrix [units, classes] (bool) for each layer.

    Measure `recall`: planted pairs of neuron and class that were found. `precision`: found pairs that were planted, of neurons with planted
    classes by kind, and with kind `all` of all neurons of which that can be said, to which dead neurons, noise and negations belong;
    `nothing found`: those of them that are specific to no class. Detectors of acoustic properties may well be specific to classes and are in
    no count. Raises ValueError for a matrix of another shape.
    """
    counts, column = Counts(), {name: index for index, name in enumerate(classes)}
    for layer, matrix in found.items():
        of_layer = [what for what in planted if what.layer == layer]
        if matrix.shape != (len(of_layer), len(classes)):
            raise ValueError(f"layer {layer} needs a matrix of {[len(of_layer), len(classes)]}, not {list(matrix.shape)}")
        for what in of_layer:
            row = matrix[what.unit].astype(bool)
            pairs = int(row.sum())
            if what.kind in NOTHING or what.kind == "negation":
                counts.add("nothing found", layer, what.kind, not pairs)
                counts.add("precision", layer, "all", 0, pairs)
            elif what.classes:
                right = int(row[[column[name] for name in what.classes if name in column]].sum())
                counts.add("recall", layer, what.kind, right, len(what.classes))
                counts.add("precision", layer, what.kind, right, pairs)
                counts.add("precision", layer, "all", right, pairs)
    return counts.scores()


def score_verdicts(polysemantic: Mapping[Neuron, bool | None], planted: Sequence[Planted]) -> list[Score]:
    """How often the verdict on a neuron is right: polysemantic for sums, whose clips are of two classes, and for noise; not for the others.

    Dead neurons have no highest clips, and a negation's are of many classes, though it means one thing: both are left out, as is None.
    """
    counts = Counts()
    for what in planted:
        verdict = polysemantic.get((what.layer, what.unit))
        if verdict is not None and what.kind not in ("dead", "negation"):
            counts.add("verdict", what.layer, what.kind, bool(verdict) == (what.kind in ("sum", "noise")))
    return counts.scores()


def score_meanings(meanings: Mapping[Neuron, int | None], planted: Sequence[Planted]) -> list[Score]:
    """How often the number of a neuron's meanings is right: two or more for sums, none for noise, one for the others but those that
    `score_verdicts` leaves out.
    """
    counts = Counts()
    for what in planted:
        number = meanings.get((what.layer, what.unit))
        if number is not None and what.kind not in ("dead", "negation"):
            right = number >= 2 if what.kind == "sum" else number == (0 if what.kind == "noise" else 1)
            counts.add("verdict", what.layer, what.kind, right)
    return counts.scores()


def score_clusters(labels: Mapping[Neuron, int], planted: Sequence[Planted]) -> list[Score]:
    """How well clusters of neurons, by their numbers within a layer, keep together what is alike.

    Measure `joined`: duplicates that are with the neuron they copy, and pairs of neurons of one class that are together. `kept apart`: pairs of
    neurons of different classes that are not.
    """
    counts, of_class = Counts(), [what for what in planted if what.kind == "class" and (what.layer, what.unit) in labels]
    for what in planted:
        if what.partner is not None and (what.layer, what.unit) in labels and (what.layer, what.partner) in labels:
            counts.add("joined", what.layer, what.kind, labels[what.layer, what.unit] == labels[what.layer, what.partner])
    for one, other in combinations(of_class, 2):
        if one.layer == other.layer:
            together = labels[one.layer, one.unit] == labels[other.layer, other.unit]
            alike = one.classes == other.classes
            counts.add("joined" if alike else "kept apart", one.layer, "class", together == alike)
    return counts.scores()


def ablated_units(planted: Sequence[Planted], name: str) -> dict[str, list[int]]:
    """Units by layer that alone carry a class to the outputs: its neurons and their copies. Without them its output is at its lowest."""
    units: dict[str, list[int]] = {}
    for what in planted:
        if what.kind in ("class", "duplicate") and what.classes == (name,) and what.layer != "outputs":
            units.setdefault(what.layer, []).append(what.unit)
    return units


def score_ablation(own: Sequence[float], others: Sequence[float], *, layer: str = "classes", kind: str = "class") -> list[Score]:
    """How often silencing a class's neurons took away that class: its own output fell, and by more than the other classes' did.

    `own` and `others` [targets] are changes of the mean output, below 0 for a fall, one for each class silenced; targets with a value that is
    not finite are left out. Raises ValueError for different lengths.
    """
    counts = Counts()
    for of_target, of_others in zip(own, others, strict=True):
        if math.isfinite(of_target) and math.isfinite(of_others):
            counts.add("removed", layer, kind, of_target < min(0, of_others))
    return counts.scores()


_LOUD = r"(level|peak|mean_\d+|peak_\d+)_dbfs"
_BROKEN = r"changes_\d+_db|level_range_db|modulation_(hz|depth)|events|onset_rate_hz|rise_\w+_db|pause_depth_db|regularity|rhythm_hz"
_SHORT = r"event_s|sounding_s|attack_s"
_NOISY, _TONAL = r"flatness|bandwidth_octaves", r"tonality|pitched_share|contrast_\w+_db|fundamental_share|overtone_share"
_WIDE = r"bandwidth_octaves|flatness|rolloff_hz|spread_octaves"
_HEIGHT = r"median_frequency_hz|centroid_hz|rolloff_hz|pitch_hz"


def _octaves(*centres: int) -> str:
    return rf"(mean|peak|balance)_({'|'.join(map(str, centres))})_dbf?s?"


RULE_PATTERNS = {
    "loud": (_LOUD, ""), "quiet": ("", _LOUD),
    "noisy": (_NOISY, _TONAL), "tonal": (_TONAL, _NOISY),
    "slow": (_BROKEN, _SHORT), "fast": (_BROKEN, _SHORT), "onsets": (_BROKEN, _SHORT), "impulsive": (_BROKEN, _SHORT),
    "steady": (_SHORT, _BROKEN), "smooth": (_SHORT, _BROKEN),
    "wide": (_WIDE, _TONAL), "narrow": (_TONAL, _WIDE),
}  # fmt: skip
"""By sense: which properties over a threshold, and which under one, say what it hears."""
_DEEP, _MIDDLE, _HIGH = (
    (rf"low_share|{_octaves(63, 125, 250, 500)}", rf"high_share|{_HEIGHT}|{_octaves(1000, 2000, 4000, 8000)}"),
    (rf"middle_share|{_octaves(500, 1000, 2000)}", rf"low_share|high_share|{_octaves(63, 125, 250, 4000, 8000)}|{_HEIGHT}"),
    (rf"high_share|{_HEIGHT}|{_octaves(2000, 4000, 8000)}", rf"low_share|{_octaves(63, 125, 250, 500, 1000)}"),
)
OCTAVE_PATTERNS = {"low": _DEEP, "middle": _MIDDLE, "high": _HIGH}
_BANDS = {DEEP: _DEEP, MIDDLE: _MIDDLE, HIGH: _HIGH, (*DEEP, *MIDDLE): _MIDDLE, (*MIDDLE, *HIGH): _MIDDLE}


def right_conditions(what: Planted) -> tuple[str, str] | None:
    """Patterns of the properties that, over and under a threshold, say what a neuron of layer features was made to hear; None for another."""
    for name, sense in SENSES.items():
        if what.words == sense.words:
            return RULE_PATTERNS[name]
    return _BANDS.get(what.words)


def score_rules(found: Mapping[Neuron, Sequence[tuple[str, bool]]], planted: Sequence[Planted]) -> list[Score]:
    """How often rules name what was planted: `found` has the conditions of every neuron examined, none without a rule, as property and whether
    over its threshold.

    Measure `property named`: detectors of acoustic properties with a rule of which a condition names the property, or one that follows from it,
    in the right direction; `first named`: the weightiest one does. `no rule`: noise neurons without one. What is planted is measured by another
    program than properties are (ingest.networks.planted_measurements).
    """
    counts = Counts()
    for what in planted:
        conditions = found.get((what.layer, what.unit))
        if conditions is None:
            continue
        if what.kind == "noise":
            counts.add("no rule", what.layer, what.kind, not conditions)
        elif what.layer == "features" and (right := right_conditions(what)):
            hits = [bool(re.fullmatch(right[0] if over else right[1], name)) for name, over in conditions]
            counts.add("property named", what.layer, what.kind, any(hits))
            counts.add("first named", what.layer, what.kind, bool(hits[:1] == [True]))
    return counts.scores()
