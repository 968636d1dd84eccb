"""What a warehouse holds, and whether it is sound: references, counts, ledger and activation files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from warehouse import matrices, store

COUNTS = {
    "{n} neurons of finished runs lack a row in activation_summary": """
        SELECT count(*) FROM (
            SELECT run_id, neuron_id, reduction FROM activation_file JOIN neuron USING (layer_id) JOIN run USING (run_id) WHERE status = 'done'
            EXCEPT SELECT run_id, neuron_id, reduction FROM activation_summary)""",
    "{n} rows of activation_summary belong to no activation file": """
        SELECT count(*) FROM (
            SELECT DISTINCT run_id, neuron_id, reduction FROM activation_summary
            EXCEPT SELECT run_id, neuron_id, reduction FROM activation_file JOIN neuron USING (layer_id))""",
    "{n} activation files differ from activation_clip in their number of clips": """
        SELECT count(*) FROM activation_file
        WHERE clips <> (SELECT count(*) FROM activation_clip WHERE activation_clip.run_id = activation_file.run_id)""",
    "{n} activation files differ from their layer in their number of neurons": """
        SELECT count(*) FROM activation_file
        WHERE neurons <> (SELECT count(*) FROM neuron WHERE neuron.layer_id = activation_file.layer_id)""",
    "{n} clusters differ from cluster_member in their number of neurons": """
        SELECT count(*) FROM cluster WHERE neurons <> (SELECT count(*) FROM cluster_member WHERE cluster_member.cluster_id = cluster.cluster_id)""",
    "{n} rankings in top_clip have gaps or clips twice": """
        SELECT count(*) FROM (
            SELECT max(rank) AS last, count(*) AS n, count(DISTINCT clip_id) AS clips FROM top_clip GROUP BY run_id, neuron_id, reduction, side)
        WHERE last <> n OR clips <> n""",
    "{n} finished runs of stage clips have files that are neither a clip nor a failure": """
        SELECT count(*) FROM run WHERE stage = 'clips' AND status = 'done' AND
            (SELECT count(*) FROM work_unit WHERE work_unit.run_id = run.run_id AND item <> '/listing') <>
            (SELECT count(*) FROM clip JOIN dataset USING (dataset_id) WHERE dataset.run_id = run.run_id) +
            (SELECT count(*) FROM failure JOIN work_unit USING (run_id, stage, item) WHERE failure.run_id = run.run_id)""",
}
SELF_REFERENCES = {
    "neighbor_id": "neuron",
    "first_class_id": "class",
    "second_class_id": "class",
    "told_class_id": "class",
    "parent_id": "cluster",
    "description_run_id": "run",
    "read_class_id": "class",
}


@dataclass(frozen=True)
class Holdings:
    """What a warehouse holds: in a line, and its runs as rows under `headers`."""

    summary: str
    headers: list[str]
    runs: list[tuple]


def holdings(path: Path) -> Holdings:
    """Data sets, networks, runs, failures and bytes."""
    with store.connect_readonly(path) as con:
        runs = con.execute(
            """SELECT run_id, stage, coalesce(parameters::JSON ->> 'network', '') AS network, parameters::JSON ->> 'dataset' AS dataset,
                      CASE status WHEN 'done' THEN 'done' ELSE 'interrupted or running' END AS state,
                      (SELECT count(*) FROM failure WHERE failure.run_id = run.run_id) AS failures,
                      strftime(started_at, '%Y-%m-%d %H:%M') AS started, device
               FROM run ORDER BY run_id"""
        )
        headers = [column[0] for column in runs.description]
        rows = runs.fetchall()
        [counts] = con.execute(
            "SELECT (SELECT count(*) FROM dataset), (SELECT count(*) FROM clip), (SELECT count(*) FROM network), (SELECT count(*) FROM neuron)"
        ).fetchall()
        files = con.execute("SELECT path FROM activation_file UNION ALL SELECT path FROM prediction_file").fetchall()
    found = [path, *(file for (name,) in files for file in matrices.files_of(path.parent / name))]
    size = sum(file.stat().st_size for file in found if file.is_file())
    return Holdings("{} data sets, {} clips, {} networks, {} neurons, {:.0f} MB".format(*counts, size / 1e6), headers, rows)


def check(path: Path, progress: Callable[[int, int], None] | None = None) -> Iterator[str]:
    """Yield a line for each fault found; none means that the warehouse is sound. Reads every activation file once."""
    with store.connect_readonly(path) as con:
        yield from _references(con)
        for text, query in COUNTS.items():
            row = con.execute(query).fetchone()
            if row and row[0]:
                yield text.format(n=row[0])
        parts: dict[str, list[tuple[str, str]]] = {}
        for name, column, sha256 in con.execute(
            """SELECT path, first_column, activation_part.sha256 FROM activation_part JOIN activation_file USING (run_id, layer_id, reduction)
            ORDER BY ALL"""
        ).fetchall():
            parts.setdefault(name, []).append((f"{name}/{matrices.part_name(column)}", sha256))
        files = con.execute(
            """SELECT path, neurons, clips, dtype, sha256 FROM activation_file
            UNION ALL SELECT path, neurons, clips, dtype, sha256 FROM prediction_file ORDER BY path"""
        ).fetchall()
    for number, (name, neurons, clips, dtype, sha256) in enumerate(files):
        those = parts.get(name, [(name, sha256)])
        faults = [f"activation file {its} {fault}" for its, known in those if (fault := _fault(path.parent / its, known))]
        if not faults and name in parts and matrices.joint_sha256(known for _, known in those) != sha256:
            faults = [f"activation file {name} is registered with other parts than those in activation_part"]
        if not faults:
            try:
                array = matrices.open_matrix(path.parent / name)
                if array.shape != (neurons, clips) or str(array.dtype) != dtype:
                    faults = [f"activation file {name} is {array.dtype} {array.shape}, registered as {dtype} {(neurons, clips)}"]
            except ValueError as error:
                faults = [f"activation file {name} cannot be read: {error}"]
        yield from faults
        if progress:
            progress(number + 1, len(files))


def _fault(file: Path, sha256: str) -> str | None:
    if not file.is_file():
        return "is missing"
    return None if store.sha256_file(file) == sha256 else "was changed after it was written"


def _references(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """A column NAME_id refers to table NAME wherever that table exists."""
    columns = con.execute(
        "SELECT table_name, column_name FROM duckdb_columns() JOIN duckdb_tables() USING (table_name) WHERE column_name LIKE '%\\_id' ESCAPE '\\' ORDER BY ALL"
    ).fetchall()
    tables = {table for table, _ in columns} | {"run"}
    for table, column in columns:
        target = SELF_REFERENCES.get(column, column.removesuffix("_id"))
        if target == table or target not in tables:
            continue
        row = con.execute(
            f'SELECT count(*) FROM "{table}" WHERE "{column}" IS NOT NULL AND "{column}" NOT IN (SELECT "{target}_id" FROM "{target}")'
        ).fetchone()
        if row and row[0]:
            yield f"{row[0]} rows of {table} have a {column} that is not in {target}"
