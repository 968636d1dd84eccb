"""Record a network's layers while it runs: reductions per clip, the course over time, and the clips that move each neuron most and least."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ingest.networks.network import Layer, Network, check_attributed, counted_frames, course_steps, frame_times
from ingest.sounds.sound import MARGIN_S, sought_amiss
from warehouse import ledger, store
from warehouse.store import UserError

REDUCTIONS = ("mean", "max")
PIECE_BYTES, LATER_BYTES = 8 << 20, 64 << 20
"""Of a large map's output that are read twice in a row, and of frames and maxima that wait for other layers'."""


def course_weights(network: Network, layer: Layer) -> np.ndarray:
    """Matrix [windows * time steps, course steps] that averages frames into equal steps of the clip by how far they overlap them."""
    frames = frame_times(network, layer)
    edges = np.linspace(0, network.clip_s, course_steps(network, layer) + 1)
    overlap = np.minimum(frames[:, 1, None], edges[None, 1:]) - np.maximum(frames[:, 0, None], edges[None, :-1])
    overlap = overlap.clip(0)
    empty = overlap.sum(axis=0) == 0  # beyond the last window: hold its value
    overlap[-1, empty] = 1
    return overlap / overlap.sum(axis=0)


@dataclass
class Recorded:
    """One batch of one layer: each reduction [clips, neurons], the course [clips, steps, neurons] (None without a time axis)."""

    reductions: dict[str, torch.Tensor]
    course: torch.Tensor | None


class Course:
    """Averages frames [clips, frames, neurons] into a layer's course [clips, steps, neurons].

    Each step is the weighted sum of a few frames: as bags of rows that is eight times faster than the product with a mostly empty matrix.
    """

    def __init__(self, weights: np.ndarray, device: str) -> None:
        steps, frames = np.nonzero(weights.T)
        self.frames = torch.tensor(frames, device=device)
        self.weights = torch.tensor(weights[frames, steps], dtype=torch.float32, device=device)
        self.ends = torch.tensor(np.bincount(steps).cumsum(), device=device)
        self.bags: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self.whole = self(torch.ones((1, len(weights), 1), device=device))
        """What the weights of a clip's steps sum up to [1, steps, 1], but for rounding 1."""

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames beyond the last that counts may have been cut off."""
        clips, length, neurons = frames.shape
        if (clips, length) not in self.bags:
            clip = torch.arange(clips, device=frames.device)[:, None]
            starts = torch.cat([clip.new_zeros(1), (self.ends + clip * len(self.frames)).flatten()[:-1]])
            self.bags = {(clips, length): ((self.frames + clip * length).flatten(), starts, self.weights.repeat(clips))}
        rows, starts, weights = self.bags[clips, length]
        sums = torch.nn.functional.embedding_bag(rows, frames.flatten(0, 1), starts, mode="sum", per_sample_weights=weights)
        return sums.view(clips, -1, neurons)


class Recorder:
    """Hooks on layers of a network that reduce each output at once, while it is still in the processor's cache, to frames and maxima. What is made of
    those waits for other layers': between a network's own steps the processor has to fetch the code for every small step anew.

    With `positions` every element of a convolution's output is a neuron, its value the mean over windows (reduction `window_mean`).
    With `shares` the share of a neuron's values above 0, over time, frequency and windows, is a third reduction (`active`).
    With `first` the value of the first token (of AST the CLS token, of BEATs the first patch), its mean over windows, is the only reduction
    (`cls`), without a course; layers of one value a clip keep that value, but for those that pool what a `token_module` puts out.
    `valid_s` [clips], the seconds of sound in each clip (kept as float64, on the processor), must be set before each forward pass of a network
    that does not count padding, and `batch` be empty.
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[Layer],
        *,
        positions: bool = False,
        shares: bool = False,
        first: bool = False,
        device: str = "cpu",
    ) -> None:
        self.network = network
        self.layers = list(layers)
        self.positions, self.first = positions, first
        whole = (*REDUCTIONS, "active") if shares else REDUCTIONS
        self.reductions: tuple[str, ...] = ("window_mean",) if positions else ("cls",) if first else whole
        self._device = device
        self._valid_s: torch.Tensor | None = None
        self._masks: dict[tuple[str, int], torch.Tensor | None] = {}
        self._batch: dict[str, Recorded] = {}
        self._later: dict[str, Callable[[], Recorded]] = {}
        self._later_bytes = 0
        self._courses = {
            layer.name: Course(course_weights(network, layer), device)
            for layer in layers
            if not (positions or first) and course_steps(network, layer) > 1
        }
        starts = {layer.name: frame_times(network, layer)[:, 0] for layer in layers}
        self._counts = {name: len(times) for name, times in starts.items()}
        # A network that pads clips to one long window (Whisper) spends most frames on silence nobody counts: they are cut off first.
        self._used = {
            name: int((times < network.clip_s).sum())
            for name, times in starts.items()
            if network.windows == 1 and not network.counts_padding
        }
        self._token_order = {layer.name: self._tokens_by_time(layer, device) for layer in layers if layer.token_times}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def valid_s(self) -> torch.Tensor | None:
        """Seconds of sound in each clip of the batch [clips]; None: as many as the network takes."""
        return self._valid_s

    @valid_s.setter
    def valid_s(self, seconds: torch.Tensor | None) -> None:
        seconds = None if seconds is None else seconds.to("cpu", torch.float64)
        if seconds is None or self._valid_s is None or not torch.equal(seconds, self._valid_s):
            self._masks.clear()
        self._valid_s = seconds

    @property
    def batch(self) -> dict[str, Recorded]:
        """What the last pass recorded, by layer."""
        self._settle()
        return self._batch

    def __enter__(self) -> Recorder:
        for layer in self.layers:
            module = self.network.module.get_submodule(self._hooked(layer))
            self._handles.append(module.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hooked(self, layer: Layer) -> str:
        return layer.token_module if self.first and layer.token_module else layer.module

    def neurons(self, layer: Layer) -> int:
        """Rows this recorder makes of a layer."""
        return int(np.prod(layer.shape)) if self.positions else layer.neurons

    def moments(self, layer: Layer) -> torch.Tensor:
        """How many of a layer's windows x time steps are counted in each clip [clips], of whose seconds `valid_s` tells."""
        assert self.valid_s is not None
        frames = self._used.get(layer.name, self._counts[layer.name])
        valid = self._valid(layer, frames)
        return torch.full((len(self.valid_s),), frames) if valid is None else valid.sum(dim=(1, 2)).cpu()

    def _hook(self, layer: Layer):
        def record(_module: torch.nn.Module, _inputs: object, output: object) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if not isinstance(tensor, torch.Tensor):
                raise UserError(
                    f"layer {layer.name} of {self.network.name} put out a {type(tensor).__name__} instead of a tensor: leave it out"
                )
            clips = len(tensor) // self.network.windows if self.valid_s is None else len(self.valid_s)
            check_attributed(self.network, layer, tensor, clips, layer.name in self._batch or layer.name in self._later)
            if tuple(tensor.shape[1:]) != layer.shape and self._hooked(layer) == layer.module:
                raise UserError(
                    f"layer {layer.name} of {self.network.name} put out shape {tuple(tensor.shape[1:])}, it is declared as {layer.shape}"
                )
            if self.positions:
                self._batch[layer.name] = self._reduce_positions(tensor)
            elif self.first:
                self._batch[layer.name] = self._reduce_first(layer, tensor)
            else:
                self._reduce(layer, tensor)

        return record

    def _reduce_first(self, layer: Layer, output: torch.Tensor) -> Recorded:
        token = output[:, 0] if layer.axes == "token,unit" or self._hooked(layer) != layer.module else output
        return Recorded({"cls": self.network.mean_over_windows(token.float())}, None)

    def _reduce_positions(self, output: torch.Tensor) -> Recorded:
        return Recorded({"window_mean": self.network.mean_over_windows(output.float()).flatten(1)}, None)

    def _reduce(self, layer: Layer, output: torch.Tensor) -> None:
        """Means over frequency, and maxima; the rest at once, or of maps, whose output none of these is a view of, later."""
        counted = self._counts[layer.name]
        valid = self._valid(layer, self._used.get(layer.name, counted) if layer.axes == "token,unit" else counted)
        found = [
            (self._over_frequency(layer, piece), self._peaks(layer, piece, valid is not None))
            for piece in reversed(self._pieces(layer, output))
        ]
        means, peaks = ([each[part] for each in reversed(found)] for part in (0, 1))
        active = None
        if "active" in self.reductions:
            above = (self._frames(layer, output) > 0).float()
            above = self._by_clip(above.mean(dim=2) if above.dim() == 4 else above)
            active = above.mean(dim=1) if valid is None else (above * valid).sum(dim=1) / valid.sum(dim=1)
        self._later[layer.name] = partial(self._recorded, layer, valid, means, peaks, active)
        self._later_bytes += sum(part.numel() * part.element_size() for part in (*means, *peaks))
        if not layer.is_map or self._later_bytes > LATER_BYTES:
            self._settle()

    @torch.inference_mode()
    def _settle(self) -> None:
        self._batch |= {name: recorded() for name, recorded in self._later.items()}
        self._later.clear()
        self._later_bytes = 0

    def _recorded(
        self, layer: Layer, valid: torch.Tensor | None, means: list[torch.Tensor], peaks: list[torch.Tensor], active: torch.Tensor | None
    ) -> Recorded:
        """Mean, maximum and course over frames [clips, windows * time, neurons]."""
        if layer.is_map:
            means = [part.squeeze(3).transpose(1, 2) for part in means]
        frames = self._by_clip(means[0] if len(means) == 1 else torch.cat(means))
        highest = peaks[0] if len(peaks) == 1 else torch.cat(peaks)
        heard = frames if valid is None else frames.where(valid, 0)
        course = self._course(layer, heard if self.network.padding else frames, valid)
        mean = frames.mean(dim=1) if valid is None else heard.sum(dim=1) / valid.sum(dim=1)
        peak = (highest if valid is None else highest.masked_fill(~valid, -torch.inf)).amax(dim=1)
        return Recorded({"mean": mean, "max": peak} | ({} if active is None else {"active": active}), course)

    def _pieces(self, layer: Layer, output: torch.Tensor) -> Sequence[torch.Tensor]:
        """A convolution's output in pieces of whole clips that a processor's cache holds while they are read twice, from the last, which was written
        last; all of it where it is small or lies otherwise."""
        size = output.numel() * output.element_size()
        if not layer.is_map or not output.is_cpu or size < 3 * PIECE_BYTES or not output.is_contiguous(memory_format=torch.channels_last):
            return [output]
        windows = self.network.windows
        return output.split(max(1, len(output) // windows * PIECE_BYTES // size) * windows)

    def _peaks(self, layer: Layer, output: torch.Tensor, by_frame: bool) -> torch.Tensor:
        """Maxima by frame [clips, windows * time, neurons], or of as many frames at a time as it likes; float32."""
        if layer.is_map and not by_frame:
            return self._by_clip(output.amax(dim=(2, 3)))
        elements = self._frames(layer, output)
        if by_frame:
            return self._by_clip(elements.amax(dim=2) if elements.dim() == 4 else elements)
        return self._by_clip(elements).amax(dim=1, keepdim=True)

    def _valid(self, layer: Layer, frames: int) -> torch.Tensor | None:
        """Which of that many frames hold a clip [clips, frames, 1]; None: all of them. Told once for batches of clips of the same lengths."""
        if self.valid_s is None:
            return None
        if (layer.name, frames) not in self._masks:
            counted = counted_frames(self.network, layer, self.valid_s, frames)
            whole = counted is None or bool(counted.all())
            self._masks[layer.name, frames] = None if counted is None or whole else counted[:, :, None].to(self._device)
        return self._masks[layer.name, frames]

    def _course(self, layer: Layer, frames: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor | None:
        """NaN where a network with its own way of padding heard nothing of the clip, whose frames are 0."""
        if layer.name not in self._courses:
            return None
        course = self._courses[layer.name]
        if self.valid_s is None or not self.network.padding:
            return course(frames)
        if valid is None:
            return course(frames).div_(course.whole)
        weights = course(valid.float())
        return course(frames).div_(weights).masked_fill_(weights == 0, torch.nan)

    def _by_clip(self, elements: torch.Tensor) -> torch.Tensor:
        """[clips * windows, ..., neurons] to [clips, windows * ..., neurons], float32."""
        return elements.float().reshape(len(elements) // self.network.windows, -1, elements.shape[-1])

    def _over_frequency(self, layer: Layer, output: torch.Tensor) -> torch.Tensor:
        """Means [clips * windows, time, neurons], of maps [clips * windows, neurons, time, 1]. Pooling, and reducing with the neurons in the last
        dimension, are many times faster than `mean(dim=3)` and `amax(dim=3)` on tensors that lie channels-last in memory, as fast convolutions leave
        them."""
        if layer.is_map:
            return torch.nn.functional.avg_pool2d(output, (1, layer.shape[2]))
        frames = self._frames(layer, output)
        return frames.mean(dim=2) if frames.dim() == 4 else frames

    def _frames(self, layer: Layer, output: torch.Tensor) -> torch.Tensor:
        """[clips * windows, time, neurons] or [clips * windows, time, frequency, neurons], without tokens that stand for no moment."""
        if layer.axes == "unit":
            return output[:, None]
        if layer.axes == "channel,time,frequency":
            return output.permute(0, 2, 3, 1)
        if layer.axes == "channel,time":
            return output.transpose(1, 2)
        used = self._used.get(layer.name)
        return output[:, self._token_order[layer.name][:used]] if layer.token_times else output[:, :used]

    @staticmethod
    def _tokens_by_time(layer: Layer, device: str) -> torch.Tensor:
        """Indices [time, frequency] of the tokens that stand for a moment."""
        assert layer.token_times
        times = np.array(layer.token_times)
        order = np.argsort(times, kind="stable")
        order = order[times[order] >= 0]
        return torch.tensor(order.reshape(layer.time_steps, -1), device=device)


def padding_parameter(warehouse: Path, network: Network, dataset: str, content_sha256: str) -> dict[str, object]:
    """How the network takes short clips, where that changes a value: runs from before over whole clips stay what they are."""
    if network.padding is None:
        return {}
    whole = torch.tensor([network.samples])
    for layer in network.layers:
        counted = frame_times(network, layer)[:, 0] < (math.inf if network.counts_padding else network.clip_s)
        if (layer.time_steps or network.windows > 1) and int(network.padding.steps(layer, whole)) != counted.sum():
            return {"padding": network.padding.name}
    with store.connect_readonly(warehouse) as con:
        [(shortest_s,)] = con.execute(
            "SELECT min(duration_s) FROM clip JOIN dataset USING (dataset_id) WHERE dataset.name = ? AND content_sha256 = ?",
            [dataset, content_sha256],
        ).fetchall()
    short = shortest_s is not None and shortest_s < network.clip_s - 0.5 / network.sample_rate_hz
    return {"padding": network.padding.name} if short else {}


def windows_parameter(warehouse: Path, dataset: str, content_sha256: str, paths: dict[str, Path], clip_s: float) -> dict[str, object]:
    """The parameter of runs in which some clip's window was another, or none, before windows were taken from a decode of the whole."""
    with store.connect_readonly(warehouse) as con:
        long = con.execute(
            "SELECT clip.name FROM clip JOIN dataset USING (dataset_id) WHERE dataset.name = ? AND content_sha256 = ? AND duration_s > ?",
            [dataset, content_sha256, clip_s + 2 * MARGIN_S],
        ).fetchall()
    return {"windows": "of the whole decode"} if any(name in paths and sought_amiss(paths[name]) for (name,) in long) else {}


def takes_shares(warehouse: Path, stage: str, parameters: dict[str, object], key: dict[str, Any], for_specificity: bool) -> bool:
    """Whether to record shares that nobody chose: not where a run without them is there, unless it is to be measured by them for the first
    time; otherwise where they are wanted, or were recorded."""

    def found(**shares: bool) -> int | None:
        for dtype in ("float16", "auto") if parameters["dtype"] == "float16" else (parameters["dtype"],):
            if run := ledger.find(warehouse, stage, parameters={**parameters, **shares, "dtype": dtype}, **key):
                return run[0]
        return None

    without = found()
    if without is None:
        return for_specificity or found(shares=True) is not None
    if not for_specificity:
        return False
    with store.connect_readonly(warehouse) as con:
        query = """SELECT count(*) FROM run WHERE stage = 'specificity'
                   AND parameters::JSON ->> 'activations' = (SELECT run_key FROM run WHERE run_id = ?)"""
        [(measured,)] = con.execute(query, [without]).fetchall()
    return measured == 0


@dataclass
class Batch:
    """Clips decoded together: how many were asked, the positions that could be read, their names, waveforms [n, samples], real seconds [n]."""

    clips: int
    columns: list[int]
    names: list[str]
    waveforms: np.ndarray
    valid_s: np.ndarray
    failures: list[tuple[str, str]]


def collect(clips: Sequence[tuple[int, str]], results: list[tuple[np.ndarray, float] | str]) -> Batch:
    """Stack what was loaded and list what was not."""
    read = [(position, result) for position, result in enumerate(results) if not isinstance(result, str)]
    failures = [(clip[1], result) for clip, result in zip(clips, results, strict=True) if isinstance(result, str)]
    waveforms = np.stack([result[0] for _, result in read]) if read else np.zeros((0, 0), dtype=np.float32)
    valid_s = np.array([result[1] for _, result in read], dtype=np.float64)
    return Batch(len(clips), [position for position, _ in read], [clips[position][1] for position, _ in read], waveforms, valid_s, failures)
