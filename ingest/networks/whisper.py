"""The encoder of Whisper tiny.en with its published weights, which the source keeps as a CTranslate2 model."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ingest.networks.checkpoints import load_exactly, read_checkpoint
from ingest.networks.network import Network
from warehouse.store import UserError

# Architecture of tiny.en (OpenAI, whisper/model.py ModelDimensions).
DIMENSIONS: dict[str, Any] = {
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
}
NOTE = "Trained on English speech (680,000 hours of Whisper's training data), not on other sounds."
DEFAULT_CLIP_S, LONGEST_CLIP_S = 5.0, 30.0
# CTranslate2's DataType numbers (include/ctranslate2/types.h) of tensors a converted network may hold.
CTRANSLATE2_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
PARTS = {
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
}
LEAVES = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def load_whisper(weights: Path | None = None, clip_s: float | None = None) -> Network:
    """The encoder of Whisper tiny.en: log-mel [clips, 80, 3000] to [clips, 1500, 384], 50 tokens a second.

    A clip of `clip_s` seconds (5 by default, at most 30) is padded to the 30 s that the encoder takes; only its own tokens count.
    `weights` is a safetensors file as `fetch` writes it or as transformers does, a CTranslate2 model.bin or its folder. Raises UserError.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from ingest.networks.transformer import build_network, whisper_features

    clip_s = DEFAULT_CLIP_S if clip_s is None else clip_s
    if not 0 < clip_s <= LONGEST_CLIP_S:
        raise UserError(f"whisper-tiny.en cannot take clips of {clip_s:g} s: give at most {LONGEST_CLIP_S:g} s")
    if weights is None:
        from ingest.networks.fetch import fetch

        weights = fetch("whisper-tiny.en")
    weights = Path(weights)
    is_ctranslate2 = weights.name == "model.bin" or (weights / "model.bin").is_file()
    tensors = read_ctranslate2(weights)[0] if is_ctranslate2 else read_checkpoint(weights)
    for prefix in ("model.encoder.", "encoder."):  # files of the whole model
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    encoder = WhisperEncoder(WhisperConfig(**DIMENSIONS))
    load_exactly(encoder, {name: tensor.float() for name, tensor in tensors.items()}, weights)
    return build_network(
        "whisper-tiny.en",
        encoder,
        whisper_features(WhisperFeatureExtractor()),
        sample_rate_hz=16000,
        clip_s=clip_s,
        input_s=LONGEST_CLIP_S,
        note=NOTE,
    )


def read_ctranslate2(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The encoder's tensors under transformers' names from a CTranslate2 Whisper model.bin or the folder with it, and no metadata.

    Linear layers 0 of attention hold queries, keys and values; Whisper's keys have no bias, so theirs must be zero. Raises UserError
    when the file is not whole or is another network's.
    """
    path = path / "model.bin" if path.is_dir() else path
    variables = _variables(path)
    tensors = {}
    for name, tensor in variables.items():
        if not name.startswith("encoder/") or tensor.dim() == 0:  # the decoder, and settings such as num_heads
            continue
        part, leaf = name.removeprefix("encoder/").rsplit("/", 1)
        if part == "position_encodings":
            tensors["embed_positions.weight"] = tensor
        elif part.endswith("self_attention/linear_0"):
            block = part.split("/")[0].replace("layer_", "layers.")
            for key, share in zip("qkv", tensor.chunk(3), strict=False):
                if (key, leaf) != ("k", "bias"):
                    tensors[f"{block}.self_attn.{key}_proj.{leaf}"] = share.contiguous()
                elif share.any():
                    raise UserError(f"{path} is no Whisper model: {name} has a bias for keys")
        else:
            block, _, rest = part.partition("/")
            part = f"{block.replace('layer_', 'layers.')}.{PARTS.get(rest, rest)}" if rest else part
            tensors[f"{part}.{LEAVES.get(leaf, leaf)}"] = tensor
    return tensors, {}


def _variables(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a CTranslate2 model.bin by name (format: ctranslate2/specs/model_spec.py, version 6)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    position = 0

    def number(kind: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + kind, content, position)
        position += struct.calcsize("<" + kind)
        return value

    def raw(size: int) -> bytes:
        nonlocal position
        position += size
        if position > len(content):
            raise struct.error("the file ends early")
        return content[position - size : position]

    def text() -> str:
        return raw(number("H"))[:-1].decode()

    try:
        version, spec, _ = number("I"), text(), number("I")
        if version != 6 or spec != "WhisperSpec":
            raise ValueError(f"{spec!r} of format version {version} instead of WhisperSpec of version 6")
        variables = {}
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            kind = CTRANSLATE2_TYPES[number("B")]
            values = np.frombuffer(raw(number("I")), kind).reshape(shape)
            variables[name] = torch.from_numpy(values.copy())
        for _ in range(number("I")):  # names that share another's tensor
            text(), text()
        if position != len(content):
            raise ValueError("bytes after the end")
    except (struct.error, ValueError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole CTranslate2 Whisper model ({error}): copy or fetch it again") from None
    return variables
