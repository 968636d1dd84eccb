"""Single notes: 360 two-second clips, twelve names in five octaves played by six timbres, synthesised from a seed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from warehouse.store import UserError

VERSION = 1
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
OCTAVES = range(2, 7)
RATE_HZ = 22_050
SECONDS = 2.0
DETUNE_CENTS = 5.0
PEAK_DBFS = (-18.0, -6.0)
TOP_HZ = 0.45 * RATE_HZ  # partials above are left out
MARKER = "notes.json"


def write_notes(folder: Path, seed: int = 0) -> None:
    """Write the notes to `folder` as an audiofolder: metadata.csv and TIMBRE/NOTE.wav (mono, 16 bit); nothing when they are intact.

    metadata.csv has the columns file_name, note (C to B), octave (2 to 6 in scientific notation, A4 being 440 Hz), timbre and group (the
    timbre). A note is off by at most 5 cents, its peak at -18 to -6 dBFS. The same seed gives the same bytes. Raises UserError when the
    folder cannot be written or holds something else.
    """
    write_once(folder, MARKER, {"version": VERSION, "seed": seed}, lambda: _files(seed), "the notes")


def write_once(
    folder: Path, marker: str, key: dict[str, object], make: Callable[[], Iterable[tuple[str, bytes]]], what: str = "sounds"
) -> None:
    """Write the files (names below `folder` and contents) that `key` determines, unless they are all there.

    `marker` is a file in the folder with the key and every file's hash, written last; killed before, the next call begins again. Files
    appear whole or not at all; others are left alone. Raises UserError, naming `what`, when the folder cannot be written, or is not
    empty and has no marker; what `make` raises when called leaves nothing behind.
    """
    try:
        if _is_intact(folder, marker, key):
            return
        if folder.is_dir() and not (folder / marker).exists() and any(folder.iterdir()):
            raise UserError(f"{folder} holds something other than {what}: give another folder")
        files = make()
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / marker, b"{}")  # says whose folder it is, and that it is not whole
        hashes = {}
        for name, content in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _write(folder / name, content)
            hashes[name] = hashlib.sha256(content).hexdigest()
        _write(folder / marker, (json.dumps({**key, "files": hashes}, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {what} to {folder}: {error.strerror or error}; give a folder that can be written") from None


def wav(samples: np.ndarray, rate_hz: int) -> bytes:
    """A mono WAV file of samples: 16-bit integers as they are, anything else as 32-bit floats, full scale 1.

    Written here because encoders may change their bytes with their version, and libsndfile puts the time into WAV files of floats.
    """
    if samples.dtype == np.int16:
        chunks = [(b"fmt ", struct.pack("<HHIIHH", 1, 1, rate_hz, rate_hz * 2, 2, 16)), (b"data", samples.astype("<i2").tobytes())]
    else:
        form = struct.pack("<HHIIHHH", 3, 1, rate_hz, rate_hz * 4, 4, 32, 0)
        chunks = [(b"fmt ", form), (b"fact", struct.pack("<I", len(samples))), (b"data", samples.astype("<f4").tobytes())]
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(content)) + content for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pitch_hz(note: str, octave: int) -> float:
    """Frequency of a note in equal temperament, A4 being 440 Hz."""
    return float(440.0 * 2 ** ((NOTES.index(note) - 9) / 12 + octave - 4))


def synthesise(timbre: str, note: str, octave: int, seed: int = 0) -> np.ndarray:
    """One note as 16-bit samples [SECONDS * RATE_HZ].

    Random numbers come from PCG64's raw bits, which numpy promises to keep. All is float64, and rounding to 16 bits hides the last-bit
    differences of sines between machines.
    """
    place = [seed, list(TIMBRES).index(timbre), octave, NOTES.index(note)]
    detune, level = (np.random.PCG64(np.random.SeedSequence(place)).random_raw(2) >> np.uint64(11)) * 2.0**-53
    hz = pitch_hz(note, octave) * 2 ** (DETUNE_CENTS / 1200 * (2 * float(detune) - 1))
    time_s = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    sound = TIMBRES[timbre](hz, time_s) * np.clip(np.minimum(time_s / 0.01, (SECONDS - time_s) / 0.05), 0, 1)
    peak_db = PEAK_DBFS[0] + (PEAK_DBFS[1] - PEAK_DBFS[0]) * float(level)
    return np.rint(sound * (32767 * 10 ** (peak_db / 20) / np.abs(sound).max())).astype(np.int16)


def _is_intact(folder: Path, marker: str, key: dict[str, object]) -> bool:
    """Whether the marker has this key and every file has the hash it says."""
    try:
        found = json.loads((folder / marker).read_text(encoding="utf-8"))
        files = found.pop("files")
        return found == key and all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256 for name, sha256 in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _files(seed: int) -> Iterator[tuple[str, bytes]]:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file_name", "note", "octave", "timbre", "group"])
    for timbre in TIMBRES:
        for octave in OCTAVES:
            for note in NOTES:
                name = f"{timbre}/{note.replace('#', 's')}{octave}.wav"
                yield name, wav(synthesise(timbre, note, octave, seed), RATE_HZ)
                rows.writerow([name, note, octave, timbre, timbre])
    yield "metadata.csv", table.getvalue().encode()


def _harmonics(hz: float, time_s: np.ndarray, amplitudes: Iterable[float], decay: float = 0.0) -> np.ndarray:
    """Sum of sines at 1, 2, 3, ... times `hz` below TOP_HZ; the n-th dies away by exp(-n * decay * time_s)."""
    first = np.exp((2j * np.pi * hz - decay) * time_s)
    power, sound = np.ones_like(first), np.zeros(len(time_s))
    for _, amplitude in zip(range(int(TOP_HZ / hz)), amplitudes, strict=False):
        power *= first
        if amplitude:
            sound += amplitude * power.imag
    return sound


def sine(hz: float, time_s: np.ndarray) -> np.ndarray:
    """The fundamental alone."""
    return _harmonics(hz, time_s, [1.0])


def organ(hz: float, time_s: np.ndarray) -> np.ndarray:
    """Drawbars at harmonics 1, 2, 3, 4, 6 and 8."""
    return _harmonics(hz, time_s, [1.0, 0.7, 0.4, 0.4, 0.0, 0.2, 0.0, 0.25])


def square(hz: float, time_s: np.ndarray) -> np.ndarray:
    """Odd harmonics, falling as 1/n."""
    return _harmonics(hz, time_s, [n % 2 / n for n in range(1, 400)])


def sawtooth(hz: float, time_s: np.ndarray) -> np.ndarray:
    """All harmonics, falling as 1/n."""
    return _harmonics(hz, time_s, [1 / n for n in range(1, 400)])


def plucked(hz: float, time_s: np.ndarray) -> np.ndarray:
    """All harmonics, falling as 1/n, the higher the sooner gone."""
    return _harmonics(hz, time_s, [1 / n for n in range(1, 400)], decay=1.5)


def bell(hz: float, time_s: np.ndarray) -> np.ndarray:
    """Frequency modulation at the uneven ratio 1.4, clearing as it dies away (Chowning 1973, JAES 21(7)). The note itself stays strongest."""
    modulator = 1.2 * np.exp(-2 * time_s) * np.sin(2 * np.pi * 1.4 * hz * time_s)
    return np.exp(-2 * time_s) * np.sin(2 * np.pi * hz * time_s + modulator)


TIMBRES: dict[str, Callable[[float, np.ndarray], np.ndarray]] = {
    "sine": sine,
    "organ": organ,
    "square": square,
    "sawtooth": sawtooth,
    "plucked": plucked,
    "bell": bell,
}
"""What makes each timbre, from frequency (hertz) and time (seconds)."""
