"""YAMNet: a MobileNet v1 trained on AudioSet, in torch, equal to the original TensorFlow program.

Source: tensorflow/models/research/audioset/yamnet (params.py, features.py, yamnet.py). A patch is 0.96 s, 96 frames x 64 mel bands.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from ingest.networks.checkpoints import check_exactly, read_checkpoint, read_safetensors, tensor_sha256
from ingest.networks.network import Layer, Network, Padding
from warehouse.store import UserError

SAMPLE_RATE_HZ = 16000
STFT_WINDOW, STFT_HOP, FFT = 400, 160, 512
MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.001
PATCH_FRAMES, PATCH_HOP_FRAMES = 96, 48
FIRST_PATCH_SAMPLES = (PATCH_FRAMES - 1) * STFT_HOP + STFT_WINDOW
PATCH_HOP_SAMPLES = PATCH_HOP_FRAMES * STFT_HOP
NORM_EPSILON = 1e-4
CLASSES = 521
# Output channels and stride of the separable convolutions, layers 2 to 14.
SEPARABLE = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
NOTE = "Trained on AudioSet (YouTube sound tracks, 521 classes)."


def convolutions() -> list[tuple[str, int, int, int, int, int]]:
    """Name, input channels, output channels, kernel width, stride and groups of the 27 convolutions in order."""
    rows = [("layer1/conv", 1, 32, 3, 2, 1)]
    channels = 32
    for number, (filters, stride) in enumerate(SEPARABLE, start=2):
        rows.append((f"layer{number}/depthwise_conv", channels, channels, 3, stride, channels))
        rows.append((f"layer{number}/pointwise_conv", channels, filters, 1, 1, 1))
        channels = filters
    return rows


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a converted checkpoint: torch's layout, normalisation apart."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, inputs, outputs, kernel, _, groups in convolutions():
        shapes[f"{name}/weight"] = (outputs, inputs // groups, kernel, kernel)
        shapes |= {f"{name}/{part}": (outputs,) for part in ("beta", "moving_mean", "moving_variance")}
    return shapes | {"outputs/weight": (CLASSES, 1024), "outputs/bias": (CLASSES,)}


class ConvolutionReLU(nn.Module):
    """3x3 or 1x1 convolution with folded normalisation, TensorFlow's "same" padding, and ReLU; its output is the rectified value.

    For stride 2 on an even size TensorFlow pads right and below only. A 4x4 kernel whose first row and column are zero, padded by one
    all round, reads the same values, and spares copying the input into a padded one (a third of the whole forward pass on a CPU).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        size, padding = (4, 1) if stride == 2 else (kernel, kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[windows, channels, time, frequency] to the same with time and frequency divided by the stride."""
        return torch.relu_(self.conv(inputs))


class MeanPool(nn.Module):
    """Mean over time and frequency."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[windows, channels, time, frequency] to [windows, channels]."""
        return inputs.mean(dim=(2, 3))


class ChannelsLast(nn.Module):
    """Lays values out channel by channel, which mkldnn convolves fastest; values and shape stay."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Any [windows, channels, time, frequency]."""
        time, frequency = inputs.shape[2:]
        if (
            inputs.shape[1] == 1
        ):  # with one channel both layouts are the same memory: say so in the strides, from which torch reads the layout
            return inputs.contiguous().as_strided(inputs.shape, (time * frequency, 1, frequency, 1))
        return inputs.contiguous(memory_format=torch.channels_last)


def build(tensors: dict[str, torch.Tensor]) -> nn.Sequential:
    """The module for converted tensors (see `expected_shapes`): log-mel patches [windows, 1, 96, 64] to probabilities [windows, 521]."""
    modules: OrderedDict[str, nn.Module] = OrderedDict(layout=ChannelsLast())
    for name, inputs, outputs, kernel, stride, groups in convolutions():
        block = ConvolutionReLU(inputs, outputs, kernel, stride, groups)
        scale = (tensors[f"{name}/moving_variance"].double() + NORM_EPSILON).rsqrt()
        weight = tensors[f"{name}/weight"].double() * scale[:, None, None, None]
        block.conv.weight.data.zero_()
        block.conv.weight.data[:, :, -kernel:, -kernel:] = weight.float()
        bias = tensors[f"{name}/beta"].double() - tensors[f"{name}/moving_mean"].double() * scale
        block.conv.load_state_dict({"weight": block.conv.weight, "bias": bias.float()})
        modules[name.replace("/", "_")] = block
    modules["pool"] = MeanPool()
    dense = nn.Linear(1024, CLASSES)
    dense.load_state_dict({"weight": tensors["outputs/weight"], "bias": tensors["outputs/bias"]})
    modules["logits"] = dense
    modules["outputs"] = nn.Sigmoid()
    network = nn.Sequential(modules).requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations


def mel_matrix() -> torch.Tensor:
    """Weights [257 bins, 64 bands] of tf.signal.linear_to_mel_weight_matrix: triangles in mel, bin 0 left out."""

    def mel(frequency_hz: torch.Tensor) -> torch.Tensor:
        return 1127.0 * torch.log1p(frequency_hz / 700.0)

    bins = mel(torch.linspace(0, SAMPLE_RATE_HZ / 2, FFT // 2 + 1, dtype=torch.float64))[1:, None]
    low, high = mel(torch.tensor([MEL_LOW_HZ, MEL_HIGH_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, MEL_BANDS + 2, dtype=torch.float64)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = torch.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center)).clamp_min(0)
    return nn.functional.pad(weights, (0, 0, 1, 0)).float()


def patches(waveforms: torch.Tensor) -> torch.Tensor:
    """Log-mel patches [clips * windows, 1, 96 frames, 64 bands] of waveforms [clips, samples] at 16 kHz.

    Waveforms are padded with silence to a whole number of patches, at least one, as `pad_waveform` in features.py does it.
    """
    samples = waveforms.shape[1]
    padded = FIRST_PATCH_SAMPLES + (window_count(samples) - 1) * PATCH_HOP_SAMPLES
    waveforms = nn.functional.pad(waveforms.float(), (0, padded - samples))
    window = torch.hann_window(STFT_WINDOW, periodic=True, device=waveforms.device)
    frames = waveforms.unfold(1, STFT_WINDOW, STFT_HOP) * window
    magnitude = torch.fft.rfft(frames, n=FFT).abs()
    log_mel = torch.log(magnitude @ mel_matrix().to(waveforms.device) + LOG_OFFSET)
    cut = log_mel.unfold(1, PATCH_FRAMES, PATCH_HOP_FRAMES)  # clips, windows, bands, frames
    return cut.transpose(2, 3).reshape(-1, 1, PATCH_FRAMES, MEL_BANDS)


def window_count(samples: int) -> int:
    """Patches of a waveform of that many samples at 16 kHz."""
    return 1 + math.ceil(max(0, samples - FIRST_PATCH_SAMPLES) / PATCH_HOP_SAMPLES)


def _windows_of_sound(samples: torch.Tensor) -> torch.Tensor:
    return 1 - (FIRST_PATCH_SAMPLES - samples).clamp(max=0) // PATCH_HOP_SAMPLES


def padded_patches(waveforms: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """As `patches`, of waveforms whose first `samples` [clips] are sound: the patches beyond those of the sound alone are NaN."""
    cut = patches(waveforms).unflatten(0, (len(waveforms), -1))
    beyond = torch.arange(cut.shape[1], device=cut.device) >= _windows_of_sound(samples)[:, None]
    return cut.masked_fill(beyond[:, :, None, None, None], torch.nan).flatten(0, 1)


PADDING = Padding(
    "patches of the sound", padded_patches, lambda layer, samples: _windows_of_sound(samples) * max(layer.time_steps, 1)
)  # fmt: skip
"""The published program cuts the recording alone into patches, and its users average over them."""


class Yamnet(Network):
    """YAMNet as a network to dissect: 27 rectified convolutions and the 521 outputs."""

    def __init__(self, tensors: dict[str, torch.Tensor], output_names: list[str] | None, clip_s: float) -> None:
        time, frequency = PATCH_FRAMES, MEL_BANDS
        layers = []
        for name, _, outputs, _, stride, _ in convolutions():
            time, frequency = time // stride, frequency // stride
            layers.append(Layer(name, name.replace("/", "_"), (outputs, time, frequency), "channel,time,frequency", non_negative=True))
        layers.append(Layer("outputs", "outputs", (CLASSES,), "unit", non_negative=True))
        super().__init__(
            "yamnet",
            "mobilenet",
            build(tensors),
            sample_rate_hz=SAMPLE_RATE_HZ,
            clip_s=clip_s,
            layers=layers,
            checkpoint_sha256=tensor_sha256(tensors),
            windows=window_count(round(clip_s * SAMPLE_RATE_HZ)),
            window_s=PATCH_FRAMES * STFT_HOP / SAMPLE_RATE_HZ,
            window_hop_s=PATCH_HOP_SAMPLES / SAMPLE_RATE_HZ,
            output_names=output_names,
            note=NOTE,
            prepare=patches,
            padding=PADDING,
        )
        self._sequence = list(self.module.named_children())

    @torch.inference_mode()
    def tail(self, layer: Layer, activation: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Probabilities [clips * windows, 521] when `layer` puts out `activation`; `inputs` is needed for latents alone, the network being a
        sequence."""
        if layer.latents_of:
            return super().tail(layer, activation, inputs)
        value = activation.contiguous(memory_format=torch.channels_last) if activation.dim() == 4 else activation
        position = [name for name, _ in self._sequence].index(layer.module)
        for _, module in self._sequence[position + 1 :]:
            value = module(value)
        return value


def load_yamnet(weights: Path | None = None, clip_s: float | None = None) -> Yamnet:
    """YAMNet with its published weights, fetched when they are not in the cache, or with those at `weights`.

    `weights` is a safetensors file as `fetch` writes it, a SavedModel folder or its `variables` folder. Raises UserError when they
    cannot be had, do not fit, or `clip_s` is below one second.
    """
    clip_s = 5.0 if clip_s is None else clip_s
    if not 1 <= clip_s < math.inf:
        raise UserError(f"yamnet cannot take clips of {clip_s:g} s: give at least 1 second")
    if weights is None:
        from ingest.networks.fetch import fetch

        weights = fetch("yamnet")
    tensors, metadata = _read(Path(weights))
    check_exactly({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected_shapes(), weights)
    names = output_names(metadata, weights)
    if names is not None and len(names) != CLASSES:
        raise UserError(f"{weights} comes with {len(names)} class names instead of {CLASSES}: its class map belongs to another network")
    return Yamnet(tensors, names, clip_s)


def _read(weights: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if weights.is_dir() or weights.name == "variables.index":
        return read_saved_model(weights)
    if weights.suffix == ".safetensors" and weights.exists():
        return read_safetensors(weights)
    return read_checkpoint(weights), {}


def read_saved_model(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Converted tensors, and the class names where the class map lies in assets/, of a SavedModel folder or its `variables` folder."""
    root = folder if (folder / "variables").is_dir() else folder.parent
    names = _class_map(root / "assets" / "yamnet_class_map.csv")
    return convert(read_checkpoint(folder), folder), {"output_names": json.dumps(names)} if names else {}


def output_names(metadata: dict[str, str], origin: Path | str) -> list[str] | None:
    """Class names kept in a safetensors file's metadata; None when it has none."""
    if "output_names" not in metadata:
        return None
    try:
        names = json.loads(metadata["output_names"])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{origin} has broken class names in its metadata (output_names is no JSON list of names): write the file again")
    return names


def convert(variables: dict[str, torch.Tensor], origin: Path | str) -> dict[str, torch.Tensor]:
    """Tensors under our names and in torch's layout from the variables of a YAMNet SavedModel, in which even-numbered weight layers are
    convolutions and odd ones their normalisation. Other variables (optimiser, further heads) are left out."""
    found: dict[str, dict[tuple[int, str], torch.Tensor]] = {}
    for key, tensor in variables.items():
        match = re.fullmatch(r"(.*?)layer_with_weights-(\d+)/(\w+)/\.ATTRIBUTES/VARIABLE_VALUE", key)
        if match:
            found.setdefault(match[1], {})[int(match[2]), match[3]] = tensor
    if not found:
        raise UserError(f"{origin} holds no YAMNet: no variable named layer_with_weights-0/kernel")
    parts = max(found.values(), key=len)
    tensors = {}
    for index, (name, _, _, _, _, groups) in enumerate(convolutions()):
        kernel = "kernel" if groups == 1 else "depthwise_kernel"
        order = (3, 2, 0, 1) if groups == 1 else (2, 3, 0, 1)  # TensorFlow: height, width, inputs, outputs (or channels, multiplier)
        if (2 * index, kernel) in parts:
            value = parts.pop((2 * index, kernel))
            tensors[f"{name}/weight"] = value.permute(*order).contiguous() if value.dim() == 4 else value
        for part in ("beta", "moving_mean", "moving_variance"):
            if (2 * index + 1, part) in parts:
                tensors[f"{name}/{part}"] = parts.pop((2 * index + 1, part))
    last = 2 * len(convolutions())
    if (last, "kernel") in parts:
        value = parts.pop((last, "kernel"))
        tensors["outputs/weight"] = value.T.contiguous() if value.dim() == 2 else value
    if (last, "bias") in parts:
        tensors["outputs/bias"] = parts.pop((last, "bias"))
    return tensors | {f"layer_with_weights-{number}/{part}": tensor for (number, part), tensor in parts.items()}


def _class_map(path: Path) -> list[str] | None:
    """Display names in order of their index from yamnet_class_map.csv; None without that file."""
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        return [row["display_name"] for row in csv.DictReader(file)]
