"""The rating page: what it draws, what it hides, and that its answers can be read in."""

from __future__ import annotations

import html
import json
import re
import shutil
import time

import duckdb
import pytest

from ingest.stages.ratings import ingest_ratings
from report.rating import build_rating
from tests.report import small_warehouse
from tests.report.conftest import SCRIPT
from tests.report.test_atlas import Page
from warehouse.store import UserError


@pytest.fixture(scope="module")
def kit(described, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit")
    return folder, build_rating(described[0], folder, 6)


def drawn(page):
    return [int(n) for n in re.findall(r'data-neuron="(\d+)"', page.read_text("utf-8"))]


def test_neurons_are_drawn_evenly_from_layers_and_only_described_ones(described, kit, tmp_path):
    neurons = drawn(kit[1])
    with duckdb.connect(str(described[0]), read_only=True) as con:
        [(first,)] = con.execute("SELECT min(neuron_id) FROM neuron").fetchall()
    places = [neuron - first for neuron in neurons]
    assert (len(set(places)), sum(place < 10 for place in places)) == (6, 3)
    assert not {2, 3, 4} & set(places)
    assert drawn(build_rating(described[0], tmp_path / "again", 6)) == neurons
    assert drawn(build_rating(described[0], tmp_path / "other", 6, seed=1)) != neurons
    # The second layer has four neurons, the first seven that are described: a layer that has no more leaves its share to the others.
    every = drawn(build_rating(described[0], tmp_path / "all", 100))
    assert len(every) == len(set(every)) == 11


def test_the_page_holds_five_sounds_each_and_its_lowest_and_no_label(kit):
    page = Page(kit[1])
    played = [(a["src"], a["aria-label"]) for tag, a in page.elements if tag == "audio"]
    sounds = [path for path, _ in played]
    assert sum(label.startswith("Sound ") for _, label in played) == 6 * 5
    assert sum(label.startswith("These move it least") for _, label in played) == 6 * 3
    assert len(played) == 6 * 8
    assert all((kit[1].parent / path).stat().st_size > 500 for path in sounds)
    assert "rain" not in page.text
    assert "conv" not in page.text
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert all(not link.startswith(("http", "/")) for link in page.links)


def test_clips_of_the_whole_range_are_played_where_descriptions_were_scored(described, tmp_path):
    """Middle clips and near misses of the first neuron; none stands twice, and those of a run of scores of other descriptions are none."""
    shutil.copy(described[0], tmp_path / "w.duckdb")
    with duckdb.connect(str(tmp_path / "w.duckdb")) as con:
        dataset, network, key = con.execute(
            "SELECT dataset_sha256, network_sha256, run_key FROM run WHERE run_id = ?", [described[2]["descriptions"]]
        ).fetchall()[0]
        run = small_warehouse.add_run(con, "scores", dataset, network, parameters={"descriptions": key})
        other = small_warehouse.add_run(con, "scores", dataset, network, parameters={"descriptions": "others"})
        [(neuron, recorded)] = con.execute("SELECT neuron_id, run_id FROM top_clip ORDER BY 1 LIMIT 1").fetchall()
        ranked = [
            clip
            for (clip,) in con.execute(
                "SELECT clip_id FROM top_clip WHERE run_id = ? AND neuron_id = ? AND side = 'high' AND reduction = 'mean' ORDER BY rank",
                [recorded, neuron],
            ).fetchall()
        ]
        rows = [
            (run, "middle", 1, ranked[5]),
            (run, "near miss", 1, ranked[0]),
            (run, "near miss", 2, ranked[6]),
            (other, "middle", 1, ranked[8]),
        ]
        con.executemany(f"INSERT INTO range_clip VALUES (?, {neuron}, ?, ?, ?)", rows)
        [(high,), (middle,), (near,)] = [
            con.execute("SELECT sha256[:16] FROM clip WHERE clip_id = ?", [clip]).fetchall()[0]
            for clip in (ranked[0], ranked[5], ranked[6])
        ]
    text = build_rating(tmp_path / "w.duckdb", tmp_path / "site", 100).read_text("utf-8")
    group = next(part for part in text.split("<section") if f'data-neuron="{neuron}"' in part)
    played = re.findall(r'<audio [^>]*src="[^"]*?([0-9a-f]{16})[^"]*" aria-label="([^"]*)"', group)
    assert (high, "Sound 1") == played[0]
    assert (middle, "These move it less and less: sound 1") in played
    assert (near, "These are much like the first, but leave it cold: sound 1") in played
    assert len({path for path, _ in played}) == len(played)
    assert group.index("These move it most") < group.index("less and less") < group.index("leave it cold") < group.index("move it least")
    assert text.count("leave it cold</h3>") == 1
    assert "and the others lack" in group


def test_concepts_stand_beside_the_description_in_an_order_drawn_anew(kit, described, tmp_path):
    """DB and TAB say "dog" of every neuron: one text for both, and whose it is stands nowhere to be read."""
    page = kit[1].read_text("utf-8")
    by = [json.loads(html.unescape(text)) for text in re.findall(r'data-by="([^"]*)"', page)]
    assert sorted(map(tuple, by)) == [()] * 6 + [("DB cosine", "TAB wpmi")] * 6  # there is no DB cosine_cubed
    assert len({tuple(map(tuple, by[at : at + 2])) for at in range(0, 12, 2)}) == 2
    assert "wpmi" not in Page(kit[1]).text
    other = build_rating(described[0], tmp_path, 6, beside=["DB wpmi"]).read_text("utf-8")
    assert "DB wpmi" in other
    assert "TAB" not in other
    with pytest.raises(UserError, match="has a concept by DB rank: there are DB cosine, DB wpmi, TAB wpmi"):
        build_rating(described[0], tmp_path, 6, beside=["DB rank"])


def test_nothing_to_rate_and_foreign_pages_are_one_line(built, described, tmp_path):
    with pytest.raises(UserError, match="holds no described neuron"):
        build_rating(built[0], tmp_path, 5)
    with pytest.raises(UserError, match="1 or more"):
        build_rating(described[0], tmp_path, 0)
    (tmp_path / "rating").mkdir()
    (tmp_path / "rating/index.html").write_text("mine")
    with pytest.raises(UserError, match="not made by Auricle"):
        build_rating(described[0], tmp_path, 5)
    assert (tmp_path / "rating/index.html").read_text() == "mine"


@pytest.mark.usefixtures("minilm_folder")
def test_answers_are_kept_downloaded_and_read_in(described, chromium, tmp_path):
    page = build_rating(described[0], tmp_path, 11)
    chromium.call("Page.addScriptToEvaluateOnNewDocument", source="window.alerted=[];window.alert=m=>alerted.push(m)")
    chromium.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "down"))
    chromium.open(page)
    item = "document.querySelectorAll('.item')"
    assert chromium.js(f"[...{item}].every(i => i.querySelector('.after').hidden && i.querySelector('.show').disabled)")
    chromium.click("#download")
    assert chromium.js("document.getElementById('message').textContent") == "Write your name or a code first."
    chromium.js("document.getElementById('rater').focus()")
    chromium.type(f"Ada {SCRIPT}")
    chromium.js(f"{item}[0].querySelector('textarea').focus()")
    chromium.type('  loud "hum" ')
    chromium.js(f"{item}[0].querySelector('.show').click()")
    assert chromium.js(f"{item}[0].querySelector('textarea').readOnly && !{item}[0].querySelector('.after').hidden")
    own, concept = "fieldset[data-by='[]']", "fieldset:not([data-by='[]'])"
    chromium.js(
        f"{item}[0].querySelector(\"{own} input[value='4']\").click(); {item}[0].querySelector(\"{concept} input[value='2']\").click()"
    )
    chromium.js(f"{item}[1].querySelector('.skip-words').click(); {item}[1].querySelector(\"{own} input[value='1']\").click()")
    neurons = chromium.js(f"[...{item}].slice(0, 2).map(i => Number(i.dataset.neuron))")
    chromium.open(page)  # opened again, it goes on where it was left
    assert chromium.js("document.getElementById('progress').textContent") == "1 of 11 rated"  # of the second, the concept is not
    assert chromium.js(f"{item}[0].querySelector('.after').hidden") is False
    chromium.click("#download")
    end = time.monotonic() + 30
    while not (files := list((tmp_path / "down").glob("*.json"))) and time.monotonic() < end:
        time.sleep(0.1)
    assert [file.name for file in files] == ["ratings-Ada-script-alert-1-script-.json"]
    answers = json.loads(files[0].read_text("utf-8"))
    run = described[2]["descriptions"]
    assert answers["rater"] == f"Ada {SCRIPT}"
    assert answers["answers"] == [
        {
            "neuron_id": neurons[0],
            "description_run_id": run,
            "rating": 4,
            "own_words": 'loud "hum"',
            "concepts": {"DB cosine": 2, "TAB wpmi": 2},
        },
        {"neuron_id": neurons[1], "description_run_id": run, "rating": 1, "own_words": None},
    ]
    assert list(answers["runs"]) == [str(run)]
    assert chromium.js("alerted") == []
    assert chromium.messages == []
    shutil.copy(described[0], tmp_path / "w.duckdb")
    assert ingest_ratings(tmp_path / "w.duckdb", files[0]) == 2
    with duckdb.connect(str(tmp_path / "w.duckdb")) as con:
        assert con.execute("SELECT avg(rating), count(own_words) FROM rating").fetchall() == [(2.5, 1)]
        assert con.execute("SELECT said_by, rating FROM concept_rating ORDER BY 1").fetchall() == [("DB cosine", 2), ("TAB wpmi", 2)]
        compared = con.execute("SELECT neuron_id, list(said_by ORDER BY said_by) FROM rating_similarity GROUP BY 1").fetchall()
    assert compared == [(neurons[0], ["DB cosine", "DB wpmi", "TAB wpmi", "description", "other descriptions"])]
