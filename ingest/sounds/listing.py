"""What a reader of a data set gives: the sound files that there are, with the classes, fold and source of each. Nothing is decoded here."""

from __future__ import annotations

import math
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from ingest.sounds.metadata import MAX_COLUMNS, clean, refuse_odd_characters, show
from warehouse.store import UserError

AUDIO_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("aac", "aif", "aifc", "aiff", "au", "caf", "flac", "m4a", "mp2", "mp3"),
        *("oga", "ogg", "opus", "rf64", "snd", "w64", "wav", "wave", "wma"),
        *("3gp", "amr", "ape", "mka", "mp4", "nist", "sph", "voc", "webm", "wv"),
    )
)
OTHER_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *(
            "csv",
            "db",
            "docx",
            "gif",
            "gz",
            "html",
            "ini",
            "ipynb",
            "jpeg",
            "jpg",
            "json",
            "jsonl",
            "lab",
            "lnk",
            "log",
            "m3u",
            "mat",
            "md",
        ),
        *("mid", "npy", "npz", "parquet", "pdf", "png", "py", "rst", "sh", "svg", "tar", "textgrid", "tsv", "txt", "xls", "xlsx", "xml"),
        *("yaml", "yml", "zip"),
    )
)
"""Of what lies beside sounds and is no sound; any other file that is left out is told of."""
SOUND_BEGINS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"NIST_1A", b"caff", b"riff\x2e\x91\xcf\x11", b"\xff\xfb")
RESERVED = ("file_name", "fold", "group")
MAX_FOLD = 2**31 - 1
WHOLE_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A sound file that a data set lists. It exists, but nobody has decoded it yet.

    `name` is the path relative to the audio `folder` with forward slashes, unique in the data set; `labels` are class names by label set,
    without the sets in which the file has none, one dictionary for all files that have the same; `fold` is the cross-validation fold; files
    sharing a `group` come from one recording.
    """

    name: str
    folder: Path
    labels: Mapping[str, tuple[str, ...]]
    fold: int | None
    group: str | None

    @property
    def path(self) -> Path:
        """Where its sound is, for warehouse.containers to open."""
        return self.folder / self.name


@dataclass(frozen=True)
class Rejected:
    """A file or metadata row that cannot become an entry: `item` says which (unique in the data set), `reason` why, in one line."""

    item: str
    reason: str
    advice: str = ""  # what to do about it, where the reason does not tell; what was read does not depend on it


@dataclass(frozen=True)
class Reading:
    """What a study says of how metadata and folders are to be read, in place of a guess: `labels`, the columns that are label sets (None: those
    that look so); `separator` of several labels in a cell (None: as they look; empty: none); `splits`, whether folders named like train, test
    and fold1 are parts of the data set and not classes."""

    labels: tuple[str, ...] | None = None
    separator: str | None = None
    splits: bool = True


GUESSED = Reading()


@dataclass(frozen=True)
class Listing:
    """A data set as read: entries in the order of the metadata (readers without metadata: by name).

    `label_sets` are the class names that occur, by label set, in the reader's order; the first set is the main one; empty when no file
    has a label. `license` is the text to print beside the sounds, None when unknown. Entries may be empty when every row was rejected.
    `notes` say in a line each what was guessed or left out.
    """

    name: str
    reader: str
    source: Path
    entries: list[Entry]
    rejected: list[Rejected]
    label_sets: dict[str, list[str]]
    license: str | None
    notes: tuple[str, ...] = ()


class Linked(ValueError):
    """A file that is refused because a symbolic link leads out of the data set."""


class Gathered:
    """Collects entries and rejected items below one audio folder, checking everything metadata may get wrong."""

    unit = "line"

    def __init__(self, table: Path | None, audio: Path) -> None:
        self.table = table
        self.audio = audio
        self.below = ""  # the folder of the table, where that is not the data set's
        self.root = os.path.realpath(audio)
        self.roots = [self.root, *_stores(Path(self.root))]
        self.entries: list[Entry] = []
        self.rejected: list[Rejected] = []
        self.classes: dict[str, set[str]] = {}
        self.seen: dict[str, int | None] = {}
        self.alike: dict[tuple, dict[str, tuple[str, ...]]] = {}

    def reject(self, line: int | None, file: object, reason: str, advice: str = "") -> None:
        """Record what cannot become an entry. The line number keeps items apart where a name is missing, repeated or cut."""
        if self.table:
            shown = show(file) if file else ""
            self.rejected.append(Rejected(f"{self.below}{self.table.name} line {line}" + (f": {shown}" if shown else ""), reason, advice))
        else:
            self.rejected.append(Rejected(show(file, limit=5000), reason, advice))

    def add(
        self, line: int | None, file: object, labels: dict[str, object], fold: object, group: object, folds: range | None = None
    ) -> bool:
        """Add one file, or reject it; returns whether it became an entry. Label sets keep the order in which they are first named."""
        try:
            name = self._locate(file)
            if name in self.seen:
                raise ValueError(f"already listed in {self.unit} {self.seen[name]}")
            labels = {_label_set(label_set): value for label_set, value in labels.items()}
            classes = {label_set: found for label_set, value in labels.items() if (found := _class_names(label_set, value))}
            classes = self.alike.setdefault(tuple(classes.items()), classes)
            entry = Entry(name, self.audio, classes, _fold(fold, folds), next(iter(_class_names("group", group)), None))
        except ValueError as error:
            self.reject(line, file, str(error), "copy the files there (cp -rL)" if isinstance(error, Linked) else "")
            return False
        for label_set in labels:
            self.classes.setdefault(label_set, set()).update(classes.get(label_set, ()))
        if len(self.classes) > MAX_COLUMNS:
            raise UserError(f"{show(self.table)} has more than {MAX_COLUMNS} label sets: keep the columns that label the sounds")
        self.seen[name] = line
        self.entries.append(entry)
        return True

    def listing(self, name: str, reader: str, source: Path, license_: str | None, notes: Iterable[str] = ()) -> Listing:
        """The data set gathered, with the classes of each label set sorted, as numbers where all are numbers."""
        label_sets = {}
        for label_set, classes in self.classes.items():
            if classes:
                numbers = all(re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]+)?", class_) for class_ in classes)
                label_sets[label_set] = sorted(classes, key=(lambda class_: (float(class_), class_)) if numbers else None)
        return Listing(name, reader, source, self.entries, self.rejected, label_sets, license_, tuple(notes))

    def _locate(self, file: object) -> str:
        """Find a listed file below the audio folder: its name, with forward slashes. Raises ValueError saying why not."""
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
            form = self.below + form
            path = self.audio / form
            try:
                is_file = stat.S_ISREG(path.stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise ValueError(f"cannot be read: {error.strerror or error}") from None
            if not any(os.path.commonpath([os.path.realpath(path), root]) == root for root in self.roots):
                raise Linked("a symbolic link that leads out of the data set's folder")
            if not is_file:
                raise ValueError("not a file")
            return PurePosixPath(form).as_posix()
        raise ValueError("file not found")


def _stores(root: Path) -> list[str]:
    """Where the files lie that a data set's folder links to as its own: huggingface_hub's blobs, git-annex's objects, DVC's cache."""
    found = [parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots"]
    found += [
        parent / store for parent in (root, *root.parents) for store in (".git/annex/objects", ".dvc/cache") if (parent / store).is_dir()
    ]
    return [os.path.realpath(store) for store in found]


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


def relative(folder: str, item: str, source: Path) -> str:
    """A file's path below the data set's folder, with forward slashes."""
    return Path(folder, item).relative_to(source).as_posix()


def begins_like_sound(path: Path) -> bool:
    """Whether a file, whatever its name, begins as sounds do."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            head = file.read(12)
            return head.startswith(SOUND_BEGINS) and head[8:] != b"WEBP"  # a picture in RIFF, as WAV is
    except OSError:
        return False


def raise_unreadable(error: OSError) -> None:
    """For os.walk: a folder that cannot be read is no empty one."""
    raise UserError(f"folder {show(error.filename)} cannot be read: {error.strerror}")


def ordered(listing: Listing, **orders: Iterable[str]) -> Listing:
    """The listing with the classes of some label sets in an order other than the alphabet's."""
    label_sets = {label_set: list(classes) for label_set, classes in listing.label_sets.items()}
    for label_set, order in orders.items():
        if label_set in label_sets:
            label_sets[label_set].sort(key=list(order).index)
    return replace(listing, label_sets=label_sets)


def files_in(folder: Path, pattern: str) -> list[str]:
    """Names in a folder that match, sorted; none where there is no folder."""
    try:
        return sorted(file for file in os.listdir(folder) if re.fullmatch(pattern, file, re.DOTALL) and not file.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"folder {show(folder)} cannot be read: {error.strerror}") from None
