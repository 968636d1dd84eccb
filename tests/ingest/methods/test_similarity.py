"""Similarity functions against the published programs' outputs, scikit-learn and plain loops of their definitions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from ingest.methods import similarity
from ingest.methods.similarity import FUNCTIONS, best, cosine, cosine_cubed, rank_reorder, soft_wpmi, wpmi
from warehouse.store import UserError

GOLDEN = Path(__file__).parents[2] / "golden"
PUBLISHED = {"cosine": "cos_similarity", "cosine_cubed": "cos_similarity_cubed"}
# The published outputs are float32; near zero their own rounding counts: of norms, and of sums of 100 logarithms, which reach -400.
ROUNDING = {"cosine": 1e-6, "cosine_cubed": 2e-6, "soft_wpmi": 2e-4}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "similarity_inputs.npz") as inputs, np.load(GOLDEN / "similarity_outputs.npz") as outputs:
        return inputs["target_feats"], inputs["clip_feats"], dict(outputs)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("mode", "variants"),
    [
        ("paper", ["AND_batched", "CLIPdissect_batched"]),
        ("clip-dissect", ["CLIPdissect_batched"]),
        ("as-released", ["AND_per_neuron"]),
    ],
)
def test_published_programs(golden, name, mode, variants):
    activations, scores, outputs = golden
    if name == "rank_reorder":  # AND's has the order for the ranks in a call over all neurons as well
        variants = [variant for variant in variants if (variant != "AND_batched") or mode == "as-released"]
    result = FUNCTIONS[name](activations, scores, mode=mode)
    assert not result.mask.any()
    for variant in variants:
        expected = outputs[f"{PUBLISHED.get(name, name)}_{variant}"]
        np.testing.assert_allclose(result.data, expected, rtol=1e-4, atol=ROUNDING.get(name, 0))
        assert (best(result, 1)[0][:, 0] == expected.argmax(axis=1)).all()
    if name == "rank_reorder" and mode == "as-released":
        np.testing.assert_allclose(result.data, outputs["rank_reorder_AND_batched"], rtol=1e-4)


def test_order_for_ranks_changes_most_picks(golden):
    activations, scores, _ = golden
    ranks, order = (best(rank_reorder(activations, scores, mode=mode), 1)[0] for mode in ("paper", "as-released"))
    assert (ranks == order).mean() == 0.16


def drawn(seed, clips=60, neurons=7, concepts=5):
    """Rectified activations with ties among zeros, in float16 neuron by neuron, and positive scores."""
    rng = np.random.default_rng(seed)
    activations = (rng.normal(size=(neurons, clips)).clip(0.3) * 4).astype(np.float16).T
    return activations, rng.dirichlet(np.ones(concepts) / 2, clips).astype(np.float32)


def top_by_hand(values, k):
    return sorted(range(len(values)), key=lambda clip: (-values[clip], clip))[:k]


def by_hand(name, activations, scores, permutations=()):
    """S of WPMI, or rank reorder, of every neuron and concept from its definition, with constants other than the default ones."""
    result = np.zeros((activations.shape[1], scores.shape[1]))
    for neuron, concept in np.ndindex(*result.shape):
        u, q = [float(x) for x in activations[:, neuron]], [float(x) for x in scores[:, concept]]
        if name == "rank_reorder":
            clips = top_by_hand(u, 17)
            t = [u[clip] for clip in clips]
            by_score = sorted(clips, key=lambda clip: (q[clip], clip))
            ascending = t[::-1]
            error = sum(abs(u[clip] - ascending[by_score.index(clip)]) ** 2.5 for clip in clips) / 17
            draws = permutations[3 * neuron : 3 * neuron + 3]
            baseline = sum(abs(ascending[i] - ascending[order[i]]) ** 2.5 for order in draws for i in range(17)) / 51
            result[neuron, concept] = -error / baseline / (sum(q[clip] for clip in clips) / 17) ** 0.7
            continue
        a, k = (3, 9) if name == "wpmi" else (7, 20)
        for j, clip in enumerate(top_by_hand(u, k)):
            row = [math.exp(a * float(x)) for x in scores[clip]]
            probability = row[concept] / sum(row)
            w = 0.9 - j / k * (0.9 - 0.5)
            result[neuron, concept] += math.log(probability + 1e-5 if name == "wpmi" else 1 + w * (probability - 1) + 1e-5)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_definitions_by_plain_loops(seed, monkeypatch):
    activations, scores = drawn(seed)
    monkeypatch.setattr(similarity, "BLOCK_VALUES", 150)  # blocks of two neurons
    as_float = activations.astype(np.float64)
    np.testing.assert_allclose(cosine(activations, scores).data, cosine_similarity(as_float.T, scores.T), rtol=1e-6)
    cubes = [(values - values.mean(axis=0)) ** 3 for values in (as_float, scores.astype(np.float64))]
    np.testing.assert_allclose(cosine_cubed(activations, scores).data, cosine_similarity(cubes[0].T, cubes[1].T), rtol=1e-6)
    halved = cosine_cubed(activations, scores, min_norm=2 * np.linalg.norm(cubes[1], axis=0).max())
    np.testing.assert_array_less(np.abs(halved.data), 0.5 + 1e-9)

    for name, constants in {
        "wpmi": {"top_k": 9, "a": 3, "min_prob": 1e-5},
        "soft_wpmi": {"top_k": 20, "a": 7, "p_start": 0.9, "p_end": 0.5, "min_prob": 1e-5},
    }.items():
        s = by_hand(name, activations, scores)
        together = s - 0.8 * np.log(np.exp(s).mean(axis=0))
        for mode, expected in (("paper", together), ("clip-dissect", together), ("as-released", 0.2 * s)):
            np.testing.assert_allclose(FUNCTIONS[name](activations, scores, mode=mode, lam=0.8, **constants), expected, rtol=1e-9)

    torch.manual_seed(7)
    permutations = [torch.randperm(17).tolist() for _ in range(3 * activations.shape[1])]
    result = rank_reorder(activations, scores, top_fraction=0.284, p=2.5, scale_p=0.7, permutations=3, seed=7)
    np.testing.assert_allclose(result, by_hand("rank_reorder", activations, scores, permutations), rtol=1e-6)


def test_one_neuron_a_call_is_as_released():
    activations, scores = drawn(5)
    for name in ("cosine", "cosine_cubed", "wpmi", "soft_wpmi"):
        alone = [
            FUNCTIONS[name](activations[:, [neuron]], scores, mode="clip-dissect", **({} if "cos" in name else {"top_k": 10}))
            for neuron in range(7)
        ]
        together = FUNCTIONS[name](activations, scores, mode="as-released", **({} if "cos" in name else {"top_k": 10}))
        np.testing.assert_allclose(together, np.ma.concatenate(alone), rtol=1e-12)
    assert (soft_wpmi(activations, scores, mode="as-released") == 0).all()  # why Table 7 has 2 / 10 / 0.24 throughout
    np.testing.assert_allclose(wpmi(activations, scores, mode="as-released"), 0.4 * wpmi(activations, scores, lam=0), rtol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_undefined_is_masked(name):
    activations, scores = (values.copy() for values in drawn(1))
    alive = FUNCTIONS[name](activations, scores)
    assert not alive.mask.any()
    activations[:, 6], scores[:, 4] = 0, 0.25
    activations[:, 5] = -3
    result = FUNCTIONS[name](activations, scores)
    assert (result.mask == (np.arange(7) >= 5)[:, None] | (np.arange(5) == 4)).all()
    assert np.isfinite(result.data).all()
    # Other neurons do not notice dead ones; concepts do notice each other in the softmax of WPMI.
    np.testing.assert_allclose(result[:5, :4], FUNCTIONS[name](activations[:, :5], scores)[:, :4], rtol=1e-9)
    assert FUNCTIONS[name](activations[:1], scores[:1]).mask.all()
    assert FUNCTIONS[name](activations[:, :0], scores).shape == (0, 5)
    assert FUNCTIONS[name](activations, scores[:, :0]).shape == (7, 0)
    released = FUNCTIONS[name](activations, scores, mode="clip-dissect", **({"top_k": 9} if "wpmi" in name else {}))
    assert np.isfinite(released.data).all()
    assert released.mask[6].all() == (name in ("cosine", "rank_reorder"))
    assert not released.mask[:5].any()
    if name == "wpmi":
        s = wpmi(activations, scores, mode="clip-dissect", lam=0, top_k=9)
        np.testing.assert_allclose(released, s - 0.6 * np.log(np.exp(s).mean(axis=0)), rtol=1e-9)  # dead neurons are counted


def test_five_clips_have_no_top_fraction():
    activations, scores = drawn(2, clips=5)
    for mode in ("paper", "clip-dissect", "as-released"):
        result = rank_reorder(activations, scores, mode=mode)
        assert result.mask.all()
        assert (result.data == 0).all()
    assert not wpmi(activations, scores).mask.any()
    with pytest.raises(ValueError, match="top_k is 28, but there are 5 clips"):
        wpmi(activations, scores, mode="clip-dissect")


def test_rank_reorder_without_a_root_or_a_baseline():
    activations, scores = drawn(3)
    scores = scores - 0.2
    top = np.argsort(-activations.astype(float), axis=0, kind="stable")[:30]
    negative = scores[top].mean(axis=0) <= 0
    assert 0 < negative.sum() < negative.size
    for mode in ("paper", "clip-dissect", "as-released"):  # NaN there, -inf or NaN in the programs
        assert (rank_reorder(activations, scores, mode=mode, top_fraction=0.5).mask == negative).all()
        without_root = rank_reorder(activations, scores, mode=mode, top_fraction=0.5, scale_p=1)
        assert (without_root.mask == (negative & (mode != "clip-dissect"))).all()
    flat = activations.copy()
    flat[np.argsort(-flat.astype(float), axis=0)[:30, 2], 2] = 9  # the whole top of one neuron is alike
    assert rank_reorder(flat, abs(scores), top_fraction=0.5).mask.all(axis=1).tolist() == [False, False, True, False, False, False, False]


def test_refused():
    activations, scores = drawn(4)
    wrong = activations.copy()
    wrong[17, 3] = np.inf
    absent = scores.copy()
    absent[2, 1] = np.nan
    for function in FUNCTIONS.values():
        for clips in (60, 18):  # 18 have no top fraction
            with pytest.raises(ValueError, match="neuron 3 on clip 17 is inf"):
                function(wrong[:clips], scores[:clips])
        with pytest.raises(ValueError, match="concept 1 on clip 2 is nan"):
            function(activations, absent)
        for clips in (slice(1, None), slice(0)):
            with pytest.raises(ValueError, match="not of the same clips"):
                function(activations[clips], scores[: 60 * (clips.start or 0)])
        with pytest.raises(UserError, match="No similarity mode 'released'"):
            function(activations, scores, mode="released")


def test_every_function_finds_what_a_neuron_was_made_of():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(20) / 3, 1000)
    activations = np.log(scores + 1e-3) + rng.normal(size=scores.shape)
    for name, function in FUNCTIONS.items():
        indices, _ = best(function(activations, scores), 5)
        assert (indices[:, 0] == np.arange(20)).mean() >= 0.9, name


def test_best_takes_the_lowest_index_of_equals_and_nothing_masked():
    values = np.ma.masked_array([[1.0, 3, 3, -2], [0, 0, 0, 0], [5, -1, 7, 9]], mask=[[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
    indices, found = best(values, 3)
    assert indices.tolist() == [[1, 2, 0], [-1, -1, -1], [2, 0, -1]]
    assert found.tolist() == [[3, 3, 1], [None, None, None], [7, 5, None]]
    indices, found = best(np.array([[1.0, np.nan]]), 4)
    assert indices.tolist() == [[0, -1, -1, -1]]
    assert found.tolist() == [[1, None, None, None]]
