"""What is said of neurons as rows: points, the open concepts in them, rules over measured properties."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl

from ingest.language.replies import Asker
from ingest.language.word_lists import word_list
from ingest.methods import rules
from ingest.methods.concepts import acoustic_question, open_concepts, parse_yes_no
from ingest.methods.rule_words import Condition, phrase, sentence, words_of
from ingest.methods.summaries import Point
from ingest.stages.recorded import RecordedLayer

POINT = {
    "neuron_id": pl.Int64, "position": pl.Int64, "text": pl.String, "is_kept": pl.Boolean, "because": pl.String, "cosine": pl.Float64,
}  # fmt: skip
RULE = {
    "neuron_id": pl.Int64, "conditions": pl.Int64, "auroc": pl.Float64, "low": pl.Float64, "high": pl.Float64, "auroc_fewer": pl.Float64,
    "auroc_more": pl.Float64, "reason": pl.String,
}  # fmt: skip
CONDITION = {
    "neuron_id": pl.Int64, "position": pl.Int64, "property": pl.String, "direction": pl.String, "threshold": pl.Float64, "weight": pl.Float64,
    "place": pl.Float64, "name": pl.String, "unit": pl.String, "text": pl.String,
}  # fmt: skip
NO_RULE, UNTRIED = "no measured property tells more than chance", "too few clips activate it, or too few sources, to try"
CONCEPT = {"neuron_id": pl.Int64, "word": pl.String, "part_of_speech": pl.String, "occurrences": pl.Int64, "is_acoustic": pl.Boolean}
UNITS = re.compile(r" \(.*?\)|( at)? [\d.–]+ k?Hz")
"""Of a rule's sentence, what is no concept: what was measured, and where in the spectrum."""

Words = list[tuple[int, str, str, int, bool | None]]
"""Rows of table concept, without run."""


def open_words(points: dict[int, list[Point]], asker: Asker | None, as_published: bool = False) -> Words:
    """Open concepts of the kept points, and which of their adjectives are of sounds: by a language model, or a list."""
    counted = {
        neuron: Counter((c.word, c.pos) for c in open_concepts([p.text for p in found if p.kept], as_published=as_published))
        for neuron, found in points.items()
    }
    adjectives = sorted({word for found in counted.values() for word, part in found if part == "adjective"})
    if asker:
        replies = asker([acoustic_question(word) for word in adjectives])
        acoustic = {word: parse_yes_no(reply.text or "") for word, reply in zip(adjectives, replies, strict=True)}
    else:
        acoustic = {word: word in word_list("acoustic_adjectives") for word in adjectives}
    return [
        (neuron, word, part, count, acoustic[word] if part == "adjective" else None)
        for neuron, found in counted.items()
        for (word, part), count in found.items()
    ]


def point_rows(points: dict[int, list[Point]], words: Words) -> dict[str, pl.DataFrame]:
    """Rows of tables summary_point and concept."""
    said = [
        (neuron, position, point.text, point.kept, point.because, None if point.cosine != point.cosine else point.cosine)
        for neuron, found in points.items()
        for position, point in enumerate(found)
    ]
    return {
        "summary_point": pl.DataFrame(said, schema=POINT, orient="row"),
        "concept": pl.DataFrame(words, schema=CONCEPT, orient="row"),
    }


def conditions_of(found: rules.Rules, unit: int, names: list[str]) -> list[Condition]:
    """The conditions of a neuron's rule."""
    rows = zip(found.property[unit], found.direction[unit], found.threshold[unit], found.place[unit], strict=True)
    return [Condition(names[column], int(sign), float(threshold), float(place)) for column, sign, threshold, place in rows if column >= 0]


def rule_rows(layer: RecordedLayer, found: rules.Rules, names: list[str], alive: np.ndarray) -> dict[str, pl.DataFrame]:
    """Rows of the tables that describe a layer's living neurons."""
    of_rules, of_conditions = [], []
    points: dict[int, list[Point]] = {}
    for unit in alive.tolist():
        neuron, areas = layer.first_neuron_id + unit, found.auroc[unit]
        count, tried = int(found.count[unit]), int(found.tried[unit])
        reason = None if count else NO_RULE if tried else UNTRIED
        numbers = (
            areas[tried],
            found.low[unit],
            found.high[unit],
            areas[max(0, tried - 1)],
            areas[tried + 1] if tried < rules.MOST else np.nan,
        )
        of_rules.append((neuron, count, *(float(number) if tried and np.isfinite(number) else None for number in numbers), reason))
        conditions = conditions_of(found, unit, names)
        for i, condition in enumerate(conditions):
            words = words_of(condition.property)
            direction = "over" if condition.direction > 0 else "under"
            of_conditions.append((
                neuron, i, condition.property, direction, condition.threshold, float(found.weight[unit, i]), condition.place, words.name,
                words.unit, phrase(condition),
            ))  # fmt: skip
        points[neuron] = [Point(sentence(conditions), True, None, float("nan"))] if conditions else []
    return {
        "rule": pl.DataFrame(of_rules, schema=RULE, orient="row"),
        "rule_condition": pl.DataFrame(of_conditions, schema=CONDITION, orient="row"),
        **point_rows(points, open_words({n: [replace(p, text=UNITS.sub("", p.text)) for p in its] for n, its in points.items()}, None)),
    }
