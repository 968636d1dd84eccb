"""Pages about the warehouse itself: its runs, its schema, and the SQL cookbook with real results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
from markupsafe import Markup

from report.addresses import slugs
from report.parts.page import Press
from report.parts.provenance import time
from report.parts.svg import number
from warehouse.store import schema_sql

COOKBOOK = Path(__file__).parent / "cookbook.sql"
FAILURES = 500
RECIPE_ROWS = 20
NUMERIC = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "NUMBER"}


def recipes() -> list[tuple[str, str]]:
    """The cookbook's queries as (question, SQL)."""
    parts = re.split(r"^-- (?=.*\?$)", COOKBOOK.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return [(title.strip(), sql.strip()) for title, _, sql in (part.partition("\n") for part in parts)]


def pages(press: Press) -> Iterator[tuple[str, str]]:
    """All three."""
    provenance = _count(press.con)
    yield press.page("runs.html").write("runs", title="Runs", provenance=provenance, runs=_runs(press))
    yield press.page("schema.html").write("schema", title="Schema", provenance=provenance, tables=tables_of(press.con))
    yield press.page("cookbook.html").write("cookbook", title="SQL cookbook", provenance=provenance, recipes=_results(press.con))


def _runs(press: Press) -> list[dict]:
    """All runs with their provenance and failures, latest first."""
    found = []
    for run in press.runs:
        failures = press.con.execute(
            "SELECT item, reason FROM failure WHERE run_id = ? ORDER BY stage, item LIMIT ?", [run["run_id"], FAILURES]
        ).fetchall()
        facts = [("Started", time(run["started_at"])), ("Finished", time(run["finished_at"]))]
        if run["finished_at"]:
            facts.append(("Took", f"{(run['finished_at'] - run['started_at']).total_seconds():,.0f} s"))
        facts += [("Device", run["device"]), ("Units of work", f"{run['units']:,}"), ("Failures", f"{run['failed']:,}")]
        facts += [("Code", f"version {run['code_version']}" + (f", git {run['git_revision'][:12]}" if run["git_revision"] else ""))]
        if run["seed"] is not None:
            facts.append(("Seed", run["seed"]))
        found.append(run | {"facts": facts, "failures": failures})
    return found


def tables_of(con: duckdb.DuckDBPyConnection) -> list[dict]:
    """Every table, view and column with its comment."""
    columns: dict[str, list[tuple]] = {}
    for table, *column in con.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal ORDER BY table_oid, column_index"
    ).fetchall():
        columns.setdefault(table, []).append(tuple(column))
    tables = []
    for kind, name, comment, _ in con.execute("""
        SELECT 'table', table_name, comment, table_oid AS oid FROM duckdb_tables() WHERE NOT internal
        UNION ALL SELECT 'view', view_name, comment, view_oid FROM duckdb_views() WHERE NOT internal ORDER BY 1, oid
    """).fetchall():
        rows = con.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0][0] if kind == "table" else None
        size = "view" if rows is None else f"{rows:,} rows"
        tables.append({"name": name, "comment": comment, "columns": columns.get(name, []), "size": size})
    # Their numbers in the file say nothing; schema.sql tells them in a sensible order.
    text = schema_sql()
    tables.sort(key=lambda table: text.find(f" {table['name']} ") % (len(text) + 1))
    return tables


def _results(con: duckdb.DuckDBPyConnection) -> list[dict]:
    """The cookbook with its results on this warehouse."""
    found = []
    questions = recipes()
    for (title, sql), name in zip(questions, slugs([title for title, _ in questions]), strict=True):
        recipe: dict = {"title": title, "sql": sql, "id": name}
        result = con.execute(sql)
        kinds = [(column[0], str(column[1])) for column in result.description]
        rows = result.fetchall()
        numeric = [kind in NUMERIC or kind.startswith("DECIMAL") for _, kind in kinds]
        recipe["columns"] = [(name, is_number) for (name, _), is_number in zip(kinds, numeric, strict=True)]
        recipe["rows"] = [[_cell(value) for value in row] for row in rows[:RECIPE_ROWS]]
        recipe["count"] = len(rows)
        found.append(recipe)
    return found


def _cell(value: object) -> str:
    return "–" if value is None else number(value) if isinstance(value, float) else str(value)


def _count(con: duckdb.DuckDBPyConnection) -> Markup:
    runs, done = con.execute("SELECT count(*), count(*) FILTER (status = 'done') FROM run").fetchall()[0]
    return Markup('From the warehouse as it stood with <a href="runs.html">{} runs</a>, {} of them finished.').format(runs, done)
