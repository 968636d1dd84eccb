"""The stage `activations` on a small network: every stored number against a plain computation."""

import json
from dataclasses import replace

import duckdb
import numpy as np
import pytest
import soundfile
import torch

from ingest.methods.mapping import neighbors as neighbors_method
from ingest.networks.network import Layer, Network, Padding
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import load
from ingest.stages import activations, clips
from ingest.stages.activations import Settings
from ingest.stages.extraction import neighbors, segments
from ingest.stages.extraction.recording import Recorder, course_weights
from tests.small import CLIP_S, RATE, small_network, spectrogram, write_sounds
from warehouse import ledger, store
from warehouse.check import check
from warehouse.store import UserError


def ingest(warehouse, sounds, settings=None, network=None, **options):
    listing = read_dataset("folder", sounds, "sounds")
    network = network or small_network()
    with store.writer(warehouse):
        read = clips.ingest_clips(warehouse, listing)
        with store.connect_readonly(warehouse) as con:
            content = con.execute("SELECT content_sha256 FROM dataset WHERE run_id = ?", [read.run.run_id]).fetchone()[0]
        paths = {entry.name: entry.path for entry in listing.entries}
        return activations.ingest_activations(
            warehouse, network, "sounds", content, paths, replace(settings or Settings(), device="cpu", batch=4), **options
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations")
    sounds = write_sounds(folder / "sounds")
    saved, segments.SEGMENT_CLIPS = segments.SEGMENT_CLIPS, 8  # several segments, ending within the data set
    try:
        ingest(folder / "w.duckdb", sounds)
    finally:
        segments.SEGMENT_CLIPS = saved
    con = duckdb.connect(str(folder / "w.duckdb"), read_only=True)
    yield con, folder
    con.close()


def matrix(con, folder, layer, reduction):
    row = con.execute(
        "SELECT path FROM activation_file JOIN layer USING (layer_id) WHERE name = ? AND reduction = ?", [layer, reduction]
    ).fetchone()
    return np.load(folder / row[0])


def hooked(folder, con, layer):
    """The layer's output [clips, ...] in double precision from one clip at a time."""
    network = small_network()
    names = [
        name for (name,) in con.execute("SELECT clip.name FROM activation_clip JOIN clip USING (clip_id) ORDER BY column_index").fetchall()
    ]
    found = []
    handle = network.module.get_submodule(layer.module).register_forward_hook(
        lambda _m, _i, output: found.append(output[0].double().numpy())
    )
    for name in names:
        waveform, _ = load(folder / "sounds" / name, sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s)
        network.forward(network.prepare(torch.from_numpy(waveform)[None]))
    handle.remove()
    return np.stack(found)


def test_matrices_equal_a_hook_by_hook_forward_pass_within_float16(made):
    con, folder = made
    for layer in small_network().layers:
        values = hooked(folder, con, layer)
        flat = values.reshape(*values.shape[:2], -1)
        for reduction, expected in (("mean", flat.mean(axis=2).T), ("max", flat.max(axis=2).T)):
            stored = matrix(con, folder, layer.name, reduction)
            assert stored.dtype == np.float16
            assert stored.shape == (layer.neurons, 30)
            np.testing.assert_allclose(stored, expected, rtol=2**-10, atol=1e-6)


def test_top_clips_equal_a_sort_of_the_stored_matrix(made):
    con, folder = made
    ids = np.array([i for (i,) in con.execute("SELECT clip_id FROM activation_clip ORDER BY column_index").fetchall()])
    for reduction in ("mean", "max"):
        stored = np.concatenate([matrix(con, folder, layer.name, reduction) for layer in small_network().layers])
        for side, sign in (("high", -1), ("low", 1)):
            order = np.lexsort((np.broadcast_to(ids, stored.shape), sign * stored.astype(float)), axis=1)[:, :20]
            rows = con.execute(
                "SELECT clip_id, activation FROM top_clip WHERE reduction = ? AND side = ? ORDER BY neuron_id, rank", [reduction, side]
            ).fetchnumpy()
            np.testing.assert_array_equal(rows["clip_id"].reshape(-1, 20), ids[order])
            np.testing.assert_array_equal(rows["activation"].reshape(-1, 20), np.take_along_axis(stored, order, 1))


def test_summaries_equal_numpy_on_the_stored_matrix(made):
    con, folder = made
    for reduction in ("mean", "max"):
        stored = np.concatenate([matrix(con, folder, layer.name, reduction) for layer in small_network().layers]).astype(float)
        rows = con.execute("SELECT * FROM activation_summary WHERE reduction = ? ORDER BY neuron_id", [reduction]).fetchnumpy()
        expected = {
            "clips": np.full(15, 30), "mean": stored.mean(1), "deviation": stored.std(1), "minimum": stored.min(1), "maximum": stored.max(1),
            "median": np.median(stored, 1), "share_active": (stored > 0).mean(1), "is_dead": (stored == 0).all(1),
            **{f"quantile_{q:02d}": np.quantile(stored, q / 100, axis=1) for q in (5, 25, 75, 95)},
        }  # fmt: skip
        for name, values in expected.items():
            np.testing.assert_allclose(rows[name].astype(float), values, rtol=1e-12, atol=1e-12, err_msg=name)
        for text, row in zip(rows["histogram"], stored, strict=True):
            if row.min() == row.max():
                assert text is np.ma.masked
            else:
                assert json.loads(text) == np.histogram(row, 24)[0].tolist()


def test_class_activation_equals_numpy(made):
    con, folder = made
    names = [
        name for (name,) in con.execute("SELECT clip.name FROM activation_clip JOIN clip USING (clip_id) ORDER BY column_index").fetchall()
    ]
    stored = np.concatenate([matrix(con, folder, layer.name, "mean") for layer in small_network().layers]).astype(float)
    for name in ("low", "high", "noise"):
        inside = np.array([clip.startswith(name) for clip in names])
        rows = con.execute("SELECT * FROM v_class_neuron WHERE class = ? AND reduction = 'mean' ORDER BY neuron_id", [name]).fetchnumpy()
        np.testing.assert_allclose(rows["mean"], stored[:, inside].mean(1), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(rows["share_active"], (stored[:, inside] > 0).mean(1), rtol=1e-6)
        m, r = stored[:5, inside].mean(1), stored[:5, ~inside].mean(1)
        alive = m + r > 0
        np.testing.assert_allclose(rows["selectivity"][:5][alive], ((m - r) / (m + r + ~alive))[alive], rtol=1e-5)
        assert np.ma.getmaskarray(np.ma.asarray(rows["selectivity"]))[5:].all()  # layers with negative values have no selectivity


def test_courses_show_when_a_neuron_fires(made):
    con, folder = made
    layer = small_network().layers[0]
    values = hooked(folder, con, layer).mean(axis=3)  # [clips, channels, time]
    rows = con.execute(
        """SELECT unit, column_index, course
        FROM top_clip JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) JOIN activation_clip USING (run_id, clip_id)
        WHERE layer.name = 'conv1' AND reduction = 'mean'"""
    ).fetchall()
    assert len(rows) == 5 * 40
    for unit, column, course in rows:
        np.testing.assert_allclose(course, values[column, unit], rtol=2e-3, atol=1e-5)
    assert con.execute(
        "SELECT count(*) FROM top_clip JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) WHERE layer.name = 'logits' AND course IS NOT NULL"
    ).fetchone() == (0,)


def test_neighbors_equal_the_correlation_matrix(made):
    con, folder = made
    stored = np.concatenate([matrix(con, folder, layer.name, "mean") for layer in small_network().layers]).astype(np.float32)
    alive = np.flatnonzero(stored.std(axis=1) > 0)
    assert len(alive) < len(stored)  # a constant neuron has no neighbours and is none
    expected = np.full((len(stored), len(stored)), -np.inf)
    expected[np.ix_(alive, alive)] = np.corrcoef(stored[alive])
    np.fill_diagonal(expected, -np.inf)
    rows = con.execute("SELECT correlation, neighbor_id, neuron_id, rank FROM neighbor ORDER BY neuron_id, rank").fetchnumpy()
    assert rows["rank"].tolist() == [*range(1, 9)] * len(alive)
    first = con.execute("SELECT min(neuron_id) FROM neuron").fetchone()[0]
    np.testing.assert_array_equal(rows["neuron_id"].reshape(-1, 8)[:, 0] - first, alive)
    np.testing.assert_allclose(rows["correlation"].reshape(-1, 8), -np.sort(-expected[alive], axis=1)[:, :8], atol=1e-5)
    np.testing.assert_allclose(expected[rows["neuron_id"] - first, rows["neighbor_id"] - first], rows["correlation"], atol=1e-5)


@pytest.mark.slow
def test_again_does_nothing_and_a_changed_parameter_says_why(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 6)
    first = ingest(tmp_path / "w.duckdb", sounds)
    again = ingest(tmp_path / "w.duckdb", sounds)
    assert (first.worked > 0, again.worked, again.run.run_id) == (True, 0, first.run.run_id)
    changed = ingest(tmp_path / "w.duckdb", sounds, Settings(top_k=3))
    assert changed.run.run_id != first.run.run_id
    assert "top_k was 20, is 3" in changed.run.why
    (sounds / "low" / "000.wav").unlink()
    assert "the data set's content changed" in ingest(tmp_path / "w.duckdb", sounds).run.why
    assert list(check(tmp_path / "w.duckdb")) == []
    assert not list(tmp_path.rglob("segment*"))


@pytest.mark.slow
def test_warehouses_that_differ_behind_the_last_dot_keep_their_own_matrices(tmp_path):
    sounds, stored = write_sounds(tmp_path / "sounds", 6), []
    for number in (1, 2):
        network = small_network()
        network.module[0].weight.data *= number
        network.checkpoint_sha256 = str(number)
        ingest(tmp_path / f"w.v{number}", sounds, network=network)
    for number in (1, 2):
        assert list(check(tmp_path / f"w.v{number}")) == []
        with duckdb.connect(str(tmp_path / f"w.v{number}"), read_only=True) as con:
            stored.append(matrix(con, tmp_path, "conv1", "mean"))
    assert not np.array_equal(*stored)


def test_positions_are_means_over_windows(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 6)
    ingest(tmp_path / "w.duckdb", sounds, positions=True, layers=("conv2",))
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        stored = matrix(con, tmp_path, "conv2", "window_mean")
        expected = hooked(tmp_path, con, small_network().layers[1])
        rows = con.execute("SELECT unit, time_position, frequency_position FROM neuron ORDER BY neuron_id").fetchall()
    np.testing.assert_allclose(stored, expected.reshape(6, -1).T, rtol=2**-10, atol=1e-6)
    assert rows == [(c, t, f) for c in range(7) for t in range(16) for f in range(8)]


def test_layers_of_single_units_stand_beside_positions_in_one_run(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 6)
    ingest(tmp_path / "w.duckdb", sounds, positions=True)
    ingest(tmp_path / "w.duckdb", sounds)
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        [(first, second)] = con.execute("SELECT min(run_id), max(run_id) FROM run WHERE stage = 'activations'").fetchall()
        rows = con.execute(
            "SELECT name, kind, neurons, reduction FROM activation_file JOIN layer USING (layer_id) WHERE run_id = ? ORDER BY position",
            [first],
        ).fetchall()
        assert rows == [
            ("conv1", "position", 5 * 32 * 16, "window_mean"), ("conv2", "position", 7 * 16 * 8, "window_mean"), ("logits", "unit", 3, "mean"),
        ]  # fmt: skip
        paths = con.execute("SELECT path FROM activation_file JOIN layer USING (layer_id) WHERE name = 'logits' AND reduction = 'mean'")
        one, other = (np.load(tmp_path / path) for (path,) in paths.fetchall())
        np.testing.assert_array_equal(one, other)
        for table in ("class_activation", "top_clip", "neighbor"):
            same = f"SELECT * EXCLUDE (run_id {', course' if table == 'top_clip' else ''}) FROM {table} JOIN neuron USING (neuron_id) WHERE layer_id = 3"
            both = [con.execute(f"{same} AND run_id = ? ORDER BY ALL", [run]).fetchall() for run in (first, second)]
            if table == "neighbor":  # of the units recorded with it
                assert len(both[0]) == 3 * 2
            else:
                both[1] = [row for row in both[1] if "max" not in row]
                assert both[0] == both[1]
                assert both[0]
        [(parameters,)] = con.execute("SELECT parameters FROM run WHERE run_id = ?", [first]).fetchall()
    assert json.loads(parameters)["units"] is True
    assert list(check(tmp_path / "w.duckdb")) == []


def test_values_beyond_float16_are_refused_and_fit_float32(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 6)
    network = small_network()
    network.module[0].weight.data *= 1e6
    with pytest.raises(UserError, match="conv1 of small exceeds float16: use --dtype float32"):
        ingest(tmp_path / "w.duckdb", sounds, Settings(dtype="float16"), network=network)
    ingest(tmp_path / "w.duckdb", sounds, Settings(dtype="float32"), network=network)
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        stored = matrix(con, tmp_path, "conv1", "max")
        assert stored.dtype == np.float32
        assert stored.max() > 65504


def sigmoid_network(scale=1.0):
    """As the small network, its outputs far below 1."""
    network = small_network()
    network.module.append(torch.nn.Sigmoid())
    network.module[6].bias.data -= 20 * scale
    network.layers[2] = replace(network.layers[2], module="7", non_negative=True)
    network.checkpoint_sha256 = str(scale)
    return network


def types(warehouse, run_id):
    with duckdb.connect(str(warehouse), read_only=True) as con:
        query = "SELECT DISTINCT name, dtype FROM activation_file JOIN layer USING (layer_id) WHERE run_id = ?"
        return dict(con.execute(query, [run_id]).fetchall())


@pytest.mark.slow
def test_a_layer_that_float16_does_not_keep_is_float32_and_says_so(tmp_path):
    sounds, warehouse = write_sounds(tmp_path / "sounds", 9), tmp_path / "w.duckdb"
    run = ingest(warehouse, sounds, network=sigmoid_network()).run
    assert run.why == "float16 does not keep the values of logits (underflow): stored as float32"
    assert types(warehouse, run.run_id) == {"conv1": "float16", "conv2": "float16", "logits": "float32"}
    with duckdb.connect(str(warehouse), read_only=True) as con:
        assert con.execute("SELECT run_id FROM run WHERE stage = 'activations'").fetchall() == [(run.run_id,)]  # the first try is gone
        query = """SELECT min(share_active), bool_or(is_dead) FROM activation_summary
            JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) WHERE layer.name = 'logits'"""
        assert con.execute(query).fetchall() == [(1.0, False)]
        stored = matrix(con, tmp_path, "logits", "mean")
    assert 0 < stored.min() < stored.max() < 3e-8
    assert list(check(warehouse)) == []
    again = ingest(warehouse, sounds, network=sigmoid_network())
    assert (again.run.run_id, again.worked, again.run.why) == (run.run_id, 0, None)
    explicit = ingest(warehouse, sounds, Settings(dtype="float16"), network=sigmoid_network()).run
    assert set(types(warehouse, explicit.run_id).values()) == {"float16"}
    assert ingest(warehouse, sounds, network=sigmoid_network()).run.run_id == run.run_id


@pytest.mark.slow
def test_a_float16_run_is_done_again_only_where_its_values_show_what_was_lost(tmp_path):
    """What was asked for as float16, or made before anything was compared, is one key with the default's run."""
    sounds, warehouse = write_sounds(tmp_path / "sounds", 9), tmp_path / "w.duckdb"
    for network, same in ((small_network, True), (lambda: sigmoid_network(0.7), False)):
        old = ingest(warehouse, sounds, Settings(dtype="float16"), network=network()).run
        new = ingest(warehouse, sounds, network=network()).run
        assert (new.run_id == old.run_id) == same
    assert new.why.startswith(f'not run {old.run_id} again: dtype was "float16", is "auto"')
    assert types(warehouse, new.run_id)["logits"] == "float32"


@pytest.mark.slow
def test_values_beyond_float16_are_float32_by_default(tmp_path):
    sounds, warehouse = write_sounds(tmp_path / "sounds", 6), tmp_path / "w.duckdb"
    network = small_network()
    network.module[0].weight.data *= 1e6
    run = ingest(warehouse, sounds, network=network).run
    assert run.why.startswith("float16 does not keep the values of conv1 (overflow)")
    assert types(warehouse, run.run_id)["conv1"] == "float32"


class Levels(torch.nn.Module):
    """How loud a clip is, above 1, and a billionth of that."""

    def __init__(self):
        super().__init__()
        self.level, self.billionth = torch.nn.Identity(), torch.nn.Identity()

    def forward(self, x):
        return self.billionth(self.level(1 + x.abs().mean(dim=1, keepdim=True)) * 1e-9)


def test_the_layers_named_are_those_stored_as_float32(tmp_path, monkeypatch):
    """Over the first clips `level` moves less than float16 tells apart, over all of them more: what is said is said of all of them."""
    monkeypatch.setattr(segments, "SEGMENT_CLIPS", 8)
    (tmp_path / "sounds").mkdir()
    for number in range(16):
        loud = 0.1 + 1e-5 * number if number < 8 else 0.05 * number
        soundfile.write(tmp_path / "sounds" / f"{number:02d}.wav", np.full(RATE, loud, dtype=np.float32), RATE, subtype="FLOAT")
    layers = [Layer(name, name, (1,), "unit") for name in ("level", "billionth")]
    network = Network("levels", "test", Levels(), sample_rate_hz=RATE, clip_s=CLIP_S, layers=layers, checkpoint_sha256="levels")
    run = ingest(tmp_path / "w.duckdb", tmp_path / "sounds", network=network).run
    assert types(tmp_path / "w.duckdb", run.run_id) == {"level": "float16", "billionth": "float32"}
    assert run.why == "float16 does not keep the values of billionth (underflow): stored as float32"


def test_values_that_are_not_finite_are_failures_and_leave_other_clips_alone(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 9)
    network = small_network()
    silent = lambda waveforms: waveforms.abs().amax(dim=1)[:, None, None, None] == 0  # noqa: E731
    network._prepare = lambda waveforms: torch.where(silent(waveforms), torch.nan, spectrogram(waveforms))
    outcome = ingest(tmp_path / "w.duckdb", sounds, network=network)
    assert outcome.failures == 1  # the silent clip
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        assert con.execute("SELECT item, reason FROM failure").fetchall() == [("noise/005.wav", "layer conv1: 5 of 5 neurons not finite")]
        assert con.execute("SELECT DISTINCT clips FROM activation_summary").fetchall() == [(8,)]
        assert con.execute("SELECT count(*) FROM top_clip JOIN clip USING (clip_id) WHERE clip.name = 'noise/005.wav'").fetchone() == (0,)
        assert con.execute("SELECT count(*) FROM activation_summary WHERE isnan(mean) OR isnan(maximum)").fetchone() == (0,)
    assert list(check(tmp_path / "w.duckdb")) == []


def test_a_clip_gone_between_the_stages_is_a_failure(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 6)
    listing = read_dataset("folder", sounds, "sounds")
    with store.writer(tmp_path / "w.duckdb"):
        read = clips.ingest_clips(tmp_path / "w.duckdb", listing)
        with store.connect_readonly(tmp_path / "w.duckdb") as con:
            content = con.execute("SELECT content_sha256 FROM dataset").fetchone()[0]
        (sounds / "high" / "001.wav").unlink()
        paths = {entry.name: entry.path for entry in listing.entries}
        outcome = activations.ingest_activations(tmp_path / "w.duckdb", small_network(), "sounds", content, paths, Settings(device="cpu"))
    assert (read.failures, outcome.failures) == (0, 1)
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        assert con.execute("SELECT item FROM failure").fetchall() == [("high/001.wav",)]
        assert np.isnan(matrix(con, tmp_path, "conv1", "mean")).all(axis=0).sum() == 1


def test_unknown_layers_and_wrong_shapes_are_refused(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 3)
    with pytest.raises(UserError, match="small has no layer conv9: it has conv1, conv2, logits"):
        ingest(tmp_path / "w.duckdb", sounds, layers=("conv9",))
    network = small_network()
    network.checked = True  # so that the recorder has to see it, here and below
    network.clip_s = 0.5
    with pytest.raises(UserError, match="layer conv1 of small put out shape"):
        ingest(tmp_path / "w.duckdb", sounds, network=network)


class Pieces(torch.nn.Sequential):
    """Takes a batch in pieces."""

    size = 1

    def forward(self, inputs):
        return torch.cat([super(Pieces, self).forward(piece) for piece in inputs.split(self.size)])


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_taken_in_pieces_is_refused(tmp_path, size):
    """Whatever the pieces: a value must not stand under another clip's name."""
    network = small_network()
    network.module = Pieces(*network.module)
    network.module.size, network.checked = size, True
    with pytest.raises(UserError, match=rf"^layer conv1 \(1\) of small put out {size} rows instead of 4 in a pass over 4 clips, .*leave"):
        ingest(tmp_path / "w.duckdb", write_sounds(tmp_path / "sounds", 6), network=network)


def test_a_module_that_runs_twice_in_a_pass_is_refused(tmp_path):
    network = small_network()
    network.module[2] = torch.nn.Sequential(torch.nn.Conv2d(5, 7, 3, stride=2, padding=1), network.module[3])
    network.checked = True
    with pytest.raises(UserError, match=r"layer conv2 \(3\) of small ran more than once in a pass over 4 clips"):
        ingest(tmp_path / "w.duckdb", write_sounds(tmp_path / "sounds", 6), network=network)


def test_a_layer_that_puts_out_no_tensor_is_refused(tmp_path):
    class Named(torch.nn.Module):
        def forward(self, inputs):
            return {"value": inputs}

    network = small_network()
    network.module = torch.nn.Sequential(*network.module, Named())
    network.layers[2] = replace(network.layers[2], module="7")
    network.checked = True
    with pytest.raises(UserError, match="layer logits of small put out a dict instead of a tensor"):
        ingest(tmp_path / "w.duckdb", write_sounds(tmp_path / "sounds", 6), network=network)


def test_padding_is_left_out_where_a_network_does_not_count_it():
    network = small_network()
    network.counts_padding = False
    waveforms = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    recorder = Recorder(network, network.layers[:1])
    recorder.valid_s = torch.tensor([0.25, 1.0])
    with torch.inference_mode(), recorder:
        network.forward(network.prepare(waveforms))
    with torch.inference_mode():
        output = network.module[:2](network.prepare(waveforms))
    mean, peak = (recorder.batch["conv1"].reductions[name] for name in ("mean", "max"))
    for clip, frames in ((0, 8), (1, 32)):
        torch.testing.assert_close(mean[clip], output[clip, :, :frames].mean(dim=(1, 2)))
        torch.testing.assert_close(peak[clip], output[clip, :, :frames].amax(dim=(1, 2)))


def shortened():
    """The small network, hearing of each clip whole quarters of a second and nothing after them."""
    network = small_network()

    def steps(layer, samples):
        return samples // 2000 * max(layer.time_steps, 1) // 4

    network.padding = Padding("quarters", lambda waveforms, samples: spectrogram(waveforms), steps, shortest=4001)
    return network


@pytest.mark.slow
def test_padding_is_a_parameter_only_over_clips_that_it_changes(tmp_path):
    sounds = write_sounds(tmp_path / "sounds", 12)  # 0.5 to 1.25 s
    before = ingest(tmp_path / "w.duckdb", sounds)
    again = ingest(tmp_path / "w.duckdb", sounds, network=shortened())
    assert again.run.why == f'not run {before.run.run_id} again: padding was null, is "quarters"'
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        failures = con.execute("SELECT DISTINCT reason FROM failure WHERE run_id = ?", [again.run.run_id]).fetchall()
        courses = con.execute(
            """SELECT course FROM top_clip JOIN clip USING (clip_id) WHERE run_id = ? AND duration_s = 0.75 AND course IS NOT NULL
            AND neuron_id IN (SELECT neuron_id FROM neuron JOIN layer USING (layer_id) WHERE layer.name = 'conv2')""",
            [again.run.run_id],
        ).fetchall()
    assert failures == [("0.5000 s of sound: small takes no less than 0.5001 s",)]
    assert courses
    for (course,) in courses:
        assert [step is None for step in course] == [False] * 12 + [True] * 4
    check(tmp_path / "w.duckdb")
    whole = write_sounds(tmp_path / "whole" / "sounds", 12)
    for path in sorted(whole.rglob("*.wav")):
        if int(path.stem) % 4 < 2:  # shorter than a second
            path.unlink()
    first = ingest(tmp_path / "whole.duckdb", whole)
    assert ingest(tmp_path / "whole.duckdb", whole, network=shortened()).run.run_id == first.run.run_id


def test_course_weights_average_overlapping_windows():
    network = small_network()
    network.windows, network.window_s, network.window_hop_s, network.clip_s = 3, 1.0, 0.5, 2.0
    weights = course_weights(network, network.layers[1])  # 16 frames a window, every 1/16 s: 32 steps
    assert weights.shape == (48, 32)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    assert np.flatnonzero(weights[:, 0]).tolist() == [0]
    assert np.flatnonzero(weights[:, 8]).tolist() == [8, 16]  # 0.5 s: in the first window and the second


@pytest.mark.slow
def test_a_window_sought_amiss_before_is_said_in_the_runs_parameters_and_only_there(tmp_path, monkeypatch):
    sounds, network = tmp_path / "sounds", small_network()
    (sounds / "a").mkdir(parents=True)
    sound = np.random.default_rng(0).normal(0, 0.1, round(8000 * (network.clip_s + 2))).astype(np.float32)
    soundfile.write(sounds / "a" / "long.wav", sound, 8000, subtype="GSM610")
    with monkeypatch.context() as before:
        before.setattr(activations, "windows_parameter", lambda *_: {})
        ingest(tmp_path / "w.duckdb", sounds)
    runs = [ingest(tmp_path / "w.duckdb", sounds) for _ in range(2)]
    assert [run.worked > 0 for run in runs] == [True, False]
    assert runs[0].run.why == 'not run 2 again: windows was null, is "of the whole decode"'
    soundfile.write(sounds / "a" / "long.wav", sound[: round(8000 * network.clip_s)], 8000, subtype="GSM610")
    assert "windows" not in activations_parameters(ingest(tmp_path / "short.duckdb", sounds))
    soundfile.write(sounds / "a" / "long.wav", sound, 8000)
    assert "windows" not in activations_parameters(ingest(tmp_path / "plain.duckdb", sounds))


def activations_parameters(outcome):
    return ledger.finished(outcome.run.warehouse, outcome.run.run_id, "activations")[1]


@pytest.mark.parametrize("lost", [(1, 3), (2,), (1, 2)])
def test_neighbors_of_layers_that_were_not_done_are_what_they_were(tmp_path, monkeypatch, lost):
    monkeypatch.setattr(neighbors_method, "BLOCK", 2)
    run = ingest(tmp_path / "w.duckdb", write_sounds(tmp_path / "sounds", 6)).run

    def rows():
        with duckdb.connect(str(tmp_path / "w.duckdb")) as con:
            return [con.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall() for table in ("neighbor", "work_unit")]

    whole, units = rows()
    with duckdb.connect(str(tmp_path / "w.duckdb")) as con:
        for layer in lost:
            con.execute("DELETE FROM neighbor WHERE neuron_id IN (SELECT neuron_id FROM neuron WHERE layer_id = ?)", [layer])
            con.execute("DELETE FROM work_unit WHERE item = ?", [f"neighbors {layer}"])
    assert len(rows()[0]) < len(whole)
    assert neighbors.find_neighbors(run, {}, "cpu") == len(lost)
    again, units_again = rows()
    assert again == whole
    assert [unit[:2] for unit in units_again] == [unit[:2] for unit in units]
    assert neighbors.find_neighbors(run, {}, "cpu") == 0


def test_neighbors_of_large_runs_are_found_over_drawn_clips_and_runs_from_before_go_on(tmp_path, monkeypatch):
    sounds = write_sounds(tmp_path / "sounds", 30)
    ingest(tmp_path / "w.duckdb", sounds)
    monkeypatch.setattr(neighbors, "WORK", 15**2 * 20)
    monkeypatch.setattr(neighbors, "LEAST", 12)
    assert ingest(tmp_path / "w.duckdb", sounds).worked == 0
    few = ingest(tmp_path / "w.duckdb", sounds, Settings(neighbor_clips=9))
    assert "neighbor_clips was null, is 9" in few.run.why
    ingest(tmp_path / "new.duckdb", sounds)
    assert ingest(tmp_path / "new.duckdb", sounds, for_specificity=True).worked > 0
    assert ingest(tmp_path / "new.duckdb", sounds).worked == 0
    with duckdb.connect(str(tmp_path / "new.duckdb"), read_only=True) as con:
        [(parameters,), (shares,)] = con.execute("SELECT parameters FROM run WHERE stage = 'activations' ORDER BY run_id").fetchall()
        stored = np.concatenate([matrix(con, tmp_path, layer.name, "mean") for layer in small_network().layers]).astype(np.float64)
        rows = con.execute("SELECT neuron_id, neighbor_id, correlation FROM neighbor WHERE rank = 1 AND run_id = 2").fetchall()
    assert json.loads(parameters)["neighbor_clips"] == json.loads(shares)["neighbor_clips"] == 20
    drawn = np.random.default_rng(0).choice(30, 20, replace=False)
    assert len(rows) >= 10
    for neuron, neighbor, correlation in rows:
        assert np.corrcoef(stored[[neuron - 1, neighbor - 1]][:, drawn])[0, 1] == pytest.approx(correlation, abs=1e-5)
    assert list(check(tmp_path / "w.duckdb")) == []
