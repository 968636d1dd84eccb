"""What commands show on a terminal, and write where the output is none: progress, tables."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import duckdb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from warehouse import store

if TYPE_CHECKING:
    import pyarrow

out = Console(highlight=False, soft_wrap=True)


class Format(StrEnum):
    """Output formats of results."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class Bars:
    """Progress bars with rate and time left on a terminal, plain lines elsewhere; `to` another stream than the output."""

    def __init__(self, to: TextIO | None = None) -> None:
        self.out = Console(highlight=False, soft_wrap=True, file=to) if to else out

    def say(self, line: str) -> None:
        """One line."""
        self.out.print(line, markup=False)

    @contextmanager
    def stage(self, title: str) -> Iterator:
        """Show a stage's progress."""
        if not self.out.is_terminal:
            yield lambda done, total, note="": None
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))  # fmt: skip
        with Progress(*columns, console=self.out, transient=True) as bars:
            task = bars.add_task(title, total=None, rate="", note="")

            def advance(done: int, total: int, note: str = "") -> None:
                shown = bars.tasks[0]
                if shown.total != total:  # a new part of the stage begins
                    bars.reset(task, total=total, rate="")
                bars.update(
                    task,
                    completed=done,
                    total=total,
                    rate=f"{shown.speed:.{0 if shown.speed >= 10 else 1}f}/s" if shown.speed else "",
                    note=note,
                )

            yield advance


def print_table(headers: list[str], rows: list[tuple]) -> None:
    """A table with its number of rows, whole where the output is no terminal."""
    table = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(highlight=False, markup=False) if out.is_terminal else Console(highlight=False, markup=False, width=10_000)
    console.print(table, no_wrap=not out.is_terminal, crop=False)
    print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")


def print_frame(frame: pyarrow.Table, format: Format) -> None:
    """A result in a format, to the output."""
    if format is Format.table:
        print_table(frame.column_names, store.rows(frame))
    elif format is Format.json:
        json.dump(
            [dict(zip(frame.column_names, row, strict=True)) for row in store.rows(frame)],
            sys.stdout,
            ensure_ascii=sys.stdout.encoding.lower() != "utf-8",
            default=str,
            indent=1,
        )
        print()
    else:
        with tempfile.TemporaryDirectory() as folder, duckdb.connect() as memory:
            path = Path(folder) / "result"
            memory.register("frame", frame)
            memory.execute(f"COPY frame TO '{path}' (FORMAT {format.value})")
            sys.stdout.flush()
            sys.stdout.buffer.write(path.read_bytes())


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
