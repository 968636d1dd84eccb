"""A battery of stimuli, as physiologists play them to neurons: 828 sounds of 1 or 2 s of which every property is known, synthesised from a seed.

Tones, third-octave noise, noise at nine levels, amplitude modulation, sweeps, harmonic complexes, clicks, gaps, onsets and moving ripples. Every
condition is repeated two to four times with other phases or other noise.
"""

from __future__ import annotations

import csv
import io
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ingest.sounds.notes import wav, write_once

VERSION = 1
RATE_HZ = 32_000
MARKER = "stimuli.json"
RAMP_MS = 10.0
LEVEL_DBFS = -20.0
CARRIER_HZ = 1000.0
CLICK_S = 0.001

FREQUENCIES_HZ = tuple(round(60 * 200 ** (step / 47), 2) for step in range(48))
TONE_LEVELS_DBFS = (-60.0, -40.0, -20.0)
BANDS_HZ = tuple(round(60 * 2 ** (step / 3), 2) for step in range(24))
LEVELS_DBFS = (-90.0, *(float(level) for level in range(-80, 0, 10)))
MODULATIONS_HZ = tuple(round(2 ** (step / 2), 3) for step in range(15))
SHALLOW = (0.25, 0.5)
SPEEDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
CENTRES_HZ = (500.0, 794.0, 1260.0, 2000.0)
WIDEST_SWEEP = 4  # octaves
F0_HZ = tuple(round(50 * 2 ** (step / 2), 2) for step in range(11))
PARTIALS = ("all", "no fundamental", "jittered")
TOP_HZ = 10_000.0
JITTER = 0.3
CLICKS_HZ = tuple(2.0**step for step in range(1, 9))
GAPS_MS = (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
RAMPS_MS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
RIPPLE_RATES_HZ = tuple(sign * 2.0**step for sign in (-1, 1) for step in range(6))
DENSITIES = tuple(2.0**step for step in range(-2, 4))
RIPPLE_LOW_HZ, RIPPLE_OCTAVES, RIPPLE_TONES, RIPPLE_DEPTH = 250.0, 5, 200, 0.9


@dataclass(frozen=True)
class Stimulus:
    """What a stimulus is; None is what has no meaning for its kind.

    kind: tone, band, level, modulation, sweep, complex, clicks, gap, onset, ripple. frequency_hz: of a tone, the middle of a band, the carrier of
    a modulation, the middle of a sweep. level_dbfs: RMS relative to full scale 1, without ramps, pauses and gaps; of clicks, while one lasts.
    carrier: tone or noise. rate_hz: of modulation, clicks and ripples, whose peaks fall in frequency where it is above 0 (Chi et al. 1999,
    10.1121/1.428100) and rise where below. depth: of modulation, 0 to 1. direction: up or down. speed: octaves per second. f0_hz with partials:
    all, no fundamental (from the second on), jittered (each moved by up to JITTER of f0: no pitch, the same spectrum on the whole). gap_ms: in
    the middle of noise, 0 for none. density: cycles per octave. ramp_ms: of on- and offset. repeat: from 1, each with other phases or noise; gaps
    and onsets of one repeat are cut from the same noise, and a sweep down is the one up backwards.
    """

    kind: str
    repeat: int
    level_dbfs: float = LEVEL_DBFS
    seconds: float = 1.0
    frequency_hz: float | None = None
    carrier: str | None = None
    rate_hz: float | None = None
    depth: float | None = None
    direction: str | None = None
    speed: float | None = None
    f0_hz: float | None = None
    partials: str | None = None
    gap_ms: float | None = None
    density: float | None = None
    ramp_ms: float = RAMP_MS

    @property
    def condition(self) -> str:
        """What it is but for the repeat, which is alike for no two conditions."""
        own = {"frequency_hz": "hz", "rate_hz": "hz", "speed": "oct", "f0_hz": "hz", "gap_ms": "ms", "density": "cyc", "depth": "deep"}
        parts = [str(self.carrier or self.direction or self.partials or "").replace(" ", "_")]
        parts += [f"{value:g}{unit}" for name, unit in own.items() if (value := getattr(self, name)) is not None]
        parts += [f"{self.level_dbfs:g}db"] if self.kind in ("tone", "level") else []
        parts += [f"{self.ramp_ms:g}ms"] if self.kind == "onset" else []
        return f"{self.kind}/{'_'.join(filter(None, parts))}"

    @property
    def name(self) -> str:
        """Its file."""
        return f"{self.condition}_{self.repeat}.wav"


def _conditions() -> Iterator[tuple[int, dict[str, Any]]]:
    """Every condition with its number of repeats."""
    yield from ((2, {"kind": "tone", "frequency_hz": hz, "level_dbfs": db}) for hz, db in product(FREQUENCIES_HZ, TONE_LEVELS_DBFS))
    yield from ((2, {"kind": "band", "frequency_hz": hz}) for hz in BANDS_HZ)
    yield from ((4, {"kind": "level", "level_dbfs": db}) for db in LEVELS_DBFS)
    for carrier, hz in (("tone", CARRIER_HZ), ("noise", None)):
        same: dict[str, Any] = {"kind": "modulation", "carrier": carrier, "frequency_hz": hz, "seconds": 2.0}
        yield 4, same | {"depth": 0.0}
        yield from ((2, same | {"rate_hz": rate, "depth": 1.0}) for rate in MODULATIONS_HZ)
        yield from ((2, same | {"rate_hz": rate, "depth": depth}) for depth, rate in product(SHALLOW, MODULATIONS_HZ[::2]))
    yield from ((4, {"kind": "sweep", "direction": way, "speed": speed, "seconds": 2.0}) for way, speed in product(("up", "down"), SPEEDS))
    yield from ((2, {"kind": "complex", "partials": partials, "f0_hz": hz}) for partials, hz in product(PARTIALS, F0_HZ))
    yield from ((2, {"kind": "clicks", "rate_hz": rate, "level_dbfs": -10.0, "seconds": 2.0}) for rate in CLICKS_HZ)
    yield from ((4, {"kind": "gap", "gap_ms": gap}) for gap in GAPS_MS)
    yield from ((3, {"kind": "onset", "ramp_ms": ramp}) for ramp in RAMPS_MS)
    yield from ((2, {"kind": "ripple", "rate_hz": r, "density": d, "seconds": 2.0}) for r, d in product(RIPPLE_RATES_HZ, DENSITIES))


def battery() -> list[Stimulus]:
    """All stimuli in their order."""
    stimuli = [Stimulus(repeat=repeat, **what) for repeats, what in _conditions() for repeat in range(1, repeats + 1)]
    return [replace(s, frequency_hz=CENTRES_HZ[s.repeat - 1]) if s.kind == "sweep" else s for s in stimuli]


def write_stimuli(folder: Path, seed: int = 0) -> None:
    """Write the battery to `folder` as an audiofolder: metadata.csv and KIND/CONDITION_REPEAT.wav (mono, 16 bit); nothing when they are intact.

    metadata.csv has file_name, group (the condition) and the fields of Stimulus. The same seed gives the same bytes. Raises UserError when the
    folder cannot be written or holds something else.
    """
    write_once(folder, MARKER, {"version": VERSION, "seed": seed}, lambda: _files(seed), "the stimuli")


def _files(seed: int) -> Iterator[tuple[str, bytes]]:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file_name", "group", *(field.name for field in fields(Stimulus))])
    for stimulus in battery():
        yield stimulus.name, wav(synthesise(stimulus, seed), RATE_HZ)
        rows.writerow([stimulus.name, stimulus.condition, *("" if value is None else value for value in asdict(stimulus).values())])
    yield "metadata.csv", table.getvalue().encode()


class _Chance:
    """Random numbers of one stimulus, from PCG64's raw bits, which numpy promises to keep."""

    def __init__(self, seed: int, what: str, repeat: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(what.encode()), repeat]))

    def uniform(self, size: int) -> np.ndarray:
        """Numbers from 0 to below 1."""
        return (self._bits.random_raw(size) >> np.uint64(11)) * 2.0**-53

    def noise(self, size: int) -> np.ndarray:
        """White noise of evenly spread values from -1 to 1."""
        return 2 * self.uniform(size) - 1

    def phases(self, size: int) -> np.ndarray:
        """Phases in radians."""
        return 2 * np.pi * self.uniform(size)


def synthesise(stimulus: Stimulus, seed: int = 0) -> np.ndarray:
    """A stimulus as 16-bit samples [seconds * RATE_HZ]. All is float64, and rounding to 16 bits hides differences between machines."""
    paired = {"gap": "gap", "onset": "onset", "sweep": f"sweep {stimulus.speed}"}
    chance = _Chance(seed, paired.get(stimulus.kind, stimulus.condition), stimulus.repeat)
    time_s = np.arange(round(stimulus.seconds * RATE_HZ)) / RATE_HZ
    sound = SOUNDS[stimulus.kind](stimulus, time_s, chance)
    if stimulus.kind != "clicks":
        sound = sound / np.sqrt(np.mean(np.square(sound)))
    sound = sound * 10 ** (stimulus.level_dbfs / 20)
    if stimulus.gap_ms:
        sound[np.abs(time_s - stimulus.seconds / 2) < stimulus.gap_ms / 2000] = 0
    ramp = np.clip(np.minimum(time_s, stimulus.seconds - time_s) / (stimulus.ramp_ms / 1000), 0, 1)
    return np.rint(32767 * sound * np.sin(np.pi / 2 * ramp) ** 2).astype(np.int16)


def _tone(stimulus: Stimulus, time_s: np.ndarray, chance: _Chance) -> np.ndarray:
    return np.sin(2 * np.pi * _given(stimulus.frequency_hz) * time_s + chance.phases(1))


def _noise(_: Stimulus, time_s: np.ndarray, chance: _Chance) -> np.ndarray:
    return chance.noise(len(time_s))


def _band(stimulus: Stimulus, time_s: np.ndarray, chance: _Chance) -> np.ndarray:
    """All whole frequencies within a sixth of an octave, alike in level."""
    hz = np.fft.rfftfreq(len(time_s), 1 / RATE_HZ)
    phases = chance.phases(len(hz))
    inside = np.abs(np.log2(np.maximum(hz, 1) / _given(stimulus.frequency_hz))) < 1 / 6
    return np.fft.irfft(np.where(inside, np.exp(1j * phases), 0), len(time_s))


def _modulation(stimulus: Stimulus, time_s: np.ndarray, chance: _Chance) -> np.ndarray:
    carrier = (_tone if stimulus.carrier == "tone" else _noise)(stimulus, time_s, chance)
    if not stimulus.depth:
        return carrier
    return carrier * (1 + stimulus.depth * np.sin(2 * np.pi * _given(stimulus.rate_hz) * time_s + chance.phases(1)))


def _sweep(stimulus: Stimulus, time_s: np.ndarray, chance: _Chance) -> np.ndarray:
    """Glides of at most WIDEST_SWEEP octaves that follow each other until the time is up; each fades in and out over 5 ms."""
    octaves = _given(stimulus.speed) * stimulus.seconds
    period_s = stimulus.seconds / math.ceil(octaves / WIDEST_SWEEP)
    within_s = time_s % period_s
    hz = _given(stimulus.frequency_hz) * 2 ** (_given(stimulus.speed) * (within_s - period_s / 2))
    up = np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ + chance.phases(1)) * np.clip(np.minimum(within_s, period_s - within_s) / 0.005, 0, 1)
    return up[::-1].copy() if stimulus.direction == "down" else up


def _complex(stimulus: Stimulus, time_s: np.ndarray, chance: _Chance) -> np.ndarray:
    """Harmonics up to TOP_HZ, falling by 3 dB per octave."""
    f0_hz = _given(stimulus.f0_hz)
    numbers = np.arange(1, int(TOP_HZ / f0_hz) + 1)
    phases = chance.phases(len(numbers))
    moved = JITTER * chance.noise(len(numbers)) if stimulus.partials == "jittered" else np.zeros(len(numbers))
    sound = np.zeros(len(time_s))
    for number, phase, move in zip(numbers, phases, moved, strict=True):
        if number > 1 or stimulus.partials != "no fundamental":
            sound += np.sin(2 * np.pi * (number + move) * f0_hz * time_s + phase) / math.sqrt(number)
    return sound


def _clicks(stimulus: Stimulus, time_s: np.ndarray, chance: _Chance) -> np.ndarray:
    """Bursts of noise of CLICK_S, the first half a period after the start."""
    rate_hz = _given(stimulus.rate_hz)
    sound, burst = np.zeros(len(time_s)), chance.noise(round(CLICK_S * RATE_HZ))
    burst /= np.sqrt(np.mean(np.square(burst)))
    for start_s in np.arange(0.5 / rate_hz, stimulus.seconds - CLICK_S, 1 / rate_hz):
        start = round(start_s * RATE_HZ)
        sound[start : start + len(burst)] += burst
    return sound


def _ripple(stimulus: Stimulus, time_s: np.ndarray, chance: _Chance) -> np.ndarray:
    """Tones evenly spread over RIPPLE_OCTAVES, whose levels are a sine over time and octaves that moves."""
    octaves = RIPPLE_OCTAVES * (np.arange(RIPPLE_TONES) + 0.5) / RIPPLE_TONES
    bins = np.rint(RIPPLE_LOW_HZ * 2**octaves * stimulus.seconds).astype(int)
    tones, [phase] = np.exp(1j * chance.phases(RIPPLE_TONES)), chance.phases(1)

    def sum_of(weights: np.ndarray) -> np.ndarray:
        spectrum = np.zeros(len(time_s) // 2 + 1, dtype=complex)
        np.add.at(spectrum, bins, tones * weights)
        return np.fft.irfft(spectrum, len(time_s))

    place, turn = 2 * np.pi * _given(stimulus.density) * octaves + phase, 2 * np.pi * _given(stimulus.rate_hz) * time_s
    moving = np.sin(turn) * sum_of(np.cos(place)) + np.cos(turn) * sum_of(np.sin(place))  # sin(turn + place), tone by tone
    return sum_of(np.ones(RIPPLE_TONES)) + RIPPLE_DEPTH * moving


def _given(value: float | None) -> float:
    assert value is not None
    return value


SOUNDS: dict[str, Callable[[Stimulus, np.ndarray, _Chance], np.ndarray]] = {
    "tone": _tone,
    "band": _band,
    "level": _noise,
    "modulation": _modulation,
    "sweep": _sweep,
    "complex": _complex,
    "clicks": _clicks,
    "gap": _noise,
    "onset": _noise,
    "ripple": _ripple,
}
"""What makes each kind, before level, gap and ramps."""
