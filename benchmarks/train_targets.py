"""Train the targets of dissection on ESC-50, test them on fold 5, and time the passes that ablations take.

    python benchmarks/train_targets.py [ESC50_FOLDER] [--out FOLDER] [--seed SEED]

ESC50_FOLDER defaults to $AURICLE_ESC50 or ../shared/data/esc50. The networks go to FOLDER (default: targets in the cache of weights) as
BASE-WAY.safetensors, for `ingest.networks.trained.load_trained`; accuracies with their intervals to benchmarks/results/train_targets.json. One thread is
used throughout, so that a seed gives the same networks on machines with any number of cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from ingest.methods import ablations, probes
from ingest.networks import passes
from ingest.networks.fetch import cache_folder
from ingest.networks.network import Network, keep_freed_memory
from ingest.networks.trained import BASES, GIVEN, load_trained
from ingest.networks.training import Trained, train
from ingest.sounds.listing import Entry
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import load

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "train_targets.json"
FOLD = 5
PASSES, PASS_CLIPS, PASS_SHARE = 5, 40, 0.05


def described(trained: Trained) -> dict:
    correct, total = sum(trained.correct), sum(trained.total)
    low, high = probes.wilson(correct, total)
    return {
        "correct": correct, "total": total, "accuracy": round(trained.test_accuracy, 4),
        "interval_95": [round(low, 4), round(high, 4)], "epochs": trained.recipe.epochs, "base_sha256": trained.base_sha256,
        "least_right_classes": [name for right, name in sorted(zip(trained.correct, trained.classes, strict=True))[:5]],
    }  # fmt: skip


def pass_cost(network: Network, entries: list[Entry]) -> dict:
    """Processor seconds for 400 clips of a pass with all neurons, and with a twentieth of them silenced; both take turns."""
    sounds = [torch.from_numpy(load(entry.path, sample_rate_hz=16000, clip_s=network.clip_s)[0])[None] for entry in entries[:PASS_CLIPS]]
    inputs = passes.prepare_clips(network, sounds, PASS_CLIPS)
    inner = sum(layer.neurons for layer in ablations.inner_layers(network))
    chosen = ablations.random_masks(network, round(PASS_SHARE * inner), seed=0)
    whole, silenced = [], []
    for _ in range(PASSES):
        for found, units in ((whole, {}), (silenced, chosen)):
            start = time.process_time()
            with ablations.ablated(network, units):
                passes.class_logits(network, inputs.split(8 * network.windows))
            found.append(time.process_time() - start)
    scale = 400 / PASS_CLIPS
    return {
        "inner_neurons": inner, "input_mb": round(inputs.numel() * 4 * scale / 1e6),
        "pass_processor_s": round(statistics.median(whole) * scale, 2), "ablated_pass_processor_s": round(statistics.median(silenced) * scale, 2),
    }  # fmt: skip


def main() -> None:
    """Train, test, time, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", nargs="?", type=Path, default=os.environ.get("AURICLE_ESC50", ROOT.parent / "shared" / "data" / "esc50"))
    parser.add_argument("--out", type=Path, default=cache_folder() / "targets")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    listing = read_dataset("esc50", Path(options.source))
    tested = [entry for entry in listing.entries if entry.fold == FOLD]
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "threads": 1,
        "fold": FOLD,
        "seed": options.seed,
    }
    targets: dict[str, dict] = {}
    for way, bases in BASES.items():
        for base in bases:
            if base in GIVEN:  # needs a checkpoint
                continue
            start, cpu = time.perf_counter(), time.process_time()
            trained = train(way, base, listing, fold=FOLD, seed=options.seed)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
            path = options.out / f"{base}-{way}.safetensors"
            trained.save(path)
            network = load_trained(path)
            targets[path.stem] = {
                **described(trained), "trained_in_s": round(seconds), "processor_s": round(cpu_seconds),
                "checkpoint_sha256": network.checkpoint_sha256, "for_400_clips": pass_cost(network, tested),
            }  # fmt: skip
            print(path.stem, json.dumps(targets[path.stem]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results | {"targets": targets}, indent=1) + "\n")


if __name__ == "__main__":
    main()
