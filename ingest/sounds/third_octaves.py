"""Levels in third octaves over time and the modulation of the whole: what a response is predicted from by tuning alone."""

from __future__ import annotations

import numpy as np
import scipy.fft

from ingest.sounds.stimuli import BANDS_HZ, MODULATIONS_HZ

WINDOW_S, HOP_S = 0.064, 0.02
ENVELOPE_S = 0.002


def third_octaves(sound: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """RMS amplitude [bands, frames] of a mono sound [samples] in the third octaves around BANDS_HZ, every 20 ms, 0 above half of `rate_hz`; and the depth of
    the amplitude's modulation in half octaves around MODULATIONS_HZ [rates], 1 for one sine of full depth, 0 for rates of which the sound holds no two periods.
    """
    length, hop = round(WINDOW_S * rate_hz), round(HOP_S * rate_hz)
    padded = np.pad(np.asarray(sound, dtype=np.float64), (0, max(0, length - len(sound))))
    window = np.hanning(length + 2)[1:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    power = np.abs(scipy.fft.rfft(frames * window, axis=1)) ** 2 * (2 / (length * (window**2).sum()))
    # A bin belongs to the bands it overlaps, in part: the lowest bands are narrower than one.
    edges = np.arange(power.shape[1] + 1) * rate_hz / length - rate_hz / length / 2
    bands = np.zeros((len(BANDS_HZ), len(frames)))
    for row, centre in enumerate(BANDS_HZ):
        low, high = centre * 2 ** (-1 / 6), centre * 2 ** (1 / 6)
        part = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * length / rate_hz
        bands[row] = np.sqrt(power @ part)
    return bands, _depths(padded, rate_hz)


def _depths(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    size = round(ENVELOPE_S * rate_hz)
    amplitude = np.sqrt(np.square(sound[: len(sound) // size * size]).reshape(-1, size).mean(axis=1))
    if not amplitude.any():
        return np.zeros(len(MODULATIONS_HZ))
    taper = np.hanning(len(amplitude) + 2)[1:-1]
    mean = (amplitude * taper).sum() / taper.sum()
    spectrum = np.abs(scipy.fft.rfft((amplitude / max(mean, 1e-12) - 1) * taper)) ** 2 * 4 / len(taper) / (taper**2).sum()
    rate = np.arange(len(spectrum)) / (len(amplitude) * size / rate_hz)
    inside = [(rate >= centre * 2**-0.25) & (rate < centre * 2**0.25) & (centre * len(sound) >= 2 * rate_hz) for centre in MODULATIONS_HZ]
    return np.array([np.sqrt(spectrum[its].sum()) for its in inside])
