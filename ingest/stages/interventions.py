"""Stage `interventions`: what the network loses when a cluster is disturbed, against random neurons of the same number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from ingest.language.word_lists import ESC50_AUDIOSET, read_label_map
from ingest.methods import interventions, readouts
from ingest.networks import passes
from ingest.networks.network import Layer, Network, keep_freed_memory
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import Recorded, RecordedLayer, read_recorded
from warehouse import ledger, store
from warehouse.store import UserError, activation_folder, scratch

STAGE = "interventions"
TITLE = "interventions on {network} with {dataset}"
UNIT = "units of work"
NEEDS = ("clusters",)
CODE_VERSION = 1
READOUT = "readout"
SEED = 0


@dataclass(frozen=True)
class Settings:
    """How clusters are disturbed and their effect is read out. layers: names, by default all with candidates. largest: clusters a layer.
    repeats: random draws. mode: resample or zero.

    readout: own (the network's classifier), zero-shot (classes in the hole {} of `prompt`, or behind one without), linear (a head fitted per fold
    on the network's outputs); by default the first of these that the network has. label_map: a CSV from the data set's classes to the network's
    output names; by default the names themselves where the network has them all, else the one for ESC-50 and AudioSet.
    """

    layers: tuple[str, ...] | None = None
    largest: int = interventions.LARGEST
    repeats: int = interventions.REPEATS
    mode: interventions.Mode = "resample"
    readout: Literal["own", "zero-shot", "linear"] | None = None
    label_map: Path | None = None
    prompt: str = "this is a sound of "

    def __post_init__(self) -> None:
        for name, value in (("largest", self.largest), ("repeats", self.repeats)):
            if value < 1:
                raise UserError(f"interventions: {name} is {value}, it must be at least 1")


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Disturb the candidate clusters found, each a unit of work, and read out what the network then says. A cluster without a control of its
    size has a failure row instead."""
    warehouse, network, cluster_run = context.warehouse, context.network, context.runs["clusters"]
    cluster_key, _, _ = ledger.finished(warehouse, cluster_run, "clusters")
    recorded = read_recorded(warehouse, context.runs["activations"])
    reader, parameters = read_as(network, recorded, settings.readout, settings.label_map, settings.prompt)
    parameters |= {"layers": settings.layers, "largest": settings.largest, "repeats": settings.repeats, "mode": settings.mode}
    run = recorded.begin(STAGE, CODE_VERSION, {**parameters, "clusters": cluster_key}, seed=SEED)
    if run.finished:
        return Outcome(run, 0, run.failures())
    keep_freed_memory()
    chosen = choose(warehouse, cluster_run, recorded, settings)
    done, worked, seen = run.done(), 0, 0
    total = sum(len(clusters) for clusters in chosen.values())
    layers = {layer.name: layer for layer in network.layers}
    with scratch(activation_folder(warehouse) / "interventions.tmp") as place:
        for layer in recorded.layers:
            pending = [cluster for cluster in chosen.get(layer.layer_id, []) if f"cluster {cluster}" not in done]
            seen += len(chosen.get(layer.layer_id, [])) - len(pending)
            if pending and layer.name not in layers:
                raise UserError(f"{network.name} has no layer {layer.name} any more: ingest its activations again")
            if not pending:
                continue
            with scratch(place / str(layer.layer_id)) as folder:
                disturbed = Disturbed(network, layers[layer.name], layer, recorded, context.paths, reader, folder)
                if READOUT not in done:
                    run.record([READOUT], {"readout": disturbed.undisturbed()})
                    done.add(READOUT)
                for cluster in pending:
                    frame, failure = disturbed.rows(cluster, members(warehouse, cluster), settings)
                    failures = [(f"{layer.name}, cluster {cluster}", failure)] if failure else []
                    run.record([f"cluster {cluster}"], {"intervention": frame}, failures)
                    worked += 1
                    seen += 1
                    progress(seen, total)
    run.finish()
    return Outcome(run, worked, run.failures())


Reader = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]]
"""Undisturbed outputs, labels and folds of the same clips to a read-out and the classes it can tell [classes]."""


def read_as(
    network: Network, recorded: Recorded, readout: str | None, label_map: Path | None, prompt: str
) -> tuple[Reader, dict[str, object]]:
    """The read-out of the settings (see Settings), and the parameters that say which. Raises UserError when the network lacks what it takes."""
    embed_text = getattr(network, "text_embeddings", None)
    kind = readout or ("own" if network.output_names else "zero-shot" if embed_text else "linear")
    every = np.ones(len(recorded.class_ids), dtype=bool)
    if kind == "own":
        named = label_map_of(network, recorded, label_map)
        own = readouts.own_classifier(network.output_names, recorded.class_names, named)
        return lambda *_: (own, own.readable), {"readout": kind, "label_map": store.sha256_json(named)}
    if kind == "zero-shot":
        if not embed_text:
            raise UserError(f"{network.name} reads no text: choose the readout own or linear")
        texts = embed_text([readouts.prompted(prompt, name) for name in recorded.class_names]).cpu().numpy()
        return lambda *_: (readouts.ZeroShot(texts), every), {"readout": kind, "prompt": prompt}
    return lambda outputs, labels, folds: (readouts.fit_head(outputs, labels, folds), every), {"readout": kind}


def label_map_of(network: Network, recorded: Recorded, given: Path | None) -> dict[str, list[str]]:
    """What of a network's outputs means each class: as given, by their own names, or by ESC-50's map to AudioSet. Raises UserError where none of
    these names one of its outputs."""
    if given is not None:
        return read_label_map(given)
    own, shipped = readouts.same_names(network.output_names, recorded.class_names), read_label_map(ESC50_AUDIOSET)
    if len(own) == len(recorded.class_names) > 0:
        return own
    if any(name in set(network.output_names or ()) for cls in recorded.class_names for name in shipped.get(cls, ())):
        return shipped
    if own or not network.output_names:
        return own
    raise UserError(
        f"no output of {network.name} ({', '.join(network.output_names[:3])}, ...) is a class of {recorded.dataset} "
        f'({", ".join(recorded.class_names[:3])}, ...): give names under [[network]], a label_map, or readout = "linear"'
    )


def choose(warehouse: Path, cluster_run: int, recorded: Recorded, settings: Settings) -> dict[int, list[int]]:
    """Candidate clusters by layer id, largest first: see `interventions.candidates`; the threshold is the mean over all layers' neurons."""
    names = [layer.name for layer in recorded.layers]
    for name in settings.layers or ():
        if name not in names:
            raise UserError(f"no layer {name} was recorded: {', '.join(names[:40])}")
    with store.connect_readonly(warehouse) as con:
        [(threshold,)] = con.execute(
            "SELECT sum(neuron_entropy_bits * neurons) / sum(neurons) FILTER (neuron_entropy_bits IS NOT NULL) FROM clustering WHERE run_id = ?",
            [cluster_run],
        ).fetchall()
        found = {}
        for layer in recorded.layers:
            if settings.layers and layer.name not in settings.layers:
                continue
            rows = con.execute(
                """SELECT partition, cluster_id, class_entropy_bits, neurons FROM cluster WHERE run_id = ? AND layer_id = ?
                ORDER BY partition, number""",
                [cluster_run, layer.layer_id],
            ).fetchall()
            levels = [[row for row in rows if row[0] == level] for level in sorted({row[0] for row in rows})]
            partitions = [np.repeat(np.arange(len(level)), [row[3] for row in level]) for level in levels]
            entropies = [np.array([np.nan if row[2] is None else row[2] for row in level]) for level in levels]
            best = interventions.candidates(partitions, entropies, threshold or 0.0, largest=settings.largest)
            found[layer.layer_id] = [levels[candidate.partition][candidate.cluster][1] for candidate in best]
    return found


def members(warehouse: Path, cluster: int) -> np.ndarray:
    """Neuron ids of a cluster, ascending."""
    with store.connect_readonly(warehouse) as con:
        return con.execute("SELECT neuron_id FROM cluster_member WHERE cluster_id = ? ORDER BY 1", [cluster]).fetchnumpy()["neuron_id"]


class Disturbed:
    """One layer's outputs for all clips that have a class, kept on disk, and what becomes of the read-out when some of them change."""

    def __init__(
        self,
        network: Network,
        layer: Layer,
        stored: RecordedLayer,
        recorded: Recorded,
        paths: dict[str, Path],
        reader: Reader,
        folder: Path,
    ) -> None:
        matrix = stored.matrix()
        columns = np.flatnonzero((recorded.labels >= 0) & np.isfinite(matrix).all(axis=0))
        self.layer, self.stored, self.recorded = layer, stored, recorded
        self.labels = recorded.labels[columns]
        self.live = np.flatnonzero((matrix[:, columns] != 0).any(axis=1))
        names = [recorded.clip_names[column] for column in columns]
        [self.cache] = interventions.cache_layers(network, [layer], prepared(network, names, paths), len(names), folder)
        outputs = self._outputs(np.zeros(0, dtype=np.int64), None)
        self.readout, self.readable = reader(outputs, self.labels, recorded.folds[columns])
        self.before = self.readout(outputs)

    def _outputs(self, neurons: np.ndarray, donors: np.ndarray | None) -> np.ndarray:
        positions = neurons if self.stored.kind == "position" else interventions.channel_positions(self.layer, neurons)
        outputs = interventions.run_changed(self.cache, positions, donors)
        return interventions.mean_over_tokens(outputs)

    def _counts(self, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return readouts.class_counts(predictions, self.labels, len(self.recorded.class_ids), self.readable)

    def undisturbed(self) -> pl.DataFrame:
        """Rows of table readout."""
        correct, total = self._counts(self.before)
        return pl.DataFrame({"class_id": self.recorded.class_ids, "correct": correct, "total": total}).filter(pl.col("total") > 0)

    def rows(self, cluster: int, neuron_ids: np.ndarray, settings: Settings) -> tuple[pl.DataFrame, str | None]:
        """Rows of table intervention for a cluster; or none, and why. Draws depend on the seed and the cluster's neurons alone."""
        neurons = neuron_ids - self.stored.first_neuron_id
        rng = np.random.default_rng([SEED, len(neurons), *neurons.tolist()])
        repeats = settings.repeats
        try:
            donors = interventions.draw_donors(self.cache.clips, repeats, rng)
            controls = interventions.draw_controls(self.live, neurons, repeats, rng)
        except UserError as error:
            return pl.DataFrame(), str(error)
        once = settings.mode == "zero"  # zeroing leaves nothing to chance
        frames = []
        total = self._counts(self.before)[1]
        for target, groups in (("cluster", [neurons] * (1 if once else repeats)), ("control", list(controls))):
            predictions = np.stack(
                [self.readout(self._outputs(group, None if once else donors[index])) for index, group in enumerate(groups)]
            )
            correct = self._counts(predictions)[0]
            kept = total > 0
            frames.append(
                pl.DataFrame(
                    {
                        "cluster_id": np.full(kept.sum() * len(groups), cluster),
                        "target": [target] * (int(kept.sum()) * len(groups)),
                        "repetition": np.repeat(np.arange(len(groups)), kept.sum()),
                        "class_id": np.tile(self.recorded.class_ids[kept], len(groups)),
                        "correct": correct[:, kept].ravel(),
                    }
                )
            )
        return pl.concat(frames), None


def prepared(network: Network, names: list[str], paths: dict[str, Path]) -> Iterator[torch.Tensor]:
    """The network's inputs for clips by name, a batch at a time."""
    return (passes.prepared(network, sounds) for sounds in passes.read_waveforms(network, names, paths))
