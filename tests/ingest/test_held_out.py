"""Held-out scores against scikit-learn and plain loops."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ingest import held_out


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
    found = held_out.score(similarity, positive)
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


def test_the_interval_covers_the_true_area():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(400, 200))
    positive = np.zeros((400, 200), dtype=bool)
    positive[:, :30] = True
    scores[:, :30] += 1  # the area under the curve of two normals one apart
    found = held_out.score(scores, positive)
    true = 0.7602499389065233
    assert 0.92 < ((found.low < true) & (true < found.high)).mean() < 0.98
