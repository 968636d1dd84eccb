"""Clusters of neurons that respond alike: FINCH over their activations, one partition a layer, and the entropies of each cluster."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ingest.methods.specificity import membership
from warehouse.store import UserError

BACKENDS = ("exact", "nn-descent", "finch-clust")
APPROXIMATE_ABOVE = {"nn-descent": 2_000, "finch-clust": 20_000}  # fewer points are searched exactly, here because that is faster
CHUNK_VALUES, PENDING_PAIRS = 2_000_000, 1_000_000
KEPT_BYTES = 1 << 30  # blocks of points kept in memory between products; beyond, they are read again
warnings.filterwarnings("ignore", "pynndescent is not installed")  # what finch-clust says when imported


def finch(points: np.ndarray, backend: str = "exact", *, device: str = "cpu", block: int | None = None, seed: int = 0) -> list[np.ndarray]:
    """Partitions by first-neighbour relations (FINCH, Sarfraz et al. 2019, arXiv 1902.11266, algorithm 1), Euclidean, finest first.

    Every point is linked to its first neighbour; the connected components are clusters, whose means over the original points are the next
    level's points, until one cluster remains. `points` is [n, d], any float type, also a memory map; each partition is labels [n] (int64),
    numbered from 0 by first member. The single cluster is left out unless it is the finest partition. Equally near neighbours: the lowest
    index. `backend` is exact, nn-descent (approximate, see `recall`) or finch-clust (the authors' library without its early exit,
    approximate above 20,000 points). Raises UserError for values that are not finite.
    """
    points = _checked(points, backend)
    if not len(points):
        return []
    if backend == "finch-clust":
        from finch import FINCH  # a second, which the other backends are spared

        columns = FINCH(np.asarray(points, dtype=np.float32), distance="euclidean", ensure_early_exit=False, random_state=seed)[0]
        return [_by_first_member(column) for column in columns.T]
    partitions = [np.arange(len(points))]  # the points themselves, which are no result
    means, sizes = points, np.ones(len(points), dtype=np.int64)
    while len(means) > 1:
        merge = _components(first_neighbors(means, backend, device=device, block=block, seed=seed))
        means, sizes = _sums(means, merge, int(merge.max()) + 1, sizes), np.bincount(merge, weights=sizes)
        means /= sizes[:, None]
        if len(means) > 1 or len(partitions) == 1:
            partitions.append(merge[partitions[-1]])
    return partitions[1:] or partitions


def first_neighbors(
    points: np.ndarray, backend: str = "exact", *, device: str = "cpu", block: int | None = None, seed: int = 0
) -> np.ndarray:
    """Index of every point's nearest other point, [n] (int64), Euclidean; -1 for a point that is alone. Backends as in `finch`.

    exact is what float64 arithmetic gives, the lowest index among equals. Products of blocks of `block` points (default 2,048; 8,192 on a
    GPU) in float32 leave the few candidates that their rounding cannot tell apart, and these are compared in float64. nn-descent searches
    at most 2,000 points exactly; `seed` is for the approximate backends.
    """
    points = _checked(points, backend)
    if len(points) < 2:
        return np.full(len(points), -1, dtype=np.int64)
    if backend == "finch-clust":
        from finch.finch import clust_rank

        return clust_rank(points.astype(np.float32), metric="euclidean", ann_threshold=20_000, random_state=seed)[2].astype(np.int64)
    if backend == "nn-descent" and len(points) > APPROXIMATE_ABOVE[backend]:
        return _approximate_neighbors(points, seed)
    return _exact_neighbors(points, device, block or (2048 if device == "cpu" else 8192))


def recall(neighbors: np.ndarray, points: np.ndarray, sample: int = 1000, seed: int = 0) -> float:
    """Share of a random sample of points whose neighbour is truly a nearest one (ties count), by float64 brute force.

    `neighbors` is [n] as from `first_neighbors`, `points` [n, d]; NaN with fewer than two points.
    """
    if len(points) < 2:
        return math.nan
    chosen = np.sort(np.random.default_rng(seed).choice(len(points), min(sample, len(points)), replace=False))
    center = points[chosen].mean(axis=0, dtype=np.float64)
    queries = points[chosen] - center
    nearest, index = np.full(len(chosen), np.inf), np.zeros(len(chosen), dtype=np.int64)
    for rows in _chunks(len(points), max(len(chosen), points.shape[1])):
        others = np.asarray(points[rows], dtype=np.float64) - center
        distance = (others**2).sum(axis=1)[None, :] - 2 * queries @ others.T
        inside = (chosen >= rows.start) & (chosen < rows.stop)
        distance[inside, chosen[inside] - rows.start] = np.inf
        best, least = distance.argmin(axis=1), distance.min(axis=1)
        index, nearest = np.where(least < nearest, best + rows.start, index), np.minimum(least, nearest)
    given = np.asarray(neighbors)[chosen]
    right = _distances(points, chosen, given) <= _distances(points, chosen, index) * (1 + 1e-12)
    return float((right & (given != chosen)).mean())


def choose_partitions(counts: Sequence[Sequence[int]]) -> list[int]:
    """The partition of each layer (an index into its list) for which the sum over pairs of layers of |a - b| / max(a, b) over the chosen
    cluster counts is least (the papers' rule, searched exactly; equal counts are allowed).

    `counts` is one list of cluster counts a layer. Branch and bound: a choice is worth at least half its distances to the nearest count
    that each other layer still has, or all of them where that layer's count is settled.
    """
    if any(not layer or min(layer) < 1 for layer in counts):
        raise UserError("Every layer needs at least one partition, and every partition at least one cluster: cluster the layer first.")
    if not counts:
        return []
    values, layers = np.ones((len(counts), max(map(len, counts)))), np.arange(len(counts))
    given = np.array([np.arange(values.shape[1]) < len(layer) for layer in counts])
    values[given] = [count for layer in counts for count in layer]
    cost = 1 - np.minimum(values[:, :, None, None], values) / np.maximum(values[:, :, None, None], values)  # [layer, option, layer, option]
    cost[layers, :, layers, :] = 0

    def total(choice: np.ndarray) -> float:
        return float(cost[layers[:, None], choice[:, None], layers, choice].sum() / 2)

    # A good start: around every count, the nearest of each layer.
    starts = [np.where(given, cost[layer, option], np.inf).argmin(axis=1) for layer, option in np.argwhere(given)]
    best = min(starts, key=total)
    best_total = total(best)
    stack = [given]
    while stack:
        kept, options = stack.pop(), np.zeros_like(given)
        while kept.any(axis=1).all() and (kept != options).any():
            options = kept
            settled = options.sum(axis=1) == 1
            share = 0.5 + 0.5 * (settled[None, :] & ~settled[:, None]) - 0.5 * (settled[:, None] & ~settled[None, :])
            nearest = np.where(options, cost, np.inf).min(axis=3)
            worth = np.where(options, (nearest * share[:, None, :]).sum(axis=2), np.inf)
            least = worth.min(axis=1)
            kept = options & (worth + (least.sum() - least)[:, None] < best_total - 1e-12)
        if not kept.any(axis=1).all():
            continue
        if settled.all():
            best, best_total = options.argmax(axis=1), total(options.argmax(axis=1))
            continue
        unsettled = np.where(settled, -1, np.where(options, worth, -np.inf).max(axis=1) - least).argmax()
        for option in sorted(np.flatnonzero(options[unsettled]), key=lambda option: -worth[unsettled, option]):
            child = options.copy()
            child[unsettled] = np.arange(child.shape[1]) == option
            stack.append(child)
    return [int(option) for option in best]


def cluster_means(matrix: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """Mean activation of every cluster on every clip, [clusters, clips] (float64), NaN for a cluster without neurons.

    `matrix` is [neurons, clips], read in blocks; `labels` [neurons], negative: in no cluster.
    """
    sums = _sums(matrix, labels, clusters)
    with np.errstate(invalid="ignore"):
        return sums / np.bincount(labels[labels >= 0], minlength=clusters)[:, None]


def class_activation(cluster_activation: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """CCAV: for each cluster and class, the sum over the class's clips of the cluster's mean activation, [clusters, classes] (float64).

    `cluster_activation` is [clusters, clips], `labels` class numbers [clips] (negative: no class) or membership [clips, classes]. NaN where
    a value of the class is not finite.
    """
    values, member = np.asarray(cluster_activation, dtype=np.float64), membership(labels).astype(np.float64)
    finite = np.isfinite(values)
    return np.where((1.0 - finite) @ member > 0, np.nan, np.where(finite, values, 0) @ member)


def entropy_bits(weights: np.ndarray) -> np.ma.MaskedArray:
    """Entropy in bits of the normalised weights [..., m], shape [...]; masked where undefined: no weight above zero, a negative one, or one
    that is not finite."""
    values = np.asarray(weights, dtype=np.float64)
    defined = np.asarray((np.isfinite(values) & (values >= 0)).all(axis=-1) & (values > 0).any(axis=-1))
    values = np.where(defined[..., None], values, 0)
    # Dividing by the greatest first keeps the sum of very large or very small weights in range.
    values = values / np.where(defined, values.max(axis=-1, initial=0), 1)[..., None]
    shares = values / np.where(defined, values.sum(axis=-1), 1)[..., None]
    bits = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=-1)
    return np.ma.masked_array(bits.clip(0), mask=~defined)


def entropy_ratio(weights: np.ndarray) -> np.ma.MaskedArray:
    """Entropy of the normalised weights [..., m] / log m, 0..1, [...] (SEnt over a CCAV); masked where `entropy_bits` is, and for m < 2."""
    bits, options = entropy_bits(weights), np.shape(weights)[-1]
    return np.ma.masked_array((bits.data / math.log2(max(options, 2))).clip(0, 1), mask=bits.mask | (options < 2))


def occupancy(
    labels: np.ndarray, positions: np.ndarray, shape: tuple[int, int, int], clusters: int | None = None
) -> tuple[np.ma.MaskedArray, np.ma.MaskedArray]:
    """PEnt and CEnt of every cluster, each [clusters], 0..1: the entropy of how its neurons spread over the (time, frequency) positions and
    over the channels, divided by log(times * frequencies) and log(channels).

    `labels` is [neurons], negative: in no cluster; `positions` [neurons, 3] as (channel, time, frequency); `shape` the layer's channels,
    times and frequencies. Masked for a cluster without neurons and where there is only one position or channel.
    """
    channels, times, frequencies = shape
    labels, positions = labels[labels >= 0], positions[labels >= 0].astype(np.int64)
    if ((positions < 0) | (positions >= shape)).any():
        raise UserError(f"A neuron's (channel, time, frequency) lies outside the layer's shape {tuple(shape)}: give the layer's own shape.")
    clusters = int(labels.max(initial=-1)) + 1 if clusters is None else clusters
    cells = positions[:, 1] * frequencies + positions[:, 2]
    return _count_entropy(labels, cells, times * frequencies, clusters), _count_entropy(labels, positions[:, 0], channels, clusters)


def _count_entropy(labels: np.ndarray, cells: np.ndarray, options: int, clusters: int) -> np.ma.MaskedArray:
    """Entropy ratio of each cluster's counts over cells, from the occupied cells alone: clusters x cells would not fit in memory."""
    keys, counts = np.unique(labels.astype(np.int64) * options + cells, return_counts=True)
    owner, sizes = keys // max(options, 1), np.bincount(labels, minlength=clusters)
    shares = counts / sizes[owner]
    entropy = np.bincount(owner, weights=-shares * np.log(shares), minlength=clusters)
    return np.ma.masked_array((entropy / math.log(max(options, 2))).clip(0, 1), mask=(sizes == 0) | (options < 2))


def _checked(points: np.ndarray, backend: str) -> np.ndarray:
    if backend not in BACKENDS:
        raise UserError(f"No clustering backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if points.ndim != 2:
        raise UserError(f"Points to cluster must be a matrix [neurons, clips], not of shape {points.shape}.")
    if len(points) > APPROXIMATE_ABOVE.get(backend, math.inf):
        try:
            import pynndescent  # noqa: F401
        except ImportError:
            raise UserError(f"The backend {backend} needs pynndescent: pip install pynndescent, or choose exact.") from None
    for rows in _chunks(*points.shape):
        if not (finite := np.isfinite(points[rows])).all():
            row, clip = np.argwhere(~finite)[0]
            raise UserError(f"Neuron {rows.start + row} on clip {clip} is {points[rows][row, clip]}: drop the neuron or the clip.")
    return points


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, CHUNK_VALUES // max(columns, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _approximate_neighbors(points: np.ndarray, seed: int) -> np.ndarray:
    from pynndescent import NNDescent

    center = cluster_means(points, np.zeros(len(points), dtype=np.int64), 1)[0]
    centered = np.empty(points.shape, dtype=np.float32)
    for rows in _chunks(*points.shape):
        centered[rows] = points[rows] - center
    graph = NNDescent(centered, n_neighbors=10, metric="euclidean", random_state=seed).neighbor_graph[0]
    # A point is usually its own first neighbour, but not among duplicates.
    other = (graph != np.arange(len(graph))[:, None]) & (graph >= 0)
    return graph[np.arange(len(graph)), other.argmax(axis=1)].astype(np.int64)


def _components(neighbors: np.ndarray) -> np.ndarray:
    """Connected components of the links i - neighbors[i]: labels [n] numbered by first member."""
    label = np.arange(len(neighbors))
    while True:
        following = np.minimum(label, label[neighbors])
        np.minimum.at(following, neighbors, following)
        following = following[following]
        if (following == label).all():
            return _by_first_member(label)
        label = following


def _by_first_member(labels: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _sums(matrix: np.ndarray, labels: np.ndarray, clusters: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted sum of each cluster's rows, [clusters, columns] (float64)."""
    sums = np.zeros((clusters, matrix.shape[1]))
    for rows in _chunks(*matrix.shape):
        order = np.argsort(labels[rows], kind="stable")
        values = np.asarray(matrix[rows], dtype=np.float64)[order]
        if weights is not None:
            values *= weights[rows][order, None]
        present, starts = np.unique(labels[rows][order], return_index=True)
        sums[present[present >= 0]] += np.add.reduceat(values, starts, axis=0)[present >= 0]
    return sums


def _distances(points: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Squared distances of pairs of points, scaled, [pairs], in float64 from their differences, so that nothing cancels."""
    result = np.empty(len(left))
    for pairs in _chunks(len(left), points.shape[1]):
        difference = points[left[pairs]].astype(np.float64) - points[right[pairs]]
        result[pairs] = ((difference * scale) ** 2).sum(axis=1)
    return result


def _exact_neighbors(points: np.ndarray, device: str, block: int) -> np.ndarray:
    """First neighbours among at least two points."""
    first: dict[bytes, int] = {}
    neighbors = np.full(len(points), -1, dtype=np.int64)
    for rows in _chunks(*points.shape):
        values = np.ascontiguousarray(points[rows]) + points.dtype.type(0)  # + 0 makes every zero the same bytes
        for number, row in enumerate(values, rows.start):
            copy = first.setdefault(hashlib.blake2b(row.data, digest_size=16).digest(), number)
            if copy != number:
                neighbors[number] = copy
                neighbors[copy] = number if neighbors[copy] < 0 else neighbors[copy]
    index = np.array(list(first.values()))
    if len(index) > 1:
        torch.set_float32_matmul_precision("highest")  # the error bound is float32's, not TF32's
        search = _Search(points, index, neighbors[index] >= 0, device, block)
        neighbors[search.index] = np.where(neighbors[search.index] < 0, search.run(), neighbors[search.index])
    return neighbors


class _Search:
    """First neighbours of distinct points, every two blocks met at most once.

    Points are taken by growing distance from their mean: a block's points then share nearly one rounding error, and two blocks lying
    farther apart than any of their points from its nearest so far (`upper`, a squared distance) need not meet. A product of blocks gives
    lower bounds on squared distances; the pairs whose bound does not exceed `upper` wait for `settle` to measure them.
    """

    def __init__(self, points: np.ndarray, index: np.ndarray, known: np.ndarray, device: str, block: int) -> None:
        self.points, self.device = points, device
        total, greatest = np.zeros(points.shape[1]), 0.0
        for rows in _chunks(*points.shape):
            values = points[rows].astype(np.float64)
            total, greatest = total + values.sum(axis=0), max(greatest, float(np.abs(values).max()))
        self.center, self.scale = total / len(points), 2.0 ** -math.frexp(greatest)[1]  # a power of two: scaling rounds nothing
        squares = np.empty(len(index))
        for rows in _chunks(len(index), points.shape[1]):
            squares[rows] = (((points[index[rows]] - self.center) * self.scale) ** 2).sum(axis=1)
        order = np.argsort(squares, kind="stable")
        self.index, self.squares = index[order], squares[order]
        self.blocks = [slice(start, min(start + block, len(index))) for start in range(0, len(index), block)]
        self.kept: dict[int, torch.Tensor] = {}
        self.room = KEPT_BYTES if device == "cpu" else torch.cuda.mem_get_info(device)[0] // 2
        self.left: tuple[int, torch.dtype | None, torch.Tensor] = (-1, None, torch.empty(0))
        self.space = torch.empty(min(block, len(index)) ** 2, device=device)  # for products: allocated each time, they scatter the heap
        self.upper = np.where(known[order], -np.inf, np.inf)  # nothing is below: a known neighbour is not searched
        self.nearest, self.neighbor = np.full(len(index), np.inf), np.full(len(index), -1, dtype=np.int64)
        self.pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # point, neighbour's index, lower bound

    def run(self) -> np.ndarray:
        """Index of each point's first neighbour, in the order of `index`; any for those that are known."""
        reach, blocks = np.sqrt(self.squares), self.blocks
        for number in range(len(blocks)):
            self.meet(number, number)
        for number, left in enumerate(blocks):
            for other, right in enumerate(blocks[number + 1 :], number + 1):
                gap = reach[right.start] * (1 - 1e-9) - reach[left.stop - 1] * (1 + 1e-9)
                if gap <= 0 or gap**2 <= max(self.upper[left].max(), self.upper[right].max()):
                    self.meet(number, other)
        self.settle()
        return self.neighbor

    def slack(self, rows: slice, dtype: torch.dtype) -> np.ndarray:
        """How far a squared distance may be off, each point's part: for products of d + 2 rounded terms, summed in any order."""
        return (2 * self.points.shape[1] + 64) * (torch.finfo(dtype).eps / 2 * self.squares[rows] + 2.0**-120)

    def load(self, number: int, dtype: torch.dtype) -> torch.Tensor:
        """A block's centred points, their squares less the slack, and ones: [points, d + 2]."""
        if dtype == torch.float32 and number in self.kept:
            return self.kept[number]
        rows = self.blocks[number]
        values = (self.points[self.index[rows]] - self.center) * self.scale
        columns = (values, (self.squares[rows] - self.slack(rows, dtype))[:, None], np.ones((len(values), 1)))
        loaded = torch.cat([torch.from_numpy(column).to(self.device, dtype) for column in columns], dim=1)
        if dtype == torch.float32 and loaded.nbytes <= self.room:
            self.kept[number], self.room = loaded, self.room - loaded.nbytes
        return loaded

    def meet(self, number: int, other: int, dtype: torch.dtype = torch.float32) -> None:
        """Bound the distances between two blocks, tighten `upper`, and keep the pairs that may be nearest."""
        if self.left[:2] != (number, dtype):
            rows = self.load(number, dtype)
            self.left = (number, dtype, torch.cat([rows[:, :-2] * -2, rows[:, -1:], rows[:, -2:-1]], dim=1))
        right, space = self.load(other, dtype).T, self.space.to(dtype)
        lower = torch.mm(self.left[2], right, out=space[: len(self.left[2]) * right.shape[1]].view(-1, right.shape[1]))
        if number == other:
            lower.fill_diagonal_(math.inf)
        sides = itertools.permutations((self.blocks[number], self.blocks[other]))
        for side, (points, others) in enumerate(itertools.islice(sides, 1 + (number != other))):
            least = lower.amin(dim=1 - side).cpu().numpy().astype(np.float64)
            slack = self.slack(points, dtype) + self.slack(others, dtype).max()
            self.upper[points] = np.minimum(self.upper[points], least + 2 * slack)
            active = np.flatnonzero(least <= self.upper[points])
            chosen = lower.index_select(side, torch.from_numpy(active).to(self.device))
            pairs = (chosen <= torch.from_numpy(self.upper[points][active]).to(self.device, dtype).unsqueeze(1 - side)).flatten()
            flat = np.flatnonzero(pairs.numpy()) if self.device == "cpu" else pairs.nonzero()[:, 0].cpu().numpy()
            if len(flat) > 16 * len(least) and dtype == torch.float32:
                return self.meet(number, other, torch.float64)  # float32 cannot tell these points apart
            place = np.divmod(flat, max(chosen.shape[1], 1))
            bound = chosen.flatten()[torch.from_numpy(flat).to(self.device)].cpu().numpy()
            self.pending.append((points.start + active[place[side]], self.index[others.start + place[1 - side]], bound))
        if sum(len(pairs[0]) for pairs in self.pending) > PENDING_PAIRS:
            self.settle()

    def settle(self) -> None:
        """Measure the waiting pairs in float64 and keep each point's nearest, the lowest index among equals."""
        point, neighbor, lower = (np.concatenate(parts) for parts in zip(*self.pending, strict=True))
        self.pending = [(point[:0], neighbor[:0], lower[:0])]
        kept = (lower <= self.upper[point]) & (lower < np.inf)
        point, neighbor = point[kept], neighbor[kept]
        distance = _distances(self.points, self.index[point], neighbor, self.scale)
        order = np.lexsort((neighbor, distance, point))
        point, first = np.unique(point[order], return_index=True)
        distance, neighbor = distance[order][first], neighbor[order][first]
        closer = (distance < self.nearest[point]) | ((distance == self.nearest[point]) & (neighbor < self.neighbor[point]))
        self.nearest[point[closer]], self.neighbor[point[closer]] = distance[closer], neighbor[closer]
        self.upper[point] = np.minimum(self.upper[point], self.nearest[point] * (1 + 1e-12))
