"""Pages about the warehouse itself: its runs, its schema, and the SQL cookbook with real results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import jinja2
from markupsafe import Markup

from report.addresses import slugs
from report.svg import number
from warehouse.store import schema_sql

COOKBOOK = Path(__file__).parent / "cookbook.sql"
FAILURES = 500
RECIPE_ROWS = 20
NUMERIC = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "NUMBER"}


def recipes() -> list[tuple[str, str]]:
    """The cookbook's queries as (question, SQL)."""
    parts = re.split(r"^-- (?=.*\?$)", COOKBOOK.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return [(title.strip(), sql.strip()) for title, _, sql in (part.partition("\n") for part in parts)]


def footers(con: duckdb.DuckDBPyConnection, depth: int) -> dict[int, Markup]:
    """Each run in a line, with a link to its entry, for pages `depth` folders below the root."""
    return {
        run["run_id"]: Markup('From <a href="{}runs.html#run-{}">run {}</a>, stage {}: {}, on {}; {}; {}.').format(
            "../" * depth,
            run["run_id"],
            run["run_id"],
            run["stage"],
            run["about"],
            run["device"],
            f"finished {_time(run['finished_at'])}" if run["finished_at"] else "not finished",
            run["packages"],
        )
        for run in _runs(con)
    }


def _time(value) -> str:
    return value.strftime("%Y-%m-%d %H:%M UTC") if value else "not finished"


def _runs(con: duckdb.DuckDBPyConnection) -> list[dict]:
    result = con.execute("""
        SELECT run.* REPLACE (make_timestamp(epoch_us(started_at)) AS started_at, make_timestamp(epoch_us(finished_at)) AS finished_at),
            coalesce(d.name || ' version ' || d.version || ' (' || d.content_sha256[:8] || ')', '') AS dataset,
            coalesce(n.name || ' (' || n.checkpoint_sha256[:8] || ')', '') AS network,
            coalesce(u.units, 0) AS units, coalesce(f.failed, 0) AS failed
        FROM run
        LEFT JOIN (SELECT content_sha256 AS sha, min_by(dataset, dataset_id) AS d FROM dataset GROUP BY 1) ON sha = run.dataset_sha256
        LEFT JOIN (SELECT checkpoint_sha256 AS checkpoint, min_by(network, network_id) AS n FROM network GROUP BY 1)
            ON checkpoint = run.network_sha256
        LEFT JOIN (SELECT run_id, count(*) AS units FROM work_unit GROUP BY 1) u ON u.run_id = run.run_id
        LEFT JOIN (SELECT run_id, count(*) AS failed FROM failure GROUP BY 1) f ON f.run_id = run.run_id
        ORDER BY run.run_id DESC""")
    columns = [column[0] for column in result.description]
    runs = [dict(zip(columns, row, strict=True)) for row in result.fetchall()]
    for run in runs:
        run["about"] = " on ".join(filter(None, [run["network"], run["dataset"]]))
        try:
            versions = json.loads(run["package_versions"])
            run["packages"] = ", ".join(f"{name} {version}" for name, version in versions.items())
        except (ValueError, AttributeError):
            run["packages"] = run["package_versions"]
    return runs


def runs_page(con: duckdb.DuckDBPyConnection, template: jinja2.Template) -> Iterator[tuple[str, str]]:
    """All runs with their provenance and failures, latest first."""
    runs = _runs(con)
    for run in runs:
        run["failures"] = con.execute(
            "SELECT item, reason FROM failure WHERE run_id = ? ORDER BY stage, item LIMIT ?", [run["run_id"], FAILURES]
        ).fetchall()
        facts = [("Started", _time(run["started_at"])), ("Finished", _time(run["finished_at"]))]
        if run["finished_at"]:
            facts.append(("Took", f"{(run['finished_at'] - run['started_at']).total_seconds():,.0f} s"))
        facts += [("Device", run["device"]), ("Units of work", f"{run['units']:,}"), ("Failures", f"{run['failed']:,}")]
        facts += [("Code", f"version {run['code_version']}" + (f", git {run['git_revision'][:12]}" if run["git_revision"] else ""))]
        if run["seed"] is not None:
            facts.append(("Seed", run["seed"]))
        run["facts"] = facts
    yield "runs.html", template.render(title="Runs", root="", provenance=_count(con), runs=runs)


def schema_page(con: duckdb.DuckDBPyConnection, template: jinja2.Template) -> Iterator[tuple[str, str]]:
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
    yield "schema.html", template.render(title="Schema", root="", provenance=_count(con), tables=tables)


def cookbook_page(con: duckdb.DuckDBPyConnection, template: jinja2.Template) -> Iterator[tuple[str, str]]:
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
    yield "cookbook.html", template.render(title="SQL cookbook", root="", provenance=_count(con), recipes=found)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return number(value)
    return str(value)


def _count(con: duckdb.DuckDBPyConnection) -> Markup:
    runs, done = con.execute("SELECT count(*), count(*) FILTER (status = 'done') FROM run").fetchall()[0]
    return Markup('From the warehouse as it stood with <a href="runs.html">{} runs</a>, {} of them finished.').format(runs, done)
