"""Where a sound lies: in a file, or in a container, into which its path goes on.

FOLDER/shard-000.tar/a/dog.flac is a member of the tar; FOLDER/train.parquet/17/dog.flac is the sound of row 17, from 0, of the Parquet file, behind
which its name only says what it is. Nothing is unpacked: a member is read where it lies, rows are decoded one after the other.
"""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow

ENDINGS = (".tar", ".parquet")
LARGEST = 1 << 30  # bytes: a sound in a container is read as a whole
BLOCK = 512  # bytes: what a tar is made of
ROWS = 8  # of a Parquet file, decoded at a time
KEPT = 64 << 20  # bytes of rows, for those who ask for the same or the next one
OPEN = 4  # Parquet files that keep rows


class Unfit(OSError):
    """What lies there, and is no sound's file: the message is the reason in one line, without the path."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its `size` bytes from `start` on; `fault` is what is wrong with it, empty when nothing is. Without a name, the tar's own."""

    name: str
    start: int
    size: int
    fault: str = ""


def opened(path: Path) -> io.BufferedReader | io.BytesIO:
    """A sound's file, opened to be read. Raises OSError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Unfit("not a file")  # a pipe would be waited for
        return open(path, "rb")
    except NotADirectoryError:
        return io.BytesIO(_content(path))


def decodable(path: Path) -> Path | io.BufferedReader | io.BytesIO:
    """What a decoder is given: the path of a file, the bytes of what lies in a container. Raises Unfit where these cannot be had."""
    try:
        return path if container(path) is None else opened(path)
    except Unfit:
        raise
    except OSError as error:
        raise Unfit(error.strerror or str(error)) from None


def is_there(path: Path) -> bool:
    """Whether a sound lies there."""
    try:
        if (found := container(path)) is None:
            return path.is_file()
        return _row(found[1]) < _rows(found[0]).count if found[0].suffix == ".parquet" else found[1] in _members(found[0])
    except OSError:
        return False


def container(path: Path) -> tuple[Path, str] | None:
    """The container that a path goes on into, and what follows in it; None for a path that leads into none."""
    for parent in path.parents:
        if parent.suffix in ENDINGS and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def members(path: Path) -> Iterator[Member]:
    """The files in a tar in their order, without reading them; what is wrong with it is told by the last. Raises OSError."""
    length = path.stat().st_size
    start = 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (found := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which would hold all of them
                name = PurePosixPath(found.name.lstrip("/")).as_posix()
                start = found.offset_data + found.size
                if found.isdir():
                    continue
                if not found.isreg() or found.issparse():
                    yield Member(name, found.offset_data, 0, "a link, or no whole file, in the tar: put the file itself there")
                elif start > length:
                    there = max(0, length - found.offset_data)
                    yield Member(name, found.offset_data, there, f"the tar is cut off: {there} of the {found.size} bytes are there")
                    return
                else:
                    yield Member(name, found.offset_data, found.size)
            start = tar.offset
        with path.open("rb") as file:  # tarfile takes a damaged header for the end
            file.seek(start)
            if len(block := file.read(BLOCK)) < BLOCK:
                yield Member("", start, 0, f"the tar has no end mark behind byte {start}, where it may be cut off")
            elif block.strip(b"\0"):
                yield Member("", start, 0, f"the tar is damaged at byte {start}: what follows is left out")
    except tarfile.TarError as error:
        said = "is no tar" if not start else f"is cut off, or damaged behind byte {start}"
        yield Member("", start, 0, f"{said} ({' '.join(str(error).split())[:200]})")


def sound_column(schema: pyarrow.Schema) -> tuple[str, str, str | None] | None:
    """The column of sounds as `datasets` stores them, audio before others, and in it the columns of their bytes and their paths (None where there is
    none); None where there is no such column. Images, which are stored alike, are told by the metadata."""
    import pyarrow.types as types

    kinds = {name: feature.get("_type") for name, feature in features(schema).items() if isinstance(feature, dict)}
    found = []
    for field in schema:
        inner = {part.name: part.type for part in field.type} if types.is_struct(field.type) else {}
        held = inner.get("bytes", field.type)
        if (types.is_binary(held) or types.is_large_binary(held)) and kinds.get(field.name, "Audio") == "Audio":
            if inner:
                found.append((field.name, f"{field.name}.bytes", f"{field.name}.path" if "path" in inner else None))
            elif field.name in kinds or field.name == "audio":
                found.append((field.name, field.name, None))
    return min(found, key=lambda names: names[0] != "audio", default=None)


def features(schema: pyarrow.Schema) -> dict[str, object]:
    """What `datasets` says of the columns of a Parquet file that it wrote; nothing of another."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return found if isinstance(found, dict) else {}
    except (KeyError, TypeError, ValueError):
        return {}


def _content(path: Path) -> bytes:
    found = container(path)
    if found is None:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    file, inside = found
    if file.suffix == ".parquet":
        return _rows(file).read(_row(inside))
    if inside not in (places := _members(file)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    start, size = places[inside]
    if size > LARGEST:
        raise Unfit(f"{size} bytes in a tar; the limit is {LARGEST >> 20} MiB: take it out")
    with file.open("rb") as tar:
        tar.seek(start)
        return tar.read(size)


def _row(inside: str) -> int:
    number = inside.partition("/")[0]
    if not (number.isascii() and number.isdecimal()):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), inside)
    return int(number)


def _as_it_is(path: Path) -> tuple[str, int, int, int]:
    """A container and what tells whether it has changed; and the process, for what is open does not survive a fork."""
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns, os.getpid()


def _members(path: Path) -> dict[str, tuple[int, int]]:
    return _index(*_as_it_is(path))


def _rows(path: Path) -> _Rows:
    return _opened_rows(*_as_it_is(path))


@functools.lru_cache(maxsize=32)
def _index(path: str, size: int, modified_ns: int, process: int) -> dict[str, tuple[int, int]]:
    """First byte and size of a tar's whole files by name; of two of one name, of the first."""
    places: dict[str, tuple[int, int]] = {}
    for member in members(Path(path)):
        if not member.fault:
            places.setdefault(member.name, (member.start, member.size))
    return places


@functools.lru_cache(maxsize=OPEN)
def _opened_rows(path: str, size: int, modified_ns: int, process: int) -> _Rows:
    return _Rows(path)


class _Rows:
    """The sounds of a Parquet file. Who asks for one row after the other has each decoded once; who asks for any, its group from the beginning. A page
    of the file is held at a time, which for sounds are up to 1024 rows of a group, as pyarrow writes it; `datasets` puts 100 into a group."""

    def __init__(self, path: str) -> None:
        import pyarrow
        import pyarrow.parquet

        try:  # buffered, so that a group is never held as a whole
            self.file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise Unfit(f"not Parquet that can be read ({' '.join(str(error).split())[:200]})") from None
        column = sound_column(self.file.schema_arrow)
        if column is None:
            raise Unfit("no column of sounds in the Parquet file")
        self.column = column[1]
        self.count: int = self.file.metadata.num_rows
        sizes = [self.file.metadata.row_group(group).num_rows for group in range(self.file.num_row_groups)]
        self.starts = [sum(sizes[:group]) for group in range(len(sizes) + 1)]
        self.lock = threading.Lock()
        self.kept: list[tuple[int, pyarrow.Array]] = []
        self.batches: Iterator[pyarrow.RecordBatch] = iter(())
        self.following, self.end = 0, 0  # the rows that the batches have still to give

    def read(self, row: int) -> bytes:
        """The bytes of a row's sound. Raises OSError where there are none."""
        if row >= self.count:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(row))
        with self.lock:
            value = self._value(row)
        if value is None:
            raise Unfit("the row holds no bytes, only a path: write the data set with its sounds embedded")
        return value

    def _value(self, row: int) -> bytes | None:
        import pyarrow

        for first, array in self.kept:
            if first <= row < first + len(array):
                return array[row - first].as_py()
        if not self.following <= row < self.end:
            group = next(number for number, start in enumerate(self.starts[1:]) if row < start)
            self.following, self.end = self.starts[group], self.starts[group + 1]
            self.batches = self.file.iter_batches(ROWS, row_groups=[group], columns=[self.column], use_threads=False)
        try:
            while self.following <= row:
                batch = next(self.batches).column(0)
                array = batch.field("bytes") if pyarrow.types.is_struct(batch.type) else batch
                self.kept.append((self.following, array))
                self.following += len(array)
                while len(self.kept) > 1 and sum(array.nbytes for _, array in self.kept) > KEPT:
                    self.kept.pop(0)
        except (pyarrow.ArrowException, OSError, StopIteration) as error:
            self.following, self.end = 0, 0
            raise Unfit(f"the Parquet file is damaged here ({' '.join(str(error).split())[:200]})") from None
        first, array = self.kept[-1]
        return array[row - first].as_py()
