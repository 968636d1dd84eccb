"""How well a study's network tells the classes by prompts alone, on the pages of networks and classes."""

from __future__ import annotations

from collections.abc import Iterator

from report.contents import Class
from report.parts.page import Page
from report.topics.topic import Part, Topic


class ZeroShot(Topic):
    """The latest finished run: rows of the derived table by prompt, the row over all classes first."""

    stage = "zero_shot"
    tables = ("zero_shot",)

    def read(self) -> None:
        """Read a study's zero-shot classification."""
        self.prompts: dict[str, list[dict]] = {}
        for row in self.table("zero_shot") if self.run_id is not None else ():
            if row["run_id"] == self.run_id:
                self.prompts.setdefault(row["prompt"], []).append(row | {"page": self.dataset.class_of(row["class_id"])})

    def network(self, page: Page) -> Iterator[Part]:
        """Accuracy by prompt, over all clips and by class."""
        if self.prompts:
            yield Part(page.draw("zero_shot", prompts=self.prompts), "top", link=("zero-shot", "zero-shot"))

    def of_class(self, page: Page, cls: Class) -> Iterator[Part]:
        """How many of a class's clips its prompts tell."""
        rows = [row for found in self.prompts.values() for row in found if row["class_id"] == cls.class_id]
        if rows and self.run_id is not None:
            yield Part(page.draw("class_zero_shot", rows=rows, study=self.study), "detectors", [self.run_id])
