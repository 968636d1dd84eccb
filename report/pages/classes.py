"""Pages of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from report.contents import Dataset
from report.parts import charts
from report.parts.cards import Cards
from report.parts.page import Press
from report.topics.topic import Known, by_place
from report.topics.tuning import Tuning

CARDS = 60


def classes(press: Press, dataset: Dataset, heard: Sequence[Known]) -> Iterator[tuple[str, str]]:
    """Pages of a data set's classes; `heard` are the studies on it."""
    chance = dataset.chances
    cards = Cards(dataset, dataset.views[0], press.media, dataset.folder.count("/") + 3)
    for members in dataset.label_sets.values():
        for at, class_id in enumerate(members):
            cls = dataset.classes[class_id]
            page = press.page(cls.page)
            rows = {f"s{i}": _best_by_layer(known, class_id, page.root) for i, known in enumerate(heard)}
            said = [[(topic, part) for topic in known for part in topic.of_class(page, cls)] for known in heard]
            # Runs are named topic by topic, each of all studies.
            topics = dict.fromkeys(type(topic) for known in heard for topic in known)
            runs = [run for topic in topics for its in said for by, part in its if type(by) is topic for run in part.runs]
            yield page.write(
                "class", [dataset.run_id, *(known.study.run_id for known in heard), *runs],
                title=cls.name, dataset=dataset, cls=cls, view=dataset.views[0], chance=chance[class_id],
                studies=[
                    (known.study, [(known.study.layer_of(row.neuron_id), row) for row in known[Tuning].classes.get(class_id, [])],
                     by_place((part for _, part in its), "detectors"))
                    for known, its in zip(heard, said, strict=True)
                ],
                cards=Markup("".join([cards.card(clip_id) for clip_id in cls.clips[:CARDS]])),
                rest=[dataset.clips[c] for c in cls.clips[CARDS:]],
                previous=dataset.classes[members[at - 1]] if at else None,
                following=dataset.classes[members[at + 1]] if at + 1 < len(members) else None,
                **({"curves": rows, "charts": Markup(charts.rows_script(**rows))} if rows else {}),
            )  # fmt: skip


def _best_by_layer(known: Known, class_id: int, root: str) -> list[dict]:
    found = {layer_id: (neuron_id, ap) for layer_id, neuron_id, ap in known[Tuning].best_by_layer.get(class_id, [])}
    rows = []
    for position, layer in enumerate(known.study.layers):
        if layer.layer_id in found:
            neuron_id, ap = found[layer.layer_id]
            rows.append({
                "layer": layer.name, "position": position, "series": known.study.title, "label": layer.title(neuron_id), "value": round(ap, 5),
                "href": f"{root}{layer.folder}/{layer.file(neuron_id)}",
            })  # fmt: skip
    return rows
