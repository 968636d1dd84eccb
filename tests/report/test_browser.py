"""The site in headless Chromium, opened from its folder."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest

from tests.report.conftest import CLIP_S, SCRIPT

NEURON = "networks/toy-net/output/0003.html"
PAGES = [
    "index.html", "networks/toy-net/index.html", "networks/toy-net/conv2/index.html", NEURON, "networks/toy-net/conv2/0000.html", "runs.html",
    "schema.html", "cookbook.html", "networks/signed/index.html", "networks/signed/only/index.html", "networks/signed/only/0001.html",
]  # fmt: skip


def clean(browser, site) -> None:
    """No console message, no request outside the folder."""
    assert browser.messages == []
    prefix = site.resolve().as_uri() + "/"
    assert browser.requests
    assert [url for url in browser.requests if not url.startswith((prefix, "data:", "blob:"))] == []


@pytest.mark.parametrize("kind", ["plain", "class", "clip", "dataset"])
def test_pages_load_without_a_message_or_a_request_outside(built, chromium, kind):
    site = built[1]
    patterns = {"class": "datasets/*/classes/*/*.html", "clip": "datasets/*/clips/*.html", "dataset": "datasets/*/index.html"}
    pages = PAGES if kind == "plain" else sorted(str(p.relative_to(site)) for p in site.glob(patterns[kind]))[:8]
    for page in pages:
        chromium.open(site / page)
        assert chromium.js("document.querySelector('h1').textContent.length > 0")
        charts = chromium.js("document.querySelectorAll('[data-chart]').length")
        if charts:
            chromium.until(f"document.querySelectorAll('[data-chart] svg').length == {charts}")
        assert chromium.js("document.documentElement.scrollWidth <= innerWidth"), page
    assert chromium.js("typeof alert") == "function"
    clean(chromium, site)


def test_pages_with_clusters_load_play_and_fit_a_phone(clustered, chromium):
    site = clustered[1]
    pages = [*site.glob("networks/*/*/cluster-*.html"), *site.glob("networks/*/index.html"), *site.glob("networks/*/*/index.html")]
    pages += site.glob("datasets/*/classes/category/dog.html")
    chromium.call("Page.addScriptToEvaluateOnNewDocument", source="window.alerted=[];window.alert=m=>alerted.push(m)")
    chromium.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    for page in pages:
        chromium.open(page)
        charts = chromium.js("document.querySelectorAll('[data-chart]').length")
        if charts:
            chromium.until(f"document.querySelectorAll('[data-chart] svg').length == {charts}")
        assert chromium.js("document.documentElement.scrollWidth") <= 390, page
        assert chromium.js("alerted") == []
    chromium.open(pages[0])
    chromium.click(".card .go", 0.5, 0.5)
    chromium.until("(a => a.readyState > 0 && a.currentTime > 0)(document.querySelector('.playing audio') || {})")
    chromium.key("j")
    chromium.until(f"/cluster-/.test(location.href) && location.href !== {json.dumps(pages[0].resolve().as_uri())}")
    clean(chromium, site)


def test_the_probe_curve_is_drawn(clustered, chromium):
    chromium.open(clustered[1] / "networks/toy-net/index.html")
    chromium.until("document.querySelectorAll('[data-chart=probes] svg .mark-symbol path').length >= 9")
    # Two runs side by side, of three layers and of one by position: the intervals of three probes a layer, and the chance of each run.
    assert chromium.js("document.querySelectorAll('[data-chart=probes] svg .mark-rule.role-mark line').length") == 3 * (3 + 1) + 2
    clean(chromium, clustered[1])


def test_search_finds_clusters_by_class(clustered, chromium):
    chromium.open(clustered[1] / "index.html")
    chromium.key("/")
    chromium.type("dog")
    chromium.until("[...document.querySelectorAll('#hits .group')].some(e => e.textContent === 'Clusters for these classes')")
    assert chromium.js("[...document.querySelectorAll('#hits a')].some(a => /cluster-/.test(a.href))")


def test_no_script_of_a_label_runs(built, chromium):
    site = built[1]
    chromium.call("Page.addScriptToEvaluateOnNewDocument", source="window.alerted=[];window.alert=m=>alerted.push(m)")
    for page in [NEURON, "index.html", "runs.html", "networks/toy-net/output/index.html", "networks/toy-net/output/0001.html"]:
        chromium.open(site / page)
        chromium.js("new Promise(done => setTimeout(done, 300))")
        assert chromium.js("alerted") == [], page
    assert chromium.js("document.querySelector('h1').textContent") == f"output · 1 ({SCRIPT})"
    clean(chromium, site)


def test_a_clip_plays(built, chromium):
    site = built[1]
    chromium.open(site / NEURON)
    assert chromium.js("document.querySelectorAll('audio').length") == 12
    chromium.js("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    chromium.until("document.querySelectorAll('audio').length >= 20")
    alts = chromium.js("[...document.querySelectorAll('.card img')].map(image => image.alt)")
    assert all(alt.startswith("Spectrogram of ") and alt.endswith(": 2 s") for alt in alts)
    lines = chromium.js("[...document.querySelectorAll('.card svg path')].map(path => path.getAttribute('d'))")
    assert len(lines) >= 10
    assert all(line.startswith("M0 ") and "L1.5 " in line for line in lines)
    assert chromium.js("document.querySelectorAll('.neuron aside svg.histogram path.bars').length") == 1
    assert not [url for url in chromium.requests if url.endswith(".mp3")], "nothing is loaded before it is asked for"
    chromium.click(".card .go", 0.5, 0.5)
    chromium.until("(a => a.readyState > 0 && a.currentTime > 0)(document.querySelector('.playing audio') || {})")
    state = chromium.js("(a => [a.duration, a.error, a.currentTime])(document.querySelector('.playing audio'))")
    assert CLIP_S / 4 < state[0] < 2 * CLIP_S
    assert state[1] is None
    chromium.until(f"document.querySelector('.playing audio, .paused audio, .card audio').currentTime > {state[2]}")
    assert float(chromium.js("parseFloat(document.querySelector('.head').style.left)")) >= 40, "a click in the middle plays from there"
    clean(chromium, site)


def test_every_player_of_a_page_knows_its_duration(built, chromium):
    site = built[1]
    chromium.open(site / NEURON)
    found = chromium.js("""Promise.all([...document.querySelectorAll('audio')].map(a => new Promise(done => {
        a.onloadedmetadata = () => done(isFinite(a.duration) && a.duration > 0.5); a.onerror = () => done(String(a.error.message)); a.load();
        a.preload = 'metadata'; })))""")
    assert set(found) == {True}


def test_playing_one_stops_the_other_and_escape_stops_all(built, chromium):
    chromium.open(built[1] / NEURON)
    playing = "[...document.querySelectorAll('audio')].map(a => !a.paused)"
    chromium.js("(b => { b[0].click(); })(document.querySelectorAll('.go'))")
    chromium.until(f"{playing}[0]")
    chromium.js("document.querySelectorAll('.go')[1].click()")
    chromium.until(f"{playing}[1] && !{playing}[0]")
    chromium.key("Escape")
    chromium.until(f"!{playing}.includes(true)")


def test_search_finds_a_neuron_by_class_name_and_opens_it(built, chromium):
    site = built[1]
    chromium.open(site / "index.html")
    assert not [url for url in chromium.requests if url.endswith(("site/search.js", "site/related.js"))]
    chromium.key("/")
    assert chromium.js("document.activeElement.id") == "q"
    chromium.type("dog")
    chromium.until("document.querySelectorAll('#hits a').length > 3")
    groups = chromium.js("[...document.querySelectorAll('#hits .group')].map(e => e.textContent)")
    assert groups[:2] == ["Neurons", "Classes"] or groups[:2] == ["Classes", "Neurons"]
    hrefs = chromium.js("[...document.querySelectorAll('#hits a')].map(a => a.href)")
    assert any("/networks/" in url for url in hrefs)
    for url in hrefs:
        assert (site / urlsplit(url).path.removeprefix(urlsplit(site.resolve().as_uri()).path + "/").replace("%7E", "~")).is_file()
    chromium.key("ArrowDown")
    chromium.key("ArrowDown")
    wanted = chromium.js("document.querySelector('#hits [aria-selected=true]').href")
    chromium.key("Enter")
    chromium.until(f"location.href === {json.dumps(wanted)}")
    clean(chromium, site)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("conv 1 3", "conv/1 · 3"), ("plain-7", "plain-7"), ("<script>", SCRIPT), ("犬", "犬"), ("nothing of the kind", "Nothing")],
)
def test_search_by_number_clip_and_odd_names(built, chromium, typed, expected):
    chromium.open(built[1] / NEURON)
    chromium.js("document.getElementById('q').focus()")
    chromium.type(typed)
    chromium.until("!document.getElementById('hits').hidden")
    assert expected in chromium.js("document.getElementById('hits').textContent")
    clean(chromium, built[1])


def test_tables_sort_by_click_and_keyboard(built, chromium):
    chromium.open(built[1] / "networks/toy-net/conv2/index.html")
    cells = "[...document.querySelectorAll('#neurons tbody tr')].map(r => parseFloat(r.cells[6].textContent.replace('−', '-')))"
    head = "document.querySelector('#neurons thead tr').cells[6]"
    chromium.click("#neurons thead th:nth-child(7) button")
    down = chromium.js(cells)
    assert down == sorted(down, reverse=True)
    assert len(set(down)) > 3
    assert chromium.js(f"{head}.getAttribute('aria-sort')") == "descending"
    chromium.js(f"{head}.querySelector('button').focus()")
    chromium.key("Enter")
    assert chromium.js(cells) == sorted(down)
    assert chromium.js(f"{head}.getAttribute('aria-sort')") == "ascending"
    assert chromium.js("document.querySelectorAll('#neurons th[aria-sort=ascending], #neurons th[aria-sort=descending]').length") == 1
    chromium.js("document.querySelector('#neurons thead tr').cells[3].querySelector('button').click()")
    last = chromium.js("document.querySelector('#neurons tbody').lastElementChild.cells[3].textContent")
    assert last == "–", "undefined values stay last"
    clean(chromium, built[1])


def test_a_layers_list_can_be_narrowed(built, chromium):
    chromium.open(built[1] / "networks/toy-net/conv2/index.html")
    chromium.js("document.querySelector('.filter').focus()")
    chromium.type("7")
    assert chromium.js("[...document.querySelectorAll('#neurons tbody tr:not([hidden])')].map(r => r.cells[0].textContent)") == ["7"]


def test_arrow_keys_turn_pages_across_layers(built, chromium):
    chromium.open(built[1] / "networks/toy-net/conv-1/0011.html")
    chromium.key("ArrowRight")
    arrived = "document.readyState === 'complete' && document.querySelector('h1').textContent"
    chromium.until(f"{arrived} === 'Conv 1 · 0'")
    chromium.key("k")
    chromium.until(f"{arrived} === 'conv/1 · 11'")


def test_a_point_of_a_chart_opens_its_page(built, chromium):
    chromium.open(built[1] / "networks/toy-net/conv2/index.html")
    chromium.until("document.querySelector('[data-chart] svg .mark-symbol path') !== null")
    chromium.click("[data-chart] svg .mark-symbol path")
    chromium.until("/\\/conv2\\/00\\d\\d.html$/.test(location.href)")


def test_pages_fit_a_phone(built, chromium):
    chromium.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    for page in PAGES:
        chromium.open(built[1] / page)
        assert chromium.js("document.documentElement.scrollWidth") <= 390, page
