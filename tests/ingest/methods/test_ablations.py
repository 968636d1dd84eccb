"""Silenced neurons against networks whose weights were zeroed by hand, and the unlearning figures against loops and a planted network."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from ingest.methods import ablations
from ingest.networks import passes
from ingest.networks.checkpoints import tensor_sha256
from ingest.networks.network import Layer, Network
from ingest.networks.registry import check_network
from tests.small import planted_network, small_network, spectrogram
from warehouse.store import UserError


class Tokens(nn.Module):
    def forward(self, values):
        return values.mean(dim=3).transpose(1, 2)


class Mean(nn.Module):
    def forward(self, tokens):
        return tokens.mean(dim=1)


def mixed_network(windows=2):
    """Two normalised convolutions, an MLP on tokens with dropout after it, four classes; a clip of 2 s has two windows of 1 s."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(True),
        Tokens(), nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8), nn.Dropout(), nn.Tanh(), Mean(), nn.Linear(8, 4),
    )  # fmt: skip
    with torch.no_grad():
        for norm in (module[1], module[4]):
            norm.weight.uniform_(0.5, 1)
            norm.bias.uniform_(0.5, 1)  # so that no channel is silent by itself
            norm.running_mean.normal_()
            norm.running_var.uniform_(1, 2)
    layers = [
        Layer("conv1", "2", (6, 32, 16), "channel,time,frequency", non_negative=True),
        Layer("conv2", "5", (8, 16, 8), "channel,time,frequency", non_negative=True),
        Layer("mlp_in", "7", (16, 10), "token,unit"),
        Layer("mlp_out", "9", (16, 8), "token,unit"),
        Layer("classifier", "13", (4,), "unit"),
    ]
    network = Network(
        "mixed", "test", module, sample_rate_hz=8000, clip_s=float(windows), layers=layers, checkpoint_sha256="", windows=windows,
        window_s=1.0, output_names=["a", "b", "c", "d"], prepare=lambda sounds: spectrogram(sounds.reshape(-1, 8000)),
    )  # fmt: skip
    check_network(network, "mixed")
    return network


WEIGHTS = {"conv1": (0, 1), "conv2": (3, 4), "mlp_in": (7,), "mlp_out": (9,)}
CHOSEN = {"mlp_out": [7, 2, 2], "conv2": np.array([5, 0, 3, 0]), "mlp_in": torch.tensor([9, 1]), "conv1": (4,), "classifier": []}


def sounds(clips=5):
    return torch.randn(clips, 16000, generator=torch.Generator().manual_seed(1)) * 0.1


def recorded(network, inputs):
    """Every layer's output in one pass, as later hooks see it."""
    found = {}
    handles = [
        network.module.get_submodule(layer.module).register_forward_hook(
            lambda *call, name=layer.name: found.update({name: call[2].clone()})
        )
        for layer in network.layers
    ]
    network.forward(inputs)
    for handle in handles:
        handle.remove()
    return found


def test_exactly_the_chosen_neurons_are_zeroed_and_the_rest_is_what_zeroed_weights_give():
    network = mixed_network()
    by_hand = copy.deepcopy(network)
    with torch.no_grad():
        for name, units in CHOSEN.items():
            for index in WEIGHTS.get(name, ()):  # rows and biases of linear layers and convolutions, scale and shift of normalisations
                for unit in set(torch.as_tensor(units).tolist()):
                    by_hand.module[index].weight[unit] = 0
                    by_hand.module[index].bias[unit] = 0
    # After zeroing a convolution's channel its normalisation would shift it by the running mean, were its scale and shift not zero too.
    inputs = network.prepare(sounds())
    with ablations.ablated(network, CHOSEN):
        found = recorded(network, inputs)
    expected = recorded(by_hand, inputs)
    for layer in network.layers:
        torch.testing.assert_close(found[layer.name], expected[layer.name], rtol=0, atol=1e-6)
        by_unit = found[layer.name].movedim(-1 if layer.axes.endswith("unit") else 1, 0).flatten(1)
        silent = (by_unit == 0).all(dim=1).nonzero().flatten().tolist()
        assert silent == sorted(set(torch.as_tensor(CHOSEN[layer.name]).tolist()))


def test_before_the_first_silenced_layer_nothing_changes_a_bit():
    network = mixed_network()
    inputs = network.prepare(sounds())
    whole = recorded(network, inputs)
    with ablations.ablated(network, {"mlp_in": [3]}):
        found = recorded(network, inputs)
    assert torch.equal(found["conv2"], whole["conv2"])
    kept = [unit for unit in range(10) if unit != 3]
    assert torch.equal(found["mlp_in"][..., kept], whole["mlp_in"][..., kept])


def test_weights_and_outputs_are_restored_also_after_an_error():
    network = mixed_network()
    inputs = network.prepare(sounds())
    before, weights = network.forward(inputs), tensor_sha256(network.module.state_dict())

    def fail():
        with ablations.ablated(network, CHOSEN), ablations.ablated(network, {"conv1": range(6)}):
            assert not torch.equal(network.forward(inputs), before)
            network.forward(inputs[:, :, 0])

    with pytest.raises(RuntimeError):
        fail()
    assert tensor_sha256(network.module.state_dict()) == weights
    assert torch.equal(network.forward(inputs), before)
    assert not any(part._forward_hooks for part in network.module.modules())


def test_modules_that_share_or_pair_their_output_are_silenced_without_side_effects():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.pair = nn.Dropout(), nn.GRU(4, 4, batch_first=True)

        def forward(self, values):
            return values + self.drop(values) + self.pair(values)[0]

    torch.manual_seed(0)
    module = Residual().eval()
    layers = [Layer("drop", "drop", (3, 4), "token,unit"), Layer("pair", "pair", (3, 4), "token,unit")]
    network = Network("residual", "test", module, sample_rate_hz=1, clip_s=1, layers=layers, checkpoint_sha256="")
    values = torch.randn(2, 3, 4)
    with ablations.ablated(network, {"drop": [1], "pair": [0, 2]}):
        result = network.forward(values)
    keep_drop, keep_pair = torch.tensor([1.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    with torch.inference_mode():
        torch.testing.assert_close(result, values + values * keep_drop + module.pair(values)[0] * keep_pair)


def test_logits_are_means_over_windows_from_inputs_prepared_once(tmp_path):
    network, clips = mixed_network(), sounds(7)
    inputs = passes.prepare_clips(network, clips.split(3), 7)
    mapped = passes.prepare_clips(network, clips.split(2), 7, tmp_path / "inputs.float32")
    assert torch.equal(inputs, mapped)
    assert inputs.shape == (14, 1, 32, 16)
    found = passes.class_logits(network, mapped.split(4))
    for clip in range(7):
        outputs = [network.forward(spectrogram(clips[clip : clip + 1, start : start + 8000])) for start in (0, 8000)]
        np.testing.assert_allclose(found[clip], ((outputs[0] + outputs[1]) / 2)[0].numpy(), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="hold 7 clips instead of 8"):
        passes.prepare_clips(network, clips.split(3), 8)
    with pytest.raises(ValueError, match="more than 6"):
        passes.prepare_clips(network, clips.split(3), 6)


def test_a_planted_class_is_unlearned_and_no_other():
    """Channels 4 to 7 alone carry noise: silencing them takes four times the mean of their values from its logit, and nothing else."""
    network = planted_network()
    rng = np.random.default_rng(0)
    inputs = network.prepare(torch.from_numpy(rng.standard_normal((30, 8000))).float() * 0.2)
    labels = np.arange(30) % 3
    before = passes.class_logits(network, inputs.split(8))
    with ablations.ablated(network, {"bands": range(4, 8)}):
        after = passes.class_logits(network, inputs.split(8))
    band = inputs[labels == 2, 0, :, 10].mean().item()
    change = ablations.unlearning(before, after, labels, 2)
    assert change.own == pytest.approx(-band * (1 + 0.9 + 1.1 + 0.95), rel=1e-4)
    assert change.rest == 0
    assert change.gap == -change.own > 1
    assert ablations.unlearning(before, after, labels, 0).own == 0


def test_unlearning_against_a_loop_over_clips():
    rng = np.random.default_rng(0)
    before, after = rng.standard_normal((40, 5)), rng.standard_normal((40, 5))
    labels = rng.integers(-1, 5, 40)
    labels[0], after[0, 3] = 2, math.nan
    changes = [[] for _ in range(5)]
    for clip in range(1, 40):
        if labels[clip] >= 0:
            changes[labels[clip]].append(after[clip, labels[clip]] - before[clip, labels[clip]])
    own, rest = ablations.unlearning(before, after, labels, 3)
    assert own == pytest.approx(sum(changes[3]) / len(changes[3]), rel=1e-12)
    assert rest == pytest.approx(sum(sum(changes[label]) / len(changes[label]) for label in (0, 1, 2, 4)) / 4, rel=1e-12)
    assert ablations.Unlearning(-10.73, -6.83).gap == pytest.approx(3.90)  # AST, open concepts: as Table 4 prints it
    assert math.isnan(ablations.unlearning(before, after, labels, 7).own)
    assert math.isnan(ablations.unlearning(before, after, np.full(40, 3), 3).rest)


def test_the_highest_scores_of_the_whole_network_are_chosen():
    """32 inner neurons; the classifier takes no part, neither do neurons without a score."""
    network = mixed_network()
    scores = {
        "conv1": np.array([0, 9, 1, 1, 8, math.nan]),
        "mlp_in": np.array([7, 0, 0, 0, 0, 0, 0, 0, 0, 10.0]),
        "mlp_out": np.array([math.nan] * 7 + [6]),
    }
    found = ablations.importance_masks(network, scores, 5 / 32)
    assert {name: units.tolist() for name, units in found.items()} == {"conv1": [1, 4], "mlp_in": [0, 9], "mlp_out": [7]}
    assert ablations.importance_masks(network, scores, 0) == {}
    everything = ablations.importance_masks(network, scores, 1)
    assert [len(units) for units in everything.values()] == [5, 10, 1]
    with pytest.raises(UserError, match="no inner layer classifier"):
        ablations.importance_masks(network, {"classifier": np.zeros(4)}, 0.1)
    with pytest.raises(ValueError, match="10 neurons"):
        ablations.importance_masks(network, {"mlp_in": np.zeros(9)}, 0.1)
    with pytest.raises(UserError, match=r"share of 1\.5"):
        ablations.importance_masks(network, scores, 1.5)


def test_equal_scores_and_the_control_are_spread_evenly_over_the_network():
    network = mixed_network()
    ties = {layer.name: np.ones(layer.neurons) for layer in network.layers[:-1]}
    for draw in (
        lambda seed: ablations.importance_masks(network, ties, 0.25, seed=seed),
        lambda seed: ablations.random_masks(network, 8, seed=seed),
    ):
        counts = {layer.name: np.zeros(layer.neurons) for layer in network.layers[:-1]}
        for seed in range(2000):
            drawn = draw(seed)
            assert sum(len(np.unique(units)) for units in drawn.values()) == 8
            for name, units in drawn.items():
                counts[name][units] += 1
        every = np.concatenate(list(counts.values()))
        assert len(every) == 32
        np.testing.assert_allclose(every, 500, rtol=0, atol=5 * math.sqrt(2000 * 0.25 * 0.75))
    assert json.dumps({k: v.tolist() for k, v in draw(3).items()}) == json.dumps({k: v.tolist() for k, v in draw(3).items()})
    with pytest.raises(UserError, match="has 32 neurons outside its classifier, 33 cannot"):
        ablations.random_masks(network, 33, seed=0)


def test_what_cannot_be_silenced_or_read_is_refused():
    network = mixed_network()
    for units, kind, message in [
        ({"conv9": [0]}, UserError, "mixed has no layer conv9: it has conv1, conv2"),
        ({"conv1": [0, 6]}, UserError, "layer conv1 of mixed has units 0 to 5, not 0 to 6"),
        ({"conv1": [-1]}, UserError, "not -1 to -1"),
        ({"conv2": [0], "conv1": np.ones(6, dtype=bool)}, ValueError, "whole numbers, not bool"),
    ]:
        with pytest.raises(kind) as caught, ablations.ablated(network, units):
            pass
        assert message in str(caught.value)
    assert not any(part._forward_hooks for part in network.module.modules())
    inputs = network.prepare(sounds(1))
    encoder = Network(
        "encoder", "test", network.module[:10], sample_rate_hz=8000, clip_s=2.0, layers=network.layers[:4], checkpoint_sha256="", windows=2
    )
    with pytest.raises(UserError, match=r"encoder has no classifier, it puts out \[16, 8\]"):
        passes.class_logits(encoder, [inputs])
    assert ablations.inner_layers(encoder) == encoder.layers
    small = small_network()
    small.layers = small.layers[:1]
    with pytest.raises(UserError, match="small puts out no raw logits"):
        passes.class_logits(small, [torch.zeros(1, 1, 32, 16)])
