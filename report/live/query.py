"""One query of the console, in a process of its own: `python -m report.live.query` takes an Asked as a line of JSON and answers with an Answer.

The process may be ended at any moment, so that nothing that a query does outlives its limit, not even a function of Python. It says READY when
it can be asked, and OPEN when it has the warehouse, from when on the limit counts.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow

from analyze import intervals
from warehouse import store
from warehouse.store import UserError

READY, OPEN = b"ready\n", b"open\n"
FileFormat = Literal["csv", "parquet"]
CELL = 2000
"""Characters of a value that are shown; files have all of it."""
EXACT = 2**53
"""Whole numbers from here on are not exact in JavaScript."""
NUMERIC = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)")
PROHIBITED = "the console reads the warehouse and nothing else"


@dataclass(frozen=True)
class Asked:
    """A query: at most `rows` rows of it are given, `limit_s` seconds it may take, with so much memory. `file` takes the result instead of the answer."""

    warehouse: str
    sql: str
    rows: int
    limit_s: float
    memory: str
    file: str | None = None
    format: FileFormat = "csv"


@dataclass
class Answer:
    """Columns as name, type and whether they are numbers; rows as JSON shows them; whether rows were left out; or what is wrong, in one line."""

    columns: list[tuple[str, str, bool]] = field(default_factory=list)
    rows: list[list] = field(default_factory=list)
    count: int = 0
    is_cut: bool = False
    seconds: float = 0.0
    error: str | None = None


def answer(asked: Asked, opened: Callable[[], None]) -> Answer:
    """Run a query on a warehouse that is open for reading only, without a way to files, settings or extensions; `opened` is called when it is."""
    try:
        con = store.connect_readonly(Path(asked.warehouse))
    except UserError as error:
        return Answer(error=str(error))
    with con:
        opened()
        started = time.perf_counter()
        close_doors(con, asked.memory)
        late = threading.Event()

        def stop() -> None:
            late.set()
            con.interrupt()

        clock = threading.Timer(asked.limit_s, stop)
        clock.daemon = True
        clock.start()
        try:
            found = _run(con, asked)
        except UserError as error:
            return Answer(error=str(error))
        except (duckdb.Error, RuntimeError, ValueError, OverflowError) as error:
            if late.is_set():
                return Answer(error=too_long(asked.limit_s))
            if isinstance(error, duckdb.OutOfMemoryException):
                return Answer(error=f"out of memory: a query may use {asked.memory}, ask for less")
            return Answer(error=in_one_line(error))
        except MemoryError:
            return Answer(error="out of memory: ask for less")
        finally:
            clock.cancel()
    found.seconds = time.perf_counter() - started
    return found


def too_long(limit_s: float) -> str:
    """What is said of a query that took too long."""
    return f"cancelled after {limit_s:g} s, the limit of a query: ask for less, or give `auricle serve` a higher --query-seconds"


def close_doors(con: duckdb.DuckDBPyConnection, memory: str) -> None:
    """Leave a connection the warehouse it is open on and the functions of derived tables, for good."""
    intervals.register(con)
    for setting, value in {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "python_enable_replacements": "false",
        "enable_progress_bar": "false",
        "threads": "2",
        "memory_limit": f"'{memory}'",
        "temp_directory": "''",
        "enable_external_access": "false",
        "lock_configuration": "true",
    }.items():
        con.execute(f"SET {setting} = {value}")


def check(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise UserError unless a text is one statement that reads."""
    statements = con.extract_statements(sql)
    if len(statements) != 1:
        raise UserError(f"one query at a time, there are {len(statements)}" if statements else "no query: write one, such as FROM network")
    kind = statements[0].type.name
    if kind == "MULTI":
        raise UserError("PIVOT here needs to be told its columns: PIVOT ... ON column IN (...) USING ...")
    if kind not in ("SELECT", "EXPLAIN"):
        word = sql.split(None, 1)[0].upper() if not sql.lstrip().startswith(("-", "/")) else kind
        raise UserError(f"{word.rstrip(';(')} is refused: {PROHIBITED}")


def in_one_line(error: BaseException) -> str:
    """What DuckDB says, with the line it means in place of a drawing of it."""
    text, _, shown = str(error).partition("\n\nLINE ")
    where = shown.partition(":")[0]
    said = " ".join(text.split())
    if "disabled by configuration" in said or "disabled through configuration" in said:
        said = f"{said.partition(' - ')[0]}: {PROHIBITED}"
    return said[:1000] + (f" (line {where})" if where.isdigit() else "")


def _run(con: duckdb.DuckDBPyConnection, asked: Asked) -> Answer:
    check(con, asked.sql)
    relation = con.sql(asked.sql)
    if relation is None:
        return Answer()
    kinds = [str(kind) for kind in relation.types]
    columns = [(name, kind, NUMERIC.fullmatch(kind) is not None) for name, kind in zip(relation.columns, kinds, strict=True)]
    reader = relation.to_arrow_reader(min(asked.rows + 1, 2048))
    batches, count = [], 0
    for batch in reader:
        batches.append(batch.slice(0, asked.rows - count))
        count += len(batch)
        if count > asked.rows:
            break
    frame = pyarrow.Table.from_batches(batches, reader.schema)
    found = Answer(columns, count=len(frame), is_cut=count > asked.rows)
    if asked.file:
        with duckdb.connect() as memory:
            memory.register("frame", frame)
            memory.execute(f"COPY frame TO '{asked.file}' (FORMAT {asked.format})")
    else:
        found.rows = [[shown(value) for value in row] for row in store.rows(frame)]
    return found


def shown(value: object) -> object:
    """A value as JSON that a page shows."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() and float(value) == value else str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        text = value.isoformat(sep=" ") if isinstance(value, datetime.datetime) else value.isoformat()
    elif isinstance(value, (dict, list, tuple)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def main() -> None:
    """Answer the line on the input, and leave without tidying up. Without a line nobody asks any more."""
    out = os.dup(1)
    os.dup2(2, 1)  # what is computed may print; the answer alone goes where it is read

    def tell(text: bytes) -> None:
        with contextlib.suppress(OSError):
            while text:
                text = text[os.write(out, text) :]

    tell(READY)
    line = sys.stdin.buffer.readline()
    if line:
        tell(json.dumps(asdict(answer(Asked(**json.loads(line)), lambda: tell(OPEN))), ensure_ascii=False).encode("utf-8", "replace"))
    os._exit(0)


if __name__ == "__main__":
    main()
