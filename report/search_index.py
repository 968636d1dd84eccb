"""The search index: names and addresses of neurons, classes and clips as one classic script."""

from __future__ import annotations

import json

from report.clusters import StudyClusters
from report.concepts import StudyConcepts
from report.contents import Contents
from report.descriptions import StudyDescriptions
from report.facts import StudyFacts
from report.texts import plural

NEURONS_PER_CLASS = 12
CLUSTERS_PER_CLASS = 6


def script(
    contents: Contents,
    facts: list[StudyFacts],
    clusters: list[StudyClusters],
    concepts: list[StudyConcepts],
    descriptions: list[StudyDescriptions],
) -> str:
    """JavaScript that assigns the index.

    `studies`: title `t`, folder `f`, layers `l` as [name, folder, neurons, units or null when they count from 0, names or null]; where
    descriptions were scored, the held-out AUROC of each neuron's behind it, in hundredths or null.
    `classes`: [name, label set and data set, page, [[study, layer, place in the layer, average precision], ...]], best detectors first;
    where clusters owe a class more of their activation than any other of their layer, [[study, name, page, share], ...] behind it.
    `words`: [word, its kind and how many neurons of which study carry it, page, [[study, layer, place in the layer], ...]], of the words with
    a page. `clips`: [name, page, classes].
    """
    studies, places = [], []
    for study, described in zip(contents.studies, descriptions, strict=True):
        shown = [layer for layer in study.layers if layer.has_pages]
        places.append({layer.layer_id: at for at, layer in enumerate(shown)})
        layers = []
        for layer in shown:
            units = None if layer.units == list(range(layer.neurons)) else layer.units
            names = layer.names if any(name is not None for name in layer.names) else None
            entry: list = [layer.name, layer.folder.rpartition("/")[2], layer.neurons, units, names]
            scores = [described.scores.get(neuron_id) for neuron_id in range(layer.first, layer.first + layer.neurons)]
            if any(scores):
                entry.append([round(100 * its[0].auroc) if its else None for its in scores])
            layers.append(entry)
        studies.append({"t": study.title, "f": study.folder, "l": layers})
    classes, clips = [], []
    for dataset in contents.datasets:
        for cls in dataset.classes.values():
            best = []
            for at, (study, known) in enumerate(zip(contents.studies, facts, strict=True)):
                if study.dataset is dataset:
                    for row in known.classes.get(cls.class_id, [])[:NEURONS_PER_CLASS]:
                        layer = study.layer_of(row.neuron_id)
                        if row.average_precision is not None:
                            place = [at, places[at][layer.layer_id], row.neuron_id - layer.first, round(row.average_precision, 3)]
                            best.append(place)
            best.sort(key=lambda place: -place[3])
            entry = [cls.name, f"{cls.label_set}, {dataset.name}", cls.page, best]
            paths: list[tuple[int, str, str, float]] = [
                (at, cluster.title, cluster.page, round(share, 3))
                for at, (study, its) in enumerate(zip(contents.studies, clusters, strict=True))
                for cluster, share in (its.paths.get(cls.class_id, []) if study.dataset is dataset else [])
            ]
            if paths:
                entry.append(sorted(paths, key=lambda place: -place[3])[:CLUSTERS_PER_CLASS])
            classes.append(entry)
        clips += [[clip.title, clip.page, dataset.label(clip)] for clip in dataset.clips.values()]
    words = []
    for at, (study, its) in enumerate(zip(contents.studies, concepts, strict=True)):
        for concept in its.paged:
            best = [[at, places[at][(layer := study.layer_of(n)).layer_id], n - layer.first] for n in concept.best]
            words.append([concept.title, f"{concept.kind}, {plural(concept.neurons, 'neuron')} of {study.title}", concept.page, best])
    index = {"studies": studies, "classes": classes, "words": words, "clips": clips}
    return f"AURICLE_SEARCH={json.dumps(index, ensure_ascii=False, separators=(',', ':'))};\n"
