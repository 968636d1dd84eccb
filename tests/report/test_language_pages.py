"""Descriptions, open and closed concepts, polysemanticity and ablations on the pages of neurons, layers, networks, words and clips."""

from __future__ import annotations

import json
import re
import shutil

import duckdb
import pytest

from report import site as atlas
from report.parts.texts import cut
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
    assert f"conv/1 · 0 It is a loud sound. {SCRIPT} not scored no run of stage scores has it Best class:" in said
    struck = [a["title"] for tag, a in page.elements if tag == "s"]
    assert struck == [f"Its lowest clips share: Low {SCRIPT} (cosine 0.900)"]
    assert "its lowest clips share it as well: cosine above 0.700." in page.text
    words = [link for link in page.links if "/concepts/toy-net/" in link]
    assert len(words) == 3  # loud, sound and the odd one
    assert any(link.endswith("concepts/toy-net/loud.adjective.html") for link in words)
    assert f"cosine dog 1.00 · {SCRIPT} 0.500 · rain, soft 0.333" in said
    assert f"WPMI dog 1.00 · {SCRIPT} 0.500 · rain, soft 0.333 dog 1.00" in said  # DB and TAB side by side
    assert "cat" not in [word.strip() for word in page.words]  # rank 4
    assert f"3 of 5 highest clips share sentences about hum, {SCRIPT} ." in said
    assert any(link.endswith(f"{NET}/conv-1/clips.css") for link in page.links)
    captions = (described[1] / f"{NET}/conv-1/clips.css").read_text("utf-8")
    assert re.search(r'(?m)^\.sounds \[href="clip-3.html"\]\{--l:.*--c:"Caption 3 (.*)\."\}$', captions)[1] == SCRIPT.replace("<", "\\3c ")
    assert "<" not in captions  # a page as one file has the style sheet in it
    for stage, run in described[2].items():
        assert (f" {run} ({stage})" in page.text) == (stage != "ablations")


def test_a_neuron_page_says_how_many_kinds_of_sounds_it_answers_to(described):
    for place, text in enumerate((
        "No meaning in words : they do not tell its 4 highest clips from those that leave it cold.",
        f"One meaning in words: hum, {SCRIPT} (2 clips).",
        f"Answers to 2 kinds of sounds: hum, {SCRIPT} (2 clips: numbers 1, 3); hum, {SCRIPT} (2 clips: numbers 2, 4).",
    )):  # fmt: skip
        said = " ".join(cells(described[1] / f"{NET}/conv-1/{place:04d}.html").split())
        assert text in said


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
    assert "DB, WPMI 3 3.00 −3.00 −0.500 2.50 0.016 to 4.98" in said
    assert "random, as many as the most 3 3.00 −0.250 −0.250 0 0 to 0" in said
    assert f"set {SCRIPT} DB cosine 4" in said  # "Dog" is named first, "rain" is no concept: 1 of 4
    assert "25.0" in said


def test_unlearning_is_listed_by_class(described):
    said = cells(described[1] / "unlearning/toy-net.html")
    assert "By open concepts, no neuron was found for 2 of 3 classes." in said
    assert "dog 2 open concepts −1.00 −0.500 0.500 10 → 6 of 12 80 → 70 of 100" in said
    assert "rain 3 DB, WPMI −4.00 −0.500 3.50 10 → 4 of 12" in said
    assert "random, as many as the most 2 times −0.250 −0.250 0 10 → 8.5 of 12" in said
    points = rows_of(described[1] / "unlearning/toy-net.html")["unlearning"]
    assert (len(points), points[0]["own"], points[0]["other"]) == (7, -2.0, -0.5)


def test_what_unlearning_a_class_does_to_every_other_is_drawn(described):
    """Figure 10: a bar a class on the page of the unlearned one, and all of them as a map."""
    rows = rows_of(described[1] / "unlearning/toy-net.html")["unlearning_classes"]
    found = [(row["class"], row["value"]) for row in rows if row["unlearned"] == "dog"]
    assert found == [("dog", -2), (SCRIPT, -0.5), ("rain", -0.5)]
    assert len(rows) == 9
    assert {row["series"] for row in rows} == {"DB, WPMI"}
    [page] = [path for path in described[1].rglob("rain.html") if path.parent.name != "concepts"]
    said = cells(page)
    assert "When toy net unlearns it" in said
    assert "1 rain unlearned −4.00" in said
    assert page.read_text("utf-8").count("<title>") == 1 + 3


def test_figures_of_adjectives_and_clouds_stand_on_the_network_s_page(described):
    rows, said = rows_of(described[1] / f"{NET}/index.html"), cells(described[1] / f"{NET}/index.html")
    assert [(row["adjective"], row["neurons"], row["series"]) for row in rows["frequent_adjectives"]] == [
        ("loud", 10, "basic"), ("bright", 9, "high-level"),
    ]  # fmt: skip
    # Place 0 has one adjective, place 1 none, places 5 to 9 two: 11 of 7 neurons.
    assert [(row["layer"], row["value"]) for row in rows["adjectives_per_block"]] == [
        ("conv", pytest.approx(11 / 7, abs=1e-4)),
        ("output", 2),
    ]
    assert "Cluster 0 21 captions / 40 sentences" in said
    assert f"{SCRIPT} hum" in said.split("21 captions")[1]
    html = (described[1] / f"{NET}/index.html").read_text("utf-8")
    assert '<span style="--s:1.00" title="16 times">hum</span>' in html
    assert '<span style="--s:0.50" title="4 times">' in html


@pytest.fixture(scope="module")
def scored(described, tmp_path_factory):
    """The same with held-out scores of places 0, 5, 6 and 7, and an earlier run by the same captioner; its site; the earlier run."""
    folder = tmp_path_factory.mktemp("scored")
    warehouse, latest = folder / "small.duckdb", described[2]["descriptions"]
    shutil.copy(described[0], warehouse)
    with duckdb.connect(str(warehouse)) as con:
        [(dataset, network, text)] = con.execute(
            "SELECT dataset_sha256, network_sha256, parameters FROM run WHERE run_id = ?", [latest]
        ).fetchall()
        # The run there is becomes the earlier one; between it and the latest lies one of another captioner.
        con.execute(
            """INSERT INTO run SELECT * REPLACE (90 AS run_id, 'other' AS run_key, '{"captioner": "others"}' AS parameters) FROM run
            WHERE run_id = ?""",
            [described[2]["captions"]],
        )
        for parameters in (json.loads(text) | {"captions": "other"}, json.loads(text)):
            made = small_warehouse.add_run(con, "descriptions", dataset, network, parameters=parameters)
            con.execute("INSERT INTO summary_point SELECT * REPLACE (? AS run_id) FROM summary_point WHERE run_id = ?", [made, latest])
            con.execute("INSERT INTO concept SELECT * REPLACE (? AS run_id) FROM concept WHERE run_id = ?", [made, latest])
        neurons = [n for (n,) in con.execute("SELECT neuron_id FROM neuron ORDER BY 1").fetchall()]
        con.execute(
            "UPDATE summary_point SET text = ? WHERE run_id = ? AND neuron_id = ? AND position = 0", ["It is new.", made, neurons[0]]
        )
        con.execute("DELETE FROM summary_point WHERE run_id = ? AND neuron_id = ?", [made, neurons[1]])
        [(key,)] = con.execute("SELECT run_key FROM run WHERE run_id = ?", [made]).fetchall()
        run = small_warehouse.add_run(con, "scores", dataset, network, parameters=json.loads(text) | {"descriptions": key})
        rows = [(0, "captions", 50, 0.834, 0.7, 0.9, 0.65, 0.01), (0, "judge", 12, 0.5, None, None, 0.75, None)]
        rows += [(0, "audio", 49, 0.62, 0.5, 0.7, 0.6, None)]
        rows += [(5, scorer, 50, 0.55, None, None, 0.6, None) for scorer in ("tuning", "detection")]
        rows += [(place, "captions", 50, auroc, 0.4, 0.9, 0.7, p) for place, auroc, p in ((5, 0.6, 0.5), (6, 0.71, 0.04), (7, 0.9, 0.03))]
        con.executemany(
            "INSERT INTO description_score VALUES (?, ?, ?, ?, 5, ?, ?, ?, 0.4, ?, ?, NULL)",
            [(run, neurons[place], scorer, clips, *numbers) for place, scorer, clips, *numbers in rows],
        )
        tests = [("captions", "near misses", 10, 0.66, 0.6), ("captions", "intruder", 90, 0.7, 0.3), ("audio", "intruder", 90, 0.1, 0.3)]
        con.executemany(f"INSERT INTO description_test VALUES ({run}, {neurons[0]}, ?, ?, ?, ?, NULL, NULL, ?, 0.1)", tests)
    shutil.copytree(described[1], folder / "site")
    atlas.build(warehouse, folder / "site")
    return warehouse, folder / "site", latest


def test_held_out_scores_stand_beside_descriptions(scored):
    site = scored[1]
    said, other, none = (cells(site / f"{NET}/conv-1/{place:04d}.html") for place in (0, 5, 8))
    assert "among 50 clips it was not written from" in said
    assert (
        "AUROC of 0.83 (0.70 to 0.90), more than other neurons’ descriptions do (0.65), q 0.040 among all neurons; by the sound of 49 such clips"
        in said
    )
    assert "instead of captions: 0.62 (0.50 to 0.70), more than other neurons’ descriptions do (0.60)" in said
    assert "by a language model’s ratings of 12 such clips: 0.50 , no more than chance (0.75)." in said
    assert "AUROC of 0.60 (0.40 to 0.90), no more than" in other
    assert "Held-out" not in none
    layer = cells(site / f"{NET}/conv-1/index.html")
    assert "(AUROC 0.83)" in layer
    assert layer.count("AUROC 0.") == 4


def test_badges_and_all_else_lead_somewhere(scored):
    test_atlas.check_links(scored[1].resolve())


def test_a_badge_says_how_far_a_description_can_be_trusted(scored):
    said, weak, chance, other, none = (cells(scored[1] / f"{NET}/conv-1/{place:04d}.html") for place in (0, 5, 6, 7, 8))
    assert "trusted held-out AUROC 0.83 (0.70 to 0.90), above its floor of 0.65" in said
    assert "weak held-out AUROC 0.60 (0.40 to 0.90), not above its floor of 0.70" in weak
    assert "weak held-out AUROC 0.71 (0.40 to 0.90), above its floor of 0.70, but with a q-value of 0.053" in chance
    assert "weak held-out AUROC 0.90 (0.40 to 0.90), above its floor of 0.70, but with a q-value of 0.053" in other
    assert (
        "Harder tests: against near misses alone 0.66 (floor 0.60); told which of five clips does not belong (chance 0.20) 0.70 (floor 0.30)."
        in said
    )
    assert "Harder tests" not in weak
    assert "not scored no run of stage scores has it" in none
    layer = (scored[1] / f"{NET}/conv-1/index.html").read_text("utf-8")
    levels = re.findall('<td class="level">(.*?)</td>', layer)
    assert levels == ["trusted", *["not scored"] * 4, "weak", "weak", "weak", "not scored", "not scored"]
    assert re.findall('<option value="(.*?)">', layer) == ["", "trusted", "weak", "not-scored"]
    assert "<select" not in (scored[1] / f"{NET}/output/index.html").read_text("utf-8")


def test_the_network_page_says_how_far_descriptions_can_be_trusted(scored):
    text = (scored[1] / f"{NET}/index.html").read_text("utf-8")
    rows = json.loads(re.search(r"AURICLE_ROWS=(\{.*\})</script>", text)[1])
    tests = {(row["series"], row["value"], row["floor"], row["neurons"]) for row in rows["trust_captions"]}
    assert tests == {("held out", 0.772, 0.7, 4), ("near misses", 0.66, 0.6, 1), ("intruder", 0.7, 0.3, 1)}
    assert set(re.findall('data-rows="trust_(.*?)"', text)) == {"captions", "tuning", "audio", "judge", "detection"}
    assert "<figcaption>By what tuning predicts</figcaption>" in text
    assert '<a href="#trust">' in text


def test_the_table_and_the_search_are_narrowed_to_what_can_be_trusted(scored, chromium):
    chromium.open(scored[1] / f"{NET}/conv-1/index.html")
    shown = "[...document.querySelectorAll('#neurons tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
    chromium.js("s = document.querySelector('select.filter'); s.value = 'trusted'; s.dispatchEvent(new Event('change'))")
    assert chromium.js(shown) == ["0"]
    assert chromium.js("document.getElementById('neurons-count').textContent") == "1 of 10"
    chromium.js("location.hash = '#trust-weak'")  # as the badges' links do
    assert chromium.until(f"({shown}).length === 3")
    assert chromium.js(shown) == ["5", "6", "7"]
    chromium.js("document.getElementById('q').focus()")
    chromium.type("conv/1 5")
    found = "[...document.querySelectorAll('#found a')].map(a => a.textContent)"
    assert any("conv/1 · 5" in text for text in chromium.until(found))
    trust = "s = document.querySelector('#hits select[name=trust]'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
    chromium.js(trust.format("trusted"))
    assert not any("· 5" in text for text in chromium.js(found))
    assert chromium.js("location.hash") == "#q=conv%2F1+5&trust=trusted"
    chromium.js(trust.format(""))
    assert any("· 5" in text for text in chromium.js(found))


def test_the_search_index_holds_scores(scored, described):
    layers, before = (
        json.loads((site / "search.js").read_text("utf-8").removeprefix("AURICLE_SEARCH=").rstrip(";\n"))["studies"][0]["l"]
        for site in (scored[1], described[1])
    )
    assert layers[0][5] == [83, None, None, None, None, 60, 71, 90, None, None]
    assert [layer[:5] for layer in layers] == before
    assert layers[0][6] == "0222211122"  # places in trust.LEVELS
    assert all(len(layer) == 5 for layer in [*before, layers[1]])


def test_what_a_new_run_changed_is_shown(scored):
    changed, gone, same = (cells(scored[1] / f"{NET}/conv-1/{place:04d}.html") for place in (0, 1, 5))
    summary = f"Earlier description (run {scored[2]})"
    assert "It is new. " + SCRIPT in changed
    assert f"{summary} It is a loud sound. {SCRIPT}" in changed
    assert f"{summary} It goes on and on" in gone
    assert "Earlier" not in same
    test_atlas.test_names_stay_text(scored)
    assert atlas.build(scored[0], scored[1]).written == 0
    (scored[1] / "manifest.json").unlink()
    assert atlas.build(scored[0], scored[1]).written == 0


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
    assert groups == ["Neurons", "Words of descriptions"]
    hrefs = chromium.js("[...document.querySelectorAll('#hits a')].map(a => a.href.split('/').slice(-2).join('/'))")
    assert hrefs[:5] == [f"conv-1/{unit:04d}.html" for unit in (5, 6, 7, 8, 9)]
    assert hrefs[-1] == "toy-net/bright.adjective.html"
    assert len(hrefs) == 1 + 9
    chromium.open(site / f"{NET}/conv-1/index.html")
    chromium.js("document.querySelector('.filter[data-table=neurons]').focus()")
    chromium.type("goes on")
    assert chromium.js("[...document.querySelectorAll('#neurons tbody tr:not([hidden])')].map(r => r.cells[0].textContent)") == ["1"]
    assert chromium.messages == []
    assert [url for url in chromium.requests if not url.startswith((site.resolve().as_uri(), "data:", "blob:"))] == []


def test_results_show_scores_and_sort_by_them(scored, chromium):
    chromium.open(scored[1] / "index.html")
    chromium.js("document.getElementById('q').focus()")
    chromium.type("bright")
    chromium.until("document.querySelectorAll('#hits a').length > 3")
    hits = "[...document.querySelectorAll('#hits a')].map(a => [a.href.split('/').slice(-2).join('/'), a.textContent.split('score ')[1] || ''])"
    assert chromium.js(hits)[:3] == [["conv-1/0007.html", "0.90"], ["conv-1/0006.html", "0.71"], ["conv-1/0005.html", "0.60"]]
    chromium.click("#hits button:last-of-type")
    assert chromium.js(hits)[:3] == [["conv-1/0007.html", "0.90"], ["conv-1/0006.html", "0.71"], ["conv-1/0005.html", "0.60"]]
    assert chromium.js("[document.activeElement.id, document.querySelector('#hits button:last-of-type').getAttribute('aria-pressed')]") == [
        "q",
        "true",
    ]
    chromium.key("ArrowDown")
    assert chromium.js("document.querySelector('#hits [aria-selected=true]').href.slice(-9)") == "0007.html"
    assert chromium.messages == []
