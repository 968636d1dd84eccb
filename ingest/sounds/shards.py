"""Readers of data sets whose sounds lie in containers (warehouse.containers): Hugging Face's Parquet and webdataset's tars. Nothing is unpacked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow
import pyarrow.parquet
import pyarrow.types

from ingest.sounds.columns import TEXT, label_cells, label_columns, parted_cells
from ingest.sounds.datasets import FOLD, SPLIT
from ingest.sounds.listing import AUDIO_ENDINGS, GUESSED, Gathered, Listing, Reading, ordered, raise_unreadable, relative
from ingest.sounds.metadata import MAX_ROW_CHARACTERS, Row, Rows, clean, refuse_odd_characters, show
from warehouse.containers import Member, features, members, sound_column
from warehouse.store import UserError

SHARD = re.compile(r"(.+?)[-_.](\d{3,}|\d+[-_]of[-_]\d+)")
"""A shard's name, its split and its number."""
COMPRESSED = (".tgz", *(f".tar.{ending}" for ending in ("gz", "bz2", "xz", "zst")))
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
LABELS = {".json", ".cls", ".txt", ".text", ".transcript"}
"""Members of a sample that say something of its sound; of the others none is read."""
ROWS = 4096  # of a Parquet file, read at a time


class Shards(Gathered):
    """Collects the sounds in the containers below a data set's folder; `unit` is what is counted in one."""

    def __init__(self, source: Path, ending: str, unit: str) -> None:
        super().__init__(None, source)
        self.unit = unit
        self.files: list[str] = []
        self.splits: dict[str, None] = {}
        for folder, folders, files in os.walk(source, onerror=raise_unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            for name in sorted(name for name in files if not name.startswith(".")):
                file = relative(folder, name, source)
                if name.endswith(ending):
                    try:
                        self.files.append(super()._locate(file))
                    except ValueError as error:
                        self.reject(None, file, str(error), "copy the files there (cp -rL)")
                elif ending == ".tar" and name.endswith(COMPRESSED):
                    raise UserError(_packed(source / file))

    def reject(self, line: int | None, file: object, reason: str, advice: str = "") -> None:
        """Record what cannot become an entry; its number keeps apart what is called alike."""
        super().reject(None, f"{file} ({self.unit} {line})" if line is not None else file, reason, advice)

    def _locate(self, file: object) -> str:
        """The name of a sound in a container, where it is known to be."""
        refuse_odd_characters(str(file), "the file name")
        return str(file)

    def fold(self, file: str) -> str | None:
        """The fold that the name of a container, or of a folder around it, says; other splits are remembered."""
        *folders, name = PurePosixPath(file).with_suffix("").parts
        parts = [*folders, shard[1] if (shard := SHARD.fullmatch(name)) else name]
        self.splits |= {part: None for part in parts if SPLIT.fullmatch(part)}
        return next((number[1] for part in parts if (number := FOLD.fullmatch(part))), None)

    def split_notes(self) -> list[str]:
        """What is told of splits."""
        named = ", ".join(map(show, self.splits))
        return [f"splits {named} are read as one data set; the names of the clips begin with their files'"] if len(self.splits) > 1 else []


@dataclass
class _Table:
    """A Parquet file with sounds: its columns that may be labels, those of them that are numbers of classes, with their names, and that of the paths."""

    file: str
    path: Path
    columns: list[str]
    paths: str | None
    classes: dict[str, list[str]] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, str, Row | str]]:
        """Number of every row, from 0, the name of its sound, and its cells, or why it has none. No sound is read, and some rows held at a time."""
        wanted, number = [*self.columns, *([self.paths] if self.paths else [])], 0
        try:
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
                for batch in file.iter_batches(ROWS, columns=wanted, use_threads=False) if wanted else ():
                    for row in batch.to_pylist():
                        sound = row.pop(self.paths.rpartition(".")[0]) if self.paths else None
                        yield number, _name(number, (sound or {}).get("path")), self._named(row)
                        number += 1
                for bare in range(number, file.metadata.num_rows):
                    yield bare, str(bare), {}
        except (pyarrow.ArrowException, OSError) as error:
            yield number, str(number), f"the file is damaged from here on: {' '.join(str(error).split())[:200]}"

    def _named(self, row: Row) -> Row | str:
        """A row with names in place of numbers of classes; none where these are negative."""
        for column, names in self.classes.items():
            value = row.get(column)
            numbers = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int) and number >= 0]
            if beyond := [number for number in numbers if number >= len(names)]:
                return f"{show(column)} is {beyond[0]}, and there are {len(names)} classes"
            row[column] = [names[number] for number in numbers]
        return row


def read_parquet(source: Path, name: str | None = None, reading: Reading = GUESSED) -> Listing:
    """Hugging Face's `datasets` in Parquet: a column of bytes and path of each sound (feature Audio), the others as audiofolder's; folders are searched.

    Numbers of classes (feature ClassLabel) get their names, in their order. A clip is FILE.parquet/ROW/NAME, rows counted from 0.
    """
    gathered = Shards(source, ".parquet", "row")
    tables, without = [], 0
    for file in gathered.files:
        if PurePosixPath(file).name == "metadata.parquet":
            continue
        try:
            schema = pyarrow.parquet.read_schema(source / file)
        except (pyarrow.ArrowException, OSError) as error:
            gathered.reject(None, file, f"not Parquet that can be read ({' '.join(str(error).split())[:200]})", "download it again")
            continue
        if (sound := sound_column(schema)) is None:
            without += 1
        else:
            tables.append(_table(file, source / file, schema, sound))
    if not tables and not gathered.rejected:
        problem = "has a column of sounds (struct of bytes and path, as `datasets` writes feature Audio)" if without else "is there"
        raise UserError(f"folder {show(source)}: no Parquet file {problem}; for metadata.parquet beside sounds use reader audiofolder")
    notes = [f"left out: {without} Parquet files without a column of sounds"] if without else []
    certain = {column: list(map(_cleaned, names)) for table in tables for column, names in table.classes.items()}
    rows = Rows(lambda: (row for table in tables for _, _, row in table.rows()))
    columns = label_columns(rows, reading, notes, certain)
    parts = parted_cells(rows, columns, reading, notes, certain)
    for table in tables:
        fold = gathered.fold(table.file)
        for number, sound_name, row in table.rows():
            if isinstance(row, str):
                gathered.reject(number, f"{table.file}/{sound_name}", row)
            else:
                labels = label_cells(row, columns, parts)
                gathered.add(
                    number, f"{table.file}/{sound_name}", labels, fold if row.get("fold") in (None, "") else row["fold"], row.get("group")
                )
    listing = gathered.listing(name or source.resolve().name, "parquet", source, None, notes + gathered.split_notes())
    orders = {column: names for column, names in certain.items() if set(listing.label_sets.get(column, ())) <= set(names)}
    return ordered(listing, **orders)


def _table(file: str, path: Path, schema: pyarrow.Schema, sound: tuple[str, str, str | None]) -> _Table:
    table = _Table(file, path, [field.name for field in schema if field.name != sound[0] and _is_flat(field.type)], sound[2])
    for column, feature in features(schema).items():
        if isinstance(feature, list) and len(feature) == 1:  # a list of classes, written in one way or the other
            feature = feature[0]
        elif isinstance(feature, dict) and "feature" in feature:
            feature = feature["feature"]
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if column in table.columns and isinstance(names, list):
            table.classes[column] = list(map(str, names))
    return table


def _is_flat(kind: pyarrow.DataType) -> bool:
    """Whether a column may hold labels: texts, numbers, truth values, or lists of texts or whole numbers."""
    if pyarrow.types.is_dictionary(kind):
        return _is_flat(kind.value_type)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return not pyarrow.types.is_nested(kind.value_type) and not pyarrow.types.is_floating(kind.value_type) and _is_flat(kind.value_type)
    return any(getattr(pyarrow.types, f"is_{name}")(kind) for name in ("string", "large_string", "integer", "floating", "boolean", "null"))


def _name(number: int, path: object) -> str:
    """What a row's sound is called: the row, and its file's name where it has one that can be kept."""
    name = PurePosixPath((path if isinstance(path, str) else "").replace("\\", "/")).name
    try:
        refuse_odd_characters(name, "the file name")
    except ValueError:
        name = ""
    return f"{number}/{name}" if name else str(number)


def _cleaned(name: str) -> str:
    try:
        return clean(name, "a class")
    except ValueError:  # said of the rows that have it
        return name


@dataclass(slots=True)
class _Sample:
    """What members of one key say: the names of its sounds, with the numbers of their members, and its row, as JSON, for there may be millions."""

    key: str
    sounds: list[tuple[int, str]] = field(default_factory=list)
    row: bytes = b"{}"
    fault: str = ""


def read_webdataset(source: Path, name: str | None = None, reading: Reading = GUESSED) -> Listing:
    """webdataset's tars: members called alike up to the first dot are a sample, its sound beside KEY.json (columns), KEY.cls and KEY.txt.

    Members of a JSON object are read as audiofolder's columns, those that hold objects left out; .cls and .txt are columns called so. A clip is
    SHARD.tar/MEMBER. Tars are plain: of a compressed one nothing can be read without all before it.
    """
    gathered = Shards(source, ".tar", "member")
    if not gathered.files and not gathered.rejected:
        raise UserError(f"folder {show(source)} holds no .tar files: give the folder of the shards")
    shards: list[tuple[str, list[_Sample]]] = []
    for file in gathered.files:
        try:
            with (source / file).open("rb") as tar:
                if tar.read(6).startswith(PACKED):
                    raise UserError(_packed(source / file))
            shards.append((file, list(_samples(gathered, file, source / file))))
        except OSError as error:
            gathered.reject(None, file, f"cannot be read: {error.strerror or error}")
    rows = Rows(lambda: (json.loads(sample.row) for _, samples in shards for sample in samples))
    notes: list[str] = []
    columns = label_columns(rows, reading, notes)
    parts = parted_cells(rows, columns, reading, notes)
    for file, samples in shards:
        fold = gathered.fold(file)
        for sample in samples:
            row = json.loads(sample.row)
            group = row.get("group") or (f"{file}/{sample.key}" if len(sample.sounds) > 1 else None)
            for number, sound in sample.sounds:
                if sample.fault:
                    gathered.reject(number, f"{file}/{sound}", sample.fault)
                else:
                    labels = label_cells(row, columns, parts)
                    gathered.add(number, f"{file}/{sound}", labels, fold if row.get("fold") in (None, "") else row["fold"], group)
        samples.clear()
    return gathered.listing(name or source.resolve().name, "webdataset", source, None, notes + gathered.split_notes())


def _packed(path: Path) -> str:
    return f"{show(path)} is compressed: no sound in it can be reached without unpacking all before it; unpack it to a plain .tar (gunzip, unxz, ...)"


def _samples(gathered: Shards, file: str, path: Path) -> Iterator[_Sample]:
    """The samples of a tar that have a sound; what is wrong with members is rejected. A member's ending that comes again begins another sample."""
    sample, endings = _Sample(""), set[str]()
    with path.open("rb") as tar:
        for number, member in enumerate(members(path), 1):
            folder, _, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            kind = PurePosixPath(base).suffix.lower()
            if not stem or stem.startswith("__") or kind not in AUDIO_ENDINGS | LABELS:
                if not member.name:
                    gathered.reject(None, file, member.fault)
                continue
            if key != sample.key or ending in endings:
                if sample.sounds:
                    yield sample
                sample, endings = _Sample(key), set()
            endings.add(ending)
            if member.fault:
                gathered.reject(number, f"{file}/{member.name}", member.fault)
            elif kind in AUDIO_ENDINGS:
                sample.sounds.append((number, member.name))
            else:
                try:
                    row = json.loads(sample.row) | _cells(tar, member, ending.lower())
                    sample.row = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
                except ValueError as error:
                    sample.fault = sample.fault or f"{show(base)} {error}"
    if sample.sounds:
        yield sample


def _cells(tar: BinaryIO, member: Member, ending: str) -> Row:
    """What a member says in columns. Raises ValueError saying why not."""
    if member.size > MAX_ROW_CHARACTERS:
        raise ValueError(f"has {member.size} bytes; the limit is {MAX_ROW_CHARACTERS}")
    tar.seek(member.start)
    try:
        text = tar.read(member.size).decode("utf-8-sig")
        found = json.loads(text) if ending.endswith("json") else {ending: text.strip()}
    except UnicodeDecodeError:
        raise ValueError("is no UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON that can be read") from None
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")
    row: Row = {}
    for column, cell in found.items():
        if isinstance(cell, list) and TEXT.fullmatch(column.strip()):
            cell = " ".join(map(str, cell))  # as captions are often written
        if not isinstance(cell, dict) and not (isinstance(cell, list) and any(isinstance(item, dict | list) for item in cell)):
            row[column] = cell
    return row
