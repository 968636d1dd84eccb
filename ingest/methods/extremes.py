"""The clips that move each neuron most and least, found as batches come in."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch


def drawn_order(activations: np.ndarray, seed: int, name: str, *, lowest: bool = False) -> np.ndarray:
    """Every neuron's clips from its highest to its lowest (or from its lowest), [neurons, clips], for activations [neurons, clips].

    Equal ones come in an order drawn for each neuron by the seed and its layer's `name`: the order of files would show every rectified
    neuron the same lowest clips. Values that are NaN or infinite come last.
    """
    values = np.asarray(activations, dtype=np.float32)
    values = np.where(np.isfinite(values), values if lowest else -values, np.inf)
    places = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    drawn = np.random.default_rng([seed, zlib.crc32(name.encode())]).permuted(places, axis=1)
    order = np.argsort(np.take_along_axis(values, drawn, axis=1), axis=1, kind="stable")
    return np.take_along_axis(drawn, order, axis=1)


def answered(activations: np.ndarray) -> np.ndarray:
    """Clips that may count among a neuron's highest, [neurons, clips] (bool): those above 0 of a neuron that is never below 0, which leaves
    it cold at 0; all with a finite value of any other, whose sign says nothing."""
    values = np.asarray(activations, dtype=np.float32)
    finite = np.isfinite(values)
    return finite & ((values > 0) | is_signed(values)[:, None])


def is_signed(activations: np.ndarray) -> np.ndarray:
    """Which neurons [neurons] (bool) are below 0 on some clip."""
    values = np.asarray(activations)
    return (np.isfinite(values) & (values < 0)).any(axis=1)


def is_alive(activations: np.ndarray) -> np.ndarray:
    """Which neurons [neurons] (bool) are other than 0 on some clip."""
    values = np.asarray(activations)
    return (np.isfinite(values) & (values != 0)).any(axis=1)


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
        neurons = torch.arange(len(values))[:, None]
        courses = None if self.courses is None else torch.empty_like(self.courses)
        for side in (0, 1):
            keys = torch.cat([self.keys[side], ((~ordered if side else ordered) << 32).sub_(clip_ids)], dim=1)
            keys[:, k:].masked_fill_(missing, self.EMPTY)
            self.keys[side], order = keys.topk(k, dim=1)
            if courses is not None and self.courses is not None and self._course is not None:
                courses[side] = self._course[(order - k).clamp(min=0), :, neurons]  # all, of which those from before are put right
                row, slot = (order < k).nonzero(as_tuple=True)
                courses[side, row, slot] = self.courses[side, row, order[row, slot]]
        self.courses = courses

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
        """The state as arrays, for `merge`."""
        if self._waiting:
            self._rank()
        return {"keys": self.keys.numpy()} | ({} if self.courses is None else {"courses": self.courses.numpy()})

    def merge(self, state: Mapping[str, np.ndarray], prefix: str = "") -> None:
        """Take in the state that `arrays` gave of other clips, whose names may have got a prefix. In whatever order states come in, the ranking
        is the same: value and clip id order clips totally."""
        if self._waiting:
            self._rank()
        self.keys, order = torch.cat([self.keys, torch.from_numpy(state[f"{prefix}keys"])], dim=2).topk(self.keys.shape[2], dim=2)
        if self.courses is not None:
            courses = torch.cat([self.courses, torch.from_numpy(state[f"{prefix}courses"])], dim=2)
            self.courses = courses.gather(2, order[..., None].expand(*order.shape, courses.shape[3]))
