"""How loud and how high the sounds are of neurons whose descriptions say so, on a network's page (Audio Network Dissection, Figure 8)."""

from __future__ import annotations

from collections.abc import Iterator

from report.parts.page import Page
from report.topics.topic import Part, Topic

SHOWN = {"mean_amplitude": ("loud", "quiet"), "median_frequency_hz": ("high-pitched", "low-pitched")}
"""Adjectives in the chart of a quantity."""
QUANTITIES = {"mean_amplitude": "mean amplitude", "level_dbfs": "level, dBFS", "median_frequency_hz": "median frequency, Hz"}


class Acoustics(Topic):
    """Rows of the derived table of the latest finished run of descriptions."""

    stage = "descriptions"
    tables = ("acoustics",)

    def read(self) -> None:
        """Read a study's acoustics."""
        self.rows = [row for row in self.table("acoustics") if row["run_id"] == self.run_id] if self.run_id is not None else []

    @property
    def same(self) -> list[str]:
        """Adjectives that captions took from the measurement beside them."""
        return sorted({row["adjective"] for row in self.rows if row["same_measure"]})

    def network(self, page: Page) -> Iterator[Part]:
        """Boxes of neurons with and without the adjectives, and all values."""
        if not self.rows:
            return
        charts = {quantity: self._boxes(quantity, words) for quantity, words in SHOWN.items()}
        html = page.draw("acoustics", found=self, charts={name: rows for name, rows in charts.items() if rows}, quantities=QUANTITIES)
        yield Part(
            html, "words", rows={f"acoustics_{name}": rows for name, rows in charts.items() if rows}, link=("acoustics", "loud and high")
        )

    def _boxes(self, quantity: str, adjectives: tuple[str, ...]) -> list[dict]:
        """Rows of a quantity's chart: the quartiles of neurons with and without each adjective."""
        return [
            {"adjective": row["adjective"], "series": series, "neurons": row[f"neurons_{side}"], "low": row[f"{side}_25"], "value": row[f"{side}_50"],
             "high": row[f"{side}_75"]}
            for row in self.rows if row["quantity"] == quantity and row["adjective"] in adjectives
            for side, series in (("with", "with it"), ("without", "without")) if row[f"{side}_50"] is not None
        ]  # fmt: skip
