"""The starter sounds: the same for everyone, complete, repaired when damaged, and like their classes."""

import csv
import hashlib
import math
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import decode, measure_file
from ingest.sounds.starter import CLIPS_PER_CLASS, SOUNDS, Clip, _move, octave_of, write_starter
from warehouse.store import UserError


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_class_has_its_clips_and_every_fold_its_share(starter: Path) -> None:
    rows = table(starter)
    assert len(rows) == 225
    assert len({row["file_name"] for row in rows}) == 225
    assert Counter(row["class"] for row in rows) == dict.fromkeys(SOUNDS, CLIPS_PER_CLASS)
    assert set(Counter((row["class"], row["fold"]) for row in rows).values()) == {3}
    assert sum(path.stat().st_size for path in starter.rglob("*.wav")) < 40e6
    assert [path.name for path in starter.parent.iterdir()] == ["starter"]


def test_nothing_is_guessed_of_sounds_of_our_own(starter: Path) -> None:
    listing = read_dataset("starter", starter)
    assert listing.notes == ()
    assert "Heart sounds, heartbeat" in {label for entry in listing.entries for label in entry.labels["class"]}


def test_clips_are_two_to_four_seconds_at_several_rates_and_levels(starter: Path) -> None:
    found = [measure_file(starter / row["file_name"]) for row in table(starter)]
    assert {clip["sample_rate_hz"] for clip in found} == {16_000, 22_050, 44_100}
    assert all(2 <= clip["duration_s"] <= 4 for clip in found)
    peaks = [clip["peak_dbfs"] for clip in found if clip["peak_dbfs"] is not None and clip["silence_share"] < 1]
    assert -21 < min(peaks) < -18
    assert -6 < max(peaks) < -2.9


def test_seeds_and_clips_differ() -> None:
    sounds = [Clip(*place).noise(100) for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len({sound.tobytes() for sound in sounds}) == 4


def test_chance_is_the_same_on_every_machine() -> None:
    """From PCG64's raw bits by exact arithmetic, so these hold anywhere and for ever."""
    clip = Clip(0, 3, 4)
    assert (clip.rate_hz, clip.samples) == (16000, 45834)
    assert hashlib.sha256(clip.noise(1000).astype("<f8").tobytes()).hexdigest()[:16] == "e2d150c3b9d4002b"


def test_written_again_nothing_changes(starter: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in starter.rglob("*")}
    write_starter(starter)
    assert {path: path.stat().st_mtime_ns for path in starter.rglob("*")} == before


@pytest.mark.slow
def test_damage_is_repaired_with_the_same_bytes_and_other_files_are_left_alone(starter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(starter, tmp_path / "starter"))
    old, new = tmp_path / ".starter.1.tmp", tmp_path / ".starter.2.tmp"
    for left in (old, new):
        left.mkdir()
    os.utime(old, (0, 0))
    for path in folder.rglob("*.*"):
        path.write_bytes(b"damaged")
    (folder / "siren" / "02.wav").unlink()
    (folder / "notes.txt").write_text("mine")
    write_starter(folder)
    found = contents(folder)
    assert found.pop("notes.txt") == hashlib.sha256(b"mine").hexdigest()
    assert found == contents(starter)
    assert not old.exists()
    assert new.exists()


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "x").write_text("")
    (tmp_path / "starter").mkdir()
    _move(tmp_path / "new", tmp_path / "starter", ["x"])
    assert (tmp_path / "starter" / "x").exists()
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something other than the starter sounds: give another folder"):
        write_starter(tmp_path)
    assert contents(tmp_path).keys() == {"thesis.tex"}


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the starter sounds to"):
        write_starter(tmp_path / "file" / "starter")


def spectrum(folder: Path, row: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Power and frequencies (hertz) of a clip."""
    mono, rate_hz, _ = decode(folder / row["file_name"])
    return np.abs(np.fft.rfft(mono.astype(np.float64))) ** 2, np.fft.rfftfreq(len(mono), 1 / rate_hz)


def of_class(folder: Path, name: str) -> list[dict[str, str]]:
    return [row for row in table(folder) if row["class"] == name]


def test_sine_waves_are_one_line_in_the_octave_they_say(starter: Path) -> None:
    for row in of_class(starter, "Sine wave"):
        power, frequency = spectrum(starter, row)
        peak_hz = frequency[power.argmax()]
        assert power[np.abs(frequency - peak_hz) < 10].sum() > 0.99 * power.sum()
        assert round(69 + 12 * math.log2(peak_hz / 440)) // 12 - 1 == int(row["octave"])
    assert len({row["octave"] for row in of_class(starter, "Sine wave")}) >= 4


def test_octaves_are_those_of_the_nearest_midi_note() -> None:
    # MIDI pitch 59 is B3, 60 is C4 at 261.63 Hz; a quarter tone below it, at 254.18 Hz, one becomes the other.
    assert [octave_of(hertz) for hertz in (16.352, 246.94, 254.0, 254.4, 261.63, 440.0, 508.3, 508.8)] == [0, 3, 3, 4, 4, 4, 4, 5]


@pytest.mark.parametrize(("name", "slope_db"), [("White noise", 0.0), ("Pink noise", -3.01)])
def test_noise_falls_per_octave_as_its_name_says(starter: Path, name: str, slope_db: float) -> None:
    for row in of_class(starter, name):
        power, frequency = spectrum(starter, row)
        low, high = (power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (200, 3200))
        assert 10 * np.log10(high / low) / 4 == pytest.approx(slope_db, abs=0.4)


def test_chirps_glide_over_octaves(starter: Path) -> None:
    for row in of_class(starter, "Chirp tone"):
        power, frequency = spectrum(starter, row)
        share = np.cumsum(power) / power.sum()
        assert frequency[np.searchsorted(share, 0.95)] > 6 * frequency[np.searchsorted(share, 0.05)]


@pytest.mark.parametrize("name", ["Beep, bleep", "Busy signal", "Tick", "Heart sounds, heartbeat"])
def test_repeated_sounds_come_and_go(starter: Path, name: str) -> None:
    for row in of_class(starter, name):
        assert row["course"] == "repeated"
        mono, _, _ = decode(starter / row["file_name"])
        frames = np.square(mono[: len(mono) // 400 * 400].astype(np.float64)).reshape(-1, 400).mean(axis=1)
        assert 10 * np.log10(np.quantile(frames, 0.99) / np.quantile(frames, 0.05)) > 12, row


def test_silence_is_silent(starter: Path) -> None:
    found = [measure_file(starter / row["file_name"]) for row in of_class(starter, "Silence")]
    assert {clip["silence_share"] for clip in found} == {1.0}
    assert sum(clip["rms_dbfs"] is None for clip in found) == 5
