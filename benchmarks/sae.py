"""Do the latents of sparse autoencoders get better held-out scores than the neurons they are made of?

    python -m benchmarks.sae FOLDER [NETWORK ...]

Autoencoders (`auricle train sae`: TopK, k = 32, two latents a neuron, seed 0) of YAMNet's layer8/pointwise_conv and of Whisper tiny.en's residual stream
behind block 2 learn from ESC-50's folds 1 and 2 (fold 3 says what they are worth). Folds 4 and 5, of which they have heard nothing, are then described
and scored as in benchmarks/studies/measured.toml: engine measured, half of the sources held out, scorer rule. Of Whisper, which is slow, either part has
8 clips of each class, 400 in all, and there are 2 epochs instead of 4. As many living latents as there are living neurons are drawn (seed 0; living:
scored, as dead ones cannot be), and their AUROCs compared: medians, and the difference of the means with its 95 % interval, near-copies among neurons
and among latents counting once (analyze/intervals.py). Writes benchmarks/results/sae.json. ESC-50 is looked for in $AURICLE_ESC50.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from analyze import intervals, tables
from ingest.run import run_study, train_autoencoder
from ingest.study import make_study
from tests.small import Silent
from warehouse import store

RESULTS = Path(__file__).parent / "results" / "sae.json"
LAYERS = {"yamnet": "layer8/pointwise_conv", "whisper-tiny.en": "block2/residual"}
NEURONS = {"yamnet": 512, "whisper-tiny.en": 384}
PER_CLASS = {"yamnet": None, "whisper-tiny.en": 8}
EPOCHS = {"yamnet": 4, "whisper-tiny.en": 2}


def split(folder: Path, folds: set[str]) -> Path:
    """ESC-50's layout with the clips of some folds alone."""
    source = Path(os.environ["AURICLE_ESC50"])
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "audio").mkdir(exist_ok=True)
    with open(source / "meta" / "esc50.csv", newline="") as given, open(folder / "meta" / "esc50.csv", "w", newline="") as kept:
        reader = csv.DictReader(given)
        writer = csv.DictWriter(kept, reader.fieldnames or ())
        writer.writeheader()
        for row in reader:
            if row["fold"] in folds:
                writer.writerow(row)
                link = folder / "audio" / row["filename"]
                if not link.exists():
                    shutil.copyfile(source / "audio" / row["filename"], link)
    return folder


def heard(folder: Path, folds: set[str], network: str) -> dict[str, Any]:
    """A data set of a study."""
    return {"reader": "esc50", "source": str(split(folder, folds)), **({"per_class": PER_CLASS[network]} if PER_CLASS[network] else {})}


def sae_file(folder: Path, network: str) -> Path:
    return folder / "targets" / f"{network}-{LAYERS[network].replace('/', '-')}-sae.safetensors"


def train(folder: Path, network: str) -> None:
    if sae_file(folder, network).is_file():
        return
    table = {"dataset": [heard(folder / "learned", {"1", "2", "3"}, network)], "network": [{"name": network}]}
    recipe = {"latents": 2 * NEURONS[network], "k": 32, "epochs": EPOCHS[network], "seed": 0}
    print(train_autoencoder(make_study(table, "study"), LAYERS[network], folder / "targets", Silent(), recipe=recipe, fold=3, device="cpu"))


def study(folder: Path, network: str) -> None:
    layer = LAYERS[network]
    table = {
        "dataset": [heard(folder / "scored", {"4", "5"}, network)],
        "network": [{"name": network, "layers": [layer, f"{layer}/sae"], "saes": [{"file": str(sae_file(folder, network))}]}],
        "stages": ["descriptions", "scores"],
        "descriptions": {"held_out": 0.5},
    }
    run_study(folder / f"{network}.duckdb", make_study(table, "study"), Silent())


def compare(folder: Path, network: str) -> dict[str, Any]:
    """Scores of the layer's neurons and of its latents, of as many."""
    from ingest.networks.autoencoders.layouts import read_autoencoder

    layer = LAYERS[network]
    with store.connect_readonly(folder / f"{network}.duckdb") as con:
        rows = tables.table(con, "neuron_scores").filter(scorer="rule")
        heard = dict(con.execute("SELECT neuron_id, sources FROM v_heard").fetchall())
        [(clips,)] = con.execute("SELECT count(*) FROM clip").fetchall()
    sides = {}
    rng = np.random.default_rng(0)
    per_side = min(len(rows.filter(layer=layer)), len(rows.filter(layer=f"{layer}/sae")))
    for side, name in (("neurons", layer), ("latents", f"{layer}/sae")):
        living = rows.filter(layer=name).sort("neuron_id")
        drawn = living[np.sort(rng.permutation(len(living))[:per_side])]
        groups = [f"{side} {group}" for group in intervals.near_copies([heard.get(neuron) or [] for neuron in drawn["neuron_id"]])]
        sides[side] = (len(living), drawn, groups)
    found: dict[str, Any] = {"layer": layer, "clips": clips, "compared": per_side, "sae": read_autoencoder(sae_file(folder, network))[1]}
    for side, (living, drawn, groups) in sides.items():
        auroc = drawn["auroc"].to_list()
        above = [float(a > b) for a, b in zip(auroc, drawn["floor"].to_list(), strict=True)]
        found[side] = {
            "scored": living, "independent": len(set(groups)), "median_auroc": float(np.median(auroc)), "median_interval": intervals.median(auroc, groups),
            "mean_auroc": float(np.mean(auroc)), "mean_interval": intervals.mean(auroc, groups), "median_floor": float(np.median(drawn["floor"])),
            "above_floor": float(np.mean(above)), "above_floor_interval": intervals.share(above, groups),
            "discoveries": float(np.mean([q <= 0.05 for q in drawn["q_value"].to_list()])), "median_positives": float(np.median(drawn["positives"])),
        }  # fmt: skip
    for measure in ("auroc", "over_floor"):
        values = {side: (d["auroc"] if measure == "auroc" else d["auroc"] - d["floor"]).to_list() for side, (_, d, _) in sides.items()}
        every, groups = values["latents"] + values["neurons"], sides["latents"][2] + sides["neurons"][2]
        inside = [True] * per_side + [False] * per_side
        bounds = intervals.difference(every, [1.0] * len(every), inside, groups, groups)
        found[f"latents_minus_neurons_{measure}"] = {"mean": float(np.mean(values["latents"]) - np.mean(values["neurons"])), **bounds}
    return found


def main() -> None:
    """Train, study, compare, write."""
    folder = Path(sys.argv[1])
    result = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for network in sys.argv[2:] or LAYERS:
        train(folder, network)
        study(folder, network)
        result[network] = compare(folder, network)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result[network], indent=1))


if __name__ == "__main__":
    main()
