"""What can be measured of a sound, and how to say it in plain words: captions that need no model.

Every word comes from a measurement and a threshold (`describe`), so that equal properties give equal sentences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal
import soxr

VERSION = 1  # raised when measurements or words change
TOP_RATE_HZ = 24_000  # spectra reach to 12 kHz, so that files of different rates are described alike
STEP_S = 0.005  # of the envelope
BRIDGED_STEPS = 12  # shorter pauses do not part events
SILENCE_DBFS = -60.0
MODULATION_HZ = (0.5, 50.0)
LONG_S, SHORT_S, HOP_S = 0.064, 0.020, 0.012  # long frames resolve low pitches and partials, short ones follow glides
LONG_PITCH_HZ, SHORT_PITCH_HZ = (45.0, 2500.0), (250.0, 5000.0)
OCTAVE_COST = 0.06  # per octave: of periods about equally good the shortest is taken
RUMBLE_HZ = 80.0
BLOCK_FRAMES = 32  # few enough to stay in the processor's cache
LOW_HZ, HIGH_HZ = 500.0, 2000.0  # between low, middle and high frequencies
ONSET_BANDS_HZ = (0, 400, 800, 1600, 3200, 6400)
C0_HZ = 16.3516

Found = dict[str, float | int | None]


@dataclass(frozen=True)
class Measurement:
    """What was measured of one sound; None where undefined. Shares are from 0 to 1, levels relative to full scale as in table clip."""

    duration_s: float
    silence_share: float  # of the time, below -60 dBFS
    peak_dbfs: float | None = None
    level_dbfs: float | None = None  # root mean square of the sounding part; None when all is below -60 dBFS, and with it all that follows
    level_range_db: float | None = None  # from the 10th to the 95th percentile of levels over 50 ms, those 30 dB below the loudest left out
    level_trend_db: float | None = None  # change of those along a fitted line; 0 where it explains less than a third of their variance
    sounding_s: float | None = None  # time above a threshold 12 to 30 dB below the loudest moment, as the background allows
    events: int | None = None  # stretches of such time, pauses below 60 ms bridged
    event_s: float | None = None  # their median length
    pause_depth_db: float | None = None  # from the level down to the median level of the pauses; None without pauses
    attack_s: float | None = None  # median time in which events rise from 10% to 90% of their peak; None when all sound from the start
    median_frequency_hz: float | None = None  # half of the power lies below
    centroid_hz: float | None = None  # centre of gravity of the power
    rolloff_hz: float | None = None  # 85% of the power lie below
    low_share: float | None = None  # of the power, below 500 Hz
    middle_share: float | None = None
    high_share: float | None = None  # above 2 kHz
    bandwidth_octaves: float | None = None  # between the frequencies below which 5% and 95% of the power lie
    flatness: float | None = None  # geometric over arithmetic mean of the power spectrum, 100 Hz to 7 kHz
    tonality: float | None = None  # larger of harmonicity and the power's share in narrow peaks, mean over frames weighted by amplitude
    pitched_share: float | None = None  # of the amplitude, in frames with a harmonicity of at least 0.6
    pitch_hz: float | None = None  # median over those frames; None, as what follows of it, when they hold less than 0.3
    pitch_range: float | None = None  # semitones between its 10th and 90th percentile
    pitch_trend: float | None = None  # net movement, semitones a second of pitched sound, leaps of 3 semitones and more left out
    pitch_movement: float | None = None  # the same up and down
    fundamental_share: float | None = None  # median share of the power at the pitch, within a semitone
    overtone_share: float | None = None  # the same at its second and third harmonic
    onset_rate_hz: float | None = None
    rhythm_hz: float | None = None  # rate at which onsets repeat; None for fewer than 4
    regularity: float | None = None  # autocorrelation of the onsets at that rate, 0 to 1
    modulation_hz: float | None = None  # rate of the strongest line, if one stands out, in the amplitude's spectrum from 0.5 to 50 Hz
    modulation_depth: float | None = None  # its depth, 1 for full modulation


def measure(waveform: np.ndarray, rate_hz: int) -> Measurement:
    """Measure a mono sound [samples] (full scale 1) at `rate_hz`, in 20 ms of computing and a few times its memory for 5 s.

    Raises ValueError for anything but a row of finite samples. Sound shorter than 20 ms has no spectrum.
    """
    sound = np.asarray(waveform, dtype=np.float32)
    if sound.ndim != 1 or not len(sound):
        raise ValueError(f"a sound is a row of samples, not an array of shape {list(sound.shape)}")
    peak = max(float(sound.max()), -float(sound.min()))
    if not math.isfinite(peak):
        raise ValueError("a sound must not hold samples that are not finite")
    duration_s, step = len(sound) / rate_hz, max(1, round(STEP_S * rate_hz))
    if peak == 0:
        return Measurement(duration_s, 1.0)
    sound = sound / np.float32(peak)
    power, step_s = _step_power(sound, step), step / rate_hz
    found: Found = {"peak_dbfs": 20 * math.log10(peak)}
    silence = 10 ** (SILENCE_DBFS / 10) / peak**2
    share = float(np.mean(power < silence))
    if share < 1:
        found |= _envelope(power, step_s, silence) | _modulation(power, step_s)
        found["level_dbfs"] = 20 * math.log10(peak) + float(found["level_dbfs"] or 0)
        if rate_hz > TOP_RATE_HZ:
            sound, rate_hz = soxr.resample(sound, rate_hz, TOP_RATE_HZ), TOP_RATE_HZ
        found |= _spectral(sound, rate_hz, power, step_s)
    return Measurement(duration_s, share, **found)  # type: ignore[arg-type]


# --- The envelope -------------------------------------------------------------------------------------------------------------------------


def _step_power(sound: np.ndarray, step: int) -> np.ndarray:
    """Mean square of every whole step [steps] (float64); of all samples when there are fewer."""
    steps = sound[: len(sound) // step * step].reshape(-1, step) if len(sound) >= step else sound[None]
    return np.einsum("ij,ij->i", steps, steps, dtype=np.float64) / steps.shape[1]


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-30))


def _envelope(power: np.ndarray, step_s: float, silence: float) -> Found:
    """Level (relative to the peak), events and attack from the power [steps]."""
    smooth = scipy.ndimage.uniform_filter1d(power, 4)
    loudest = float(smooth.max())
    # Above the background if there is one, but not so far that a sound that hardly changes would have pauses.
    audible = smooth >= max(loudest * 1e-3, min(silence, loudest))
    sounding = audible & (smooth >= min(10 * float(np.percentile(smooth, 10)), loudest / 16))
    bridged = scipy.ndimage.binary_closing(np.pad(sounding, BRIDGED_STEPS), np.ones(BRIDGED_STEPS))[BRIDGED_STEPS:-BRIDGED_STEPS]
    starts, ends = np.flatnonzero(np.diff(np.pad(bridged.astype(np.int8), 1))).reshape(-1, 2).T
    attacks = [_attack_steps(power[start - 4 : end]) for start, end in zip(starts, ends, strict=True) if start >= 4]
    level = float(_decibels(power[sounding].mean()))
    count = int(np.count_nonzero(audible))
    parts = np.array_split(power[audible], min(count, max(1, round(count * step_s / 0.05))))
    course = _decibels(np.array([part.mean() for part in parts]))
    place = np.linspace(-0.5, 0.5, len(course))
    trend = float(np.polyfit(place, course, 1)[0]) if len(course) > 3 else 0.0
    return {
        "level_dbfs": level,
        "level_range_db": float(np.subtract(*np.percentile(course, [95, 10]))),
        "level_trend_db": trend if trend**2 * place.var() > course.var() / 3 else 0.0,
        "sounding_s": float(np.count_nonzero(sounding) * step_s),
        "events": len(starts),
        "event_s": float(np.median(ends - starts) * step_s),
        "pause_depth_db": None if bridged.all() else level - float(_decibels(np.median(smooth[~bridged]))),
        "attack_s": float(np.median(attacks) * step_s) if attacks else None,
    }


def _attack_steps(power: np.ndarray) -> int:
    """Steps from 10% to 90% of the highest amplitude, on the way up to it."""
    high = int(np.argmax(power >= 0.81 * power.max()))
    low = np.flatnonzero(power[: high + 1] < 0.01 * power.max())
    return high - (int(low[-1]) if len(low) else 0)


def _modulation(power: np.ndarray, step_s: float) -> Found:
    """Rate and depth of the strongest line, of two periods or more, in the spectrum of the amplitude."""
    amplitude = np.sqrt(power)
    window = np.hanning(len(amplitude) + 2)[1:-1]
    mean = float(np.average(amplitude, weights=window))
    size = scipy.fft.next_fast_len(4 * len(amplitude), real=True)
    depth = 2 * np.abs(scipy.fft.rfft((amplitude - mean) * window, size)) / max(mean * window.sum(), 1e-30)
    rate = np.arange(len(depth)) / (size * step_s)
    lines = scipy.signal.argrelmax(depth)[0]
    lines = lines[(rate[lines] >= max(MODULATION_HZ[0], 2 / (len(amplitude) * step_s))) & (rate[lines] <= MODULATION_HZ[1])]
    if not len(lines):
        return {}
    # A train of pulses has many lines of one height; the lowest of those nearly as high as the highest is its rate.
    best = int(lines[np.argmax(depth[lines] >= 0.75 * depth[lines].max())])
    if depth[best] < 3 * np.median(depth[best // 2 : 2 * best]):
        return {}
    return {"modulation_hz": float(rate[best]), "modulation_depth": min(1.0, float(depth[best]))}


# --- The spectrum -------------------------------------------------------------------------------------------------------------------------


@dataclass
class _Frames:
    """The sum of all power spectra, and of each frame: power, harmonicity, pitch, the shares of its power at the pitch, at two overtones and
    in narrow peaks, and the power in ONSET_BANDS_HZ."""

    spectrum: np.ndarray
    bin_hz: float
    power: np.ndarray
    harmonicity: np.ndarray
    pitch_hz: np.ndarray
    fundamental: np.ndarray
    overtones: np.ndarray
    peaks: np.ndarray
    bands: np.ndarray


def _analyse(sound: np.ndarray, rate_hz: int, window_s: float, hop: int, pitch_range_hz: tuple[float, float]) -> _Frames:
    """Analyse Hann frames centred at every hop; pitch by autocorrelation over the window's own (Boersma 1993, IFA Proceedings 17)."""
    length = round(window_s * rate_hz)
    size = scipy.fft.next_fast_len(2 * length, real=True)
    window = np.hanning(length + 2)[1:-1].astype(np.float32)
    own = scipy.fft.irfft(np.abs(scipy.fft.rfft(window, size)) ** 2, size)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, (length // 2, length)), length)[: len(sound) : hop]
    bin_hz = rate_hz / size
    squares = np.square(np.arange(size // 2 + 1, dtype=np.float32) * bin_hz)
    weighting = squares / (squares + RUMBLE_HZ**2)  # rumble seems to have a period, since few cycles fit a frame
    edges = [round(hertz / bin_hz) for hertz in ONSET_BANDS_HZ if hertz < rate_hz / 2]
    spectrum = np.zeros(size // 2 + 1)
    columns: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(frames), BLOCK_FRAMES):
        transform = scipy.fft.rfft(frames[start : start + BLOCK_FRAMES] * window, size)
        power = np.square(transform.real) + np.square(transform.imag)
        spectrum += power.sum(axis=0)
        below = np.zeros((len(power), size // 2 + 2))
        np.cumsum(power, axis=1, out=below[:, 1:])
        total = np.maximum(below[:, -1], 1e-30)
        period, harmonicity = _period(scipy.fft.irfft(power * weighting, size), own, rate_hz, pitch_range_hz)
        near = _power_near(below, np.array([[1], [2], [3]]) * size / period, 2.2 * size / length) / total
        # Without power at the pitch itself a multiple of the period was found: the strongest partial is the pitch.
        partial = np.where(near[0] > 0.004, 0, near.argmax(axis=0))
        fundamental, overtones = near[partial, np.arange(len(power))], np.where(partial > 0, 0, near[1] + near[2])
        peaks = _peak_power(power, below, size / length) / total
        pitch_hz, bands = (partial + 1) * rate_hz / period, np.add.reduceat(power, edges, axis=1)
        columns.append((total, harmonicity, pitch_hz, fundamental, overtones, peaks, bands))
    return _Frames(spectrum, bin_hz, *(np.concatenate(column) for column in zip(*columns, strict=True)))


def _period(correlation: np.ndarray, own: np.ndarray, rate_hz: int, pitch_range_hz: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Period in samples and harmonicity [frames] from autocorrelations [frames, lags]; harmonicity 0 where there is no peak."""
    first, last = max(2, math.floor(rate_hz / pitch_range_hz[1])), max(2, math.ceil(rate_hz / pitch_range_hz[0]))
    lags = slice(first - 1, last + 2)
    ratio = correlation[:, lags] * (own[0] / own[lags]) / np.maximum(correlation[:, :1], 1e-30)
    left, middle, right = ratio[:, :-2], ratio[:, 1:-1], ratio[:, 2:]
    slope, curve = 0.5 * (right - left), np.minimum(left - 2 * middle + right, -1e-9)
    height = middle - 0.5 * slope * slope / curve  # of the parabola through three points
    score = height - (OCTAVE_COST * np.log2(np.arange(first, last + 1) / first)).astype(np.float32)
    score[(middle <= left) | (middle < right)] = -1
    frames, best = np.arange(len(score)), score.argmax(axis=1)
    found = score[frames, best] > -1
    shift = np.where(found, -slope[frames, best] / curve[frames, best], 0)
    return first + best + shift, np.where(found, np.clip(height[frames, best], 0, 1), 0)


def _power_near(below: np.ndarray, bins: np.ndarray, width: float) -> np.ndarray:
    """Power [n, frames] within a semitone, at least `width` bins, of the places `bins`, from the power below each bin [frames, bins + 1]."""
    half = np.maximum(width, 0.06 * bins)
    low, high = (np.clip(np.round(edge).astype(int), 0, below.shape[1] - 1) for edge in (bins - half, bins + half + 1))
    frames = np.arange(len(below))
    return below[frames, high] - below[frames, low]


def _peak_power(power: np.ndarray, below: np.ndarray, resolution: float) -> np.ndarray:
    """Power [frames] in bins 10 dB above the mean on both sides, 2.5 to 4 times the resolution (in bins) away."""
    near, far = round(2.5 * resolution), round(4 * resolution)
    bins = power.shape[1] - 2 * far
    if bins < 1:
        return np.zeros(len(power))
    side = (below[:, far - near :] - below[:, : near - far]) / (far - near)  # from each bin on
    middle = power[:, far:-far]
    return (middle * (middle > 10 * np.maximum(side[:, :bins], side[:, far + near : far + near + bins]))).sum(axis=1)


def _spectral(sound: np.ndarray, rate_hz: int, power: np.ndarray, step_s: float) -> Found:
    """What is measured on frames of sound; `power` is the envelope in steps of `step_s`."""
    if len(sound) < SHORT_S * rate_hz or SHORT_S * rate_hz < 8:
        return {}
    hop = round(HOP_S * rate_hz)
    long, short = _analyse(sound, rate_hz, LONG_S, 2 * hop, LONG_PITCH_HZ), _analyse(sound, rate_hz, SHORT_S, hop, SHORT_PITCH_HZ)
    count = len(short.power)

    def of_long(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, 2)[:count]

    short_is_better = short.harmonicity > of_long(long.harmonicity) + 0.05
    harmonicity, pitch, fundamental, overtones = (
        np.where(short_is_better, getattr(short, name), of_long(getattr(long, name)))
        for name in ("harmonicity", "pitch_hz", "fundamental", "overtones")
    )
    # A slow swing under a fast ripple also correlates; of a true pitch the first harmonics hold power, of a high one most of it.
    harmonicity = harmonicity * (fundamental > 0.004) * (fundamental + overtones > np.where(pitch < 1000, 0.05, 0.3))
    # The ringing of a click, all within one step of the envelope, is no tone.
    lasting = scipy.ndimage.maximum_filter1d(power, 4) < 3 * scipy.ndimage.uniform_filter1d(power, 4)
    lasting = lasting[np.minimum((np.arange(count) * hop / rate_hz / step_s).astype(int), len(power) - 1)]
    weight = np.sqrt(short.power) * (short.power > 1e-3 * short.power.max())
    tonality = np.maximum(harmonicity, of_long(long.peaks)) * lasting
    pitched = (harmonicity * lasting >= 0.6) & (weight > 0)
    share = float(weight[pitched].sum() / weight.sum())
    found: Found = {"tonality": float(np.average(tonality, weights=weight)), "pitched_share": share}
    if share >= 0.3:
        found |= _pitch(pitch, pitched, hop / rate_hz)
        found["fundamental_share"], found["overtone_share"] = float(np.median(fundamental[pitched])), float(np.median(overtones[pitched]))
    return found | _shape(long.spectrum, long.bin_hz, rate_hz) | _onsets(_decibels(short.bands), hop / rate_hz)


def _pitch(pitch_hz: np.ndarray, pitched: np.ndarray, hop_s: float) -> Found:
    """Pitch and its movement, of the median over five frames, from frame to frame of those that are pitched."""
    low, middle, high = np.percentile(pitch_hz[pitched], [10, 50, 90])
    found: Found = {"pitch_hz": float(middle), "pitch_range": float(12 * np.log2(high / low))}
    moves = np.diff(scipy.ndimage.median_filter(12 * np.log2(pitch_hz), 5))[pitched[1:] & pitched[:-1]]
    moves = moves[np.abs(moves) < 3]
    if len(moves) >= 8:
        seconds = len(moves) * hop_s
        found |= {"pitch_trend": float(moves.sum() / seconds), "pitch_movement": float(np.abs(moves).sum() / seconds)}
    return found


def _shape(spectrum: np.ndarray, bin_hz: float, rate_hz: int) -> Found:
    """Shape of a power spectrum [bins]."""
    frequency = np.arange(len(spectrum)) * bin_hz
    below, upper = np.cumsum(spectrum) / spectrum.sum(), frequency + bin_hz / 2
    low, median, rolloff, high = np.interp([0.05, 0.5, 0.85, 0.95], below, upper)
    low_share, high_share = np.interp(LOW_HZ, upper, below), 1 - np.interp(HIGH_HZ, upper, below)
    band = spectrum[(frequency >= 100) & (frequency <= min(7000, 0.45 * rate_hz))]
    return {
        "median_frequency_hz": float(median),
        "centroid_hz": float(np.average(frequency, weights=spectrum)),
        "rolloff_hz": float(rolloff),
        "low_share": float(low_share),
        "middle_share": float(1 - low_share - high_share),
        "high_share": float(high_share),
        "bandwidth_octaves": float(np.log2(high / max(low, 1.0))),
        "flatness": float(np.exp(np.log(np.maximum(band, 1e-30)).mean()) / max(float(band.mean()), 1e-30)) if len(band) else None,
    }


def _onsets(levels: np.ndarray, hop_s: float) -> Found:
    """Onsets, and how regularly they come, from levels in octave bands [frames, bands] in dB: peaks of what all rise by within two hops
    beyond 6 dB each, 8 dB high at least."""
    levels = np.maximum(levels, levels.max() - 50)
    strength = np.zeros(len(levels))
    strength[3:] = np.maximum(levels[3:] - levels[1:-2] - 6, 0).sum(axis=1)
    onsets, _ = scipy.signal.find_peaks(strength, height=8, prominence=8, distance=4)
    found: Found = {"onset_rate_hz": len(onsets) / (len(levels) * hop_s)}
    if len(onsets) < 4:
        return found
    train = np.zeros(len(levels))
    train[onsets] = np.minimum(strength[onsets], 60)
    train = np.convolve(train, [0.3, 0.7, 1, 0.7, 0.3], mode="same")
    train -= train.mean()
    size = scipy.fft.next_fast_len(2 * len(train), real=True)
    correlation = scipy.fft.irfft(np.abs(scipy.fft.rfft(train, size)) ** 2, size)[: len(train) // 3]
    correlation /= correlation[0] * (1 - np.arange(len(correlation)) / len(train))
    peaks = scipy.signal.argrelmax(correlation)[0]
    peaks = peaks[(peaks >= 4) & (correlation[peaks] > 0)]
    if not len(peaks):
        return found
    best = int(peaks[np.argmax(correlation[peaks] >= 0.8 * correlation[peaks].max())])
    return found | {"rhythm_hz": 1 / (best * hop_s), "regularity": min(1.0, float(correlation[best]))}
