"""Which classes share their specific neurons, within a study and with the other data sets that its network heard."""

from __future__ import annotations

from collections.abc import Iterator

from report.parts.page import Page
from report.topics.topic import Part, Topic

MEASURE = "aape"
LARGEST = 100
"""Classes of a side that a chart has room for."""


class Sharing(Topic):
    """The latest finished run: matrices of the derived table `sharing_matrix` by AAPE, the study's own classes in their rows; each has
    `label_set`, `dataset`, `other_label_set`, `is_own`, and as `cells` the rows of the table in which both classes have neurons or one has."""

    stage = "specificity"
    tables = ("sharing_matrix",)

    def read(self) -> None:
        """Read the matrices that a study is a side of."""
        self.matrices: list[dict] = []
        if self.run_id is None:
            return
        found: dict[tuple, dict] = {}
        for row in self.table("sharing_matrix"):
            if row["measure"] == MEASURE and self.run_id in (row["run_id"], row["second_run_id"]):
                row = row if row["run_id"] == self.run_id else _turned(row)
                key = tuple(row[name] for name in ("first_label_set", "second_dataset", "second_label_set"))
                matrix = found.setdefault(key, {"label_set": key[0], "dataset": key[1], "other_label_set": key[2], "rows": []})
                matrix["rows"].append(row)
        for matrix in found.values():
            matrix["cells"] = [row for row in matrix["rows"] if row["jaccard"] is not None]
            matrix["is_own"] = matrix["dataset"] == self.dataset.name
            sides = [len({row[f"{side}_class_id"] for row in matrix["rows"]}) for side in ("first", "second")]
            if matrix["cells"] and max(sides) <= LARGEST:
                self.matrices.append(matrix)
        self.matrices.sort(key=lambda matrix: not matrix["is_own"])

    def network(self, page: Page) -> Iterator[Part]:
        """A map of every two classes, for each matrix."""
        if self.matrices:
            rows = {f"sharing{number}": self.chart_rows(matrix, page.root) for number, matrix in enumerate(self.matrices)}
            html = page.draw("sharing", end="", matrices=self.matrices)
            yield Part(html, "numbers", rows=rows, link=("sharing", "classes that share neurons"))

    def chart_rows(self, matrix: dict, root: str) -> list[dict]:
        """A map's rows: a cell for every two classes of which at least one has neurons."""
        return [
            {"first": row["first"], "second": row["second"], "row": row["first_class_id"], "column": row["second_class_id"], "value": round(row["jaccard"], 4),
             "shared": row["shared"], "first_neurons": row["first_neurons"], "second_neurons": row["second_neurons"],
             "expected": None if row["expected"] is None else round(row["expected"], 4),
             "href": root + cls.page if (cls := self.dataset.class_of(row["first_class_id"])) else None}
            for row in matrix["cells"]
        ]  # fmt: skip


def _turned(row: dict) -> dict:
    """A row of the table with its sides exchanged."""
    names = {"run_id": "second_run_id", "first": "second"}
    names |= {f"first_{name}": f"second_{name}" for name in ("dataset", "label_set", "neurons", "class_id")}
    exchanged = names | {other: name for name, other in names.items()}
    return {exchanged.get(name, name): value for name, value in row.items()}
