"""Do the latents of sparse autoencoders get better held-out scores than the neurons they are made of?

    python -m benchmarks.sae FOLDER [NETWORK ...]

Autoencoders (`auricle train sae`: TopK, k = 32, two latents a neuron, seed 0) of YAMNet's layer8/pointwise_conv and of Whisper tiny.en's residual stream
behind block 2 learn from ESC-50's folds 1 and 2 (fold 3 says what they are worth). Folds 4 and 5, of which they have heard nothing, are then described
and scored as in benchmarks/studies/measured.toml: engine measured, half of the sources held out, scorer rule. Of Whisper, which is slow, either part has
8 clips of each class, 400 in all, and there are 3 epochs in batches of 128 instead of 4 of 1024. As many living latents (not 0 on every clip) as there
are living neurons are drawn by seed 0 and their AUROCs compared, those of which no rule could be found at 0.5; beside that those with a rule alone. The
difference of the means has a 95 % interval, near-copies among neurons and among latents counting once (analyze/intervals.py). Writes
benchmarks/results/sae.json. ESC-50 is looked for in $AURICLE_ESC50.
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
EPOCHS = {"yamnet": 4, "whisper-tiny.en": 3}
BATCH = {"yamnet": 1024, "whisper-tiny.en": 128}


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
    recipe = {"latents": 2 * NEURONS[network], "k": 32, "epochs": EPOCHS[network], "batch": BATCH[network], "seed": 0}
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
        scored = {row["neuron_id"]: row for row in tables.table(con, "neuron_scores").filter(scorer="rule").to_dicts()}
        heard = con.execute(
            "SELECT layer.name, neuron_id, sources FROM v_heard JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) ORDER BY neuron_id"
        ).fetchall()
        [(clips,)] = con.execute("SELECT count(*) FROM clip").fetchall()
    living = {side: [row[1:] for row in heard if row[0] == name] for side, name in (("neurons", layer), ("latents", f"{layer}/sae"))}
    number = min(map(len, living.values()))
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"layer": layer, "clips": clips, "drawn": number, "sae": read_autoencoder(sae_file(folder, network))[1]}
    every, described = [], []  # AUROC, whether of a latent, group
    for side, neurons in living.items():
        drawn = [neurons[index] for index in np.sort(rng.permutation(len(neurons))[:number])]
        groups = [f"{side} {group}" for group in intervals.near_copies([sources for _, sources in drawn])]
        rows = [scored.get(neuron) for neuron, _ in drawn]
        auroc = [row["auroc"] if row else 0.5 for row in rows]
        above = [float(bool(row and row["auroc"] > row["floor"])) for row in rows]
        found[side] = {
            "living": len(neurons), "with_a_rule": float(np.mean([row is not None for row in rows])), "independent": len(set(groups)),
            "mean_auroc": float(np.mean(auroc)), "mean_interval": intervals.mean(auroc, groups), "median_auroc": float(np.median(auroc)),
            "median_interval": intervals.median(auroc, groups), "above_floor": float(np.mean(above)), "above_floor_interval": intervals.share(above, groups),
            "discoveries": float(np.mean([bool(row and row["q_value"] <= 0.05) for row in rows])),
        }  # fmt: skip
        units = [(value, side == "latents", group) for value, group in zip(auroc, groups, strict=True)]
        every += units
        described += [unit for unit, row in zip(units, rows, strict=True) if row]
    for name, units in (("latents_minus_neurons", every), ("latents_minus_neurons_with_a_rule", described)):
        values, latent, groups = (list(column) for column in zip(*units, strict=True))
        means = [np.mean([value for value, side, _ in units if side == wanted]) for wanted in (True, False)]
        found[name] = {"mean": float(means[0] - means[1]), **intervals.difference(values, [1.0] * len(units), latent, groups, groups)}
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
