"""Rules found on planted neurons: the planted property, threshold and number of conditions; none for noise; nothing learnt from clips held out."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ingest.methods import held_out, rules

CLIPS, SOURCES = 1200, 400


@pytest.fixture(scope="module")
def planted():
    """Twelve properties in units of their own, of which 5 is 4 with noise, 6 often undefined and 7 constant; clips of 400 sources; half written."""
    rng = np.random.default_rng(0)
    properties = rng.normal(size=(CLIPS, 12)) * 10.0 ** np.arange(-2, 10) + 5
    properties[:, 5] = properties[:, 4] / 10 + rng.normal(size=CLIPS) * 300
    properties[rng.random(CLIPS) < 0.4, 6] = np.nan
    properties[:, 7] = 3
    groups = [f"source {index % SOURCES}" for index in range(CLIPS)]
    written = np.array([int(group.split()[1]) % 2 == 0 for group in groups])
    return properties, groups, written


def shown(properties, *columns):
    """Standardised columns."""
    return ((properties[:, columns] - np.nanmean(properties[:, columns], axis=0)) / np.nanstd(properties[:, columns], axis=0)).T


@pytest.fixture(scope="module")
def found(planted):
    """Rules of 40 neurons a kind: over a threshold, under one, both of two, one and not another, of a property often undefined."""
    properties, groups, written = planted
    rng = np.random.default_rng(1)
    a, b, c = np.nan_to_num(shown(properties, 1, 2, 6), nan=-9)
    plain = {
        "over": np.maximum(a - 0.8, 0), "under": np.maximum(-a - 0.8, 0), "both": np.minimum(a, b), "not": np.minimum(a, -b),
        "undefined": np.maximum(c - 0.5, 0),
    }  # fmt: skip
    kinds, rows = [], []
    for kind, values in plain.items():
        for _ in range(40):
            kinds.append(kind)
            rows.append(
                np.maximum(values + 0.1 * rng.normal(size=CLIPS), 0) if values.min() >= 0 else values + 0.1 * rng.normal(size=CLIPS)
            )
    return np.array(kinds), np.array(rows), rules.find(rules.Candidates(properties, groups, written), np.array(rows))


def named(found, place):
    return {(int(p), int(d)) for p, d in zip(found.property[place], found.direction[place], strict=True) if p >= 0}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("over", {(1, 1)}), ("under", {(1, -1)}), ("both", {(1, 1), (2, 1)}), ("not", {(1, 1), (2, -1)}), ("undefined", {(6, 1)})],
)
def test_rules_name_what_was_planted(found, kind, expected):
    kinds, _, its = found
    places = np.flatnonzero(kinds == kind)
    assert np.mean([named(its, place) >= expected for place in places]) >= 0.95
    assert np.mean([named(its, place) == expected for place in places]) >= 0.9
    assert np.mean(its.count[places] == len(expected)) >= 0.7  # a third condition on one of them may sharpen it


def test_predictions_hold_on_clips_not_written_from(found, planted):
    kinds, responses, its = found
    out = ~planted[2]
    for place in range(len(kinds)):
        positive = held_out.positives(responses[place : place + 1, out])[0]
        assert roc_auc_score(positive, its.predicted[place, out]) > 0.9
        assert its.low[place] - 0.05 < roc_auc_score(positive, its.predicted[place, out])
    assert np.nanmin(its.predicted) >= 0
    assert np.nanmax(its.predicted) <= 1 + 1e-6
    np.testing.assert_allclose(np.nansum(its.weight, axis=1), 1, rtol=1e-6)


def test_thresholds_are_in_the_propertys_unit(found, planted):
    kinds, _, its = found
    for place in np.flatnonzero(kinds == "over"):
        condition = int(np.argmax(its.property[place] == 1))
        standard = (its.threshold[place, condition] - planted[0][:, 1].mean()) / planted[0][:, 1].std()
        assert 0.3 < standard < 1.8


def test_one_condition_fewer_costs_where_two_were_planted(found):
    kinds, _, its = found
    assert (its.auroc[:, 0] == 0.5).all()
    both = its.auroc[kinds == "both"]
    assert np.median(both[:, 2] - both[:, 1]) > 0.05
    over = its.auroc[kinds == "over"]
    assert np.median(over[:, 2] - over[:, 1]) < 0.02


def test_noise_gets_no_rule(planted):
    properties, groups, written = planted
    candidates = rules.Candidates(properties, groups, written)
    rng = np.random.default_rng(2)
    shares = [
        np.mean(rules.find(candidates, values).count > 0)
        for values in (
            rng.normal(size=(400, CLIPS)),
            np.maximum(rng.normal(size=(400, CLIPS)), 0),
            rng.normal(size=(400, SOURCES))[:, [int(group.split()[1]) for group in groups]],  # clips of a source answer alike
        )
    ]
    assert max(shares) <= 0.05


def test_held_out_clips_and_the_other_neurons_change_nothing(found, planted):
    properties, groups, written = planted
    _, responses, its = found
    changed = responses[::7].copy()
    changed[:, ~written] = np.random.default_rng(3).permutation(changed[:, ~written], axis=1)
    again = rules.find(rules.Candidates(properties, groups, written), changed)
    np.testing.assert_array_equal(again.property, its.property[::7])
    np.testing.assert_allclose(again.predicted, its.predicted[::7], atol=1e-5)
    np.testing.assert_allclose(again.auroc, its.auroc[::7], atol=1e-6)


def test_what_cannot_be_told_has_no_rule(planted):
    properties, groups, written = planted
    values = np.zeros((3, CLIPS))
    values[1, np.flatnonzero(written)[:3]] = 1  # too few positives
    values[2] = np.nan
    its = rules.find(rules.Candidates(properties, groups, written), values)
    assert its.count.tolist() == [0, 0, 0]
    assert np.isnan(its.auroc).all()
    assert np.isnan(its.predicted).all()
    response = np.maximum(properties[None, :, 1], 0)
    assert rules.find(rules.Candidates(properties, ["one"] * CLIPS), response).count.tolist() == [0]  # no other source to check it on
    assert rules.find(rules.Candidates(properties[:, 7:8], groups), response).count.tolist() == [0]  # nothing that varies
    assert rules.find(rules.Candidates(properties[:, :0], groups), response).count.tolist() == [0]
    assert rules.find(rules.Candidates(properties, groups), response[:0]).predicted.shape == (0, CLIPS)


def test_a_neuron_that_is_always_negative_is_told_by_what_raises_it(planted):
    properties, groups, written = planted
    its = rules.find(rules.Candidates(properties, groups, written), properties[None, :, 1] - 1000)
    assert named(its, 0) == {(1, 1)}


def test_aurocs_and_their_errors_over_sources():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(60), 5)
    shared = rng.normal(size=(6, 60))[:, groups]
    predicted = np.round(shared + rng.normal(size=(6, 300)), 1)
    positive = shared + 0.5 * rng.normal(size=(6, 300)) > 1
    area, error = rules.auroc(predicted, positive, groups)
    assert area == pytest.approx([roc_auc_score(p, v) for p, v in zip(positive, predicted, strict=True)])
    members = [np.flatnonzero(groups == group) for group in range(60)]
    drawn = [np.concatenate([members[group] for group in rng.integers(0, 60, 60)]) for _ in range(300)]
    resampled = [[roc_auc_score(p[clips], v[clips]) for p, v in zip(positive, predicted, strict=True)] for clips in drawn]
    assert error == pytest.approx(np.std(resampled, axis=0), rel=0.25)


def test_a_word_that_few_captions_hold_is_a_condition_each_way():
    rng = np.random.default_rng(5)
    words = (rng.random((1000, 3)) < [0.03, 0.2, 0.2]).astype(float)
    groups = [str(index) for index in range(1000)]
    responses = np.array([words[:, 0], 1 - words[:, 1] + words[:, 2]]) + 0.3 * rng.random((2, 1000))
    its = rules.find(rules.Candidates(words, groups), responses)
    assert (its.property[0, 0], its.direction[0, 0], its.threshold[0, 0]) == (0, 1, 1)
    assert {(int(p), int(d), t) for p, d, t in zip(its.property[1], its.direction[1], its.threshold[1], strict=True) if p >= 0} >= {
        (1, -1, 1.0), (2, 1, 1.0)
    }  # fmt: skip


def test_noise_gets_no_rule_of_few_clips_either():
    rng = np.random.default_rng(6)
    candidates = rules.Candidates(rng.normal(size=(120, 60)), [str(index) for index in range(120)])
    found = rules.find(candidates, np.maximum(rng.normal(size=(400, 120)), 0))
    assert np.mean(found.count > 0) <= 0.05
