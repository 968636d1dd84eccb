"""Atlases measured: size of neurons' pages, seconds of a first report and of one with nothing to do, with and without sounds and pictures to make.

    python -m benchmarks.atlas [--warehouse FILE] [--neurons 55000] [--folder DIR]

Always a simulated network (random projections of spectra of 400 sounds, 50 classes, ten random neighbours a neuron), and the warehouse that is
given. Processor seconds stand beside wall seconds because other programs may share the machine. Writes benchmarks/results/atlas.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import soundfile as sf

from tests.report import small_warehouse as small

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "atlas.json"
CLIPS, CLASSES, CLIP_S, RATE, LAYER = 400, 50, 1.0, 16_000, 1_000


def simulate(folder: Path, neurons: int) -> Path:
    """A warehouse of so many neurons over sounds of tones in noise, of which a class has the same tone; returns its file."""
    random, sounds = np.random.default_rng(0), folder / "sounds"
    sounds.mkdir()
    t = np.arange(round(CLIP_S * RATE)) / RATE
    clips = {}
    for clip in range(CLIPS):
        name, tone = f"clip-{clip}.wav", 100 * 2 ** (clip % CLASSES / 8)
        sf.write(sounds / name, 0.3 * np.sin(2 * np.pi * tone * t) + 0.05 * random.normal(size=t.size), RATE)
        clips[name] = {"category": [f"class {clip % CLASSES}"]}
    with small.create(folder / "simulated.duckdb") as con:
        dataset = small.add_dataset(con, "tones", sounds, clips, None)
        layers = [(f"layer{at}", min(LAYER, neurons - at * LAYER), True) for at in range(-(-neurons // LAYER))]
        run = small.add_network(con, "simulated", dataset, layers, CLIP_S, near=False)
        ids = np.repeat(np.arange(1, neurons + 1), 10)
        others = (ids + random.integers(1, neurons, ids.size) - 1) % neurons + 1
        ranks, correlations = np.tile(np.arange(1, 11), neurons), np.tile(np.linspace(0.9, 0.5, 10), neurons)
        near = pl.DataFrame({"run_id": run, "neuron_id": ids, "neighbor_id": others, "rank": ranks, "correlation": correlations})
        small.insert(con, "neighbor", near.unique(["neuron_id", "neighbor_id"]))
    return folder / "simulated.duckdb"


def report(warehouse: Path, site: Path) -> dict[str, object]:
    """`auricle report` in a process of its own: seconds, imports included, and what it said."""
    before, started = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "auricle", "report", "--warehouse", str(warehouse), "--site", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = os.times()
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    return {
        "wall_s": round(time.perf_counter() - started, 1),
        "processor_s": round(processor, 1),
        "said": done.stdout.partition(": ")[2].splitlines(),
    }


def measure(warehouse: Path, site: Path) -> dict[str, object]:
    """Reports into a new folder, again, and again with its sounds and pictures alone."""
    found: dict[str, object] = {"first": report(warehouse, site), "nothing_to_do": report(warehouse, site)}
    sizes = [path.stat().st_size for path in site.glob("networks/*/*/[0-9]*.html")]
    found["neuron_pages"] = {"number": len(sizes), "median_bytes": int(median(sizes)), "largest_bytes": max(sizes)}
    shutil.rmtree(site / "networks")
    found["pages_alone"] = report(warehouse, site)
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warehouse", type=Path)
    parser.add_argument("--neurons", type=int, default=55_000)
    parser.add_argument("--folder", type=Path, help="where there is room for a gigabyte")
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        if asked.warehouse:
            results[asked.warehouse.stem] = measure(asked.warehouse.resolve(), folder / "given")
        if asked.neurons:
            results["simulated"] = measure(simulate(folder, asked.neurons), folder / "site")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
