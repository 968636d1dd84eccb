"""Many clips: does a clip's time stay the same, and does memory stay bounded?

    python -m benchmarks.tars [--clips 100000] [--folder DIR]

So many sounds of 1 s (a tone in noise, 50 classes) in tars of 1,000, read by reader webdataset, through a small network of three layers: a tenth of
them, and all. Writes benchmarks/results/tars.json: for each number of clips seconds and processor seconds by stage and per clip, the seconds that a
clip takes in the first and in the last fifth of the segments, the most memory that a process had, and the same of `auricle report`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import soundfile as sf
import torch

from ingest.networks.network import Layer, Network

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "tars.json"
RATE, CLASSES, IN_TAR, CHANNELS = 8_000, 50, 1_000, 64
STUDY = """[[dataset]]
reader = "webdataset"
source = "{source}"
name = "tars"

[[network]]
name = "{network}:network"

[activations]
device = "cpu"
"""


def network() -> Network:
    """Two convolutions over the waveform and a unit for each class, of random weights."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv1d(1, CHANNELS, 64, 32),
        torch.nn.ReLU(),
        torch.nn.Conv1d(CHANNELS, CHANNELS, 8, 4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool1d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(CHANNELS, CLASSES),
    )
    return Network(
        name="small", family="own", sample_rate_hz=RATE, clip_s=1.0, module=module,
        prepare=lambda waveforms: waveforms[:, None],
        layers=[
            Layer("first", "1", (CHANNELS, 249), "channel,time", True), Layer("second", "3", (CHANNELS, 61), "channel,time", True),
            Layer("classes", "6", (CLASSES,), "unit"),
        ],
    )  # fmt: skip


def write_tars(folder: Path, clips: int) -> None:
    """Sounds 0 to `clips`, a thousand a tar, with their classes."""
    folder.mkdir(parents=True)
    random, t = np.random.default_rng(0), np.arange(RATE) / RATE
    for tar in range(-(-clips // IN_TAR)):
        with tarfile.open(folder / f"train-{tar:06d}.tar", "w") as file:
            for clip in range(tar * IN_TAR, min((tar + 1) * IN_TAR, clips)):
                tone, encoded = 100 * 2 ** (clip % CLASSES / 10), io.BytesIO()
                sf.write(encoded, 0.3 * np.sin(2 * np.pi * tone * t) + 0.1 * random.normal(size=RATE), RATE, format="WAV")
                for ending, data in ((".wav", encoded.getvalue()), (".cls", f"class {clip % CLASSES}".encode())):
                    member = tarfile.TarInfo(f"{clip:07d}{ending}")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))


def auricle(*words: str) -> dict[str, Any]:
    """Run a command: wall and processor seconds, and the most memory that it had."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "auricle", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"auricle {words[0]} ended with {os.waitstatus_to_exitcode(status)}: {said[-1:]}")
    return {
        "wall_s": round(time.monotonic() - started, 1), "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024), "said": said[-1:],
    }  # fmt: skip


def measured(folder: Path, clips: int) -> dict[str, Any]:
    """Ingest so many clips, and report."""
    shutil.rmtree(folder, ignore_errors=True)
    write_tars(folder / "tars", clips)
    study, warehouse = folder / "study.toml", folder / "w.duckdb"
    study.write_text(STUDY.format(source=folder / "tars", network=Path(__file__).resolve()))
    found: dict[str, Any] = {}
    for name, words in (("clips", ("--stage", "clips")), ("activations", ("--stage", "activations")), ("again", ())):
        found[name] = auricle("ingest", str(study), "--warehouse", str(warehouse), *words)
    with duckdb.connect(str(warehouse), read_only=True) as con:
        segments = [seconds / count for seconds, count in con.execute("SELECT seconds, clips FROM segment ORDER BY segment").fetchall()]
    fifth = max(1, len(segments) // 5)
    found["segments"] = len(segments)
    found["ms_a_clip"] = {
        "first_fifth": round(1000 * median(segments[:fifth]), 3), "last_fifth": round(1000 * median(segments[-fifth:]), 3),
        "clips": round(1000 * found["clips"]["processor_s"] / clips, 3), "activations": round(1000 * found["activations"]["processor_s"] / clips, 3),
    }  # fmt: skip
    found["report"] = auricle("report", "--warehouse", str(warehouse), "--site", str(folder / "site"))
    found["report_again"] = auricle("report", "--warehouse", str(warehouse), "--site", str(folder / "site"))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        found = {}
        for clips in (given.clips // 10, given.clips):
            found[f"{clips} clips"] = measured(folder / str(clips), clips)
            print(json.dumps(found[f"{clips} clips"]), flush=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
            shutil.rmtree(folder / str(clips))


if __name__ == "__main__":
    main()
