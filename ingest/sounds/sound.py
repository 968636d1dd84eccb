"""Sound files: decoding to mono, bringing to a network's rate and length, and the measurements stored with every clip."""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from ingest.sounds.streams import Opened, SoundError, Stream, streams
from warehouse import containers

MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000
MAX_DURATION_S = 24 * 3600
# 24 dB above full scale: mixes and overshoots of lossy codecs stay below, integers stored as floats do not.
MAX_SAMPLE = 16.0
DAMAGE = 2.0**31  # beyond the largest integers, too
AT_SCALE = "divide them by the largest integer (32768 for 16 bits) and write the file again"
SILENCE_POWER = 1e-6  # -60 dBFS
SILENCE_FRAME_S = 0.02
SPECTRUM_FRAME_S = 0.08
# Sound kept on both sides of the middle of a long file, so that the resampler never sees a false edge there.
MARGIN_S = 0.25
BLOCK_SAMPLES = 1 << 21
# Programs that write to a pipe leave a size like these in the header, because they cannot come back to fill it in.
UNKNOWN_SIZE = 0x7FFF0000
# Libsndfile finds a place in these exactly; in others it has none, or sound there that differs from the whole file's.
EXACT = frozenset(("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"))
# How libsndfile's log reports that a WAV, AIFF or AU file holds fewer bytes of sound than its header promises.
SHORT_DATA = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)


def decode(path: Path, *, middle_s: float | None = None) -> tuple[np.ndarray, int, int]:
    """Decode a sound file and mix it to mono by the mean over its channels.

    Returns the samples (float32 [samples], full scale 1, at least one), the file's sample rate in hertz and its number of channels.
    With `middle_s` only the middle `middle_s` seconds of a longer file are given, one sample more where the file's middle needs it: the same
    samples as those of the whole. Without, memory is 4 bytes a sample for the whole file. The content decides the format, not the ending of
    the name (but .raw is refused). Joined MP3, Ogg and FLAC files are one sound.

    Raises SoundError for a file that is missing, unreadable, empty, not audio, truncated, longer than 24 hours, without samples, with a
    sample rate outside 1 to 768 kHz, or with samples that are not finite or far above full scale.
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


def length_s(path: Path) -> float:
    """Seconds of a sound file, of which no more is decoded than that takes. Raises SoundError as `decode` does for what its header shows."""
    with _opened(path) as file:
        return file.frames / file.samplerate


def measure(mono: np.ndarray, rate_hz: int) -> dict[str, float | None]:
    """Measure mono sound [samples] at `rate_hz`: the columns of table clip that describe the signal.

    `duration_s`; `rms_dbfs` and `peak_dbfs` relative to full scale 1; `mean_amplitude`, the mean of absolute values; `median_frequency_hz`, below
    which half of the power spectrum lies;
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


def sought_amiss(path: Path) -> bool:
    """Whether a part of this file, sought by libsndfile, could not be had or could differ from that of the whole: MP3, and what has no seeking."""
    try:
        with containers.opened(path) as raw, soundfile.SoundFile(_plain(path, raw)) as file:
            return file.format == "MP3" or not file.seekable()
    except (OSError, TypeError, ValueError, soundfile.SoundFileError):
        return False


def read_by_streams(path: Path) -> bool:
    """Whether libsndfile by itself would take the file for another length than it has, so that it is read (or refused) by its streams."""
    try:
        found = streams(path)
        plain = [stream.samples for stream in found] if len(found) == 1 and found[0].endless else []
        with containers.opened(path) as raw:
            return bool(found) and plain != [soundfile.info(_plain(path, raw)).frames]
    except SoundError:
        return True
    except (OSError, TypeError, ValueError, soundfile.SoundFileError):
        return False


def _middle(total: int, wanted: int) -> tuple[int, int]:
    """First sample and length of the middle of `total` samples: `wanted` of them, or one more so that both sides lose the same.

    Equal sides make the middle of a middle the middle of the whole, to the sample.
    """
    wanted += (total - wanted) % 2
    return ((total - wanted) // 2, wanted) if total > wanted else (0, total)


class _Sound:
    """An opened sound file, or its streams one after the other."""

    def __init__(self, path: Path, file: soundfile.SoundFile, found: list[Stream]) -> None:
        self.path = path
        self.file = file
        self.streams = found
        self.samplerate, self.channels = file.samplerate, file.channels

    @functools.cached_property
    def endless(self) -> bool:
        """Whether only decoding tells the length."""
        return any(stream.endless for stream in self.streams)

    @functools.cached_property
    def frames(self) -> int:
        """Samples in all, a channel."""
        if not self.streams:
            return self.file.frames
        size = max(1, BLOCK_SAMPLES // self.channels)
        return sum(len(block) for block in self.blocks(size)) if self.endless else sum(part.frames for part in self._parts())

    def blocks(self, size: int, start: int = 0) -> Iterator[np.ndarray]:
        """Blocks (float32 [samples] or [samples, channels]) of at most `size` from sample `start` on: where seeking is not exact, what lies
        before is decoded, too."""
        exact = not self.streams and self.file.subtype in EXACT and self.file.seekable()
        done = start if exact else 0
        try:
            if exact:
                self.file.seek(start)
            for part in self._parts():
                read = 0
                while len(block := part.read(size, dtype="float32")):
                    read += len(block)
                    done += len(block)
                    if done > start:
                        yield block[max(0, len(block) - done + start) :]
                    if len(block) < size:
                        break
                if self.streams and not self.endless and read < 0.99 * part.frames:
                    raise SoundError(f"truncated: {read / self.samplerate:.2f} of {part.frames / self.samplerate:.2f} s are there")
        except (soundfile.SoundFileError, ValueError) as error:
            reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
            raise SoundError(f"broken after {done / self.samplerate:.2f} s: {_one_line(reason)}") from None

    def _parts(self) -> Iterator[soundfile.SoundFile]:
        if not self.streams:
            yield self.file
        for stream in self.streams:
            with containers.opened(self.path) as file, soundfile.SoundFile(Opened(file, stream)) as part:
                if (part.samplerate, part.channels) != (self.samplerate, self.channels):
                    raise SoundError(
                        f"joins sounds of {self.samplerate} Hz x {self.channels} and {part.samplerate} Hz x {part.channels} channels; "
                        "part them"
                    )
                yield part


@contextmanager
def _opened(path: Path) -> Iterator[_Sound]:
    """Open a file that looks whole, turning whatever goes wrong, also later in the block, into SoundError."""
    try:
        raw = containers.opened(path)  # closed below
        if not raw.read(1):
            raise SoundError("empty file (0 bytes)")
        raw.seek(0)
        parts = streams(path)
        file = soundfile.SoundFile(Opened(raw, parts[0]) if parts else _plain(path, raw))
    except FileNotFoundError:
        raise SoundError("file not found") from None
    except PermissionError:
        raise SoundError("cannot be read: permission denied") from None
    except OSError as error:
        raise SoundError(str(error) if isinstance(error, containers.Unfit) else f"cannot be read: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        raise SoundError(f"not audio that libsndfile can read: {_one_line(error.error_string)}") from None
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise SoundError(f"not audio that libsndfile can read: {_one_line(str(error))}") from None
    with raw, file:
        sound = _Sound(path, file, parts)
        _check_header(sound, raw)
        yield sound


def _plain(path: Path, raw: BinaryIO) -> bytes | str | BinaryIO:
    """What libsndfile is given of an opened file that it reads by itself: a path in bytes also serves names that are not valid UTF-8."""
    return raw if isinstance(raw, io.BytesIO) else os.fsencode(path) if os.name == "posix" else str(path)


def _check_header(sound: _Sound, raw: BinaryIO) -> None:
    """Refuse a file whose header shows that it cannot be used, before anything is read or allocated."""
    file = sound.file
    if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        raise SoundError(f"sample rate {file.samplerate} Hz is outside {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    if file.frames == 0:
        size = raw.seek(0, os.SEEK_END)
        raise SoundError("no samples" if size < 4096 else f"no samples, its header says, though it has {size} bytes; encode it again")
    if file.frames >= 1 << 62:
        raise SoundError("its header does not say how long it is, which libsndfile needs; encode it again")
    if not sound.endless and file.frames > MAX_DURATION_S * file.samplerate:
        raise SoundError(f"{file.frames / file.samplerate / 3600:.0f} hours long; the limit is {MAX_DURATION_S // 3600}")
    if file.format == "OGG":
        if not _ogg_ends(raw):
            raise SoundError("truncated: the Ogg stream has no last page")
    elif file.format != "FLAC" and (short := SHORT_DATA.search(file.extra_info)):
        promised, present = int(short[1]), int(short[2])
        if promised < UNKNOWN_SIZE and present < 0.99 * promised:
            raise SoundError(f"truncated: {present} of {promised} bytes of sound are there")


def _ogg_ends(raw: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is marked as the stream's end (RFC 3533, section 6); True when no page is in reach."""
    place = raw.tell()  # libsndfile's, where it reads this file
    raw.seek(max(0, raw.seek(0, os.SEEK_END) - 65536))  # the longest page has 65307 bytes
    tail = raw.read()
    raw.seek(place)
    page = tail.rfind(b"OggS")
    return page < 0 or page + 5 >= len(tail) or bool(tail[page + 5] & 4)


def _mono_blocks(sound: _Sound, start: int, count: int | None) -> Iterator[np.ndarray]:
    """Yield mono blocks (float32 [samples]) from sample `start`, `count` or to the end; raise in the end if these were no sound."""
    done = bad = 0
    peak, whole_numbers = 0.0, sound.file.subtype in ("FLOAT", "DOUBLE")
    for block in sound.blocks(max(1, BLOCK_SAMPLES // sound.channels), start):
        if count is not None:
            block = block[: count - done]
        top = max(float(block.max()), -float(block.min()))
        if top < np.inf:
            peak = max(peak, top)
        else:  # also where the comparison is with NaN
            bad += int(np.count_nonzero(~np.isfinite(block)))
        whole_numbers = whole_numbers and top < np.inf and not np.any(block - np.rint(block))
        done += len(block)
        if done > MAX_DURATION_S * sound.samplerate:
            raise SoundError(f"more than {MAX_DURATION_S // 3600} hours long, which is the limit")
        yield _mix(block)
        if done == count:
            break
    if not done:
        raise SoundError("no samples")
    if bad:
        raise SoundError(f"holds {bad} non-finite samples (NaN or infinite)")
    if peak > DAMAGE:
        raise SoundError(f"samples reach {peak:.0e} times full scale")
    if peak > MAX_SAMPLE:
        raise SoundError(f"samples reach {peak:.0f} times full scale; if they are integers stored as floats, {AT_SCALE}")
    whole = start == 0 and (count is None or count == sound.frames)
    if whole and whole_numbers and peak > 1:
        raise SoundError(f"samples are integers up to {peak:.0f} stored as floats, whose full scale is 1; {AT_SCALE}")
    if whole and not sound.streams and done < 0.99 * sound.frames:
        raise SoundError(f"truncated: {done / sound.samplerate:.2f} of {sound.frames / sound.samplerate:.2f} s are there")


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
        self.power = self.amplitude = 0.0
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
            self.amplitude += float(np.abs(block).sum())
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
                with np.errstate(invalid="ignore"):  # sound that is not finite is refused at its end
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
            "mean_amplitude": self.amplitude / self.samples,
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
