"""A plane of points that keeps neighbours together (t-SNE), begun from and turned onto an earlier one, and how many neighbours it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from ingest.methods.mapping.correlations import Blocks, nearest

EXAGGERATED, PLAIN = (250, 12), 500
"""Steps with attraction exaggerated, and how much, and steps without (Belkina et al. 2019, Nature Communications 10; openTSNE's)."""
AGAIN = (100, 4)
"""The former where a layout begins from an earlier one: enough for points to cross others that they have left, too little to fold it anew."""
FEWEST = 5
"""Points below which there is nothing to optimise: their first two coordinates are their places."""
START = 1e-4
"""Deviation of the places that a first layout begins with."""
NEW = 10
"""Nearest points that a point without an earlier place begins between."""


@dataclass(frozen=True)
class Layout:
    """Places [points, 2], the length of 1 in the units of t-SNE, and the Kullback-Leibler divergence that it ended with (None: nothing was
    optimised)."""

    places: np.ndarray
    unit: float
    divergence: float | None = None


def lay_out(points: np.ndarray, *, perplexity: float = 30.0, seed: int = 0, earlier: Layout | None = None) -> Layout:
    """Places of points [points, dimensions] of length 1 by t-SNE (van der Maaten and Hinton 2008, J. Mach. Learn. Res. 9; openTSNE's FFT
    interpolation, Linderman et al. 2019), from exact neighbours, on one thread, so that one seed gives one layout.

    It begins with the first two coordinates, which keeps the large structure (Kobak and Berens 2019, Nature Communications 10), and then its
    greatest coordinate is 1; or with `earlier` places of the same points (NaN: none), as large as they were, and then it is turned, mirrored and
    scaled to these (see `aligned`).
    """
    if len(points) < FEWEST:
        places = np.pad(points.astype(np.float64), ((0, 0), (0, 2)))[:, :2]
        divergence = None
    else:
        from openTSNE import TSNEEmbedding
        from openTSNE.affinity import PerplexityBasedNN
        from openTSNE.nearest_neighbors import PrecomputedNeighbors

        perplexity = min(perplexity, (len(points) - 1) / 3)
        near, distances = nearest(points, min(len(points) - 1, int(3 * perplexity)))
        if earlier is None:
            first = points[:, :2].astype(np.float64)
            start, (steps, exaggeration) = (first - first.mean(axis=0)) * START / (first.std() or 1.0), EXAGGERATED
        else:
            start, (steps, exaggeration) = begun(near, earlier.places) * earlier.unit, AGAIN
        start = start + np.random.default_rng(seed).normal(0, START / 100, start.shape)  # points in one place would stay together
        affinities = PerplexityBasedNN(perplexity=perplexity, knn_index=PrecomputedNeighbors(near, distances), n_jobs=1)
        embedding = TSNEEmbedding(start, affinities, n_jobs=1, random_state=seed)
        embedding.optimize(steps, inplace=True, exaggeration=exaggeration, momentum=0.5)
        embedding.optimize(PLAIN, inplace=True, momentum=0.8)
        places, divergence = np.array(embedding, dtype=np.float64), float(embedding.kl_divergence)
    placed = places - (places.max(axis=0) + places.min(axis=0)) / 2
    placed /= np.abs(placed).max(initial=0) or 1.0
    if earlier is not None:
        placed = aligned(placed, earlier.places)
    return Layout(placed, float(places.std(axis=0).sum() / (placed.std(axis=0).sum() or 1.0)) or 1.0, divergence)


def begun(near: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Earlier places [points, 2]; a point without (NaN) gets the mean of its first NEW nearest [points, k] that have one, or the mean of all."""
    known = np.isfinite(earlier).all(axis=1)
    places = earlier.copy()
    for point in np.flatnonzero(~known):
        beside = near[point][known[near[point]]][:NEW]
        places[point] = earlier[beside if len(beside) else known].mean(axis=0)
    return places


def aligned(places: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Places [points, 2] moved, turned, mirrored and scaled as one, so that points that have earlier places (rows that are not NaN) lie as near to
    these as can be in the mean square (Procrustes; Gower 1975, Psychometrika 40). With fewer than three of them, or in one place, as they are."""
    known = np.isfinite(earlier).all(axis=1)
    if known.sum() < 3:
        return places
    centre, target = places[known].mean(axis=0), earlier[known].mean(axis=0)
    from_, to = places[known] - centre, earlier[known] - target
    left, singular, right = np.linalg.svd(from_.T @ to)
    if not singular.sum() or not (from_**2).sum():
        return places
    return (places - centre) @ (left @ right) * (singular.sum() / (from_**2).sum()) + target


def neighbours_kept(blocks: Blocks, places: np.ndarray, chosen: np.ndarray, k: int, among: tuple[int, ...]) -> dict[int, float]:
    """Share of the k nearest by correlation (standardised rows of `blocks`), mean over the points `chosen`, that are among so many nearest in the
    plane; by chance it is `among` / (points - 1). k is at most the number of other points."""
    rows = np.concatenate([block for block in _rows(blocks, chosen)])
    alike = np.concatenate([block @ rows.T for block in blocks()]).T
    alike[np.arange(len(chosen)), chosen] = -np.inf
    truly = np.argsort(-alike, axis=1, kind="stable")[:, :k]
    most = min(max(among) + 1, len(places))
    found = KDTree(places).query(places[chosen], most)[1]
    # The point itself may not be the first of several in its place.
    others = [row[row != point] for row, point in zip(found, chosen, strict=True)]
    return {
        size: float(np.mean([np.isin(true, row[:size]).mean() for true, row in zip(truly, others, strict=True)])) for size in among
    }  # fmt: skip


def _rows(blocks: Blocks, chosen: np.ndarray) -> list[np.ndarray]:
    """Rows of numbers `chosen`, which ascend."""
    first, rows = 0, []
    for block in blocks():
        inside = chosen[(chosen >= first) & (chosen < first + len(block))] - first
        rows.append(block[inside])
        first += len(block)
    return rows
