"""What users and surroundings can do to a command: it ends rightly or in one line, soon, and leaves nothing half-written."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small import write_sounds

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NETWORK = f"{ROOT / 'tests' / 'small.py'}:small_network"
LONGEST_S = 60
HOMELESS = """
import os, pwd
os.environ.pop("HOME", None)
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
from auricle import main
main()
"""


def command(*arguments, code="from auricle import main; main()"):
    """`auricle` as a process's arguments; those may be bytes."""
    return [sys.executable, "-c", code, *(argument if isinstance(argument, bytes) else str(argument) for argument in arguments)]


def surroundings(more=None):
    """The environment of a child."""
    kept = {key: value for key, value in os.environ.items() if key not in ("AURICLE_WAREHOUSE", "XDG_CACHE_HOME")}
    return {**kept, "PYTHONPATH": str(ROOT), **(more or {})}


def run(*arguments, cwd, env=None, code="from auricle import main; main()", **options):
    """What became of a command: no traceback, and an end within a minute."""
    done = subprocess.run(
        command(*arguments, code=code), cwd=cwd, capture_output=True, env=surroundings(env), timeout=LONGEST_S, check=False, **options
    )
    assert b"Traceback" not in done.stderr + done.stdout, done.stderr.decode("utf-8", "replace")[-2000:]
    return done


def refused(*arguments, cwd, **options):
    """The one line in which a command is refused."""
    done = run(*arguments, cwd=cwd, **options)
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    assert (done.returncode, len(lines)) == (2, 1), (done.returncode, lines)
    assert lines[0].startswith("auricle: ")
    return lines[0]


def work(folder, *more):
    return ["ingest", "--network", NETWORK, "--dataset", "folder", "--source", folder / "sounds", "--warehouse", folder / "w.duckdb", *more]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    write_sounds(folder / "sounds", 9)
    assert run(*work(folder), cwd=folder).returncode == 0
    return folder


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--clip-seconds", "1e9"], "clip_s is 1e+09, it must be at most 3600 seconds"),
        (["--clip-seconds", "nan"], "a number is expected"),
        (["--device", "meta"], "device meta cannot be used"),
        (["--warehouse", ""], "--warehouse '' names no file"),
        (["--warehouse", "w/"], "--warehouse 'w/' names no file"),
        (["--warehouse", "/"], "names no file"),
        (["--warehouse", ".."], "names no file"),
        (["--warehouse", b"w\xff.duckdb"], "is no UTF-8"),
        (["--warehouse", "pipe"], "pipe is no regular file"),
        (["--source", b"sounds\xff"], "is no UTF-8"),
        (["--layer", b"\xff"], "is no UTF-8"),
        (["--weights", "pipe"], "neither a regular file nor a folder"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_and_nothing_made_of_it(tmp_path, more, said):
    write_sounds(tmp_path / "sounds", 2)
    os.rename(tmp_path / "sounds", os.fsencode(tmp_path) + b"/sounds\xff")
    write_sounds(tmp_path / "sounds", 2)
    os.mkfifo(tmp_path / "pipe")
    assert said in refused(*work(tmp_path, *more), cwd=tmp_path)
    if more[0] != "--device":  # the clips are read before there is a network to be put on it
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.isascii()) == ["pipe", "sounds"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "No such command 'nosuch': see `auricle --help`"),
        (["ingest", "--top-k", "abc"], "'--top-k': "),
        (["ingest", "--nosuch"], "No such option: --nosuch"),
        (["compare", "2"], "'second': see `auricle compare --help`"),
        (["check", "--warehouse"], "requires an argument"),
        (["ingest", "--dataset", "folder", "--source", ""], "a path is empty"),
        (["report", "--site", ""], "a path is empty"),
        (["analyze", "--output", ""], "a path is empty"),
    ],
)
def test_arguments_that_are_none_are_refused_in_a_line_as_is_all_else(made, tmp_path, arguments, said):
    assert said in refused(*arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    done = run(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"analyze" in done.stderr  # the commands there are


def test_more_than_there_is_is_all_there_is(made, tmp_path):
    write_sounds(tmp_path / "sounds", 9)
    assert run(*work(tmp_path, "--top-k", 10**9, "--batch", 10**9), cwd=tmp_path).returncode == 0
    sql = "SELECT neuron_id, side, rank, clip_id, activation FROM top_clip WHERE reduction = 'mean' ORDER BY ALL"
    both = [run("query", sql, "--format", "csv", "--warehouse", folder / "w.duckdb", cwd=tmp_path).stdout for folder in (made, tmp_path)]
    assert both[0] == both[1]
    assert both[0].count(b"\n") > 200


@pytest.mark.parametrize("name", ["study", "ratings", "index.html", "manifest.json"])
def test_nothing_waits_at_a_pipe(made, tmp_path, name):
    os.mkfifo(tmp_path / name)
    if name == "study":
        assert "no regular file" in refused("ingest", tmp_path / name, cwd=tmp_path)
    elif name == "ratings":
        assert "no regular file" in refused("ingest", "ratings", tmp_path / name, "--warehouse", made / "w.duckdb", cwd=tmp_path)
    else:
        assert run("report", "--site", tmp_path, "--warehouse", made / "w.duckdb", cwd=tmp_path).returncode == 0
        assert (tmp_path / name).is_file()


def test_a_user_without_a_home_is_told_what_to_do(made, tmp_path):
    assert run("report", "--site", tmp_path / "site", "--warehouse", made / "w.duckdb", cwd=tmp_path, code=HOMELESS).returncode == 0
    assert run(*work(made), cwd=tmp_path, code=HOMELESS).returncode == 0
    yamnet = ["ingest", "--network", "yamnet", "--dataset", "starter", "--warehouse", tmp_path / "w.duckdb"]
    assert "set AURICLE_CACHE" in refused(*yamnet, cwd=tmp_path, code=HOMELESS, env={"AURICLE_CACHE": ""})


@pytest.mark.parametrize(
    ("env", "said"), [({"PYTHONOPTIMIZE": "2"}, "keeps no docstrings"), ({"POLARS_MAX_THREADS": "0"}, "POLARS_MAX_THREADS is '0'")]
)
def test_variables_that_libraries_fall_over_are_said(made, tmp_path, env, said):
    for arguments in (["stages"], ["report", "--site", tmp_path / "site", "--warehouse", made / "w.duckdb"]):
        assert said in refused(*arguments, cwd=tmp_path, env=env)
    assert list(tmp_path.iterdir()) == []


def test_few_open_files_are_said(made, tmp_path):
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))  # noqa: E731
    for arguments in (["status"], ["report", "--site", tmp_path / "site"], ["ingest", tmp_path / "study.toml"]):
        line = refused(*arguments, "--warehouse", made / "w.duckdb", cwd=tmp_path, preexec_fn=few)
        assert "no more than 10 files may be open at once" in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_grow_is_said_and_not_left(made, tmp_path):
    write_sounds(tmp_path / "sounds", 2)
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # noqa: E731
    assert "File too large" in refused(*work(tmp_path), cwd=tmp_path, preexec_fn=small)
    assert "File too large" in refused(
        "analyze", "datasets", "--output", tmp_path, "--warehouse", made / "w.duckdb", cwd=tmp_path, preexec_fn=small
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["datasets.csv", "sounds", "w.duckdb.lock"]


def test_a_folder_that_went_is_said(made, tmp_path):
    gone = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\nfrom auricle import main; main()"
    assert "no longer there" in refused(*work(made), cwd=tmp_path, code=gone)


def test_what_lies_in_a_sites_folder_does_no_harm(made, tmp_path):
    arguments = ["report", "--site", tmp_path, "--warehouse", made / "w.duckdb"]
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    (tmp_path / "manifest.part").write_bytes(bytes(range(256)))
    assert run(*arguments, cwd=tmp_path).returncode == 0
    (tmp_path / "runs.html").unlink()
    (tmp_path / "runs.html").mkdir()
    assert "Is a directory" in refused(*arguments, cwd=tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_what_an_output_cannot_show_is_escaped(made, tmp_path):
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    sql, where = "SELECT 'é ☃' AS a", ["--warehouse", made / "w.duckdb"]
    assert rb"\xe9 \u2603" in run("query", sql, *where, cwd=tmp_path, env=ascii_only).stdout
    assert json.loads(run("query", sql, "--format", "json", *where, cwd=tmp_path, env=ascii_only).stdout) == [{"a": "é ☃"}]
    assert b"\\xe9" in run("query", "SELECT é", *where, cwd=tmp_path, env=ascii_only).stderr


def test_dates_that_python_does_not_know_are_shown(made, tmp_path):
    sql, where = "SELECT DATE '0044-03-15 (BC)' AS a, TIMESTAMP 'infinity' AS b, 1 AS c", ["--warehouse", made / "w.duckdb"]
    assert b"0044-03-15 (BC)  infinity  1" in run("query", sql, *where, cwd=tmp_path).stdout
    found = json.loads(run("query", sql, "--format", "json", *where, cwd=tmp_path).stdout)
    assert found == [{"a": "0044-03-15 (BC)", "b": "infinity", "c": 1}]


def test_a_reader_that_goes_and_a_full_disk(made, tmp_path):
    where = ["--warehouse", made / "w.duckdb"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("status", *where), stdout=writing, stderr=subprocess.PIPE, env=surroundings(), timeout=LONGEST_S)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(command(*work(made)), stdout=writing, stderr=subprocess.PIPE, env=surroundings(), timeout=LONGEST_S)
    assert (done.returncode, done.stderr) == (2, b"auricle: nobody reads on: the next `auricle ingest` continues\n")
    os.close(writing)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command("status", *where), stdout=full, stderr=subprocess.PIPE, env=surroundings(), timeout=LONGEST_S)
    assert (done.returncode, done.stderr) == (2, b"auricle: input or output: No space left on device\n")


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_ends_an_ingest_in_a_line_and_the_next_continues(tmp_path, number, code, word):
    write_sounds(tmp_path / "sounds", 600)
    process = subprocess.Popen(
        command(*work(tmp_path)), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=surroundings()
    )
    until(lambda: list(tmp_path.glob("w.activations/**/*")))
    process.send_signal(number)
    _, said = process.communicate(timeout=LONGEST_S)
    assert (process.returncode, said.decode()) == (code, f"auricle: {word}: the next `auricle ingest` continues\n")
    assert run(*work(tmp_path), cwd=tmp_path).returncode == 0
    assert b"is sound" in run("check", "--warehouse", tmp_path / "w.duckdb", cwd=tmp_path).stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_long_query_ends_soon_after_a_signal(made, tmp_path, number, code):
    sql = "SELECT sum(sqrt(a.range + b.range)) FROM range(1000000) a, range(1000000) b"
    arguments = command("query", sql, "--format", "csv", "--warehouse", made / "w.duckdb")
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=surroundings())
    until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 2)  # DuckDB's threads are there
    time.sleep(5)
    process.send_signal(number)
    out, said = process.communicate(timeout=LONGEST_S)
    assert (process.returncode, out) == (code, b"")
    assert said in (b"auricle: interrupted\n", b"auricle: terminated\n")


def test_the_second_report_into_a_folder_is_refused_naming_the_first(made, tmp_path):
    arguments = ["report", "--site", tmp_path / "site", "--warehouse", made / "w.duckdb"]
    first = subprocess.Popen(command(*arguments), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=surroundings())
    until((tmp_path / "site" / "manifest.held").exists)
    first.send_signal(signal.SIGSTOP)
    try:
        assert f"is being written by process {first.pid} (since 20" in refused(*arguments, cwd=tmp_path)
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(LONGEST_S) == 0
    assert not list((tmp_path / "site").rglob("*.tmp"))
    assert not (tmp_path / "site" / "manifest.held").exists()
    assert b"0 pages written" in run(*arguments, cwd=tmp_path).stdout


def until(happened):
    """Wait for something, at most a minute."""
    end = time.monotonic() + LONGEST_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.002)
