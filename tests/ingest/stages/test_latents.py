"""Latents of an autoencoder through a study: trained, recorded, scored, on pages, from a file to the warehouse."""

import duckdb
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import auricle
from ingest.networks.autoencoders.layouts import read_autoencoder
from ingest.run import run_study
from ingest.sounds.sound import load
from ingest.study import make_study
from report.site import build
from tests.small import CLIP_S, RATE, Lines, Silent, small_network, write_sounds
from warehouse.check import check
from warehouse.store import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An autoencoder trained from the command line, and a study over the same sounds."""
    folder = tmp_path_factory.mktemp("latents")
    write_sounds(folder / "sounds")
    (folder / "net.py").write_text("from tests.small import small_network\n\n\ndef network():\n    return small_network()\n")
    arguments = ["train", "sae", "conv2", "--network", f"{folder / 'net.py'}:network", "--dataset", "folder", "--source", str(folder / "sounds"),
                 "--folds", "3", "--latents", "14", "--k", "3", "--epochs", "3", "--out", str(folder / "targets")]  # fmt: skip
    result = CliRunner().invoke(auricle.app, arguments, catch_exceptions=False)
    table = {
        "dataset": [{"reader": "folder", "source": "sounds", "folds": 3}],
        "network": [{"name": f"{folder / 'net.py'}:network", "saes": [{"file": "targets/small-conv2-sae.safetensors"}]}],
        "stages": ["probes", "clusters", "interventions"],
        "interventions": {"label_map": "map.csv", "repeats": 2},
    }
    (folder / "map.csv").write_text("class,names\nlow,low\nhigh,high\nnoise,noise\n")
    run_study(folder / "w.duckdb", make_study(table, "study", folder), Silent())
    return folder, result.stdout, table


def test_the_command_says_what_the_autoencoder_is_worth(made):
    folder, said, _ = made
    assert "targets/small-conv2-sae.safetensors: 14 latents of conv2, 3 a vector" in said
    assert "of the variance explained" in said
    assert sorted(path.name for path in (folder / "targets").iterdir()) == ["small-conv2-sae.safetensors"]  # nothing unfinished is left


def test_the_warehouse_has_the_values_of_an_own_hook(made):
    folder, _, _ = made
    sae, _ = read_autoencoder(folder / "targets" / "small-conv2-sae.safetensors")
    network = small_network()
    found = []
    network.module[3].register_forward_hook(lambda *args: found.append(args[2]))
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        clips = con.execute("SELECT name FROM activation_clip JOIN clip USING (clip_id) ORDER BY column_index").fetchall()
        files = dict(
            con.execute("SELECT reduction, path FROM activation_file JOIN layer USING (layer_id) WHERE name = 'conv2/sae'").fetchall()
        )
        layers = con.execute("SELECT name, shape, non_negative FROM layer ORDER BY position").fetchall()
    for (name,) in clips:
        waveform, _ = load(folder / "sounds" / name, sample_rate_hz=RATE, clip_s=CLIP_S)
        network.forward(network.prepare(torch.from_numpy(waveform)[None]))
    latents = sae.encode(torch.cat(found).permute(0, 2, 3, 1))
    assert [name for name, *_ in layers] == ["conv1", "conv2", "conv2/sae", "logits"]
    assert layers[2][1:] == ("[14, 16, 8]", True)
    np.testing.assert_allclose(np.load(folder / files["mean"]).T, latents.mean(dim=(1, 2)), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(np.load(folder / files["max"]).T, latents.amax(dim=(1, 2)), rtol=2e-3, atol=1e-5)


def test_latents_go_through_the_later_stages_and_on_pages(made, tmp_path):
    folder, _, _ = made
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        probed = con.execute("SELECT count(*) FROM probe JOIN layer USING (layer_id) WHERE layer.name = 'conv2/sae'").fetchall()
        clustered = con.execute("SELECT count(*) FROM cluster JOIN layer USING (layer_id) WHERE layer.name = 'conv2/sae'").fetchall()
    assert probed[0][0] > 0
    assert clustered[0][0] > 0
    assert list(check(folder / "w.duckdb", lambda *_: None)) == []
    build(folder / "w.duckdb", tmp_path / "site")
    pages = [path for path in (tmp_path / "site").rglob("*.html") if "conv2-sae" in path.as_posix()]
    assert len(pages) > 14


def test_another_autoencoder_is_another_run(made):
    folder, _, table = made
    lines = Lines()
    study = {**table, "stages": ["activations"]}
    run_study(folder / "w.duckdb", make_study(study, "study", folder), lines)
    assert lines.said[-1].endswith("nothing to do")
    without = {**study, "network": [{"name": table["network"][0]["name"]}]}
    run_study(folder / "w.duckdb", make_study(without, "study", folder), lines)
    assert "the checkpoint changed" in " ".join(lines.said)
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(DISTINCT network_sha256) FROM run WHERE stage = 'activations'").fetchone() == (2,)


def test_what_a_study_cannot_say_of_autoencoders_is_refused(tmp_path):
    def refused(match, **sae):
        table = {"dataset": [{"reader": "starter"}], "network": [{"name": "yamnet", "saes": [sae]}]}
        with pytest.raises(UserError, match=match) as caught:
            make_study(table, "study", tmp_path)
        assert "\n" not in str(caught.value)

    refused("activation 'gated' is not known", file="a.safetensors", activation="gated")
    refused("'files' is not known: did you mean 'file'", files="a.safetensors")
    refused("file' is missing", layer="outputs")
    refused("name is 'a/b', it must be of letters", file="a.safetensors", name="a/b")
