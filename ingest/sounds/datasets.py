"""Readers of data sets: which sound files there are, and which classes, fold and source each has. Nothing is decoded here."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

from ingest.sounds.listing import AUDIO_ENDINGS, RESERVED, WHOLE_NUMBER, Gathered, Listing, raise_unreadable, relative
from ingest.sounds.metadata import read_rows, show
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


def read_audiofolder(source: Path, name: str | None = None) -> Listing:
    """Hugging Face's AudioFolder: metadata.csv or metadata.jsonl with `file_name`, relative to `source`.

    `fold` (whole number) and `group` are what they say; every other column is a label set in the order of the columns, its classes
    sorted (as numbers where all are). An empty cell gives no label; in JSON lines a list gives several.
    """
    tables = [path for path in (source / "metadata.csv", source / "metadata.jsonl") if path.exists()]
    if len(tables) != 1:
        problem = "holds both metadata.csv and metadata.jsonl: remove one" if tables else "holds no metadata.csv or metadata.jsonl"
        raise UserError(f"folder {show(source)} {problem}" + ("" if tables else "; for one folder a class use reader folder"))
    table = tables[0]
    gathered = Gathered(table, source)
    for line, row in read_rows(table, required=("file_name",)):
        if isinstance(row, str):
            gathered.reject(line, None, row)
            continue
        labels = {column: value for column, value in row.items() if column not in RESERVED}
        gathered.add(line, row.get("file_name"), labels, row.get("fold"), row.get("group"))
    return gathered.listing(name or source.resolve().name, "audiofolder", source, None)


def read_folder(source: Path, name: str | None = None) -> Listing:
    """One folder a class: files anywhere below source/CLASS/ have that class in label set `class`; files directly in `source` have none.

    Only names with an audio ending count; hidden files and folders are skipped. Folders are not followed through symbolic links.
    """
    gathered = Gathered(None, source)
    for folder, folders, files in os.walk(source, onerror=raise_unreadable):
        links = [item for item in folders if os.path.islink(os.path.join(folder, item))]
        folders[:] = sorted(item for item in folders if not item.startswith((".", "__MACOSX")) and item not in links)
        for item in sorted(links):
            if not item.startswith("."):
                gathered.reject(None, relative(folder, item, source), "a symbolic link to a folder; give the folder itself")
        for item in sorted(files):
            if Path(item).suffix.lower() in AUDIO_ENDINGS and not item.startswith("."):
                file = relative(folder, item, source)
                top, _, below = file.partition("/")
                gathered.add(None, file, {"class": top if below else None}, None, None)
    if not gathered.entries and not gathered.rejected:
        raise UserError(f"folder {show(source)} holds no sound files (.wav, .flac, .mp3, ...): give one that holds a folder for each class")
    gathered.entries.sort(key=lambda entry: entry.name)
    return gathered.listing(name or source.resolve().name, "folder", source, None)


def read_starter(source: Path, name: str | None = None) -> Listing:
    """Auricle's own synthesised sounds, written to `source` unless they are there, then read as an audiofolder."""
    write_starter(source)
    listing = read_audiofolder(source, name or "starter")
    return Listing(listing.name, "starter", source, listing.entries, listing.rejected, listing.label_sets, STARTER_LICENSE)
