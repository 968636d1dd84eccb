"""A small, real warehouse for the atlas: sounds on disk, and neurons that are random projections of their spectra."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import soundfile as sf

SCHEMA = Path(__file__).parents[2] / "schema.sql"
STEPS, BANDS = 64, 48
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
VERSIONS = json.dumps({"python": "3.11.9", "numpy": "2.4.6", "duckdb": "2.0.0"})


def spectra(paths: list[Path], clip_s: float) -> np.ndarray:
    """Log spectra (clips, STEPS, BANDS) of the first `clip_s` seconds of each file, 0 to 1."""
    out = np.zeros((len(paths), STEPS, BANDS), np.float32)
    for i, path in enumerate(paths):
        wave, rate = sf.read(path, dtype="float32", always_2d=True)
        mono = np.zeros(int(rate * clip_s), np.float32)
        part = wave.mean(1)[: len(mono)]
        mono[: len(part)] = part
        frames = mono[: len(mono) // STEPS * STEPS].reshape(STEPS, -1)
        power = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), 4 * BANDS, axis=1))[:, 1 : 2 * BANDS + 1]
        out[i] = power.reshape(STEPS, BANDS, 2).mean(2)
    out = np.log10(out + 1e-4) / 6 + 0.7
    return out.clip(0, 1)


def average_precision(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Average precision per neuron (rows of `values`) of a boolean class membership."""
    hits = members[np.argsort(-values, axis=1, kind="stable")]
    precision = np.cumsum(hits, axis=1) / np.arange(1, values.shape[1] + 1)
    return (precision * hits).sum(1) / max(1, members.sum())


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame) -> None:
    """Append a frame to a table, columns by name."""
    con.register("incoming", rows)
    con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    con.unregister("incoming")


def next_id(con: duckdb.DuckDBPyConnection, table: str, column: str | None = None) -> int:
    """The next free number of a table."""
    return con.execute(f"SELECT coalesce(max({column or table + '_id'}), 0) + 1 FROM {table}").fetchall()[0][0]


def add_run(con: duckdb.DuckDBPyConnection, stage: str, dataset_sha: str | None, network_sha: str | None, status: str = "done") -> int:
    """A finished run; each starts a minute after the one before."""
    run_id = next_id(con, "run")
    started = START + timedelta(minutes=run_id)
    con.execute(
        "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, 0, 1, ?, 'abc1234', 'cpu', ?, ?, ?)",
        [run_id, stage, hashlib.sha256(str(run_id).encode()).hexdigest(), dataset_sha, network_sha, '{"top": 20}', VERSIONS, started,
         started + timedelta(seconds=42) if status == "done" else None, status],
    )  # fmt: skip
    return run_id


def create(path: Path) -> duckdb.DuckDBPyConnection:
    """An empty warehouse."""
    con = duckdb.connect(str(path))
    con.execute(SCHEMA.read_text())
    con.execute("INSERT INTO schema_version VALUES (1, ?, '0.1.0')", [START])
    return con


def add_dataset(con: duckdb.DuckDBPyConnection, name: str, source: Path, clips: dict[str, dict[str, list[str]]], license: str | None,
                version: int = 1) -> int:  # fmt: skip
    """A data set whose `clips` map file name -> label set -> classes."""
    content = hashlib.sha256(f"{name}{version}{sorted(clips)}".encode()).hexdigest()
    run_id = add_run(con, "clips", content, None)
    dataset_id = next_id(con, "dataset")
    con.execute("INSERT INTO dataset VALUES (?, ?, ?, ?, 'folder', ?, ?, ?)",
                [dataset_id, run_id, name, version, str(source), content, license])  # fmt: skip
    class_ids: dict[tuple[str, str], int] = {}
    for label_set in dict.fromkeys(key for labels in clips.values() for key in labels):
        set_id = next_id(con, "label_set")
        con.execute("INSERT INTO label_set VALUES (?, ?, ?)", [set_id, dataset_id, label_set])
        for value in dict.fromkeys(v for labels in clips.values() for v in labels.get(label_set, [])):
            class_ids[label_set, value] = next_id(con, "class")
            con.execute("INSERT INTO class VALUES (?, ?, ?)", [class_ids[label_set, value], set_id, value])
    clip_id, rows, marks = next_id(con, "clip"), [], []
    for i, (file, labels) in enumerate(clips.items()):
        path = source / file
        info = sf.info(path)
        rows.append(dict(
            clip_id=clip_id + i, dataset_id=dataset_id, name=file, sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            duration_s=info.frames / info.samplerate, sample_rate_hz=info.samplerate, channels=info.channels, rms_dbfs=-20.0,
            peak_dbfs=-3.0, median_frequency_hz=900.0, silence_share=0.1, fold=i % 5 + 1, source_group=f"g{i // 2}",
        ))  # fmt: skip
        marks += [dict(clip_id=clip_id + i, class_id=class_ids[key, value]) for key, values in labels.items() for value in values]
    insert(con, "clip", pl.DataFrame(rows))
    insert(con, "clip_label", pl.DataFrame(marks))
    return dataset_id


def add_network(con: duckdb.DuckDBPyConnection, name: str, dataset_id: int, layers: list[tuple[str, int, bool]], clip_s: float,
                output_names: list[str] | None = None, checkpoint: str = "c0ffee") -> int:  # fmt: skip
    """A network with `layers` (name, neurons, non-negative) and its finished run over the data set's clips; returns the run."""
    sha = hashlib.sha256(checkpoint.encode()).hexdigest()
    known = con.execute("SELECT network_id FROM network WHERE name = ? AND checkpoint_sha256 = ?", [name, sha]).fetchall()
    network_id = known[0][0] if known else next_id(con, "network")
    if not known:
        con.execute("INSERT INTO network VALUES (?, ?, 'test', ?, 16000, ?, ?, ?, ?, 'Random projections of a spectrum.')",
                    [network_id, name, sha, clip_s, clip_s, clip_s, json.dumps(output_names) if output_names else None])  # fmt: skip
        for position, (layer, neurons, non_negative) in enumerate(layers):
            layer_id, neuron_id = next_id(con, "layer"), next_id(con, "neuron")
            con.execute("INSERT INTO layer VALUES (?, ?, ?, ?, ?, 'channel', ?, ?)",
                        [layer_id, network_id, layer, position, f"body.{position}", json.dumps([neurons, 48, 32]), non_negative])  # fmt: skip
            names = output_names if output_names and position == len(layers) - 1 else [None] * neurons
            insert(con, "neuron", pl.DataFrame(dict(neuron_id=range(neuron_id, neuron_id + neurons), layer_id=[layer_id] * neurons,
                                                    unit=range(neurons), name=pl.Series(names, dtype=pl.String))))  # fmt: skip
    content, source = con.execute("SELECT content_sha256, source FROM dataset WHERE dataset_id = ?", [dataset_id]).fetchall()[0]
    run_id = add_run(con, "activations", content, sha)
    clips = con.execute("SELECT clip_id, name FROM clip WHERE dataset_id = ? ORDER BY clip_id", [dataset_id]).fetchall()
    clip_ids = np.array([c for c, _ in clips])
    insert(con, "activation_clip", pl.DataFrame(dict(run_id=[run_id] * len(clips), column_index=range(len(clips)), clip_id=clip_ids)))
    labels = con.execute("SELECT class_id, list(clip_id) FROM clip_label JOIN clip USING (clip_id) WHERE dataset_id = ? GROUP BY 1 ORDER BY 1",
                         [dataset_id]).fetchall()  # fmt: skip
    sounds = spectra([Path(source) / c for _, c in clips], clip_s)
    means = []
    for layer_id, non_negative in con.execute(
        "SELECT layer_id, non_negative FROM layer WHERE network_id = ? ORDER BY position", [network_id]
    ).fetchall():
        ids = np.array([n for (n,) in con.execute("SELECT neuron_id FROM neuron WHERE layer_id = ? ORDER BY 1", [layer_id]).fetchall()])
        random = np.random.default_rng(layer_id)
        course = sounds @ random.normal(size=(BANDS, len(ids))).astype(np.float32) * 0.5 - 0.3
        course[..., 0] = 0 if non_negative else course[..., 0]
        course = np.maximum(course, 0) if non_negative else course
        con.execute("INSERT INTO activation_file VALUES (?, ?, ?, 'mean', ?, ?, ?, 'float16', 'f')",
                    [next_id(con, "activation_file"), run_id, layer_id, f"a/{run_id}/{layer_id}.npy", len(ids), len(clips)])  # fmt: skip
        means.append(course.mean(1).T)
        for reduction, values in (("mean", course.mean(1).T), ("max", course.max(1).T)):
            add_results(con, run_id, ids, reduction, values, course, clip_ids, labels, non_negative)
    add_neighbors(con, run_id, network_id, np.concatenate(means))
    return run_id


def add_results(con, run_id, ids, reduction, values, course, clip_ids, labels, non_negative) -> None:
    """Summaries, top clips and class profile of one layer (`values`: neurons x clips)."""
    q = np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], axis=1)
    histogram = [json.dumps(np.histogram(v, 24)[0].tolist()) if v.min() < v.max() else None for v in values]
    insert(con, "activation_summary", pl.DataFrame(dict(
        run_id=[run_id] * len(ids), neuron_id=ids, reduction=[reduction] * len(ids), clips=[len(clip_ids)] * len(ids), mean=values.mean(1),
        deviation=values.std(1), minimum=q[0], quantile_05=q[1], quantile_25=q[2], median=q[3], quantile_75=q[4], quantile_95=q[5],
        maximum=q[6], share_active=(values > 0).mean(1), is_dead=(values == 0).all(1), histogram=pl.Series(histogram, dtype=pl.String),
    )))  # fmt: skip
    k = min(20, len(clip_ids))
    for side, sign in (("high", -1), ("low", 1)):
        order = np.argsort(sign * values, axis=1, kind="stable")[:, :k]
        rows = np.arange(len(ids)).repeat(k)
        flat = order.ravel()
        kept = course[flat, :, rows] if reduction == "mean" else None
        insert(con, "top_clip", pl.DataFrame(dict(
            run_id=[run_id] * len(flat), neuron_id=ids[rows], reduction=[reduction] * len(flat), side=[side] * len(flat),
            rank=np.tile(np.arange(1, k + 1), len(ids)), clip_id=clip_ids[flat], activation=values[rows, flat],
            course=pl.Series(kept.tolist() if kept is not None else [None] * len(flat), dtype=pl.List(pl.Float32)),
        )))  # fmt: skip
    for class_id, members in labels:
        inside = np.isin(clip_ids, members)
        m, r = values[:, inside].mean(1), values[:, ~inside].mean(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            selectivity = (m - r) / (m + r) if non_negative else np.full(len(ids), np.nan)
        insert(con, "class_activation", pl.DataFrame(dict(
            run_id=[run_id] * len(ids), neuron_id=ids, reduction=[reduction] * len(ids), class_id=[class_id] * len(ids),
            clips=[int(inside.sum())] * len(ids), mean=m, share_active=(values[:, inside] > 0).mean(1),
            selectivity=pl.Series(selectivity, nan_to_null=True), average_precision=average_precision(values, inside),
        )))  # fmt: skip


def add_neighbors(con, run_id, network_id, values) -> None:
    """The ten most correlated neurons of each neuron that varies."""
    ids = np.array([n for (n,) in con.execute(
        "SELECT neuron_id FROM neuron JOIN layer USING (layer_id) WHERE network_id = ? ORDER BY 1", [network_id]).fetchall()])  # fmt: skip
    varies = values.std(1) > 0
    z = (values - values.mean(1, keepdims=True)) / np.where(varies, values.std(1), 1)[:, None]
    for first in range(0, len(ids), 1000):
        part = np.arange(first, min(first + 1000, len(ids)))
        r = z[part] @ z.T / values.shape[1]
        r[:, ~varies] = -2
        r[np.arange(len(part)), part] = -2
        best = np.argsort(-r, axis=1, kind="stable")[:, :10]
        rows = part[varies[part]].repeat(best.shape[1])
        chosen = best[varies[part]].ravel()
        insert(con, "neighbor", pl.DataFrame(dict(run_id=[run_id] * len(rows), neuron_id=ids[rows], neighbor_id=ids[chosen],
            rank=np.tile(np.arange(1, best.shape[1] + 1), varies[part].sum()), correlation=r[rows - first, chosen].clip(-1, 1))))  # fmt: skip
