"""M2D with small random weights in the published layout: windows, hooks and reductions against a plain reading, window by window."""

import argparse
import math
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from ingest.networks import m2d
from ingest.networks.m2d import Encoder, Size, load_m2d, log_mel, mel_matrix
from ingest.networks.network import frame_times
from ingest.networks.registry import check_network
from ingest.stages.extraction.recording import Recorder
from warehouse.store import UserError

SMALL = Size(width=32, depth=2, heads=4, hidden=48)
STATS = (-6.5, 4.5)


def weights_of(size=SMALL, grid_times=38):
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in Encoder(size, grid_times).state_dict().items()}
    return {name: torch.randn(shape, generator=generator) * (0.5 if len(shape) == 1 else 0.2) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def tensors():
    return weights_of()


@pytest.fixture
def weights(tensors, tmp_path):
    """A checkpoint of the encoder alone, as the released converter writes it."""
    path = tmp_path / "m2d_vit_base-80x608p16x16-221006-mr7_enconly" / "checkpoint-300.pth"
    path.parent.mkdir()
    torch.save(tensors | {"norm_stats": torch.tensor(STATS)}, path)
    return path


def sounds(clips, seconds):
    return torch.randn(clips, round(seconds * 16000), generator=torch.Generator().manual_seed(1)) * 0.1


def refusal(*arguments, **options):
    with pytest.raises(UserError) as caught:
        load_m2d(*arguments, **{"size": SMALL, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def plain(tensors, window):
    """A window [80, frames] through the transformer in double precision: hidden units per block [5, times, units], tokens [5, times, width]."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    times = window.shape[1] // 16
    position = w["pos_embed"][0, 1:].reshape(5, 38, -1)
    tokens = [w["cls_token"][0, 0] + w["pos_embed"][0, 0]]
    for band in range(5):
        for time in range(times):
            patch = window[16 * band : 16 * band + 16, 16 * time : 16 * time + 16].double()
            tokens.append(w["patch_embed.proj.weight"].flatten(1) @ patch.flatten() + w["patch_embed.proj.bias"] + position[band, time])
    x = torch.stack(tokens)
    hidden = []
    for block in range(SMALL.depth):

        def linear(values, name, block=block):
            return values @ w[f"blocks.{block}.{name}.weight"].T + w[f"blocks.{block}.{name}.bias"]

        def norm(values, name):
            mean, variance = values.mean(1, keepdim=True), values.var(1, unbiased=False, keepdim=True)
            return (values - mean) / (variance + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

        q, k, v = linear(norm(x, f"blocks.{block}.norm1"), "attn.qkv").chunk(3, dim=1)
        heads = [
            ((q[:, part] @ k[:, part].T) / math.sqrt(8)).softmax(1) @ v[:, part]
            for part in (slice(8 * h, 8 * h + 8) for h in range(SMALL.heads))
        ]
        x = x + linear(torch.cat(heads, dim=1), "attn.proj")
        inner = linear(norm(x, f"blocks.{block}.norm2"), "mlp.fc1")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        hidden.append(inner[1:].reshape(5, times, -1))
        x = x + linear(inner, "mlp.fc2")
    return hidden, norm(x, "norm")[1:].reshape(5, times, -1)


def plain_clip(tensors, sound, padding):
    """All windows of one clip: hidden units per block and tokens, [5, times, ...], without the patches beyond the clip's end."""
    patches = math.ceil(len(sound) / 2560)
    values = (log_mel(sound[None], mel_matrix())[0] - STATS[0]) / STATS[1]
    values = values[:, : 16 * patches]
    parts = []
    for start in range(0, 16 * patches, 608):
        window = values[:, start : start + 608]
        frames = 608 if padding == "attended" else min(608, 16 * patches - start)
        parts.append(plain(tensors, functional.pad(window, (0, frames - window.shape[1]))))
    hidden = [torch.cat([part[0][block] for part in parts], dim=1)[:, :patches] for block in range(SMALL.depth)]
    return hidden, torch.cat([part[1] for part in parts], dim=1)[:, :patches]


@pytest.mark.parametrize(
    ("padding", "clip_s", "valid_s", "windows", "times"),
    [
        ("masked", 5.0, (5.0, 2.1), 1, 32),
        ("masked", 6.08, (6.08, 0.05), 1, 38),
        ("masked", 5.0, (0.96, 0.48), 1, 32),  # ends of patches, which single precision puts before or behind
        ("masked", 14.0, (14.0, 7.0), 3, 38),  # 38 + 38 + 12 patches
        ("attended", 5.0, (5.0, 1.6), 1, 38),
        ("attended", 14.0, (12.9, 3.0), 3, 38),
    ],
)
def test_recorded_windows_equal_a_plain_reading(weights, tensors, padding, clip_s, valid_s, windows, times):
    network = load_m2d(weights, clip_s, padding=padding, size=SMALL)
    assert (network.windows, network.layers[0].shape, network.layers[0].time_steps) == (windows, (1 + 5 * times, 48), times)
    assert (network.window_s, network.counts_padding) == (pytest.approx(0.16 * times), False)
    starts = frame_times(network, network.layers[0])[:, 0]
    np.testing.assert_allclose(starts, 0.16 * np.arange(windows * times), atol=1e-9)
    check_network(network, "m2d")

    waveforms, calls = sounds(2, clip_s), []
    handle = network.module.get_submodule("blocks.1.mlp.act").register_forward_hook(lambda *values: calls.append(values[2].shape))
    with Recorder(network, network.layers) as recorder:
        recorder.valid_s = torch.tensor(valid_s)
        output = network.forward(network.prepare(waveforms))
    handle.remove()
    assert calls == [(2 * windows, 1 + 5 * times, 48)]  # one call for all windows of all clips
    embeddings = network.embeddings(output, torch.tensor(valid_s))
    for clip in range(2):
        hidden, tokens = plain_clip(tensors, waveforms[clip], padding)
        counted = math.ceil(round(valid_s[clip] / 0.16, 6))
        for layer, values in zip(network.layers, hidden, strict=True):
            found = recorder.batch[layer.name].reductions
            torch.testing.assert_close(found["mean"][clip].double(), values[:, :counted].mean((0, 1)), rtol=0, atol=2e-5)
            torch.testing.assert_close(found["max"][clip].double(), values[:, :counted].amax((0, 1)), rtol=0, atol=1e-4)
        expected = tokens[:, :counted].permute(1, 0, 2).flatten(1).mean(0)
        torch.testing.assert_close(embeddings[clip].double(), expected, rtol=0, atol=1e-4)


def test_a_window_knows_nothing_of_padding_only_when_it_is_masked(weights):
    """What stands in the last window beyond its patches must not move its tokens."""
    for padding, moved in (("masked", False), ("attended", True)):
        network = load_m2d(weights, 14.0, padding=padding, size=SMALL)
        inputs = network.prepare(sounds(2, 14.0))
        changed = inputs.clone()
        changed[2::3, :, :, 12 * 16 :] += 1
        before, after = network.forward(inputs), network.forward(changed)
        real = torch.tensor([0, *(1 + 38 * band + time for band in range(5) for time in range(12))])
        assert torch.equal(before[:, real], after[:, real]) != moved
        assert torch.equal(before[:2], after[:2])


def test_base_has_the_published_layout_and_neurons():
    """ViT-B over 5 x 38 patches of one channel: keys as timm names them, 85,400,832 values, 36,864 neurons."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Encoder(Size(), 38).state_dict().items()}
    block = {
        "norm1.weight": (768,), "norm1.bias": (768,), "attn.qkv.weight": (2304, 768), "attn.qkv.bias": (2304,),
        "attn.proj.weight": (768, 768), "attn.proj.bias": (768,), "norm2.weight": (768,), "norm2.bias": (768,),
        "mlp.fc1.weight": (3072, 768), "mlp.fc1.bias": (3072,), "mlp.fc2.weight": (768, 3072), "mlp.fc2.bias": (768,),
    }  # fmt: skip
    outside = {
        "cls_token": (1, 1, 768), "pos_embed": (1, 191, 768), "patch_embed.proj.weight": (768, 1, 16, 16), "patch_embed.proj.bias": (768,),
        "norm.weight": (768,), "norm.bias": (768,),
    }  # fmt: skip
    assert shapes == outside | {f"blocks.{index}.{name}": shape for index in range(12) for name, shape in block.items()}
    assert sum(math.prod(shape) for shape in shapes.values()) == 85_400_832
    assert Size().depth * Size().hidden == 36_864


def test_log_mel_equals_a_frame_by_frame_computation():
    """Slaney's scale: linear below 1 kHz, 27 bands to a factor of 6.4 above; triangles of area 1."""
    sound = np.random.default_rng(0).standard_normal(4000) * 0.1
    sound[2000:] = 0
    mirrored = np.concatenate([sound[200:0:-1], sound, sound[-2:-202:-1]])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.stack([np.abs(np.fft.rfft(mirrored[start : start + 400] * window)) ** 2 for start in range(0, 4001, 160)])

    def mel(hz):
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    def hz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    edges = [hz(value) for value in np.linspace(mel(50), mel(8000), 82)]
    matrix = np.zeros((201, 80))
    for row in range(201):
        for band in range(80):
            low, center, high = edges[band : band + 3]
            slope = min((40 * row - low) / (center - low), (high - 40 * row) / (high - center))
            matrix[row, band] = max(0.0, slope) * 2 / (high - low)
    np.testing.assert_allclose(mel_matrix().numpy(), matrix, atol=1e-7)
    found = log_mel(torch.from_numpy(np.stack([sound, sound * 0])), mel_matrix())
    assert found.shape == (2, 80, 26)
    np.testing.assert_allclose(found[0].numpy().T, np.log(power @ matrix + 2.0**-23), atol=2e-4)
    np.testing.assert_allclose(found[1].numpy(), math.log(2.0**-23), rtol=1e-6)


def test_tail_from_a_replaced_layer(weights):
    network = load_m2d(weights, 7.0, size=SMALL)
    inputs, found = network.prepare(sounds(1, 7.0)), {}
    handles = [
        network.module.get_submodule(layer.module).register_forward_hook(lambda _m, _i, out, name=layer.name: found.setdefault(name, out))
        for layer in network.layers
    ]
    result = network.forward(inputs)
    for handle in handles:
        handle.remove()
    for layer in network.layers:
        torch.testing.assert_close(network.tail(layer, found[layer.name], inputs), result)
        silenced = found[layer.name].clone()
        silenced[:, :, 3] = 0
        assert float((network.tail(layer, silenced, inputs) - result).abs().max()) > 1e-3


def test_every_published_form_of_a_checkpoint_gives_the_same_network(weights, tensors, tmp_path):
    reference = load_m2d(weights, size=SMALL)
    assert (reference.name, reference.clip_s, reference.norm_stats) == ("m2d", 5.0, pytest.approx(STATS))
    extra = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 32), "target_blocks.0.norm1.weight": torch.ones(32)}
    whole = tmp_path / "whole.pth"
    arguments = argparse.Namespace(model="m2d_vit_base", input_size=[80, 608], norm_stats=None)
    torch.save({"model": tensors | extra, "optimizer": {"state": {}}, "epoch": 300, "scaler": {"scale": 1.0}, "args": arguments}, whole)
    fine_tuned = {f"module.ar.runtime.backbone.{name}": tensor for name, tensor in tensors.items()}
    fine_tuned |= {"module.head.mlp.mlp.0.weight": torch.zeros(3, 160), "module.ar.runtime.to_spec.mel_basis": torch.zeros(80, 201)}
    torch.save(fine_tuned, tmp_path / "fine_tuned.pth")
    save_file(tensors, tmp_path / "encoder.safetensors")
    assert "then with labels; its head is left out" in load_m2d(tmp_path / "fine_tuned.pth", size=SMALL).note
    for path in (whole, tmp_path / "fine_tuned.pth", tmp_path / "encoder.safetensors"):
        assert load_m2d(path, size=SMALL).norm_stats == (-7.1, 4.2)
        network = load_m2d(path, size=SMALL, norm_stats=STATS)
        assert network.checkpoint_sha256 == reference.checkpoint_sha256
        assert torch.equal(network.module.state_dict()["blocks.1.mlp.fc1.weight"], tensors["blocks.1.mlp.fc1.weight"])
    inputs = load_m2d(whole, size=SMALL).prepare(torch.zeros(1, 80_000))
    assert inputs.shape == (1, 1, 80, 512)
    np.testing.assert_allclose(inputs[0, 0, :, 500], (math.log(2.0**-23) + 7.1) / 4.2, rtol=1e-6)
    assert not inputs[..., 501:].any()  # filled up after normalisation
    other = load_m2d(whole, size=SMALL)
    assert other.checkpoint_sha256 != reference.checkpoint_sha256  # other numbers go into the network


def test_a_vit_of_this_architecture_trained_with_labels(weights, tensors, tmp_path):
    """As timm saves one with a head, over CLS or over the mean of tokens, itself or wrapped for training on several devices."""
    reference = load_m2d(weights, size=SMALL, norm_stats=(-7.1, 4.2))
    head = {"head.weight": torch.zeros(527, 32), "head.bias": torch.zeros(527)}
    pooled = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: value for name, value in tensors.items()} | head
    forms = {
        "timm.pth": tensors | head,
        "whole.pth": {"model": tensors | head, "optimizer": {"state": {}}, "epoch": 100},
        "wrapped.pth": {"state_dict": {f"module.{name}": value for name, value in (tensors | head).items()}},
        "pooled.pth": pooled,
    }
    inputs, caught = reference.prepare(sounds(2, 5.0)), {}
    for name, content in forms.items():
        torch.save(content, tmp_path / name)
        network = load_m2d(tmp_path / name, size=SMALL)
        assert (network.name, network.output_names, [layer.name for layer in network.layers]) == (
            "m2d-supervised", None, ["block1/mlp_act", "block2/mlp_act"],
        )  # fmt: skip
        assert network.note.startswith("A ViT of M2D's architecture trained with labels; its head is left out.")
        check_network(network, "m2d")
        for made in (reference, network):
            handle = made.module.get_submodule("blocks.1.mlp.act").register_forward_hook(lambda *v, made=made: caught.update({made: v[2]}))
            tokens = made.forward(inputs)
            handle.remove()
            caught[made] = caught[made], tokens
        assert torch.equal(caught[network][0], caught[reference][0])
        plain_norm = functional.layer_norm(caught[network][1], (32,), tensors["norm.weight"], tensors["norm.bias"], 1e-6)
        torch.testing.assert_close(plain_norm if name == "pooled.pth" else caught[network][1], caught[reference][1])
    assert load_m2d(tmp_path / "timm.pth", size=SMALL).checkpoint_sha256 == reference.checkpoint_sha256
    assert load_m2d(tmp_path / "timm.pth", size=SMALL, padding="attended").name == "m2d-supervised-attended"
    for name, content, message in [
        ("distilled", tensors | head | {"dist_token": torch.zeros(1, 1, 32)}, "1 unexpected, first dist_token"),
        ("scaled", tensors | head | {"blocks.0.ls1.gamma": torch.ones(32)}, "1 unexpected, first blocks.0.ls1.gamma"),
        ("bare", {name: value for name, value in (tensors | head).items() if not name.startswith("norm.")}, "2 missing, first norm.bias"),
        ("color", tensors | head | {"patch_embed.proj.weight": torch.zeros(32, 3, 16, 16)}, "[32, 3, 16, 16] instead of [32, 1, 16, 16]"),
    ]:
        torch.save(content, tmp_path / f"{name}.pth")
        assert message in refusal(tmp_path / f"{name}.pth")


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_what_does_not_fit_is_refused(weights, tensors, tmp_path):
    path = tmp_path / "m2d.pth"
    for content, message in [
        ({name: value for name, value in tensors.items() if name != "norm.bias"}, "1 missing, first norm.bias"),
        ({name: value for name, value in tensors.items() if name != "pos_embed"}, "1 missing, first pos_embed"),
        (tensors | {"blocks.2.norm1.weight": torch.ones(32)}, "1 unexpected, first blocks.2.norm1.weight"),
        (tensors | {"pos_embed": torch.zeros(1, 190, 32)}, "first pos_embed [1, 190, 32] instead of [1, 191, 32]"),
        (tensors | {"patch_embed.proj.weight": torch.zeros(32, 1, 16, 4)}, "[32, 1, 16, 4] instead of [32, 1, 16, 16]"),
        (tensors | {"norm_stats": torch.tensor([-7.1, 0.0])}, "broken norm_stats"),
        ({"model": tensors, "args": Attack(tmp_path / "ran")}, "is refused"),
    ]:
        torch.save(content, path)
        assert message in refusal(path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(weights.read_bytes()[:-100])
    assert str(path) in refusal(path)
    assert "missing, first blocks.10.attn.proj.bias" in refusal(weights, size=None)  # ViT-B has twelve blocks
    assert "github.com/nttcslab/m2d/releases" in refusal()
    assert "at least 0.16 s" in refusal(weights, 0.1)
    assert "masked, attended" in refusal(weights, padding="none")
    high = tmp_path / "m2d_clap_vit_base-80x608p16x16p32k-240413" / "checkpoint.pth"
    high.parent.mkdir()
    torch.save(tensors, high)
    assert "32 kHz" in refusal(high)


def test_another_length_of_windows_shows_in_the_position_embedding(tmp_path):
    torch.save(weights_of(grid_times=62), tmp_path / "long.pth")
    network = load_m2d(tmp_path / "long.pth", 12.0, size=SMALL)
    assert (network.windows, network.window_s, m2d.PATCH_S) == (2, pytest.approx(9.92), 0.16)
