"""Captions that somebody else made, read from a table."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ingest.language.captions import Caption, accept
from ingest.sounds.listing import AUDIO_ENDINGS
from ingest.sounds.metadata import read_rows, show
from warehouse.store import UserError, sha256_file


class Imported:
    """Captions from a CSV, JSON lines or Parquet file with the columns `file` (or `clip`) and `caption`.

    A file is named by its path within the data set or any end of it, with or without its ending.
    """

    name = "imported"

    def __init__(self, path: Path) -> None:
        """Read and check the file; raises UserError for one without these columns, with a bad row, or with two captions of a file."""
        self.path = path
        self._captions: dict[PurePosixPath, str] = {}
        for where, name, text in _parquet_rows(path) if path.suffix == ".parquet" else _table_rows(path):
            if not isinstance(name, str) or not name.strip("/ "):
                raise UserError(f"{show(path)} {where}: no file is named")
            if text is not None and not isinstance(text, str):
                raise UserError(f"{show(path)} {where}: the caption is {show(text, 40)}, not a text")
            key = _key(name)
            if key in self._captions:
                raise UserError(f"{show(path)} {where}: a second caption of {show(name)}: keep one")
            self._captions[key] = text or ""
        self._sha256 = sha256_file(path)

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return {"sha256": self._sha256}

    def check(self, paths: Sequence[Path]) -> None:
        """Raise UserError when the file names sounds that are not among all of a data set's, or one line fits several of them."""
        taken: dict[PurePosixPath, Path] = {}
        for path in paths:
            if (key := self._find(path)) is not None:
                if key in taken:
                    raise UserError(f"{show(self.path)}: {show(key)} may be {show(taken[key])} or {show(path)}: name the folder, too")
                taken[key] = path
        if unknown := [key for key in self._captions if key not in taken]:
            raise UserError(f"{show(self.path)} names {len(unknown)} sounds that the data set does not have, first {show(unknown[0])}")

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file; those the file does not name have none."""
        keys = [self._find(path) for path in paths]
        return [Caption(None, "", f"not in {show(self.path.name)}") if key is None else accept(self._captions[key]) for key in keys]

    def _find(self, path: Path) -> PurePosixPath | None:
        """The longest end of a path that has a caption."""
        parts = _key(path.as_posix()).parts
        ends = (PurePosixPath(*parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in self._captions), None)


def _key(name: str) -> PurePosixPath:
    """A path without leading ./ and without an audio file's ending."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.strip().replace("\\", "/")))
    return path.with_suffix("") if path.suffix.lower() in AUDIO_ENDINGS else path


def _table_rows(path: Path) -> Iterator[tuple[str, object, object]]:
    """Place, file and caption of each row of a CSV or JSON lines file."""
    for line, row in read_rows(path, required=("caption",) if path.suffix == ".csv" else ()):
        if isinstance(row, str):
            raise UserError(f"{show(path)} line {line}: {row}: mend the row")
        column = next((name for name in ("file", "clip") if name in row), None)
        if column is None or "caption" not in row:
            missing = "caption" if column else "file or clip"
            raise UserError(f"{show(path)} has no column {missing}, only {show(', '.join(row))}: add it")
        yield f"line {line}", row[column], row["caption"]


def _parquet_rows(path: Path) -> Iterator[tuple[str, object, object]]:
    """Place, file and caption of each row of a Parquet file."""
    import polars

    try:
        columns = polars.read_parquet_schema(path)
        column = next((name for name in ("file", "clip") if name in columns), None)
        if column is None or "caption" not in columns:
            missing = "caption" if column else "file or clip"
            raise UserError(f"{show(path)} has no column {missing}, only {show(', '.join(columns))}: add it")
        table = polars.read_parquet(path, columns=[column, "caption"])
    except (OSError, polars.exceptions.PolarsError) as error:
        raise UserError(f"{show(path)} cannot be read as Parquet: {show(str(error).splitlines()[0], 120)}") from None
    for number, (name, text) in enumerate(zip(table[column], table["caption"], strict=True), start=1):
        yield f"row {number}", name, text
