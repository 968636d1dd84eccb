"""Target networks: what the extraction needs to know of a network, and the names under which networks are loaded."""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from ingest.networks.checkpoints import tensor_sha256
from warehouse.store import UserError

Axes = Literal["channel,time,frequency", "channel,time", "token,unit", "unit"]
TailForm = Literal["own", "sequence", "whole pass"]


@dataclass(frozen=True)
class Layer:
    """A module of a network whose output is recorded.

    `shape` is the module's output for one window, without the batch dimension, and `axes` says what its dimensions mean. For `token,unit`
    layers `token_times` gives each token's time index, -1 for a token that stands for no moment (CLS, distillation); None means that
    token i is time step i. Where a `unit` layer is the mean over tokens of what another module puts out, `token_module` is that module.
    `latents_of` names the layer of which a layer holds an autoencoder's latents.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    axes: Axes
    non_negative: bool = False
    token_times: tuple[int, ...] | None = None
    token_module: str | None = None
    latents_of: str | None = None

    @property
    def neurons(self) -> int:
        """Number of channels or units."""
        return self.shape[-1] if self.axes.endswith("unit") else self.shape[0]

    @property
    def is_map(self) -> bool:
        """Whether every position of it can be a neuron: a convolution's output."""
        return self.axes == "channel,time,frequency"

    @property
    def time_steps(self) -> int:
        """Time steps within one window; 0 for a layer without a time axis."""
        if self.axes == "unit":
            return 0
        if self.axes == "token,unit":
            return max(self.token_times) + 1 if self.token_times else self.shape[0]
        return self.shape[1]


@dataclass(frozen=True)
class Padding:
    """How a network takes clips that end before `clip_s`, where its published program does more than add silence.

    `prepare` makes the module's input of waveforms [clips, samples] and of how many samples of each are sound [clips]. In the input, and in
    what the network puts out, NaN stands where there is nothing of the clip: the module must keep to the rest, and a window that is NaN puts
    out NaN. `steps` says how many of a layer's windows x time steps, from the first, hold a clip of so many samples [clips]. Clips below
    `shortest` samples, which the published program cannot take, are failures. `name` goes into the parameters of runs over shorter clips.
    """

    name: str
    prepare: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    steps: Callable[[Layer, torch.Tensor], torch.Tensor]
    shortest: int = 1


class HeldOut(NamedTuple):
    """The fold of a data set that a network was trained without; the hash of its clips' sorted names (sha256_json), None where it is not known."""

    dataset: str
    fold: int
    clips_sha256: str | None = None


class Network:
    """A network to dissect: a torch module, its layers in forward order, and how it takes sound.

    A clip of `clip_s` seconds at `sample_rate_hz` becomes `windows` windows of `window_s` seconds starting every `window_hop_s`, the first at
    `window_start_s` (below 0 where it is centred on the clip's start); a network that takes clips whole has one.
    `counts_padding=False` leaves the silence added to short clips out of every reduction over time;
    `padding`, where there is one, says more exactly what of a short clip is heard and counted.
    `output` names the network's output where the module returns several: a dict's key, a tuple's index. `checkpoint_sha256` is by default the
    hash of the tensors; `shaped_by` has the hashes of what else shapes the values, by what it is. `held_out` says what it did not see
    of the data set that it was trained on, where that is known. `checked` says that the description was found to hold
    (registry.check_network). `streams` are layers that are had where they are named only: the residual stream behind each block.
    Subclasses override `prepare`, and `tail` where they know a shorter way than the two general forms; or both are given as functions.
    """

    def __init__(
        self,
        name: str,
        family: str,
        module: torch.nn.Module,
        *,
        sample_rate_hz: int,
        clip_s: float,
        layers: list[Layer],
        checkpoint_sha256: str | None = None,
        windows: int = 1,
        window_s: float | None = None,
        window_hop_s: float | None = None,
        window_start_s: float = 0.0,
        output_names: list[str] | None = None,
        note: str | None = None,
        counts_padding: bool = True,
        padding: Padding | None = None,
        output: str | int | None = None,
        prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
        tail: Callable[[Layer, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.name = name
        self.family = family
        self.module = module.eval()
        self.sample_rate_hz = sample_rate_hz
        self.clip_s = clip_s
        self.layers = layers
        self.checkpoint_sha256 = checkpoint_sha256 if checkpoint_sha256 is not None else tensor_sha256(self.tensors())
        self.shaped_by: dict[str, Any] = {}
        self.held_out: HeldOut | None = None
        self.streams: list[Layer] = []
        self.checked = False
        self.windows = windows
        self.window_s = window_s if window_s is not None else clip_s
        self.window_hop_s = window_hop_s if window_hop_s is not None else self.window_s
        self.window_start_s = window_start_s
        self.output_names = output_names
        self.note = note
        self.counts_padding = counts_padding
        self.padding = padding
        self.output = output
        self._prepare = prepare
        self._tail = tail

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers as the module saves them."""
        return {name: value for name, value in self.module.state_dict().items() if isinstance(value, torch.Tensor)}

    @property
    def samples(self) -> int:
        """Samples of one prepared clip."""
        return round(self.clip_s * self.sample_rate_hz)

    @property
    def shortest_s(self) -> float:
        """Seconds that a sound must have."""
        return self.padding.shortest / self.sample_rate_hz if self.padding else 0.0

    def prepare(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Turn waveforms [clips, samples] (float32, mono, full scale 1) into the module's input [clips * windows, ...]."""
        return self._prepare(waveforms) if self._prepare else waveforms

    def prepare_padded(self, waveforms: torch.Tensor, valid_s: torch.Tensor) -> torch.Tensor:
        """As `prepare`, of waveforms of which the first `valid_s` seconds [clips] are sound and the rest is silence added to it."""
        if self.padding is None:
            return self.prepare(waveforms)
        samples = self.valid_samples(valid_s)
        inputs = self.padding.prepare(waveforms, samples.clamp_min(self.padding.shortest))
        short = samples < self.padding.shortest
        if bool(short.any()):  # nothing is known of it, which no later value may hide
            inputs = inputs.clone()
            inputs.unflatten(0, (-1, self.windows))[short] = torch.nan
        return inputs

    def valid_samples(self, valid_s: torch.Tensor) -> torch.Tensor:
        """Samples of sound, at least one, in clips with so many seconds of it [clips]."""
        return (valid_s.double() * self.sample_rate_hz).round().long().clamp(1, self.samples)

    def mean_over_windows(self, outputs: torch.Tensor) -> torch.Tensor:
        """[clips * windows, ...] to [clips, ...]: the mean over the windows that hold something of the clip."""
        windows = outputs.unflatten(0, (-1, self.windows))
        return windows.nanmean(dim=1) if self.padding and self.windows > 1 else windows.mean(dim=1)

    @torch.inference_mode()
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the module on prepared inputs; returns its output [clips * windows, ...]."""
        return self.own(self.module(inputs))

    def own(self, returned: Any) -> torch.Tensor:
        """The network's output among what its module returned."""
        return returned if self.output is None else returned[self.output]

    def tail_form(self, layer: Layer) -> TailForm:
        """How `tail` comes to its result: the network's own way, from the layer on through a sequence, or by a whole pass."""
        if (self._tail is not None or type(self).tail is not Network.tail) and not layer.latents_of:
            return "own"
        return "whole pass" if self._after(layer) is None else "sequence"

    def _after(self, layer: Layer) -> list[nn.Module] | None:
        return modules_after(self.module, layer.module) if type(self).forward is Network.forward else None

    @torch.inference_mode()
    def tail(self, layer: Layer, activation: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Output of the network when `layer` puts out `activation` [clips * windows, *layer.shape] instead of its own value.

        A layer inside nothing but nn.Sequential is followed by the modules after it. Otherwise the whole network runs on `inputs` with
        the value replaced, which is right for any module; of several outputs of the layer's module the first is replaced. A network with
        another structure and its own short way gives `tail` when it is made. `activation` stays as it is.
        """
        if self._tail is not None and not layer.latents_of:
            return self._tail(layer, activation, inputs)
        after = self._after(layer)
        if after is not None:
            value = activation.clone() if after else activation  # the next module may work in place
            for module in after:
                value = module(value)
            return self.own(value) if after else value

        def replace(_module: nn.Module, _inputs: object, output: object) -> object:
            return (activation.clone(), *output[1:]) if isinstance(output, tuple) else activation.clone()

        handle = self.module.get_submodule(layer.module).register_forward_hook(replace)
        try:
            return self.forward(inputs)
        finally:
            handle.remove()


def check_attributed(network: Network, layer: Layer, output: torch.Tensor, clips: int, ran_before: bool) -> None:
    """Raise UserError for a layer's output in a pass over so many clips that cannot be given to these one by one."""
    if ran_before:
        what = "ran more than once"
    elif len(output) != clips * network.windows:
        what = f"put out {len(output)} rows instead of {clips * network.windows}"
    else:
        return
    raise UserError(
        f"layer {layer.name} ({layer.module}) of {network.name} {what} in a pass over {clips} clips, so its values cannot be told apart by clip: "
        "let the network take a batch in one go, or leave the layer out"
    )


def modules_after(module: nn.Module, path: str) -> list[nn.Module] | None:
    """The modules that run after the one at `path`, in order; None when some module around it is more than an nn.Sequential."""
    after: list[nn.Module] = []
    for name in path.split("."):
        if type(module).forward is not nn.Sequential.forward or name not in module._modules:
            return None
        names = list(module._modules)
        # What follows in an inner sequence runs before what follows in the outer one.
        after = [part for later in names[names.index(name) + 1 :] if (part := module._modules[later]) is not None] + after
        module = module.get_submodule(name)
    return after


NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
NON_NEGATIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softmax, nn.Softplus, nn.Hardsigmoid)
ACTIVATIONS = (*NON_NEGATIVE, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.ELU, nn.SELU, nn.LeakyReLU, nn.PReLU, nn.Hardswish, nn.LogSoftmax)
AXES: dict[tuple[type, int], Axes] = {
    (nn.Conv2d, 4): "channel,time,frequency",
    (nn.Conv1d, 3): "channel,time",
    (nn.Linear, 3): "token,unit",
    (nn.Linear, 2): "unit",
}


@torch.inference_mode()
def discover_layers(module: nn.Module, inputs: torch.Tensor) -> list[Layer]:
    """Layers of a network, in forward order, for those who do not want to list them: its convolutions and linear layers.

    One forward pass over prepared `inputs` [windows, ...] is watched. A layer is taken after the normalisation and activation modules that
    follow it directly; activations called as functions are not seen, and then the value before them is recorded. Two-dimensional
    convolutions are taken to have time before frequency. Modules that run more than once in a pass are left out. A layer is named after
    its convolution or linear module, with slashes for dots.
    """
    calls: list[tuple[str, nn.Module, Any, Any]] = []
    handles = []
    for path, part in module.named_modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear, *NORMALISATIONS, *ACTIVATIONS)):

            def record(part: nn.Module, given: tuple, result: Any, path: str = path) -> None:
                calls.append((path, part, given[0] if given else None, result))

            handles.append(part.register_forward_hook(record))
    mode = module.training
    try:
        module.eval()(inputs)
    finally:
        module.train(mode)
        for handle in handles:
            handle.remove()
    ran = Counter(path for path, *_ in calls)
    layers = []
    for index, (path, part, _, result) in enumerate(calls):
        axes = next((axes for (kind, dims), axes in AXES.items() if isinstance(part, kind) and result.dim() == dims), None)
        if axes is None or ran[path] > 1:
            continue
        last_path, last = path, part
        for next_path, following, given, outcome in calls[index + 1 :]:
            belongs = given is result and isinstance(following, NORMALISATIONS + ACTIVATIONS) and ran[next_path] == 1
            if not belongs or isinstance(last, ACTIVATIONS):
                break
            last_path, last, result = next_path, following, outcome
        layers.append(Layer(path.replace(".", "/"), last_path, tuple(result.shape[1:]), axes, isinstance(last, NON_NEGATIVE)))
    return layers


STEPS = 64


def course_steps(network: Network, layer: Layer) -> int:
    """Steps of a layer's course over the clip: as many as layer and windows resolve, at most 64; 1 without a time axis."""
    resolution_s = min(network.window_s / max(layer.time_steps, 1), network.window_hop_s)
    return max(1, min(STEPS, int(network.clip_s / resolution_s + 1e-9)))


def frame_times(network: Network, layer: Layer) -> np.ndarray:
    """Start and end in seconds of every frame of a clip, window after window: [windows * time steps, 2]."""
    steps = max(layer.time_steps, 1)
    windows = network.window_start_s + np.arange(network.windows) * network.window_hop_s
    starts = windows[:, None] + np.arange(steps)[None, :] * network.window_s / steps
    return np.stack([starts.ravel(), starts.ravel() + network.window_s / steps], axis=1)


def counted_frames(network: Network, layer: Layer, valid_s: torch.Tensor, frames: int) -> torch.Tensor | None:
    """Which of a clip's first `frames` frames count, of clips with so many seconds of sound [clips]: [clips, frames]; None: all of them."""
    if network.padding and (layer.time_steps or network.windows > 1):
        steps = network.padding.steps(layer, network.valid_samples(valid_s))
        return torch.arange(frames, device=steps.device) < steps[:, None]
    if network.counts_padding or not layer.time_steps:
        return None
    starts = torch.tensor(frame_times(network, layer)[:frames, 0], device=valid_s.device, dtype=torch.float32)
    return starts < valid_s[:, None].clamp(min=1e-6)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next batch. glibc gives large blocks back to the kernel, which has to clear every page
    again for every layer: on a CPU that doubles the time of a forward pass. Does nothing where there is no `mallopt`."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(name: str = "auto") -> str:
    """The torch device to use: `auto` takes a GPU when there is one. There, float32 is float32: torch's convolutions would round to TF32,
    which moves values by up to a thousandth."""
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
        torch.zeros(1, device="cpu" if kind == "cpu" else name).item()  # on meta there are no values
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return "cpu" if kind == "cpu" else name
