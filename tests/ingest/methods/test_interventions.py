"""Interventions on a network whose neurons are known by construction, on YAMNet, and the statistics against known values."""

import numpy as np
import pytest
import torch
from torch import nn

from ingest.methods import interventions, readouts
from ingest.networks.fetch import cached_path
from ingest.networks.network import Layer, Network
from ingest.networks.registry import load_network
from warehouse.store import UserError

CLASSES, CLIPS = 5, 200


def planted_module(inplace=False):
    """Channels 4c to 4c + 3 of the first convolution carry input band c, and the outputs are sums over those channels; channels 20 to 31
    carry band 5, which nothing reads."""
    first, second = nn.Conv2d(6, 32, 1), nn.Linear(32, CLASSES)
    first.weight.data.zero_()
    second.weight.data.zero_()
    for channel in range(32):
        first.weight.data[channel, min(channel // 4, 5)] = 1.0 + 0.1 * (channel % 4)
        if channel < 20:
            second.weight.data[channel // 4, channel] = 1.0
    first.bias.data.zero_()
    second.bias.data.zero_()
    return nn.Sequential(nn.Sequential(first, nn.ReLU(inplace)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), second)


class Whole(nn.Module):
    """The same network, but not a sequence."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs)


def planted(wrap=False, tail=None, inplace=False):
    prefix = "inner." if wrap else ""
    layers = [
        Layer("convolution", f"{prefix}0.0", (32, 3, 2), "channel,time,frequency"),
        Layer("rectified", f"{prefix}0.1", (32, 3, 2), "channel,time,frequency", non_negative=True),
        Layer("outputs", f"{prefix}3", (CLASSES,), "unit"),
    ]
    inner = planted_module(inplace)
    return Network(
        "planted",
        "test",
        Whole(inner) if wrap else inner,
        sample_rate_hz=100,
        clip_s=1,
        layers=layers,
        checkpoint_sha256="",
        windows=2,
        tail=tail,
    )


def planted_inputs(seed=0):
    """Prepared inputs [clips * 2 windows, 6 bands, 3, 2] with energy in the band of the clip's class and, at random, in the last."""
    rng = np.random.default_rng(seed)
    labels = np.arange(CLIPS) % CLASSES
    levels = rng.uniform(0, 0.2, (CLIPS, 2, 6, 3, 2))
    levels[np.arange(CLIPS), :, labels] += 1
    levels[:, :, 5] = rng.uniform(0, 3, (CLIPS, 2, 3, 2))
    return torch.from_numpy(levels).float().flatten(0, 1), labels


def batches(inputs, windows=2, clips=16):
    return inputs.split(clips * windows)


def by_argmax(outputs):
    return outputs.argmax(axis=1)


@pytest.fixture(scope="module")
def planted_cache():
    inputs, labels = planted_inputs()
    network = planted()
    [cache] = interventions.cache_layers(network, [network.layers[1]], batches(inputs), CLIPS)
    return cache, labels


@pytest.mark.parametrize("mode", ["resample", "zero"])
def test_a_planted_class_is_lost_and_no_other(planted_cache, mode):
    """The control may draw only from the channels that nothing reads, so it loses nothing."""
    cache, labels = planted_cache
    neurons = interventions.channel_positions(cache.layer, np.arange(8, 12))
    live = np.concatenate([neurons, interventions.channel_positions(cache.layer, np.arange(20, 32))])
    effect = interventions.intervene(cache, neurons, by_argmax, live=live, seed=3, mode=mode, batch=32)
    counts = effect.counts(labels, CLASSES)
    assert counts["total"].tolist() == [40] * CLASSES
    assert counts["before"].tolist() == [40] * CLASSES
    assert len(counts["after"]) == (10 if mode == "resample" else 1)
    assert (counts["control"] == 40).all()
    if mode == "zero":
        assert (np.delete(counts["after"], 2, axis=1) == 40).all()
        assert counts["after"][0, 2] == 0
    else:
        # Right with a donor of the class (39 of 199); with any other nothing but noise is left, of five bands, and chance is 1 in 5.
        assert counts["after"][:, 2].mean() / 40 == pytest.approx(39 / 199 + 160 / 199 / CLASSES, abs=0.08)
        # A clip of another class with a donor of the planted one (40 of 199) has two bands of like level: right half the time.
        assert np.delete(counts["after"], 2, axis=1).mean() / 40 == pytest.approx(1 - 40 / 199 / 2, abs=0.04)
    lost = interventions.paired((effect.before == labels)[labels == 2], (effect.after == labels)[:, labels == 2])
    assert lost.change < -0.6
    assert lost.high < -0.5
    assert lost.p_value < 1e-6
    kept = interventions.paired(effect.before == labels, effect.control == labels)
    assert (kept.change, kept.worse, kept.better, kept.p_value) == (0.0, 0, 0, 1.0)
    assert kept.low < 0 < kept.high


def test_other_classes_lose_nothing_when_the_band_says_no_more_than_its_own_class():
    """With the level of the planted band at half, a wrong donor's band never outweighs the clip's own: only the planted class is lost."""
    inputs, labels = planted_inputs()
    network = planted()
    network.module[3].weight.data[2] *= 0.5
    [cache] = interventions.cache_layers(network, [network.layers[1]], batches(inputs), CLIPS)
    neurons = interventions.channel_positions(cache.layer, np.arange(8, 12))
    effect = interventions.intervene(cache, neurons, by_argmax, live=cache.live(), seed=0, batch=32)
    counts = effect.counts(labels, CLASSES)
    assert counts["before"].tolist() == [40] * CLASSES
    assert (np.delete(counts["after"], 2, axis=1) == 40).all()
    assert counts["after"][:, 2].mean() / 40 == pytest.approx(1 / CLASSES, abs=0.06)


def test_resampling_puts_the_donor_s_values_in_and_touches_nothing_else(planted_cache):
    cache, _ = planted_cache
    neurons = np.array([0, 7, 190])
    donors = np.roll(np.arange(CLIPS), 1)
    original = cache.activations(cache.values).unflatten(0, (CLIPS, 2)).flatten(2)
    expected = original.clone()
    expected[:, :, neurons] = original[donors][:, :, neurons]
    seen = []
    cache.network.tail, tail = lambda layer, value, inputs: seen.append(value) or tail(layer, value, inputs), cache.network.tail
    try:
        interventions.run_changed(cache, neurons, donors, batch=32)
        interventions.run_changed(cache, neurons, None, batch=32)
    finally:
        del cache.network.tail
    found = torch.cat(seen).flatten(1).unflatten(0, (2 * CLIPS, 2))
    assert torch.equal(found[:CLIPS], expected)
    expected[:, :, neurons] = 0
    assert torch.equal(found[CLIPS:], expected)


def test_donors_are_never_the_clip_itself():
    rng = np.random.default_rng(0)
    donors = interventions.draw_donors(7, 3000, rng)
    assert (donors != np.arange(7)).all()
    assert (np.sort(donors, axis=1) == np.arange(7)).all()
    shares = np.array([[(donors[:, clip] == other).mean() for other in range(7)] for clip in range(7)])
    assert np.abs(shares[~np.eye(7, dtype=bool)] - 1 / 6).max() < 0.035
    assert interventions.draw_donors(2, 4, rng).tolist() == [[1, 0]] * 4
    for clips in (0, 1):
        with pytest.raises(UserError, match="at least 2 clips"):
            interventions.draw_donors(clips, 1, rng)


def test_one_clip_is_refused():
    network = planted()
    [cache] = interventions.cache_layers(network, [network.layers[1]], [planted_inputs()[0][:2]], 1)
    for mode in ("resample", "zero"):
        with pytest.raises(UserError, match="at least 2 clips, there is 1"):
            interventions.intervene(cache, np.array([1]), by_argmax, live=cache.live(), seed=0, mode=mode)


def test_control_is_disjoint_live_and_drawn_anew():
    live, neurons = np.arange(0, 400, 2), np.array([4, 10, 12, 13])
    controls = interventions.draw_controls(live, neurons, 10, np.random.default_rng(0))
    assert controls.shape == (10, 4)
    assert np.isin(controls, live).all()
    assert not np.isin(controls, neurons).any()
    assert all(len(set(row.tolist())) == 4 for row in controls)
    assert len({tuple(sorted(row.tolist())) for row in controls}) == 10
    with pytest.raises(UserError, match="only 2 other live ones"):
        interventions.draw_controls(np.array([4, 10, 12, 14, 16]), neurons, 10, np.random.default_rng(0))


def test_live_neurons_are_those_that_ever_speak():
    network = planted()
    network.module[0][0].weight.data[[3, 30]] *= -1  # never above 0
    [cache] = interventions.cache_layers(network, [network.layers[1]], batches(planted_inputs()[0]), CLIPS)
    dead = interventions.channel_positions(cache.layer, np.array([3, 30]))
    np.testing.assert_array_equal(cache.live(), np.setdiff1d(np.arange(192), dead))


def test_a_seed_decides_everything(planted_cache):
    cache, _ = planted_cache
    neurons = np.array([60, 3, 50])
    one, same, other = (
        interventions.intervene(
            cache, neurons, lambda outputs: (outputs[:, 2] * 1e4).astype(int), live=cache.live(), seed=seed, batch=50, repeats=2
        )
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one.after, same.after)
    np.testing.assert_array_equal(one.control, same.control)
    assert (one.after != other.after).any()
    assert (one.after[0] != one.after[1]).any()


def test_wrong_neurons_are_refused(planted_cache):
    cache, _ = planted_cache
    for neurons, message in (
        (np.array([], dtype=int), "choose at least one"),
        (np.array([192]), "neurons 0 to 191"),
        (np.array([-1]), "not -1"),
    ):
        with pytest.raises(UserError, match=message):
            interventions.intervene(cache, neurons, by_argmax, live=cache.live(), seed=0)


def test_channels_of_every_kind_of_layer():
    assert interventions.channel_positions(Layer("a", "a", (3, 2, 2), "channel,time,frequency"), np.array([2, 0])).tolist() == [
        0,
        1,
        2,
        3,
        8,
        9,
        10,
        11,
    ]
    assert interventions.channel_positions(Layer("a", "a", (3, 2), "channel,time"), np.array([1])).tolist() == [2, 3]
    assert interventions.channel_positions(Layer("a", "a", (2, 3), "token,unit"), np.array([1])).tolist() == [1, 4]
    assert interventions.channel_positions(Layer("a", "a", (4,), "unit"), np.array([3, 1])).tolist() == [1, 3]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("wrap", [False, True])
def test_tail_of_a_sequence_and_of_any_other_network(wrap, inplace):
    """A layer followed by a module that works in place must be kept and put back as it was."""
    network, (inputs, _) = planted(wrap=wrap, inplace=inplace), planted_inputs()
    inputs = inputs - 0.3
    full = network.forward(inputs)
    caches = interventions.cache_layers(network, network.layers, batches(inputs), CLIPS)
    for cache in caches:
        assert cache.form == ("whole pass" if wrap else "sequence")
        assert (cache.inputs is None) == (not wrap)
        value = cache.activations(cache.values)
        kept = value.clone()
        result = network.tail(cache.layer, value, inputs)
        torch.testing.assert_close(result, full, rtol=0, atol=1e-6)
        assert torch.equal(value, kept)
        found = interventions.run_changed(cache, np.array([], dtype=int), None, batch=30)
        np.testing.assert_allclose(found, full.unflatten(0, (CLIPS, 2)).mean(dim=1), atol=1e-6)


def test_a_network_s_own_tail_is_taken():
    """As an adapter for CNN14 gives it: blocks, then pooling by functions that no sequence knows."""
    calls = []

    def tail(layer, activation, inputs):
        calls.append(layer.name)
        value = activation.relu() if layer.name == "convolution" else activation
        return network.module.inner[3](value.mean(dim=(2, 3)))

    network, (inputs, _) = planted(wrap=True, tail=tail), planted_inputs()
    assert network.tail_form(network.layers[0]) == "own"
    full = network.forward(inputs)
    for cache in interventions.cache_layers(network, network.layers[:2], batches(inputs), CLIPS):
        result = interventions.run_changed(cache, np.array([], dtype=int), None)
        np.testing.assert_allclose(result, full.unflatten(0, (CLIPS, 2)).mean(dim=1), atol=1e-6)
    assert set(calls) == {"convolution", "rectified"}


def test_a_sequence_with_another_forward_is_run_whole():
    class Doubled(Network):
        def forward(self, inputs):
            return 2 * self.module(inputs)

    module = planted_module()
    layer = planted().layers[1]
    network = Doubled("doubled", "test", module, sample_rate_hz=1, clip_s=1, layers=[layer], checkpoint_sha256="")
    assert network.tail_form(layer) == "whole pass"
    inputs = planted_inputs()[0]
    torch.testing.assert_close(network.tail(layer, module[0](inputs).detach(), inputs), network.forward(inputs))


def test_a_cache_in_files_equals_one_in_memory(planted_cache, tmp_path):
    cache, _ = planted_cache
    network = planted(wrap=True)
    [filed] = interventions.cache_layers(network, [network.layers[1]], batches(planted_inputs()[0]), CLIPS, tmp_path)
    assert torch.equal(filed.values, cache.values)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 4 * (filed.values.numel() + filed.inputs.numel())
    with pytest.raises(ValueError, match="instead of 201"):
        interventions.cache_layers(network, [network.layers[1]], batches(planted_inputs()[0]), CLIPS + 1)


def test_features_below_the_output_are_read_by_a_head(planted_cache):
    cache, labels = planted_cache
    features = interventions.run_changed(cache, np.array([], dtype=int), None, module="2")
    assert features.shape == (CLIPS, 32)
    head = readouts.fit_head(features, labels, np.arange(CLIPS) // CLASSES % 4)
    neurons = interventions.channel_positions(cache.layer, np.arange(8, 12))
    effect = interventions.intervene(cache, neurons, head, live=cache.live(), seed=0, module="2", batch=64, repeats=2)
    counts = effect.counts(labels, CLASSES)
    assert (counts["before"] == 40).all()
    assert counts["after"][:, 2].mean() < 25
    with pytest.raises(ValueError, match="0 times above layer"):
        interventions.run_changed(cache, neurons, None, module="0.0")


@pytest.mark.skipif(not cached_path("yamnet").is_file(), reason="YAMNet's weights are not in the cache")
def test_tail_equals_the_full_pass_for_every_layer_of_yamnet():
    network = load_network("yamnet")
    sounds = torch.randn(2, network.samples, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.1], [0.01]])
    inputs = network.prepare(sounds)
    full = network.forward(inputs)
    generic = Network(
        "generic", "test", network.module, sample_rate_hz=16000, clip_s=5, layers=network.layers, checkpoint_sha256="", windows=10
    )
    for cache in interventions.cache_layers(network, network.layers, [inputs], 2):
        found = interventions.run_changed(cache, np.array([], dtype=int), None)
        np.testing.assert_allclose(found, full.unflatten(0, (2, 10)).mean(dim=1), atol=1e-5)
        assert generic.tail_form(cache.layer) == "sequence"
        torch.testing.assert_close(generic.tail(cache.layer, cache.activations(cache.values), inputs), full, rtol=0, atol=1e-5)
        swapped = interventions.run_changed(cache, np.arange(cache.values.shape[2]), np.array([1, 0]))
        np.testing.assert_allclose(swapped, found[::-1], atol=1e-5)  # every neuron exchanged: the other clip's output


def test_sign_test_and_intervals():
    """Sign test: binomial tails by hand. Interval: Bonett and Price's formula with whole cells."""
    assert interventions.sign_test(0, 0) == 1.0
    assert interventions.sign_test(5, 0) == pytest.approx(2 / 32)
    assert interventions.sign_test(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert interventions.sign_test(4, 4) == 1.0
    assert interventions.sign_test(900, 1100) == pytest.approx(8.5e-6, rel=0.1)
    before = np.array([True] * 30 + [False] * 20)
    after = np.concatenate([np.zeros(9, bool), np.ones(21, bool), np.ones(3, bool), np.zeros(17, bool)])
    found = interventions.paired(before, after)
    lost, won = 10 / 52, 4 / 52
    half = interventions.Z95 * np.sqrt((lost + won - (won - lost) ** 2) / 52)
    assert (found.clips, found.worse, found.better) == (50, 9, 3)
    assert found.change == pytest.approx(-6 / 50)
    assert (found.low, found.high) == pytest.approx((won - lost - half, won - lost + half))
    assert interventions.paired(np.zeros(0), np.zeros(0)).change is None
    repeated = interventions.paired(before, np.stack([after, before]))
    assert repeated.change == pytest.approx(-3 / 50)
    assert (repeated.worse, repeated.better) == (9, 3)


def test_paired_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        draw = rng.random(40)
        found = interventions.paired(draw > 0.15, draw < 0.95)  # 0.15 won, 0.05 lost: the change is 0.10
        held += found.low <= 0.10 <= found.high
    assert 0.94 < held / 2000 < 0.985


def test_candidates_are_the_largest_specific_clusters_of_coarse_partitions():
    fine = np.arange(2000)  # 2000 clusters: too many
    middle = np.concatenate([np.repeat(np.arange(4), [50, 30, 80, 10]), np.full(1830, -1)])
    coarse = np.concatenate([np.zeros(160, int), np.ones(10, int), np.full(1830, -1)])
    entropies = [np.zeros(2000), np.array([1.0, 5.3, 5.0, np.nan]), np.array([2.0, 6.0])]
    found = interventions.candidates([fine, middle, coarse], entropies, 5.26)
    assert [(one.partition, one.cluster, one.size) for one in found] == [(2, 0, 160), (1, 2, 80), (1, 0, 50)]
    assert len(interventions.candidates([fine, middle, coarse], entropies, 5.26, largest=2)) == 2
    assert interventions.candidates([fine], entropies[:1], 5.26, most_clusters=2000)[0] == interventions.Candidate(0, 0, 1, 0.0)
    with pytest.raises(ValueError, match="4 clusters but 3 entropies"):
        interventions.candidates([middle], [np.zeros(3)], 5.0)
