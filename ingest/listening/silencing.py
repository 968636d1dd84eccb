"""What a network says of one sound when some neurons of a layer are 0, beside as many random ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch

from ingest.methods.interventions import cache_layers, channel_positions, draw_controls, mean_over_tokens, run_changed
from ingest.networks.network import Layer, Network, TailForm
from ingest.networks.passes import prepared
from warehouse.store import UserError

MOST_DRAWS = 100
MOST_NEURONS = 100_000


@dataclass(frozen=True)
class Silenced:
    """Outputs of a network for a sound: as it is and with the neurons at 0 [outputs], and with random others at 0 [draws, outputs]; `form` says how the
    rest of the network was run."""

    intact: np.ndarray
    silenced: np.ndarray
    random: np.ndarray
    form: TailForm

    @property
    def change(self) -> float:
        """Euclidean distance of the outputs from those of the network as it is."""
        return float(np.linalg.norm(self.silenced - self.intact))

    @property
    def random_changes(self) -> np.ndarray:
        """The same of each draw [draws]."""
        return np.linalg.norm(self.random - self.intact, axis=1)


def read_units(text: str) -> np.ndarray:
    """Numbers like "3, 17, 20-25", ascending and each once. Raises UserError."""
    found: set[int] = set()
    for part in filter(None, re.split(r"[\s,;]+", text.strip())):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last - first >= MOST_NEURONS or len(found) > MOST_NEURONS:
            raise UserError(f"{part[:40]!r} names no neurons: give numbers and ranges, like 3, 17, 20-25")
        found |= set(range(first, last + 1))
    if not found:
        raise UserError("no neurons are named: give their numbers, like 3, 17, 20-25")
    return np.array(sorted(found), dtype=np.int64)


def silence(
    network: Network,
    layer: Layer,
    chosen: np.ndarray,
    live: np.ndarray,
    samples: np.ndarray,
    heard_s: float,
    *,
    draws: int = 10,
    seed: int = 0,
    positions: bool = False,
) -> Silenced:
    """Set neurons of a layer to 0 for one sound: `samples` at the network's rate, the first `heard_s` seconds of them sound.

    `chosen` are channels or units, or flattened positions (`positions`); controls are drawn, as many and none of the chosen, among the `live` ones.
    Outputs are means over a clip's windows, and over tokens where they have such. Raises UserError for neurons that the layer has not, and where too
    few others are left to draw from.
    """
    every = int(np.prod(layer.shape)) if positions else layer.neurons
    if not 1 <= draws <= MOST_DRAWS:
        raise UserError(f"{draws} draws: take 1 to {MOST_DRAWS}")
    if len(chosen) == 0 or chosen[0] < 0 or chosen[-1] >= every:
        raise UserError(
            f"layer {layer.name} has neurons 0 to {every - 1}, not {', '.join(map(str, chosen[[0, -1]] if len(chosen) else []))}"
        )
    controls = draw_controls(live, chosen, draws, np.random.default_rng(abs(seed)))
    sounds = (torch.from_numpy(samples)[None], torch.tensor([heard_s], dtype=torch.float64))
    with torch.inference_mode():
        [cache] = cache_layers(network, [layer], [prepared(network, sounds)], 1)

        def outputs(units: np.ndarray) -> np.ndarray:
            return mean_over_tokens(run_changed(cache, units if positions else channel_positions(layer, units), None))[0]

        return Silenced(outputs(chosen[:0]), outputs(chosen), np.stack([outputs(drawn) for drawn in controls]), cache.form)
