"""What the columns of a stranger's metadata are: which are labels, and which cells hold several. What is guessed is said, and a study can say better."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable

from ingest.sounds.listing import RESERVED, Reading
from ingest.sounds.metadata import Row, show
from warehouse.store import UserError

INDEX = re.compile(r"Unnamed: ?\d+(_level_\d+)?|level_\d+")
"""What pandas calls an index that has no name."""
TIME = re.compile(r"(?i)(duration|length|start|end|begin|onset|offset|seconds?)(_?(time|s|secs?|seconds?|ms))?")
TEXT = re.compile(
    r"(?i)((raw|normali[sz]ed)_)?(txt|transcripts?|transcriptions?|text|sentence|utterance|captions?|description|lyrics|title|url|path|comments?)"
)
LABEL = re.compile(r"(?i)labels?|cls|class(es)?|categor(y|ies)|targets?|tags?|events?")
ENOUGH = 20  # cells, of which nearly all differ, before a column of any name is taken for none of labels
NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")
SEPARATORS = (",", ";", "|")
QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
SHOWN = 5


class _Cells:
    """What the cells of a column are: how many hold a text, how many of these differ (by their hashes), and whether all are numbers."""

    def __init__(self) -> None:
        self.count, self.hashes, self.numbers = 0, set[int](), True

    def add(self, text: str) -> None:
        self.count += 1
        self.hashes.add(hash(text))
        self.numbers = self.numbers and NUMBER.fullmatch(text) is not None


def label_columns(rows: Iterable[Row], reading: Reading, notes: list[str], certain: Collection[str] = ()) -> list[str] | None:
    """The columns that are label sets: those the reading names, else all but those that number, time or describe the sounds, which the
    `certain` ones do not; None for all. `rows` are gone through once.

    Raises UserError for a named column that is not there.
    """
    columns: dict[str, _Cells] = {}
    for row in rows:
        for column, cell in row.items():
            if column not in RESERVED:
                if column not in columns:
                    columns[column] = _Cells()
                if text := _text(cell):
                    columns[column].add(text)
    if reading.labels is not None:
        if missing := [column for column in reading.labels if column not in columns]:
            raise UserError(f"labels names column {show(missing[0])}, which is not there, only {show(', '.join(columns))}")
        return list(reading.labels)
    left_out = [column for column, cells in columns.items() if column not in certain and _is_no_label(column, cells)]
    if not left_out:
        return None
    named = ", ".join(map(show, left_out[:SHOWN])) + (", ..." if len(left_out) > SHOWN else "")
    notes.append(f"columns {named} are taken for no labels (numbers of rows, times, free text); `labels` in the study says otherwise")
    return [column for column in columns if column not in left_out]


def parted_cells(
    rows: Iterable[Row], columns: Iterable[str] | None, reading: Reading, notes: list[str], certain: Collection[str] = ()
) -> dict[str, dict[str, list[str]]]:
    """The cells that hold several labels, and these, by column: parted by the reading's separator (empty: by none), else as they look, which
    those of `certain` columns do not. `rows` are gone through once, and no more than the different cells of `columns` (None: of all) is held."""
    if (separator := reading.separator) == "":
        return {}
    found: dict[str, set[str]] = {column: set() for column in columns or ()}
    for row in rows:
        for column, cell in row.items():
            if columns is None and column not in RESERVED:
                found.setdefault(column, set())
            if column in found and isinstance(cell, str) and cell.strip():
                found[column].add(cell)
    parts = {}
    for column, cells in found.items():
        if cells and (separator or column not in certain):
            parts[column] = _guessed(column, cells, notes) if separator is None else {cell: cell.split(separator) for cell in cells}
    return parts


def label_cells(row: Row, columns: Iterable[str] | None, parts: dict[str, dict[str, list[str]]]) -> dict[str, object]:
    """What a row says by label set: its cells of `columns`, None for all, lists in place of those that hold several labels."""
    labels = {column: row.get(column) for column in ([column for column in row if column not in RESERVED] if columns is None else columns)}
    return {column: parts.get(column, {}).get(cell, cell) if isinstance(cell, str) else cell for column, cell in labels.items()}


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


def _is_no_label(column: str, cells: _Cells) -> bool:
    """Whether a column numbers, times or describes the sounds rather than putting them into classes."""
    if INDEX.fullmatch(column.strip()):
        return True
    distinct = len(cells.hashes)
    if cells.count and cells.numbers and TIME.fullmatch(column.strip()):
        return True
    if TEXT.fullmatch(column.strip()):
        return distinct >= 2 and distinct > cells.count / 2
    return not LABEL.fullmatch(column.strip()) and cells.count >= ENOUGH and distinct > 0.8 * cells.count


def _text(cell: object) -> str:
    """A cell as a text; empty for none, and for a list, which is one of labels."""
    return "" if cell is None or isinstance(cell, list | dict) else str(cell).strip()
