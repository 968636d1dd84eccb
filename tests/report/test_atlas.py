"""The site as files: links, escaping, what is rewritten and removed."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb
import pytest

from report import site as atlas
from report.record import recipes
from tests.report import small_warehouse as small
from tests.report.conftest import CLIP_S, SCRIPT
from warehouse import store
from warehouse.store import UserError

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Links, sources, ids, element names and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.ids: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.base: str | None = None
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag == "base":
            self.base = found["href"]
            return
        self.links += [found[key] for key in ("href", "src") if key in found]
        self.ids += [found["id"]] if "id" in found else []

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def tree(site: Path) -> dict[str, tuple[int, int]]:
    """Modification time and size of every file."""
    return {str(p.relative_to(site)): (p.stat().st_mtime_ns, p.stat().st_size) for p in site.rglob("*") if p.is_file()}


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_kind_of_page_is_there(built):
    site = built[1]
    for pattern, count in {
        "index.html": 1, "runs.html": 1, "schema.html": 1, "cookbook.html": 1, "search.js": 1, "networks/*/index.html": 3,
        "networks/*/*/index.html": 11, "networks/*/*/0*.html": 95, "datasets/*/index.html": 2, "datasets/*/clips/*.html": 33,
        "datasets/*/classes/*/*.html": 16,
    }.items():  # fmt: skip
        assert len(list(site.glob(pattern))) == count, pattern
    # search.js, related.js, cite.js, the ten files of static/, and a style sheet for each layer
    assert built[2].written == len(pages(site)) + len(list((site / "data").iterdir())) + 13 + 11
    assert built[2].neurons == 95


def test_every_link_and_source_resolves(built):
    check_links(built[1].resolve())


def check_links(site):
    """Every link and source of a site's pages leads to a file of it, and to a place there."""
    ids = {page: set(Page(page).ids) for page in pages(site)}
    for page in pages(site):
        found = Page(page)
        folder = (page.parent / found.base).resolve() if found.base else page.parent
        for link in found.links:
            parts = urlsplit(link)
            assert not parts.scheme, f"{page}: {link} leaves the folder"
            assert not parts.netloc
            assert parts.path or not found.base, f"{page}: {link} leads to the base"
            target = (folder / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_relative_to(site), f"{page}: {link}"
            assert target.is_file(), f"{page}: {link}"
            if parts.fragment and not re.search("=|^trust-", parts.fragment):  # what scripts narrow by
                assert parts.fragment in ids[target], f"{page}: {link}"


def test_search_index_points_at_pages(built):
    site = built[1]
    text = (site / "search.js").read_text("utf-8")
    for address in re.findall(r'"((?:datasets|networks)/[^"]*\.html)"', text):
        assert (site / address).is_file(), address


def test_neurons_of_layers_that_are_not_asked_for_have_rows_in_place_of_pages(built, tmp_path):
    warehouse, whole, first = built
    name = "output"
    made = atlas.build(warehouse, tmp_path / "site", atlas.Asked(layers=(name,)))
    check_links((tmp_path / "site").resolve())
    neurons = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").glob("networks/*/*/[0-9]*.html")}
    assert 0 < len(neurons) == made.neurons < first.neurons
    assert {path.split("/")[2] for path in neurons} == {name}
    assert {str(path.relative_to(whole)) for path in whole.glob("networks/*/*/index.html")} == {
        str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").glob("networks/*/*/index.html")
    }
    links = [link for path in sorted(neurons) for link in Page(tmp_path / "site" / path).links if "#show=" in link]
    assert links
    assert "conv-1/index.html#show=" in (tmp_path / "site/search.js").read_text("utf-8")
    assert "no page of their own" not in str(made)
    assert atlas.build(warehouse, tmp_path / "site", atlas.Asked(layers=(name,))).written == 0
    few = atlas.Asked(pages=made.neurons + 10)
    for _ in range(2):  # the second has nothing to do
        some = atlas.build(warehouse, tmp_path / "site", few)
        assert some.left_out + len(list((tmp_path / "site").glob("networks/*/*/[0-9]*.html"))) == first.neurons
        assert f"{some.left_out} neurons have no page of their own" in str(some)
    check_links((tmp_path / "site").resolve())
    with pytest.raises(UserError, match="there is no layer nowhere in the warehouse: conv/1"):
        atlas.build(warehouse, tmp_path / "site", atlas.Asked(layers=("nowhere",)))


def test_names_stay_text(built):
    """No element or attribute comes from a label, a file name or a licence."""
    allowed = {"static/atlas.js", "static/search.js", "static/take.js", "static/vega.js", "static/charts.js", "static/draw.js"}
    for page in pages(built[1]):
        found = Page(page)
        for tag, attributes in found.elements:
            assert not any(name.startswith("on") and (tag, name) != ("form", "onsubmit") for name in attributes), page
            if tag == "script" and "src" in attributes:
                assert attributes["src"].lstrip("./") in allowed
            assert attributes.get("src") != "x"
        inline = re.findall(r"<script>(.*?)</script>", page.read_text("utf-8"), re.DOTALL)
        assert all(code.startswith(("document.documentElement.className=", "AURICLE_ROWS=")) for code in inline), page
    clip_pages = [Page(page).text for page in built[1].glob("datasets/*/clips/*.html")]
    assert any(SCRIPT in text for text in clip_pages)


def test_neuron_page_says_what_it_must(built):
    page = Page(built[1] / "networks/toy-net/output/0003.html")
    assert "output · 3 (sine wave)" in page.text
    for heading in ("Highest clips", "Lowest clips", "Activations", "Classes", "Nearest neurons"):
        assert heading in page.text
    clips = [a["href"] for tag, a in page.elements if tag == "a" and "/" not in a["href"]]
    assert len(clips) >= 20
    styles = (built[1] / "networks/toy-net/output/clips.css").read_text("utf-8")
    pictures = dict(re.findall(r'\[href="(.*?)"\]::before\{background-image:url\(../../../(.*?)\)', styles))
    assert {*clips} <= {*re.findall(r'^\.sounds \[href="(.*?)"\]\{--l:".+"', styles, re.MULTILINE)}
    assert sorted({*clips} - pictures.keys()) == ["plain-9.html"]
    assert all((built[1] / path).is_file() for path in pictures.values())
    lines = [a["data-c"] for tag, a in page.elements if tag == "ol" and "data-c" in a]
    assert len(lines[0]) % 12 == 0
    assert "From run 2, stage activations: toy net" in page.text
    assert re.search(r'\.license::after\{content:".*, CC0"\}', styles)


def test_dead_neuron_has_no_ranking(built):
    page = Page(built[1] / "networks/toy-net/conv2/0000.html")
    assert "dead" in page.text
    assert not [1 for tag, _ in page.elements if tag == "audio"]


def test_a_sound_that_is_gone_is_said_to_be(built):
    page = Page(next(built[1].glob("datasets/odd*/clips/plain-9.html")))
    assert "plain-9.wav is no longer in" in page.text
    assert not [1 for _, attributes in page.elements if attributes.get("class") == "card big"]
    assert built[2].missing == 1


def test_failures_are_on_the_runs_page(built):
    page = Page(built[1] / "runs.html")
    assert f"{SCRIPT}.wav" in page.text
    assert "empty file" in page.text
    assert "Not finished" in page.text


def test_schema_page_holds_every_comment(built):
    text = Page(built[1] / "schema.html").text
    with duckdb.connect(str(built[0]), read_only=True) as con:
        comments = con.execute("SELECT comment FROM duckdb_columns() WHERE NOT internal AND comment IS NOT NULL").fetchall()
    assert len(comments) > 100
    assert all(" ".join(comment.split()) in text for (comment,) in comments)


def test_cookbook_shows_results(built):
    assert len(recipes()) >= 8
    text = Page(built[1] / "cookbook.html").text
    assert all(title in text for title, _ in recipes())
    assert "empty file" in text


def test_second_report_rewrites_nothing(copied):
    warehouse, site = copied
    before = tree(site)
    again = atlas.build(warehouse, site)
    assert tree(site) == before
    assert again.written == 0
    assert again.media == 0
    assert again.seconds < 5


def test_rendering_again_gives_the_same_bytes(copied):
    warehouse, site = copied
    before = tree(site)
    (site / "manifest.json").unlink()
    again = atlas.build(warehouse, site)
    after = tree(site)
    assert {k: v for k, v in after.items() if k != "manifest.json"} == {k: v for k, v in before.items() if k != "manifest.json"}
    assert again.written == 0
    assert again.unchanged > 100


@pytest.mark.parametrize("name", ["networks/toy-net/conv2/0003.html", "search.js", "static/style.css"])
def test_a_removed_page_comes_back(copied, name):
    warehouse, site = copied
    before = tree(site)
    content = (site / name).read_bytes()
    (site / name).unlink()
    again = atlas.build(warehouse, site)
    assert (site / name).read_bytes() == content
    assert again.written == 1
    after = tree(site)
    assert {k for k in before if k != "manifest.json" and before[k] != after[k]} == {name}


def test_a_removed_sound_comes_back(copied, built):
    warehouse, site = copied
    sound = next((site / "audio").iterdir())
    sound.unlink()
    again = atlas.build(warehouse, site)
    assert sound.stat().st_size > 0
    assert (again.media, again.written) == (1, 0)


def test_a_truncated_page_is_mended(copied):
    warehouse, site = copied
    page = site / "index.html"
    whole = page.read_bytes()
    page.write_bytes(whole[:100])
    atlas.build(warehouse, site)
    assert page.read_bytes() == whole


def test_pages_of_a_removed_run_disappear_and_unknown_files_stay(copied):
    warehouse, site = copied
    mine = site / "networks/toy-net~seven/notes.txt"
    mine.write_text("mine")
    (site / "README.md").write_text("kept")
    with duckdb.connect(str(warehouse)) as con:
        for table in ("activation_summary", "top_clip", "class_activation", "neighbor", "activation_clip", "activation_file"):
            con.execute(f"DELETE FROM {table} WHERE run_id = 4")
        con.execute("DELETE FROM run WHERE run_id = 4")
    made = atlas.build(warehouse, site)
    assert made.removed == 1 + 5 + 5 + 46
    assert [p.name for p in (site / "networks/toy-net~seven").rglob("*")] == ["notes.txt"]
    assert (site / "README.md").read_text() == "kept"
    assert (site / "networks/toy-net/conv2/0003.html").is_file()
    test_every_link_and_source_resolves((warehouse, site))


def test_a_report_that_was_killed_is_healed(copied, monkeypatch):
    """A report dies half way through other content than before; the next leaves exactly its own files."""
    warehouse, site = copied
    expected = {k: v[1] for k, v in tree(site).items()}
    put = atlas.Folder.put
    count = 0

    def dying(self, path, text):
        nonlocal count
        count += 1
        if count > 60:
            raise KeyboardInterrupt
        put(self, path.replace("networks/", "elsewhere/"), text + " " if isinstance(text, str) else text)

    monkeypatch.setattr(atlas.Folder, "put", dying)
    monkeypatch.setattr(atlas, "fingerprint", lambda *_: "another")
    with pytest.raises(KeyboardInterrupt):
        atlas.build(warehouse, site)
    monkeypatch.undo()
    assert (site / "elsewhere").is_dir()
    atlas.build(warehouse, site)
    assert {k: v[1] for k, v in tree(site).items()} == expected
    assert not (site / "elsewhere").exists()


def test_a_foreign_index_is_not_overwritten(copied, tmp_path):
    folder = tmp_path / "homepage"
    folder.mkdir()
    (folder / "index.html").write_text("<h1>Mine</h1>")
    with pytest.raises(UserError, match="not made by Auricle"):
        atlas.build(copied[0], folder)
    assert [p.name for p in folder.iterdir()] == ["index.html"]


def test_an_empty_warehouse_gives_a_friendly_page(tmp_path):
    store.create(tmp_path / "empty.duckdb")
    atlas.build(tmp_path / "empty.duckdb", tmp_path / "site")
    assert "This warehouse is empty" in Page(tmp_path / "site/index.html").text
    test_every_link_and_source_resolves((tmp_path / "empty.duckdb", tmp_path / "site"))


def test_sounds_without_a_network_have_pages(built, tmp_path):
    source = built[0].parent / "sounds"
    with small.create(tmp_path / "w.duckdb") as con:
        small.add_dataset(con, "only", source, {"plain-0.wav": {"c": ["x"]}, "plain-1.wav": {}}, None)
    atlas.build(tmp_path / "w.duckdb", tmp_path / "site")
    assert "no network has heard them yet" in Page(tmp_path / "site/index.html").text
    assert "unlabelled" in Page(tmp_path / "site/datasets/only/clips/plain-1.html").text
    test_every_link_and_source_resolves((tmp_path / "w.duckdb", tmp_path / "site"))


def test_only_clips_that_another_page_shows_have_sounds_unless_all_are_wanted(built, tmp_path):
    source = built[0].parent / "sounds"
    with small.create(tmp_path / "w.duckdb") as con:
        small.add_dataset(con, "only", source, {"plain-0.wav": {"c": ["x"]}, "plain-1.wav": {}, "plain-2.wav": {}}, None)
    made = atlas.build(tmp_path / "w.duckdb", tmp_path / "site")
    clips = tmp_path / "site/datasets/only/clips"
    assert (made.media, made.media_files) == (2, 2)
    assert "--all-clips" not in Page(clips / "plain-0.html").text
    alone = Page(clips / "plain-2.html")
    assert "No sound or picture here, as no other page shows this clip: auricle report --all-clips makes them." in alone.text
    assert not [1 for tag, _ in alone.elements if tag in ("audio", "img")]
    both = atlas.build(tmp_path / "w.duckdb", tmp_path / "site", atlas.Asked(all_clips=True))
    assert (both.media, both.media_files) == (4, 6)
    assert [1 for tag, _ in Page(clips / "plain-2.html").elements if tag == "audio"]
    sizes = {path: path.stat().st_size for path in (tmp_path / "site").rglob("*") if path.suffix in (".mp3", ".png")}
    assert both.media_bytes == sum(sizes.values())
    assert atlas.build(tmp_path / "w.duckdb", tmp_path / "site", atlas.Asked(all_clips=True)).written == 0
    assert atlas.build(tmp_path / "w.duckdb", tmp_path / "site").removed == 4
    assert len(list((tmp_path / "site/audio").iterdir())) == 1
    test_every_link_and_source_resolves((tmp_path / "w.duckdb", tmp_path / "site"))


def test_a_sound_that_turns_out_to_be_unreadable_is_said_to_be_on_every_page(copied, built, tmp_path):
    warehouse, site = copied
    shutil.copytree(built[0].parent / "sounds", tmp_path / "sounds")
    (tmp_path / "sounds/plain-4.wav").write_text("no longer a sound")
    with duckdb.connect(str(warehouse)) as con:
        con.execute("UPDATE dataset SET source = ?", [str(tmp_path / "sounds")])
    shutil.rmtree(site / "audio")
    assert atlas.build(warehouse, site).missing == 2
    shown = [
        text for path in pages(site / "networks") if "No sound: plain-4.wav can no longer be read" in (text := path.read_text("utf-8"))
    ]
    assert shown
    styles = [path.read_text("utf-8") for path in site.glob("networks/*/*/clips.css")]
    assert any('"plain-4.html"]{--l' in text for text in styles)
    assert not any('"plain-4.html"]::before' in text for text in styles)
    assert "can no longer be read" in Page(next(site.glob("datasets/odd*/clips/plain-4.html"))).text
    test_every_link_and_source_resolves((warehouse, site))


def test_a_newer_run_takes_the_address(copied):
    warehouse, site = copied
    with duckdb.connect(str(warehouse)) as con:
        dataset = con.execute("SELECT dataset_id FROM dataset WHERE name = 'seven'").fetchall()[0][0]
        run = small.add_network(con, "toy net", dataset, [], CLIP_S)
    atlas.build(warehouse, site)
    assert f"From run {run}," in Page(site / "networks/toy-net~seven/conv2/0001.html").text
    assert "From run 2," in Page(site / "networks/toy-net/conv2/0001.html").text


def test_an_older_version_a_network_stands_on_keeps_pages_beside_the_new_one(copied, built):
    warehouse, site = copied
    clips = {f"plain-{i}.wav": {"category": ["dog" if i else "cat"]} for i in range(4)}
    with duckdb.connect(str(warehouse)) as con:
        small.add_dataset(con, "seven", built[0].parent / "sounds", clips, None, version=2)
    atlas.build(warehouse, site)
    assert (site / "datasets/seven/classes/category/cat.html").is_file()
    assert (site / "datasets/seven~v1/classes/category/dog.html").is_file()
    assert 'href="../../datasets/seven~v1/classes/category/dog.html"' in (site / "networks/toy-net~seven/index.html").read_text("utf-8")
    test_every_link_and_source_resolves((warehouse, site))


def test_positions_are_listed_without_pages(copied):
    warehouse, site = copied
    with duckdb.connect(str(warehouse)) as con:
        run = small.add_run(
            con, "activations", *con.execute("SELECT dataset_sha256, network_sha256 FROM run WHERE run_id = 2").fetchall()[0]
        )
        con.execute("INSERT INTO layer VALUES (99, 1, 'conv/1', 0, 'body.0', 'position', '[2, 3, 4]', true)")
        con.execute("INSERT INTO neuron SELECT 5000 + i, 99, i // 12, i // 4 % 3, i % 4, NULL FROM range(24) t(i)")
        con.execute("INSERT INTO activation_file VALUES (99, ?, 99, 'window_mean', 'a/99.npy', 24, 26, 'float16', 'f')", [run])
        con.execute("INSERT INTO activation_clip SELECT ?, column_index, clip_id FROM activation_clip WHERE run_id = 2", [run])
    atlas.build(warehouse, site)
    listed = (site / "networks/toy-net/index.html").read_text("utf-8")
    page = re.search(r'href="(conv-1-[0-9a-f]+)/index.html">conv/1</a></th><td>position', listed)
    assert page, "the position layer is listed"
    assert [p.name for p in (site / "networks/toy-net" / page[1]).iterdir()] == ["index.html"]
    assert "single positions of a feature map" in Page(site / "networks/toy-net" / page[1] / "index.html").text


def test_a_folder_that_cannot_be_written_is_one_line(copied, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot write the atlas"):
        atlas.build(copied[0], blocked / "site")


def test_a_disk_that_is_full_is_one_line_and_mended_later(copied, monkeypatch):
    warehouse, site = copied
    shutil.rmtree(site / "networks")
    put = atlas.Folder.put

    def full(self, path, text):
        if path.startswith("networks/"):
            raise OSError(28, "No space left on device", path)
        put(self, path, text)

    monkeypatch.setattr(atlas.Folder, "put", full)
    with pytest.raises(UserError, match="No space left"):
        atlas.build(warehouse, site)
    monkeypatch.undo()
    atlas.build(warehouse, site)
    test_every_link_and_source_resolves((warehouse, site))
