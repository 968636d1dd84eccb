"""Tuning in one sentence: "Best at 1.2 kHz (half an octave wide), amplitude modulation of 8 a second, rising sweeps."."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ingest.methods.rule_words import quantity


class Found(NamedTuple):
    """A measure that is defined, with its interval over repeats where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


SUREST = {"frequency_hz": 1.0, "rate_hz": 2.0, "pitch_hz": 1.0, "gap_ms": 2.0}
"""Octaves that an interval may span for its value to be said."""
SUREST_DB = 20.0
LEAST_DIRECTION = 0.1
NUMBERS = {0.5: "half an octave", 1: "one octave", 1.5: "one and a half octaves", 2: "two octaves", 3: "three octaves"}


def sentence(measures: Mapping[str, Found]) -> str | None:
    """What a neuron is tuned to, of measures by name (see ingest.methods.tuning.measures), which are defined where they differ beyond chance; of these
    what the repeats agree on. None where nothing is."""
    said = []
    if hertz := _sure(measures, "frequency_hz"):
        wide = f" ({_octaves(measures['bandwidth_octaves'].value)} wide)" if "bandwidth_octaves" in measures else ""
        said.append(f"best at {quantity(hertz, 'Hz')}{wide}")
    if rate := _sure(measures, "rate_hz"):
        carrier = "" if measures["rate_holds"].value else " of tones" if "tone_rate_hz" in measures else " of noise"
        if not measures["rate_holds"].value and {"tone_rate_hz", "noise_rate_hz"} <= measures.keys():
            carrier = ", other rates for tones than for noise"
        said.append(f"amplitude modulation of {quantity(rate, '')} a second{carrier}")
    way = measures.get("direction")
    if way and way.low is not None and way.high is not None and way.low * way.high > 0 and abs(way.value) >= LEAST_DIRECTION:
        said.append("rising sweeps" if way.value > 0 else "falling sweeps")
    if hertz := _sure(measures, "pitch_hz"):
        said.append(f"a pitch of {quantity(hertz, 'Hz')}")
    level = measures.get("level_dbfs")
    if level and level.low is not None and level.high is not None and level.high - level.low <= SUREST_DB:
        said.append(f"noise from {quantity(level.value, 'dBFS')} on")
    if gap := _sure(measures, "gap_ms"):
        said.append(f"gaps from {quantity(gap, '')} ms on")
    whole = ", ".join(said)
    return f"{whole[0].upper()}{whole[1:]}." if whole else None


def _sure(measures: Mapping[str, Found], name: str) -> float | None:
    """The value, where its interval spans no more than its octaves."""
    its = measures.get(name)
    if its is None or its.low is None or its.high is None or its.low <= 0 or its.high > its.low * 2 ** SUREST[name]:
        return None
    return its.value


def _octaves(wide: float) -> str:
    """A bandwidth in words, to half an octave."""
    half = round(2 * wide) / 2
    return NUMBERS.get(half, f"{quantity(half, '')} octaves") if half else "a third of an octave"
