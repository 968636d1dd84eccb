"""Passes of a network over many clips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ingest.networks.network import Network
from ingest.sounds.sound import SoundError, load
from warehouse.store import UserError

BATCH_CLIPS = 8


Sounds = tuple[torch.Tensor, torch.Tensor]
"""Waveforms [clips, samples] and the seconds of sound in each [clips]."""


def stack(sounds: Sequence[tuple[np.ndarray, float]]) -> Sounds:
    """What `load` returned for several clips as one batch."""
    return torch.from_numpy(np.stack([sound[0] for sound in sounds])), torch.tensor([sound[1] for sound in sounds], dtype=torch.float64)


def prepared(network: Network, sounds: Sounds) -> torch.Tensor:
    """The network's input [clips * windows, ...] for a batch, where its module lies."""
    device = module_device(network)
    return network.prepare_padded(sounds[0].to(device), sounds[1].to(device))


def read_waveforms(network: Network, names: Sequence[str], paths: Mapping[str, Path]) -> Iterator[Sounds]:
    """Batches of the clips `names`, whose sound files `paths` has, in order. Raises UserError for a clip that could be read before and
    cannot now."""

    def sound(name: str) -> tuple[np.ndarray, float]:
        try:
            return load(paths[name], sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s)
        except (KeyError, SoundError) as error:
            raise UserError(f"clip {name} cannot be read any more: {error}") from None

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(names), BATCH_CLIPS):
            yield stack(list(pool.map(sound, names[start : start + BATCH_CLIPS])))


def prepare_clips(network: Network, batches: Iterable[torch.Tensor | Sounds], clips: int, file: Path | None = None) -> torch.Tensor:
    """Prepared inputs [clips * windows, ...] (float32) of batches of sounds, or of waveforms [clips, samples] that are sound to their end,
    made once for many passes.

    They lie in memory, or mapped into it from a new `file`, which is the caller's to delete: YAMNet's need 246 kB a clip of 5 s. For
    `class_logits` take them in batches: `inputs.split(8 * network.windows)`.
    """
    device = module_device(network)
    inputs: torch.Tensor | None = None
    done = 0
    for batch in batches:
        found = network.prepare(batch.to(device)) if isinstance(batch, torch.Tensor) else prepared(network, batch)
        if inputs is None:
            inputs = room((clips * network.windows, *found.shape[1:]), file)
        if done + len(found) > len(inputs):
            raise ValueError(f"batches hold more than {clips} clips")
        inputs[done : done + len(found)] = found.float().cpu()
        done += len(found)
    if inputs is None or done < len(inputs):
        raise ValueError(f"batches hold {done // network.windows} clips instead of {clips}")
    return inputs


def room(shape: tuple[int, ...], file: Path | None) -> torch.Tensor:
    """A tensor to fill, in memory or in a new file."""
    if file is None:
        return torch.empty(shape)
    with open(file, "xb") as new:
        new.truncate(4 * math.prod(shape))
    return torch.from_file(str(file), shared=True, size=math.prod(shape)).view(shape)


def module_device(network: Network) -> torch.device:
    """Where the network's module lies."""
    return next((parameter.device for parameter in network.module.parameters()), torch.device("cpu"))


def class_logits(network: Network, batches: Iterable[torch.Tensor]) -> np.ndarray:
    """Raw logits [clips, classes] (float32), the mean over a clip's windows, for batches of prepared inputs [clips * windows, ...].

    Raises UserError when the network puts out no logits: nothing a class, or values that went through a sigmoid or the like.
    """
    if network.layers[-1].non_negative:
        raise UserError(f"{network.name} puts out no raw logits, its last layer {network.layers[-1].name} has no negative values")
    device = module_device(network)
    found = []
    for batch in batches:
        outputs = network.forward(batch.to(device))
        if outputs.dim() != 2:
            raise UserError(f"{network.name} has no classifier, it puts out {list(outputs.shape[1:])} for a clip: take one that has")
        found.append(network.mean_over_windows(outputs.float()).cpu())
    return torch.cat(found).numpy()
