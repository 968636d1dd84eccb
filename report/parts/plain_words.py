"""What measured properties and tuning are called by who searches for them: everyday words for what a rule says in a measurement's."""

from __future__ import annotations

import re

PLAIN: dict[str, tuple[str, str]] = {
    "duration_s": ("long lasting", "short brief"),
    "silence_share": ("silence silent isolated sparse", "continuous without pause"),
    "peak_dbfs": ("loud peaks", "soft faint"),
    "level_dbfs": ("loud", "quiet soft faint"),
    "level_range_db": ("varying changing dynamic", "steady even constant"),
    "level_trend_db": ("growing swelling crescendo louder approaching", "fading decaying quieter"),
    "sounding_s": ("long sustained continuous", "short brief"),
    "events": ("many repeated events", "few single"),
    "event_s": ("long sustained", "short bursts brief"),
    "pause_depth_db": ("separate interrupted pauses", "continuous"),
    "attack_s": ("slow gradual", "sudden abrupt percussive attack"),
    "median_frequency_hz": ("high-frequency high-pitched treble", "low-frequency low-pitched bass deep"),
    "centroid_hz": ("bright high-pitched treble", "dull dark low-pitched"),
    "rolloff_hz": ("bright high-pitched treble", "dull dark low-pitched"),
    "low_share": ("bass deep low-pitched", "thin"),
    "middle_share": ("midrange", "hollow"),
    "high_share": ("treble bright high-pitched", "dull dark"),
    "bandwidth_octaves": ("broadband noise", "narrowband tone"),
    "flatness": ("noise noisy", "tonal"),
    "tonality": ("tonal tones", "noise noisy"),
    "pitched_share": ("pitched tones melodic", "unpitched noise"),
    "pitch_hz": ("high-pitched tones", "low-pitched deep tones"),
    "pitch_range": ("melodic melody varied pitch", "monotone"),
    "pitch_trend": ("rising pitch", "falling pitch"),
    "pitch_movement": ("gliding wavering pitch", "steady tone"),
    "fundamental_share": ("pure tone", "harmonics"),
    "overtone_share": ("rich harmonics overtones", "pure tone"),
    "onset_rate_hz": ("repeated frequent rapid onsets", "rare sparse"),
    "rhythm_hz": ("fast rapid rhythm", "slow rhythm"),
    "regularity": ("regular repeated rhythm periodic", "irregular"),
    "modulation_hz": ("fast fluctuating vibrating modulation", "slow swaying modulation"),
    "modulation_depth": ("pulsing fluctuating modulation", "steady"),
    "rise_low_db": ("sudden bass thud", "soft gradual"),
    "rise_middle_db": ("sudden attack", "soft gradual"),
    "rise_high_db": ("sudden crisp clicks", "soft gradual"),
    "contrast_low_db": ("tonal low-pitched", "noisy bass"),
    "contrast_middle_db": ("tonal", "noisy"),
    "contrast_high_db": ("tonal high-pitched", "noisy treble"),
    "sweep_octaves": ("rising sweep", "falling sweep"),
    "spread_octaves": ("varied changing", "constant steady"),
}
"""By property: where it lies over its threshold, and where under. What a measurement is called is among them only where the sound has it: a regular rhythm
is a rhythm, an irregular one next to none."""
BANDS = {63: "bass deep", 125: "bass deep", 250: "low-pitched", 4000: "high-pitched treble", 8000: "high-pitched treble"}
"""Octaves that are called something."""
HIGH_HZ, LOW_HZ, FAST_HZ, SLOW_HZ = 2000, 300, 8, 4
"""Best frequencies that are called high and low, rates of modulation that are fast and slow."""
UNSAID = re.compile(r"\(.*?\)|[“”]|heard as|captioned")


def of_condition(name: str, direction: str, text: str) -> str:
    """Everyday words for a rule's condition, a row of table rule_condition. What it denies is no word of its."""
    said, up = UNSAID.sub(" ", text).strip(), direction == "over"
    if said.startswith(("not ", "no ")):
        return ""
    if name in PLAIN:
        return PLAIN[name][0 if up else 1]
    if found := re.fullmatch(r"(?:mean|peak|balance)_(\d+)_dbf?s?", name):
        return f"{'' if 'balance' in name else 'loud '}{BANDS.get(int(found[1]), '')}" if up else ""
    if found := re.fullmatch(r"changes_(\d+)_db", name):
        return f"{'fast vibrating' if int(found[1]) >= FAST_HZ else 'slow'} pulsing fluctuating" if up else "steady"
    return said


def of_tuning(frequency_hz: float | None, rate_hz: float | None, sentence: str | None) -> str:
    """Everyday words for a best frequency and a best rate of modulation, None where a neuron has none, and for the sweeps that its tuning in words names."""
    said = re.findall("(?:rising|falling) sweeps", sentence or "")
    if frequency_hz is not None:
        said.append("high-pitched tones treble" if frequency_hz >= HIGH_HZ else "low-pitched tones bass" if frequency_hz <= LOW_HZ else "")
    if rate_hz is not None:
        said.append("fast vibrating" if rate_hz >= FAST_HZ else "slow pulsing" if rate_hz <= SLOW_HZ else "")
    return " ".join(said)
