"""The starter sounds: 225 short clips in 15 of AudioSet's classes, synthesised from a seed, so that Auricle can be tried without data."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from warehouse.store import UserError

VERSION = 2
CLIPS_PER_CLASS = 15
FOLDS = 5
RATES_HZ = (16_000, 22_050, 16_000, 44_100, 22_050)
MARKER = "starter.json"
ABANDONED_S = 3600.0


def write_starter(folder: Path, seed: int = 0) -> None:
    """Write the starter sounds to `folder` as an audiofolder: metadata.csv and CLASS/NN.wav (mono, 16 bit); nothing when they are intact.

    metadata.csv has the columns file_name, class (AudioSet's display name), octave (of the pitch, in scientific notation; empty for sounds
    without one), course (steady, gliding or repeated) and fold (1 to 5). The same seed gives the same bytes. The folder appears whole or
    not at all; damaged files of an earlier one are replaced, others left alone. Raises UserError when the folder cannot be written or
    holds something else.
    """
    if _is_intact(folder, seed):
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        if folder.exists() and not (folder / MARKER).exists() and any(folder.iterdir()):
            raise UserError(f"{folder} holds something other than the starter sounds: give another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}.*.tmp"):
            with contextlib.suppress(OSError):  # another process may be removing it, too
                if time.time() - left.stat().st_mtime > ABANDONED_S:
                    shutil.rmtree(left, ignore_errors=True)
        try:
            names = _write_files(temporary, seed)
            _move(temporary, folder, names)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write the starter sounds to {folder}: {error.strerror or error}; give another folder") from None


def _is_intact(folder: Path, seed: int) -> bool:
    """Whether the marker, written last, is of this version and seed and every file has the hash it says."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if (marker["version"], marker["seed"]) != (VERSION, seed) or len(marker["files"]) != 1 + CLIPS_PER_CLASS * len(SOUNDS):
            return False
        return all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256 for name, sha256 in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_files(folder: Path, seed: int) -> list[str]:
    """Write metadata, sounds and marker to a new folder; returns their names, the marker last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files: dict[str, str] = {}

    def write(name: str, content: bytes) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        files[name] = hashlib.sha256(content).hexdigest()

    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file_name", "class", "octave", "course", "fold"])
    for class_index, (class_name, (course, make)) in enumerate(SOUNDS.items()):
        for index in range(CLIPS_PER_CLASS):
            clip = Clip(seed, class_index, index)
            sound = make(clip)
            name = f"{class_name.split(',')[0].lower().replace(' ', '_')}/{index + 1:02}.wav"
            write(name, _wav(clip.finish(sound), clip.rate_hz))
            octave = "" if clip.pitch_hz is None else octave_of(clip.pitch_hz)
            rows.writerow([name, class_name, octave, course, index % FOLDS + 1])
    write("metadata.csv", table.getvalue().encode())
    (folder / MARKER).write_text(json.dumps({"version": VERSION, "seed": seed, "files": files}, indent=1) + "\n", encoding="utf-8")
    return [*files, MARKER]


def octave_of(pitch_hz: float) -> int:
    """Octave in scientific notation of the nearest note in equal temperament, A4 being 440 Hz: a quarter tone below C is still that C's."""
    return round(69 + 12 * math.log2(pitch_hz / 440)) // 12 - 1


def _move(temporary: Path, folder: Path, names: list[str]) -> None:
    """Put the new folder in place: at once where there is none yet (or an empty one), else file by file, the marker last."""
    try:
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():
            raise
        (folder / MARKER).unlink(missing_ok=True)
        (folder / MARKER).write_text("{}", encoding="utf-8")  # says whose folder it is, and that it is not whole
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(temporary / name, folder / name)


def _wav(samples: np.ndarray, rate_hz: int) -> bytes:
    """A 16-bit mono WAV file of samples within full scale 1. Written here because encoders may change their bytes with their version."""
    data = np.rint(samples * 32767).astype("<i2").tobytes()
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, rate_hz * 2, 2, 16) + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(header) + len(data)) + header + data


class Clip:
    """What one clip is made of: its rate, its length, its place among its class's clips, and chance.

    Random numbers come from PCG64's raw bits, which numpy promises to keep, unlike its distributions. All is float64, and rounding to
    16 bits hides the last-bit differences of sines between machines.
    """

    def __init__(self, seed: int, class_index: int, index: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, class_index, index]))
        self.index = index
        self.place = (index * 7 % CLIPS_PER_CLASS) / (CLIPS_PER_CLASS - 1)
        self.rate_hz = RATES_HZ[(index + class_index) % len(RATES_HZ)]
        self.seconds = self.between(2.0, 4.0)
        self.samples = round(self.seconds * self.rate_hz)
        self.t = np.arange(self.samples) / self.rate_hz
        self.level_db = self.between(-20.0, -3.0)
        self.pitch_hz: float | None = None

    def uniform(self, size: int) -> np.ndarray:
        """Numbers from 0 to below 1."""
        return (self._bits.random_raw(size) >> np.uint64(11)) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """A number from `low` to below `high`."""
        return low + (high - low) * float(self.uniform(1)[0])

    def noise(self, size: int | None = None) -> np.ndarray:
        """White noise within full scale, close to Gaussian."""
        size = self.samples if size is None else size
        return self.uniform(4 * size).reshape(4, size).sum(axis=0) / 2 - 1

    def pitch(self, low_hz: float, octaves: float) -> float:
        """The clip's pitch in hertz, spread evenly over a class's clips, a little off; remembered for the label `octave`."""
        self.pitch_hz = low_hz * 2 ** (octaves * self.place + self.between(-0.05, 0.05))
        return self.pitch_hz

    def rate(self, low_hz: float, high_hz: float) -> float:
        """A tempo in hertz, spread evenly over a class's clips."""
        return low_hz * (high_hz / low_hz) ** self.place

    def tones(self, partials: list[tuple[float, float]], frequency: float | np.ndarray = 1.0) -> np.ndarray:
        """Sum of sines: pairs of (ratio to `frequency` in hertz, amplitude); those above 0.45 of the rate are left out."""
        phase = 2 * np.pi * np.cumsum(np.broadcast_to(frequency, self.samples)) / self.rate_hz
        top = 0.45 * self.rate_hz / float(np.max(frequency))
        return sum((amplitude * np.sin(ratio * phase) for ratio, amplitude in partials if ratio < top), np.zeros(self.samples))

    def repeat(self, starts_s: np.ndarray | list[float], strike: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Sum of one sound begun at several times; `strike` gives it over the time since its start (seconds)."""
        sound = np.zeros(self.samples)
        for start_s in starts_s:
            first = round(start_s * self.rate_hz)
            if first < self.samples:
                sound[first:] += strike(self.t[: self.samples - first])
        return sound

    def gate(self, on_s: float, off_s: float, edge_s: float = 0.004) -> np.ndarray:
        """1 while on and 0 while off, in turns, with soft edges."""
        time_s = self.t % (on_s + off_s)
        return np.clip(np.minimum(time_s, on_s - time_s) / edge_s, 0, 1)

    def hall(self, sound: np.ndarray, amount: float) -> np.ndarray:
        """The sound with `amount` of reverberation that dies away within a second."""
        count = self.rate_hz
        echoes = self.noise(count) * np.exp(-np.arange(count) / (0.3 * self.rate_hz))
        size = len(sound) + count
        wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(echoes, size), size)[: len(sound)]
        return sound + amount * wet * sound.std() / wet.std()

    def finish(self, sound: np.ndarray) -> np.ndarray:
        """Fade the ends over 10 ms and bring the peak to the clip's level; silence stays silence."""
        sound = sound * np.clip(np.minimum(self.t, self.seconds - self.t) / 0.01, 0, 1)
        peak = np.abs(sound).max()
        return sound * (10 ** (self.level_db / 20) / peak) if peak > 0 else sound


def sine_wave(clip: Clip) -> np.ndarray:
    """One steady sine."""
    return clip.tones([(1, 1)], clip.pitch(131, 4.5))


def organ(clip: Clip) -> np.ndarray:
    """A chord of four voices, major or minor, on drawbars with a slow vibrato (Hammond: harmonics 1/2, 1, 3/2, 2, 3, 4, 6, 8)."""
    root_hz = clip.pitch(98, 2)
    voices = (1, 5 / 4 if clip.index % 2 else 6 / 5, 3 / 2, 2)
    drawbars = ((0.5, 0.5), (1, 1), (1.5, 0.3), (2, 0.7), (3, 0.4), (4, 0.4), (6, 0.2), (8, 0.25))
    partials = [(voice * ratio, amplitude) for voice in voices for ratio, amplitude in drawbars]
    vibrato = 1 + 0.004 * np.sin(2 * np.pi * 6 * clip.t)
    return clip.hall(clip.tones(partials, root_hz * vibrato), 0.3) + 0.02 * clip.noise()


def chirp_tone(clip: Clip) -> np.ndarray:
    """Sweeps over several octaves, up or down."""
    period_s = clip.seconds / (1 + clip.index % 4)
    share = clip.t % period_s / period_s
    low, high = clip.between(150, 400), clip.between(3000, 6500)
    frequency = low * (high / low) ** (share if clip.index % 2 else 1 - share)
    return clip.tones([(1, 1)], frequency) * clip.gate(period_s, 0)


def beep(clip: Clip) -> np.ndarray:
    """A tone with two harmonics, on and off in equal parts."""
    period_s = 1 / clip.rate(0.8, 4)
    tone = clip.tones([(1, 1), (2, 0.3), (3, 0.3)], clip.pitch(850, 1.3))
    return tone * clip.gate(period_s / 2, period_s / 2) + 0.02 * _coloured(clip, 0.7)


def dial_tone(clip: Clip) -> np.ndarray:
    """The continuous tones of several countries' exchanges (ITU-T E.180)."""
    pair = ((350, 440), (350, 450), (400, 450), (350, 440), (330, 440))[clip.index % 5]
    return clip.tones([(hertz, 1) for hertz in pair]) + clip.between(0.002, 0.1) * clip.noise()


def busy_signal(clip: Clip) -> np.ndarray:
    """The interrupted tones of several countries' exchanges (ITU-T E.180)."""
    pair = ((480, 620), (425, 425), (400, 400), (480, 620), (450, 450))[clip.index % 5]
    on_s = (0.5, 0.25, 0.375)[clip.index % 3]
    return clip.tones([(hertz, 1) for hertz in pair]) * clip.gate(on_s, on_s) + clip.between(0.001, 0.01) * clip.noise()


def siren(clip: Clip) -> np.ndarray:
    """Wail, yelp and two-tone horn, with the street behind it."""
    low_hz = clip.between(450, 700)
    kind = clip.index % 5  # three wails, a yelp, a horn
    turn = clip.t * (clip.between(2, 4.5) if kind == 3 else clip.rate(0.25, 0.9)) + clip.between(0, 1)
    course = np.where(turn % 1 < 0.5, 1, 4 / 3) if kind == 4 else 2.4 ** (0.5 - 0.5 * np.cos(2 * np.pi * turn))
    return clip.tones([(n, n**-0.7) for n in range(1, 12)], low_hz * course) + 0.15 * _coloured(clip, 0.5)


def bell(clip: Clip) -> np.ndarray:
    """Strikes of a bell: a pair of close lowest partials that beat, and higher ones of uneven ratio, the higher the sooner gone."""
    pitch_hz = clip.pitch(400, 1.8)
    partials = [(1, 0.6, 1.8), (1.004, 0.5, 1.8), (2, 0.8, 1.4), (2.4, 0.8, 1.3), (2.98, 0.6, 1.1), (4.07, 0.6, 0.9)]
    partials += [(5.4, 0.5, 0.7), (6.8, 0.4, 0.55), (8.2, 0.3, 0.35)]
    kept = [partial for partial in partials if partial[0] * pitch_hz < 0.45 * clip.rate_hz]
    knock = clip.noise(round(0.05 * clip.rate_hz))

    def strike(t: np.ndarray) -> np.ndarray:
        sound = sum((a * np.exp(-3 * t / gone_s) * np.sin(2 * np.pi * ratio * pitch_hz * t) for ratio, a, gone_s in kept), np.zeros(len(t)))
        count = min(len(t), len(knock))
        sound[:count] += 0.5 * knock[:count] * np.exp(-t[:count] / 0.003)
        return sound

    return clip.repeat(np.arange(0.05, clip.seconds, 1 / clip.rate(0.8, 4)), strike) + 0.003 * _coloured(clip, 0.5)


def tick(clip: Clip) -> np.ndarray:
    """A clock in a quiet room: short bright clicks, every second one a little lower."""
    click_hz, gone_s = clip.between(4000, 6600), clip.between(0.0015, 0.003)
    times = np.arange(0.1, clip.seconds - 0.05, 1 / clip.rate(2.5, 6))
    shape = clip.noise(round(0.05 * clip.rate_hz))

    def click(pitch_hz: float) -> Callable[[np.ndarray], np.ndarray]:
        def strike(t: np.ndarray) -> np.ndarray:
            sound = np.exp(-t / gone_s) * np.sin(2 * np.pi * pitch_hz * t)
            count = min(len(t), len(shape))
            sound[:count] += shape[:count] * (1.5 * np.exp(-t[:count] / (gone_s / 2)) + 0.015 * np.exp(-t[:count] / 0.05))
            return sound

        return strike

    room = clip.between(0.01, 0.04) * _coloured(clip, 0.5)
    return clip.repeat(times[::2], click(click_hz)) + clip.repeat(times[1::2], click(0.85 * click_hz)) + room


def heartbeat(clip: Clip) -> np.ndarray:
    """Pairs of dull thumps, the second one weaker and a third of a second later, sooner in a fast heart."""
    beats_hz, thump_hz = clip.rate(0.9, 2.2), clip.between(40, 65)
    times = np.arange(0.1, clip.seconds, 1 / beats_hz)

    def thump(t: np.ndarray) -> np.ndarray:
        return np.exp(-t / 0.04) * np.sin(2 * np.pi * thump_hz * t) + 0.3 * np.exp(-t / 0.02) * np.sin(2 * np.pi * 2.3 * thump_hz * t)

    return clip.repeat(times, thump) + 0.7 * clip.repeat(times + 0.3 / beats_hz**0.5, thump) + 0.02 * _coloured(clip, 1)


def engine(clip: Clip) -> np.ndarray:
    """Firing strokes at a wavering speed: harmonics of half their rate, and noise that comes in puffs, uneven from cylinder to cylinder."""
    firing_hz = clip.rate(25, 110) * (1 + 0.02 * np.sin(2 * np.pi * 0.4 * clip.t))
    phase = 2 * np.pi * np.cumsum(firing_hz) / clip.rate_hz
    roar = sum((np.sin(n * phase / 2 + clip.between(0, 6)) * np.exp(-n / 12) for n in range(1, 40)), np.zeros(clip.samples))
    puffs = np.exp(3 * np.cos(phase) - 3) * (1 + 0.2 * np.cos(phase / 2) + 0.3 * np.cos(phase / 4))
    noise = _coloured(clip, 0.7)
    return roar / roar.std() + (puffs + 0.3) * noise / noise.std()


def white_noise(clip: Clip) -> np.ndarray:
    """Equal power at every frequency."""
    return clip.noise()


def pink_noise(clip: Clip) -> np.ndarray:
    """Equal power in every octave."""
    return _coloured(clip, 0.5)


def static(clip: Clip) -> np.ndarray:
    """A radio between stations: rough hiss, in every third clip breaking off into silence again and again."""
    hiss = clip.noise() * np.where(clip.uniform(clip.samples) < 0.5, 0.5, 1.5)
    return hiss if clip.index % 3 else hiss * clip.gate(clip.between(0.5, 1.2), clip.between(0.03, 0.15), 0.002)


def silence(clip: Clip) -> np.ndarray:
    """Digital silence, and rooms so quiet that 16 bits hardly hold them."""
    clip.level_db = -78 + clip.between(-6, 6)
    return np.zeros(clip.samples) if clip.index % 3 == 0 else _coloured(clip, 0.5 * (clip.index % 3 - 1))


def _coloured(clip: Clip, slope: float) -> np.ndarray:
    """Noise whose amplitude falls as frequency to the power -slope above 20 Hz: 0 is white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(clip.noise())
    frequency = np.fft.rfftfreq(clip.samples, 1 / clip.rate_hz)
    sound = np.fft.irfft(spectrum * np.where(frequency < 20, 0, np.maximum(frequency, 20) ** -slope), clip.samples)
    return sound / np.abs(sound).max()


SOUNDS: dict[str, tuple[str, Callable[[Clip], np.ndarray]]] = {
    "Sine wave": ("steady", sine_wave),
    "Organ": ("steady", organ),
    "Chirp tone": ("gliding", chirp_tone),
    "Siren": ("gliding", siren),
    "Beep, bleep": ("repeated", beep),
    "Dial tone": ("steady", dial_tone),
    "Busy signal": ("repeated", busy_signal),
    "Bell": ("repeated", bell),
    "Tick": ("repeated", tick),
    "Heart sounds, heartbeat": ("repeated", heartbeat),
    "Engine": ("steady", engine),
    "White noise": ("steady", white_noise),
    "Pink noise": ("steady", pink_noise),
    "Static": ("repeated", static),
    "Silence": ("steady", silence),
}
"""Class by class: the name AudioSet displays, the sound's course, and what makes it."""
