"""Opening, creating, migrating, writing a warehouse."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest

from ingest.sounds.readers import read_dataset
from ingest.stages.clips import ingest_clips
from tests.small import write_sounds
from warehouse import ledger, store
from warehouse.check import check
from warehouse.store import UserError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path):
    store.create(tmp_path / "w.duckdb")
    return tmp_path / "w.duckdb"


def child(code, *arguments):
    """A Python process of the same environment."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_every_table_view_and_column_has_a_comment_and_every_table_a_key(path):
    with store.connect_readonly(path) as con:
        assert con.execute("SELECT table_name FROM duckdb_tables() WHERE comment IS NULL").fetchall() == []
        keys = "SELECT table_name FROM duckdb_constraints() WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE')"
        assert con.execute(f"SELECT table_name FROM duckdb_tables() WHERE table_name NOT IN ({keys})").fetchall() == []
        assert con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL").fetchall() == []
        assert (
            con.execute(
                "SELECT table_name, column_name FROM duckdb_columns() JOIN duckdb_tables() USING (table_name) WHERE duckdb_columns.comment IS NULL"
            ).fetchall()
            == []
        )


def test_the_file_is_in_a_storage_version_that_duckdb_1_4_reads(path):
    with duckdb.connect(str(path), read_only=True) as con:
        tags = con.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'w'").fetchone()[0]
    assert re.match(r"v1\.4", tags["storage_version"])


def test_a_newer_schema_is_refused_in_one_line(path):
    with duckdb.connect(str(path)) as con:
        con.execute("INSERT INTO schema_version VALUES (99, now(), '9.9')")
    for attempt in (lambda: store.connect_readonly(path), lambda: store.writer(path).__enter__()):
        with pytest.raises(UserError, match=r"has schema version 99, this Auricle knows up to \d+: install a newer Auricle$"):
            attempt()


def test_files_that_are_no_warehouse_are_refused(tmp_path):
    with pytest.raises(UserError, match="no warehouse at"):
        store.connect_readonly(tmp_path / "none.duckdb")
    (tmp_path / "text.duckdb").write_text("hello " * 1000)
    with pytest.raises(UserError, match="cannot open"):
        store.connect_readonly(tmp_path / "text.duckdb")
    with duckdb.connect(str(tmp_path / "words.duckdb")) as con:
        con.execute("CREATE TABLE schema_version AS SELECT 'x' AS version")
    with pytest.raises(UserError, match="not an Auricle warehouse"):
        store.connect_readonly(tmp_path / "words.duckdb")
    duckdb.connect(str(tmp_path / "other.duckdb")).close()
    for attempt in (lambda: store.connect_readonly(tmp_path / "other.duckdb"), lambda: store.writer(tmp_path / "other.duckdb").__enter__()):
        with pytest.raises(UserError, match="not an Auricle warehouse"):
            attempt()


def test_an_older_warehouse_is_migrated_step_by_step_and_each_step_is_recorded(path, monkeypatch):
    now = store.SCHEMA_VERSION
    text = store.schema_sql()
    monkeypatch.setattr(store, "SCHEMA_VERSION", now + 2)
    steps = [f"{text}\n-- Since version {now + 1}: one.\nCREATE TABLE extra (n INTEGER);\n-- Since version {now + 2}: two.\n{last}"
             for last in ("INSERT INTO extra VALUES (7); SELECT error('no')", "INSERT INTO extra VALUES (7);")]  # fmt: skip
    monkeypatch.setattr(store, "schema_sql", lambda: steps[0])
    with pytest.raises(UserError, match=f"schema version {now}, this Auricle reads {now + 2}"):
        store.connect_readonly(path)
    with pytest.raises(duckdb.Error), store.writer(path):
        pass
    with duckdb.connect(str(path), read_only=True) as con:  # the first step stands, the second left nothing
        assert con.execute("SELECT max(version), (SELECT count(*) FROM extra) FROM schema_version").fetchone() == (now + 1, 0)
    monkeypatch.setattr(store, "schema_sql", lambda: steps[1])
    with store.writer(path):
        pass
    with store.connect_readonly(path) as con:
        assert con.execute("SELECT list(version ORDER BY version), (SELECT n FROM extra) FROM schema_version").fetchone() == (
            [now, now + 1, now + 2],
            7,
        )


def test_a_second_writer_is_told_who_the_first_is(path):
    with store.writer(path, "auricle ingest x"):
        code = (
            "import sys; from pathlib import Path; from warehouse import store\n"
            "try:\n with store.writer(Path(sys.argv[1])): pass\nexcept store.UserError as e: print(e)"
        )
        text = child(code, path).communicate()[0]
    assert re.search(
        rf"is being written by process {os.getpid()} \(auricle ingest x, since .*\): wait for it to end, or stop it$", text.strip()
    )
    with store.writer(path):
        pass


def test_a_writer_killed_does_not_leave_the_warehouse_locked(path):
    process = child(
        "import sys, os; from pathlib import Path; from warehouse import store\nwith store.writer(Path(sys.argv[1])): os.kill(os.getpid(), 9)",
        path,
    )
    assert process.wait() == -9
    with store.writer(path):
        pass


def test_a_reader_waits_for_a_commit_and_gives_up_naming_the_holder(path):
    code = "import sys, time, duckdb; con = duckdb.connect(sys.argv[1]); print('open', flush=True); time.sleep(float(sys.argv[2]))"
    process = child(code, path, 1.0)
    process.stdout.readline()
    start = time.monotonic()
    store.connect_readonly(path).close()
    assert 0.2 < time.monotonic() - start < 10
    process = child(code, path, 3.0)
    process.stdout.readline()
    with pytest.raises(UserError, match=rf"in use for 0 s by .*PID {process.pid}\)"):
        store.connect_readonly(path, patience_s=0.3)
    process.kill()


def test_a_transaction_that_fails_leaves_nothing(path):
    def fail():
        with store.transaction(path) as con:
            con.execute("INSERT INTO schema_version VALUES (50, now(), 'x')")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with store.connect_readonly(path) as con:
        assert con.execute("SELECT count(*) FROM schema_version").fetchone() == (1,)


def test_payload_units_and_failures_commit_together(path):
    run = ledger.begin(path, "clips", parameters={"dataset": "a"}, code_version=1)
    with run.commit(["one", "two"], [("two", "bad")]) as con:
        con.execute("INSERT INTO dataset VALUES (1, ?, 'a', 1, 'folder', '/a', 'x', NULL)", [run.run_id])
    assert run.done() == {"one", "two"}
    assert run.failures() == 1

    def twice():
        with run.commit(["three", "one"]) as con:
            con.execute("INSERT INTO label_set VALUES (1, 1, 'l')")

    with pytest.raises(duckdb.ConstraintException):
        twice()
    with store.connect_readonly(path) as con:
        assert con.execute("SELECT count(*) FROM label_set").fetchone() == (0,)
    assert run.done() == {"one", "two"}


def committed(path):
    """Captions and units of work that another process would see."""
    with duckdb.connect(str(path), read_only=True) as con:
        return [con.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("caption", "work_unit", "failure")]


def test_gathered_units_commit_together_by_time_and_size_and_what_was_done_before_an_error(path, monkeypatch):
    run = ledger.begin(path, "captions", parameters={}, code_version=1)

    def record(gathering, clip, failures=()):
        gathering.record([f"clip {clip}"], {"caption": pl.DataFrame({"clip_id": [clip], "text": ["a dog"], "raw": ["a dog"]})}, failures)

    with run.gathered() as gathering:
        assert list(gathering.pending({"clip 1": 1}, lambda done, total: None)) == [("clip 1", 1)]
        record(gathering, 1)
        record(gathering, 2, [("clip 2", "half of it")])
        assert committed(path) == [0, 0, 0]
    assert committed(path) == [2, 2, 1]

    def fails():
        with run.gathered() as gathering:
            record(gathering, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert committed(path) == [3, 3, 1]
    monkeypatch.setattr(ledger, "GATHER_S", 0)
    with run.gathered() as gathering:
        record(gathering, 4)
        assert committed(path) == [4, 4, 1]
    monkeypatch.setattr(ledger, "GATHER_S", 1000)
    monkeypatch.setattr(ledger, "GATHER_BYTES", 40)
    with run.gathered() as gathering:
        record(gathering, 5)
        assert committed(path) == [4, 4, 1]
        record(gathering, 6)
        record(gathering, 7)
        assert committed(path)[0] > 5
    assert run.done() == {f"clip {number}" for number in range(1, 8)}


def test_gathered_units_are_there_whole_or_not_at_all(path):
    """Two units of one transaction, of which the second cannot be: neither is there, and neither counts as done."""
    run = ledger.begin(path, "captions", parameters={}, code_version=1)
    row = pl.DataFrame({"clip_id": [1], "text": ["a dog"], "raw": ["a dog"]})

    def twice():
        with run.gathered() as gathering:
            gathering.record(["clip 1"], {"caption": row})
            gathering.record(["again"], {"caption": row})

    with pytest.raises(duckdb.ConstraintException):
        twice()
    assert committed(path) == [0, 0, 0]


def test_the_same_work_is_the_same_run_and_a_difference_is_named(path):
    first = ledger.begin(path, "clips", parameters={"dataset": "a", "k": 1}, code_version=1, dataset_sha256="x")
    assert ledger.begin(path, "clips", parameters={"k": 1, "dataset": "a"}, code_version=1, dataset_sha256="x").run_id == first.run_id
    assert first.why is None
    assert ledger.begin(path, "clips", parameters={"dataset": "b", "k": 1}, code_version=1, dataset_sha256="x").why is None
    other = ledger.begin(path, "clips", parameters={"dataset": "a", "k": 2}, code_version=2, dataset_sha256="y")
    assert other.why == "not run 1 again: k was 1, is 2; the data set's content changed; the stage's code went from version 1 to 2"


def test_every_warehouse_of_a_folder_has_its_own_folder_of_activations(tmp_path):
    names = (
        "w.duckdb",
        "w.v1.duckdb",
        "w.v2.duckdb",
        "w.v1",
        "w.v2",
        "w",
        "w.db",
        "w.activations.duckdb",
        "w-activations.duckdb",
        "w.duckdb.db",
    )
    folders = [store.activation_folder(tmp_path / name).name for name in names]
    assert folders[0] == "w.activations"
    assert len(set(folders)) == len(names)
    assert not set(folders) & set(names)


def test_a_run_goes_on_where_it_began(tmp_path):
    begun = tmp_path / "w.activations" / "run-0003"
    begun.mkdir(parents=True)
    assert store.run_folder(tmp_path / "w.v2", 3, continued=True) == begun
    assert store.run_folder(tmp_path / "w.v2", 3, continued=False) == tmp_path / "w.v2-activations" / "run-0003"
    (tmp_path / "w.v2-activations" / "run-0003").mkdir(parents=True)
    assert store.run_folder(tmp_path / "w.v2", 3, continued=True) == tmp_path / "w.v2-activations" / "run-0003"


def test_check_finds_what_is_wrong(path):
    assert list(check(path)) == []
    run = ledger.begin(path, "activations", parameters={}, code_version=1)
    frame = pl.DataFrame(
        {"run_id": [run.run_id, 77], "neuron_id": [5, 6], "rank": [1, 1], "neighbor_id": [6, 5], "correlation": [0.5, 0.5]}
    )
    with store.transaction(path) as con:
        con.register("frame", frame)
        con.execute("INSERT INTO neighbor BY NAME SELECT * FROM frame")
    faults = list(check(path))
    assert "1 rows of neighbor have a run_id that is not in run" in faults
    assert "2 rows of neighbor have a neuron_id that is not in neuron" in faults
    assert "2 rows of neighbor have a neighbor_id that is not in neuron" in faults


def test_a_forked_process_commits_too(tmp_path):
    """DuckDB's threads do not survive a fork, so a child must not use the instance that its parent committed with."""
    path = tmp_path / "w.duckdb"
    store.create(path)
    insert = "INSERT INTO schema_version VALUES (?, now(), 'test')"
    with store.transaction(path) as con:
        con.execute(insert, [-3])
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            with store.transaction(path) as con:
                con.execute(insert, [-2])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with store.transaction(path) as con:
        con.execute(insert, [-1])
    with store.connect_readonly(path) as con:
        assert con.execute("SELECT version FROM schema_version WHERE version < 0 ORDER BY 1").fetchall() == [(-3,), (-2,), (-1,)]


def test_what_is_committed_stays_when_the_disk_is_too_full_for_a_checkpoint(tmp_path):
    path = tmp_path / "w.duckdb"
    store.create(path)
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size,) * 2)
            for version in (-2, -1):
                with store.transaction(path) as con:
                    con.execute("INSERT INTO schema_version VALUES (?, now(), 'test')", [version])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert path.with_name("w.duckdb.wal").exists()
    with store.transaction(path) as con:
        assert con.execute("SELECT version FROM schema_version WHERE version < 0 ORDER BY 1").fetchall() == [(-2,), (-1,)]
    assert not path.with_name("w.duckdb.wal").exists()


def test_after_a_failed_transaction_nothing_is_held(tmp_path):
    path = tmp_path / "w.duckdb"
    store.create(path)
    with contextlib.suppress(KeyboardInterrupt), store.transaction(path) as con:
        con.execute("DELETE FROM schema_version")
        raise KeyboardInterrupt
    with store.connect_readonly(path) as con:
        assert con.execute("SELECT count(*) FROM schema_version").fetchone() == (1,)
    with store.transaction(path) as con:
        con.execute("UPDATE schema_version SET auricle_version = 'x'")
    assert not path.with_name("w.duckdb.wal").exists()


@pytest.mark.outside
def test_duckdb_1_4_reads_what_a_run_wrote(tmp_path):
    """Browsers' builds and many clients are behind: the previous long-term version must open the file."""
    old = tmp_path / "old"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(old), "duckdb==1.4.4"]
    if (done := subprocess.run(install, capture_output=True, text=True)).returncode:
        pytest.skip(f"DuckDB 1.4.4 cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    listing = read_dataset("folder", write_sounds(tmp_path / "sounds", 6), "sounds")
    with store.writer(tmp_path / "w.duckdb"):
        ingest_clips(tmp_path / "w.duckdb", listing)
    code = (
        "import duckdb, sys; assert duckdb.__version__ == '1.4.4'; con = duckdb.connect(sys.argv[1], read_only=True)\n"
        "print(con.execute('SELECT count(*), sum(duration_s) FROM clip').fetchone(), con.execute('SELECT count(*) FROM v_activation_run').fetchone())"
    )
    environment = {**os.environ, "PYTHONPATH": str(old)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w.duckdb")], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stdout.strip() == "(6, 4.75) (0,)", done.stderr


def test_a_migrated_warehouse_has_the_schema_of_a_new_one(tmp_path, monkeypatch):
    def tables(path):
        with duckdb.connect(str(path), read_only=True) as con:
            return con.execute(
                "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
            ).fetchall()

    store.create(tmp_path / "new.duckdb")
    text, now = store.schema_sql(), store.SCHEMA_VERSION
    with monkeypatch.context() as old:
        old.setattr(store, "SCHEMA_VERSION", 1)
        old.setattr(store, "schema_sql", lambda: text.partition("-- Since version 2")[0])
        store.create(tmp_path / "old.duckdb")
    assert tables(tmp_path / "old.duckdb") != tables(tmp_path / "new.duckdb")
    with store.writer(tmp_path / "old.duckdb"):
        pass
    assert tables(tmp_path / "old.duckdb") == tables(tmp_path / "new.duckdb")
    with store.connect_readonly(tmp_path / "old.duckdb") as con:
        assert con.execute("SELECT max(version) FROM schema_version").fetchone() == (now,)
