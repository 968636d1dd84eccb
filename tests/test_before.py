"""A warehouse of an earlier revision is continued without computing anything, its site is left as it is, and a new run has the same content.

python -m tests.test_before makes before/pages.json anew from the earlier warehouse, for a change that means to change pages.
"""

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import duckdb
import pytest

from ingest.run import run_study
from ingest.study import read_study
from report.site import build
from tests.kill_points import Silent
from tests.small import write_label_map, write_sounds
from tests.test_resume import content
from warehouse.check import check

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
BEFORE = HERE / "before"
STUDIES = ("study.toml", "positions.toml")
ELSEWHERE = {"run": ("packages", "git_revision"), "dataset": ("source",), "schema_version": ("auricle_version",)}
"""Columns that say where and when a run was made, not what it found."""


AGAIN = ("scores", "ablations")
"""Stages whose results have changed since: they are done again and say why, and the earlier run stays beside."""
CHANGED = {"schema_version", "run", "work_unit", "failure", "description_score", "importance", "importance_answer", "unlearning"}
"""Tables that this, and the migration, adds to."""


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


def unpacked(folder):
    """The sounds, the studies and the earlier warehouse in a folder."""
    write_sounds(folder / "sounds")
    (folder / "sounds" / "low" / "broken.wav").write_text("not sound")
    write_label_map(folder / "map.csv")
    for name in STUDIES:
        shutil.copy(BEFORE / name, folder)
    with tarfile.open(BEFORE / "warehouse.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def ingest(folder, warehouse):
    """Run the studies, whose network files are named relative to this folder; returns what was said."""
    lines, here = Lines(), os.getcwd()
    os.chdir(HERE)
    try:
        for name in STUDIES:
            run_study(warehouse, read_study(folder / name), lines)
    finally:
        os.chdir(here)
    return lines.said


def dated_as_before(warehouse):
    """Give runs that were done again the time and surroundings of the earlier, which pages show."""
    with duckdb.connect(str(warehouse)) as con:
        con.execute(
            """UPDATE run SET started_at = one.started_at, finished_at = one.finished_at, package_versions = one.package_versions,
            git_revision = one.git_revision FROM run AS one WHERE one.stage = run.stage AND one.run_id < run.run_id AND list_contains(?, run.stage)""",
            [list(AGAIN)],
        )


def without_the_earlier(warehouse, copy):
    """Write the tables of a warehouse without the earlier runs of what was done again; the later ones get their numbers."""
    with duckdb.connect(str(copy)) as con:
        con.execute(f"ATTACH '{warehouse}' AS whole (READ_ONLY)")
        numbers = con.execute(
            "SELECT min(run_id), max(run_id) FROM whole.run WHERE list_contains(?, stage) GROUP BY stage HAVING count(*) > 1", [list(AGAIN)]
        ).fetchall()
        earlier, number = [one for one, _ in numbers], "run_id " + " ".join(f"WHEN {later} THEN {one}" for one, later in numbers)
        of_runs = "table_name IN (SELECT table_name FROM duckdb_columns() WHERE database_name = 'whole' AND column_name = 'run_id')"
        for table, has_run in con.execute(f"SELECT table_name, {of_runs} FROM duckdb_tables() WHERE database_name = 'whole'").fetchall():
            kept = f"* REPLACE (CASE {number} ELSE run_id END AS run_id)" if has_run else "*"
            where = f"WHERE run_id IS NULL OR NOT list_contains({earlier}, run_id)" if has_run else ""
            con.execute(f"CREATE TABLE {table} AS SELECT {kept} FROM whole.{table} {where}")
    return copy


def pages(site):
    """The beginning of the SHA-256 of every page, by address."""
    files = [path for path in sorted(site.rglob("*")) if path.suffix == ".html" or path.name == "search.js"]
    return {path.relative_to(site).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


@pytest.fixture(scope="module")
def before(tmp_path_factory, minilm_folder):
    return unpacked(tmp_path_factory.mktemp("before"))


def test_a_warehouse_made_before_is_continued_and_its_site_left_as_it_was(before):
    found = content(before / "w.duckdb")
    said = ingest(before, before / "w.duckdb")
    assert len([line for line in said if "nothing to do" in line]) == 18 - len(AGAIN)
    assert [line for line in said if "nothing to do" not in line and not line.startswith(AGAIN)] == []
    now = content(before / "w.duckdb")
    assert {table for table in now if now[table] != found.get(table, [])} - {"dataset"} == CHANGED
    assert [table for table in CHANGED & found.keys() if len(now[table]) < len(found[table])] == []
    assert list(check(before / "w.duckdb")) == []
    dated_as_before(before / "w.duckdb")
    build(before / "w.duckdb", before / "site")
    expected, made = json.loads((BEFORE / "pages.json").read_text()), pages(before / "site")
    assert made.keys() == expected.keys()
    assert [page for page in expected if made[page] != expected[page]] == []


def test_a_new_run_has_the_content_of_the_one_before(before):
    ingest(before, before / "new" / "w.duckdb")
    old, new = (
        content(without_the_earlier(before / "w.duckdb", before / "later.duckdb"), leave_out=ELSEWHERE),
        content(before / "new" / "w.duckdb", leave_out=ELSEWHERE),
    )
    assert old.keys() == new.keys()
    for table, rows in old.items():
        if table == "schema_version":  # has a row for every migration
            continue
        assert len(new[table]) == len(rows), table
        for row, other in zip(rows, new[table], strict=True):
            assert [value for value in other if not isinstance(value, float)] == [value for value in row if not isinstance(value, float)], (
                table
            )
            assert [value for value in other if isinstance(value, float)] == pytest.approx(
                [value for value in row if isinstance(value, float)], rel=1e-5, abs=1e-6
            ), table


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = unpacked(Path(folder))
        ingest(place, place / "w.duckdb")
        dated_as_before(place / "w.duckdb")
        build(place / "w.duckdb", place / "site")
        (BEFORE / "pages.json").write_text(json.dumps(pages(place / "site"), indent=0) + "\n")
