"""Killed at any commit or file move, the next ingest continues to the same content."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from warehouse import store
from warehouse.check import check

pytestmark = pytest.mark.slow

TIMES = {"started_at", "finished_at", "failed_at", "applied_at", "attempt", "seconds"}
ROOT = Path(__file__).parent.parent


def content(path, leave_out=None, runs="true"):
    """Every table, as sorted rows without timestamps, and without the columns to leave out by table; of tables with runs, what is of these. Left out is
    file_hash, which says when files were seen."""
    with duckdb.connect(str(path), read_only=True) as con:
        tables = [
            name for (name,) in con.execute("SELECT table_name FROM duckdb_tables() WHERE table_name <> 'file_hash' ORDER BY 1").fetchall()
        ]
        result = {}
        for table in tables:
            columns = [name for (name,) in con.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [table]).fetchall()]
            kept = ", ".join(f'"{column}"' for column in columns if column not in (*TIMES, *(leave_out or {}).get(table, ())))
            where = f"WHERE run_id IN (SELECT run_id FROM run WHERE {runs})" if "run_id" in columns else ""
            result[table] = con.execute(f"SELECT {kept} FROM {table} {where} ORDER BY ALL").fetchall()
    return result


def test_killed_anywhere_and_resumed_the_warehouse_is_that_of_an_uninterrupted_run(tmp_path):
    done = subprocess.run([sys.executable, "-m", "tests.kill_points", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    points = int(done.stdout)
    assert points >= 20
    expected = content(tmp_path / "whole" / "w.duckdb")
    assert len(expected["clip"]) == 30
    assert [row[1:3] for row in expected["failure"]] == [("clips", "low/broken.wav")] + [
        ("probes", f"{layer}, k = {k}") for layer in ("bands", "logits") for k in (100, 50)
    ]
    assert len(expected["top_clip"]) == 2 * 2 * 27 * 5
    assert all(expected[table] for table in ("probe", "cluster", "cluster_member", "ccav", "cluster_clip", "readout", "intervention"))
    compare(tmp_path, points)


def test_killed_while_parts_are_moved_the_matrices_are_those_of_an_uninterrupted_run(tmp_path):
    done = subprocess.run([sys.executable, "-m", "tests.kill_points", str(tmp_path), "parts"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(content(tmp_path / "whole" / "w.duckdb")["activation_part"]) == 2 * 2 * 2
    compare(tmp_path, int(done.stdout))


def compare(folder, points):
    """Every warehouse that was killed with that which was not."""
    expected, files = content(folder / "whole" / "w.duckdb"), matrices(folder / "whole")
    for point in range(1, points + 1):
        found = content(folder / str(point) / "w.duckdb")
        for table, rows in expected.items():
            assert found[table] == rows, f"table {table} after a kill at point {point}"
        assert matrices(folder / str(point)) == files
        assert not [path for path in (folder / str(point)).rglob("*") if path.suffix in (".tmp", ".wal") or path.name.startswith("segment")]
        assert list(check(folder / str(point) / "w.duckdb")) == []


def matrices(folder):
    """Hashes of files."""
    return {path.relative_to(folder): store.sha256_file(path) for path in folder.rglob("*.npy")}
