"""Pages of networks, each on one data set, and of their layers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from html import escape

from markupsafe import Markup

from report.contents import Class, Layer
from report.parts import charts, svg
from report.parts.page import Page, Press
from report.parts.svg import number
from report.parts.texts import REDUCTIONS
from report.topics.topic import Column, Known, Part, Topic, by_place, links
from report.topics.tuning import ClassNeuron, NeuronFacts, Tuning

ROWS = ("probes", "tasks", "adjectives", "polysemanticity", "importance", "specific_ablations", "specificity")
"""Charts whose rows come first, in the order of the pages of sites made before."""


def network(press: Press, known: Known) -> tuple[str, str]:
    """A study's page: its address and text."""
    study, tuning = known.study, known[Tuning]
    page = press.page(study.page)
    numbers = tuning.numbers()
    curves = tuning.curves(numbers, page.root)
    parts = list(known.named(lambda topic: topic.network(page)))
    rows = {name: found for part in parts for name, found in part.rows.items() if found}
    first = {name: rows[name] for name in ROWS if name in rows}
    at = by_place(parts, "top", "numbers", "words")
    return page.write(
        "network", [study.run_id, *(run for topic in known for its in known.beside(type(topic)) for run in its.runs)],
        title=study.title, study=study, dataset=study.dataset, layers=numbers, total=sum(layer.neurons for layer in study.layers),
        class_rows={name: _class_rows(known, members) for name, members in study.dataset.label_sets.items() if members}, curves=curves,
        others=[other.study for other in known.studies if other.study.name == study.name and other is not known and other.study.host is not study],
        told_by=[other.study.dataset for other in known.studies if other.study.host is study],
        links=links(parts, at), at=at, charts=Markup(charts.rows_script(**(curves | first | rows))),
    )  # fmt: skip


def _class_rows(known: Known, members: list[int]) -> list[tuple[Class, Layer | None, ClassNeuron | None]]:
    """Classes with their best detector, best detected first."""
    rows: list[tuple[Class, Layer | None, ClassNeuron | None]] = []
    for class_id in members:
        best = next(iter(known[Tuning].classes.get(class_id, [])), None)
        if best and best.average_precision is None:
            best = None
        rows.append((known.study.dataset.classes[class_id], known.study.layer_of(best.neuron_id) if best else None, best))
    return sorted(rows, key=lambda row: -(row[2].average_precision or 0 if row[2] else -1))


def layers(press: Press, known: Known) -> Iterator[tuple[str, str]]:
    """Pages of a study's layers."""
    study, numbers = known.study, known[Tuning].numbers()
    for at, layer in enumerate(study.layers):
        page = press.page(layer.page)
        parts = list(known.named(partial(_of_layer, page, layer)))
        placed = by_place(parts, "top", "above", "below")
        context: dict = {}
        if layer.has_pages:
            columns = [column for topic in known if (column := topic.column(layer))]
            found = known[Tuning].layers[layer.layer_id]
            points = [_point(known, layer, fact) for fact in found if fact.average_precision is not None]
            context = {
                "rows": Markup("".join([_row(page, known, layer, fact, columns) for fact in found])), "columns": columns, "points": points,
                "signed": all(point["selectivity"] is None for point in points), "charts": Markup(charts.rows_script(neurons=points)),
            }  # fmt: skip
        # Where neurons have no pages, what groups them is all that the page shows. Its runs come first.
        groups = [part for part in parts if part.place == "below"]
        runs = [run for part in groups + [part for part in parts if part not in groups] for run in part.runs]
        yield page.write(
            "layer", [study.run_id, *runs] if layer.has_pages or not groups else runs,
            title=f"{layer.name} of {study.title}", study=study, dataset=study.dataset, layer=layer, numbers=numbers[at],
            shape=" × ".join(map(str, json.loads(layer.shape))), reduction=REDUCTIONS.get(layer.reduction, layer.reduction).capitalize(),
            links=links(parts, placed), at=placed, previous=study.layers[at - 1] if at else None,
            following=study.layers[at + 1] if at + 1 < len(study.layers) else None, **context,
        )  # fmt: skip


def _of_layer(page: Page, layer: Layer, topic: Topic) -> Iterable[Part]:
    return topic.layer(page, layer)


def _point(known: Known, layer: Layer, fact: NeuronFacts) -> dict:
    best = known.study.dataset.class_of(fact.class_id)
    return {
        "neuron": layer.title(fact.neuron_id), "best": best.name if best else None, "active": fact.share_active,
        "ap": round(fact.average_precision or 0, 4), "selectivity": fact.selectivity and round(fact.selectivity, 4),
        "href": layer.file(fact.neuron_id),
    }  # fmt: skip


def _row(page: Page, known: Known, layer: Layer, fact: NeuronFacts, columns: list[Column]) -> str:
    """A neuron's row in its layer's table."""
    unit, name = layer.units[fact.neuron_id - layer.first], layer.names[fact.neuron_id - layer.first]
    label = f"{unit} {escape(name)}" if name is not None else str(unit)
    sound = "" if fact.is_dead else page.listen(known.study, fact.clip_id)
    best = known.study.dataset.class_of(fact.class_id)
    ap, active = fact.average_precision, "–" if fact.share_active is None else f"{100 * fact.share_active:.1f} %"
    more = "".join(
        f'<td class="{"level" if column.choices else "find"}">{escape(column.cells.get(fact.neuron_id, "–"))}</td>' for column in columns
    )
    return (
        f'<tr><th><a href="{layer.file(fact.neuron_id)}">{label}</a></th><td>{sound}</td>'
        f"<td>{escape(best.name) if best else 'dead' if fact.is_dead else '–'}</td>"
        f'<td class="n bar" style="--v:{100 * (ap or 0):.0f}%">{number(ap)}</td><td class="n">{number(fact.selectivity)}</td>'
        f'<td class="n">{active}</td><td class="n">{number(fact.mean)}</td>'
        f'<td class="n">{number(fact.maximum)}</td><td>{svg.spark(fact.histogram) if fact.histogram else ""}</td>{more}</tr>'
    )
