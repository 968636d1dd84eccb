"""What the columns of a stranger's metadata are: which are labels, and which cells hold several. What is guessed is said, and a study can say better."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from ingest.sounds.listing import RESERVED, Reading
from ingest.sounds.metadata import Row, show
from warehouse.store import UserError

INDEX = re.compile(r"Unnamed: ?\d+(_level_\d+)?|level_\d+")
"""What pandas calls an index that has no name."""
TIME = re.compile(r"(?i)(duration|length|start|end|begin|onset|offset|seconds?)(_?(time|s|secs?|seconds?|ms))?")
TEXT = re.compile(
    r"(?i)((raw|normali[sz]ed)_)?(transcripts?|transcriptions?|text|sentence|utterance|captions?|description|lyrics|title|url|path|comments?)"
)
LABEL = re.compile(r"(?i)labels?|class(es)?|categor(y|ies)|targets?|tags?|events?")
ENOUGH = 20  # cells, of which nearly all differ, before a column of any name is taken for none of labels
NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")
SEPARATORS = (",", ";", "|")
QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
SHOWN = 5


def label_columns(rows: list[Row], reading: Reading, notes: list[str]) -> list[str] | None:
    """The columns that are label sets: those the reading names, else all but those that number, time or describe the sounds; None for all.

    Raises UserError for a named column that is not there.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row if column not in RESERVED))
    if reading.labels is not None:
        if missing := [column for column in reading.labels if column not in columns]:
            raise UserError(f"labels names column {show(missing[0])}, which is not there, only {show(', '.join(columns))}")
        return list(reading.labels)
    left_out = [column for column in columns if _is_no_label(column, [text for row in rows if (text := _text(row.get(column)))])]
    if not left_out:
        return None
    named = ", ".join(map(show, left_out[:SHOWN])) + (", ..." if len(left_out) > SHOWN else "")
    notes.append(f"columns {named} are taken for no labels (numbers of rows, times, free text); `labels` in the study says otherwise")
    return [column for column in columns if column not in left_out]


def part_cells(rows: list[Row], columns: Iterable[str] | None, reading: Reading, notes: list[str]) -> None:
    """Put lists in place of the cells that hold several labels: parted by the reading's separator (empty: by none), else as they look."""
    if columns is None:
        columns = dict.fromkeys(column for row in rows for column in row if column not in RESERVED)
    for column in columns:
        cells = {cell for row in rows if isinstance(cell := row.get(column), str) and cell.strip()}
        if reading.separator == "" or not cells:
            continue
        separator = reading.separator
        parts = _guessed(column, cells, notes) if separator is None else {cell: cell.split(separator) for cell in cells}
        for row in rows:
            if isinstance(cell := row.get(column), str) and cell in parts:
                row[column] = parts[cell]


def _guessed(column: str, cells: set[str], notes: list[str]) -> dict[str, list[str]]:
    """Labels of each cell that seems to hold a list, said in a line; so are cells that might, but are taken whole."""
    lists = {cell: found for cell in cells if (found := _bracketed(cell.strip())) is not None}
    if len(lists) == len(cells):
        notes.append(f'cells of column {show(column)} are lists, such as {show(min(cells), 60)}: a clip has several labels; `separator = ""` '
                     "in the study takes them whole")  # fmt: skip
        return lists
    for separator in SEPARATORS:
        several = {cell: [part.strip() for part in cell.split(separator)] for cell in cells if separator in cell}
        if not several or all(NUMBER.fullmatch(part) for parts in several.values() for part in parts):
            continue
        tokens = {part for parts in several.values() for part in parts} | {cell.strip() for cell in cells if cell not in several}
        tight = all(separator + " " not in cell and " " not in cell for cell in several)
        if tight or len(tokens) < len(cells):
            notes.append(f'cells of column {show(column)} are parted at "{separator}", such as {show(min(several), 60)}: a clip has several '
                         'labels; `separator = ""` in the study takes them whole')  # fmt: skip
            return several
        notes.append(f'cells of column {show(column)} hold "{separator}", such as {show(min(several), 60)}, and are taken whole; '
                     f'`separator = "{separator}"` in the study parts them')  # fmt: skip
        return {}
    return {}


def _bracketed(cell: str) -> list[str] | None:
    """What a cell lists in square brackets, as JSON, Python or numpy write it; None for no list."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    try:
        if isinstance(found := json.loads(cell), list) and not any(isinstance(item, list | dict) for item in found):
            return [str(item) for item in found if item is not None]
    except (ValueError, RecursionError):
        pass
    inner = cell[1:-1].strip()
    if inner.startswith(("'", '"')):
        return [one or two for one, two in QUOTED.findall(inner)] if not QUOTED.sub("", inner).strip(", \t\n") else None
    return [part.strip() for part in inner.split(",")] if inner else []


def _is_no_label(column: str, texts: list[str]) -> bool:
    """Whether a column numbers, times or describes the sounds rather than putting them into classes."""
    if INDEX.fullmatch(column.strip()):
        return True
    distinct = len(set(texts))
    numbers = all(NUMBER.fullmatch(text) for text in texts)
    if texts and numbers and TIME.fullmatch(column.strip()):
        return True
    if TEXT.fullmatch(column.strip()):
        return distinct >= 2 and distinct > len(texts) / 2
    return not LABEL.fullmatch(column.strip()) and len(texts) >= ENOUGH and distinct > 0.8 * len(texts)


def _text(cell: object) -> str:
    """A cell as a text; empty for none, and for a list, which is one of labels."""
    return "" if cell is None or isinstance(cell, list | dict) else str(cell).strip()
