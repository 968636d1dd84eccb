"""Octave levels, modulation, rises and sweeps of sounds whose properties are known."""

import numpy as np
import pytest

from ingest.sounds import bands

RATE = 24_000
TIME = np.arange(2 * RATE) / RATE


def tone(hertz, amplitude=1.0, time=TIME):
    return amplitude * np.sin(2 * np.pi * hertz * time)


@pytest.mark.parametrize("hertz", [125, 1000, 8000])
@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_levels_of_a_tone_stand_in_its_octave(hertz, rate):
    time = np.arange(2 * rate) / rate
    found = bands.measure(tone(hertz, 0.1, time), rate)
    assert found[f"mean_{hertz}_dbfs"] == pytest.approx(-23.0, abs=0.3)
    assert found[f"peak_{hertz}_dbfs"] == pytest.approx(-23.0, abs=0.3)
    assert max(bands.OCTAVES_HZ, key=lambda centre: found[f"mean_{centre}_dbfs"]) == hertz
    assert found[f"balance_{hertz}_db"] > 30


def test_a_quieter_sound_has_lower_levels_and_the_same_balance():
    noise = np.random.default_rng(0).normal(size=len(TIME)) * 0.1
    loud, quiet = bands.measure(noise, RATE), bands.measure(noise / 10, RATE)
    for centre in bands.OCTAVES_HZ:
        assert loud[f"mean_{centre}_dbfs"] - quiet[f"mean_{centre}_dbfs"] == pytest.approx(20, abs=0.01)
        assert loud[f"balance_{centre}_db"] == pytest.approx(quiet[f"balance_{centre}_db"], abs=0.01)


@pytest.mark.parametrize("rate", [2, 4, 16])
def test_modulation_stands_in_the_octave_of_its_rate(rate):
    found = bands.measure(tone(1000) * (1 + 0.8 * np.sin(2 * np.pi * rate * TIME)) / 2, RATE)
    assert max((name for name in found if name.startswith("changes_")), key=found.get) == f"changes_{rate}_db"
    assert bands.measure(tone(1000), RATE)[f"changes_{rate}_db"] < 0.1


@pytest.mark.parametrize("rate", [1.5, -1.5])
def test_a_sweep_has_its_rate(rate):
    start = 400 if rate > 0 else 3200
    phase = 2 * np.pi * start * (2 ** (rate * TIME) - 1) / (rate * np.log(2))
    found = bands.measure(np.sin(phase), RATE)
    assert found["sweep_octaves"] == pytest.approx(rate, abs=0.1)
    assert found["spread_octaves"] == pytest.approx(abs(rate) * 2 / 12**0.5, rel=0.1)
    assert bands.measure(tone(1000), RATE)["spread_octaves"] < 0.01


def test_clicks_rise_and_tones_stand_above_valleys():
    clicks = np.zeros(len(TIME))
    clicks[:: RATE // 25] = 1
    noise = np.random.default_rng(0).normal(size=len(TIME)) * 0.1
    assert bands.measure(clicks, RATE)["rise_high_db"] > 10 + bands.measure(noise, RATE)["rise_high_db"]
    assert bands.measure(tone(4000), RATE)["contrast_high_db"] > 5 + bands.measure(noise, RATE)["contrast_high_db"]


def test_silence_short_sounds_and_low_rates():
    silent = bands.measure(np.zeros(RATE), RATE)
    assert {silent[f"mean_{centre}_dbfs"] for centre in bands.OCTAVES_HZ} == {bands.FLOOR_DBFS}
    assert "sweep_octaves" not in silent
    assert bands.measure(np.zeros(100), RATE) == {}
    low = bands.measure(tone(500)[:8000], 4000)
    assert "mean_1000_dbfs" in low
    assert "mean_4000_dbfs" not in low
    assert "changes_1_db" not in bands.measure(tone(500)[:RATE], RATE)
    assert all(np.isfinite(value) for value in (silent | low).values())
    for length in range(766, 1200, 37):
        assert all(np.isfinite(value) for value in bands.measure(tone(500)[:length], RATE).values())
