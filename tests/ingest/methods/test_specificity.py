"""Specificity measures against scikit-learn, scipy and direct loops."""

import itertools
import math

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import entropy, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from ingest.methods.specificity import (
    across,
    activation_probability,
    activation_probability_entropy,
    auroc,
    average_precision,
    class_means,
    coverage,
    detection,
    jaccard,
    lape,
    membership,
    neurons_per_class,
    rank_agreement,
    selectivity_index,
    sharing,
    specific_neurons,
)
from warehouse.store import UserError


def draw(seed, neurons=7, clips=60, classes=5):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(neurons, clips)).clip(0).round(1)  # many ties and zeros
    values[0] = 0
    labels = rng.integers(-1, classes, clips)
    labels[labels == 3] = 0  # class 3 is empty
    labels[0] = classes - 1
    return values, labels


@pytest.mark.parametrize("seed", range(5))
def test_detection_equals_scikit_learn(seed, monkeypatch):
    """Ties, zeros, an empty class, clips without a class, values that are not finite; and the same in blocks of two neurons."""
    values, labels = draw(seed)
    values[2:4][np.random.default_rng(seed).random((2, 60)) < 0.2] = np.nan
    values[4, :3] = np.inf, -np.inf, np.nan
    precision, area = detection(values, labels)
    for neuron, row in enumerate(values):
        kept = (labels >= 0) & np.isfinite(row)
        for k in range(5):
            truth = labels[kept] == k
            if truth.any():
                assert precision[neuron, k] == pytest.approx(average_precision_score(truth, row[kept]), abs=1e-12)
                assert area[neuron, k] == pytest.approx(roc_auc_score(truth, row[kept]), abs=1e-12)
            else:
                assert np.isnan([precision[neuron, k], area[neuron, k]]).all()
    monkeypatch.setattr("ingest.methods.classes.membership.CHUNK_VALUES", 130)
    np.testing.assert_array_equal(average_precision(values, labels), precision)
    np.testing.assert_array_equal(auroc(values, labels), area)


@pytest.mark.parametrize("seed", range(3))
def test_detection_by_counting_equals_sorting(seed, monkeypatch):
    """float16 with ties, both zeros, negative values and such that are not finite, clips of no class and of several, an empty class."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(6, 4000)).round(seed + 1).astype(np.float16)
    values[0] = np.where(rng.random(4000) < 0.5, np.float16(-0.0), np.float16(0))
    values[1, rng.integers(0, 4000, 50)] = np.nan
    values[2, :3] = np.inf, -np.inf, np.nan
    values[3] = np.nan
    member = rng.random((4000, 7)) < [0.001, 0.1, 0.3, 0, 0.01, 0.5, 0.0003]
    member[rng.random(4000) < 0.3] = False
    sorted_ = detection(values, member)
    monkeypatch.setattr("ingest.methods.classes.detection.COUNTED_CLIPS", 1)
    counted = detection(values, sparse.csr_array(member))
    for found, expected in zip(counted, sorted_, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.isfinite(counted[0]).sum() == np.isfinite(sorted_[0]).sum() > 20


def test_sparse_membership_is_membership():
    values, labels = draw(1)
    member = membership(labels)
    as_sparse = sparse.csr_array(member)
    np.testing.assert_array_equal(membership(as_sparse), member)
    for function in (class_means, selectivity_index, activation_probability, detection):
        for found, dense, expected in zip(*(np.atleast_3d(function(values, given)) for given in (as_sparse, member, labels)), strict=True):
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(dense, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
def test_detection_of_clips_in_several_classes(dtype):
    rng = np.random.default_rng(0)
    values, member = (rng.random((4, 40)) * 10).round().astype(dtype), rng.random((40, 3)) < 0.4
    member[:5] = False
    kept = member.any(axis=1)
    precision, area = detection(values, member)
    expected = [[average_precision_score(member[kept, k], row[kept]) for k in range(3)] for row in values]
    np.testing.assert_allclose(precision, expected, atol=1e-12)
    np.testing.assert_allclose(area, [[roc_auc_score(member[kept, k], row[kept]) for k in range(3)] for row in values], atol=1e-12)


def test_detection_tells_doubles_apart_that_single_precision_does_not():
    assert auroc(np.array([[1.0, 1.0 + 1e-12]]), np.array([0, 1])).tolist() == [[0.0, 1.0]]


def test_detection_is_undefined_without_other_clips_or_without_clips():
    assert np.isnan(detection(np.ones((2, 3)), np.zeros(3, dtype=int))).all()
    assert np.isnan(detection(np.full((2, 3), np.nan), np.array([0, 1, 1]))).all()
    assert detection(np.ones((2, 3)), np.full(3, -1))[1].shape == (2, 0)
    assert detection(np.ones((0, 3)), np.array([0, 1, 1]))[1].shape == (0, 2)


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


@pytest.mark.parametrize("weighted", [False, True])
def test_activation_probability_equals_a_loop(weighted):
    values, labels = draw(1)
    rng = np.random.default_rng(2)
    shares = rng.random(values.shape).round(1)
    shares[3, rng.random(60) < 0.3] = np.nan
    weights = rng.integers(1, 40, 60) if weighted else np.ones(60)
    p = activation_probability(shares, labels, weights if weighted else None)
    for neuron, row in enumerate(shares):
        for k in range(5):
            inside = (labels == k) & np.isfinite(row)
            expected = np.average(row[inside], weights=weights[inside]) if inside.any() else np.nan
            np.testing.assert_allclose(p[neuron, k], expected, atol=1e-12)
    clips = activation_probability(values > 0, membership(labels))
    np.testing.assert_array_equal(clips, class_means(values, labels)[1])  # the share of active clips
    assert np.isnan(clips[:, 3]).all()


def test_entropy_of_known_and_random_probabilities():
    p = np.array([[0.2, 0.2, 0.2, 0.2], [0, 0.7, 0, 0], [0.25, 0.75, np.nan, 0], [0, 0, 0, np.nan], [np.nan] * 4])
    expected = [math.log(4), 0, -0.25 * math.log(0.25) - 0.75 * math.log(0.75), np.nan, np.nan]
    np.testing.assert_allclose(activation_probability_entropy(p), expected, atol=1e-15)
    p = np.random.default_rng(0).random((50, 7)) * (np.random.default_rng(1).random((50, 7)) < 0.6)
    np.testing.assert_allclose(activation_probability_entropy(p), [entropy(row) if row.any() else np.nan for row in p], atol=1e-12)


def draw_probabilities(seed, neurons=200, classes=6):
    """Probabilities with ties, dead neurons, a class without clips, and some neurons with a favourite class."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 3, (neurons, classes)).round(2)
    p[rng.choice(neurons, 30, replace=False)] *= 0.02
    for neuron in rng.choice(neurons, 25, replace=False):
        p[neuron] = 0.01
        p[neuron, rng.integers(classes)] = rng.choice([0.4, 0.8, 0.9])
    p[:4] = 0
    p[:, 4] = np.nan
    return p


def kth(values, k):
    return sorted(values)[k - 1] if k else -math.inf


def lowest(p, candidates, count):
    """The candidates among neurons with an entropy that are among the `count` of lowest entropy, ties with the last one included."""
    found = activation_probability_entropy(p)
    candidates = [neuron for neuron in candidates if not math.isnan(found[neuron])]
    bar = kth([found[neuron] for neuron in candidates], min(count, len(candidates)))
    return [neuron for neuron in candidates if found[neuron] <= bar]


@pytest.mark.parametrize("seed", range(3))
def test_lape_equals_its_definition(seed):
    """Tang et al. 2024: drop who is never above the 95th percentile; keep the lowest entropies; take the classes above the percentile."""
    p = draw_probabilities(seed)
    pairs = [value for value in p.flatten() if not math.isnan(value)]
    for filter_quantile, lowest_entropy, class_quantile in [(0.95, 0.01, 0.95), (0.8, 0.1, 0.9), (0.5, 0.9, 0.7)]:
        result = lape(p, filter_quantile=filter_quantile, lowest_entropy=lowest_entropy, class_quantile=class_quantile)
        first, last = (kth(pairs, round(q * len(pairs))) for q in (filter_quantile, class_quantile))
        kept = lowest(p, [neuron for neuron in range(200) if max(p[neuron, [0, 1, 2, 3, 5]]) > first], round(200 * lowest_entropy))
        expected = {(neuron, k) for neuron in kept for k in range(6) if p[neuron, k] > last}
        assert set(zip(*np.nonzero(result.specific), strict=True)) == expected
        assert expected
    np.testing.assert_array_equal(result.entropy, activation_probability_entropy(p))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("population", ["all pairs", "kept pairs", "per class", "per neuron"])
@pytest.mark.parametrize(("activity", "entropy_among"), [("mean", "all neurons"), ("max", "active neurons")])
def test_specific_neurons_equal_the_three_filters(seed, population, activity, entropy_among):
    p = draw_probabilities(seed)
    there = [0, 1, 2, 3, 5]  # class 4 has no clips
    measure = {"mean": lambda row: sum(row[there]) / 5, "max": lambda row: max(row[there])}[activity]
    for least_active, lowest_entropy, class_quantile in [(0.05, 0.02, 0.95), (0.2, 0.3, 0.8), (0, 1, 0.6)]:
        bar = kth([measure(row) for row in p], round(least_active * 200))
        active = [neuron for neuron in range(200) if measure(p[neuron]) > bar]
        kept = lowest(p, active, round(lowest_entropy * (200 if entropy_among == "all neurons" else len(active))))
        groups = {
            "all pairs": lambda neuron, k: p[:, there].flatten(),
            "kept pairs": lambda neuron, k, kept=kept: p[kept][:, there].flatten(),
            "per class": lambda neuron, k: p[:, k],
            "per neuron": lambda neuron, k: p[neuron, there],
        }

        def above(neuron, k, groups=groups, class_quantile=class_quantile):
            group = groups[population](neuron, k)
            return p[neuron, k] > kth(group, round(class_quantile * len(group)))

        expected = {(neuron, k) for neuron in kept for k in there if above(neuron, k)}
        options = {"activity": activity, "entropy_among": entropy_among, "population": population}
        found = specific_neurons(p, least_active=least_active, lowest_entropy=lowest_entropy, class_quantile=class_quantile, **options)
        assert set(zip(*np.nonzero(found), strict=True)) == expected
        assert expected or class_quantile == 0.95  # few kept pairs, and of one neuron's, none is above the highest
        assert not found[:4].any()
        assert not found[:, 4].any()


def test_words_that_specific_neurons_do_not_know():
    with pytest.raises(UserError, match="population 'pairs' is not known: it must be one of all pairs"):
        specific_neurons(np.ones((2, 2)), population="pairs")
    assert specific_neurons(np.zeros((0, 3))).shape == (0, 3)
    assert not specific_neurons(np.full((5, 3), np.nan)).any()


def test_sets_of_specific_neurons():
    rng = np.random.default_rng(0)
    a, b = rng.random((30, 4)) < 0.3, rng.random((30, 5)) < 0.3
    a[:, 2] = b[:, 3] = False

    def index(first, second):
        first, second = set(np.flatnonzero(first)), set(np.flatnonzero(second))
        return len(first & second) / len(first | second) if first | second else np.nan

    expected = np.array([[index(first, second) for second in b.T] for first in a.T])
    np.testing.assert_allclose(jaccard(a, b), expected)
    assert np.isnan(expected).sum() == 1
    np.testing.assert_allclose(sharing(a), [[index(first, second) for second in a.T] for first in a.T])
    np.testing.assert_allclose(across(a, b, [(0, 1), (2, 3), (3, 3)]), [expected[0, 1], np.nan, 0])
    assert across(a, b, []).shape == (0,)
    assert coverage(a) == 0.75
    assert math.isnan(coverage(a[:, :0]))
    assert neurons_per_class(a).tolist() == [len(np.flatnonzero(column)) for column in a.T]


@pytest.mark.parametrize("population", ["all pairs", "per class"])
def test_rank_agreement_equals_scipy(population):
    rng = np.random.default_rng(0)
    measures = {"first": rng.random((80, 3)).round(1), "second": rng.random((80, 3)), "neuron": rng.random(80).round(1)}
    measures["second"] += measures["first"]
    measures["first"][rng.random((80, 3)) < 0.1] = np.nan
    measures["second"][5] = np.nan
    whole = {name: np.broadcast_to(values[:, None] if values.ndim == 1 else values, (80, 3)) for name, values in measures.items()}

    def top(values):
        count = round(0.1 * len(values))
        return {place for place, value in enumerate(values) if value >= sorted(values, reverse=True)[count - 1]}

    found = {(row.a, row.b): row for row in rank_agreement(measures, top_share=0.1, population=population)}
    assert list(found) == list(itertools.combinations(measures, 2))
    for (a, b), row in found.items():
        defined = np.isfinite(whole[a]) & np.isfinite(whole[b])
        groups = [defined] if population == "all pairs" else [defined & (np.arange(3) == k) for k in range(3)]
        assert row.pairs == defined.sum()
        assert row.spearman == pytest.approx(np.mean([spearmanr(whole[a][group], whole[b][group])[0] for group in groups]))
        tops = [(top(whole[a][group]), top(whole[b][group])) for group in groups]
        assert row.top_jaccard == pytest.approx(np.mean([len(one & two) / len(one | two) for one, two in tops]))


def test_rank_agreement_is_undefined_for_a_constant_and_without_pairs():
    rising = np.arange(6.0).reshape(3, 2)
    row = rank_agreement({"a": rising, "b": np.ones((3, 2))})[0]
    assert (row.pairs, math.isnan(row.spearman)) == (6, True)
    assert rank_agreement({"a": rising, "b": -rising})[0].spearman == pytest.approx(-1)
    row, kept, _ = rank_agreement({"a": rising, "b": rising * np.nan, "c": rising**2})
    assert (kept.pairs, kept.spearman, kept.top_jaccard) == (6, pytest.approx(1), 1)
    assert (row.pairs, math.isnan(row.spearman), math.isnan(row.top_jaccard)) == (0, True, True)
    assert rank_agreement({}) == []


def test_pairs_equal_to_the_quantile_are_taken_with_ties_only():
    p = np.ones((40, 4))
    p[:10, 1:] = 0  # active on every clip of one class and of no other
    assert not specific_neurons(p, least_active=0, lowest_entropy=0.25).any()
    found = specific_neurons(p, least_active=0, lowest_entropy=0.25, with_ties=True)
    assert found[:10].tolist() == [[True, False, False, False]] * 10
    assert not found[10:].any()


def test_of_equal_entropies_a_seed_draws_as_many_as_there_is_room_for():
    p = np.full((40, 4), 0.5)
    p[:12, 1:] = 0  # twelve neurons of one class alone, of equal entropy
    p[:12, 0] = 0.9
    options = {"least_active": 0, "lowest_entropy": 0.1, "class_quantile": 0.9}
    assert specific_neurons(p, **options)[:, 0].sum() == 12
    drawn = [specific_neurons(p, seed=seed, **options) for seed in range(20)]
    assert {int(found.sum()) for found in drawn} == {4}
    np.testing.assert_array_equal(drawn[3], specific_neurons(p, seed=3, **options))
    assert np.any([found[:, 0] for found in drawn], axis=0).tolist() == [True] * 12 + [False] * 28


def test_lape_takes_pairs_equal_to_its_quantiles_with_ties_only():
    p = np.ones((40, 4))
    p[:10, 1:] = 0
    assert not lape(p, lowest_entropy=0.25).specific.any()
    assert lape(p, lowest_entropy=0.25, with_ties=True).specific[:10].tolist() == [[True, False, False, False]] * 10
    assert not lape(np.zeros((10, 3)), with_ties=True).specific.any()
