"""The stages probes, clusters and interventions on a small network: every stored number against a plain computation."""

import shutil
from dataclasses import replace

import duckdb
import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from analyze import tables
from ingest.methods.clusters import finch
from ingest.run import run_study
from ingest.sounds.readers import read_dataset
from ingest.stages import activations, interventions, probes
from ingest.stages.recorded import read_recorded
from ingest.study import DatasetChoice, NetworkChoice, Study
from tests.small import Lines, Silent, planted_network, write_label_map, write_sounds
from warehouse import store
from warehouse.check import check
from warehouse.store import UserError

pytestmark = pytest.mark.slow

SPEC = f"{__file__.rpartition('/ingest/')[0]}/small.py:planted_network"
REPEATS = 3


def study(folder, stages=("probes", "clusters", "interventions"), **options):
    disturbed = interventions.Settings(repeats=REPEATS, label_map=folder / "map.csv", **options)
    dataset = DatasetChoice("folder", folder / "sounds", "sounds")
    return Study(
        (dataset,), (NetworkChoice(SPEC),), stages, {"activations": activations.Settings(device="cpu", batch=4), "interventions": disturbed}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    write_sounds(folder / "sounds")
    write_label_map(folder / "map.csv")
    run_study(folder / "w.duckdb", study(folder), Silent())
    con = duckdb.connect(str(folder / "w.duckdb"), read_only=True)
    yield con, folder
    con.close()


def test_the_warehouse_is_sound_and_a_second_time_nothing_is_done(made):
    con, folder = made
    con.close()
    before = store.sha256_file(folder / "w.duckdb")
    run_study(folder / "w.duckdb", study(folder), Silent())
    assert store.sha256_file(folder / "w.duckdb") == before
    assert list(check(folder / "w.duckdb")) == []
    assert not list(folder.rglob("*.tmp"))


@pytest.fixture
def con(made):
    with duckdb.connect(str(made[1] / "w.duckdb"), read_only=True) as con:
        yield con


@pytest.fixture
def recorded(made):
    return read_recorded(made[1] / "w.duckdb", 2)


def test_probe_counts_are_those_of_scikit_learn(con, recorded):
    assert recorded.drawn_folds
    assert sorted(np.bincount(recorded.folds)[1:]) == [6] * 5
    for layer in recorded.layers:
        points = np.asarray(layer.matrix(), dtype=np.float64).T
        for k in (1, 4, 20):
            right = 0
            for fold in range(1, 6):
                inside = recorded.folds == fold
                model = KNeighborsClassifier(k, algorithm="brute").fit(points[~inside], recorded.labels[~inside])
                right += int((model.predict(points[inside]) == recorded.labels[inside]).sum())
            [(correct, total)] = con.execute(
                "SELECT sum(correct), sum(total) FROM probe WHERE layer_id = ? AND method = 'knn' AND k = ?", [layer.layer_id, k]
            ).fetchall()
            assert (correct, total) == (right, 30)
    assert con.execute("SELECT count(*) FROM probe WHERE k > 24").fetchall() == [(0,)]
    assert len(con.execute("SELECT reason FROM failure WHERE stage = 'probes' AND reason LIKE '%24 training clips%'").fetchall()) == 4


def test_clusters_are_those_of_finch_and_the_sums_agree(con, recorded):
    for layer in recorded.layers:
        matrix = np.asarray(layer.matrix(), dtype=np.float64)
        alive = np.flatnonzero((matrix != 0).any(axis=1))
        for level, assigned in enumerate(finch(layer.matrix()[alive])):
            rows = con.execute(
                """SELECT number, list(neuron_id ORDER BY neuron_id), any_value(cluster_id), any_value(parent_id) FROM cluster
                JOIN cluster_member USING (cluster_id) WHERE layer_id = ? AND partition = ? GROUP BY number ORDER BY number""",
                [layer.layer_id, level],
            ).fetchall()
            assert len(rows) == assigned.max() + 1
            for number, neurons, cluster_id, parent_id in rows:
                inside = alive[assigned == number]
                assert neurons == (layer.first_neuron_id + inside).tolist()
                found = dict(con.execute("SELECT class_id, activation FROM ccav WHERE cluster_id = ?", [cluster_id]).fetchall())
                for index, class_id in enumerate(recorded.class_ids):
                    wanted = matrix[inside][:, recorded.labels == index].mean(axis=0).sum()
                    assert found[int(class_id)] == pytest.approx(wanted, abs=1e-9)
                top = con.execute("SELECT clip_id FROM cluster_clip WHERE cluster_id = ? ORDER BY rank", [cluster_id]).fetchall()
                order = np.lexsort((recorded.clip_ids, -matrix[inside].mean(axis=0)))[: len(top)]
                assert [clip for (clip,) in top] == recorded.clip_ids[order].tolist()
                if parent_id:
                    held = con.execute("SELECT neuron_id FROM cluster_member WHERE cluster_id = ?", [parent_id]).fetchall()
                    assert set(neurons) <= {neuron for (neuron,) in held}
    assert (
        con.execute("SELECT layer_id FROM cluster WHERE is_chosen GROUP BY layer_id HAVING count(DISTINCT partition) <> 1").fetchall() == []
    )


def test_negative_values_have_no_entropy(con):
    assert con.execute(
        """SELECT count(*) FROM cluster JOIN layer USING (layer_id) WHERE class_entropy_bits IS NOT NULL AND cluster_id IN
        (SELECT cluster_id FROM ccav WHERE activation < 0)"""
    ).fetchall() == [(0,)]


def test_the_undisturbed_readout_is_that_of_the_network(con, recorded, made):
    network = planted_network()
    listing = read_dataset("folder", made[1] / "sounds", "sounds")
    from ingest.sounds.sound import load

    paths = {entry.name: entry.path for entry in listing.entries}
    waveforms = np.stack([load(paths[name], sample_rate_hz=8000, clip_s=1.0)[0] for name in recorded.clip_names])
    outputs = network.forward(network.prepare(torch.from_numpy(waveforms))).numpy()
    names = np.array(network.output_names)[outputs.argmax(axis=1)]
    for index, class_id in enumerate(recorded.class_ids):
        inside = recorded.labels == index
        row = con.execute("SELECT correct, total FROM readout WHERE class_id = ?", [int(class_id)]).fetchall()
        assert row == [(int((names[inside] == recorded.class_names[index]).sum()), int(inside.sum()))]


def test_interventions_have_all_their_rows_and_a_control(con):
    rows = con.execute(
        """SELECT cluster_id, target, count(DISTINCT repetition), count(DISTINCT class_id), count(*) FROM intervention
        GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    assert rows
    assert all(row[2:] == (REPEATS, 3, 3 * REPEATS) for row in rows)
    assert {row[0] for row in rows if row[1] == "cluster"} == {row[0] for row in rows if row[1] == "control"}


def test_derived_tables(con):
    probes = tables.table(con, "probes")
    assert probes.filter(method="knn", k=1).height == 2
    assert (probes["low"] <= probes["accuracy"]).all()
    assert (probes["accuracy"] <= probes["high"]).all()
    clusters = tables.table(con, "clusters")
    assert clusters.select("neurons", "dead").rows() == [(24, 0), (2, 1)]
    boxes = tables.table(con, "entropies")  # of channels: no PEnt, no CEnt
    assert boxes.select("layer", "kind", "entropy").rows()[0] == ("bands", "channel", "SEnt")
    ratios = con.execute(
        "SELECT class_entropy_ratio FROM cluster JOIN layer USING (layer_id) WHERE is_chosen AND name = 'bands'"
    ).fetchnumpy()
    drawn = boxes.row(0, named=True)
    quantiles = np.quantile(np.ma.compressed(ratios["class_entropy_ratio"]), [0, 0.25, 0.5, 0.75, 1])
    assert [drawn[name] for name in ("minimum", "quantile_25", "median", "quantile_75", "maximum")] == pytest.approx(quantiles)
    effects = tables.table(con, "interventions")
    assert set(effects["classes"]) == {"first", "second", "others"}
    assert ((effects["p_value"] >= 0) & (effects["p_value"] <= 1)).all()
    [(wanted,)] = con.execute(
        """SELECT avg(drop) FROM (SELECT cluster_id, 100.0 * (any_value(r.correct) - avg(i.correct)) / any_value(r.total) AS drop
        FROM intervention i JOIN readout r USING (run_id, class_id) JOIN ccav USING (cluster_id, class_id)
        WHERE target = 'cluster' AND ccav.activation = (SELECT max(activation) FROM ccav c WHERE c.cluster_id = i.cluster_id)
        GROUP BY cluster_id)"""
    ).fetchall()
    first = effects.filter(classes="first")
    assert (first["selected"] * first["clusters"]).sum() / first["clusters"].sum() == pytest.approx(wanted)


def test_a_label_map_of_another_data_set_is_refused(tmp_path):
    write_sounds(tmp_path / "sounds", clips=6)
    (tmp_path / "map.csv").write_text("class,names\nlow,trombone\n")
    with pytest.raises(UserError, match="trombone"):
        run_study(tmp_path / "w.duckdb", study(tmp_path), Silent())


def test_zeroing_the_neurons_that_carry_a_class_costs_that_class_and_no_other(made, tmp_path):
    write_sounds(tmp_path / "sounds")
    write_label_map(tmp_path / "map.csv")
    run_study(tmp_path / "w.duckdb", study(tmp_path, mode="zero"), Silent())
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        rows = con.execute(
            """SELECT class.name, any_value(readout.correct), max(intervention.correct) FROM intervention
            JOIN readout USING (run_id, class_id) JOIN class USING (class_id)
            WHERE target = 'cluster' AND cluster_id = (SELECT cluster_id FROM cluster WHERE partition = 0 AND cluster_id IN
                (SELECT cluster_id FROM cluster_member JOIN neuron USING (neuron_id) GROUP BY ALL HAVING list_sort(list(unit)) = [0, 1, 2, 3]))
            GROUP BY class.name ORDER BY class.name"""
        ).fetchall()
    assert rows == [("high", 10, 10), ("low", 10, 0), ("noise", 9, 9)]  # one clip of noise is silent


def test_a_linear_head_reads_networks_without_a_classifier(tmp_path):
    write_sounds(tmp_path / "sounds")
    write_label_map(tmp_path / "map.csv")
    with pytest.raises(UserError, match="reads no text"):
        run_study(tmp_path / "w.duckdb", study(tmp_path, readout="zero-shot"), Silent())
    run_study(tmp_path / "w.duckdb", study(tmp_path, readout="linear", layers=("bands",)), Silent())
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        rows = con.execute("SELECT sum(correct), sum(total) FROM readout").fetchall()
        [(disturbed,)] = con.execute("SELECT count(DISTINCT cluster_id) FROM intervention").fetchall()
    assert rows[0][1] == 30
    assert rows[0][0] >= 26
    assert disturbed > 0


def test_probes_of_more_clips_than_a_matrix_holds_and_of_drawn_ones(made, tmp_path, monkeypatch):
    """The same counts by blocks; a layer that products would not hold is a failure; runs from before keep all their clips."""
    _, folder = made
    shutil.copytree(folder, tmp_path / "w")
    folder = tmp_path / "w"
    only = study(folder, ("probes",))
    monkeypatch.setattr(probes, "DRAWN_CLIPS", 20)
    lines = Lines()
    run_study(folder / "w.duckdb", only, lines)
    assert "nothing to do" in lines.said[-1]
    monkeypatch.setattr(probes, "MATRIX_CLIPS", 10)
    monkeypatch.setattr(probes, "PRODUCT_CLIPS", 10)
    monkeypatch.setattr(probes, "STANDARDISED_NEURONS", 10)
    run_study(folder / "w.duckdb", replace(only, settings={**only.settings, "probes": probes.Settings(clips=25)}), Silent())
    monkeypatch.setattr(probes, "CODE_VERSION", 2)
    run_study(folder / "w.duckdb", only, Silent())
    monkeypatch.setattr(probes, "DRAWN_CLIPS", 30)
    monkeypatch.setattr(probes, "CODE_VERSION", 3)
    run_study(folder / "w.duckdb", only, Silent())
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        runs = con.execute("SELECT run_id, parameters::JSON ->> 'clips' FROM run WHERE stage = 'probes' ORDER BY run_id").fetchall()
        assert [clips for _, clips in runs] == [None, "25", "20", None]
        first, _, _, blocks = (run for run, _ in runs)
        counted = "SELECT * EXCLUDE run_id FROM probe WHERE run_id = ? AND (method = 'knn' OR layer_id = 2) ORDER BY ALL"
        assert con.execute(counted, [first]).fetchall() == con.execute(counted, [blocks]).fetchall() != []
        totals = con.execute("SELECT run_id, sum(total) FROM probe WHERE method = 'knn' AND k = 1 AND layer_id = 1 GROUP BY 1 ORDER BY 1")
        assert [total for _, total in totals.fetchall()] == [30, 25, 20, 30]
        assert con.execute("SELECT DISTINCT layer_id FROM probe WHERE method = 'linear' AND run_id = ?", [blocks]).fetchall() == [(2,)]
        refused = con.execute("SELECT reason FROM failure WHERE run_id = ? AND item = 'bands, linear'", [blocks]).fetchall()
        assert refused == [("24 neurons on 30 clips: draw up to 10 clips",)]
    assert list(check(folder / "w.duckdb")) == []
