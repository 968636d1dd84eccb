"""Specificity measures against scikit-learn and direct loops."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ingest.specificity import average_precision, class_means, membership, selectivity_index


def draw(seed, neurons=7, clips=60, classes=5):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(neurons, clips)).clip(0).round(1)  # many ties and zeros
    values[0] = 0
    labels = rng.integers(-1, classes, clips)
    labels[labels == 3] = 0  # class 3 is empty
    labels[0] = classes - 1
    return values, labels


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_scikit_learn(seed):
    values, labels = draw(seed)
    kept = labels >= 0
    result = average_precision(values, labels)
    for neuron in range(len(values)):
        for k in range(5):
            truth = labels[kept] == k
            if truth.any():
                assert result[neuron, k] == pytest.approx(average_precision_score(truth, values[neuron, kept]), abs=1e-12)
            else:
                assert np.isnan(result[neuron, k])


def test_average_precision_of_clips_in_several_classes():
    rng = np.random.default_rng(0)
    values, member = rng.random((4, 40)).round(1), rng.random((40, 3)) < 0.4
    member[:5] = False
    kept = member.any(axis=1)
    result = average_precision(values, member)
    expected = [[average_precision_score(member[kept, k], row[kept]) for k in range(3)] for row in values]
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_average_precision_leaves_out_values_that_are_not_finite():
    values = np.array([[0.9, np.nan, 0.1, 0.5, 0.7]])
    labels = np.array([0, 0, 0, 1, 1])
    kept = np.isfinite(values[0])
    assert average_precision(values, labels)[0, 0] == pytest.approx(average_precision_score(labels[kept] == 0, values[0, kept]))


def test_average_precision_is_undefined_without_other_clips():
    assert np.isnan(average_precision(np.ones((2, 3)), np.zeros(3, dtype=int))).all()


@pytest.mark.parametrize("seed", range(3))
def test_selectivity_and_means_equal_a_loop(seed):
    values, labels = draw(seed)
    means, shares, counts = class_means(values, labels)
    index = selectivity_index(values, labels)
    for neuron, row in enumerate(values):
        for k in range(5):
            inside, outside = row[labels == k], row[(labels != k) & (labels >= 0)]
            assert counts[neuron, k] == len(inside)
            if len(inside) == 0:
                assert np.isnan([means[neuron, k], shares[neuron, k], index[neuron, k]]).all()
                continue
            m, r = inside.mean(), outside.mean()
            assert means[neuron, k] == pytest.approx(m)
            assert shares[neuron, k] == pytest.approx((inside > 0).mean())
            assert (np.isnan(index[neuron, k]) and m + r == 0) or index[neuron, k] == pytest.approx((m - r) / (m + r))


def test_selectivity_of_a_neuron_with_negative_values_is_undefined():
    assert np.isnan(selectivity_index(np.array([[-1.0, 2.0, 3.0, 1.0]]), np.array([0, 0, 1, 1]))).all()


def test_membership_from_numbers():
    assert membership(np.array([1, -1, 0])).tolist() == [[False, True], [False, False], [True, False]]
