"""Metadata tables, CSV, JSON lines or Parquet, that strangers wrote: read row by row within bounds, and their texts made safe to keep."""

from __future__ import annotations

import csv
import json
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from warehouse.store import UserError

# Far above any published data set (AudioSet has two million clips); a broken or hostile file ends in one line instead of exhausting memory.
MAX_BYTES = 512 << 20
MAX_LINES = 3_000_000
MAX_ROW_CHARACTERS = 1 << 20
MAX_COLUMNS = 200
MAX_TEXT = 500

Row = dict[str, object]


@dataclass
class Rows:
    """Rows that are read anew whenever they are gone through, those that have cells: millions are not held."""

    read: Callable[[], Iterable[Row | str]]

    def __iter__(self) -> Iterator[Row]:
        return (row for row in self.read() if not isinstance(row, str))


def read_rows(table: Path, required: tuple[str, ...]) -> Iterator[tuple[int, Row | str]]:
    """Yield the rows of a .csv or .jsonl file (UTF-8), or .parquet: the number of the row's last line and its cells by column, or why it has none.

    CSV cells are texts, missing ones are empty, columns without a name are left out; `required` columns are all there. JSON values
    are as written, and any member may be missing. Raises UserError where the file as a whole is missing, unreadable, not UTF-8, not
    proper CSV, out of bounds, or without any row.
    """
    rows = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(table.suffix, _json_rows)
    return rows(table, required)


def clean(text: str, what: str) -> str:
    """A name in one line: Unicode form NFC, single spaces. Raises ValueError, naming `what`, for a text that cannot be a name."""
    text = unicodedata.normalize("NFC", " ".join(text.replace("\ufeff", "").split()))
    if len(text) > MAX_TEXT:
        raise ValueError(f"{what} has {len(text)} characters; the limit is {MAX_TEXT}")
    refuse_odd_characters(text, what)
    return text


def refuse_odd_characters(text: str, what: str) -> None:
    """Raise ValueError, naming `what`, for control characters, line separators and lone surrogates, which no UTF-8 can hold."""
    kinds = {unicodedata.category(character) for character in text}
    if "Cs" in kinds:
        raise ValueError(f"{what} is not valid Unicode")
    if kinds & {"Cc", "Zl", "Zp"}:
        raise ValueError(f"{what} holds control characters")


def show(value: object, limit: int = 200) -> str:
    """Any value as one printable line for a message, cut after `limit` characters."""
    text = str(value)
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text[:limit])
    return shown + "..." if len(text) > limit else shown


class _Lines:
    """Lines of a UTF-8 text file, bounded in number and in what one row may take. Whoever reads rows sets `row` to 0 after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.row = 0

    def __iter__(self) -> Iterator[str]:
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{show(self.path)} is not a file: put the metadata there")
            if found.st_size > MAX_BYTES:
                raise UserError(f"{show(self.path)} has {found.st_size >> 20} MiB; the limit is {MAX_BYTES >> 20}: split the data set")
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                while line := file.readline(MAX_ROW_CHARACTERS + 1):
                    self.number += 1
                    self.row += len(line)
                    if self.row > MAX_ROW_CHARACTERS:
                        raise self.error(f"a row of more than {MAX_ROW_CHARACTERS} characters: is a quotation mark missing?")
                    if self.number > MAX_LINES:
                        raise self.error(f"more than {MAX_LINES} lines: split the data set")
                    yield line.replace("\ufeff", "")  # joined tables have a byte order mark inside
        except FileNotFoundError:
            raise UserError(f"{show(self.path)} does not exist: the reader needs it") from None
        except OSError as error:
            raise UserError(f"{show(self.path)} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            self.number += 1
            raise self.error("not UTF-8 text here or soon after: save the file as UTF-8") from None

    def error(self, problem: str) -> UserError:
        return UserError(f"{show(self.path)} line {self.number}: {problem}")


def _csv_rows(table: Path, required: tuple[str, ...]) -> Iterator[tuple[int, Row | str]]:
    lines, header, found = _Lines(table), None, False
    try:
        for cells in csv.reader(lines, strict=True):
            lines.row = 0
            if not any(cells):
                continue
            if header is None:
                header = _header(table, cells, required)
                continue
            found = True
            if any(cells[len(header) :]):
                yield lines.number, f"has {len(cells)} cells, the header {len(header)}"
                continue
            cells += [""] * (len(header) - len(cells))
            yield lines.number, {column: cell for column, cell in zip(header, cells, strict=False) if column}
    except csv.Error as error:
        raise lines.error(f"not proper CSV ({error}): write the table again") from None
    if not found:
        raise UserError(f"{show(table)} lists no files: give it a header with {', '.join(required)} and one row a file")


def _header(table: Path, cells: list[str], required: tuple[str, ...]) -> list[str]:
    """Column names of a table, checked. A column without a name is one that pandas wrote for its index."""
    if len(cells) > MAX_COLUMNS:
        raise UserError(f"{show(table)} has {len(cells)} columns; the limit is {MAX_COLUMNS}: keep those that label the sounds")
    try:
        header = [clean(cell, "a column name") for cell in cells]
    except ValueError as error:
        raise UserError(f"{show(table)} line 1: {error}: rename the column") from None
    if missing := [column for column in required if column not in header]:
        hint = "separate them with commas" if len(cells) == 1 and re.search(r"[;\t|]", cells[0]) else "add it"
        raise UserError(f"{show(table)} has no column {missing[0]}, only {show(', '.join(header))}: {hint}")
    if twice := [column for column in header if column and header.count(column) > 1]:
        raise UserError(f"{show(table)} has two columns {show(twice[0])}: rename one")
    return header


def _parquet_rows(table: Path, required: tuple[str, ...]) -> Iterator[tuple[int, Row | str]]:
    try:
        if not table.is_file():
            raise UserError(f"{show(table)} is not a file: put the metadata there")
        if table.stat().st_size > MAX_BYTES:
            raise UserError(f"{show(table)} has {table.stat().st_size >> 20} MiB; the limit is {MAX_BYTES >> 20}: split the data set")
        schema = pl.read_parquet_schema(table)
        header = _header(table, list(schema), required)
        if pl.scan_parquet(table).select(pl.len()).collect().item() > MAX_LINES:
            raise UserError(f"{show(table)} has more than {MAX_LINES} rows: split the data set")
        heavy = [column for column, kind in schema.items() if isinstance(kind, pl.Struct | pl.Binary)]  # sounds themselves, as a rule
        frame = pl.read_parquet(table, columns=[column for column in schema if column not in heavy])
    except OSError as error:
        raise UserError(f"{show(table)} cannot be read: {error.strerror or error}") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{show(table)} is not Parquet that can be read ({show(str(error).splitlines()[0])}): write it again") from None
    names = {column: name for column, name in zip(schema, header, strict=True) if column not in heavy}
    for line, row in enumerate(frame.iter_rows(named=True), 1):
        yield line, {names[column]: cell for column, cell in row.items() if names[column]}
    if not len(frame):
        raise UserError(f"{show(table)} lists no files: give it a column {', '.join(required)} and one row a file")


def _json_rows(table: Path, required: tuple[str, ...]) -> Iterator[tuple[int, Row | str]]:
    lines, found = _Lines(table), False
    for line in lines:
        lines.row = 0
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield lines.number, f"not JSON: {error.msg}"
        except (ValueError, RecursionError):
            yield lines.number, "not JSON that can be read: a number too long or nested too deep"
        else:
            if not isinstance(row, dict):
                yield lines.number, "not a JSON object"
            elif len(row) > MAX_COLUMNS:
                yield lines.number, f"has {len(row)} members; the limit is {MAX_COLUMNS}"
            else:
                found = True
                yield lines.number, row
    if not found:
        raise UserError(f"{show(table)} lists no files: write one JSON object with {', '.join(required)} a line")
