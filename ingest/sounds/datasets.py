"""Readers of data sets: which sound files there are, and which classes, fold and source each has. Nothing is decoded here."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ingest.sounds.columns import label_cells, label_columns, parted_cells
from ingest.sounds.listing import (
    AUDIO_ENDINGS,
    GUESSED,
    OTHER_ENDINGS,
    WHOLE_NUMBER,
    Gathered,
    Listing,
    Reading,
    begins_like_sound,
    files_in,
    raise_unreadable,
    relative,
)
from ingest.sounds.metadata import Rows, read_rows, show
from ingest.sounds.starter import write_starter
from warehouse.store import UserError

ESC50_FOLDS = range(1, 6)
ESC50_SUPER_CATEGORIES = (
    *("animals", "natural soundscapes & water sounds", "human non-speech sounds"),
    *("interior/domestic sounds", "exterior/urban noises"),
)
ESC50_LICENSE = (
    "ESC-50: Dataset for Environmental Sound Classification, K. J. Piczak (2015), CC BY-NC 3.0, its ESC-10 part CC BY 3.0; "
    "the sounds are by users of freesound.org"
)
METADATA_ENDINGS = ("csv", "jsonl", "parquet")
SPLIT = re.compile(
    r"(?i)(train|training|test|testing|val|valid|validation|dev|development|eval|evaluation|holdout)([-_ ]?(set|split|data|audio))?"
)
FOLD = re.compile(r"(?i)(?:fold|split)[-_ ]?([0-9]{1,3})")
WRAPPERS = {"audio", "audios", "clips", "data", "dataset", "sounds", "wav", "wavs"}
BESIDE = {"README", "LICENSE", "LICENCE", "CHANGELOG", "COPYING", "Thumbs.db"}
STARTER_LICENSE = "CC0 1.0: synthesised by Auricle, free for any use"


def read_esc50(source: Path, name: str | None = None) -> Listing:
    """ESC-50's layout (Piczak 2015, DOI 10.1145/2733373.2806390): meta/esc50.csv and audio/, label set `category` in the order of `target`.

    A second label set, `super_category`, has the five groups of ten targets. The group is `src_file`. Where the table says .wav and the
    folder holds .ogg, or any other audio ending, that file is taken.
    """
    table, audio = source / "meta" / "esc50.csv", source / "audio"
    if not audio.is_dir():
        raise UserError(f"folder {show(audio)} is missing: reader esc50 needs meta/esc50.csv and audio/")
    by_stem: dict[str, str] = {}
    for file in sorted(os.listdir(audio), reverse=True):  # reversed: the first in the alphabet wins
        if Path(file).suffix.lower() in AUDIO_ENDINGS:
            by_stem[Path(file).stem] = file
    gathered = Gathered(table, audio)
    targets: dict[str, float] = {}
    for line, row in read_rows(table, required=("filename", "fold", "target", "category")):
        if isinstance(row, str):
            gathered.reject(line, None, row)
            continue
        file, number = str(row["filename"]), str(row["target"])
        if "/" not in file and not os.path.isfile(audio / file):
            file = by_stem.get(PurePosixPath(file).stem, file)
        target = int(number) if WHOLE_NUMBER.fullmatch(number) else math.inf
        super_category = ESC50_SUPER_CATEGORIES[int(target // 10)] if target < 50 else None
        labels: dict[str, object] = {"category": row["category"], "super_category": super_category}
        if gathered.add(line, file, labels, row["fold"], row.get("src_file"), folds=ESC50_FOLDS):
            for category in gathered.entries[-1].labels.get("category", ()):
                targets[category] = min(targets.get(category, math.inf), target)
    listing = gathered.listing(name or "esc50", "esc50", source, ESC50_LICENSE)
    if "category" in listing.label_sets:
        listing.label_sets["category"].sort(key=lambda category: targets[category])
    if "super_category" in listing.label_sets:
        listing.label_sets["super_category"].sort(key=ESC50_SUPER_CATEGORIES.index)
    return listing


def read_audiofolder(source: Path, name: str | None = None, reading: Reading = GUESSED) -> Listing:
    """Hugging Face's AudioFolder: metadata.csv, .jsonl or .parquet with `file_name`, relative to it; here, or in each of several folders.

    `fold` (whole number) and `group` are what they say; every other column that looks like labels is a label set in the order of the columns,
    its classes sorted (as numbers where all are). An empty cell gives no label; a list, or a cell that looks like one, gives several.
    """
    tables = [table for ending in METADATA_ENDINGS if (table := source / f"metadata.{ending}").exists()]
    if len(tables) > 1:
        raise UserError(f"folder {show(source)} holds both {tables[0].name} and {tables[1].name}: remove one")
    notes: list[str] = []
    if not tables:
        for folder in files_in(source, r".+"):
            tables += [table for ending in METADATA_ENDINGS if (table := source / folder / f"metadata.{ending}").exists()][:1]
        notes += [f"metadata in each of {', '.join(show(table.parent.name) for table in tables)}, read as one data set"] if tables else []
    if not tables:
        problem = "holds no metadata.csv, metadata.jsonl or metadata.parquet; for one folder a class use reader folder"
        raise UserError(f"folder {show(source)} {problem}")
    gathered = Gathered(tables[0], source)
    rows = Rows(lambda: (row for table in tables for _, row in read_rows(table, required=("file_name",))))
    columns = label_columns(rows, reading, notes)
    parts = parted_cells(rows, columns, reading, notes)
    for table in tables:
        gathered.table, gathered.below = table, "" if table.parent == source else f"{table.parent.name}/"
        for line, row in read_rows(table, required=("file_name",)):
            if isinstance(row, str):
                gathered.reject(line, None, row)
            else:
                gathered.add(line, row.get("file_name"), label_cells(row, columns, parts), row.get("fold"), row.get("group"))
    listed = {entry.name for entry in gathered.entries}
    if not gathered.rejected and (unlisted := sum(file not in listed for file in _sound_files(source))):
        notes.append(f"left out: {unlisted} sound files that the metadata does not list")
    return gathered.listing(name or source.resolve().name, "audiofolder", source, None, notes)


def read_folder(source: Path, name: str | None = None, reading: Reading = GUESSED) -> Listing:
    """One folder a class: files anywhere below source/CLASS/ have that class in label set `class`; files directly in `source` have none.

    Where all folders are named like parts of a data set (train, test, fold1, ...), the folders in them are the classes, and fold1, fold2, ...
    are folds. Names with an audio ending count, and files that begin like a sound; hidden files and folders are skipped. Folders are not
    followed through symbolic links.
    """
    if reading.labels not in (None, ("class",)) or reading.separator:
        raise UserError(
            "reader folder takes no labels or separator: its classes are the folders; for a metadata.csv use reader audiofolder"
        )
    gathered = Gathered(None, source)
    notes: list[str] = []
    found: list[tuple[str, bool]] = []  # files, and links to folders, in the order of the folders
    others = Counter[str]()
    for folder, folders, items in os.walk(source, onerror=raise_unreadable):
        links = [item for item in folders if os.path.islink(os.path.join(folder, item))]
        folders[:] = sorted(item for item in folders if not item.startswith((".", "__MACOSX")) and item not in links)
        for item in sorted(links):
            if not item.startswith("."):
                found.append((relative(folder, item, source), True))
        for item in sorted(items):
            ending = Path(item).suffix.lower()
            if item.startswith(".") or ending in OTHER_ENDINGS or item in BESIDE:
                continue
            if ending in AUDIO_ENDINGS or begins_like_sound(Path(folder, item)):
                found.append((relative(folder, item, source), False))
            else:
                others[ending or "without ending"] += 1
    if not found:
        raise UserError(
            f"folder {show(source)} holds no sound files (.wav, .flac, .mp3, ...): give one that holds a folder for each class; "
            "for .tar and .parquet files use readers webdataset and parquet"
        )
    if others:
        kinds = ", ".join(f"{count} {show(ending, 20)}" for ending, count in others.most_common(5)) + (", ..." if len(others) > 5 else "")
        notes.append(f"left out: {others.total()} files that neither end nor begin like sounds ({kinds})")
    depth = _class_depth([file for file, is_link in found if not is_link], notes) if reading.splits else 0
    for file, is_link in found:
        if is_link:
            gathered.reject(None, file, "a symbolic link to a folder; give the folder itself")
            continue
        parts = file.split("/")
        fold = next((number[1] for part in parts[:depth] if (number := FOLD.fullmatch(part))), None)
        gathered.add(None, file, {"class": parts[depth] if len(parts) > depth + 1 else None}, fold, None)
    gathered.entries.sort(key=lambda entry: entry.name)
    return gathered.listing(name or source.resolve().name, "folder", source, None, notes)


def _class_depth(files: list[str], notes: list[str]) -> int:
    """How many folders above those of the classes only part the data set; 0 where the first are the classes. A guess is said."""
    folders = [file.split("/")[:-1] for file in files if "/" in file]
    depth = 0
    tops = {parts[0] for parts in folders}
    if len(tops) == 1 and tops <= WRAPPERS and all(len(parts) > 1 for parts in folders):
        depth = 1
    parts_of = sorted({parts[depth] for parts in folders})
    below = any(len(parts) > depth + 1 for parts in folders)
    if parts_of and all(SPLIT.fullmatch(part) or FOLD.fullmatch(part) for part in parts_of) and (below or len(parts_of) > 1):
        depth += 1
        named = ", ".join(map(show, parts_of[:5])) + (", ..." if len(parts_of) > 5 else "")
        classes = "the folders in them are the classes" if below else "there are no folders in them, so that no clip has a class"
        notes.append(
            f"folders {named} are taken for splits of the data set: {classes}; `splits = false` in the study makes them the classes"
        )
    elif depth:
        notes.append(f"the classes are the folders in {show(min(tops))}, the only one; `splits = false` in the study makes it the class")
    return depth


def _sound_files(source: Path) -> Iterator[str]:
    """Files with an audio ending below a folder, hidden ones and those behind links to folders left out."""
    for folder, folders, files in os.walk(source):
        folders[:] = [item for item in folders if not item.startswith((".", "__MACOSX"))]
        yield from (
            relative(folder, file, source) for file in files if Path(file).suffix.lower() in AUDIO_ENDINGS and not file.startswith(".")
        )


def read_starter(source: Path, name: str | None = None) -> Listing:
    """Auricle's own synthesised sounds, written to `source` unless they are there, then read as an audiofolder."""
    write_starter(source)
    listing = read_audiofolder(source, name or "starter", Reading(separator=""))  # names such as "Beep, bleep" are AudioSet's
    return replace(listing, reader="starter", license=STARTER_LICENSE)
