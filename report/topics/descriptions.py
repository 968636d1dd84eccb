"""Descriptions: the calibrated summaries of a study's neurons, on the pages of neurons and layers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from operator import itemgetter

from markupsafe import Markup

from report.contents import Layer
from report.parts.page import Page
from report.parts.search_index import Index
from report.parts.svg import number
from report.parts.texts import cut
from report.topics.rules import Rules, silent
from report.topics.topic import Column, Known, Part, Parts, Topic
from report.topics.trust import Trust, behind
from report.topics.tuning import Tuning

LEAD, POINT, START, POINTS = 500, 300, 90, 30
"""Characters of a description, of one of its points, of either in a table's cell, and points on a page."""
NONE_KEPT = "No description: its highest clips share nothing that its lowest do not."
NO_POINTS = "No description: the captions of its highest clips have nothing in common."


class Descriptions(Topic):
    """The latest finished run."""

    stage = "descriptions"

    def read(self) -> None:
        """Read a study's descriptions."""
        # The cosine above which the run dropped points, if it went by one.
        self.threshold: float | None = None
        # Descriptions by neuron, cut for a table's cell, and how many neurons have one by layer.
        self.starts: dict[int, str] = {}
        self.described: dict[int, int] = {}
        # Layers that were summarised, and why a neuron was not.
        self.layers: set[int] = set()
        self.failures: dict[int, str] = {}
        # The finished run before, of the same captioner.
        self.earlier_run: int | None = None
        if self.run_id is None:
            return
        [(parameters,)] = self.con.execute("SELECT parameters FROM run WHERE run_id = ?", [self.run_id]).fetchall()
        settings = json.loads(parameters)
        # Points that no language model wrote are calibrated by their words, not by a cosine.
        self.threshold = settings.get("threshold") if isinstance(settings.get("model"), dict) else None
        self.failures = dict(
            self.con.execute(
                "SELECT neuron_id, reason FROM failure JOIN neuron ON item = 'neuron ' || neuron_id WHERE run_id = ?", [self.run_id]
            ).fetchall()
        )
        self.earlier_run = self._earlier()
        for layer in self.study.by_first:
            starts = self.con.execute(
                """SELECT neuron_id, left(string_agg(left(text, ?), ' ' ORDER BY position) FILTER (is_kept), ?) FROM summary_point
                   WHERE run_id = ? AND neuron_id BETWEEN ? AND ? GROUP BY neuron_id ORDER BY neuron_id""",
                [2 * START + 1, 2 * START + 1, self.run_id, layer.first, layer.last],
            ).fetchall()
            failed = any(layer.first <= neuron_id <= layer.last for neuron_id in self.failures)
            if starts or failed or self.known[Rules].of(layer):
                self.layers.add(layer.layer_id)
            scores = self.known[Trust].scores
            kept = {neuron_id: cut(text, START) + behind(scores.get(neuron_id)) for neuron_id, text in starts if text is not None}
            self.described[layer.layer_id] = len(kept)
            self.starts |= kept

    def _earlier(self) -> int | None:
        """Of a study's runs, latest first, the one before the latest whose captions are by the same captioner."""
        rows = self.con.execute(
            """SELECT run.run_id, captioned.parameters::JSON ->> 'captioner' FROM run
               JOIN run AS captioned ON captioned.stage = 'captions' AND captioned.run_key = run.parameters::JSON ->> 'captions'
               WHERE list_contains(?, run.run_id)""",
            [self.finished],
        ).fetchall()
        captioner = dict(rows)
        return next((run for run in self.finished[1:] if run in captioner and captioner[run] == captioner.get(self.run_id)), None)

    def layer(self, page: Page, layer: Layer) -> Iterator[Part]:
        """Nothing but their run: the table of neurons has the descriptions."""
        if layer.layer_id in self.layers:
            yield Part(Markup(), runs=self.runs)

    def column(self, layer: Layer) -> Column | None:
        """Descriptions in the table of neurons."""
        return Column("Description", "word", self.starts) if layer.layer_id in self.layers else None

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """Of each living neuron of a layer that was summarised: its description as a paragraph, and its summary's points, where calibration
        dropped some or the paragraph had to be cut."""
        if layer.layer_id not in self.layers:
            return Parts()
        rows = self.con.execute(
            """SELECT neuron_id, is_kept, left(text, $most), left(because, $most), cosine FROM summary_point
               WHERE run_id = $run AND neuron_id BETWEEN $first AND $last ORDER BY neuron_id, position""",
            {"run": self.run_id, "first": layer.first, "last": layer.last, "most": 2 * LEAD + 1},
        ).fetchall()
        points = {neuron_id: list(group) for neuron_id, group in groupby(rows, key=itemgetter(0))}
        before, rules = self._before(layer), self.known[Rules].of(layer)
        parts = {}
        for fact in self.known[Tuning].layers[layer.layer_id]:
            if fact.is_dead:
                continue
            beside = before.get(fact.neuron_id, "")
            its = points.get(fact.neuron_id)
            if its is None:
                reason = self.failures.get(fact.neuron_id)
                lead = NO_POINTS if reason is None else f"No description: {cut(reason, LEAD)}."
                if rule := rules.get(fact.neuron_id):
                    lead = silent(rule)
                summary = Markup()
            else:
                whole = " ".join([row[2] for row in its if row[1]])
                lead = cut(whole, LEAD) if whole else NONE_KEPT
                shown = its if len(lead) < len(whole) else [row for row in its if not row[1]]
                beside = (self.known[Trust].badge(page, layer, fact.neuron_id) if whole else "") + beside
                summary = self._points(shown) if shown else Markup()
            parts[fact.neuron_id] = [Part(Markup(f'<p class="lead">{escape(lead)}</p>{beside}'), "lead"), Part(summary, "summary")]
        return Parts(parts)

    def _before(self, layer: Layer) -> dict[int, str]:
        """Descriptions of the earlier run that the latest one changed, by neuron."""
        if self.earlier_run is None:
            return {}
        rows = self.con.execute(
            """SELECT neuron_id, left(earlier.description, $most) FROM v_description AS earlier
               LEFT JOIN (SELECT neuron_id, description FROM v_description WHERE run_id = $run) AS latest USING (neuron_id)
               WHERE run_id = $earlier AND neuron_id BETWEEN $first AND $last AND earlier.description IS NOT NULL
                 AND earlier.description IS DISTINCT FROM latest.description""",
            {"run": self.run_id, "earlier": self.earlier_run, "first": layer.first, "last": layer.last, "most": 2 * LEAD},
        ).fetchall()
        summary = f"<summary>Earlier description (run {self.earlier_run})</summary>"
        return {neuron_id: f"<details>{summary}<p>{escape(cut(text, LEAD))}</p></details>" for neuron_id, text in rows}

    def _points(self, rows: list[tuple]) -> Markup:
        """A summary's points, those that were dropped struck out."""
        items = []
        for _, is_kept, text, because, cosine in rows[:POINTS]:
            if is_kept:
                items.append(f"<li>{escape(cut(text, POINT))}</li>")
            else:
                near = f"Its lowest clips share: {cut(because, POINT)}" if because is not None else "Its lowest clips share it"
                near += f" (cosine {number(cosine)})" if cosine is not None else ""
                items.append(f'<li><s title="{escape(near)}">{escape(cut(text, POINT))}</s></li>')
        rest = f"<p>{len(rows) - POINTS} more points are in the warehouse.</p>" if len(rows) > POINTS else ""
        limit = f": cosine above {number(self.threshold)}" if self.threshold is not None else ""
        note = (
            f'<p class="note">Struck out by calibration: its lowest clips share it as well{limit}.</p>'
            if any(not r[1] for r in rows)
            else ""
        )
        return Markup(f'<section><h2>Summary</h2><ul class="points">{"".join(items)}</ul>{rest}{note}</section>')

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """Words of the descriptions; of measured rules topic Rules has them without their numbers."""
        for known in studies:
            run_id = None if known[Rules].run_id else known[cls].run_id
            for neuron_id, text in known.con.execute(
                "SELECT neuron_id, left(text, ?) FROM summary_point WHERE run_id = ? AND is_kept ORDER BY neuron_id, position",
                [2 * LEAD, run_id],
            ).fetchall():
                if known.study.has_page(neuron_id):
                    index.say(known.study, neuron_id, "description", text)
