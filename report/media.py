"""Sounds and pictures of the clips that pages show: an MP3 of a clip's content, and a spectrogram of the part of it that a network hears."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.sparse
import soundfile as sf
from PIL import Image

from report.contents import Clip, Contents, Dataset, View
from report.folder import Folder, replace
from report.mp3 import Encoder
from warehouse.containers import Unfit, decodable, is_there

WIDTH, HEIGHT = 320, 96
WINDOW_S = 0.046
RANGE_DB = 70.0
QUIETEST = 10 ** (-110 / 10)
"""Power (of a full-scale sine, about 1) below which a whole clip counts as silent rather than being scaled up to look loud."""

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
        self._jobs: list[tuple[str, Path, list[str], Future[list[int]]]] = []
        # Decoding, MP3 encoding, FFT and PNG compression all leave the interpreter's lock; processes took a third longer.
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
            self._ask(clip, view)
        return self.missing.get(clip.stem)

    def _ask(self, clip: Clip, view: View) -> None:
        sound, picture = audio_path(clip), spectrogram_path(clip, view)
        wanted = [path for path in (sound, picture) if path not in self._files]
        self._files |= {path: size for path in wanted if (size := self._here.get(path))}
        wanted = [path for path in wanted if path not in self._files]
        if not wanted or clip.stem in self.missing:
            return
        # The same content may lie in several data sets.
        places = [(source, found) for found, dataset in self._places[clip.stem] if (source := source_path(dataset, found))]
        if not places:
            found, dataset = self._places[clip.stem][0]
            self.missing[clip.stem] = f"{found.name} is no longer in {dataset.source}"
            self.sources.append(f"{dataset.source}/{found.name}")
            return
        [(source, found), *_] = places
        self._files |= dict.fromkeys(wanted, 0)
        self._folder.announce(*wanted)
        files = [(self._folder.root / path, path == sound) for path in wanted]
        self._jobs.append((clip.stem, source, wanted, self._pool.submit(write, files, source, found, view)))

    def finish(self) -> bool:
        """Wait for what was asked for; returns whether all of it could be made, or was known before not to be."""
        before = len(self.missing)
        for done, (stem, source, paths, future) in enumerate(self._jobs, 1):
            try:
                self._files |= zip(paths, future.result(), strict=True)
                self.made += len(paths)
            except (sf.LibsndfileError, Unfit, ValueError, EOFError) as error:
                if stem not in self.missing:
                    self.missing[stem] = f"{self._places[stem][0][0].name} can no longer be read ({error})"
                    self.sources.append(str(source))
            if stem in self.missing:
                for path in paths:
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


def write(files: list[tuple[Path, bool]], source: Path, clip: Clip, view: View) -> list[int]:
    """Make a clip's files, each a sound or a picture, from one reading of it; returns their sizes."""
    with sf.SoundFile(decodable(source)) as file:
        rate, start, length = file.samplerate, round(clip.start_s(view.clip_s) * file.samplerate), round(view.clip_s * file.samplerate)
        encoder = Encoder(rate) if any(is_sound for _, is_sound in files) else None
        heard = []
        if encoder is None:
            file.seek(start)
            heard.append(_mono(file, length))
        else:
            at = 0
            for wave, last in _blocks(file):
                heard.append(wave[max(0, start - at) : max(0, start + length - at)])
                encoder.write(wave, last=last)
                at += len(wave)
    sizes = []
    for path, is_sound in files:
        data = encoder.finish() if is_sound and encoder else png(np.concatenate(heard), rate, view)
        replace(path, data)
        sizes.append(len(data))
    return sizes


def _mono(file: sf.SoundFile, samples: int) -> np.ndarray:
    wave = file.read(samples, dtype="float32", always_2d=True)
    return wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)


def _blocks(file: sf.SoundFile, samples: int | None = None) -> Iterator[tuple[np.ndarray, bool]]:
    """A sound, or so many samples of it, mixed to mono by the mean, block by block, with whether it is the last."""
    block = file.samplerate * BLOCK_S
    while True:
        wave = _mono(file, block if samples is None else min(block, samples))
        samples = None if samples is None else samples - len(wave)
        last = len(wave) < block
        yield wave, last
        if last:
            break


def mp3(source: Path, start_s: float = 0.0, length_s: float | None = None) -> bytes:
    """A sound file, or so many seconds of it, mixed to mono by the mean, as MP3."""
    with sf.SoundFile(decodable(source)) as file:
        encoder = Encoder(file.samplerate)
        if start_s:
            file.seek(round(start_s * file.samplerate))
        for wave, last in _blocks(file, None if length_s is None else round(length_s * file.samplerate)):
            encoder.write(wave, last=last)
    return encoder.finish()


def spectrogram_png(source: Path, clip: Clip, view: View) -> bytes:
    """What a network hears of a clip: `clip_s` seconds across, mel scale up to half the network's rate, from the loudest down to -70 dB."""
    with sf.SoundFile(decodable(source)) as file:
        file.seek(round(clip.start_s(view.clip_s) * file.samplerate))
        return png(_mono(file, round(view.clip_s * file.samplerate)), file.samplerate, view)


def png(wave: np.ndarray, rate: int, view: View) -> bytes:
    """The picture of a wave's `spectrogram`."""
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
    bands = _mel_bands(rate, size, view.rate_hz)
    # In float32, and no further than the bands reach; a sparse product, as a dense one would start threads beside the pool's.
    bins = scipy.fft.rfft(frames, 2 * size, axis=1)[:, : bands.shape[1]].T
    mel = (bands @ (bins.real**2 + bins.imag**2)).T * (16 / size**2)
    top = mel.max()
    image = np.zeros((WIDTH, HEIGHT), np.float32)
    if top > QUIETEST:
        image = 1 + 10 * np.log10(np.maximum(mel / top, 1e-12)) / RANGE_DB
    entries = (image.clip(0, 1) * (PADDING - 1)).astype(np.uint8)
    entries[centres >= len(wave)] = PADDING
    return np.ascontiguousarray(entries.T[::-1])


_BANDS: dict[tuple[int, int, int], scipy.sparse.csr_array] = {}


def _mel_bands(rate: int, size: int, network_rate: int) -> scipy.sparse.csr_array:
    """Triangular bands (HEIGHT, bins up to the highest that counts) evenly spaced on the mel scale from 20 Hz to half the network's rate."""
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
        used = np.flatnonzero(bands.any(axis=1)).max(initial=0) + 1
        _BANDS[key] = scipy.sparse.csr_array((bands / np.maximum(bands.sum(0), 1e-9)).astype(np.float32)[:used].T)
    return _BANDS[key]
