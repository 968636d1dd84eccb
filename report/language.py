"""What words say of a study's neurons: descriptions, open and closed concepts, polysemanticity, and the captions they follow from."""

from __future__ import annotations

import json
from dataclasses import dataclass

import duckdb
from markupsafe import Markup

from report import captions, concepts, descriptions, dissections, polysemanticity
from report.contents import Layer, Study
from report.facts import StudyFacts


@dataclass(slots=True)
class StudyLanguage:
    """All that is said of a study, each from its latest finished run; `captions` by clip are those the descriptions follow from, or without
    any the dissections."""

    descriptions: descriptions.StudyDescriptions
    concepts: concepts.StudyConcepts
    polysemanticity: polysemanticity.StudyPolysemanticity
    dissections: dissections.StudyDissections
    captions: dict[int, str]
    caption_run: int | None

    @property
    def runs(self) -> list[int]:
        """Runs that neurons' pages show."""
        runs = [self.caption_run, self.descriptions.run_id, self.polysemanticity.run_id, *self.dissections.runs]
        return sorted({run_id for run_id in runs if run_id is not None})


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a neuron: its description as a paragraph, its summary, its words, its closed concepts; empty where there is none."""

    lead: Markup
    summary: Markup
    words: Markup
    shared: Markup
    closed: Markup


NOTHING = Said(*[Markup()] * 5)


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudyLanguage:
    """Read what is said of a study."""
    described = descriptions.read(con, study)
    named = dissections.read(con, study)
    shared = polysemanticity.read(con, study)
    caption_run = None
    for run_id in (described.run_id, *named.runs, shared.run_id):
        if run_id is not None and caption_run is None:
            [(parameters,)] = con.execute("SELECT parameters FROM run WHERE run_id = ?", [run_id]).fetchall()
            rows = con.execute(
                "SELECT run_id FROM run WHERE stage = 'captions' AND run_key = ?", [json.loads(parameters).get("captions")]
            ).fetchall()
            caption_run = rows[0][0] if rows else None
    texts = captions.of_run(con, caption_run) if caption_run is not None else {}
    return StudyLanguage(described, concepts.read(con, study), shared, named, texts, caption_run)


def said(con: duckdb.DuckDBPyConnection, found: StudyLanguage, layer: Layer, facts: StudyFacts, root: str) -> dict[int, Said]:
    """What is said of the neurons of a layer."""
    its = facts.layers[layer.layer_id]
    leads = {neuron_id: (lead, points) for neuron_id, lead, points in descriptions.leads(con, found.descriptions, layer, its)}
    words = concepts.links(con, found.concepts, layer, root)
    shared = polysemanticity.lines(con, found.polysemanticity, layer, its)
    closed = dissections.tables(con, found.dissections, layer)
    empty = Markup()
    return {
        n: Said(*leads.get(n, (empty, empty)), words.get(n, empty), shared.get(n, empty), closed.get(n, empty))
        for n in leads.keys() | words.keys() | shared.keys() | closed.keys()
    }
