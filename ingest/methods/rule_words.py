"""Rules over measured properties in plain words: what each property is called, over and under a threshold, and the numbers in its unit."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ingest.methods.summaries import COMMON_STEMS, stemmed
from ingest.sounds.bands import OCTAVES_HZ, RATES_HZ, REGIONS_HZ

LONGEST = 25
"""Words of a sentence."""
MIDDLE = 0.5
TAG, WORD = "heard as ", "captioned "
"""What properties that a captioner gives begin with."""
RAREST, COMMONEST, WORDS = 0.02, 0.5, 400
LONGEST_TAG = 40
NOUNS = (
    "silence", "peaks", "events", "pauses", "attacks", "pitch", "fundamental", "overtones", "onsets", "rhythm", "modulation", "rises", "frequencies",
)  # fmt: skip


class Words(NamedTuple):
    """What is said where a property lies over a threshold, and where under, its short name and its unit."""

    over: str
    under: str
    name: str
    unit: str


@dataclass(frozen=True)
class Condition:
    """A property over (`direction` 1) or under (-1) a threshold, before which the share `place` of the clips lies."""

    property: str
    direction: int
    threshold: float
    place: float


def quantity(value: float, unit: str) -> str:
    """A value with its unit: "5.1 kHz", "80 ms", "−52 dBFS", "60%"; shares come from 0 to 1."""
    if unit == "Hz" and abs(value) >= 1000:
        return f"{_digits(value / 1000)} kHz"
    if unit == "s" and abs(value) < 0.1:
        return f"{_digits(1000 * value)} ms"
    if unit == "%":
        return f"{100 * value:.1f}%" if 0.99 < value < 0.9995 else f"{_digits(100 * value)}%"
    if unit in ("dB", "dBFS"):
        return f"{value:.0f} {unit}".replace("-0 ", "0 ").replace("-", "−")
    return f"{_digits(value)}{unit if unit.startswith('/') else f' {unit}' if unit else ''}"


def _digits(value: float) -> str:
    """Two digits, or all before the point."""
    text = f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
    return ("0" if text in ("-0", "0") else text).replace("-", "−")


def _octaves() -> dict[str, Words]:
    found = {}
    for centre in OCTAVES_HZ:
        at = quantity(centre, "Hz")
        found[f"mean_{centre}_dbfs"] = Words(f"loud at {at}", f"quiet at {at}", f"mean level at {at}", "dBFS")
        found[f"peak_{centre}_dbfs"] = Words(f"loud {at} peaks", f"faint {at} peaks", f"peaks at {at}", "dBFS")
        found[f"balance_{centre}_db"] = Words(f"strong at {at}", f"weak at {at}", f"{at} above other octaves", "dB")
    for rate in RATES_HZ:
        found[f"changes_{rate}_db"] = Words(f"fluctuating at {rate} Hz", f"steady at {rate} Hz", f"changes at {rate} Hz", "dB")
    for region in REGIONS_HZ:
        found[f"rise_{region}_db"] = Words(
            f"sudden {region}-frequency rises", f"soft {region}-frequency rises", f"{region}-frequency rises", "dB"
        )
        found[f"contrast_{region}_db"] = Words(
            f"tonal {region} frequencies", f"noisy {region} frequencies", f"{region}-frequency contrast", "dB"
        )
    return found


PROPERTIES = {
    "duration_s": Words("long", "short", "length", "s"),
    "silence_share": Words("long silence", "short silence", "silence", "%"),
    "peak_dbfs": Words("high peaks", "low peaks", "peak", "dBFS"),
    "level_dbfs": Words("loud", "quiet", "level", "dBFS"),
    "level_range_db": Words("changing in level", "even in level", "level range", "dB"),
    "level_trend_db": Words("swelling", "fading", "level trend", "dB"),
    "sounding_s": Words("long-sounding", "short-sounding", "sounding time", "s"),
    "events": Words("many events", "few events", "events", ""),
    "event_s": Words("long events", "short events", "event length", "s"),
    "pause_depth_db": Words("deep pauses", "shallow pauses", "pause depth", "dB"),
    "attack_s": Words("slow attacks", "sudden attacks", "attack", "s"),
    "median_frequency_hz": Words("high-frequency", "low-frequency", "median frequency", "Hz"),
    "centroid_hz": Words("bright", "dull", "spectral centre", "Hz"),
    "rolloff_hz": Words("reaching high", "ending low", "roll-off", "Hz"),
    "low_share": Words("bass-heavy", "bass-light", "power below 500 Hz", "%"),
    "middle_share": Words("mid-heavy", "mid-light", "power at 0.5–2 kHz", "%"),
    "high_share": Words("treble-heavy", "treble-light", "power above 2 kHz", "%"),
    "bandwidth_octaves": Words("broadband", "narrowband", "bandwidth", "octaves"),
    "flatness": Words("flat in spectrum", "peaked in spectrum", "flatness", ""),
    "tonality": Words("tonal", "noisy", "tonality", ""),
    "pitched_share": Words("pitched", "unpitched", "pitched part", "%"),
    "pitch_hz": Words("high-pitched", "low-pitched", "pitch", "Hz"),
    "pitch_range": Words("varied pitch", "narrow pitch", "pitch range", "semitones"),
    "pitch_trend": Words("rising pitch", "falling pitch", "pitch trend", "semitones/s"),
    "pitch_movement": Words("moving pitch", "steady pitch", "pitch movement", "semitones/s"),
    "fundamental_share": Words("strong fundamental", "weak fundamental", "power at the pitch", "%"),
    "overtone_share": Words("strong overtones", "weak overtones", "power in overtones", "%"),
    "onset_rate_hz": Words("frequent onsets", "rare onsets", "onsets", "/s"),
    "rhythm_hz": Words("fast rhythm", "slow rhythm", "rhythm", "/s"),
    "regularity": Words("regular rhythm", "irregular rhythm", "regularity", ""),
    "modulation_hz": Words("fast modulation", "slow modulation", "modulation rate", "Hz"),
    "modulation_depth": Words("deep modulation", "shallow modulation", "modulation depth", "%"),
    **_octaves(),
    "sweep_octaves": Words("sweeping up", "sweeping down", "sweep", "octaves/s"),
    "spread_octaves": Words("varying in frequency", "constant in frequency", "spread", "octaves"),
}
"""By name: those of ingest.sounds.acoustics.Measurement and of ingest.sounds.bands."""
SHOWN_NAME = frozenset({"median_frequency_hz", "centroid_hz", "rolloff_hz", "low_share", "middle_share", "high_share"})
"""Of which the adjective alone does not say what was measured."""


def words_of(name: str) -> Words:
    """The words of a property, also of one that a captioner gives."""
    if name in PROPERTIES:
        return PROPERTIES[name]
    if name.startswith(TAG):
        said = name.removeprefix(TAG)
        said = said if len(said) <= LONGEST_TAG else said[: LONGEST_TAG - 1] + "…"
        return Words(f"heard as “{said}”", f"not heard as “{said}”", f"score of “{said}”", "")
    said = name.removeprefix(WORD)
    return Words(f"captioned “{said}”", f"not captioned “{said}”", f"“{said}” in the caption", "")


def phrase(condition: Condition, *, short: bool = False) -> str:
    """A condition in words: "bright (spectral centre over 2.5 kHz)". Over a threshold that most clips pass, a sound is only "not dull"."""
    words = words_of(condition.property)
    up = condition.direction > 0
    if condition.property.startswith(WORD):
        return words.over if up else words.under
    said = words.over if up else words.under
    if condition.place < MIDDLE and condition.property in PROPERTIES:
        opposite = words.under if up else words.over
        said = f"no {opposite}" if opposite.endswith(NOUNS) else f"not {opposite}"
    name = f"{words.name} " if condition.property in SHOWN_NAME and not short else ""
    return f"{said} ({name}{'over' if up else 'under'} {quantity(condition.threshold, words.unit)})"


def sentence(conditions: Sequence[Condition]) -> str:
    """A rule in one sentence of at most 25 words; the last of its conditions is left out where it would be longer."""
    for count in range(len(conditions), 0, -1):
        for short in (False, True):
            said = ", ".join(phrase(condition, short=short) for condition in conditions[:count])
            if len(said.split()) <= LONGEST or (count == 1 and short):
                return said[0].upper() + said[1:] + "."
    return ""


def captioned(captions: Mapping[int, str], raw: Mapping[int, str], clip_ids: Sequence[int], captioner: str) -> tuple[list[str], np.ndarray]:
    """Properties that a captioner gives of clips, and their values [clips, properties]: the scores of the classes a tagger hears (0 beyond those
    it names), or which words are in the captions; none of captions made of measurements. NaN for a clip without a caption."""
    if captioner == "acoustic":
        return [], np.zeros((len(clip_ids), 0))
    scores = [_classes(raw.get(clip, "")) if captioner == "tags" else _words(captions.get(clip, "")) for clip in clip_ids]
    counts = Counter(name for its in scores for name in its)
    least, most = max(2, RAREST * len(clip_ids)), (1.0 if captioner == "tags" else COMMONEST) * len(clip_ids)
    names = sorted(sorted(name for name, count in counts.items() if least <= count <= most), key=lambda name: -counts[name])[:WORDS]
    values = np.array([[its.get(name, 0.0) for name in names] for its in scores]).reshape(len(clip_ids), len(names))
    values[[clip not in captions and clip not in raw for clip in clip_ids]] = np.nan
    return [(TAG if captioner == "tags" else WORD) + name for name in names], values


def _classes(raw: str) -> dict[str, float]:
    try:
        found = json.loads(raw)["classes"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {str(name): float(score) for name, score in found.items()}


def _words(caption: str) -> dict[str, float]:
    """Content words in lower case."""
    plain = [re.sub(r"[^\w-]", "", word.lower()) for word in caption.split()]
    return {
        word: 1.0 for word, (_, stem) in zip(plain, stemmed(caption.split()), strict=True) if word and stem and stem not in COMMON_STEMS
    }
