"""YAMNet against a plain reading of the original program, and with its published weights on ESC-10."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import save_file
from torch.nn import functional

from ingest.networks.registry import load_network
from ingest.networks.yamnet import convolutions, expected_shapes, mel_matrix, patches, window_count
from tests.ingest.networks.tensorflow_files import write_checkpoint
from warehouse.store import UserError

ESC50 = Path(os.environ.get("AURICLE_ESC50") or Path(__file__).parents[3] / "../shared/data/esc50")
# AudioSet's display names for the classes of ESC-10; a class's score is the highest of its names'.
ESC10_NAMES = {
    "dog": ["Dog", "Bark"],
    "rain": ["Rain", "Raindrop", "Rain on surface"],
    "sea_waves": ["Waves, surf", "Ocean"],
    "crying_baby": ["Baby cry, infant cry"],
    "clock_tick": ["Clock", "Tick", "Tick-tock"],
    "sneezing": ["Sneeze"],
    "helicopter": ["Helicopter"],
    "chainsaw": ["Chainsaw"],
    "rooster": ["Chicken, rooster", "Crowing, cock-a-doodle-doo"],
    "crackling_fire": ["Fire", "Crackle"],
}


@pytest.fixture(scope="module")
def tensors():
    """A YAMNet with random weights that keep values at a like size from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in expected_shapes().items():
        noise = torch.randn(shape, generator=generator)
        kind = name.rsplit("/", 1)[1]
        made[name] = {
            "weight": lambda noise=noise: noise * (2 / noise[0].numel()) ** 0.5,
            "moving_variance": lambda noise=noise: 0.5 + noise.square(),
        }.get(kind, lambda noise=noise: noise * 0.3)()
    return made


@pytest.fixture(scope="module")
def weights(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("yamnet") / "yamnet.safetensors"
    save_file(tensors, path, {"output_names": json.dumps([f"class {index}" for index in range(521)])})
    return path


@pytest.fixture(scope="module")
def network(weights):
    return load_network("yamnet", weights=weights)


@pytest.fixture(scope="module")
def inputs(network):
    return network.prepare(torch.randn(2, network.samples, generator=torch.Generator().manual_seed(1)) * 0.1)


def recorded(network, inputs):
    found = {}
    handles = [
        network.module.get_submodule(layer.module).register_forward_hook(
            lambda _m, _i, result, name=layer.name: found.setdefault(name, result)
        )
        for layer in network.layers
    ]
    result = network.forward(inputs)
    for handle in handles:
        handle.remove()
    return found, result


def test_layers_are_27_convolutions_and_521_outputs(network):
    assert len(network.layers) == 28
    assert sum(layer.neurons for layer in network.layers) == 11_465
    assert sum(layer.neurons for layer in network.layers[:-1]) == 10_944
    positions = {layer.name: int(np.prod(layer.shape)) for layer in network.layers}
    assert positions["layer2/pointwise_conv"] == 98_304
    assert positions["layer14/pointwise_conv"] == 6_144
    assert all(layer.non_negative for layer in network.layers)
    assert network.output_names[7] == "class 7"
    assert (network.sample_rate_hz, network.clip_s, network.windows, network.window_s, network.window_hop_s) == (16000, 5.0, 10, 0.96, 0.48)
    assert "AudioSet" in network.note


def test_every_layer_equals_the_original_computation(network, tensors, inputs):
    """Convolution with TensorFlow's padding, then normalisation, then ReLU, each as it stands in yamnet.py, in double precision."""
    found, result = recorded(network, inputs)
    value = inputs.double()
    for name, _, _, kernel, stride, groups in convolutions():
        sizes = value.shape[2:]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in sizes]
        value = functional.pad(value, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
        value = functional.conv2d(value, tensors[f"{name}/weight"].double(), stride=stride, groups=groups)
        mean, variance, beta = (tensors[f"{name}/{part}"].double() for part in ("moving_mean", "moving_variance", "beta"))
        value = functional.batch_norm(value, mean, variance, None, beta, eps=1e-4).relu()
        assert found[name].shape == value.shape
        assert float((found[name] - value).abs().max()) < 1e-5 * float(value.max())
    logits = functional.linear(value.mean((2, 3)), tensors["outputs/weight"].double(), tensors["outputs/bias"].double())
    assert float((result - logits.sigmoid()).abs().max()) < 1e-5
    assert torch.equal(found["outputs"], result)


def test_layer_shapes_are_those_of_the_hooked_tensors(network, inputs):
    found, result = recorded(network, inputs)
    assert result.shape == (20, 521)
    for layer in network.layers:
        assert found[layer.name].shape == (20, *layer.shape)


def test_tail_from_every_layer_gives_the_forward_pass(network, inputs):
    found, result = recorded(network, inputs)
    for layer in network.layers:
        torch.testing.assert_close(network.tail(layer, found[layer.name].contiguous(), inputs), result, rtol=0, atol=1e-6)
    changed = network.tail(network.layers[5], torch.zeros_like(found[network.layers[5].name]), inputs)
    assert float((changed - result).abs().max()) > 1e-3


def test_patches_equal_a_frame_by_frame_computation():
    """features.py: pad, window, spectrum of 512 points, triangles in mel, logarithm, patches of 96 frames every 48."""
    sound = np.random.default_rng(0).standard_normal(40_000) * 0.1
    padded = np.concatenate([sound, np.zeros(15_600 + 4 * 7_680 - 40_000)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([np.abs(np.fft.rfft(padded[start : start + 400] * window, 512)) for start in range(0, len(padded) - 399, 160)])

    def mel(frequency):
        return 1127 * np.log(1 + frequency / 700)

    edges = np.linspace(mel(125), mel(7500), 66)
    matrix = np.zeros((257, 64))
    for row in range(1, 257):
        for band in range(64):
            low, center, high = edges[band : band + 3]
            place = mel(row * 8000 / 256)
            matrix[row, band] = max(0, min((place - low) / (center - low), (high - place) / (high - center)))
    np.testing.assert_allclose(mel_matrix().numpy(), matrix, atol=1e-6)
    log_mel = np.log(frames @ matrix + 0.001)
    expected = np.stack([log_mel[start : start + 96] for start in range(0, len(log_mel) - 95, 48)])[:, None]
    found = patches(torch.from_numpy(np.stack([sound, sound * 0])).float())
    assert found.shape == (10, 1, 96, 64)
    np.testing.assert_allclose(found[:5].numpy(), expected, atol=2e-4)
    np.testing.assert_allclose(found[5:].numpy(), np.log(0.001), atol=1e-6)


@pytest.mark.parametrize(("seconds", "windows"), [(1.0, 2), (0.975, 1), (1.455, 2), (1.456, 3), (5.0, 10), (10.0, 20)])
def test_number_of_patches(seconds, windows):
    assert window_count(round(seconds * 16000)) == windows
    assert len(patches(torch.zeros(1, round(seconds * 16000)))) == windows


def test_other_clip_lengths(weights):
    network = load_network("yamnet", weights=weights, clip_s=1)
    assert network.windows == 2
    assert network.forward(network.prepare(torch.zeros(3, network.samples))).shape == (6, 521)
    for clip_s in (0.5, 0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="at least 1 second"):
            load_network("yamnet", weights=weights, clip_s=clip_s)


def saved_model(folder, tensors):
    """The same weights as TensorFlow keeps them, beside variables that belong to no layer."""
    variables = {"optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE": np.array(3, dtype=np.int64)}
    prefix = "layer-1/_yamnet/layer_with_weights-"
    for index, (name, _, _, _, _, groups) in enumerate(convolutions()):
        kernel, order = ("kernel", (2, 3, 1, 0)) if groups == 1 else ("depthwise_kernel", (2, 3, 0, 1))
        variables[f"{prefix}{2 * index}/{kernel}/.ATTRIBUTES/VARIABLE_VALUE"] = (
            tensors[f"{name}/weight"].permute(*order).contiguous().numpy()
        )
        for part in ("beta", "moving_mean", "moving_variance"):
            variables[f"{prefix}{2 * index + 1}/{part}/.ATTRIBUTES/VARIABLE_VALUE"] = tensors[f"{name}/{part}"].numpy()
    variables[f"{prefix}54/kernel/.ATTRIBUTES/VARIABLE_VALUE"] = tensors["outputs/weight"].T.contiguous().numpy()
    variables[f"{prefix}54/bias/.ATTRIBUTES/VARIABLE_VALUE"] = tensors["outputs/bias"].numpy()
    return variables


@pytest.mark.slow
def test_a_saved_model_gives_the_same_network(tmp_path, tensors, network):
    variables = saved_model(tmp_path, tensors)
    write_checkpoint(tmp_path / "variables", variables)
    (tmp_path / "assets").mkdir()
    rows = [f'{index},/m/{index},"class {index}"' for index in range(521)]
    (tmp_path / "assets" / "yamnet_class_map.csv").write_text("\n".join(["index,mid,display_name", *rows]))
    for path in (tmp_path, tmp_path / "variables"):
        again = load_network("yamnet", weights=path)
        assert again.checkpoint_sha256 == network.checkpoint_sha256
        assert again.output_names == network.output_names

    (tmp_path / "assets" / "yamnet_class_map.csv").write_text("\n".join(["index,mid,display_name", *rows[:-1]]))
    with pytest.raises(UserError, match="520 class names instead of 521"):
        load_network("yamnet", weights=tmp_path)

    del variables["layer-1/_yamnet/layer_with_weights-10/depthwise_kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    other = tmp_path / "other"
    write_checkpoint(other / "variables", variables)
    with pytest.raises(UserError, match=r"1 missing, first layer4/depthwise_conv/weight$"):
        load_network("yamnet", weights=other)


def test_weights_that_do_not_fit_are_refused(tmp_path, tensors):
    path = tmp_path / "net.safetensors"
    cases = [
        (
            {name: tensor for name, tensor in tensors.items() if name != "layer3/pointwise_conv/beta"},
            "1 missing, first layer3/pointwise_conv/beta",
        ),
        (tensors | {"layer15/conv/weight": torch.zeros(1)}, "1 unexpected, first layer15/conv/weight"),
        (tensors | {"outputs/bias": torch.zeros(50)}, r"first outputs/bias \[50\] instead of \[521\]"),
    ]
    for wrong, message in cases:
        save_file(wrong, path)
        with pytest.raises(UserError, match=message):
            load_network("yamnet", weights=path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_network("yamnet", weights=path)
    save_file(tensors, path, {"output_names": "[1,"})
    with pytest.raises(UserError, match="broken class names"):
        load_network("yamnet", weights=path)
    write_checkpoint(tmp_path / "variables", {"dense/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="holds no YAMNet"):
        load_network("yamnet", weights=tmp_path)
    with pytest.raises(UserError, match="no checkpoint at"):
        load_network("yamnet", weights=tmp_path / "nowhere.safetensors")


def sound_of(path: Path) -> np.ndarray:
    """Five seconds at 16 kHz, mono: shorter files padded on the right, longer ones give their middle."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), rate, 16000)
    start = max(0, (len(mono) - 80_000) // 2)
    mono = mono[start : start + 80_000]
    return np.pad(mono, (0, 80_000 - len(mono)))


@pytest.mark.skipif(not (ESC50 / "meta" / "esc50.csv").is_file(), reason=f"no ESC-50 at {ESC50}: set AURICLE_ESC50 to its folder")
def test_published_weights_tell_the_classes_of_esc10_apart():
    """Matching AudioSet's names, without any training; an independent port reached 0.94."""
    try:
        network = load_network("yamnet")
    except UserError as error:
        pytest.skip(str(error))
    with open(ESC50 / "meta" / "esc50.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["esc10"] == "True"]
    columns = [[network.output_names.index(name) for name in names] for names in ESC10_NAMES.values()]
    right = 0
    for start in range(0, len(rows), 4):
        batch = rows[start : start + 4]
        sounds = np.stack([sound_of(ESC50 / "audio" / row["filename"]) for row in batch])
        outputs = network.forward(network.prepare(torch.from_numpy(sounds)))
        means = outputs.unflatten(0, (len(batch), network.windows)).mean(dim=1)
        scores = torch.stack([means[:, names].amax(dim=1) for names in columns], dim=1)
        right += sum(list(ESC10_NAMES)[best] == row["category"] for best, row in zip(scores.argmax(1).tolist(), batch, strict=True))
    assert len(rows) == 400
    assert right / len(rows) >= 0.90
