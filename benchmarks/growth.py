"""How an ingest grows with neurons and with clips: CPU seconds by part, of any checkout's code.

    python benchmarks/growth.py [--code FOLDER] [--name NAME] [--neurons 1000 10000 50000 200000] [--clips 250 500 1000 2000 4000]
        [--positions 100000]

Ingests clips of noises and tones of a second, of ten classes, through an own network of small convolutions in eight layers of equal size: 500 clips by
each number of neurons, each number of clips by 448 neurons, and 2000 clips by each number of positions. Every ingest is a process of its own with one
thread, into a new warehouse. Parts: forward (clips decoded, network, reductions, segments), finishing (matrices and tables of layers), neighbours, DuckDB
(transactions, and opening to read), and the rest, such as imports; each without the others. Rows go to results/growth.json under NAME (default: the
checkout's commit) as they are made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ingest.networks.network import Network

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "growth.json"
RATE, CLASSES, LAYERS, STEM = 8000, 10, 8, 16
CLIPS, NEURONS = 500, 448
POSITION_CLIPS, OF_A_CHANNEL = 2000, 32
STUDY = """[[dataset]]
reader = "folder"
source = "{sounds}"
name = "sounds"

[[network]]
name = "{file}:network"
positions = {positions}

[activations]
device = "cpu"
"""
ALONE = {f"{library}_THREADS": "1" for library in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "RAYON_NUM", "POLARS_MAX")}


def network() -> Network:
    """As many neurons as $GROWTH_NEURONS says; weights from a seed."""
    import torch
    from torch import nn

    from ingest.networks.checkpoints import tensor_sha256
    from ingest.networks.network import Layer, Network

    torch.manual_seed(0)
    width = int(os.environ["GROWTH_NEURONS"]) // LAYERS

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, STEM, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4))
            self.wide = nn.ModuleList(nn.Sequential(nn.Conv2d(STEM, width, 1), nn.ReLU()) for _ in range(LAYERS))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            values = self.stem(values)
            for layer in self.wide:
                found = layer(values)
                values = values + found[:, :STEM].mean(dim=1, keepdim=True)
            return found.mean(dim=(2, 3))

    def bands(waveforms: torch.Tensor) -> torch.Tensor:
        """[clips, samples] to [clips, 1, 32 frames, 16 bands]."""
        return torch.fft.rfft(waveforms.unfold(1, 250, 250)).abs()[:, None, :, :64].unflatten(3, (16, 4)).mean(dim=4)

    module = Stack()
    layers = [
        Layer(f"wide{number}", f"wide.{number}", (width, 8, 4), "channel,time,frequency", non_negative=True) for number in range(LAYERS)
    ]
    return Network(
        "growth",
        "own",
        module,
        sample_rate_hz=RATE,
        clip_s=1.0,
        layers=layers,
        checkpoint_sha256=tensor_sha256(module.state_dict()),
        prepare=bands,
    )


def write_sounds(folder: Path, clips: int) -> None:
    """Clips of a second: a tone of the class's pitch in noise."""
    import soundfile

    rng = np.random.default_rng(0)
    for number in range(clips):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        tone = np.sin(2 * np.pi * 200 * 1.4 ** (number % CLASSES) * rng.uniform(0.9, 1.1) * np.arange(RATE) / RATE)
        soundfile.write(place / f"{number:05d}.wav", rng.uniform(0, 0.4) * tone + rng.uniform(0.01, 0.3) * rng.standard_normal(RATE), RATE)


class Parts:
    """CPU seconds by part, each without those within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stack, self.since = ["rest"], 0.0

    def switch(self) -> None:
        """Count the time since the last change for the innermost part."""
        now = time.process_time()
        self.seconds[self.stack[-1]] = self.seconds.get(self.stack[-1], 0) + now - self.since
        self.since = now

    @contextlib.contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """What runs now belongs to a part."""
        self.switch()
        self.stack.append(part)
        try:
            yield
        finally:
            self.switch()
            self.stack.pop()

    def wrap(self, module: ModuleType, name: str, part: str) -> None:
        """Count a function of a module, or what its context encloses, for a part."""
        function: Callable[..., Any] = getattr(module, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            with self.inside(part):
                return function(*arguments, **options)

        @contextlib.contextmanager
        def enclosed(*arguments: Any, **options: Any) -> Iterator[Any]:
            with self.inside(part), function(*arguments, **options) as value:
                yield value

        setattr(module, name, enclosed if name == "transaction" else wrapped)


def ingest(study: str, warehouse: str) -> None:
    """One ingest by the code of the working folder; prints its parts and peak memory as JSON."""
    parts = Parts()
    import auricle
    from ingest.stages import activations
    from ingest.stages.extraction import layer_tables
    from warehouse import store

    place = layer_tables
    with contextlib.suppress(ImportError):
        from ingest.stages.extraction import neighbors as place
    forward = "_measured" if hasattr(activations, "_measured") else "ingest_activations"  # as of earlier code
    parts.wrap(activations, forward, "forward")
    parts.wrap(layer_tables, "finish_layers", "finishing")
    parts.wrap(place, "find_neighbors", "neighbours")
    parts.wrap(store, "transaction", "DuckDB")
    parts.wrap(store, "connect_readonly", "DuckDB")
    sys.argv = ["auricle", "ingest", study, "--warehouse", warehouse]
    try:
        auricle.main()
    except SystemExit as end:
        if end.code:
            raise
    parts.switch()
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    row = {part: round(seconds, 1) for part, seconds in parts.seconds.items()}
    print("\n" + json.dumps(row | {"all": round(sum(parts.seconds.values()), 1), "peak MB": int(peak[1]) // 1024 if peak else None}))


def measured(code: Path, folder: Path, neurons: int, clips: int, positions: bool) -> dict[str, Any]:
    """A row of the table."""
    sounds = folder / f"sounds-{clips}"
    if not sounds.exists():
        write_sounds(sounds, clips)
    study = folder / "study.toml"
    study.write_text(STUDY.format(sounds=sounds, file=Path(__file__).resolve(), positions=str(positions).lower()))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        done = subprocess.run(
            [sys.executable, __file__, "--ingest", str(study), f"{place}/w.duckdb"], cwd=code, capture_output=True, text=True,
            env=os.environ | ALONE | {"PYTHONPATH": str(code), "GROWTH_NEURONS": str(neurons)},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    kind = {"positions": neurons // LAYERS * LAYERS * OF_A_CHANNEL} if positions else {"neurons": neurons // LAYERS * LAYERS}
    return kind | {"clips": clips} | json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--code", type=Path, default=ROOT)
    parser.add_argument("--name")
    parser.add_argument("--neurons", type=int, nargs="*", default=[1000, 10_000, 50_000, 200_000])
    parser.add_argument("--clips", type=int, nargs="*", default=[250, 500, 1000, 2000, 4000])
    parser.add_argument("--positions", type=int, nargs="*", default=[100_000])
    parser.add_argument("--ingest", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ingest:
        ingest(*given.ingest)
        return
    code = given.code.resolve()
    name = (
        given.name
        or subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=code, capture_output=True, text=True, check=True).stdout.strip()
    )
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        asked = [(neurons, CLIPS, False) for neurons in given.neurons] + [(NEURONS, clips, False) for clips in given.clips]
        for neurons, clips, positions in asked + [(count // OF_A_CHANNEL, POSITION_CLIPS, True) for count in given.positions]:
            row = measured(code, Path(folder), neurons, clips, positions)
            print(json.dumps(row), flush=True)
            rows = [other for other in results.get(name, []) if list(other.items())[:2] != list(row.items())[:2]]
            results[name] = [*rows, row]
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
