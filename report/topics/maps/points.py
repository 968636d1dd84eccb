"""What the map's page knows of its neurons, as JavaScript: columns of numbers, each a typed array in base64, and the names they refer to."""

from __future__ import annotations

import base64
import json
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from report.contents import Layer
from report.media import spectrogram_path
from report.topics.clusters import Clusters
from report.topics.descriptions import Descriptions
from report.topics.receptive import Receptive
from report.topics.topic import Known
from report.topics.trust import Trust
from report.topics.tuning import NeuronFacts, Tuning

LARGEST = 65535
"""Coordinates go from 0 to it; of numbers that refer to something, it is none."""
NONE = 255
MEASURES = {"frequency_hz": "Best frequency", "rate_hz": "Best modulation rate"}


@dataclass(frozen=True)
class Placed:
    """A layer's neurons that have a place on a map: their places in the layer, and on the map [neurons, 2]."""

    known: Known
    layer: Layer
    at: np.ndarray
    places: np.ndarray

    @property
    def neuron_ids(self) -> list[int]:
        """Their numbers."""
        return (self.layer.first + self.at).tolist()

    @property
    def facts(self) -> list[NeuronFacts]:
        """Their facts."""
        found = self.known[Tuning].layers[self.layer.layer_id]
        return [found[place] for place in self.at]


def script(placed: Sequence[Placed], missing: Container[str]) -> str:
    """JavaScript that assigns the map: `placed` layers in order, without sounds of the clips whose files are `missing`."""
    dataset, studies = placed[0].known.study.dataset, list({id(its.known): its.known for its in placed}.values())
    every = [(its, fact) for its in placed for fact in its.facts]
    places = np.concatenate([its.places for its in placed])
    frame = max(1.0, float(np.abs(places).max()))
    classes = {class_id: number for number, class_id in enumerate(dataset.main_classes)}
    clips = {clip_id: number for number, clip_id in enumerate(dict.fromkeys(fact.clip_id for _, fact in every if fact.clip_id))}
    columns = {
        "xy": _packed(np.rint((places + frame) / (2 * frame) * LARGEST), "<u2"),
        "id": _packed([fact.neuron_id for _, fact in every], "<u4"),
        "unit": _packed([its.layer.units[place] for its in placed for place in its.at], "<u4"),
        "layer": _packed(np.repeat(np.arange(len(placed)), [len(its.at) for its in placed]), "<u2"),
        "clip": _packed([LARGEST if fact.clip_id is None else clips[fact.clip_id] for _, fact in every], "<u2"),
        "class": _packed([classes.get(fact.class_id or -1, LARGEST) for _, fact in every], "<u2"),
        "precision": _share([fact.average_precision for _, fact in every]),
        "score": _share([_score(its.known, fact.neuron_id) for its, fact in every]),
    }
    clusters, of = _clusters(placed)
    columns["cluster"] = _packed(of, "<u2")
    found: dict[str, object] = {
        "n": len(every), "columns": columns,
        "layers": [[its.layer.name, its.layer.folder + its.layer.rows, studies.index(its.known)] for its in placed],
        "networks": [[known.study.title, spectrogram_path(dataset.clips[next(iter(dataset.clips))], known.study.view).partition("-")[2]] for known in studies],
        "classes": [[dataset.classes[class_id].name, dataset.classes[class_id].page] for class_id in classes],
        "clusters": clusters,
        "clips": [
            ["" if dataset.clips[clip].stem in missing else dataset.clips[clip].stem, dataset.label(dataset.clips[clip]), dataset.clips[clip].page]
            for clip in clips
        ],
        "names": {number: name for number, name in enumerate(its.layer.names[place] for its in placed for place in its.at) if name is not None},
    }  # fmt: skip
    tuned, measures = _tuned(studies), {}
    for measure, title in MEASURES.items():
        values = [tuned.get((fact.neuron_id, measure)) for _, fact in every]
        if any(values):
            measures[measure] = [title, _packed([value or 0 for value in values], "<f4")]
    return f"AURICLE_MAP={json.dumps(found | {'measures': measures}, ensure_ascii=False, separators=(',', ':'))};\n"


def words(placed: Sequence[Placed]) -> str:
    """JavaScript that assigns the descriptions of neurons on the map, in its order; empty where there are none."""
    said = [its.known[Descriptions].starts.get(neuron_id, "") for its in placed for neuron_id in its.neuron_ids]
    return f"AURICLE_MAP_WORDS={json.dumps(said, ensure_ascii=False, separators=(',', ':'))};\n" if any(said) else ""


def _packed(values: Sequence[float] | np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.asarray(values).astype(dtype).tobytes()).decode()


def _share(values: Sequence[float | None]) -> str:
    """Numbers from 0 to 1 in hundredths."""
    return _packed([NONE if value is None else round(100 * value) for value in values], "u1")


def _score(known: Known, neuron_id: int) -> float | None:
    found = known[Trust].scores.get(neuron_id)
    return found[0].auroc if found else None


def _clusters(placed: Sequence[Placed]) -> tuple[list[tuple[str, str]], list[int]]:
    """Titles and addresses of the chosen clusters that have neurons on the map, and the number of each neuron's."""
    titles: list[tuple[str, str]] = []
    number: dict[int, int] = {}
    of: dict[int, int] = {}
    for its in placed:
        chosen = {cluster.cluster_id: cluster for cluster in its.known[Clusters].chosen(its.layer)}
        for cluster_id, neuron_id in its.known[Clusters].members(its.layer) if chosen else ():
            if cluster_id in chosen and len(titles) < LARGEST:
                if cluster_id not in number:
                    number[cluster_id] = len(titles)
                    titles.append((chosen[cluster_id].title, chosen[cluster_id].page))
                of[neuron_id] = number[cluster_id]
    return titles, [of.get(neuron_id, LARGEST) for its in placed for neuron_id in its.neuron_ids]


def _tuned(studies: Sequence[Known]) -> dict[tuple[int, str], float]:
    """What neurons are tuned to, by neuron and measure, of each network's latest run."""
    runs = [run for known in studies if (run := known[Receptive].run_id) is not None]
    rows = studies[0].con.execute(
        "SELECT neuron_id, measure, value FROM tuning WHERE list_contains(?, run_id) AND list_contains(?, measure) AND value IS NOT NULL",
        [runs, list(MEASURES)],
    ).fetchall() if runs else []  # fmt: skip
    return {(neuron_id, measure): value for neuron_id, measure, value in rows}
