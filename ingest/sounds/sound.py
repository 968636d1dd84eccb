"""Sound files: decoding to mono, bringing to a network's rate and length, and the measurements stored with every clip."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000
MAX_DURATION_S = 24 * 3600
# Un-normalised 32-bit integers stored as floats reach this; anything beyond is not sound but damage.
MAX_SAMPLE = 2.0**31
SILENCE_POWER = 1e-6  # -60 dBFS
SILENCE_FRAME_S = 0.02
SPECTRUM_FRAME_S = 0.08
# Sound kept on both sides of the middle of a long file, so that the resampler never sees a false edge there.
MARGIN_S = 0.25
BLOCK_SAMPLES = 1 << 21
# Programs that write to a pipe leave a size like these in the header, because they cannot come back to fill it in.
UNKNOWN_SIZE = 0x7FFF0000
# How libsndfile's log reports that a WAV, AIFF or AU file holds fewer bytes of sound than its header promises.
SHORT_DATA = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)


class SoundError(Exception):
    """A file that cannot be used as a clip; the message is the reason in one line, without the path."""


def decode(path: Path, *, middle_s: float | None = None) -> tuple[np.ndarray, int, int]:
    """Decode a sound file and mix it to mono by the mean over its channels.

    Returns the samples (float32 [samples], full scale 1, at least one), the file's sample rate in hertz and its number of channels.
    With `middle_s` only the middle `middle_s` seconds of a longer file are read, one sample more where the file's middle needs it; without,
    memory is 4 bytes a sample for the whole file. The content decides the format, not the ending of the name (but .raw is refused).

    Raises SoundError for a file that is missing, unreadable, empty, not audio, truncated, longer than 24 hours, without samples, with a
    sample rate outside 1 to 768 kHz, or with samples that are not finite.
    """
    with _opened(path) as file:
        start, count = 0, None
        if middle_s is not None:
            start, count = _middle(file.frames, round(middle_s * file.samplerate))
        blocks = list(_mono_blocks(file, start, count))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), file.samplerate, file.channels


def fit(mono: np.ndarray, rate_hz: int, *, sample_rate_hz: int, clip_s: float) -> tuple[np.ndarray, float]:
    """Bring mono sound [samples] at `rate_hz` to exactly round(clip_s * sample_rate_hz) samples at `sample_rate_hz`.

    Resamples with soxr's HQ quality, then pads with zeros on the right or takes the middle. Returns the samples (float32; resampling may
    overshoot full scale slightly) and the seconds of real sound in them, at most `clip_s`.
    """
    samples = round(clip_s * sample_rate_hz)
    real_s = min(len(mono) / rate_hz, clip_s)
    start, count = _middle(len(mono), round((clip_s + 2 * MARGIN_S) * rate_hz))
    mono = mono[start : start + count]
    if rate_hz != sample_rate_hz:
        mono = soxr.resample(mono, rate_hz, sample_rate_hz, quality="HQ")
    start, count = (len(mono) - samples) // 2, len(mono)
    if start > 0:
        mono = mono[start:]
    if count >= samples:
        return np.ascontiguousarray(mono[:samples], dtype=np.float32), real_s
    fitted = np.zeros(samples, dtype=np.float32)
    fitted[:count] = mono
    return fitted, real_s


def load(path: Path, *, sample_rate_hz: int, clip_s: float) -> tuple[np.ndarray, float]:
    """Decode and fit a file for a network, reading no more of it than is needed: the same result as `fit` of the whole `decode`.

    Returns what `fit` returns; raises SoundError as `decode` does.
    """
    mono, rate_hz, _ = decode(path, middle_s=clip_s + 2 * MARGIN_S)
    return fit(mono, rate_hz, sample_rate_hz=sample_rate_hz, clip_s=clip_s)


def measure(mono: np.ndarray, rate_hz: int) -> dict[str, float | None]:
    """Measure mono sound [samples] at `rate_hz`: the columns of table clip that describe the signal.

    `duration_s`; `rms_dbfs` and `peak_dbfs` relative to full scale 1; `median_frequency_hz`, below which half of the power spectrum lies;
    `silence_share`, the share of whole 20 ms frames below -60 dBFS (sound shorter than a frame is one frame). Levels and frequency are
    None for digital silence. The spectrum is averaged over frames of at least 80 ms (a power of two samples) overlapping by half under
    a sine window, whose squares add up to one, so that every sample counts the same (Welch 1967, DOI 10.1109/TAU.1967.1161901); within a
    bin the frequency is interpolated.
    """
    meter = _Meter(rate_hz)
    meter.add(mono)
    return meter.result()


def measure_file(path: Path) -> dict[str, float | int | None]:
    """Decode and measure a file of any length block by block: what `measure` returns, and `sample_rate_hz` and `channels`.

    Needs about 100 MB at the most. Raises SoundError as `decode` does.
    """
    with _opened(path) as file:
        meter = _Meter(file.samplerate)
        for block in _mono_blocks(file, 0, None):
            meter.add(block)
        return meter.result() | {"sample_rate_hz": file.samplerate, "channels": file.channels}


def _middle(total: int, wanted: int) -> tuple[int, int]:
    """First sample and length of the middle of `total` samples: `wanted` of them, or one more so that both sides lose the same.

    Equal sides make the middle of a middle the middle of the whole, to the sample.
    """
    wanted += (total - wanted) % 2
    return ((total - wanted) // 2, wanted) if total > wanted else (0, total)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a file that looks whole, turning whatever goes wrong, also later in the block, into SoundError."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise SoundError("not a file")
        if found.st_size == 0:
            raise SoundError("empty file (0 bytes)")
        # A path in bytes also serves names that are not valid UTF-8.
        file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else str(path))
    except FileNotFoundError:
        raise SoundError("file not found") from None
    except OSError as error:
        raise SoundError(f"cannot be read: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        if not os.access(path, os.R_OK):
            raise SoundError("cannot be read: permission denied") from None
        raise SoundError(f"not audio that libsndfile can read: {_one_line(error.error_string)}") from None
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise SoundError(f"not audio that libsndfile can read: {_one_line(str(error))}") from None
    with file:
        _check_header(file, path)
        yield file


def _check_header(file: soundfile.SoundFile, path: Path) -> None:
    """Refuse a file whose header shows that it cannot be used, before anything is read or allocated."""
    if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        raise SoundError(f"sample rate {file.samplerate} Hz is outside {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    if file.frames == 0:
        raise SoundError("no samples")
    if file.frames >= 1 << 62:
        raise SoundError("its header does not say how long it is, which libsndfile needs; encode it again")
    if file.frames > MAX_DURATION_S * file.samplerate:
        raise SoundError(f"{file.frames / file.samplerate / 3600:.0f} hours long; the limit is {MAX_DURATION_S // 3600}")
    if file.format == "OGG":
        if not _ogg_ends(path):
            raise SoundError("truncated: the Ogg stream has no last page")
    elif file.format != "FLAC" and (short := SHORT_DATA.search(file.extra_info)):
        promised, present = int(short[1]), int(short[2])
        if promised < UNKNOWN_SIZE and present < 0.99 * promised:
            raise SoundError(f"truncated: {present} of {promised} bytes of sound are there")


def _ogg_ends(path: Path) -> bool:
    """Whether the last page of an Ogg file is marked as the stream's end (RFC 3533, section 6); True when no page is in reach."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))  # the longest page has 65307 bytes
        tail = file.read()
    page = tail.rfind(b"OggS")
    return page < 0 or page + 5 >= len(tail) or bool(tail[page + 5] & 4)


def _mono_blocks(file: soundfile.SoundFile, start: int, count: int | None) -> Iterator[np.ndarray]:
    """Yield mono blocks (float32 [samples]) from frame `start`, `count` frames or to the end; raise in the end if these were no sound."""
    whole = start == 0 and (count is None or count == file.frames)
    remaining = file.frames - start if count is None else count
    size = max(1, BLOCK_SAMPLES // file.channels)
    done = bad = 0
    peak = 0.0
    try:
        if start:
            file.seek(start)
        while remaining > 0:
            block = file.read(min(size, remaining), dtype="float32")
            if not len(block):
                break
            top = max(float(block.max()), -float(block.min()))
            if top < np.inf:
                peak = max(peak, top)
            else:  # also where the comparison is with NaN
                bad += int(np.count_nonzero(~np.isfinite(block)))
            done += len(block)
            remaining -= len(block)
            yield _mix(block)
    except (soundfile.SoundFileError, ValueError) as error:
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        raise SoundError(f"broken after {(start + done) / file.samplerate:.2f} s: {_one_line(reason)}") from None
    if not done:
        raise SoundError("no samples")
    if bad:
        raise SoundError(f"holds {bad} non-finite samples (NaN or infinite)")
    if peak > MAX_SAMPLE:
        raise SoundError(f"samples reach {peak:.0e} times full scale")
    # An MP3 without a Xing or Info header only lets libsndfile guess its length; what was read is then all there is.
    if whole and done < 0.99 * file.frames and not (file.format == "MP3" and _length_is_guess(file)):
        raise SoundError(f"truncated: {done / file.samplerate:.2f} of {file.frames / file.samplerate:.2f} s are there")


def _length_is_guess(file: soundfile.SoundFile) -> bool:
    with open(file.name, "rb") as raw:
        head = raw.read(1 << 20)
    return not any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


def _mix(block: np.ndarray) -> np.ndarray:
    """Mean over the channels of [samples, channels]. Column by column is several times faster than numpy's mean over a short axis."""
    if block.ndim == 1:
        return block
    mono = block[:, 0].copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for channel in range(1, block.shape[1]):
            mono += block[:, channel]
    mono /= block.shape[1]
    return mono


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")[:200]


class _Meter:
    """Gathers, over consecutive blocks of mono sound, what `measure` reports."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.samples = 0
        self.power = 0.0
        self.peak = 0.0
        self.frame = max(1, round(SILENCE_FRAME_S * rate_hz))
        self.frames = self.silent_frames = 0
        self.frame_rest = np.zeros(0)
        self.length = 1 << int(np.ceil(np.log2(SPECTRUM_FRAME_S * rate_hz)))
        self.hop = self.length // 2
        self.window = np.sin(np.pi * (np.arange(self.length) + 0.5) / self.length)
        self.spectrum = np.zeros(self.hop + 1)
        # Half a frame of zeros before the first sample lets it, too, be seen by two frames.
        self.spectrum_rest = np.zeros(self.hop)

    def add(self, mono: np.ndarray) -> None:
        # float64 throughout: neither the smallest nor the greatest float32 leaves its range when squared.
        for start in range(0, len(mono), BLOCK_SAMPLES // 2):
            block = mono[start : start + BLOCK_SAMPLES // 2].astype(np.float64)
            self.samples += len(block)
            self.power += float(np.square(block).sum())
            self.peak = max(self.peak, float(block.max()), -float(block.min()))
            self._add_frames(block)
            self._add_spectrum(block)

    def _add_frames(self, block: np.ndarray) -> None:
        sound = np.concatenate([self.frame_rest, block])
        whole = len(sound) // self.frame * self.frame
        frames = sound[:whole].reshape(-1, self.frame)
        self.frames += len(frames)
        self.silent_frames += int(np.count_nonzero(np.square(frames).mean(axis=1) < SILENCE_POWER))
        self.frame_rest = sound[whole:]

    def _add_spectrum(self, block: np.ndarray) -> None:
        sound = np.concatenate([self.spectrum_rest, block])
        count = max(0, (len(sound) - self.length) // self.hop + 1)
        if count:
            frames = np.lib.stride_tricks.sliding_window_view(sound, self.length)[:: self.hop]
            for start in range(0, count, 64):  # few enough to stay in the processor's cache
                spectra = np.fft.rfft(frames[start : start + 64] * self.window)
                self.spectrum += (np.square(spectra.real) + np.square(spectra.imag)).sum(axis=0)
        self.spectrum_rest = sound[count * self.hop :]

    def result(self) -> dict[str, float | None]:
        if not self.samples:
            raise SoundError("no samples")
        quiet = float(self.power / self.samples < SILENCE_POWER)
        heard = self.peak > 0
        return {
            "duration_s": self.samples / self.rate_hz,
            "rms_dbfs": 10 * float(np.log10(self.power / self.samples)) if heard else None,
            "peak_dbfs": 20 * float(np.log10(self.peak)) if heard else None,
            "median_frequency_hz": self._median_frequency_hz() if heard else None,
            "silence_share": self.silent_frames / self.frames if self.frames else quiet,
        }

    def _median_frequency_hz(self) -> float:
        # Zeros after the last sample until it, too, has been seen by two frames.
        self._add_spectrum(np.zeros(-len(self.spectrum_rest) % self.hop + self.hop))
        power = self.spectrum.copy()
        power[1:-1] *= 2  # every frequency but 0 and the highest stands also for its negative
        reached = np.cumsum(power)
        half = reached[-1] / 2
        bin_ = int(np.searchsorted(reached, half))
        step = self.rate_hz / self.length
        low, high = max(0.0, bin_ - 0.5), min(bin_ + 0.5, float(self.hop))
        share = (half - (reached[bin_] - power[bin_])) / power[bin_]
        return step * (low + share * (high - low))
