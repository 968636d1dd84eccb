"""All measures of specificity on 10,000 neurons x 2,000 clips x 50 classes: time of each and peak memory, in one process.

    python benchmarks/specificity.py

The activations are rectified noise, half of it zeros, so that ties abound; some neurons prefer a class. A few neurons are checked against,
and timed with, scikit-learn. Processor seconds stand beside wall seconds because other programs may share the machine. Writes
benchmarks/results/specificity.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "specificity.json"
ROOT = Path(__file__).parent.parent
NEURONS, CLIPS, CLASSES, CHECKED = 10_000, 2_000, 50, 5


def draw() -> tuple[np.ndarray, np.ndarray]:
    """Rectified activations [neurons, clips] (float32) and class numbers [clips]; every tenth neuron prefers a class."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), CLIPS // CLASSES))
    activations = np.empty((NEURONS, CLIPS), dtype=np.float32)
    for start in range(0, NEURONS, 500):  # in blocks, so that making them does not set the peak of memory
        block = activations[start : start + 500]
        rng.standard_normal(dtype=np.float32, out=block)
        for row in range(0, 500, 10):
            block[row, labels == rng.integers(CLASSES)] += 1
        block.clip(0, out=block)
    return activations, labels


def status_mib(field: str) -> float:
    """A memory field of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return round(int(line.split()[1]) / 1024, 1)


def measure() -> dict[str, object]:
    """Compute everything here, once."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    from ingest.methods import specificity

    activations, labels = draw()
    seconds: dict[str, dict[str, float]] = {}

    def timed(name: str, work: Callable[[], object]):
        wall, processor = time.perf_counter(), time.process_time()
        result = work()
        seconds[name] = {"wall_s": round(time.perf_counter() - wall, 2), "processor_s": round(time.process_time() - processor, 2)}
        return result

    before = status_mib("VmRSS")
    p = timed("activation probability", lambda: specificity.activation_probability(activations > 0, labels))
    aape = timed("activation probability entropy", lambda: specificity.activation_probability_entropy(p))
    specific = timed("specific neurons", lambda: specificity.specific_neurons(p))
    lape = timed("lape", lambda: specificity.lape(p))
    timed("coverage and sharing", lambda: (specificity.coverage(specific), specificity.sharing(specific)))
    timed("class means", lambda: specificity.class_means(activations, labels))
    selectivity = timed("selectivity index", lambda: specificity.selectivity_index(activations, labels))
    precision, area = timed("average precision and auroc", lambda: specificity.detection(activations, labels))
    measures = {"p": p, "entropy": -aape, "selectivity": selectivity, "average precision": precision, "auroc": area}
    agreement = timed("rank agreement", lambda: specificity.rank_agreement(measures))
    peak = status_mib("VmHWM")

    start = time.perf_counter()
    expected = [
        [(average_precision_score(labels == k, row), roc_auc_score(labels == k, row)) for k in range(CLASSES)]
        for row in activations[:CHECKED]
    ]
    one_neuron_s = (time.perf_counter() - start) / CHECKED
    found = np.stack([precision[:CHECKED], area[:CHECKED]], axis=2)
    return {
        "neurons": NEURONS, "clips": CLIPS, "classes": CLASSES,
        "total_wall_s": round(sum(one["wall_s"] for one in seconds.values()), 2),
        "total_processor_s": round(sum(one["processor_s"] for one in seconds.values()), 2),
        "memory_before_mib": before, "peak_memory_mib": peak, "activations_mib": round(activations.nbytes / 2**20, 1),
        "scikit_learn_s_a_neuron": round(one_neuron_s, 3), "greatest_difference_from_scikit_learn": float(np.abs(found - expected).max()),
        "specific_pairs": int(specific.sum()), "lape_pairs": int(lape.specific.sum()),
        "seconds": seconds,
        "agreement": [{**row._asdict(), "spearman": round(row.spearman, 3), "top_jaccard": round(row.top_jaccard, 3)} for row in agreement],
        "load_average": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def main() -> None:
    """Measure in a new process, print, write."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__, "measure"], capture_output=True, text=True, check=True, env=environment)
    results = json.loads(done.stdout.splitlines()[-1]) | {
        "processors": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "polars", "scikit-learn")},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure()))
    else:
        main()
