"""The command line: what it prints, how it fails, and that README and help do not drift apart."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from typer.main import get_command

import auricle
from tests.small import write_sounds
from warehouse import store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NETWORK = f"{ROOT / 'tests' / 'small.py'}:small_network"


def run(*arguments, **options):
    """`auricle` as a process."""
    inherited = {key: value for key, value in os.environ.items() if key != "AURICLE_WAREHOUSE"}
    environment = {**inherited, "COLUMNS": "200", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "auricle", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, env=environment, **options
    )


def refused(*arguments, **options):
    """The one line and exit code 2 with which a command is refused."""
    done = run(*arguments, **options)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("auricle: ")
    return lines[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    sounds = write_sounds(folder / "sounds", 12)
    (sounds / "low" / "broken.wav").write_text("not sound")
    done = run("ingest", "--network", NETWORK, "--dataset", "folder", "--source", sounds, "--warehouse", folder / "w.duckdb")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_ingest_counts_failures_says_how_to_list_them_and_does_nothing_twice(made):
    folder, text = made
    assert "clips of sounds: run 1, 13 clips done, 1 failures" in text
    assert "activations of small on sounds: run 2, " in text
    assert '1 failures. List them: auricle query "SELECT stage, item, reason FROM failure"' in text
    command = re.search(r'query "(.*?)"', text)[1]
    assert "low/broken.wav" in run("query", command, "--warehouse", folder / "w.duckdb").stdout
    options = ["ingest", "--network", NETWORK, "--dataset", "folder", "--source", folder / "sounds", "--warehouse", folder / "w.duckdb"]
    again = run(*options)
    assert again.returncode == 0
    assert again.stdout.count("nothing to do") == 2
    assert run(*options, "--strict").returncode == 1


def test_a_study_file_does_the_same_as_flags(made, tmp_path):
    folder, _ = made
    study = tmp_path / "study.toml"
    study.write_text(
        f'stages = ["clips", "activations"]\n[[dataset]]\nreader = "folder"\nsource = "{folder / "sounds"}"\n[[network]]\nname = "{NETWORK}"\n'
    )
    done = run("ingest", study, "--warehouse", folder / "w.duckdb")
    assert done.stdout.count("nothing to do") == 2, done.stderr


def test_a_study_that_is_not_understood_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "study.toml").write_text("[[dataset]]\nreader = 'starter'\nsuorce = 'x'")
    assert "did you mean 'source'?" in refused("ingest", tmp_path / "study.toml", "--warehouse", tmp_path / "w.duckdb")
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


def test_user_errors_are_one_line_and_leave_nothing(tmp_path):
    warehouse = ["--warehouse", tmp_path / "w.duckdb"]
    assert "no warehouse at" in refused("status", *warehouse)
    assert "does not exist" in refused("ingest", "--dataset", "folder", "--source", tmp_path / "none", *warehouse)
    assert "cannot read study" in refused("ingest", tmp_path / "none.toml", *warehouse)
    assert "no data set is named" in refused("ingest", *warehouse)


def test_query_prints_all_formats_and_writes_nothing(made, tmp_path):
    folder, _ = made
    warehouse = ["--warehouse", folder / "w.duckdb"]
    sql = "SELECT class.name, [class_id] AS ids, NULL AS nothing FROM class ORDER BY class_id"
    rows = [("high", [1], None), ("low", [2], None), ("noise", [3], None)]
    assert json.loads(run("query", sql, "--format", "json", *warehouse).stdout) == [
        dict(zip(("name", "ids", "nothing"), row, strict=True)) for row in rows
    ]
    assert run("query", sql, "--format", "csv", *warehouse).stdout.splitlines() == [
        "name,ids,nothing",
        "high,[1],",
        "low,[2],",
        "noise,[3],",
    ]
    assert "(3 rows)" in run("query", sql, *warehouse).stdout
    assert "+00:00" in run("query", "SELECT started_at FROM run LIMIT 1", *warehouse).stdout
    with (tmp_path / "out.parquet").open("wb") as file:
        subprocess.run(
            [sys.executable, "-m", "auricle", "query", sql, "--format", "parquet", *map(str, warehouse)], cwd=ROOT, stdout=file, check=True
        )
    assert pl.read_parquet(tmp_path / "out.parquet")["name"].to_list() == ["high", "low", "noise"]
    assert "the query failed: Parser Error" in refused("query", "SELEC", *warehouse)
    assert "read-only" in refused("query", "DELETE FROM class", *warehouse)


def test_the_warehouse_comes_from_the_environment_too(made):
    folder, _ = made
    done = run("query", "SELECT count(*) AS n FROM clip", "--format", "csv", env={"AURICLE_WAREHOUSE": str(folder / "w.duckdb")})
    assert done.stdout.split() == ["n", "12"]


def test_status_and_check(made, tmp_path):
    folder, _ = made
    assert re.search(r"1\s+clips\s+sounds\s+done\s+1", run("status", "--warehouse", folder / "w.duckdb").stdout)
    assert "is sound" in run("check", "--warehouse", folder / "w.duckdb").stdout
    for name in ("w.duckdb", "w.activations"):
        (shutil.copytree if (folder / name).is_dir() else shutil.copy)(folder / name, tmp_path / name)
    files = sorted((tmp_path / "w.activations").rglob("*.npy"))
    files[0].unlink()
    with files[1].open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with duckdb.connect(str(tmp_path / "w.duckdb")) as con:
        con.execute("DELETE FROM activation_summary WHERE neuron_id = 3 AND reduction = 'max'")
    done = run("check", "--warehouse", tmp_path / "w.duckdb")
    assert done.returncode == 1
    assert f"{files[0].name} is missing" in done.stdout
    assert f"{files[1].name} was changed after it was written" in done.stdout
    assert "1 neurons of finished runs lack a row in activation_summary" in done.stdout


def test_analyze_exports_every_table(made, tmp_path):
    folder, _ = made
    done = run("analyze", "--output", tmp_path, "--warehouse", folder / "w.duckdb")
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (ROOT / "analyze" / "sql").glob("*.sql")}
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{ending}" for name in names for ending in ("csv", "parquet")}
    layers = pl.read_parquet(tmp_path / "layers.parquet")
    assert layers["layer"].to_list() == ["conv1", "conv2", "logits"]
    assert layers["neurons"].to_list() == [5, 7, 3]
    assert pl.read_csv(tmp_path / "networks.csv")["neurons"].to_list() == [15]
    assert "did you mean layers?" in refused("analyze", "layer", "--warehouse", folder / "w.duckdb")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    if os.getuid() == 0:  # permissions do not stop root; this place does
        folder = Path("/proc/auricle")
    else:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o500)
    refused("ingest", "--dataset", "folder", "--source", write_sounds(tmp_path / "sounds", 3), "--warehouse", folder / "w.duckdb")


def test_a_full_disk_is_one_line_and_the_work_goes_on_when_there_is_room(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 12)
    options = ["ingest", "--network", NETWORK, "--dataset", "folder", "--source", sounds, "--warehouse", tmp_path / "w.duckdb"]

    def disk_of(limit):
        """No file may grow beyond the limit: writing fails as on a full disk."""

        def set_limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return set_limit

    limits = [1_000, 100_000, *range(300_000, 3_000_000, 300_000)]
    for number, limit in enumerate(limits):
        if number > 2 and run(*options, preexec_fn=disk_of(limit)).returncode == 0:
            break
        line = refused(*options, preexec_fn=disk_of(limit))
        assert re.search("File too large|No space left|Could not write|cannot open", line), line
    assert run(*options).returncode == 0
    assert "is sound" in run("check", "--warehouse", tmp_path / "w.duckdb").stdout
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        assert con.execute("SELECT (SELECT count(*) FROM clip), (SELECT count(*) FROM activation_summary)").fetchone() == (12, 30)


def test_train_makes_a_target_that_ingest_tests_on_the_fold_it_did_not_see(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 30)
    options = ("--dataset", "folder", "--source", sounds, "--out", tmp_path / "targets", "--epochs", 1)
    assert "has no folds" in refused("train", "cnn", "scratch", *options)
    assert "cannot be trained distilled" in refused("train", "cnn", "distilled", *options, "--folds", 3)
    assert "give the data set by a study file, or by" in refused("train", "cnn", "scratch")
    done = run("train", "cnn", "scratch", *options, "--folds", 3)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "targets" / "cnn-scratch.safetensors"
    assert re.match(rf"{target}: \d+ of \d+ clips of fold 3 of sounds right, \d+.\d % \(95 % interval ", done.stdout)
    study = tmp_path / "study.toml"
    study.write_text(f'[[dataset]]\nreader = "folder"\nsource = "sounds"\nfolds = 3\n\n[[network]]\nname = "{target}"\n')
    assert run("train", "cnn", "scratch", study, "--out", tmp_path / "again", "--epochs", 1).stdout == done.stdout.replace(
        "targets", "again"
    )
    assert run("ingest", study, "--warehouse", tmp_path / "w.duckdb").returncode == 0


def test_readme_and_help_name_the_same_commands():
    commands = set(get_command(auricle.app).commands)
    text = (ROOT / "README.md").read_text()
    assert commands == set(re.findall(r"^\| `auricle (\w+)", text, re.MULTILINE)), "README's table of commands"
    for line in re.findall(r"^\$ (auricle .*)$", text, re.MULTILINE):
        words = line.split()
        command = get_command(auricle.app).commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--") and not line.count('"')} <= known, line


def test_every_command_has_help_and_takes_a_warehouse():
    for name, command in get_command(auricle.app).commands.items():
        assert command.help
        assert all(getattr(parameter, "help", "x") for parameter in command.params), name
        if name not in ("stages", "networks", "datasets", "fetch", "train"):
            assert any("--warehouse" in parameter.opts for parameter in command.params), name


def test_datasets_lists_every_reader_that_the_documents_name():
    done = subprocess.run(
        [sys.executable, "-c", "from auricle import main; main()", "datasets"], capture_output=True, text=True, check=True
    )
    listed = {line.split()[0] for line in done.stdout.splitlines()[1:-1]}
    described = set(re.findall(r'reader = "([\w-]+)"', (Path(__file__).parent.parent / "docs" / "datasets.md").read_text()))
    assert listed >= {"nsynth", "gtzan", "pcvc", "libricount", "crema-d", "notes"} | described
