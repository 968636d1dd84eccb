"""Latents of sparse autoencoders as layers of a network: recorded, silenced and exchanged like any other layer's neurons.

An autoencoder sees the channels at every position of a convolution's map, the features of every token, or the values of a window, each vector by
itself; a latent has a value wherever the layer has one, and goes through the same reductions over time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ingest.networks.autoencoders.autoencoder import Autoencoder
from ingest.networks.autoencoders.layouts import Activation, read_autoencoder
from ingest.networks.network import Layer, Network
from warehouse.store import UserError, sha256_json


class Latents(nn.Module):
    """Passes latents on, so that hooks can record or replace them."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """[rows, *layer.shape] as they are."""
        return latents


def attach(network: Network, choices: Sequence[Mapping[str, Any]], named: Sequence[str] | None = None) -> Network:
    """The network with the latents of autoencoders as layers, each behind the layer that it sees, and with those of its residual streams that are
    `named` (see Network.streams). A choice has the `file`, and perhaps `layer`, `name` and `activation` (see ingest.study.SaeChoice). With
    autoencoders the network's hash is another one. Raises UserError for an autoencoder that does not fit."""
    for stream in network.streams:
        if stream.name in (named or ()) and stream not in network.layers:
            network.layers.insert(_behind(network, stream), stream)
    identities = [_attach(network, **choice) for choice in choices]
    if identities:
        network.checkpoint_sha256 = sha256_json([network.checkpoint_sha256, identities])
        network.shaped_by["saes"] = sha256_json(identities)
    return network


def _attach(network: Network, file: Path, layer: str | None = None, name: str = "sae", activation: Activation | None = None) -> list[str]:
    sae, header = read_autoencoder(file, activation)
    trained_on = header.get("layer")
    layer = layer or trained_on
    if layer is None:
        raise UserError(f"{file} does not say which layer of {network.name} it sees: give layer beside it")
    if trained_on not in (None, layer):
        raise UserError(f"{file} was trained on layer {trained_on}, not on {layer}")
    if header.get("network_sha256") not in (None, network.checkpoint_sha256):
        raise UserError(
            f"{file} was trained on another network ({header.get('network')}) than {network.name} as it is here: train it again"
        )
    base = find_layer(network, layer)
    if base.neurons != sae.width:
        raise UserError(f"{file} takes vectors of {sae.width} values, layer {layer} of {network.name} has {base.neurons}")
    attribute, name = f"{name}_latents", f"{layer}/{name}"
    module = network.module.get_submodule(base.module)
    if any(other.name == name for other in network.layers) or hasattr(module, attribute):
        raise UserError(f"{network.name} has a layer {name} already: give the autoencoder another name")
    latents = Latents()
    # Kept beside the module's own parts, not among them: an nn.Sequential would run it, and it is no part of the checkpoint.
    object.__setattr__(module, attribute, latents)
    module.register_forward_hook(_tap(base, sae, latents))
    unit = base.axes.endswith("unit")
    shape = (*base.shape[:-1], sae.latents) if unit else (sae.latents, *base.shape[1:])
    path = ".".join(part for part in (base.module, attribute) if part)
    network.layers.insert(
        _behind(network, base), replace(base, name=name, module=path, shape=shape, non_negative=True, token_module=None, latents_of=layer)
    )
    said = f"{name}: {sae.latents} latents of a sparse autoencoder, {sae.kept} kept."
    network.note = f"{network.note} {said}" if network.note else said
    return [name, sae.sha256]


def find_layer(network: Network, name: str) -> Layer:
    """A layer that an autoencoder may see, or a residual stream, by its name; raises UserError."""
    known = {layer.name: layer for layer in (*network.streams, *network.layers)}
    if name not in known:
        raise UserError(f"{network.name} has no layer {name}: it has {', '.join(list(known)[:40])}")
    base = known[name]
    if base.latents_of:
        raise UserError(f"{name} holds latents of an autoencoder itself: choose a layer of the network")
    if base is network.layers[-1] and network.output_names:
        raise UserError(f"{name} is what {network.name} puts out: choose a layer below it")
    return base


def _behind(network: Network, base: Layer) -> int:
    """Where in forward order a layer stands that is had from another: behind that and all within its module."""
    within = [index for index, layer in enumerate(network.layers) if layer is base or f"{layer.module}.".startswith(f"{base.module}.")]
    return max(within) + 1 if within else len(network.layers)


def _tap(base: Layer, sae: Autoencoder, latents: Latents) -> Any:
    """A hook that gives a layer's latents to `latents`; where these come back changed, so does what they stand for of the layer's values, and what
    the autoencoder does not say of them stays as it is."""

    at = functools.cache(sae.to)

    def tap(_module: nn.Module, _given: object, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        here = at(first.device)
        with torch.autocast(first.device.type, enabled=False):
            rows = vectors(base, first)
            encoded = lay_out(base, here.encode(rows))
            returned = latents(encoded)
            if returned is encoded:
                return None
            changed = first + lay_out(base, here.change(rows, vectors(base, returned) - vectors(base, encoded))).to(first.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return tap


def vectors(layer: Layer, output: torch.Tensor) -> torch.Tensor:
    """A layer's output [rows, *layer.shape] with what an autoencoder sees of it, channels or features, in the last dimension."""
    return output if layer.axes.endswith("unit") else output.movedim(1, -1)


def lay_out(layer: Layer, values: torch.Tensor) -> torch.Tensor:
    """The opposite of `vectors`."""
    return values if layer.axes.endswith("unit") else values.movedim(-1, 1)
