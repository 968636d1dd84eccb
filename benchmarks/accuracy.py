"""Is YAMNet right? Two figures from a warehouse that holds it on ESC-50, against those of an independent port.

    python benchmarks/accuracy.py WAREHOUSE

ESC-10 ten-way accuracy of the outputs by matching AudioSet's class names, and 1-nearest-neighbour accuracy of each layer's channel means
over the official folds (Euclidean). Writes benchmarks/results/accuracy.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from warehouse import store

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
AUDIOSET = {
    "chainsaw": "Chainsaw", "clock_tick": "Tick-tock", "crackling_fire": "Fire", "crying_baby": "Baby cry, infant cry", "dog": "Dog",
    "helicopter": "Helicopter", "rain": "Rain", "rooster": "Crowing, cock-a-doodle-doo", "sea_waves": "Waves, surf", "sneezing": "Sneeze",
}  # fmt: skip
PORT = [.214, .295, .310, .360, .369, .429, .456, .493, .499, .581, .594, .633, .634, .692, .698, .745, .743, .770, .742, .764, .648, .682, .534,
        .644, .697, .595, .730]  # fmt: skip


def nearest_neighbor_accuracy(values: np.ndarray, classes: np.ndarray, folds: np.ndarray) -> float:
    """Share of clips whose nearest clip of another fold has the same class; values [clips, dimensions]."""
    squares = (values**2).sum(axis=1)
    distance = squares[:, None] + squares[None, :] - 2 * values @ values.T
    distance[folds[:, None] == folds[None, :]] = np.inf
    return float((classes[distance.argmin(axis=1)] == classes).mean())


def main() -> None:
    """Measure, print, write."""
    path = Path(sys.argv[1])
    with store.connect_readonly(path) as con:
        clips = con.execute(
            """SELECT clip.fold, class.name, class_id FROM v_activation_run JOIN activation_clip USING (run_id) JOIN clip USING (clip_id)
            JOIN clip_label USING (clip_id) JOIN class USING (class_id) JOIN label_set USING (label_set_id)
            WHERE label_set.name = 'category' AND network = 'yamnet' AND dataset = 'esc50' AND is_latest ORDER BY column_index"""
        ).fetchnumpy()
        files = con.execute(
            """SELECT layer.name, activation_file.path FROM v_activation_run JOIN activation_file USING (run_id) JOIN layer USING (layer_id)
            WHERE network = 'yamnet' AND dataset = 'esc50' AND is_latest AND reduction = 'mean' ORDER BY position"""
        ).fetchall()
        outputs = dict(con.execute("SELECT name, unit FROM v_neuron WHERE network = 'yamnet' AND layer = 'outputs'").fetchall())
    layers = {name: np.load(path.parent / file).astype(np.float32).T for name, file in files}
    in_ten = np.isin(clips["name"], list(AUDIOSET))
    scores = layers["outputs"][np.ix_(in_ten, [outputs[name] for name in AUDIOSET.values()])]
    ten_way = float((np.array(list(AUDIOSET))[scores.argmax(axis=1)] == clips["name"][in_ten]).mean())
    curve = {name: round(nearest_neighbor_accuracy(values, clips["class_id"], clips["fold"]), 4) for name, values in layers.items()}
    results = {"esc10_ten_way": ten_way, "esc10_clips": int(in_ten.sum()), "one_nearest_neighbor": curve,
               "independent_port": dict(zip(list(curve)[:27], PORT, strict=True))}  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
