"""What the tuned planted network measures of a sound: torch filter banks that share no program with ingest.sounds."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

VERSION = 1  # raised when measurements change, which the tensors do not show
SAMPLE_RATE_HZ = 16_000
FRAME, GAP_FRAME, EDGE_S = 32, 16, 0.02
FRAME_HZ = SAMPLE_RATE_HZ / FRAME
CHANNELS_HZ = tuple(125 * 2 ** (step / 4) for step in range(24))
CHANNEL_OCTAVES = 0.35
QUIET = 0.02  # of a sound's mean power, below which a millisecond of it is a gap
PITCH_HZ = (40.0, 2000.0)
NEAR_HIGHEST = 0.9  # of the highest peak of an autocorrelation, from which on the first one is the pitch's
FLOOR_DB = -100.0

LN16 = 4 * math.log(2)


def gauss(octaves: torch.Tensor, wide: torch.Tensor | float) -> torch.Tensor:
    """1 at 0, half at half of `wide`, both in octaves."""
    return torch.exp(-LN16 * (octaves / wide).square())


def lengths(sound: torch.Tensor) -> torch.Tensor:
    """Samples up to the last that is not 0 [clips], at least 1."""
    return ((sound != 0) * torch.arange(1, sound.shape[1] + 1, device=sound.device)).amax(dim=1).clamp(min=1)


def level_db(sound: torch.Tensor) -> torch.Tensor:
    """RMS up to the last sample that is not 0, dBFS [clips]."""
    power = sound.double().square().sum(dim=1) / lengths(sound)
    return (10 * torch.log10(power.clamp(min=1e-12))).clamp(min=FLOOR_DB).float()


def spectrum(sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Power by frequency [clips, frequencies], whose sum is the mean square, and octaves above 1 Hz [frequencies] without 0 Hz."""
    found = torch.fft.rfft(sound)[:, 1:].abs().square() * 2 / sound.shape[1] / lengths(sound)[:, None]
    return found, torch.log2(torch.arange(1, found.shape[1] + 1, device=sound.device) * SAMPLE_RATE_HZ / sound.shape[1])


def band_power(sound: torch.Tensor, centres_hz: torch.Tensor, wide: torch.Tensor | float) -> torch.Tensor:
    """Mean square behind filters of Gauss's form on octaves [clips, filters]."""
    power, octaves = spectrum(sound)
    return power @ gauss(octaves[:, None] - torch.log2(centres_hz), wide)


def envelope(sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Amplitude in frames of 2 ms [clips, frames], and which of them are sound."""
    power = functional.avg_pool1d(sound.square()[:, None], FRAME)[:, 0]
    return power.sqrt(), torch.arange(power.shape[1], device=sound.device) < lengths(sound)[:, None] // FRAME


def modulation(sound: torch.Tensor, rates_hz: torch.Tensor, wide: torch.Tensor | float) -> torch.Tensor:
    """Depth of the amplitude's modulation behind filters of Gauss's form on octaves of rate [clips, filters]; 1 for a sine of full depth."""
    amplitude, inside = envelope(sound)
    count = inside.sum(dim=1, keepdim=True).clamp(min=2)
    taper = torch.sin(math.pi * (torch.arange(amplitude.shape[1], device=sound.device) + 0.5) / count).square() * inside
    mean = (amplitude * taper).sum(dim=1, keepdim=True) / taper.sum(dim=1, keepdim=True).clamp(min=1e-9)
    course = (amplitude / mean.clamp(min=1e-9) - 1) * taper
    size = 2 * course.shape[1]
    power = torch.fft.rfft(course, size)[:, 1:].abs().square() * 4 / size / taper.square().sum(dim=1, keepdim=True).clamp(min=1e-9)
    octaves = torch.log2(torch.arange(1, power.shape[1] + 1, device=sound.device) * FRAME_HZ / size)
    return (power @ gauss(octaves[:, None] - torch.log2(rates_hz), wide)).sqrt()


def channels(sound: torch.Tensor) -> torch.Tensor:
    """Amplitude in frames of 2 ms behind a bank of filters a quarter of an octave apart [clips, channels, frames]."""
    whole = torch.fft.fft(sound)
    hertz = torch.arange(1, sound.shape[1] // 2, device=sound.device) * SAMPLE_RATE_HZ / sound.shape[1]
    found = []
    for centre in CHANNELS_HZ:
        weights = torch.zeros(sound.shape[1], device=sound.device)
        weights[1 : sound.shape[1] // 2] = 2 * gauss(torch.log2(hertz / centre), CHANNEL_OCTAVES * math.sqrt(2))
        found.append(functional.avg_pool1d(torch.fft.ifft(whole * weights).abs()[:, None], FRAME)[:, 0])
    return torch.stack(found, dim=1)


def movement(bank: torch.Tensor, delay: int) -> torch.Tensor:
    """From -1 to 1, how much more a channel follows the one below it after `delay` frames than the one above (Reichardt 1961) [clips]."""
    early, late = bank[:, :, :-delay], bank[:, :, delay:]
    up, down = (early[:, :-1] * late[:, 1:]).sum(dim=(1, 2)), (early[:, 1:] * late[:, :-1]).sum(dim=(1, 2))
    return (up - down) / (up + down).clamp(min=1e-12)


def longest_gap_ms(sound: torch.Tensor) -> torch.Tensor:
    """The longest silence within a sound, without its ends [clips]."""
    power = functional.avg_pool1d(sound.square()[:, None], GAP_FRAME)[:, 0]
    place = torch.arange(power.shape[1], device=sound.device)
    length, edge = lengths(sound)[:, None] / GAP_FRAME, EDGE_S * SAMPLE_RATE_HZ / GAP_FRAME
    mean = sound.square().sum(dim=1, keepdim=True) / lengths(sound)[:, None]
    loud = (power >= QUIET * mean) | (place < edge) | (place >= length - edge)
    return (place - torch.where(loud, place, -1).cummax(dim=1).values).amax(dim=1) * (1000 * GAP_FRAME / SAMPLE_RATE_HZ)


def pitch(sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fundamental in hertz and how periodic a sound is, 0 to 1 [clips]: the first of the autocorrelation's peaks that is near its highest."""
    size = 2 * sound.shape[1]
    correlation = torch.fft.irfft(torch.fft.rfft(sound, size).abs().square(), size)
    shortest, longest = (round(SAMPLE_RATE_HZ / hertz) for hertz in reversed(PITCH_HZ))
    left = lengths(sound)[:, None] / (lengths(sound)[:, None] - torch.arange(longest + 2, device=sound.device)).clamp(min=1)
    course = correlation[:, : longest + 2] / correlation[:, :1].clamp(min=1e-9) * left
    middle = course[:, shortest : longest + 1]
    peak = (middle > course[:, shortest - 1 : longest]) & (middle >= course[:, shortest + 1 : longest + 2])
    heights = torch.where(peak, middle, 0)
    highest = heights.amax(dim=1, keepdim=True)
    first = (heights >= NEAR_HIGHEST * highest).int().argmax(dim=1)
    return SAMPLE_RATE_HZ / (first + shortest), highest[:, 0].clamp(0, 1)
