"""What an intervention costs: only what lies above the layer is run again. And how right the read-outs are that it is judged by.

    python benchmarks/interventions.py [ESC50_FOLDER]

For every layer of YAMNet: the share of the forward pass above it (modules timed one by one), the cost of the tail, their ratio, and the
speed-up; the cost of a whole repeat, which also puts a tenth of the neurons in. With msclap, the speed-up of CNN14's conv6 (random weights).
Where ESC-50 is (default: $AURICLE_ESC50 or ../shared/data/esc50), also accuracy of the label map and of a linear head. Writes
benchmarks/results/interventions.json.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ingest.language.word_lists import read_label_map
from ingest.methods import interventions, probes, readouts
from ingest.networks.network import Network, keep_freed_memory, modules_after
from ingest.networks.registry import load_network
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import load

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "interventions.json"
CLIPS, REPEATS = 8, 25


@torch.inference_mode()
def above(modules: list[torch.nn.Module], value: torch.Tensor) -> list[float]:
    """Seconds from the start of each module to the end of the last, in one pass."""
    marks = [time.perf_counter()]
    for module in modules:
        value = module(value)
        marks.append(time.perf_counter())
    return [marks[-1] - mark for mark in marks]


def costs(network: Network) -> dict:
    """Medians over repeats; module by module, tail, repeat and full pass take turns, so that a busy machine slows all alike."""
    sounds = torch.randn(CLIPS, network.samples, generator=torch.Generator().manual_seed(0)) * 0.1
    inputs = network.prepare(sounds)
    first = next(iter(network.module._modules))
    modules = [network.module.get_submodule(first), *(modules_after(network.module, first) or [])]
    place = {name: index for index, name in enumerate(network.module._modules)}
    caches = interventions.cache_layers(network, network.layers, [inputs], CLIPS)
    rng = np.random.default_rng(0)
    donors = interventions.draw_donors(CLIPS, 1, rng)[0]
    neurons = [np.sort(rng.choice(cache.values.shape[2], cache.values.shape[2] // 10, replace=False)) for cache in caches]
    full: list[float] = []
    parts, tails, repeats = ([[] for _ in caches] for _ in range(3))
    for _ in range(REPEATS):
        start = time.perf_counter()
        network.forward(inputs)
        full.append(time.perf_counter() - start)
        for index, cache in enumerate(caches):
            value = cache.activations(cache.values)
            parts[index].append(above(modules, inputs)[place[cache.layer.module] + 1])
            start = time.perf_counter()
            network.tail(cache.layer, value, inputs)
            tails[index].append(time.perf_counter() - start)
            start = time.perf_counter()
            interventions.run_changed(cache, neurons[index], donors)
            repeats[index].append(time.perf_counter() - start)
    whole = statistics.median(full)
    layers = {}
    for cache, part, tail, repeat, chosen in zip(caches, parts, tails, repeats, neurons, strict=True):
        share, cost = statistics.median(part) / whole, statistics.median(tail) / whole
        last = cache.layer is network.layers[-1]  # nothing lies above it
        layers[cache.layer.name] = {
            "share_above": 0.0 if last else round(share, 4), "tail": round(cost, 4), "tail_to_share": None if last else round(cost / share, 3),
            "speed_up": round(1 / cost, 1), "neurons_changed": len(chosen), "repeat": round(statistics.median(repeat) / whole, 4),
        }  # fmt: skip
    third = list(layers.values())[-(len(layers) // 3) :]
    ratios = [layer["tail_to_share"] for layer in layers.values() if layer["tail_to_share"] is not None]
    return {
        "clips": CLIPS, "repeats": REPEATS, "form": caches[0].form, "full_ms_per_clip": whole / CLIPS * 1e3,
        "tail_to_share_max": max(ratios), "speed_up_in_last_third_min": min(layer["speed_up"] for layer in third),
        "speed_up_with_substitution_in_last_third_min": round(1 / max(layer["repeat"] for layer in third), 1), "layers": layers,
    }  # fmt: skip


def cnn14_cost() -> dict | None:
    """Tail of CNN14 from conv6 on against a full pass; None without msclap."""
    if importlib.util.find_spec("msclap") is None:
        return None
    from transformers import BertConfig

    from ingest.networks.clap import Clap, build_wrapper

    torch.manual_seed(0)
    network = Clap("2022", build_wrapper("2022", BertConfig(num_hidden_layers=1)), "", 5.0, None)
    inputs = network.prepare(torch.randn(2, network.samples) * 0.1)
    [cache] = interventions.cache_layers(network, [layer for layer in network.layers if layer.name == "conv6"], [inputs], 2)
    value = cache.activations(cache.values)
    full, tail = [], []
    for _ in range(REPEATS):
        marks = [time.perf_counter()]
        network.forward(inputs)
        marks.append(time.perf_counter())
        network.tail(cache.layer, value, inputs)
        marks.append(time.perf_counter())
        full.append(marks[1] - marks[0])
        tail.append(marks[2] - marks[1])
    return {
        "full_ms_per_clip": statistics.median(full) / 2 * 1e3,
        "conv6_speed_up": round(statistics.median(full) / statistics.median(tail), 1),
    }


def accuracy(network: Network, source: Path) -> dict:
    """Of the label map on the classes it has, and of a linear head on the 1,024 pooled features over the official folds."""
    listing = read_dataset("esc50", source)
    names = listing.label_sets["category"]
    labels = np.array([names.index(entry.labels["category"][0]) for entry in listing.entries])
    folds = np.array([entry.fold for entry in listing.entries])
    outputs, features, caught = [], [], []
    handle = network.module.get_submodule("pool").register_forward_hook(lambda *args: caught.append(args[2].clone()))
    for start in range(0, len(labels), CLIPS):
        sounds = [load(e.path, sample_rate_hz=16000, clip_s=network.clip_s)[0] for e in listing.entries[start : start + CLIPS]]
        result = network.forward(network.prepare(torch.from_numpy(np.stack(sounds))))
        outputs.append(result.unflatten(0, (-1, network.windows)).mean(dim=1))
        features.append(caught.pop().unflatten(0, (-1, network.windows)).mean(dim=1))
    handle.remove()
    own = readouts.own_classifier(network.output_names, names, read_label_map())
    pooled = torch.cat(features).numpy()
    correct, total = readouts.class_counts(own(torch.cat(outputs).numpy()), labels, len(names), own.readable)
    start_s = time.perf_counter()
    right = int((readouts.fit_head(pooled, labels, folds)(pooled) == labels).sum())
    seconds = time.perf_counter() - start_s
    return {
        "label_map": {"classes": int(own.readable.sum()), **share(int(correct.sum()), int(total.sum()))},
        "label_map_by_class": {names[label]: [int(correct[label]), int(total[label])] for label in np.flatnonzero(own.readable)},
        "linear_head": {**share(right, len(labels)), "fit_s_for_5_folds": round(seconds, 1)},
    }


def share(correct: int, total: int) -> dict:
    low, high = probes.wilson(correct, total)
    return {"correct": correct, "total": total, "accuracy": round(correct / total, 4), "interval_95": [round(low, 4), round(high, 4)]}


def main() -> None:
    """Measure, print, write."""
    source = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("AURICLE_ESC50", ROOT.parent / "shared" / "data" / "esc50"))
    keep_freed_memory()
    network = load_network("yamnet")
    results = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "torch": torch.__version__, "threads": torch.get_num_threads()}
    results |= {"cost": costs(network), "cnn14": cnn14_cost()}
    results["readouts"] = accuracy(network, source) if source.is_dir() else None
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
