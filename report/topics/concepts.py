"""Open concepts: the words of a study's descriptions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

from report.addresses import slugs
from report.contents import Layer
from report.parts.page import Page
from report.parts.texts import cut
from report.topics.descriptions import Descriptions
from report.topics.topic import Part, Parts, Topic

PAGES, FOUND, WORDS, LONGEST = 400, 8, 24, 60
"""Words of a study with a page, neurons of a word in the search index, words of a kind on a neuron's page, and characters of a word."""
TOP = 10
"""Adjectives in a chart."""
KINDS = {"adjective": "Adjectives", "noun": "Nouns", "verb": "Verbs"}
"""What a neuron's page shows; prepositions say nothing without the sentence they stand in."""

Key = tuple[str, str]
"""Word and part of speech."""


@dataclass(slots=True)
class Concept:
    """A word as one part of speech: how many of the study's neurons carry it, in all and by layer; `page` is its address if it has one."""

    word: str
    part_of_speech: str
    is_acoustic: bool | None
    neurons: int = 0
    layers: dict[int, int] = field(default_factory=dict)
    page: str | None = None
    best: list[int] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The word, cut where it is no word."""
        return cut(self.word, LONGEST)

    @property
    def kind(self) -> str:
        """Part of speech in words."""
        return f"acoustic {self.part_of_speech}" if self.is_acoustic else self.part_of_speech


# The neurons that a word stands for come first: those whose description says it most often, and little else.
CARRIERS = """
    WITH sizes AS (SELECT neuron_id, sum(occurrences) AS size FROM concept WHERE run_id = $run GROUP BY neuron_id)
    SELECT word, part_of_speech, neuron_id,
           row_number() OVER (PARTITION BY word, part_of_speech, layer_id ORDER BY occurrences / size DESC, neuron_id) AS place,
           row_number() OVER (PARTITION BY word, part_of_speech ORDER BY occurrences / size DESC, neuron_id) AS place_of_all
    FROM concept JOIN sizes USING (neuron_id) JOIN neuron USING (neuron_id)
    JOIN (SELECT unnest($words) AS word, unnest($parts) AS part_of_speech) AS shown USING (word, part_of_speech)
    WHERE run_id = $run AND list_contains($layers, layer_id)"""


class Concepts(Topic):
    """The open concepts of the run of descriptions, carried by most neurons first; `adjectives` are rows of the derived table by layer."""

    stage = "descriptions"
    tables = ("adjectives",)

    def read(self) -> None:
        """Read a study's open concepts: those of its latest finished run of descriptions."""
        self.words: dict[Key, Concept] = {}
        self.adjectives: dict[int, list[dict]] = {}
        if self.run_id is None:
            return
        layers = [layer.layer_id for layer in self.study.by_first]
        for word, part, acoustic, layer_id, neurons in self.con.execute(
            """SELECT word, part_of_speech, bool_or(is_acoustic), layer_id, count(*) FROM concept JOIN neuron USING (neuron_id)
               WHERE run_id = ? AND list_contains(?, layer_id) GROUP BY ALL ORDER BY word, part_of_speech, layer_id""",
            [self.run_id, layers or [-1]],
        ).fetchall():
            concept = self.words.setdefault((word, part), Concept(word, part, acoustic))
            concept.is_acoustic = acoustic if concept.is_acoustic is None else concept.is_acoustic or bool(acoustic)
            concept.neurons += neurons
            concept.layers[layer_id] = neurons
        self.words = dict(sorted(self.words.items(), key=lambda item: (-item[1].neurons, item[0])))
        chosen = [c for c in self.words.values() if c.part_of_speech == "noun" or (c.part_of_speech == "adjective" and c.is_acoustic)][
            :PAGES
        ]
        # In alphabetical order, so that a word's address does not depend on how many neurons carry it.
        chosen.sort(key=lambda concept: (concept.word, concept.part_of_speech))
        folder = f"concepts/{self.study.short}"
        for concept, name in zip(chosen, slugs([f"{c.word}.{c.part_of_speech}" for c in chosen]), strict=True):
            concept.page = f"{folder}/{name}.html"
        for word, part, neuron_id in self.con.execute(
            f"SELECT word, part_of_speech, neuron_id FROM ({CARRIERS}) WHERE place_of_all <= {FOUND} ORDER BY place_of_all", self.asked()
        ).fetchall():
            self.words[word, part].best.append(neuron_id)
        by_name = {layer.name: layer.layer_id for layer in self.study.by_first}
        for row in self.table("adjectives"):
            if row["run_id"] == self.run_id and row["layer"] in by_name:
                self.adjectives.setdefault(by_name[row["layer"]], []).append(row)

    @property
    def paged(self) -> list[Concept]:
        """Words with a page."""
        return [concept for concept in self.words.values() if concept.page is not None]

    def asked(self) -> dict:
        """Parameters of CARRIERS."""
        paged = self.paged
        return {
            "run": self.run_id, "layers": [layer.layer_id for layer in self.study.by_first] or [-1],
            "words": [c.word for c in paged] or [""], "parts": [c.part_of_speech for c in paged] or [""],
        }  # fmt: skip

    def network(self, page: Page) -> Iterator[Part]:
        """The chart of adjectives."""
        if rows := self._adjective_rows(page.root):
            yield Part(page.draw("adjectives"), "words", rows={"adjectives": rows}, link=("adjectives", "descriptions"))

    def _adjective_rows(self, root: str) -> list[dict]:
        """Rows of the chart of the study's most frequent acoustic adjectives by layer: the share of the layer's described neurons."""
        totals: dict[str, int] = defaultdict(int)
        for rows in self.adjectives.values():
            for row in rows:
                totals[row["adjective"]] += row["neurons"]
        best = sorted(totals, key=lambda word: (-totals[word], word))[:TOP]
        out = []
        for position, layer in enumerate(self.study.layers):
            described = self.known[Descriptions].described.get(layer.layer_id)
            shares = {row["adjective"]: row["neurons"] for row in self.adjectives.get(layer.layer_id, [])}
            for order, word in enumerate(best if described else ()):
                concept = self.words.get((word, "adjective"))
                out.append({
                    "layer": layer.name, "position": position, "series": cut(word, LONGEST), "order": order, "neurons": shares.get(word, 0),
                    "total": described, "value": round(shares.get(word, 0) / (described or 1), 5),
                    "href": root + (concept.page if concept and concept.page else layer.page),
                })  # fmt: skip
        return out

    def layer(self, page: Page, layer: Layer) -> Iterator[Part]:
        """A layer's most frequent acoustic adjectives: word, page, level, neurons and share of the described ones."""
        out = []
        for row in self.adjectives.get(layer.layer_id, [])[:TOP]:
            concept = self.words.get((row["adjective"], "adjective"))
            address = page.root + concept.page if concept and concept.page else None
            out.append(
                {"word": cut(row["adjective"], LONGEST), "page": address, **{key: row[key] for key in ("level", "neurons", "share")}}
            )
        if out:
            html = page.draw("layer_adjectives", adjectives=out, described=self.known[Descriptions].described.get(layer.layer_id))
            yield Part(html, "above", link=("adjectives", "adjectives"))

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """The words of each neuron's description, with links to those that have a page."""
        if self.run_id is None:
            return Parts()
        texts = {
            key: f'<a href="{page.root}{c.page}">{escape(c.title)}</a>' if c.page else escape(c.title) for key, c in self.words.items()
        }  # fmt: skip
        groups: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for neuron_id, word, part in self.con.execute(
            """SELECT neuron_id, word, part_of_speech FROM concept WHERE run_id = ? AND neuron_id BETWEEN ? AND ?
               ORDER BY neuron_id, coalesce(is_acoustic, false) DESC, occurrences DESC, word""",
            [self.run_id, layer.first, layer.last],
        ).fetchall():
            if part in KINDS:
                groups[neuron_id][part].append(texts[word, part])
        parts = {}
        for neuron_id, group in groups.items():
            lines = []
            for part, title in KINDS.items():
                if words := group.get(part):
                    more = f" and {len(words) - WORDS} more" if len(words) > WORDS else ""
                    lines.append(f"<dt>{title}</dt><dd>{', '.join(words[:WORDS])}{more}</dd>")
            section = f'<section><h2>Open concepts</h2><dl class="pairs">{"".join(lines)}</dl></section>'
            parts[neuron_id] = {"words": Markup(section)}
        return Parts(parts)
