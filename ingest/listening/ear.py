"""A network that hears sounds just as a run of stage activations heard its clips."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ingest.listening.sounds import Sound
from ingest.networks.identity import differences, known_as
from ingest.networks.network import Layer, Network, keep_freed_memory, pick_device
from ingest.networks.registry import BUILT_IN, load_network
from ingest.stages import activations
from ingest.stages.extraction.recording import Recorder, padding_parameter
from ingest.stages.extraction.segments import segment_clips
from warehouse import store
from warehouse.store import UserError

BATCH = 8


@dataclass(frozen=True)
class Place:
    """A layer as the run stored it: its neurons are rows `first` to `first + neurons - 1` of all, by `reduction`, in a matrix of type `dtype`."""

    layer: Layer
    layer_id: int
    reduction: str
    recorded_as: str
    path: Path
    dtype: str
    first: int
    neurons: int


@dataclass(frozen=True)
class Candidate:
    """A run that sounds may be compared with."""

    run_id: int
    network: str
    dataset: str
    has_positions: bool
    checkpoint_sha256: str
    content_sha256: str
    clip_s: float
    output_names: list[str] | None
    parameters: dict[str, Any]
    code_version: int
    clips: int


@dataclass(frozen=True)
class Loaded:
    """A network, and how a study names it: what load_network was given, and names of outputs that are not its own."""

    network: Network
    spec: str
    weights: Path | None
    clip_s: float | None = None
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Heard:
    """What neurons did: `values` [neurons, sounds] (float32, rounded as the run stores them), and the course of each layer by its number,
    [sounds, steps, neurons] (float32 as stored, NaN where nothing of the sound is left), for layers that have one."""

    values: np.ndarray
    courses: dict[int, np.ndarray]


class Ear:
    """A network as one run recorded it. `hear` gives what an ingest stores for the same sounds: the same layers, reduction and types, in batches of the same
    size, by which libraries round (see `_seated`); a run on another device, in other batches or with another number of threads may differ in a last digit."""

    def __init__(self, warehouse: Path, run: Candidate, loaded: Loaded, places: list[Place], device: str) -> None:
        network = loaded.network
        self.warehouse, self.run, self.loaded, self.network, self.places, self.device = warehouse, run, loaded, network, places, device
        keep_freed_memory()
        network.module.to(device)
        parameters = run.parameters
        self.precision = str(parameters.get("precision", "float32"))
        self.recorder = Recorder(
            network,
            [place.layer for place in places],
            positions=bool(parameters.get("positions")),
            shares=any(place.recorded_as == "active" for place in places),
            first=parameters.get("token") == "first",
            device=device,
        )

    @property
    def neurons(self) -> int:
        """Neurons of all layers."""
        return sum(place.neurons for place in self.places)

    def hear(self, sounds: Sequence[Sound], *, courses: bool = True) -> Heard:
        """What the neurons do while the network hears the sounds. Raises UserError where layers do not give what the run recorded."""
        values = np.empty((self.neurons, len(sounds)), dtype=np.float32)
        found: dict[int, np.ndarray] = {}
        for seats in self._seated(sounds):
            taken = [(seat, at) for seat, at in enumerate(seats) if at is not None]
            rows, columns = [seat for seat, _ in taken], [at for _, at in taken]
            # Filled up, for libraries take other ways for other sizes, which round otherwise.
            self._forward([sounds[columns[0] if at is None else at] for at in seats])
            for number, place in enumerate(self.places):
                recorded = self.recorder.batch.pop(place.layer.name, None)
                if recorded is None:
                    raise UserError(f"layer {place.layer.name} of {self.network.name} never ran")
                reduced = recorded.reductions[place.recorded_as].float().cpu()
                reduced = reduced.masked_fill(~reduced.isfinite(), torch.nan).to(getattr(torch, place.dtype)).float()
                values[place.first : place.first + place.neurons, columns] = reduced[rows].T.numpy()
                if courses and recorded.course is not None:
                    course = recorded.course[rows].cpu().half().float().numpy()
                    found.setdefault(number, np.empty((len(sounds), *course.shape[1:]), dtype=np.float32))[columns] = course
        return Heard(values, found)

    def _seated(self, sounds: Sequence[Sound]) -> list[list[int | None]]:
        """Batches, each a list of the sound in each place, or None. A clip of the run's data set, known by its content, gets the place that it had in a batch
        of that size: what is last is rounded otherwise by vectorised functions. Others go where there is room."""
        by_sound = {at: store.sha256_file(sound.path) for at, sound in enumerate(sounds) if sound.path}
        with store.connect_readonly(self.warehouse) as con:
            columns = dict(
                con.execute(
                    """SELECT sha256, min(column_index) FROM activation_clip JOIN clip USING (clip_id)
                    WHERE run_id = ? AND list_contains(?, sha256) GROUP BY sha256""",
                    [self.run.run_id, list(by_sound.values())],
                ).fetchall()
            )
        itemsize = 2 if self.run.parameters.get("dtype") == "float16" else 4
        segment = segment_clips(self.neurons * len(self.recorder.reductions) * itemsize, self.run.clips)
        batches: list[list[int | None]] = []
        known = {at: columns[digest] for at, digest in by_sound.items() if digest in columns}
        for at, column in known.items():
            first = column // segment * segment
            place = (column - first) % BATCH
            size = min(BATCH, min(segment, self.run.clips - first) - (column - first - place))
            _free(batches, size, place)[place] = at
        for at in range(len(sounds)):
            if at not in known:
                batch = _free(batches, BATCH, None)
                batch[batch.index(None)] = at
        return batches

    def _forward(self, batch: Sequence[Sound]) -> None:
        autocast = (
            torch.autocast(self.device.partition(":")[0], dtype=getattr(torch, self.precision))
            if self.precision != "float32"
            else contextlib.nullcontext()
        )
        with torch.inference_mode(), autocast, self.recorder:
            waveforms = torch.from_numpy(np.stack([sound.samples for sound in batch])).to(self.device)
            self.recorder.valid_s = valid_s = torch.tensor([sound.heard_s for sound in batch], dtype=torch.float64)
            self.network.forward(self.network.prepare_padded(waveforms, valid_s.to(self.device)))


def _free(batches: list[list[int | None]], size: int, place: int | None) -> list[int | None]:
    """The first batch of a size with a place free, None for any; a new one where there is none."""
    for batch in batches:
        if len(batch) == size and (None in batch if place is None else batch[place] is None):
            return batch
    batches.append([None] * size)
    return batches[-1]


def open_ear(
    warehouse: Path,
    *,
    network: str | None = None,
    dataset: str | None = None,
    run_id: int | None = None,
    reduction: str | None = None,
    weights: Path | None = None,
    device: str = "auto",
) -> Ear:
    """The network of a finished run of stage activations, loaded and made sure to be the one that was recorded.

    `network` is its name in the warehouse, or what it was ingested from (path/to/file.py:function, a model's folder); `dataset` the data set that sounds are
    compared with; `run_id` one run, in place of the latest of each pair. `reduction` is by default the mean, or what else there is. Raises UserError in
    one line where no run or several are left, or the network here is not the recorded one.
    """
    rows = [row for row in candidates(warehouse, run_id) if dataset in (None, row.dataset)]
    by_name = network is None or any(row.network == network for row in rows)
    loaded: Loaded | None = None
    if by_name:
        rows = [row for row in rows if network in (None, row.network)]
    elif network is not None:
        loaded = Loaded(load_network(network, weights=weights), network, weights)
        rows = [row for row in rows if row.network == loaded.network.name]
    what = "".join([f" of {loaded.network.name if loaded else network}" if network else "", f" on {dataset}" if dataset else ""])
    if not rows:
        every = ", ".join(f"{row.network} on {row.dataset}" for row in candidates(warehouse, None)) or "none at all"
        raise UserError(f"{warehouse} holds no finished run of activations{what}: there is {every}; make one with `auricle ingest`")
    # A pair's run over single positions stands beside its run over channels, and is listened to when it is asked for.
    rows = [row for row in rows if not row.has_positions] or rows
    if len(rows) > 1:
        choices = ", ".join(f"{row.network} on {row.dataset}" for row in rows)
        raise UserError(f"{warehouse} holds several runs{what}: {choices}; choose by --network and --dataset")
    [row] = rows
    loaded = loaded or _load(row, weights, warehouse)
    if loaded.network.clip_s != row.clip_s:
        loaded = replace(loaded, network=load_network(loaded.spec, weights=weights, clip_s=row.clip_s), clip_s=row.clip_s)
    loaded = check_same(warehouse, row, loaded)
    return Ear(warehouse, row, loaded, _places(warehouse, row, loaded.network, reduction), pick_device(device))


def candidates(warehouse: Path, run_id: int | None) -> list[Candidate]:
    """The latest finished run of each network on each data set, or one run. Raises UserError where that is no finished run of activations."""
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            """SELECT run_id, network.name, v_activation_run.dataset, has_positions, checkpoint_sha256, content_sha256, network.clip_s, output_names,
                      run.parameters, code_version, (SELECT count(*) FROM activation_clip WHERE activation_clip.run_id = run.run_id)
            FROM v_activation_run JOIN run USING (run_id) JOIN network USING (network_id) JOIN dataset USING (dataset_id)
            WHERE CASE WHEN $run IS NULL THEN is_latest ELSE run_id = $run END ORDER BY run_id""",
            {"run": run_id},
        ).fetchall()
    if run_id is not None and not rows:
        raise UserError(f"run {run_id} of {warehouse} is no finished run of activations: `auricle status` lists the runs")
    return [Candidate(*(_json(value) if at in (7, 8) else value for at, value in enumerate(row))) for row in rows]


def _json(text: str | None) -> Any:
    return json.loads(text) if text else None


def _load(row: Candidate, weights: Path | None, warehouse: Path) -> Loaded:
    try:
        return Loaded(load_network(row.network, weights=weights), row.network, weights)
    except UserError as error:
        if row.network in BUILT_IN or row.network == "beats":
            raise
        raise UserError(
            f"network {row.network} of {warehouse} cannot be loaded by its name: give what it was ingested from with --network ({error})"
        ) from None


def check_same(warehouse: Path, row: Candidate, loaded: Loaded) -> Loaded:
    """The network with the names that the run knows its outputs by. Raises UserError unless it is the one that the run recorded, and its stage would record
    the same today."""
    network, names = loaded.network, row.output_names
    if names and names != network.output_names and len(names) == len(network.output_names or names):
        network.output_names = list(names)  # a study gave them, and they shape no value
        loaded = replace(loaded, names=tuple(names))
    known, _ = known_as(warehouse, network)
    if known != row.checkpoint_sha256:
        other = differences(store.run_folder(warehouse, row.run_id, continued=False), network)
        raise UserError(
            f"network {network.name} here is not the one that run {row.run_id} of {warehouse} recorded (checkpoint {known[:8]}, there "
            f"{row.checkpoint_sha256[:8]}{other and f'; other: {other}'}): give that one with --network or --weights, or ingest this one"
        )
    padding = padding_parameter(warehouse, network, row.dataset, row.content_sha256)
    if row.code_version != activations.CODE_VERSION or padding.get("padding") != row.parameters.get("padding"):
        raise UserError(f"run {row.run_id} of {warehouse} was recorded otherwise than this Auricle records {network.name}: ingest it again")
    return loaded


def _places(warehouse: Path, row: Candidate, network: Network, reduction: str | None) -> list[Place]:
    positions, first = bool(row.parameters.get("positions")), row.parameters.get("token") == "first"
    layers = activations.pick_layers(network, row.parameters.get("layers"), positions, first)
    with store.connect_readonly(warehouse) as con:
        found = con.execute(
            """SELECT name, layer_id, shape, reduction, path, dtype, neurons FROM activation_file JOIN layer USING (layer_id)
            WHERE run_id = ? ORDER BY layer_id, reduction = 'mean' DESC, activation_file_id""",
            [row.run_id],
        ).fetchall()
    places, row_number = [], 0
    for layer in layers:
        stored = {item[3]: item for item in found if item[0] == layer.name}
        if not stored or json.loads(next(iter(stored.values()))[2]) != list(layer.shape):
            raise UserError(
                f"run {row.run_id} of {warehouse} has no layer {layer.name} of shape {layer.shape}: ingest {network.name} again"
            )
        chosen = reduction or next(iter(stored))
        if chosen not in stored:
            raise UserError(f"run {row.run_id} of {warehouse} holds no {chosen} of layer {layer.name}: it holds {', '.join(stored)}")
        _, layer_id, _, _, path, dtype, neurons = stored[chosen]
        places.append(
            Place(layer, layer_id, chosen, "window_mean" if positions else chosen, warehouse.parent / path, dtype, row_number, neurons)
        )
        row_number += neurons
    return places
