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

from warehouse.store import SCHEMA_VERSION

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


def add_run(con: duckdb.DuckDBPyConnection, stage: str, dataset_sha: str | None, network_sha: str | None, status: str = "done",
            parameters: dict | None = None) -> int:  # fmt: skip
    """A finished run; each starts a minute after the one before."""
    run_id = next_id(con, "run")
    started = START + timedelta(minutes=run_id)
    con.execute(
        "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, 0, 1, ?, 'abc1234', 'cpu', ?, ?, ?)",
        [run_id, stage, hashlib.sha256(str(run_id).encode()).hexdigest(), dataset_sha, network_sha, json.dumps(parameters or {"top": 20}), VERSIONS, started,
         started + timedelta(seconds=42) if status == "done" else None, status],
    )  # fmt: skip
    return run_id


def create(path: Path) -> duckdb.DuckDBPyConnection:
    """An empty warehouse."""
    con = duckdb.connect(str(path))
    con.execute(SCHEMA.read_text())
    con.execute("INSERT INTO schema_version VALUES (?, ?, '0.1.0')", [SCHEMA_VERSION, START])
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
                output_names: list[str] | None = None, checkpoint: str = "c0ffee", *, near: bool = True) -> int:  # fmt: skip
    """A network with `layers` (name, neurons, non-negative) and its finished run over the data set's clips; returns the run. Neighbours are left
    out unless `near`."""
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
    run_id = add_run(con, "activations", content, sha, parameters=subject(con, name, dataset_id, clip_s))
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
        add_file(con, run_id, layer_id, "mean", course.mean(1).T)
        means.append(course.mean(1).T)
        for reduction, values in (("mean", course.mean(1).T), ("max", course.max(1).T)):
            add_results(con, run_id, ids, reduction, values, course, clip_ids, labels, non_negative)
    if near:
        add_neighbors(con, run_id, network_id, np.concatenate(means))
    return run_id


def subject(con: duckdb.DuckDBPyConnection, network: str, dataset_id: int, clip_s: float) -> dict:
    """Parameters of a run that later stages look for."""
    [(dataset,)] = con.execute("SELECT name FROM dataset WHERE dataset_id = ?", [dataset_id]).fetchall()
    return {"network": network, "dataset": dataset, "clip_s": clip_s}


def add_file(con: duckdb.DuckDBPyConnection, run_id: int, layer_id: int, reduction: str, values: np.ndarray) -> None:
    """A layer's activation file (neurons x clips), beside the database."""
    [(database,)] = con.execute("SELECT path FROM duckdb_databases() WHERE database_name = current_database()").fetchall()
    path = f"a/{run_id}/{layer_id}.npy"
    file = Path(database).parent / path
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, values.astype(np.float16))
    con.execute("INSERT INTO activation_file VALUES (?, ?, ?, ?, ?, ?, ?, 'float16', 'f')",
                [next_id(con, "activation_file"), run_id, layer_id, reduction, path, *values.shape])  # fmt: skip


def add_positions(con: duckdb.DuckDBPyConnection, network: str, dataset_id: int, layer: str, clip_s: float) -> int:
    """A finished run over the single positions of a network's layer: 4 channels at the first 8 steps and 6 bands; returns the run."""
    network_id, sha = con.execute("SELECT network_id, checkpoint_sha256 FROM network WHERE name = ?", [network]).fetchall()[0]
    content, source = con.execute("SELECT content_sha256, source FROM dataset WHERE dataset_id = ?", [dataset_id]).fetchall()[0]
    [(position, module)] = con.execute(
        "SELECT position, module FROM layer WHERE network_id = ? AND name = ? AND kind = 'channel'", [network_id, layer]
    ).fetchall()
    layer_id, neuron_id = next_id(con, "layer"), next_id(con, "neuron")
    con.execute("INSERT INTO layer VALUES (?, ?, ?, ?, ?, 'position', '[4, 8, 6]', true)", [layer_id, network_id, layer, position, module])
    con.execute("INSERT INTO neuron SELECT ? + i, ?, i // 48, i // 6 % 8, i % 6, NULL FROM range(192) t(i)", [neuron_id, layer_id])
    run_id = add_run(con, "activations", content, sha, parameters=subject(con, network, dataset_id, clip_s) | {"positions": True})
    clips = con.execute("SELECT clip_id, name FROM clip WHERE dataset_id = ? ORDER BY clip_id", [dataset_id]).fetchall()
    insert(
        con,
        "activation_clip",
        pl.DataFrame(dict(run_id=[run_id] * len(clips), column_index=range(len(clips)), clip_id=[c for c, _ in clips])),
    )
    sounds = spectra([Path(source) / c for _, c in clips], clip_s)[:, :8, :6]
    weights = np.random.default_rng(layer_id).normal(size=4).astype(np.float32)
    values = np.maximum(weights[:, None, None] * sounds[:, None] - 0.1, 0)
    add_file(con, run_id, layer_id, "window_mean", values.reshape(len(clips), -1).T)
    return run_id


def add_interventions(con: duckdb.DuckDBPyConnection, cluster_run: int, clusters: int, repetitions: int = 4) -> int:
    """A finished run that took 4 of 10 clips from a cluster's first class, 2 from its second and a varying one of its control; returns the run."""
    dataset_sha, network_sha, parameters = con.execute(
        "SELECT dataset_sha256, network_sha256, parameters FROM run WHERE run_id = ?", [cluster_run]
    ).fetchall()[0]
    run_id = add_run(con, "interventions", dataset_sha, network_sha, parameters=json.loads(parameters))
    con.execute("""INSERT INTO readout SELECT ?, class_id, 8, 10 FROM class WHERE class_id IN (SELECT class_id FROM ccav)""", [run_id])
    con.execute("""INSERT INTO intervention
        WITH disturbed AS (SELECT cluster_id FROM cluster WHERE run_id = $clusters AND neurons > 1
                           ORDER BY partition, neurons DESC, cluster_id LIMIT $limit),
        ranked AS (SELECT cluster_id, class_id, row_number() OVER (PARTITION BY cluster_id ORDER BY activation DESC, class_id) AS place
                   FROM disturbed JOIN ccav USING (cluster_id))
        SELECT $run, cluster_id, target, repetition, class_id,
               8 - CASE WHEN target = 'control' THEN repetition % 2 WHEN place = 1 THEN 4 WHEN place = 2 THEN 2 ELSE 0 END
        FROM ranked, (VALUES ('cluster'), ('control')) AS t (target), range($repetitions) AS r (repetition)""",
        {"clusters": cluster_run, "limit": clusters, "run": run_id, "repetitions": repetitions})  # fmt: skip
    return run_id


def add_language(con: duckdb.DuckDBPyConnection, activation_run: int, odd: str) -> dict[str, int]:
    """Finished runs of captions, descriptions, dissections, polysemanticity and ablations by stage, with `odd` wherever a text may stand.

    By a neuron's place in the network, place 0 says "It is a loud sound.",
    `odd` and, dropped, "It is a steady sound."; place 1 a point of 100 kB; place 2 only what was dropped; place 3 failed; place 4 has no point.
    All others are as place 0, with "It is a bright sound." for `odd`.
    """
    dataset_sha, network_sha, text = con.execute(
        "SELECT dataset_sha256, network_sha256, parameters FROM run WHERE run_id = ?", [activation_run]
    ).fetchall()[0]
    subject = json.loads(text)
    runs = {"captions": add_run(con, "captions", dataset_sha, None, parameters={"dataset": subject["dataset"], "captioner": f"ears {odd}"})}
    key = hashlib.sha256(str(runs["captions"]).encode()).hexdigest()
    model = {"model": {"name": "toy"}, "threshold": 0.7}
    for stage, more in {
        "descriptions": model,
        "dissections": {"concept_set": f"set {odd}", "mode": "paper"},
        "polysemanticity": {"ks": [5]},
    }.items():
        runs[stage] = add_run(con, stage, dataset_sha, network_sha, parameters=subject | more | {"captions": key})
    runs["ablations"] = add_run(con, "ablations", dataset_sha, network_sha, parameters=subject | {"functions": ["wpmi"]})
    clips = [c for (c,) in con.execute("SELECT clip_id FROM activation_clip WHERE run_id = ? ORDER BY 1", [activation_run]).fetchall()]
    captions = [f"Caption {i} {odd}." if i else f"{odd} " + "word " * 20_000 for i in range(len(clips))]
    insert(con, "caption", pl.DataFrame(dict(run_id=[runs["captions"]] * len(clips), clip_id=clips, text=captions, raw=captions)))
    neurons = [n for (n,) in con.execute(
        "SELECT neuron_id FROM neuron JOIN layer USING (layer_id) WHERE layer_id IN (SELECT layer_id FROM activation_file WHERE run_id = ?) ORDER BY 1",
        [activation_run]).fetchall()]  # fmt: skip
    points, words, closed, shared = [], [], [], []
    for place, neuron in enumerate(neurons):
        second = odd if place == 0 else "It is a bright sound."
        said = {1: [("It goes on " + "and on " * 15_000, None)], 2: [(f"It is steady {odd}", "Lowest")], 3: [], 4: []}.get(
            place, [("It is a loud sound.", None), (second, None), ("It is a steady sound.", f"Low {odd}")]
        )
        points += [
            (runs["descriptions"], neuron, i, text, because is None, because, 0.9 if because else 0.25)
            for i, (text, because) in enumerate(said)
        ]
        if place not in (1, 2, 3, 4):
            words += [(neuron, "loud", "adjective", 1, True), (neuron, "sound", "noun", 2, None), (neuron, "in", "preposition", 1, None)]
            words.append((neuron, odd.lower(), "noun", 1, None) if place == 0 else (neuron, "bright", "adjective", 1, True))
            words += [(neuron, "octave", "adjective", 1, False)] * (place == 5)
        for method, functions in {"DB": ("cosine", "wpmi"), "TAB": ("wpmi",)}.items():
            closed += [(runs["dissections"], neuron, method, function, rank, ("dog", odd, "rain, soft", "cat")[rank - 1], 1 / rank)
                       for function in functions for rank in (1, 2, 3, 4)]  # fmt: skip
        shared += [(runs["polysemanticity"], neuron, 5, 3 + place % 3, place % 2, 0)] * (place != 4)
    con.execute(
        "INSERT INTO failure VALUES (?, 'descriptions', ?, ?, now())", [runs["descriptions"], f"neuron {neurons[3]}", f"unusable {odd}"]
    )
    con.executemany("INSERT INTO summary_point VALUES (?, ?, ?, ?, ?, ?, ?)", points)
    con.executemany(f"INSERT INTO concept VALUES ({runs['descriptions']}, ?, ?, ?, ?, ?)", words)
    con.executemany("INSERT INTO closed_concept VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", closed)
    con.executemany("INSERT INTO polysemanticity VALUES (?, ?, ?, ?, ?, ?)", shared)
    ranked = "SELECT clip_id FROM top_clip WHERE run_id = ? AND neuron_id = ? AND side = 'high' AND reduction = 'mean' ORDER BY rank"
    for place, neuron in enumerate(neurons[:3]):  # as many meanings as its place says
        con.execute("INSERT INTO meaning_count VALUES (?, ?, 4, ?, 0.5, NULL)", [runs["polysemanticity"], neuron, place])
        high = [clip for (clip,) in con.execute(ranked, [activation_run, neuron]).fetchall()]
        for number in range(1, place + 1):
            own = high[number - 1 :: place][:2]
            con.execute(
                "INSERT INTO meaning VALUES (?, ?, ?, ?, 0.9, ?)", [runs["polysemanticity"], neuron, number, len(own), f"hum, {odd}"]
            )
            con.executemany(
                f"INSERT INTO meaning_clip VALUES ({runs['polysemanticity']}, {neuron}, {number}, ?)", [(clip,) for clip in own]
            )
    con.executemany("INSERT INTO sentence_cluster (run_id, cluster, sentences, words) VALUES (?, ?, ?, ?)",
                    [(runs["polysemanticity"], 0, 40, f"hum, {odd}"), (runs["polysemanticity"], 1, 20, "click, tick")])  # fmt: skip
    con.executemany("INSERT INTO sentence_cluster_word VALUES (?, ?, ?, ?, ?)",
                    [(runs["polysemanticity"], 0, "hum", 16, 0.5), (runs["polysemanticity"], 0, odd, 4, 0.2)])  # fmt: skip
    con.execute("UPDATE sentence_cluster SET captions = 21 WHERE run_id = ? AND cluster = 0", [runs["polysemanticity"]])
    main = "SELECT class_id FROM class WHERE label_set_id = (SELECT min(label_set_id) FROM label_set JOIN dataset USING (dataset_id) WHERE content_sha256 = ?)"
    for place, (class_id,) in enumerate(con.execute(f"{main} ORDER BY 1", [dataset_sha]).fetchall()):
        lost = [("DB wpmi", 0, 3, -2.0 - place, -0.5, 10, 4)] + [("random", r, 3, -0.25, -0.25, 10, 8 + r) for r in (0, 1)]
        lost += [("open", 0, 2, -1.0, -0.5, 10, 6)] * (place == 0)
        con.executemany(
            f"INSERT INTO unlearning VALUES ({runs['ablations']}, {class_id}, ?, ?, ?, ?, ?, ?, ?, 12, 80, 70, 100)", lost
        )  # fmt: skip
        con.execute(
            f"""INSERT INTO unlearning_effect SELECT {runs["ablations"]}, {class_id}, 'DB wpmi', 0, class_id, if(class_id = {class_id}, {-2.0 - place}, -0.5)
            FROM ({main})""",
            [dataset_sha],
        )
    con.executemany(f"INSERT INTO importance VALUES ({runs['ablations']}, ?, ?, ?, ?, ?, 200)", [
        ("none", 0.0, 0, 0, 150), ("nouns", 0.1, 0, 4, 100), ("nouns", 0.1, 1, 4, 110), ("random", 0.1, 0, 4, 140), ("random", 0.1, 1, 4, 130),
    ])  # fmt: skip
    return runs


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
