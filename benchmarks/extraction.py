"""What recording costs on top of a bare forward pass, how fast bulk loads and second runs are, and how much memory the whole takes.

    python benchmarks/extraction.py [ESC50_FOLDER]

Measures YAMNet on ESC-50 (default: $AURICLE_ESC50 or ../shared/data/esc50) and writes benchmarks/results/extraction.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from ingest.networks.network import keep_freed_memory
from ingest.networks.registry import load_network
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import load
from ingest.stages.extraction.recording import Recorder
from ingest.stages.extraction.segments import SEGMENT_CLIPS, new_extremes
from ingest.stages.extraction.stored_types import watcher
from warehouse import store

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "extraction.json"
BATCH, TURN, CLIPS, REPEATS = 8, 10, 2000, 3


def paired_overhead(source: Path) -> dict:
    """Bare forward passes against recorded ones, in turn over the same prepared batches: all reductions, courses, rankings, what float16 does to values,
    and the segments' values.

    The clips run through once, as in an ingest: rankings start empty at the first batch, so the costly beginning is in the figure.
    """
    keep_freed_memory()
    network = load_network("yamnet")
    entries = read_dataset("esc50", source).entries[:CLIPS]
    waveforms, ends = zip(
        *(load(entry.path, sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s) for entry in entries), strict=True
    )
    batches = [network.prepare(torch.from_numpy(np.stack(waveforms[start : start + BATCH]))) for start in range(0, CLIPS, BATCH)]
    seconds = np.array(ends).reshape(-1, BATCH)
    recorder = Recorder(network, network.layers)
    rows = [layer.neurons for layer in network.layers]
    reductions = len(recorder.reductions)
    ratios, bare_ms, recorded_ms = [], [], []
    for _ in range(REPEATS + 1):
        extremes = new_extremes(recorder, 20, BATCH)
        bare = recorded = 0.0
        segment = torch.empty((reductions, SEGMENT_CLIPS, sum(rows)), dtype=torch.float16)
        kept = watcher(network.layers, rows, reductions, positions=False)
        for first in range(0, len(batches), TURN):
            turn = batches[first : first + TURN]
            start = time.perf_counter()
            for batch in turn:
                network.forward(batch)
            bare += time.perf_counter() - start
            start = time.perf_counter()
            with torch.inference_mode(), recorder:
                for number, batch in enumerate(turn, start=first):
                    recorder.valid_s = torch.from_numpy(seconds[number])
                    network.forward(batch)
                    found = [recorder.batch.pop(layer.name) for layer in network.layers]
                    ids = torch.arange(number * BATCH, (number + 1) * BATCH)
                    columns = slice(number * BATCH % SEGMENT_CLIPS, number * BATCH % SEGMENT_CLIPS + BATCH)
                    plain = torch.empty((BATCH, reductions, sum(rows)))
                    for part, values in zip(found, plain.split(rows, dim=2), strict=True):
                        for index, reduction in enumerate(part.reductions.values()):
                            values[:, index] = reduction
                    kept.update(plain.flatten(1))
                    segment[:, columns] = plain.transpose(0, 1).half()
                    for part, extreme, values in zip(found, extremes, segment[0, columns].split(rows, dim=1), strict=True):
                        extreme.update(values, ids, part.course)
            recorded += time.perf_counter() - start
        ratios.append(recorded / bare)
        bare_ms.append(bare / CLIPS * 1e3)
        recorded_ms.append(recorded / CLIPS * 1e3)
    return {
        "clips": CLIPS, "batch": BATCH, "repeats": REPEATS,
        "bare_ms_per_clip": statistics.median(bare_ms[1:]), "recorded_ms_per_clip": statistics.median(recorded_ms[1:]),
        "ratio_median": statistics.median(ratios[1:]), "ratio_min": min(ratios[1:]), "ratio_max": max(ratios[1:]),
    }  # fmt: skip


def bulk_load(folder: Path) -> dict:
    """Rows a second into class_activation, key and transaction included, in one commit of 1.1 million rows."""
    path = folder / "bulk.duckdb"
    store.create(path)
    neurons, classes = 11_465, 50
    rows = neurons * classes * 2
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "run_id": np.ones(rows, np.int32),
            "neuron_id": np.tile(np.repeat(np.arange(neurons, dtype=np.int32), classes), 2),
            "reduction": np.repeat(["mean", "max"], neurons * classes),
            "class_id": np.tile(np.arange(classes, dtype=np.int32), neurons * 2),
            "clips": np.full(rows, 40, np.int32),
            **{name: rng.random(rows, np.float32) for name in ("mean", "share_active", "selectivity", "average_precision")},
        }
    )
    seconds = []
    for run in range(3):
        start = time.perf_counter()
        with store.transaction(path) as con:
            con.register("frame", frame.with_columns(pl.lit(run, pl.Int32).alias("run_id")))
            con.execute("INSERT INTO class_activation BY NAME SELECT * FROM frame")
        seconds.append(time.perf_counter() - start)
    return {"rows": rows, "rows_per_second": rows / statistics.median(seconds)}


def command(*arguments: str) -> tuple[float, float, str]:
    """Run `auricle`; returns seconds, peak memory of the process in MB, and what it printed."""
    start = time.perf_counter()
    code = (
        "import re, sys; import auricle\ntry: auricle.main()\n"
        "finally: print('peak', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start, int(done.stderr.split("peak")[-1]) / 1024, done.stdout


def whole(folder: Path, source: Path) -> dict:
    """`ingest` twice and `report` twice, as whole processes, on the full data set."""
    warehouse = ["--warehouse", str(folder / "esc50.duckdb")]
    ingest = ["ingest", "--network", "yamnet", "--dataset", "esc50", "--source", str(source), *warehouse]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import auricle, ingest.stages.activations, ingest.study, ingest.networks.yamnet, ingest.networks.registry"],
        cwd=ROOT,
        check=True,
    )
    imports_s = time.perf_counter() - start
    first_s, peak_mb, _ = command(*ingest)
    again_s, _, text = command(*ingest)
    if text.count("nothing to do") != 2:
        raise SystemExit(f"the second ingest did something: {text}")
    report = ["report", "--site", str(folder / "site"), *warehouse]
    report_s, report_peak_mb, report_text = command(*report)
    report_again_s, _, report_again_text = command(*report)
    return {
        "ingest_s": first_s, "ingest_peak_mb": peak_mb, "second_ingest_s": again_s, "imports_s": imports_s,
        "second_ingest_beyond_imports_s": again_s - imports_s,
        "report_s": report_s, "report_peak_mb": report_peak_mb, "report": report_text.strip().replace(f"{folder}/", ""),
        "second_report_s": report_again_s, "second_report": report_again_text.strip().replace(f"{folder}/", ""),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    source = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("AURICLE_ESC50", ROOT.parent / "shared" / "data" / "esc50"))
    results = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "torch": torch.__version__, "threads": torch.get_num_threads()}
    results["recording"] = paired_overhead(source)
    with tempfile.TemporaryDirectory() as folder:
        results["bulk_load"] = bulk_load(Path(folder))
        results["whole"] = whole(Path(folder), source)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
