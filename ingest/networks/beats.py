"""BEATs (Chen et al., 2023, arXiv 2212.09058) by its published checkpoints, which hold {"cfg": settings, "model": state dict}.

A transformer over 16 x 16 patches of a Kaldi filter bank, the patches of one moment lying side by side. Names of modules are those of the
published state dict, so that every key can be matched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ingest.networks.checkpoints import check_exactly, tensor_sha256, unpickled
from ingest.networks.network import Layer, Network, Padding
from warehouse.store import UserError

SAMPLE_RATE_HZ = 16000
FRAME, HOP, FFT = 400, 160, 512
MEL_BANDS, MEL_LOW_HZ = 128, 20.0
PREEMPHASIS, POVEY_POWER = 0.97, 0.85
FBANK_MEAN, FBANK_DEVIATION = 15.41663, 6.55582
DEFAULT_CLIP_S = 5.0
LARGEST_SETTING = 1 << 20  # beyond it sizes overflow
NOTE = "BEATs, trained on AudioSet (Chen et al., 2023) and on whatever its checkpoint was fine-tuned with."
# What a checkpoint may call the two factors of the positional convolution's weight: torch before and since 2.0.
WEIGHT_NORM = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


@dataclass(frozen=True)
class Config:
    """The settings of a checkpoint's `cfg` that shape the network, with the published program's defaults."""

    input_patch_size: int
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_norm_first: bool = False
    deep_norm: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = False
    num_buckets: int = 320
    max_distance: int = 1280
    gru_rel_pos: bool = False
    finetuned_model: bool = False
    predictor_class: int = 527


# --- From sound to patches ----------------------------------------------------------------------------------------------------------------


def mel_matrix() -> torch.Tensor:
    """Weights [257 bins, 128 bands] of Kaldi's filters: triangles in mel from 20 Hz to half the sample rate, the last bin left out."""

    def mel(frequency_hz: torch.Tensor) -> torch.Tensor:
        return 1127.0 * torch.log1p(frequency_hz / 700.0)

    low, high = mel(torch.tensor([MEL_LOW_HZ, SAMPLE_RATE_HZ / 2], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, MEL_BANDS + 2, dtype=torch.float64)
    bins = mel(torch.arange(FFT // 2, dtype=torch.float64) * SAMPLE_RATE_HZ / FFT)[:, None]
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = torch.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center)).clamp_min(0)
    return nn.functional.pad(weights, (0, 0, 0, 1)).float()


def filter_bank(waveforms: torch.Tensor) -> torch.Tensor:
    """Normalised log-mel frames [clips, frames, 128 bands] of waveforms [clips, samples] at 16 kHz, full scale 1.

    Kaldi's fbank (feat/feature-fbank.cc) on 16-bit values, without dither: whole frames of 25 ms every 10 ms, mean removed, pre-emphasis,
    Povey's window, power spectrum; then (x - 15.41663) / (2 * 6.55582) as the published program does.
    """
    frames = (waveforms.float() * 2**15).unfold(1, FRAME, HOP)
    frames = frames - frames.mean(dim=2, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
    window = torch.hann_window(FRAME, periodic=False, dtype=torch.float64, device=frames.device).pow(POVEY_POWER).float()
    power = torch.fft.rfft((frames - PREEMPHASIS * before) * window, n=FFT).abs().square()
    energies = (power @ mel_matrix().to(power.device)).clamp_min(torch.finfo(torch.float32).eps)
    return (energies.log() - FBANK_MEAN) / (2 * FBANK_DEVIATION)


def padded_filter_bank(waveforms: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """As `filter_bank`, of waveforms whose first `samples` [clips] are sound: frames that reach beyond it are NaN."""
    frames = filter_bank(waveforms)
    beyond = torch.arange(frames.shape[1], device=frames.device) >= frames_in(samples)[:, None]
    return frames.masked_fill(beyond[:, :, None], torch.nan)


def frames_in(samples: torch.Tensor) -> torch.Tensor:
    """Whole frames in so many samples, at least one."""
    return 1 + (samples - FRAME).clamp_min(0) // HOP


# --- The network --------------------------------------------------------------------------------------------------------------------------


def position_buckets(tokens: int, buckets: int, max_distance: int) -> torch.Tensor:
    """Bucket [tokens, tokens] of each key's distance from each query: half of the buckets for keys that come later; of each half one
    half for distances one by one, the other for logarithmically wider ranges up to `max_distance` (T5, Raffel et al., 2020)."""
    places = torch.arange(tokens)
    distance = places[None, :] - places[:, None]
    half, exact = buckets // 2, buckets // 4
    # In float32, as the published program reckons: at a range's edge the last digit decides.
    share = torch.log(distance.abs().clamp_min(1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (share * (half - exact)).long()).clamp_max(half - 1)
    return torch.where(distance.abs() < exact, distance.abs(), far) + half * (distance > 0)


class Attention(nn.Module):
    """Self-attention with a bias by relative position that each query's gates scale (Chen et al., 2022, WavLM, section III.B)."""

    def __init__(self, config: Config, relative_attention_bias: nn.Embedding) -> None:
        super().__init__()
        width, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.relative_attention_bias = relative_attention_bias

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor, absent: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens [clips, tokens, width] and bias [heads, tokens, tokens] to [clips, tokens, width]; nobody attends to those that are
        `absent` [clips, tokens]."""
        query, key, value = (
            part(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        update, reset = self.grep_linear(query).unflatten(3, (2, 4)).sum(dim=4).sigmoid().split(1, dim=3)
        gate = update * (reset * self.grep_a - 1) + 2
        bias = gate * bias
        if absent is not None:
            bias = bias.masked_fill(absent[:, None, None], -torch.inf)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each added to its input times DeepNorm's constant (Wang et al., 2022, arXiv 2203.00555) and then normalised."""

    def __init__(self, config: Config, relative_attention_bias: nn.Embedding) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.self_attn = Attention(config, relative_attention_bias)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.alpha = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor, absent: torch.Tensor | None = None) -> torch.Tensor:
        """See `Attention.forward`."""
        tokens = self.self_attn_layer_norm(tokens * self.alpha + self.self_attn(tokens, bias, absent))
        return self.final_layer_norm(tokens * self.alpha + self.fc2(nn.functional.gelu(self.fc1(tokens))))


class Encoder(nn.Module):
    """Positional convolution over the sequence of tokens, then the blocks, which share one table of position biases."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, kernel = config.encoder_embed_dim, config.conv_pos
        self.pos_conv = nn.Sequential(nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.conv_pos_groups), nn.GELU())
        table = nn.Embedding(config.num_buckets, config.encoder_attention_heads)
        self.layers = nn.ModuleList(Block(config, table) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)
        self.table = [table]  # in a list, so that it is not a second entry of the state dict
        self.max_distance = config.max_distance

    def forward(self, tokens: torch.Tensor, absent: torch.Tensor | None = None) -> torch.Tensor:
        """[clips, tokens, width] to the same. Tokens that are `absent` [clips, tokens] are no part of a clip, as if it ended before them."""
        if absent is not None:
            tokens = tokens.masked_fill(absent[:, :, None], 0)
        # An even kernel gives one token more than went in.
        places = self.pos_conv(tokens.transpose(1, 2))[..., : tokens.shape[1]].transpose(1, 2)
        tokens = self.layer_norm(tokens + places)
        [table] = self.table
        bias = table(position_buckets(tokens.shape[1], table.num_embeddings, self.max_distance).to(tokens.device)).permute(2, 0, 1)
        for block in self.layers:
            tokens = block(tokens, bias, absent)
        return tokens


class MeanOverTokens(nn.Module):
    """Mean over the second dimension, without the tokens that are no part of a clip (NaN)."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[clips, tokens, classes] to [clips, classes]."""
        return tokens.nanmean(dim=1) if tokens.isnan().any() else tokens.mean(dim=1)


class Beats(nn.Module):
    """The whole network, from filter bank to tokens, or to logits where it was fine-tuned; the published program then adds a sigmoid."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        size = config.input_patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, size, size, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        same, tuned = config.embed_dim == config.encoder_embed_dim, config.finetuned_model
        self.post_extract_proj = nn.Identity() if same else nn.Linear(config.embed_dim, config.encoder_embed_dim)
        self.encoder = Encoder(config)
        self.predictor = nn.Linear(config.encoder_embed_dim, config.predictor_class) if tuned else nn.Identity()
        self.pool = MeanOverTokens() if tuned else nn.Identity()

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """[clips, frames, 128] to logits [clips, classes], each the mean over tokens, or to tokens [clips, tokens, width].

        Frames that are NaN are no part of a clip, nor are patches with such a frame; a clip of nothing else puts out NaN.
        """
        size = self.patch_embedding.kernel_size[0]
        tokens = self.layer_norm(self.patch_embedding(frames.nan_to_num(0)[:, None]).flatten(2).transpose(1, 2))
        unheard = frames[:, : frames.shape[1] // size * size, 0].isnan().unflatten(1, (-1, size)).any(dim=2)
        absent = unheard.repeat_interleave(MEL_BANDS // size, dim=1) if unheard.any() else None
        if absent is None:
            return self.pool(self.predictor(self.encoder(self.post_extract_proj(tokens))))
        nothing = absent.all(dim=1, keepdim=True)
        tokens = tokens.masked_fill(nothing[:, :, None], torch.nan)
        tokens = self.encoder(self.post_extract_proj(tokens), absent & ~nothing)
        return self.pool(self.predictor(tokens.masked_fill(absent[:, :, None], torch.nan)))


# --- Loading ------------------------------------------------------------------------------------------------------------------------------


def load_beats(path: Path, clip_s: float | None = None) -> Network:
    """BEATs from a published checkpoint, pre-trained or fine-tuned: a torch file, read without running anything in it.

    Layers of each block: `fc1` (before GELU) and `fc2` [tokens, units]; and `classifier`, the logits pooled over tokens, where there is a
    predictor. The twelve blocks of the published size have 46,080 neurons (AND 2024, Table 1). Output names are the checkpoint's
    `label_dict`, None where it has none. `clip_s` is 5 by default. Raises UserError for whatever does not fit.
    """
    path = Path(path)
    config, tensors, output_names = read_published(path)
    return beats_network(path, config, tensors, output_names, DEFAULT_CLIP_S if clip_s is None else clip_s)


def beats_network(
    origin: Path, config: Config, tensors: Mapping[str, torch.Tensor], output_names: list[str] | None, clip_s: float
) -> Network:
    """See `load_beats`, of what a file `origin` holds."""
    size = config.input_patch_size
    shortest_s = (FRAME + (size - 1) * HOP) / SAMPLE_RATE_HZ
    if not shortest_s <= clip_s < math.inf:
        raise UserError(f"BEATs cannot take clips of {clip_s:g} s: give at least {shortest_s:g} s")
    module = build(config, tensors, origin)
    steps = (1 + (round(clip_s * SAMPLE_RATE_HZ) - FRAME) // HOP) // size
    times = tuple(step for step in range(steps) for _ in range(MEL_BANDS // size))
    layers = []
    for block in range(config.encoder_layers):
        for name, units in (("fc1", config.encoder_ffn_embed_dim), ("fc2", config.encoder_embed_dim)):
            path_in_module = f"encoder.layers.{block}.{name}"
            layers.append(Layer(f"block{block + 1}/{name}", path_in_module, (len(times), units), "token,unit", token_times=times))
    if config.finetuned_model:
        layers.append(Layer("classifier", "pool", (config.predictor_class,), "unit", token_module="predictor"))
    return Network(
        origin.stem,
        "beats",
        module,
        sample_rate_hz=SAMPLE_RATE_HZ,
        clip_s=clip_s,
        window_s=steps * size * HOP / SAMPLE_RATE_HZ,
        layers=layers,
        checkpoint_sha256=tensor_sha256(tensors),
        output_names=output_names,
        note=NOTE,
        prepare=filter_bank,
        padding=Padding(
            "masked", padded_filter_bank, lambda layer, samples: (frames_in(samples) // size).clamp(max=steps), FRAME + (size - 1) * HOP
        ),
    )


def read_published(path: Path) -> tuple[Config, dict[str, torch.Tensor], list[str] | None]:
    """Settings, tensors and output names of a published checkpoint; raises UserError for a file that is not one."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: give a BEATs checkpoint (.pt) as published")
    content = unpickled(path)
    if not isinstance(content, Mapping) or not all(isinstance(content.get(key), Mapping) for key in ("cfg", "model")):
        raise UserError(f"{path} is no BEATs checkpoint: it does not hold cfg (settings) and model (state dict)")
    tensors = dict(content["model"])
    if not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()):
        raise UserError(f"{path} is no BEATs checkpoint: model is no state dict (names with tensors)")
    config = read_config(content["cfg"], path)
    labels, wanted = content.get("label_dict"), range(config.predictor_class)
    named = config.finetuned_model and isinstance(labels, Mapping) and all(isinstance(labels.get(index), str) for index in wanted)
    return config, tensors, [labels[index] for index in wanted] if named and labels else None


def read_config(given: Mapping[Any, Any], path: str | Path) -> Config:
    """The settings in a checkpoint's `cfg`, checked; raises UserError for those of networks that are not known."""
    if "input_patch_size" not in given:
        raise UserError(f"{path}: its cfg lacks input_patch_size: it is no BEATs checkpoint")
    known = {}
    for field in fields(Config):
        value = given.get(field.name, field.default)
        fits = {"int": type(value) is int and 0 < value < LARGEST_SETTING, "bool": value in (0, 1), "str": isinstance(value, str)}
        if not fits[str(field.type)]:
            raise UserError(f"{path}: its cfg has {field.name} = {str(value)[:80]!r}, which cannot be")
        known[field.name] = value
    config = Config(**known)
    for name, wanted in (("activation_fn", "gelu"), ("layer_norm_first", 0), ("relative_position_embedding", 1), ("gru_rel_pos", 1)):
        if getattr(config, name) != wanted:
            raise UserError(
                f"{path}: its cfg has {name} = {getattr(config, name)!r}; only networks with {wanted!r}, as published, are known"
            )
    width, size = config.encoder_embed_dim, config.input_patch_size
    if width % config.encoder_attention_heads or width % config.conv_pos_groups or MEL_BANDS % size or config.num_buckets < 4:
        raise UserError(f"{path}: the sizes in its cfg do not go together (heads, groups or patches do not divide the width)")
    return config


def build(config: Config, tensors: Mapping[str, torch.Tensor], origin: str | Path) -> Beats:
    """The module with a checkpoint's tensors, every key and shape checked before memory is taken; raises UserError."""
    blocks = {match[1] for name in tensors if (match := re.match(r"encoder\.layers\.(\d+)\.", name))}
    if len(blocks) != config.encoder_layers:
        raise UserError(f"{origin} does not fit its own cfg: {len(blocks)} blocks instead of {config.encoder_layers}")
    with torch.device("meta"):
        module = Beats(config)
    tensors = _fold_weight_norm(tensors, origin)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_exactly({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected, origin)
    table = "self_attn.relative_attention_bias.weight"
    if any(not torch.equal(tensors[f"encoder.layers.{block}.{table}"], tensors[f"encoder.layers.0.{table}"]) for block in blocks):
        raise UserError(f"{origin} does not fit this network: its blocks must share one {table}")
    module = module.to_empty(device="cpu")
    module.load_state_dict(tensors)
    return module.requires_grad_(False)


def _fold_weight_norm(tensors: Mapping[str, torch.Tensor], origin: str | Path) -> dict[str, torch.Tensor]:
    """Put the one weight of the positional convolution in the place of its length by kernel position and its direction."""
    prefix = "encoder.pos_conv.0."
    for names in WEIGHT_NORM:
        length, direction = (tensors.get(prefix + name) for name in names)
        if length is not None and direction is not None:
            if direction.dim() != 3 or length.shape != (1, 1, direction.shape[2]):
                raise UserError(f"{origin} does not fit this network: {prefix}{names[0]} is {list(length.shape)}")
            rest = {name: tensor for name, tensor in tensors.items() if name not in (prefix + names[0], prefix + names[1])}
            exact = direction.double()
            return rest | {f"{prefix}weight": (length.double() * exact / exact.norm(dim=(0, 1), keepdim=True)).float()}
    return dict(tensors)
