"""Sounds and pictures of the clips that pages show: an MP3 of a clip's content, and a spectrogram of the part of it that a network hears."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from PIL import Image

from report.contents import Clip, Contents, Dataset, View
from report.folder import Folder, replace
from warehouse.containers import Unfit, decodable, is_there

WIDTH, HEIGHT = 320, 96
WINDOW_S = 0.046
RANGE_DB = 70.0
QUIETEST = 10 ** (-110 / 10)
"""Power (of a full-scale sine, about 1) below which a whole clip counts as silent rather than being scaled up to look loud."""

MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
BLOCK_S = 60

MAGMA = base64.b64decode(
    "AAAEAQAFAQEGAQEIAgEJAgILAgINAwMPAwMSBAQUBQQWBgUYBgUaBwYcCAceCQcgCggiCwkkDAkmDQopDgsrEAstEQwvEg0xEw00FA42FQ44Fg87GA89GRA/GhBC"
    "HBBEHRFHHhFJIBFLIRFOIhFQJBJTJRJVJxJYKRFaKhFcLBFfLRFhLxFjMRFlMxBnNBBpNhBrOBBsOQ9uOw9wPQ9xPw9yQA90Qg91RA92RRB3RxB4SRB4ShB5TBF6"
    "ThF7TxJ7URJ8UhN8VBN9VhR9VxV+WRV+WhZ+XBZ/XRd/Xxh/YBiAYhmAZBqAZRqAZxuAaByBahyBax2BbR2Bbh6BcB+Bch+BcyCBdSGBdiGBeCKBeSKCeyOCfCOC"
    "fiSCgCWCgSWBgyaBhCaBhieBiCeBiSiBiymBjCmBjiqBkCqBkSuBkyuAlCyAliyAmC2AmS2Amy5/nC5/ni9/oC9/oTB+ozB+pTF+pjF9qDJ9qjN9qzN8rTR8rjR7"
    "sDV7sjV7szZ6tTZ6tzd5uDd5ujh4vDl4vTl3vzp3wDp2wjt1xDx1xTx0xz1zyD5zyj5yzD9xzUBxz0Bw0EFv0kJv00Nu1URt1kVs2EVs2UZr20dq3Ehp3klo30po"
    "4Exn4k1m405l5E9k5VBk51Jj6FNi6VRi6lZh61dg7Fhg7Vpf7lte711e8F9e8WBd8mJd8mRc82Vc9Gdc9Glc9Wtc9mxc9m5c93Bc93Jc+HRc+HZc+Xhd+Xld+Xtd"
    "+n1e+n9e+oFf+4Nf+4Vg+4dh/Ilh/Ipi/Ixj/I5k/JBl/ZJm/ZRn/ZZo/Zhp/Zpq/Ztr/p1s/p9t/qFu/qNv/qVx/qdy/qlz/qp0/qx2/q53/rB4/rJ6/rR7/rZ8"
    "/rd+/rl//ruB/r2C/r+E/sGF/sKH/sSI/saK/siM/sqN/syP/s2Q/s+S/tGU/tOV/tWX/teZ/tia/dqc/dye/d6g/eCh/eKj/eOl/eWn/eep/emq/eus/Oyu/O6w"
    "/PCy/PK0/PS2/Pa4/Pe5/Pm7/Pu9/P2/"
)
"""Red, green, blue of 256 colours of even perceived steps, dark to light (matplotlib's magma, CC0)."""

PADDING = 63
"""Palette entry of the time a clip is padded with: transparent, so that it does not pass for silence. Sound uses those below, which
are few because noise in the picture is what its size goes into."""
_PALETTE = bytes(MAGMA[3 * round(i * 255 / (PADDING - 1)) + c] for i in range(PADDING) for c in range(3)) + b"\0\0\0"


def audio_path(clip: Clip) -> str:
    """Address of a clip's MP3."""
    return f"audio/{clip.stem}.mp3"


def spectrogram_path(clip: Clip, view: View) -> str:
    """Address of a clip's spectrogram."""
    return f"spectrograms/{clip.stem}-{view.name}.png"


def source_path(dataset: Dataset, clip: Clip) -> Path | None:
    """The clip's sound, if it is still there: in the data set's folder or its `audio/`."""
    for folder in (Path(dataset.source), Path(dataset.source) / "audio"):
        if is_there(path := folder / clip.name):
            return path
    return None


class Media:
    """The sounds and pictures that pages ask for, made as they are asked for, while pages are rendered: one MP3 of a clip, one picture of each
    view of it, and none of what no page asks for.

    `made` counts files, `missing` has why a clip has no sound, by stem, and `sources` the files that are gone or unreadable. A sound turns out
    to be unreadable after pages that show it were rendered: `finish` then says so, and they are to be rendered again.
    """

    def __init__(self, contents: Contents, folder: Folder, progress: Callable[[str, int, int], None] | None = None) -> None:
        self.made = 0
        self.missing: dict[str, str] = {}
        self.sources: list[str] = []
        self._folder, self._progress = folder, progress
        self._here = {
            f"{sub}/{entry.name}": entry.stat().st_size for sub in ("audio", "spectrograms") for entry in _entries(folder.root / sub)
        }
        self._places: dict[str, list[tuple[Clip, Dataset]]] = {}
        for dataset in contents.datasets:
            for clip in dataset.clips.values():
                self._places.setdefault(clip.stem, []).append((clip, dataset))
        self._asked: set[tuple[str, View]] = set()
        self._files: dict[str, int] = {}
        self._jobs: dict[str, tuple[str, Path, Future[int]]] = {}
        # Decoding, MP3 encoding, FFT and PNG compression all leave the interpreter's lock.
        self._pool = ThreadPoolExecutor(max(2, os.cpu_count() or 2))

    def __enter__(self) -> Media:
        for sub in ("audio", "spectrograms"):
            (self._folder.root / sub).mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def has(self, clip: Clip, view: View | None = None) -> bool:
        """Whether a page has asked for it, in a view; with a view, whether there is a picture, too."""
        if view is not None:
            return (clip.stem, view) in self._asked and clip.stem not in self.missing
        return audio_path(clip) in self._files or clip.stem in self.missing

    def want(self, clip: Clip, view: View) -> str | None:
        """Ask for a clip's sound and picture; returns why there is none, or None."""
        if (clip.stem, view) not in self._asked:
            self._asked.add((clip.stem, view))
            self._ask(clip, audio_path(clip), lambda source, found: mp3(source))
            self._ask(clip, spectrogram_path(clip, view), lambda source, found: spectrogram_png(source, found, view))
        return self.missing.get(clip.stem)

    def _ask(self, clip: Clip, path: str, make: Callable[[Path, Clip], bytes]) -> None:
        if path in self._files or clip.stem in self.missing:
            return
        if size := self._here.get(path):
            self._files[path] = size
            return
        # The same content may lie in several data sets.
        places = [(source, found) for found, dataset in self._places[clip.stem] if (source := source_path(dataset, found))]
        if not places:
            found, dataset = self._places[clip.stem][0]
            self.missing[clip.stem] = f"{found.name} is no longer in {dataset.source}"
            self.sources.append(f"{dataset.source}/{found.name}")
            return
        [(source, found), *_] = places
        self._files[path] = 0
        self._folder.announce(path)
        self._jobs[path] = (clip.stem, source, self._pool.submit(_write, self._folder.root / path, make, source, found))

    def finish(self) -> bool:
        """Wait for what was asked for; returns whether all of it could be made, or was known before not to be."""
        before = len(self.missing)
        for done, (path, (stem, source, future)) in enumerate(self._jobs.items(), 1):
            try:
                self._files[path] = future.result()
                self.made += 1
            except (sf.LibsndfileError, Unfit, ValueError, EOFError) as error:
                if stem not in self.missing:
                    self.missing[stem] = f"{self._places[stem][0][0].name} can no longer be read ({error})"
                    self.sources.append(str(source))
            if stem in self.missing:
                self._files.pop(path, None)
            if self._progress and (done % 20 == 0 or done == len(self._jobs)):
                self._progress("sounds and spectrograms", done, len(self._jobs))
        self._jobs.clear()
        return len(self.missing) == before

    def keep(self) -> tuple[int, int]:
        """Name all files to the folder; returns how many there are, and their bytes."""
        for path, size in self._files.items():
            self._folder.keep(path, size)
        return len(self._files), sum(self._files.values())


def _entries(folder: Path) -> list[os.DirEntry]:
    return list(os.scandir(folder)) if folder.is_dir() else []


def _write(path: Path, make: Callable[[Path, Clip], bytes], source: Path, clip: Clip) -> int:
    """Make a file; returns its size."""
    data = make(source, clip)
    replace(path, data)
    return len(data)


def mp3(source: Path, start_s: float = 0.0, length_s: float | None = None) -> bytes:
    """A sound file, or so many seconds of it, mixed to mono by the mean, as MP3 at its own rate or the nearest higher one MP3 has (48 kHz at most)."""
    encoded = io.BytesIO()
    with sf.SoundFile(decodable(source)) as file:
        rate = next((r for r in MP3_RATES_HZ if r >= file.samplerate), MP3_RATES_HZ[-1])
        resampler = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32") if rate != file.samplerate else None
        left = None if length_s is None else round(length_s * file.samplerate)
        if start_s:
            file.seek(round(start_s * file.samplerate))
        with sf.SoundFile(encoded, "w", rate, 1, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.6) as out:
            block = file.samplerate * BLOCK_S
            while True:
                size = block if left is None else min(block, left)
                wave = file.read(size, dtype="float32", always_2d=True).mean(axis=1)
                left = None if left is None else left - len(wave)
                last = len(wave) < block
                if resampler:
                    wave = resampler.resample_chunk(wave, last=last)
                # The encoder does not clip: values beyond full scale would wrap into noise.
                out.write(np.clip(np.nan_to_num(wave), -1, 1))
                if last:
                    break
    return encoded.getvalue()


def spectrogram_png(source: Path, clip: Clip, view: View) -> bytes:
    """What a network hears of a clip: `clip_s` seconds across, mel scale up to half the network's rate, from the loudest down to -70 dB."""
    with sf.SoundFile(decodable(source)) as file:
        rate = file.samplerate
        file.seek(round(clip.start_s(view.clip_s) * rate))
        wave = file.read(round(view.clip_s * rate), dtype="float32", always_2d=True).mean(axis=1)
    picture = Image.frombytes("P", (WIDTH, HEIGHT), spectrogram(np.nan_to_num(wave), rate, view).tobytes())
    picture.putpalette(_PALETTE)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", transparency=PADDING, compress_level=6)
    return encoded.getvalue()


def spectrogram(wave: np.ndarray, rate: int, view: View) -> np.ndarray:
    """Palette entries (HEIGHT, WIDTH), low frequencies at the bottom; time after the clip's end is PADDING."""
    size = 1 << (max(64, round(WINDOW_S * rate)) - 1).bit_length()
    total = round(view.clip_s * rate)
    centres = (np.arange(WIDTH) + 0.5) * total / WIDTH
    padded = np.zeros(total + 2 * size, np.float32)
    padded[size : size + len(wave)] = wave
    starts = (centres - size / 2).astype(int) + size
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[starts] * np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, 2 * size, axis=1)) ** 2 * (16 / size**2)
    mel = power @ _mel_bands(rate, size, view.rate_hz)
    top = mel.max()
    image = np.zeros((WIDTH, HEIGHT), np.float32)
    if top > QUIETEST:
        image = 1 + 10 * np.log10(np.maximum(mel / top, 1e-12)) / RANGE_DB
    entries = (image.clip(0, 1) * (PADDING - 1)).astype(np.uint8)
    entries[centres >= len(wave)] = PADDING
    return np.ascontiguousarray(entries.T[::-1])


_BANDS: dict[tuple[int, int, int], np.ndarray] = {}


def _mel_bands(rate: int, size: int, network_rate: int) -> np.ndarray:
    """Triangular bands (bins, HEIGHT) evenly spaced on the mel scale from 20 Hz to half the network's rate."""
    key = (rate, size, network_rate)
    if key not in _BANDS:
        low, high = (2595 * np.log10(1 + hz / 700) for hz in (20, network_rate / 2))
        edges = 700 * (10 ** (np.linspace(low, high, HEIGHT + 2) / 2595) - 1)
        bins = np.arange(size + 1) * rate / (2 * size)
        rise = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
        fall = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
        bands = np.minimum(rise, fall).clip(0)
        # A band narrower than the bins takes its nearest one, as long as the file has it at all.
        for band in np.flatnonzero(bands.sum(0) == 0):
            if edges[band + 1] <= rate / 2:
                bands[round(edges[band + 1] * 2 * size / rate), band] = 1
        _BANDS[key] = (bands / np.maximum(bands.sum(0), 1e-9)).astype(np.float32)
    return _BANDS[key]
