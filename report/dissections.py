"""Closed concepts: which concepts of a given set fit a neuron best, and how often they name the outputs of a classifier."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from operator import itemgetter

import duckdb
from markupsafe import Markup

from analyze.tables import table
from report.contents import Layer, Study, runs_of
from report.svg import number
from report.texts import cut

FIRST, LONGEST = 3, 60
"""Concepts of a function on a neuron's page, and characters of one."""
FUNCTIONS = {"cosine": "cosine", "cosine_cubed": "cosine cubed", "rank_reorder": "rank reorder", "wpmi": "WPMI", "soft_wpmi": "soft WPMI"}
METHODS = {"DB": "captions and concepts as text", "TAB": "sounds and concepts by an audio-language model"}


@dataclass(slots=True)
class StudyDissections:
    """Each method's latest finished run, in the paper's mode where there is one, with the name of its concept set; and the rows of the derived
    table on outputs with names."""

    methods: dict[str, tuple[int, str]] = field(default_factory=dict)
    outputs: list[dict] = field(default_factory=list)

    @property
    def runs(self) -> list[int]:
        """Runs that neurons' pages show."""
        return sorted({run_id for run_id, _ in self.methods.values()})


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudyDissections:
    """Read a study's dissections."""
    found = StudyDissections()
    runs = runs_of(con, study, "dissections")
    if not runs:
        return found
    for method, run_id, parameters in con.execute(
        """SELECT method, run_id, parameters FROM (SELECT DISTINCT method, run_id FROM closed_concept WHERE list_contains(?, run_id)) JOIN run USING (run_id)
           QUALIFY row_number() OVER (PARTITION BY method ORDER BY parameters::JSON ->> 'mode' = 'paper' DESC, run_id DESC) = 1 ORDER BY method""",
        [runs],
    ).fetchall():
        found.methods[method] = (run_id, str(json.loads(parameters).get("concept_set", "concepts")))
    found.outputs = [row | {"label": label(row["function"])} for row in table(con, "dissections").to_dicts() if row["run_id"] in runs]
    return found


def label(function: str) -> str:
    """A similarity function in words."""
    return FUNCTIONS.get(function, function.replace("_", " "))


def tables(con: duckdb.DuckDBPyConnection, found: StudyDissections, layer: Layer) -> dict[int, Markup]:
    """By neuron of a layer: a table per method of each function's first concepts; a neuron's own name is bold."""
    out: dict[int, str] = {}
    texts: dict[str, str] = {}
    for method, (run_id, concept_set) in found.methods.items():
        rows = con.execute(
            """SELECT neuron_id, function, list(concept ORDER BY rank), list(score ORDER BY rank) FROM closed_concept
               WHERE run_id = ? AND method = ? AND rank <= ? AND neuron_id BETWEEN ? AND ? GROUP BY neuron_id, function
               ORDER BY neuron_id, coalesce(list_position(?, function), 99), function""",
            [run_id, method, FIRST, layer.first, layer.first + layer.neurons - 1, list(FUNCTIONS)],
        ).fetchall()
        for concept in {concept for row in rows for concept in row[2]} - texts.keys():
            texts[concept] = escape(cut(concept.replace("_", " "), LONGEST))
        labels = {function: f"<tr><th>{escape(label(function))}</th><td>" for function in {row[1] for row in rows}}
        about = METHODS.get(method)
        caption = f"{escape(method)}{f': {about}' if about else ''}; concepts of {escape(cut(concept_set, LONGEST))}"
        start = f'<table class="closed"><caption>{caption}</caption><tbody>'
        for neuron_id, group in groupby(rows, key=itemgetter(0)):
            name = layer.names[neuron_id - layer.first]
            own = escape(cut(name.replace("_", " "), LONGEST)).lower() if name is not None else None
            body = "".join([
                labels[function] + " · ".join([
                    f"{f'<b>{text}</b>' if (text := texts[concept]).lower() == own else text}&nbsp;<small>{number(score)}</small>"
                    for concept, score in zip(concepts, scores, strict=True)
                ]) + "</td></tr>"
                for _, function, concepts, scores in group
            ])  # fmt: skip
            out[neuron_id] = f"{out.get(neuron_id, '')}{start}{body}</tbody></table>"
    return {neuron_id: Markup(text) for neuron_id, text in out.items()}
