"""The folder `data/` of an atlas: the derived tables as CSV and Parquet, and the SQL that made them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import duckdb
import polars as pl
import polars.selectors as cs

from analyze import tables
from report.parts.texts import plural

DIGITS = 10
"""Significant digits of numbers: sums over threads differ in the last ones from one report to the next."""
README = """# Derived tables of this atlas

Each table as CSV and as Parquet, and the SQL that made it from the warehouse (`NAME.sql`; DuckDB, with the functions of Auricle's `analyze/intervals.py`;
tables with p-values have q-values beside them). `auricle analyze NAME` makes them, too. NULL, an empty field, is what is undefined. Numbers have {digits}
significant digits. Columns are described where they come from: `../schema.html`. The runs behind them: `../runs.html`.

Made by Auricle {auricle}, DuckDB {duckdb}.

| table | rows | what it holds |
|---|---:|---|
{rows}
{empty}"""


def pages(con: duckdb.DuckDBPyConnection, derived: Mapping[str, pl.DataFrame]) -> Iterator[tuple[str, str | bytes]]:
    """Addresses and contents of all files; tables without a row have none. `derived` has those that were computed."""
    done = {stage for (stage,) in con.execute("SELECT DISTINCT stage FROM run WHERE status = 'done'").fetchall()}
    rows, empty = [], []
    for name in tables.names():
        frame = derived.get(name)
        if frame is None and not _has_no_run(name, done):
            frame = tables.table(con, name)
        if frame is None or frame.is_empty():
            empty.append(name)
            continue
        frame = frame.with_columns(cs.float().round_sig_figs(DIGITS))
        rows.append(f"| [{name}]({name}.csv) | {len(frame):,} | {tables.description(name).replace('|', chr(92) + '|')} |")
        packed = io.BytesIO()
        frame.write_parquet(packed)
        nested = [column for column, kind in frame.schema.items() if kind.is_nested()]
        flat = frame.with_columns(pl.col(column).map_elements(str, pl.String) for column in nested)
        yield f"data/{name}.csv", flat.write_csv()
        yield f"data/{name}.parquet", packed.getvalue()
        yield f"data/{name}.sql", tables.sql(name)
    said = f"\nWithout a row here: {', '.join(empty)}.\n" if empty else ""
    text = README.format(digits=DIGITS, auricle=version("auricle"), duckdb=version("duckdb"), rows="\n".join(rows), empty=said)
    yield "data/README.md", text if rows else text.replace("| table", f"{plural(0, 'table')} has a row.\n\n| table")


def _has_no_run(name: str, done: set[str]) -> bool:
    """Whether a table reads but stages that have no finished run, so that it needs not be computed to be known empty."""
    stages = set(re.findall(r"stage = '(\w+)'", tables.sql(name)))
    return bool(stages) and not stages & done
