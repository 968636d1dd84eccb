"""Microsoft's CLAP through msclap: the CNN14 of 2022 and the HTSAT of 2023 as networks to dissect, and zero-shot classification by text.

msclap builds the networks, tokenises the prompts and runs the forward pass. Reading is done here: msclap loads checkpoints with
`strict=False`, and its own reading of sound repeats short clips, crops long ones at random and flattens stereo.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ingest.networks.checkpoints import load_exactly, quiet, read_checkpoint, tensor_sha256
from ingest.networks.msclap_wrapper import VERSIONS, build_wrapper, import_msclap
from ingest.networks.network import Layer, Network, Padding
from ingest.networks.transformer import trace
from warehouse.store import UserError, first_line

REPOSITORY = "microsoft/msclap"
ESC50_PROMPT = "this is a sound of "
SAMPLE_RATE_HZ = 44100
EMBEDDING = 1024
HOP = 320
MEL_BANDS = 64
CNN14_CHANNELS = (64, 128, 256, 512, 1024, 2048)
SHORTEST_CLIP_S = 1.0


def _counts_up(value: torch.Tensor) -> bool:
    return torch.equal(value.flatten().long(), torch.arange(value.numel()))


def _causal(value: torch.Tensor) -> bool:
    size = value.shape[-1]
    return value.numel() == size * size and torch.equal(value.reshape(size, size) != 0, torch.ones(size, size).tril() != 0)


OLD_CONSTANTS: dict[str, Callable[[torch.Tensor], bool]] = {
    r"caption_encoder\.base\.embeddings\.position_ids": _counts_up,
    r"caption_encoder\.base\.h\.\d+\.attn\.bias": _causal,
    r"caption_encoder\.base\.h\.\d+\.attn\.masked_bias": lambda value: value.numel() == 1 and value.item() <= -1e4,
}
"""Constants that transformers before 4.31 kept in state dicts and checkpoints of that time therefore hold (microsoft/CLAP issue 27)."""


def _is_old_constant(key: str, value: torch.Tensor) -> bool:
    return any(re.fullmatch(pattern, key) and is_right(value) for pattern, is_right in OLD_CONSTANTS.items())


# --- The audio encoder as a module to hook ------------------------------------------------------------------------------------------------


class AudioEmbedding(nn.Module):
    """msclap's audio encoder with one tensor in and one out."""

    def __init__(self, audio_encoder: nn.Module) -> None:
        super().__init__()
        self.audio_encoder = audio_encoder

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Waveforms [clips, samples] to embeddings [clips, 1024], not normalised."""
        return self.audio_encoder(waveforms)[0]


class FullPrecision(nn.Module):
    """Runs a module in float32 within autocast too: msclap's Fourier transform is a convolution, whose quiet bins bfloat16 would drown."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the module makes of the inputs as float32."""
        with torch.autocast(inputs.device.type, enabled=False):
            return self.module(inputs.float())


class Copy(nn.Module):
    """Its input's values in memory of their own."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Any tensor."""
        return inputs.clone()


def hookable(audio_encoder: nn.Module) -> AudioEmbedding:
    """Make a loaded audio encoder fit for hooks, its outputs unchanged.

    CNN14 applies ReLU to the result of fc1 in place, after a hook on fc1 has run, so that such a hook sees one value or the other
    depending on whether it copies. fc1 becomes three modules: `fc1.linear`, `fc1.relu`, whose output is rectified whatever a hook does with
    it, and a copy for msclap's ReLU to work on, which so never changes a recorded tensor or one put in its place.
    """
    base: Any = audio_encoder.base
    front: Any = base.htsat if hasattr(base, "htsat") else base
    front.spectrogram_extractor = FullPrecision(front.spectrogram_extractor)
    front.logmel_extractor = FullPrecision(front.logmel_extractor)
    if hasattr(base, "fc1"):
        base.fc1 = nn.Sequential(OrderedDict(linear=base.fc1, relu=nn.ReLU(), copy=Copy()))
    return AudioEmbedding(audio_encoder)


def cnn14_layers(clip_s: float) -> list[Layer]:
    """conv1 to conv6 after each block's average pooling, and fc1 after ReLU, for clips of that length (5 s: 1,454,080 positions)."""
    time, frequency = 1 + round(clip_s * SAMPLE_RATE_HZ) // HOP, MEL_BANDS
    layers = []
    for number, channels in enumerate(CNN14_CHANNELS, start=1):
        if number < len(CNN14_CHANNELS):  # the last block pools 1 x 1
            time, frequency = time // 2, frequency // 2
        module = f"audio_encoder.base.conv_block{number}"
        layers.append(Layer(f"conv{number}", module, (channels, time, frequency), "channel,time,frequency", non_negative=True))
    return [*layers, Layer("fc1", "audio_encoder.base.fc1.relu", (2048,), "unit", non_negative=True)]


def cnn14_tail(module: AudioEmbedding, layer: Layer, activation: torch.Tensor, _inputs: torch.Tensor) -> torch.Tensor:
    """What CNN14 makes of a layer's output: the steps of msclap's forward pass after it."""
    encoder: Any = module.audio_encoder
    value = activation.relu()  # changes nothing that the layer itself puts out
    if layer.name != "fc1":
        for number in range(int(layer.name.removeprefix("conv")) + 1, len(CNN14_CHANNELS) + 1):
            pool = (1, 1) if number == len(CNN14_CHANNELS) else (2, 2)
            value = getattr(encoder.base, f"conv_block{number}")(value, pool_size=pool, pool_type="avg")
        value = value.mean(dim=3)
        value = encoder.base.fc1(value.amax(dim=2) + value.mean(dim=2))
    return encoder.projection(value)


def htsat_layers(module: AudioEmbedding, clip_s: float) -> list[Layer]:
    """Per transformer block `mlp_act` (after GELU) and `mlp_out`, then `output`, the normalised tokens whose mean is projected.

    Found in one forward pass over noise, by structure: every GELU on tokens, and the linear layer it feeds. Attention works on windows in
    an order of its own, so its parts put out nothing that belongs to one clip and are left out.
    """
    noise = torch.randn(1, round(clip_s * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(0)) * 0.1
    calls, _ = trace(module, noise)
    calls = [call for call in calls if call.result is not None and call.result.dim() == 3]
    found: list[tuple[str, Any]] = []
    for index, call in enumerate(calls):
        if not isinstance(call.module, nn.GELU):
            continue
        block = f"block{len(found) // 2 + 1}"
        following = next(later for later in calls[index + 1 :] if isinstance(later.module, nn.Linear))
        if following.module.in_features != call.result.shape[2]:
            raise UserError(f"{following.path} does not take what {call.path} puts out: this version of msclap is not known")
        found += [(f"{block}/mlp_act", call), (f"{block}/mlp_out", following)]
    found.append(("output", [call for call in calls if isinstance(call.module, nn.LayerNorm)][-1]))
    encoder: Any = module.audio_encoder
    segments: int = encoder.base.htsat.freq_ratio
    layers = []
    for name, call in found:
        tokens, units = call.result.shape[1:]
        layers.append(Layer(name, call.path, (tokens, units), "token,unit", token_times=htsat_token_times(tokens, segments)))
    return layers


def htsat_token_times(tokens: int, segments: int) -> tuple[int, ...]:
    """Time index of each token. HTSAT cuts its spectrogram into `segments` pieces of time, stacks them into a square image, one below the
    other with frequency running downwards within each, and flattens the image row by row."""
    side = math.isqrt(tokens)
    bands = side // segments
    return tuple(row // bands * side + column for row in range(side) for column in range(side))


# --- The network with its text side -------------------------------------------------------------------------------------------------------


def repeated(waveforms: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Waveforms [clips, samples] filled with their first `samples` [clips] again and again, as msclap's `load_audio_into_tensor` does."""
    return waveforms.gather(1, torch.arange(waveforms.shape[1], device=waveforms.device) % samples[:, None])


PADDING = Padding("repeated", repeated, lambda layer, samples: torch.full_like(samples, layer.time_steps))
"""Every step holds the clip, some of them once more."""


class Clap(Network):
    """CLAP's audio encoder as a network to dissect, with both embeddings [n, 1024] for zero-shot classification."""

    def __init__(self, version: str, wrapper: Any, checkpoint_sha256: str, clip_s: float, text: Path | None) -> None:
        module = hookable(wrapper.clap.audio_encoder)
        super().__init__(
            f"clap-{version}",
            VERSIONS[version].family,
            module,
            sample_rate_hz=SAMPLE_RATE_HZ,
            clip_s=clip_s,
            layers=cnn14_layers(clip_s) if version == "2022" else htsat_layers(module, clip_s),
            checkpoint_sha256=checkpoint_sha256,
            note=VERSIONS[version].note,
            padding=PADDING,
            tail=partial(cnn14_tail, module) if version == "2022" else None,
        )
        self._version = VERSIONS[version]
        self._wrapper = wrapper
        self._text = text

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def audio_embeddings(self, waveforms: torch.Tensor, batch: int = 8) -> torch.Tensor:
        """Embeddings [clips, 1024] of mono waveforms [clips, samples] of exactly the network's length; raises UserError for others."""
        if waveforms.dim() != 2 or waveforms.shape[1] != self.samples:
            raise UserError(f"{self.name} takes waveforms of shape [clips, {self.samples}], not {list(waveforms.shape)}")
        parts = [self.forward(self.prepare(part.to(self._device).float())) for part in waveforms.split(batch)]
        return torch.cat(parts) if parts else torch.zeros(0, EMBEDDING, device=self._device)

    @torch.inference_mode()
    def text_embeddings(self, prompts: Sequence[str], batch: int = 32) -> torch.Tensor:
        """Embeddings [prompts, 1024], not normalised. Raises UserError when the tokeniser is not to be had or a prompt is too long."""
        if self._wrapper.tokenizer is None:
            self._wrapper.tokenizer = self._load_tokenizer()
        self._wrapper.clap.to(self._device)
        rows = [self._tokens(prompt) for prompt in prompts]
        parts = []
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            tokens = {key: torch.cat([row[key] for row in chosen]).to(self._device) for key in self._version.token_keys}
            parts.append(self._wrapper._get_text_embeddings(tokens))
        return torch.cat(parts) if parts else torch.zeros(0, EMBEDDING, device=self._device)

    def classify(self, waveforms: torch.Tensor, prompts: Sequence[str], batch: int = 8) -> torch.Tensor:
        """Zero-shot classification: for each waveform the index of the prompt with the highest cosine similarity [clips]."""
        return cosine_similarity(self.audio_embeddings(waveforms, batch), self.text_embeddings(prompts)).argmax(dim=1)

    def _tokens(self, prompt: str) -> dict[str, torch.Tensor]:
        """Tokens of one prompt as msclap makes them, each key [1, text_len]."""
        tokens = self._wrapper.preprocess_text([prompt])
        length, limit = tokens["input_ids"].shape[1], self._wrapper.args.text_len
        if length != limit:
            raise UserError(f"{self.name} reads at most {limit} tokens, this prompt has {length}: {prompt[:60]!r}")
        return tokens

    def _load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        name = self._version.text_model
        where = f"{self._text} holds no tokeniser" if self._text else f"the tokeniser of {name} is not cached, and the hub does not give it"
        try:
            with quiet():
                tokenizer: Any = AutoTokenizer.from_pretrained(str(self._text or name), local_files_only=self._text is not None)
        except Exception as error:  # the library raises nearly every kind of error
            raise UserError(
                f"{self.name} cannot read prompts: {where} ({first_line(error)}): put the folder {name} beside the checkpoint"
            ) from None
        if name == "gpt2":
            tokenizer.add_special_tokens({"pad_token": "!"})
            if tokenizer.pad_token_id != 0:  # msclap takes every token that is not 0 for text
                raise UserError(f"{self._text or name} is not GPT-2's tokeniser: '!' is token {tokenizer.pad_token_id} instead of 0")
        known = self._wrapper.clap.caption_encoder.base.config.vocab_size
        if len(tokenizer) > known:
            raise UserError(f"{self._text or name} has {len(tokenizer)} tokens, {self.name} knows {known}: use the folder of {name}")
        tokenizer.encode_plus = tokenizer.__call__  # its name until transformers 5
        return tokenizer


def cosine_similarity(audio: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosine similarity [clips, prompts] of audio embeddings [clips, d] and text embeddings [prompts, d]."""
    return nn.functional.normalize(audio, dim=1) @ nn.functional.normalize(text, dim=1).T


def class_prompts(class_names: Iterable[str], prefix: str = ESC50_PROMPT) -> list[str]:
    """Prompts for classes: the prefix and the name, its underscores as spaces."""
    return [prefix + name.replace("_", " ") for name in class_names]


# --- Loading ------------------------------------------------------------------------------------------------------------------------------


def load_clap_2022(weights: Path | None = None, clip_s: float | None = None, text: Path | None = None) -> Clap:
    """CLAP 2022: CNN14, 44.1 kHz, 5 s by default; layers conv1 to conv6 and fc1 ("Localizing auditory concepts in CNNs", 2024).

    `weights` is CLAP_weights_2022.pth or its tensors as safetensors; without it the hub's cache is asked. `text` is a folder with
    BERT's tokeniser for `text_embeddings`, by default `bert-base-uncased` beside the checkpoint, else the hub's. Raises UserError.
    """
    clip_s = 5.0 if clip_s is None else clip_s
    if not SHORTEST_CLIP_S <= clip_s < math.inf:
        raise UserError(f"clap-2022 cannot take clips of {clip_s:g} s: give at least {SHORTEST_CLIP_S:g} s")
    return _load("2022", weights, clip_s, text)


def load_clap_2023(weights: Path | None = None, clip_s: float | None = None, text: Path | None = None) -> Clap:
    """CLAP 2023: HTSAT, 44.1 kHz, 7 s; layers by structure (see `htsat_layers`), with values below zero.

    `weights` is CLAP_weights_2023.pth or its tensors as safetensors; without it the hub's cache is asked. `text` is a folder with
    GPT-2's tokeniser for `text_embeddings`, by default `gpt2` beside the checkpoint, else the hub's. Raises UserError.
    """
    if clip_s not in (None, 7.0):
        raise UserError(f"clap-2023 cannot take clips of {clip_s:g} s: it stretches what it hears to 7 s, so give 7 or nothing")
    return _load("2023", weights, 7.0, text)


def _load(version: str, weights: Path | None, clip_s: float, text: Path | None) -> Clap:
    import_msclap()
    path = Path(weights) if weights is not None else hub_checkpoint(version)
    if text is None:
        beside = path.parent / VERSIONS[version].text_model
        text = beside if beside.is_dir() else None
    tensors = read_checkpoint(path)
    tensors = {key: value for key, value in tensors.items() if not _is_old_constant(key, value)}
    wrapper = build_wrapper(version, text_config(version, text))
    load_exactly(wrapper.clap, tensors, path)
    return Clap(version, wrapper, tensor_sha256(tensors), clip_s, text)


def hub_checkpoint(version: str) -> Path:
    """The published checkpoint from the hub's cache, downloaded when it is not there; raises UserError when that fails."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    name = VERSIONS[version].checkpoint
    cached = try_to_load_from_cache(REPOSITORY, name)
    if isinstance(cached, str):
        return Path(cached)
    try:
        with quiet():
            return Path(hf_hub_download(REPOSITORY, name))
    except Exception as error:  # whatever the hub's client meets: no network, no space, offline mode
        raise UserError(
            f"{name} of {REPOSITORY} is not in the hub's cache and could not be downloaded ({first_line(error)}): "
            "give the file with --weights PATH"
        ) from None


def text_config(version: str, text: Path | None) -> Any:
    """Configuration of the text model: of the folder `text` where it has one, else BERT's base or the smallest GPT-2."""
    from transformers import AutoConfig, BertConfig, GPT2Config

    kind: Any = BertConfig if version == "2022" else GPT2Config
    if text is None or not (text / "config.json").is_file():
        if text is not None and not text.is_dir():
            raise UserError(f"no folder {text}: give the folder of {VERSIONS[version].text_model}")
        return kind()  # transformers' defaults are exactly these two models
    try:
        config = AutoConfig.from_pretrained(str(text), local_files_only=True)
    except Exception as error:
        raise UserError(f"{text / 'config.json'} cannot be read ({first_line(error)})") from None
    if not isinstance(config, kind):
        raise UserError(f"{text} holds a text model of type {config.model_type}: clap-{version} has {VERSIONS[version].text_model}")
    return config
