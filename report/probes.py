"""How much of the classes a study's layers hold, for the pages of layers and networks."""

from __future__ import annotations

from dataclasses import dataclass, field

import duckdb

from analyze.tables import table
from report.contents import Layer, Study, runs_of


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


@dataclass(slots=True)
class StudyProbes:
    """The latest finished run's probes by layer."""

    run_id: int | None = None
    layers: dict[int, Probe] = field(default_factory=dict)


SERIES = ("best k", "k = 1", "linear")


def name_of(row: dict) -> str:
    """A probe in words."""
    return "linear" if row["method"] == "linear" else f"k = {row['k']}"


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudyProbes:
    """Read a study's probes."""
    runs = runs_of(con, study, "probes")
    if not runs:
        return StudyProbes()
    found = StudyProbes(runs[0])
    ids = {i for (i,) in con.execute("SELECT DISTINCT layer_id FROM probe WHERE run_id = ?", [found.run_id]).fetchall()}
    by_name = {layer.name: layer for layer in study.layers if layer.layer_id in ids}
    for row in table(con, "probes").to_dicts():
        if row["run_id"] == found.run_id and (layer := by_name.get(row["layer"])):
            found.layers.setdefault(layer.layer_id, Probe(layer)).rows.append(row)
    for probe in found.layers.values():
        probe.rows.sort(key=lambda row: (row["method"] == "linear", row["k"] or 0))
    return found


def chart_rows(probes: StudyProbes, study: Study, root: str) -> list[dict]:
    """Rows of the chart over layers."""
    return [row for series in SERIES for row in _rows(probes, study, root, series, series)]


def task_rows(pairs: list[tuple[Study, StudyProbes]], root: str) -> list[dict]:
    """Rows of the chart that compares data sets: the best k and the linear probe of each."""
    names = ("best k", "linear")
    return [row for study, its in pairs for name in names for row in _rows(its, study, root, name, f"{study.dataset.name}, {name}")]


def _rows(probes: StudyProbes, study: Study, root: str, name: str, series: str) -> list[dict]:
    out = []
    for position, layer in enumerate(study.layers):
        probe = probes.layers.get(layer.layer_id)
        if probe and (row := probe.of(name)):
            out.append({
                "layer": layer.name, "position": position, "series": series, "label": name_of(row), "value": round(row["accuracy"], 5),
                "low": round(row["low"], 5), "high": round(row["high"], 5), "chance": round(row["chance"], 5), "href": root + layer.page,
            })  # fmt: skip
    return out
