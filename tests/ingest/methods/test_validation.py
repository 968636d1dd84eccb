"""When a measured rule counts as right about a planted neuron."""

import re
from dataclasses import fields

import numpy as np

from ingest.methods import validation
from ingest.networks.planted import CLASS_WORDS, HIGH, SENSES, Planted, planted_network
from ingest.sounds import bands
from ingest.sounds.acoustics import Measurement


def test_rules_are_right_that_name_what_was_planted_in_its_direction():
    truth = [
        Planted("features", 0, "loudness", SENSES["loud"].words),
        Planted("features", 1, "loudness", SENSES["quiet"].words),
        Planted("features", 2, "band", HIGH),
        Planted("features", 3, "noise"),
        Planted("features", 4, "noise"),
        Planted("features", 5, "loudness", SENSES["loud"].words),
        Planted("classes", 0, "class", CLASS_WORDS["Siren"], ("Siren",)),
    ]
    found = {
        ("features", 0): [("tonality", True), ("mean_250_dbfs", True)],
        ("features", 1): [("level_dbfs", True)],  # the other direction
        ("features", 2): [("balance_4000_db", True)],
        ("features", 3): [],
        ("features", 4): [("level_dbfs", True)],
        ("features", 5): [],
        ("classes", 0): [("level_dbfs", True)],
    }
    scores = {(s.measure, s.layer, s.kind): (s.right, s.total) for s in validation.score_rules(found, truth)}
    assert scores == {
        ("property named", "features", "loudness"): (1, 3),
        ("first named", "features", "loudness"): (0, 3),
        ("property named", "features", "band"): (1, 1),
        ("first named", "features", "band"): (1, 1),
        ("no rule", "features", "noise"): (1, 2),
    }


def test_every_detector_of_the_planted_network_has_conditions_that_are_right():
    names = {field.name for field in fields(Measurement)} | set(bands.measure(np.random.default_rng(0).normal(size=48_000), 24_000))
    detectors = [what for what in planted_network().planted if what.layer == "features" and what.words]
    assert len(detectors) > 100
    for what in detectors:
        right = validation.right_conditions(what)
        assert right
        assert any(re.fullmatch(pattern, name) for pattern in right if pattern for name in names)
