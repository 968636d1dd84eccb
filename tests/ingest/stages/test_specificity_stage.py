"""Stage `specificity` from a study file: AAPE as published by default, on moments counted with their numbers; what of it is shared."""

import itertools
import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest
import soundfile

from analyze import tables
from ingest.methods import specificity as methods
from ingest.run import run_study
from ingest.stages.recorded import read_recorded
from ingest.stages.specificity import Settings
from ingest.study import make_study
from report import contents, site
from report.topics.sharing import Sharing
from report.topics.specificity import Specificity
from report.topics.topic import Known
from tests.small import Lines, Silent, write_sounds
from warehouse import store
from warehouse.check import check
from warehouse.store import UserError

RATE = 8000
NETWORK = '''
import torch
from torch import nn
from ingest.networks.network import Layer, Network


def levels():
    """100 tokens of 10 ms a second; a unit is above 0 where a token sounds, another where it does not, a third always."""
    module = nn.Sequential(nn.Linear(1, 3), nn.ReLU())
    with torch.no_grad():
        module[0].weight[:] = torch.tensor([[1.0], [-1.0], [0.0]])
        module[0].bias[:] = torch.tensor([-0.01, 0.01, 1.0])
    return Network(
        "levels", "test", module, sample_rate_hz=8000, clip_s=1.0, layers=[Layer("units", "1", (100, 3), "token,unit", non_negative=True)],
        prepare=lambda waveforms: waveforms.unfold(1, 80, 80).abs().amax(dim=2, keepdim=True), counts_padding=False,
    )
'''


def write(path, tokens, sounding):
    """A clip of so many tokens, of which the first ones sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.zeros(tokens * 80, dtype=np.float32)
    sound[: sounding * 80] = 0.5
    soundfile.write(path, sound, RATE)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    write(tmp_path / "sounds" / "a" / "long.wav", 100, 90)
    write(tmp_path / "sounds" / "a" / "short.wav", 10, 1)
    write(tmp_path / "sounds" / "b" / "long.wav", 100, 50)
    for tokens in (50, 40, 30):
        write(tmp_path / "sounds" / "b" / f"{tokens}.wav", tokens, tokens // 2)
    return tmp_path


def ingest(folder, stages=("specificity",), **more):
    """What was said of a study, each time as its file is read."""
    table = {
        "dataset": [{"reader": "folder", "source": "sounds", "name": "sounds"}], "network": [{"name": f"{folder}/net.py:levels"}],
        "stages": list(stages), **more,
    }  # fmt: skip
    lines = Lines()
    run_study(folder / "w.duckdb", make_study(table, "study", folder), lines)
    return lines.said


def rows(folder, sql):
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


def parameters(folder, stage="specificity"):
    return [json.loads(text) for (text,) in rows(folder, f"SELECT parameters FROM run WHERE stage = '{stage}' ORDER BY run_id")]


def test_a_clip_of_100_tokens_weighs_ten_times_one_of_10(folder):
    ingest(folder, specificity={"least_active": 0, "lowest_entropy": 1.0, "class_quantile": 0.1})
    found = dict(rows(folder, "SELECT unit, probability FROM specificity JOIN neuron USING (neuron_id)"))
    assert found == pytest.approx({0: (91 / 110 + 0.5) / 2, 1: (19 / 110 + 0.5) / 2, 2: 1}, abs=1e-3)
    value = rows(
        folder,
        """SELECT value FROM specific_neuron JOIN neuron USING (neuron_id) JOIN class USING (class_id)
        WHERE measure = 'aape' AND unit = 0 AND class.name = 'a'""",
    )
    assert value == [(pytest.approx(91 / 110, abs=1e-3),)]
    assert list(check(folder / "w.duckdb")) == []


def test_what_is_not_said_is_as_published(folder):
    ingest(folder)
    [run] = parameters(folder)
    assert (run["unit"], run["lowest_entropy"], run["with_ties"], run["moments"]) == ("moment", 0.01, False, "counted")
    assert [each.get("shares") for each in parameters(folder, "activations")] == [True]
    assert [line for line in ingest(folder) if "nothing to do" not in line] == []
    # Other stages go on from there, whether specificity is asked for or not.
    ingest(folder, stages=("probes",), probes={"ks": [1]})
    assert len(parameters(folder, "activations")) == 1


@pytest.mark.parametrize(
    ("unit", "reader", "share", "ties"),
    [("moment", "esc50", 0.02, False), ("moment", "esc50 per_class=10 seed=0", 0.02, False), ("moment", "gise-51", 0.02, False),
     ("moment", "gtzan", 0.01, False), ("clip", "gtzan", 0.02, True)],
)  # fmt: skip
def test_the_share_kept_is_the_data_set_s(unit, reader, share, ties):
    settled = Settings().settled(unit, reader)
    assert (settled.lowest_entropy, settled.with_ties) == (share, ties)
    assert Settings(lowest_entropy=0.5, with_ties=True).settled(unit, reader).lowest_entropy == 0.5


def test_activations_measured_before_are_continued_and_others_recorded_with_shares(folder):
    said = ingest(folder, activations={"shares": False})
    assert not any("no shares of moments" in line for line in said)
    # A study that says nothing goes on with what was measured by clips, and with other filters says what they count.
    assert [line for line in ingest(folder) if "nothing to do" not in line] == []
    said = ingest(folder, specificity={"class_quantile": 0.5})
    assert sum("no shares of moments, so AAPE counts clips" in line for line in said) == 1
    assert [run["unit"] for run in parameters(folder)] == ["clip", "clip"]
    assert all("moments" not in run and run["with_ties"] and run["lowest_entropy"] == 0.02 for run in parameters(folder))
    assert len(parameters(folder, "activations")) == 1
    # Asked for, they are recorded.
    ingest(folder, activations={"shares": True})
    assert [run["unit"] for run in parameters(folder)] == ["clip", "clip", "moment"]


def test_activations_recorded_for_something_else_are_recorded_again_with_shares(folder):
    ingest(folder, stages=("activations",))
    assert [each.get("shares") for each in parameters(folder, "activations")] == [None]
    said = ingest(folder)
    assert any("not run 2 again: shares was null, is true" in line for line in said)
    assert [run["unit"] for run in parameters(folder)] == ["moment"]
    ingest(folder, stages=("activations",))
    assert len(parameters(folder, "activations")) == 2


def test_only_clips_of_the_folds_are_counted(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    for number, cls in itertools.product(range(5), "ab"):
        write(tmp_path / "sounds" / cls / f"{number}.wav", 20 + 10 * number, 5 + number)
    ingest(tmp_path, specificity={"folds": [3, 1, 3], "lowest_entropy": 1.0})
    assert parameters(tmp_path)[0]["folds"] == [1, 3]
    recorded = read_recorded(tmp_path / "w.duckdb", 2)
    chosen = np.isin(recorded.folds, [1, 3])
    assert 0 < chosen.sum() < len(chosen)
    shares = np.asarray(recorded.layers[0].shares())[:, chosen]
    tokens = np.array([20 + 10 * int(Path(name).stem) for name in recorded.clip_names])[chosen]
    expected = methods.activation_probability(shares, recorded.labels[chosen], tokens).mean(axis=1)
    assert [p for (p,) in rows(tmp_path, "SELECT probability FROM specificity ORDER BY neuron_id")] == pytest.approx(
        expected.tolist(), rel=1e-6
    )
    with pytest.raises(UserError, match=r"no clip of sounds lies in the folds \[9\]: choose among 1, 2, 3, 4, 5"):
        ingest(tmp_path, specificity={"folds": [9]})


# --- Shared neurons -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Two data sets that one network heard; of the second one class is missing."""
    folder = tmp_path_factory.mktemp("shared")
    write_sounds(folder / "first")
    write_sounds(folder / "second", seed=1)
    (folder / "second" / "high").rename(folder / "second" / "shrill")
    table = {
        "dataset": [{"reader": "folder", "source": name, "name": name} for name in ("first", "second")],
        "network": [{"name": f"{Path(__file__).parents[2]}/small.py:small_network"}],
        "stages": ["specificity"], "specificity": {"lowest_entropy": 0.6, "class_quantile": 0.6},
    }  # fmt: skip
    run_study(folder / "w.duckdb", make_study(table, "study", folder), Silent())
    return folder


@pytest.fixture
def con(shared):
    with duckdb.connect(str(shared / "w.duckdb"), read_only=True) as con:
        yield con


def sets(con, measure):
    """Neurons by data set and class."""
    found = {(dataset, name): set() for dataset, name in con.execute(
        "SELECT dataset.name, class.name FROM class JOIN label_set USING (label_set_id) JOIN dataset USING (dataset_id)"
    ).fetchall()}  # fmt: skip
    for dataset, name, neuron in con.execute(
        """SELECT dataset.name, class.name, neuron_id FROM specific_neuron JOIN class USING (class_id) JOIN label_set USING (label_set_id)
        JOIN dataset USING (dataset_id) WHERE measure = ?""",
        [measure],
    ).fetchall():
        found[dataset, name].add(neuron)
    return found


@pytest.mark.parametrize("measure", ["aape", "auroc"])
def test_matrices_of_shared_neurons_are_full(con, measure):
    frame = tables.table(con, "sharing_matrix").filter(measure=measure)
    neurons = sets(con, measure)
    [population] = con.execute("SELECT count(*) FROM neuron").fetchone()
    assert any(neurons.values())
    seen = set()
    for row in frame.to_dicts():
        a, b = ((row[f"{side}_dataset"], row[side]) for side in ("first", "second"))
        seen.add((a, b))
        one, two = neurons[a], neurons[b]
        assert (row["first_neurons"], row["second_neurons"], row["shared"]) == (len(one), len(two), len(one & two))
        assert row["jaccard"] == (pytest.approx(len(one & two) / len(one | two)) if one | two else None)
        chance = len(one) * len(two) / population
        assert row["expected"] == (pytest.approx(chance / (len(one) + len(two) - chance)) if one and two else None)
    classes = {dataset: [key for key in neurons if key[0] == dataset] for dataset in ("first", "second")}
    within = {pair for its in classes.values() for pair in itertools.permutations(its, 2)}
    assert seen == within | set(itertools.product(classes["first"], classes["second"]))
    assert frame.height == 2 * 3 * 2 + 3 * 3


def test_counts_by_class_and_layer(con):
    frame = tables.table(con, "specific_classes").filter(measure="aape")
    neurons = sets(con, "aape")
    for (dataset, name), its in neurons.items():
        assert frame.filter(dataset=dataset)["class"].is_in([name]).any()
        assert frame.filter((frame["dataset"] == dataset) & (frame["class"] == name))["neurons"].sum() == len(its)
    for row in frame.filter(frame["neurons"] > 0).to_dicts():
        layer = {
            n
            for (n,) in con.execute(
                "SELECT neuron_id FROM neuron JOIN layer USING (layer_id) WHERE layer.name = ?", [row["layer"]]
            ).fetchall()
        }
        its = neurons[row["dataset"], row["class"]] & layer
        counts = [sum(neuron in other for (dataset, _), other in neurons.items() if dataset == row["dataset"]) for neuron in its]
        assert (row["neurons"], row["classes_per_neuron"]) == (len(its), pytest.approx(np.mean(counts)))


def test_matrices_on_the_network_s_pages(con, shared):
    first, second = (Known(con, study) for study in contents.read(con).studies)
    for known, other in ((first, "second"), (second, "first")):
        found = known[Sharing].matrices
        assert [(matrix["is_own"], matrix["dataset"]) for matrix in found] == [(True, known.study.dataset.name), (False, other)]
        frame = tables.table(con, "sharing_matrix").filter(measure="aape")
        values = {(row["first_class_id"], row["second_class_id"]): row["jaccard"] for row in frame.to_dicts()}
        for matrix in found:
            cells = known[Sharing].chart_rows(matrix, "../")
            assert cells
            for cell in cells:
                value = values.get((cell["row"], cell["column"])) or values.get((cell["column"], cell["row"])) or 0
                assert cell["value"] == pytest.approx(value, abs=1e-4)
                assert cell["href"].startswith("../datasets/")
                assert known.study.dataset.class_of(cell["row"]).name == cell["first"]
        chart = known[Specificity].class_chart("")
        assert sum(row["neurons"] for row in chart) == con.execute(
            "SELECT count(*) FROM specific_neuron WHERE measure = 'aape' AND run_id = ?", [known[Specificity].run_id]
        ).fetchone()[0]  # fmt: skip
    site.build(shared / "w.duckdb", shared / "site")
    for page in (shared / "site" / "networks").glob("*/index.html"):
        text = page.read_text("utf-8")
        assert text.count('data-chart="sharing"') == 2
        assert '"sharing1":[{' in text
        assert 'data-chart="specific_classes"' in text


def test_data_sets_whose_defaults_differ_are_compared_too(shared, tmp_path):
    shutil.copy(shared / "w.duckdb", tmp_path)

    def across(name):
        with store.connect_readonly(tmp_path / "w.duckdb") as con:
            frame = tables.table(con, name)
            return frame.filter(frame["first_dataset"] != frame["second_dataset"]).drop("parameters").rows()

    alike = {name: across(name) for name in ("sharing", "sharing_matrix")}
    assert all(alike.values())
    with duckdb.connect(str(tmp_path / "w.duckdb")) as con:  # as the paper's share of ESC-50 beside that of others
        con.execute(
            """UPDATE run SET parameters = json_merge_patch(parameters::JSON, '{"lowest_entropy": 0.015}')
            WHERE run_id = (SELECT max(run_id) FROM run WHERE stage = 'specificity')"""
        )
    assert {name: across(name) for name in alike} == alike
