"""Neighbours by correlation, block by block, against the whole correlation matrix."""

import numpy as np
import pytest

from ingest.methods.mapping import neighbors as module
from ingest.methods.mapping.neighbors import neighbors


def whole(activations, k, **options):
    """All blocks' neighbours as two arrays [neurons, k]."""
    found = list(neighbors(activations, k, **options))
    return np.concatenate([numbers for _, numbers, _ in found]), np.concatenate([values for _, _, values in found])


def plainly(activations, k):
    """The same from the whole matrix in float64; neurons without two values have none."""
    values = np.asarray(activations, dtype=np.float64)
    varied = values.max(axis=1) > values.min(axis=1)
    correlation = np.full((len(values), len(values)), -np.inf)
    correlation[np.ix_(varied, varied)] = np.corrcoef(values[varied])
    np.fill_diagonal(correlation, -np.inf)
    numbers = np.argsort(-correlation, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(correlation, numbers, axis=1)
    return np.where(np.isinf(found), -1, numbers), np.where(np.isinf(found), np.nan, found)


@pytest.fixture
def activations():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((230, 7)) @ rng.standard_normal((7, 90)) + rng.standard_normal((230, 90))
    values[[4, 100]] = 0.1  # constants that float32 sums do not meet
    values[229] = 5
    return values.astype(np.float16)


@pytest.mark.parametrize(("block", "chunk"), [(2000, 8192), (64, 8192), (50, 40), (1, 90)])
def test_neighbors_are_those_of_the_correlation_matrix(activations, block, chunk, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(module, "CHUNK", chunk)
    numbers, values = whole(activations, 5)
    expected, correlations = plainly(activations, 5)
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_allclose(values, correlations, atol=2e-6)
    assert values.dtype == np.float32
    assert (numbers[[4, 100, 229]] == -1).all()
    assert not np.isin(numbers, [4, 100, 229]).any()


def test_blocks_asked_for_are_what_they_are_among_all(activations, monkeypatch):
    """A run that goes on finds what one that was not killed did."""
    monkeypatch.setattr(module, "BLOCK", 64)
    numbers, values = whole(activations, 8)
    asked = np.zeros(230, dtype=bool)
    asked[[70, 200]] = True
    found = list(neighbors(activations, 8, asked=asked))
    assert [rows for rows, _, _ in found] == [slice(64, 128), slice(192, 230)]
    for rows, some, correlations in found:
        np.testing.assert_array_equal(some, numbers[rows])
        np.testing.assert_array_equal(correlations, values[rows])


def test_clips_that_are_not_finite_or_not_chosen_do_not_count(activations, tmp_path):
    with_gaps = activations.copy()
    with_gaps[7, 3], with_gaps[9, 50] = np.nan, np.inf
    np.save(tmp_path / "a.npy", with_gaps)
    stored = np.load(tmp_path / "a.npy", mmap_mode="r")
    kept = np.setdiff1d(np.arange(90), [3, 50])
    np.testing.assert_array_equal(whole(stored, 4)[0], plainly(activations[:, kept], 4)[0])
    chosen = np.array([60, 3, 20, 50, *range(30, 50)])
    np.testing.assert_array_equal(whole(stored, 4, clips=chosen)[0], plainly(activations[:, np.setdiff1d(chosen, [3, 50])], 4)[0])


@pytest.mark.parametrize("block", [2000, 7, 10])
def test_of_equal_correlations_the_first_neurons_are_taken(block, monkeypatch):
    """Each row is there many times, as whole numbers whose products are exact: a neighbour is one of the first with the greatest correlation."""
    monkeypatch.setattr(module, "BLOCK", block)
    rows = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [-1, 1, 1, -1]], dtype=np.float32)
    values = rows[np.random.default_rng(1).integers(0, 3, 60)]
    alike = np.array([np.setdiff1d(np.flatnonzero((values == row).all(axis=1)), [place])[:4] for place, row in enumerate(values)])
    numbers, correlations = whole(values, 4)
    np.testing.assert_array_equal(numbers, alike)
    assert (correlations == 1).all()


def test_equals_by_number_few_neurons_and_none():
    values = np.array([[0, 1, 2, 4], [0, 1, 2, 4], [0, 2, 4, 8], [4, 3, 2, 0], [1, 1, 1, 1]], dtype=np.float32)
    numbers, correlations = whole(values, 3)
    assert numbers.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [-1, -1, -1]]
    np.testing.assert_allclose(correlations[:3], [[1, 1, -1]] * 3, atol=0.05)
    assert (whole(values[:, :0], 3)[0] == -1).all()
    assert (whole(values * np.float32(1e30), 3)[0] == -1).all()  # squares beyond float32: none rather than wrong ones
    assert list(neighbors(values[:0])) == []
