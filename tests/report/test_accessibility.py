"""Every kind of page keeps the rules of axe-core, in light and dark, and on a phone."""

from __future__ import annotations

import json
import os

import pytest

from ingest.networks import fetch
from report.rating import build_rating
from report.site import build
from tests.report import small_warehouse as small
from tests.test_before import unpacked
from warehouse import store
from warehouse.store import UserError

pytestmark = pytest.mark.slow

AXE = fetch.Source(
    license="MPL-2.0 (Deque Systems)",
    distribution="axe-playwright-python",
    version="0.1.8",
    sha256="fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8",
    folder="axe_playwright_python/",
)
"""A wheel that carries axe-core 4.12; nothing else of it is used."""
KINDS = {
    "built": (
        "index.html", "networks/toy-net/index.html", "networks/toy-net/conv2/index.html", "networks/toy-net/conv2/0000.html",
        "networks/toy-net/output/0003.html", "networks/signed/only/index.html", "datasets/seven/index.html",
        "datasets/*/classes/a-b/x.html", "datasets/seven/clips/*.html", "runs.html", "schema.html",
    ),
    "clustered": (
        "networks/toy-net/index.html", "networks/toy-net/conv-1/index.html", "networks/toy-net/conv-1-*/index.html",
        "networks/toy-net/conv-1/cluster-0-0000.html", "networks/toy-net/signed/cluster-1-0000.html",
        "networks/toy-net/conv-1-*/cluster-0-0000.html", "networks/toy-net/conv-1/0000.html", "datasets/*/classes/category/dog.html",
    ),
    "described": (
        "index.html", "networks/toy-net/index.html", "networks/toy-net/conv-1/index.html", "networks/toy-net/conv-1/000[0-3].html",
        "concepts/index.html", "concepts/toy-net/loud.adjective.html", "unlearning/*.html", "datasets/*/clips/*.html", "cookbook.html",
    ),
    "mapped": ("networks/toy-net/map.html", "networks/toy-net/index.html", "networks/toy-net/conv-1/0000.html"),
    "earlier": (
        "networks/*/index.html", "networks/*/logits/index.html", "networks/*/logits/0000.html", "datasets/*/classes/*/low.html", "cookbook.html",
    ),
    "empty": ("index.html", "runs.html"),
    "rating": ("rating/index.html",),
}  # fmt: skip
"""By site, the addresses of its kinds of pages; of the pages that a pattern matches the first and the last are looked at."""
LOOKS = [(1280, False, {}), (1280, True, {"runOnly": ["color-contrast"]}), (390, False, {"rules": {"color-contrast": {"enabled": False}}})]
"""Width, whether it is dark, and the rules: colours are slow to look at, and the same on a phone."""


@pytest.fixture(scope="session")
def axe(browser):
    """The text of axe.min.js, fetched when it is not in the cache; where it cannot be, tests that need it are skipped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fetch.SOURCES, "axe", AXE)
        try:
            return (fetch.fetch("axe") / "axe.min.js").read_text("utf-8")
        except UserError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))


@pytest.fixture
def site(request, tmp_path):
    """The site of a name in KINDS."""
    if request.param in ("built", "clustered", "described", "mapped"):
        return request.getfixturevalue(request.param)[1]
    if request.param == "rating":
        build_rating(request.getfixturevalue("described")[0], tmp_path, 3)
        return tmp_path
    warehouse = tmp_path / "w.duckdb"
    if request.param == "earlier":
        unpacked(tmp_path)
    else:
        small.create(warehouse).close()
    with store.writer(warehouse):
        pass  # what was made by an earlier version is migrated
    build(warehouse, tmp_path / "site")
    return tmp_path / "site"


def violations(chromium, axe, rules):
    """What axe-core says of the page that is open: rule, impact, and the first elements that break it."""
    chromium.js(f"{axe};0")
    return chromium.js(
        f"""axe.run(document, {json.dumps({"resultTypes": ["violations"], **rules})}).then(found => found.violations.map(rule =>
            [rule.id, rule.impact, rule.nodes.slice(0, 3).map(node => node.html.slice(0, 200) + ' ' + node.failureSummary)]))"""
    )


def chosen(site, name):
    """The pages to look at."""
    pages = []
    for pattern in KINDS[name]:
        found = sorted(site.glob(pattern))
        assert found, pattern
        pages += [found[0], found[-1]]
    return list(dict.fromkeys(pages))


@pytest.mark.parametrize("site", KINDS, indirect=True)
def test_no_page_breaks_a_rule(site, request, browser, axe):
    broken = []
    for width, dark, rules in LOOKS:
        chromium = browser.fresh(width, 900, dark)
        for page in chosen(site, request.node.callspec.params["site"]):
            chromium.open(page)
            if charts := chromium.js("document.querySelectorAll('[data-chart]').length"):
                chromium.until(f"document.querySelectorAll('[data-chart] svg').length == {charts}")
            chromium.js("document.querySelectorAll('details').forEach(folded => folded.open = true)")
            if found := violations(chromium, axe, rules):
                broken.append((page.relative_to(site).as_posix(), width, "dark" if dark else "light", found))
    assert not broken, json.dumps(broken[:5], indent=1)


@pytest.mark.parametrize("site", ["earlier"], indirect=True)
@pytest.mark.parametrize("dark", [False, True])
def test_what_search_finds_breaks_no_rule(site, browser, axe, dark):
    chromium = browser.fresh(1280, 400, dark)
    chromium.open(site / "index.html")
    chromium.key("/")
    for typed, seen in (("low", "#hits button"), (" and nothing of the kind", "#hits .none")):
        chromium.type(typed)
        chromium.until(f"document.querySelector('{seen}') !== null")
        assert violations(chromium, axe, {}) == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_map_that_is_worked_with_breaks_no_rule(mapped, browser, axe, dark):
    for colour in ("class", "cluster", "precision"):
        chromium = browser.fresh(1280, 900, dark)
        chromium.open((mapped[1] / "networks/toy-net/map.html").resolve().as_uri() + f"#by={colour}&at={min(mapped[2])}")
        chromium.js("document.getElementById('map').focus()")
        for key in "n+l":
            chromium.key(key)
        chromium.until("document.getElementById('listed').open && document.querySelectorAll('#rows tbody tr').length > 0")
        assert violations(chromium, axe, {}) == []


def test_a_rated_group_breaks_no_rule(described, browser, axe, tmp_path):
    chromium = browser.fresh(1280, 900, True)
    chromium.open(build_rating(described[0], tmp_path, 2))
    chromium.js("document.querySelector('.skip-words').click()")
    chromium.until("document.querySelector('.after:not([hidden])') !== null")
    assert violations(chromium, axe, {}) == []
