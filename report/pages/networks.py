"""Pages of networks, each on one data set."""

from __future__ import annotations

from markupsafe import Markup

from report.contents import Class, Layer
from report.parts import charts
from report.parts.page import Press
from report.topics.topic import Known, by_place, links
from report.topics.tuning import ClassNeuron, Tuning

ROWS = ("probes", "tasks", "adjectives", "polysemanticity", "importance", "specific_ablations", "specificity")
"""Charts whose rows come first, in the order of the pages of sites made before."""


def network(press: Press, known: Known) -> tuple[str, str]:
    """A study's page: its address and text."""
    study, tuning = known.study, known[Tuning]
    page = press.page(study.page)
    numbers = tuning.numbers()
    curves = tuning.curves(numbers, page.root)
    parts = [part for topic in known for part in topic.network(page)]
    rows = {name: found for part in parts for name, found in part.rows.items() if found}
    first = {name: rows[name] for name in ROWS if name in rows}
    at = by_place(parts, "top", "numbers", "words")
    return page.write(
        "network", [study.run_id, *(run for topic in known for run in topic.runs)],
        title=study.title, study=study, dataset=study.dataset, layers=numbers, total=sum(layer.neurons for layer in study.layers),
        class_rows={name: _class_rows(known, members) for name, members in study.dataset.label_sets.items() if members}, curves=curves,
        others=[other.study for other in known.studies if other.study.name == study.name and other is not known],
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
