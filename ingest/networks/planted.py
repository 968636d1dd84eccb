"""Planted networks: a yardstick for dissection methods. What every neuron listens to is known by construction; nothing is trained.

A clip's waveform is measured (`measure`), and three rectified layers and a classifier read the measurements:

* `features`: detectors of one acoustic property each, weight * (property - threshold).
* evidence (not recorded): a class is there unless something contradicts its template, two versions a class, each with a strength of its own
  that has no meaning (from the noise neurons), so that no two clips tie.
* `classes`: single classes, sums of two, negations; copies, dead neurons and noise beside them.
* `outputs`: the starter sounds' classes, each read from its class neurons and their copies alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import nn

from ingest.networks.checkpoints import tensor_sha256
from ingest.networks.network import Layer, Network
from ingest.networks.planted_measurements import (
    BANDS,
    FLATNESS_FFT,
    MEASUREMENTS,
    NOISE,
    OCTAVES,
    SAMPLE_RATE_HZ,
    SCALARS,
    VERSION,
    measure,
)
from ingest.sounds.starter import SOUNDS
from warehouse.store import UserError

CLIP_S = 5.0
DETECTORS = 8  # of one sense, beside those that templates need
COPIES, DEAD = 12, 8
CLASS_NOISE = 8
VERSIONS = 2  # neurons of one class
STRENGTH = 0.5  # how far the strength of evidence varies
INHIBITION = 1 + STRENGTH  # silences any evidence


# --- What is planted ------------------------------------------------------------------------------------------------------------------------

Words = tuple[str, ...]


@dataclass(frozen=True)
class Sense:
    """One way to hear a measurement: more (`sign` 1) or less (-1) of it than a threshold.

    `low` to `high` are the thresholds of its detectors, `scale` is what raises an activation by about 1, and `margin` how far beyond its
    threshold a detector silences a template. All are in the measurement's unit.
    """

    kind: str
    measurement: str
    sign: int
    low: float
    high: float
    scale: float
    margin: float
    words: Words


STEADY = ("steady", "continuous", "constant", "sustained", "unchanging")
PULSING = (
    *("rhythmic", "repetitive", "repeated", "regular", "periodic", "intermittent", "fluctuating"),
    *("pulsing", "modulated", "modulation", "beat"),
)
SENSES = {
    "loud": Sense("loudness", "level", 1, -55, -15, 20, 3, ("loud", "louder", "intense", "powerful", "strong")),
    "quiet": Sense("loudness", "level", -1, -20, -60, 20, 3, ("quiet", "silent", "soft", "faint", "weak")),
    "noisy": Sense("noisiness", "flatness", 1, -50, -6, 20, 0.8, ("noisy", "noise", "hissing", "broadband", "unpitched")),
    "tonal": Sense("noisiness", "flatness", -1, -15, -70, 20, 0.8, ("tonal", "harmonic", "pure", "pitched")),
    "slow": Sense("modulation", "slow", 1, 0.1, 1, 0.5, 0.04, (*PULSING, "slow")),
    "fast": Sense("modulation", "fast", 1, 0.1, 1, 0.5, 0.05, (*PULSING, "fast", "rapid")),
    "steady": Sense("modulation", "slow", -1, 0.5, 0.05, 0.5, 0.05, STEADY),
    "onsets": Sense("onsets", "onsets", 1, 0.7, 4, 2, 0.2, (*PULSING, "short", "fast", "rapid")),
    "impulsive": Sense("impulsiveness", "impulsiveness", 1, 0.1, 1.4, 0.5, 0.025, ("sharp", "sudden", "abrupt", "short", "impulsive")),
    "smooth": Sense("impulsiveness", "impulsiveness", -1, 0.4, -0.2, 0.5, 0.025, ("smooth", *STEADY)),
    "wide": Sense("bandwidth", "bandwidth", 1, 0.5, 2.2, 1, 0.05, ("broadband", "noisy", "wide")),
    "narrow": Sense("bandwidth", "bandwidth", -1, 1.3, 0.1, 1, 0.05, ("narrow", "narrowband", "tonal", "pure")),
}

DEEP = ("low-pitched", "deep", "bass", "low", "low-frequency", "dull", "dark")
MIDDLE = ("mid-pitched", "middle-pitched", "middle-frequency", "middle")
HIGH = ("high-pitched", "bright", "high", "high-frequency", "treble", "shrill")
BAND_RANGES = {
    DEEP: ((0, 9), (0, 10), (0, 11), (0, 12)),
    MIDDLE: ((13, 18), (13, 17), (14, 18), (14, 17)),
    HIGH: ((19, 24), (20, 24), (21, 24), (22, 24)),
}
"""First and last third octave: below 508 Hz, between, above 2033 Hz, and narrower."""
OCTAVE_WORDS = {2: DEEP, 3: DEEP, 4: (*DEEP, *MIDDLE), 5: (*MIDDLE, *HIGH), 6: HIGH}

SOUND = ("quiet", -60.0)
NO_TONE = ("tonal", -3.4)
TEMPLATES: dict[str, tuple[tuple[str, float], ...]] = {
    "Sine wave": (SOUND, ("noisy", -72.5), ("wide", 0.3)),
    "Organ": (SOUND, ("noisy", -32.3), ("tonal", -60), ("slow", 0.05), ("narrow", 0.6)),
    "Chirp tone": (SOUND, ("noisy", -72.5), ("narrow", 0.5)),
    "Siren": (SOUND, ("noisy", -12), ("tonal", -32.3), ("fast", 0.05), ("narrow", 0.6)),
    "Beep, bleep": (SOUND, ("steady", 0.35), ("narrow", 0.36), ("wide", 0.54), ("impulsive", 0.2)),
    "Dial tone": (SOUND, ("noisy", -28), ("tonal", -69), ("slow", 0.05), ("wide", 0.25)),
    "Busy signal": (SOUND, ("noisy", -45), ("steady", 0.5), ("wide", 0.25)),
    "Bell": (SOUND, ("noisy", -38), ("steady", 0.07), ("narrow", 0.56)),
    "Tick": (SOUND, ("smooth", 1.25)),
    "Heart sounds, heartbeat": (SOUND, ("smooth", 0.3), ("impulsive", 1.2), ("wide", 0.52)),
    "Engine": (SOUND, ("noisy", -10.9), ("tonal", -14), ("impulsive", 0.4), ("narrow", 1.3)),
    "White noise": (SOUND, NO_TONE, ("impulsive", 0.015)),
    "Pink noise": (SOUND, ("noisy", -3.6), ("tonal", -5.3), ("impulsive", 0.4)),
    "Static": (SOUND, NO_TONE, ("smooth", 0.03)),
    "Silence": (("loud", -70),),
}
"""What contradicts each of the starter sounds' classes: a sense and the threshold from which on it does."""

CLASS_WORDS = {
    "Sine wave": ("sine", "wave", "tone", "tonal", "pure"),
    "Organ": ("organ", "chord", "keyboard", "music"),
    "Chirp tone": ("chirp", "sweep", "gliding", "rising", "falling"),
    "Siren": ("siren", "alarm", "wail"),
    "Beep, bleep": ("beep", "bleep", "beeping"),
    "Dial tone": ("dial", "telephone", "phone"),
    "Busy signal": ("busy", "telephone", "phone"),
    "Bell": ("bell", "chime", "ringing"),
    "Tick": ("tick", "ticking", "clock", "click", "clicking"),
    "Heart sounds, heartbeat": ("heart", "heartbeat", "thump", "beating"),
    "Engine": ("engine", "motor", "vehicle"),
    "White noise": ("white", "noise", "noisy", "hiss", "hissing"),
    "Pink noise": ("pink", "noise", "noisy", "hiss", "hissing"),
    "Static": ("static", "noise", "noisy", "hiss", "hissing", "radio"),
    "Silence": ("silence", "silent", "quiet"),
}


@dataclass(frozen=True)
class Planted:
    """What one neuron was made to be.

    `kind` is band, onsets, modulation, loudness, noisiness, impulsiveness, bandwidth, octave, class, sum, negation, duplicate, dead or noise.
    `words` are those that an open description may use for it, none where no word would be right; `classes` those it responds to (of a
    negation: the one it does not respond to); `partner` the unit of the same layer that a duplicate copies.
    """

    layer: str
    unit: int
    kind: str
    words: Words = ()
    classes: Words = ()
    partner: int | None = None


class PlantedNetwork(Network):
    """A planted network knows what it is made of."""

    planted: tuple[Planted, ...] = ()


def truth(network: Network) -> list[Planted]:
    """What was planted: every neuron of every layer, in order. Raises UserError for a network that was not planted."""
    if not isinstance(network, PlantedNetwork):
        raise UserError(f"{network.name} is not a planted network: what its neurons listen to is not known")
    return list(network.planted)


# --- Planting -------------------------------------------------------------------------------------------------------------------------------


class _Rows:
    """The weights and biases of a layer, unit by unit, with what each was made to be."""

    def __init__(self, layer: str, inputs: int) -> None:
        self.layer, self.inputs = layer, inputs
        self.weights: list[dict[int, float]] = []  # by input
        self.biases: list[float] = []
        self.planted: list[Planted] = []

    def add(
        self, weights: dict[int, float], bias: float, kind: str, words: Words = (), classes: Words = (), partner: int | None = None
    ) -> int:
        """One more unit; returns its number."""
        unit = len(self.weights)
        self.weights.append(weights)
        self.biases.append(bias)
        self.planted.append(Planted(self.layer, unit, kind, words, classes, partner))
        return unit

    def copy(self, unit: int, gain: float) -> int:
        """A unit `gain` times as strong as another."""
        weights = {index: weight * gain for index, weight in self.weights[unit].items()}
        return self.add(weights, self.biases[unit] * gain, "duplicate", self.planted[unit].words, self.planted[unit].classes, unit)

    def linear(self) -> nn.Linear:
        """The layer as a module."""
        module = nn.Linear(self.inputs, len(self.weights)).requires_grad_(False)
        module.weight.zero_()
        for unit, weights in enumerate(self.weights):
            module.weight[unit, list(weights)] = torch.tensor(list(weights.values()))
        module.bias.copy_(torch.tensor(self.biases))
        return module


Detectors = dict[tuple[str, float], tuple[int, float]]
"""Unit and gain by sense and threshold."""


def _features(chance: Random) -> tuple[_Rows, Detectors, list[int]]:
    """The first recorded layer, its detectors and its noise neurons."""
    rows = _Rows("features", MEASUREMENTS)
    detectors: Detectors = {}
    needed = {condition for template in TEMPLATES.values() for condition in template}
    for name, sense in SENSES.items():
        step = (sense.high - sense.low) / (DETECTORS - 1)
        thresholds = [sense.low + step * (k + chance.uniform(-0.3, 0.3)) for k in range(DETECTORS)]
        for threshold in [*thresholds, *sorted(threshold for sense_name, threshold in needed if sense_name == name)]:
            gain = sense.sign * chance.uniform(0.5, 2) / sense.scale
            weights = {SCALARS.index(sense.measurement): gain}
            # Silence is quiet; it has no flatness, bandwidth or course to be on either side of a threshold.
            if sense.kind != "loudness":
                weights[SCALARS.index("sounding")] = -gain * threshold
            bias = -gain * threshold if sense.kind == "loudness" else 0.0
            detectors[name, threshold] = rows.add(weights, bias, sense.kind, sense.words), abs(gain)
    for words, ranges in BAND_RANGES.items():
        for first, last in ranges * 2:
            gain, threshold = chance.uniform(1, 4), chance.uniform(0.05, 0.4)
            rows.add({BANDS.start + band: gain for band in range(first, last + 1)}, -gain * threshold, "band", words)
    for octave in OCTAVES:
        for _ in range(2):
            gain, threshold = chance.uniform(1, 4), chance.uniform(0.1, 0.2)
            own = {BANDS.start + 3 * octave - 2 + third: gain for third in range(3)}
            below = {band - 3: -gain / 2 for band in own}  # where the fundamental lies of which these may be harmonics
            rows.add(own | below, -gain * threshold, "octave", OCTAVE_WORDS[octave])
    for unit in _draw(chance, range(len(rows.weights)), COPIES):
        rows.copy(unit, chance.uniform(0.5, 2))
    for _ in range(DEAD):
        rows.add({}, -1.0, "dead")
    # Every second one is 0 for a part of the clips.
    noise = [rows.add({BANDS.stop + k: 1.0}, -(k % 2) * chance.uniform(0.3, 0.7), "noise") for k in range(NOISE)]
    return rows, detectors, noise


def _evidence(features: _Rows, detectors: Detectors, noise: list[int], chance: Random) -> _Rows:
    """Evidence for each class in turn, VERSIONS of it, then CLASS_NOISE mixtures of noise. Where a class is: 1 to 1 + STRENGTH; else 0."""
    rows = _Rows("evidence", len(features.weights))
    for number, (name, template) in enumerate(TEMPLATES.items()):
        for version in range(VERSIONS):
            weights = {noise[2 * (number + 3 * version) % NOISE]: STRENGTH}
            for sense, threshold in template:
                unit, gain = detectors[sense, threshold]
                weights[unit] = -INHIBITION / SENSES[sense].margin / gain
            rows.add(weights, 1.0, "class", CLASS_WORDS[name], (name,))
    for _ in range(CLASS_NOISE):
        weights = {unit: chance.uniform(-1, 1) for unit in noise}
        rows.add(weights, -sum(weights.values()) / 2, "noise")
    return rows


def _classes(evidence: _Rows, chance: Random) -> tuple[_Rows, dict[str, dict[int, float]]]:
    """The second recorded layer, and the units of class neurons and their copies with their gains, by class."""
    rows = _Rows("classes", len(evidence.weights))
    names = list(TEMPLATES)
    read: dict[str, dict[int, float]] = {name: {} for name in names}
    for place, what in enumerate(evidence.planted[: VERSIONS * len(names)]):
        gain = chance.uniform(0.5, 2)
        read[what.classes[0]][rows.add({place: gain}, 0.0, "class", what.words, what.classes)] = gain
    order = _draw(chance, range(len(names)), len(names))
    for place, first in enumerate(order):  # a ring, so that every class is in two sums
        second = order[(place + 1) % len(names)]
        gain, pair = chance.uniform(0.5, 2), (names[first], names[second])
        words = tuple(dict.fromkeys(CLASS_WORDS[pair[0]] + CLASS_WORDS[pair[1]]))
        rows.add({first * VERSIONS: gain, second * VERSIONS + 1: gain}, 0.0, "sum", words, pair)
    for number, name in enumerate(names):
        gain, strength = chance.uniform(0.5, 2), VERSIONS * len(names) + number % CLASS_NOISE
        rows.add({number * VERSIONS: -4 * gain, strength: STRENGTH * gain}, gain, "negation", (), (name,))
    for unit in sorted(_draw(chance, range(VERSIONS * len(names)), COPIES)):
        gain, name = chance.uniform(0.5, 2), rows.planted[unit].classes[0]
        read[name][rows.copy(unit, gain)] = gain * read[name][unit]
    for _ in range(DEAD):
        rows.add({}, -1.0, "dead")
    for number in range(CLASS_NOISE):
        rows.add({VERSIONS * len(names) + number: chance.uniform(0.5, 2)}, 0.0, "noise")
    return rows, read


def _draw(chance: Random, population: range, count: int) -> list[int]:
    """`count` different members; only `random` is promised to give the same in every Python."""
    return sorted(population, key=lambda _: chance.random())[:count]


def planted_network(seed: int = 0, clip_s: float = CLIP_S) -> PlantedNetwork:
    """A planted network for 16 kHz sound: layers features, classes and outputs (one logit for each class of the starter sounds).

    The seed draws gains, thresholds, which classes are summed and which neurons are copied; the same seed gives the same tensors anywhere.
    """
    if clip_s * SAMPLE_RATE_HZ < FLATNESS_FFT or not math.isfinite(clip_s):
        raise UserError(f"clips of {clip_s} s do not suit the planted network: give clip_s of at least {FLATNESS_FFT / SAMPLE_RATE_HZ}")
    assert tuple(TEMPLATES) == tuple(SOUNDS)
    chance = Random(seed)
    features, detectors, noise = _features(chance)
    evidence = _evidence(features, detectors, noise, chance)
    classes, read = _classes(evidence, chance)
    outputs = _Rows("outputs", len(classes.weights))
    for name, gains in read.items():
        outputs.add({unit: 4 / gain / len(gains) for unit, gain in gains.items()}, -2.0, "class", CLASS_WORDS[name], (name,))
    parts = OrderedDict[str, nn.Module]()
    for rows in (features, evidence, classes):
        parts[f"{rows.layer}_linear"] = rows.linear()
        parts[rows.layer] = nn.ReLU()
    parts["outputs"] = outputs.linear()
    module = nn.Sequential(parts)
    recorded = (features, classes, outputs)
    layers = [Layer(rows.layer, rows.layer, (len(rows.weights),), "unit", non_negative=rows is not outputs) for rows in recorded]
    network = PlantedNetwork(
        "planted" if seed == 0 else f"planted-{seed}", "planted", module, sample_rate_hz=SAMPLE_RATE_HZ, clip_s=clip_s, layers=layers,
        checkpoint_sha256=tensor_sha256({**module.state_dict(), "version": torch.tensor(VERSION)}),
        output_names=list(TEMPLATES), note="Nothing is trained: what every neuron listens to is known by construction.", prepare=measure,
    )  # fmt: skip
    network.planted = tuple(planted for rows in recorded for planted in rows.planted)
    return network


def load_planted(*, weights: Path | None = None, clip_s: float | None = None) -> PlantedNetwork:
    """The planted network of seed 0 by name; raises UserError for weights, of which it has none to replace."""
    if weights is not None:
        raise UserError("the planted network is built, not loaded: leave out --weights")
    return planted_network(clip_s=CLIP_S if clip_s is None else clip_s)
