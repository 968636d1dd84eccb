"""A warehouse of an earlier revision is continued without computing anything, its site is left as it is, and a new run has the same content.

python -m tests.test_before makes before/pages.json anew from the earlier warehouse, for a change that means to change pages.
"""

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

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
ROUNDED = 3e-5
"""How far scores of concepts may be from those of before: the cosines were of float32 embeddings, off by up to 1.5e-7, and DB multiplies them by 100."""
ELSEWHERE = {"run": ("packages", "git_revision"), "dataset": ("source",), "schema_version": ("auricle_version",)}
"""Columns that say where and when a run was made, not what it found."""


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
    assert len(said) == 18
    assert [line for line in said if "nothing to do" not in line] == []
    now = content(before / "w.duckdb")
    assert {table: len(rows) for table, rows in now.items()} == {table: len(rows) for table, rows in found.items()}
    assert [table for table in found if table != "dataset" and now[table] != found[table]] == []
    assert list(check(before / "w.duckdb")) == []
    build(before / "w.duckdb", before / "site")
    expected, made = json.loads((BEFORE / "pages.json").read_text()), pages(before / "site")
    assert made.keys() == expected.keys()
    assert [page for page in expected if made[page] != expected[page]] == []


def test_a_new_run_has_the_content_of_the_one_before(before):
    ingest(before, before / "new" / "w.duckdb")
    old, new = content(before / "w.duckdb", leave_out=ELSEWHERE), content(before / "new" / "w.duckdb", leave_out=ELSEWHERE)
    assert old.keys() == new.keys()
    for table, rows in old.items():
        assert len(new[table]) == len(rows), table
        for row, other in zip(rows, new[table], strict=True):
            assert [value for value in other if not isinstance(value, float)] == [value for value in row if not isinstance(value, float)], (
                table
            )
            assert [value for value in other if isinstance(value, float)] == pytest.approx(
                [value for value in row if isinstance(value, float)], rel=ROUNDED, abs=1e-6
            ), table


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = unpacked(Path(folder))
        ingest(place, place / "w.duckdb")
        build(place / "w.duckdb", place / "site")
        (BEFORE / "pages.json").write_text(json.dumps(pages(place / "site"), indent=0) + "\n")
