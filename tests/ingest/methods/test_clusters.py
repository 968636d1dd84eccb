"""Clusters against finch-clust, brute force, the papers' cluster counts and entropies worked out by hand."""

import importlib
import itertools
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from ingest.methods.clusters import (
    choose_partitions,
    class_activation,
    cluster_means,
    entropy_bits,
    entropy_ratio,
    finch,
    first_neighbors,
    occupancy,
    recall,
)
from warehouse.store import UserError

# Cluster counts of every partition of conv1..conv6 and fc1, as the authors of the CLAP study released them, and the ones they chose.
AUTHORS = [
    [142626, 21326, 4903, 1102, 227, 27, 5],
    [82080, 15439, 2818, 656, 132, 19, 4],
    [43304, 7528, 1253, 267, 35, 4],
    [24544, 4832, 1235, 204, 15, 2],
    [10533, 2591, 921, 63, 12],
    [24284, 5862, 1721, 178, 38, 8],
    [211, 31, 4],
]
CHOSEN = [227, 132, 267, 204, 63, 178, 211]


def draw(seed):
    """Blobs, sparse rectified mixtures or a few dimensions, 200 to 5000 points."""
    rng = np.random.default_rng(seed)
    n = 5000 if seed == 0 else int(rng.integers(200, 3000))
    if seed % 3 == 0:
        points = rng.normal(size=(n, 20)) + 5 * rng.normal(size=(12, 20))[rng.integers(0, 12, n)]
    elif seed % 3 == 1:
        points = (rng.normal(size=(n, 8)) @ rng.normal(size=(8, 120)) + rng.normal(size=(n, 120)) - 2).clip(0)
        points = points[points.any(axis=1)]
    else:
        points = rng.random((n, 1 + seed % 4))
    return points.astype(np.float32)


def canonical(labels):
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse]


def nearest(points):
    """Brute force in float64, the lowest index among equals."""
    points = points.astype(np.float64)
    result = []
    for index, point in enumerate(points):
        distance = ((points - point) ** 2).sum(axis=1)
        distance[index] = np.inf
        result.append(distance.argmin())
    return np.array(result)


@pytest.fixture(scope="module")
def finch_clust():
    """The library without its approximate search, which up to 20,000 points it does not use and which is slow to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pynndescent", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield importlib.import_module("finch")


@pytest.mark.parametrize("seed", range(20))
def test_exact_partitions_equal_those_of_finch_clust(seed, finch_clust):
    points = draw(seed)
    ours, theirs = finch(points), finch(points, "finch-clust")
    assert len(ours) == len(theirs) > 1
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine == reference).all()  # both numbered by first member
        assert (np.unique(mine) == np.arange(mine.max() + 1)).all()
    for finer, coarser in itertools.pairwise(ours):
        assert len(np.unique(finer * len(points) + coarser)) == finer.max() + 1 > coarser.max() + 1  # nested


@pytest.mark.parametrize("seed", range(3))
def test_partitions_do_not_depend_on_the_order_of_points(seed):
    points = draw(seed)[:1000]
    order = np.random.default_rng(seed).permutation(len(points))
    shuffled = finch(points[order], block=128)
    partitions = finch(points)
    assert len(shuffled) == len(partitions)
    for one, other in zip(partitions, shuffled, strict=True):
        assert (canonical(one[order]) == canonical(other)).all()


@pytest.mark.parametrize("seed", range(3))
def test_every_level_clusters_the_means_of_the_points_themselves(seed):
    points = draw(seed)[:400].astype(np.float64)
    labels, levels = np.arange(len(points)), []
    while labels.max() > 0:
        links = nearest(np.stack([points[labels == cluster].mean(axis=0) for cluster in range(labels.max() + 1)]))
        group = np.arange(len(links))
        for cluster, link in enumerate(links):
            group[group == group[cluster]] = group[link]
        labels = np.unique(group, return_inverse=True)[1][labels]
        levels.append(canonical(labels))
    assert [list(canonical(level)) for level in finch(points)] == [list(level) for level in levels[:-1]]


def test_single_points_and_pairs():
    assert finch(np.zeros((0, 3))) == []
    assert [list(labels) for labels in finch(np.zeros((1, 3)))] == [[0]]
    assert [list(labels) for labels in finch(np.array([[0.0], [1]]))] == [[0, 0]]
    assert list(first_neighbors(np.zeros((1, 3)))) == [-1]
    assert first_neighbors(np.zeros((0, 3))).shape == (0,)


def test_duplicates_and_ties_take_the_lowest_index():
    assert list(first_neighbors(np.ones((4, 2)))) == [1, 0, 0, 0]
    assert list(first_neighbors(np.array([[0.0], [1], [2], [3], [-0.0]]))) == [4, 0, 1, 2, 0]
    assert list(first_neighbors(np.eye(5), block=2)) == [1, 0, 0, 0, 0]
    rng = np.random.default_rng(0)
    for lattice in (rng.integers(0, 5, (1500, 4)), rng.permutation(600)[:, None], rng.integers(0, 2, (400, 30))):
        points = lattice.astype(np.float32)
        expected = nearest(points)
        for block in (64, 100, 2048):
            assert (first_neighbors(points, block=block) == expected).all()


def near_ties(kind):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(700, 20))
    if kind == "offset":
        return 1e4 + 1e-3 * points
    if kind == "two far groups":
        return 1e-3 * points + 1e4 * (np.arange(700) % 2)[:, None]
    if kind == "near duplicates":
        return np.repeat(points[:100], 7, axis=0) + 1e-7 * points
    if kind == "outlier":
        points[13] = 1e6
        return points
    if kind == "tiny":
        return 1e-25 * points
    return 1e30 * points


@pytest.mark.parametrize("block", [100, 2048])
@pytest.mark.parametrize("kind", ["offset", "two far groups", "near duplicates", "outlier", "tiny", "huge"])
def test_float32_rounding_never_changes_a_neighbor(kind, block):
    points = near_ties(kind)
    expected = nearest(points)
    assert (first_neighbors(points, block=block) == expected).all()
    assert recall(expected, points) == 1


def test_reads_a_float16_memory_map_in_blocks(tmp_path, monkeypatch):
    points = draw(1)[:600].astype(np.float16)
    np.save(tmp_path / "points.npy", points)
    expected = nearest(points)
    monkeypatch.setattr("ingest.methods.clusters.CHUNK_VALUES", 5000)
    monkeypatch.setattr("ingest.methods.clusters.KEPT_BYTES", 100_000)
    monkeypatch.setattr("ingest.methods.clusters.PENDING_PAIRS", 500)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    assert (first_neighbors(mapped, block=64) == expected).all()
    for one, other in zip(finch(mapped), finch(points.astype(np.float64)), strict=True):
        assert (one == other).all()


def test_nn_descent_and_its_recall(monkeypatch):
    """With a stand-in for the library, which takes half a minute to compile; benchmarks/clusters.py runs the real one."""
    points, asked = np.repeat(draw(0)[:1500], 2, axis=0), {}
    graph = np.random.default_rng(0).integers(0, 3000, (3000, 10))
    graph[::2, 0] = np.arange(0, 3000, 2)  # itself first, as usual; odd points find their duplicate first
    graph[::2, 1], graph[1::2, 0] = np.arange(1, 3000, 2), np.arange(0, 3000, 2)
    graph[10, 1], graph[12, 1:3] = 17, (-1, 13)

    def descent(values, **options):
        asked.update(options, mean=np.abs(values.mean(axis=0)).max(), dtype=values.dtype)
        return SimpleNamespace(neighbor_graph=(graph, None))

    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=descent))
    neighbors = first_neighbors(points, "nn-descent", seed=4)
    assert asked.pop("mean") < 1e-4
    assert asked == {"n_neighbors": 10, "metric": "euclidean", "random_state": 4, "dtype": np.float32}
    assert neighbors[10] == 17
    assert np.array_equal(np.delete(neighbors, 10), np.delete(np.arange(3000) ^ 1, 10))
    assert recall(neighbors, points, sample=3000) == pytest.approx(2999 / 3000)
    assert recall((neighbors + 2) % 3000, points, sample=300) < 0.1
    few = draw(1)[:300]
    assert (first_neighbors(few, "nn-descent") == nearest(few)).all()  # searched exactly


@pytest.mark.parametrize("backend", ["nn-descent", "finch-clust"])
def test_without_pynndescent_it_is_said_in_one_line_what_is_missing(backend, finch_clust):
    for search in (finch, first_neighbors):
        with pytest.raises(UserError, match=f"The backend {backend} needs pynndescent: pip install"):
            search(np.zeros((20_001, 1)), backend)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    points = np.ones((5, 4), dtype=np.float16)
    points[3, 2] = value
    with pytest.raises(UserError, match="Neuron 3 on clip 2 is"):
        finch(points)
    with pytest.raises(UserError):
        first_neighbors(points, "exact")


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match="choose one of exact"):
        finch(np.eye(3), "kmeans")


def test_selection_rule_gives_the_authors_partitions():
    assert [layer[option] for layer, option in zip(AUTHORS, choose_partitions(AUTHORS), strict=True)] == CHOSEN


def disagreement(counts):
    return sum(abs(a - b) / max(a, b) for a, b in itertools.combinations(counts, 2))


@pytest.mark.parametrize("seed", range(40))
def test_selection_rule_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    top = [10, 300, 100_000][seed % 3]
    counts = [sorted(map(int, np.exp(rng.uniform(0, np.log(top), rng.integers(1, 6)))), reverse=True) for _ in range(rng.integers(1, 6))]
    chosen = [layer[option] for layer, option in zip(counts, choose_partitions(counts), strict=True)]
    assert disagreement(chosen) == pytest.approx(min(map(disagreement, itertools.product(*counts))), abs=1e-9)


def test_selection_rule_on_no_layers_equal_counts_and_nonsense():
    assert choose_partitions([]) == []
    assert choose_partitions([[90, 9], [50, 9, 3]]) == [1, 1]
    with pytest.raises(UserError):
        choose_partitions([[3], []])


def test_class_activation_by_hand():
    # Four neurons on five clips, two clusters; clips 0 and 3 of class 0, clip 1 of class 1, clip 4 of class 2, clip 2 of none.
    matrix = np.array([[1.0, 2, 3, 4, 0], [3, 0, 9, 4, 0], [5, 5, 5, 5, 5], [0, 0, 7, 0, 2]], dtype=np.float16)
    means = cluster_means(matrix, np.array([0, 0, 1, -1]), 3)
    assert means[:2].tolist() == [[2, 1, 6, 4, 0], [5, 5, 5, 5, 5]]
    assert np.isnan(means[2]).all()
    labels = np.array([0, 1, -1, 0, 2])
    ccav = class_activation(means, labels)
    assert ccav[:2].tolist() == [[6, 1, 0], [10, 5, 5]]
    assert np.isnan(ccav[2]).all()
    assert (class_activation(means[:2], np.eye(3, dtype=bool)[labels] & (labels >= 0)[:, None]) == ccav[:2]).all()
    assert (ccav[:2].sum(axis=1) == means[:2][:, labels >= 0].sum(axis=1)).all()
    means[0, 2] = np.nan  # of no class
    assert class_activation(means, labels)[0].tolist() == [6, 1, 0]
    means[0, 4] = np.nan
    assert np.array_equal(class_activation(means, labels)[0], [6, 1, np.nan], equal_nan=True)
    # -6/7 log2 6/7 - 1/7 log2 1/7 = 0.591673; 10/20, 5/20, 5/20: 1.5 bits.
    assert entropy_bits(ccav[:2]).tolist() == pytest.approx([0.591673, 1.5], abs=1e-6)
    assert entropy_ratio(ccav[:2]).tolist() == pytest.approx([0.591673 / np.log2(3), 1.5 / np.log2(3)], abs=1e-6)


def test_cluster_means_add_in_float64(monkeypatch):
    rng = np.random.default_rng(0)
    matrix, labels = rng.random((3000, 7)).astype(np.float16), rng.integers(-1, 5, 3000)
    monkeypatch.setattr("ingest.methods.clusters.CHUNK_VALUES", 700)
    expected = [matrix[labels == cluster].astype(np.float64).mean(axis=0) for cluster in range(5)]
    assert np.allclose(cluster_means(matrix, labels, 5), expected, rtol=1e-13)


def test_entropy_identities_and_masks():
    assert entropy_ratio(np.array([[0.0, 4, 0], [2, 2, 2], [1e308, 1e308, 1e308], [1e-320, 1e-320, 0]])).tolist() == pytest.approx(
        [0, 1, 1, np.log(2) / np.log(3)]
    )
    assert entropy_bits(np.full(521, 3.0)) == pytest.approx(np.log2(521))
    undefined = np.array([[0.0, 0, 0], [1, np.nan, 1], [1, -1, 3], [1, np.inf, 1]])
    for measure in (entropy_ratio, entropy_bits):
        result = measure(undefined)
        assert np.ma.getmaskarray(result).all()
        assert np.isfinite(result.data).all()
        assert result.tolist() == [None] * 4
        assert measure(np.ones((2, 3, 4))).shape == (2, 3)
    assert entropy_ratio(np.ones((4, 1))).tolist() == [None] * 4
    assert entropy_bits(np.ones((2, 1))).tolist() == [0, 0]
    assert entropy_bits(np.ones((2, 0))).tolist() == [None, None]


def test_occupancy_by_hand():
    # A layer of 4 channels x 2 times x 3 frequencies. Cluster 0: one channel everywhere; 1: every channel at one place; 2: mixed; 3: empty.
    everywhere = [(1, time, frequency) for time in range(2) for frequency in range(3)]
    one_place = [(channel, 1, 2) for channel in range(4)]
    mixed = [(0, 0, 0), (2, 0, 0), (2, 0, 1), (2, 1, 1)]
    positions = np.array([*everywhere, *one_place, *mixed, (3, 0, 0)])
    labels = np.array([0] * 6 + [1] * 4 + [2] * 4 + [-1])
    place, channel = occupancy(labels, positions, (4, 2, 3), clusters=4)
    # Cluster 2: places 2, 1, 1 of 4: 1.5 bits of log2 6; channels 1, 3 of 4: 0.811278 of 2 bits.
    assert place.tolist() == [pytest.approx(1), 0, pytest.approx(1.5 / np.log2(6)), None]
    assert channel.tolist() == [0, pytest.approx(1), pytest.approx(0.811278 / 2, abs=1e-6), None]
    dense = np.zeros((3, 6))
    np.add.at(dense, (labels[:-1], positions[:-1, 1] * 3 + positions[:-1, 2]), 1)
    assert place[:3].tolist() == pytest.approx(entropy_ratio(dense).tolist())
    flat = occupancy(np.array([0, 0]), np.array([[0, 0, 0], [1, 0, 0]]), (2, 1, 1))
    assert [part.tolist() for part in flat] == [[None], [1]]
    with pytest.raises(UserError, match="outside"):
        occupancy(np.array([0]), np.array([[4, 0, 0]]), (4, 2, 3))
