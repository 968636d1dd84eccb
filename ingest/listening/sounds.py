"""The sounds that are listened to: files as an ingest of them would take them, or samples that were decoded elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingest.sounds.datasets import METADATA_ENDINGS
from ingest.sounds.listing import AUDIO_ENDINGS
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import SoundError, fit, length_s, load
from warehouse.containers import is_there
from warehouse.store import UserError


@dataclass(frozen=True)
class Sound:
    """What a network hears of a sound: `samples` at its rate, as many as it takes, the first `heard_s` seconds of which are sound and the rest silence.
    They begin `start_s` seconds into the sound of `duration_s`. `path` is its file, where it has one."""

    name: str
    samples: np.ndarray
    heard_s: float
    duration_s: float
    start_s: float
    path: Path | None = None

    @property
    def is_cut(self) -> bool:
        """Whether it is longer than what was heard, by more than coding adds."""
        return self.start_s >= 0.01

    @property
    def part(self) -> str:
        """What of it was heard, in words."""
        if self.is_cut:
            return f"the middle {self.heard_s:.2f} of {self.duration_s:.2f} s, from {self.start_s:.2f} s on"
        return f"all of its {self.duration_s:.2f} s"


@dataclass(frozen=True)
class File:
    """A sound file and what it is called: its own name, or its path below the folder that was given."""

    name: str
    path: Path


def decoded(name: str, mono: np.ndarray, rate_hz: int, *, sample_rate_hz: int, clip_s: float) -> Sound:
    """A sound of mono samples at `rate_hz`, full scale 1, for a network of a rate and clip length: see ingest.sounds.sound.fit."""
    samples, heard_s = fit(mono, rate_hz, sample_rate_hz=sample_rate_hz, clip_s=clip_s)
    duration_s = len(mono) / rate_hz
    return Sound(name, samples, heard_s, duration_s, max(0.0, (duration_s - clip_s) / 2))


def find_files(given: Iterable[Path], say: Callable[[str], None]) -> list[File]:
    """The sound files that files and folders name; a folder's are those that an ingest of it takes, and what it leaves out is said. Raises UserError
    for what is not there, and for two of one name."""
    files: list[File] = []
    for path in given:
        if path.is_dir():
            listing = read_dataset(reader_of(path), path, None)
            for line in (*listing.notes, *(f"{item.item}: {item.reason}" for item in listing.rejected)):
                say(f"{path}: {line}")
            files += [File(entry.name, entry.path) for entry in listing.entries]
        elif is_there(path):
            files.append(File(path.name, path))
        else:
            raise UserError(f"{path} is no regular file" if path.exists() else f"no file {path}: give sound files, or a folder of them")
    named: dict[str, Path] = {}
    for file in files:
        if (other := named.setdefault(file.name, file.path)) is not file.path:
            raise UserError(f"two sounds are called {file.name}: {other} and {file.path}; rename one")
    return files


def reader_of(folder: Path) -> str:
    """The reader of a folder: audiofolder where there is its table; where there are no sound files, that of the containers there are; else folder."""
    if any((folder / f"metadata.{ending}").exists() for ending in METADATA_ENDINGS):
        return "audiofolder"
    found = set[str]()
    for _, _, names in os.walk(folder):
        found |= {Path(name).suffix.lower() for name in names if not name.startswith(".")}
        if found & AUDIO_ENDINGS:
            return "folder"
    return "webdataset" if ".tar" in found else "parquet" if ".parquet" in found else "folder"


def read_sounds(
    files: Iterable[File], *, sample_rate_hz: int, clip_s: float, shortest_s: float, named: Iterable[Path], say: Callable[[str], None]
) -> list[Sound]:
    """Decode files for a network. One that cannot be used raises UserError where it was `named`; of a folder's files it is said. Raises UserError when
    none is left."""
    wanted, sounds = set(named), []
    for file in files:
        try:
            samples, heard_s = load(file.path, sample_rate_hz=sample_rate_hz, clip_s=clip_s)
            if heard_s < shortest_s - 0.5 / sample_rate_hz:
                raise SoundError(f"{heard_s:.4f} s of sound: the network takes no less than {shortest_s:.4f} s")
            duration_s = length_s(file.path)
        except SoundError as error:
            if file.path in wanted:
                raise UserError(f"{file.path}: {error}") from None
            say(f"left out {file.name}: {error}")
            continue
        sounds.append(Sound(file.name, samples, heard_s, duration_s, max(0.0, (duration_s - clip_s) / 2), file.path))
    if not sounds:
        raise UserError("none of the files can be heard: what is wrong with each is said above")
    return sounds
