"""Of every neuron the others that go up and down with it most: Pearson correlation over clips, by blocks of neurons, in bounded memory.

Memory holds two blocks of neurons and their correlations, and k numbers a neuron; activations may lie in files. Every pair of blocks is met once,
for both. Correlations are float32, of values less their mean and divided by their length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

BLOCK, CHUNK = 2000, 8192
"""Neurons of a block, and clips read of them at a time."""
READ_VALUES = 16_000_000


class Rows(Protocol):
    """Activations [neurons, clips], read by rows and columns: an array, a memory map, or what gives rows of several."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Neurons and clips."""

    def __getitem__(self, key: Any, /) -> np.ndarray:
        """Those of a slice of neurons and a slice, or array of numbers, of clips."""


def neighbors(
    activations: Rows, k: int = 8, *, clips: np.ndarray | None = None, asked: np.ndarray | None = None, device: str = "cpu"
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Block after block of neurons: which, the numbers of the k other neurons of highest correlation, highest first, [neurons of the block, k]
    (int64; -1 where there are fewer), and the correlations (float32; NaN there). Equal correlations are ordered by number.

    `activations` is [neurons, clips] of any float type. `clips` are the numbers of those that count (default: all); one on which any neuron is not
    finite is left out. A neuron that is constant on the others, or whose values are too large to be squared in float32, is no neighbour and has none.
    Only blocks with a neuron that is `asked` for, bool [neurons], are looked at and given. Products are made on a torch `device`.
    """
    count = activations.shape[0]
    columns = _columns(_finite(activations, np.arange(activations.shape[1]) if clips is None else np.sort(clips)))
    mean, length = _moments(activations, columns)
    constant = torch.from_numpy(np.isinf(length)).to(device)
    parts = [_as_slice(chunk) for chunk in columns]
    blocks = [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    wanted = [asked is None or bool(asked[rows].any()) for rows in blocks]
    best = torch.full((count, k), -torch.inf, device=device)
    numbers = torch.full((count, k), -1, device=device)

    def unit(rows: slice, part: slice | np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(np.array(activations[rows, part], order="C")).to(device).float()
        return values.sub_(torch.from_numpy(mean[rows, None]).to(device)).div_(torch.from_numpy(length[rows, None]).to(device))

    for place, rows in enumerate(blocks):
        held = unit(rows, parts[0]) if len(parts) == 1 else None
        for other in range(place, len(blocks)):
            across = blocks[other]
            if not (wanted[place] or wanted[other]):
                continue
            product = torch.zeros((), device=device)
            for part in parts or [slice(0)]:
                left = unit(rows, part) if held is None else held
                product = product + left @ (left if other == place else unit(across, part)).T
            product[:, constant[across]] = -torch.inf
            product[constant[rows]] = -torch.inf
            if other == place:
                product.fill_diagonal_(-torch.inf)
            elif wanted[other]:
                _merge(best[across], numbers[across], product.T, rows.start)
            if wanted[place]:
                _merge(best[rows], numbers[rows], product, across.start)
        if wanted[place]:
            yield rows, *_ordered(best[rows].cpu().numpy(), numbers[rows].cpu().numpy())


def _merge(best: torch.Tensor, numbers: torch.Tensor, product: torch.Tensor, first: int) -> None:
    """Take the greatest of a product [neurons, others], the first of which has the number `first`, into the best so far [neurons, k]."""
    better = product.amax(1) > best[:, -1]
    if not better.any():
        return
    k, rows = best.shape[1], product[better]
    found, place = rows.topk(min(k + 1, product.shape[1]), dim=1)
    if found.shape[1] > k:  # of values equal to the last one taken topk takes any: where they count, let it be the first
        tied = ((found[:, k] == found[:, k - 1]) & (found[:, k] > best[better, -1])).nonzero()[:, 0]
        kept, where = rows[tied].sort(dim=1, descending=True, stable=True)
        found[tied], place[tied] = kept[:, : k + 1], where[:, : k + 1]
    place, order = place.sort(dim=1)
    both = torch.cat([best[better], found.gather(1, order)], dim=1)
    kept, where = both.sort(dim=1, descending=True, stable=True)  # the one met first of equals, which is that of the lowest number
    best[better] = kept[:, :k]
    numbers[better] = torch.cat([numbers[better], place + first], dim=1).gather(1, where[:, :k])


def _ordered(best: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and correlations [neurons, k], equal ones by number, -1 and NaN where there is none."""
    none = np.isneginf(best)
    numbers, best = np.where(none, -1, numbers), np.where(none, np.nan, best.clip(-1, 1))
    order = np.lexsort((numbers, -best), axis=1)
    return np.take_along_axis(numbers, order, axis=1), np.take_along_axis(best, order, axis=1)


def _by_rows(activations: Rows, clips: int) -> Iterator[slice]:
    step = max(1, min(BLOCK, READ_VALUES // max(1, clips)))
    for start in range(0, activations.shape[0], step):
        yield slice(start, min(start + step, activations.shape[0]))


def _finite(activations: Rows, clips: np.ndarray) -> np.ndarray:
    """Those of the clips on which all neurons are finite."""
    finite = np.ones(len(clips), dtype=bool)
    for rows in _by_rows(activations, len(clips)):
        finite &= np.isfinite(activations[rows, _as_slice(clips)]).all(axis=0)
    return clips[finite]


def _moments(activations: Rows, columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every neuron over clips in chunks, and the length of what is left of its values without it; infinite where they are constant, or
    cannot be squared. Both float32 [neurons], and the same however the activations lie, as sums go clip by clip."""
    clips = sum(map(len, columns))
    mean, length = np.zeros(activations.shape[0], np.float32), np.full(activations.shape[0], np.inf, np.float32)
    for rows in _by_rows(activations, min(clips, CHUNK)):
        total, squares = 0.0, 0.0
        low, high = np.inf, -np.inf
        for chunk in columns:
            values = activations[rows, chunk].astype(np.float32, order="F")
            total = total + values.mean(axis=1).astype(np.float64) * len(chunk)
            low, high = np.minimum(low, values.min(axis=1)), np.maximum(high, values.max(axis=1))
        if not clips:
            continue
        mean[rows] = total / clips
        for chunk in columns:
            values = activations[rows, chunk].astype(np.float32, order="F") - mean[rows, None]
            with np.errstate(over="ignore"):
                squares = squares + np.linalg.norm(values, axis=1).astype(np.float64) ** 2
        found = np.sqrt(squares).astype(np.float32)
        length[rows] = np.where((found > 1e-12) & (high > low), found, np.inf)
    return mean, length


def _columns(clips: np.ndarray) -> list[np.ndarray]:
    return [clips[start : start + CHUNK] for start in range(0, len(clips), CHUNK)]


def _as_slice(clips: np.ndarray) -> slice | np.ndarray:
    """Numbers that follow each other as a slice, which is read faster."""
    if len(clips) and clips[-1] - clips[0] + 1 == len(clips):
        return slice(int(clips[0]), int(clips[-1]) + 1)
    return clips
