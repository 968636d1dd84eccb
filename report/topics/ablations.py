"""What a study's network loses without the neurons whose descriptions name a class, or that score high on a count of words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from math import isfinite

from markupsafe import Markup

from report.contents import Class
from report.parts import charts, svg
from report.parts.page import Page, Press
from report.parts.svg import number
from report.topics.dissections import FUNCTIONS
from report.topics.topic import Part, Topic

AS_MANY = "random as "
"""How random choices begin that are of the size of another way's."""


class Ablations(Topic):
    """The latest finished run: rows of the derived tables `unlearning` and `importance`, and unlearning by class, which a page of its own
    lists; `ways` are those of choosing neurons, `effects` rows of the derived table `unlearning_classes` by the class that is unlearned, for
    the first way that found a neuron of it."""

    stage = "ablations"
    tables = ("unlearning", "importance", "unlearning_classes")

    def read(self) -> None:
        """Read a study's ablations."""
        self.page = f"unlearning/{self.study.short}.html"
        self.ways: list[str] = []
        self.unlearning: list[dict] = []
        self.importance: list[dict] = []
        self.classes: list[dict] = []
        self.effects: dict[int, list[dict]] = {}
        if self.run_id is None:
            return
        [(parameters, dissections)] = self.con.execute(
            """SELECT run.parameters, dissected.parameters FROM run
               LEFT JOIN run AS dissected ON dissected.run_key = run.parameters::JSON ->> 'dissections' WHERE run.run_id = ?""",
            [self.run_id],
        ).fetchall()
        functions = json.loads(parameters).get("functions") or ()
        self.ways = ["open"]
        for method in json.loads(dissections or "{}").get("methods") or ["DB"]:
            self.ways += [method] if method == "ICL" else [f"{method} {function}" for function in functions]
        self.unlearning, self.importance, effects = (
            [row for row in self.table(name) if row["run_id"] == self.run_id] for name in self.tables
        )
        for chosen_by in self.ways:
            known = set(self.effects)
            for row in effects:
                if row["chosen_by"] == chosen_by and row["class_id"] not in known:
                    self.effects.setdefault(row["class_id"], []).append(row)
        rows = self.con.sql(
            """SELECT class_id, chosen_by, count(*) AS repetitions, avg(neurons) AS neurons, avg(logit_change) AS own, avg(other_logit_change) AS other,
                   any_value(correct_before) AS before, avg(correct_after) AS after, any_value(total) AS total,
                   any_value(other_correct_before) AS other_before, avg(other_correct_after) AS other_after, any_value(other_total) AS other_total
               FROM unlearning WHERE run_id = ? GROUP BY class_id, chosen_by ORDER BY class_id, starts_with(chosen_by, 'random'), chosen_by""",
            params=[self.run_id],
        ).pl()
        for row in rows.to_dicts():
            if cls := self.dataset.class_of(row["class_id"]):
                self.classes.append(row | {"class": cls, "gap": None if row["other"] is None else row["other"] - row["own"]})

    @property
    def has_controls(self) -> bool:
        """Whether every way has as many random neurons beside it."""
        return any(row["random_gap"] is not None for row in self.unlearning)

    def of_class(self, page: Page, cls: Class) -> Iterator[Part]:
        """What becomes of every class when this one is unlearned."""
        rows = self.effects.get(cls.class_id)
        if not rows:
            return
        bars = [
            (row["change"], 0 if row["is_own"] else None, escape(f"{row['class']}: {number(row['change'])}")) for row in rows
        ]  # fmt: skip
        chart = Markup(
            svg.class_bars(
                bars, f"Change of the logit of each of {len(bars)} classes, those that lose most first; the table holds the values"
            )
        )
        pages = {row["read_class_id"]: self.dataset.class_of(row["read_class_id"]) for row in rows}
        yield Part(
            page.draw("class_unlearning", study=self.study, rows=rows, chart=chart, way=way(rows[0]["chosen_by"]), pages=pages),
            runs=self.runs,
        )

    def network(self, page: Page) -> Iterator[Part]:
        """Unlearning by way of choosing neurons, and accuracy by share of neurons silenced."""
        if self.unlearning:
            yield Part(page.draw("unlearning", found=self, way=way), "words", link=("unlearning", "unlearning"))
        if rows := self._importance_rows():
            yield Part(page.draw("importance", found=self), "words", rows={"importance": rows}, link=("importance", "importance"))

    def _importance_rows(self) -> list[dict]:
        """Rows of the chart of accuracy by share of neurons silenced, a line per criterion; all start with the whole network."""
        whole = next((row for row in self.importance if row["criterion"] == "none"), None)
        out: list[dict] = []
        for row in self.importance:
            if row is whole:
                continue
            points = [(row["share"], row)]
            if whole and not any(before["series"] == row["criterion"] for before in out):
                points.insert(0, (0.0, whole))
            out += [
                {"series": row["criterion"], "share": share, "value": round(point["accuracy"], 5), "neurons": round(point["neurons"], 1),
                 "repetitions": point["repetitions"]}
                for share, point in points if point["accuracy"] is not None
            ]  # fmt: skip
        return out

    def pages(self, press: Press) -> Iterator[tuple[str, str]]:
        """The page of unlearning by class."""
        if not self.classes:
            return
        points = [
            {"class": row["class"].name, "series": way(row["chosen_by"]), "own": round(row["own"], 4), "other": round(row["other"], 4),
             "neurons": round(row["neurons"], 1), "href": f"../{row['class'].page}"}
            for row in self.classes if row["other"] is not None and isfinite(row["own"]) and isfinite(row["other"])
        ]  # fmt: skip
        effects = [
            {"unlearned": row["unlearned"], "class": row["class"], "value": round(row["change"], 4), "series": way(row["chosen_by"]),
             "href": f"../{cls.page}"}
            for rows in self.effects.values() for row in rows if isfinite(row["change"]) and (cls := self.dataset.class_of(row["class_id"]))
        ]  # fmt: skip
        yield press.page(self.page).write(
            "unlearning", [self.study.run_id, self.run_id], title=f"Unlearning of {self.study.title}", study=self.study,
            dataset=self.dataset, rows=self.classes, way=way, points=points, unreached=self._unreached(),
            effects=bool(effects), charts=Markup(charts.rows_script(unlearning=points, **({"unlearning_classes": effects} if effects else {}))),
        )  # fmt: skip

    def _unreached(self) -> list[tuple[str, int, int]]:
        """Ways of choosing that found no neuron for some of the classes: in words, how many of how many."""
        reached: dict[str, set[int]] = {name: set() for name in self.ways}
        for row in self.classes:
            reached.setdefault(row["chosen_by"], set()).add(row["class_id"])
        total = len(self.dataset.main_classes)
        return [(way(name), total - len(its), total) for name, its in reached.items() if not name.startswith("random") and len(its) < total]


def way(chosen_by: str) -> str:
    """How neurons were chosen, in words."""
    if chosen_by.startswith(AS_MANY):
        return f"random, as many as by {way(chosen_by.removeprefix(AS_MANY))}"
    method, _, function = chosen_by.partition(" ")
    if function:
        return f"{method}, {FUNCTIONS.get(function, function)}"
    return {"open": "open concepts", "random": "random, as many as the most"}.get(chosen_by, chosen_by)
