"""Latents of sparse autoencoders as layers, and their training."""

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from ingest.networks.autoencoders.clips import frames, train_sae
from ingest.networks.autoencoders.latents import attach, find_layer
from ingest.networks.autoencoders.layouts import read_autoencoder
from ingest.networks.autoencoders.training import Recipe, _State, fit
from ingest.networks.network import Layer
from ingest.networks.passes import prepared, read_waveforms
from ingest.networks.registry import check_network, load_network
from ingest.sounds.readers import read_dataset
from tests.ingest.networks import test_transformer
from tests.ingest.networks.test_autoencoder_layouts import LATENTS, K, highest
from tests.small import small_network, write_sounds
from warehouse.store import UserError


def save_topk(path, width, latents=LATENTS, k=K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(latents, width, generator=generator)
    state = {
        "encoder.weight": encoder,
        "encoder.bias": torch.randn(latents, generator=generator) * 0.1,
        "b_dec": torch.randn(width, generator=generator),
    }
    save_file(state | {"decoder.weight": encoder.T.contiguous(), "k": torch.tensor(k)}, path)
    return {"file": path, "activation": "topk"}, state


def values(network, inputs, layer):
    found = []
    handle = network.module.get_submodule(layer.module).register_forward_hook(lambda *args: found.append(args[2].clone()))
    output = network.forward(inputs)
    handle.remove()
    return found[0], output


def test_latents_are_a_layer_behind_their_own(tmp_path):
    plain, network = small_network(), small_network()
    choice, state = save_topk(tmp_path / "sae.safetensors", 7)
    attach(network, [choice | {"layer": "conv2"}])
    assert [layer.name for layer in network.layers] == ["conv1", "conv2", "conv2/sae", "logits"]
    latents = network.layers[2]
    assert (latents.shape, latents.neurons, latents.non_negative, latents.is_map) == ((LATENTS, 16, 8), LATENTS, True, True)
    check_network(network, "small")
    inputs = network.prepare(torch.randn(3, 8000, generator=torch.Generator().manual_seed(1)))
    found, output = values(network, inputs, latents)
    x, own = values(plain, inputs, plain.layers[1])
    torch.testing.assert_close(output, own, rtol=0, atol=0)  # nothing of the network changes
    rows = x.permute(0, 2, 3, 1).reshape(-1, 7)
    expected = highest((rows - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"], K)
    torch.testing.assert_close(found.permute(0, 2, 3, 1).reshape(-1, LATENTS), expected)
    assert plain.tensors().keys() == network.tensors().keys()
    assert network.note.endswith("conv2/sae: 12 latents of a sparse autoencoder, the 3 highest of each vector kept.")


def test_what_holds_nothing_of_a_clip_has_no_latents(tmp_path):
    """A window without sound is NaN in the network (see Padding), and so are all its latents, not the highest alone."""
    choice, _ = save_topk(tmp_path / "sae.safetensors", 7)
    sae, _ = read_autoencoder(choice["file"], "topk")
    x = torch.randn(3, 7)
    found = sae.encode(torch.cat([x[:2], torch.full((1, 7), torch.nan)]))
    assert found[2].isnan().all()
    torch.testing.assert_close(found[:2], sae.encode(x[:2]))


def test_the_network_is_known_by_its_autoencoders(tmp_path):
    one, _ = save_topk(tmp_path / "one.safetensors", 7)
    other, _ = save_topk(tmp_path / "other.safetensors", 7, seed=1)
    fewer, _ = save_topk(tmp_path / "fewer.safetensors", 7, k=2)
    hashes = {
        attach(small_network(), [choice | {"layer": "conv2", "name": name}]).checkpoint_sha256
        for choice, name in ((one, "sae"), (other, "sae"), (fewer, "sae"), (one, "again"))
    }
    assert len(hashes | {small_network().checkpoint_sha256}) == 5
    copy, _ = save_topk(tmp_path / "copy.safetensors", 7)
    assert attach(small_network(), [copy | {"layer": "conv2"}]).checkpoint_sha256 in hashes
    assert attach(small_network(), [], ["conv1"]).checkpoint_sha256 == small_network().checkpoint_sha256


def test_changed_latents_change_what_they_stand_for_and_nothing_else(tmp_path):
    network = small_network()
    choice, _ = save_topk(tmp_path / "sae.safetensors", 7)
    attach(network, [choice | {"layer": "conv2"}])
    sae, _ = read_autoencoder(choice["file"], "topk")
    conv2, latents = network.layers[1:3]
    inputs = network.prepare(torch.randn(2, 8000, generator=torch.Generator().manual_seed(1)))
    x, own = values(network, inputs, conv2)
    found, _ = values(network, inputs, latents)
    torch.testing.assert_close(network.tail(latents, found, inputs), own)
    without = found.clone()
    strongest = int(found.sum(dim=(0, 2, 3)).argmax())
    without[:, strongest] = 0
    assert (found[:, strongest] > 0).any()
    direction = found[:, strongest, None] * sae.decoder[strongest][:, None, None]
    expected = network.module[4:](x - direction)
    torch.testing.assert_close(network.tail(latents, without, inputs), expected)
    assert network.tail_form(latents) == "whole pass"


def test_latents_of_the_features_of_every_token_and_of_a_residual_stream(tmp_path):
    test_transformer.save(tmp_path / "whisper", "whisper")
    network = load_network(str(tmp_path / "whisper"))
    names = [layer.name for layer in network.layers]
    choice, state = save_topk(tmp_path / "sae.safetensors", 32)
    attach(network, [choice | {"layer": "block1/residual"}, choice | {"layer": "block2/mlp_out", "name": "other"}], ["block1/residual"])
    names[3:3] = ["block1/residual", "block1/residual/sae"]
    assert [layer.name for layer in network.layers] == [*names, "block2/mlp_out/other"]
    check_network(network, "whisper")
    latents = network.layers[4]
    assert latents.shape == (network.layers[3].shape[0], LATENTS)
    assert latents.time_steps == network.layers[0].time_steps
    inputs = network.prepare(torch.randn(1, network.samples, generator=torch.Generator().manual_seed(1)) * 0.1)
    found, own = values(network, inputs, latents)
    given = []
    block = network.module.get_submodule(network.layers[3].module.rpartition(".")[0] + ".1")
    handle = block.register_forward_pre_hook(
        lambda _module, args, kwargs: given.append((args or tuple(kwargs.values()))[0]), with_kwargs=True
    )
    network.forward(inputs)
    handle.remove()  # what the second block takes is what the first puts out
    expected = highest((given[0][0, :50] - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"], K)
    torch.testing.assert_close(found[0, :50], expected)
    torch.testing.assert_close(network.tail(latents, found, inputs), own)
    assert not torch.allclose(network.tail(latents, torch.zeros_like(found), inputs), own)
    paths = {"a": tmp_path / "a.wav"}
    soundfile.write(paths["a"], np.zeros(int(16000 * 2.0)), 16000)
    [rows] = frames(network, network.layers[3], ["a"], paths)
    assert len(rows) == 2 * 50  # of 2 s, not of the 30 s that it is padded to


def test_autoencoders_that_do_not_fit_are_refused(tmp_path):
    choice, _ = save_topk(tmp_path / "sae.safetensors", 7)
    cases = [
        ({"layer": "conv1"}, "takes vectors of 7 values, layer conv1 of small has 5"),
        ({}, "does not say which layer of small it sees"),
        ({"layer": "conv3"}, "small has no layer conv3"),
    ]
    for more, match in cases:
        with pytest.raises(UserError, match=match):
            attach(small_network(), [choice | more])
    with pytest.raises(UserError, match="has a layer conv2/sae already"):
        attach(small_network(), [choice | {"layer": "conv2"}] * 2)
    out, _ = save_topk(tmp_path / "out.safetensors", 3)
    with pytest.raises(UserError, match="is what small puts out"):
        attach(small_network(), [out | {"layer": "logits"}])
    again, _ = save_topk(tmp_path / "again.safetensors", LATENTS)
    with pytest.raises(UserError, match="holds latents of an autoencoder itself"):
        attach(small_network(), [choice | {"layer": "conv2"}, again | {"layer": "conv2/sae"}])


# --- Training -----------------------------------------------------------------------------------------------------------------------------


def planted(vectors=12000, width=32, directions=64, active=4):
    """Sparse sums of known directions around a centre."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(directions, width, generator=generator), dim=1)
    chosen = torch.rand(vectors, directions, generator=generator).topk(active, dim=1).indices
    strengths = torch.zeros(vectors, directions).scatter(1, chosen, 1 + torch.rand(vectors, active, generator=generator))
    return truth, 3 * (strengths @ truth) + 5 * torch.randn(width, generator=generator)


def test_planted_directions_are_found():
    truth, x = planted()
    fitted = fit(32, 4, lambda epoch, block: x[block::4], Recipe(latents=128, k=4, epochs=15, batch=128, dead_after=5000))
    sae = fitted.sae
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(128))
    assert float((truth @ sae.decoder.T).amax(dim=1).mean()) > 0.9
    left = (x - sae.reconstruct(x)).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert float(left) < 0.2
    assert int((sae.encode(x) > 0).sum(dim=1).max()) <= 4
    active = (sae.encode(x) > 0).any(dim=0)
    assert fitted.vectors == 15 * 12000
    assert int(fitted.alive.sum()) >= int(active.sum())


def test_dead_latents_learn_what_the_others_leave():
    """Of two directions the first fills the one place (k = 1): the second latent moves only once it counts as dead, and then to the second direction."""
    generator = torch.Generator().manual_seed(0)
    strong, weak = torch.nn.functional.normalize(torch.randn(2, 16, generator=generator), dim=1)
    x = (3 + torch.rand(4000, 1, generator=generator)) * strong + torch.rand(4000, 1, generator=generator) * weak
    found = {}
    for after in (500, 10**9):
        recipe = Recipe(latents=2, k=1, batch=100, dead_after=after)
        state = _State.begun(x, recipe, "cpu")
        state.tensors["centre"].zero_()
        near = torch.nn.functional.normalize(weak + 0.2 * torch.randn(16, generator=torch.Generator().manual_seed(1)), dim=0)
        for name in ("encoder", "decoder"):
            state.tensors[name].copy_(torch.stack([strong, near]))
        start = float(near @ weak)
        for rows in torch.arange(4000).split(100):
            state.step(x[rows], recipe, 1e-3)
        assert int(state.alive.sum()) == 1
        found[after] = float(state.tensors["decoder"][1] @ weak)
    assert found[10**9] == pytest.approx(start, abs=1e-6)
    assert found[500] > start + 0.02


def test_training_goes_on_where_it_was_killed(tmp_path):
    _, x = planted(1500)
    recipe = Recipe(latents=40, k=4, epochs=3, batch=128, dead_after=1000)
    whole = fit(32, 3, lambda epoch, block: x[block::3], recipe)
    file, reads = tmp_path / "sae.unfinished", []

    def read(epoch, block, stop=4):
        if len(reads) == stop:
            raise KeyboardInterrupt
        reads.append((epoch, block))
        return x[block::3]

    with pytest.raises(KeyboardInterrupt):
        fit(32, 3, read, recipe, unfinished=file, inputs="these")
    assert file.is_file()
    again = fit(32, 3, lambda *at: read(*at, stop=99), recipe, unfinished=file, inputs="these")
    assert reads == [(epoch, block) for epoch in range(3) for block in range(3)]  # none twice
    assert again.sae.sha256 == whole.sae.sha256
    assert again.vectors == whole.vectors == 4500
    assert torch.equal(again.alive, whole.alive)
    other = fit(32, 3, lambda epoch, block: x[block::3], recipe, unfinished=file, inputs="others")  # begins anew
    assert other.sae.sha256 == whole.sae.sha256
    assert fit(32, 3, lambda epoch, block: x[block::3], Recipe(**{**vars(recipe), "seed": 1})).sae.sha256 != whole.sae.sha256


def test_what_cannot_be_trained_is_refused():
    _, x = planted(100)
    for recipe, match in ((Recipe(8, 9), "k is 9"), (Recipe(0, 1), "latents is 0"), (Recipe(64, 4, epochs=0), "epochs is 0")):
        with pytest.raises(UserError, match=match):
            fit(32, 1, lambda *_: x, recipe)
    with pytest.raises(UserError, match="the same everywhere"):
        fit(32, 1, lambda *_: torch.ones(50, 32), Recipe(8, 2))
    with pytest.raises(UserError, match="not finite"):
        fit(32, 1, lambda *_: x * torch.nan, Recipe(8, 2))


@pytest.fixture
def listing(tmp_path):
    from ingest.sounds.draws import draw

    return draw(read_dataset("folder", write_sounds(tmp_path / "sounds")), folds=3)


def test_an_autoencoder_of_a_layer_of_clips(tmp_path, listing):
    network = small_network()
    trained = train_sae(network, "conv2", listing, Recipe(latents=14, k=3, epochs=4, batch=64))
    trained.save(tmp_path / "sae.safetensors")
    sae, header = read_autoencoder(tmp_path / "sae.safetensors")
    assert sae.sha256 == trained.sae.sha256
    assert header["layer"] == "conv2"
    held_out = [entry for entry in listing.entries if entry.fold == 3]
    assert header["fold"] == 3
    assert header["clips"] == len(listing.entries) - len(held_out)
    assert header["vectors"] == 4 * header["clips"] * 16 * 8  # every position of every clip, in every epoch
    found = []
    for sounds in read_waveforms(network, [entry.name for entry in held_out], {entry.name: entry.path for entry in held_out}):
        x = values(small_network(), prepared(network, sounds), network.layers[1])[0]
        found.append(x.permute(0, 2, 3, 1).reshape(-1, 7))
    x = torch.cat(found)
    explained = 1 - (x - sae.reconstruct(x)).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert header["held_out"]["variance_explained"] == pytest.approx(float(explained), abs=1e-4)
    assert header["held_out"]["variance_explained"] > 0.5
    with_sae, lost = 0.0, 0.0
    for sounds in read_waveforms(network, [entry.name for entry in held_out], {entry.name: entry.path for entry in held_out}):
        inputs = prepared(network, sounds)
        one, own = values(small_network(), inputs, network.layers[1])
        said = sae.reconstruct(one.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        with_sae += float((network.module[4:](said) - own).detach().square().sum())
        lost += float((network.module[4:](x.mean(dim=0)[:, None, None].expand(one.shape)) - own).detach().square().sum())
    assert header["held_out"]["output_recovered"] == pytest.approx(1 - with_sae / lost, abs=1e-4)
    attach(network, [{"file": tmp_path / "sae.safetensors"}])
    assert network.layers[2].name == "conv2/sae"
    other = small_network()
    other.checkpoint_sha256 = "0" * 64
    with pytest.raises(UserError, match="was trained on another network"):
        attach(other, [{"file": tmp_path / "sae.safetensors"}])
    with pytest.raises(UserError, match="was trained on layer conv2"):
        attach(small_network(), [{"file": tmp_path / "sae.safetensors", "layer": "conv1"}])


def test_blocks_are_bounded_and_a_fold_is_needed(listing, monkeypatch):
    from ingest.networks.autoencoders import clips

    monkeypatch.setattr(clips, "BUFFER_BYTES", 4 * 7 * 16 * 8 * 4)  # four clips
    steps = []
    train_sae(small_network(), "conv2", listing, Recipe(latents=8, k=2, epochs=1), progress=lambda done, total: steps.append((done, total)))
    seen = sum(entry.fold != 3 for entry in listing.entries)
    assert steps == [(number + 1, -(-seen // 4)) for number in range(-(-seen // 4))]
    with pytest.raises(UserError, match="has no fold 9"):
        train_sae(small_network(), "conv2", listing, Recipe(latents=8, k=2), fold=9)
    with pytest.raises(UserError, match="small has no layer conv7"):
        train_sae(small_network(), "conv7", listing, Recipe(latents=8, k=2))
    with pytest.raises(UserError, match="logits is what small puts out"):
        train_sae(small_network(), "logits", listing, Recipe(latents=8, k=2))


def test_frames_are_those_that_hold_sound(listing):
    network = small_network()
    paths = {entry.name: entry.path for entry in listing.entries}
    counts = [len(found) for found in frames(network, find_layer(network, "conv1"), sorted(paths), paths)]
    assert sum(counts) == len(paths) * 32 * 16
    network.counts_padding = False
    shorter = list(frames(network, find_layer(network, "conv1"), sorted(paths), paths))
    assert sum(map(len, shorter)) < sum(counts)


def test_frames_are_as_the_layer_puts_them_out_before_a_module_works_in_place(listing):
    network, inplace = small_network(), small_network()
    inplace.module[1] = torch.nn.ReLU(inplace=True)
    network.module[1] = torch.nn.ReLU()
    layer = Layer("bare", "0", network.layers[0].shape, network.layers[0].axes)
    paths = {entry.name: entry.path for entry in listing.entries[:2]}
    one, other = (torch.cat(list(frames(each, layer, sorted(paths), paths))) for each in (network, inplace))
    assert (one < 0).any()
    torch.testing.assert_close(other, one, rtol=0, atol=0)
