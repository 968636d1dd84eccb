"""The synthesised notes: complete, in tune, the same for everyone, and repaired when damaged."""

import csv
import hashlib
import math
import os
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ingest.sounds.notes import DETUNE_CENTS, NOTES, OCTAVES, RATE_HZ, TIMBRES, pitch_hz, synthesise, wav, write_notes, write_once
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import decode, measure_file
from warehouse.store import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds") / "notes"
    write_notes(folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_name_octave_and_timbre_has_one_clip(folder: Path) -> None:
    listing = read_dataset("notes", folder)
    assert (listing.name, listing.reader, len(listing.entries), listing.rejected) == ("notes", "notes", 12 * 5 * 6, [])
    assert list(listing.label_sets) == ["note", "octave", "timbre"]
    assert listing.label_sets["note"] == list(NOTES)
    assert listing.label_sets["octave"] == ["2", "3", "4", "5", "6"]
    assert sorted(listing.label_sets["timbre"]) == sorted(TIMBRES)
    places = Counter((*entry.labels["note"], *entry.labels["octave"], *entry.labels["timbre"]) for entry in listing.entries)
    assert (len(places), set(places.values())) == (360, {1})
    assert all((entry.group, entry.fold) == (entry.labels["timbre"][0], None) for entry in listing.entries)
    assert listing.license
    assert listing.license.startswith("CC0")
    assert len({hashlib.sha256(entry.path.read_bytes()).digest() for entry in listing.entries}) == 360


def test_clips_are_two_seconds_of_16_bits_at_moderate_levels(folder: Path) -> None:
    for path in sorted(folder.rglob("*4.wav")):
        assert soundfile.info(path).subtype == "PCM_16"
        found = measure_file(path)
        assert (found["duration_s"], found["sample_rate_hz"], found["channels"]) == (2.0, RATE_HZ, 1)
        assert -18.1 < found["peak_dbfs"] < -5.9


def test_pitches_of_equal_temperament() -> None:
    assert pitch_hz("A", 4) == 440
    assert [pitch_hz("C", octave) for octave in (2, 4, 6)] == pytest.approx([65.4064, 261.6256, 1046.5023], abs=1e-4)
    assert pitch_hz("B", 6) == pytest.approx(1975.533, abs=1e-3)


@pytest.mark.parametrize("timbre", TIMBRES)
@pytest.mark.parametrize(("note", "octave"), [("C", 2), ("F#", 3), ("A", 4), ("D#", 5), ("B", 6)])
def test_the_file_sounds_the_note_it_is_named_for(folder: Path, timbre: str, note: str, octave: int) -> None:
    mono, rate_hz, _ = decode(folder / timbre / f"{note.replace('#', 's')}{octave}.wav")
    size = 1 << 20  # padded far, so that a bin is 0.02 Hz
    power = np.abs(np.fft.rfft(mono * np.hanning(len(mono)), size))
    found_hz = float(power.argmax()) * rate_hz / size
    assert abs(1200 * math.log2(found_hz / pitch_hz(note, octave))) < DETUNE_CENTS + 1


def test_timbres_have_the_harmonics_they_should() -> None:
    def levels(timbre: str, start_s: float = 0.5) -> np.ndarray:
        """Amplitudes of harmonics 1 to 5 of A3 (220 Hz) over a second, relative to the first."""
        sound = synthesise(timbre, "A", 3)[round(start_s * RATE_HZ) :][:RATE_HZ].astype(float)
        power = np.abs(np.fft.rfft(sound * np.hanning(RATE_HZ), 16 * RATE_HZ))
        found = np.array([power[16 * (220 * n - 8) : 16 * (220 * n + 8)].max() for n in range(1, 6)])
        return found / found[0]

    assert levels("sine") == pytest.approx([1, 0, 0, 0, 0], abs=1e-3)
    assert levels("square") == pytest.approx([1, 0, 1 / 3, 0, 1 / 5], abs=0.02)
    assert levels("sawtooth") == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], abs=0.02)
    assert levels("organ") == pytest.approx([1, 0.7, 0.4, 0.4, 0], abs=0.02)
    assert levels("plucked", 0.0)[4] > 2 * levels("plucked", 0.5)[4]


@pytest.mark.slow
def test_seeds_differ_and_one_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_notes(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)
    assert not np.array_equal(synthesise("sine", "A", 4, seed=1), synthesise("sine", "A", 4, seed=0))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_notes(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_damage_is_repaired_and_other_files_are_left_alone(folder: Path, tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    (tmp_path / "notes" / "sine" / "A4.wav").unlink()
    (tmp_path / "notes" / "organ" / "Cs2.wav").write_bytes(b"damaged")
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    write_notes(tmp_path / "notes")
    found = contents(tmp_path / "notes")
    assert found.pop("mine.txt") == hashlib.sha256(b"mine").hexdigest()
    assert found == contents(folder)


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something other than the notes: give another folder"):
        write_notes(tmp_path)
    with pytest.raises(UserError, match="cannot write the notes to"):
        write_notes(tmp_path / "thesis.tex" / "notes")
    assert contents(tmp_path).keys() == {"thesis.tex"}


def test_writing_that_was_killed_begins_again(tmp_path: Path) -> None:
    def make():
        yield "a", b"1"
        if not done:
            raise KeyboardInterrupt
        yield "sub/b", b"2"

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        write_once(tmp_path / "x", "marker", {"seed": 1}, make)
    done.append(1)
    write_once(tmp_path / "x", "marker", {"seed": 1}, make)
    assert (tmp_path / "x" / "sub" / "b").read_bytes() == b"2"
    assert not list(tmp_path.rglob("*.tmp"))
    write_once(tmp_path / "x", "marker", {"seed": 2}, lambda: [("a", b"3")])
    assert (tmp_path / "x" / "a").read_bytes() == b"3"


def test_wav_files_are_read_back_to_the_bit(tmp_path: Path) -> None:
    floats = np.array([0.0, 1 / 3, -1.5, 2.0**-30], dtype=np.float32)
    (tmp_path / "floats.wav").write_bytes(wav(floats, 48_000))
    (tmp_path / "integers.wav").write_bytes(wav(np.array([0, 1, -32768], dtype=np.int16), 8_000))
    assert np.array_equal(soundfile.read(tmp_path / "floats.wav", dtype="float32")[0], floats)
    assert soundfile.info(tmp_path / "floats.wav").samplerate == 48_000
    assert soundfile.read(tmp_path / "integers.wav", dtype="int16")[0].tolist() == [0, 1, -32768]
    for path in tmp_path.iterdir():
        assert struct.unpack("<I", path.read_bytes()[4:8]) == (os.path.getsize(path) - 8,)


def test_the_table_names_every_file(folder: Path) -> None:
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file_name"] for row in rows} == {path.relative_to(folder).as_posix() for path in folder.rglob("*.wav")}
    assert {int(row["octave"]) for row in rows} == set(OCTAVES)
