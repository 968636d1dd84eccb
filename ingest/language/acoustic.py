"""The captioner that needs no model: a sound's measurements in words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from ingest.language.captions import Caption
from ingest.sounds import acoustics
from ingest.sounds.acoustics import C0_HZ, Measurement
from ingest.sounds.sound import SoundError, decode


def describe(found: Measurement) -> list[str]:
    """One sentence for each notable property. Sentences that exclude each other share no word that says something of a sound."""
    if found.level_dbfs is None:
        return ["It is a silent clip."]
    # NaN fails every comparison.
    m = SimpleNamespace(**{name: math.nan if value is None else value for name, value in asdict(found).items()})
    pitched = m.pitched_share >= 0.5
    height, low, high = (m.pitch_hz, 220, 800) if pitched else (m.median_frequency_hz, 300, 2000)
    octave = math.floor(math.log2(m.pitch_hz / C0_HZ) + 1 / 24) if pitched else None  # from a quarter tone below C to one above B
    one_way = abs(m.pitch_trend) >= max(3, m.pitch_movement / 2)
    pauses = m.duration_s - m.sounding_s > 0.1 * m.duration_s and m.pause_depth_db >= 15
    modulated = m.modulation_depth >= 0.25
    said = {
        "It is a loud sound.": m.level_dbfs >= -18,
        "It is a quiet sound.": m.level_dbfs < -28,
        "It is a low-pitched sound.": height < low,
        "It is a mid-pitched sound.": low <= height < high,
        "It is a high-pitched sound.": height >= high,
        "It is a low-frequency sound.": m.low_share >= 0.6,
        "It is a middle-frequency sound.": m.middle_share >= 0.6,
        "It is a high-frequency sound.": m.high_share >= 0.6,
        "It is a deep sound.": m.median_frequency_hz < 150,
        "It is a dull sound.": m.centroid_hz < 500,
        "It is a bright sound.": m.centroid_hz >= 2500,
        "It is a tonal sound.": m.tonality >= 0.6,
        "It is a harmonic sound.": m.tonality >= 0.6 and m.overtone_share >= 0.1,
        "It is a pure sound.": m.tonality >= 0.6 and m.overtone_share < 0.1 and m.fundamental_share >= 0.9,
        "It is a mixture of tones and noise.": 0.45 <= m.tonality < 0.6 or (m.tonality < 0.6 and m.pitched_share >= 0.25),
        "It is a noisy sound.": m.tonality < 0.45 and m.pitched_share < 0.25 and m.bandwidth_octaves >= 1,
        "It is a broadband sound.": m.bandwidth_octaves >= 4,
        "It is a narrowband sound.": m.bandwidth_octaves < 1,
        f"Its pitch is in octave {octave}.": pitched,
        "It is rising in pitch.": pitched and one_way and m.pitch_trend > 0,
        "It is falling in pitch.": pitched and one_way and m.pitch_trend < 0,
        "It is gliding in pitch.": pitched and not one_way and m.pitch_movement >= 5,
        "It is constant in pitch.": pitched and m.pitch_movement < 1 and m.pitch_range < 1,
        "It is a continuous sound.": not pauses,
        "It is an intermittent sound.": pauses and m.events > 1,
        "It is a single short sound.": pauses and m.events == 1 and m.event_s < 0.5,
        "It is a single long sound.": pauses and m.events == 1 and m.event_s >= 0.5,
        "It is a row of short sounds.": pauses and m.events >= 3 and m.event_s < 0.3,
        "It is a row of long sounds.": pauses and m.events >= 3 and m.event_s >= 0.3,
        "There is silence in the clip.": m.silence_share >= 0.25,
        "It has many onsets every second.": m.onset_rate_hz >= 4,
        "It is a sharp, sudden sound.": m.attack_s < 0.022,
        "It is a gradual sound.": m.attack_s >= 0.1,
        "It is a rhythmic, repetitive sound.": m.regularity >= 0.6,
        f"It has {_rounded(m.rhythm_hz)}-hertz beat.": m.regularity >= 0.6,
        "It has a slow modulation.": modulated and m.modulation_hz < 4,
        "It has a moderate modulation.": modulated and 4 <= m.modulation_hz < 8,
        "It has a fast modulation.": modulated and m.modulation_hz >= 8,
        f"It has {_rounded(m.modulation_hz)}-hertz fluctuation.": modulated,
        "It is a fluctuating sound.": not modulated and m.level_range_db >= 15,
        "It is a steady sound.": not modulated and not pauses and m.level_range_db < 4,
        "It is a fading sound.": m.level_trend_db < -8,
        "It is a swelling sound.": m.level_trend_db >= 8,
    }
    return [sentence for sentence, holds in said.items() if holds]


def _rounded(rate_hz: float) -> str:
    """The nearest power of two, with its article: few enough rates for clips to share one."""
    power = 0 if math.isnan(rate_hz) else round(math.log2(rate_hz))
    return f"{'an' if power == 3 else 'a'} {2.0**power:g}"


LONGEST_S = 600.0  # of longer files the middle is described


# --- By measurement -----------------------------------------------------------------------------------------------------------------------


class Acoustic:
    """Says what is measured (ingest.sounds.acoustics): nothing is invented. `clip_s` is what is heard of longer files, their middle."""

    name = "acoustic"
    device = "cpu"
    """No GPU would help."""

    def __init__(self, clip_s: float = LONGEST_S) -> None:
        self.clip_s = clip_s

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return {"version": acoustics.VERSION, "clip_s": self.clip_s}

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file; a file that cannot be read has none."""
        return [self._caption(path) for path in paths]

    def _caption(self, path: Path) -> Caption:
        try:
            mono, rate_hz, _ = decode(path, middle_s=self.clip_s)
        except SoundError as error:
            return Caption(None, "", str(error))
        found = acoustics.measure(mono, rate_hz)
        return Caption(" ".join(describe(found)), json.dumps(shortened(found)), None)


def shortened(found: acoustics.Measurement) -> dict[str, float]:
    """What could be measured, to six digits."""
    return {name: float(f"{value:.6g}") for name, value in asdict(found).items() if value is not None}
