"""Runs of many clips, whose matrices lie in parts: the same values and tables as in one file, and every later reader finds them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from ingest.run import run_study
from ingest.stages.extraction import segments
from ingest.stages.extraction.layer_tables import tables_of, top_clips
from ingest.stages.extraction.segments import FILE_CLIPS, segment_clips
from ingest.study import make_study
from tests.small import Silent, write_label_map, write_sounds
from tests.test_resume import content
from warehouse import store
from warehouse.check import check
from warehouse.matrices import open_matrix, part_name, write_matrix

HERE = Path(__file__).parent.parent.parent
LAID = {"activation_file": ("path", "sha256"), "segment": ("sha256", "node"), "dataset": ("source",)}
"""Columns that say how matrices lie."""


def a_study(folder, network="planted_network", stages=("probes", "clusters", "specificity", "map")):
    table = {"dataset": [{"reader": "folder", "source": "sounds", "name": "sounds"}], "stages": list(stages)}
    network = network if ":" in network else f"{HERE / 'small.py'}:{network}"
    activations = {"device": "cpu", "batch": 4, "segment": 8, "top_k": 5}
    return make_study(table | {"network": [{"name": network}], "activations": activations}, "study", folder)


def paths(warehouse):
    with duckdb.connect(str(warehouse), read_only=True) as con:
        query = "SELECT layer.name, reduction, path FROM activation_file JOIN layer USING (layer_id) ORDER BY ALL"
        return {row[:2]: warehouse.parent / row[2] for row in con.execute(query).fetchall()}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    write_sounds(folder / "sounds")
    write_label_map(folder / "map.csv")
    run_study(folder / "w.duckdb", a_study(folder), Silent())
    return folder


@pytest.fixture
def many(one, tmp_path, monkeypatch):
    (tmp_path / "sounds").symlink_to(one / "sounds")
    monkeypatch.setattr(segments, "FILE_CLIPS", 20)
    return tmp_path


@pytest.mark.slow
def test_all_stages_find_in_parts_what_they_find_in_one_file(one, many):
    run_study(many / "w.duckdb", a_study(many), Silent())
    whole, parts = paths(one / "w.duckdb"), paths(many / "w.duckdb")
    assert whole.keys() == parts.keys()
    for key, path in parts.items():
        assert path.name + ".npy" == whole[key].name
        assert sorted(part.name for part in path.iterdir()) == ["00000000.npy", "00000008.npy", "00000016.npy", "00000024.npy"]
        np.testing.assert_array_equal(np.asarray(open_matrix(path)), np.load(whole[key]))
    expected, found = content(one / "w.duckdb", LAID), content(many / "w.duckdb", LAID)
    assert len(found.pop("activation_part")) == 4 * len(parts)
    assert expected.pop("activation_part") == []
    for table, rows in expected.items():
        assert found[table] == rows, table
    assert list(check(many / "w.duckdb")) == []
    assert not list(many.rglob("segment*"))


def test_check_finds_parts_that_are_missing_changed_or_others(many):
    warehouse = many / "w.duckdb"
    run_study(warehouse, a_study(many, stages=()), Silent())
    path = paths(warehouse)["bands", "mean"]
    name, part = path.relative_to(many).as_posix(), path / "00000008.npy"
    saved = part.read_bytes()
    part.write_bytes(saved[:-1] + b"x")
    assert list(check(warehouse)) == [f"activation file {name}/00000008.npy was changed after it was written"]
    part.unlink()
    assert list(check(warehouse)) == [f"activation file {name}/00000008.npy is missing"]
    part.write_bytes(saved)
    shutil.copy(part, path / "00000030.npy")
    assert list(check(warehouse)) == [f"activation file {name} is float32 (24, 38), registered as float32 (24, 30)"]
    (path / "00000030.npy").unlink()
    assert list(check(warehouse)) == []
    with duckdb.connect(str(warehouse)) as con:
        con.execute("DELETE FROM activation_part WHERE first_column = 8 AND reduction = 'mean' AND layer_id = 1")
    assert list(check(warehouse)) == [f"activation file {name} is registered with other parts than those in activation_part"]


SIGMOID = """
from dataclasses import replace
import torch
from tests.small import small_network

def sigmoid_network():
    network = small_network()
    network.module.append(torch.nn.Sigmoid())
    network.module[6].bias.data -= 20
    network.layers[2] = replace(network.layers[2], module="7", non_negative=True)
    network.checkpoint_sha256 = "sigmoid"
    return network
"""


def interrupted(monkeypatch, after, study, warehouse):
    """Run a study that ends when so many parts are in their place; returns the last."""
    publish, done = store.publish, []

    def counting(temporary, to):
        publish(temporary, to)
        if to.parent.parent.name.startswith("run-"):
            done.append(to)
            if len(done) == after:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "publish", counting)
        with pytest.raises(KeyboardInterrupt):
            run_study(warehouse, study, Silent())
    return done[-1]


@pytest.mark.slow
@pytest.mark.parametrize("after", [None, 1, 9, 20])
def test_parts_of_a_layer_that_float16_keeps_are_written_anew_and_those_of_others_moved(many, monkeypatch, after):
    (many / "net.py").write_text(SIGMOID)
    study, warehouse = a_study(many, f"{many / 'net.py'}:sigmoid_network", stages=()), many / "w.duckdb"
    if after:
        assert interrupted(monkeypatch, after, study, warehouse).exists()
    run_study(warehouse, study, Silent())
    found = {key: open_matrix(path) for key, path in paths(warehouse).items()}
    assert {name: str(matrix.dtype) for (name, _), matrix in found.items()} == {"conv1": "float16", "conv2": "float16", "logits": "float32"}
    monkeypatch.setattr(segments, "FILE_CLIPS", FILE_CLIPS)
    run_study(many / "other" / "w.duckdb", study, Silent())
    for key, path in paths(many / "other" / "w.duckdb").items():
        np.testing.assert_array_equal(np.asarray(found[key]), np.load(path))
    assert list(check(warehouse)) == []


@pytest.mark.slow
def test_a_moved_part_that_was_changed_is_measured_again_and_no_other(many, monkeypatch):
    warehouse, study = many / "w.duckdb", a_study(many, stages=())
    attempts = lambda: duckdb.connect(str(warehouse), read_only=True).execute("SELECT attempt FROM segment ORDER BY segment").fetchall()  # noqa: E731
    last = interrupted(monkeypatch, 3, study, warehouse)
    before = attempts()
    np.save(last, np.zeros_like(np.load(last)))
    run_study(warehouse, study, Silent())
    assert [one == other for one, other in zip(before, attempts(), strict=True)] == [True, True, False, True]
    assert list(check(warehouse)) == []


@pytest.mark.parametrize(
    ("clip_bytes", "clips", "expected"),
    [
        (46_000, 2000, 256), (46_000, FILE_CLIPS, 256), (2_000_000, 2000, 134), (10**9, 2000, 8),
        (46_000, FILE_CLIPS + 1, 256), (46_000, 55_000, 1024), (46_000, 100_000, 2048), (46_000, 2_000_000, 8192), (332_000, 2_000_000, 3232),
        (10**9, 2_000_000, 8),
    ],
)  # fmt: skip
def test_segments_grow_with_the_clips_as_far_as_memory_allows(clip_bytes, clips, expected):
    assert segment_clips(clip_bytes, clips) == expected


@pytest.mark.slow
def test_two_million_values_of_a_neuron_are_finished_in_bounded_memory(tmp_path):
    """In a process of its own: 8 neurons, parts of 8192 clips."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ingest.stages.test_activation_parts", str(tmp_path)], cwd=HERE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10**6  # kB


def finish(folder):
    """Work of that process; prints its peak in kB."""
    rng = np.random.default_rng(0)
    clips = 2_000_000
    for first in range(0, clips, FILE_CLIPS):
        values = rng.normal(size=(8, min(FILE_CLIPS, clips - first))).astype(np.float16)
        values[2] = np.maximum(values[2], 0)
        values[3, ::7] = np.nan
        values[4] = 0
        values[5] = (values[5].astype(np.float32) * 1e4).astype(np.float16)
        write_matrix(folder / part_name(first), values.shape, values.dtype, [values])
    matrix, neuron_ids, clip_ids = open_matrix(folder), np.arange(8, dtype=np.int32), np.arange(1, clips + 1)
    rows = tables_of(matrix, neuron_ids)["activation_summary"]
    top = top_clips(matrix, neuron_ids, clip_ids, 20)
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]  # ru_maxrss knows of the process that began this one
    for neuron in range(8):
        row = rows.row(neuron, named=True)
        values = matrix[neuron].astype(np.float64)
        ordered = np.sort(values[np.isfinite(values)])
        assert row["clips"] == len(ordered)
        for name, q in (("minimum", 0), ("maximum", 1), ("median", 0.5), *((f"quantile_{q:02d}", q / 100) for q in (5, 25, 75, 95))):
            place = (len(ordered) - 1) * q
            low = int(np.floor(place))
            below, above = ordered[low], ordered[int(np.ceil(place))]
            assert row[name] == below + (above - below) * (place - low), (neuron, name)
        np.testing.assert_allclose([row["mean"], row["deviation"]], [ordered.mean(), ordered.std()], rtol=1e-9, atol=1e-12)
        assert row["share_active"] == (ordered > 0).mean()
        assert row["is_dead"] == (neuron == 4)
        expected = None if neuron == 4 else str(np.histogram(ordered, 24)[0].tolist()).replace(" ", "")
        assert row["histogram"] == expected
        order = np.lexsort((clip_ids, -np.nan_to_num(values, nan=-np.inf)))[:20]
        assert top.filter(neuron_id=neuron, side="high").sort("rank")["clip_id"].to_list() == clip_ids[order].tolist()
    print(peak)


if __name__ == "__main__":
    finish(Path(sys.argv[1]))
