"""What can be measured of a sound in octave bands and of its modulation: properties beside those that captions are made of (acoustics.py)."""

from __future__ import annotations

import numpy as np
import scipy.fft
import soxr

from ingest.sounds.acoustics import TOP_RATE_HZ

VERSION = 1  # raised when measurements change
OCTAVES_HZ = (63, 125, 250, 500, 1000, 2000, 4000, 8000)
RATES_HZ = (1, 2, 4, 8, 16, 32)
REGIONS_HZ = {"low": (0, 500), "middle": (500, 2000), "high": (2000, 12_000)}
WINDOW_S, HOP_S = 0.032, 0.008
FLOOR_DBFS = -90.0
CONTRAST_RANGE_DB = 60.0


def measure(waveform: np.ndarray, rate_hz: int) -> dict[str, float]:
    """Properties of a mono sound [samples] (full scale 1), those that are defined; none of a sound shorter than a window of 32 ms.

    mean_HZ_dbfs and peak_HZ_dbfs: the level in the octave around HZ, its mean over time and its 95th percentile, no lower than -90 dBFS;
    balance_HZ_db: that octave's mean level above the mean of all octaves. changes_HZ_db: standard deviation of the level's changes in the octave
    of rates around HZ. rise_REGION_db, contrast_REGION_db: how much levels in a region of the spectrum rise within 16 ms at their
    95th percentile, and how far its highest peak stands above its middle. sweep_octaves: movement of the spectrum's centre, octaves a second, up positive;
    spread_octaves: standard deviation of that centre over time.
    """
    sound = np.asarray(waveform, dtype=np.float32)
    if rate_hz > TOP_RATE_HZ:
        sound, rate_hz = soxr.resample(sound, rate_hz, TOP_RATE_HZ), TOP_RATE_HZ
    length, hop = round(WINDOW_S * rate_hz), max(1, round(HOP_S * rate_hz))
    if len(sound) < length or length < 8:
        return {}
    window = np.hanning(length + 2)[1:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(sound, length)[::hop]
    power = np.abs(scipy.fft.rfft(frames * window, axis=1)) ** 2 * (2 / (length * float((window**2).sum())))  # mean square by bin
    frequency = np.arange(power.shape[1]) * rate_hz / length
    found: dict[str, float] = {}
    levels = {}
    for centre in OCTAVES_HZ:
        inside = (frequency >= centre / 2**0.5) & (frequency < centre * 2**0.5)
        if frequency[-1] >= centre and inside.any():
            levels[centre] = np.maximum(10 * np.log10(power[:, inside].sum(axis=1) + 1e-30), FLOOR_DBFS)
    means = {centre: float(level.mean()) for centre, level in levels.items()}
    for centre, level in levels.items():
        found[f"mean_{centre}_dbfs"] = means[centre]
        found[f"peak_{centre}_dbfs"] = float(np.percentile(level, 95))
        found[f"balance_{centre}_db"] = means[centre] - float(np.mean(list(means.values())))
    return found | _changes(power, hop / rate_hz) | _regions(power, frequency) | _centre(power, frequency, hop / rate_hz)


def _level(power: np.ndarray) -> np.ndarray:
    return np.maximum(10 * np.log10(power + 1e-30), FLOOR_DBFS)


def _changes(power: np.ndarray, hop_s: float) -> dict[str, float]:
    """Standard deviation, by octaves of rate, of the level's changes; none of rates of which the sound holds no two periods."""
    level = _level(power.sum(axis=1))
    spectrum = np.abs(scipy.fft.rfft(level - level.mean())) ** 2 * 2 / len(level) ** 2
    rate = np.arange(len(spectrum)) / (len(level) * hop_s)
    return {
        f"changes_{centre}_db": float(np.sqrt(spectrum[(rate >= centre / 2**0.5) & (rate < centre * 2**0.5)].sum()))
        for centre in RATES_HZ
        if len(level) * hop_s * centre >= 2
    }


def _regions(power: np.ndarray, frequency: np.ndarray) -> dict[str, float]:
    found = {}
    mean = power.mean(axis=0)
    for name, (low, high) in REGIONS_HZ.items():
        inside = (frequency >= max(low, 40)) & (frequency < high)
        if not inside.any():
            continue
        level = _level(power[:, inside].sum(axis=1))
        if len(level) > 2:
            found[f"rise_{name}_db"] = float(np.percentile(np.maximum(level[2:] - level[:-2], 0), 95))
        spectrum = 10 * np.log10(mean[inside] + 1e-30)
        spectrum = np.maximum(spectrum, spectrum.max() - CONTRAST_RANGE_DB)
        spectrum -= _trend(spectrum)
        found[f"contrast_{name}_db"] = float(spectrum.max() - np.median(spectrum))
    return found


def _trend(spectrum: np.ndarray) -> np.ndarray:
    place = np.arange(len(spectrum))
    return np.polyval(np.polyfit(place, spectrum, 1), place) if len(spectrum) > 3 else np.zeros(len(spectrum))


def _centre(power: np.ndarray, frequency: np.ndarray, hop_s: float) -> dict[str, float]:
    """Movement of the centre of the spectrum, on a scale of octaves, over frames that are no more than 30 dB below the loudest."""
    heard = frequency >= 60
    octave, total = np.log2(frequency[heard]), power[:, heard].sum(axis=1)
    loud = total > 1e-3 * total.max()
    if total.max() <= 0 or loud.sum() < 4:
        return {}
    centre = (power[:, heard] @ octave) / np.maximum(total, 1e-30)
    pairs = loud[1:] & loud[:-1]
    weight = np.sqrt(total)
    found = {"spread_octaves": float(np.sqrt(np.cov(centre[loud], aweights=weight[loud])))}
    if pairs.any():
        found["sweep_octaves"] = float(np.average(np.diff(centre)[pairs] / hop_s, weights=np.minimum(weight[1:], weight[:-1])[pairs]))
    return found
