"""Stage scores on planted neurons: when in a clip they are active, and the clips of their ranges."""

import numpy as np
import pytest
import soundfile

from ingest.run import run_study
from ingest.stages import activations, descriptions, scores
from ingest.stages.recorded import read_recorded
from ingest.study import DatasetChoice, NetworkChoice, Study
from tests.small import RATE, Silent
from warehouse import store
from warehouse.check import check

pytestmark = pytest.mark.slow

SPEC = f"{__file__.rpartition('/ingest/')[0]}/small.py:planted_network"


@pytest.fixture(scope="module")
def made(tmp_path_factory, minilm_folder):
    """Low tones that sound for a third of a clip, at any moment, over a faint hiss; and as many hisses that come and go."""
    folder = tmp_path_factory.mktemp("trials")
    (folder / "sounds" / "low").mkdir(parents=True)
    (folder / "sounds" / "noise").mkdir()
    rng = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    for clip in range(160):
        start = rng.uniform(0, 0.65)
        there = ((time > start) & (time < start + 0.35)).astype(float)
        kind = ("low", "noise")[clip % 2]
        sound = (
            np.sin(2 * np.pi * rng.uniform(140, 230) * time) * rng.uniform(0.05, 0.5) if kind == "low" else 0.1 * rng.standard_normal(RATE)
        )
        soundfile.write(folder / "sounds" / kind / f"{clip:03d}.wav", there * sound + 0.001 * rng.standard_normal(RATE), RATE)
    settings = {
        "activations": activations.Settings(device="cpu", batch=16, top_k=30), "descriptions": descriptions.Settings(held_out=0.5),
        "scores": scores.Settings(window_s=0.25),
    }  # fmt: skip
    run_study(
        folder / "w.duckdb",
        Study((DatasetChoice("folder", folder / "sounds", "sounds"),), (NetworkChoice(SPEC),), ("scores",), settings),
        Silent(),
    )
    return folder / "w.duckdb"


def found_of(warehouse, test, scorer="rule"):
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            """SELECT unit, value, low, high, floor, clips FROM description_test JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
               WHERE layer.name = 'bands' AND test = ? AND scorer = ? ORDER BY unit""",
            [test, scorer],
        ).fetchall()
    return {row[0]: row[1:] for row in rows}


def test_a_rule_says_when_a_band_is_loud_and_constant_neurons_are_refused(made):
    found = found_of(made, "fuzz")
    with store.connect_readonly(made) as con:
        ruled = {
            unit
            for (unit,) in con.execute(
                "SELECT unit FROM rule JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) WHERE layer.name = 'bands' AND conditions > 0"
            ).fetchall()
        }
    assert {0, 1, 2, 3} <= ruled
    for unit in range(4):  # they hear low tones
        value, low, high, _, clips = found[unit]
        assert value > 0.85
        assert low > 0.7
        assert 5 <= clips <= 30
        assert high <= 1
    constant = ruled & set(range(8, 24))  # a faint answer to everything on top of a constant
    assert constant
    assert not constant & found.keys()


def test_every_scorer_is_tried_on_near_misses_and_intruders(made):
    for scorer in ("rule", "captions"):
        for test in ("near misses", "intruder"):
            found = found_of(made, test, scorer)
            assert set(range(8)) <= found.keys()
            assert all(0 <= value <= 1 and 0 <= floor <= 1 for value, _, _, floor, _ in found.values())
    assert all(value > 0.8 for unit, (value, *_) in found_of(made, "intruder").items() if unit < 4)
    assert list(check(made)) == []


def test_clips_of_the_range_are_held_out_and_near_misses_leave_the_neuron_cold(made):
    recorded = read_recorded(made, 2)
    column = {int(clip): place for place, clip in enumerate(recorded.clip_ids)}
    bands = next(layer for layer in recorded.layers if layer.name == "bands")
    matrix = np.asarray(bands.matrix(), dtype=np.float32)
    with store.connect_readonly(made) as con:
        rows = con.execute(
            "SELECT neuron_id, range, rank, clip_id FROM range_clip WHERE neuron_id BETWEEN ? AND ? ORDER BY ALL",
            [bands.first_neuron_id, bands.first_neuron_id + 7],
        ).fetchall()
    assert {name for _, name, _, _ in rows} == {"middle", "near miss"}
    for neuron in range(bands.first_neuron_id, bands.first_neuron_id + 8):
        values = matrix[neuron - bands.first_neuron_id]
        near = [values[column[clip]] for n, name, _, clip in rows if (n, name) == (neuron, "near miss")]
        middle = [values[column[clip]] for n, name, _, clip in rows if (n, name) == (neuron, "middle")]
        assert len(near) == 5
        assert max(near) <= np.quantile(values, 0.6)
        assert middle == sorted(middle, reverse=True)
        assert min(middle) >= min(near)
