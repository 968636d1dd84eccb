"""Silencing the neurons specific to a class: every count against plain forward passes with hooks.

python -m tests.ingest.stages.test_specific_ablations FOLDER: FOLDER/w.duckdb has all but the stage itself; it is done once undisturbed in
FOLDER/whole and, for every third point N at which a crash could hurt, killed there and resumed in FOLDER/N. Prints the number of points.
"""

import csv
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import OrderedDict, defaultdict
from dataclasses import replace
from pathlib import Path

import duckdb
import jinja2
import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import binomtest, t
from torch import nn

from analyze import tables
from ingest.methods.readouts import fit_head
from ingest.networks.m2d import load_m2d
from ingest.networks.network import Layer, Network
from ingest.networks.planted import planted_network, truth
from ingest.run import run_study
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import load
from ingest.sounds.starter import SOUNDS
from ingest.stages import Context, activations, specificity
from ingest.stages import specific_ablations as stage
from ingest.stages.recorded import read_recorded
from ingest.stages.specific_ablations import Passes, Settings, draw
from ingest.study import DatasetChoice, NetworkChoice, Study, make_study
from report import contents, site
from report.parts.svg import number
from report.topics import specificity as pages
from report.topics.specific_ablations import SpecificAblations
from report.topics.topic import Known
from tests.ingest.networks.test_m2d import SMALL, weights_of
from tests.kill_points import Points
from tests.small import Silent, write_label_map, write_sounds
from tests.small import planted_network as small_network
from warehouse import store
from warehouse.check import check
from warehouse.store import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PLANTED = f"{ROOT}/tests/small.py:planted_network"
DRAWS = 3
STEP = 3  # every third point, in turn one before and one after a commit


# --- A pass -------------------------------------------------------------------------------------------------------------------------------


class Around(nn.Module):
    """More than a sequence, so that nothing of it can be run alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs)


def convolutions(around):
    """Three layers of which the second holds the first."""
    torch.manual_seed(0)
    block = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 5, 3, padding=1), relu=nn.ReLU()))
    parts = OrderedDict(
        block=block, conv=nn.Conv2d(5, 6, 3, stride=2), relu=nn.ReLU(inplace=True), flat=nn.Flatten(), head=nn.Linear(54, 4)
    )
    inner = nn.Sequential(parts)
    path = "inner." if around else ""
    axes = "channel,time,frequency"
    layers = [
        Layer("first", f"{path}block.conv", (5, 8, 8), axes), Layer("block", f"{path}block", (5, 8, 8), axes, non_negative=True),
        Layer("second", f"{path}relu", (6, 3, 3), axes, non_negative=True), Layer("head", f"{path}head", (4,), "unit"),
    ]  # fmt: skip
    return Network(
        "net", "test", Around(inner) if around else inner, sample_rate_hz=8000, clip_s=1.0, layers=layers, checkpoint_sha256="0", windows=2
    )


def hooked(network, inputs, units):
    """Outputs of the whole network, all clips at once, with hooks that put zeros in."""

    def silence(layer):
        def hook(_module, _inputs, output):
            kept = torch.ones(layer.neurons)
            kept[units[layer.name]] = 0
            return output * (kept if layer.axes.endswith("unit") else kept[:, None, None])

        return hook

    handles = [network.module.get_submodule(la.module).register_forward_hook(silence(la)) for la in network.layers if la.name in units]
    with torch.no_grad():
        outputs = network.module(inputs)
    for handle in handles:
        handle.remove()
    return outputs.unflatten(0, (-1, network.windows)).mean(dim=1).numpy()


@pytest.mark.parametrize("around", [False, True])
def test_a_pass_equals_a_plain_forward_with_a_hook_for_every_layer(around, tmp_path):
    network = convolutions(around)
    inputs = torch.randn(22, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    passes = Passes(network, inputs, tmp_path)
    whole = hooked(network, inputs, {})
    assert np.allclose(passes.outputs({}), whole, atol=1e-6)
    asked = [
        {"first": [1, 4], "second": [0, 5]},
        {"first": [2], "block": [0, 3]},
        {"second": [1, 2, 3]},
        {"block": [4], "second": [2], "head": [0]},
    ]
    for units in [*asked, *asked[::-1]]:
        units = {name: np.array(chosen) for name, chosen in units.items()}
        expected = hooked(network, inputs, units)
        assert np.abs(expected - whole).max() > 1e-3
        assert np.allclose(passes.outputs(units), expected, atol=1e-6)
    assert np.allclose(passes.outputs({}), whole, atol=1e-6)
    assert (passes.cache is None) == around


def test_draws_have_as_many_live_others_of_every_layer_and_follow_from_the_neurons():
    live = {"a": np.arange(0, 40, 2), "b": np.arange(10)}
    units = {"a": np.array([0, 1, 4]), "b": np.array([9])}
    drawn = draw(live, units, 50)
    assert drawn[7]["a"].tolist() == draw(live, units, 50)[7]["a"].tolist()
    for its in drawn:
        assert {layer: len(np.unique(chosen)) for layer, chosen in its.items()} == {"a": 3, "b": 1}
    counts = np.bincount(np.concatenate([its["a"] for its in drawn]), minlength=40)
    assert set(np.flatnonzero(counts)) == set(range(2, 40, 2)) - {4}
    assert len({tuple(its["a"]) for its in drawn}) > 40
    with pytest.raises(UserError, match="layer b: no control for 6 neurons: only 4 other live ones"):
        draw(live, {"a": np.array([0]), "b": np.arange(6)}, 2)


# --- The planted network ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(starter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(starter, folder / "starter")
    with open(folder / "map.csv", "w", newline="") as file:
        csv.writer(file).writerows([("class", "names"), *((name, name) for name in SOUNDS)])
    study = Study(
        (DatasetChoice("starter", per_class=3),), (NetworkChoice("planted", layers=("classes", "outputs")),), ("specific_ablations",),
        {"activations": activations.Settings(device="cpu", shares=False),
         "specificity": specificity.Settings(lowest_entropy=0.6, class_quantile=0.98),
         "specific_ablations": Settings(draws=DRAWS, label_map=folder / "map.csv")},
    )  # fmt: skip
    run_study(folder / "w.duckdb", study, Silent())
    return folder


@pytest.fixture
def con(planted):
    with duckdb.connect(str(planted / "w.duckdb"), read_only=True) as con:
        yield con


def correct_by_class(network, inputs, recorded, units):
    """Clips told rightly by class: the highest output, the first of equals."""
    right = hooked(network, inputs, units).argmax(axis=1) == recorded.labels
    return np.bincount(recorded.labels[right], minlength=len(recorded.class_ids))


def test_counts_are_those_of_an_independent_forward_with_hooks(planted, con):
    recorded, network = read_recorded(planted / "w.duckdb", 2), planted_network()
    order = [list(recorded.class_names).index(name) for name in network.output_names]
    paths = {entry.name: entry.path for entry in read_dataset("starter", planted / "starter", "starter").entries}
    waveforms = np.stack([load(paths[name], sample_rate_hz=16_000, clip_s=5.0)[0] for name in recorded.clip_names])
    inputs = network.prepare(torch.from_numpy(waveforms))
    with torch.no_grad():
        network.module.outputs.weight[order] = network.module.outputs.weight.clone()  # outputs in the order of the classes
    before = correct_by_class(network, inputs, recorded, {})
    assert con.execute("SELECT correct, total FROM readout ORDER BY class_id").fetchall() == [(int(n), 3) for n in before]
    live = {"classes": np.flatnonzero((recorded.layers[0].matrix()[:] != 0).any(axis=1))}
    kinds = {(what.layer, what.unit): (what.kind, what.classes) for what in truth(planted_network())}
    silenced = 0
    for label, class_id in enumerate(recorded.class_ids.tolist()):
        units = con.execute(
            """SELECT unit FROM specific_neuron JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
            WHERE measure = 'aape' AND class_id = ? AND layer.name = 'classes' ORDER BY unit""",
            [class_id],
        ).fetchnumpy()["unit"]
        rows = con.execute(
            "SELECT target, repetition, neurons, read_class_id, correct FROM specific_ablation WHERE class_id = ? ORDER BY ALL DESC",
            [class_id],
        ).fetchall()
        assert len(rows) == (1 + DRAWS) * 15
        assert {row[2] for row in rows} == {len(units)}
        groups = {("specific", 0): {"classes": units}}
        groups |= {("random", n): its for n, its in enumerate(draw(live, {"classes": units}, DRAWS))}
        for (target, repetition), chosen in groups.items():
            found = {row[3]: row[4] for row in rows if row[:2] == (target, repetition)}
            expected = correct_by_class(network, inputs, recorded, chosen)
            assert [found[read] for read in recorded.class_ids.tolist()] == expected.tolist()
            assert target == "specific" or found[class_id] == before[label]
            assert target == "specific" or not set(chosen["classes"]) & set(units)
        others = {kinds["classes", unit] for unit in units} - {("class", (recorded.class_names[label],))}
        assert all(recorded.class_names[label] in classes for _, classes in others)
        specific = {row[3]: row[4] for row in rows if row[0] == "specific"}
        assert [specific[read] for read in recorded.class_ids.tolist() if read != class_id] == [
            n for i, n in enumerate(before) if i != label
        ]
        silenced += specific[class_id] == 0
    assert silenced >= 14  # where all evidence is silenced the first class wins the tie


def test_derived_tables(con):
    [own, others] = tables.table(con, "specific_ablations").sort("clips", descending=True).to_dicts()
    assert (own["classes"], own["draws"], own["total"], others["total"]) == (15, DRAWS, 45, 15 * 42)
    for row, sign in ((own, "="), (others, "<>")):
        found = con.execute(
            f"""SELECT sum(r.correct) FILTER (target = 'specific'), sum(s.correct) FILTER (target = 'specific'),
            sum(s.correct) FILTER (target = 'random') / {DRAWS}, sum(total) FILTER (target = 'specific')
            FROM specific_ablation s JOIN readout r ON r.run_id = s.run_id AND r.class_id = read_class_id
            WHERE s.class_id {sign} read_class_id GROUP BY s.class_id"""
        ).fetchnumpy()
        before, specific, random, total = (np.asarray(values, dtype=float) for values in found.values())
        assert (row["undisturbed"], row["specific"], row["random"]) == (before.sum(), specific.sum(), pytest.approx(random.sum()))
        assert row["specific_drop"] == pytest.approx((100 * (before - specific) / total).mean())
        assert row["random_drop"] == pytest.approx((100 * (before - random) / total).mean())
        difference = 100 * (random - specific) / total
        half = t.ppf(0.975, 14) * difference.std(ddof=1) / np.sqrt(15)
        assert [row["difference"], row["low"], row["high"]] == pytest.approx(
            [difference.mean(), difference.mean() - half, difference.mean() + half]
        )
        assert (row["worse"], row["better"]) == ((difference > 1e-9).sum(), (difference < -1e-9).sum())
        tested = row["worse"] + row["better"]
        assert row["p_value"] == pytest.approx(binomtest(row["worse"], tested).pvalue if tested else 1)
    assert own["specific_drop"] > 90
    assert (own["random_drop"], others["specific_drop"]) == (0, 0)
    classes = tables.table(con, "specific_ablation_classes")
    assert classes.height == 30
    assert classes.filter(clips="own")["specific"].sum() == own["specific"]
    assert (classes["random_lowest"] <= classes["random"]).all()
    assert (classes["random"] <= classes["random_highest"]).all()


def test_the_part_of_the_network_s_page(con):
    [study] = contents.read(con).studies
    found = Known(con, study)[SpecificAblations]
    assert (len(found.runs), found.draws, len(found.rows), len(found.classes)) == (1, DRAWS, 2, 15)
    points = found.chart_rows("../")
    assert [point["class"] for point in points] == [row["class"].name for row in found.classes]
    assert sum(point["specific"] == 100 and point["random"] == 0 for point in points) >= 14
    found.rows[0]["label"] = "<b>AAPE</b>"
    templates = jinja2.Environment(loader=jinja2.PackageLoader("report"), autoescape=True, undefined=jinja2.StrictUndefined)
    page = templates.get_template("topics/specific_ablations.html.j2").render(specific=found, root="../", number=number)
    assert "&lt;b&gt;AAPE&lt;/b&gt;" in page
    assert f"{found.rows[0]['undisturbed']} of 45" in page
    assert all(f'href="{point["href"]}"' in page for point in points)


def test_how_far_choices_of_specific_neurons_agree(con):
    frame = tables.table(con, "measures").filter(label_set="class")
    chosen = defaultdict(set)
    for measure, *pair in con.execute(
        """SELECT measure, neuron_id, class_id FROM specific_neuron JOIN class USING (class_id) JOIN label_set USING (label_set_id)
        WHERE label_set.name = 'class'"""
    ).fetchall():
        chosen[measure].add(tuple(pair))
    [possible] = con.execute("SELECT 15 * count(DISTINCT neuron_id) FROM specificity").fetchone()
    compared = 0
    for row in frame.filter(pl.col("specific_jaccard").is_not_null()).to_dicts():
        first, second = chosen[row["first"]], chosen[row["second"]]
        assert (row["first_specific"], row["second_specific"]) == (len(first), len(second))
        assert row["specific_jaccard"] == pytest.approx(len(first & second) / len(first | second))
        shared = len(first) * len(second) / possible
        assert row["expected"] == pytest.approx(shared / (len(first) + len(second) - shared))
        compared += 1
    assert compared == len(list(itertools.combinations(chosen, 2)))
    assert len(chosen) >= 4


def test_specific_neurons_on_pages(con):
    [study] = contents.read(con).studies
    found = Known(con, study)[pages.Specificity]
    pairs = con.execute(
        """SELECT label_set.name, measure, count(*) FROM specific_neuron JOIN class USING (class_id) JOIN label_set USING (label_set_id)
        GROUP BY ALL"""
    ).fetchall()
    said = {(row["label_set"], row["measure"], row["pairs"]) for row in found.rows}
    assert said == {(label_set, pages.MEASURES[measure], count) for label_set, measure, count in pairs}
    chart = [row for row in found.chart_rows("") if row["series"] == "AAPE"]
    assert [(row["layer"], row["value"]) for row in chart] == [("classes", 1.0), ("outputs", 1.0)]
    layer = study.layers[0]
    for class_id in study.dataset.label_sets["class"]:
        units = con.execute(
            "SELECT neuron_id - ? FROM specific_neuron WHERE measure = 'aape' AND class_id = ? ORDER BY value DESC, neuron_id LIMIT ?",
            [layer.first, class_id, pages.LISTED],
        ).fetchall()
        listed = found.neurons_of(class_id, "../").partition("</p>")[0]
        assert listed.startswith("<p>Specific by AAPE: ")
        assert listed.count("<a ") == len(units)
        hidden = [str(unit) for (unit,) in units if unit < layer.neurons]
        assert re.findall(r"classes · (\d+)</a>", listed) == hidden
    said = found.classes_of(layer, "")
    named = con.execute(
        "SELECT DISTINCT neuron_id FROM specific_neuron WHERE measure IN ('aape', 'lape') AND neuron_id < ?", [layer.first + layer.neurons]
    ).fetchall()
    assert said.keys() == {neuron for (neuron,) in named}
    assert all(" by AAPE." in text or " by LAPE." in text for text in said.values())


# --- A small one --------------------------------------------------------------------------------------------------------------------------


def small_study(folder, stages=("specific_ablations",), **options):
    return Study(
        (DatasetChoice("folder", folder / "sounds", "sounds"),), (NetworkChoice(PLANTED),), stages,
        {"activations": activations.Settings(device="cpu", batch=4, shares=False),
         "specificity": specificity.Settings(lowest_entropy=0.3, class_quantile=0.8),
         "specific_ablations": Settings(**{"draws": 2, "label_map": folder / "sounds" / "map.csv", **options})},
    )  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A warehouse with everything but the stage itself."""
    folder = tmp_path_factory.mktemp("small")
    write_label_map(write_sounds(folder / "sounds") / "map.csv")
    run_study(folder / "w.duckdb", small_study(folder, ("activations",)), Silent())
    with store.transaction(folder / "w.duckdb") as con:  # every second clip is long: a label set beside the kinds
        con.execute("INSERT INTO label_set SELECT 2, dataset_id, 'length' FROM dataset")
        con.execute("INSERT INTO class VALUES (101, 2, 'long'), (102, 2, 'short')")
        con.execute("INSERT INTO clip_label SELECT clip_id, 101 + clip_id % 2 FROM clip")
    run_study(folder / "w.duckdb", small_study(folder, ("specificity",)), Silent())
    return folder


def test_a_linear_head_is_fitted_on_all_other_folds(small):
    run_study(small / "w.duckdb", small_study(small, readout="linear", folds=(2,), measures=("auroc", "aape")), Silent())
    recorded = read_recorded(small / "w.duckdb", 2)
    network = small_network()
    paths = {entry.name: entry.path for entry in read_dataset("folder", small / "sounds", "sounds").entries}
    waveforms = np.stack([load(paths[name], sample_rate_hz=8000, clip_s=1.0)[0] for name in recorded.clip_names])
    inputs = network.prepare(torch.from_numpy(waveforms))
    head, read = fit_head(hooked(network, inputs, {}), recorded.labels, recorded.folds), recorded.folds == 2
    with store.connect_readonly(small / "w.duckdb") as con:
        [(run_id,)] = con.execute("SELECT max(run_id) FROM run WHERE stage = 'specific_ablations'").fetchall()
        rows = dict(con.execute("SELECT class_id, correct || '/' || total FROM readout WHERE run_id = ?", [run_id]).fetchall())
        units = con.execute(
            """SELECT measure, class_id, list(unit ORDER BY unit) FROM specific_neuron JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
            WHERE layer.name = 'bands' AND class_id < 100 AND measure IN ('aape', 'auroc') GROUP BY ALL"""
        ).fetchall()
        found = con.execute(
            """SELECT measure, class_id, list(correct ORDER BY read_class_id) FROM specific_ablation WHERE run_id = ? AND target = 'specific'
            GROUP BY ALL""",
            [run_id],
        ).fetchall()
        failed = con.execute("SELECT count(*) FROM failure WHERE run_id = ?", [run_id]).fetchall()
    right = (head(hooked(network, inputs, {})) == recorded.labels) & read
    count = lambda which: np.bincount(recorded.labels[which], minlength=3)  # noqa: E731
    assert rows == {int(c): f"{n}/{of}" for c, n, of in zip(recorded.class_ids, count(right), count(read), strict=True)}
    assert len(found) >= 3
    expected = {(measure, class_id): np.array(chosen) for measure, class_id, chosen in units}
    for measure, class_id, correct in found:
        after = head(hooked(network, inputs, {"bands": expected[measure, class_id]}))
        assert correct == count((after == recorded.labels) & read).tolist()
    assert len(found) + failed[0][0] == 6


def test_the_classes_of_another_label_set(small):
    run_study(small / "w.duckdb", small_study(small, readout="linear", measures=("auroc", "selectivity"), label_set="length"), Silent())
    with store.connect_readonly(small / "w.duckdb") as con:
        [(run_id,)] = con.execute("SELECT max(run_id) FROM run WHERE stage = 'specific_ablations'").fetchall()
        assert con.execute("SELECT class_id, total FROM readout WHERE run_id = ? ORDER BY 1", [run_id]).fetchall() == [(101, 15), (102, 15)]
        rows = con.execute("SELECT DISTINCT measure, class_id, read_class_id FROM specific_ablation WHERE run_id = ?", [run_id]).fetchall()
        failed = con.execute("SELECT item, reason FROM failure WHERE run_id = ?", [run_id]).fetchall()
    assert rows
    assert {read for _, _, read in rows} == {101, 102}
    assert len(rows) / 2 + len(failed) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": (9,)}, "no clip of sounds with one class lies in the folds .9.: choose among 1, 2, 3, 4, 5"),
        ({"label_set": "pitch"}, "sounds has no label set pitch: it has class, length"),
        ({"readout": "zero-shot"}, "reads no text"),
    ],
)
def test_what_is_not_there_is_refused(small, options, message):
    with pytest.raises(UserError, match=message):
        run_study(small / "w.duckdb", small_study(small, **options), Silent())


def test_a_network_without_named_outputs_has_no_read_out_of_its_own(small, tmp_path):
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.small import planted_network\n\n\ndef nameless():\n"
        "    network = planted_network()\n    network.output_names = None\n    return network\n"
    )
    study = replace(small_study(small, readout="own"), network=(NetworkChoice(f"{tmp_path}/net.py:nameless"),))
    with pytest.raises(UserError, match="no named outputs: use zero-shot or a linear head"):
        run_study(small / "w.duckdb", study, Silent())


# --- Pairs of classes, read from an embedding ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """A small M2D of random weights; units chosen on four folds, and the fifth read from its embedding."""
    folder = tmp_path_factory.mktemp("paired")
    write_sounds(folder / "sounds")
    torch.save(weights_of(), folder / "m2d.pth")
    (folder / "net.py").write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})\nfrom ingest.networks.m2d import load_m2d\n"
        "from tests.ingest.networks.test_m2d import SMALL\n\n\n"
        "def m2d():\n    return load_m2d(Path(__file__).with_name('m2d.pth'), 1.0, size=SMALL)\n"
    )
    run_study(folder / "w.duckdb", paired_study(folder), Silent())
    return folder


def paired_study(folder, **options):
    table = {
        "dataset": [{"reader": "folder", "source": "sounds"}], "network": [{"name": f"{folder}/net.py:m2d"}],
        "stages": ["specific_ablations"], "activations": {"device": "cpu"},
        "specificity": {"lowest_entropy": 0.3, "class_quantile": 0.6, "population": "kept pairs", "folds": [1, 3, 4, 5]},
        "specific_ablations": {"readout": "embedding", "folds": [2], "draws": 3, "measures": ["aape", "auroc"], "each_class": False,
                               "pairs": [["noise", "low"]], **options},
    }  # fmt: skip
    return make_study(table, "study", folder)


def test_one_set_for_two_classes_is_read_from_the_embedding_on_clips_that_did_not_choose_it(paired):
    recorded = read_recorded(paired / "w.duckdb", 2)
    network = load_m2d(paired / "m2d.pth", 1.0, size=SMALL)
    paths = {entry.name: entry.path for entry in read_dataset("folder", paired / "sounds", "sounds").entries}
    sounds = [load(paths[name], sample_rate_hz=16_000, clip_s=1.0) for name in recorded.clip_names]
    valid_s = torch.tensor([seconds for _, seconds in sounds], dtype=torch.float64)
    inputs = network.prepare_padded(torch.from_numpy(np.stack([sound for sound, _ in sounds])), valid_s)

    def embedded(units):
        """Means over the times of a clip's sound of the five tokens of a time, CLS left out: a clip after the other."""
        handles = []
        for layer in network.layers:
            chosen = torch.tensor(units.get(layer.name, []), dtype=torch.long)
            handles.append(
                network.module.get_submodule(layer.module).register_forward_hook(lambda _m, _i, out, its=chosen: out.index_fill(2, its, 0))
            )
        with torch.no_grad():
            tokens = network.module(inputs)
        for handle in handles:
            handle.remove()
        counts = np.ceil(np.round(valid_s.numpy() / 0.16, 6)).astype(int)
        grids = [
            clip[1:].reshape(5, -1, 32)[:, :count].permute(1, 0, 2).reshape(count, 160) for clip, count in zip(tokens, counts, strict=True)
        ]
        return np.stack([grid.mean(dim=0).numpy() for grid in grids])

    read = recorded.folds == 2
    head = fit_head(embedded({}), recorded.labels, np.where(read, 2, 0))
    right = lambda units: np.bincount(recorded.labels[read & (head(embedded(units)) == recorded.labels)], minlength=3)  # noqa: E731
    with store.connect_readonly(paired / "w.duckdb") as con:
        assert con.execute("SELECT correct FROM readout ORDER BY class_id").fetchall() == [(int(n),) for n in right({})]
        assert con.execute("SELECT count(*) FROM specific_ablation").fetchall() == [(0,)]
        shown = {(row["measure"], row["clips"]): row for row in tables.table(con, "pair_ablations").to_dicts()}
        for measure in ("aape", "auroc"):
            units = dict(con.execute(
                """SELECT layer.name, list(DISTINCT unit ORDER BY unit) FROM specific_neuron JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
                JOIN class USING (class_id) WHERE measure = ? AND class.name IN ('low', 'noise') GROUP BY ALL""",
                [measure],
            ).fetchall())  # fmt: skip
            rows = con.execute(
                """SELECT target, repetition, neurons, list(correct ORDER BY read_class_id) FROM pair_ablation WHERE measure = ? GROUP BY ALL
                ORDER BY target, repetition""",
                [measure],
            ).fetchall()
            assert [row[:2] for row in rows] == [("next", 0), ("random", 0), ("random", 1), ("random", 2), ("specific", 0)]
            assert {row[2] for row in rows} == {sum(map(len, units.values()))}
            following = {layer: [(unit + 1) % 48 for unit in chosen] for layer, chosen in units.items()}
            assert rows[0][3] == right(following).tolist()
            assert rows[-1][3] == right(units).tolist()
            drawn = [sum(row[3]) for row in rows[1:4]]
            everything = shown[measure, "all"]
            assert (everything["specific"], everything["next"], everything["random"]) == (
                sum(rows[-1][3]), sum(rows[0][3]), pytest.approx(np.mean(drawn)),
            )  # fmt: skip
            assert everything["p_value"] == pytest.approx((1 + sum(n <= sum(rows[-1][3]) for n in drawn)) / 4)
            classes = dict(zip(recorded.class_names, rows[-1][3], strict=True))
            assert [shown[measure, name]["specific"] for name in ("noise", "low", "others")] == [
                classes["noise"],
                classes["low"],
                classes["high"],
            ]
        [text] = con.execute("SELECT parameters FROM run WHERE stage = 'specific_ablations'").fetchone()
    assert '"pairs": [["noise", "low"]]' in text
    assert '"readout": "embedding"' in text
    assert list(check(paired / "w.duckdb")) == []


def test_pairs_on_the_network_s_page(paired):
    with store.connect_readonly(paired / "w.duckdb") as con:
        [study] = contents.read(con).studies
        found = Known(con, study)[SpecificAblations]
        assert (found.rows, len(found.pairs), len(found.runs)) == ([], 8, 1)
    site.build(paired / "w.duckdb", paired / "site")
    [page] = (paired / "site" / "networks").glob("*/index.html")
    assert page.read_text("utf-8").count("<tr><th>noise, low</th><td>AAPE</td>") == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": [["noise", "lo"]]}, "pairs: sounds has no class lo: it has high, low, noise"),
        ({"pairs": [["noise"]]}, "pairs holds .'noise'., each must name two classes"),
        ({"pairs": [["noise", "noise"]]}, "each must name two classes"),
        ({"pairs": []}, "each_class is false and there are no pairs"),
    ],
)
def test_pairs_that_are_none_are_refused(paired, options, message):
    with pytest.raises(UserError, match=message) as caught:
        run_study(paired / "w.duckdb", paired_study(paired, **options), Silent())
    assert "\n" not in str(caught.value)


def test_a_network_without_an_embedding_is_refused(small):
    with pytest.raises(UserError, match="planted has no embedding of its own: choose another readout"):
        run_study(small / "w.duckdb", small_study(small, readout="embedding"), Silent())


# --- Killed and resumed -------------------------------------------------------------------------------------------------------------------


def content(path):
    with duckdb.connect(str(path), read_only=True) as con:
        return {
            table: con.execute(
                f"SELECT * EXCLUDE (run_id) FROM {table} WHERE run_id = (SELECT max(run_id) FROM run) ORDER BY ALL"
            ).fetchall()
            for table in ("readout", "specific_ablation")
        } | {"failure": con.execute("SELECT item, reason FROM failure ORDER BY ALL").fetchall()}


def test_killed_anywhere_and_resumed_the_counts_are_those_of_an_uninterrupted_run(small, tmp_path):
    shutil.copytree(small, tmp_path / "small")
    command = [sys.executable, "-m", "tests.ingest.stages.test_specific_ablations", str(tmp_path / "small")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = content(tmp_path / "small" / "whole" / "w.duckdb")
    assert all(expected.values())
    assert int(done.stdout) == 2 * (1 + 1 + 3 + 1)  # begun, read out undisturbed, three classes, finished
    for point in range(1, int(done.stdout) + 1, STEP):
        place = tmp_path / "small" / str(point)
        assert content(place / "w.duckdb") == expected, f"after a kill at point {point}"
        assert list(check(place / "w.duckdb")) == []
        assert not list(place.rglob("*.tmp"))


def run(place, listing, deadly=None):
    """The stage in a child process; returns its exit status."""
    child = os.fork()
    if child == 0:
        points, settings = Points(deadly), Settings(draws=2, label_map=place.parent / "sounds" / "map.csv")
        with store.writer(place / "w.duckdb"):
            runs = {"activations": 2, "specificity": 3}
            stage.run(Context(place / "w.duckdb", listing, {}.get, small_network(), runs=runs), settings)
        (place / "points").write_text(str(points.count))
        os._exit(0)
    return os.waitpid(child, 0)[1]


def copy(folder, name):
    place = folder / name
    shutil.copytree(folder / "w.activations", place / "w.activations")
    shutil.copy(folder / "w.duckdb", place)
    return place


def main(folder):
    torch.set_num_threads(1)
    listing = read_dataset("folder", folder / "sounds", "sounds")
    whole = copy(folder, "whole")
    assert run(whole, listing) == 0
    total = int((whole / "points").read_text())
    for point in range(1, total + 1, STEP):
        place = copy(folder, str(point))
        assert os.WTERMSIG(run(place, listing, point)) == signal.SIGKILL
        assert run(place, listing) == 0
    print(total)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
