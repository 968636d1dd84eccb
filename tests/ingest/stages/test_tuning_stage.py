"""Stage tuning, from a study: networks whose neurons are known, another data set refused, tables and the derived one, resumed without change."""

import duckdb
import numpy as np
import pytest
from scipy.stats import spearmanr

from analyze import tables
from ingest.methods.tuning import measures
from ingest.run import run_study
from ingest.sounds.stimuli import battery
from ingest.stages import tuning
from ingest.stages.recorded import read_recorded
from ingest.study import make_study
from tests.small import Silent, write_sounds
from warehouse.check import check
from warehouse.store import UserError

pytestmark = pytest.mark.slow

SMALL = f"{__file__.rpartition('/ingest/')[0]}/small.py"


def study(folder, reader="stimuli", **dataset):
    table = {
        "stages": ["tuning"], "dataset": [{"reader": reader, "source": "sounds", **dataset}],
        "network": [{"name": f"{SMALL}:planted_network"}], "activations": {"device": "cpu", "batch": 16},
    }  # fmt: skip
    return make_study(table, "study", folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    run_study(folder / "w.duckdb", study(folder), Silent())
    return folder


def rows(folder, sql):
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


def test_bands_of_128_hz_are_found(made):
    """Neurons 0 to 3 sum 128 to 256 Hz, 4 to 7 from 1280 to 1408 Hz."""
    assert list(check(made / "w.duckdb")) == []
    found = rows(
        made,
        """SELECT value, low, high FROM tuning JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
           WHERE layer.name = 'bands' AND measure = 'frequency_hz' ORDER BY neuron_id""",
    )
    for (low_hz, high_hz), its in (((128, 256), found[:4]), ((1280, 1408), found[4:8])):
        for value, low, high in its:
            assert low_hz * 2 ** (-1 / 6) <= value <= high_hz * 2 ** (1 / 6)
            assert low <= value <= high
    [(holds,)] = rows(made, "SELECT count(*) FROM tuning WHERE measure = 'rate_holds' AND value IS NOT NULL AND value NOT IN (0, 1)")
    assert holds == 0
    assert {name for (name,) in rows(made, "SELECT DISTINCT measure FROM tuning")} == {
        "frequency_hz", "bandwidth_octaves", "level_dbfs", "monotonicity", "tone_rate_hz", "noise_rate_hz", "rate_hz", "rate_holds", "direction",
        "pitch_hz", "gap_ms", "ripple_rate_hz", "ripple_density",
    }  # fmt: skip


def test_curves_are_means_of_what_was_recorded(made):
    [(curve, first)] = rows(
        made,
        """SELECT responses, neuron_id FROM tuning_curve JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
           WHERE layer.name = 'bands' AND curve = 'frequency' ORDER BY neuron_id LIMIT 1""",
    )
    path, *_ = rows(made, "SELECT path FROM activation_file JOIN layer USING (layer_id) WHERE layer.name = 'bands' AND reduction = 'mean'")[
        0
    ]
    clips = dict(rows(made, "SELECT column_index, clip.name FROM activation_clip JOIN clip USING (clip_id)"))
    response = dict(zip((clips[c] for c in sorted(clips)), np.load(made / path)[0].astype(float), strict=True))
    tones = [s for s in battery() if s.kind == "tone" and s.frequency_hz <= 4000]  # half of the network's rate
    assert len(curve) == 38
    for place, hz in enumerate(sorted({s.frequency_hz for s in tones})):
        assert curve[place] == pytest.approx(np.mean([response[s.name] for s in tones if s.frequency_hz == hz]), rel=1e-4, abs=1e-6)
    played = rows(
        made,
        """SELECT value, frequency_hz, level_dbfs, repeat FROM tuning_condition JOIN stimulus USING (run_id, clip_id)
           WHERE curve = 'frequency' ORDER BY position""",
    )
    assert [row[0] for row in played] == [row[1] for row in played] == sorted({s.frequency_hz for s in tones})
    assert {row[2:] for row in played} == {(-20.0, 1)}
    assert first


def test_what_is_known_of_stimuli_is_in_a_table(made):
    stored = dict(rows(made, "SELECT name, stimulus FROM stimulus JOIN clip USING (clip_id)"))
    assert len(stored) == 828
    for s in battery():
        assert (stored[s.name]["kind"], stored[s.name]["rate_hz"], stored[s.name]["gap_ms"]) == (s.kind, s.rate_hz, s.gap_ms)


def test_the_derived_table_is_by_layer_and_measure(made):
    with duckdb.connect(str(made / "w.duckdb"), read_only=True) as con:
        table = tables.table(con, "tuning").to_dicts()
    its = {(row["layer"], row["measure"]): row for row in table}
    assert len(its) == len(table) == 2 * 13
    bands = its["bands", "frequency_hz"]
    assert (bands["neurons"], bands["quantile_25"] <= bands["median"] <= bands["quantile_75"]) == (24, True)
    assert 8 / 24 <= bands["tuned"] <= 1


def test_what_is_sure_is_said_and_stands_in_a_row_with_the_measures(made):
    said = rows(made, "SELECT layer, unit, frequency_hz, sentence FROM v_tuning WHERE layer = 'bands' AND unit < 4 ORDER BY unit")
    assert [row[1] for row in said] == [0, 1, 2, 3]
    assert all(128 < hz < 256 and sentence.startswith(f"Best at {hz:.0f} Hz") for _, _, hz, sentence in said)
    assert rows(made, "SELECT count(*) FROM tuning_sentence JOIN tuning USING (run_id, neuron_id) WHERE value IS NOT NULL")[0][0] > 0


def test_scores_by_tuning_need_one(made, tmp_path):
    write_sounds(tmp_path / "sounds")
    run_study(tmp_path / "w.duckdb", make_study({
        "dataset": [{"reader": "folder", "source": "sounds"}], "network": [{"name": f"{SMALL}:planted_network"}], "activations": {"device": "cpu"},
    }, "study", tmp_path), Silent())  # fmt: skip
    with pytest.raises(
        UserError, match=r"tuning needs the tuning of planted, of clips of 1 s: run stage tuning on the data set stimuli first"
    ):
        tuning.of_network(tmp_path / "w.duckdb", read_recorded(tmp_path / "w.duckdb", 2))


def test_best_frequencies_of_positions_rise_along_the_axis(made, tmp_path):
    (tmp_path / "sounds").symlink_to(made / "sounds")
    network = {"name": f"{SMALL}:small_network", "layers": ["conv1"], "positions": True}
    table = {"stages": ["tuning"], "dataset": [{"reader": "stimuli", "source": "sounds"}], "network": [network]}
    run_study(tmp_path / "w.duckdb", make_study(table, "study", tmp_path), Silent())
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        places = tables.table(con, "tonotopy").to_dicts()
        hertz = con.execute(
            "SELECT frequency_position, value FROM tuning JOIN neuron USING (neuron_id) WHERE measure = 'frequency_hz' AND value IS NOT NULL"
        ).fetchall()
    assert [row["frequency_position"] for row in places] == list(range(16))
    assert {row["neurons"] for row in places} == {5 * 32}
    assert places[0]["correlation"] == places[-1]["correlation"] == pytest.approx(spearmanr(*zip(*hertz, strict=True)).statistic)
    assert places[0]["correlation"] > 0.8  # bands are 128 Hz apart
    assert places[2]["median"] < places[8]["median"] < places[14]["median"]


def test_done_is_not_done_again_and_continued_is_the_same(made, tmp_path, monkeypatch):
    run_study(made / "w.duckdb", study(made), Silent())
    assert rows(made, "SELECT count(*) FROM run WHERE stage = 'tuning'") == [(1,)]
    whole = measures.measure
    calls = []

    def killed(values, *rest):
        calls.append(len(values))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(values, *rest)

    monkeypatch.setattr(tuning, "measure", killed)
    (tmp_path / "sounds").symlink_to(made / "sounds")
    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path / "w.duckdb", study(tmp_path), Silent())
    monkeypatch.setattr(tuning, "measure", whole)
    run_study(tmp_path / "w.duckdb", study(tmp_path), Silent())
    for sql in (
        "FROM tuning ORDER BY ALL",
        "FROM tuning_curve ORDER BY ALL",
        "FROM stimulus ORDER BY ALL",
        "FROM tuning_condition ORDER BY ALL",
    ):
        assert rows(tmp_path, sql) == rows(made, sql)


def test_another_data_set_is_refused_in_a_line(tmp_path):
    write_sounds(tmp_path / "sounds")
    with pytest.raises(UserError, match="tuning is measured on the data set stimuli, not on sounds: give it to a study of its own") as said:
        run_study(tmp_path / "w.duckdb", study(tmp_path, "folder", name="sounds"), Silent())
    assert "\n" not in str(said.value)


def test_a_part_of_the_battery_is_refused(made, tmp_path):
    (tmp_path / "sounds").symlink_to(made / "sounds")
    with pytest.raises(UserError, match=r"tuning needs all 828 stimuli, of which \d+ are not recorded, such as tone/"):
        run_study(tmp_path / "w.duckdb", study(tmp_path, per_class=3), Silent())
