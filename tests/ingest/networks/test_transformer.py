"""Transformers models from folders, with random weights: layers found by structure, preparation, and what is refused."""

import json
import os
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ingest.networks.registry import load_network
from ingest.networks.transformer import build_network, trace
from ingest.networks.whisper import DIMENSIONS
from warehouse.store import UserError

pytestmark = pytest.mark.slow

SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 8, 8),
    "conv_kernel": (10, 8, 8),
    "classifier_proj_size": 24,
    "vocab_size": 30,
}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
LABELS = {"id2label": {0: "dog", 1: "rain", 2: "clock"}, "label2id": {"dog": 0, "rain": 1, "clock": 2}}
AST = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "max_length": 128, "num_mel_bins": 64}


def speech_extractor():
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=True)


def make(kind):
    """Model and feature extractor of a kind, with random weights."""
    torch.manual_seed(0)
    if kind == "ast":
        extractor = transformers.ASTFeatureExtractor(max_length=128, num_mel_bins=64)
        return transformers.ASTForAudioClassification(transformers.ASTConfig(**AST, **LABELS)), extractor
    if kind == "whisper":
        return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER)), transformers.WhisperFeatureExtractor()
    if kind == "whisper classifier":
        return transformers.WhisperForAudioClassification(
            transformers.WhisperConfig(**WHISPER, **LABELS)
        ), transformers.WhisperFeatureExtractor()
    if kind == "wav2vec2":
        return transformers.Wav2Vec2ForSequenceClassification(transformers.Wav2Vec2Config(**SPEECH, **LABELS)), speech_extractor()
    if kind == "wav2vec2 for transcription":
        return transformers.Wav2Vec2ForCTC(
            transformers.Wav2Vec2Config(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True)
        ), speech_extractor()
    if kind == "hubert":
        return transformers.HubertModel(transformers.HubertConfig(**SPEECH)), speech_extractor()
    if kind == "wavlm":
        return transformers.WavLMForSequenceClassification(transformers.WavLMConfig(**SPEECH, **LABELS)), speech_extractor()
    raise ValueError(kind)


def save(folder, kind):
    model, extractor = make(kind)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model.eval()


def refusal(spec, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_network(str(spec), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FAMILIES = [
    ("ast", "audio-spectrogram-transformer", "model.audio_spectrogram_transformer",
     ("attention.o_proj", "mlp.fc1", "mlp.fc2"), (32, 96, 32), 3),
    ("whisper", "whisper", "model.layers", ("self_attn.out_proj", "fc1", "fc2"), (32, 64, 32), None),
    ("whisper classifier", "whisper", "model.encoder.layers", ("self_attn.out_proj", "fc1", "fc2"), (32, 64, 32), 3),
    ("wav2vec2", "wav2vec2", "model.wav2vec2.encoder.layers",
     ("attention.out_proj", "feed_forward.intermediate_dense", "feed_forward.output_dense"), (32, 48, 32), 3),
    ("wav2vec2 for transcription", "wav2vec2", "model.encoder.layers",
     ("attention.out_proj", "feed_forward.intermediate_dense", "feed_forward.output_dense"), (32, 48, 32), None),
    ("hubert", "hubert", "model.encoder.layers",
     ("attention.out_proj", "feed_forward.intermediate_dense", "feed_forward.output_dense"), (32, 48, 32), None),
    ("wavlm", "wavlm", "model.wavlm.encoder.layers",
     ("dropout", "feed_forward.intermediate_dense", "feed_forward.output_dense"), (32, 48, 32), 3),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "family", "blocks", "modules", "units", "classes"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_layers_and_values_of_a_family(tmp_path, kind, family, blocks, modules, units, classes):
    model = save(tmp_path / "net", kind)
    clip_s = 1.0
    network = load_network(str(tmp_path / "net"), clip_s=clip_s)
    assert (network.name, network.family, network.sample_rate_hz, network.windows) == ("net", family, 16000, 1)
    names = [f"block{block}/{role}" for block in (1, 2) for role in ("attention", "mlp_in", "mlp_out")]
    assert [layer.name for layer in network.layers] == names + (["classifier"] if classes else [])
    for index, layer in enumerate(network.layers[:6]):
        assert layer.module.startswith(blocks)
        assert layer.module.endswith(f".{index // 3}.{modules[index % 3]}")
        assert (layer.neurons, layer.axes, layer.non_negative) == (units[index % 3], "token,unit", False)
    assert network.output_names == (["dog", "rain", "clock"] if classes else None)

    sounds = torch.randn(2, network.samples) * 0.1
    inputs = network.prepare(sounds)
    calls, result = trace(network.module, inputs)
    found = {call.path: call.result for call in calls}
    for layer in network.layers:
        assert found[layer.module].shape == (2, *layer.shape)
        torch.testing.assert_close(network.tail(layer, found[layer.module], inputs), result)
        changed = network.tail(layer, found[layer.module] + 10 * torch.randn(layer.shape), inputs)
        assert float((changed - result).abs().max()) > 1e-4
    if classes:
        torch.testing.assert_close(result, model(inputs).logits)


@pytest.mark.slow
def test_ast_base_has_the_neurons_of_the_paper():
    """AND (2024), Table 1: 55,296 in the blocks, and the 50 classes of ESC-50."""
    with torch.device("meta"):
        model = transformers.ASTForAudioClassification(transformers.ASTConfig(num_labels=50))
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    extractor = transformers.ASTFeatureExtractor()
    network = build_network(
        "ast",
        model.eval(),
        lambda sounds: extractor(list(sounds.numpy()), sampling_rate=16000, return_tensors="pt")["input_values"],
        sample_rate_hz=16000,
        clip_s=10.24,
        input_s=10.24,
        output_names=list(model.config.id2label.values()),
    )
    assert len(network.layers) == 37
    assert sum(layer.neurons for layer in network.layers[:-1]) == 55_296
    assert sum(layer.neurons for layer in network.layers) == 55_346
    assert network.layers[0].shape == (1214, 768)
    assert network.layers[0].time_steps == 101
    assert network.window_s == pytest.approx(10.1)


def test_times_of_ast_tokens_are_those_of_the_frames_they_see(tmp_path):
    """A change at one frame reaches exactly the tokens whose patch covers that frame; the first two tokens are no patches."""
    save(tmp_path, "ast")
    network = load_network(str(tmp_path))
    assert (network.clip_s, network.counts_padding) == (1.28, False)
    times = network.layers[0].token_times
    assert times[:2] == (-1, -1)
    assert network.layers[0].time_steps == 12
    assert network.window_s == pytest.approx(1.2)  # twelve tokens a tenth of a second apart
    embed = network.module.get_submodule("model.audio_spectrogram_transformer.embeddings")
    silent = torch.zeros(1, 128, 64)
    for frame in (0, 37, 64, 125):
        struck = silent.clone()
        struck[0, frame] = 1.0
        with torch.inference_mode():
            changed = (embed(struck) - embed(silent)).abs().amax(dim=(0, 2)) > 0
        covering = {index for index in range(12) if index * 10 <= frame < index * 10 + 16}
        assert [bool(value) for value in changed] == [time in covering for time in times]


def test_the_stand_in_for_wavlms_attention_carries_the_attentions_result(tmp_path):
    save(tmp_path, "wavlm")
    network = load_network(str(tmp_path), clip_s=1.0)
    calls, _ = trace(network.module, network.prepare(torch.randn(1, 16000)))
    found = {call.path: call.result for call in calls}
    path = network.layers[0].module
    assert torch.equal(found[path], found[path.removesuffix("dropout") + "attention"])


def test_preparation_equals_the_feature_extractor(tmp_path):
    sounds = torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [0.01], [0.0]])
    for kind in ("ast", "whisper", "wav2vec2"):
        save(tmp_path / kind, kind)
        _, extractor = make(kind)
        network = load_network(str(tmp_path / kind), clip_s=1.0)
        key = extractor.model_input_names[0]
        expected = [extractor(sound.numpy(), sampling_rate=16000, return_tensors="pt")[key][0] for sound in sounds]
        torch.testing.assert_close(network.prepare(sounds), torch.stack(expected), rtol=0, atol=2e-5)


def test_whisper_pads_to_thirty_seconds_and_counts_only_the_clip(tmp_path):
    save(tmp_path, "whisper")
    network = load_network(f"hf:{tmp_path}")
    assert (network.window_s, network.clip_s, network.counts_padding, network.windows) == (30.0, 10.24, False, 1)
    assert network.layers[0].time_steps == 1500
    assert load_network(str(tmp_path), clip_s=30).clip_s == 30
    assert "at most 30 s" in refusal(tmp_path, clip_s=31)
    assert "cannot take clips of 0 s" in refusal(tmp_path, clip_s=0)


def test_networks_that_take_any_length_count_everything(tmp_path):
    save(tmp_path, "wav2vec2")
    network = load_network(str(tmp_path))
    assert (network.clip_s, network.window_s, network.counts_padding) == (5.0, 5.0, True)
    assert "cannot be run on a clip of 0.001 s" in refusal(tmp_path, clip_s=0.001)


def test_the_hash_is_of_the_weights_alone(tmp_path):
    save(tmp_path / "a", "wav2vec2")
    save(tmp_path / "b", "wav2vec2")
    first, second = (load_network(str(tmp_path / name), clip_s=1.0) for name in "ab")
    assert first.checkpoint_sha256 == second.checkpoint_sha256
    path = tmp_path / "b" / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.bias"] += 1
    save_file(tensors, path, {"format": "pt"})
    assert load_network(str(tmp_path / "b"), clip_s=1.0).checkpoint_sha256 != first.checkpoint_sha256


def test_what_shapes_the_values_besides_is_known(tmp_path):
    save(tmp_path / "a", "wav2vec2")
    first = load_network(str(tmp_path / "a"), clip_s=1.0).shaped_by
    (tmp_path / "a").rename(tmp_path / "b")
    assert load_network(str(tmp_path / "b"), clip_s=1.0).shaped_by == first
    for name, key, value in (("preprocessor_config", "do_normalize", False), ("config", "layer_norm_eps", 1e-3)):
        path = tmp_path / "b" / f"{name}.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps(settings | {key: value}))
        changed = load_network(str(tmp_path / "b"), clip_s=1.0).shaped_by
        part = name.partition("_")[0]
        assert [known for known in first if changed[known] != first[known]] == [part]
        path.write_text(json.dumps(settings))


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    save(tmp_path, "ast")
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    name = "classifier.dense.bias"
    cases = [
        ({key: value for key, value in whole.items() if key != name}, f"1 missing, first {name}"),
        (whole | {"classifier.extra": torch.zeros(3)}, "1 unexpected, first classifier.extra"),
        (whole | {name: torch.zeros(4)}, f"1 of the wrong shape, first {name} [4] instead of [3]"),
    ]
    for tensors, message in cases:
        save_file(tensors, path, {"format": "pt"})
        assert message in refusal(tmp_path)
    save_file(whole, path, {"format": "pt"})
    raw = path.read_bytes()
    for size in (len(raw) - 10, 40, 0):
        path.write_bytes(raw[:size])
        refusal(tmp_path)
    path.unlink()
    refusal(tmp_path)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_pickled_weights_with_code_are_refused_and_not_run(tmp_path):
    save(tmp_path, "ast")
    (tmp_path / "model.safetensors").unlink()
    torch.save({"classifier.dense.bias": Attack(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    refusal(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_folders_that_are_no_audio_networks_are_refused(tmp_path):
    assert "cannot be loaded" in refusal(tmp_path)
    save(tmp_path / "ast", "ast")
    config = json.loads((tmp_path / "ast" / "config.json").read_text())
    for change in ({"architectures": None}, {"architectures": ["NoSuchModel"]}, {"architectures": ["logging"]}):
        (tmp_path / "ast" / "config.json").write_text(json.dumps(config | change))
        assert "names no model class" in refusal(tmp_path / "ast")
    (tmp_path / "ast" / "config.json").write_text("{")
    refusal(tmp_path / "ast")
    (tmp_path / "ast" / "config.json").write_text(json.dumps(config))
    (tmp_path / "ast" / "preprocessor_config.json").unlink()
    refusal(tmp_path / "ast")

    text = transformers.BertModel(
        transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=50)
    )
    text.save_pretrained(tmp_path / "bert")
    speech_extractor().save_pretrained(tmp_path / "bert")
    refusal(tmp_path / "bert")


def test_modules_without_repeated_blocks_are_refused():
    class Flat(torch.nn.Module):
        main_input_name = "inputs"
        config = SimpleNamespace(model_type="flat")

        def forward(self, inputs):
            return SimpleNamespace(last_hidden_state=inputs, logits=None)

    with pytest.raises(UserError, match="no list of repeated blocks"):
        build_network("flat", Flat(), lambda sounds: sounds, sample_rate_hz=16000, clip_s=1.0)


def write_ctranslate2(path, encoder):
    """The encoder of a Whisper model in CTranslate2's format: float16, queries, keys and values joined."""
    state = {name: value.half() for name, value in encoder.state_dict().items()}
    variables = {"encoder/num_heads": np.array(6, np.int16), "decoder/layer_norm/gamma": np.ones(4, np.float16)}

    def add(name, key):
        for leaf, own in (("weight", "gamma" if "layer_norm" in name else "weight"), ("bias", "beta" if "layer_norm" in name else "bias")):
            variables[f"encoder/{name}/{own}"] = state[f"{key}.{leaf}"].numpy()

    add("conv1", "conv1"), add("conv2", "conv2"), add("layer_norm", "layer_norm")
    variables["encoder/position_encodings/encodings"] = state["embed_positions.weight"].numpy()
    for block in range(4):
        own, key = f"layer_{block}", f"layers.{block}"
        add(f"{own}/self_attention/layer_norm", f"{key}.self_attn_layer_norm"), add(f"{own}/ffn/layer_norm", f"{key}.final_layer_norm")
        add(f"{own}/self_attention/linear_1", f"{key}.self_attn.out_proj")
        add(f"{own}/ffn/linear_0", f"{key}.fc1"), add(f"{own}/ffn/linear_1", f"{key}.fc2")
        joined = [state[f"{key}.self_attn.{part}_proj.weight"] for part in "qkv"]
        biases = [state[f"{key}.self_attn.q_proj.bias"], torch.zeros(384).half(), state[f"{key}.self_attn.v_proj.bias"]]
        variables[f"encoder/{own}/self_attention/linear_0/weight"] = torch.cat(joined).numpy()
        variables[f"encoder/{own}/self_attention/linear_0/bias"] = torch.cat(biases).numpy()

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    content = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        content += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        content += struct.pack("<BI", {"float16": 4, "int16": 2}[str(value.dtype)], value.nbytes) + value.tobytes()
    path.write_bytes(content + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight"))


@pytest.mark.slow
def test_whisper_tiny_reads_a_ctranslate2_model(tmp_path):
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**DIMENSIONS)
    model = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    path = tmp_path / "model.bin"
    write_ctranslate2(path, model)
    network = load_network("whisper-tiny.en", weights=tmp_path)
    state = network.module.model.state_dict()
    assert all(torch.equal(state[name], value.half().float()) for name, value in model.state_dict().items())
    assert sum(layer.neurons for layer in network.layers) == 4 * (384 + 1536 + 384)
    assert (network.clip_s, network.window_s, network.counts_padding) == (5.0, 30.0, False)
    assert "speech" in network.note
    assert "at most 30 s" in refusal("whisper-tiny.en", weights=tmp_path, clip_s=40)

    save_file({f"model.encoder.{name}": value.half().float() for name, value in model.state_dict().items()}, tmp_path / "net.safetensors")
    assert load_network("whisper-tiny.en", weights=tmp_path / "net.safetensors").checkpoint_sha256 == network.checkpoint_sha256

    whole = path.read_bytes()
    for content in (b"", whole[:11], whole[: len(whole) // 2], whole[:-1], whole + b"\0", whole.replace(b"WhisperSpec", b"BertsWSpecs")):
        path.write_bytes(content)
        assert "not a whole CTranslate2 Whisper model" in refusal("whisper-tiny.en", weights=tmp_path)
    path.write_bytes(whole.replace(b"encoder/conv1/bias", b"encoder/conv7/bias"))
    assert "1 missing, first conv1.bias; 1 unexpected, first conv7.bias" in refusal("whisper-tiny.en", weights=tmp_path)
    assert "no checkpoint at" in refusal("whisper-tiny.en", weights=tmp_path / "nothing.safetensors")
