"""Open concepts: the words of a study's descriptions, their pages, and the list of all studies' words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

from report.addresses import slugs
from report.contents import Layer
from report.parts import charts
from report.parts.page import Page, Press
from report.parts.search_index import Index
from report.parts.texts import cut, plural
from report.topics.descriptions import START, Descriptions
from report.topics.topic import Entry, Known, Part, Parts, Topic
from report.topics.tuning import Tuning

PAGES, LISTED, NEURONS, FOUND, WORDS, LONGEST = 400, 3000, 12, 8, 24, 60
"""Words of a study with a page, words in the list, neurons of a layer on a word's page, neurons of a word in the search index, words of a
kind on a neuron's page, and characters of a word."""
LIST = "concepts/index.html"
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
_CARRIERS = """
    WITH sizes AS (SELECT neuron_id, sum(occurrences) AS size FROM concept WHERE run_id = $run GROUP BY neuron_id)
    SELECT word, part_of_speech, neuron_id,
           row_number() OVER (PARTITION BY word, part_of_speech, layer_id ORDER BY occurrences / size DESC, neuron_id) AS place,
           row_number() OVER (PARTITION BY word, part_of_speech ORDER BY occurrences / size DESC, neuron_id) AS place_of_all
    FROM concept JOIN sizes USING (neuron_id) JOIN neuron USING (neuron_id)
    JOIN (SELECT unnest($words) AS word, unnest($parts) AS part_of_speech) AS shown USING (word, part_of_speech)
    WHERE run_id = $run AND list_contains($layers, layer_id)"""


class Concepts(Topic):
    """The open concepts of the run of descriptions, carried by most neurons first; `adjectives` are rows of the derived table by layer,
    `frequent` and `blocks` those of the two others."""

    stage = "descriptions"
    tables = ("adjectives", "frequent_adjectives", "adjectives_per_block")

    def read(self) -> None:
        """Read a study's open concepts: those of its latest finished run of descriptions."""
        self.words: dict[Key, Concept] = {}
        self.adjectives: dict[int, list[dict]] = {}
        self.frequent: list[dict] = []
        self.blocks: list[dict] = []
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
            f"SELECT word, part_of_speech, neuron_id FROM ({_CARRIERS}) WHERE place_of_all <= {FOUND} ORDER BY place_of_all", self._asked()
        ).fetchall():
            self.words[word, part].best.append(neuron_id)
        by_name = {layer.name: layer.layer_id for layer in self.study.by_first}
        for row in self.table("adjectives"):
            if row["run_id"] == self.run_id and row["layer"] in by_name:
                self.adjectives.setdefault(by_name[row["layer"]], []).append(row)

        self.frequent, self.blocks = ([row for row in self.table(name) if row["run_id"] == self.run_id] for name in self.tables[1:])

    @property
    def paged(self) -> list[Concept]:
        """Words with a page."""
        return [concept for concept in self.words.values() if concept.page is not None]

    def _asked(self) -> dict:
        """Parameters of _CARRIERS."""
        paged = self.paged
        return {
            "run": self.run_id, "layers": [layer.layer_id for layer in self.study.by_first] or [-1],
            "words": [c.word for c in paged] or [""], "parts": [c.part_of_speech for c in paged] or [""],
        }  # fmt: skip

    def network(self, page: Page) -> Iterator[Part]:
        """The chart of adjectives."""
        if rows := self._adjective_rows(page.root):
            frequent = [
                {"adjective": cut(row["adjective"], LONGEST), "series": row["level"], "order": row["rank"], "neurons": row["neurons"],
                 "value": round(row["share"], 5), "href": self._address(page.root, row["adjective"])}
                for row in self.frequent
            ]  # fmt: skip
            blocks = [
                {"layer": row["block"], "position": row["position"], "series": "adjectives", "value": round(row["adjectives"], 4),
                 "label": f"{row['block']}, {row['neurons']:,} neurons"}
                for row in self.blocks
            ]  # fmt: skip
            html = page.draw("adjectives", frequent=frequent, blocks=self.blocks)
            charts = {"adjectives": rows, "frequent_adjectives": frequent, "adjectives_per_block": blocks}
            yield Part(html, "words", rows=charts, link=("adjectives", "descriptions"))

    def _address(self, root: str, word: str) -> str:
        """Of an adjective's page, or of the list of words."""
        concept = self.words.get((word, "adjective"))
        return root + (concept.page if concept and concept.page else LIST)

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
            numbers = {key: row[key] for key in ("level", "neurons", "share", "low", "high")}
            out.append({"word": cut(row["adjective"], LONGEST), "page": address, **numbers})
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
            parts[neuron_id] = [Part(Markup(section), "words")]
        return Parts(parts)

    def pages(self, press: Press) -> Iterator[tuple[str, str]]:
        """A page for each word."""
        order = self.paged
        if not order:
            return
        rows: dict[Key, dict[int, list[tuple[int, str | None]]]] = defaultdict(lambda: defaultdict(list))
        for word, part, neuron_id, text in self.con.execute(
            f"""WITH shown AS (SELECT * FROM ({_CARRIERS}) WHERE place <= {NEURONS}),
            said AS (SELECT word, neuron_id, left(arg_min(text, position), {2 * START + 1}) AS text
                     FROM (SELECT DISTINCT word, neuron_id FROM shown) JOIN (FROM summary_point WHERE run_id = $run AND is_kept) USING (neuron_id)
                     WHERE contains(lower(text), word) GROUP BY ALL)
            SELECT word, part_of_speech, neuron_id, text FROM shown LEFT JOIN said USING (word, neuron_id) ORDER BY place, neuron_id""",
            self._asked(),
        ).fetchall():
            rows[word, part][self.study.layer_of(neuron_id).layer_id].append((neuron_id, text))
        total = sum(self.known[Descriptions].described.values())
        for at, concept in enumerate(order):
            assert concept.page is not None
            page = press.page(concept.page)
            key = (concept.word, concept.part_of_speech)
            layers = [
                (layer, concept.layers[layer.layer_id], Markup("".join([self._row(page, layer, *row) for row in rows[key][layer.layer_id]])))
                for layer in self.study.layers if layer.layer_id in concept.layers
            ]  # fmt: skip
            yield page.write(
                "concept", [self.study.run_id, self.run_id], title=f"{concept.title} ({concept.kind})", study=self.study, dataset=self.dataset,
                concept=concept, total=total, layers=layers, shown=NEURONS, previous=order[at - 1] if at else None,
                following=order[at + 1] if at + 1 < len(order) else None,
                charts=Markup(charts.rows_script(curve=self._curve(page.root, concept))),
            )  # fmt: skip

    def _curve(self, root: str, concept: Concept) -> list[dict]:
        """Rows of the chart of a word by layer: the share of the layer's described neurons."""
        out = []
        for position, layer in enumerate(self.study.layers):
            neurons, described = concept.layers.get(layer.layer_id, 0), self.known[Descriptions].described.get(layer.layer_id)
            if described:
                out.append({
                    "layer": layer.name, "position": position, "series": self.study.title, "neurons": neurons, "total": described,
                    "value": round(neurons / described, 5), "href": root + layer.page,
                })  # fmt: skip
        return out

    def _row(self, page: Page, layer: Layer, neuron_id: int, text: str | None) -> str:
        """A neuron's row on a word's page."""
        fact, best = (tuning := self.known[Tuning]).of(layer, neuron_id), tuning.best_class(layer, neuron_id)
        return (
            f'<tr><th><a href="{page.root}{layer.folder}/{layer.file(neuron_id)}">{escape(layer.title(neuron_id))}</a></th>'
            f"<td>{page.listen(self.study, fact.clip_id)}</td><td>{escape(best.name) if best else '–'}</td>"
            f"<td>{escape(cut(text, START)) if text else ''}</td></tr>"
        )

    @classmethod
    def list_pages(cls, press: Press, studies: Sequence[Known]) -> Iterator[tuple[str, str]]:
        """The list of all words of all studies, carried by most neurons first."""
        described = _described(studies)
        if not described:
            return
        words: dict[Key, list[Concept | None]] = {}
        for place, words_of in enumerate(described):
            for key, concept in words_of.words.items():
                words.setdefault(key, [None] * len(described))[place] = concept
        ordered = sorted(words.items(), key=lambda item: (-sum(c.neurons for c in item[1] if c), item[0]))
        rows = []
        for (word, part), concepts in ordered[:LISTED]:
            acoustic = [c.is_acoustic for c in concepts if c and c.is_acoustic is not None]
            first = next(
                (f'<a href="../{c.page}">{escape(cut(word, LONGEST))}</a>' for c in concepts if c and c.page), escape(cut(word, LONGEST))
            )
            counts = [(f"{c.neurons:,}" if c else "0", c.page if c else None) for c in concepts]
            cells = [
                f'<td class="n"><a href="../{page}">{count}</a></td>' if page else f'<td class="n">{count}</td>' for count, page in counts
            ]
            said = ("yes" if any(acoustic) else "no") if acoustic else "–"
            rows.append(f'<tr><th>{first}</th><td class="find">{part}</td><td>{said}</td>{"".join(cells)}</tr>')
        yield press.page(LIST).write(
            "concepts", [its.run_id for its in described], title="Concepts", studies=[its.study for its in described],
            rows=Markup("".join(rows)), listed=len(rows), count=len(words), pages=sum(len(its.paged) for its in described),
        )  # fmt: skip

    @classmethod
    def entry(cls, studies: Sequence[Known]) -> Entry | None:
        """The list of words."""
        return Entry("Concepts", LIST, "words", "words of descriptions") if _described(studies) else None

    @classmethod
    def overview(cls, page: Page, studies: Sequence[Known]) -> Iterator[Part]:
        """What descriptions and concepts are."""
        if _described(studies):
            yield Part(page.draw("about_concepts", list=LIST), "glossary")

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """The words with a page, and what part of speech each word is."""
        for known in studies:
            for word, part in known[Concepts].words:
                index.speak(word, part)
            for concept in known[Concepts].paged:
                about = f"{concept.kind}, {plural(concept.neurons, 'neuron')} of {known.study.title}"
                best = [index.neuron(known.study, neuron_id) for neuron_id in concept.best]
                index.words.append([concept.title, about, concept.page, best])


def _described(studies: Sequence[Known]) -> list[Concepts]:
    """The concepts of those studies that have any."""
    return [known[Concepts] for known in studies if known[Concepts].words]
