"""Acoustic measurements against sounds whose properties are known because they were made so, and the words for them."""

import math
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ingest.language.acoustic import describe
from ingest.sounds.acoustics import Measurement, measure
from ingest.sounds.notes import OCTAVES, TIMBRES, pitch_hz, synthesise
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import decode
from ingest.sounds.sound import measure as measure_signal
from ingest.sounds.starter import SOUNDS, Clip

ESC50 = Path(os.environ.get("AURICLE_ESC50") or Path(__file__).parents[3] / "../shared/data/esc50")
RATE = 22_050
T = np.arange(5 * RATE) / RATE
NOISE = np.random.default_rng(0).standard_normal(len(T)) * 0.1


def tone(hertz: float, amplitude: float = 0.2) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * T)


def clicks(times: np.ndarray) -> np.ndarray:
    """Bursts of noise that die away within 20 ms."""
    sound = np.zeros(len(T))
    for time in times:
        since = T - time
        sound += NOISE * 5 * np.where(since >= 0, np.exp(-np.maximum(since, 0) / 0.005), 0)
    return sound


def gated(sound: np.ndarray, starts: list[float], seconds: float) -> np.ndarray:
    return sound * np.any([(start <= T) & (start + seconds > T) for start in starts], axis=0)


def saw(hertz: float) -> np.ndarray:
    return sum(tone(n * hertz, 0.2 / n) for n in range(1, int(0.45 * RATE / hertz)))


def test_pitches_of_notes():
    worst = 0.0
    for timbre in TIMBRES:
        for octave in OCTAVES:
            for note in ("C", "B")[octave % 2 :][:1]:
                found = measure(synthesise(timbre, note, octave) / 32768, 22_050)
                assert found.pitch_hz is not None, (timbre, note, octave)
                worst = max(worst, abs(found.pitch_hz / pitch_hz(note, octave) - 1))
                assert f"Its pitch is in octave {octave}." in describe(found), (timbre, note, octave)
    assert worst < 0.03


def test_levels():
    found = measure(gated(tone(1000, 0.3), [1.0], 2.5), RATE)
    assert found.level_dbfs == pytest.approx(20 * math.log10(0.3) - 3.0103, abs=0.1)
    assert found.peak_dbfs == pytest.approx(20 * math.log10(0.3), abs=0.01)
    assert found.silence_share == pytest.approx(0.5, abs=0.005)
    assert (found.sounding_s, found.events) == (pytest.approx(2.5, abs=0.02), 1)
    noise = measure(NOISE, RATE)
    assert noise.level_dbfs == pytest.approx(10 * math.log10(np.mean(NOISE**2)), abs=0.1)
    assert noise.level_range_db < 1
    bursts = measure(gated(NOISE, [0.5, 2, 3.5], 0.5) + 0.05 * NOISE, RATE)
    assert bursts.events == 3
    assert bursts.event_s == pytest.approx(0.5, abs=0.02)
    assert bursts.pause_depth_db == pytest.approx(20 * math.log10(1.05 / 0.05), abs=0.5)


@pytest.mark.parametrize("sound", [saw(150) * np.exp(-T), clicks(np.arange(0.1, 5, 0.4))], ids=["decaying tone", "clicks"])
def test_only_levels_depend_on_the_gain(sound):
    quiet, loud = (asdict(measure(gain * sound, RATE)) for gain in (0.5, 4))
    for key in ("level_dbfs", "peak_dbfs"):
        assert loud[key] == pytest.approx(quiet[key] + 20 * math.log10(8), abs=1e-3)
    same = [key for key, value in quiet.items() if loud[key] == (None if value is None else pytest.approx(value, rel=1e-3, abs=1e-3))]
    assert set(quiet) - set(same) == {"level_dbfs", "peak_dbfs", "silence_share"}


@pytest.mark.parametrize("rate_hz", [11_025, 44_100])
def test_spectra(rate_hz):
    time = np.arange(3 * rate_hz) / rate_hz
    parts = [(300, 0.1), (900, 0.2), (3000, 0.3)]
    found = measure(sum(amplitude * np.sin(2 * np.pi * hertz * time) for hertz, amplitude in parts), rate_hz)
    total = 0.1**2 + 0.2**2 + 0.3**2
    assert (found.low_share, found.middle_share, found.high_share) == pytest.approx((0.01 / total, 0.04 / total, 0.09 / total), abs=0.005)
    assert found.centroid_hz == pytest.approx((300 * 0.01 + 900 * 0.04 + 3000 * 0.09) / total, rel=0.01)
    assert found.bandwidth_octaves == pytest.approx(math.log2(10), abs=0.1)
    assert found.median_frequency_hz == pytest.approx(3000, abs=20)
    noise = np.random.default_rng(1).standard_normal(3 * rate_hz) * 0.1
    white = measure(noise, rate_hz)
    assert white.flatness > 0.95
    assert white.tonality < 0.1
    # What is above 12 kHz is left out of spectra.
    assert white.median_frequency_hz == pytest.approx(min(measure_signal(noise, rate_hz)["median_frequency_hz"], 6000), rel=0.05)


@pytest.mark.parametrize(("hertz", "speed"), [(1, "slow"), (2.5, "slow"), (5, "moderate"), (8, "fast"), (20, "fast"), (40, "fast")])
@pytest.mark.parametrize("carrier", [NOISE, tone(700)])
def test_modulation(carrier, hertz, speed):
    found = measure(carrier * (1 + 0.6 * np.sin(2 * np.pi * hertz * T)), RATE)
    assert found.modulation_hz == pytest.approx(hertz, rel=0.03)
    assert found.modulation_depth == pytest.approx(0.6, abs=0.05)
    assert f"It has a {speed} modulation." in describe(found)
    assert measure(carrier, RATE).modulation_depth in (None, pytest.approx(0, abs=0.05))


@pytest.mark.parametrize("per_second", [1, 2, 5, 8, 12])
def test_onsets(per_second):
    times = np.arange(0.1, 4.95, 1 / per_second)
    for sound in (clicks(times), clicks(times) + 0.2 * NOISE):
        found = measure(sound, RATE)
        assert found.onset_rate_hz * 5 == pytest.approx(len(times), abs=1)
        assert found.rhythm_hz == pytest.approx(per_second, rel=0.06)
        assert found.regularity > 0.8
    irregular = measure(clicks(np.sort(np.random.default_rng(per_second).uniform(0, 5, 5 * per_second))), RATE)
    assert irregular.regularity is None or irregular.regularity < 0.6


def test_attacks():
    slow = measure(tone(500) * np.clip((T - 1) / 0.4, 0, 1), RATE)
    assert slow.attack_s == pytest.approx(0.32, abs=0.02)  # from 10% to 90% of a straight rise
    assert measure(gated(NOISE, [1, 2], 0.3), RATE).attack_s <= 0.02
    assert measure(NOISE, RATE).attack_s is None
    assert "It is a gradual sound." in describe(slow)


def test_trends():
    fading = measure(NOISE * 10 ** (-T / 5), RATE)  # 20 dB in 5 s
    assert fading.level_trend_db == pytest.approx(-20, abs=0.5)
    for octaves in (0.5, -0.4):
        found = measure(0.2 * np.sin(2 * np.pi * np.cumsum(600 * 2 ** (octaves * T)) / RATE), RATE)
        assert found.pitch_trend == pytest.approx(12 * octaves, rel=0.03)
        assert found.pitch_movement == pytest.approx(abs(12 * octaves), rel=0.03)
    vibrato = measure(0.2 * np.sin(2 * np.pi * np.cumsum(600 * 2 ** (np.sin(2 * np.pi * T) / 4)) / RATE), RATE)
    assert abs(vibrato.pitch_trend) < 1
    assert vibrato.pitch_movement == pytest.approx(12, rel=0.05)  # up and down by half an octave every second
    assert vibrato.pitch_range == pytest.approx(6 * math.sin(0.4 * math.pi), rel=0.05)


WORDS = {
    "loud": (NOISE * 4, {"loud", "noisy", "broadband", "high-pitched", "continuous", "steady"}, {"quiet", "tonal", "fading"}),
    "quiet": (NOISE * 0.1, {"quiet", "noisy"}, {"loud"}),
    "hum": (saw(100), {"low-pitched", "tonal", "harmonic", "octave 2", "constant in pitch"}, {"noisy", "high-pitched", "pure"}),
    "whistle": (tone(2000), {"high-pitched", "tonal", "pure", "narrowband", "octave 6"}, {"noisy", "harmonic", "broadband", "low-pitched"}),
    "middle": (tone(700), {"mid-pitched", "middle-frequency", "octave 5"}, {"high-pitched", "low-pitched", "low-frequency"}),
    "rumble": (np.cumsum(NOISE - NOISE.mean()) * 0.01, {"deep", "dull", "low-frequency", "noisy"}, {"bright", "tonal"}),
    "rising": (
        0.2 * np.sin(2 * np.pi * np.cumsum(300 * 2 ** (T % 1 * 2)) / RATE),
        {"rising in pitch", "tonal"},
        {"falling in pitch", "gliding in pitch", "noisy"},
    ),
    "beeps": (
        gated(tone(1000), [0.5 * n for n in range(10)], 0.2),
        {"intermittent", "row of short", "rhythmic", "2-hertz beat", "silence", "sharp"},
        {"continuous", "steady", "many onsets", "gradual", "single"},
    ),
    "ticks": (clicks(np.arange(0.1, 4.9, 0.125)), {"many onsets", "rhythmic", "an 8-hertz beat", "sharp"}, {"tonal", "4-hertz"}),
    "bang": (clicks(np.array([2.0])) * 5, {"single short", "silence", "noisy", "sharp"}, {"rhythmic", "intermittent", "row of"}),
    "fading": (NOISE * 10 ** (-T / 4), {"fading"}, {"swelling", "steady"}),
    "chord": (tone(350) + tone(440), {"tonal"}, {"noisy", "mixture"}),
}


@pytest.mark.parametrize("name", WORDS)
def test_words(name):
    sound, there, absent = WORDS[name]
    said = " ".join(describe(measure(sound, RATE)))
    assert {word for word in there if word not in said} == set(), said
    assert {word for word in absent if word in said} == set(), said


EXCLUDING = [
    ("loud", "quiet"),
    ("low-pitched", "mid-pitched", "high-pitched"),
    ("low-frequency", "middle-frequency", "high-frequency"),
    ("dull", "bright"),
    ("tonal", "a mixture", "noisy"),
    ("harmonic", "pure"),
    ("rising in", "falling in", "gliding in", "constant in"),
    ("a continuous", "an intermittent", "single"),
    ("sharp", "gradual"),
    ("slow mod", "moderate mod", "fast mod", "a fluctuating", "a steady"),
    ("fading", "swelling"),
]


@pytest.mark.parametrize("number", range(len(SOUNDS)))
def test_starter_sounds(number):
    """One clip of every class: no contradictions, long enough sentences, the right pitch."""
    name, (course, make) = list(SOUNDS.items())[number]
    clip = Clip(0, number, 4)
    sound = clip.finish(make(clip))
    found = measure(sound, clip.rate_hz)
    said = describe(found)
    for group in EXCLUDING:
        assert sum(any(word in sentence for sentence in said) for word in group) <= 1, (group, said)
    assert all(len(sentence.split()) >= 5 and sentence.endswith(".") for sentence in said)
    assert len(set(said)) == len(said)
    if clip.pitch_hz and name not in ("Organ", "Bell"):  # chords and inharmonic partials
        assert found.pitch_hz == pytest.approx(clip.pitch_hz, rel=0.03)
    if name != "Silence":
        if name != "Engine":  # some are so fast that the strokes are a tone
            assert ("noisy" in " ".join(said)) == (name in ("White noise", "Pink noise", "Static", "Tick")), said
        assert any("beat" in sentence for sentence in said) == (course == "repeated" and name != "Static")
    else:
        assert said == ["It is a silent clip."]


def test_undefined_is_none():
    silent = measure(np.zeros(1000), 8000)
    assert silent == Measurement(0.125, 1.0)
    assert measure(np.full(1000, 1e-4), 8000) == Measurement(0.125, 1.0, peak_dbfs=pytest.approx(-80))
    one = measure(np.ones(1), 8000)
    assert (one.level_dbfs, one.events, one.tonality, one.attack_s, one.modulation_hz) == (0, 1, None, None, None)
    assert describe(one) == ["It is a loud sound.", "It is a continuous sound.", "It is a steady sound."]
    for bad in (np.zeros(0), np.zeros((2, 2)), np.array([0, np.nan]), np.array([np.inf, 0])):
        with pytest.raises(ValueError, match="a sound "):
            measure(bad, 8000)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rate_hz", [1, 400, 1000, 8000, 192_000])
def test_any_length_and_rate_gives_finite_values(rate_hz):
    rng = np.random.default_rng(0)
    for samples in (1, 2, 3, 19, 100, rate_hz // 50 + 1, rate_hz // 15 + 1, rate_hz + 7):
        noise = rng.standard_normal(samples)
        for sound in (noise, noise * 2.0**31, np.ones(samples), np.eye(1, samples, samples // 2)[0], np.sign(noise) * 1e-25):
            found = measure(sound, rate_hz)
            assert all(value is None or math.isfinite(value) for value in asdict(found).values())
            assert describe(found)


def test_a_long_sound_is_described_like_a_short_one():
    noise = np.random.default_rng(0).standard_normal(180 * 8000).astype(np.float32) * 0.1
    long, short = measure(noise, 8000), measure(noise[:40_000], 8000)
    assert long.duration_s == 180
    assert describe(long) == describe(short)


@pytest.fixture(scope="module")
def recordings() -> dict[str, list[Path]]:
    """Ten clips a category."""
    found: dict[str, list[Path]] = {}
    for entry in read_dataset("esc50", ESC50).entries:
        found.setdefault(entry.labels["category"][0], []).append(entry.path)
    return {category: paths[:10] for category, paths in found.items()}


@pytest.mark.skipif(not ESC50.is_dir(), reason="ESC-50 is neither at ../shared/data/esc50 nor at AURICLE_ESC50")
@pytest.mark.parametrize(
    ("category", "sentences"),
    [
        ("rain", ["It is a noisy sound.", "It is a continuous sound."]),
        ("crying_baby", ["It is a tonal sound.", "It is an intermittent sound."]),
        ("clock_tick", ["It is a rhythmic, repetitive sound.", "It is an intermittent sound."]),
        ("thunderstorm", ["It is a low-frequency sound.", "It is a dull sound."]),
        ("glass_breaking", ["It is a bright sound.", "It is a fading sound."]),
        ("siren", ["It is a tonal sound.", "It is a loud sound."]),
    ],
)
def test_recordings_are_described_as_people_would(recordings, category, sentences):
    """At least 6 of 10 clips of a class."""
    said = [describe(measure(*decode(path)[:2])) for path in recordings[category]]
    for sentence in sentences:
        assert sum(sentence in one for one in said) >= 6, (sentence, said)
