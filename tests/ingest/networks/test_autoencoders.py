"""Sparse autoencoders: each published layout against a few lines of its own, latents as layers, training."""

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from ingest.networks.autoencoders.clips import frames, train_sae
from ingest.networks.autoencoders.latents import attach, find_layer
from ingest.networks.autoencoders.layouts import read_autoencoder
from ingest.networks.autoencoders.training import Recipe, _State, fit
from ingest.networks.passes import prepared, read_waveforms
from ingest.networks.registry import check_network, load_network
from ingest.sounds.readers import read_dataset
from tests.ingest.networks import test_transformer
from tests.small import small_network, write_sounds
from warehouse.store import UserError

WIDTH, LATENTS, K = 5, 12, 3


@pytest.fixture
def weights():
    """Encoder and decoder [latents, width], and biases, at random."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return {"encoder": draw(LATENTS, WIDTH), "decoder": draw(LATENTS, WIDTH), "bias": 0.3 * draw(LATENTS), "centre": 0.5 * draw(WIDTH)}


@pytest.fixture
def x():
    return torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(4))


def highest(before, k):
    """All but the k highest of each row put to 0, one row at a time."""
    result = torch.zeros_like(before)
    for row, values in enumerate(before):
        best = sorted(range(len(values)), key=lambda index: -float(values[index]))[:k]
        result[row, best] = values[best].clamp_min(0)
    return result


def state_of_dictionary_learning(weights, **more):
    return {
        "encoder.weight": weights["encoder"],
        "encoder.bias": weights["bias"],
        "decoder.weight": weights["decoder"].T.contiguous(),
        **more,
    }


def config(folder, **values):
    (folder / "config.json").write_text(json.dumps({"trainer": values, "buffer": {"d_submodule": WIDTH, "ctx_len": 128}}))


# --- Layouts ------------------------------------------------------------------------------------------------------------------------------


def test_topk_of_dictionary_learning(tmp_path, weights, x):
    state = state_of_dictionary_learning(weights, b_dec=weights["centre"], k=torch.tensor(K, dtype=torch.int), threshold=torch.tensor(0.4))
    torch.save(state, tmp_path / "ae.pt")
    config(tmp_path, dict_class="AutoEncoderTopK", k=K)
    sae, header = read_autoencoder(tmp_path / "ae.pt")
    expected = highest((x - weights["centre"]) @ weights["encoder"].T + weights["bias"], K)
    torch.testing.assert_close(sae.encode(x), expected)
    torch.testing.assert_close(sae.reconstruct(x), expected @ weights["decoder"] + weights["centre"])
    assert header == {}
    assert sae.kept == "the 3 highest of each vector"
    assert read_autoencoder(tmp_path)[0].sha256 == sae.sha256  # the folder that holds it


def test_batchtopk_goes_by_its_threshold_alone(tmp_path, weights, x):
    """AudioSAE's and dictionary_learning's BatchTopKSAE: with use_threshold, not the batch's highest."""
    state = state_of_dictionary_learning(weights, b_dec=weights["centre"], k=torch.tensor(K), threshold=torch.tensor(0.7))
    torch.save(state, tmp_path / "ae.pt")
    config(tmp_path, dict_class="BatchTopKSAE", activation_dim=WIDTH, dict_size=LATENTS, k=K)
    sae, _ = read_autoencoder(tmp_path / "ae.pt")
    before = ((x - weights["centre"]) @ weights["encoder"].T + weights["bias"]).clamp_min(0)
    torch.testing.assert_close(sae.encode(x), before * (before > 0.7))
    torch.testing.assert_close(sae.encode(x[:1]), sae.encode(x)[:1])


@pytest.mark.parametrize("threshold", [None, -1.0])
def test_batchtopk_without_a_threshold_is_refused_or_taken_vector_by_vector(tmp_path, weights, x, threshold):
    more = {} if threshold is None else {"threshold": torch.tensor(threshold)}
    torch.save(state_of_dictionary_learning(weights, b_dec=weights["centre"], k=torch.tensor(K), **more), tmp_path / "ae.pt")
    config(tmp_path, dict_class="BatchTopKSAE", k=K)
    with pytest.raises(UserError, match="BatchTopK without a threshold"):
        read_autoencoder(tmp_path / "ae.pt")
    sae, _ = read_autoencoder(tmp_path / "ae.pt", "topk")
    torch.testing.assert_close(sae.encode(x), highest((x - weights["centre"]) @ weights["encoder"].T + weights["bias"], K))


def test_a_file_that_does_not_say_what_it_keeps_is_asked_about(tmp_path, weights, x):
    torch.save(
        state_of_dictionary_learning(weights, b_dec=weights["centre"], k=torch.tensor(K), threshold=torch.tensor(0.7)), tmp_path / "ae.pt"
    )
    with pytest.raises(UserError, match="does not say which latents it keeps"):
        read_autoencoder(tmp_path / "ae.pt")
    assert int((read_autoencoder(tmp_path / "ae.pt", "topk")[0].encode(x) > 0).sum(dim=1).max()) == K
    assert float(read_autoencoder(tmp_path / "ae.pt", "batchtopk")[0].threshold) == pytest.approx(0.7)


def test_relu_of_dictionary_learning_with_and_without_a_bias_before(tmp_path, weights, x):
    save_file(state_of_dictionary_learning(weights, bias=weights["centre"]), tmp_path / "one.safetensors")
    save_file(state_of_dictionary_learning(weights) | {"decoder.bias": weights["centre"]}, tmp_path / "other.safetensors")
    one, other = (read_autoencoder(tmp_path / f"{name}.safetensors")[0] for name in ("one", "other"))
    torch.testing.assert_close(one.encode(x), ((x - weights["centre"]) @ weights["encoder"].T + weights["bias"]).clamp_min(0))
    torch.testing.assert_close(other.encode(x), (x @ weights["encoder"].T + weights["bias"]).clamp_min(0))
    torch.testing.assert_close(other.reconstruct(x), other.encode(x) @ weights["decoder"] + weights["centre"])
    with pytest.raises(UserError, match="keeps its latents by relu"):
        read_autoencoder(tmp_path / "one.safetensors", "topk")


def test_topk_of_whisper_as_freud_and_sparsify_save_it(tmp_path, weights, x):
    state = {
        "encoder.weight": weights["encoder"],
        "encoder.bias": weights["bias"],
        "W_dec": weights["decoder"],
        "b_dec": weights["centre"],
    }
    hparams = {
        "activation_size": WIDTH,
        "n_dict_components": LATENTS,
        "topk_params": {"k": K, "normalize_decoder": True, "multi_topk": False},
    }
    torch.save({"model": state, "optimizer": {"state": {}, "param_groups": []}, "step": 7, "hparams": hparams}, tmp_path / "step7.pth")
    (tmp_path / "eleuther").mkdir()
    save_file(state, tmp_path / "eleuther" / "sae.safetensors")
    (tmp_path / "eleuther" / "cfg.json").write_text(json.dumps({"expansion_factor": 32, "k": K, "d_in": WIDTH, "activation": "topk"}))
    expected = highest((x - weights["centre"]) @ weights["encoder"].T + weights["bias"], K)
    for file in (tmp_path / "step7.pth", tmp_path / "eleuther"):
        torch.testing.assert_close(read_autoencoder(file)[0].encode(x), expected)
    (tmp_path / "eleuther" / "cfg.json").write_text(json.dumps({"k": K, "activation": "groupmax"}))
    with pytest.raises(UserError, match="activation 'groupmax' is not known"):
        read_autoencoder(tmp_path / "eleuther")


def test_l1_of_whisper_as_freud_saves_it(tmp_path, weights, x):
    state = {"decoder.weight": weights["decoder"].T.contiguous(), "encoder_bias": weights["bias"]}
    hparams = {"activation_size": WIDTH, "n_dict_components": LATENTS, "recon_alpha": 1e4, "layer_name": "encoder.blocks.2"}
    torch.save({"model": state, "hparams": hparams, "best_val_loss": 1.5}, tmp_path / "bestval.pth")
    sae, _ = read_autoencoder(tmp_path / "bestval.pth")
    unit = weights["decoder"] / weights["decoder"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(sae.encode(x), (x @ unit.T + weights["bias"]).clamp_min(0))
    torch.testing.assert_close(sae.reconstruct(x), sae.encode(x) @ unit)


def saelens(folder, weights, more=None, **cfg):
    state = {"W_enc": weights["encoder"].T.contiguous(), "b_enc": weights["bias"], "W_dec": weights["decoder"], "b_dec": weights["centre"]}
    folder.mkdir(exist_ok=True)
    save_file(state | (more or {}), folder / "sae_weights.safetensors")
    usual = {"d_in": WIDTH, "d_sae": LATENTS, "dtype": "float32", "normalize_activations": "none", "reshape_activations": "none"}
    (folder / "cfg.json").write_text(json.dumps(usual | cfg))
    return folder


def test_saelens_in_its_architectures(tmp_path, weights, x):
    threshold = torch.linspace(-0.2, 1.5, LATENTS)
    before = (x - weights["centre"]) @ weights["encoder"].T + weights["bias"]
    plain = x @ weights["encoder"].T + weights["bias"]
    norm = weights["decoder"].norm(dim=1)
    scaled = (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-5)
    cases = {
        "standard": (saelens(tmp_path / "a", weights, architecture="standard", apply_b_dec_to_input=True), before.clamp_min(0)),
        "old topk": (saelens(tmp_path / "b", weights, activation_fn_str="topk", activation_fn_kwargs={"k": K}), highest(before, K)),
        "topk": (saelens(tmp_path / "c", weights, architecture="topk", k=K, apply_b_dec_to_input=False), highest(plain, K)),
        "rescaled": (
            saelens(tmp_path / "d", weights, architecture="topk", k=K, rescale_acts_by_decoder_norm=True),
            highest(before * norm, K),
        ),
        "jumprelu": (
            saelens(tmp_path / "e", weights, {"threshold": threshold}, architecture="jumprelu", apply_b_dec_to_input=False),
            plain.clamp_min(0) * (plain > threshold.clamp_min(0)),
        ),
        "layer_norm": (
            saelens(tmp_path / "f", weights, architecture="standard", normalize_activations="layer_norm", apply_b_dec_to_input=False),
            (scaled @ weights["encoder"].T + weights["bias"]).clamp_min(0),
        ),
    }
    for name, (folder, expected) in cases.items():
        torch.testing.assert_close(read_autoencoder(folder)[0].encode(x), expected, msg=name)
    rescaled = read_autoencoder(tmp_path / "d")[0]
    torch.testing.assert_close(rescaled.reconstruct(x), (highest(before * norm, K) / norm) @ weights["decoder"] + weights["centre"])
    assert rescaled.sha256 != read_autoencoder(tmp_path / "c")[0].sha256


def test_npz(tmp_path, weights, x):
    state = state_of_dictionary_learning(weights, b_dec=weights["centre"], k=torch.tensor(K))
    np.savez(tmp_path / "sae.npz", **{name: value.numpy() for name, value in state.items()})
    expected = highest((x - weights["centre"]) @ weights["encoder"].T + weights["bias"], K)
    torch.testing.assert_close(read_autoencoder(tmp_path / "sae.npz", "topk")[0].encode(x), expected)
    np.savez(tmp_path / "objects.npz", **{"encoder.weight": np.array([{}], dtype=object)})
    with pytest.raises(UserError, match="not a whole npz file of plain arrays"):
        read_autoencoder(tmp_path / "objects.npz")


def test_what_is_not_known_is_refused_in_one_line(tmp_path, weights):
    def refused(match, activation=None):
        with pytest.raises(UserError, match=match) as caught:
            read_autoencoder(tmp_path / "sae.safetensors", activation)
        assert "\n" not in str(caught.value)

    save_file({"encoder.weight": weights["encoder"], "r_mag": weights["bias"]}, tmp_path / "sae.safetensors")
    refused("has no known layout")
    gated = state_of_dictionary_learning(weights, r_mag=weights["bias"].clone(), decoder_bias=weights["centre"])
    save_file(gated, tmp_path / "sae.safetensors")
    refused("has no known layout")
    save_file(state_of_dictionary_learning(weights, b_dec=weights["centre"]), tmp_path / "sae.safetensors")
    refused("k must stand in the file", "topk")
    save_file(state_of_dictionary_learning(weights, b_dec=weights["centre"], k=torch.tensor(LATENTS + 1)), tmp_path / "sae.safetensors")
    refused("keeps 13 of 12 latents", "topk")
    save_file(state_of_dictionary_learning(weights, b_dec=weights["bias"].clone(), k=torch.tensor(K)), tmp_path / "sae.safetensors")
    refused("does not fit together", "topk")
    save_file(state_of_dictionary_learning(weights, b_dec=weights["centre"] * torch.nan, k=torch.tensor(K)), tmp_path / "sae.safetensors")
    refused("not finite", "topk")
    config(tmp_path, dict_class="GatedAutoEncoder")
    refused("is of the class GatedAutoEncoder, whose activation is not known")
    for match, more in (("architecture 'gated' is not known", {"architecture": "gated"}),
                        ("normalize_activations 'expected_average_only_in'", {"normalize_activations": "expected_average_only_in"}),
                        ("activation_fn 'tanh-relu'|activation 'tanh-relu'", {"activation_fn_str": "tanh-relu"}),
                        ("reshape_activations = 'hook_z'", {"reshape_activations": "hook_z"}),
                        ("without a threshold", {"architecture": "batchtopk", "k": K})):  # fmt: skip
        with pytest.raises(UserError, match=match):
            read_autoencoder(saelens(tmp_path / "lens", weights, **more))
    (tmp_path / "lens" / "cfg.json").unlink()
    with pytest.raises(UserError, match=r"no cfg.json beside it"):
        read_autoencoder(tmp_path / "lens")
    torch.save({"encoder": print}, tmp_path / "code.pt")
    with pytest.raises(UserError, match="refused"):
        read_autoencoder(tmp_path / "code.pt")


# --- Latents as layers --------------------------------------------------------------------------------------------------------------------


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


def test_frames_are_those_that_hold_sound(listing):
    network = small_network()
    paths = {entry.name: entry.path for entry in listing.entries}
    counts = [len(found) for found in frames(network, find_layer(network, "conv1"), sorted(paths), paths)]
    assert sum(counts) == len(paths) * 32 * 16
    network.counts_padding = False
    shorter = list(frames(network, find_layer(network, "conv1"), sorted(paths), paths))
    assert sum(map(len, shorter)) < sum(counts)
