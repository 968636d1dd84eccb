"""Neurons by how they go up and down over clips together: vectors whose distance is correlation, their principal components, the nearest of each.

Matrices are read in blocks, as many times as needed, so that memory is bounded by neurons x components and clips x components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

Blocks = Callable[[], Iterable[np.ndarray]]
"""Gives the matrices [neurons, clips] that together hold all neurons, from the first on; asked again for each pass."""
PASSES, SPARE = 8, 10
"""Of the iteration to principal components, and components beyond those asked for that make it converge."""
BLOCK = 512


def varies(activations: np.ndarray) -> np.ndarray:
    """Which neurons [neurons] of a matrix [neurons, clips] have a correlation: those that are finite throughout and not constant, to within the
    rounding of the mean."""
    finite = np.isfinite(activations).all(axis=1)
    values = np.where(finite[:, None], activations, 0).astype(np.float64)
    return finite & (values.std(axis=1) > 1e-9 * np.abs(values).max(axis=1, initial=0))


def standardised(activations: np.ndarray) -> np.ndarray:
    """Rows less their mean and of length 1 [neurons, clips]: the squared distance of two is 2 - 2 r, r their Pearson correlation."""
    values = np.asarray(activations, dtype=np.float64)
    values = values - values.mean(axis=1, keepdims=True)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def components(blocks: Blocks, clips: int, dimensions: int, seed: int) -> np.ndarray:
    """Scores [neurons, dimensions] of standardised rows on their first principal axes through the origin, by subspace iteration from a seeded
    start (Halko, Martinsson and Tropp 2011, SIAM Review 53, algorithm 4.4); the rows turned to their axes, whole, where there are no more clips.

    Scores are made as long as the rows were, 1, so that what the components leave out counts for no nearness.
    """
    width = min(clips, dimensions + SPARE)
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((clips, width)))[0]
    for _ in range(PASSES):
        product = np.zeros((clips, width))
        for block in blocks():
            product += block.T @ (block @ axes.astype(np.float32))
        axes = np.linalg.qr(product)[0]
    scores = np.concatenate([block @ axes.astype(np.float32) for block in blocks()]).astype(np.float64)
    turned = scores @ np.linalg.svd(scores, full_matrices=False)[2].T
    kept = turned[:, :dimensions]
    # The direction of an axis is arbitrary: its longest score counts as positive.
    kept = kept * np.where(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])] < 0, -1, 1)
    return (kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def nearest(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each point [points, dimensions] of length 1 the k nearest others, nearest first: their numbers and distances [points, k]. Exact."""
    found = np.empty((len(points), k), dtype=np.int32)
    distances = np.empty((len(points), k), dtype=np.float64)
    for start in range(0, len(points), BLOCK):
        rows = points[start : start + BLOCK]
        product = rows @ points.T
        product[np.arange(len(rows)), np.arange(start, start + len(rows))] = -np.inf
        near = np.argpartition(-product, k - 1, axis=1)[:, :k] if k < len(points) - 1 else np.argsort(-product, axis=1)[:, :k]
        alike = np.take_along_axis(product, near, axis=1)
        order = np.lexsort((near, -alike), axis=1)
        found[start : start + BLOCK] = np.take_along_axis(near, order, axis=1)
        distances[start : start + BLOCK] = np.sqrt(np.maximum(0, 2 - 2 * np.take_along_axis(alike, order, axis=1)))
    return found, distances
