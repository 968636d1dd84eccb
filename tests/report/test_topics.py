"""A topic of a package outside the tree: found by its entry point, on every kind of page, with nothing else touched."""

from __future__ import annotations

import shutil
import sys
from html import escape
from pathlib import Path

import pytest

from report import site as atlas
from report import topics
from warehouse.store import UserError

TOY = '''
from markupsafe import Markup
from report.topics.topic import Column, Part, Parts, Topic


class Toy(Topic):
    """How loud a study is."""

    stage = "activations"
    tables = ("layers",)
    sql = {"toy_clips": "SELECT dataset_id, count(*) AS clips FROM clip GROUP BY ALL ORDER BY ALL"}

    def read(self):
        self.clips = {row["dataset_id"]: row["clips"] for row in self.table("toy_clips")}[self.dataset.dataset_id]
        self.layers = [row["layer"] for row in self.table("layers")]

    def network(self, page):
        html = Markup('<h2 id="toy">toy on a network of {} clips</h2>').format(self.clips)
        yield Part(html, rows={"toy": [{"x": 1}]}, link=("toy", "a toy"))

    def layer(self, page, layer):
        yield Part(Markup("<p>toy on layer {}</p>").format(layer.name), runs=[self.study.run_id])

    def column(self, layer):
        return Column("Toy", "toy", {layer.first: "a <toy>"})

    def neurons(self, page, layer):
        return Parts({n: [Part(Markup(f"<p>toy on neuron {n}</p>"))] for n in range(layer.first, layer.last + 1)})

    def of_class(self, page, cls):
        yield Part(Markup("<p>toy on class {}</p>").format(cls.class_id), "detectors")
        yield Part(Markup("<p>toy below class {}</p>").format(cls.class_id))

    def pages(self, press):
        yield press.page(f"toy/{self.study.short}.html").write("concepts", [self.study.run_id], **EMPTY)

    @classmethod
    def clips(cls, page, dataset, heard):
        return Parts({clip: [Part(Markup(f"<p>toy on clip {clip} of {len(heard)}</p>"))] for clip in dataset.clips})

    @classmethod
    def overview(cls, page, studies):
        yield Part(Markup(f"<p>toy on the overview of {len(studies)}</p>"))

    @classmethod
    def search(cls, index, studies):
        index.words.append(["toy", "a toy", "toy/toy-net.html", []])


EMPTY = {"title": "Toy", "studies": [], "rows": "", "listed": 0, "count": 0, "pages": 0}
'''


def package(folder: Path, entry: str, code: str = TOY) -> None:
    """A package as pip would leave it."""
    about = folder / "auricle_toy-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: auricle-toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[auricle.topics]\ntoy = {entry}\n")
    (folder / "auricle_toy.py").write_text(code)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that packages are found in."""
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield tmp_path / "packages"
    sys.modules.pop("auricle_toy", None)


def texts(site: Path, pattern: str) -> list[str]:
    found = [path.read_text("utf-8") for path in sorted(site.glob(pattern))]
    assert found
    return found


def test_a_topic_of_a_package_is_on_every_kind_of_page(built, folder, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(built[1], site)
    package(folder, "auricle_toy:Toy")
    assert [topic.__name__ for topic in topics.installed()[-2:]] == [topics.BUILT_IN[-1].__name__, "Toy"]
    # A topic that is new has its pages written, on a site that was up to date.
    assert atlas.build(built[0], site).written > 0
    [overview] = texts(site, "index.html")
    assert "<p>toy on the overview of 3</p>" in overview
    for text in texts(site, "networks/*/index.html"):
        assert 'id="toy">toy on a network of ' in text
        assert '<a href="#toy">a toy</a>' in text
        assert '"toy":[{"x":1}]' in text
    for text in texts(site, "networks/*/*/index.html"):
        assert "<p>toy on layer " in text
        assert f'<td class="find">{escape("a <toy>")}</td>' in text
        assert "<th><button>Toy</button></th>" in text
    assert all("<p>toy on neuron " in text for text in texts(site, "networks/*/*/0*.html"))
    for text in texts(site, "datasets/*/classes/*/*.html"):
        assert text.count("<p>toy on class ") == text.count("<p>toy below class ") >= 1
    assert all("<p>toy on clip " in text for text in texts(site, "datasets/*/clips/*.html"))
    assert len(texts(site, "toy/*.html")) == 3
    assert '["toy","a toy","toy/toy-net.html",[]]' in (site / "search.js").read_text("utf-8")
    assert atlas.build(built[0], site).written == 0
    # The topic's own code and SQL are part of what the site follows from; without it, all is as it was.
    (folder / "auricle_toy.py").write_text(TOY.replace("toy on layer", "toy lies on layer"))
    sys.modules.pop("auricle_toy")
    assert atlas.build(built[0], site).written == len(texts(site, "networks/*/*/index.html"))
    shutil.rmtree(folder)
    atlas.build(built[0], site)
    for path in (path for path in built[1].rglob("*") if path.is_file() and path.name != "manifest.json"):
        assert path.read_bytes() == (site / path.relative_to(built[1])).read_bytes()
    assert not (site / "toy").exists()


@pytest.mark.parametrize(
    ("entry", "said"), [("auricle_toy:Nothing", "cannot be loaded"), ("auricle_nowhere:Toy", "cannot be loaded"), ("auricle_toy:EMPTY", "no subclass")]
)  # fmt: skip
def test_what_is_no_topic_is_one_line(built, folder, tmp_path, entry, said):
    package(folder, entry)
    with pytest.raises(UserError, match=said) as error:
        atlas.build(built[0], tmp_path / "site")
    assert "\n" not in str(error.value)
    assert entry in str(error.value)
    assert not (tmp_path / "site").exists()


def test_a_place_that_a_page_has_not_is_an_error(built, folder, tmp_path):
    package(folder, "auricle_toy:Toy", TOY.replace('"detectors")', '"nowhere")'))
    with pytest.raises(KeyError, match="nowhere"):
        atlas.build(built[0], tmp_path / "site")
