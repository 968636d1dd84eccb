"""Exact FINCH beside finch-clust: time and peak memory, each measured in a process of its own, in one run.

    python benchmarks/clusters.py

20,000 x 400 (where finch-clust is exact, too) in full; 10,000 and 100,000 x 400 (where it is approximate) with the recall of each one's first
neighbours on 1,000 sampled points, by float64 brute force. The points are made like neurons after a ReLU: mostly zeros, families tuned
alike, unequal gains. Processor seconds stand beside wall seconds because other programs may share the machine. Writes
benchmarks/results/clusters.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "clusters.json"
ROOT = Path(__file__).parent.parent
DIMENSIONS = 400
TASKS = [
    ("finch", "exact", 20_000),
    ("finch", "finch-clust", 20_000),
    ("neighbors", "exact", 10_000),
    ("neighbors", "exact", 100_000),
    ("neighbors", "finch-clust", 100_000),
    ("neighbors", "nn-descent", 100_000),
]


def draw(n: int) -> np.ndarray:
    """Rectified activations [n, 400] (float32) of neurons of unequal gain in families of 20 that are tuned alike."""
    rng = np.random.default_rng(0)
    stimuli = rng.normal(size=(64, DIMENSIONS)).astype(np.float32) / 8
    points = np.empty((n, DIMENSIONS), dtype=np.float32)
    for start in range(0, n, 1000):  # in blocks, so that making them does not set the peak of memory
        tuning = np.repeat(rng.standard_normal((50, 64), dtype=np.float32), 20, axis=0)
        tuning += 0.5 * rng.standard_normal((1000, 64), dtype=np.float32)
        gain = np.exp(0.5 * rng.standard_normal((1000, 1), dtype=np.float32))
        points[start : start + 1000] = gain * (tuning @ stimuli - 0.7).clip(0)
    return points[rng.permutation(n)]


def status_mib(field: str) -> float:
    """A memory field of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return round(int(line.split()[1]) / 1024, 1)


def measure(task: str, backend: str, n: int) -> dict[str, object]:
    """Run one task here, once, after everything it imports or compiles has been used on few points."""
    from ingest.methods import clusters

    points = draw(n)
    if backend == "exact":
        clusters.finch(points[:3000])
    else:
        from pynndescent import NNDescent

        if n > 20_000:
            NNDescent(points[:3000], n_neighbors=2, random_state=0)
        clusters.finch(points[:1000], "finch-clust")
    before, wall, processor = status_mib("VmRSS"), time.perf_counter(), time.process_time()
    result = getattr(clusters, {"finch": "finch", "neighbors": "first_neighbors"}[task])(points, backend)
    measured: dict[str, object] = {
        "task": task, "backend": backend, "points": n, "dimensions": DIMENSIONS,
        "wall_s": round(time.perf_counter() - wall, 2), "processor_s": round(time.process_time() - processor, 2),
        "memory_before_mib": before, "peak_memory_mib": status_mib("VmHWM"), "load_average": round(os.getloadavg()[0], 2),
    }  # fmt: skip
    if task == "neighbors":
        measured["recall"] = clusters.recall(result, points)
    else:
        measured["clusters"] = [int(labels.max()) + 1 for labels in result]
    return measured


def main() -> None:
    """Measure each task in a new process, print, write."""
    rows = []
    for task in TASKS:
        command = [sys.executable, __file__, *map(str, task)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    by_task = {(row["task"], row["backend"], row["points"]): row for row in rows}
    ours, theirs = by_task["finch", "exact", 20_000], by_task["finch", "finch-clust", 20_000]
    small, large = by_task["neighbors", "exact", 10_000], by_task["neighbors", "exact", 100_000]
    results = {
        "at_20000": {
            "same_cluster_counts": ours["clusters"] == theirs["clusters"],
            "time_ratio": round(ours["wall_s"] / theirs["wall_s"], 3),
            "processor_time_ratio": round(ours["processor_s"] / theirs["processor_s"], 3),
            "memory_ratio": round(ours["peak_memory_mib"] / theirs["peak_memory_mib"], 3),
        },
        "at_100000": {
            "recall": large["recall"],
            "finch_clust_recall": by_task["neighbors", "finch-clust", 100_000]["recall"],
            "nn_descent_recall": by_task["neighbors", "nn-descent", 100_000]["recall"],
        },
        "growth_10000_to_100000": {
            "time": round(large["wall_s"] / small["wall_s"], 1),
            "processor_time": round(large["processor_s"] / small["processor_s"], 1),
            "memory_above_start": round(
                (large["peak_memory_mib"] - large["memory_before_mib"]) / (small["peak_memory_mib"] - small["memory_before_mib"]), 1
            ),
        },
        "processors": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "finch-clust", "pynndescent")},
        "measurements": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({name: value for name, value in results.items() if name != "measurements"}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    else:
        main()
