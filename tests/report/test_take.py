"""What can be taken out of an atlas: tables, charts, lists, citations, the derived tables as files, a page as one file; in Chromium, from the folder."""

from __future__ import annotations

import csv
import json
import time
from xml.etree import ElementTree

import polars as pl
import pytest
from PIL import Image

from analyze import tables
from report import data
from report import site as atlas
from report.single import SINGLE, build_single
from tests.report.conftest import SCRIPT
from tests.report.test_browser import NEURON, clean
from warehouse.store import UserError, connect_readonly

LAYER = "networks/toy-net/conv2/index.html"


def downloaded(chromium, folder, click):
    """The file that a click gives."""
    chromium.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    chromium.js(click)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if done := [path for path in folder.iterdir() if path.suffix != ".crdownload"]:
            return done[0]
        time.sleep(0.05)
    raise TimeoutError("nothing came")


def test_a_table_comes_as_it_is_shown(built, chromium, tmp_path):
    chromium.open(built[1] / LAYER)
    chromium.js("i = document.querySelector('.filter'); i.value = '7'; i.dispatchEvent(new Event('input'))")
    path = downloaded(
        chromium, tmp_path, "document.querySelector('#neurons').closest('.scroll').nextElementSibling.querySelector('button').click()"
    )
    assert path.suffix == ".csv"
    heads, *rows = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    assert heads[0] == "Neuron"
    assert [row[0] for row in rows] == ["7"]
    assert rows[0][6] == chromium.js("document.querySelector('#neurons tbody tr:not([hidden])').cells[6].textContent").replace("−", "-")
    clean(chromium, built[1])


@pytest.mark.parametrize("kind", ["SVG", "PNG", "CSV"])
def test_a_chart_comes_as_drawing_picture_and_rows(built, chromium, tmp_path, kind):
    chromium.open(built[1] / LAYER)
    chromium.until("document.querySelector('[data-chart] svg .mark-symbol path') !== null")
    path = downloaded(
        chromium, tmp_path, f"[...document.querySelectorAll('figure .take button')].find(b => b.textContent === '{kind}').click()"
    )
    if kind == "SVG":
        drawn = ElementTree.parse(path).getroot()
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(drawn.findall(".//{*}path")) > 16
    elif kind == "PNG":
        with Image.open(path) as picture:
            assert picture.width == 2 * round(chromium.js("document.querySelector('[data-chart] svg').getBoundingClientRect().width"))
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 3
    else:
        assert len(list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))) == chromium.js("AURICLE_ROWS.neurons.length") > 5
    clean(chromium, built[1])


def test_how_a_table_is_sorted_and_narrowed_stands_in_the_address(built, browser):
    chromium = browser.fresh()
    chromium.open(built[1] / LAYER)
    chromium.click("#neurons thead th:nth-child(7) button")
    chromium.js("i = document.querySelector('.filter'); i.value = 'dog'; i.dispatchEvent(new Event('input'))")
    shown = "[...document.querySelectorAll('#neurons tbody tr:not([hidden])')].map(r => r.cells[0].textContent)"
    seen, link = chromium.js(shown), chromium.js("location.href")
    assert link.endswith("#sort=neurons.6.down&show=dog")
    assert 0 < len(seen) < 16
    other = browser.fresh()
    other.open(link)
    assert other.js(shown) == seen
    clean(other, built[1])


def test_lists_are_kept_saved_and_taken_from_a_file(built, chromium, tmp_path):
    chromium.open(built[1] / NEURON)
    chromium.js(
        "localStorage.clear(); i = document.querySelector('.keep input'); i.value = 'odd & <b>'; document.querySelector('.keep button').click()"
    )
    assert chromium.js("document.querySelector('.keep [role=status]').textContent").startswith("Kept: 1 on “odd & <b>”")
    chromium.open(built[1] / "lists.html")
    assert chromium.js("document.querySelector('#kept-lists h2').textContent") == "odd & <b>"
    assert chromium.js("document.querySelector('#kept-lists a').href") == (built[1] / NEURON).resolve().as_uri()
    path = downloaded(
        chromium, tmp_path, "[...document.querySelectorAll('.take button')].find(b => b.textContent === 'Save to a file').click()"
    )
    saved = json.loads(path.read_text("utf-8"))
    assert [entry["page"] for entry in saved["lists"]["odd & <b>"]] == [NEURON]
    saved["lists"]["odd & <b>"].append({"page": "javascript:alert(1)//networks/x.html", "title": "bad"})
    chromium.js("document.querySelector('.kept button').click()")
    assert chromium.js("document.querySelectorAll('#kept-lists a').length") == 0
    give = f"""f = document.querySelector('input[type=file]'); d = new DataTransfer();
        d.items.add(new File([{json.dumps(json.dumps(saved))}], 'l.json')); f.files = d.files; f.dispatchEvent(new Event('change'))"""
    chromium.js(give)
    chromium.until("document.querySelectorAll('#kept-lists a').length === 1")
    assert chromium.js("document.querySelector('.take .note').textContent") == "1 neuron added."
    clean(chromium, built[1])


def test_a_citation_names_network_checkpoint_data_set_run_and_versions(built, chromium):
    chromium.open(built[1] / NEURON)
    chromium.js("document.querySelector('.cite').open = true")
    said = chromium.until("document.querySelector('.cite pre').textContent")
    with connect_readonly(built[0]) as con:
        [(sha,)] = con.execute("SELECT network_sha256 FROM run WHERE run_id = 2").fetchall()
    for part in (
        f"checkpoint SHA-256 {sha}",
        "Network: toy net",
        "Data set: odd",
        "content SHA-256",
        "Run 2, stage activations",
        "Auricle ",
    ):
        assert part in said, part
    clean(chromium, built[1])


def test_embedded_pages_show_what_they_say_alone(built, chromium):
    chromium.open((built[1] / NEURON).resolve().as_uri() + "?embed")
    assert chromium.js("getComputedStyle(document.querySelector('.top')).display") == "none"
    assert chromium.js("document.querySelector('h1').getBoundingClientRect().height") > 0


def test_derived_tables_lie_beside_the_pages(clustered):
    site = clustered[1]
    readme = (site / "data/README.md").read_text("utf-8")
    with connect_readonly(clustered[0]) as con:
        done = {stage for (stage,) in con.execute("SELECT DISTINCT stage FROM run WHERE status = 'done'").fetchall()}
        for name in tables.names():
            frame = tables.table(con, name)
            if frame.is_empty():
                assert not (site / f"data/{name}.csv").exists()
                continue
            assert not data._has_no_run(name, done), name
            assert len(pl.read_csv(site / f"data/{name}.csv", infer_schema=False)) == len(frame)
            assert pl.read_parquet(site / f"data/{name}.parquet").columns == frame.columns
            assert (site / f"data/{name}.sql").read_text() == tables.sql(name)
            assert f"[{name}]({name}.csv) | {len(frame):,} |" in readme
    assert (site / "data/clusters.csv").is_file()
    assert atlas.build(clustered[0], site).written == 0


def test_a_page_as_one_file_plays_and_asks_for_nothing(built, chromium, tmp_path):
    path = build_single(built[0], built[1], "conv2:3", tmp_path / "one.html")
    text = path.read_text("utf-8")
    assert SINGLE in text
    alone = tmp_path / "alone"
    alone.mkdir()
    path = path.rename(alone / "one.html")
    chromium.open(path)
    assert chromium.js("document.querySelector('h1').textContent") == "conv2 · 3"
    chromium.click(".card .go", 0.5, 0.5)
    chromium.until("(a => a.readyState > 0 && a.currentTime > 0)(document.querySelector('.playing audio') || {})")
    assert chromium.js("document.querySelector('.card img').decode().then(() => document.querySelector('.card img').naturalWidth)") == 320
    chromium.key("/")
    chromium.js("document.querySelector('.cite').open = true")
    assert "checkpoint SHA-256" in chromium.until("document.querySelector('.cite pre').textContent")
    assert chromium.messages == []
    assert [url for url in chromium.requests if not url.startswith(("data:", "blob:", path.resolve().as_uri()))] == []
    build_single(built[0], built[1], LAYER, path)
    chromium.open(path)
    chromium.until("document.querySelector('[data-chart] svg .mark-symbol path') !== null")
    assert SCRIPT not in path.read_text("utf-8").split("</title>")[0]


def test_pages_that_are_not_there_are_refused_in_a_line(built, tmp_path):
    for what, reason in {
        "conv2:99": "layer conv2 has no neuron 99: 16 from 0 to 15",
        "conv9:1": "there is no layer conv9",
        "class:nobody": "there is no class nobody",
        "conv2": "names no page",
        "../secret.html": "has no page",
        "conv2:cluster-9": "make it with",
    }.items():
        with pytest.raises(UserError, match=reason.replace("(", r"\(")):
            build_single(built[0], built[1], what, tmp_path / "one.html")
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(UserError, match="was not made by Auricle"):
        build_single(built[0], built[1], "class:dog", tmp_path / "mine.html")
    assert build_single(built[0], built[1], "class:dog", tmp_path / "dog.html").is_file()
