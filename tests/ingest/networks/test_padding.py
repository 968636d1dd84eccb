"""Clips shorter than, equal to and longer than a network's: the values are those of its published preparation and forward pass on the sound
alone, and means over time are over the steps that the sound alone has. docs/networks.md has the differences found."""

import copy
from dataclasses import replace

import duckdb
import numpy as np
import pytest
import soundfile
import torch
import transformers

from ingest.methods import interventions
from ingest.networks import passes, yamnet
from ingest.networks.beats import filter_bank, load_beats, position_buckets
from ingest.networks.m2d import load_m2d
from ingest.networks.registry import check_network, load_network
from ingest.stages.activations import Settings
from ingest.stages.extraction.recording import Recorder
from tests.ingest.networks.test_beats import SMALL as SMALL_BEATS
from tests.ingest.networks.test_beats import save, small_tensors
from tests.ingest.networks.test_m2d import SMALL as SMALL_M2D
from tests.ingest.networks.test_m2d import STATS, plain_clip, weights_of
from tests.ingest.networks.test_transformer import AST, LABELS, SPEECH, WHISPER
from tests.ingest.stages.test_activations import ingest
from warehouse.store import UserError

pytestmark = pytest.mark.slow

CLIP_S = 1.0
SECONDS = (0.31, 0.62, 1.0, 1.5)


def write_sounds(folder, rate=16000, seconds=SECONDS, clip_s=CLIP_S):
    """Noise that swells, one file for each length; returns paths by name, and of each sound the middle `clip_s` at the most [samples]."""
    rng = np.random.default_rng(0)
    paths, sounds = {}, {}
    for index, length in enumerate(seconds):
        samples = round(length * rate)
        sound = (0.1 * rng.standard_normal(samples) * (1.2 + np.sin(np.arange(samples) / rate * 9 * (index + 1)))).astype(np.float32)
        path = folder / f"{length}.wav"
        soundfile.write(path, sound, rate, subtype="FLOAT")
        start = max(0, (samples - round(clip_s * rate)) // 2)
        paths[path.name], sounds[path.name] = path, sound[start : start + round(clip_s * rate)]
    return paths, sounds


def recorded(network, paths):
    """Per layer the means over time [clips, neurons], and the network's outputs, of all clips in one batch."""
    check_network(network, network.name)
    recorder = Recorder(network, network.layers)
    [sounds] = passes.read_waveforms(network, list(paths), paths)
    with torch.inference_mode(), recorder:
        recorder.valid_s = sounds[1]
        outputs = network.forward(passes.prepared(network, sounds))
    return {layer.name: recorder.batch[layer.name].reductions["mean"] for layer in network.layers}, outputs


def speech(kind, norm):
    """A model of the wav2vec2 kind that puts out logits, and its extractor, as their publishers set them for this normalisation."""
    torch.manual_seed(0)
    options = {**SPEECH, **LABELS, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer", "conv_bias": norm == "layer"}
    model = {
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2ForSequenceClassification),
        "hubert": (transformers.HubertConfig, transformers.HubertForSequenceClassification),
        "wavlm": (transformers.WavLMConfig, transformers.WavLMForSequenceClassification),
        "unispeech-sat": (transformers.UniSpeechSatConfig, transformers.UniSpeechSatForSequenceClassification),
    }[kind]
    return model[1](model[0](**options)), transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")


def ast():
    torch.manual_seed(0)
    return (
        transformers.ASTForAudioClassification(transformers.ASTConfig(**AST, **LABELS)),
        transformers.ASTFeatureExtractor(max_length=128, num_mel_bins=64),
    )


def whisper():
    torch.manual_seed(0)
    return transformers.WhisperForAudioClassification(
        transformers.WhisperConfig(**WHISPER, **LABELS)
    ), transformers.WhisperFeatureExtractor()


def saved(folder, model, extractor):
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model.eval()


def alone(model, extractor, layers, sound):
    """Outputs of the layers' modules and logits of transformers' own program on one sound."""
    found, handles = {}, []
    for layer in layers:
        part = model.get_submodule(layer.module.removeprefix("model."))
        handles.append(part.register_forward_hook(lambda _module, _given, result, name=layer.name: found.__setitem__(name, result[0])))
    with torch.inference_mode():
        logits = model(**extractor(sound, sampling_rate=16000, return_tensors="pt")).logits[0]
    for handle in handles:
        handle.remove()
    return found, logits


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "unispeech-sat"])
def test_speech_models_hear_a_short_clip_as_if_alone(tmp_path, kind, norm):
    model, extractor = speech(kind, norm)
    model = saved(tmp_path / "net", model, extractor)
    network = load_network(str(tmp_path / "net"), clip_s=CLIP_S)
    assert network.padding.name == "masked"
    paths, sounds = write_sounds(tmp_path)
    means, outputs = recorded(network, paths)
    for row, sound in enumerate(sounds.values()):
        layers, logits = alone(model, extractor, network.layers, sound)
        torch.testing.assert_close(outputs[row], logits, rtol=0, atol=2e-6)
        for layer in network.layers[:-1]:
            torch.testing.assert_close(means[layer.name][row], layers[layer.name].mean(dim=0), rtol=0, atol=1e-5)


def other_speech(kind):
    """As `speech`, of families whose padding Auricle does not know."""
    torch.manual_seed(0)
    options, name = (
        {**SPEECH, **LABELS},
        {"sew": "SEW", "data2vec": "Data2VecAudio", "conformer": "Wav2Vec2Conformer", "bert": "Wav2Vec2Bert"}[kind],
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    if kind == "bert":
        options = {key: value for key, value in options.items() if not key.startswith(("conv_", "num_conv"))} | {
            "feature_projection_input_dim": 160
        }
        extractor = transformers.SeamlessM4TFeatureExtractor()
    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}ForSequenceClassification")(config), extractor


@pytest.mark.parametrize(
    ("kind", "padding"),
    [("bert", "masked, as alone"), ("sew", "whole clips only"), ("data2vec", "whole clips only"), ("conformer", "whole clips only")],
)
def test_short_clips_of_other_speech_models_have_the_values_of_the_clip_alone_or_none(tmp_path, kind, padding):
    model, extractor = other_speech(kind)
    model = saved(tmp_path / "net", model, extractor)
    network = load_network(str(tmp_path / "net"), clip_s=CLIP_S)
    assert network.padding.name == padding
    paths, sounds = write_sounds(tmp_path)
    means, outputs = recorded(network, paths)
    for row, sound in enumerate(sounds.values()):
        if len(sound) < network.padding.shortest:
            assert outputs[row].isnan().all()
            continue
        layers, logits = alone(model, extractor, network.layers, sound)
        torch.testing.assert_close(outputs[row], logits, rtol=0, atol=2e-6)
        for layer in network.layers[:-1]:
            steps = int(network.padding.steps(layer, torch.tensor([len(sound)])))
            torch.testing.assert_close(means[layer.name][row], layers[layer.name][:steps].mean(dim=0), rtol=0, atol=1e-5)


def test_a_checkpoint_whose_values_depend_on_the_batch_is_refused(tmp_path, monkeypatch):
    saved(tmp_path / "net", *ast())
    plain = transformers.ASTForAudioClassification.forward

    def among_others(self, *arguments, **options):
        found = plain(self, *arguments, **options)
        return replace(found, logits=found.logits - found.logits.mean(dim=0))

    monkeypatch.setattr(transformers.ASTForAudioClassification, "forward", among_others)
    (tmp_path / "sounds").mkdir()
    write_sounds(tmp_path / "sounds")
    with pytest.raises(UserError, match="net: the output has other values for the same clip when it is run with another"):
        ingest(tmp_path / "w.duckdb", tmp_path / "sounds", network=load_network(str(tmp_path / "net")))
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        assert con.execute("SELECT stage FROM run").fetchall() == [("clips",)]


def test_a_speech_encoder_puts_out_nothing_where_there_is_no_sound(tmp_path):
    torch.manual_seed(0)
    config = transformers.HubertConfig(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    model = saved(tmp_path / "net", transformers.HubertModel(config), extractor)
    network = load_network(str(tmp_path / "net"), clip_s=CLIP_S)
    paths, sounds = write_sounds(tmp_path)
    _, outputs = recorded(network, paths)
    for row, sound in enumerate(sounds.values()):
        with torch.inference_mode():
            wanted = model(**extractor(sound, sampling_rate=16000, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(outputs[row, : len(wanted)], wanted, rtol=0, atol=1e-5)
        assert outputs[row, len(wanted) :].isnan().all()


def test_sound_too_short_for_a_network_has_no_value(tmp_path):
    saved(tmp_path / "net", *speech("wav2vec2", "layer"))
    network = load_network(str(tmp_path / "net"), clip_s=CLIP_S)
    shortest = network.padding.shortest
    # Kernels of 10, 8 and 8 samples at strides of 5, 8 and 8.
    assert shortest == 10 + 5 * (7 + 8 * 7)
    paths, _ = write_sounds(tmp_path, seconds=(1.0, shortest / 16000, (shortest - 1) / 16000))
    means, outputs = recorded(network, paths)
    for found in (*means.values(), outputs):
        assert found[:2].isfinite().all()
        assert found[2].isnan().all()


def test_ast_is_padded_behind_its_filter_bank(tmp_path):
    model, extractor = ast()
    model = saved(tmp_path / "net", model, extractor)
    network = load_network(str(tmp_path / "net"), clip_s=CLIP_S)
    assert (network.padding.name, network.padding.shortest) == ("after the filter bank", 400)
    paths, sounds = write_sounds(tmp_path)
    means, outputs = recorded(network, paths)
    for row, sound in enumerate(sounds.values()):
        layers, logits = alone(model, extractor, network.layers, sound)
        torch.testing.assert_close(outputs[row], logits, rtol=0, atol=2e-6)
        frames = 1 + (len(sound) - 400) // 160
        grid = {name: values[2:].unflatten(0, (-1, 12)) for name, values in layers.items() if values.dim() == 2}  # 5 bands x 12 times
        assert len(grid) == 6
        for name, values in grid.items():  # patches begin every 10 frames
            torch.testing.assert_close(means[name][row], values[:, : -(-frames // 10)].mean(dim=(0, 1)), rtol=0, atol=1e-5)


def test_what_is_stored_of_a_short_clip_is_what_transformers_gives(tmp_path):
    model, extractor = ast()
    model = saved(tmp_path / "net", model, extractor)
    (tmp_path / "sounds").mkdir()
    _, sounds = write_sounds(tmp_path / "sounds", clip_s=1.28)
    network = load_network(str(tmp_path / "net"))
    run = ingest(tmp_path / "w.duckdb", tmp_path / "sounds", Settings(dtype="float32"), network=network).run
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        query = """SELECT path FROM activation_file JOIN layer USING (layer_id)
            WHERE run_id = ? AND name = 'classifier' AND reduction = 'mean'"""
        [(path,)] = con.execute(query, [run.run_id]).fetchall()
    stored = np.load(tmp_path / path)
    for column, sound in enumerate(sounds.values()):
        np.testing.assert_allclose(stored[:, column], alone(model, extractor, (), sound)[1], rtol=0, atol=2e-6)


def test_whisper_is_padded_with_silence_and_counts_its_own_steps(tmp_path):
    model, extractor = whisper()
    model = saved(tmp_path / "net", model, extractor)
    network = load_network(str(tmp_path / "net"), clip_s=CLIP_S)
    assert network.padding is None
    paths, sounds = write_sounds(tmp_path)
    means, outputs = recorded(network, paths)
    for row, sound in enumerate(sounds.values()):
        layers, logits = alone(model, extractor, network.layers, sound)
        torch.testing.assert_close(outputs[row], logits, rtol=0, atol=1e-5)
        for layer in network.layers[:-1]:  # 50 tokens a second
            counted = layers[layer.name][: -(-len(sound) // 320)]
            torch.testing.assert_close(means[layer.name][row], counted.mean(dim=0), rtol=0, atol=2e-5)


def patchwise(network, sounds):
    """Per layer the mean over the patches that the sound alone has, one sound after the other."""
    found = {layer.name: [] for layer in network.layers}
    for sound in sounds:
        recorder = Recorder(network, network.layers)
        recorder.network = plain = copy.copy(network)
        recorder.valid_s, plain.padding, plain.windows = None, None, yamnet.window_count(len(sound))
        recorder._courses = {}
        with torch.inference_mode(), recorder:
            plain.forward(yamnet.patches(torch.from_numpy(sound)[None]))
        for layer in network.layers:
            found[layer.name].append(recorder.batch[layer.name].reductions["mean"][0])
    return {name: torch.stack(rows) for name, rows in found.items()}


@pytest.fixture(scope="module")
def random_yamnet():
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in yamnet.expected_shapes().items():
        values = torch.randn(shape, generator=generator)
        tensors[name] = values.abs() + 0.5 if name.endswith("variance") else values / max(1, values[0].numel()) ** 0.5
    return yamnet.Yamnet(tensors, None, 3.0)


def test_yamnet_counts_the_patches_of_the_sound_alone(random_yamnet, tmp_path):
    paths, sounds = write_sounds(tmp_path, seconds=(0.3, 0.975, 0.98, 1.455, 1.46, 2.0, 3.0, 4.0), clip_s=3.0)
    network = random_yamnet
    means, outputs = recorded(network, paths)
    for name, rows in patchwise(network, sounds.values()).items():
        for row, wanted in enumerate(rows):
            torch.testing.assert_close(means[name][row], wanted, rtol=1e-4, atol=1e-5)
    windows = (~outputs[:, 0].isnan()).view(len(sounds), -1).sum(dim=1).tolist()
    # Patches of 0.975 s (96 frames of 25 ms every 10 ms) every 0.48 s, the last filled up.
    assert windows == [1, 1, 2, 2, 3, 4, 6, 6]
    assert network.mean_over_windows(outputs).isfinite().all()


def test_the_same_beeps_short_and_long_have_one_mean(random_yamnet, tmp_path):
    """However much silence follows, a clip's mean, highest tag and class scores are those of its own patches."""
    [(name, path)] = write_sounds(tmp_path, seconds=(0.9,))[0].items()
    long = yamnet.Yamnet.__new__(yamnet.Yamnet)
    long.__dict__.update(random_yamnet.__dict__)
    long.clip_s, long.windows = 9.0, yamnet.window_count(9 * 16000)
    (short, one), (longer, other) = recorded(random_yamnet, {name: path}), recorded(long, {name: path})
    assert (len(one), len(other)) == (6, 18)
    for layer in random_yamnet.layers:
        torch.testing.assert_close(short[layer.name], longer[layer.name])
    torch.testing.assert_close(random_yamnet.mean_over_windows(one), long.mean_over_windows(other))


def test_disturbed_windows_come_from_windows_of_sound(random_yamnet, tmp_path):
    paths, _ = write_sounds(tmp_path, seconds=(0.5, 3.0), clip_s=3.0)
    inputs = passes.prepare_clips(random_yamnet, passes.read_waveforms(random_yamnet, list(paths), paths), 2)
    layer = random_yamnet.layers[-3]
    [cache] = interventions.cache_layers(random_yamnet, [layer], [inputs], 2)
    outputs = random_yamnet.mean_over_windows(random_yamnet.forward(inputs)).numpy()
    np.testing.assert_allclose(interventions.run_changed(cache, np.zeros(0, dtype=np.int64), None), outputs, atol=1e-6)
    # All of a layer from the other clip, which has one window of sound and six: the same one six times, and the first of six.
    every = interventions.channel_positions(layer, np.arange(layer.neurons))
    changed = interventions.run_changed(cache, every, np.array([1, 0]))
    np.testing.assert_allclose(changed[1], outputs[0], atol=1e-6)
    np.testing.assert_allclose(changed[0], random_yamnet.forward(inputs)[6].numpy(), atol=1e-6)
    assert np.isfinite(interventions.run_changed(cache, every, None)).all()


def plain_beats(tensors, cfg, frames):
    """Microsoft's BEATs on one sound's normalised filter bank [frames, 128], in double precision: logits, and fc1 of the first block."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    functional = torch.nn.functional

    def linear(values, name):
        return values @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(values, name):
        return functional.layer_norm(values, values.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    patches = functional.conv2d(frames.double()[None, None], w["patch_embedding.weight"], stride=16)
    x = linear(norm(patches.flatten(2).transpose(1, 2), "layer_norm"), "post_extract_proj")[0]
    length, direction = w["encoder.pos_conv.0.weight_g"], w["encoder.pos_conv.0.weight_v"]
    kernel = length * direction / direction.norm(dim=(0, 1), keepdim=True)
    groups, half = cfg["conv_pos_groups"], cfg["conv_pos"] // 2
    places = functional.conv1d(x.T[None], kernel, w["encoder.pos_conv.0.bias"], padding=half, groups=groups)[0, :, : len(x)].T
    x = norm(x + functional.gelu(places), "encoder.layer_norm")
    buckets = position_buckets(len(x), cfg["num_buckets"], cfg["max_distance"])
    alpha, heads, hidden = (2 * cfg["encoder_layers"]) ** 0.25, cfg["encoder_attention_heads"], []
    for block in range(cfg["encoder_layers"]):
        at = f"encoder.layers.{block}"
        q, k, v = (linear(x, f"{at}.self_attn.{part}_proj").unflatten(1, (heads, -1)).transpose(0, 1) for part in "qkv")
        update, reset = linear(q, f"{at}.self_attn.grep_linear").unflatten(2, (2, 4)).sum(dim=3).sigmoid().split(1, dim=2)
        gate = update * (reset * w[f"{at}.self_attn.grep_a"][0] - 1) + 2
        bias = w[f"{at}.self_attn.relative_attention_bias.weight"][buckets].permute(2, 0, 1)
        mixed = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5 + gate * bias).softmax(dim=2) @ v
        x = norm(x * alpha + linear(mixed.transpose(0, 1).flatten(1), f"{at}.self_attn.out_proj"), f"{at}.self_attn_layer_norm")
        hidden.append(linear(x, f"{at}.fc1"))
        x = norm(x * alpha + linear(functional.gelu(hidden[-1]), f"{at}.fc2"), f"{at}.final_layer_norm")
    return linear(x, "predictor").mean(dim=0), hidden[0]


def test_beats_hears_a_short_clip_as_if_alone(tmp_path):
    tensors = small_tensors()
    network = load_beats(save(tmp_path / "beats.pt", tensors), clip_s=CLIP_S)
    assert network.padding.shortest == 400 + 15 * 160
    paths, sounds = write_sounds(tmp_path)
    means, outputs = recorded(network, paths)
    for row, sound in enumerate(sounds.values()):
        logits, fc1 = plain_beats(tensors, SMALL_BEATS, filter_bank(torch.from_numpy(sound)[None])[0])
        torch.testing.assert_close(outputs[row].double(), logits, rtol=0, atol=2e-5)
        torch.testing.assert_close(means["block1/fc1"][row].double(), fc1.mean(dim=0), rtol=0, atol=2e-5)


@pytest.mark.parametrize("padding", ["masked", "attended"])
def test_m2d_hears_a_short_clip_as_if_alone(tmp_path, padding):
    tensors = weights_of()
    torch.save(tensors | {"norm_stats": torch.tensor(STATS)}, tmp_path / "m2d.pth")
    for clip_s, seconds in ((2.0, (0.31, 1.3, 2.0, 3.0)), (14.0, (1.0, 7.0, 13.9, 14.0, 15.0))):
        network = load_m2d(tmp_path / "m2d.pth", clip_s, padding=padding, size=SMALL_M2D)
        paths, sounds = write_sounds(tmp_path, seconds=seconds, clip_s=clip_s)
        means, outputs = recorded(network, paths)
        valid_s = torch.tensor([len(sound) / 16000 for sound in sounds.values()])
        embeddings = network.embeddings(outputs, valid_s)
        for row, sound in enumerate(sounds.values()):
            hidden, tokens = plain_clip(tensors, torch.from_numpy(sound), padding)
            for layer, values in zip(network.layers, hidden, strict=True):
                torch.testing.assert_close(means[layer.name][row].double(), values.mean(dim=(0, 1)), rtol=0, atol=2e-5)
            torch.testing.assert_close(embeddings[row].double(), tokens.permute(1, 0, 2).flatten(1).mean(0), rtol=0, atol=1e-4)
