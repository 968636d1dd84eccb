"""Responses to any sound, predicted from tuning alone: nothing is fitted to the sounds.

A neuron's curves over third-octave noise, over levels and over modulation rates are laid over a sound's levels in third octaves, over time, and its
modulation. A frame's drive is the mean of the responses to bands, each by its share of the frame's power, times how far the response to noise has
grown at the frame's level. The drive's mean over frames is moved by what modulation adds to the response to noise, rate by rate, by its depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def predict(curves: Mapping[str, np.ndarray], levels_dbfs: np.ndarray, bands: Sequence[np.ndarray], depths: np.ndarray) -> np.ndarray:
    """Predicted responses [neurons, clips], in no unit but the neuron's own.

    `curves`: mean responses [neurons, conditions] by name: band, level, and noise rate with noise unmodulated [neurons, 1]. `levels_dbfs`: of curve
    level, rising. `bands`: RMS amplitude [bands, frames] of every clip, `depths` [clips, rates]; see ingest.sounds.third_octaves.
    """
    quiet = curves["level"][:, :1]
    by_band, grown = curves["band"] - quiet, np.abs(curves["level"] - quiet)
    top = grown.max(axis=1, keepdims=True)
    grown = grown / np.where(top > 0, top, 1)
    found = (curves["noise rate"] - curves["noise unmodulated"]) @ depths.T
    last = len(levels_dbfs) - 1
    for clip, amplitude in enumerate(bands):
        power = np.square(amplitude)
        total = power.sum(axis=0)
        step = np.interp(10 * np.log10(total + 1e-12), levels_dbfs, np.arange(last + 1))
        low = np.minimum(step.astype(int), last - 1)
        growth = grown[:, low] * (1 - step + low) + grown[:, low + 1] * (step - low)  # [neurons, frames]
        found[:, clip] += (by_band @ (power / np.maximum(total, 1e-12)) * growth).mean(axis=1)
    return found.astype(np.float32)
