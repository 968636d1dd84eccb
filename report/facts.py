"""Numbers about a study's neurons that more than one page shows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import duckdb
import numpy as np

from report import svg
from report.contents import Dataset, Layer, Study


@dataclass(slots=True)
class NeuronFacts:
    """One neuron in numbers: its distribution, the class of the main label set it detects best, and its highest clip."""

    neuron_id: int
    mean: float | None
    maximum: float | None
    share_active: float | None
    is_dead: bool
    histogram: list[int] | None
    class_id: int | None
    average_precision: float | None
    selectivity: float | None
    clip_id: int | None


@dataclass(slots=True)
class ClassNeuron:
    """How a neuron answers to a class."""

    neuron_id: int
    average_precision: float | None
    selectivity: float | None
    mean: float | None
    rank: int


@dataclass(slots=True)
class StudyFacts:
    """The neurons of a study by layer, and the best detectors of each class by class."""

    layers: dict[int, list[NeuronFacts]] = field(default_factory=dict)
    classes: dict[int, list[ClassNeuron]] = field(default_factory=dict)
    best_by_layer: dict[int, list[tuple[int, int, float]]] = field(default_factory=dict)
    """By class: layer_id, neuron_id, average precision of each layer's best detector."""
    courses: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Of each showpiece on its highest clip: path data and number of steps."""

    def showpiece(self, study: Study, class_id: int) -> ClassNeuron | None:
        """A class's best detector that is not an output of the classifier, which would be named after what it detects; if it must be, one."""
        rows = [row for row in self.classes.get(class_id, []) if row.average_precision is not None]
        return next((row for row in rows if study.name_of(row.neuron_id) is None), rows[0] if rows else None)

    def of(self, layer: Layer, neuron_id: int) -> NeuronFacts:
        """Facts of a neuron of `layer`."""
        return self.layers[layer.layer_id][neuron_id - layer.first]


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudyFacts:
    """Read a study's facts. Best means the highest average precision, then the lowest number."""
    facts = StudyFacts()
    main = next(iter(study.dataset.label_sets.values()), [])
    for layer in study.by_first:
        rows = con.execute(
            """
            WITH best AS (
                SELECT neuron_id, arg_max(class_id, {ap: average_precision, low: -class_id}) AS class_id,
                    max(average_precision) AS ap, max(selectivity) AS selectivity
                FROM class_activation
                WHERE run_id = $run AND reduction = $reduction AND neuron_id BETWEEN $first AND $last
                    AND list_contains($classes, class_id) AND average_precision IS NOT NULL
                GROUP BY neuron_id)
            SELECT neuron_id, mean, maximum, share_active, coalesce(is_dead, false) AS dead, histogram,
                CASE WHEN NOT dead THEN class_id END, CASE WHEN NOT dead THEN ap END, selectivity, clip_id
            FROM neuron
            LEFT JOIN (SELECT * FROM activation_summary WHERE run_id = $run AND reduction = $reduction) USING (neuron_id)
            LEFT JOIN best USING (neuron_id)
            LEFT JOIN (SELECT neuron_id, clip_id FROM top_clip
                       WHERE run_id = $run AND reduction = $reduction AND side = 'high' AND rank = 1
                       AND neuron_id BETWEEN $first AND $last) USING (neuron_id)
            WHERE neuron_id BETWEEN $first AND $last ORDER BY neuron_id""",
            {
                "run": study.run_id,
                "reduction": layer.reduction,
                "first": layer.first,
                "last": layer.first + layer.neurons - 1,
                "classes": main or [-1],
            },
        ).fetchall()
        facts.layers[layer.layer_id] = [
            NeuronFacts(neuron_id, mean, maximum, active, dead, json.loads(counts) if counts else None, class_id, ap, selectivity, clip_id)
            for neuron_id, mean, maximum, active, dead, counts, class_id, ap, selectivity, clip_id in rows
        ]
    _read_classes(con, study, facts)
    _read_courses(con, study, facts)
    return facts


def _read_classes(con: duckdb.DuckDBPyConnection, study: Study, facts: StudyFacts) -> None:
    shown = {layer.layer_id: layer.reduction for layer in study.by_first}
    if not shown:
        return
    # The reduction a page shows is the layer's own: `mean`, or for layers without a mean their first.
    source = """
        SELECT class_id, neuron_id, layer_id, average_precision, selectivity, mean
        FROM class_activation JOIN neuron USING (neuron_id)
        JOIN (SELECT unnest($layers) AS layer_id, unnest($reductions) AS reduction) AS shown USING (layer_id, reduction)
        WHERE run_id = $run"""
    values = {"run": study.run_id, "layers": list(shown), "reductions": list(shown.values())}
    for class_id, *row in con.execute(
        f"""SELECT class_id, neuron_id, average_precision, selectivity, mean,
                row_number() OVER (PARTITION BY class_id ORDER BY average_precision DESC NULLS LAST, neuron_id) AS rank
            FROM ({source}) QUALIFY rank <= 20 ORDER BY class_id, rank""",
        values,
    ).fetchall():
        facts.classes.setdefault(class_id, []).append(ClassNeuron(*row))
    for class_id, layer_id, neuron_id, ap in con.execute(
        f"""SELECT class_id, layer_id, neuron_id, average_precision FROM ({source}) WHERE average_precision IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY class_id, layer_id ORDER BY average_precision DESC, neuron_id) = 1
            ORDER BY class_id, layer_id""",
        values,
    ).fetchall():
        facts.best_by_layer.setdefault(class_id, []).append((layer_id, neuron_id, ap))


def _read_courses(con: duckdb.DuckDBPyConnection, study: Study, facts: StudyFacts) -> None:
    best = sorted({piece.neuron_id for class_id in facts.classes if (piece := facts.showpiece(study, class_id))}) or [-1]
    for neuron_id, course in con.execute(
        """SELECT neuron_id, course FROM top_clip
           WHERE run_id = ? AND list_contains(?, neuron_id) AND side = 'high' AND rank = 1 AND course IS NOT NULL""",
        [study.run_id, best],
    ).fetchall():
        steps = np.array([course], np.float64)
        if len(course) and np.isfinite(steps).any():
            line = svg.courses(steps, np.nanmin(steps, axis=1).clip(max=0), np.nanmax(steps, axis=1).clip(min=0))[0]
            facts.courses[neuron_id] = (line, len(course))


def chances(dataset: Dataset) -> dict[int, float]:
    """Average precision a neuron reaches by chance, by class: the share of the label set's clips that carry the class."""
    out = {}
    for members in dataset.label_sets.values():
        labelled = len({clip for class_id in members for clip in dataset.classes[class_id].clips})
        for class_id in members:
            out[class_id] = len(dataset.classes[class_id].clips) / labelled if labelled else 0.0
    return out
