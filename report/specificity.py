"""Which neurons of a study are specific to which classes, for the pages of networks, classes and neurons."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from html import escape

import duckdb
from markupsafe import Markup

from analyze.tables import table
from report.contents import Layer, Study, runs_of

MEASURES = {"aape": "AAPE", "lape": "LAPE", "selectivity": "selectivity", "average_precision": "average precision", "auroc": "AUROC"}
NAMED = ("aape", "lape")
"""Measures that decide by themselves how many neurons are specific; only these are named on pages of classes and neurons."""
LISTED = 24


@dataclass(slots=True)
class StudySpecificity:
    """The latest finished run: rows of the derived table `specific_neurons`, summed `rows` over layers, and the neurons of each class by measure."""

    run_id: int | None = None
    layers: list[dict] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    by_class: dict[int, dict[str, list[int]]] = field(default_factory=dict)


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudySpecificity:
    """Read a study's specific neurons."""
    runs = runs_of(con, study, "specificity")
    if not runs:
        return StudySpecificity()
    found = StudySpecificity(runs[0], [row for row in table(con, "specific_neurons").to_dicts() if row["run_id"] == runs[0]])
    grouped: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in found.layers:
        grouped[row["label_set"], row["measure"]].append(row)
    found.rows = [
        {"label_set": label_set, "measure": MEASURES.get(measure, measure), "coverage": its[0]["in_network"]}
        | {name: sum(row[name] for row in its) for name in ("neurons", "pairs", "per_class")}
        for (label_set, measure), its in grouped.items()
    ]
    for measure, neuron_id, class_id in con.execute(
        "SELECT measure, neuron_id, class_id FROM specific_neuron WHERE run_id = ? AND list_contains(?, measure) ORDER BY measure, value DESC, neuron_id",
        [found.run_id, NAMED],
    ).fetchall():
        found.by_class.setdefault(class_id, {}).setdefault(measure, []).append(neuron_id)
    return found


def chart_rows(found: StudySpecificity, study: Study, root: str) -> list[dict]:
    """Rows of the chart over layers: the share of the main label set's classes with a specific neuron, a line per measure."""
    main = next((name for name, members in study.dataset.label_sets.items() if members), None)
    by_layer = {(row["measure"], row["layer"]): row for row in found.layers if row["label_set"] == main}
    measures = list(dict.fromkeys(measure for measure, _ in by_layer))
    return [
        {"layer": layer.name, "position": position, "series": MEASURES.get(measure, measure), "total": layer.neurons, "href": root + layer.page,
         "value": round(row["coverage"], 5) if (row := by_layer.get((measure, layer.name))) else 0, "neurons": row["neurons"] if row else 0}
        for measure in measures for position, layer in enumerate(study.layers)
    ]  # fmt: skip


def of_class(found: StudySpecificity, study: Study, class_id: int, root: str) -> Markup:
    """The neurons specific to a class, by measure."""
    parts = []
    for measure, neurons in found.by_class.get(class_id, {}).items():
        links = [
            f'<a href="{root}{layer.folder}/{layer.file(neuron)}">{escape(layer.title(neuron))}</a>'
            for neuron in neurons[:LISTED] if (layer := study.layer_of(neuron)).has_pages
        ]  # fmt: skip
        more = f" and {len(neurons) - LISTED} more" if len(neurons) > LISTED else ""
        parts.append(f"<p>Specific by {MEASURES[measure]}: {', '.join(links)}{more}.</p>" if links else "")
    return Markup("".join(parts))


def lines(found: StudySpecificity, study: Study, layer: Layer, root: str) -> dict[int, Markup]:
    """By neuron of a layer, the classes that it is specific to, by measure."""
    said: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for class_id, by_measure in found.by_class.items():
        cls = study.dataset.classes[class_id]
        for measure, neurons in by_measure.items():
            for neuron in neurons:
                if layer.first <= neuron < layer.first + layer.neurons:
                    said[neuron][measure].append(f'<a href="{root}{cls.page}">{escape(cls.name)}</a>')
    return {
        neuron: Markup("".join(f"<p>Specific to {', '.join(links)} by {MEASURES[measure]}.</p>" for measure, links in its.items()))
        for neuron, its in said.items()
    }
