"""Stage map on small real networks: what it places, leaves out and begins from."""

import duckdb
import numpy as np
import pytest

from analyze import tables
from ingest.run import run_study
from ingest.stages import activations
from ingest.stages import map as stage
from ingest.study import DatasetChoice, NetworkChoice, Study
from tests.small import Silent, write_sounds
from warehouse import store
from warehouse.check import check

pytestmark = pytest.mark.slow

SMALL = f"{__file__.rpartition('/ingest/')[0]}/small.py"
SPECS = {"small": f"{SMALL}:small_network", "planted": f"{SMALL}:planted_network"}


def ingest(folder, networks=("small",), sounds="sounds", positions=False, **settings):
    choices = tuple(NetworkChoice(SPECS[name], positions=positions) for name in networks)
    chosen = {"activations": activations.Settings(device="cpu", batch=4), "map": stage.Settings(**settings)}
    told = Silent()
    run_study(folder / "w.duckdb", Study((DatasetChoice("folder", folder / sounds, sounds),), choices, ("map",), chosen), told)
    return told


LIVING = 14
"""Of the 15 neurons of the small network one answers to nothing."""


def rows(folder, sql):
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


@pytest.fixture
def folder(tmp_path):
    write_sounds(tmp_path / "sounds")
    write_sounds(tmp_path / "more", clips=24, seed=3)
    return tmp_path


def silence(folder, neurons):
    """Set two neurons of the first layer to a constant in their files."""
    for path in rows(folder, "SELECT path FROM activation_file JOIN layer USING (layer_id) WHERE position = 0"):
        values = np.load(folder / path[0])
        values[neurons] = [[0.0], [2.5]]
        np.save(folder / path[0], values)


def test_every_living_neuron_has_a_place_and_a_second_time_nothing_is_done(folder):
    ingest(folder)
    before = store.sha256_file(folder / "w.duckdb")
    ingest(folder)
    assert store.sha256_file(folder / "w.duckdb") == before
    assert list(check(folder / "w.duckdb")) == []
    [(placed, neurons, clips, start, shared, near)] = rows(
        folder, "SELECT placed, neurons, clips, start_run_id, shared, near_10 FROM neuron_map"
    )
    assert (placed, neurons, clips, start, shared) == (LIVING, 15, 30, None, None)
    assert near > 10 / 13
    assert rows(folder, "SELECT count(*), count(DISTINCT neuron_id), max(greatest(abs(x), abs(y))) FROM neuron_position") == [
        (LIVING, LIVING, 1.0)
    ]


def test_dead_and_constant_neurons_are_left_out_and_counted(folder):
    ingest(folder)
    dead = rows(folder, "SELECT neuron_id FROM activation_summary WHERE is_dead AND reduction = 'mean'")
    assert rows(folder, "SELECT neuron_id FROM neuron WHERE neuron_id NOT IN (SELECT neuron_id FROM neuron_position)") == dead
    living = [unit for (unit,) in rows(folder, f"SELECT unit FROM v_neuron WHERE layer = 'conv1' AND neuron_id <> {dead[0][0]} ORDER BY 1")]
    silence(folder, living[1:3])
    ingest(folder, seed=1)
    assert rows(folder, "SELECT neurons, placed, shared FROM neuron_map ORDER BY run_id DESC LIMIT 1") == [(15, LIVING - 2, LIVING - 2)]
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        found = tables.table(con, "map").sort("run_id", "position").to_dicts()
    assert [(row["layer"], row["placed"], row["left_out"]) for row in found[-3:]] == [("conv1", 2, 3), ("conv2", 7, 0), ("logits", 3, 0)]
    assert [row["parameters"] for row in found[::3]] == ["seed = 0", "seed = 1"]
    assert found[-1]["chance_10"] == pytest.approx(10 / (LIVING - 3))


def test_a_map_of_other_sounds_lies_on_the_one_before(folder):
    ingest(folder)
    ingest(folder, sounds="more")
    [(run, start, shared, moved)] = rows(folder, "SELECT run_id, start_run_id, shared, moved FROM neuron_map ORDER BY run_id DESC LIMIT 1")
    assert (start, shared) == (rows(folder, "SELECT min(run_id) FROM neuron_map")[0][0], LIVING)
    apart = rows(
        folder,
        f"""SELECT sqrt(avg((a.x - b.x) ** 2 + (a.y - b.y) ** 2)) FROM neuron_position AS a JOIN neuron_position AS b USING (neuron_id)
        WHERE a.run_id = {run} AND b.run_id = {start}""",
    )
    assert apart[0][0] == pytest.approx(moved)
    # Once both are there, each is found again, not begun anew from the other.
    before = store.sha256_file(folder / "w.duckdb")
    ingest(folder)
    ingest(folder, sounds="more")
    assert store.sha256_file(folder / "w.duckdb") == before


def test_networks_that_heard_the_same_clips_share_a_plane(folder):
    ingest(folder, ("small", "planted"), together=True)
    placed = rows(
        folder,
        """SELECT run_id, network, count(*) FROM neuron_position JOIN v_neuron USING (neuron_id) GROUP BY ALL ORDER BY ALL""",
    )
    first, second = sorted({run for run, *_ in placed})
    assert placed == [(first, "small", LIVING), (second, "planted", 26), (second, "small", LIVING)]
    assert rows(folder, f"SELECT start_run_id, shared, neurons FROM neuron_map WHERE run_id = {second}") == [(first, LIVING, 42)]
    before = store.sha256_file(folder / "w.duckdb")
    ingest(folder, ("small", "planted"), together=True)
    assert store.sha256_file(folder / "w.duckdb") == before
    assert list(check(folder / "w.duckdb")) == []


def test_one_seed_gives_one_map(folder, tmp_path):
    ingest(folder)
    (tmp_path / "again").mkdir()
    (folder / "sounds").rename(tmp_path / "again" / "sounds")
    ingest(tmp_path / "again")
    where = "SELECT neuron_id, x, y FROM neuron_position ORDER BY 1"
    assert rows(folder, where) == rows(tmp_path / "again", where)


def test_a_run_of_positions_alone_is_said_to_have_none(folder):
    ingest(folder, positions=True)
    kinds = rows(folder, "SELECT DISTINCT kind FROM activation_file JOIN layer USING (layer_id)")
    placed = rows(
        folder, "SELECT count(*) FROM neuron_position JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) WHERE kind = 'position'"
    )
    assert ("position",) in kinds
    assert placed == [(0,)]
