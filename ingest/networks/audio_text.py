"""Audio-text networks such as CLAP: sounds and texts embedded in one space.

Any network with a method `text_embeddings(texts)` that returns a tensor [texts, d] is one; its own output [clips * windows, d] is the
embedding of sounds. It runs where its module lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ingest.networks.network import Network
from ingest.networks.passes import prepared, stack
from ingest.sounds.sound import SoundError, load
from warehouse.store import UserError

BATCH_CLIPS = 8


def check_reads_text(network: Network) -> None:
    """Raises UserError for a network that embeds no text."""
    if not callable(getattr(network, "text_embeddings", None)):
        raise UserError(f"{network.name} reads no text: choose an audio-text network, such as clap-2022")


def text_embeddings(network: Network, texts: Sequence[str]) -> np.ndarray:
    """Embeddings [texts, d] (float32) of texts, not normalised. Raises UserError for a network or a text that it cannot be done with."""
    check_reads_text(network)
    return network.text_embeddings(texts).float().cpu().numpy()  # type: ignore[attr-defined]


def audio_embeddings(network: Network, names: Sequence[str], paths: Mapping[str, Path]) -> np.ndarray:
    """Embeddings [clips, d] (float32) of the clips `names`, whose sound files `paths` has: the network's output, averaged over a clip's
    windows, not normalised.

    A clip that cannot be read, or whose embedding is zero or not finite, has a row of NaN. Raises UserError for a network that reads no
    text, and when no clip is left.
    """
    check_reads_text(network)
    result: np.ndarray | None = None
    for start in range(0, len(names), BATCH_CLIPS):
        rows, sounds = [], []
        for row, name in enumerate(names[start : start + BATCH_CLIPS], start):
            try:
                sounds.append(load(paths[name], sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s))
                rows.append(row)
            except (KeyError, SoundError):
                continue
        if not rows:
            continue
        output = network.forward(prepared(network, stack(sounds)))
        if not isinstance(output, torch.Tensor) or output.dim() != 2:
            raise UserError(f"{network.name} puts out no embedding of a clip: choose an audio-text network, such as clap-2022")
        found = network.mean_over_windows(output.float()).cpu().numpy()
        if result is None:
            result = np.full((len(names), found.shape[1]), np.nan, dtype=np.float32)
        usable = np.isfinite(found).all(axis=1) & found.any(axis=1)
        result[np.array(rows)[usable]] = found[usable]
    if result is None:
        raise UserError(f"{network.name} can embed none of {len(names)} clips: their sound files cannot be read any more")
    return result
