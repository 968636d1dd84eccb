"""Readers of data sets: which sound files there are, and which classes, fold and source each has. Nothing is decoded here."""

from __future__ import annotations

import math
import os
import re
import stat
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ingest.metadata import MAX_COLUMNS, clean, read_rows, refuse_odd_characters, show
from ingest.starter import write_starter
from warehouse.store import UserError

AUDIO_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("aac", "aif", "aifc", "aiff", "au", "caf", "flac", "m4a", "mp2", "mp3"),
        *("oga", "ogg", "opus", "rf64", "snd", "w64", "wav", "wave", "wma"),
    )
)
RESERVED = ("file_name", "fold", "group")
ESC50_FOLDS = range(1, 6)
ESC50_SUPER_CATEGORIES = (
    *("animals", "natural soundscapes & water sounds", "human non-speech sounds"),
    *("interior/domestic sounds", "exterior/urban noises"),
)
ESC50_LICENSE = (
    "ESC-50: Dataset for Environmental Sound Classification, K. J. Piczak (2015), CC BY-NC 3.0, its ESC-10 part CC BY 3.0; "
    "the sounds are by users of freesound.org"
)
SYNTHESISED = ("starter", "notes")  # readers that write the sounds they read
STARTER_LICENSE = "CC0 1.0: synthesised by Auricle, free for any use"
MAX_FOLD = 2**31 - 1
WHOLE_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class Entry:
    """A sound file that a data set lists. It exists, but nobody has decoded it yet.

    `name` is the path relative to the audio folder with forward slashes, unique in the data set; `labels` are class names by label set,
    without the sets in which the file has none; `fold` is the cross-validation fold; files sharing a `group` come from one recording.
    """

    name: str
    path: Path
    labels: dict[str, tuple[str, ...]]
    fold: int | None
    group: str | None


@dataclass(frozen=True)
class Rejected:
    """A file or metadata row that cannot become an entry: `item` says which (unique in the data set), `reason` why, in one line."""

    item: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """A data set as read: entries in the order of the metadata (readers without metadata: by name).

    `label_sets` are the class names that occur, by label set, in the reader's order; the first set is the main one; empty when no file
    has a label. `license` is the text to print beside the sounds, None when unknown. Entries may be empty when every row was rejected.
    """

    name: str
    reader: str
    source: Path
    entries: list[Entry]
    rejected: list[Rejected]
    label_sets: dict[str, list[str]]
    license: str | None


def read_dataset(reader: str, source: Path, name: str | None = None) -> Listing:
    """List the sounds of the data set in folder `source`. `name` defaults to the reader's (esc50, starter) or the folder's name.

    Raises UserError where the data set as a whole cannot be read; a single bad file or row becomes a Rejected item.
    """
    if reader not in READERS:
        raise UserError(f"unknown reader {show(reader)}: choose one of {', '.join(READERS)}")
    if reader not in SYNTHESISED and not source.is_dir():
        problem = "is not a folder" if source.exists() else "does not exist"
        raise UserError(f"data set folder {show(source)} {problem}: give the folder that holds the sounds")
    return READERS[reader](source, name)


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
    gathered = _Gathered(table, audio)
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
    gathered = _Gathered(table, source)
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
    gathered = _Gathered(None, source)
    for folder, folders, files in os.walk(source, onerror=_raise_unreadable):
        links = [item for item in folders if os.path.islink(os.path.join(folder, item))]
        folders[:] = sorted(item for item in folders if not item.startswith((".", "__MACOSX")) and item not in links)
        for item in sorted(links):
            if not item.startswith("."):
                gathered.reject(None, _relative(folder, item, source), "a symbolic link to a folder; give the folder itself")
        for item in sorted(files):
            if Path(item).suffix.lower() in AUDIO_ENDINGS and not item.startswith("."):
                file = _relative(folder, item, source)
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


READERS: dict[str, Callable[[Path, str | None], Listing]] = {
    "esc50": read_esc50,
    "folder": read_folder,
    "audiofolder": read_audiofolder,
    "starter": read_starter,
}
"""Readers by name. Each takes the folder and the data set's name or None; `read_dataset` checks the folder first."""


class _Gathered:
    """Collects entries and rejected items below one audio folder, checking everything metadata may get wrong."""

    def __init__(self, table: Path | None, audio: Path) -> None:
        self.table = table
        self.audio = audio
        self.root = os.path.realpath(audio)
        self.entries: list[Entry] = []
        self.rejected: list[Rejected] = []
        self.classes: dict[str, set[str]] = {}
        self.seen: dict[str, int | None] = {}

    def reject(self, line: int | None, file: object, reason: str) -> None:
        """Record what cannot become an entry. The line number keeps items apart where a name is missing, repeated or cut."""
        if self.table:
            shown = show(file) if file else ""
            self.rejected.append(Rejected(f"{self.table.name} line {line}" + (f": {shown}" if shown else ""), reason))
        else:
            self.rejected.append(Rejected(show(file, limit=5000), reason))

    def add(
        self, line: int | None, file: object, labels: dict[str, object], fold: object, group: object, folds: range | None = None
    ) -> bool:
        """Add one file, or reject it; returns whether it became an entry. Label sets keep the order in which they are first named."""
        try:
            name, path = self._locate(file)
            if name in self.seen:
                raise ValueError(f"already listed in line {self.seen[name]}")
            labels = {_label_set(label_set): value for label_set, value in labels.items()}
            classes = {label_set: found for label_set, value in labels.items() if (found := _class_names(label_set, value))}
            entry = Entry(name, path, classes, _fold(fold, folds), next(iter(_class_names("group", group)), None))
        except ValueError as error:
            self.reject(line, file, str(error))
            return False
        for label_set in labels:
            self.classes.setdefault(label_set, set()).update(classes.get(label_set, ()))
        if len(self.classes) > MAX_COLUMNS:
            raise UserError(f"{show(self.table)} has more than {MAX_COLUMNS} label sets: keep the columns that label the sounds")
        self.seen[name] = line
        self.entries.append(entry)
        return True

    def listing(self, name: str, reader: str, source: Path, license_: str | None) -> Listing:
        """The data set gathered, with the classes of each label set sorted, as numbers where all are numbers."""
        label_sets = {}
        for label_set, classes in self.classes.items():
            if classes:
                numbers = all(re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]+)?", class_) for class_ in classes)
                label_sets[label_set] = sorted(classes, key=(lambda class_: (float(class_), class_)) if numbers else None)
        return Listing(name, reader, source, self.entries, self.rejected, label_sets, license_)

    def _locate(self, file: object) -> tuple[str, Path]:
        """Find a listed file below the audio folder: its name with forward slashes and its path. Raises ValueError saying why not."""
        if file is None or file == "":
            raise ValueError("has no file name")
        if not isinstance(file, str):
            raise ValueError("the file name is not a text")
        refuse_odd_characters(file, "the file name")
        if self.table:
            file = file.replace("\\", "/")  # written on Windows; also closes the way out by ..\
            if file.startswith("/") or PureWindowsPath(file).drive:
                raise ValueError("an absolute path; file names are relative to the data set's folder")
            if ".." in PurePosixPath(file).parts:
                raise ValueError("leads out of the data set's folder")
        # macOS writes accents as separate characters, tables mostly do not; take the file by either spelling.
        for form in dict.fromkeys((file, unicodedata.normalize("NFC", file), unicodedata.normalize("NFD", file))):
            path = self.audio / form
            try:
                is_file = stat.S_ISREG(path.stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise ValueError(f"cannot be read: {error.strerror or error}") from None
            if os.path.commonpath([os.path.realpath(path), self.root]) != self.root:
                raise ValueError("a symbolic link that leads out of the data set's folder")
            if not is_file:
                raise ValueError("not a file")
            return PurePosixPath(form).as_posix(), path
        raise ValueError("file not found")


def _label_set(name: str) -> str:
    """A label set's name, cleaned. Raises ValueError for what cannot be one."""
    if not (name := clean(name, "a label set's name")):
        raise ValueError("a label set has no name")
    return name


def _class_names(label_set: str, value: object) -> tuple[str, ...]:
    """Class names in one cell or JSON value: none for nothing, several for a list. Raises ValueError for what cannot be a name."""
    what = f"label {label_set}"
    if isinstance(value, list):
        if any(isinstance(item, list) for item in value):
            raise ValueError(f"{what} is a list of lists")
        return tuple(dict.fromkeys(name for item in value for name in _class_names(label_set, item)))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    if isinstance(value, dict):
        raise ValueError(f"{what} is an object, not a text")
    name = clean(str(value).lower() if isinstance(value, bool) else str(value), what)
    return (name,) if name else ()


def _fold(value: object, folds: range | None) -> int | None:
    """Fold number, None where there is none. Raises ValueError for anything but a whole number, or one that is not in `folds`."""
    if value is None or value == "":
        return None
    text = str(value).strip()
    # Tables with gaps are often written with 1.0 for 1.
    if isinstance(value, bool) or not WHOLE_NUMBER.fullmatch(text.removesuffix(".0")) or (fold := int(text.removesuffix(".0"))) > MAX_FOLD:
        raise ValueError(f"fold {show(text)} is not a whole number")
    if folds and fold not in folds:
        raise ValueError(f"fold {fold} is none of {folds[0]} to {folds[-1]}")
    return fold


def _relative(folder: str, item: str, source: Path) -> str:
    return Path(folder, item).relative_to(source).as_posix()


def _raise_unreadable(error: OSError) -> None:
    raise UserError(f"folder {show(error.filename)} cannot be read: {error.strerror}")


from ingest import task_sets  # noqa: E402, F401  its readers are made of what is above, and enter READERS by themselves
