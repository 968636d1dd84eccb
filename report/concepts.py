"""Open concepts: the words of a study's descriptions, their pages, and the list of all studies' words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

import duckdb
import jinja2
from markupsafe import Markup

from analyze.tables import table
from report import charts
from report.addresses import slugs
from report.cards import listen
from report.contents import Layer, Study, runs_of
from report.descriptions import START, StudyDescriptions
from report.facts import StudyFacts
from report.media import Media
from report.texts import cut

PAGES, LISTED, NEURONS, FOUND, WORDS, LONGEST = 400, 3000, 12, 8, 24, 60
"""Words of a study with a page, words in the list, neurons of a layer on a word's page, neurons of a word in the search index, words of a
kind on a neuron's page, and characters of a word."""
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


@dataclass(slots=True)
class StudyConcepts:
    """The open concepts of the run of descriptions, carried by most neurons first; `adjectives` are rows of the derived table by layer."""

    run_id: int | None = None
    words: dict[Key, Concept] = field(default_factory=dict)
    adjectives: dict[int, list[dict]] = field(default_factory=dict)

    @property
    def paged(self) -> list[Concept]:
        """Words with a page."""
        return [concept for concept in self.words.values() if concept.page is not None]


# The neurons that a word stands for come first: those whose description says it most often, and little else.
_CARRIERS = """
    WITH sizes AS (SELECT neuron_id, sum(occurrences) AS size FROM concept WHERE run_id = $run GROUP BY neuron_id)
    SELECT word, part_of_speech, neuron_id,
           row_number() OVER (PARTITION BY word, part_of_speech, layer_id ORDER BY occurrences / size DESC, neuron_id) AS place,
           row_number() OVER (PARTITION BY word, part_of_speech ORDER BY occurrences / size DESC, neuron_id) AS place_of_all
    FROM concept JOIN sizes USING (neuron_id) JOIN neuron USING (neuron_id)
    JOIN (SELECT unnest($words) AS word, unnest($parts) AS part_of_speech) AS shown USING (word, part_of_speech)
    WHERE run_id = $run AND list_contains($layers, layer_id)"""


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudyConcepts:
    """Read a study's open concepts: those of its latest finished run of descriptions."""
    runs = runs_of(con, study, "descriptions")
    if not runs:
        return StudyConcepts()
    found = StudyConcepts(runs[0])
    layers = [layer.layer_id for layer in study.by_first]
    for word, part, acoustic, layer_id, neurons in con.execute(
        """SELECT word, part_of_speech, bool_or(is_acoustic), layer_id, count(*) FROM concept JOIN neuron USING (neuron_id)
           WHERE run_id = ? AND list_contains(?, layer_id) GROUP BY ALL ORDER BY word, part_of_speech, layer_id""",
        [found.run_id, layers or [-1]],
    ).fetchall():
        concept = found.words.setdefault((word, part), Concept(word, part, acoustic))
        concept.is_acoustic = acoustic if concept.is_acoustic is None else concept.is_acoustic or bool(acoustic)
        concept.neurons += neurons
        concept.layers[layer_id] = neurons
    found.words = dict(sorted(found.words.items(), key=lambda item: (-item[1].neurons, item[0])))
    chosen = [c for c in found.words.values() if c.part_of_speech == "noun" or (c.part_of_speech == "adjective" and c.is_acoustic)][:PAGES]
    # In alphabetical order, so that a word's address does not depend on how many neurons carry it.
    chosen.sort(key=lambda concept: (concept.word, concept.part_of_speech))
    folder = f"concepts/{study.folder.rpartition('/')[2]}"
    for concept, name in zip(chosen, slugs([f"{c.word}.{c.part_of_speech}" for c in chosen]), strict=True):
        concept.page = f"{folder}/{name}.html"
    for word, part, neuron_id in con.execute(
        f"SELECT word, part_of_speech, neuron_id FROM ({_CARRIERS}) WHERE place_of_all <= {FOUND} ORDER BY place_of_all",
        _asked(found, layers),
    ).fetchall():
        found.words[word, part].best.append(neuron_id)
    by_name = {layer.name: layer.layer_id for layer in study.by_first}
    for row in table(con, "adjectives").to_dicts():
        if row["run_id"] == found.run_id and row["layer"] in by_name:
            found.adjectives.setdefault(by_name[row["layer"]], []).append(row)
    return found


def _asked(found: StudyConcepts, layers: list[int]) -> dict:
    """Parameters of _CARRIERS."""
    paged = found.paged
    return {
        "run": found.run_id, "layers": layers or [-1], "words": [c.word for c in paged] or [""],
        "parts": [c.part_of_speech for c in paged] or [""],
    }  # fmt: skip


def links(con: duckdb.DuckDBPyConnection, found: StudyConcepts, layer: Layer, root: str) -> dict[int, Markup]:
    """By neuron of a layer: the words of its description, with links to those that have a page."""
    if found.run_id is None:
        return {}
    texts = {
        key: f'<a href="{root}{c.page}">{escape(c.title)}</a>' if c.page else escape(c.title) for key, c in found.words.items()
    }  # fmt: skip
    groups: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for neuron_id, word, part in con.execute(
        """SELECT neuron_id, word, part_of_speech FROM concept WHERE run_id = ? AND neuron_id BETWEEN ? AND ?
           ORDER BY neuron_id, coalesce(is_acoustic, false) DESC, occurrences DESC, word""",
        [found.run_id, layer.first, layer.first + layer.neurons - 1],
    ).fetchall():
        if part in KINDS:
            groups[neuron_id][part].append(texts[word, part])
    out = {}
    for neuron_id, group in groups.items():
        lines = []
        for part, title in KINDS.items():
            if words := group.get(part):
                more = f" and {len(words) - WORDS} more" if len(words) > WORDS else ""
                lines.append(f"<dt>{title}</dt><dd>{', '.join(words[:WORDS])}{more}</dd>")
        out[neuron_id] = Markup(f'<dl class="pairs">{"".join(lines)}</dl>')
    return out


def top_adjectives(found: StudyConcepts, layer: Layer, root: str) -> list[dict]:
    """A layer's most frequent acoustic adjectives: word, page, level, neurons and share of the described ones."""
    out = []
    for row in found.adjectives.get(layer.layer_id, [])[:TOP]:
        concept = found.words.get((row["adjective"], "adjective"))
        page = root + concept.page if concept and concept.page else None
        out.append({"word": cut(row["adjective"], LONGEST), "page": page, **{key: row[key] for key in ("level", "neurons", "share")}})
    return out


def adjective_rows(found: StudyConcepts, study: Study, descriptions: StudyDescriptions, root: str) -> list[dict]:
    """Rows of the chart of the study's most frequent acoustic adjectives by layer: the share of the layer's described neurons."""
    totals: dict[str, int] = defaultdict(int)
    for rows in found.adjectives.values():
        for row in rows:
            totals[row["adjective"]] += row["neurons"]
    best = sorted(totals, key=lambda word: (-totals[word], word))[:TOP]
    out = []
    for position, layer in enumerate(study.layers):
        described = descriptions.described.get(layer.layer_id)
        shares = {row["adjective"]: row["neurons"] for row in found.adjectives.get(layer.layer_id, [])}
        for order, word in enumerate(best if described else ()):
            concept = found.words.get((word, "adjective"))
            out.append({
                "layer": layer.name, "position": position, "series": cut(word, LONGEST), "order": order, "neurons": shares.get(word, 0),
                "total": described, "value": round(shares.get(word, 0) / (described or 1), 5),
                "href": root + (concept.page if concept and concept.page else layer.page),
            })  # fmt: skip
    return out


def pages(
    con: duckdb.DuckDBPyConnection,
    study: Study,
    found: StudyConcepts,
    descriptions: StudyDescriptions,
    facts: StudyFacts,
    media: Media,
    template: jinja2.Template,
    footers: Mapping[int, Markup],
) -> Iterator[tuple[str, str]]:
    """Addresses and texts of the pages of a study's words."""
    order = found.paged
    if not order or found.run_id is None:
        return
    rows: dict[Key, dict[int, list[tuple[int, str | None]]]] = defaultdict(lambda: defaultdict(list))
    for word, part, neuron_id, text in con.execute(
        f"""WITH shown AS (SELECT * FROM ({_CARRIERS}) WHERE place <= {NEURONS}),
        said AS (SELECT word, neuron_id, left(arg_min(text, position), {2 * START + 1}) AS text
                 FROM (SELECT DISTINCT word, neuron_id FROM shown) JOIN (FROM summary_point WHERE run_id = $run AND is_kept) USING (neuron_id)
                 WHERE contains(lower(text), word) GROUP BY ALL)
        SELECT word, part_of_speech, neuron_id, text FROM shown LEFT JOIN said USING (word, neuron_id) ORDER BY place, neuron_id""",
        _asked(found, [layer.layer_id for layer in study.by_first]),
    ).fetchall():
        rows[word, part][study.layer_of(neuron_id).layer_id].append((neuron_id, text))
    total = sum(descriptions.described.values())
    root = "../" * (order[0].page or "").count("/")
    provenance = Markup("<br>").join([footers[run_id] for run_id in dict.fromkeys((study.run_id, found.run_id))])
    for at, concept in enumerate(order):
        key = (concept.word, concept.part_of_speech)
        curve = _curve(study, concept, descriptions, root)
        layers = [
            (layer, concept.layers[layer.layer_id], Markup("".join([_row(study, layer, facts, media, root, *row) for row in rows[key][layer.layer_id]])))
            for layer in study.layers if layer.layer_id in concept.layers
        ]  # fmt: skip
        assert concept.page is not None
        yield concept.page, template.render(
            title=f"{concept.title} ({concept.kind})", root=root, provenance=provenance, study=study, dataset=study.dataset, concept=concept,
            total=total, layers=layers, shown=NEURONS, previous=order[at - 1] if at else None,
            following=order[at + 1] if at + 1 < len(order) else None, charts=Markup(charts.rows_script(curve=curve)),
        )  # fmt: skip


def _curve(study: Study, concept: Concept, descriptions: StudyDescriptions, root: str) -> list[dict]:
    """Rows of the chart of a word by layer: the share of the layer's described neurons."""
    out = []
    for position, layer in enumerate(study.layers):
        neurons, described = concept.layers.get(layer.layer_id, 0), descriptions.described.get(layer.layer_id)
        if described:
            out.append({
                "layer": layer.name, "position": position, "series": study.title, "neurons": neurons, "total": described,
                "value": round(neurons / described, 5), "href": root + layer.page,
            })  # fmt: skip
    return out


def _row(study: Study, layer: Layer, facts: StudyFacts, media: Media, root: str, neuron_id: int, text: str | None) -> str:
    """A neuron's row on a word's page."""
    fact = facts.of(layer, neuron_id)
    best = study.dataset.class_of(fact.class_id)
    return (
        f'<tr><th><a href="{root}{layer.folder}/{layer.file(neuron_id)}">{escape(layer.title(neuron_id))}</a></th>'
        f"<td>{listen(study, fact.clip_id, root, media)}</td><td>{escape(best.name) if best else '–'}</td>"
        f"<td>{escape(cut(text, START)) if text else ''}</td></tr>"
    )


def index(
    studies: list[Study], found: list[StudyConcepts], template: jinja2.Template, footers: Mapping[int, Markup]
) -> Iterator[tuple[str, str]]:
    """The list of all words of all studies, carried by most neurons first."""
    described = [(study, its) for study, its in zip(studies, found, strict=True) if its.words]
    if not described:
        return
    words: dict[Key, list[Concept | None]] = {}
    for place, (_, its) in enumerate(described):
        for key, concept in its.words.items():
            words.setdefault(key, [None] * len(described))[place] = concept
    ordered = sorted(words.items(), key=lambda item: (-sum(c.neurons for c in item[1] if c), item[0]))
    rows = []
    for (word, part), concepts in ordered[:LISTED]:
        acoustic = [c.is_acoustic for c in concepts if c and c.is_acoustic is not None]
        first = next(
            (f'<a href="../{c.page}">{escape(cut(word, LONGEST))}</a>' for c in concepts if c and c.page), escape(cut(word, LONGEST))
        )
        counts = [(f"{c.neurons:,}" if c else "0", c.page if c else None) for c in concepts]
        cells = [f'<td class="n"><a href="../{page}">{count}</a></td>' if page else f'<td class="n">{count}</td>' for count, page in counts]
        said = ("yes" if any(acoustic) else "no") if acoustic else "–"
        rows.append(f'<tr><th>{first}</th><td class="find">{part}</td><td>{said}</td>{"".join(cells)}</tr>')
    yield "concepts/index.html", template.render(
        title="Concepts", root="../", provenance=Markup("<br>").join([footers[its.run_id] for _, its in described if its.run_id is not None]),
        studies=[study for study, _ in described], rows=Markup("".join(rows)), listed=len(rows), count=len(words),
        pages=sum(len(its.paged) for _, its in described),
    )  # fmt: skip
