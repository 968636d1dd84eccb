"""What a study's network loses without the neurons specific to a class, on the page of the network."""

from __future__ import annotations

from collections.abc import Iterator

from report.parts.page import Page
from report.topics.specificity import MEASURES
from report.topics.topic import Part, Topic


class SpecificAblations(Topic):
    """The latest finished runs of each label set, measure and read-out: rows of the derived table `specific_ablations`, and of
    `specific_ablation_classes` those of a class's own clips, and of `pair_ablations`; all with a `label`."""

    stage = "specific_ablations"
    tables = ("pair_ablations", "specific_ablation_classes", "specific_ablations")

    def read(self) -> None:
        """Read a study's ablations of specific neurons."""
        self.rows: list[dict] = []
        self.classes: list[dict] = []
        self.pairs: list[dict] = []
        if not self.finished:
            return
        self.rows = [row for row in self.table("specific_ablations") if row["run_id"] in self.finished]
        own = [row for row in self.table("specific_ablation_classes") if row["run_id"] in self.finished and row["clips"] == "own"]
        self.pairs = [row for row in self.table("pair_ablations") if row["run_id"] in self.finished]
        for row in self.rows + own + self.pairs:
            row["label"] = self._label(row)
        self.classes = [row | {"class": cls} for row in own if (cls := self.dataset.class_of(row["class_id"]))]
        self.runs = sorted({row["run_id"] for row in self.rows + self.pairs})

    @property
    def draws(self) -> int:
        """Random draws of a class; the most of all runs."""
        return max((row["draws"] for row in self.rows), default=0)

    def _label(self, row: dict) -> str:
        """Measure, and label set and read-out where there are several."""
        also = [row[name] for name in ("label_set", "readout") if len({other[name] for other in self.rows + self.pairs}) > 1]
        return ", ".join([MEASURES.get(row["measure"], row["measure"]), *also])

    def network(self, page: Page) -> Iterator[Part]:
        """Drops by measure and by class."""
        if self.rows or self.pairs:
            html = page.draw("specific_ablations", end="", specific=self)
            rows = {"specific_ablations": self.chart_rows(page.root)}
            yield Part(html, "numbers", rows=rows, link=("specific", "what it loses without them"))

    def chart_rows(self, root: str) -> list[dict]:
        """Rows of the chart: a point per class and measure at the drops by random and by its specific neurons."""
        return [
            {"class": row["class"].name, "series": row["label"], "specific": round(row["specific_drop"], 3), "random": round(row["random_drop"], 3),
             "neurons": row["neurons"], "undisturbed": row["undisturbed"], "total": row["total"], "href": root + row["class"].page}
            for row in self.classes
        ]  # fmt: skip
