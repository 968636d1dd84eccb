"""The tuned planted network: every neuron has a best frequency, modulation rate, direction, threshold, gap or pitch, or hears properties, two of them
together, or one but not another. What is known of it is in no program that the methods under test use (see ingest.networks.tuned.filters)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from random import Random

import torch
from torch import nn

from ingest.networks.checkpoints import tensor_sha256
from ingest.networks.network import Layer, Network
from ingest.networks.planted_measurements import flatness_db, pseudo_random
from ingest.networks.tuned import filters
from warehouse.store import UserError

NAME = "planted-tuning"
CLIP_S = 2.0
COUNTS = {"frequency": 40, "rate": 40, "direction": 40, "level": 40, "gap": 20, "pitch": 20, "dead": 8, "noise": 80}
PER_SENSE = 4
CHANCE = 0.1  # how far pseudo-random numbers move the response of every tuned neuron, of its height
COMPRESSION = 0.3  # power of the power, as loudness grows (Stevens 1957)
WHITE_DB = 10 * math.log10(2)  # the part of white noise at 32 kHz that lies above what is heard
GAPS_MS = ((2, 5), (5, 10), (10, 20), (20, 50), (50, 100), (100, 200))
DELAYS = (8, 16, 32)  # frames
SENSES = {
    "loud": ("level", 1, -38, -22, 10), "quiet": ("level", -1, -20, -34, 10),
    "low": ("low", 1, 0.3, 0.6, 0.3), "middle": ("middle", 1, 0.3, 0.6, 0.3), "high": ("high", 1, 0.3, 0.6, 0.3),
    "fluctuating": ("fluctuation", 1, 0.1, 0.4, 0.3), "steady": ("fluctuation", -1, 0.5, 0.15, 0.3),
    "noisy": ("flatness", 1, -30, -10, 15), "tonal": ("flatness", -1, -20, -50, 15),
}  # fmt: skip
"""By name: measurement, more (1) or less (-1) of it, from which to which thresholds, and how much more is an activation of 1. Level in dBFS;
low, middle and high: the power's shares below 500 Hz, between, and above 2 kHz; fluctuation: depth of modulation at 1.4 to 22 Hz; flatness in dB."""
MEASURED = ("level", "low", "middle", "high", "fluctuation", "flatness")


@dataclass(frozen=True)
class Tuned:
    """What one neuron was made to be.

    kind: frequency, rate, pitch (`value` in hertz), direction (1 up, -1 down), level (dBFS as played, from which on it answers otherwise), gap (the
    longest in milliseconds that it does not tell), sense (it hears `senses`), both (two of them at once), but not (the first without the
    second), dead, noise. `width`: of a frequency's response at half height, octaves.
    """

    layer: str
    unit: int
    kind: str
    value: float | None = None
    width: float | None = None
    senses: tuple[str, ...] = ()


class TunedNetwork(Network):
    """A network that knows what it is tuned to."""

    planted: tuple[Tuned, ...] = ()
    pairs: tuple[tuple[int, int, bool], ...] = ()
    """Of layer pairs, the units of layer tuned that they are made of, and whether it is the first without the second."""


class _Ear(nn.Module):
    """Waveforms [clips, samples] to the responses of all units of layer `tuned` [clips, units], none below 0."""

    frequency: torch.Tensor
    width: torch.Tensor
    rate: torch.Tensor
    direction: torch.Tensor
    level: torch.Tensor
    gap: torch.Tensor
    pitch: torch.Tensor
    rises: torch.Tensor
    delay: torch.Tensor
    senses: torch.Tensor

    def __init__(self, planted: list[Tuned], senses: torch.Tensor, chance: Random) -> None:
        super().__init__()

        def values(kind: str) -> torch.Tensor:
            return torch.tensor([what.value for what in planted if what.kind == kind])

        for kind in ("frequency", "rate", "direction", "level", "gap", "pitch"):
            self.register_buffer(kind, values(kind))
        self.register_buffer("width", torch.tensor([what.width for what in planted if what.kind == "frequency"]))
        self.register_buffer("rises", torch.tensor([chance.choice((1.0, -1.0)) for _ in range(COUNTS["level"])]))
        self.register_buffer("delay", torch.tensor([chance.choice(DELAYS) for _ in range(COUNTS["direction"])]))
        self.register_buffer("senses", senses)  # [senses, 4]: measurement, sign, threshold, scale

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        power = filters.band_power(sound, self.frequency, self.width * math.sqrt(COMPRESSION))
        tone = 10 ** (-20 * COMPRESSION / 10)
        frequency = power.clamp(min=0) ** COMPRESSION / tone
        rate = filters.modulation(sound, self.rate, 1.0)
        bank = filters.channels(sound)
        moved = torch.stack([filters.movement(bank, delay) for delay in DELAYS], dim=1)
        direction = (0.2 + self.direction * moved[:, torch.searchsorted(torch.tensor(DELAYS, device=sound.device), self.delay)]).clamp(
            min=0
        )
        level = filters.level_db(sound)[:, None]
        beyond = ((level + WHITE_DB - self.level) / 20).clamp(min=0)
        loudness = torch.where(self.rises > 0, beyond, (1 - beyond).clamp(min=0))
        gap = ((filters.longest_gap_ms(sound)[:, None] - self.gap) / self.gap).clamp(0, 1)
        hertz, periodic = filters.pitch(sound)
        pitch = filters.gauss(torch.log2(hertz[:, None] / self.pitch), 1.0) * (2 * periodic[:, None] - 1).clamp(min=0)
        tuned = torch.cat([frequency, rate, direction, loudness, gap, pitch], dim=1)
        noise = pseudo_random(sound, tuned.shape[1] + COUNTS["noise"]).to(tuned.dtype)
        tuned = (tuned + CHANCE * (noise[:, : tuned.shape[1]] - 0.5)).clamp(min=0)
        dead = tuned.new_zeros(len(sound), COUNTS["dead"])
        return torch.cat([tuned, dead, noise[:, tuned.shape[1] :], self._senses(sound, level[:, 0])], dim=1)

    def _senses(self, sound: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        power, octaves = filters.spectrum(sound)
        total = power.sum(dim=1).clamp(min=1e-12)
        edges = [octaves < math.log2(500), (octaves >= math.log2(500)) & (octaves < math.log2(2000)), octaves >= math.log2(2000)]
        shares = [(power * edge).sum(dim=1) / total for edge in edges]
        fluctuation = filters.modulation(sound, torch.tensor([5.6], device=sound.device), 4.0)[:, 0]
        measured = torch.stack([level, *shares, fluctuation, flatness_db(sound)], dim=1)
        which, sign, threshold, scale = self.senses.T
        return (sign * (measured[:, which.long()] - threshold) / scale).clamp(min=0)


class _Pairs(nn.Module):
    """Units of layer `pairs` from those of layer `tuned`: the smaller of two, or the first without as much of the second."""

    first: torch.Tensor
    second: torch.Tensor
    without: torch.Tensor

    def __init__(self, pairs: list[tuple[int, int, bool]]) -> None:
        super().__init__()
        self.register_buffer("first", torch.tensor([pair[0] for pair in pairs]))
        self.register_buffer("second", torch.tensor([pair[1] for pair in pairs]))
        self.register_buffer("without", torch.tensor([pair[2] for pair in pairs]))

    def forward(self, tuned: torch.Tensor) -> torch.Tensor:
        one, other = tuned[:, self.first], tuned[:, self.second]
        return torch.where(self.without, (one - 2 * other).clamp(min=0), torch.minimum(one, other))


def truth(network: Network) -> list[Tuned]:
    """What was planted: every neuron of every layer, in order. Raises UserError for another network."""
    if not isinstance(network, TunedNetwork):
        raise UserError(f"{network.name} is not {NAME}: what its neurons are tuned to is not known")
    return list(network.planted)


def _tuned(chance: Random) -> list[Tuned]:
    def octaves(low: float, high: float) -> float:
        return 2 ** chance.uniform(math.log2(low), math.log2(high))

    found: list[Tuned] = []
    for kind, count in COUNTS.items():
        for number in range(count):
            value, width = None, None
            if kind == "frequency":
                value, width = octaves(120, 6000), chance.uniform(0.8, 2)
            elif kind == "rate":
                value = octaves(1.5, 90)
            elif kind == "pitch":
                value = octaves(70, 1200)
            elif kind == "direction":
                value = 1.0 - 2 * (number % 2)
            elif kind == "level":
                value = 10 * chance.randrange(-8, -2) - chance.uniform(2, 8)  # two decibels from what is played
            elif kind == "gap":
                low, high = GAPS_MS[number % len(GAPS_MS)]
                value = low + (high - low) * chance.uniform(0.3, 0.6)
            found.append(Tuned("tuned", len(found), kind, value, width))
    return found


def tuned_network(seed: int = 0, clip_s: float = CLIP_S) -> TunedNetwork:
    """The tuned planted network for 16 kHz sound: layers tuned and pairs. The seed draws what is planted; the same seed gives the same anywhere."""
    if not (math.isfinite(clip_s) and clip_s >= 1):
        raise UserError(f"clips of {clip_s} s do not suit {NAME}: give clip_s of at least 1")
    chance = Random(seed)
    planted = _tuned(chance)
    senses: list[Tuned] = []
    rows = []
    for name, (measured, sign, low, high, scale) in SENSES.items():
        for step in range(PER_SENSE):
            senses.append(Tuned("tuned", len(planted) + len(senses), "sense", senses=(name,)))
            rows.append((MEASURED.index(measured), sign, low + (high - low) * (step + chance.random()) / PER_SENSE, scale))
    first = {name: [what.unit for what in senses if what.senses == (name,)] for name in SENSES}
    pairs: list[tuple[int, int, bool]] = []
    both: list[Tuned] = []
    for one, other in permutations(SENSES, 2):
        if SENSES[one][0] == SENSES[other][0] or {SENSES[one][0], SENSES[other][0]} <= {"low", "middle", "high"}:
            continue  # of one measurement, or of shares of one power
        for without in (False, True) if one < other else (True,):
            pairs.append((chance.choice(first[one]), chance.choice(first[other]), without))
            both.append(Tuned("pairs", len(both), "but not" if without else "both", senses=(one, other)))
    ear = _Ear(planted, torch.tensor(rows, dtype=torch.float32), chance)
    module = nn.Sequential()
    module.add_module("tuned", ear)
    module.add_module("pairs", _Pairs(pairs))
    module.requires_grad_(False)
    layers = [
        Layer("tuned", "tuned", (len(planted) + len(senses),), "unit", non_negative=True),
        Layer("pairs", "pairs", (len(pairs),), "unit", non_negative=True),
    ]
    network = TunedNetwork(
        NAME if seed == 0 else f"{NAME}-{seed}", "planted", module, sample_rate_hz=filters.SAMPLE_RATE_HZ, clip_s=clip_s, layers=layers,
        checkpoint_sha256=tensor_sha256({**module.state_dict(), "version": torch.tensor(filters.VERSION)}),
        note="Nothing is trained: what every neuron is tuned to is known by construction.",
    )  # fmt: skip
    network.planted, network.pairs = tuple([*planted, *senses, *both]), tuple(pairs)
    return network


def load_tuned(*, weights: Path | None = None, clip_s: float | None = None) -> TunedNetwork:
    """The tuned planted network of seed 0 by name; raises UserError for weights, of which it has none to replace."""
    if weights is not None:
        raise UserError(f"{NAME} is built, not loaded: leave out --weights")
    return tuned_network(clip_s=CLIP_S if clip_s is None else clip_s)
