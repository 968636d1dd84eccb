"""Stage `specific_ablations`: what a read-out loses when the neurons specific to a class are silenced, against random draws of the same
size."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import polars as pl
import torch

from ingest.methods import interventions
from ingest.methods.ablations import ablated, inner_layers
from ingest.methods.interventions import BATCH_CLIPS, Cache
from ingest.methods.readouts import LinearHead
from ingest.networks.network import Layer, Network, keep_freed_memory
from ingest.networks.passes import module_device
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.interventions import READOUT, Reader, prepared, read_as
from ingest.stages.recorded import Recorded, durations, read_recorded, relabelled
from warehouse import ledger, store
from warehouse.store import UserError, activation_folder, scratch

STAGE = "specific_ablations"
TITLE = "ablations of class-specific neurons of {network} with {dataset}"
UNIT = "units of work"
NEEDS = ("specificity",)
CODE_VERSION = 1
SEED = 0


@dataclass(frozen=True)
class Settings:
    """How neurons specific to a class are silenced. measures: those of table specific_neuron that choose neurons. draws: random ones a class.
    folds: clips that are read, by default all; a linear head is fitted on the undisturbed outputs of all other folds. readout, label_map,
    prompt: as for interventions, and readout embedding: a linear head on the embedding that users of the network take (M2D: means over time
    of the tokens of a time side by side, CLS and padding left out). pairs: of classes, whose neurons are silenced together, against draws and
    against the units next to them; each_class: whether those of every class by itself are too. label_set: by default the data set's first.
    """

    measures: tuple[Literal["aape", "lape", "selectivity", "average_precision", "auroc"], ...] = ("aape",)
    draws: int = 10
    folds: tuple[int, ...] | None = None
    readout: Literal["own", "zero-shot", "linear", "embedding"] | None = None
    label_map: Path | None = None
    prompt: str = "this is a sound of "
    label_set: str | None = None
    pairs: tuple[tuple[str, ...], ...] = ()
    each_class: bool = True

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UserError(f"specific_ablations: draws is {self.draws}, it must be at least 1")
        if not (self.each_class or self.pairs):
            raise UserError("specific_ablations: each_class is false and there are no pairs: nothing would be silenced")
        for pair in self.pairs:
            if len(set(pair)) != 2 or len(pair) != 2:
                raise UserError(f"specific_ablations: pairs holds {list(pair)}, each must name two classes")


Units = dict[str, np.ndarray]
"""Units to silence [units] by layer name, layers in forward order."""


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Silence every class's specific neurons of all layers at once, then random ones, and count what is read rightly; a class, or pair of
    classes, and measure is a unit of work.

    Outputs themselves are never silenced. A class without specific neurons, with too few others in a layer to draw from, or none of whose
    clips is read, has a failure row instead.
    """
    warehouse, network, specificity_run, paths = context.warehouse, context.network, context.runs["specificity"], context.paths
    specificity_key, _, _ = ledger.finished(warehouse, specificity_run, "specificity")
    recorded = read_recorded(warehouse, context.runs["activations"])
    if any(layer.kind == "position" for layer in recorded.layers):
        raise UserError("specific_ablations silence channels and units, not positions: record the activations without positions")
    if settings.label_set is not None:
        recorded = relabelled(recorded, settings.label_set)
    embedding = settings.readout == "embedding"
    if embedding and not hasattr(network, "embeddings"):
        raise UserError(f"{network.name} has no embedding of its own: choose another readout for specific_ablations, such as linear")
    reader, parameters = read_as(network, recorded, "linear" if embedding else settings.readout, settings.label_map, settings.prompt)
    parameters |= {"readout": "embedding"} if embedding else {}
    pairs = [_numbers(recorded, pair) for pair in settings.pairs]
    folds = None if settings.folds is None else sorted(set(settings.folds))
    parameters |= {"label_set": settings.label_set, "measures": settings.measures, "draws": settings.draws, "folds": folds}
    parameters |= ({"pairs": settings.pairs} if pairs else {}) | ({} if settings.each_class else {"each_class": False})
    run = recorded.begin(STAGE, CODE_VERSION, {**parameters, "specificity": specificity_key}, seed=SEED)
    if run.finished:
        return Outcome(run, 0, run.failures())
    keep_freed_memory()
    live, complete = _living(recorded, network)
    known = complete & (recorded.labels >= 0)
    read = known & (np.isin(recorded.folds, folds) if folds is not None else True)
    if not read.any():
        among = ", ".join(map(str, np.unique(recorded.folds[known])))
        which = f" lies in the folds {folds}: choose among {among}" if known.any() else ": nothing can be read"
        raise UserError(f"no clip of {recorded.dataset} with one class{which}")
    chosen = specific_units(warehouse, specificity_run, recorded, network, settings.measures)
    place = {layer.name: number for number, layer in enumerate(network.layers)}
    # Classes that begin at the same layer in a row: its outputs are kept for one of them after the other.
    plan = sorted(chosen, key=lambda pair: place[next(iter(chosen[pair]))] if chosen[pair] else -1)
    worked = 0
    with scratch(activation_folder(warehouse) / "specific_ablations.tmp") as folder:
        clips = _Clips(network, recorded, read, paths, folder, embedding)
        rest = known & ~read if parameters["readout"] in ("linear", "embedding") else np.zeros_like(known)
        clips.begin(*_readout(network, recorded, read, rest, clips, reader, paths))
        if READOUT not in run.done():
            run.record([READOUT], {"readout": clips.undisturbed()})
        items: dict[str, tuple[str, tuple[int, ...]]] = {
            f"{measure}, class {recorded.class_ids[label]}": (measure, (label,)) for measure, label in plan if settings.each_class
        }
        for first, second in pairs:
            item = f"classes {recorded.class_ids[first]} and {recorded.class_ids[second]}"
            items |= {f"{measure}, {item}": (measure, (first, second)) for measure in settings.measures}
        for item, (measure, labels) in run.pending(items, progress):
            units = _union([chosen[measure, label] for label in labels], place)
            frame, failure = clips.rows(measure, labels, units, live, settings.draws)
            failures = [(f"{' and '.join(recorded.class_names[label] for label in labels)}, {measure}", failure)] if failure else []
            run.record([item], {"specific_ablation" if len(labels) == 1 else "pair_ablation": frame}, failures)
            worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def _numbers(recorded: Recorded, pair: tuple[str, ...]) -> tuple[int, int]:
    """Numbers of two classes by name."""
    for name in pair:
        if name not in recorded.class_names:
            raise UserError(
                f"specific_ablations: pairs: {recorded.dataset} has no class {name}: it has {', '.join(recorded.class_names[:40])}"
            )
    return recorded.class_names.index(pair[0]), recorded.class_names.index(pair[1])


def _union(several: list[Units], place: dict[str, int]) -> Units:
    """Units of all, layers in forward order."""
    layers = sorted({layer for units in several for layer in units}, key=place.__getitem__)
    return {layer: np.unique(np.concatenate([units[layer] for units in several if layer in units])) for layer in layers}


def _living(recorded: Recorded, network: Network) -> tuple[Units, np.ndarray]:
    """By inner layer the units that are not 0 on every clip, and which clips [clips] are finite in every layer."""
    complete = np.ones(len(recorded.clip_ids), dtype=bool)
    for layer in recorded.layers:
        complete &= np.isfinite(layer.matrix()).all(axis=0)
    inner = {layer.name for layer in inner_layers(network)}
    return {
        layer.name: np.flatnonzero((layer.matrix()[:, complete] != 0).any(axis=1)) for layer in recorded.layers if layer.name in inner
    }, complete


def specific_units(
    warehouse: Path, specificity_run: int, recorded: Recorded, network: Network, measures: Iterable[str]
) -> dict[tuple[str, int], Units]:
    """The inner layers' units specific to each class (by its number) by each measure; empty where there are none."""
    found: dict[tuple[str, int], Units] = {(measure, label): {} for measure in measures for label in range(len(recorded.class_ids))}
    number = {int(class_id): label for label, class_id in enumerate(recorded.class_ids)}
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            """SELECT measure, class_id, layer.name, list(unit ORDER BY unit) FROM specific_neuron JOIN neuron USING (neuron_id)
            JOIN layer USING (layer_id) WHERE run_id = ? GROUP BY measure, class_id, layer.name, position ORDER BY position""",
            [specificity_run],
        ).fetchall()
    inner = {layer.name for layer in inner_layers(network)}
    outputs = network.layers[-1].name if network.output_names else None
    for measure, class_id, layer, units in rows:
        key = (measure, number.get(class_id, -1))
        if key not in found or layer == outputs:
            continue
        if layer not in inner:
            raise UserError(f"{network.name} has no layer {layer} any more: ingest its activations again")
        found[key][layer] = np.array(units, dtype=np.int64)
    return found


def draw(live: Units, units: Units, draws: int) -> list[Units]:
    """As many random live units of every layer, none of the given. They depend on the seed and the given units alone.

    Raises UserError when a layer has too few others.
    """
    rng = np.random.default_rng([SEED, *(len(chosen) for chosen in units.values()), *np.concatenate(list(units.values())).tolist()])
    drawn: dict[str, np.ndarray] = {}
    for layer, chosen in units.items():
        try:
            drawn[layer] = interventions.draw_controls(live[layer], chosen, draws, rng)
        except UserError as error:
            raise UserError(f"layer {layer}: {error}") from None
    return [{layer: np.sort(chosen[repetition]) for layer, chosen in drawn.items()} for repetition in range(draws)]


class Passes:
    """Runs the network over the same clips again and again, with some neurons silenced.

    Only what lies above the first silenced layer is run, from the outputs of that layer, kept in `folder` until another is first; the whole
    network where it is more than a sequence, or where with the seconds of sound `valid_s` [clips] its embeddings are asked for. `inputs` are
    prepared, [clips * windows, ...].
    """

    def __init__(self, network: Network, inputs: torch.Tensor, folder: Path, valid_s: torch.Tensor | None = None) -> None:
        self.network, self.folder = network, folder
        self.batches = inputs.split(BATCH_CLIPS * network.windows)
        self.valid_s = None if valid_s is None else valid_s.split(BATCH_CLIPS)
        self.clips = len(inputs) // network.windows
        self.cache: Cache | None = None
        self.reached: set[str] = set()

    def outputs(self, units: Units) -> np.ndarray:
        """Outputs [clips, outputs], means over windows and tokens, or embeddings, without these units."""
        layers = [layer for layer in self.network.layers if len(units.get(layer.name, ()))]
        if self.valid_s is None and layers and self.network.tail_form(layers[0]) != "whole pass":
            first, above = layers[0], {layer.name: units[layer.name] for layer in layers[1:]}
            cache = self._keep(first)
            if above.keys() <= self.reached:
                with ablated(self.network, above):
                    return interventions.mean_over_tokens(
                        interventions.run_changed(cache, interventions.channel_positions(first, units[first.name]), None)
                    )
        with ablated(self.network, units):
            return forward(self.network, self.batches, self.valid_s)

    def _keep(self, layer: Layer) -> Cache:
        """The outputs of a layer; `reached` are then the layers that running from it passes through, so that they can be silenced on the way."""
        if self.cache is not None and self.cache.layer.name == layer.name:
            return self.cache
        self.cache = None
        place = self.folder / "layer"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        [self.cache] = interventions.cache_layers(self.network, [layer], self.batches, self.clips, place)
        ran: list[str] = []
        handles = [
            self.network.module.get_submodule(other.module).register_forward_hook(lambda *_, name=other.name: ran.append(name))
            for other in self.network.layers
        ]
        try:
            inputs = None if self.cache.inputs is None else self.cache.inputs[:1]
            interventions.run_changed(replace(self.cache, values=self.cache.values[:1], inputs=inputs), np.zeros(0, dtype=np.int64), None)
        finally:
            for handle in handles:
                handle.remove()
        self.reached = {name for name in ran if ran.count(name) == 1}
        return self.cache


def forward(network: Network, batches: Iterable[torch.Tensor], valid_s: Iterable[torch.Tensor] | None = None) -> np.ndarray:
    """Outputs [clips, outputs] of prepared inputs, batches of [clips * windows, ...], means over windows and tokens; with each batch's seconds of
    sound [clips] the network's embeddings [clips, values]."""
    device = module_device(network)
    outputs = (network.forward(batch.to(device)).float() for batch in batches)
    if valid_s is not None:
        embeddings = cast(Any, network).embeddings
        return np.concatenate(
            [embeddings(tokens, seconds.to(device)).cpu().numpy() for tokens, seconds in zip(outputs, valid_s, strict=True)]
        )
    return interventions.mean_over_tokens(torch.cat([network.mean_over_windows(tokens).cpu() for tokens in outputs]).numpy())


def _readout(
    network: Network, recorded: Recorded, read: np.ndarray, rest: np.ndarray, clips: _Clips, reader: Reader, paths: dict[str, Path]
) -> tuple[interventions.Readout, np.ndarray]:
    """The read-out of the `clips` that are `read`, fitted where need be with the `rest` as well."""
    outputs = clips.outputs
    if not rest.any():
        return reader(outputs, recorded.labels[read], recorded.folds[read])
    every = np.full((len(read), outputs.shape[1]), np.nan, dtype=outputs.dtype)
    every[read] = outputs
    names = [recorded.clip_names[column] for column in np.flatnonzero(rest)]
    seconds = _seconds(recorded, rest, network).split(BATCH_CLIPS) if clips.passes.valid_s is not None else None
    every[rest] = forward(network, prepared(network, names, paths), seconds)
    used = read | rest
    # Nobody asks for a head for the rest: they are one fold, 0, so that it is fitted once.
    head, readable = reader(every[used], recorded.labels[used], np.where(read, recorded.folds, 0)[used])
    assert isinstance(head, LinearHead)
    asked = {fold: classifier for fold, classifier in head.classifiers.items() if fold != 0}
    return LinearHead(head.folds[read[used]], asked), readable


class _Clips:
    """The clips that are read, and what of it is right."""

    def __init__(
        self, network: Network, recorded: Recorded, read: np.ndarray, paths: dict[str, Path], folder: Path, embedding: bool = False
    ) -> None:
        names = [recorded.clip_names[column] for column in np.flatnonzero(read)]
        self.recorded, self.labels = recorded, recorded.labels[read]
        inputs = _kept(prepared(network, names, paths), len(names) * network.windows, folder)
        self.passes = Passes(network, inputs, folder, _seconds(recorded, read, network) if embedding else None)
        self.outputs = self.passes.outputs({})

    def begin(self, readout: interventions.Readout, readable: np.ndarray) -> None:
        """Read the undisturbed outputs; clips that cannot be read are left out of all counts from then on."""
        self.readout = readout
        before = readout(self.outputs)
        counted = (before >= 0) & readable[self.labels]
        if not counted.any():
            raise UserError(f"no clip of {self.recorded.dataset} can be read: choose other folds or another read-out")
        self.member = ((self.labels[:, None] == np.arange(len(readable))) & counted[:, None]).astype(np.int64)
        self.total, self.correct = self.member.sum(axis=0), self._correct(before)

    def _correct(self, predictions: np.ndarray) -> np.ndarray:
        """Clips told rightly [..., classes] by predictions [..., clips]."""
        return (predictions == self.labels).astype(np.int64) @ self.member

    def undisturbed(self) -> pl.DataFrame:
        """Rows of table readout."""
        rows = {"class_id": self.recorded.class_ids, "correct": self.correct, "total": self.total}
        return pl.DataFrame(rows).filter(pl.col("total") > 0)

    def rows(self, measure: str, labels: tuple[int, ...], units: Units, live: Units, draws: int) -> tuple[pl.DataFrame, str | None]:
        """Rows of table specific_ablation for a class, by its number, or of pair_ablation for two; or none, and why."""
        if not units:
            return pl.DataFrame(), f"no neuron below the outputs is specific to {'the class' if len(labels) == 1 else 'either class'}"
        if not self.total[list(labels)].any():
            return pl.DataFrame(), "none of its clips is read"
        try:
            drawn = draw(live, units, draws)
        except UserError as error:
            return pl.DataFrame(), str(error)
        targets = [("specific", 0, units), *(("random", number, chosen) for number, chosen in enumerate(drawn))]
        named = {"class_id": labels[0]}
        if len(labels) > 1:
            targets.append(("next", 0, self._next(units)))
            named = {"first_class_id": labels[0], "second_class_id": labels[1]}
        correct = np.stack([self._correct(self.readout(self.passes.outputs(chosen))) for _, _, chosen in targets])
        kept = np.flatnonzero(self.total)
        rows = len(kept) * len(targets)
        return pl.DataFrame(
            {
                "measure": [measure] * rows,
                **{column: np.full(rows, self.recorded.class_ids[label]) for column, label in named.items()},
                "target": np.repeat([target for target, _, _ in targets], len(kept)),
                "repetition": np.repeat([repetition for _, repetition, _ in targets], len(kept)),
                "neurons": np.full(rows, sum(len(chosen) for chosen in units.values())),
                "read_class_id": np.tile(self.recorded.class_ids[kept], len(targets)),
                "correct": correct[:, kept].ravel(),
            }
        ), None

    def _next(self, units: Units) -> Units:
        """The unit after each; the first after a layer's last."""
        sizes = {layer.name: layer.neurons for layer in self.passes.network.layers}
        return {layer: np.unique((chosen + 1) % sizes[layer]) for layer, chosen in units.items()}


def _seconds(recorded: Recorded, which: np.ndarray, network: Network) -> torch.Tensor:
    """Seconds of sound that the network gets of the clips that are meant by `which` [clips] (bool)."""
    return torch.from_numpy(np.minimum(durations(recorded), network.clip_s)[which])


def _kept(batches: Iterable[torch.Tensor], rows: int, folder: Path) -> torch.Tensor:
    """Batches of prepared inputs as one tensor of that many rows (float32), mapped from a new file in `folder`."""
    kept: np.ndarray | None = None
    done = 0
    for batch in batches:
        if kept is None:
            kept = np.memmap(folder / "inputs.float32", np.float32, "w+", shape=(rows, *batch.shape[1:]))
        kept[done : done + len(batch)] = batch.float().cpu().numpy()
        done += len(batch)
    assert kept is not None
    return torch.from_numpy(kept)
