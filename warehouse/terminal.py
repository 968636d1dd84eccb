"""What commands show on a terminal, and write where the output is none: progress, tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

out = Console(highlight=False, soft_wrap=True)


class Bars:
    """Progress bars with rate and time left on a terminal, plain lines elsewhere."""

    def say(self, line: str) -> None:
        """One line."""
        out.print(line, markup=False)

    @contextmanager
    def stage(self, title: str) -> Iterator:
        """Show a stage's progress."""
        if not out.is_terminal:
            yield lambda done, total: None
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=out, transient=True) as bars:
            task = bars.add_task(title, total=None, rate="")

            def advance(done: int, total: int) -> None:
                shown = bars.tasks[0]
                if shown.total != total:  # a new part of the stage begins
                    bars.reset(task, total=total, rate="")
                bars.update(task, completed=done, total=total, rate=f"{shown.speed:.0f}/s" if shown.speed else "")

            yield advance


def print_table(headers: list[str], rows: list[tuple]) -> None:
    """A table with its number of rows, whole where the output is no terminal."""
    table = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(highlight=False, markup=False) if out.is_terminal else Console(highlight=False, markup=False, width=10_000)
    console.print(table, no_wrap=not out.is_terminal, crop=False)
    print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
