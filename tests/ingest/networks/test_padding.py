"""Clips shorter than, equal to and longer than a network's: the values are those of its published preparation and forward pass on the sound
alone, and means over time are over the steps that the sound alone has. docs/networks.md has the differences found."""

import numpy as np
import soundfile
import torch
import transformers

from ingest.networks import passes
from ingest.networks.registry import load_network
from ingest.stages.recording import Recorder
from tests.ingest.networks.test_transformer import AST, LABELS, WHISPER

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
