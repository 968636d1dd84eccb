"""The derived tables: one commented SQL file each, in `sql/`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from analyze import intervals
from warehouse.store import UserError, first_line, publish

FOLDER = Path(__file__).parent / "sql"


@dataclass(frozen=True)
class Exported:
    """A table written to disk: its name, rows, and files."""

    name: str
    rows: int
    files: tuple[Path, ...]


def names() -> list[str]:
    """Names of all tables."""
    return sorted(path.stem for path in FOLDER.glob("*.sql"))


def description(name: str) -> str:
    """The first comment line of a table's SQL."""
    return sql(name).splitlines()[0].removeprefix("--").strip()


def sql(name: str) -> str:
    """SQL of a table. Raises UserError naming the nearest table when there is none of that name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1, 0)
        raise UserError(f"there is no table {name}: did you mean {near[0]}? All: {', '.join(names())}")
    return (FOLDER / f"{name}.sql").read_text()


def table(con: duckdb.DuckDBPyConnection, name: str) -> pl.DataFrame:
    """A derived table, computed from the warehouse `con` is open on; one with p-values has q-values behind them."""
    intervals.register(con)
    return intervals.with_q_values(con.sql(sql(name)).pl())


def export(con: duckdb.DuckDBPyConnection, name: str, folder: Path) -> Exported:
    """Write a table to `folder` as CSV and Parquet."""
    frame = table(con, name)
    folder.mkdir(parents=True, exist_ok=True)
    files = (folder / f"{name}.csv", folder / f"{name}.parquet")
    for path in files:
        temporary = path.with_name(path.name + ".tmp")
        try:
            if path.suffix == ".csv":
                frame.write_csv(temporary)
            else:
                frame.write_parquet(temporary)
            publish(temporary, path)
        except (OSError, pl.exceptions.ComputeError) as error:
            temporary.unlink(missing_ok=True)
            raise UserError(f"{path} cannot be written: {getattr(error, 'strerror', None) or first_line(error)}") from None
    return Exported(name, len(frame), files)
