"""Stage `activations`: runs a network over the sounds once and keeps what its neurons did.

Clips are taken in segments, each by itself (`ingest.stages.extraction.segments`): its values and ranking, with courses, are written to files
before the ledger row that makes them count. When all are in, `ingest.stages.extraction.layer_tables` turns them into a matrix a layer and the
tables.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from ingest.networks import identity
from ingest.networks.network import Layer, Network, keep_freed_memory, pick_device
from ingest.networks.registry import check_network
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.extraction import final, layer_tables, neighbors, stored_types
from ingest.stages.extraction.measured import Segment, item
from ingest.stages.extraction.recording import padding_parameter, takes_shares, windows_parameter
from ingest.stages.extraction.segments import LOST, Extraction, Measure, Plan, Settings
from warehouse import ledger, store
from warehouse.store import UserError

STAGE = "activations"
TITLE = "activations of {network} on {dataset}"
UNIT = "units of work"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Record the network over the data set."""
    with store.connect_readonly(context.warehouse) as con:
        row = con.execute("SELECT content_sha256, count(clip_id) FROM dataset LEFT JOIN clip USING (dataset_id) WHERE run_id = ? GROUP BY 1",
                          [context.runs["clips"]]).fetchone()  # fmt: skip
    assert row
    if not row[1]:
        raise UserError(f'data set {context.dataset} has no usable clip: `auricle query "SELECT item, reason FROM failure"` says why')
    return ingest_activations(
        context.warehouse, context.network, context.dataset, row[0], context.paths, settings, measure=context.measure or Extraction.measure,
        progress=progress, layers=context.layers, positions=context.positions, for_specificity="specificity" in context.planned,
    )  # fmt: skip


def pick_layers(network: Network, names: Sequence[str] | None, positions: bool, first: bool = False) -> list[Layer]:
    """The layers to record, in forward order: those of the names, None for all; with positions convolutions, and layers of single units,
    whose neurons are these; and with `first` some must have tokens and none may have a time axis without them."""
    known = [layer.name for layer in network.layers]
    for name in names or ():
        if name not in known:
            raise UserError(f"{network.name} has no layer {name}: it has {', '.join(known[:40])}")
    chosen = [layer for layer in network.layers if not names or layer.name in names]
    if positions:
        chosen = [layer for layer in chosen if layer.is_map or layer.axes == "unit"]
        if not any(layer.is_map for layer in chosen):
            raise UserError(f"positions need convolutions, and no chosen layer of {network.name} is one: choose others with layers")
    if first:
        if without := [layer.name for layer in chosen if layer.axes.startswith("channel")]:
            raise UserError(
                f'token = "first": layer {without[0]} of {network.name} has no tokens: choose others with layers, or token = "all"'
            )
        if all(layer.axes == "unit" for layer in chosen):
            raise UserError(f'token = "first": no chosen layer of {network.name} has tokens: choose others with layers, or token = "all"')
    return chosen


@dataclass(frozen=True)
class Planned:
    """A run to be done: its segments' plan, the layers recorded, and by what the ledger knows it. `by_layer`: types are chosen by layer."""

    plan: Plan
    layers: list[Layer]
    parameters: dict[str, object]
    inputs: dict[str, Any]
    by_layer: bool


def planned(
    warehouse: Path,
    network: Network,
    dataset: str,
    content_sha256: str,
    paths: dict[str, Path],
    settings: Settings | None = None,
    *,
    layers: Sequence[str] | None = None,
    positions: bool = False,
    for_specificity: bool = False,
) -> Planned:
    """What recording a network over the data set version with that content takes. Writes nothing; every process of a run plans the same."""
    settings = settings or Settings()
    if positions and settings.shares:
        raise UserError("shares are those of a channel's positions: record them without positions")
    first = settings.token == "first"
    if positions and first:
        raise UserError("positions are a convolution's, and it has no first token: leave out positions, or token")
    chosen = pick_layers(network, layers, positions, first)
    with store.connect_readonly(warehouse) as con:
        clips = con.execute(
            "SELECT clip_id, clip.name FROM clip JOIN dataset USING (dataset_id) WHERE dataset.name = ? AND content_sha256 = ? ORDER BY clip_id",
            [dataset, content_sha256],
        ).fetchall()
    known = identity.known_as(warehouse, network)[0]
    parameters: dict[str, object] = {
        "dataset": dataset,
        "network": network.name,
        "clip_s": network.clip_s,
        "layers": layers,
        "positions": positions,
        **({"units": True} if positions and not all(layer.is_map for layer in chosen) else {}),  # runs from before had none
        **settings.parameters(),
        **windows_parameter(warehouse, dataset, content_sha256, paths, network.clip_s),
        **padding_parameter(warehouse, network, dataset, content_sha256),
    }
    inputs: dict[str, Any] = {"code_version": CODE_VERSION, "dataset_sha256": content_sha256, "network_sha256": known}
    neurons = sum(layer.neurons for layer in chosen if not (positions and layer.is_map))
    parameters |= neighbors.sample_parameter(warehouse, STAGE, parameters, inputs, (neurons, len(clips)), settings.neighbor_clips)
    if settings.shares is None:
        settings = replace(
            settings, shares=not (positions or first) and takes_shares(warehouse, STAGE, parameters, inputs, for_specificity)
        )
        parameters |= settings.parameters()
    folder = _segment_folder(store.activation_folder(warehouse), ledger.key(STAGE, parameters=parameters, **inputs))
    if by_layer := settings.dtype == "auto" and (
        (folder / LOST).exists() or stored_types.is_by_layer(warehouse, STAGE, parameters, inputs)
    ):
        parameters["dtype"] = "auto"
        folder = _segment_folder(store.activation_folder(warehouse), ledger.key(STAGE, parameters=parameters, **inputs))
    dtype = "float32" if by_layer else str(parameters["dtype"])
    plan = Plan(network.checkpoint_sha256, tuple(layer.name for layer in chosen), positions, settings, dtype, tuple(clips), paths, folder)
    return Planned(plan, chosen, parameters, inputs, by_layer)


def ingest_activations(
    warehouse: Path,
    network: Network,
    dataset: str,
    content_sha256: str,
    paths: dict[str, Path],
    settings: Settings | None = None,
    *,
    measure: Measure = Extraction.measure,
    progress: Progress = silent,
    **options: Any,
) -> Outcome:
    """Record a network over the data set version with that content. `paths` are its sound files by clip name, `options` those of `planned`, and
    `measure` measures segments.

    Continues an interrupted run; does nothing when done. A clip that cannot be read any more, or on which the network puts out values that
    are not finite, becomes a failure row; its column in the matrices is NaN where it has no value.
    """
    work = planned(warehouse, network, dataset, content_sha256, paths, settings, **options)
    plan, chosen = work.plan, work.layers
    keep_freed_memory()
    identity.settle(warehouse, network)
    if not (ledger.find(warehouse, STAGE, parameters=work.parameters, **work.inputs) or (0, False))[1]:
        check_network(network, network.name)
    device = pick_device(plan.settings.device)
    where = device if device == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"
    if work.by_layer:
        _forget_lost(warehouse, work)
    run = _why_another(ledger.begin(warehouse, STAGE, parameters=work.parameters, device=where, **work.inputs), network)
    done = run.done()
    folder = store.run_folder(warehouse, run.run_id, continued=bool(done) and not run.finished)
    if run.finished:
        _remove_segments(work, folder)
        return Outcome(run, 0, run.failures())
    folder.mkdir(parents=True, exist_ok=True)
    if "network" not in done or plan.settings.dtype != "auto":
        stored_types.watch(folder, plan.settings.dtype == "auto")
    if "network" not in done:
        identity.record(folder, network)
        with run.commit(["network"]) as con:
            columns = pl.DataFrame({"column_index": range(len(plan.clips)), "clip_id": [clip_id for clip_id, _ in plan.clips]})
            store.insert(con, "activation_clip", columns.with_columns(pl.lit(run.run_id).alias("run_id")))
            layer_tables.register_network(con, network, chosen, positions=plan.positions)
    extraction = Extraction(plan, network)
    with store.connect_readonly(warehouse) as con:
        records = layer_tables.layer_records(con, run, extraction)
    settled = {number for number, (layer_id, _) in enumerate(records) if f"layer {layer_id}" in done}
    places = {
        (number, reduction): final.final_path(folder, records[number][0], chosen[number].name, reduction, in_parts=True)
        for number, reduction in extraction.files if number not in settled
    }  # fmt: skip
    try:
        segments, worked = _measured(run, extraction, done, settled, places, measure, progress)
    except stored_types.Lost:
        return ingest_activations(
            warehouse, network, dataset, content_sha256, paths, settings, measure=measure, progress=progress, **options
        )
    with run.gathered() as gathering:
        worked += layer_tables.finish_layers(gathering, extraction, segments, records, folder, progress, work.by_layer)
    worked += neighbors.find_neighbors(run, work.parameters, device)
    run.finish()
    _remove_segments(work, folder)
    return Outcome(stored_types.said(run) if work.by_layer and worked else run, worked, run.failures())


def _forget_lost(warehouse: Path, work: Planned) -> None:
    """Take back the run that found out that float16 does not do for all layers, where it is there."""
    begun: dict[str, Any] = {"parameters": {**work.parameters, "dtype": "float16"}, **work.inputs}
    found = ledger.find(warehouse, STAGE, **begun)
    if found and not found[1]:
        ledger.forget(ledger.begin(warehouse, STAGE, **begun), ["activation_clip", "segment"])
        shutil.rmtree(store.run_folder(warehouse, found[0], continued=True), ignore_errors=True)


def _measured(
    run: ledger.Run,
    extraction: Extraction,
    done: set[str],
    settled: set[int],
    places: Mapping[tuple[int, str], Path],
    measure: Measure,
    progress: Progress,
) -> tuple[list[Segment], int]:
    """All segments of a run in order, those that nobody has measured yet measured now, and how many were committed now. `settled`: layers that are
    finished, by number; `places`: where parts of the others may have gone."""
    with store.connect_readonly(run.warehouse) as con:
        counted = dict(con.execute("SELECT segment, attempt FROM segment WHERE run_id = ?", [run.run_id]).fetchall())
    final.put_back(extraction, counted, places)
    whole = extraction.finished(counted, settled)
    extraction.sweep(whole.values())
    extraction.check_space()
    if lost := [number for number in counted if number not in whole]:  # or others, where segments are now of another size
        _forget_segments(run, lost)
    pending = [number for number in range(len(extraction.segments)) if number not in whole]
    worked = 0
    with contextlib.closing(measure(extraction, pending, progress)) as measured:  # nothing may be pending, and yet be put in order
        for segment in itertools.chain(list(whole.values()), measured):
            whole[segment.segment] = segment
            if segment.item not in done or segment.segment in lost:
                row = {name: getattr(segment, name) for name in ("segment", "clips", "attempt", "sha256", "node", "device", "seconds")}
                run.record([segment.item], {"segment": pl.DataFrame([row])}, segment.failures)
                worked += 1
    return [whole[number] for number in range(len(extraction.segments))], worked


def _forget_segments(run: ledger.Run, numbers: Sequence[int]) -> None:
    """Take back segments whose files are not there any more."""
    with store.transaction(run.warehouse) as con:
        con.execute("DELETE FROM segment WHERE run_id = ? AND list_contains(?, segment)", [run.run_id, numbers])
        con.execute("DELETE FROM work_unit WHERE run_id = ? AND list_contains(?, item)", [run.run_id, [item(number) for number in numbers]])


def _segment_folder(beside: Path, key: str) -> Path:
    """Folder of the segments of a run of that key, until it is finished, in that of a warehouse's activations."""
    return beside / f"segments-{key[:16]}"


def _remove_segments(work: Planned, folder: Path) -> None:
    """Delete what a finished run was put together from, and the attempt that was lost before it, and what runs of earlier versions left."""
    lost = {**work.parameters, "dtype": "float16"}
    for key in {ledger.key(STAGE, parameters=parameters, **work.inputs) for parameters in (work.parameters, lost)}:
        shutil.rmtree(_segment_folder(work.plan.folder.parent, key), ignore_errors=True)
    for pattern in ("shard-*", "state-*", "*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _why_another(run: ledger.Run, network: Network) -> ledger.Run:
    """A run that tells what of the network changed."""
    told = re.search(r"not run (\d+) again: .*the checkpoint changed", run.why or "")
    if told and (changed := identity.differences(store.run_folder(run.warehouse, int(told[1]), continued=False), network)):
        return replace(run, why=str(run.why).replace("the checkpoint changed", f"the checkpoint changed ({changed})"))
    return run
