"""Stage `clusters`: groups of neurons that answer alike (FINCH, exact), their class activation vectors and entropies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from ingest.methods import clusters
from ingest.networks.network import pick_device
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import Recorded, RecordedLayer, read_recorded
from warehouse import ledger, store
from warehouse.store import insert

STAGE = "clusters"
TITLE = "clusters of {network} on {dataset}"
UNIT = "units of work"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1
TOP_CLIPS = 12
CHOICE = "chosen partitions"


@dataclass(frozen=True)
class Settings:
    """How neurons are clustered. backend: exact, or for very many neurons nn-descent or finch-clust (see ingest.methods.clusters.finch)."""

    backend: Literal["exact", "nn-descent", "finch-clust"] = "exact"


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Cluster every layer recorded, on the device of activations; a layer is a unit of work, and so is the choice of partitions at the end.

    A layer without two living neurons has a failure row and no clusters.
    """
    recorded, backend = read_recorded(context.warehouse, context.runs["activations"]), settings.backend
    device = pick_device(context.settings("activations").device)
    run = recorded.begin(STAGE, CODE_VERSION, {"backend": backend}, device=device)
    worked = 0
    for item, layer in run.pending(recorded.plan(), progress):
        tables, failures = cluster_layer(recorded, layer, backend, device)
        with run.commit([item], failures) as con:
            [(base,)] = con.execute("SELECT coalesce(max(cluster_id), 0) + 1 FROM cluster").fetchall()
            for table, frame in tables.items():
                shifted = [pl.col(name) + base for name in ("cluster_id", "parent_id") if name in frame.columns]
                names = {"run_id": run.run_id, "layer_id": layer.layer_id} if table in ("clustering", "cluster") else {}
                insert(con, table, frame.with_columns(*shifted, *(pl.lit(value).alias(name) for name, value in names.items())))
        worked += 1
    if not run.finished and CHOICE not in run.done():
        choose(run)
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def cluster_layer(
    recorded: Recorded, layer: RecordedLayer, backend: str, device: str
) -> tuple[dict[str, pl.DataFrame], list[tuple[str, str]]]:
    """Rows of tables clustering, cluster, cluster_member, ccav and cluster_clip of a layer, cluster ids from 0; and what failed."""
    matrix = layer.matrix()
    complete = np.isfinite(matrix).all(axis=0)
    alive = np.flatnonzero((matrix[:, complete] != 0).any(axis=1))
    if len(alive) < 2:
        return {}, [(layer.name, f"{len(alive)} of {layer.neurons} neurons are alive on the {complete.sum()} clips: nothing to cluster")]
    points = np.ascontiguousarray(matrix[alive][:, complete])
    labels = recorded.labels[complete]
    classes = len(recorded.class_ids)
    member = labels[:, None] == np.arange(classes)
    partitions = clusters.finch(points, backend, device=device)
    recall = {"exact": 1.0, "finch-clust": None}.get(backend)
    if backend == "nn-descent":
        recall = clusters.recall(clusters.first_neighbors(points, backend), points)
    single = clusters.entropy_bits(clusters.class_activation(points, member))
    tables = {
        "clustering": pl.DataFrame(
            {
                "reduction": [layer.reduction],
                "backend": [backend],
                "neurons": [len(alive)],
                "dead": [layer.neurons - len(alive)],
                "neighbor_recall": [recall],
                "neuron_entropy_bits": [float(single.mean()) if single.count() else None],
            },
            schema_overrides={"neighbor_recall": pl.Float64, "neuron_entropy_bits": pl.Float64},
        )
    }
    positions = np.stack(np.unravel_index(alive, layer.shape), axis=1) if layer.kind == "position" else None
    found: dict[str, list[pl.DataFrame]] = {"cluster": [], "cluster_member": [], "ccav": [], "cluster_clip": []}
    base = 0
    for level, assigned in enumerate(partitions):
        count = int(assigned.max()) + 1
        means = clusters.cluster_means(points, assigned, count)
        activation = clusters.class_activation(means, member)
        ids = base + np.arange(count)
        coarser = partitions[level + 1] if level + 1 < len(partitions) else None
        first = np.unique(assigned, return_index=True)[1]
        if positions is not None and len(layer.shape) == 3:
            position_entropy, channel_entropy = clusters.occupancy(assigned, positions, layer.shape, count)
        else:
            position_entropy = channel_entropy = np.ma.masked_all(count)
        found["cluster"].append(
            pl.DataFrame(
                {
                    "cluster_id": ids,
                    "partition": np.full(count, level),
                    "number": np.arange(count),
                    "parent_id": pl.Series([None] * count if coarser is None else base + count + coarser[first], dtype=pl.Int64),
                    "neurons": np.bincount(assigned, minlength=count),
                    "is_chosen": np.zeros(count, dtype=bool),
                    "class_entropy_bits": _nullable(clusters.entropy_bits(activation)),
                    "class_entropy_ratio": _nullable(clusters.entropy_ratio(activation)),
                    "position_entropy_ratio": _nullable(position_entropy),
                    "channel_entropy_ratio": _nullable(channel_entropy),
                }
            )
        )
        found["cluster_member"].append(pl.DataFrame({"cluster_id": base + assigned, "neuron_id": layer.first_neuron_id + alive}))
        if classes:
            found["ccav"].append(
                pl.DataFrame(
                    {
                        "cluster_id": np.repeat(ids, classes),
                        "class_id": np.tile(recorded.class_ids, count),
                        "activation": activation.ravel(),
                    }
                )
            )
        clip_ids = recorded.clip_ids[complete]
        order = np.lexsort((np.broadcast_to(clip_ids, means.shape), -means), axis=1)[:, :TOP_CLIPS]
        found["cluster_clip"].append(
            pl.DataFrame(
                {
                    "cluster_id": np.repeat(ids, order.shape[1]),
                    "rank": np.tile(np.arange(1, order.shape[1] + 1), count),
                    "clip_id": clip_ids[order].ravel(),
                    "activation": np.take_along_axis(means, order, axis=1).ravel(),
                }
            )
        )
        base += count
    return tables | {table: pl.concat(frames) for table, frames in found.items() if frames}, []


def _nullable(values: np.ma.MaskedArray) -> pl.Series:
    return pl.Series([None if value is None else float(value) for value in values.tolist()], dtype=pl.Float64)


def choose(run: ledger.Run) -> None:
    """Mark one partition a layer, so that the numbers of clusters differ least between layers."""
    with store.connect_readonly(run.warehouse) as con:
        layers = con.execute(
            """SELECT layer_id, list(clusters ORDER BY partition) FROM
                (SELECT layer_id, partition, count(*) AS clusters FROM cluster WHERE run_id = ? GROUP BY ALL)
            GROUP BY layer_id ORDER BY layer_id""",
            [run.run_id],
        ).fetchall()
    chosen = clusters.choose_partitions([counts for _, counts in layers]) if layers else []
    with run.commit([CHOICE]) as con:
        for (layer_id, _), partition in zip(layers, chosen, strict=True):
            con.execute(
                "UPDATE cluster SET is_chosen = true WHERE run_id = ? AND layer_id = ? AND partition = ?", [run.run_id, layer_id, partition]
            )
