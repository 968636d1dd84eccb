"""The rows of networks and layers, and, from a run's segments, a matrix a layer and reduction with the tables that summarise it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import torch
from scipy import sparse

from ingest.methods.extremes import Extremes
from ingest.methods.specificity import average_precision, class_means, selectivity_index
from ingest.networks.network import Layer, Network, course_steps
from ingest.stages import Progress, silent
from ingest.stages.extraction import final, stored_types
from ingest.stages.extraction.measured import Segment
from ingest.stages.extraction.segments import Extraction
from ingest.stages.extraction.summary import summary
from warehouse import ledger, store
from warehouse.matrices import Matrix, joint_sha256, open_matrix

CHUNK_CLIPS, RANKED_VALUES = 256, 2_000_000
"""What is ranked at a time: so many clips, or more of few neurons."""


def finish_layers(
    run: ledger.Run,
    extraction: Extraction,
    segments: list[Segment],
    records: list[tuple[int, np.ndarray]],
    folder: Path,
    progress: Progress = silent,
    by_layer: bool = False,
) -> int:
    """Write the matrices and tables of every layer from all segments, in order; returns the units of work done now. `records` are the
    layers' ids and neurons; `by_layer`: as float16 those of the layers whose values all survive that."""
    done, worked = run.done(), 0
    with store.connect_readonly(run.warehouse) as con:
        clip_ids = con.execute("SELECT clip_id FROM activation_clip WHERE run_id = ? ORDER BY column_index", [run.run_id]).fetchnumpy()
        labels = label_sets(con, run.run_id)
    finishing = _Finishing(extraction, segments, run.warehouse.parent, folder, clip_ids["clip_id"].astype(np.int64), labels, by_layer)
    for number, (layer_id, neuron_ids) in enumerate(records):
        item = f"layer {layer_id}"
        if item not in done:
            run.record([item], finishing.tables(number, layer_id, neuron_ids))
            worked += 1
        progress(number + 1, len(records))
    return worked


@dataclass(frozen=True)
class _Finishing:
    """What the layers of a run are finished from. Paths of matrices are said relative to folder `beside`, `folder` is where these go."""

    extraction: Extraction
    segments: list[Segment]
    beside: Path
    folder: Path
    clip_ids: np.ndarray
    labels: list[tuple[np.ndarray, np.ndarray]]
    by_layer: bool

    def tables(self, number: int, layer_id: int, neuron_ids: np.ndarray) -> dict[str, pl.DataFrame]:
        """Put a layer's matrices where they belong; returns the rows of its tables."""
        its, layer = self.extraction, self.extraction.layers[number]
        measured = {
            reduction: Matrix([its.file(segment, (number, reduction)) for segment in self.segments]) for reduction in its.reductions(number)
        }
        fits = self.by_layer and not stored_types.lost(measured.values(), positions=its.positions and layer.is_map)
        dtype = np.dtype(np.float16) if fits else its.dtype
        tables: dict[str, list[pl.DataFrame]] = {}
        for reduction, matrix in measured.items():
            path = final.final_path(self.folder, layer_id, layer.name, reduction, in_parts=its.in_parts)
            frames = {}
            if its.in_parts:
                parts = final.moved_together(path, its, self.segments, (number, reduction), dtype)
                frames["activation_part"] = parts.with_columns(pl.lit(layer_id).alias("layer_id"))
                digest = joint_sha256(parts["sha256"])
            else:
                digest = final.copied_together(path, matrix, dtype)
            frames["activation_file"] = pl.DataFrame(
                {"path": path.relative_to(self.beside).as_posix(), "layer_id": layer_id, "neurons": matrix.shape[0], "clips": matrix.shape[1],
                 "dtype": str(dtype), "sha256": digest}
            )  # fmt: skip
            for table, frame in (frames | self._found(number, reduction, open_matrix(path), neuron_ids)).items():
                tables.setdefault(table, []).append(frame.with_columns(pl.lit(reduction).alias("reduction")))
        return {table: pl.concat(frames) for table, frames in tables.items()}

    def _found(self, number: int, reduction: str, matrix: Matrix, neuron_ids: np.ndarray) -> dict[str, pl.DataFrame]:
        its, layer = self.extraction, self.extraction.layers[number]
        if reduction == "active":  # by how often a neuron is active nothing is ranked
            return tables_of(matrix, neuron_ids)
        known = None
        if reduction in ("mean", "cls") and not its.positions:
            steps = course_steps(its.network, layer) if reduction == "mean" else 1
            known = Extremes(len(neuron_ids), its.plan.top_k, steps, 1)
            for segment in self.segments:
                with np.load(segment.ranking(its.plan.folder)) as arrays:
                    known.merge(arrays, f"{number}.")
        top = top_clips(matrix, neuron_ids, self.clip_ids, its.plan.top_k) if known is None else ranking(known, neuron_ids)
        labels = None if its.positions and layer.is_map else self.labels
        return tables_of(matrix, neuron_ids, labels, non_negative=layer.non_negative) | {"top_clip": top}


def tables_of(
    matrix: Matrix, neuron_ids: np.ndarray, labels: list[tuple[np.ndarray, np.ndarray]] | None = None, *, non_negative: bool = False
) -> dict[str, pl.DataFrame]:
    """Rows of activation_summary and, with label sets, class_activation, from a block of neurons after the other."""
    frames: dict[str, list[pl.DataFrame]] = {"activation_summary": [], "class_activation": []}
    for rows, values in matrix.blocks():
        frames["activation_summary"].append(summary(values, neuron_ids[rows]))
        if labels is not None:
            frames["class_activation"].append(class_activation(values, neuron_ids[rows], labels, non_negative=non_negative))
    return {table: pl.concat(several) for table, several in frames.items() if several}


def layer_records(con: duckdb.DuckDBPyConnection, run: ledger.Run, extraction: Extraction) -> list[tuple[int, np.ndarray]]:
    """Ids of the layers that are recorded, and their neurons."""
    return [layer_record(con, run, layer.name, positions=extraction.positions and layer.is_map) for layer in extraction.layers]


def register_network(con: duckdb.DuckDBPyConnection, network: Network, layers: list[Layer], *, positions: bool) -> None:
    """Write the rows of a network, its layers and neurons, where they are not there yet."""
    key = [network.name, network.checkpoint_sha256, network.clip_s]
    query = "SELECT network_id FROM network WHERE name = ? AND checkpoint_sha256 = ? AND clip_s = ?"
    if not con.execute(query, key).fetchall():
        names = json.dumps(network.output_names, ensure_ascii=False) if network.output_names else None
        con.execute(
            "INSERT INTO network SELECT coalesce(max(network_id), 0) + 1, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM network",
            [network.name, network.family, network.checkpoint_sha256, network.sample_rate_hz, network.clip_s, network.window_s,
             network.window_hop_s, names, network.note],
        )  # fmt: skip
    [(network_id,)] = con.execute(query, key).fetchall()
    for layer in layers if positions else network.layers:
        by_position = positions and layer.is_map
        kind = "position" if by_position else "unit" if layer.axes.endswith("unit") else "channel"
        if con.execute("SELECT 1 FROM layer WHERE network_id = ? AND name = ? AND kind = ?", [network_id, layer.name, kind]).fetchall():
            continue
        con.execute(
            "INSERT INTO layer SELECT coalesce(max(layer_id), 0) + 1, ?, ?, ?, ?, ?, ?, ? FROM layer",
            [network_id, layer.name, network.layers.index(layer), layer.module, kind, json.dumps(layer.shape), layer.non_negative],
        )
        index = np.arange(int(np.prod(layer.shape)) if by_position else layer.neurons, dtype=np.int32)
        unit, time, frequency = np.unravel_index(index, layer.shape) if by_position else (index, None, None)
        names_of = (
            network.output_names
            if layer is network.layers[-1] and network.output_names and len(network.output_names) == len(index)
            else None
        )
        neurons = pl.DataFrame({"position": index, "unit": unit, "time": time, "frequency": frequency, "name": names_of})
        con.register("neurons", neurons)
        con.execute(
            """INSERT INTO neuron
            SELECT (SELECT coalesce(max(neuron_id), 0) + 1 FROM neuron) + position, (SELECT max(layer_id) FROM layer), unit, time, frequency, name
            FROM neurons ORDER BY position"""
        )
        con.unregister("neurons")


def layer_record(con: duckdb.DuckDBPyConnection, run: ledger.Run, name: str, *, positions: bool) -> tuple[int, np.ndarray]:
    """Id of a layer of the run's network, and its neuron ids [neurons] in row order."""
    row = con.execute(
        """SELECT layer_id FROM layer JOIN network USING (network_id) JOIN run ON run.network_sha256 = network.checkpoint_sha256
        WHERE run_id = ? AND layer.name = ? AND (kind = 'position') = ?
          AND network.name = run.parameters::JSON ->> 'network' AND network.clip_s = (run.parameters::JSON ->> 'clip_s')::DOUBLE""",
        [run.run_id, name, positions],
    ).fetchone()
    assert row
    neurons = con.execute("SELECT neuron_id FROM neuron WHERE layer_id = ? ORDER BY neuron_id", [row[0]]).fetchnumpy()["neuron_id"]
    return row[0], neurons


def label_sets(con: duckdb.DuckDBPyConnection, run_id: int) -> list[tuple[np.ndarray, sparse.csr_array]]:
    """For each label set of the data set of a run of stage activations: class ids [classes] and membership [clips in column order, classes]
    (bool, sparse)."""
    result = []
    rows = con.execute(
        """SELECT label_set_id, list(class_id ORDER BY class_id) FROM class JOIN label_set USING (label_set_id) JOIN dataset USING (dataset_id)
        JOIN run ON run.dataset_sha256 = content_sha256 AND dataset.name = run.parameters::JSON ->> 'dataset'
        WHERE run.run_id = ? GROUP BY label_set_id ORDER BY label_set_id""",
        [run_id],
    ).fetchall()
    [(clips,)] = con.execute("SELECT count(*) FROM activation_clip WHERE run_id = ?", [run_id]).fetchall()
    for label_set_id, ids in rows:
        class_ids = np.array(ids)
        pairs = con.execute(
            """SELECT column_index, class_id FROM clip_label JOIN class USING (class_id) JOIN activation_clip USING (clip_id)
            WHERE label_set_id = ? AND run_id = ?""",
            [label_set_id, run_id],
        ).fetchnumpy()
        places = (pairs["column_index"], np.searchsorted(class_ids, pairs["class_id"]))
        member = sparse.csr_array((np.ones(len(places[0]), dtype=bool), places), shape=(clips, len(class_ids)))
        result.append((class_ids, member))
    return result


def top_clips(matrix: Matrix, neuron_ids: np.ndarray, clip_ids: np.ndarray, k: int) -> pl.DataFrame:
    """Rows of top_clip, without courses, from a block of neurons after the other."""
    whole = Extremes(len(matrix), k, 1, 1)
    for rows, values in matrix.blocks():
        clips = min(max(CHUNK_CLIPS, RANKED_VALUES // len(values)), len(clip_ids))
        extremes = Extremes(len(values), k, 1, clips)
        for start in range(0, len(clip_ids), clips):
            part = slice(start, start + clips)
            extremes.update(torch.from_numpy(values[:, part].T), torch.from_numpy(clip_ids[part]), None)
        whole.keys[:, rows] = torch.from_numpy(extremes.arrays()["keys"])
    return ranking(whole, neuron_ids)


def ranking(extremes: Extremes, neuron_ids: np.ndarray) -> pl.DataFrame:
    """Rows of top_clip."""
    ids, values = extremes.ranking()
    sides, neurons, k = ids.shape
    columns: dict[str, object] = {
        "neuron_id": np.tile(np.repeat(neuron_ids, k), 2),
        "side": np.repeat(["high", "low"], neurons * k),
        "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), sides * neurons),
        "clip_id": ids.reshape(-1),
        "activation": values.reshape(-1),
    }
    if extremes.courses is not None:
        steps = extremes.courses.shape[3]
        courses = extremes.courses.float().reshape(-1).numpy()
        columns["course"] = pl.Series(courses).fill_nan(None).reshape((-1, steps)).arr.to_list()
    else:
        columns["course"] = pl.Series([None] * ids.size, dtype=pl.List(pl.Float32))
    return pl.DataFrame(columns).filter(pl.col("clip_id") >= 0)


def class_activation(
    matrix: np.ndarray, neuron_ids: np.ndarray, labels: list[tuple[np.ndarray, sparse.csr_array]], *, non_negative: bool
) -> pl.DataFrame:
    """Rows of class_activation for all label sets."""
    frames = []
    for class_ids, member in labels:
        mean, share, clips = class_means(matrix, member)
        selectivity = selectivity_index(matrix, member) if non_negative else np.full(mean.shape, np.nan)
        frames.append(
            pl.DataFrame(
                {
                    "neuron_id": np.repeat(neuron_ids, len(class_ids)),
                    "class_id": np.tile(class_ids, len(neuron_ids)),
                    "clips": clips.reshape(-1),
                    "mean": mean.reshape(-1),
                    "share_active": share.reshape(-1),
                    "selectivity": selectivity.reshape(-1),
                    "average_precision": average_precision(matrix, member).reshape(-1),
                }
            ).with_columns(pl.selectors.float().fill_nan(None))
        )
    empty = pl.DataFrame(
        schema={"neuron_id": pl.Int32, "class_id": pl.Int64, "clips": pl.Int64, "mean": pl.Float64, "share_active": pl.Float64,
                "selectivity": pl.Float64, "average_precision": pl.Float64}
    )  # fmt: skip
    return pl.concat(frames) if frames else empty
