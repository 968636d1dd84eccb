"""Stage `activations`: runs a network over the sounds once and keeps what its neurons did.

Clips are taken in shards; each shard's values, and the state of the ranking with its courses, are written to files before the ledger row
that makes them count. When all shards are in, `ingest.stages.extraction.layer_tables` turns them into one matrix a layer and the tables.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ingest.networks import identity
from ingest.networks.network import Layer, Network, keep_freed_memory, pick_device
from ingest.networks.registry import check_network
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.extraction import layer_tables, stored_types
from ingest.stages.extraction.recording import padding_parameter, takes_shares, windows_parameter
from ingest.stages.extraction.shards import Extraction, Settings, remove_shards
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
        context.warehouse, context.network, context.dataset, row[0], context.paths, settings, layers=context.layers,
        positions=context.positions, progress=progress, for_specificity="specificity" in context.planned,
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


def ingest_activations(
    warehouse: Path,
    network: Network,
    dataset: str,
    content_sha256: str,
    paths: dict[str, Path],
    settings: Settings | None = None,
    *,
    layers: Sequence[str] | None = None,
    positions: bool = False,
    progress: Progress = silent,
    lost: bool = False,
    for_specificity: bool = False,
) -> Outcome:
    """Record a network over the data set version with that content. `paths` are its sound files by clip name.

    Continues an interrupted run; does nothing when done. A clip that cannot be read any more, or on which the network puts out values that
    are not finite, becomes a failure row; its column in the matrices is NaN where it has no value. `lost` says that a run was taken back because
    float16 does not keep the values of some clips; `for_specificity` whether stage specificity follows, see Settings.
    """
    settings = settings or Settings()
    if positions and settings.shares:
        raise UserError("shares are those of a channel's positions: record them without positions")
    first = settings.token == "first"
    if positions and first:
        raise UserError("positions are a convolution's, and it has no first token: leave out positions, or token")
    device = pick_device(settings.device)
    chosen = pick_layers(network, layers, positions, first)
    keep_freed_memory()
    identity.settle(warehouse, network)
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
    key: dict[str, Any] = {"code_version": CODE_VERSION, "dataset_sha256": content_sha256, "network_sha256": network.checkpoint_sha256}
    if settings.shares is None:
        settings = replace(settings, shares=not (positions or first) and takes_shares(warehouse, STAGE, parameters, key, for_specificity))
        parameters |= settings.parameters()
    if by_layer := settings.dtype == "auto" and (lost or stored_types.is_by_layer(warehouse, STAGE, parameters, key)):
        parameters["dtype"] = "auto"
    if not (ledger.find(warehouse, STAGE, parameters=parameters, **key) or (0, False))[1]:
        check_network(network, network.name)
    where = device if device == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"
    run = _why_another(ledger.begin(warehouse, STAGE, parameters=parameters, device=where, **key), network)
    done = run.done()
    folder = store.run_folder(warehouse, run.run_id, continued=bool(done) and not run.finished)
    if run.finished:
        remove_shards(folder)
        return Outcome(run, 0, run.failures())
    folder.mkdir(parents=True, exist_ok=True)
    if "network" not in done or settings.dtype != "auto":
        stored_types.watch(folder, settings.dtype == "auto")
    if "network" not in done:
        identity.record(folder, network)
        with run.commit(["network"]) as con:
            layer_tables.register_network(con, network, chosen, positions=positions)
            con.execute(
                """INSERT INTO activation_clip
                SELECT ?, row_number() OVER (ORDER BY clip_id) - 1, clip_id
                FROM clip JOIN dataset USING (dataset_id) WHERE dataset.name = ? AND content_sha256 = ?""",
                [run.run_id, dataset, content_sha256],
            )
    dtype = "float32" if by_layer else str(parameters["dtype"])
    extraction = Extraction(run, network, chosen, positions, settings, dtype, paths, folder, device)
    try:
        worked = extraction.run_shards(done, progress)
    except stored_types.Lost:
        ledger.forget(run, ["activation_clip"])
        shutil.rmtree(folder)
        return ingest_activations(
            warehouse,
            network,
            dataset,
            content_sha256,
            paths,
            settings,
            layers=layers,
            positions=positions,
            progress=progress,
            lost=True,
        )
    worked += layer_tables.finish_layers(
        run, network, chosen, extraction.top_k, folder, extraction.shard_files(), extraction.recorder.reductions, progress, by_layer
    )
    run.finish()
    remove_shards(folder)
    return Outcome(stored_types.said(run) if by_layer and worked else run, worked, run.failures())


def _why_another(run: ledger.Run, network: Network) -> ledger.Run:
    """A run that tells what of the network changed."""
    told = re.search(r"not run (\d+) again: .*the checkpoint changed", run.why or "")
    if told and (changed := identity.differences(store.run_folder(run.warehouse, int(told[1]), continued=False), network)):
        return replace(run, why=str(run.why).replace("the checkpoint changed", f"the checkpoint changed ({changed})"))
    return run
