"""How much of the classes a study's layers hold, on the pages of layers and networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from report.contents import Layer
from report.parts.page import Page
from report.topics.topic import Part, Topic

SERIES = ("best k", "k = 1", "linear")


@dataclass(slots=True)
class Probe:
    """A layer's probes: rows of the derived table, neighbours by ascending k, then the linear one."""

    layer: Layer
    rows: list[dict] = field(default_factory=list)

    def of(self, name: str) -> dict | None:
        """The row of a series of the chart: "k = 1", "best k" (the smallest of equals) or "linear"."""
        near = [row for row in self.rows if row["method"] == "knn"]
        if name == "best k":
            return max(near, key=lambda row: row["accuracy"], default=None)
        return next((row for row in self.rows if (row["method"] == "linear" if name == "linear" else row["k"] == 1)), None)


class Probes(Topic):
    """The latest finished run's probes by layer."""

    stage = "probes"
    tables = ("probes",)

    def read(self) -> None:
        """Read a study's probes."""
        self.layers: dict[int, Probe] = {}
        if self.run_id is None:
            return
        ids = {i for (i,) in self.con.execute("SELECT DISTINCT layer_id FROM probe WHERE run_id = ?", [self.run_id]).fetchall()}
        by_name = {layer.name: layer for layer in self.study.layers if layer.layer_id in ids}
        for row in self.table("probes"):
            if row["run_id"] == self.run_id and (layer := by_name.get(row["layer"])):
                self.layers.setdefault(layer.layer_id, Probe(layer)).rows.append(row)
        for probe in self.layers.values():
            probe.rows.sort(key=lambda row: (row["method"] == "linear", row["k"] or 0))

    def network(self, page: Page) -> Iterator[Part]:
        """The chart over layers, and one that compares data sets: the best k and the linear probe of each."""
        same = [its for known in self.known.studies if known.study.name == self.study.name and (its := known[Probes]).layers]
        rows = {
            "probes": [row for name in SERIES for row in self._rows(page.root, name, name)],
            "tasks": [
                row for its in same if len(same) > 1 for name in ("best k", "linear")
                for row in its._rows(page.root, name, f"{its.dataset.name}, {name}")
            ],
        }  # fmt: skip
        probes = [self.layers[layer.layer_id] for layer in self.study.layers if layer.layer_id in self.layers]
        html = page.draw("probes", end="", probes=probes, rows=rows, series=SERIES, name_of=name_of, compared=[its.study for its in same])
        yield Part(html, "top", rows=rows, link=("probes", "probes") if probes else None)

    def layer(self, page: Page, layer: Layer) -> Iterator[Part]:
        """Accuracies of a layer's probes."""
        if probe := self.layers.get(layer.layer_id):
            assert self.run_id is not None
            html = page.draw("layer_probes", probe=probe, name_of=name_of)
            yield Part(html, "top", [self.run_id], link=("probes", "probes"))

    def _rows(self, root: str, name: str, series: str) -> list[dict]:
        out = []
        for position, layer in enumerate(self.study.layers):
            probe = self.layers.get(layer.layer_id)
            if probe and (row := probe.of(name)):
                out.append({
                    "layer": layer.name, "position": position, "series": series, "label": name_of(row), "value": round(row["accuracy"], 5),
                    "low": round(row["low"], 5), "high": round(row["high"], 5), "chance": round(row["chance"], 5), "href": root + layer.page,
                })  # fmt: skip
        return out


def name_of(row: dict) -> str:
    """A probe in words."""
    return "linear" if row["method"] == "linear" else f"k = {row['k']}"
