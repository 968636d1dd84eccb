"""Captioning networks: tiny ones with random weights in the genuine formats, against plain computations and a real server."""

import base64
import importlib.util
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from ingest.language.audio_models import AudioEndpoint, TransformersAudio, VllmAudio
from ingest.language.captions import accept, hear
from ingest.language.clapcap import ClapCaption, build_clapcap
from warehouse.store import UserError

PROMPT = "Please describe the audio in detail."


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> list[Path]:
    """A tone of 1 s at 16 kHz, noise of 3 s at 22.05 kHz in stereo, a file that is no sound."""
    folder = tmp_path_factory.mktemp("sounds")
    soundfile.write(folder / "a.wav", np.sin(np.arange(16000) * 0.1) * 0.3, 16000)
    soundfile.write(folder / "b.wav", np.random.default_rng(0).standard_normal((66150, 2)) * 0.1, 22050)
    (folder / "c.wav").write_text("no sound")
    return [folder / name for name in ("a.wav", "b.wav", "c.wav")]


def test_hear(sounds):
    tone, rate = soundfile.read(sounds[0], dtype="float32")
    np.testing.assert_array_equal(hear(sounds[0], 16000, 30), tone)
    np.testing.assert_array_equal(hear(sounds[0], 16000, 0.5), tone[4000:12000])
    stereo, rate = soundfile.read(sounds[1], dtype="float32")
    np.testing.assert_allclose(hear(sounds[1], 16000, 30), soxr.resample(stereo.mean(axis=1), rate, 16000), atol=1e-6)
    assert len(hear(sounds[1], 16000, 2)) == 32000


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    """A Qwen2-Audio folder as `save_pretrained` writes it, over bytes, with an encoder and a language model of a layer or two."""
    folder = tmp_path_factory.mktemp("models") / "tiny-audio"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    letters = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=30), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(
            num_mel_bins=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, d_model=16, max_source_positions=1500
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.3,
        ),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config.do_sample, model.generation_config.temperature = True, 5.0  # which must not matter
    model.save_pretrained(folder)
    return folder


def greedily(folder: Path, sound: np.ndarray, count: int) -> str:
    """The model's words, one forward pass a token, from its parts."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Qwen2AudioProcessor.from_pretrained(folder)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=text, audio=[sound], sampling_rate=16000, return_tensors="pt")
    tokens: list[int] = []
    for _ in range(count):
        with torch.inference_mode():
            logits = model(**inputs, use_cache=False).logits[0, -1]
        tokens.append(int(logits.argmax()))
        if tokens[-1] == processor.tokenizer.eos_token_id:
            break
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[tokens[-1]]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return processor.tokenizer.decode(tokens, skip_special_tokens=True)


def test_transformers_says_what_the_model_says(qwen, sounds):
    found = TransformersAudio(qwen, max_tokens=8, batch=2, device="cpu").caption([sounds[0], sounds[2], sounds[1]])
    expected = [accept(greedily(qwen, hear(path, 16000, 30), 8)) for path in sounds[:2]]
    assert [found[0], found[2]] == expected
    assert expected[0].raw != expected[1].raw
    assert found[1].text is None
    assert found[1].reason.startswith("not audio")
    assert TransformersAudio(qwen, max_tokens=8, batch=1, device="cpu").caption(sounds[:2]) == expected


def test_parameters_identify_captions(qwen):
    first = TransformersAudio(qwen).parameters
    assert first["engine"] == "transformers"
    assert first["prompt_sha256"] == VllmAudio(qwen).parameters["prompt_sha256"]
    assert first["sha256"] == VllmAudio(qwen).parameters["sha256"]
    assert first != TransformersAudio(qwen, clip_s=10).parameters
    json.dumps([first, VllmAudio(qwen).parameters])


def test_models_that_cannot_caption(qwen, tmp_path, sounds):
    def message(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            TransformersAudio(folder).caption(sounds[:1])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no model folder" in message(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in qwen.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    missing = next(name for name in tensors if name.endswith("projector.linear.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != missing}, broken / "model.safetensors", {"format": "pt"})
    assert "lacks 1 weights, first" in message(broken)
    (broken / "model.safetensors").write_bytes(b"no tensors")
    assert "cannot be loaded" in message(broken)
    for file in broken.glob("*processor*"):
        file.unlink()
    assert "broken" in message(broken)


def test_vllm_is_asked_with_the_prompt_and_the_sound(qwen, sounds):
    sound = hear(sounds[0], 16000, 30)
    [request] = VllmAudio(qwen).requests([sound])
    assert request["prompt"].endswith(f"<|audio_bos|><|AUDIO|><|audio_eos|>\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n")
    assert request["multi_modal_data"] == {"audio": (sound, 16000)}
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(UserError, match="vLLM is not installed here"):
            VllmAudio(qwen).caption(sounds[:1])


class Listening(BaseHTTPRequestHandler):
    """Says how long and how loud the sound is; busy at first."""

    asked: list[dict] = []  # noqa: RUF012
    status = 200

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body | {"path": self.path, "key": self.headers["Authorization"]})
        sound, text = body["messages"][0]["content"]
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["input_audio"]["data"])))
        words = f"A sound of {len(samples) / rate:.2f} s whose peak is {np.abs(samples).max():.3f}. {text['text']}"
        status = 503 if len(self.asked) == 1 else self.status
        if len(samples) > 2.5 * rate:
            words = "I'm sorry, I cannot listen to that."
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": words}}]}).encode())

    def log_message(self, *args):
        pass


def test_an_endpoint_gets_sound_and_prompt(sounds, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SOME_KEY", "secret")
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        captioner = AudioEndpoint(url, "listener", key_variable="SOME_KEY", pause_s=0.01, concurrency=1, seed=None)
        found = captioner.caption(sounds)
        assert found[0] == accept(f"A sound of 1.00 s whose peak is 0.300. {PROMPT}")
        assert (found[1].text, found[1].raw, found[1].reason) == (None, "I'm sorry, I cannot listen to that.", "refusal")
        assert found[2].text is None
        assert len(Listening.asked) == 3  # one answer was 503
        asked = Listening.asked[-1]
        assert (asked["model"], asked["path"], asked["key"]) == ("listener", "/v1/chat/completions", "Bearer secret")
        assert [part["type"] for part in asked["messages"][0]["content"]] == ["input_audio", "text"]
        assert asked["messages"][0]["content"][0]["input_audio"]["format"] == "wav"
        assert "secret" not in json.dumps(captioner.parameters)
        assert captioner.parameters["prompt_sha256"]
        Listening.status = 401
        with pytest.raises(UserError, match="answers HTTP 401"):
            captioner.caption(sounds[:1])
    finally:
        server.shutdown()
        server.server_close()


# --- clapcap ------------------------------------------------------------------------------------------------------------------------------

needs_msclap = pytest.mark.skipif(importlib.util.find_spec("msclap") is None, reason="msclap is not installed: make install-clap")


@pytest.fixture(scope="module")
def clapcap(tmp_path_factory):
    """The checkpoint in the published format beside the folder of GPT-2, whose width is 32 here."""
    folder = tmp_path_factory.mktemp("clapcap")
    config = GPT2Config(vocab_size=257, n_layer=1, n_embd=32, n_head=2, n_inner=32, n_positions=128, bos_token_id=256, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, printable), *(chr(256 + number) for number in range(256 - len(printable))), "<|endoftext|>"]
    (folder / "gpt2" / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    (folder / "gpt2" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "gpt2" / "tokenizer_config.json").write_text('{"model_max_length": 1024, "tokenizer_class": "GPT2Tokenizer"}')
    torch.manual_seed(0)
    state = build_clapcap(config).clapcap.state_dict()
    for key, value in state.items():
        # So that sounds make a difference.
        if key == "clap_project.linear.weight":
            value.normal_(std=3)
        elif key.endswith(("attn.c_attn.weight", "attn.c_proj.weight")):
            value.normal_()
        elif key.startswith("clap_project.transformer") and value.dim() == 2:
            value.normal_(std=value.shape[1] ** -0.5)
    old = {"bias": torch.ones(1024, 1024, dtype=torch.uint8).tril()[None, None], "masked_bias": torch.tensor(-1e4)}
    torch.save(
        {"model": {**state, **{f"gpt.transformer.h.0.attn.{key}": value for key, value in old.items()}}},
        folder / "clapcap_weights_2023.pth",
    )
    yield folder
    (folder / "clapcap_weights_2023.pth").unlink()


@needs_msclap
def test_clapcap_says_what_msclap_says(clapcap, sounds):
    """msclap loads the same file with GPT-2 from a folder; sounds of 1 s and 3 s are repeated to 7 s."""
    from ingest.networks import msclap_wrapper

    class Local(msclap_wrapper.import_msclap().CLAPWrapper):
        def read_config_as_args(self, *args, **kwargs):
            settings = super().read_config_as_args(*args, **kwargs)
            settings.text_model = settings.text_decoder = str(clapcap / "gpt2")
            return settings

        def read_audio(self, path, resample=True):
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            return torch.from_numpy(soxr.resample(samples.mean(axis=1), rate, 44100)), 44100

    expected = [accept(text) for text in Local(clapcap / "clapcap_weights_2023.pth", "clapcap").generate_caption(sounds[:2], beam_size=3)]
    captioner = ClapCaption(clapcap / "clapcap_weights_2023.pth", beam_size=3, device="cpu")
    found = captioner.caption([sounds[0], sounds[2], sounds[1]])
    assert [found[0], found[2]] == expected
    assert expected[0].raw != expected[1].raw
    assert found[1].text is None
    assert captioner.parameters["beam_size"] == 3
    assert len(captioner.parameters["network_sha256"]) == 64


@needs_msclap
def test_clapcap_that_cannot_be_loaded(clapcap, tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        ClapCaption(tmp_path / "nowhere.pth").parameters  # noqa: B018
    torch.save({"model": {"gpt.lm_head.weight": torch.zeros(2, 2)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not fit this network: keys \d+ missing"):
        ClapCaption(tmp_path / "other.pth", clapcap / "gpt2").parameters  # noqa: B018
