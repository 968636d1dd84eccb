"""The rows of networks and layers, and, from a run's segments, one matrix a layer and reduction with the tables that summarise it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import torch
from scipy import sparse

from ingest.methods.extremes import Extremes
from ingest.methods.precision import lost_in_float16
from ingest.methods.specificity import average_precision, class_means, selectivity_index
from ingest.networks.network import Layer, Network, course_steps
from ingest.stages import Progress, silent
from warehouse import ledger, store

CHUNK_CLIPS = 256
BINS = 24
QUANTILES = {"quantile_05": 0.05, "quantile_25": 0.25, "median": 0.5, "quantile_75": 0.75, "quantile_95": 0.95}


def finish_layers(
    run: ledger.Run,
    network: Network,
    layers: list[Layer],
    top_k: int,
    folder: Path,
    segments: list[Path],
    rankings: list[Path],
    reductions: tuple[str, ...],
    progress: Progress = silent,
    by_layer: bool = False,
) -> int:
    """Write the matrices and tables of every layer; returns the units of work done now. `by_layer`: as float16 those of
    the layers whose values all survive that. `segments` are files of values in column order, `rankings` those of their rankings, if any."""
    done = run.done()
    positions = reductions == ("window_mean",)
    with store.connect_readonly(run.warehouse) as con:
        records = [layer_record(con, run, layer.name, positions=positions and layer.is_map) for layer in layers]
        clip_ids = np.array(
            con.execute("SELECT clip_id FROM activation_clip WHERE run_id = ? ORDER BY column_index", [run.run_id]).fetchall()
        )
        labels = label_sets(con, run.run_id)
    clip_ids = clip_ids.reshape(-1).astype(np.int64)
    worked, row = 0, 0
    for number, (layer, (layer_id, neuron_ids)) in enumerate(zip(layers, records, strict=True)):
        item = f"layer {layer_id}"
        if item not in done:
            tables: dict[str, list[pl.DataFrame]] = {}
            by_position = positions and layer.is_map
            fits = by_layer and not any(
                lost_in_float16(torch.from_numpy(assemble(segments, index, row, len(neuron_ids))).T, positions=by_position)
                for index in range(len(reductions))
            )
            # The mean over windows is all there is of single units.
            for index, reduction in enumerate(("mean",) if positions and not by_position else reductions):
                matrix = assemble(segments, index, row, len(neuron_ids))
                matrix = matrix.astype(np.float16) if fits else matrix
                path = folder / f"{layer_id:04d}-{re.sub(r'[^A-Za-z0-9]+', '-', layer.name)[:60]}.{reduction}.npy"
                digest = store.save_array(path, matrix)
                file_row = {
                    "path": path.relative_to(run.warehouse.parent).as_posix(),
                    "layer_id": layer_id,
                    "neurons": matrix.shape[0],
                    "clips": matrix.shape[1],
                    "dtype": str(matrix.dtype),
                    "sha256": digest,
                }
                found = {"activation_file": pl.DataFrame([file_row]), "activation_summary": summary(matrix, neuron_ids)}
                if reduction != "active":  # by how often a neuron is active nothing is ranked
                    steps = course_steps(network, layer) if reduction == "mean" and rankings else 1
                    extremes = Extremes(len(neuron_ids), top_k, steps, CHUNK_CLIPS)
                    if reduction in ("mean", "cls") and rankings:
                        for ranking_file in rankings:
                            with np.load(ranking_file) as arrays:
                                extremes.merge(arrays, f"{number}.")
                    else:
                        for start in range(0, len(clip_ids), CHUNK_CLIPS):
                            part = slice(start, start + CHUNK_CLIPS)
                            extremes.update(torch.from_numpy(matrix[:, part].T), torch.from_numpy(clip_ids[part]), None)
                    found["top_clip"] = ranking(extremes, neuron_ids)
                    if not by_position:
                        found["class_activation"] = class_activation(matrix, neuron_ids, labels, non_negative=layer.non_negative)
                for table, frame in found.items():
                    tables.setdefault(table, []).append(frame.with_columns(pl.lit(reduction).alias("reduction")))
            run.record([item], {table: pl.concat(frames) for table, frames in tables.items()})
            worked += 1
        row += len(neuron_ids)
        progress(number + 1, len(layers))
    return worked


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


def assemble(segments: list[Path], reduction: int, row: int, neurons: int) -> np.ndarray:
    """A layer's matrix [neurons, clips] from all segments."""
    return np.concatenate([np.load(segment, mmap_mode="r")[reduction, row : row + neurons] for segment in segments], axis=1)


def summary(matrix: np.ndarray, neuron_ids: np.ndarray) -> pl.DataFrame:
    """Rows of activation_summary for a matrix [neurons, clips]; NaN entries are left out."""
    ordered = np.sort(matrix.astype(np.float64), axis=1)  # NaN last
    finite = np.isfinite(ordered)
    count = finite.sum(axis=1)
    values = np.where(finite, ordered, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values.sum(axis=1) / count
        deviation = np.sqrt((np.where(finite, values - mean[:, None], 0) ** 2).sum(axis=1) / count)
        columns: dict[str, np.ndarray | pl.Series] = {"neuron_id": neuron_ids, "clips": count, "mean": mean, "deviation": deviation}
        columns["minimum"], columns["maximum"] = _quantile(ordered, count, 0), _quantile(ordered, count, 1)
        columns |= {name: _quantile(ordered, count, q) for name, q in QUANTILES.items()}
        columns["share_active"] = (values > 0).sum(axis=1) / count
    columns["is_dead"] = (count > 0) & (values == 0).all(axis=1)
    columns["histogram"] = pl.Series(histograms(ordered, count), dtype=pl.String)
    return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))


def _quantile(ordered: np.ndarray, count: np.ndarray, q: float) -> np.ndarray:
    """Linearly interpolated quantile of the first `count` values of each sorted row; NaN without any."""
    place = np.maximum(count - 1, 0) * q
    low, high = np.floor(place).astype(int)[:, None], np.ceil(place).astype(int)[:, None]
    below, above = np.take_along_axis(ordered, low, 1)[:, 0], np.take_along_axis(ordered, high, 1)[:, 0]
    return below + (above - below) * (place - low[:, 0])


def histograms(ordered: np.ndarray, count: np.ndarray) -> list[str | None]:
    """Counts of each sorted row in equal bins from its least to its greatest value, as JSON; None without a range."""
    low, high = _quantile(ordered, count, 0)[:, None], _quantile(ordered, count, 1)[:, None]
    spread = np.isfinite(low) & (high > low)
    with np.errstate(invalid="ignore", divide="ignore"):
        place = (ordered - low) / (high - low) * BINS
        edges = np.linspace(low[:, 0], high[:, 0], BINS + 1, axis=1)
    usable = np.isfinite(place) & spread
    place = np.minimum(np.where(usable, place, 0), BINS - 1).astype(np.int64)
    # Rounding may put a value beside its bin: the edges decide, as in numpy.histogram.
    place -= usable & (ordered < np.take_along_axis(edges, place, 1))
    place += usable & (ordered >= np.take_along_axis(edges, place + 1, 1)) & (place < BINS - 1)
    flat = (np.arange(len(ordered))[:, None] * BINS + place)[usable]
    counts = np.bincount(flat, minlength=len(ordered) * BINS).reshape(-1, BINS)
    return [json.dumps(row, separators=(",", ":")) if ok else None for row, ok in zip(counts.tolist(), spread[:, 0].tolist(), strict=True)]


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
