"""The five similarity functions over 11,465 neurons x 2000 clips x 521 concepts: time, peak memory, and how much one call saves.

    python benchmarks/similarity.py

Each function runs in a process of its own, once over all neurons. One more process runs the five one after another and then, for the first
40 neurons, one neuron a call: the same functions, and the plain programs below, which do what the released ones do; a neuron's time by the
faster of the two, times the number of neurons, is what one call is compared with. Activations are made like neurons after a ReLU, neuron by
neuron as the warehouse keeps them; concept scores like captions' softmax over concepts. Processor seconds stand beside wall
seconds because other programs may share the machine. Writes benchmarks/results/similarity.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results" / "similarity.json"
ROOT = Path(__file__).parent.parent
NEURONS, CLIPS, CONCEPTS, DIMENSIONS = 11_465, 2_000, 521, 64
SAMPLE = 40


def draw() -> tuple[np.ndarray, np.ndarray]:
    """Activations [clips, neurons] (float32, a neuron's values side by side) and concept scores [clips, concepts] (float32)."""
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((CLIPS, DIMENSIONS), dtype=np.float32)
    activations = np.empty((NEURONS, CLIPS), dtype=np.float32)
    for start in range(0, NEURONS, 1000):  # in blocks, so that making them does not set the peak of memory
        tuning = rng.standard_normal((min(1000, NEURONS - start), DIMENSIONS), dtype=np.float32) / 8
        activations[start : start + 1000] = (tuning @ clips.T - 0.7).clip(0)
    concepts = rng.standard_normal((CONCEPTS, DIMENSIONS), dtype=np.float32)
    cosines = clips @ concepts.T / np.linalg.norm(clips, axis=1)[:, None] / np.linalg.norm(concepts, axis=1)
    weights = np.exp(20 * cosines)
    return activations.T, weights / weights.sum(axis=1, keepdims=True)


def plain_cosine(neuron: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Similarity [concepts] of one neuron [clips] with every concept [clips, concepts], as are the plain programs that follow."""
    return (neuron / neuron.norm()) @ (scores / scores.norm(dim=0))


def plain_cosine_cubed(neuron: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    neuron, scores = (neuron - neuron.mean()) ** 3, (scores - scores.mean(dim=0)) ** 3
    return (neuron / neuron.norm().clip(1e-3)) @ (scores / scores.norm(dim=0).clip(1e-3))


def plain_rank_reorder(neuron: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    values, clips = neuron.topk(int(len(neuron) * 0.05))
    ascending, chosen = values.flip(0), scores[clips]
    baseline = torch.stack([(ascending - ascending[torch.randperm(len(ascending))]).abs() ** 3 for _ in range(5)]).mean()
    reordered = ascending[chosen.argsort(dim=0).argsort(dim=0)]
    return -((values[:, None] - reordered).abs() ** 3).mean(dim=0) / baseline / chosen.mean(dim=0).sqrt()


def plain_wpmi(neuron: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    chosen = (2 * scores).softmax(dim=1)[neuron.topk(28).indices]
    return 0.4 * (chosen + 1e-7).log().sum(dim=0)


def plain_soft_wpmi(neuron: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    chosen = (10 * scores).softmax(dim=1)[neuron.topk(100).indices]
    weights = (0.998 - torch.arange(100) / 100 * 0.028)[:, None]
    total = (1 + weights * (chosen - 1) + 1e-7).log().sum(dim=0)
    return total - total


PLAIN: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine": plain_cosine,
    "cosine_cubed": plain_cosine_cubed,
    "rank_reorder": plain_rank_reorder,
    "wpmi": plain_wpmi,
    "soft_wpmi": plain_soft_wpmi,
}


def status_mib(field: str) -> float:
    """A memory field of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return round(int(line.split()[1]) / 1024, 1)


@contextmanager
def timed(into: dict[str, float]) -> Iterator[None]:
    """Add wall and processor seconds of what runs inside."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    into["wall_s"] = round(time.perf_counter() - wall, 3)
    into["processor_s"] = round(time.process_time() - processor, 3)


def measure(name: str) -> dict[str, object]:
    """Run one function here, once, over all neurons."""
    from ingest.methods.similarity import FUNCTIONS

    activations, scores = draw()
    FUNCTIONS[name](activations[:, :10], scores)  # what it imports is not its own
    before, times = status_mib("VmRSS"), dict[str, float]()
    with timed(times):
        result = FUNCTIONS[name](activations, scores)
    return {
        "function": name, **times, "memory_before_mib": before, "peak_memory_mib": status_mib("VmHWM"),
        "result_mib": round((result.data.nbytes + result.mask.nbytes) / 2**20, 1), "masked": int(result.mask.sum()),
        "load_average": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def compare() -> dict[str, object]:
    """The five over all neurons, then one neuron a call by both ways, here."""
    from ingest.methods.similarity import FUNCTIONS

    activations, scores = draw()
    together, differences = dict[str, float](), {}
    with timed(together):
        results = {name: function(activations, scores) for name, function in FUNCTIONS.items()}
    whole = torch.from_numpy(scores)
    neurons = torch.from_numpy(activations[:, :SAMPLE].T.astype(np.float32))
    torch.manual_seed(0)
    plain: dict[str, dict[str, float]] = {}
    own: dict[str, dict[str, float]] = {}
    for name, function in FUNCTIONS.items():
        torch.manual_seed(0)
        with timed(plain.setdefault(name, {})):
            alone = torch.stack([PLAIN[name](neuron, whole) for neuron in neurons]).numpy()
        with timed(own.setdefault(name, {})):
            for neuron in range(SAMPLE):
                function(activations[:, neuron : neuron + 1], scores)
        # With itself as its population a neuron's WPMI is another; the rest is the same.
        same = results[name] if "wpmi" not in name else function(activations[:, :SAMPLE], scores, mode="as-released")
        differences[name] = float(np.abs(np.ma.masked_array(alone, ~np.isfinite(alone)) - same[:SAMPLE]).max())
    one_call = {
        way: {key: round(sum(row[key] for row in rows.values()) / SAMPLE * NEURONS, 1) for key in ("wall_s", "processor_s")}
        for way, rows in (("same_functions", own), ("plain_programs", plain))
    }
    return {
        "five_over_all_neurons": together | {"peak_memory_mib": status_mib("VmHWM")},
        "one_neuron_a_call_scaled": one_call,
        "times_as_fast": {key: round(min(row[key] for row in one_call.values()) / together[key], 1) for key in ("wall_s", "processor_s")},
        "sampled_neurons": SAMPLE,
        "greatest_difference_from_plain_programs": differences,
        "sample_s": {"same_functions": own, "plain_programs": plain},
        "load_average": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    """Measure each function in a new process, then all in one, print, write."""
    rows = []
    for task in [*PLAIN, "compare"]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, __file__, task], capture_output=True, text=True, check=True, env=environment)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    results = {
        "neurons": NEURONS, "clips": CLIPS, "concepts": CONCEPTS,
        **rows.pop(),
        "measurements": rows,
        "processors": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "torch")},
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(compare() if sys.argv[1] == "compare" else measure(sys.argv[1])))
    else:
        main()
