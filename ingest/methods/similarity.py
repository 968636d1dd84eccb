"""How well a concept tells what a neuron responds to: the five similarity functions of CLIP-Dissect and AND, over all neurons at once.

Each takes activations [clips, neurons] and concept scores [clips, concepts] (see ingest.methods.concept_scores) of the same clips, any float type,
also memory maps, and returns the similarity [neurons, concepts] (float64), the higher the better, masked where it is undefined. The
constants default to those of CLIP-Dissect (Oikarinen & Weng 2023, arXiv 2204.10965; cosine cubed: Oikarinen et al. 2023, arXiv 2304.06129),
which AND (ICML 2024, section 4.1) takes over. Clips with equal activations rank in the order of the clips, and so do clips with equal
concept scores. Activations or scores that are not finite raise ValueError: leave those clips out. Work goes in blocks of neurons, so that
memory grows with the result and the concept scores only.

`mode` is

* `paper`: the definitions, with all neurons as the population that WPMI compares a neuron with. Masked are neurons that respond alike to
  every clip, concepts with one score on every clip, and rank reorder where the concept's mean score on the top clips is not above 0 (its
  root), where the baseline is 0, or where the top fraction holds no clip. Masked neurons are in no population.
* `clip-dissect`: CLIP-Dissect's program. The same but that only what it makes NaN or infinite is masked, and that fewer clips than `top_k`
  are refused; so a dead neuron has a cosine cubed of 0 with everything and stays in WPMI's population.
* `as-released`: AND's program, which hands over one neuron at a time. Each neuron is then its own population: WPMI is (1 - lam) S, and
  soft WPMI, whose lam is 1, is 0 for every concept (the constant 2 / 10 / 0.24 of Table 7). Rank reorder takes the order of the concept's
  scores for their ranks, and a negative mean score for 0. Otherwise as clip-dissect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np

from warehouse.store import UserError

Mode = Literal["paper", "clip-dissect", "as-released"]
BLOCK_VALUES = 1_000_000
LOG_EVERY = 16  # factors multiplied before a logarithm is taken: no product of so many leaves the range of float64


def cosine(activations: np.ndarray, concept_scores: np.ndarray, *, mode: Mode = "paper") -> np.ma.MaskedArray:
    """Cosine of a neuron's activations and a concept's scores over the clips, neither centred, -1..1."""
    scores = _checked(activations, concept_scores, mode)
    result = np.empty((activations.shape[1], scores.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = scores / np.linalg.norm(scores, axis=0)
        for rows, block in _blocks(activations):
            result[rows] = block @ scores
            result[rows] /= np.linalg.norm(block, axis=1, keepdims=True)
    return _masked(result, activations, concept_scores, mode)


def cosine_cubed(activations: np.ndarray, concept_scores: np.ndarray, *, mode: Mode = "paper", min_norm: float = 1e-3) -> np.ma.MaskedArray:
    """Cosine of the cubes of the centred activations and scores, -1..1; norms below `min_norm` count as `min_norm`."""
    scores = _checked(activations, concept_scores, mode)
    result = np.empty((activations.shape[1], scores.shape[1]))
    scores = _cubed(scores - scores.mean(axis=0))
    scores /= np.maximum(np.linalg.norm(scores, axis=0), min_norm)
    for rows, block in _blocks(activations):
        cubed = _cubed(block - block.mean(axis=1, keepdims=True))
        result[rows] = cubed @ scores / np.maximum(np.linalg.norm(cubed, axis=1, keepdims=True), min_norm)
    return _masked(result, activations, concept_scores, mode)


def wpmi(
    activations: np.ndarray,
    concept_scores: np.ndarray,
    *,
    mode: Mode = "paper",
    top_k: int = 28,
    a: float = 2,
    lam: float = 0.6,
    min_prob: float = 1e-7,
) -> np.ma.MaskedArray:
    """Weighted pointwise mutual information, in nats: S - lam (log mean over neurons of exp S), with S the sum of ln(P' + `min_prob`) over
    the neuron's `top_k` clips (all, where there are fewer) and P' = softmax over concepts of `a` times the scores.
    """
    logs = np.log(_probabilities(_checked(activations, concept_scores, mode, top_k), a) + min_prob)
    result = np.zeros((activations.shape[1], logs.shape[1]))
    for rows, block in _blocks(activations):
        for clips in _top(block, top_k).T:
            result[rows] += logs[clips]
    return _masked(_informed(result, activations, lam, mode), activations, concept_scores, mode)


def soft_wpmi(
    activations: np.ndarray,
    concept_scores: np.ndarray,
    *,
    mode: Mode = "paper",
    top_k: int = 100,
    a: float = 10,
    lam: float = 1,
    p_start: float = 0.998,
    p_end: float = 0.97,
    min_prob: float = 1e-7,
) -> np.ma.MaskedArray:
    """WPMI in which the neuron's j-th clip of k belongs to its top clips with probability w = `p_start` - j/k (`p_start` - `p_end`) only:
    S is the sum of ln(1 + w (P' - 1) + `min_prob`), in nats.
    """
    probabilities = _probabilities(_checked(activations, concept_scores, mode, top_k), a)
    k = min(top_k, len(probabilities))
    weights = p_start - np.arange(k) / k * (p_start - p_end)
    result = np.zeros((activations.shape[1], probabilities.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        for rows, block in _blocks(activations):
            product = np.ones((len(block), probabilities.shape[1]))
            for j, clips in enumerate(_top(block, k).T):
                factor = probabilities[clips]
                factor *= weights[j]
                factor += 1 - weights[j] + min_prob
                product *= factor
                if (j + 1) % LOG_EVERY == 0 or j + 1 == k:
                    result[rows] += np.log(product)
                    product[:] = 1
    return _masked(_informed(result, activations, lam, mode), activations, concept_scores, mode)


def rank_reorder(
    activations: np.ndarray,
    concept_scores: np.ndarray,
    *,
    mode: Mode = "paper",
    top_fraction: float = 0.05,
    p: float = 3,
    scale_p: float = 0.5,
    permutations: int = 5,
    seed: int = 0,
) -> np.ma.MaskedArray:
    """How well a concept's scores order the neuron's top clips, at most 0: the mean of |t - r|^`p` over the clips of the neuron's
    `top_fraction`, with t their activations and r the same activations put in the order of the scores, divided by the same mean for
    `permutations` random orders and by the concept's mean score on these clips to the power `scale_p`; negative.

    The random orders are drawn neuron after neuron by torch's generator with `seed`, as CLIP-Dissect draws them after torch.manual_seed:
    they scale all concepts of a neuron alike, and depend on the neuron's place in the call.
    """
    import torch

    scores = _checked(activations, concept_scores, mode)
    top = int(len(scores) * top_fraction)
    result = np.full((activations.shape[1], scores.shape[1]), np.nan)
    keys = _sort_keys(scores, top)
    generator = torch.Generator().manual_seed(seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        for rows, block in _blocks(activations):
            if top == 0:
                continue
            clips = _top(block, top)
            for neuron, chosen, values in zip(range(rows.start, rows.stop), clips, np.take_along_axis(block, clips, axis=1), strict=True):
                drawn = [torch.randperm(top, generator=generator).numpy() for _ in range(permutations)]
                ascending = values[::-1].copy()
                baseline = _power(ascending - ascending[np.stack(drawn)], p).mean()
                order = _order(keys[chosen], top)  # [concepts, top]: which of the top clips has the lowest score, the next, ...
                wrong = ascending.take(order) - values if mode == "as-released" else values.take(order) - ascending
                mean_score = scores[chosen].mean(axis=0)
                if mode != "clip-dissect":
                    mean_score = mean_score.clip(0)
                result[neuron] = -_power(wrong, p).mean(axis=1) / baseline / mean_score**scale_p
    return _masked(result, activations, concept_scores, mode)


FUNCTIONS: dict[str, Callable[..., np.ma.MaskedArray]] = {
    "cosine": cosine,
    "cosine_cubed": cosine_cubed,
    "rank_reorder": rank_reorder,
    "wpmi": wpmi,
    "soft_wpmi": soft_wpmi,
}
"""The similarity functions by name."""


def best(similarity: np.ndarray, k: int) -> tuple[np.ndarray, np.ma.MaskedArray]:
    """The `k` most similar concepts of every neuron, the best first: their indices [neurons, k] (int64), and their similarities, masked
    where a neuron has fewer than `k` that are defined; the index there is -1.

    `similarity` is [neurons, concepts], masked or NaN where undefined. Among equals the lowest index comes first.
    """
    values = np.ma.filled(np.ma.masked_invalid(similarity), -np.inf)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(values, order, axis=1)
    missing = np.full((len(values), k), True)
    missing[:, : order.shape[1]] = np.isneginf(found)
    indices, similarities = np.full(missing.shape, -1), np.zeros(missing.shape)
    indices[:, : order.shape[1]], similarities[:, : order.shape[1]] = order, found
    indices[missing], similarities[missing] = -1, 0
    return indices, np.ma.masked_array(similarities, mask=missing)


def _checked(activations: np.ndarray, concept_scores: np.ndarray, mode: str, top_k: int | None = None) -> np.ndarray:
    """The concept scores as float64."""
    if mode not in get_args(Mode):
        raise UserError(f"No similarity mode {mode!r}: choose one of {', '.join(get_args(Mode))}.")
    if activations.ndim != 2 or concept_scores.ndim != 2 or len(activations) != len(concept_scores) or not len(activations):
        raise ValueError(
            f"activations {activations.shape} and concept scores {concept_scores.shape} are not of the same clips, at least one"
        )
    if top_k is not None and (top_k < 1 or (mode == "clip-dissect" and top_k > len(activations))):
        raise ValueError(f"top_k is {top_k}, but there are {len(activations)} clips")
    scores = np.asarray(concept_scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        clip, concept = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"the score of concept {concept} on clip {clip} is {scores[clip, concept]}: leave the clip out")
    return scores


def _blocks(activations: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Neurons in blocks [neurons of the block, clips] (float64), each with its place; raises ValueError for values not finite."""
    clips, neurons = activations.shape
    step = min(max(1, BLOCK_VALUES // clips), 256)
    for start in range(0, neurons, step):
        block = np.ascontiguousarray(activations[:, start : start + step].T, dtype=np.float64)
        if not np.isfinite(block).all():
            neuron, clip = np.argwhere(~np.isfinite(block))[0]
            raise ValueError(f"neuron {start + neuron} on clip {clip} is {block[neuron, clip]}: leave the clip out")
        yield slice(start, start + len(block)), block


def _masked(result: np.ndarray, activations: np.ndarray, concept_scores: np.ndarray, mode: str) -> np.ma.MaskedArray:
    mask = ~np.isfinite(result)
    if mode == "paper":
        mask |= ~_varied(activations)[:, None] | ~_varied(concept_scores)
    result[mask] = 0
    return np.ma.masked_array(result, mask=mask)


def _varied(columns: np.ndarray) -> np.ndarray:
    """Whether each column has two different values, [columns]."""
    return np.asarray(columns.max(axis=0) > columns.min(axis=0))


def _top(block: np.ndarray, k: int) -> np.ndarray:
    """The clips of highest activation of every neuron [neurons, clips], the highest first, [neurons, k]."""
    return np.argsort(-block, axis=1, kind="stable")[:, :k]


def _probabilities(scores: np.ndarray, a: float) -> np.ndarray:
    weights = np.exp(a * scores - (a * scores).max(axis=1, keepdims=True, initial=-np.inf))
    return weights / weights.sum(axis=1, keepdims=True)


def _informed(log_likelihood: np.ndarray, activations: np.ndarray, lam: float, mode: str) -> np.ndarray:
    """S - lam ln(mean over the population of exp S), in place."""
    if mode == "as-released":
        log_likelihood -= lam * log_likelihood
        return log_likelihood
    population = _varied(activations) if mode == "paper" else np.ones(len(log_likelihood), dtype=bool)
    if population.any():
        total = np.logaddexp.reduce(log_likelihood, axis=0, where=population[:, None], initial=-np.inf)
        log_likelihood -= lam * (total - np.log(population.sum()))
    return log_likelihood


def _sort_keys(scores: np.ndarray, top: int) -> np.ndarray:
    """Every clip's rank among a concept's scores, [clips, concepts], moved up by as many bits as a place among `top` clips needs."""
    ranks = np.empty(scores.shape, dtype=np.int64)
    np.put_along_axis(ranks, np.argsort(scores, axis=0, kind="stable"), np.arange(len(scores))[:, None], axis=0)
    ranks <<= (top - 1).bit_length()
    return ranks.astype(np.int32) if ranks.max(initial=0) < 2**30 else ranks


def _order(keys: np.ndarray, top: int) -> np.ndarray:
    """Argsort of the keys [top, concepts] of `_sort_keys` along the clips, as [concepts, top].

    Sorting integers that carry their place is several times as fast as numpy's argsort.
    """
    placed = np.ascontiguousarray(keys.T)
    placed |= np.arange(top, dtype=keys.dtype)
    placed.sort(axis=1)
    placed &= (1 << (top - 1).bit_length()) - 1
    return placed


def _cubed(values: np.ndarray) -> np.ndarray:
    return values * values * values


def _power(differences: np.ndarray, p: float) -> np.ndarray:
    """|x|^p; a whole p by products, which are ten times as fast as numpy's power."""
    size = np.abs(differences)
    return functools.reduce(np.multiply, [size] * int(p)) if p >= 1 and p == int(p) else size**p
