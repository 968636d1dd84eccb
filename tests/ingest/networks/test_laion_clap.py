"""LAION's CLAP from a folder as transformers saves it, tiny and of random weights, against transformers' own processor and model."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizerFast

from ingest.methods.readouts import ZeroShot
from ingest.networks.audio_text import audio_embeddings, text_embeddings
from ingest.networks.passes import prepared, stack
from ingest.networks.registry import load_network
from ingest.stages.extraction.recording import Recorder
from warehouse.store import UserError

RATE = 48000
PROMPTS = ["a dog", "this is a sound of rain", "keyboard typing, fast"]


def write_laion_clap(folder, *, fusion=False):
    """A ClapModel of two stages with its extractor and tokeniser, as `save_pretrained` writes laion/clap-htsat-unfused."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {word: index for index, word in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    text = RobertaTokenizerFast(tokenizer_object=tokenizer)
    torch.manual_seed(0)
    config = ClapConfig(
        text_config={"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
                     "projection_dim": 12, "pad_token_id": 1},
        audio_config={"depths": [2, 1, 1, 1], "num_attention_heads": [2, 2, 2, 2], "patch_embeds_hidden_size": 16, "hidden_size": 128,
                      "projection_dim": 12, "enable_fusion": fusion},
        projection_dim=12,
    )  # fmt: skip
    model = ClapModel(config)
    with torch.no_grad():  # initial weights are so small that everything would sound alike
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    ClapProcessor(ClapFeatureExtractor(truncation="fusion" if fusion else "rand_trunc"), text).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_laion_clap(tmp_path_factory.mktemp("laion") / "clap")


@pytest.fixture(scope="module")
def network(folder):
    return load_network("laion-clap", weights=folder)


@pytest.fixture(scope="module")
def sounds():
    """Sounds [samples] of 5, 3.4 and 10 s."""
    rng = np.random.default_rng(0)
    found = []
    for seconds, pitch in ((5.0, 300), (3.4, 2000), (10.0, 0)):
        time = np.arange(round(seconds * RATE)) / RATE
        found.append((0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time))).astype(np.float32))
    return found


def padded(sounds):
    return stack([(np.pad(sound, (0, 10 * RATE - len(sound))), len(sound) / RATE) for sound in sounds])


@pytest.fixture(scope="module")
def expected(folder, sounds):
    """What transformers' own processor and model make of the sounds and prompts."""
    processor, model = ClapProcessor.from_pretrained(folder), ClapModel.from_pretrained(folder).eval()
    inputs = processor(audio=sounds, sampling_rate=RATE, return_tensors="pt")  # padding=True would be taken for that of sounds
    inputs |= processor.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return inputs, model(**inputs)


def test_inputs_and_embeddings_are_those_of_transformers(network, sounds, expected):
    inputs, outputs = expected
    features = prepared(network, padded(sounds))
    assert features.shape == (3, 1, 1001, 64)
    torch.testing.assert_close(features, inputs["input_features"].float(), rtol=0, atol=1e-4)  # of decibels
    torch.testing.assert_close(network.forward(features), outputs.audio_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(network.text_embeddings(PROMPTS), outputs.text_embeds, rtol=0, atol=1e-5)
    assert float(outputs.audio_embeds.std(dim=0).max()) > 1e-3
    # A clip's values do not depend on those beside it.
    torch.testing.assert_close(network.forward(features[1:2]), outputs.audio_embeds[1:2], rtol=0, atol=1e-5)


def test_zero_shot_is_the_model_s_highest_logit(network, sounds, expected, tmp_path):
    import soundfile

    paths = {}
    for index, sound in enumerate(sounds):
        paths[f"{index}.wav"] = tmp_path / f"{index}.wav"
        soundfile.write(paths[f"{index}.wav"], sound, RATE, subtype="FLOAT")
    heard, read = audio_embeddings(network, list(paths), paths), text_embeddings(network, PROMPTS)
    assert ZeroShot(read)(heard).tolist() == expected[1].logits_per_audio.argmax(dim=1).tolist()
    np.testing.assert_allclose(heard, expected[1].audio_embeds.numpy(), atol=1e-4)


def test_layers_are_the_blocks_mlps_and_the_normalised_tokens(network, sounds):
    assert [layer.name for layer in network.layers] == [f"block{n}/{part}" for n in range(1, 6) for part in ("mlp_act", "mlp_out")] + [
        "output"
    ]
    assert [layer.shape for layer in network.layers][:2] == [(4096, 64), (4096, 16)]
    assert network.layers[-1].shape == (64, 128)
    assert max(network.layers[-1].token_times) == 31  # 64 tokens: 2 bands x 32 steps of 10 s
    batch = padded(sounds)
    recorder = Recorder(network, network.layers)
    recorder.valid_s = batch[1]
    with recorder, torch.inference_mode():
        features = network.prepare_padded(*batch)
        network.forward(features)
        model = network.module.audio_model.audio_encoder
        seen = []
        handle = model.norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        recorder.batch.clear()
        network.forward(features)
        handle.remove()
    of_output = recorder.batch["output"].reductions["mean"]
    torch.testing.assert_close(of_output[2], seen[0][2].mean(dim=0), rtol=1e-4, atol=1e-5)
    # 3.4 s fit twice into 10 s: 6.8 s hold the sound, 22 of 32 steps.
    steps = torch.tensor(network.layers[-1].token_times) < 22
    torch.testing.assert_close(of_output[1], seen[0][1][steps].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_loaded_is_refused_in_a_line(folder, tmp_path, network):
    with pytest.raises(UserError, match=r"laion-clap: .*nothing is no folder"):
        load_network("laion-clap", weights=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded as a ClapModel"):
        load_network("laion-clap", weights=tmp_path / "empty")
    with pytest.raises(UserError, match="fuses crops"):
        load_network("laion-clap", weights=write_laion_clap(tmp_path / "fused", fusion=True))
    with pytest.raises(UserError, match="cannot take clips of 5 s"):
        load_network("laion-clap", weights=folder, clip_s=5.0)
    with pytest.raises(UserError, match="reads at most 77 tokens, this prompt has 102"):
        network.text_embeddings(["a", "b" * 100])
    config = (folder / "config.json").read_text()
    other = tmp_path / "other"
    write_laion_clap(other)
    (other / "config.json").write_text(config.replace('"intermediate_size": 32', '"intermediate_size": 48'))
    with pytest.raises(UserError, match=r"does not fit the network that its config\.json describes"):
        load_network("laion-clap", weights=other)
