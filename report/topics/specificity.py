"""Which neurons of a study are specific to which classes, on the pages of networks, classes and neurons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from html import escape

from markupsafe import Markup

from report.contents import Class, Layer
from report.parts.page import Page
from report.topics.topic import Part, Parts, Topic

MEASURES = {"aape": "AAPE", "lape": "LAPE", "selectivity": "selectivity", "average_precision": "average precision", "auroc": "AUROC"}
NAMED = ("aape", "lape")
"""Measures that decide by themselves how many neurons are specific; only these are named on pages of classes and neurons."""
LISTED = 24


class Specificity(Topic):
    """The latest finished run: rows of the derived table `specific_neurons`, summed `rows` over layers, rows of `specific_classes` by AAPE of the
    main label set that have neurons, and the neurons of each class by measure."""

    stage = "specificity"
    tables = ("specific_classes", "specific_neurons")

    def read(self) -> None:
        """Read a study's specific neurons."""
        self.layers: list[dict] = []
        self.rows: list[dict] = []
        self.class_rows: list[dict] = []
        self.by_class: dict[int, dict[str, list[int]]] = {}
        if self.run_id is None:
            return
        self.layers = [row for row in self.table("specific_neurons") if row["run_id"] == self.run_id]
        grouped: dict[tuple[str, str], list[dict]] = defaultdict(list)
        for row in self.layers:
            grouped[row["label_set"], row["measure"]].append(row)
        self.rows = [
            {"label_set": label_set, "measure": MEASURES.get(measure, measure), "coverage": its[0]["in_network"]}
            | {name: sum(row[name] for row in its) for name in ("neurons", "pairs", "per_class")}
            for (label_set, measure), its in grouped.items()
        ]
        main = set(next((members for members in self.dataset.label_sets.values() if members), ()))
        self.class_rows = [
            row for row in self.table("specific_classes")
            if row["run_id"] == self.run_id and row["measure"] == NAMED[0] and row["neurons"] and row["class_id"] in main
        ]  # fmt: skip
        for measure, neuron_id, class_id in self.con.execute(
            """SELECT measure, neuron_id, class_id FROM specific_neuron WHERE run_id = ? AND list_contains(?, measure)
               ORDER BY measure, value DESC, neuron_id""",
            [self.run_id, NAMED],
        ).fetchall():
            if self.study.has_page(neuron_id):
                self.by_class.setdefault(class_id, {}).setdefault(measure, []).append(neuron_id)

    def network(self, page: Page) -> Iterator[Part]:
        """How many are specific, and the chart over layers."""
        if self.rows:
            rows = {"specificity": self.chart_rows(page.root), "specific_classes": self.class_chart(page.root)}
            yield Part(page.draw("specificity", end="", specificity=self), "numbers", rows=rows, link=("specificity", "specific neurons"))

    def chart_rows(self, root: str) -> list[dict]:
        """Rows of the chart over layers: the share of the main label set's classes with a specific neuron, a line per measure."""
        main = next((name for name, members in self.dataset.label_sets.items() if members), None)
        by_layer = {(row["measure"], row["layer"]): row for row in self.layers if row["label_set"] == main}
        measures = list(dict.fromkeys(measure for measure, _ in by_layer))
        return [
            {"layer": layer.name, "position": position, "series": MEASURES.get(measure, measure), "total": layer.neurons, "href": root + layer.page,
             "value": round(row["coverage"], 5) if (row := by_layer.get((measure, layer.name))) else 0, "neurons": row["neurons"] if row else 0}
            for measure in measures for position, layer in enumerate(self.study.layers)
        ]  # fmt: skip

    def class_chart(self, root: str) -> list[dict]:
        """Rows of the map of classes and layers: how many of a layer's neurons are specific to a class by AAPE."""
        layers = {layer.name: (position, layer) for position, layer in enumerate(self.study.layers)}
        return [
            {"layer": layer.name, "position": position, "series": row["class"], "order": row["class_id"], "neurons": row["neurons"],
             "total": layer.neurons, "value": round(row["neurons"] / layer.neurons, 5), "href": root + layer.page}
            for row in self.class_rows if row["layer"] in layers for position, layer in [layers[row["layer"]]]
        ]  # fmt: skip

    def of_class(self, page: Page, cls: Class) -> Iterator[Part]:
        """The neurons specific to a class, by measure."""
        if cls.class_id in self.by_class and self.run_id is not None:
            yield Part(self.neurons_of(cls.class_id, page.root), "detectors", [self.run_id])

    def neurons_of(self, class_id: int, root: str) -> Markup:
        """Links to the neurons specific to a class, by measure."""
        parts = []
        for measure, neurons in self.by_class.get(class_id, {}).items():
            places = [(neuron, self.study.layer_of(neuron)) for neuron in neurons[:LISTED]]
            links = [f'<a href="{root}{at.folder}/{at.file(neuron)}">{escape(at.title(neuron))}</a>' for neuron, at in places]
            more = f" and {len(neurons) - LISTED} more" if len(neurons) > LISTED else ""
            parts.append(f"<p>Specific by {MEASURES[measure]}: {', '.join(links)}{more}.</p>")
        return Markup("".join(parts))

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """The classes that a neuron is specific to, by measure."""
        lines = {neuron_id: [Part(line, "classes")] for neuron_id, line in self.classes_of(layer, page.root).items()}
        return Parts(lines, self.runs)

    def classes_of(self, layer: Layer, root: str) -> dict[int, Markup]:
        """By neuron of a layer, links to the classes that it is specific to, by measure."""
        said: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for class_id, by_measure in self.by_class.items():
            cls = self.dataset.classes[class_id]
            for measure, neurons in by_measure.items():
                for neuron in neurons:
                    if layer.first <= neuron <= layer.last:
                        said[neuron][measure].append(f'<a href="{root}{cls.page}">{escape(cls.name)}</a>')
        return {
            neuron: Markup("".join(f"<p>Specific to {', '.join(links)} by {MEASURES[measure]}.</p>" for measure, links in its.items()))
            for neuron, its in said.items()
        }
