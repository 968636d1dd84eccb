"""The tuned planted network: what was planted is there, by sounds whose truth is arithmetic; and how tuning and rules are judged, by hand."""

import math

import numpy as np
import pytest
import torch

from ingest.methods.tuning.judged import score_properties, score_tuning
from ingest.networks.planted import planted_network
from ingest.networks.registry import check_network
from ingest.networks.tuned import filters
from ingest.networks.tuned.planted import SENSES, Tuned, load_tuned, truth, tuned_network
from warehouse.store import UserError

RATE = filters.SAMPLE_RATE_HZ
TIME = np.arange(2 * RATE) / RATE


@pytest.fixture(scope="module")
def network():
    return tuned_network()


def heard(network, *sounds):
    """Responses of layer tuned [units, sounds]."""
    with torch.inference_mode():
        return network.module.tuned(torch.from_numpy(np.stack(sounds).astype(np.float32))).numpy().T


def tone(hertz, level=0.1):
    return level * math.sqrt(2) * np.sin(2 * np.pi * hertz * TIME)


def test_every_neuron_is_accounted_for(network):
    check_network(network, "planted-tuning")
    assert [(what.layer, what.unit) for what in truth(network)] == [
        (its.name, unit) for its in network.layers for unit in range(its.neurons)
    ]
    kinds = {what.kind for what in truth(network)}
    assert kinds == {"frequency", "rate", "direction", "level", "gap", "pitch", "sense", "both", "but not", "dead", "noise"}
    assert {what.senses[0] for what in truth(network) if what.kind == "both"} | {"tonal"} == set(SENSES)
    assert tuned_network().checkpoint_sha256 == network.checkpoint_sha256 != tuned_network(1).checkpoint_sha256
    with pytest.raises(UserError, match="planted is not planted-tuning"):
        truth(planted_network())
    with pytest.raises(UserError, match="leave out --weights"):
        load_tuned(weights="w.pt")


def test_frequencies_are_answered_at_the_best_and_by_half_at_half_the_width(network):
    for what in [what for what in truth(network) if what.kind == "frequency"][:8]:
        low, best, high = (what.value * 2 ** (step * what.width / 2) for step in (-1, 0, 1))
        left, top, right = heard(network, tone(low), tone(best), tone(high))[what.unit]
        assert top == pytest.approx(1, abs=0.06)  # chance moves it by up to 0.05
        assert left == pytest.approx(0.5, abs=0.06)
        assert high > RATE / 2 or right == pytest.approx(0.5, abs=0.06)


def test_filters_measure_what_can_be_counted():
    noise = np.random.default_rng(0).standard_normal(2 * RATE) * 0.1
    modulated = tone(1000) * (1 + 0.5 * np.sin(2 * np.pi * 8 * TIME))
    cut = noise.copy()
    cut[RATE : RATE + RATE // 50] = 0  # 20 ms
    harmonics = sum(np.sin(2 * np.pi * 220 * number * TIME) for number in (2, 3, 4, 5)) / 10
    sounds = torch.from_numpy(np.stack([tone(1000), modulated, noise, cut, harmonics, 0 * noise]).astype(np.float32))
    assert filters.level_db(sounds)[0] == pytest.approx(-20, abs=0.01)
    depths = filters.modulation(sounds, torch.tensor([8.0, 64.0]), 1.0)
    assert depths[1, 0] == pytest.approx(0.5, abs=0.03)
    assert depths[[0, 0, 1], [0, 1, 1]].max() < 0.01
    assert filters.longest_gap_ms(sounds)[[2, 3]].tolist() == pytest.approx([0, 20], abs=2)
    hertz, periodic = filters.pitch(sounds)
    assert hertz[4] == pytest.approx(220, rel=0.01)
    assert periodic[2] < 0.2 < 0.9 < periodic[4]
    rising = np.sin(2 * np.pi * np.cumsum(500 * 2 ** (2 * (TIME - 1))) / RATE)
    up, down = filters.movement(filters.channels(torch.from_numpy(np.stack([rising, rising[::-1]]).astype(np.float32))), 32)
    assert float(up) == pytest.approx(-float(down), abs=0.02)
    assert up > 0.3


def test_silence_is_finite(network):
    assert np.isfinite(heard(network, 0 * TIME, np.eye(1, len(TIME), 5)[0])).all()


def test_pairs_are_two_at_once_or_one_without_the_other(network):
    tuned = torch.rand(3, network.layers[0].neurons)
    pairs = network.module.pairs(tuned)
    for what, (one, other, without) in zip([what for what in truth(network) if what.layer == "pairs"], network.pairs, strict=True):
        assert without == (what.kind == "but not")
        first, second = tuned[:, one], tuned[:, other]
        expected = (first - 2 * second).clamp(min=0) if without else torch.minimum(first, second)
        assert torch.equal(pairs[:, what.unit], expected)
        assert tuple(truth(network)[unit].senses[0] for unit in (one, other)) == what.senses


def counted(scores):
    return {(score.measure, score.kind): (score.right, score.total) for score in scores}


def test_tuning_is_judged_by_what_was_planted():
    planted = [
        Tuned("tuned", 0, "frequency", 1000.0, 1.0), Tuned("tuned", 1, "frequency", 1000.0, 1.0), Tuned("tuned", 2, "level", -43.0),
        Tuned("tuned", 3, "level", -43.0), Tuned("tuned", 4, "direction", -1.0), Tuned("tuned", 5, "noise"), Tuned("tuned", 6, "noise"),
        Tuned("tuned", 7, "rate", 8.0), Tuned("tuned", 8, "dead"),
    ]  # fmt: skip
    measured = [
        {"frequency_hz": 1100.0, "bandwidth_octaves": 1.6}, {"frequency_hz": 1200.0, "bandwidth_octaves": 1.4}, {"level_dbfs": -40.0},
        {"level_dbfs": -50.0}, {"direction": -0.1}, {}, {"gap_ms": 5.0}, {},
    ]  # fmt: skip
    found = counted(score_tuning({("tuned", unit): its for unit, its in enumerate(measured)}, planted))
    assert found == {
        ("best frequency within 1/6 octave", "frequency"): (1, 2), ("bandwidth within 1/2 octave", "frequency"): (1, 2),
        ("level threshold", "level"): (1, 2), ("direction", "direction"): (1, 1), ("not tuned", "noise"): (1, 2),
        ("best rate within 1/2 octave", "rate"): (0, 1),
    }  # fmt: skip


def test_rules_are_judged_by_what_was_planted():
    planted = [
        Tuned("tuned", 0, "sense", senses=("loud",)), Tuned("tuned", 1, "frequency", 500.0), Tuned("tuned", 2, "frequency", 500.0),
        Tuned("tuned", 3, "noise"), Tuned("pairs", 0, "both", senses=("loud", "high")), Tuned("pairs", 1, "both", senses=("loud", "high")),
        Tuned("pairs", 2, "but not", senses=("loud", "high")), Tuned("pairs", 3, "but not", senses=("loud", "high")),
        Tuned("pairs", 4, "both", senses=("loud", "high")), Tuned("pairs", 5, "both", senses=("loud", "high")),
    ]  # fmt: skip
    loud, high, dark = ("level_dbfs", True), ("high_share", True), ("high_share", False)
    found = {
        ("tuned", 0): [loud], ("tuned", 1): [("peak_500_dbfs", True)], ("tuned", 2): [("peak_4000_dbfs", True)], ("tuned", 3): [],
        ("pairs", 0): [high, loud], ("pairs", 1): [loud], ("pairs", 2): [loud, dark], ("pairs", 3): [loud, high], ("pairs", 4): [loud],
        ("pairs", 5): [loud, high],
    }  # fmt: skip
    alone = {("pairs", 0): 0.8, ("pairs", 1): 0.8, ("pairs", 2): 0.8, ("pairs", 3): 0.8, ("pairs", 4): 0.99}
    assert counted(score_properties(found, planted, alone)) == {
        ("property named", "sense"): (1, 1), ("property named", "frequency"): (1, 2), ("no rule", "noise"): (1, 1),
        ("both named", "both"): (1, 2), ("both named", "but not"): (1, 2), ("the one that tells them named", "both"): (1, 1),
    }  # fmt: skip
