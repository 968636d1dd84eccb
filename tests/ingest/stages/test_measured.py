"""Stages properties, descriptions by engine measured, and their scores, on a small network: stored rows against the method and scikit-learn."""

import json
import os
import shutil

import duckdb
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from analyze import tables
from ingest.methods import held_out, rules
from ingest.run import run_study
from ingest.sounds import acoustics, bands
from ingest.sounds.sound import decode
from ingest.stages import activations, captions, descriptions, scores
from ingest.stages.properties import read_properties
from ingest.stages.recorded import clip_groups, read_recorded
from ingest.study import DatasetChoice, NetworkChoice, Study
from tests.language_server import RuleServer
from tests.small import Lines, Silent, write_sounds
from tests.test_resume import content
from warehouse import ledger, store
from warehouse.check import check

pytestmark = pytest.mark.slow

SPEC = f"{__file__.rpartition('/ingest/')[0]}/small.py:small_network"


def study(folder, stages=("scores",), **choices):
    return Study(
        (DatasetChoice("folder", folder / "sounds", "sounds"),),
        (NetworkChoice(SPEC),),
        stages,
        {"activations": activations.Settings(device="cpu", batch=8), "descriptions": descriptions.Settings(held_out=0.4), **choices},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory, minilm_folder):
    folder = tmp_path_factory.mktemp("measured")
    write_sounds(folder / "sounds", clips=150)
    broken = folder / "sounds" / "low" / "broken.wav"
    broken.write_text("not sound")
    os.utime(broken, (0, 0))  # as the others
    run_study(folder / "w.duckdb", study(folder), Silent())
    return folder


@pytest.fixture
def con(made):
    with duckdb.connect(str(made / "w.duckdb"), read_only=True) as con:
        yield con


@pytest.fixture(scope="module")
def recorded(made):
    return read_recorded(made / "w.duckdb", 2)


def run_of(con, stage):
    [(run_id,)] = con.execute("SELECT max(run_id) FROM run WHERE stage = ?", [stage]).fetchall()
    return run_id


def test_measured_is_the_default_and_a_second_time_nothing_is_done(made):
    assert descriptions.Settings().engine == "measured"
    before = store.sha256_file(made / "w.duckdb")
    lines = Lines()
    run_study(made / "w.duckdb", study(made), lines)
    assert [line for line in lines.said if "nothing to do" not in line] == []
    assert store.sha256_file(made / "w.duckdb") == before
    assert list(check(made / "w.duckdb")) == []
    assert not list(made.rglob("*.tmp"))


def test_properties_are_what_is_measured_of_what_the_network_hears(con, made):
    found = {}
    for name, key, value in con.execute("SELECT name, property, value FROM clip_property JOIN clip USING (clip_id)").fetchall():
        found.setdefault(name, {})[key] = value
    assert len(found) == 150
    for name in list(found)[::29]:
        mono, rate, _ = decode(made / "sounds" / name, middle_s=1.0)
        expected = {key: value for key, value in vars(acoustics.measure(mono, rate)).items() if value is not None} | bands.measure(
            mono, rate
        )
        if "pause_depth_db" in expected:
            expected["pause_depth_db"] = min(expected["pause_depth_db"], 90)
        assert found[name] == pytest.approx(expected)


def test_rules_and_predictions_are_the_methods(con, made, recorded):
    names, values, _ = read_properties(made / "w.duckdb", run_of(con, "properties"), recorded.clip_ids.tolist())
    groups = clip_groups(made / "w.duckdb", recorded)
    written = ~held_out.split(groups, 0.4, 0)
    candidates = rules.Candidates(values, groups, written)
    ruled = 0
    for layer in recorded.layers:
        its = rules.find(candidates, np.asarray(layer.matrix()))
        [(path,)] = con.execute("SELECT path FROM prediction_file WHERE layer_id = ?", [layer.layer_id]).fetchall()
        np.testing.assert_array_equal(np.load(made / path), its.predicted.astype(np.float16))
        for unit in range(layer.neurons):
            neuron = layer.first_neuron_id + unit
            rows = con.execute(
                """SELECT property, direction, threshold, weight, place, text FROM rule_condition WHERE neuron_id = ? ORDER BY position""",
                [neuron],
            ).fetchall()
            count = int(its.count[unit])
            assert [row[0] for row in rows] == [names[column] for column in its.property[unit, :count]]
            assert [1 if row[1] == "over" else -1 for row in rows] == its.direction[unit, :count].tolist()
            assert [row[2:5] for row in rows] == [
                pytest.approx(row)
                for row in zip(its.threshold[unit, :count], its.weight[unit, :count], its.place[unit, :count], strict=True)
            ]
            [(conditions, auroc, fewer, reason)] = con.execute(
                "SELECT conditions, auroc, auroc_fewer, reason FROM rule WHERE neuron_id = ?", [neuron]
            ).fetchall()
            assert conditions == count
            if count:
                assert (auroc, fewer) == pytest.approx((its.auroc[unit, count], its.auroc[unit, count - 1]))
                [(text,)] = con.execute("SELECT description FROM v_description WHERE neuron_id = ?", [neuron]).fetchall()
                assert len(text.split()) <= 25
                assert rows[0][5].partition(" (")[0].lower() in text.lower()
                ruled += 1
            else:
                assert reason
                assert con.execute("SELECT count(*) FROM summary_point WHERE neuron_id = ?", [neuron]).fetchall() == [(0,)]
    assert ruled >= 8


def test_scores_by_rules_are_those_of_their_predictions(con, made, recorded):
    out = held_out.split(clip_groups(made / "w.duckdb", recorded), 0.4, 0)
    rows = con.execute(
        """SELECT neuron_id, auroc, low, high, floor, layer_id, path FROM description_score JOIN neuron USING (neuron_id)
        JOIN prediction_file USING (layer_id) WHERE scorer = 'rule'"""
    ).fetchall()
    assert len(rows) >= 8
    layers = {layer.layer_id: layer for layer in recorded.layers}
    for neuron, auroc, low, high, floor, layer_id, path in rows:
        unit = neuron - layers[layer_id].first_neuron_id
        positive = held_out.positives(np.asarray(layers[layer_id].matrix())[[unit]][:, out])[0]
        predicted = np.load(made / path)[unit, out].astype(float)
        assert auroc == pytest.approx(roc_auc_score(positive, predicted))
        assert low is None or low <= auroc <= high
        assert 0 <= floor <= 1
    assert con.execute("SELECT DISTINCT scorer FROM description_score ORDER BY 1").fetchall() == [("captions",), ("rule",)]
    assert np.median([row[1] for row in rows]) > 0.75


def test_a_change_of_the_engine_is_told_and_both_runs_stay(made, tmp_path):
    with store.connect_readonly(made / "w.duckdb") as con:
        [before] = con.execute("SELECT count(*) FROM rule").fetchall()
    warehouse = tmp_path / "w.duckdb"
    older = study(made, ("descriptions",), descriptions=descriptions.Settings(engine="commonalities"))
    lines = Lines()
    run_study(warehouse, older, lines)
    run_study(warehouse, study(made, ("descriptions",), descriptions=descriptions.Settings()), lines)
    assert any('model was "commonalities", is "measured"' in line for line in lines.said)
    run_study(warehouse, older, lines)
    assert all("nothing to do" in line for line in lines.said[-4:])
    with store.connect_readonly(warehouse) as con:
        models = con.execute("SELECT parameters::JSON ->> 'model' FROM run WHERE stage = 'descriptions' ORDER BY run_id").fetchall()
        assert con.execute("SELECT count(*) FROM rule").fetchall() == [before]
    assert models == [("commonalities",), ("measured",)]


def test_words_of_captions_that_are_not_measured_are_conditions(made, tmp_path):
    """Captions name the class, which the third output tells best."""
    with (tmp_path / "captions.csv").open("w") as file:
        file.write("file,caption\n")
        for index, path in enumerate(sorted((made / "sounds").rglob("[0-9]*.wav"))):
            word = {"low": "hum", "high": "whistle", "noise": "rain"}[path.parent.name]
            file.write(f"{path.relative_to(made / 'sounds')},A {word} in take {index}.\n")
    choice = captions.Settings(captioner="import", file=tmp_path / "captions.csv")
    run_study(tmp_path / "w.duckdb", study(made, ("descriptions",), captions=choice, descriptions=descriptions.Settings()), Silent())
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        found = con.execute("SELECT property, text FROM rule_condition WHERE property LIKE 'captioned %'").fetchall()
        [(given,)] = con.execute("SELECT parameters FROM run WHERE stage = 'descriptions'").fetchall()
    assert {name for name, _ in found} <= {f"captioned {word}" for word in ("hum", "whistle", "rain")}
    assert found
    assert json.loads(given).keys() >= {"captions", "properties"}
    assert scores.Settings().scorers == ("captions",)


@pytest.mark.parametrize(("module", "name", "after"), [(store, "publish", 2), (rules, "find", 2), (ledger.Run, "record", 5)])
def test_interrupted_anywhere_and_resumed_it_is_that_of_an_uninterrupted_run(made, tmp_path, monkeypatch, module, name, after):
    """The copy's stages before are done; the second layer is reached when the interruption comes."""
    for file in ("w.duckdb", "w.activations"):
        (shutil.copytree if (made / file).is_dir() else shutil.copy)(made / file, tmp_path / file)
    other = study(made, ("descriptions",), descriptions=descriptions.Settings(held_out=0.3))
    calls, function = [], getattr(module, name)

    def interrupted(*arguments, **more):
        calls.append(name)
        if len(calls) == after:
            raise KeyboardInterrupt
        return function(*arguments, **more)

    whole = tmp_path / "whole"
    whole.mkdir()
    for file in ("w.duckdb", "w.activations"):
        (shutil.copytree if (tmp_path / file).is_dir() else shutil.copy)(tmp_path / file, whole / file)
    run_study(whole / "w.duckdb", other, Silent())
    with monkeypatch.context() as patched:
        patched.setattr(module, name, interrupted)
        if module is ledger.Run:
            calls.extend([name] * 3)
        with pytest.raises(KeyboardInterrupt):
            run_study(tmp_path / "w.duckdb", other, Silent())
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        [(run_id,)] = con.execute("SELECT max(run_id) FROM run WHERE stage = 'descriptions'").fetchall()
        assert con.execute("SELECT count(*) FROM prediction_file WHERE run_id = ?", [run_id]).fetchall() == [(1,)]
    run_study(tmp_path / "w.duckdb", other, Silent())
    assert content(tmp_path / "w.duckdb") == content(whole / "w.duckdb")
    assert list(check(tmp_path / "w.duckdb")) == []


def test_the_table_of_rules_has_their_medians(con):
    table = tables.table(con, "rules").to_dicts()
    assert [row["layer"] for row in table] == ["conv1", "conv2", "logits"]
    for row in table:
        [(neurons, share, median)] = con.execute(
            """SELECT count(*), avg((conditions > 0)::INTEGER), median(rule.auroc) FROM rule JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
            WHERE layer.name = ?""",
            [row["layer"]],
        ).fetchall()
        assert (row["neurons"], row["with_rule"], row["auroc"]) == (neurons, pytest.approx(share), pytest.approx(median))
        [(scored, floor)] = con.execute(
            """SELECT median(auroc), median(floor) FROM description_score JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
            WHERE scorer = 'rule' AND layer.name = ?""",
            [row["layer"]],
        ).fetchall()
        assert (row["held_out"], row["floor"]) == (pytest.approx(scored), pytest.approx(floor))
        assert " over (" in row["properties"] or " under (" in row["properties"]


class Server(RuleServer):
    """Says the same of everything, and keeps what it was asked."""

    def __init__(self):
        self.asked = []
        super().__init__()

    def reply(self, prompt):
        self.asked.append(prompt)
        return "Yes." if "Answer" in prompt else "These sounds are all rather loud and high things."


def test_a_language_model_is_asked_for_contrast_with_the_rule_as_facts(made, tmp_path):
    server = Server()
    choice = descriptions.Settings(engine="endpoint", url=server.url, model="rule")
    run_study(tmp_path / "w.duckdb", study(made, ("descriptions",), descriptions=descriptions.Settings()), Silent())
    run_study(tmp_path / "w.duckdb", study(made, ("descriptions",), descriptions=choice), Silent())
    server.close()
    asked = [prompt for prompt in server.asked if "what activates it is: " in prompt]
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        rules_said = {
            text
            for (text,) in con.execute("SELECT string_agg(text, '; ' ORDER BY position) FROM rule_condition GROUP BY neuron_id").fetchall()
        }
        captions_of = dict(con.execute("SELECT clip_id, text FROM caption").fetchall())
        [(run_id, parameters)] = con.execute(
            "SELECT run_id, parameters FROM run WHERE stage = 'descriptions' AND parameters LIKE '%endpoint%'"
        ).fetchall()
        points = con.execute("SELECT count(DISTINCT neuron_id) FROM summary_point WHERE run_id = ?", [run_id]).fetchall()
        highest = con.execute(
            """SELECT neuron_id, list(clip_id ORDER BY rank) FROM top_clip JOIN neuron USING (neuron_id)
            WHERE side = 'high' AND rank <= 5 AND reduction = 'mean' GROUP BY neuron_id"""
        ).fetchall()
    facts = {prompt.partition("what activates it is: ")[2].partition("\n")[0] for prompt in asked}
    assert facts - {"nothing that was measured tells"} == rules_said
    assert points[0][0] > 5
    assert json.loads(parameters).keys() >= {"prompt", "properties"}
    for prompt in asked:
        _, middle, near = (part.partition("\n\n")[0] for part in prompt.split(":\n")[1:4])
        assert len(near.splitlines()) == 5
        assert 1 <= len(middle.splitlines()) <= 3
    wanted = ["\n".join(f"{i}. {captions_of[clip]}" for i, clip in enumerate(clips, 1)) for _, clips in highest]
    assert sum(any(text in prompt for prompt in asked) for text in wanted) > 8


def test_the_published_prompt_leaves_a_run_what_it_was(made, tmp_path):
    server = Server()
    choice = descriptions.Settings(engine="endpoint", url=server.url, model="rule", prompt="published")
    assert choice.needs == ("captions",)
    run_study(tmp_path / "w.duckdb", study(made, ("descriptions",), descriptions=choice), Silent())
    server.close()
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        [(parameters, seed)] = con.execute("SELECT parameters, seed FROM run WHERE stage = 'descriptions'").fetchall()
    keys = {"dataset", "network", "clip_s", "activations", "k", "held_out", "share", "threshold", "captions", "encoder", "model"}
    assert (set(json.loads(parameters)), seed) == (keys, 0)  # which draws among equal clips
    assert not any("Measured" in prompt for prompt in server.asked)


def test_concepts_are_the_words_of_rules_without_units(con):
    words = {word for (word,) in con.execute("SELECT DISTINCT word FROM concept").fetchall()}
    assert words
    assert words.isdisjoint({"hz", "khz", "db", "dbfs", "over", "under", "semitones", "octaves"})
