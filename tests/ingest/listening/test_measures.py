import numpy as np
import pytest
from scipy import stats

from ingest.listening.measures import paired_p_values, percentiles, q_values, two_sample_p_values

rng = np.random.default_rng(3)


@pytest.mark.parametrize("sounds", [1, 3, 9])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_percentiles_are_scipys_of_kind_mean(sounds, dtype):
    population = np.maximum(rng.standard_normal((7, 50)), 0).round(1).astype(dtype)  # many ties, many zeros
    values = np.maximum(rng.standard_normal((7, sounds)), 0).round(1).astype(dtype).astype(np.float32)
    values[0, 0], values[1, 0], values[2, 0] = 99, 0, population[2, 5]
    pairs = zip(population.astype(np.float32), values, strict=True)
    expected = [[stats.percentileofscore(row, value, kind="mean") for value in its] for row, its in pairs]
    np.testing.assert_allclose(percentiles(values, population), expected, rtol=0, atol=1e-12)


def test_clips_without_a_value_do_not_count_and_a_sound_without_one_has_no_percentile():
    population = np.array([[1, 2, np.nan, 3], [np.nan] * 4, [1, 1, 1, 1]], dtype=np.float32)
    for more in (0, 6):  # both ways of counting
        values = np.tile(np.array([[2.0], [2.0], [np.nan]], dtype=np.float32), (1, 1 + more))
        found = percentiles(values, population)
        assert found[0, 0] == pytest.approx(50)
        assert np.isnan(found[1:]).all()


def test_few_sounds_are_tested_exactly():
    one, other = rng.standard_normal((20, 5)), rng.standard_normal((20, 6)) + 1
    expected = stats.mannwhitneyu(one, other, axis=1, method="exact").pvalue
    np.testing.assert_allclose(two_sample_p_values(one, other), expected, atol=1e-9)
    expected = [stats.wilcoxon(a, b, method="exact").pvalue for a, b in zip(one, other[:, :5], strict=True)]
    np.testing.assert_allclose(paired_p_values(one, other[:, :5]), expected, atol=1e-9)


def test_many_sounds_are_tested_by_drawn_arrangements_and_beyond_them_by_the_normal_tail():
    one, other = rng.standard_normal((30, 25)), rng.standard_normal((30, 30)) + np.linspace(0, 3, 30)[:, None]
    found, expected = two_sample_p_values(one, other), stats.mannwhitneyu(one, other, axis=1).pvalue
    np.testing.assert_allclose(found[expected > 1e-3], expected[expected > 1e-3], rtol=0.25, atol=0.005)
    assert found.min() < 1e-7
    assert found.min() == pytest.approx(expected.min(), rel=0.01)
    found = paired_p_values(one, other[:, :25])
    expected = np.array([stats.wilcoxon(a, b).pvalue for a, b in zip(one, other[:, :25], strict=True)])
    np.testing.assert_allclose(found[expected > 1e-3], expected[expected > 1e-3], rtol=0.25, atol=0.005)


def test_ties_and_zeros_do_not_make_chance_significant():
    """Of neurons that are mostly 0, where the normal approximation is too bold, no more than 5 % have p below 5 %."""
    values = np.where(rng.random((3000, 20)) < 0.15, rng.random((3000, 20)), 0)
    assert (two_sample_p_values(values[:, :10], values[:, 10:]) <= 0.05).mean() <= 0.055
    assert (paired_p_values(values[:, :10], values[:, 10:]) <= 0.05).mean() <= 0.055
    same = np.ones((2, 4))
    assert two_sample_p_values(same, same).tolist() == [1, 1]
    assert paired_p_values(same, same).tolist() == [1, 1]


def test_a_missing_value_is_no_test():
    one, other = rng.standard_normal((2, 4)), rng.standard_normal((2, 4))
    one[1, 2] = np.nan
    for p in (two_sample_p_values(one, other), paired_p_values(one, other)):
        assert np.isfinite(p).tolist() == [True, False]
        assert q_values(p).tolist()[0] == p[0]
        assert np.isnan(q_values(p)[1])
