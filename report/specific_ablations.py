"""What a study's network loses without the neurons specific to a class, for the page of the network."""

from __future__ import annotations

from dataclasses import dataclass, field

import duckdb

from analyze.tables import table
from report.contents import Study, runs_of
from report.specificity import MEASURES


@dataclass(slots=True)
class StudySpecificAblations:
    """The latest finished runs of each label set, measure and read-out: rows of the derived table `specific_ablations`, and of
    `specific_ablation_classes` those of a class's own clips; both with a `label`."""

    runs: list[int] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    classes: list[dict] = field(default_factory=list)

    @property
    def draws(self) -> int:
        """Random draws of a class; the most of all runs."""
        return max((row["draws"] for row in self.rows), default=0)


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudySpecificAblations:
    """Read a study's ablations of specific neurons."""
    runs = runs_of(con, study, "specific_ablations")
    if not runs:
        return StudySpecificAblations()
    rows = [row for row in table(con, "specific_ablations").to_dicts() if row["run_id"] in runs]
    of_classes = [row for row in table(con, "specific_ablation_classes").to_dicts() if row["run_id"] in runs and row["clips"] == "own"]
    for row in rows + of_classes:
        row["label"] = _label(row, rows)
    classes = [row | {"class": cls} for row in of_classes if (cls := study.dataset.class_of(row["class_id"]))]
    return StudySpecificAblations(sorted({row["run_id"] for row in rows}), rows, classes)


def _label(row: dict, rows: list[dict]) -> str:
    """Measure, and label set and read-out where there are several."""
    also = [row[name] for name in ("label_set", "readout") if len({other[name] for other in rows}) > 1]
    return ", ".join([MEASURES.get(row["measure"], row["measure"]), *also])


def chart_rows(found: StudySpecificAblations, root: str) -> list[dict]:
    """Rows of the chart: a point per class and measure at the drops by random and by its specific neurons."""
    return [
        {"class": row["class"].name, "series": row["label"], "specific": round(row["specific_drop"], 3), "random": round(row["random_drop"], 3),
         "neurons": row["neurons"], "undisturbed": row["undisturbed"], "total": row["total"], "href": root + row["class"].page}
        for row in found.classes
    ]  # fmt: skip
