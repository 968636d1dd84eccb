"""Clips shorter than, equal to and longer than a network's: the values are those of its published preparation and forward pass on the sound
alone, and means over time are over the steps that the sound alone has. docs/networks.md has the differences found."""

import numpy as np
import pytest
import soundfile
import torch
import transformers

from ingest.networks import passes
from ingest.networks.registry import load_network
from ingest.stages.recording import Recorder
from tests.ingest.networks.test_transformer import AST, LABELS, SPEECH, WHISPER

CLIP_S = 1.0
SECONDS = (0.31, 0.62, 1.0, 1.5)


def write_sounds(folder, rate=16000, seconds=SECONDS):
    """Noise that swells, one file for each length; returns paths by name, and of each sound the middle second at the most [samples]."""
    rng = np.random.default_rng(0)
    paths, sounds = {}, {}
    for index, length in enumerate(seconds):
        samples = round(length * rate)
        sound = (0.1 * rng.standard_normal(samples) * (1.2 + np.sin(np.arange(samples) / rate * 9 * (index + 1)))).astype(np.float32)
        path = folder / f"{length}.wav"
        soundfile.write(path, sound, rate, subtype="FLOAT")
        start = max(0, (samples - round(CLIP_S * rate)) // 2)
        paths[path.name], sounds[path.name] = path, sound[start : start + round(CLIP_S * rate)]
    return paths, sounds


def recorded(network, paths):
    """Per layer the means over time [clips, neurons], and the network's outputs, of all clips in one batch."""
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
