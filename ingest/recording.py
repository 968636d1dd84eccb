"""Record a network's layers while it runs: reductions per clip, the course over time, and the clips that move each neuron most and least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ingest.networks import Layer, Network
from warehouse.store import UserError

STEPS = 64
REDUCTIONS = ("mean", "max")


def course_steps(network: Network, layer: Layer) -> int:
    """Steps of a layer's course over the clip: as many as layer and windows resolve, at most 64; 1 without a time axis."""
    resolution_s = min(network.window_s / max(layer.time_steps, 1), network.window_hop_s)
    return max(1, min(STEPS, int(network.clip_s / resolution_s + 1e-9)))


def frame_times(network: Network, layer: Layer) -> np.ndarray:
    """Start and end in seconds of every frame of a clip, window after window: [windows * time steps, 2]."""
    steps = max(layer.time_steps, 1)
    starts = np.arange(network.windows)[:, None] * network.window_hop_s + np.arange(steps)[None, :] * network.window_s / steps
    return np.stack([starts.ravel(), starts.ravel() + network.window_s / steps], axis=1)


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
    """Hooks on layers of a network that reduce each output at once, while it is still in the processor's cache.

    With `positions` every element of a convolution's output is a neuron, its value the mean over windows (reduction `window_mean`).
    With `shares` the share of a neuron's values above 0, over time, frequency and windows, is a third reduction (`active`).
    `valid_s` [clips] must be set before each forward pass of a network that does not count padding.
    """

    def __init__(
        self, network: Network, layers: Sequence[Layer], *, positions: bool = False, shares: bool = False, device: str = "cpu"
    ) -> None:
        self.network = network
        self.layers = list(layers)
        self.positions = positions
        self.reductions: tuple[str, ...] = ("window_mean",) if positions else (*REDUCTIONS, "active") if shares else REDUCTIONS
        self.valid_s: torch.Tensor | None = None
        self.batch: dict[str, Recorded] = {}
        self._courses = {
            layer.name: Course(course_weights(network, layer), device)
            for layer in layers
            if not positions and course_steps(network, layer) > 1
        }
        starts = {layer.name: frame_times(network, layer)[:, 0] for layer in layers}
        self._starts = {name: torch.tensor(times, device=device, dtype=torch.float32) for name, times in starts.items()}
        # A network that pads clips to one long window (Whisper) spends most frames on silence nobody counts: they are cut off first.
        self._used = {
            name: int((times < network.clip_s).sum())
            for name, times in starts.items()
            if network.windows == 1 and not network.counts_padding
        }
        self._token_order = {layer.name: self._tokens_by_time(layer, device) for layer in layers if layer.token_times}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Recorder:
        for layer in self.layers:
            module = self.network.module.get_submodule(layer.module)
            self._handles.append(module.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def neurons(self, layer: Layer) -> int:
        """Rows this recorder makes of a layer."""
        return int(np.prod(layer.shape)) if self.positions else layer.neurons

    def _hook(self, layer: Layer):
        def record(_module: torch.nn.Module, _inputs: object, output: object) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            assert isinstance(tensor, torch.Tensor)
            if tuple(tensor.shape[1:]) != layer.shape:
                raise UserError(
                    f"layer {layer.name} of {self.network.name} put out shape {tuple(tensor.shape[1:])}, it is declared as {layer.shape}"
                )
            self.batch[layer.name] = self._reduce_positions(tensor) if self.positions else self._reduce(layer, tensor)

        return record

    def _reduce_positions(self, output: torch.Tensor) -> Recorded:
        mean = output.float().unflatten(0, (-1, self.network.windows)).mean(dim=1)
        return Recorded({"window_mean": mean.flatten(1)}, None)

    def _reduce(self, layer: Layer, output: torch.Tensor) -> Recorded:
        """Mean over frequency to frames [clips, windows * time, neurons], then mean, maximum and course over those."""
        frames = self._by_clip(self._mean_over_frequency(layer, output))
        course = self._courses[layer.name](frames) if layer.name in self._courses else None
        elements = self._frames(layer, output)
        if self.network.counts_padding or self.valid_s is None or not layer.time_steps:
            valid = None
            mean = frames.mean(dim=1)
            peak = self._by_clip(elements).amax(dim=1)
        else:
            starts = self._starts[layer.name][None, : frames.shape[1]]
            valid = (starts < self.valid_s[:, None].clamp(min=1e-6))[:, :, None]
            mean = (frames * valid).sum(dim=1) / valid.sum(dim=1)
            peaks = elements.amax(dim=2) if elements.dim() == 4 else elements
            peak = self._by_clip(peaks).masked_fill(~valid, -torch.inf).amax(dim=1)
        reductions = {"mean": mean, "max": peak}
        if "active" in self.reductions:
            above = (elements > 0).float()
            above = self._by_clip(above.mean(dim=2) if above.dim() == 4 else above)
            reductions["active"] = above.mean(dim=1) if valid is None else (above * valid).sum(dim=1) / valid.sum(dim=1)
        return Recorded(reductions, course)

    def _by_clip(self, elements: torch.Tensor) -> torch.Tensor:
        """[clips * windows, ..., neurons] to [clips, windows * ..., neurons], float32."""
        return elements.float().reshape(len(elements) // self.network.windows, -1, elements.shape[-1])

    def _mean_over_frequency(self, layer: Layer, output: torch.Tensor) -> torch.Tensor:
        """[clips * windows, time, neurons]. Pooling, and reducing with the neurons in the last dimension, are many times faster than
        `mean(dim=3)` and `amax(dim=3)` on tensors that lie channels-last in memory, as fast convolutions leave them."""
        if layer.axes == "channel,time,frequency":
            return torch.nn.functional.avg_pool2d(output, (1, layer.shape[2])).squeeze(3).transpose(1, 2)
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


class Extremes:
    """The K highest and K lowest clips of a layer's neurons so far, with their courses; of equal values the lower clip id goes first.

    Side 0 is high, side 1 low. Value and clip id are packed into one integer that sorts as the ranking does. Values that are NaN never enter.
    Clips wait in buffers until `capacity` are there, as ranking many together is cheaper than a few at a time.
    """

    EMPTY = torch.iinfo(torch.int64).min

    def __init__(self, neurons: int, k: int, steps: int, capacity: int) -> None:
        self.keys = torch.full((2, neurons, k), self.EMPTY, dtype=torch.int64)
        self.courses = torch.zeros((2, neurons, k, steps), dtype=torch.float16) if steps > 1 else None
        self._waiting = 0
        self._ids = torch.empty(capacity, dtype=torch.int64)
        self._values = torch.empty((capacity, neurons))
        self._course = torch.empty((capacity, steps, neurons), dtype=torch.float16) if steps > 1 else None

    def update(self, values: torch.Tensor, clip_ids: torch.Tensor, course: torch.Tensor | None) -> None:
        """Take in at most `capacity` clips: values [clips, neurons] as stored, clip ids [clips], course [clips, steps, neurons] or None."""
        if self._waiting + len(clip_ids) > len(self._ids):
            self._rank()
        new = slice(self._waiting, self._waiting + len(clip_ids))
        self._ids[new] = clip_ids
        self._values[new] = values
        if self._course is not None and course is not None:
            self._course[new] = course
        self._waiting = new.stop

    def _rank(self) -> None:
        """Rank what waits."""
        k = self.keys.shape[2]
        values, clip_ids = self._values[: self._waiting].T.contiguous(), self._ids[: self._waiting]
        self._waiting = 0
        bits = (values + 0.0).view(torch.int32)
        ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
        missing = values.isnan()
        for side in (0, 1):
            keys = torch.cat([self.keys[side], ((~ordered if side else ordered) << 32).sub_(clip_ids)], dim=1)
            keys[:, k:].masked_fill_(missing, self.EMPTY)
            self.keys[side], order = keys.topk(k, dim=1)
            if self.courses is not None and self._course is not None:
                courses = self.courses[side].gather(1, order.clamp(max=k - 1)[:, :, None].expand_as(self.courses[side]))
                row, slot = (order >= k).nonzero(as_tuple=True)
                courses[row, slot] = self._course[order[row, slot] - k, :, row]
                self.courses[side] = courses

    def ranking(self) -> tuple[np.ndarray, np.ndarray]:
        """Clip ids [2, neurons, K], -1 where fewer than K clips had a value, and their values [2, neurons, K] (float32)."""
        if self._waiting:
            self._rank()
        ids = (-self.keys) & 0xFFFFFFFF
        ordered = ((self.keys + ids) >> 32).to(torch.int32)
        ordered[1] = ~ordered[1]
        values = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
        empty = self.keys == self.EMPTY
        return ids.masked_fill(empty, -1).numpy(), values.masked_fill(empty, torch.nan).numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, for `restore`."""
        if self._waiting:
            self._rank()
        return {"keys": self.keys.numpy()} | ({} if self.courses is None else {"courses": self.courses.numpy()})

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take the state back from `arrays`."""
        self.keys = torch.from_numpy(state["keys"])
        self.courses = torch.from_numpy(state["courses"]) if "courses" in state else None
