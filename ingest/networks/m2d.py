"""M2D (Masked Modeling Duo), a vision transformer over spectrograms trained without labels, as a network to dissect.

Sources: Niizumi et al. 2023 (arXiv 2210.14648) and what is published about the checkpoints (github.com/nttcslab/m2d): the names of their
tensors, the spectrogram, the cutting into windows. The program there has a licence of its own; none of its code is here.
"""

from __future__ import annotations

import argparse
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from ingest.networks.checkpoints import load_exactly, read_checkpoint, tensor_sha256
from ingest.networks.network import Layer, Network
from ingest.networks.network import Padding as ShortClips
from warehouse.store import UserError

SAMPLE_RATE_HZ = 16000
STFT_WINDOW, STFT_HOP = 400, 160
MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ = 80, 50.0, 8000.0
LOG_OFFSET = torch.finfo(torch.float32).eps
NORM_STATS = (-7.1, 4.2)  # mean and deviation of log-mel values, of checkpoints that bring no norm_stats of their own
PATCH = 16
PATCH_ROWS = MEL_BANDS // PATCH
PATCH_SAMPLES = PATCH * STFT_HOP
PATCH_S = PATCH_SAMPLES / SAMPLE_RATE_HZ
NORM_EPSILON = 1e-6
FINE_TUNED_PREFIX = "module.ar.runtime.backbone."
# What only training needs: predictor, target network, prediction of another network's features, projections of M2D-CLAP.
TRAINING_ONLY = ("decoder_", "target_", "mask_token", "offline_predictor.", "audio_proj.", "text_proj.")
HEAD = ("head.", "fc_norm.")  # a classifier as timm names it, and the norm of what is pooled for it
GELU = "GELU units: values below zero are small but there."
NOTE = f"Masked Modeling Duo: a ViT trained on AudioSet's sounds without labels. {GELU}"
FINE_TUNED_NOTE = f"Masked Modeling Duo: a ViT trained on AudioSet's sounds without labels, then with labels; its head is left out. {GELU}"
SUPERVISED_NOTE = f"A ViT of M2D's architecture trained with labels; its head is left out. {GELU}"

Padding = Literal["masked", "attended"]


@dataclass(frozen=True)
class Size:
    """Dimensions of the transformer; those of ViT-B, in which every head has 64 units."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072


class Attention(nn.Module):
    """Self-attention over tokens."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.proj = nn.Linear(size.width, size.width)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Tokens [windows, tokens, width] to the same; `mask` [windows, 1, 1, tokens] is False for tokens that nobody may attend to."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each on normalised tokens and added to them."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, eps=NORM_EPSILON)
        self.attn = Attention(size)
        self.norm2 = nn.LayerNorm(size.width, eps=NORM_EPSILON)
        layers = OrderedDict(fc1=nn.Linear(size.width, size.hidden), act=nn.GELU(), fc2=nn.Linear(size.hidden, size.width))
        self.mlp = nn.Sequential(layers)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Tokens [windows, tokens, width] to the same; see Attention for `mask`."""
        tokens = tokens + self.attn(self.norm1(tokens), mask)
        return tokens + self.mlp(self.norm2(tokens))


class Encoder(nn.Module):
    """The transformer: windows [clips * windows, 1, 80 bands, frames] to normalised tokens [clips * windows, 1 + 5 * times, width].

    Token 0 is CLS; the patches follow band by band, each band from first to last time. `grid_times` are the times that the position
    embedding knows, of which shorter windows take the first. In the last of a clip's windows only `last_times` times are attended to, and
    nowhere those that are NaN, which put out NaN. Without `norm` tokens stay as the last block leaves them.
    """

    def __init__(self, size: Size, grid_times: int, windows: int = 1, last_times: int | None = None, *, norm: bool = True) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, size.width, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PATCH_ROWS * grid_times, size.width))
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=NORM_EPSILON) if norm else nn.Identity()
        self.windows, self.last_times = windows, last_times

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """See the class."""
        absent = inputs[:, 0, 0, ::PATCH].isnan()  # rows, times
        nothing = absent.all(dim=1, keepdim=True)
        absent &= ~nothing  # a window of nothing stays NaN throughout
        masked = bool(absent.any())
        patches = self.patch_embed["proj"](
            inputs.masked_fill(absent.repeat_interleave(PATCH, dim=1)[:, None, None], 0) if masked else inputs
        )
        times = patches.shape[3]
        position = self.pos_embed[:, 1:].unflatten(1, (PATCH_ROWS, -1))[:, :, :times].flatten(1, 2)
        tokens = patches.flatten(2).transpose(1, 2) + position
        tokens = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1)
        mask = self._mask(len(inputs), times, inputs.device)
        gone = functional.pad(absent.repeat(1, PATCH_ROWS), (1, 0))  # of tokens
        if masked:
            mask = ~gone[:, None, None] if mask is None else mask & ~gone[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens).masked_fill(gone[:, :, None], torch.nan) if masked else self.norm(tokens)

    def _mask(self, rows: int, times: int, device: torch.device) -> torch.Tensor | None:
        if self.last_times is None or self.last_times >= times:
            return None
        mask = torch.ones(rows, 1 + PATCH_ROWS * times, dtype=torch.bool, device=device)
        last = mask[self.windows - 1 :: self.windows, 1:].unflatten(1, (PATCH_ROWS, times))
        last[:, :, self.last_times :] = False
        return mask[:, None, None]


def mel_matrix() -> torch.Tensor:
    """Weights [201 bins, 80 bands] of librosa's default mel filters (Slaney's scale, each triangle of area 1), which M2D's nnAudio has too."""
    from transformers.audio_utils import mel_filter_bank

    weights = mel_filter_bank(
        STFT_WINDOW // 2 + 1, MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
    )  # fmt: skip
    return torch.from_numpy(weights).float()


def log_mel(waveforms: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """log(power + 2^-23) in mel bands, [clips, 80, 1 + samples // 160], of waveforms [clips, samples] at 16 kHz.

    Frames of 400 samples under a periodic Hann window, centred on every 160th sample, the ends mirrored. `weights` is `mel_matrix()`.
    """
    half = STFT_WINDOW // 2
    mirrored = functional.pad(waveforms.float()[:, None], (half, half), mode="reflect")[:, 0]
    window = torch.hann_window(STFT_WINDOW, periodic=True, device=waveforms.device)
    with torch.autocast(waveforms.device.type, enabled=False):  # bfloat16 would drown the quiet bands
        power = torch.fft.rfft(mirrored.unfold(1, STFT_WINDOW, STFT_HOP) * window).abs().square()
        return torch.log(power @ weights + LOG_OFFSET).transpose(1, 2)


class M2D(Network):
    """M2D's encoder, whose neurons are the MLPs' hidden units after GELU (in ViT-B 12 x 3072 = 36,864).

    The spectrogram of a whole clip is normalised, filled up with zeros to whole patches of 0.16 s and cut into windows as long as the
    position embedding (38 patches, 6.08 s); a clip of one window has just its own patches. A frame centred on a clip's very end that would
    begin another patch is left out. CLS and the patches that begin after a clip's end are not counted.

    `padding` says what the last of several windows is: `masked`, as long as its patches, which is what the present released program does
    (tokens beyond are there, but nobody attends to them); or `attended`, every window filled up with zeros that take part in attention, as
    in the program of 2022. `supervised` is the same architecture trained with labels alone.
    """

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        origin: Path | str,
        clip_s: float,
        *,
        size: Size,
        norm_stats: tuple[float, float],
        padding: Padding,
        supervised: bool = False,
        norm: bool = True,
        note: str = NOTE,
    ) -> None:
        self.grid_times = _grid_times(tensors)
        patches = math.ceil(round(clip_s * SAMPLE_RATE_HZ) / PATCH_SAMPLES)
        windows = math.ceil(patches / self.grid_times)
        self.times = self.grid_times if windows > 1 or padding == "attended" else patches
        last_times = patches - (windows - 1) * self.times if padding == "masked" else None
        with torch.device("meta"):  # values drawn at random would only be written over
            module = Encoder(size, self.grid_times, windows, last_times, norm=norm)
        module = module.to_empty(device="cpu")
        load_exactly(module, tensors, origin)
        shape = (1 + PATCH_ROWS * self.times, size.hidden)
        token_times = (-1, *tuple(range(self.times)) * PATCH_ROWS)
        super().__init__(
            "-".join(["m2d", *(["supervised"] if supervised else []), *([padding] if padding != "masked" else [])]),
            "vit",
            module.requires_grad_(False),
            sample_rate_hz=SAMPLE_RATE_HZ,
            clip_s=clip_s,
            layers=[
                Layer(f"block{index + 1}/mlp_act", f"blocks.{index}.mlp.act", shape, "token,unit", token_times=token_times)
                for index in range(size.depth)
            ],
            checkpoint_sha256=tensor_sha256(tensors | {"norm_stats": torch.tensor(norm_stats)}),
            windows=windows,
            window_s=self.times * PATCH_S,
            window_hop_s=self.grid_times * PATCH_S if windows > 1 else None,
            note=note,
            counts_padding=False,
            padding=ShortClips(padding, self.prepare, lambda layer, samples: -(-samples // PATCH_SAMPLES), shortest=STFT_WINDOW // 2 + 1),
        )
        self.padding_mode = padding
        self.patches = patches
        self.norm_stats = norm_stats
        self._mel = mel_matrix()

    def prepare(self, waveforms: torch.Tensor, samples: torch.Tensor | None = None) -> torch.Tensor:
        """Windows [clips * windows, 1, 80 bands, frames] of normalised log-mel values from waveforms [clips, samples], of which the first
        `samples` [clips] are sound: the spectrogram is that of the sound alone, what lies beyond its patches or windows is NaN."""
        if samples is not None and bool((samples < waveforms.shape[1]).any()):
            return torch.cat([self._windows(clip[None, :count]) for clip, count in zip(waveforms, samples.tolist(), strict=True)])
        return self._windows(waveforms)

    def _windows(self, waveforms: torch.Tensor) -> torch.Tensor:
        self._mel = self._mel.to(waveforms.device)
        mean, deviation = self.norm_stats
        values = (log_mel(waveforms, self._mel) - mean) / deviation
        patches = min(-(-waveforms.shape[1] // PATCH_SAMPLES), self.patches)
        # Behind the sound's last patch the rest of a window is filled up as in a clip that ends there.
        filled = patches if patches < self.patches and self.padding_mode == "masked" else -(-patches // self.times) * self.times
        values = functional.pad(values[:, :, : patches * PATCH], (0, max(0, patches * PATCH - values.shape[2])))
        values = functional.pad(values, (0, (filled - patches) * PATCH))
        values = functional.pad(values, (0, (self.windows * self.times - filled) * PATCH), value=torch.nan)
        return values.unflatten(2, (self.windows, -1)).transpose(1, 2).flatten(0, 1)[:, None]

    def embeddings(self, tokens: torch.Tensor, valid_s: torch.Tensor | None = None) -> torch.Tensor:
        """A clip's embedding as M2D's users take it, [clips, 5 * width]: tokens of a time side by side, then the mean over the times.

        `tokens` is what `forward` puts out [clips * windows, tokens, width], `valid_s` [clips] the seconds of real sound, by default
        the whole clip; CLS and times after the sound do not count.
        """
        grid = tokens[:, 1:].unflatten(1, (PATCH_ROWS, self.times)).transpose(1, 2).flatten(2)
        grid = grid.unflatten(0, (-1, self.windows)).flatten(1, 2)
        if valid_s is None:
            valid_s = torch.full((len(grid),), self.clip_s, device=grid.device)
        times = -(-self.valid_samples(valid_s) // PATCH_SAMPLES)
        counted = (torch.arange(grid.shape[1], device=grid.device) < times[:, None])[:, :, None]
        return grid.where(counted, 0).sum(dim=1) / counted.sum(dim=1)


def _grid_times(tensors: dict[str, torch.Tensor]) -> int:
    """Times that the position embedding knows: 38 in the published 80 x 608; 38, too, where there is none, which is then refused."""
    shape = tuple(tensors["pos_embed"].shape) if "pos_embed" in tensors else ()
    whole = len(shape) == 3 and shape[1] > PATCH_ROWS and (shape[1] - 1) % PATCH_ROWS == 0
    return (shape[1] - 1) // PATCH_ROWS if whole else 38


def load_m2d(
    weights: Path | None = None,
    clip_s: float | None = None,
    *,
    padding: Padding = "masked",
    norm_stats: tuple[float, float] | None = None,
    size: Size | None = None,
) -> M2D:
    """M2D with a published ViT-B checkpoint of 16 x 16 patches at 16 kHz, for clips of 5 s unless `clip_s` says otherwise.

    `weights` is a checkpoint of pre-training (.pth, its tensors under `model`), one of its encoder alone, one fine-tuned by EVAR, or any
    of these as safetensors; or a ViT of the same architecture trained with labels, its tensors named as timm names them, with a head. What
    only training needs and heads are left out, every other key must fit. `norm_stats` are mean and deviation of log-mel values, by default
    the checkpoint's own or else (-7.1, 4.2). See M2D for `padding`. Raises UserError.
    """
    if weights is None:
        raise UserError(
            "m2d comes without weights: get a checkpoint from github.com/nttcslab/m2d/releases (its licence) and give --weights PATH"
        )
    clip_s = 5.0 if clip_s is None else clip_s
    if not PATCH_S <= clip_s < math.inf:
        raise UserError(f"m2d cannot take clips of {clip_s:g} s: give at least {PATCH_S:g} s")
    if padding not in get_args(Padding):
        raise UserError(f"m2d: padding {padding!r} is not known: it must be one of {', '.join(get_args(Padding))}")
    weights = Path(weights)
    if "p32k" in f"{weights.parent.name}/{weights.name}":
        raise UserError(f"{weights} is a network for 32 kHz by its name: give a checkpoint for 16 kHz")
    # A checkpoint of pre-training holds its command line, which is as harmless as a dictionary.
    with torch.serialization.safe_globals([argparse.Namespace]):
        tensors = read_checkpoint(weights)
    outer = [name for name in tensors if name.endswith(".cls_token")]
    if "cls_token" not in tensors and len(outer) == 1:  # the rest is the spectrogram and the classifier
        prefix = outer[0].removesuffix("cls_token")
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    fine_tuned, supervised = bool(outer) and outer[0].startswith(FINE_TUNED_PREFIX), "head.weight" in tensors
    # Where what is pooled for the head is normalised, tokens are not.
    norm = not (supervised and "fc_norm.weight" in tensors and "norm.weight" not in tensors)
    tensors = {name: tensor.float() for name, tensor in tensors.items() if not name.startswith((*TRAINING_ONLY, *HEAD))}
    own = tensors.pop("norm_stats", None)
    if norm_stats is None:
        norm_stats = NORM_STATS if own is None else _pair(own, weights)
    return M2D(
        tensors, weights, clip_s, size=size or Size(), norm_stats=norm_stats, padding=padding, supervised=supervised, norm=norm,
        note=SUPERVISED_NOTE if supervised else FINE_TUNED_NOTE if fine_tuned else NOTE,
    )  # fmt: skip


def _pair(stats: torch.Tensor, origin: Path) -> tuple[float, float]:
    values = stats.flatten().tolist()
    if len(values) != 2 or not all(math.isfinite(value) for value in values) or values[1] <= 0:
        raise UserError(f"{origin} has broken norm_stats {values[:4]} instead of a mean and a deviation: copy or fetch it again")
    return values[0], values[1]
