"""Closed concepts: which concepts of a given set fit a neuron best, and how often they name the outputs of a classifier."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape

from markupsafe import Markup

from report.contents import Layer
from report.parts.page import Page
from report.parts.svg import number
from report.parts.texts import cut
from report.topics.topic import Part, Parts, Topic

FIRST, LONGEST = 3, 60
"""Concepts of a function on a neuron's page, and characters of one."""
FUNCTIONS = {"cosine": "cosine", "cosine_cubed": "cosine cubed", "rank_reorder": "rank reorder", "wpmi": "WPMI", "soft_wpmi": "soft WPMI"}
METHODS = {
    "DB": "captions and concepts as text",
    "TAB": "sounds and concepts by an audio-language model",
    "ICL": "chosen for the description by a language model",
}


class Dissections(Topic):
    """Each method's latest finished run, in the paper's mode where there is one, with the name of its concept set; and the rows of the derived
    table on outputs with names."""

    stage = "dissections"
    tables = ("dissections",)

    def read(self) -> None:
        """Read a study's dissections."""
        self.methods: dict[str, tuple[int, str]] = {}
        self.outputs: list[dict] = []
        if not self.finished:
            return
        for method, run_id, parameters in self.con.execute(
            """SELECT method, run_id, parameters
               FROM (SELECT DISTINCT method, run_id FROM closed_concept WHERE list_contains(?, run_id)) JOIN run USING (run_id)
               QUALIFY row_number() OVER (PARTITION BY method ORDER BY parameters::JSON ->> 'mode' = 'paper' DESC, run_id DESC) = 1 ORDER BY method""",
            [self.finished],
        ).fetchall():
            self.methods[method] = (run_id, str(json.loads(parameters).get("concept_set", "concepts")))
        self.outputs = [row | {"label": label(row["function"])} for row in self.table("dissections") if row["run_id"] in self.finished]
        self.runs = [row["run_id"] for row in self.outputs]

    @property
    def named(self) -> list[int]:
        """Runs that neurons' pages show."""
        return sorted({run_id for run_id, _ in self.methods.values()})

    def network(self, page: Page) -> Iterator[Part]:
        """How often a concept set names outputs."""
        if self.outputs:
            yield Part(page.draw("dissections", outputs=self.outputs), "words", link=("dissections", "dissected outputs"))

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """A table of each function's first concepts with methods side by side, and the one that ICL chose; a neuron's own name is bold."""
        cells: dict[int, dict[str, dict[str, str]]] = {}
        texts: dict[str, str] = {}
        for method, (run_id, _) in self.methods.items():
            rows = self.con.execute(
                """SELECT neuron_id, function, list(concept ORDER BY rank), list(score ORDER BY rank) FROM closed_concept
                   WHERE run_id = ? AND method = ? AND rank <= ? AND neuron_id BETWEEN ? AND ? GROUP BY neuron_id, function ORDER BY neuron_id""",
                [run_id, method, FIRST, layer.first, layer.last],
            ).fetchall()
            for concept in {concept for row in rows for concept in row[2]} - texts.keys():
                texts[concept] = escape(cut(concept.replace("_", " "), LONGEST))
            for neuron_id, function, concepts, scores in rows:
                name = layer.names[neuron_id - layer.first]
                own = escape(cut(name.replace("_", " "), LONGEST)).lower() if name is not None else None
                named = [f"<b>{text}</b>" if text.lower() == own else text for text in (texts[concept] for concept in concepts)]
                if method != "ICL":
                    named = [f"{text}&nbsp;<small>{number(score)}</small>" for text, score in zip(named, scores, strict=True)]
                cells.setdefault(neuron_id, {}).setdefault(function, {})[method] = " · ".join(named)
        section = '<section><h2>Closed concepts</h2>{}<p class="note">First three of the set by each similarity function, with scores.</p></section>'
        return Parts({neuron_id: [Part(Markup(section.format(self._table(its))), "closed")] for neuron_id, its in cells.items()})

    def _table(self, cells: dict[str, dict[str, str]]) -> str:
        """A neuron's table from cells by function and method."""
        methods = [method for method in self.methods if any(method in by_method for by_method in cells.values())]
        columns = [method for method in methods if method != "ICL"]
        about = [f"{escape(method)}{f': {METHODS[method]}' if method in METHODS else ''}" for method in methods]
        sets = dict.fromkeys(escape(cut(self.methods[method][1], LONGEST)) for method in methods)
        head = "".join(f"<th>{escape(method)}</th>" for method in columns)
        body = []
        for function in [*(name for name in FUNCTIONS if name in cells), *sorted(cells.keys() - FUNCTIONS.keys() - {"icl"})]:
            values = "".join(f"<td>{cells[function].get(method, '–')}</td>" for method in columns)
            body.append(f"<tr><th>{escape(label(function))}</th>{values}</tr>")
        if chosen := cells.get("icl", {}).get("ICL"):
            body.append(f'<tr><th>ICL</th><td colspan="{max(1, len(columns))}">{chosen}</td></tr>')
        return (
            f'<table class="closed"><caption>{"; ".join(about)}; concepts of {", ".join(sets)}</caption>'
            + (f"<thead><tr><td></td>{head}</tr></thead>" if len(columns) > 1 else "")
            + f"<tbody>{''.join(body)}</tbody></table>"
        )


def label(function: str) -> str:
    """A similarity function in words; none for ICL."""
    if function == "icl":
        return "–"
    return FUNCTIONS.get(function, function.replace("_", " "))
