"""Readers of the sets that layers are probed with, in their official layouts, and balanced draws and grouped folds of any set.

Clips in all and a class of the published probing study: NSynth 1800 (150), Medley-solos-DB 965 (unequal), GTZAN 1000 (100), PCVC 1794 (78),
Speech Commands 1750 (50), LibriCount 1100 (100).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ingest.sounds import datasets
from ingest.sounds.listing import Gathered, Listing, Reading, files_in, ordered
from ingest.sounds.metadata import MAX_BYTES, read_rows, show
from ingest.sounds.notes import NOTES, wav, write_notes, write_once
from ingest.sounds.stimuli import write_stimuli
from warehouse.store import UserError, sha256_file

NSYNTH_SPLITS = ("nsynth-train", "nsynth-valid", "nsynth-test")
MEDLEY_TABLE = "Medley-solos-DB_metadata.csv"
MEDLEY_DROPPED = "tenor saxophone"
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
PCVC_RATE_HZ = 48_000
PCVC_CONSONANTS, PCVC_VOWELS = 23, 6
PCVC_VERSION = 1
WORDS = (
    *("backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy", "house", "learn"),
    *("left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two", "up"),
    *("visual", "wow", "yes", "zero"),
)

NSYNTH_LICENSE = "NSynth: Engel et al. (2017), Magenta, CC BY 4.0"
MEDLEY_LICENSE = "Medley-solos-DB: V. Lostanlen, C.-E. Cella, R. Bittner and S. Essid (2018), CC BY 4.0"
PCVC_LICENSE = "PCVC Speech Dataset: S. Malekzadeh, M. H. Gholizadeh and S. N. Razavi (2018), GPL 3.0"
SPEECH_COMMANDS_LICENSE = "Speech Commands: P. Warden (2018), Google, CC BY 4.0"
LIBRICOUNT_LICENSE = (
    "LibriCount: F.-R. Stöter, S. Chakrabarty, E. Habets and B. Edler (2018), CC BY 4.0; speech from LibriSpeech, CC BY 4.0"
)


def read_nsynth(source: Path, name: str | None = None) -> Listing:
    """NSynth (Engel et al. 2017, arXiv:1704.01279): nsynth-{train,valid,test}/examples.json and audio/, or one of the three.

    Label sets: `note` (12 pitch classes), `octave` in scientific notation (MIDI pitch 60 is C4), `instrument_family`. The group is the
    instrument. There are no folds: the official split keeps whole instruments apart but is none for cross-validation.
    """
    splits = [split for split in NSYNTH_SPLITS if (source / split / "examples.json").is_file()]
    if not splits and not (source / "examples.json").is_file():
        raise UserError(
            f"folder {show(source)} holds no {NSYNTH_SPLITS[2]}/examples.json or examples.json: reader nsynth needs one and audio/"
        )
    gathered = Gathered(None, source)
    for split in splits or [""]:
        prefix = f"{split}/audio/" if split else "audio/"
        for key, found in _nsynth_examples(source / split / "examples.json").items():
            file = f"{prefix}{key}.wav"
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", key):
                gathered.reject(None, file, "not the name of an NSynth note")
            elif not isinstance(found, tuple) or type(pitch := found[0]) is not int or not 0 <= pitch <= 127:
                gathered.reject(None, file, "has no MIDI pitch from 0 to 127 in examples.json")
            else:
                labels = {"note": NOTES[pitch % 12], "octave": pitch // 12 - 1, "instrument_family": found[2]}
                gathered.add(None, file, labels, None, found[1])
    return ordered(gathered.listing(name or "nsynth", "nsynth", source, NSYNTH_LICENSE), note=NOTES)


def read_medley_solos_db(source: Path, name: str | None = None) -> Listing:
    """Medley-solos-DB (Lostanlen and Cella 2016, arXiv:1605.06644): Medley-solos-DB_metadata.csv and its clips, here or in audio/.

    Label set `instrument` without tenor saxophone, whose clips are left out; the group is the song. No folds.
    """
    tables = [path for path in (source / MEDLEY_TABLE, source / "annotation" / MEDLEY_TABLE) if path.is_file()]
    if not tables:
        raise UserError(f"folder {show(source)} holds no {MEDLEY_TABLE}: reader medley-solos-db needs it beside the clips or their audio/")
    folders = [folder for folder in ("", "audio", "Medley-solos-DB") if (source / folder).is_dir()]
    gathered = Gathered(tables[0], source)
    for line, row in read_rows(tables[0], required=("subset", "instrument", "instrument_id", "song_id", "uuid4")):
        if isinstance(row, str):
            gathered.reject(line, None, row)
            continue
        if " ".join(str(row["instrument"]).lower().split()) == MEDLEY_DROPPED:
            continue
        stem = f"Medley-solos-DB_{row['subset']}-{row['instrument_id']}_{row['uuid4']}"
        # Some releases of the archive double the ending.
        candidates = [f"{folder}/{stem}{ending}".lstrip("/") for folder in folders for ending in (".wav", ".wav.wav")]
        file = next((file for file in candidates if os.path.isfile(source / file)), candidates[0])
        gathered.add(line, file, {"instrument": row["instrument"]}, None, row["song_id"])
    return gathered.listing(name or "medley-solos-db", "medley-solos-db", source, MEDLEY_LICENSE)


def read_gtzan(source: Path, name: str | None = None) -> Listing:
    """GTZAN (Tzanetakis and Cook 2002, DOI 10.1109/TSA.2002.800560): genres_original/ or genres/ with GENRE/GENRE.NNNNN.wav or .au.

    Label set `genre`, ten of them. No folds and no groups: the set does not say which clips come from one recording. jazz.00054.wav is
    known to be damaged in one common copy; like any file that does not decode it ends as a failure, not here.
    """
    roots = [root for root in ("genres_original", "genres", ".") if any((source / root / genre).is_dir() for genre in GENRES)]
    if not roots:
        raise UserError(
            f"folder {show(source)} holds no genres_original/, genres/ or folders of genres (blues, ...): reader gtzan needs one"
        )
    gathered = Gathered(None, source)
    for genre in GENRES:
        for file in files_in(source / roots[0] / genre, rf"{genre}\.[0-9]{{5}}\.(wav|au)"):
            gathered.add(None, (Path(roots[0]) / genre / file).as_posix(), {"genre": genre}, None, None)
    return gathered.listing(name or "gtzan", "gtzan", source, None)


def read_pcvc(source: Path, name: str | None = None) -> Listing:
    """PCVC (Malekzadeh et al. 2018, arXiv:1812.06953): one SPEAKER.mat a speaker, here or in Samples/; scipy reads them.

    Each holds an array of 23 consonants x 6 vowels x samples at 48 kHz. Its 138 sounds are written once to clips/SPEAKER/C-V.wav (32-bit
    floats) beside the files. Label sets `consonant` and `vowel` are numbers in the order of the array, which the authors give only in a
    picture; a file phonemes.txt with 23 + 6 names between spaces replaces them. The group is the speaker. No folds.
    """
    try:
        import scipy.io
    except ImportError:
        raise UserError("reader pcvc needs scipy to read .mat files: pip install scipy") from None
    folder = next((folder for folder in (source, source / "Samples") if files_in(folder, r".+\.mat")), None)
    if folder is None:
        raise UserError(f"folder {show(source)} holds no .mat files: reader pcvc needs one for each speaker")
    consonants, vowels = _phonemes(source / "phonemes.txt")
    clips = source / "clips"
    gathered = Gathered(None, source)
    for file in files_in(folder, r".+\.mat"):
        speaker, path = Path(file).stem, folder / file
        try:
            key: dict[str, object] = {"version": PCVC_VERSION, "sha256": sha256_file(path)}
            write_once(clips / speaker, "pcvc.json", key, partial(_pcvc_clips, path, scipy.io), f"the sounds of {show(file)}")
        except (OSError, ValueError) as error:
            gathered.reject(None, path.relative_to(source).as_posix(), f"not a speaker's sounds: {show(error)}")
            continue
        for c, consonant in enumerate(consonants, 1):
            for v, vowel in enumerate(vowels, 1):
                gathered.add(None, f"clips/{speaker}/{c:02}-{v}.wav", {"consonant": consonant, "vowel": vowel}, None, speaker)
    return ordered(gathered.listing(name or "pcvc", "pcvc", source, PCVC_LICENSE), consonant=consonants, vowel=vowels)


def read_speech_commands(source: Path, name: str | None = None) -> Listing:
    """Speech Commands v0.02 (Warden 2018, arXiv:1804.03209): WORD/SPEAKER_nohash_N.wav for 35 words; _background_noise_ is left out.

    Label set `word`; the group is the speaker. No folds: validation_list.txt and testing_list.txt part the set into 80, 10 and 10 percent.
    """
    words = [word for word in WORDS if (source / word).is_dir()]
    if not words:
        raise UserError(f"folder {show(source)} holds no folders of words (yes, no, ...): reader speech-commands needs them")
    gathered = Gathered(None, source)
    for word in words:
        for file in files_in(source / word, r"[^.].*\.wav"):
            speaker = re.fullmatch(r"([0-9a-f]+)_nohash_[0-9]+\.wav", file)
            if speaker:
                gathered.add(None, f"{word}/{file}", {"word": word}, None, speaker[1])
            else:
                gathered.reject(None, f"{word}/{file}", "the name is not SPEAKER_nohash_NUMBER.wav")
    return gathered.listing(name or "speech-commands", "speech-commands", source, SPEECH_COMMANDS_LICENSE)


def read_libricount(source: Path, name: str | None = None) -> Listing:
    """LibriCount (Stöter et al. 2018, DOI 10.5281/zenodo.1216072): K_NAME.wav with K of 0 to 10 speakers at once, here or in test/.

    Label set `speaker_count`. No folds and no groups: every clip is a mixture of its own.
    """
    pattern = r"(10|[0-9])_.+\.wav"
    folder = next((folder for folder in ("", "test") if files_in(source / folder, pattern)), None)
    if folder is None:
        raise UserError(f"folder {show(source)} holds no files like 3_NAME.wav: reader libricount needs them, here or in test/")
    gathered = Gathered(None, source)
    for file in files_in(source / folder, pattern):
        gathered.add(None, f"{folder}/{file}".lstrip("/"), {"speaker_count": file.partition("_")[0]}, None, None)
    return gathered.listing(name or "libricount", "libricount", source, LIBRICOUNT_LICENSE)


def read_notes(source: Path, name: str | None = None) -> Listing:
    """Auricle's own single notes: 12 names x 5 octaves x 6 timbres, written to `source` unless they are there.

    Label sets `note`, `octave` and `timbre`; the group is the timbre.
    """
    write_notes(source)
    listing = replace(datasets.read_audiofolder(source, name or "notes"), reader="notes", license=datasets.STARTER_LICENSE)
    return ordered(listing, note=NOTES)


def read_stimuli(source: Path, name: str | None = None) -> Listing:
    """Auricle's own battery of 828 stimuli, which stage tuning plays, written to `source` unless they are there.

    Every property of them is known. Label set `kind`; the group is the condition, whose repeats differ in phases or noise.
    """
    write_stimuli(source)
    listing = datasets.read_audiofolder(source, name or "stimuli", Reading(labels=("kind",)))
    return replace(listing, reader="stimuli", license=datasets.STARTER_LICENSE)


def _nsynth_examples(table: Path) -> dict[str, object]:
    """Notes of examples.json by name, each as pitch, instrument and its family only: the largest file has 290 000 notes."""
    try:
        if table.stat().st_size > MAX_BYTES:
            raise UserError(f"{show(table)} has more than {MAX_BYTES >> 20} MiB: not NSynth's")
        found = json.loads(table.read_text(encoding="utf-8-sig"), object_hook=_nsynth_note)
    except OSError as error:
        raise UserError(f"{show(table)} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{show(table)} is not JSON: download it again") from None
    if not isinstance(found, dict) or not found:
        raise UserError(f"{show(table)} lists no notes: download it again")
    return found


def _nsynth_note(note: dict[str, object]) -> object:
    return (note["pitch"], note.get("instrument_str"), note.get("instrument_family_str")) if "pitch" in note else note


def _pcvc_clips(path: Path, io) -> Iterator[tuple[str, bytes]]:
    """The sounds of one speaker's .mat file: names and WAV files. Raises ValueError where it holds no array of the right shape."""
    try:
        shapes = [
            (name, shape) for name, shape, _ in io.whosmat(path) if [n for n in shape if n != 1][:2] == [PCVC_CONSONANTS, PCVC_VOWELS]
        ]
        arrays = [
            io.loadmat(path, variable_names=[name])[name].squeeze() for name, shape in shapes if 8 * np.prod(shape, dtype=float) < MAX_BYTES
        ]
    except NotImplementedError:
        raise ValueError("MATLAB 7.3 format, which scipy does not read; save it again with -v7") from None
    except Exception as error:  # scipy raises nearly anything for a damaged file
        raise ValueError(f"scipy cannot read it ({' '.join(str(error).split())[:200]})") from None
    if len(arrays) != 1 or arrays[0].ndim != 3 or arrays[0].dtype.kind not in "fiu":
        raise ValueError(f"holds no single array of {PCVC_CONSONANTS} consonants x {PCVC_VOWELS} vowels x samples")
    array = arrays[0]
    full_scale = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    return (
        (f"{c + 1:02}-{v + 1}.wav", wav((array[c, v] / full_scale).astype(np.float32), PCVC_RATE_HZ))
        for c in range(PCVC_CONSONANTS)
        for v in range(PCVC_VOWELS)
    )


def _phonemes(table: Path) -> tuple[list[str], list[str]]:
    """Names of the consonants and vowels: those of phonemes.txt, or numbers where there is none."""
    count = PCVC_CONSONANTS + PCVC_VOWELS
    names = [str(i) for i in range(1, PCVC_CONSONANTS + 1)] + [str(i) for i in range(1, PCVC_VOWELS + 1)]
    if table.exists():
        try:
            names = table.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{show(table)} cannot be read as UTF-8 text") from None
        if len(names) != count or len(set(names[:PCVC_CONSONANTS])) < PCVC_CONSONANTS or len(set(names[PCVC_CONSONANTS:])) < PCVC_VOWELS:
            raise UserError(f"{show(table)} must hold {PCVC_CONSONANTS} different consonants and then {PCVC_VOWELS} different vowels")
    return names[:PCVC_CONSONANTS], names[PCVC_CONSONANTS:]
