"""The search index: names and addresses of neurons, classes, words and clips as one classic script."""

from __future__ import annotations

import json

from report.contents import Contents, Study


class Index:
    """What the search finds; topics add to it.

    `studies`: title `t`, folder `f`, layers `l` as [name, folder, neurons, units or null when they count from 0, names or null]; where
    descriptions were scored, the held-out AUROC of each neuron's behind it, in hundredths or null, and a digit for each, its place in
    analyze.trust.LEVELS.
    `classes`: [name, label set and data set, page, [[study, layer, place in the layer, average precision], ...]], best detectors first;
    where clusters owe a class more of their activation than any other of their layer, [[study, name, page, share], ...] behind it.
    `words`: [word, its kind and how many neurons of which study carry it, page, [[study, layer, place in the layer], ...]], of the words with
    a page. `clips`: [name, page, classes]. `layers` holds entries by run of the study and number, `classes` by number.
    """

    def __init__(self, contents: Contents) -> None:
        self.layers: dict[tuple[int, int], list] = {}
        self.classes: dict[int, list] = {}
        self.words: list[list] = []
        self.clips: list[list] = []
        self._studies: list[dict] = []
        self._places: dict[tuple[int, int], tuple[int, int]] = {}
        for at, study in enumerate(contents.own):
            shown = [layer for layer in study.layers if layer.has_pages]
            for place, layer in enumerate(shown):
                units = None if layer.units == list(range(layer.neurons)) else layer.units
                names = layer.names if any(name is not None for name in layer.names) else None
                key = (study.run_id, layer.layer_id)
                self._places[key] = (at, place)
                self.layers[key] = [layer.name, layer.short, layer.neurons, units, names]
            self._studies.append({"t": study.title, "f": study.folder, "l": [self.layers[study.run_id, layer.layer_id] for layer in shown]})
        for dataset in contents.datasets:
            self.classes |= {c.class_id: [c.name, f"{c.label_set}, {dataset.name}", c.page, []] for c in dataset.classes.values()}
            self.clips += [[clip.title, clip.page, dataset.label(clip)] for clip in dataset.clips.values()]

    def neuron(self, study: Study, neuron_id: int) -> list[int]:
        """A neuron as entries name it: study, layer, place in the layer."""
        layer = study.layer_of(neuron_id)
        return [*self._places[study.run_id, layer.layer_id], neuron_id - layer.first]

    def script(self) -> str:
        """JavaScript that assigns the index."""
        index = {"studies": self._studies, "classes": [*self.classes.values()], "words": self.words, "clips": self.clips}
        return f"AURICLE_SEARCH={json.dumps(index, ensure_ascii=False, separators=(',', ':'))};\n"
