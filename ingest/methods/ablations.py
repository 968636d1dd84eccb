"""Ablations: silencing neurons anywhere in a network, and what its logits lose by it (AND 2024, sections 4.3 and 4.4).

Neurons are named by layer and unit: {layer name: unit indices}, in any order, repeated or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from ingest.networks.network import Layer, Network
from warehouse.store import UserError

Units = Mapping[str, Any]
"""Unit indices by layer name, as whatever numpy takes for whole numbers."""


def inner_layers(network: Network) -> list[Layer]:
    """The layers whose neurons are ablated: all but the classifier, which is the last layer of a network with named outputs."""
    return network.layers[:-1] if network.output_names else list(network.layers)


# --- Silencing ----------------------------------------------------------------------------------------------------------------------------


@contextmanager
def ablated(network: Network, units: Units) -> Iterator[None]:
    """While this lasts, the given neurons put out exactly 0 whatever comes in. The weights are not touched.

    The zeros are put in where the layer is recorded. For a linear layer that is the same as zeroing the neurons' rows of the weights and
    their biases (AND 2024, section 4.3); for a convolution recorded after normalisation and ReLU the same as zeroing the channels in both.
    Hooks set within the context see the zeros. Raises UserError, before anything is changed, for a layer or unit that is not there.
    """
    chosen = [(layer, torch.from_numpy(indices)) for layer, indices in _checked(network, units)]
    handles = []
    try:
        for layer, indices in chosen:
            handles.append(network.module.get_submodule(layer.module).register_forward_hook(_silence(layer, indices)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _checked(network: Network, units: Units) -> list[tuple[Layer, np.ndarray]]:
    """Layers with units to silence, those ascending and once each."""
    layers = {layer.name: layer for layer in network.layers}
    found = []
    for name, given in units.items():
        if name not in layers:
            raise UserError(f"{network.name} has no layer {name}: it has {', '.join(list(layers)[:40])}")
        indices = np.unique(np.asarray(given))
        if not len(indices):
            continue
        if not np.issubdtype(indices.dtype, np.integer):  # a mask of True and False would silence units 0 and 1
            raise ValueError(f"units of layer {name} must be whole numbers, not {indices.dtype}")
        if indices[0] < 0 or indices[-1] >= layers[name].neurons:
            raise UserError(f"layer {name} of {network.name} has units 0 to {layers[name].neurons - 1}, not {indices[0]} to {indices[-1]}")
        found.append((layers[name], indices.astype(np.int64)))
    return found


def _silence(layer: Layer, indices: torch.Tensor) -> Callable[[torch.nn.Module, object, Any], Any]:
    dimension = -1 if layer.axes.endswith("unit") else 1

    def silence(_module: torch.nn.Module, _inputs: object, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        # A copy: a module that passes its input on (dropout) shares it with others, and the next may work in place.
        changed = first.index_fill(dimension, indices.to(first.device), 0)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return silence


# --- What the network then says -----------------------------------------------------------------------------------------------------------


class Unlearning(NamedTuple):
    """Change of the mean raw logit of the target class on its own clips (dA), and the mean of the same over the other classes (dR).

    NaN where there is no clip to tell it by. The published Table 4 calls its last column dA - dR but prints dR - dA: `gap`.
    """

    own: float
    rest: float

    @property
    def gap(self) -> float:
        """dR - dA: above 0 when the target class loses more than the others."""
        return self.rest - self.own


def unlearning(before: np.ndarray, after: np.ndarray, labels: np.ndarray, target: int) -> Unlearning:
    """What an ablation for class `target` did to raw logits [clips, classes] of clips with class numbers `labels` [clips] (AND 2024, Table 4).

    Clips with a negative label, or with a logit that is not finite before or after, are left out.
    """
    by_class = logit_changes(before, after, labels)
    others = [value for label, value in by_class.items() if label != target]
    return Unlearning(by_class.get(target, math.nan), float(np.mean(others)) if others else math.nan)


def logit_changes(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Change of the mean raw logit of every class on its own clips, by class number (AND 2024, Figure 10); clips as for `unlearning`."""
    counted = (labels >= 0) & np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    labels, clips = labels[counted], np.flatnonzero(counted)
    change = after[clips, labels].astype(np.float64) - before[clips, labels]
    return {int(label): float(change[labels == label].mean()) for label in np.unique(labels)}


# --- Which neurons to silence -------------------------------------------------------------------------------------------------------------


def importance_masks(network: Network, scores: Mapping[str, np.ndarray], share: float, *, seed: int = 0) -> dict[str, np.ndarray]:
    """The neurons with the highest scores of the whole network, `share` (0 to 1) of all its inner neurons (AND 2024, Figure 4).

    `scores` are [neurons] by layer name, NaN where a neuron has none; such are never chosen, so that fewer may come out. Of equal scores,
    which counts of words often are, `seed` decides, lest the first layers be preferred. Returns units, ascending, of layers with any.
    """
    if not 0 <= share <= 1:
        raise UserError(f"a share of {share:g} of the neurons is not possible: give 0 to 1")
    layers = inner_layers(network)
    unknown = scores.keys() - {layer.name for layer in layers}
    if unknown:
        raise UserError(f"{network.name} has no inner layer {min(unknown)}: it has {', '.join(layer.name for layer in layers[:40])}")
    values = np.concatenate([_layer_scores(layer, scores.get(layer.name)) for layer in layers])
    order = np.random.default_rng(seed).permutation(len(values))
    order = order[~np.isnan(values[order])]
    ranked = order[np.argsort(-values[order], kind="stable")]
    return _by_layer(layers, ranked[: round(share * len(values))])


def _layer_scores(layer: Layer, scores: np.ndarray | None) -> np.ndarray:
    if scores is None:
        return np.full(layer.neurons, math.nan)
    if np.shape(scores) != (layer.neurons,):
        raise ValueError(f"layer {layer.name} has {layer.neurons} neurons, not scores of shape {list(np.shape(scores))}")
    return np.asarray(scores, dtype=np.float64)


def random_masks(network: Network, neurons: int, *, seed: int) -> dict[str, np.ndarray]:
    """As many inner neurons of the whole network, each equally likely: the control. Returns units, ascending, of layers with any."""
    layers = inner_layers(network)
    total = sum(layer.neurons for layer in layers)
    if not 0 <= neurons <= total:
        raise UserError(f"{network.name} has {total} neurons outside its classifier, {neurons} cannot be drawn")
    return _by_layer(layers, np.random.default_rng(seed).choice(total, neurons, replace=False))


def _by_layer(layers: list[Layer], neurons: np.ndarray) -> dict[str, np.ndarray]:
    """Units by layer of neurons numbered through all layers."""
    ends = np.cumsum([layer.neurons for layer in layers])
    found = {}
    for layer, end in zip(layers, ends, strict=True):
        inside = neurons[(neurons >= end - layer.neurons) & (neurons < end)]
        if len(inside):
            found[layer.name] = np.sort(inside) - (end - layer.neurons)
    return found
