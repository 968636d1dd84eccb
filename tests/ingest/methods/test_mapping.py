"""Maps of neurons: correlations, components, neighbours and layouts against plain computations."""

import numpy as np
import pytest

from ingest.methods.mapping import correlations, layout
from ingest.methods.mapping.layout import Layout


def groups(seed=0, count=5, size=40, clips=60, noise=0.6):
    """Activations [neurons, clips] of groups that go up and down together, and the group of each."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, clips))
    member = np.repeat(np.arange(count), size)
    return (centres[member] + noise * rng.standard_normal((len(member), clips))).astype(np.float32), member


def points_of(activations, dimensions=20, seed=0):
    rows = correlations.standardised(activations)
    return correlations.components(lambda: [rows], rows.shape[1], dimensions, seed)


def test_distances_of_standardised_rows_are_correlations():
    activations, _ = groups()
    rows = correlations.standardised(activations * 3 + 7)
    apart = ((rows[3] - rows[90]) ** 2).sum()
    assert apart == pytest.approx(2 - 2 * np.corrcoef(activations[3], activations[90])[0, 1], abs=1e-5)


def test_constant_dead_and_broken_neurons_do_not_vary():
    activations = np.array([[0, 0, 0], [0.1, 0.1, 0.1], [1, 2, 3], [1, np.nan, 2], [1, np.inf, 2], [1e6, 1e6, 1e6 + 8]], dtype=np.float32)
    assert correlations.varies(activations).tolist() == [False, False, True, False, False, True]


def test_components_are_those_of_a_whole_decomposition_in_blocks():
    activations, _ = groups()
    rows = correlations.standardised(activations).astype(np.float64)
    left, singular, _ = np.linalg.svd(rows, full_matrices=False)
    expected = left[:, :4] * singular[:4]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    blocks = np.array_split(rows.astype(np.float32), 7)
    found = correlations.components(lambda: iter(blocks), 60, 4, seed=3)
    assert np.abs(expected @ expected.T - found @ found.T).max() < 1e-3
    assert np.array_equal(found, correlations.components(lambda: iter(blocks), 60, 4, seed=3))
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)


def test_nearest_are_exact_with_fewer_points_than_asked_dimensions():
    points = points_of(groups(size=9)[0], dimensions=500)
    assert points.shape == (45, 45)  # no more than neurons or clips
    apart = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    for k in (1, 6, 44):
        near, distances = correlations.nearest(points, k)
        assert distances == pytest.approx(np.sort(apart, axis=1)[:, :k], abs=1e-3)
        assert np.take_along_axis(apart, near, axis=1) == pytest.approx(distances, abs=1e-3)


def test_a_layout_is_one_by_seed_and_keeps_groups_together():
    activations, member = groups()
    points = points_of(activations)
    found = layout.lay_out(points, seed=1)
    assert np.array_equal(found.places, layout.lay_out(points, seed=1).places)
    assert not np.array_equal(found.places, layout.lay_out(points, seed=2).places)
    assert np.abs(found.places).max() == pytest.approx(1)
    rows = correlations.standardised(activations)
    kept = layout.neighbours_kept(lambda: [rows[:70], rows[70:]], found.places, np.arange(0, 200, 3), 10, (10, 50))
    assert kept[50] > 0.95  # by chance 0.25
    apart = np.linalg.norm(found.places[:, None] - found.places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (member[apart.argmin(axis=1)] == member).mean() > 0.99


def test_neighbours_kept_counts_plainly():
    activations, _ = groups(count=3, size=10)
    places = np.random.default_rng(5).standard_normal((30, 2))
    rows = correlations.standardised(activations)
    correlation = np.corrcoef(activations)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    for square, worst in ((correlation, -9), (apart, 9)):
        np.fill_diagonal(square, worst)
    expected = [len(set((-correlation[i]).argsort()[:4]) & set(apart[i].argsort()[:7])) / 4 for i in (2, 3, 29)]
    assert layout.neighbours_kept(lambda: [rows], places, np.array([2, 3, 29]), 4, (7,))[7] == pytest.approx(np.mean(expected))


def test_aligned_places_are_turned_mirrored_scaled_and_moved_back():
    places = np.random.default_rng(0).standard_normal((50, 2))
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])  # with a mirror
    earlier = places @ turn * 2.5 + [3, -1]
    earlier[40:] = np.nan
    found = layout.aligned(places, earlier)
    assert found == pytest.approx(places @ turn * 2.5 + [3, -1])
    assert np.array_equal(layout.aligned(places, np.full((50, 2), np.nan)), places)


def test_a_later_layout_lies_on_the_earlier_one_with_new_points_beside_their_like():
    activations, member = groups(noise=1.2)
    points = points_of(activations)
    first = layout.lay_out(points[:180], seed=0)
    known = np.vstack([first.places, np.full((20, 2), np.nan)])
    later = layout.lay_out(points, seed=9, earlier=Layout(known, first.unit))
    afresh = layout.lay_out(points, seed=9)

    def moved(places):
        return np.sqrt(((places[:180] - first.places) ** 2).sum(axis=1).mean())

    assert moved(later.places) < 0.15
    assert moved(later.places) < 0.6 * moved(afresh.places)
    group = later.places[:180][member[:180] == 4]
    apart = np.linalg.norm(later.places[180:] - group.mean(axis=0), axis=1)
    assert np.median(apart) < 0.3
    assert later.unit == pytest.approx(first.unit, rel=0.3)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
def test_a_handful_of_points_and_equal_points_have_places(count):
    activations = np.random.default_rng(count).standard_normal((count, 6)).astype(np.float32)
    for rows in (activations, np.repeat(activations[:1], count, axis=0)):
        found = layout.lay_out(points_of(rows))
        assert found.places.shape == (count, 2)
        assert np.isfinite(found.places).all()
        assert np.isfinite(layout.lay_out(points_of(rows), earlier=found).places).all()
