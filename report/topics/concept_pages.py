"""Pages of open concepts: one for each word, the list of all studies' words, and what leads there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape

from markupsafe import Markup

from report.contents import Layer
from report.parts import charts
from report.parts.page import Page, Press
from report.parts.search_index import Index
from report.parts.texts import cut, plural
from report.topics.concepts import CARRIERS, LONGEST, Concept, Concepts, Key
from report.topics.descriptions import START, Descriptions
from report.topics.topic import Entry, Known, Part, Topic
from report.topics.tuning import Tuning

LISTED, NEURONS = 3000, 12
"""Words in the list, and neurons of a layer on a word's page."""
LIST = "concepts/index.html"


class ConceptPages(Topic):
    """The pages of a study's words."""

    def pages(self, press: Press) -> Iterator[tuple[str, str]]:
        """A page for each word."""
        its = self.known[Concepts]
        order = its.paged
        if not order:
            return
        rows: dict[Key, dict[int, list[tuple[int, str | None]]]] = defaultdict(lambda: defaultdict(list))
        for word, part, neuron_id, text in self.con.execute(
            f"""WITH shown AS (SELECT * FROM ({CARRIERS}) WHERE place <= {NEURONS}),
            said AS (SELECT word, neuron_id, left(arg_min(text, position), {2 * START + 1}) AS text
                     FROM (SELECT DISTINCT word, neuron_id FROM shown) JOIN (FROM summary_point WHERE run_id = $run AND is_kept) USING (neuron_id)
                     WHERE contains(lower(text), word) GROUP BY ALL)
            SELECT word, part_of_speech, neuron_id, text FROM shown LEFT JOIN said USING (word, neuron_id) ORDER BY place, neuron_id""",
            its.asked(),
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
                "concept", [self.study.run_id, its.run_id], title=f"{concept.title} ({concept.kind})", study=self.study, dataset=self.dataset,
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
        """The words with a page."""
        for known in studies:
            for concept in known[Concepts].paged:
                about = f"{concept.kind}, {plural(concept.neurons, 'neuron')} of {known.study.title}"
                best = [index.neuron(known.study, neuron_id) for neuron_id in concept.best]
                index.words.append([concept.title, about, concept.page, best])


def _described(studies: Sequence[Known]) -> list[Concepts]:
    """The concepts of those studies that have any."""
    return [known[Concepts] for known in studies if known[Concepts].words]
