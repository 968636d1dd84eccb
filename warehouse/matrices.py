"""Matrices of activations, neurons x clips: the one way in which all that comes after extraction reads them, however they lie.

A run of few clips has a .npy file a layer and reduction. One of many has a folder of parts in its place, .npy files of all neurons and some clips
each, named by the number of their first column.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_VALUES = 16_000_000


class Matrix:
    """A matrix [neurons, clips] over .npy files that have all neurons and some clips each, in order.

    Indexed as a numpy array by neurons, or neurons and clips; `np.asarray` reads the whole. Of one file that is its memory map; of several,
    what is asked for is read, and none is held open. Raises ValueError for files that do not fit each other.
    """

    ndim = 2

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        maps = [_mapped(file) for file in files]
        self.dtype, neurons = maps[0].dtype, len(maps[0])
        for file, part in zip(files, maps, strict=True):
            if (len(part), part.dtype) != (neurons, self.dtype):
                raise ValueError(f"{file} is {part.dtype} of {len(part)} neurons, beside others {self.dtype} of {neurons}")
        self._columns = np.cumsum([0, *(part.shape[1] for part in maps)])
        self.shape = (neurons, int(self._columns[-1]))
        self._map = maps[0] if len(maps) == 1 else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Values of neurons, or of (neurons, clips); raises IndexError where both are lists, which numpy would take for pairs."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if np.ndim(rows) and np.ndim(columns):
            raise IndexError("neurons and clips by lists: choose one after the other, matrix[neurons][:, clips]")
        if self._map is not None:
            return self._map[rows, columns]
        chosen, everything = np.arange(self.shape[1])[columns], isinstance(columns, slice) and columns == slice(None)
        found = np.empty((*np.arange(self.shape[0])[rows].shape, chosen.size), dtype=self.dtype)
        for (first, end), file in zip(pairwise(self._columns.tolist()), self._files, strict=True):
            here = (chosen >= first) & (chosen < end)
            if here.any():
                part = _mapped(file)[rows]
                if everything:
                    found[..., first:end] = part
                else:
                    found[..., here.reshape(-1)] = part[..., np.atleast_1d(chosen - first)[here.reshape(-1)]]
        return found if chosen.ndim else found[..., 0]

    def __eq__(self, other: object) -> bool:
        """No comparison by value, which numpy's users would expect: raises TypeError."""
        raise TypeError("a matrix is not compared: take np.asarray(matrix), or its blocks")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype=dtype) if copy else np.asarray(self[:], dtype=dtype)

    def blocks(self, values: int = BLOCK_VALUES) -> Iterator[tuple[slice, np.ndarray]]:
        """The whole, a block of neurons after the other, each read into memory, with its rows: one at the least, and at most so many values."""
        step = max(1, values // max(self.shape[1], 1))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, np.array(self[rows]) if self._map is not None else self[rows]


def open_matrix(path: Path) -> Matrix:
    """The matrix of an activation file, or of the folder of its parts. Raises OSError and ValueError for one that cannot be read, or lacks a part."""
    files = files_of(path)
    if not files:
        raise ValueError("a folder without parts")
    matrix = Matrix(files)
    if path.is_dir():
        for file, column in zip(files, matrix._columns.tolist(), strict=False):
            if file.name != part_name(column):
                raise ValueError(f"no part of it begins with clip {column}")
    return matrix


def files_of(path: Path) -> list[Path]:
    """The files of a matrix in order of its clips."""
    return sorted(path.glob("*.npy")) if path.is_dir() else [path]


def part_name(column: int) -> str:
    """Name of the part whose first column it is."""
    return f"{column:08d}.npy"


def joint_sha256(hashes: Iterable[str]) -> str:
    """SHA-256 of several files: that of their hashes, in hex, one after the other."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def write_matrix(path: Path, shape: tuple[int, int], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> str:
    """Write a matrix as numpy.save would, blocks of neurons as they come; returns the file's SHA-256. What is there is not sure to be whole, or on the
    disk, before `store.settle` or `store.publish`."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    digest = hashlib.sha256(header.getvalue())
    with path.open("wb") as file:
        file.write(header.getvalue())
        for block in blocks:
            values = np.ascontiguousarray(block, dtype=dtype)
            digest.update(values.data)
            file.write(values.data)
    return digest.hexdigest()


def _mapped(file: Path) -> np.ndarray:
    """A file of two axes, mapped."""
    found = np.load(file, mmap_mode="r")
    if found.ndim != 2:
        raise ValueError(f"an array of {found.ndim} axes, not neurons x clips")
    return found
