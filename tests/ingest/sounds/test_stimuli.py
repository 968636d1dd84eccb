"""The battery of stimuli: every property that its table says, measured back from the sound."""

import csv
import hashlib
import math
from collections import Counter
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ingest.sounds import stimuli
from ingest.sounds.readers import read_dataset
from ingest.sounds.stimuli import RATE_HZ, Stimulus, battery, synthesise
from warehouse.store import UserError

pytestmark = pytest.mark.slow

ALL = battery()


def of(kind: str, **what: object) -> list[Stimulus]:
    return [s for s in ALL if s.kind == kind and all(getattr(s, name) == value for name, value in what.items())]


def sound(stimulus: Stimulus) -> np.ndarray:
    return synthesise(stimulus) / 32767


def level_db(samples: np.ndarray) -> float:
    return 10 * math.log10(np.mean(np.square(samples)))


def spectrum(samples: np.ndarray, rate_hz: float = RATE_HZ) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.rfftfreq(1 << 18, 1 / rate_hz), np.abs(np.fft.rfft((samples - samples.mean()) * np.hanning(len(samples)), 1 << 18))


def peak_hz(samples: np.ndarray, rate_hz: float = RATE_HZ, above_hz: float = 0.0) -> float:
    hz, power = spectrum(samples, rate_hz)
    return float(hz[np.argmax(np.where(hz >= above_hz, power, 0))])


def envelope(samples: np.ndarray, rate_hz: int = 2000) -> np.ndarray:
    return np.sqrt(np.square(samples).reshape(-1, RATE_HZ // rate_hz).mean(axis=1))


def test_the_battery_is_as_large_as_it_says_and_no_two_are_alike():
    assert len(ALL) == 828
    assert Counter(s.kind for s in ALL) == {
        "tone": 288, "band": 48, "level": 36, "modulation": 132, "sweep": 48, "complex": 66, "clicks": 16, "gap": 32, "onset": 18, "ripple": 144,
    }  # fmt: skip
    assert len({s.name for s in ALL}) == len(ALL)
    assert {s.seconds for s in ALL} == {1.0, 2.0}
    assert (min(stimuli.FREQUENCIES_HZ), max(stimuli.FREQUENCIES_HZ)) == (60, 12_000)
    assert max(np.diff(np.log2(stimuli.FREQUENCIES_HZ))) < 1 / 6


@pytest.mark.parametrize("kind", ["tone", "band", "level", "modulation", "complex", "sweep", "ripple", "onset"])
def test_levels_are_those_of_the_table(kind):
    for stimulus in of(kind, repeat=1)[:: 1 if kind == "level" else 7]:
        samples = sound(stimulus)
        edge = round(stimulus.ramp_ms / 1000 * RATE_HZ)
        assert np.abs(samples).max() < 0.99, stimulus.name
        assert level_db(samples[edge : len(samples) - edge]) == pytest.approx(
            stimulus.level_dbfs, abs=1.5 if stimulus.level_dbfs == -90 else 0.4
        ), stimulus.name


def test_tones_and_bands_have_their_frequency():
    for stimulus in of("tone", repeat=2, level_dbfs=-20.0):
        assert peak_hz(sound(stimulus)) == pytest.approx(stimulus.frequency_hz, abs=0.3)
    for stimulus in of("band", repeat=1):
        hz, power = spectrum(sound(stimulus))
        inside = np.abs(np.log2(np.maximum(hz, 1) / stimulus.frequency_hz)) < 1 / 6 + 3 / stimulus.frequency_hz
        assert (power[inside] ** 2).sum() > 0.98 * (power**2).sum(), stimulus.name


@pytest.mark.parametrize("carrier", ["tone", "noise"])
def test_modulation_has_its_rate_and_depth(carrier):
    for stimulus in of("modulation", carrier=carrier, repeat=1):
        if stimulus.depth == 0:
            continue
        course = np.square(sound(stimulus)).reshape(-1, 16).mean(axis=1)  # 2 kHz
        hz, power = np.fft.rfftfreq(len(course), 1 / 2000), np.abs(np.fft.rfft(course))
        rate_bin = round(2 * stimulus.rate_hz)
        assert power[rate_bin - 1 : rate_bin + 2].max() == power[1 : np.searchsorted(hz, 900)].max(), stimulus.name
        if rate_bin == 2 * stimulus.rate_hz:  # else the time holds no whole number of periods
            depth = stimulus.depth
            assert 2 * power[rate_bin] / power[0] == pytest.approx(2 * depth / (1 + depth**2 / 2), rel=0.06), stimulus.name


def test_sweeps_go_their_way_at_their_speed_and_down_is_up_backwards():
    for up, down in zip(of("sweep", direction="up"), of("sweep", direction="down"), strict=True):
        assert np.abs(synthesise(up).astype(int) - synthesise(down)[::-1])[1000:-1000].max() <= 1
        samples = sound(up)
        period_s = up.seconds / math.ceil(2 * up.speed / 4)
        step = round(period_s * RATE_HZ / 4)
        first, second = (peak_octave(samples[start : start + step // 4]) for start in (step, 2 * step))
        assert (second - first) / (step / RATE_HZ) == pytest.approx(up.speed, rel=0.2, abs=0.1), up.name


def peak_octave(samples: np.ndarray) -> float:
    hz, power = spectrum(samples)
    power = np.where(hz > 40, power, 0) ** 2
    return float((power * np.log2(np.maximum(hz, 1))).sum() / power.sum())


def test_complexes_hold_the_harmonics_that_they_should():
    for f0 in (50.0, 200.0, 1600.0):
        by = {s.partials: spectrum(sound(s)) for s in of("complex", f0_hz=f0, repeat=1)}

        def at(partials: str, number: float) -> float:
            hz, power = by[partials]  # noqa: B023
            return float(power[np.abs(hz - number * f0) < 3].max() / power.max())  # noqa: B023

        assert at("all", 1) == pytest.approx(1, abs=0.02)
        assert at("all", 4) == pytest.approx(0.5, abs=0.02)
        assert at("no fundamental", 1) < 0.01
        assert at("no fundamental", 2) == pytest.approx(1, abs=0.02)
        if f0 < 1000:
            assert np.mean([at("jittered", n) for n in range(2, 12)]) < 0.5 * np.mean([at("all", n) for n in range(2, 12)])


def test_clicks_gaps_and_onsets():
    for stimulus in of("clicks"):
        loud = envelope(sound(stimulus), 1000) > 0.05
        starts = np.flatnonzero(loud[1:] & ~loud[:-1])
        if stimulus.rate_hz <= 128:
            assert len(starts) == stimulus.rate_hz * 2
    for repeat in (1, 4):
        whole, *cut = (sound(s) for s in of("gap", repeat=repeat))
        for stimulus, samples in zip(of("gap", repeat=repeat)[1:], cut, strict=True):
            silent = np.flatnonzero((samples == 0) & (whole != 0))
            assert len(silent) / RATE_HZ * 1000 == pytest.approx(stimulus.gap_ms, abs=0.1)
            assert np.array_equal(np.delete(samples, silent), np.delete(whole, silent))
    for stimulus in of("onset"):
        course = envelope(sound(stimulus))
        half_ms = np.argmax(course > 0.05) / 2
        assert half_ms == pytest.approx(stimulus.ramp_ms / 2, rel=0.25, abs=0.6), stimulus.name


def test_ripples_move_at_their_rate_and_density_and_in_their_direction():
    """The spectrum of the spectrogram, over time and octaves, peaks where the table says."""
    edges = 250 * 2 ** np.arange(0, 5.01, 1 / 20)
    for stimulus in of("ripple", repeat=1):
        if abs(stimulus.rate_hz) > 16 or stimulus.density > 4 or stimulus.density < 0.5:
            continue
        samples = sound(stimulus)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[:: RATE_HZ // 100] * np.hanning(1024)
        power = np.abs(np.fft.rfft(frames, 8192)) ** 2
        bins = np.searchsorted(np.fft.rfftfreq(8192, 1 / RATE_HZ), edges)
        bands = np.stack([power[:, a:b].mean(axis=1) for a, b in pairwise(bins[40:])], axis=1)  # from 1 kHz: resolved
        bands = bands / bands.mean(axis=0) - 1
        found = np.abs(np.fft.fft2(bands, (2000, 600)))
        rate, density = np.fft.fftfreq(2000, 0.01), np.fft.fftfreq(600, 1 / 20)
        found[:, density <= 0.2] = 0
        row, column = np.unravel_index(found.argmax(), found.shape)
        assert rate[row] == pytest.approx(stimulus.rate_hz, abs=0.3), stimulus.name
        assert density[column] == pytest.approx(stimulus.density, abs=0.15), stimulus.name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sounds") / "stimuli"


def test_they_are_a_data_set_whose_table_says_what_each_is(folder):
    listing = read_dataset("stimuli", folder)
    assert (listing.name, listing.reader, len(listing.entries), listing.rejected) == ("stimuli", "stimuli", 828, [])
    assert list(listing.label_sets) == ["kind"]
    assert listing.license is not None
    assert not listing.notes
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file_name"] for row in rows} == {path.relative_to(folder).as_posix() for path in folder.rglob("*.wav")}
    for row, stimulus in zip(rows, ALL, strict=True):
        assert {f.name: row[f.name] for f in fields(Stimulus)} == {
            f.name: "" if getattr(stimulus, f.name) is None else str(getattr(stimulus, f.name)) for f in fields(Stimulus)
        }
    info = soundfile.info(folder / ALL[0].name)
    assert (info.subtype, info.samplerate, info.channels) == ("PCM_16", RATE_HZ, 1)
    assert len({hashlib.sha256((folder / s.name).read_bytes()).digest() for s in ALL}) == len(ALL)


def test_one_seed_gives_the_same_samples_another_others():
    for stimulus in (of(kind)[-1] for kind in stimuli.SOUNDS):
        assert np.array_equal(synthesise(stimulus), synthesise(stimulus))
        assert not np.array_equal(synthesise(stimulus, 1), synthesise(stimulus)), stimulus.name


def test_another_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something other than the stimuli: give another folder"):
        stimuli.write_stimuli(tmp_path)
