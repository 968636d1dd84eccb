"""Class membership as most clips have it, sparse: of many classes a clip is of few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from scipy import sparse

CHUNK_VALUES = 1_000_000
Labels: TypeAlias = "np.ndarray | sparse.sparray"
"""Class numbers [clips] (negative: no class), or membership [clips, classes], which may be sparse: of many clips few are of a class."""


def membership(labels: Labels) -> np.ndarray:
    """Class membership [clips, classes] (bool) from labels: class numbers [clips] (negative: no class), or membership already."""
    if not isinstance(labels, np.ndarray):
        return labels.toarray().astype(bool)
    if labels.ndim == 2:
        return labels.astype(bool)
    return labels[:, None] == np.arange(labels.max(initial=-1) + 1)


def by_class(labels: Labels) -> sparse.csr_array:
    """Membership [classes, clips] of ones (float64), sparse."""
    if labels.ndim == 2:
        found = sparse.csr_array(labels.T, dtype=bool)
        found.eliminate_zeros()
        found.sort_indices()
        return found.astype(np.float64)
    clips = np.flatnonzero(labels >= 0)
    shape = (int(labels.max(initial=-1)) + 1, len(labels))
    return sparse.csr_array((np.ones(len(clips)), (labels[clips], clips)), shape=shape)


def summed(values: np.ndarray, members: sparse.csr_array) -> np.ndarray:
    """Sums of values [neurons, clips] over the clips of every class, [neurons, classes] (float64)."""
    return (members @ np.ascontiguousarray(values.T, dtype=np.float64)).T


def labelled(labels: Labels) -> tuple[np.ndarray, sparse.csr_array]:
    """Which clips have a class (bool [clips]), and the membership [classes, clips] of these."""
    members = by_class(labels)
    known = np.zeros(members.shape[1], dtype=bool)
    known[members.indices] = True
    number = np.cumsum(known) - 1
    shape = (members.shape[0], int(known.sum()))
    return known, sparse.csr_array((members.data, number[members.indices], members.indptr), shape=shape)


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the rows of a matrix, one at the least, so small that a few copies of a block in float64 need little memory."""
    step = max(1, CHUNK_VALUES // max(shape[1], 1))
    for start in range(0, max(shape[0], 1), step):
        yield slice(start, start + step)
