"""By which hash a network is known: whatever shapes its values makes another network of it."""

import json

import duckdb
import numpy as np
import pytest

from ingest.networks import identity
from ingest.networks.checkpoints import tensor_sha256
from ingest.networks.registry import load_network
from tests.ingest.stages.test_activations import ingest
from tests.small import write_sounds
from warehouse.store import UserError

OWN = """
import torch
from ingest.networks import Layer, Network
from ingest.networks.checkpoints import tensor_sha256
import beside

class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 3, 100, stride=100)
        self.register_buffer("scale", torch.full((1,), beside.scale()), persistent=False)

    def forward(self, x):
        return self.conv(x) * self.scale

def network(given="...", names=("a", "b", "c")):
    torch.manual_seed(0)
    module = Scaled()
    module.conv.weight.data *= WEIGHT
    given = tensor_sha256(module.state_dict()) if given == "right" else given
    return Network("own", "test", module, sample_rate_hz=8000, clip_s=1.0, checkpoint_sha256=given, output_names=list(names),
                   layers=[Layer("conv", "", (3, 80), "channel,time")], prepare=lambda w: w[:, None])

omitted = lambda: network(None)
right = lambda: network("right")
renamed = lambda: network("right", ("a", "c", "b"))
wrong = lambda: network("0123456789abcdef" * 4)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the user's files; returns what loads a function's network from them."""

    def written(weight=1.0, scale=1.0, more=""):
        monkeypatch.delitem(__import__("sys").modules, "beside", raising=False)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        (tmp_path / "own.py").write_text(OWN.replace("WEIGHT", str(weight)) + more)
        (tmp_path / "beside.py").write_text("from deeper import SCALE as found\n\ndef scale():\n    return found\n")
        monkeypatch.delitem(__import__("sys").modules, "deeper", raising=False)
        (tmp_path / "deeper.py").write_text(f"SCALE = {scale}\n")
        (tmp_path / "unrelated.py").write_text(f"# {weight}\n")
        return lambda function: load_network(f"{tmp_path}/own.py:{function}")

    return written


def test_text_given_for_a_hash_stands_for_the_tensors_and_the_file(write):
    known = [write()("network").checkpoint_sha256 for _ in range(2)]
    known += [write(weight=2.0)("network").checkpoint_sha256, write(scale=2.0)("network").checkpoint_sha256]
    known += [write(more="# another line\n")("network").checkpoint_sha256]
    assert known[0] == known[1]
    assert len(set(known)) == 4


def test_a_hash_of_the_tensors_stays_and_one_of_something_else_is_refused(write):
    load = write()
    network = load("right")
    assert network.checkpoint_sha256 == tensor_sha256(network.module.state_dict()) == load("omitted").checkpoint_sha256
    with pytest.raises(UserError, match=r"wrong: checkpoint_sha256 01234567... is not that of the network's tensors: leave it out"):
        load("wrong")


def test_files_that_are_imported_count(write, tmp_path):
    write()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("from . import inner\nfrom .inner import x\nimport package.other\n")
    for name in ("inner", "other", "unused"):
        (tmp_path / "package" / f"{name}.py").write_text("x = 1\n")
    with (tmp_path / "own.py").open("a") as file:
        file.write("from package import inner\n")
    found = {path.relative_to(tmp_path).as_posix() for path in identity.imported(tmp_path / "own.py")}
    assert found == {"own.py", "beside.py", "deeper.py", "package/__init__.py", "package/inner.py", "package/other.py"}


@pytest.mark.slow
def test_a_run_is_done_again_when_anything_that_shapes_it_changed(write, tmp_path):
    sounds, warehouse = write_sounds(tmp_path / "sounds", 6), tmp_path / "w.duckdb"

    def run(load, function="right"):
        return ingest(warehouse, sounds, network=load(function)).run

    first = run(write())
    scaled = run(write(scale=2.0))
    assert scaled.run_id != first.run_id
    assert "the checkpoint changed (its tensors, its Python code)" in scaled.why
    renamed = run(write(), "renamed")
    assert [run(write()).run_id, run(write(scale=2.0)).run_id, run(write(), "renamed").run_id] == [
        first.run_id,
        scaled.run_id,
        renamed.run_id,
    ]
    with duckdb.connect(str(warehouse), read_only=True) as con:
        means = dict(con.execute("SELECT run_id, sum(mean) FROM activation_summary WHERE reduction = 'mean' GROUP BY 1").fetchall())
        names = con.execute("SELECT output_names FROM network ORDER BY network_id").fetchall()
    assert means[scaled.run_id] == pytest.approx(2 * means[first.run_id], rel=1e-3)
    assert names == [('["a", "b", "c"]',), ('["a", "b", "c"]',), ('["a", "c", "b"]',)]


@pytest.mark.slow
def test_runs_made_before_go_on_but_for_other_label_names(write, tmp_path):
    sounds, warehouse = write_sounds(tmp_path / "sounds", 6), tmp_path / "w.duckdb"
    first = ingest(warehouse, sounds, network=write()("right")).run.run_id
    for record in tmp_path.rglob(identity.RECORD):
        record.unlink()
    assert ingest(warehouse, sounds, network=write(more="# later\n")("right")).run.run_id == first
    assert ingest(warehouse, sounds, network=write()("renamed")).run.run_id != first


READS = """
import json
from pathlib import Path
import numpy as np
import torch
from ingest.networks import Layer, Network

HERE = Path(__file__).parent
MEAN = json.loads((HERE / "mean.json").read_text())

def prepare(waveforms):
    bank = torch.from_numpy(np.load(HERE / "filters" / "bank.npy"))
    return (waveforms - MEAN)[:, None] * bank

def network():
    torch.manual_seed(0)
    with open(HERE / "names.txt") as file:
        names = file.read().split()
    (HERE / "log.txt").write_text("loaded")
    room = "room.wav"
    return Network("reads", "test", torch.nn.Conv1d(1, 3, 100, stride=100), sample_rate_hz=8000, clip_s=1.0, output_names=names, prepare=prepare,
                   layers=[Layer("conv", "", (3, 80), "channel,time")])
"""


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """Writes a network that reads files; returns what loads it after one of them was made another."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    (tmp_path / "filters").mkdir()
    (tmp_path / "own.py").write_text(READS)
    (tmp_path / "mean.json").write_text("0.25")
    (tmp_path / "names.txt").write_text("a b c")
    (tmp_path / "unread.json").write_text("1")
    (tmp_path / "room.wav").write_bytes(b"RIFF")
    np.save(tmp_path / "filters" / "bank.npy", np.float32(2))

    def loaded(file=None, content=b""):
        if file:
            (tmp_path / file).write_bytes(content)
        return load_network(f"{tmp_path}/own.py:network")

    return loaded


def test_files_that_a_network_reads_are_part_of_what_it_is(reads):
    """By Python while it is loaded or prepares a clip, or, as its code names them, by a library of sounds."""
    files = reads().shaped_by[identity.FILES]
    assert list(files) == ["filters/bank.npy", "mean.json", "names.txt", "room.wav"]
    assert reads("unread.json", b"2").shaped_by[identity.FILES] == files
    now = reads("room.wav", b"RIFX").shaped_by[identity.FILES]
    assert [name for name in files if now[name] != files[name]] == ["room.wav"]


@pytest.mark.slow
def test_a_run_is_done_again_when_a_file_that_the_network_reads_changed(reads, tmp_path):
    sounds, warehouse = write_sounds(tmp_path / "sounds", 6), tmp_path / "w.duckdb"
    first = ingest(warehouse, sounds, network=reads()).run
    assert ingest(warehouse, sounds, network=reads()).worked == 0
    bank = (tmp_path / "filters" / "bank.npy").read_bytes()
    np.save(tmp_path / "filters" / "bank.npy", np.float32(3))
    changed = ingest(warehouse, sounds, network=reads()).run
    assert changed.why == f"not run {first.run_id} again: the checkpoint changed (filters/bank.npy)"
    with duckdb.connect(str(warehouse), read_only=True) as con:
        query = "SELECT count(DISTINCT sum) FROM (SELECT sum(mean) AS sum FROM activation_summary WHERE reduction = 'mean' GROUP BY run_id)"
        assert con.execute(query).fetchall() == [(2,)]
    assert ingest(warehouse, sounds, network=reads("filters/bank.npy", bank)).run.run_id == first.run_id


@pytest.mark.slow
def test_a_run_recorded_without_the_files_that_were_read_goes_on_and_is_told_of_them(reads, tmp_path):
    sounds, warehouse = write_sounds(tmp_path / "sounds", 6), tmp_path / "w.duckdb"
    first = ingest(warehouse, sounds, network=reads()).run.run_id
    [record] = tmp_path.rglob(identity.RECORD)
    record.write_text(json.dumps({name: value for name, value in json.loads(record.read_text()).items() if name != identity.FILES}))
    assert ingest(warehouse, sounds, network=reads()).run.run_id == first
    assert ingest(warehouse, sounds, network=reads("mean.json", b"0.5")).run.run_id != first
