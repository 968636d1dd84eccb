"""Runs of a stage that differ in parameters stand side by side in derived tables and on pages, each with its parameters named."""

import json
import re

import duckdb
import pytest

from analyze import tables
from ingest.run import run_study
from ingest.study import make_study
from report.site import build
from tests.small import Silent, write_label_map, write_sounds
from warehouse import ledger, store

pytestmark = pytest.mark.slow

SPEC = f"{__file__.rpartition('/')[0]}/small.py:twice_network"


def study(folder, positions=False, ks=(1, 3), mode="resample"):
    table = {
        "stages": ["probes", "clusters", "interventions"], "dataset": [{"reader": "folder", "source": "sounds", "name": "sounds"}],
        "network": [{"name": SPEC, "positions": positions}], "activations": {"device": "cpu", "batch": 4}, "probes": {"ks": list(ks)},
        "interventions": {"largest": 2, "repeats": 2, "mode": mode},
    }  # fmt: skip
    return make_study(table, "study", folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    write_sounds(folder / "sounds")
    write_label_map(folder / "map.csv")
    for options in ({}, {"ks": (1, 4)}, {"mode": "zero"}, {"positions": True}):
        run_study(folder / "w.duckdb", study(folder, **options), Silent())
    return folder


@pytest.fixture
def con(made):
    with duckdb.connect(str(made / "w.duckdb"), read_only=True) as con:
        yield con


def test_no_run_hides_another_and_each_names_its_parameters(con):
    said = {
        name: {row["run_id"]: row["parameters"] for row in tables.table(con, name).to_dicts()}
        for name in (
            "probes",
            "clusters",
            "entropies",
            "interventions",
            "intervention_classes",
            "intervention_clusters",
            "layers",
            "networks",
            "tasks",
        )
    }
    assert list(said["probes"].values()) == [
        "activations.positions = false, ks = [1,3]", "activations.positions = false, ks = [1,4]", "activations.positions = true, ks = [1,3]",
    ]  # fmt: skip
    assert list(said["tasks"].values()) == list(said["probes"].values())
    beside = ["activations.positions = false", "activations.positions = true"]
    assert list(said["clusters"].values()) == list(said["entropies"].values()) == beside
    assert list(said["layers"].values()) == list(said["networks"].values()) == ["positions = false", "positions = true"]
    modes = ['activations.positions = false, mode = "resample"', 'activations.positions = false, mode = "zero"']
    for name in ("interventions", "intervention_classes", "intervention_clusters"):
        assert list(said[name].values()) == [*modes, 'activations.positions = true, mode = "resample"'], name
    rows = tables.table(con, "clusters").filter(tables.table(con, "clusters")["parameters"] == beside[1])
    assert rows["kind"].to_list() == ["position", "position", "unit"]


def test_every_table_of_runs_names_their_parameters(con):
    for name in tables.names():
        columns = tables.table(con, name).columns
        if "run_id" in columns:
            assert columns.index("parameters") == columns.index("run_id") - 1, name
            assert "v_run" in tables.sql(name), name


def test_layers_are_summed_early_later_and_all(con):
    rows = tables.table(con, "interventions").to_dicts()
    run = min(row["run_id"] for row in rows)
    one = {(row["layer"], row["classes"]): row for row in rows if row["run_id"] == run}
    assert {layer for layer, _ in one} == {"bands", "again", "early layers", "later layers", "all layers"}
    for classes in ("first", "second", "others"):
        first, second, both = (one[layer, classes] for layer in ("bands", "again", "all layers"))
        assert (one["early layers", classes]["selected"], one["later layers", classes]["selected"]) == (
            first["selected"],
            second["selected"],
        )
        for column in ("selected", "control", "size", "class_entropy_ratio"):
            total = first["clusters"] * first[column] + second["clusters"] * second[column]
            assert both[column] == pytest.approx(total / (first["clusters"] + second["clusters"]))
    clusters = [row for row in tables.table(con, "intervention_clusters").to_dicts() if row["run_id"] == run]
    for column in ("first", "second", "others"):
        mean = sum(row[f"{column}_drop"] for row in clusters) / len(clusters)
        assert one["all layers", column]["selected"] == pytest.approx(mean)


def test_accuracy_by_class_is_that_of_the_stored_counts(con):
    rows = tables.table(con, "intervention_classes").to_dicts()
    for row in rows:
        asked = [row["run_id"], row["class_id"]]
        [(correct, total)] = con.execute("SELECT correct, total FROM readout WHERE run_id = ? AND class_id = ?", asked).fetchall()
        counts = [correct]
        if row["changed"] != "none":
            query = "SELECT correct FROM intervention WHERE run_id = ? AND class_id = ? AND cluster_id = ? AND target = ?"
            counts = [count for (count,) in con.execute(query, [*asked, row["cluster_id"], row["changed"]]).fetchall()]
        assert row["accuracy"] == pytest.approx(sum(counts) / len(counts) / total)
        assert row["low"] - 1e-6 <= row["accuracy"] <= row["high"] + 1e-6
        assert row["repetitions"] == len(counts)
    assert {row["changed"] for row in rows} == {"none", "cluster", "control"}


def test_pages_show_every_run_under_its_parameters(made):
    build(made / "w.duckdb", made / "site")
    page = (made / "site/networks/planted/index.html").read_text()
    for text in ("ks = [1,4]", "ks = [1,3]", "mode = &#34;zero&#34;", "activations.positions = true"):
        assert text in page
    rows = json.loads(re.search(r"AURICLE_ROWS=(.*?)</script>", page)[1])
    assert len([name for name in rows if name.startswith("probes")]) == 3
    for name in re.findall(r'data-rows="([^"]+)"', page):
        assert rows[name], name
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    # The layer of single units was clustered twice: its newest clusters have the short addresses.
    assert list((made / "site/networks/planted/logits").glob("cluster-*~run-*.html"))
    pages = [path for path in (made / "site").rglob("*.html")]
    for path in pages:
        for link in re.findall(r'href="([^"#:]+\.html)', path.read_text()):
            assert (path.parent / link).exists(), f"{path}: {link}"
    assert any(
        "Class by class" in path.read_text() and "mode = &#34;zero&#34;" in path.read_text() for path in pages if "cluster-" in path.name
    )


def test_of_equal_parameters_the_newest_run_stands_for_all(tmp_path):
    store.create(tmp_path / "w.duckdb")
    seen = []
    for sha, version, choices in (("a", 1, ([1], [2])), ("a", 2, ([1],)), ("b", 2, ([2],))):
        for ks in choices:
            begun = ledger.begin(
                tmp_path / "w.duckdb", "probes", parameters={"dataset": "sounds", "network": "n", "ks": ks, "activations": "0" * 64}, code_version=version,
                dataset_sha256=sha,
            )  # fmt: skip
            begun.finish()
            with store.connect_readonly(tmp_path / "w.duckdb") as con:
                seen.append(con.execute("SELECT run_id, parameters FROM v_run WHERE is_latest ORDER BY 1").fetchall())
    assert seen == [
        [(1, None)],
        [(1, "ks = [1]"), (2, "ks = [2]")],
        [(2, "ks = [2]"), (3, "ks = [1]")],  # the stage's code changed
        [(4, None)],  # and so did the data set: what is known of its earlier content is no longer shown
    ]
