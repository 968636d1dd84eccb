"""Activations measured by many processes: whatever measures the segments, the warehouse is that of one process."""

import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import soundfile

from ingest import cluster
from ingest.run import run_study
from ingest.stages import clips
from ingest.study import NetworkChoice, make_study
from tests.small import RATE, Silent, write_sounds
from tests.test_resume import content
from warehouse import store
from warehouse.check import check
from warehouse.store import UserError

NETWORK = f"{Path(__file__).parent.parent / 'small.py'}:small_network"


def a_study(folder, network=NETWORK, **settings):
    table = {"dataset": [{"reader": "folder", "source": "sounds", "name": "sounds"}], "network": [{"name": network}]}
    return make_study(table | {"activations": {"device": "cpu", "batch": 4, "segment": 8, "top_k": 5, **settings}}, "study", folder)


def matrices(folder):
    return {path.name: store.sha256_file(path) for path in folder.rglob("*.npy")}


def same(folder, other):
    """Whether two warehouses hold the same, whoever measured it and in whatever order."""
    elsewhere = {"segment": ("node",), "dataset": ("source",)}
    held, others = (content(where / "w.duckdb", elsewhere) for where in (folder, other))
    return held == others and matrices(folder) == matrices(other) and not list(folder.rglob("segment*"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    write_sounds(folder / "sounds")
    run_study(folder / "w.duckdb", a_study(folder), Silent())
    return folder


@pytest.fixture
def sounds(one, tmp_path):
    (tmp_path / "sounds").symlink_to(one / "sounds")
    return tmp_path


def test_parts_in_any_order_make_the_warehouse_that_one_process_makes(one, sounds):
    warehouse, study = sounds / "w.duckdb", a_study(sounds)
    with pytest.raises(UserError, match="no warehouse"):
        cluster.measure_part(warehouse, study, "1/3", Silent())
    run_study(warehouse, replace(study, stages=("clips",)), Silent())
    before = store.sha256_file(warehouse)
    for part in ("3/3", "1/3", "1/3"):
        cluster.measure_part(warehouse, study, part, Silent())
    assert store.sha256_file(warehouse) == before
    assert len(list(sounds.rglob("segment-*.json"))) == 3
    with pytest.raises(UserError, match=r"of 4 segments 2 are not measured"):
        run_study(warehouse, study, Silent(), cluster.parts_only(study.cluster))
    cluster.measure_part(warehouse, study, "2/3", Silent())
    run_study(warehouse, study, Silent(), cluster.parts_only(study.cluster))
    assert same(one, sounds)
    assert list(check(warehouse)) == []
    with duckdb.connect(str(warehouse), read_only=True) as con:
        assert con.execute("SELECT list(clips ORDER BY segment) FROM segment").fetchall() == [([8, 8, 8, 6],)]


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "-1/3", ""])
def test_a_part_is_one_of_a_number(sounds, part):
    with pytest.raises(UserError, match="give K/N"):
        cluster.measure_part(sounds / "w.duckdb", a_study(sounds), part, Silent())


def test_of_two_attempts_at_a_segment_one_counts_and_nothing_is_left_of_the_other(one, sounds):
    def twice(extraction, numbers, progress):
        for _ in range(2):
            yield from extraction.measure([0], progress)
        for number in numbers[1:]:
            yield from extraction.measure([number], progress)

    def once_more(_):
        def measure(extraction, numbers, progress):
            list(extraction.measure([0, 2], progress))  # another's, which nobody told of
            yield from extraction.measure(numbers, progress)

        return measure

    run_study(sounds / "w.duckdb", a_study(sounds), Silent(), once_more)
    assert same(one, sounds)
    assert list(check(sounds / "w.duckdb")) == []


def test_segments_that_lie_whole_are_taken_in_by_whoever_comes_next(one, sounds):
    warehouse, study, seen = sounds / "w.duckdb", a_study(sounds), []

    def dying(_):
        def measure(extraction, numbers, progress):
            yield from extraction.measure(numbers[:2], progress)
            raise KeyboardInterrupt

        return measure

    def rest(_):
        def measure(extraction, numbers, progress):
            seen.extend(numbers)
            yield from extraction.measure(numbers, progress)

        return measure

    run_study(warehouse, replace(study, stages=("clips",)), Silent())
    cluster.measure_part(warehouse, study, "4/4", Silent())
    with pytest.raises(KeyboardInterrupt):
        run_study(warehouse, study, Silent(), dying)
    [broken] = sounds.rglob("segment-00000.*.npz")
    broken.unlink()  # committed, and lost since
    run_study(warehouse, study, Silent(), rest)
    assert seen == [0, 2]
    assert same(one, sounds)


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'auricle\[cluster\]'"):
        cluster.over_ray("127.0.0.1:6379")


DEADLY = """
import os, signal
import torch
from tests.small import small_network, spectrogram

def deadly_network():
    network = small_network()
    def prepare(waveforms):
        if bool((waveforms[:, 100] == 0.5).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        return spectrogram(waveforms)
    network._prepare = prepare
    return network

def slow_network():
    import time
    network = small_network()
    def prepare(waveforms):
        time.sleep(0.2)
        return spectrogram(waveforms)
    network._prepare = prepare
    return network
"""


@pytest.mark.cluster
def test_two_nodes_make_the_warehouse_that_one_process_makes(nodes, one, sounds):
    run_study(sounds / "w.duckdb", a_study(sounds), Silent(), nodes[1])
    assert same(one, sounds)
    assert list(check(sounds / "w.duckdb")) == []


@pytest.mark.cluster
def test_a_clip_that_kills_its_worker_is_one_failure_and_the_rest_is_done(nodes, one, sounds):
    (sounds / "sounds").unlink()
    write_sounds(sounds / "sounds")
    (sounds / "deadly.py").write_text(DEADLY)
    wave, _ = soundfile.read(sounds / "sounds" / "low" / "012.wav", dtype="float32")
    wave[100] = 0.5
    soundfile.write(sounds / "sounds" / "low" / "012.wav", wave, RATE, subtype="FLOAT")
    study = a_study(sounds, f"{sounds / 'deadly.py'}:deadly_network")
    assert run_study(sounds / "w.duckdb", study, Silent(), nodes[1]) == 1
    with duckdb.connect(str(sounds / "w.duckdb"), read_only=True) as con:
        assert con.execute("SELECT item, reason FROM failure").fetchall() == [("low/012.wav", cluster.KILLER)]
        [(column, path)] = con.execute(
            """SELECT column_index, path FROM clip JOIN activation_clip USING (clip_id), activation_file
               WHERE clip.name = 'low/012.wav' AND path LIKE '%conv1.mean%'"""
        ).fetchall()
    values = np.load(sounds / path)
    assert np.isnan(values[:, column]).all()
    assert np.isfinite(np.delete(values, column, axis=1)).all()
    assert not list(sounds.rglob("alone-*"))


@pytest.mark.cluster
def test_a_worker_with_another_checkpoint_or_other_packages_is_refused_in_one_line(nodes, sounds, monkeypatch):
    (sounds / "net.py").write_text("from tests.small import small_network as made\n")
    network = f"{sounds / 'net.py'}:made"
    monkeypatch.setattr(cluster, "_versions", lambda: {"torch": "1.0"})
    with pytest.raises(UserError, match=r"^\S+ has torch 2\S* in place of 1.0: install the same everywhere$"):
        run_study(sounds / "w.duckdb", a_study(sounds, network), Silent(), nodes[1])
    monkeypatch.undo()

    def changed(extraction, numbers, progress):
        extraction.plan = replace(extraction.plan, network_sha256="0" * 64)
        yield from nodes[1](NetworkChoice(network))(extraction, numbers, progress)

    with pytest.raises(UserError, match=r"^\S+ has another checkpoint of small: [0-9a-f]{8} in place of 00000000$"):
        run_study(sounds / "w.duckdb", a_study(sounds, network), Silent(), lambda _: changed)


@pytest.mark.cluster
def test_a_node_that_dies_costs_its_attempts_and_nothing_is_committed_twice(nodes, one, sounds):
    (sounds / "slow.py").write_text(DEADLY)
    study = a_study(sounds, f"{sounds / 'slow.py'}:slow_network", segment=4)
    third = nodes[0].add_node(num_cpus=1)
    nodes[0].wait_for_nodes()
    alive = [third]

    def killing(choice):
        def measure(extraction, numbers, progress):
            for number, segment in enumerate(nodes[1](choice)(extraction, numbers, progress)):
                if number == 2 and alive:  # float16 may not do, and segments be measured anew
                    nodes[0].remove_node(alive.pop(), allow_graceful=False)
                yield segment

        return measure

    run_study(sounds / "w.duckdb", study, Silent(), killing)
    nodes[1].rest()  # its processes end with the stage where the run knows it for a cluster
    assert not alive
    assert matrices(sounds) == matrices(one)
    with duckdb.connect(str(sounds / "w.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(*), count(DISTINCT segment) FROM segment").fetchall() == [(8, 8)]
    assert list(check(sounds / "w.duckdb")) == []


@pytest.mark.cluster
def test_sounds_are_read_on_all_nodes_and_come_in_the_order_of_the_listing(nodes, one, sounds, monkeypatch):
    monkeypatch.setattr(clips, "BATCH", 8)
    study = replace(a_study(sounds), stages=("clips",))
    run_study(sounds / "w.duckdb", study, Silent(), nodes[1])
    query = "SELECT clip_id, * EXCLUDE clip_id FROM clip ORDER BY clip_id"
    with duckdb.connect(str(sounds / "w.duckdb"), read_only=True) as con, duckdb.connect(str(one / "w.duckdb"), read_only=True) as other:
        assert con.execute(query).fetchall() == other.execute(query).fetchall()
        assert con.execute("SELECT list(items ORDER BY items) FROM batch").fetchall() == [([6, 8, 8, 8],)]
    assert list(check(sounds / "w.duckdb")) == []
