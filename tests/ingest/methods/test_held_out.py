"""Held-out scores against scikit-learn and plain loops."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ingest.methods import held_out


def test_groups_stay_whole_and_a_share_of_them_is_held_out():
    groups = [f"source {index // 3}" for index in range(3000)]
    found = held_out.split(groups, 0.5, 0)
    assert found.reshape(-1, 3).std(axis=1).max() == 0
    assert 0.45 < found.mean() < 0.55
    np.testing.assert_array_equal(found[:300], held_out.split(groups[:300], 0.5, 0))
    assert (held_out.split(groups, 0.5, 1) != found).any()


def test_positives_are_a_tenth_above_zero():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 200)).clip(0)
    values[1] = 0
    values[2] = 1
    values[3, :] = 0
    values[3, :4] = 1
    found = held_out.positives(values)
    assert found.sum(axis=1).tolist() == [20, 0, 0, 0]
    assert values[0][found[0]].min() > values[0][~found[0]].max()


def test_scores_equal_scikit_learn_and_the_floor_a_plain_loop():
    rng = np.random.default_rng(1)
    similarity = rng.integers(0, 30, (12, 150)).astype(float)  # many ties
    positive = rng.random((12, 150)) < 0.1
    similarity[:3] += 20 * positive[:3]
    positive[5] = False
    found = held_out.score(similarity, positive, [str(clip) for clip in range(150)])
    for row in range(12):
        if row == 5:
            assert np.isnan([found.auroc[5], found.low[5], found.floor[5], found.average_precision[5]]).all()
            continue
        assert found.auroc[row] == pytest.approx(roc_auc_score(positive[row], similarity[row]))
        assert found.average_precision[row] == pytest.approx(average_precision_score(positive[row], similarity[row]))
        others = [roc_auc_score(positive[row], similarity[other]) for other in range(12) if other != row]
        assert found.floor[row] == pytest.approx(np.quantile(others, 0.95))
        assert found.low[row] <= found.auroc[row] <= found.high[row]
    assert found.low[0] > found.floor[0]


def delong(similarity, positive):
    """The interval of DeLong et al. (1988) by plain loops over pairs, for clips that are independent."""
    ours, others = similarity[positive], similarity[~positive]
    wins = np.array([[(a > b) + 0.5 * (a == b) for b in others] for a in ours])
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / len(ours) + wins.mean(axis=0).var(ddof=1) / len(others))
    return wins.mean() - 1.959964 * error, wins.mean() + 1.959964 * error


def test_the_interval_over_single_clips_agrees_with_delong():
    rng = np.random.default_rng(4)
    quality = rng.normal(size=(5, 1000)) + np.array([[0], [0.3], [0.8], [1.2], [0.5]]) * (rng.random(1000) < 0.3)
    positive = held_out.positives(quality + 3)
    similarity = (0.3 + 0.1 * quality + 0.1 * rng.normal(size=(5, 1000))).round(3)  # cosines, some of them equal
    low, high = held_out.interval(similarity, positive, [f"clip {clip}" for clip in range(1000)])
    expected = np.array([delong(*pair) for pair in zip(similarity, positive, strict=True)])
    np.testing.assert_allclose(np.stack([low, high], axis=1), expected, atol=0.02)


def two_normals(neurons, clips, seed):
    """Scores whose AUROC is that of two normals one apart, and its true value."""
    scores = np.random.default_rng(seed).normal(size=(neurons, clips))
    positive = np.zeros((neurons, clips), dtype=bool)
    positive[:, : round(0.15 * clips)] = True
    return scores + positive, positive, 0.7602499389065233


def test_the_interval_covers_the_true_area():
    scores, positive, true = two_normals(400, 200, 2)
    low, high = held_out.interval(scores, positive, [str(clip) for clip in range(200)])
    assert 0.92 < ((low < true) & (true < high)).mean() < 0.98


def test_clips_of_one_recording_are_no_independent_witnesses():
    scores, positive, true = two_normals(200, 200, 3)
    scores, positive = scores.repeat(4, axis=1), positive.repeat(4, axis=1)
    low, high = held_out.interval(scores, positive, [f"recording {clip // 4}" for clip in range(800)])
    assert 0.9 < ((low < true) & (true < high)).mean() < 0.985
    alone = held_out.interval(scores, positive, [f"clip {clip}" for clip in range(800)])
    assert ((alone[0] < true) & (true < alone[1])).mean() < 0.75
    one = held_out.interval(scores[:1], positive[:1], ["the same" if found else str(clip) for clip, found in enumerate(positive[0])])
    assert np.isnan(one).all()


def test_the_floor_by_permutation_is_that_of_every_draw():
    ratings = np.array([0, 2, 2, 5, 7, 7, 9])
    positive = np.array([True, False, True, False, False, False, True])
    draws = [[place in chosen for place in range(7)] for chosen in combinations(range(7), 3)]
    exact = np.quantile([roc_auc_score(draw, ratings) for draw in draws], 0.95)
    clips = list("abcdefg")
    floor, p_value = held_out.permutation_floor(ratings, positive, clips, seed=1)
    assert floor == pytest.approx(exact, abs=0.05)
    own = roc_auc_score(positive, ratings)
    assert p_value == pytest.approx(np.mean([roc_auc_score(draw, ratings) >= own - 1e-12 for draw in draws]), abs=0.03)
    assert np.isnan(held_out.permutation_floor(ratings, np.ones(7, dtype=bool), clips)).all()


def test_the_floor_keeps_clips_of_one_recording_together():
    """Of six recordings of two clips each, whose ratings are equal, three hold all positives: as if six clips were asked about."""
    ratings, positive = np.array([9, 8, 7, 3, 2, 1]).repeat(2), np.array([True, True, True, False, False, False]).repeat(2)
    recordings = [str(clip // 2) for clip in range(12)]
    found = held_out.permuted_areas(ratings, positive, recordings, seed=0)
    assert {round(area, 6) for area in found} == {round(wins / 9, 6) for wins in range(10)}
    assert held_out.permutation_floor(ratings, positive, recordings)[1] == pytest.approx(1 / 20, abs=0.02)
    assert held_out.permutation_floor(ratings, positive, [str(clip) for clip in range(12)])[1] < 0.01


def test_p_values_are_the_rank_among_other_texts():
    positive = np.zeros((4, 40), dtype=bool)
    positive[:, :10] = True
    similarity = np.random.default_rng(0).random((4, 40))
    similarity[0] += positive[0]
    found = held_out.score(similarity, positive, [str(clip) for clip in range(40)])
    assert found.p_value[0] == 1 / 4
    assert sorted(found.p_value) == [0.25, 0.5, 0.75, 1.0]


def test_a_perfect_score_has_an_interval_that_is_no_point():
    positive = np.zeros((1, 100), dtype=bool)
    positive[:, :10] = True
    low, high = held_out.interval(positive.astype(float), positive, [str(clip) for clip in range(100)])
    assert (0.5 < low[0] < 0.8, high[0]) == (True, 1.0)
