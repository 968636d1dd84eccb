"""The first page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from report.contents import Contents
from report.parts import charts
from report.parts.cards import Cards
from report.parts.page import Press
from report.parts.svg import number
from report.topics.topic import Known, Topic, by_place
from report.topics.tuning import Tuning

GALLERY = 12


def overview(press: Press, contents: Contents, topics: Sequence[type[Topic]], studies: Sequence[Known]) -> tuple[str, str]:
    """Its address and text."""
    page = press.page("index.html")
    rows: dict[str, list[dict]] = {"detect": [], "selectivity": [], "dead": []}
    totals = []
    for known in studies:
        numbers = known[Tuning].numbers()
        totals.append({"neurons": sum(layer.neurons for layer in known.study.layers), "dead": sum(n.dead for n in numbers)})
        for name, found in known[Tuning].curves(numbers, "").items():
            rows[name] += found
    foot = page.foot([*(study.run_id for study in contents.own), *(dataset.run_id for dataset in contents.datasets)])
    gallery = _gallery(press, studies[0]) if studies else Markup()
    context: dict = {"charts": Markup(charts.rows_script(**rows))} if studies else {}
    return page.write(
        "overview", title="Auricle", provenance=foot or Markup("The warehouse holds no finished run."), studies=contents.own,
        datasets=contents.datasets, totals=totals, neurons=sum(t["neurons"] for t in totals),
        names=_listed(list(dict.fromkeys(study.name for study in contents.own))), curves=rows, gallery=gallery,
        gallery_of=gallery.count("<li"), at=by_place((part for topic in topics for part in topic.overview(page, studies)), "glossary"),
        **context,
    )  # fmt: skip


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}" if names else ""


def _gallery(press: Press, known: Known) -> Markup:
    """The showpiece of each class of a study with its highest clip; best first, no neuron twice."""
    study, dataset, tuning = known.study, known.study.dataset, known[Tuning]
    cards = Cards(dataset, study.view, press.media, 0)
    pieces = [(c, piece) for c in dataset.main_classes if (piece := tuning.showpiece(c))]
    best = sorted(((piece.average_precision or 0, -c, piece.neuron_id) for c, piece in pieces), reverse=True)
    texts: list[str] = []
    seen = set()
    for ap, minus_class, neuron_id in best:
        layer = study.layer_of(neuron_id)
        fact = tuning.of(layer, neuron_id)
        if neuron_id in seen or fact.clip_id is None or len(texts) == GALLERY:
            continue
        seen.add(neuron_id)
        link = f'<a href="{layer.folder}/{layer.file(neuron_id)}">{escape(layer.title(neuron_id))}</a>'
        value = f"<b>{link} detects {escape(dataset.classes[-minus_class].name)}, AP {number(ap)}</b>"
        texts.append(cards.card(fact.clip_id, value, *tuning.courses.get(neuron_id, ("", 0))))
    return Markup("".join(texts))
