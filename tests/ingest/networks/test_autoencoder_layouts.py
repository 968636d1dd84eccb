"""Sparse autoencoders as they are published: each layout against a few lines of its own."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ingest.networks.autoencoders.layouts import read_autoencoder
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
    save_file(state_of_dictionary_learning(weights, b_dec=weights["centre"], k=torch.tensor(torch.nan)), tmp_path / "sae.safetensors")
    refused("keeps nan latents of a vector", "topk")
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
