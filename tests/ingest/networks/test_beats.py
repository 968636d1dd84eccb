"""BEATs with random weights in the published format: against values that the published program puts out, and what is refused."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from ingest.networks.beats import Beats, Config, filter_bank, load_beats
from ingest.networks.registry import check_network
from warehouse.store import UserError

# The published settings, but for the sizes; those that shape nothing are in published files, too.
PUBLISHED = {
    "input_patch_size": 16, "activation_fn": "gelu", "layer_norm_first": False, "deep_norm": True, "relative_position_embedding": True,
    "gru_rel_pos": True, "conv_bias": False, "finetuned_model": True, "dropout": 0.0, "layer_wise_gradient_decay_ratio": 0.6,
}  # fmt: skip
BASE = PUBLISHED | {"max_distance": 800, "predictor_class": 50}
SMALL = PUBLISHED | {
    "embed_dim": 24, "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4, "conv_pos": 8,
    "conv_pos_groups": 4, "num_buckets": 32, "max_distance": 60, "predictor_class": 5,
}  # fmt: skip
TABLE = "self_attn.relative_attention_bias.weight"


def published_shapes(cfg):
    """Names and shapes of a published state dict."""
    with torch.device("meta"):
        module = Beats(Config(**{name: value for name, value in cfg.items() if name in Config.__dataclass_fields__}))
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    shape = shapes.pop("encoder.pos_conv.0.weight")
    return shapes | {"encoder.pos_conv.0.weight_g": (1, 1, shape[2]), "encoder.pos_conv.0.weight_v": shape}


def small_tensors():
    rng = np.random.default_rng(0)
    shapes = published_shapes(SMALL)
    tensors = {name: torch.from_numpy(rng.normal(0.5 if "norm" in name else 0, 0.3, shapes[name])).float() for name in sorted(shapes)}
    return tensors | {f"encoder.layers.1.{TABLE}": tensors[f"encoder.layers.0.{TABLE}"]}


def save(path, tensors, cfg=SMALL, **more):
    torch.save({"cfg": cfg, "model": tensors, **more}, path)
    return path


EXPECTED = {
    "block1/fc1": [0.36124074, 0.58697474, 0.97569925],
    "block2/fc2": [0.34424037, -2.58296609, -0.45435929],
    "logits": [
        [1.16124582, 1.63918436, 0.86726612, -0.63769060, 1.18921769],
        [1.19721854, 1.62275839, 0.82698298, -0.57356405, 1.17651331],
    ],
}


def keep(seen, name, _module, _inputs, output):
    seen[name] = output


def small_frames():
    return torch.from_numpy(np.random.default_rng(1).standard_normal((2, 200, 128))).float()


def test_values_are_those_of_the_published_program(tmp_path):
    """Expected: microsoft/unilm, beats/BEATs.py with these weights on these frames (logits before the sigmoid), 200 frames = 96 tokens, more
    than the 60 that the table of position biases tells apart."""
    tensors = small_tensors()
    renamed = {
        name.replace("0.weight_g", "0.parametrizations.weight.original0").replace(
            "0.weight_v", "0.parametrizations.weight.original1"
        ): tensor
        for name, tensor in tensors.items()
    }
    for content in (tensors, renamed):
        network = load_beats(save(tmp_path / "beats.pt", content), clip_s=2.1)
        seen: dict[str, torch.Tensor] = {}
        for layer in network.layers:
            network.module.get_submodule(layer.module).register_forward_hook(partial(keep, seen, layer.name))
        logits = network.forward(small_frames())
        assert [layer.name for layer in network.layers] == ["block1/fc1", "block1/fc2", "block2/fc1", "block2/fc2", "classifier"]
        torch.testing.assert_close(seen["block1/fc1"][1, 95, :3], torch.tensor(EXPECTED["block1/fc1"]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen["block2/fc2"][0, 3, -3:], torch.tensor(EXPECTED["block2/fc2"]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, torch.tensor(EXPECTED["logits"]), rtol=1e-4, atol=1e-5)
        assert torch.equal(seen["classifier"], logits)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")  # as Kaldi's 128 bands at 16 kHz do
def test_the_filter_bank_is_kaldi_s():
    """Against transformers' own, which its Speech2Text and AST extractors use; loud, quiet, with an offset, and digital silence."""
    rng = np.random.default_rng(0)
    sounds = rng.standard_normal((3, 4000)) * [[0.2], [1e-4], [0.0]] + [[0.1], [0.0], [0.0]]
    filters = mel_filter_bank(
        257, 128, min_frequency=20, max_frequency=8000, sampling_rate=16000, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    found = filter_bank(torch.from_numpy(sounds).float())
    assert found.shape == (3, 1 + (4000 - 400) // 160, 128)
    for sound, frames in zip(sounds, found, strict=True):
        log_mel = spectrogram(
            sound.astype(np.float32) * 2**15, window_function(400, "povey", periodic=False), frame_length=400, hop_length=160,
            fft_length=512, power=2.0, center=False, preemphasis=0.97, mel_filters=filters, log_mel="log", mel_floor=2.0**-23,
            remove_dc_offset=True,
        )  # fmt: skip
        expected = torch.from_numpy((log_mel.T - 15.41663) / (2 * 6.55582)).float()
        torch.testing.assert_close(frames, expected, rtol=0, atol=2e-4)


def test_the_published_size_has_the_neurons_of_the_paper(tmp_path):
    """AND (2024), section 4.1: fc1 and fc2 of 12 blocks, 46,080, and the 50 classes of ESC-50; 5 s are 31 x 8 patches."""
    tensors = {name: torch.full((), 0.01).expand(shape) for name, shape in published_shapes(BASE).items()}
    network = load_beats(save(tmp_path / "beats.pt", tensors, BASE))
    assert (network.clip_s, network.sample_rate_hz, len(network.layers)) == (5.0, 16000, 25)
    assert sum(layer.neurons for layer in network.layers[:-1]) == 46_080
    assert sum(layer.neurons for layer in network.layers) == 46_130
    assert [layer.shape for layer in network.layers[:2]] == [(248, 3072), (248, 768)]
    assert network.layers[0].time_steps == 31
    assert network.window_s == pytest.approx(4.96)


def test_tokens_see_the_frames_of_their_time(tmp_path):
    """A change at one frame reaches exactly the eight patches that lie at its time."""
    network = load_beats(save(tmp_path / "beats.pt", small_tensors(), label_dict={index: f"/m/{index}" for index in range(5)}), clip_s=1.0)
    assert network.output_names == ["/m/0", "/m/1", "/m/2", "/m/3", "/m/4"]
    times = network.layers[0].token_times
    assert len(times) == network.layers[0].shape[0] == 6 * 8
    silent = torch.zeros(1, 98, 128)
    for frame in (0, 15, 16, 95, 97):
        struck = silent.clone()
        struck[0, frame] = 1.0
        embed = network.module.patch_embedding
        changed = (embed(struck[:, None]) - embed(silent[:, None])).flatten(2).abs().amax(dim=(0, 1)) > 0
        assert changed.tolist() == [time == frame // 16 for time in times]
    assert network.prepare(torch.zeros(1, 16000)).shape == silent.shape


def test_without_a_predictor_tokens_come_out(tmp_path):
    tensors = {name: tensor for name, tensor in small_tensors().items() if not name.startswith("predictor.")}
    network = load_beats(save(tmp_path / "beats.pt", tensors, SMALL | {"finetuned_model": False}), clip_s=1.0)
    assert network.output_names is None
    assert [layer.name for layer in network.layers][-1] == "block2/fc2"
    inputs = network.prepare(torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)))
    tokens = network.forward(inputs)
    assert tokens.shape == (3, 48, 32)
    check_network(network, "beats")
    zeros = torch.zeros(3, *network.layers[1].shape)
    assert not torch.equal(network.tail(network.layers[1], zeros, inputs), tokens)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_files_that_do_not_fit_are_refused(tmp_path):
    path, whole = tmp_path / "beats.pt", small_tensors()
    name, first = "encoder.layers.1.fc1.bias", f"encoder.layers.0.{TABLE}"
    less = {key: value for key, value in whole.items() if key != name}
    for tensors, cfg, message in [
        (less, SMALL, f"1 missing, first {name}"),
        (whole | {"head.bias": torch.zeros(2)}, SMALL, "1 unexpected, first head.bias"),
        (whole | {name: torch.zeros(7)}, SMALL, f"1 of the wrong shape, first {name} [7] instead of [48]"),
        (whole | {first: torch.zeros(32, 4)}, SMALL, "must share one"),
        (whole | {"encoder.pos_conv.0.weight_g": torch.zeros(3)}, SMALL, "weight_g is [3]"),
        ({key: value for key, value in whole.items() if "weight_g" not in key}, SMALL, "missing, first encoder.pos_conv.0.weight"),
        (whole, SMALL | {"encoder_layers": 10**5}, "2 blocks instead of 100000"),
        (whole, SMALL | {"conv_pos": 10**15}, "conv_pos = '1000000000000000'"),
        (whole, SMALL | {"layer_norm_first": True}, "layer_norm_first = True"),
        (whole, SMALL | {"activation_fn": "glu"}, "activation_fn = 'glu'"),
        (whole, SMALL | {"encoder_embed_dim": "32"}, "encoder_embed_dim = '32'"),
        (whole, SMALL | {"encoder_attention_heads": 5}, "do not go together"),
        (whole, {}, "lacks input_patch_size"),
        (whole, None, "does not hold cfg"),
        (Attack(tmp_path / "ran"), SMALL, "is refused"),
    ]:
        with pytest.raises(UserError) as caught:
            load_beats(save(path, tensors, cfg))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    content = save(path, whole).read_bytes()
    for size in (0, 100, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"is not a whole|is refused"):
            load_beats(path)
    save(path, whole)
    for clip_s in (0.17, float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"at least 0\.175 s"):
            load_beats(path, clip_s)
    with pytest.raises(UserError, match="no checkpoint at"):
        load_beats(tmp_path / "nothing.pt")
