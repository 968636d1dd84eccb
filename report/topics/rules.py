"""Rules over measured properties: what a neuron's rule is made of, how well it tells, and what differs between its clips."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from operator import itemgetter

from markupsafe import Markup

from report.contents import Layer
from report.parts import plain_words
from report.parts.page import Page
from report.parts.search_index import Index
from report.parts.texts import cut, quantity
from report.topics.topic import Known, Part, Parts, Topic

LONGEST = 160
"""Characters of a condition."""
MAIN = 0.5
"""Part of a prediction from which on its condition is what the rule is about."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of table rule."""

    conditions: int
    auroc: float | None
    low: float | None
    high: float | None
    fewer: float | None
    more: float | None
    reason: str | None


class Rules(Topic):
    """Those of the latest finished run of descriptions; none where its engine was another."""

    stage = "descriptions"

    def read(self) -> None:
        """Which run it is, and that of the properties its rules are made of."""
        self.property_run: int | None = None
        self.acoustic_captions = False
        if self.run_id is None:
            return
        [(parameters,)] = self.con.execute("SELECT parameters FROM run WHERE run_id = ?", [self.run_id]).fetchall()
        settings = json.loads(parameters)
        if settings.get("model") != "measured":
            self.run_id, self.runs = None, []
            return
        rows = self.con.execute(
            "SELECT run_id FROM run WHERE stage = 'properties' AND run_key = ?", [settings.get("properties")]
        ).fetchall()
        self.property_run = rows[0][0] if rows else None
        captioners = self.con.execute(
            "SELECT parameters::JSON ->> 'captioner' FROM run WHERE stage = 'captions' AND run_key = ?", [settings.get("captions")]
        ).fetchall()
        # Captions made of measurements say the same fifteen things under each card.
        self.acoustic_captions = captioners == [("acoustic",)]
        self.runs = [run for run in (self.property_run, self.run_id) if run is not None]

    def of(self, layer: Layer) -> dict[int, Rule]:
        """Rules of a layer by neuron."""
        if self.run_id is None:
            return {}
        rows = self.con.execute(
            """SELECT neuron_id, conditions, auroc, low, high, auroc_fewer, auroc_more, reason FROM rule
               WHERE run_id = ? AND neuron_id BETWEEN ? AND ? ORDER BY neuron_id""",
            [self.run_id, layer.first, layer.last],
        ).fetchall()
        return {neuron_id: Rule(*row) for neuron_id, *row in rows}

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """The conditions with their parts of the prediction, how well they tell, and what one fewer costs."""
        its = self.of(layer)
        if not its:
            return Parts()
        conditions = defaultdict(list)
        for neuron_id, text, weight in self.con.execute(
            """SELECT neuron_id, text, weight FROM rule_condition WHERE run_id = ? AND neuron_id BETWEEN ? AND ?
               ORDER BY neuron_id, position""",
            [self.run_id, layer.first, layer.last],
        ).fetchall():
            conditions[neuron_id].append((text, weight))
        return Parts({n: [Part(_section(rule, conditions[n]), "summary")] for n, rule in its.items() if rule.conditions}, self.runs)

    def facts(self, layer: Layer) -> dict[tuple[int, int], str]:
        """What the properties of a neuron's rule are of each of its highest and lowest clips, by neuron and clip."""
        if self.run_id is None or self.property_run is None:
            return {}
        rows = self.con.execute(
            """SELECT t.neuron_id, t.clip_id, name, value, unit
               FROM (SELECT DISTINCT neuron_id, clip_id FROM top_clip WHERE run_id = $recorded AND neuron_id BETWEEN $first AND $last) AS t
               JOIN rule_condition AS c ON c.run_id = $run AND c.neuron_id = t.neuron_id
               JOIN (SELECT DISTINCT property FROM clip_property WHERE run_id = $properties) USING (property)
               LEFT JOIN clip_property AS p ON p.run_id = $properties AND p.clip_id = t.clip_id AND p.property = c.property
               WHERE c.neuron_id BETWEEN $first AND $last
               QUALIFY c.position = min(c.position) OVER (PARTITION BY t.neuron_id, t.clip_id, c.property)
               ORDER BY t.neuron_id, t.clip_id, c.position""",
            {"recorded": self.study.run_id, "run": self.run_id, "properties": self.property_run, "first": layer.first, "last": layer.last},
        ).fetchall()
        return {
            key: " · ".join("–" if value is None else quantity(value, unit).removesuffix(_fixed(unit)) for _, _, _, value, unit in group)
            for key, group in groupby(rows, key=itemgetter(0, 1))
        }

    def measured(self, layer: Layer) -> dict[int, str]:
        """The names of what `facts` gives, with their units where all values have one, by neuron."""
        if self.run_id is None or self.property_run is None:
            return {}
        rows = self.con.execute(
            """SELECT neuron_id, name, unit FROM rule_condition
               WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND property IN (SELECT property FROM clip_property WHERE run_id = ?)
               QUALIFY position = min(position) OVER (PARTITION BY neuron_id, property) ORDER BY neuron_id, position""",
            [self.run_id, layer.first, layer.last, self.property_run],
        ).fetchall()
        return {
            n: " · ".join([name + ("," + end if (end := _fixed(unit)) else "") for _, name, unit in group])
            for n, group in groupby(rows, key=itemgetter(0))
        }

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """Conditions in plain words, apart those that make less than half of the prediction."""
        for known in studies:
            for neuron_id, name, direction, text, weight in known.con.execute(
                "SELECT neuron_id, property, direction, text, weight FROM rule_condition WHERE run_id = ? ORDER BY neuron_id, position",
                [known[cls].run_id],
            ).fetchall():
                if known.study.has_page(neuron_id):
                    field = "rule" if weight >= MAIN else "aside"
                    index.say(known.study, neuron_id, field, plain_words.of_condition(name, direction, text))


def _fixed(unit: str) -> str:
    """What ends all values of a unit as `quantity` puts them; nothing where they differ, or where it is a sign."""
    return "" if unit in ("", "Hz", "s", "%") or unit.startswith("/") else f" {unit}"


def silent(rule: Rule) -> str:
    """What is said of a neuron without a rule."""
    tried = f" (cross-validated AUROC {rule.auroc:.2f})" if rule.auroc is not None else ""
    reason = rule.reason or ""
    return f"{reason[:1].upper()}{reason[1:]}{tried}."


def _section(rule: Rule, conditions: list[tuple[str, float]]) -> Markup:
    items = "".join(
        f"<tr><th>{escape(cut(text[:1].upper() + text[1:], LONGEST))}</th><td>{100 * weight:.0f} %</td></tr>" for text, weight in conditions
    )
    interval = f" ({rule.low:.2f} to {rule.high:.2f})" if rule.low is not None and rule.high is not None else ""
    fewer = f"; with one condition fewer {rule.fewer:.2f}" if rule.fewer is not None and rule.conditions > 1 else ""
    more = f"; with one more {rule.more:.2f}" if rule.more is not None else ""
    note = f"Cross-validated AUROC <b>{rule.auroc:.2f}</b>{interval}{fewer}{more}. Per cent: part of the prediction."
    return Markup(f'<section><h2>Rule</h2><table class="numbers"><tbody>{items}</tbody></table><p class="note">{note}</p></section>')
