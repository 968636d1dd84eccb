"""Tuning: which classes a study's neurons answer to, in numbers that many pages show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from report.contents import Class, Layer
from report.parts import svg
from report.parts.search_index import Index
from report.topics.topic import Known, Topic

FOUND = 12
"""Neurons of a class in the search index."""


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
class LayerNumbers:
    """A layer in numbers: dead neurons, means over its living ones, and its best detector of any class of the main label set."""

    layer: Layer
    dead: int = 0
    active: float | None = None
    selectivity: float | None = None
    mean_best: float | None = None
    best: float | None = None
    best_fact: NeuronFacts | None = None
    best_class: str = ""


class Tuning(Topic):
    """The neurons of a study by layer, and the best detectors of each class by class. Best means the highest average precision, then the
    lowest number."""

    def read(self) -> None:
        """Read all neurons' facts."""
        self.layers: dict[int, list[NeuronFacts]] = {}
        self.classes: dict[int, list[ClassNeuron]] = {}
        # By class: layer_id, neuron_id, average precision of each layer's best detector.
        self.best_by_layer: dict[int, list[tuple[int, int, float]]] = {}
        # Of each showpiece on its highest clip: path data and number of steps.
        self.courses: dict[int, tuple[str, int]] = {}
        main = self.dataset.main_classes
        for layer in self.study.by_first:
            rows = self.con.execute(
                """
                WITH best AS (
                    SELECT neuron_id, arg_max(class_id, {ap: average_precision, low: -class_id}) AS class_id,
                        max(average_precision) AS ap, max(selectivity) AS selectivity
                    FROM class_activation
                    WHERE run_id = $run AND reduction = $reduction AND neuron_id BETWEEN $first AND $last
                        AND list_contains($classes, class_id) AND average_precision IS NOT NULL
                    GROUP BY neuron_id)
                SELECT neuron_id, mean, maximum, share_active, coalesce(is_dead, false) AS dead, histogram::JSON::INTEGER[],
                    CASE WHEN NOT dead THEN class_id END, CASE WHEN NOT dead THEN ap END, selectivity, clip_id
                FROM neuron
                LEFT JOIN (SELECT * FROM activation_summary WHERE run_id = $run AND reduction = $reduction) USING (neuron_id)
                LEFT JOIN best USING (neuron_id)
                LEFT JOIN (SELECT neuron_id, clip_id FROM top_clip
                           WHERE run_id = $run AND reduction = $reduction AND side = 'high' AND rank = 1
                           AND neuron_id BETWEEN $first AND $last) USING (neuron_id)
                WHERE neuron_id BETWEEN $first AND $last ORDER BY neuron_id""",
                {"run": self.study.run_id, "reduction": layer.reduction, "first": layer.first, "last": layer.last, "classes": main or [-1]},
            ).fetchall()
            self.layers[layer.layer_id] = [NeuronFacts(*row) for row in rows]
        self._read_classes()
        self._read_courses()

    def _read_classes(self) -> None:
        shown = {layer.layer_id: layer.reduction for layer in self.study.by_first}
        if not shown:
            return
        # The reduction a page shows is the layer's own: `mean`, or for layers without a mean their first.
        source = """
            SELECT class_id, neuron_id, layer_id, average_precision, selectivity, mean
            FROM class_activation JOIN neuron USING (neuron_id)
            JOIN (SELECT unnest($layers) AS layer_id, unnest($reductions) AS reduction) AS shown USING (layer_id, reduction)
            WHERE run_id = $run"""
        values = {"run": self.study.run_id, "layers": list(shown), "reductions": list(shown.values())}
        for class_id, *row in self.con.execute(
            f"""SELECT class_id, neuron_id, average_precision, selectivity, mean,
                    row_number() OVER (PARTITION BY class_id ORDER BY average_precision DESC NULLS LAST, neuron_id) AS rank
                FROM ({source}) QUALIFY rank <= 20 ORDER BY class_id, rank""",
            values,
        ).fetchall():
            self.classes.setdefault(class_id, []).append(ClassNeuron(*row))
        for class_id, layer_id, neuron_id, ap in self.con.execute(
            f"""SELECT class_id, layer_id, neuron_id, average_precision FROM ({source}) WHERE average_precision IS NOT NULL
                QUALIFY row_number() OVER (PARTITION BY class_id, layer_id ORDER BY average_precision DESC, neuron_id) = 1
                ORDER BY class_id, layer_id""",
            values,
        ).fetchall():
            self.best_by_layer.setdefault(class_id, []).append((layer_id, neuron_id, ap))

    def _read_courses(self) -> None:
        best = sorted({piece.neuron_id for class_id in self.classes if (piece := self.showpiece(class_id))}) or [-1]
        for neuron_id, course in self.con.execute(
            """SELECT neuron_id, course FROM top_clip
               WHERE run_id = ? AND list_contains(?, neuron_id) AND side = 'high' AND rank = 1 AND course IS NOT NULL""",
            [self.study.run_id, best],
        ).fetchall():
            steps = np.array([course], np.float64)
            if len(course) and np.isfinite(steps).any():
                line = svg.courses(steps, np.nanmin(steps, axis=1).clip(max=0), np.nanmax(steps, axis=1).clip(min=0))[0]
                self.courses[neuron_id] = (line, len(course))

    def showpiece(self, class_id: int) -> ClassNeuron | None:
        """A class's best detector that is not an output of the classifier, which would be named after what it detects; if it must be, one."""
        rows = [row for row in self.classes.get(class_id, []) if row.average_precision is not None]
        return next((row for row in rows if self.study.name_of(row.neuron_id) is None), rows[0] if rows else None)

    def of(self, layer: Layer, neuron_id: int) -> NeuronFacts:
        """Facts of a neuron of `layer`."""
        return self.layers[layer.layer_id][neuron_id - layer.first]

    def best_class(self, layer: Layer, neuron_id: int) -> Class | None:
        """The class of the main label set that a neuron of `layer` detects best."""
        return self.dataset.class_of(self.of(layer, neuron_id).class_id)

    def numbers(self) -> list[LayerNumbers]:
        """Numbers of all layers; those without pages keep their blanks."""
        best = [row for class_id in self.dataset.main_classes for row in self.best_by_layer.get(class_id, [])]
        out = []
        for layer in self.study.layers:
            row = LayerNumbers(layer)
            if layer.has_pages:
                found = self.layers[layer.layer_id]
                living = [f for f in found if not f.is_dead]
                row.dead = len(found) - len(living)
                row.active = _mean([f.share_active for f in found])
                row.selectivity = _mean([f.selectivity for f in living])
                row.mean_best = _mean([ap for layer_id, _, ap in best if layer_id == layer.layer_id])
                detectors = [f for f in living if f.average_precision is not None]
                if detectors:
                    row.best_fact = max(detectors, key=lambda f: f.average_precision or 0)
                    row.best = row.best_fact.average_precision
                    best_class = self.dataset.class_of(row.best_fact.class_id)
                    row.best_class = best_class.name if best_class else ""
            out.append(row)
        return out

    def curves(self, numbers: list[LayerNumbers], root: str) -> dict[str, list[dict]]:
        """Rows of the three charts over layers."""
        shown = [n for n in numbers if n.layer.has_pages]
        last = max(1, len(shown) - 1)
        rows: dict[str, list[dict]] = {"detect": [], "selectivity": [], "dead": []}
        any_dead = any(n.dead for n in shown)  # a line at 0 says less than no chart
        for i, n in enumerate(shown):
            values = {"detect": n.mean_best, "selectivity": n.selectivity, "dead": n.dead / n.layer.neurons}
            for name, value in values.items():
                if value is not None and (name != "dead" or any_dead):
                    rows[name].append({
                        "layer": n.layer.name, "position": i, "depth": round(i / last, 4), "series": self.study.title, "label": n.layer.name,
                        "value": round(value, 5), "href": root + n.layer.page,
                    })  # fmt: skip
        return rows

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """Each class's best detectors, and which neurons are dead."""
        for known in studies:
            its = known[cls]
            index.bury(known.study, {layer: [at for at, fact in enumerate(facts) if fact.is_dead] for layer, facts in its.layers.items()})
            for class_id in known.study.dataset.classes:
                index.classes[class_id][3] += [
                    [*index.neuron(known.study, row.neuron_id), round(row.average_precision, 3)]
                    for row in its.classes.get(class_id, [])[:FOUND] if row.average_precision is not None
                ]  # fmt: skip
        for entry in index.classes.values():
            entry[3].sort(key=lambda place: -place[3])


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None
