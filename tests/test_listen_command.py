"""`auricle listen` as a process: what it prints and writes, and how it fails; and its page in a browser."""

import io
import json
import re
import shutil
import subprocess
import sys

import polars as pl
import pytest

from report.site import build
from tests.report import chromium
from tests.small import write_sounds
from tests.test_cli import NETWORK, ROOT, refused, run
from warehouse import store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listened")
    write_sounds(folder / "sounds", 12)
    done = run("ingest", "--network", NETWORK, "--dataset", "folder", "--source", folder / "sounds", "--warehouse", folder / "w.duckdb")
    assert done.returncode == 0, done.stderr
    return folder


def options(folder):
    return ["--network", NETWORK, "--warehouse", folder / "w.duckdb"]


def test_a_table_of_the_most_unusual_neurons_by_layer(made):
    done = run("listen", made / "sounds" / "high" / "001.wav", *options(made), "--top", 2)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "001.wav, all of its 0.75 s; small, percentiles among 12 clips of sounds (run 2, mean)"
    assert re.split(r"\s{2,}", lines[1].strip()) == ["layer", "unit", "value", "percentile", "deviations", "course", "what is known of it"]
    assert [line.split()[0] for line in lines[2:-1]] == ["conv1", "conv1", "conv2", "conv2", "logits", "logits"]
    assert re.search(r"logits  \d \((low|high|noise)\) .*best class ", done.stdout)
    assert lines[-1] == "(6 rows)"
    assert done.stderr == ""


def test_every_neuron_in_each_format(made):
    options_ = [made / "sounds" / "high" / "001.wav", *options(made)]
    rows = json.loads(run("listen", *options_, "--format", "json").stdout)
    assert len(rows) == 15
    frame = pl.read_csv(io.StringIO(run("listen", *options_, "--format", "csv").stdout))
    data = subprocess.run(
        [sys.executable, "-m", "auricle", "listen", *map(str, options_), "--format", "parquet"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    parquet = pl.read_parquet(io.BytesIO(data))
    assert frame.columns == parquet.columns == list(rows[0])
    for name in ("neuron_id", "rank", "unit"):
        assert frame[name].to_list() == parquet[name].to_list() == [row[name] for row in rows]
    assert parquet["value"].to_list() == pytest.approx(frame["value"].to_list())
    assert parquet.schema["course"] == pl.List(pl.Float32)


def test_two_folders_and_two_sounds(made):
    sounds = made / "sounds"
    done = run("listen", sounds / "low", "--against", sounds / "noise", *options(made))
    assert done.stdout.startswith("low, 4 sounds, of 1 the middle against noise, 4 sounds, of 1 the middle; small, ")
    assert "q_value" in done.stdout
    done = run("listen", sounds / "low" / "000.wav", "--against", sounds / "noise" / "002.wav", *options(made))
    assert "nothing is tested" in done.stdout.splitlines()[0]
    assert "q_value" not in done.stdout


def test_what_cannot_be_heard_is_one_line(made, tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("not sound")
    (tmp_path / "empty").mkdir()
    good = made / "sounds" / "low" / "000.wav"
    assert "not audio that libsndfile can read" in refused("listen", text, *options(made))
    assert "holds no sound files" in refused("listen", tmp_path / "empty", *options(made))
    assert "no file " in refused("listen", tmp_path / "none.wav", *options(made))
    assert "no finished run of activations of yamnet" in refused("listen", good, "--network", "yamnet", "--warehouse", made / "w.duckdb")
    assert "cannot be loaded by its name" in refused("listen", good, "--warehouse", made / "w.duckdb")
    assert "no warehouse at" in refused("listen", good, "--warehouse", tmp_path / "none.duckdb")
    assert "--keep makes a data set of one folder" in refused("listen", good, *options(made), "--keep", "mine")
    run("ingest", "--dataset", "folder", "--source", made / "sounds", "--warehouse", tmp_path / "clips.duckdb")
    assert "there is none at all" in refused("listen", good, "--warehouse", tmp_path / "clips.duckdb")
    for name in ("w.duckdb", "w.activations"):
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, tmp_path / name)
    next((tmp_path / "w.activations").rglob("*conv2.mean.npy")).write_bytes(b"gone")
    assert "conv2.mean.npy cannot be read" in refused("listen", good, *options(tmp_path))
    (tmp_path / "page.html").write_text("mine")
    assert "was not made by" in refused("listen", good, *options(made), "--page", tmp_path / "page.html", "--format", "csv")
    assert (tmp_path / "page.html").read_text() == "mine"
    assert "has no page of this network" in refused("listen", good, *options(made), "--page", tmp_path / "p", "--site", tmp_path / "empty")


def test_a_warehouse_being_written_is_listened_to_but_nothing_is_kept_in_it(made, tmp_path):
    for name in ("w.duckdb", "w.activations"):
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, tmp_path / name)
    with store.writer(tmp_path / "w.duckdb", "another ingest"):
        assert run("listen", made / "sounds" / "low" / "000.wav", *options(tmp_path)).returncode == 0
        done = run("listen", made / "sounds" / "low", *options(tmp_path), "--keep", "mine")
        assert done.returncode == 2
        assert "is being written by process" in done.stderr.splitlines()[-1]
    done = run("listen", made / "sounds" / "low", *options(tmp_path), "--keep", "mine")
    assert done.returncode == 0
    assert "activations of small on mine: run 4, " in done.stderr
    assert "small    mine" in run("status", "--warehouse", tmp_path / "w.duckdb").stdout


@pytest.mark.skipif(not chromium.BINARY, reason="no chromium")
def test_the_page_plays_draws_courses_links_to_the_atlas_and_asks_for_nothing(made, tmp_path):
    build(made / "w.duckdb", tmp_path / "site")
    sounds, page = made / "sounds", tmp_path / "pages" / "high.html"
    done = run("listen", sounds / "high" / "001.wav", *options(made), "--page", page, "--site", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "apart & <b>"
    done = run("listen", sounds / "low", "--against", sounds / "noise", *options(made), "--page", folder)
    assert done.returncode == 0, done.stderr
    with chromium.Chromium() as browser:
        for address, cards in ((page, 9), (folder / "index.html", 30)):
            for width, dark in ((1280, False), (390, True)):
                browser.fresh(width, dark=dark)
                browser.open(address)
                assert browser.js("document.documentElement.scrollWidth <= innerWidth")
                assert browser.js("document.querySelectorAll('svg.shot').length") == cards
                assert browser.js("document.querySelectorAll('.s svg:not(.shot) path').length") >= cards * 2 // 3
                assert browser.messages == []
                assert [asked for asked in browser.requests if not asked.startswith(("data:", "file:"))] == []
        browser.fresh()
        browser.open(page)
        targets = browser.js("Array.from(document.querySelectorAll('.cards a'), link => link.href)")
        assert len(targets) == 9
        browser.click(".cards .go", 0.5, 0.3)
        browser.until("document.querySelector('audio').currentTime > 0.4")
        assert browser.js("document.querySelectorAll('.card.playing').length") == 10
    for target in targets:
        path = target.removeprefix("file://")
        assert "conv" in path or "logits" in path
        assert (tmp_path / "site") in type(tmp_path)(path).parents
        assert type(tmp_path)(path).is_file()
