"""Responses predicted from tuning alone: levels in third octaves and modulation measured rightly, and curves laid over them."""

import numpy as np
import pytest

from ingest.methods.held_out import rank_correlation
from ingest.methods.tuning.forward import predict
from ingest.sounds.stimuli import BANDS_HZ, LEVELS_DBFS, MODULATIONS_HZ
from ingest.sounds.third_octaves import third_octaves

RATE = 32_000
TIME = np.arange(2 * RATE) / RATE


def tone(hertz, level_dbfs=-20.0):
    return 10 ** (level_dbfs / 20) * np.sqrt(2) * np.sin(2 * np.pi * hertz * TIME)


def test_a_tone_is_in_its_band_and_modulation_at_its_rate():
    at = BANDS_HZ.index(960.0)
    bands, depths = third_octaves(tone(960), RATE)
    assert bands.shape[0] == 24
    assert bands[at, 2:-2] == pytest.approx(0.1, rel=0.02)
    assert np.delete(bands, [at - 1, at, at + 1], axis=0).max() < 0.005
    assert third_octaves(tone(1000), RATE)[1].max() < depths.max() < 0.03  # of 960 Hz, whole periods do not fit into 2 ms
    deep = third_octaves(tone(960) * (1 + 0.5 * np.sin(2 * np.pi * 8 * TIME)), RATE)[1]
    assert deep.argmax() == MODULATIONS_HZ.index(8.0)
    assert deep.max() == pytest.approx(0.5, abs=0.03)
    silent = third_octaves(np.zeros(5), RATE)
    assert not silent[0].any()
    assert not silent[1].any()


def test_half_of_the_power_above_a_network_is_nowhere():
    bands, _ = third_octaves(0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    assert not bands[np.array(BANDS_HZ) > 9000].any()
    assert np.sqrt(np.square(bands).sum(axis=0).mean()) == pytest.approx(0.1, rel=0.05)


def test_curves_are_laid_over_levels_over_time_and_modulation():
    """A neuron of 960 Hz, one of 240 Hz, one that is silenced by 960 Hz, and one of modulation at 8 Hz."""
    at, low, rate = BANDS_HZ.index(960.0), BANDS_HZ.index(240.0), MODULATIONS_HZ.index(8.0)
    band, added = np.zeros((4, 24)), np.zeros((4, 15))
    band[0, at], band[1, low], band[2, at], added[3, rate] = 1, 2, -1, 1
    level = np.tile(np.linspace(0, 1, len(LEVELS_DBFS)), (4, 1))
    curves = {"band": band, "level": level, "noise rate": added, "noise unmodulated": np.zeros((4, 1))}
    pulsed = tone(240) * (1 + np.sin(2 * np.pi * 8 * TIME))
    sounds = [third_octaves(sound, RATE) for sound in (tone(960), tone(960, -50), tone(240), pulsed, 0 * TIME)]
    found = predict(curves, np.array(LEVELS_DBFS), [bands for bands, _ in sounds], np.array([depths for _, depths in sounds]))
    loud, faint = (np.interp(db, LEVELS_DBFS, level[0]) for db in (-20, -50))
    assert found[0, :2] == pytest.approx([loud, faint], abs=0.02)
    assert found[0, 2:].max() < 0.02
    assert found[1, 2] == pytest.approx(2 * loud, abs=0.05)
    assert found[2] == pytest.approx(-found[0], abs=1e-6)
    assert found[3] == pytest.approx([0, 0, 0, 1, 0], abs=0.1)


def test_a_band_counts_by_its_share_of_the_power_and_noise_as_far_as_its_level_is_answered():
    at = BANDS_HZ.index(960.0)
    band = np.zeros((1, 24))
    band[0, at] = 1
    level = np.linspace(0, 1, len(LEVELS_DBFS))[None]
    curves = {"band": band, "level": level, "noise rate": np.zeros((1, 15)), "noise unmodulated": np.zeros((1, 1))}
    amplitude = np.zeros((24, 10))
    amplitude[[at, 0]] = 10 ** (-20 / 20) / np.sqrt(2)  # half of a power at -20 dBFS, the other half elsewhere
    assert predict(curves, np.array(LEVELS_DBFS), [amplitude], np.zeros((1, 15)))[0, 0] == pytest.approx(
        np.interp(-20, LEVELS_DBFS, level[0]) / 2
    )


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    one, other = np.random.default_rng(1).normal(size=(2, 3, 40)).round(1)
    assert rank_correlation(one, other) == pytest.approx([spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)])
    assert np.isnan(rank_correlation(one, np.ones((3, 40)))).all()
