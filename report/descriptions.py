"""Descriptions: the calibrated summaries of a study's neurons, for the pages of neurons and layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from operator import itemgetter

import duckdb
from markupsafe import Markup

from report.contents import Layer, Study, runs_of
from report.facts import NeuronFacts
from report.svg import number
from report.texts import cut

LEAD, POINT, START, POINTS = 500, 300, 90, 30
"""Characters of a description, of one of its points, of either in a table's cell, and points on a page."""
NONE_KEPT = "No description: its highest clips share nothing that its lowest do not."
NO_POINTS = "No description: the captions of its highest clips have nothing in common."


@dataclass(frozen=True, slots=True)
class Score:
    """A held-out score: AUROC, the ends of its interval, the floor and the number of clips; see table description_score."""

    scorer: str
    auroc: float
    low: float | None
    high: float | None
    floor: float
    clips: int


@dataclass(slots=True)
class StudyDescriptions:
    """The latest finished run. `threshold` is the cosine above which it dropped points, if it went by one; `starts` are descriptions by
    neuron, cut for a table's cell; `described` counts the neurons that have one by layer, `layers` are those that were summarised, and
    `failures` say why a neuron was not."""

    run_id: int | None = None
    threshold: float | None = None
    starts: dict[int, str] = field(default_factory=dict)
    described: dict[int, int] = field(default_factory=dict)
    layers: set[int] = field(default_factory=set)
    failures: dict[int, str] = field(default_factory=dict)
    scores: dict[int, list[Score]] = field(default_factory=dict)
    """By neuron its held-out scores by each scorer, the one to be shown where there is room for one first."""
    earlier_run: int | None = None
    """The finished run before, of the same captioner."""


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudyDescriptions:
    """Read a study's descriptions."""
    runs = runs_of(con, study, "descriptions")
    if not runs:
        return StudyDescriptions()
    [(parameters,)] = con.execute("SELECT parameters FROM run WHERE run_id = ?", [runs[0]]).fetchall()
    settings = json.loads(parameters)
    # Points that no language model wrote are calibrated by their words, not by a cosine.
    found = StudyDescriptions(runs[0], settings.get("threshold") if isinstance(settings.get("model"), dict) else None)
    found.failures = dict(
        con.execute(
            "SELECT neuron_id, reason FROM failure JOIN neuron ON item = 'neuron ' || neuron_id WHERE run_id = ?", [found.run_id]
        ).fetchall()
    )
    for neuron_id, *score in con.execute(
        """SELECT neuron_id, scorer, auroc, low, high, floor, clips FROM description_score WHERE run_id = (
           SELECT max(scored.run_id) FROM run AS scored JOIN run AS described ON described.run_key = scored.parameters::JSON ->> 'descriptions'
           WHERE scored.stage = 'scores' AND scored.status = 'done' AND described.run_id = ?)
           ORDER BY neuron_id, list_position(['captions', 'audio', 'judge'], scorer)""",
        [found.run_id],
    ).fetchall():
        found.scores.setdefault(neuron_id, []).append(Score(*score))
    found.earlier_run = _earlier(con, runs)
    for layer in study.by_first:
        last = layer.first + layer.neurons - 1
        starts = con.execute(
            """SELECT neuron_id, left(string_agg(left(text, ?), ' ' ORDER BY position) FILTER (is_kept), ?) FROM summary_point
               WHERE run_id = ? AND neuron_id BETWEEN ? AND ? GROUP BY neuron_id ORDER BY neuron_id""",
            [2 * START + 1, 2 * START + 1, found.run_id, layer.first, last],
        ).fetchall()
        if starts or any(layer.first <= neuron_id <= last for neuron_id in found.failures):
            found.layers.add(layer.layer_id)
        kept = {neuron_id: cut(text, START) + _behind(found.scores.get(neuron_id)) for neuron_id, text in starts if text is not None}
        found.described[layer.layer_id] = len(kept)
        found.starts |= kept
    return found


def _earlier(con: duckdb.DuckDBPyConnection, runs: list[int]) -> int | None:
    """Of a study's runs, latest first, the one before the latest whose captions are by the same captioner."""
    rows = con.execute(
        """SELECT run.run_id, captioned.parameters::JSON ->> 'captioner' FROM run
           JOIN run AS captioned ON captioned.stage = 'captions' AND captioned.run_key = run.parameters::JSON ->> 'captions'
           WHERE list_contains(?, run.run_id)""",
        [runs],
    ).fetchall()
    captioner = dict(rows)
    return next((run for run in runs[1:] if run in captioner and captioner[run] == captioner.get(runs[0])), None)


def _behind(scores: list[Score] | None) -> str:
    """What follows a description in a table's cell."""
    return f" (AUROC {scores[0].auroc:.2f})" if scores else ""


def leads(
    con: duckdb.DuckDBPyConnection, found: StudyDescriptions, layer: Layer, facts: list[NeuronFacts]
) -> Iterator[tuple[int, Markup, Markup]]:
    """Of each living neuron of a layer that was summarised: its number, its description as a paragraph, and its summary's points, where
    calibration dropped some or the paragraph had to be cut."""
    if layer.layer_id not in found.layers:
        return
    rows = con.execute(
        """SELECT neuron_id, is_kept, left(text, $most), left(because, $most), cosine FROM summary_point
           WHERE run_id = $run AND neuron_id BETWEEN $first AND $last ORDER BY neuron_id, position""",
        {"run": found.run_id, "first": layer.first, "last": layer.first + layer.neurons - 1, "most": 2 * LEAD + 1},
    ).fetchall()
    points = {neuron_id: list(group) for neuron_id, group in groupby(rows, key=itemgetter(0))}
    before = _before(con, found, layer)
    for fact in facts:
        if fact.is_dead:
            continue
        its = points.get(fact.neuron_id)
        if its is None:
            reason = found.failures.get(fact.neuron_id)
            text = NO_POINTS if reason is None else f"No description: {cut(reason, LEAD)}."
            yield fact.neuron_id, Markup(f'<p class="lead">{escape(text)}</p>{before.get(fact.neuron_id, "")}'), Markup()
            continue
        whole = " ".join([row[2] for row in its if row[1]])
        lead = cut(whole, LEAD) if whole else NONE_KEPT
        shown = len(lead) < len(whole) or not all(row[1] for row in its)
        beside = (_held_out(found.scores.get(fact.neuron_id, [])) if whole else "") + before.get(fact.neuron_id, "")
        yield fact.neuron_id, Markup(f'<p class="lead">{escape(lead)}</p>{beside}'), _points(its, found) if shown else Markup()


def _before(con: duckdb.DuckDBPyConnection, found: StudyDescriptions, layer: Layer) -> dict[int, str]:
    """Descriptions of the earlier run that the latest one changed, by neuron."""
    if found.earlier_run is None:
        return {}
    rows = con.execute(
        """SELECT neuron_id, left(earlier.description, $most) FROM v_description AS earlier
           LEFT JOIN (SELECT neuron_id, description FROM v_description WHERE run_id = $run) AS latest USING (neuron_id)
           WHERE run_id = $earlier AND neuron_id BETWEEN $first AND $last AND earlier.description IS NOT NULL
             AND earlier.description IS DISTINCT FROM latest.description""",
        {
            "run": found.run_id,
            "earlier": found.earlier_run,
            "first": layer.first,
            "last": layer.first + layer.neurons - 1,
            "most": 2 * LEAD,
        },
    ).fetchall()
    summary = f"<summary>Earlier description (run {found.earlier_run})</summary>"
    return {neuron_id: f"<details>{summary}<p>{escape(cut(text, LEAD))}</p></details>" for neuron_id, text in rows}


_COMPARED = {
    "captions": "among {clips} clips it was not written from, it tells those that activate the neuron most with an AUROC of",
    "audio": "by the sound of {clips} such clips, instead of captions:",
    "judge": "by a language model’s ratings of {clips} such clips:",
}


def _held_out(scores: list[Score]) -> str:
    """How well a description tells the neuron's clips among those it was not written from."""
    said = []
    for score in scores:
        other = "chance" if score.scorer == "judge" else "other neurons’ descriptions do"
        interval = f" ({score.low:.2f} to {score.high:.2f})" if score.low is not None and score.high is not None else ""
        verdict = f"{'more' if score.auroc > score.floor else 'no more'} than {other} ({score.floor:.2f})"
        said.append(f"{_COMPARED[score.scorer].format(clips=score.clips)} <b>{score.auroc:.2f}</b>{interval}, {verdict}")
    return f'<p class="note">Held-out score: {"; ".join(said)}.</p>' if said else ""


def _points(rows: list[tuple], found: StudyDescriptions) -> Markup:
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
    limit = f": cosine above {number(found.threshold)}" if found.threshold is not None else ""
    note = (
        f'<p class="note">Struck out by calibration: its lowest clips share it as well{limit}.</p>' if any(not r[1] for r in rows) else ""
    )
    return Markup(f'<section><h2>Summary</h2><ul class="points">{"".join(items)}</ul>{rest}{note}</section>')
