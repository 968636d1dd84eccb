"""Pages of clusters, and what pages of layers, networks, classes and neurons say of clusters, probes and interventions."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape

import duckdb
import numpy as np
import pytest

from ingest.stages import Context, specificity
from report import site as atlas
from report.parts import svg
from report.topics.interventions import interval
from tests.report.conftest import SCRIPT
from tests.report.test_atlas import Page, test_every_link_and_source_resolves, test_names_stay_text, test_search_index_points_at_pages, tree

pytestmark = pytest.mark.slow


def query(warehouse, sql, *values):
    with duckdb.connect(str(warehouse), read_only=True) as con:
        return con.execute(sql, list(values)).fetchall()


def cells(path):
    """Text of a page with a space for every tag."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", path.read_text("utf-8"))).split())


def folder_of(site, warehouse, layer, kind):
    """Folder of a layer, by the links on the network's page."""
    listed = (site / "networks/toy-net/index.html").read_text("utf-8")
    found = re.search(rf'href="([^"/]+)/index.html">{layer}</a></th><td>{kind}', listed)
    assert found
    return site / "networks/toy-net" / found[1]


def shown(warehouse):
    """(layer, kind, partition, number, cluster) of all clusters that must have a page."""
    return query(
        warehouse,
        """SELECT layer.name, kind, partition, number, cluster_id FROM cluster JOIN layer USING (layer_id)
           WHERE is_chosen OR cluster_id IN (SELECT cluster_id FROM intervention) ORDER BY cluster_id""",
    )


def test_every_chosen_and_every_disturbed_cluster_has_a_page(clustered):
    warehouse, site, _ = clustered
    expected = {
        str(folder_of(site, warehouse, layer, kind) / f"cluster-{partition}-{number:04d}.html")
        for layer, kind, partition, number, _ in shown(warehouse)
    }
    assert {str(path) for path in site.glob("networks/*/*/cluster-*.html")} == expected
    assert len(expected) > 8


def test_links_and_names_hold_with_clusters(clustered):
    test_every_link_and_source_resolves(clustered)
    test_names_stay_text(clustered)
    test_search_index_points_at_pages(clustered)


def pages_of(clustered, where):
    warehouse, site, _ = clustered
    rows = query(warehouse, f"""SELECT layer.name, kind, partition, number, cluster_id FROM cluster JOIN layer USING (layer_id)
                                WHERE ({where}) AND (is_chosen OR cluster_id IN (SELECT cluster_id FROM intervention)) ORDER BY 5""")  # fmt: skip
    for layer, kind, partition, number, cluster_id in rows:
        yield cluster_id, Page(folder_of(site, warehouse, layer, kind) / f"cluster-{partition}-{number:04d}.html")


def test_cluster_page_says_what_it_must(clustered):
    warehouse, _, _ = clustered
    found = list(pages_of(clustered, "layer.name = 'conv/1' AND kind = 'channel' AND is_chosen"))
    assert found
    for cluster_id, page in found:
        [(number, neurons, ratio, first, share)] = query(warehouse, """
            SELECT number, neurons, class_entropy_ratio, first_class, (SELECT max(activation) / sum(activation) FROM ccav WHERE cluster_id = c.cluster_id)
            FROM v_cluster c WHERE cluster_id = ?""", cluster_id)  # fmt: skip
        assert f"conv/1 · cluster {number}" in page.text
        assert f"First class: {' '.join(first.split())}, with {100 * share:.1f} %" in page.text
        assert f"SEnt {svg.number(ratio)}" in page.text
        assert "PEnt" not in page.text
        for heading in ("Sounds that move it most", "Classes", "Entropies", "Its neurons"):
            assert heading in page.text
        assert len([1 for tag, _ in page.elements if tag == "audio"]) == 12
        assert "stage clusters: toy net" in page.text
        assert f"group {SCRIPT}" in page.text
        assert [a["class"] for tag, a in page.elements if tag == "span" and a.get("class", "").startswith("swatch k")][:2] == [
            "swatch k0",
            "swatch k1",
        ]
        members = query(
            warehouse, "SELECT unit FROM cluster_member JOIN neuron USING (neuron_id) WHERE cluster_id = ? ORDER BY 1", cluster_id
        )
        linked = [int(m[1]) for link in page.links if (m := re.fullmatch(r"(\d{4})\.html", link))]
        assert linked == [unit for (unit,) in members]
        assert len(linked) == neurons


def test_values_of_both_signs_have_no_shares(clustered):
    found = list(pages_of(clustered, "layer.name = 'signed' AND class_entropy_bits IS NULL"))
    assert found
    for _, page in found:
        assert "is undefined where activations have both signs" in page.text
        assert "Share, %" not in page.text


def test_positions_are_mapped_instead_of_linked(clustered):
    found = list(pages_of(clustered, "kind = 'position'"))
    assert found
    for _, page in found:
        assert "Its neurons" not in page.text
        assert "Where its neurons are" in page.text
        assert "8 × 6 positions" in page.text
        assert [a for tag, a in page.elements if a.get("class") == "plane"]


def test_disturbed_clusters_show_their_loss(clustered):
    warehouse = clustered[0]
    disturbed = {c for (c,) in query(warehouse, "SELECT DISTINCT cluster_id FROM intervention")}
    assert len(disturbed) == 3
    for cluster_id, page in pages_of(clustered, "true"):
        assert ("What the network loses without it" in page.text) == (cluster_id in disturbed)
        if cluster_id in disturbed:
            # 4 of 10 clips of the first class, 2 of the second; the control loses 0, 1, 0, 1 clips: 5 points, t(3) * 5.774 / 2 either side
            assert "40.0040.00 to 40.005.00−4.19 to 14.19" in page.text
            assert "4 others" in page.text
            assert "stage interventions" in page.text


def test_levels_link_to_each_other_where_both_have_pages(clustered):
    warehouse = clustered[0]
    pages = dict(pages_of(clustered, "true"))
    pairs = [
        (c, p)
        for c, p in query(warehouse, "SELECT cluster_id, parent_id FROM cluster WHERE parent_id IS NOT NULL")
        if c in pages and p in pages
    ]
    assert pairs
    for child, parent in pairs:
        assert "Within cluster" in pages[child].text
        assert "Holds " in pages[parent].text


def test_layer_page_lists_clusters_and_probes(clustered):
    warehouse, site, _ = clustered
    page = Page(path := folder_of(site, warehouse, "conv/1", "channel") / "index.html")
    files = {f"cluster-{p}-{n:04d}.html" for layer, kind, p, n, _ in shown(warehouse) if (layer, kind) == ("conv/1", "channel")}
    assert files <= set(page.links)
    [(correct, total)] = query(warehouse, """SELECT sum(correct), sum(total) FROM probe JOIN layer USING (layer_id)
        WHERE layer.name = 'conv/1' AND kind = 'channel' AND method = 'linear' AND run_id = (SELECT max(run_id) FROM probe)""")  # fmt: skip
    assert f"linear {100 * correct / total:.1f}" in cells(path)
    assert f"{correct} of {total}" in page.text
    assert "Chance is 16.7 %" in page.text
    positions = Page(folder_of(site, warehouse, "conv/1", "position") / "index.html")
    assert "Clusters" in positions.text
    assert "PEnt" in positions.text


def test_network_page_has_the_probe_curve_and_interventions(clustered):
    text = (clustered[1] / "networks/toy-net/index.html").read_text("utf-8")
    rows = json.loads(re.search(r"AURICLE_ROWS=(.*?)</script>", text)[1])["probes"]
    assert {row["series"] for row in rows} == {"best k", "k = 1", "linear"}
    assert {row["layer"] for row in rows} == {"conv/1", "signed", "output"}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows)
    for layer in {row["layer"] for row in rows}:
        value = {row["series"]: row["value"] for row in rows if row["layer"] == layer}
        assert value["best k"] >= value["k = 1"]
    page = cells(clustered[1] / "networks/toy-net/index.html")
    assert "What it loses when clusters are disturbed" in page
    assert "conv/1 first 3 3 40.00 5.00 35.00 35.00 to 35.00 0.250" in page


def test_class_page_has_a_path_and_a_neuron_its_cluster(clustered):
    warehouse, site, _ = clustered
    page = cells(next(iter(site.glob("datasets/*/classes/category/dog.html"))))
    assert "toy net: path through its clusters" in page
    rows = query(warehouse, """
        SELECT layer.name, kind, arg_max(number, {s: share, n: -number}), max(share) FROM (
            SELECT cluster_id, layer_id, number, class_id, activation / sum(activation) OVER (PARTITION BY cluster_id) AS share
            FROM ccav JOIN cluster USING (cluster_id) WHERE is_chosen AND class_entropy_bits IS NOT NULL)
        JOIN class USING (class_id) JOIN layer USING (layer_id) WHERE class.name = 'dog' GROUP BY ALL""")  # fmt: skip
    assert len(rows) >= 3
    for layer, kind, number, share in rows:
        place = " positions" if kind == "position" else ""
        assert re.search(rf"{layer}{place} · cluster {number} \d+ {100 * share:.1f}", page)
    unit, partition, number = query(warehouse, """SELECT unit, partition, number FROM cluster_member JOIN cluster USING (cluster_id)
        JOIN neuron USING (neuron_id) JOIN layer ON layer.layer_id = cluster.layer_id WHERE is_chosen AND layer.name = 'output' LIMIT 1""")[0]  # fmt: skip
    neuron = Page(site / f"networks/toy-net/output/{unit:04d}.html")
    assert any(link.endswith(f"/output/cluster-{partition}-{number:04d}.html") for link in neuron.links)


def test_search_index_names_clusters(clustered):
    text = (clustered[1] / "search.js").read_text("utf-8")
    index = json.loads(text.removeprefix("AURICLE_SEARCH=").rstrip(";\n"))
    dog = next(entry for entry in index["classes"] if entry[0] == "dog")
    assert len(dog[4]) >= 3
    assert all((clustered[1] / page).is_file() for _, _, page, _ in dog[4])


def test_second_report_with_clusters_rewrites_nothing(clustered, tmp_path):
    warehouse, site, made = clustered
    shutil.copytree(site, tmp_path / "site")
    before = tree(tmp_path / "site")
    again = atlas.build(warehouse, tmp_path / "site")
    assert tree(tmp_path / "site") == before
    assert (again.written, again.media) == (0, 0)
    (tmp_path / "site/manifest.json").unlink()
    rendered = atlas.build(warehouse, tmp_path / "site")
    assert (rendered.written, rendered.unchanged) == (0, made.written)


def test_runs_that_are_not_finished_are_not_shown(clustered, tmp_path):
    warehouse = tmp_path / "small.duckdb"
    shutil.copy(clustered[0], warehouse)
    with duckdb.connect(str(warehouse)) as con:
        con.execute("UPDATE run SET status = 'running', finished_at = NULL WHERE stage IN ('clusters', 'probes', 'interventions')")
    atlas.build(warehouse, tmp_path / "site")
    assert not list((tmp_path / "site").glob("networks/*/*/cluster-*.html"))
    assert "probes" not in Page(tmp_path / "site/networks/toy-net/index.html").ids
    test_every_link_and_source_resolves((warehouse, tmp_path / "site"))


@pytest.mark.parametrize(("count", "half"), [(2, 12.706), (10, 2.262), (31, 2.042), (1000, 1.96)])
def test_interval_is_students(count, half):
    mean, low, high = interval(1.0, float(np.sqrt(count)), count)
    assert (mean, low, high) == pytest.approx((1.0, 1 - half, 1 + half))
    assert interval(1.0, None, 1) == (1.0, None, None)


def test_a_plane_has_time_to_the_right_and_frequency_upwards():
    counts = np.zeros((4, 3), int)
    counts[3, 2] = 2
    drawing = svg.plane(counts)
    assert 'viewBox="0 0 4 3"' in drawing
    assert 'fill-opacity="1.00" d="M3 0h1v1h-1z"' in drawing
    assert 'viewBox="0 0 63 10"' in svg.plane(np.ones((500, 10), int))


def test_positions_specific_to_a_class_have_no_page_to_link_to(clustered, tmp_path):
    warehouse = tmp_path / "small.duckdb"
    shutil.copy(clustered[0], warehouse)
    shutil.copytree(clustered[0].parent / "a", tmp_path / "a")
    with duckdb.connect(str(warehouse)) as con:
        [(positions,)] = con.execute(
            "SELECT run_id FROM run WHERE stage = 'activations' AND parameters::JSON ->> 'positions' = 'true'"
        ).fetchall()
        con.execute("UPDATE dataset SET source = ?", [str(clustered[0].parent / "sounds")])
    specificity.run(
        Context(warehouse, None, {}.get, runs={"activations": positions}), specificity.Settings(lowest_entropy=0.5, class_quantile=0.5)
    )
    with duckdb.connect(str(warehouse), read_only=True) as con:
        assert con.execute("SELECT count(*) > 0 FROM specific_neuron WHERE measure = 'aape'").fetchall() == [(True,)]
    atlas.build(warehouse, tmp_path / "site")
    for page in (tmp_path / "site" / "datasets").glob("*/classes/*/*.html"):
        assert "Specific by" not in page.read_text("utf-8")


def test_headings_name_the_derived_tables_that_a_served_page_opens(clustered):
    text = (clustered[1] / "networks" / "toy-net" / "index.html").read_text()
    for name in ("probes", "entropies", "interventions intervention_classes"):
        assert f'data-derived="{name}"' in text
