"""Read-outs: the map from ESC-50 to AudioSet, zero-shot and linear heads."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ingest.language.word_lists import read_label_map
from ingest.methods import probes, readouts
from ingest.networks.fetch import cached_path
from ingest.networks.registry import load_network
from ingest.sounds.sound import load
from warehouse.store import UserError

ESC50 = Path(os.environ.get("AURICLE_ESC50") or Path(__file__).parents[3] / "../shared/data/esc50")
needs_esc50 = pytest.mark.skipif(
    not (ESC50 / "meta" / "esc50.csv").is_file(), reason=f"no ESC-50 at {ESC50}: set AURICLE_ESC50 to its folder"
)
needs_yamnet = pytest.mark.skipif(not cached_path("yamnet").is_file(), reason="YAMNet's weights are not in the cache: auricle fetch yamnet")


def metadata():
    with open(ESC50 / "meta" / "esc50.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_label_map_has_50_classes_and_no_name_twice():
    label_map = read_label_map()
    names = [name for names in label_map.values() for name in names]
    assert len(label_map) == 50
    assert len(names) == len(set(names))
    assert [name for name, found in label_map.items() if not found] == ["drinking_sipping", "can_opening", "washing_machine"]


@needs_esc50
def test_label_map_has_the_classes_of_esc50():
    assert list(read_label_map()) == [name for _, name in sorted({(int(row["target"]), row["category"]) for row in metadata()})]


@needs_yamnet
def test_names_of_the_label_map_are_outputs_of_yamnet():
    label_map = read_label_map()
    assert {name for names in label_map.values() for name in names} <= set(load_network("yamnet").output_names)
    classifier = readouts.own_classifier(load_network("yamnet").output_names, list(label_map), label_map)
    assert classifier.readable.sum() == 47


@needs_esc50
@needs_yamnet
def test_yamnet_reads_esc50_through_the_map():
    """One clip of each class: chance is 1 in 47."""
    network = load_network("yamnet")
    first = {int(row["target"]): row for row in metadata()}
    names = [first[label]["category"] for label in range(50)]
    paths = [next((ESC50 / "audio").glob(Path(first[label]["filename"]).stem + ".*")) for label in range(50)]
    outputs = []
    for start in range(0, 50, 10):
        sounds = [load(path, sample_rate_hz=16000, clip_s=5.0)[0] for path in paths[start : start + 10]]
        outputs.append(network.forward(network.prepare(torch.from_numpy(np.stack(sounds)))).unflatten(0, (10, -1)).mean(dim=1))
    classifier = readouts.own_classifier(network.output_names, names, read_label_map())
    correct, total = readouts.class_counts(classifier(torch.cat(outputs).numpy()), np.arange(50), 50, classifier.readable)
    assert total.sum() == 47
    assert correct.sum() >= 30


def test_own_classifier_takes_the_highest_of_a_class_s_outputs():
    label_map = {"dog": ["Bark", "Dog"], "rain": ["Rain"], "can": []}
    classifier = readouts.own_classifier(["Rain", "Dog", "Bark", "Music"], ["rain", "can", "dog", "other"], label_map)
    outputs = np.array([[0.5, 0.1, 0.2, 0.9], [0.5, 0.1, 0.6, 0.9], [0.5, 0.5, 0.0, 0.9], [np.nan, 0.5, 0.0, 0.9]])
    assert classifier(outputs).tolist() == [0, 2, 0, -1]
    assert classifier.readable.tolist() == [True, False, True, False]
    correct, total = readouts.class_counts(classifier(outputs), np.array([0, 1, 2, 2]), 4, classifier.readable)
    assert correct.tolist() == [1, 0, 0, 0]
    assert total.tolist() == [1, 0, 1, 0]  # an unreadable class and a clip without prediction count nowhere


def test_faults_of_maps_are_one_line(tmp_path):
    with pytest.raises(UserError, match="gives Bark for dog, which is no output"):
        readouts.own_classifier(["Rain"], ["dog"], {"dog": ["Bark"]})
    with pytest.raises(UserError, match="no named outputs"):
        readouts.own_classifier(None, ["dog"], {"dog": ["Bark"]})
    with pytest.raises(UserError, match="belongs to another data set"):
        readouts.own_classifier(["Rain"], ["dog"], {})
    path = tmp_path / "map.csv"
    with pytest.raises(UserError, match="cannot be read"):
        read_label_map(path)
    for text, message in (("a,b\nx,y,z\n", "3 columns in line 2"), ("a,b\nx,y\nx,z\n", "class x twice"), ("", "cannot be read")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_label_map(path)


def test_class_counts_of_repeats():
    correct, total = readouts.class_counts(np.array([[0, 1, 1, -1], [0, 0, 1, 2]]), np.array([0, 1, 1, 2]), 3)
    assert correct.tolist() == [[1, 2, 0], [1, 1, 0]]
    assert total.tolist() == [1, 2, 0]


def test_zero_shot_is_the_greatest_cosine():
    texts = np.array([[10.0, 0.0], [1.0, 1.0], [0.0, 0.1]])
    audio = np.array([[3.0, 0.1], [0.2, 0.2], [0.01, 9.0], [0.0, 0.0]], dtype=np.float32)
    assert readouts.ZeroShot(texts)(audio).tolist() == [0, 1, 2, -1]


def test_linear_head_is_the_linear_probe():
    rng = np.random.default_rng(0)
    labels, folds = np.arange(120) % 4, np.arange(120) // 4 % 3
    features = rng.normal(size=(4, 8))[labels] + rng.normal(size=(120, 8)) * 0.9
    labels[7], folds[9], features[11, 2] = -1, -1, np.nan
    head = readouts.fit_head(features, labels, folds)
    found = probes.linear_predictions(features.T, labels, folds)
    np.testing.assert_array_equal(head(features), found.predictions)
    assert (head(features)[[7, 9, 11]] == -1).all()
    assert (head(-features) != head(features)).any()
    with pytest.raises(ValueError, match="119 clips"):
        head(features[1:])
    with pytest.raises(UserError, match="at least two folds"):
        readouts.fit_head(features, labels, np.zeros_like(folds))
