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

from ingest import stages
from ingest.run import run_study
from ingest.stages import clips
from ingest.stages.extraction import segments
from ingest.study import read_study
from report.site import build
from tests.small import Lines, write_label_map, write_sounds
from tests.test_resume import content
from warehouse.check import check

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
BEFORE = HERE / "before"
STUDIES = ("study.toml", "positions.toml")
ROUNDED = 3e-5
"""How far scores of concepts may be from those of before: the cosines were of float32 embeddings, off by up to 1.5e-7, and DB multiplies them by 100."""
ELSEWHERE = {"run": ("package_versions", "git_revision"), "dataset": ("source",), "schema_version": ("auricle_version",)}
"""Columns that say where and when a run was made, not what it found."""
REDONE = ("descriptions", "scores", "dissections", "polysemanticity", "ablations")
"""Stages whose results changed since: equal clips are drawn, and neurons below 0 take part; clouds of words; other words name classes and count."""
ADDED = {"clip": ("mean_amplitude",), "sentence_cluster": ("captions",), "description_score": ("p_value", "correlation")}
"""Columns that came since."""
CHANGED = {
    "schema_version", "run", "work_unit", "failure", "summary_point", "concept", "description_score", "description_test", "range_clip",
    "closed_concept", "polysemanticity",
    "sentence_cluster", "sentence_cluster_word", "meaning", "meaning_clip", "meaning_count", "importance", "importance_answer", "unlearning",
    "unlearning_effect",
}  # fmt: skip
"""Tables that these stages, and the migration, add to."""

MIGRATED = "schema_version"
"""A row for each version that a warehouse was migrated to."""


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


@pytest.fixture(scope="module")
def several_segments():
    """As many segments as the earlier warehouse has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "BATCH", 13)
        patch.setattr(segments, "SEGMENT_CLIPS", 12)
        yield


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


def settled(warehouse):
    """Give the runs made now the time and surroundings of the first, which pages show."""
    with duckdb.connect(str(warehouse)) as con:
        con.execute(
            """UPDATE run SET started_at = one.started_at, finished_at = one.finished_at, package_versions = one.package_versions,
               git_revision = one.git_revision, device = one.device FROM (SELECT * FROM run WHERE run_id = 1) AS one WHERE run.stage IN ?""",
            [list(REDONE)],
        )


def pages(site):
    """The beginning of the SHA-256 of every page, by address."""
    files = [path for path in sorted(site.rglob("*")) if path.suffix == ".html" or path.name == "search.js"]
    return {path.relative_to(site).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


@pytest.fixture(scope="module")
def before(tmp_path_factory, minilm_folder, several_segments):
    return unpacked(tmp_path_factory.mktemp("before"))


def test_a_warehouse_made_before_is_continued_and_its_site_left_as_it_was(before):
    found = content(before / "w.duckdb")
    said = ingest(before, before / "w.duckdb")
    titles = tuple(stages.load(stage).TITLE.format(network="small", dataset="sounds") for stage in REDONE)
    redone = [line for line in said if line.startswith(titles)]
    assert len(said) - len(redone) == 18 - len(REDONE)
    assert [line for line in said if line not in redone and "nothing to do" not in line] == []
    assert [line.partition(": not run ")[0] for line in redone if ": not run " in line] == list(titles)  # and says why
    whole = content(before / "w.duckdb")
    assert {table for table, rows in whole.items() if len(rows) != len(found.get(table, ()))} == CHANGED
    now = content(before / "w.duckdb", ADDED, runs=f"run_id <= {max(row[0] for row in found['run'])}")
    assert len(now.pop("schema_version")) >= len(found.pop("schema_version"))
    assert {table: len(rows) for table, rows in now.items()} == {table: len(found.get(table, ())) for table in now}
    assert [table for table in found if table != "dataset" and now[table] != found[table]] == []
    assert list(check(before / "w.duckdb")) == []
    settled(before / "w.duckdb")
    build(before / "w.duckdb", before / "site")
    expected, made = json.loads((BEFORE / "pages.json").read_text()), pages(before / "site")
    assert made.keys() == expected.keys()
    assert [page for page in expected if made[page] != expected[page]] == []


@pytest.mark.parametrize(
    "of", [f"stage NOT IN {REDONE}", f"run_id IN (SELECT max(run_id) FROM run WHERE stage IN {REDONE} GROUP BY stage)"]
)
def test_a_new_run_has_the_content_of_the_one_before(before, of):
    study = before / "study.toml"
    # Then the default; a study that says nothing has shares recorded for specificity by now.
    if "shares = false" not in study.read_text():
        study.write_text(study.read_text().replace("[activations]\n", "[activations]\nshares = false\n"))
    ingest(before, before / "w.duckdb")
    ingest(before, before / "new" / "w.duckdb")
    elsewhere = ELSEWHERE | ADDED
    if "max" in of:  # numbered otherwise, and the runs that they are of, too
        elsewhere |= {table: ("run_id", *elsewhere.get(table, ())) for table in content(before / "w.duckdb")}
    old, new = (content(warehouse, leave_out=elsewhere, runs=of) for warehouse in (before / "w.duckdb", before / "new" / "w.duckdb"))
    assert old.keys() == new.keys()
    del old[MIGRATED], new[MIGRATED], old["segment"], new["segment"]  # earlier versions did not say who measured segments
    renamed = ([value.replace("shard ", "segment ") if isinstance(value, str) else value for value in row] for row in old["work_unit"])
    old["work_unit"] = sorted(map(tuple, renamed))
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
        settled(place / "w.duckdb")
        build(place / "w.duckdb", place / "site")
        (BEFORE / "pages.json").write_text(json.dumps(pages(place / "site"), indent=0) + "\n")
