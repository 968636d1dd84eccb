"""Readers of the sets that layers are probed with, in their official layouts, and balanced draws and grouped folds of any set.

Clips in all and a class of the published probing study: NSynth 1800 (150), Medley-solos-DB 965 (unequal), GTZAN 1000 (100), PCVC 1794 (78),
Speech Commands 1750 (50), LibriCount 1100 (100).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ingest import datasets
from ingest.datasets import READERS, Entry, Listing, _Gathered
from ingest.metadata import MAX_BYTES, read_rows, show
from ingest.notes import NOTES, wav, write_notes, write_once
from warehouse.store import UserError, sha256_file

NSYNTH_SPLITS = ("nsynth-train", "nsynth-valid", "nsynth-test")
MEDLEY_TABLE = "Medley-solos-DB_metadata.csv"
MEDLEY_DROPPED = "tenor saxophone"
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
PCVC_RATE_HZ = 48_000
PCVC_CONSONANTS, PCVC_VOWELS = 23, 6
PCVC_VERSION = 1
WORDS = (
    *(
        "backward",
        "bed",
        "bird",
        "cat",
        "dog",
        "down",
        "eight",
        "five",
        "follow",
        "forward",
        "four",
        "go",
        "happy",
        "house",
        "learn",
        "left",
    ),
    *("marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two", "up", "visual", "wow"),
    *("yes", "zero"),
)

NSYNTH_LICENSE = "NSynth: Engel et al. (2017), Magenta, CC BY 4.0"
MEDLEY_LICENSE = "Medley-solos-DB: V. Lostanlen, C.-E. Cella, R. Bittner and S. Essid (2018), CC BY 4.0"
PCVC_LICENSE = "PCVC Speech Dataset: S. Malekzadeh, M. H. Gholizadeh and S. N. Razavi (2018), GPL 3.0"
SPEECH_COMMANDS_LICENSE = "Speech Commands: P. Warden (2018), Google, CC BY 4.0"
LIBRICOUNT_LICENSE = (
    "LibriCount: F.-R. Stöter, S. Chakrabarty, E. Habets and B. Edler (2018), CC BY 4.0; speech from LibriSpeech, CC BY 4.0"
)
NOTES_LICENSE = "CC0 1.0: synthesised by Auricle, free for any use"


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
    gathered = _Gathered(None, source)
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
    return _ordered(gathered.listing(name or "nsynth", "nsynth", source, NSYNTH_LICENSE), note=NOTES)


def read_medley_solos_db(source: Path, name: str | None = None) -> Listing:
    """Medley-solos-DB (Lostanlen and Cella 2016, arXiv:1605.06644): Medley-solos-DB_metadata.csv and its clips, here or in audio/.

    Label set `instrument` without tenor saxophone, whose clips are left out; the group is the song. No folds.
    """
    tables = [path for path in (source / MEDLEY_TABLE, source / "annotation" / MEDLEY_TABLE) if path.is_file()]
    if not tables:
        raise UserError(f"folder {show(source)} holds no {MEDLEY_TABLE}: reader medley-solos-db needs it beside the clips or their audio/")
    folders = [folder for folder in ("", "audio", "Medley-solos-DB") if (source / folder).is_dir()]
    gathered = _Gathered(tables[0], source)
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
    gathered = _Gathered(None, source)
    for genre in GENRES:
        for file in _files(source / roots[0] / genre, rf"{genre}\.[0-9]{{5}}\.(wav|au)"):
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
    folder = next((folder for folder in (source, source / "Samples") if _files(folder, r".+\.mat")), None)
    if folder is None:
        raise UserError(f"folder {show(source)} holds no .mat files: reader pcvc needs one for each speaker")
    consonants, vowels = _phonemes(source / "phonemes.txt")
    clips = source / "clips"
    gathered = _Gathered(None, source)
    for file in _files(folder, r".+\.mat"):
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
    return _ordered(gathered.listing(name or "pcvc", "pcvc", source, PCVC_LICENSE), consonant=consonants, vowel=vowels)


def read_speech_commands(source: Path, name: str | None = None) -> Listing:
    """Speech Commands v0.02 (Warden 2018, arXiv:1804.03209): WORD/SPEAKER_nohash_N.wav for 35 words; _background_noise_ is left out.

    Label set `word`; the group is the speaker. No folds: validation_list.txt and testing_list.txt part the set into 80, 10 and 10 percent.
    """
    words = [word for word in WORDS if (source / word).is_dir()]
    if not words:
        raise UserError(f"folder {show(source)} holds no folders of words (yes, no, ...): reader speech-commands needs them")
    gathered = _Gathered(None, source)
    for word in words:
        for file in _files(source / word, r"[^.].*\.wav"):
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
    folder = next((folder for folder in ("", "test") if _files(source / folder, pattern)), None)
    if folder is None:
        raise UserError(f"folder {show(source)} holds no files like 3_NAME.wav: reader libricount needs them, here or in test/")
    gathered = _Gathered(None, source)
    for file in _files(source / folder, pattern):
        gathered.add(None, f"{folder}/{file}".lstrip("/"), {"speaker_count": file.partition("_")[0]}, None, None)
    return gathered.listing(name or "libricount", "libricount", source, LIBRICOUNT_LICENSE)


def read_notes(source: Path, name: str | None = None) -> Listing:
    """Auricle's own single notes: 12 names x 5 octaves x 6 timbres, written to `source` unless they are there.

    Label sets `note`, `octave` and `timbre`; the group is the timbre.
    """
    write_notes(source)
    listing = replace(datasets.read_audiofolder(source, name or "notes"), reader="notes", license=NOTES_LICENSE)
    return _ordered(listing, note=NOTES)


READERS |= {
    "nsynth": read_nsynth,
    "medley-solos-db": read_medley_solos_db,
    "gtzan": read_gtzan,
    "pcvc": read_pcvc,
    "speech-commands": read_speech_commands,
    "libricount": read_libricount,
    "notes": read_notes,
}


def draw(listing: Listing, *, per_class: int | None = None, folds: int | None = None, seed: int = 0) -> Listing:
    """A listing with `per_class` clips of each class of its main label set, and with `folds` grouped folds in place of its own.

    What was asked for is added to the listing's `reader`, and so reaches the warehouse and the content's hash; asked for nothing, the
    listing is returned as it is. Raises UserError where it cannot be done.
    """
    asked = {"per_class": per_class, "folds": folds}
    if per_class is None and folds is None:
        return listing
    if not listing.label_sets:
        raise UserError(f"data set {listing.name} has no labels: nothing to balance or to part into folds by")
    main, entries = next(iter(listing.label_sets)), listing.entries
    if per_class is not None:
        entries = balance(entries, main, per_class, seed)
    if folds is not None:
        fold_of = grouped_folds(entries, folds, seed, main)
        entries = [replace(entry, fold=fold_of[entry.name]) for entry in entries]
    occurring = {(label_set, class_) for entry in entries for label_set, classes in entry.labels.items() for class_ in classes}
    label_sets = {label_set: [c for c in classes if (label_set, c) in occurring] for label_set, classes in listing.label_sets.items()}
    reader = " ".join([listing.reader, *(f"{option}={value}" for option, value in asked.items() if value is not None), f"seed={seed}"])
    return replace(listing, entries=entries, label_sets={key: kept for key, kept in label_sets.items() if kept}, reader=reader)


def balance(entries: list[Entry], label_set: str, per_class: int, seed: int = 0) -> list[Entry]:
    """Draw `per_class` entries of each class of `label_set`, in their order; entries without one class there are left out.

    The draw takes the lowest hashes of seed, class and name: the same on any machine and in any order of the entries. Raises UserError for
    a class that has too few.
    """
    if per_class < 1:
        raise UserError(f"per_class is {per_class}, it must be at least 1")
    by_class: dict[str, list[Entry]] = {}
    for entry in entries:
        if len(classes := entry.labels.get(label_set, ())) == 1:
            by_class.setdefault(classes[0], []).append(entry)
    if few := [class_ for class_, members in by_class.items() if len(members) < per_class]:
        smallest = min(few, key=lambda class_: len(by_class[class_]))
        raise UserError(f"per_class is {per_class}, but class {show(smallest)} has only {len(by_class[smallest])} clips: ask for fewer")
    kept = {
        entry.name
        for class_, members in by_class.items()
        for entry in sorted(members, key=lambda entry: _rank(seed, class_, entry.name))[:per_class]
    }
    return [entry for entry in entries if entry.name in kept]


def grouped_folds(entries: list[Entry], folds: int, seed: int = 0, label_set: str | None = None) -> dict[str, int]:
    """Fold (1 to `folds`) of each entry by name: all entries of one group in one fold, each class spread as evenly as that allows.

    Entries without a group stand alone; `label_set` is the first one named by default. Groups are dealt from the largest to the smallest,
    each to the fold that so far holds the smallest share of its classes (as scikit-learn's StratifiedGroupKFold, with squared shares);
    the seed orders groups of one size. Raises UserError for fewer groups than folds.
    """
    if folds < 2:
        raise UserError(f"folds is {folds}, it must be at least 2")
    label_set = label_set or next((first for entry in entries for first in entry.labels), "")
    classes = {class_: i for i, class_ in enumerate(sorted({c for entry in entries for c in entry.labels.get(label_set, ())}))}
    groups: dict[tuple[bool, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.group is None, entry.name if entry.group is None else entry.group), []).append(entry)
    if len(groups) < folds:
        raise UserError(f"folds is {folds}, but there are only {len(groups)} groups that must stay together: ask for fewer")
    counts = {}
    for group, members in groups.items():
        counts[group] = np.bincount([classes[c] for e in members for c in e.labels.get(label_set, ())], minlength=len(classes))
    total = np.maximum(sum(counts.values(), np.zeros(len(classes))), 1)
    weight = (total.mean() / total) ** 2
    held, sizes = np.zeros((folds, len(classes))), np.zeros(folds)
    fold_of: dict[str, int] = {}
    for group in sorted(groups, key=lambda group: (-len(groups[group]), _rank(seed, str(group[0]), group[1]))):
        share = (held @ (counts[group] * weight)).round(9)  # rounded so that ties are ties on any machine
        fold = int(np.lexsort((sizes, share))[0])
        held[fold] += counts[group]
        sizes[fold] += len(groups[group])
        fold_of |= {entry.name: fold + 1 for entry in groups[group]}
    return {entry.name: fold_of[entry.name] for entry in entries}


def _rank(seed: int, *texts: str) -> bytes:
    """A place in a random order that depends on nothing but seed and texts."""
    return hashlib.sha256("\0".join((str(seed), *texts)).encode("utf-8", "surrogatepass")).digest()


def _ordered(listing: Listing, **orders: Iterable[str]) -> Listing:
    """The listing with the classes of some label sets in an order other than the alphabet's."""
    label_sets = {label_set: list(classes) for label_set, classes in listing.label_sets.items()}
    for label_set, order in orders.items():
        if label_set in label_sets:
            label_sets[label_set].sort(key=list(order).index)
    return replace(listing, label_sets=label_sets)


def _files(folder: Path, pattern: str) -> list[str]:
    """Names in a folder that match, sorted; none where there is no folder."""
    try:
        return sorted(file for file in os.listdir(folder) if re.fullmatch(pattern, file, re.DOTALL) and not file.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"folder {show(folder)} cannot be read: {error.strerror}") from None


def _nsynth_examples(table: Path) -> dict[str, object]:
    """Notes of examples.json by name, each as pitch, instrument and its family only: the largest file has 290 000 notes."""
    try:
        if table.stat().st_size > MAX_BYTES:
            raise UserError(f"{show(table)} has more than {MAX_BYTES >> 20} MiB: not NSynth's")
        found = json.loads(table.read_text(encoding="utf-8"), object_hook=_nsynth_note)
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
            names = table.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{show(table)} cannot be read as UTF-8 text") from None
        if len(names) != count or len(set(names[:PCVC_CONSONANTS])) < PCVC_CONSONANTS or len(set(names[PCVC_CONSONANTS:])) < PCVC_VOWELS:
            raise UserError(f"{show(table)} must hold {PCVC_CONSONANTS} different consonants and then {PCVC_VOWELS} different vowels")
    return names[:PCVC_CONSONANTS], names[PCVC_CONSONANTS:]


from ingest import attribute_sets  # noqa: E402, F401  its readers are made of what is above, and enter READERS by themselves
