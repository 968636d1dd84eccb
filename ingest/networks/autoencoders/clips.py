"""An autoencoder of a network's layer, trained on the frames of a data set's clips, and what it is worth on those of a fold left out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ingest.networks.autoencoders.autoencoder import Autoencoder
from ingest.networks.autoencoders.latents import find_layer, lay_out, vectors
from ingest.networks.autoencoders.layouts import HEADER
from ingest.networks.autoencoders.training import Progress, Recipe, fit
from ingest.networks.checkpoints import save_safetensors
from ingest.networks.network import Layer, Network, counted_frames
from ingest.networks.passes import module_device, prepared, read_waveforms
from ingest.sounds.listing import Listing
from warehouse.store import UserError, sha256_file, sha256_json

BUFFER_BYTES = 256 << 20
RECOVERED_CLIPS = 64


@dataclass(frozen=True)
class Worth:
    """What an autoencoder is worth on clips that it was not trained on: the share of the variance of their vectors that it explains; active latents of
    a vector, on average; and how much of what the network's output loses when the layer holds its mean at all frames that hold sound comes back with
    what the autoencoder says there instead (1: all; mean squared differences), on at most 64 of the clips, None where the output does not depend on it."""

    variance_explained: float
    active: float
    output_recovered: float | None
    clips: int


@dataclass(frozen=True)
class TrainedSae:
    """An autoencoder, how it came about (`said`, the file's header), and its dead latents: those active on no vector of the last epoch."""

    sae: Autoencoder
    said: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the safetensors file that read_autoencoder reads, whole or not at all."""
        sae = self.sae
        tensors = {
            "encoder.weight": sae.encoder,
            "encoder.bias": sae.bias,
            "decoder.weight": sae.decoder.T,
            "b_dec": sae.shift,
            "k": torch.tensor(sae.k),
        }
        save_safetensors(path, tensors, {HEADER: json.dumps(self.said)})


def train_sae(
    network: Network,
    layer: str,
    listing: Listing,
    recipe: Recipe,
    *,
    fold: int | None = None,
    unfinished: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainedSae:
    """Train on the frames of a layer (every position of a map) that hold sound, over the clips of all folds but `fold` (None: the last).

    Clips are read anew in every epoch, in another order, as many at a time as fit in 256 MB of vectors; killed, training goes on from the last of these
    (see fit). Raises UserError for a layer that is not there, a data set without that fold, and clips that cannot be read.
    """
    base = find_layer(network, layer)
    recipe.check(base.neurons)
    fold = fold if fold is not None else max((entry.fold for entry in listing.entries if entry.fold is not None), default=0)
    held_out = sorted(entry.name for entry in listing.entries if entry.fold == fold)
    seen = sorted(entry.name for entry in listing.entries if entry.fold is not None and entry.fold != fold)
    if not held_out or not seen:
        raise UserError(
            f"data set {listing.name} has no fold {fold} beside others to leave out: draw some, --folds 5, or folds = 5 in a study"
        )
    paths = {entry.name: entry.path for entry in listing.entries}
    network.module.to(device)
    rows = network.windows * math.prod(base.shape) // base.neurons
    at_once = max(1, BUFFER_BYTES // (4 * base.neurons * rows))
    blocks = -(-len(seen) // at_once)

    def read(epoch: int, block: int) -> torch.Tensor:
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(seen))
        names = [seen[index] for index in np.array_split(order, blocks)[block]]
        return torch.cat(list(frames(network, base, names, paths)))

    inputs = [network.checkpoint_sha256, network.clip_s, layer, fold, [[name, sha256_file(paths[name])] for name in seen]]
    fitted = fit(base.neurons, blocks, read, recipe, unfinished=unfinished, inputs=inputs, progress=progress, device=device)
    worth = worth_of(network, base, fitted.sae, held_out, paths)
    said = {
        "network": network.name, "network_sha256": network.checkpoint_sha256, "layer": layer, "dataset": listing.name, "fold": fold,
        "held_out_clips": sha256_json(held_out), "clips": len(seen), "vectors": fitted.vectors, "dead": int((~fitted.alive).sum()),
        **asdict(recipe), "held_out": asdict(worth),
    }  # fmt: skip
    return TrainedSae(fitted.sae, said)


@torch.inference_mode()
def frames(network: Network, layer: Layer, names: Sequence[str], paths: dict[str, Path]) -> Iterator[torch.Tensor]:
    """For batches of clips the vectors [n, width] (float32) of all frames of a layer that hold sound; tokens that stand for no moment are left
    out."""
    for _, valid_s, output, _ in _passes(network, layer, names, paths):
        yield sounding(network, layer, output, valid_s).float().cpu()


def _passes(
    network: Network, layer: Layer, names: Sequence[str], paths: dict[str, Path]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For batches of clips the network's input, seconds of sound in each clip, what the layer puts out, and what the network does."""
    found: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _given: object, output: Any) -> None:  # a copy: the next module may work in place
        found.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    module = network.module.get_submodule(layer.module)
    for sounds in read_waveforms(network, names, paths):
        inputs = prepared(network, sounds)
        handle = module.register_forward_hook(keep)
        try:
            own = network.forward(inputs)
        finally:
            handle.remove()
        yield inputs, sounds[1].to(inputs.device), found.pop(), own


def sounding(network: Network, layer: Layer, output: torch.Tensor, valid_s: torch.Tensor) -> torch.Tensor:
    """The vectors [n, width] of a layer's output [clips * windows, *layer.shape] at the moments that count of clips with so many seconds of sound."""
    rows = vectors(layer, output)
    if layer.axes == "unit":
        rows = rows[:, None, None]
    elif layer.axes == "token,unit":
        times = torch.tensor(layer.token_times or range(layer.shape[0]), device=rows.device)
        order = times.argsort(stable=True)[(times < 0).sum() :]
        rows = rows[:, order].unflatten(1, (layer.time_steps, -1))
    elif layer.axes == "channel,time":
        rows = rows[:, :, None]
    by_clip = rows.unflatten(0, (-1, network.windows)).flatten(1, 2)  # clips, windows x time, places, width
    counted = counted_frames(network, layer, valid_s, by_clip.shape[1])
    return by_clip.flatten(0, 2) if counted is None else by_clip[counted].flatten(0, 1)


def worth_of(network: Network, layer: Layer, sae: Autoencoder, names: Sequence[str], paths: dict[str, Path]) -> Worth:
    """See Worth."""
    count, active, left = 0, 0, 0.0
    total, squares = torch.zeros(layer.neurons, dtype=torch.float64), 0.0
    for found in frames(network, layer, names, paths):
        count += len(found)
        active += int((sae.encode(found) > 0).sum())
        left += float((found - sae.reconstruct(found)).double().square().sum())
        total += found.double().sum(dim=0)
        squares += float(found.double().square().sum())
    variance = squares - float(total.square().sum()) / count
    mean = (total / count).float()
    few = [names[index] for index in np.unique(np.linspace(0, len(names) - 1, RECOVERED_CLIPS).round().astype(int))]
    return Worth(1 - left / variance, active / count, _recovered(network, layer, sae, mean, few, paths), len(names))


@torch.inference_mode()
def _recovered(
    network: Network, layer: Layer, sae: Autoencoder, mean: torch.Tensor, names: Sequence[str], paths: dict[str, Path]
) -> float | None:
    device = module_device(network)
    sae, mean = sae.to(device), mean.to(device)
    lost = {"sae": 0.0, "mean": 0.0}
    for inputs, valid_s, output, own in _passes(network, layer, names, paths):
        given = vectors(layer, output)
        places = torch.arange(given[..., 0].numel(), device=device).view(given.shape[:-1])
        chosen = sounding(network, layer, lay_out(layer, places[..., None]), valid_s).flatten()
        flat = given.reshape(-1, layer.neurons)
        for way, instead in (("sae", sae.reconstruct(flat[chosen])), ("mean", mean)):
            changed = flat.clone()
            changed[chosen] = instead.to(flat.dtype)
            after = network.tail(layer, lay_out(layer, changed.view(given.shape)), inputs)
            lost[way] += float((after - own).double().square().nansum())
    return 1 - lost["sae"] / lost["mean"] if lost["mean"] > 0 else None
