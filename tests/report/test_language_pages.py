"""Descriptions, open and closed concepts, polysemanticity and ablations on the pages of neurons, layers, networks, words and clips."""

from __future__ import annotations

import json
import re
import shutil

import duckdb
import pytest

from report import atlas
from report.texts import cut
from tests.report import small_warehouse, test_atlas
from tests.report.conftest import SCRIPT
from tests.report.test_atlas import Page, tree
from tests.report.test_cluster_pages import cells

NET = "networks/toy-net"


def neuron(described, place):
    """Page of a neuron of the first layer."""
    return Page(described[1] / f"{NET}/conv-1/{place:04d}.html")


def rows_of(path):
    """Rows of a page's charts."""
    return json.loads(re.search(r"AURICLE_ROWS=(.*?)</script>", path.read_text("utf-8"))[1])


def test_links_and_names_hold_with_language(described):
    test_atlas.test_every_link_and_source_resolves(described)
    test_atlas.test_names_stay_text(described)
    addresses = re.findall(r'"((?:concepts|networks|datasets)/[^"]*\.html)"', (described[1] / "search.js").read_text("utf-8"))
    assert any(address.startswith("concepts/") for address in addresses)
    assert all((described[1] / address).is_file() for address in addresses)


def test_a_neuron_page_says_what_it_listens_to(described):
    page = neuron(described, 0)
    said = cells(described[1] / f"{NET}/conv-1/0000.html").replace("\xa0", " ")
    assert f"next → It is a loud sound. {SCRIPT} Best class:" in said
    struck = [a["title"] for tag, a in page.elements if tag == "s"]
    assert struck == [f"Its lowest clips share: Low {SCRIPT} (cosine 0.900)"]
    assert "its lowest clips share it as well: cosine above 0.700." in page.text
    words = [link for link in page.links if "/concepts/toy-net/" in link]
    assert len(words) == 3  # loud, sound and the odd one
    assert any(link.endswith("concepts/toy-net/loud.adjective.html") for link in words)
    assert f"cosine dog 1.00 · {SCRIPT} 0.500 · rain, soft 0.333" in said
    assert said.count("WPMI") == 2  # of DB and of TAB
    assert "cat" not in [word.strip() for word in page.words]  # rank 4
    assert f"3 of 5 highest clips share sentences about hum, {SCRIPT} ." in said
    assert f"Caption 3 {SCRIPT}." in page.text
    for stage, run in described[2].items():
        assert (f"From run {run}, stage {stage}" in page.text) == (stage != "ablations")


def test_neurons_without_a_description_say_why(described):
    assert "No description: its highest clips share nothing that its lowest do not." in neuron(described, 2).text
    assert f"No description: unusable {SCRIPT}." in neuron(described, 3).text
    assert "No description: the captions of its highest clips have nothing in common." in neuron(described, 4).text
    assert "Fewer than 5 clips lie above 0" in neuron(described, 4).text
    assert "No description" not in neuron(described, 5).text


def test_long_texts_are_cut(described):
    page = neuron(described, 1)
    assert "It goes on and on" in page.text
    assert "…" in page.text
    for path in described[1].rglob("*.html"):
        assert path.stat().st_size < 120_000, path
    clip = next(iter(described[1].glob("datasets/*/clips/clip-0.html")))
    assert 1500 < len(Page(clip).text) < 6000  # the clip's page has more of the caption than a card
    assert f"caption by ears {SCRIPT}" in Page(clip).text


def test_output_names_are_bold_among_closed_concepts(described):
    bold = re.findall(r"<b>(\w+)</b>&nbsp;<small>", (described[1] / f"{NET}/output/0000.html").read_text("utf-8"))
    assert bold == ["dog"] * 3


def test_a_words_page_counts_and_links_its_neurons(described):
    page = Page(described[1] / "concepts/toy-net/bright.adjective.html")
    # Places 5 to 13 say it: 5 of the first layer's and 4 of the second's; with a kept point are places 0, 1 and 5 to 13.
    assert "In the descriptions of 9 of 11 described neurons (81.8 %)" in page.text
    assert "conv/1 5 neurons" in page.text
    assert "output 4 neurons" in page.text
    linked = [link for link in page.links if re.search(r"networks/toy-net/.*/\d{4}\.html", link)]
    assert len(linked) == 9
    # Place 5 says "octave" as well, so it comes last of its layer.
    assert [link[-9:-5] for link in linked] == ["0006", "0007", "0008", "0009", "0005", "0000", "0001", "0002", "0003"]
    assert page.text.count("It is a bright sound.") == 9
    curve = rows_of(described[1] / "concepts/toy-net/bright.adjective.html")["curve"]
    assert [(row["neurons"], row["total"]) for row in curve] == [(5, 7), (4, 4)]


def test_the_list_of_words_has_them_all(described):
    page = Page(described[1] / "concepts/index.html")
    said = cells(described[1] / "concepts/index.html")
    assert "loud adjective yes 10" in said
    assert "octave adjective no 1" in said
    assert "in preposition – 10" in said
    assert f"{SCRIPT} noun – 1" in said
    assert len([link for link in page.links if link.startswith("../concepts/toy-net/")]) == 2 * 4
    assert "concepts/index.html" in Page(described[1] / "index.html").links


def test_layer_and_network_pages_sum_up(described):
    layer = cells(described[1] / f"{NET}/conv-1/index.html")
    assert "loud basic 6 85.7" in layer
    assert "bright high-level 5 71.4" in layer
    assert "It is a loud sound." in layer
    path = described[1] / f"{NET}/index.html"
    rows = rows_of(path)
    assert [(r["series"], r["layer"], r["neurons"], r["total"]) for r in rows["adjectives"]] == [
        ("loud", "conv/1", 6, 7), ("bright", "conv/1", 5, 7), ("loud", "output", 4, 4), ("bright", "output", 4, 4),
    ]  # fmt: skip
    # Places 0 to 9 but 4 share 3 4 5 3 - 5 3 4 5 3 clips.
    assert [(r["series"], r["neurons"], r["total"]) for r in rows["polysemanticity"]][:3] == [
        ("3 of 5", 9, 9),
        ("4 of 5", 5, 9),
        ("5 of 5", 3, 9),
    ]
    assert [(r["series"], r["share"], r["value"]) for r in rows["importance"]] == [
        ("nouns", 0.0, 0.75), ("nouns", 0.1, 0.525), ("random", 0.0, 0.75), ("random", 0.1, 0.675),
    ]  # fmt: skip
    said = cells(path)
    # dA is -2, -3, -4; its distance to dR -0.5 is 1.5, 2.5, 3.5: 1.96 / sqrt(3) either side of 2.5
    assert "DB, WPMI 3 3.00 −3.00 −0.500 2.50 1.37 to 3.63" in said
    assert "as many random ones 3 3.00 −0.250 −0.250 0 0 to 0" in said
    assert f"set {SCRIPT} DB cosine 4" in said  # "Dog" is named first, "rain" is no concept: 1 of 4
    assert "25.0" in said


def test_unlearning_is_listed_by_class(described):
    said = cells(described[1] / "unlearning/toy-net.html")
    assert "By open concepts, no neuron was found for 2 of 3 classes." in said
    assert "dog 2 open concepts −1.00 −0.500 0.500 10 → 6 of 12 80 → 70 of 100" in said
    assert "rain 3 DB, WPMI −4.00 −0.500 3.50 10 → 4 of 12" in said
    assert "as many random ones 2 times −0.250 −0.250 0 10 → 8.5 of 12" in said
    points = rows_of(described[1] / "unlearning/toy-net.html")["unlearning"]
    assert (len(points), points[0]["own"], points[0]["other"]) == (7, -2.0, -0.5)


def test_held_out_scores_stand_beside_descriptions(described, tmp_path):
    warehouse = tmp_path / "small.duckdb"
    shutil.copy(described[0], warehouse)
    with duckdb.connect(str(warehouse)) as con:
        [(key, dataset, network)] = con.execute(
            "SELECT run_key, dataset_sha256, network_sha256 FROM run WHERE run_id = ?", [described[2]["descriptions"]]
        ).fetchall()
        run = small_warehouse.add_run(con, "scores", dataset, network, parameters={"descriptions": key})
        con.execute(
            "INSERT INTO description_score SELECT ?, min(neuron_id), 'captions', 50, 5, 0.834, 0.7, 0.9, 0.4, 0.65 FROM neuron", [run]
        )
    shutil.copytree(described[1], tmp_path / "site")
    atlas.build(warehouse, tmp_path / "site")
    scored, other = (cells(tmp_path / f"site/{NET}/conv-1/{place:04d}.html") for place in (0, 5))
    assert "among 50 clips it was not written from" in scored
    assert "AUROC of 0.83 (0.70 to 0.90), more than other neurons’ descriptions do (0.65)" in scored
    assert "Held-out" not in other


def test_unfinished_runs_are_not_shown(described, tmp_path):
    warehouse = tmp_path / "small.duckdb"
    shutil.copy(described[0], warehouse)
    with duckdb.connect(str(warehouse)) as con:
        con.execute("UPDATE run SET status = 'running', finished_at = NULL WHERE run_id >= ?", [described[2]["captions"]])
    shutil.copytree(described[1], tmp_path / "site")
    atlas.build(warehouse, tmp_path / "site")
    assert not (tmp_path / "site/concepts").exists()
    assert not (tmp_path / "site/unlearning").exists()
    text = Page(tmp_path / f"site/{NET}/conv-1/0000.html").text
    assert "loud" not in text
    assert "Caption" not in text
    test_atlas.test_every_link_and_source_resolves((warehouse, tmp_path / "site"))


def test_rendering_language_again_gives_the_same_bytes(described, tmp_path):
    shutil.copytree(described[1], tmp_path / "site")
    before = tree(tmp_path / "site")
    (tmp_path / "site/manifest.json").unlink()
    assert atlas.build(described[0], tmp_path / "site").written == 0
    assert {k: v for k, v in tree(tmp_path / "site").items() if k != "manifest.json"} == {
        k: v for k, v in before.items() if k != "manifest.json"
    }


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("a b", 3, "a b"),
        ("alpha beta gamma", 12, "alpha beta…"),
        ("x" * 50, 10, "x" * 10 + "…"),
        (" a\n b ", 9, "a b"),
        ("ab" * 10**6, 4, "abab…"),
    ],
)
def test_cut(text, most, expected):
    assert cut(text, most) == expected


def test_pages_with_language_load_and_find_words(described, chromium):
    site = described[1]
    chromium.call("Page.addScriptToEvaluateOnNewDocument", source="window.alerted=[];window.alert=m=>alerted.push(m)")
    chromium.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    pages = ["concepts/index.html", "unlearning/toy-net.html", f"{NET}/index.html", f"{NET}/conv-1/0000.html", f"{NET}/conv-1/0001.html"]
    pages += [f"{NET}/conv-1/index.html", "concepts/toy-net/loud.adjective.html"]
    for page in pages:
        chromium.open(site / page)
        charts = chromium.js("document.querySelectorAll('[data-chart]').length")
        if charts:
            chromium.until(f"document.querySelectorAll('[data-chart] svg').length == {charts}")
        assert chromium.js("document.documentElement.scrollWidth") <= 390, page
        assert chromium.js("alerted") == []
    chromium.js("document.getElementById('q').focus()")
    chromium.type("bright")
    chromium.until("document.querySelectorAll('#hits a').length > 3")
    groups = chromium.js("[...document.querySelectorAll('#hits .group')].map(e => e.textContent)")
    assert groups == ["Words of descriptions", "Neurons described so"]
    hrefs = chromium.js("[...document.querySelectorAll('#hits a')].map(a => a.href.split('/').slice(-2).join('/'))")
    assert hrefs[0] == "toy-net/bright.adjective.html"
    assert hrefs[1:5] == [f"conv-1/{unit:04d}.html" for unit in (6, 7, 8, 9)]  # 5 says "octave" as well
    assert len(hrefs) == 1 + 8
    chromium.open(site / f"{NET}/conv-1/index.html")
    chromium.js("document.querySelector('.filter[data-table=neurons]').focus()")
    chromium.type("goes on")
    assert chromium.js("[...document.querySelectorAll('#neurons tbody tr:not([hidden])')].map(r => r.cells[0].textContent)") == ["1"]
    assert chromium.messages == []
    assert [url for url in chromium.requests if not url.startswith((site.resolve().as_uri(), "data:", "blob:"))] == []
