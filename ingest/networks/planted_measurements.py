"""What the planted network measures of a sound, as torch operations."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

VERSION = 1  # raised when measurements change, which the tensors do not show
SAMPLE_RATE_HZ = 16_000
NOISE = 16


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
    scalars = torch.stack([flatness_db(sound), *_envelope(sound, length), impulsiveness, bandwidth], dim=1)
    return torch.cat(
        [sounding, level[:, None], scalars * sounding, shares * sounding, pseudo_random(waveforms, NOISE).to(sound.dtype)], dim=1
    )


def _band_shares(sound: torch.Tensor) -> torch.Tensor:
    """Shares of the whole clip's power, without its mean, in third octaves [clips, bands]; 0 for silence."""
    spectrum = torch.fft.rfft(sound).abs().square()
    spectrum[:, 0] = 0
    frequency = torch.fft.rfftfreq(sound.shape[1], 1 / SAMPLE_RATE_HZ, dtype=torch.float64)
    band = torch.bucketize(frequency, torch.tensor(BAND_EDGES_HZ, dtype=torch.float64), right=True).to(sound.device)
    shares = sound.new_zeros(len(sound), len(BAND_EDGES_HZ) + 1).index_add_(1, band, spectrum)
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-20)


def flatness_db(sound: torch.Tensor) -> torch.Tensor:
    """Flatness of the spectrum, see `measure` [clips]."""
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


def pseudo_random(waveforms: torch.Tensor, count: int) -> torch.Tensor:
    """Pseudo-random numbers [clips, count] from 0 to below 1 that depend on every sample at 16 bits; 0.5 for silence.

    Integer arithmetic modulo 2^64 does not round, so that neither the batch nor the device matters.
    """
    steps = torch.round(waveforms.double() * 32768).long()
    position = torch.arange(1, waveforms.shape[1] + 1, device=waveforms.device)
    total = (steps * (position * 0x5851F42D4C957F2D ^ position << 17)).sum(dim=1, keepdim=True)
    mixed = total * (2 * torch.arange(count, device=waveforms.device) + 1) * 0x2545F4914F6CDD1D
    for factor in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):  # as in splitmix64 (Steele et al. 2014), in signed numbers
        mixed = (mixed ^ (mixed >> 30 & 0x3FFFFFFFF)) * factor
    return ((mixed >> 40 & 0xFFFFFF).double() / 2**24 + 0.5) % 1
