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
from torch.nn import functional

from ingest.checkpoints import tensor_sha256
from ingest.networks import Layer, Network
from ingest.starter import SOUNDS
from warehouse.store import UserError

VERSION = 1  # raised when measurements change, which the tensors do not show
SAMPLE_RATE_HZ = 16_000
CLIP_S = 5.0
DETECTORS = 8  # of one sense, beside those that templates need
COPIES, DEAD, NOISE = 12, 8, 16
CLASS_NOISE = 8
VERSIONS = 2  # neurons of one class
STRENGTH = 0.5  # how far the strength of evidence varies
INHIBITION = 1 + STRENGTH  # silences any evidence

# --- What is measured -----------------------------------------------------------------------------------------------------------------------

FLOOR_DBFS, SILENCE_DBFS = -100.0, -60.0
FLATNESS_FFT, FLATNESS_HOP, FLATNESS_HZ = 512, 160, (125.0, 7000.0)
LOUD_FRAMES_DB = 30.0
ENVELOPE_WINDOW, ENVELOPE_HOP = 320, 80
ENVELOPE_HZ = SAMPLE_RATE_HZ / ENVELOPE_HOP
MODULATION_FFT = 1024
SLOW_HZ, FAST_HZ = (1.0, 4.0), (8.0, 30.0)
ONSET_RISE_DB, ONSET_FRAMES, ONSET_APART = 10.0, 8, 12
BAND_EDGES_HZ = tuple(440.0 * 2 ** ((4 * k - 9.5) / 12 - 3) for k in range(24))
"""Third octaves from a quarter tone below C1 on, so that three of them are the notes C to B of one octave."""
OCTAVES = range(2, 7)
SCALARS = ("sounding", "level", "flatness", "slow", "fast", "onsets", "impulsiveness", "bandwidth")
BANDS = slice(len(SCALARS), len(SCALARS) + len(BAND_EDGES_HZ) + 1)
MEASUREMENTS = BANDS.stop + NOISE


@torch.inference_mode()
def measure(waveforms: torch.Tensor) -> torch.Tensor:
    """Waveforms [clips, samples] at 16 kHz (full scale 1) to measurements [clips, MEASUREMENTS], of the sound up to its last sample that is not 0.

    In order:

    * sounding: 1, or 0 for a level below -60 dBFS, with which everything but the level and the noise is 0.
    * level: RMS, dBFS, at least -100.
    * flatness: 10 log10 of geometric over arithmetic mean of the power at 125 to 7000 Hz (Hann, 512 samples every 160), dB, averaged over the
      frames within 30 dB of the loudest.
    * slow, fast: depth of the modulation, at 1 to 4 and at 8 to 30 Hz, of the amplitude over 20 ms; 1 for one sine of full depth.
    * onsets: rises of the level by 10 dB within 40 ms, a second.
    * impulsiveness: log10 of a third of the kurtosis.
    * bandwidth: standard deviation of the power spectrum, octaves.
    * BANDS: the power's shares in third octaves, from below the first to above the last of BAND_EDGES_HZ.
    * NOISE pseudo-random numbers from 0 to below 1, different for every waveform.
    """
    sound = waveforms.float()
    samples = sound.shape[1]
    position = torch.arange(1, samples + 1, device=sound.device)
    length = ((sound != 0) * position).amax(dim=1).clamp(min=1).to(sound.dtype)
    power = sound.square().sum(dim=1) / length
    level = (10 * torch.log10(power.clamp(min=1e-30))).clamp(min=FLOOR_DBFS)
    sounding = (level >= SILENCE_DBFS).to(sound.dtype)[:, None]
    kurtosis = sound.pow(4).sum(dim=1) / length / power.square().clamp(min=1e-30)
    impulsiveness = torch.log10((kurtosis / 3).clamp(min=0.1))
    shares = _band_shares(sound)
    octave = torch.arange(shares.shape[1], dtype=sound.dtype, device=sound.device) / 3
    centre = (shares * octave).sum(dim=1, keepdim=True)
    bandwidth = (shares * (octave - centre).square()).sum(dim=1).sqrt()
    scalars = torch.stack([_flatness(sound), *_envelope(sound, length), impulsiveness, bandwidth], dim=1)
    return torch.cat([sounding, level[:, None], scalars * sounding, shares * sounding, _noise(waveforms).to(sound.dtype)], dim=1)


def _band_shares(sound: torch.Tensor) -> torch.Tensor:
    """Shares of the whole clip's power, without its mean, in third octaves [clips, bands]; 0 for silence."""
    spectrum = torch.fft.rfft(sound).abs().square()
    spectrum[:, 0] = 0
    frequency = torch.fft.rfftfreq(sound.shape[1], 1 / SAMPLE_RATE_HZ, dtype=torch.float64)
    band = torch.bucketize(frequency, torch.tensor(BAND_EDGES_HZ, dtype=torch.float64), right=True).to(sound.device)
    shares = sound.new_zeros(len(sound), len(BAND_EDGES_HZ) + 1).index_add_(1, band, spectrum)
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-20)


def _flatness(sound: torch.Tensor) -> torch.Tensor:
    window = torch.hann_window(FLATNESS_FFT, dtype=sound.dtype, device=sound.device)
    spectrum = torch.stft(sound, FLATNESS_FFT, FLATNESS_HOP, window=window, center=False, return_complex=True).abs().square()
    first, last = (round(hertz * FLATNESS_FFT / SAMPLE_RATE_HZ) for hertz in FLATNESS_HZ)
    spectrum = spectrum[:, first : last + 1]
    mean = spectrum.mean(dim=1)
    flatness = 10 * torch.log10(spectrum.clamp(min=1e-20)).mean(dim=1) - 10 * torch.log10(mean.clamp(min=1e-20))
    counted = (mean >= mean.amax(dim=1, keepdim=True) * 10 ** (-LOUD_FRAMES_DB / 10)) & (mean > 0)
    return (flatness * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _envelope(sound: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Depths of slow and fast modulation, and onsets a second, each [clips]."""
    window = torch.hann_window(ENVELOPE_WINDOW, dtype=sound.dtype, device=sound.device)
    power = functional.conv1d(sound.square()[:, None], (window / window.sum())[None, None], stride=ENVELOPE_HOP)[:, 0].clamp(min=0)
    frames = power.shape[1]
    frame = torch.arange(frames, dtype=sound.dtype, device=sound.device)
    count = ((length - ENVELOPE_WINDOW) / ENVELOPE_HOP).floor().clamp(min=0, max=frames - 1)[:, None] + 1
    within = (frame < count).to(sound.dtype)
    amplitude = power.sqrt()
    mean = (amplitude * within).sum(dim=1, keepdim=True) / count
    taper = torch.sin(math.pi * (frame + 0.5) / count).square() * within
    size = max(MODULATION_FFT, frames)
    spectrum = torch.fft.rfft((amplitude - mean) * taper, size).abs().square()
    rate = torch.arange(spectrum.shape[1], device=sound.device) * ENVELOPE_HZ / size
    # A sine of depth m has the variance m^2 / 2; the spectrum has two halves.
    scale = 4 / size / taper.square().sum(dim=1) / mean[:, 0].square().clamp(min=1e-20)
    slow, fast = ((spectrum[:, (rate >= low) & (rate <= high)].sum(dim=1) * scale).sqrt() for low, high in (SLOW_HZ, FAST_HZ))

    floor = power.amax(dim=1, keepdim=True) * 1e-4 + 1e-12
    level = 10 * torch.log10(torch.cat([torch.zeros_like(power[:, :ONSET_FRAMES]), power], dim=1) + floor)
    rise = level[:, ONSET_FRAMES:] - level.unfold(1, ONSET_FRAMES, 1)[:, :frames].amin(dim=2)
    around = functional.pad(rise, (ONSET_APART, ONSET_APART), value=-math.inf).unfold(1, 2 * ONSET_APART + 1, 1)
    first = (rise > around[:, :, :ONSET_APART].amax(dim=2)) & (rise >= around[:, :, ONSET_APART + 1 :].amax(dim=2))
    onsets = (first & (rise >= ONSET_RISE_DB)).sum(dim=1) / (length / SAMPLE_RATE_HZ)
    return slow, fast, onsets


def _noise(waveforms: torch.Tensor) -> torch.Tensor:
    """Pseudo-random numbers [clips, NOISE] from 0 to below 1 that depend on every sample at 16 bits; 0.5 for silence.

    Integer arithmetic modulo 2^64 does not round, so that neither the batch nor the device matters.
    """
    steps = torch.round(waveforms.double() * 32768).long()
    position = torch.arange(1, waveforms.shape[1] + 1, device=waveforms.device)
    total = (steps * (position * 0x5851F42D4C957F2D ^ position << 17)).sum(dim=1, keepdim=True)
    mixed = total * (2 * torch.arange(NOISE, device=waveforms.device) + 1) * 0x2545F4914F6CDD1D
    for factor in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):  # as in splitmix64 (Steele et al. 2014), in signed numbers
        mixed = (mixed ^ (mixed >> 30 & 0x3FFFFFFFF)) * factor
    return ((mixed >> 40 & 0xFFFFFF).double() / 2**24 + 0.5) % 1


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
    "rhythmic",
    "repetitive",
    "repeated",
    "regular",
    "periodic",
    "intermittent",
    "fluctuating",
    "pulsing",
    "modulated",
    "modulation",
    "beat",
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
