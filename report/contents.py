"""What the atlas shows of a warehouse, and where: studies (a network on a data set), their layers, data sets, classes and clips."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import duckdb

from report.addresses import slugs

STIMULI = "stimuli"
"""The reader of synthesised stimuli."""
UNHEARD_CLIP_S = 10.0
UNHEARD_RATE_HZ = 44100
"""Seconds and rate of the spectrograms of a data set that no network has heard yet."""


@dataclass(frozen=True, slots=True)
class View:
    """A spectrogram's window on a clip: what a network hears of it."""

    clip_s: float
    rate_hz: int

    @property
    def name(self) -> str:
        """What ends the names of its pictures."""
        return f"{self.clip_s:g}s-{self.rate_hz / 1000:g}k"


@dataclass(slots=True)
class Clip:
    """A clip and the address of its page."""

    clip_id: int
    name: str
    sha256: str
    duration_s: float
    page: str
    classes: list[int] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """Name of its media files, without ending."""
        return self.sha256[:16]

    @property
    def title(self) -> str:
        """Its name without the ending."""
        return str(PurePosixPath(self.name).with_suffix(""))

    def start_s(self, clip_s: float) -> float:
        """Where the part a network hears begins: longer clips give their middle."""
        return max(0.0, (self.duration_s - clip_s) / 2)


@dataclass(slots=True)
class Class:
    """A class and the address of its page."""

    class_id: int
    label_set: str
    name: str
    page: str
    clips: list[int] = field(default_factory=list)


class Place:
    """What has a folder."""

    __slots__ = ()
    folder: str

    @property
    def page(self) -> str:
        """Address of its page."""
        return f"{self.folder}/index.html"

    @property
    def short(self) -> str:
        """Name of its folder within the one above."""
        return self.folder.rpartition("/")[2]


@dataclass(slots=True)
class Dataset(Place):
    """One version of a data set, with its clips and classes by number."""

    dataset_id: int
    run_id: int
    name: str
    version: int
    reader: str
    source: str
    content_sha256: str
    license: str | None
    folder: str
    clips: dict[int, Clip] = field(default_factory=dict)
    classes: dict[int, Class] = field(default_factory=dict)
    label_sets: dict[str, list[int]] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)

    def class_of(self, class_id: int | None) -> Class | None:
        """The class of a number; None for no class."""
        return None if class_id is None else self.classes.get(class_id)

    @property
    def main_classes(self) -> list[int]:
        """Classes of the main label set, the first."""
        return next(iter(self.label_sets.values()), [])

    @property
    def chances(self) -> dict[int, float]:
        """Average precision a neuron reaches by chance, by class: the share of the label set's clips that carry the class."""
        out = {}
        for members in self.label_sets.values():
            labelled = len({clip for class_id in members for clip in self.classes[class_id].clips})
            for class_id in members:
                out[class_id] = len(self.classes[class_id].clips) / labelled if labelled else 0.0
        return out

    def label(self, clip: Clip) -> str:
        """The clip's classes in words."""
        return ", ".join(dict.fromkeys(self.classes[c].name for c in clip.classes)) or "unlabelled"

    def main_label(self, clip: Clip) -> str:
        """Those of the main label set, or its name where it has none."""
        main = set(self.main_classes)
        return ", ".join(self.classes[c].name for c in clip.classes if c in main) or clip.title


@dataclass(slots=True)
class Layer(Place):
    """A layer, with its neurons `first` to `first + neurons - 1`, and the reduction its pages show."""

    layer_id: int
    name: str
    position: int
    module: str
    kind: str
    shape: str
    non_negative: bool
    first: int
    neurons: int
    folder: str
    reductions: list[str] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    is_asked: bool = True
    """Whether its neurons' pages are to be made; links to neurons of other layers lead to their row on the layer's page."""

    @property
    def last(self) -> int:
        """Its last neuron."""
        return self.first + self.neurons - 1

    @property
    def ids(self) -> range:
        """Numbers of its neurons."""
        return range(self.first, self.first + self.neurons)

    @property
    def reduction(self) -> str:
        """What a clip's value is on the pages: the mean when it was kept."""
        return "mean" if "mean" in self.reductions or not self.reductions else self.reductions[0]

    @property
    def has_pages(self) -> bool:
        """Whether each neuron has a page; single positions of a feature map are too many."""
        return self.kind != "position"

    def file(self, neuron_id: int) -> str:
        """File name of a neuron's page, or the address of its row on the layer's page."""
        unit = self.units[neuron_id - self.first]
        return f"{unit:04d}.html" if self.is_asked else f"index.html#show={unit}"

    @property
    def rows(self) -> str:
        """What scripts need to know where its neurons are: nothing where they have pages."""
        return "" if self.is_asked else "/index.html#show="

    def title(self, neuron_id: int) -> str:
        """The neuron in words: layer, number, and class name for the outputs of a classifier."""
        at = neuron_id - self.first
        return f"{self.name} · {self.units[at]}" + (f" ({self.names[at]})" if self.names[at] is not None else "")


@dataclass(slots=True)
class Study(Place):
    """The latest finished run of a network over a data set. Over synthesised stimuli it has no pages where the same network has some by natural
    sounds, its `host`: these show its tuning."""

    run_id: int
    network_id: int
    name: str
    family: str
    checkpoint: str
    view: View
    window_s: float
    window_hop_s: float
    note: str | None
    dataset: Dataset
    folder: str
    host: Study | None = None
    layers: list[Layer] = field(default_factory=list)
    by_first: list[Layer] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Network and data set in words."""
        return f"{self.name} on {self.dataset.name}"

    def name_of(self, neuron_id: int) -> str | None:
        """A neuron's own name."""
        layer = self.layer_of(neuron_id)
        return layer.names[neuron_id - layer.first]

    def has_page(self, neuron_id: int) -> bool:
        """Whether the neuron has a page: positions have none, and neither do layers of other runs."""
        at = bisect_right(self.firsts, neuron_id) - 1
        return at >= 0 and neuron_id < self.by_first[at].first + self.by_first[at].neurons

    def layer_of(self, neuron_id: int) -> Layer:
        """Layer that a neuron with a page belongs to."""
        return self.by_first[bisect_right(self.firsts, neuron_id) - 1]


@dataclass(slots=True)
class Contents:
    """All the atlas shows, in the order it shows it."""

    studies: list[Study]
    datasets: list[Dataset]
    left_out: int = 0
    """Neurons without a page because there would be too many."""

    @property
    def neurons(self) -> int:
        """Neurons that have a page."""
        return sum(layer.neurons for study in self.own for layer in study.by_first if layer.is_asked)

    @property
    def own(self) -> list[Study]:
        """Studies that have pages of their own."""
        return [study for study in self.studies if study.host is None]


def read(con: duckdb.DuckDBPyConnection) -> Contents:
    """Read what the atlas shows: the latest finished run of each network over each data set, and each data set's latest version.

    A run over every position of feature maps stands beside one over channels; its layers are listed with the study's, without pages.
    """
    # The address order is that of first runs, so that no later run changes an address.
    runs = con.execute("""
        SELECT network, dataset, run_id, network_id, dataset_id, has_positions
        FROM (SELECT *, min(run_id) OVER (PARTITION BY network, dataset) AS first FROM v_activation_run)
        WHERE is_latest ORDER BY first, has_positions
    """).fetchall()
    datasets = _datasets(con, {row[4] for row in runs})
    names = [name for (name,) in con.execute("SELECT name FROM network GROUP BY name ORDER BY min(network_id)").fetchall()]
    short = dict(zip(names, slugs(names), strict=True))
    studies: dict[tuple[str, str], Study] = {}
    heard_first: dict[str, str] = {}
    for network, dataset_name, run_id, network_id, dataset_id, _ in runs:
        if (network, dataset_name) in studies:
            study = studies[network, dataset_name]
            study.layers += [layer for layer in _layers(con, study.folder, network_id, run_id) if not layer.has_pages]
            continue
        dataset = datasets[dataset_id]
        family, checkpoint, rate, clip_s, window_s, hop_s, note = con.execute(
            """SELECT family, checkpoint_sha256, sample_rate_hz, clip_s, window_s, window_hop_s, note FROM network
               WHERE network_id = ?""",
            [network_id],
        ).fetchall()[0]
        # The first data set heard by a network has the short address for good; every further one is named in its own.
        folder = f"networks/{short[network]}"
        if heard_first.setdefault(network, dataset_name) != dataset_name:
            folder += f"~{slugs([dataset_name])[0]}"
        view = View(clip_s, rate)
        if view not in dataset.views:
            dataset.views.append(view)
        study = Study(run_id, network_id, network, family, checkpoint, view, window_s, hop_s, note, dataset, folder)
        study.layers = _layers(con, folder, network_id, run_id)
        studies[network, dataset_name] = study
    for study in studies.values():
        with_pages = sorted((layer for layer in study.layers if layer.has_pages), key=lambda layer: layer.first)
        study.by_first, study.firsts = with_pages, [layer.first for layer in with_pages]
    for study in studies.values():
        _lodge(study, [other for other in studies.values() if other.network_id == study.network_id])
    for dataset in datasets.values():
        dataset.views = dataset.views or [View(UNHEARD_CLIP_S, UNHEARD_RATE_HZ)]
    return Contents(list(studies.values()), list(datasets.values()))


def _lodge(study: Study, same: list[Study]) -> None:
    """Give a study of stimuli the addresses of one of the `same` network that heard natural sounds through all its layers."""
    recorded = {layer.layer_id for layer in study.layers}
    for other in same if study.dataset.reader == STIMULI else ():
        there = {layer.layer_id: layer.folder for layer in other.layers}
        if other.dataset.reader != STIMULI and recorded <= there.keys():
            study.host, study.folder = other, other.folder
            for layer in study.layers:
                layer.folder = there[layer.layer_id]
            return


def runs_of(con: duckdb.DuckDBPyConnection, study: Study, stage: str) -> list[int]:
    """Finished runs of a later stage on a study's network and data set as they stand there; latest first."""
    rows = con.execute(
        """SELECT run_id FROM run WHERE stage = ? AND status = 'done' AND network_sha256 = ? AND dataset_sha256 = ?
           AND parameters::JSON ->> 'network' = ? AND parameters::JSON ->> 'dataset' = ?
           AND (parameters::JSON ->> 'clip_s')::DOUBLE = ? ORDER BY run_id DESC""",
        [stage, study.checkpoint, study.dataset.content_sha256, study.name, study.dataset.name, study.view.clip_s],
    ).fetchall()
    return [run_id for (run_id,) in rows]


def scores_of(con: duckdb.DuckDBPyConnection, described: int | None) -> int | None:
    """The latest finished run of stage scores of a run of descriptions."""
    [(run_id,)] = con.execute(
        """SELECT max(scored.run_id) FROM run AS scored JOIN run AS described ON described.run_key = scored.parameters::JSON ->> 'descriptions'
           WHERE scored.stage = 'scores' AND scored.status = 'done' AND described.run_id = ?""",
        [described],
    ).fetchall()
    return run_id


def _datasets(con: duckdb.DuckDBPyConnection, heard: set[int]) -> dict[int, Dataset]:
    """The versions heard by a network, and the latest of each name."""
    rows = con.execute("""
        SELECT dataset_id, run_id, name, version, reader, source, content_sha256, license, max(version) OVER (PARTITION BY name) AS latest
        FROM dataset ORDER BY dataset_id
    """).fetchall()
    names = list(dict.fromkeys(row[2] for row in rows))
    short = dict(zip(names, slugs(names), strict=True))
    datasets = {}
    for dataset_id, run_id, name, version, reader, source, sha, license, latest in rows:
        if version != latest and dataset_id not in heard:
            continue
        folder = f"datasets/{short[name]}" + ("" if version == latest else f"~v{version}")
        dataset = Dataset(dataset_id, run_id, name, version, reader, source, sha, license, folder)
        clips = con.execute(
            "SELECT clip_id, name, sha256, duration_s FROM clip WHERE dataset_id = ? ORDER BY clip_id", [dataset_id]
        ).fetchall()
        pages = slugs([PurePosixPath(clip[1]).with_suffix("").as_posix() for clip in clips])
        for (clip_id, clip_name, clip_sha, duration_s), page in zip(clips, pages, strict=True):
            dataset.clips[clip_id] = Clip(clip_id, clip_name, clip_sha, duration_s, f"{folder}/clips/{page}.html")
        _read_classes(con, dataset)
        datasets[dataset_id] = dataset
    return datasets


def _read_classes(con: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
    sets = con.execute("SELECT label_set_id, name FROM label_set WHERE dataset_id = ? ORDER BY 1", [dataset.dataset_id]).fetchall()
    for (set_id, set_name), short in zip(sets, slugs([name for _, name in sets]), strict=True):
        classes = con.execute("SELECT class_id, name FROM class WHERE label_set_id = ? ORDER BY 1", [set_id]).fetchall()
        dataset.label_sets[set_name] = [class_id for class_id, _ in classes]
        for (class_id, name), page in zip(classes, slugs([name for _, name in classes]), strict=True):
            dataset.classes[class_id] = Class(class_id, set_name, name, f"{dataset.folder}/classes/{short}/{page}.html")
    for clip_id, class_id in con.execute(
        "SELECT clip_id, class_id FROM clip_label JOIN clip USING (clip_id) WHERE dataset_id = ? ORDER BY clip_id, class_id",
        [dataset.dataset_id],
    ).fetchall():
        dataset.clips[clip_id].classes.append(class_id)
        dataset.classes[class_id].clips.append(clip_id)


def _layers(con: duckdb.DuckDBPyConnection, folder: str, network_id: int, run_id: int) -> list[Layer]:
    """The layers a run recorded, in forward order."""
    rows = con.execute(
        """SELECT layer_id, name, position, module, kind, shape, non_negative, first, neurons
           FROM layer JOIN (SELECT layer_id, min(neuron_id) AS first, count(*) AS neurons FROM neuron GROUP BY layer_id) USING (layer_id)
           WHERE network_id = ? ORDER BY layer_id""",
        [network_id],
    ).fetchall()
    recorded: dict[int, list[str]] = {}
    for layer_id, reduction in con.execute(
        "SELECT layer_id, reduction FROM activation_file WHERE run_id = ? ORDER BY 1, 2", [run_id]
    ).fetchall():
        recorded.setdefault(layer_id, []).append(reduction)
    # Addresses are given over all of the network's layers, so that a run of fewer layers changes none.
    short = slugs([row[1] for row in rows])
    layers = []
    for (layer_id, name, position, module, kind, shape, non_negative, first, count), page in zip(rows, short, strict=True):
        if layer_id in recorded:
            place = f"{folder}/{page}"
            layer = Layer(layer_id, name, position, module, kind, shape, non_negative, first, count, place, recorded[layer_id])
            if layer.has_pages:
                neurons = con.execute("SELECT unit, name FROM neuron WHERE layer_id = ? ORDER BY neuron_id", [layer.layer_id]).fetchall()
                layer.units, layer.names = [unit for unit, _ in neurons], [name for _, name in neurons]
            layers.append(layer)
    return sorted(layers, key=lambda layer: (layer.position, layer.layer_id))
