"""Sounds as MP3: mono, variable rate, with the header from which players know length and lead-in exactly."""

from __future__ import annotations

import lameenc
import numpy as np
import soxr

RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
VBR, QUALITY = 6, 3
"""LAME's step of variable rate, which makes about 55 kbit/s of ESC-50 at 44.1 kHz, and its own choice of how hard to search."""
DELAY = 576
"""Samples that the encoder puts first; the format's decoders add 529 and know of them."""
MPEG_1 = 32_000
"""Rates from here on are of MPEG 1: frames of 1152 samples; below of 576."""
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class Encoder:
    """Takes a mono sound of `rate` in Hz block by block and gives it as MP3, at its own rate or the nearest higher one that MP3 has (48 kHz at most)."""

    def __init__(self, rate: int) -> None:
        self.rate = next((r for r in RATES_HZ if r >= rate), RATES_HZ[-1])
        self._resampler = soxr.ResampleStream(rate, self.rate, 1, dtype="float32") if rate != self.rate else None
        self._lame = lameenc.Encoder()
        self._lame.silence()
        self._lame.set_channels(1)
        self._lame.set_in_sample_rate(self.rate)
        self._lame.set_out_sample_rate(self.rate)
        self._lame.set_vbr(lameenc.VBR_MTRH)
        self._lame.set_vbr_quality(VBR)
        self._lame.set_quality(QUALITY)
        self._samples = 0
        self._made = bytearray()

    def write(self, wave: np.ndarray, *, last: bool) -> None:
        """Take samples (any number, full scale is 1); `last` when none follow."""
        if self._resampler:
            wave = self._resampler.resample_chunk(wave, last=last)
        # The encoder takes 16 bits: values beyond full scale would wrap into noise.
        self._made += self._lame.encode(np.rint(np.clip(np.nan_to_num(wave), -1, 1) * 32767).astype("<i2").tobytes())
        self._samples += len(wave)

    def finish(self) -> bytes:
        """The whole file."""
        self._made += self._lame.flush()
        return header(bytes(self._made), self.rate, self._samples) + self._made


def header(made: bytes, rate: int, samples: int) -> bytes:
    """The frame that says what follows (Xing's and LAME's): frames, bytes, where hundredths of the time begin, samples to leave out at both ends.
    Without it players take the first frame's bit rate for all, and guess the length. `samples` are those of the sound."""
    one = rate >= MPEG_1
    starts = frames(made)
    longest = 1152 if one else 576
    kbits = next(at for at in range(1, 15) if _length(_KBITS[one][at], rate, one) >= (21 if one else 13) + 156)
    first = bytes([0xFF, made[1] | 1, kbits << 4 | (made[2] & 0x0C), 0xC4])
    size = _length(_KBITS[one][kbits], rate, one)
    total = len(made) + size
    at = [starts[min(len(starts) - 1, i * len(starts) // 100)] + size if starts else 0 for i in range(100)]
    padding = max(0, len(starts) * longest - DELAY - samples)
    xing = b"Xing" + (15).to_bytes(4, "big") + len(starts).to_bytes(4, "big") + total.to_bytes(4, "big")
    xing += bytes([min(255, 256 * place // total) for place in at]) + (100 - 10 * VBR - QUALITY).to_bytes(4, "big")
    ends = (DELAY << 12 | min(padding, 4095)).to_bytes(3, "big")
    lame = b"LAME3.100" + bytes([4]).ljust(12, b"\0") + ends
    return (first.ljust(21 if one else 13, b"\0") + xing + lame).ljust(size, b"\0")


def frames(made: bytes) -> list[int]:
    """Where frames begin in MP3 of one rate, without any other data."""
    starts, at = [], 0
    while at + 4 <= len(made) and made[at] == 0xFF and made[at + 1] >> 5 == 7:
        starts.append(at)
        version, index = made[at + 1] >> 3 & 3, made[at + 2] >> 2 & 3
        rate = (44100, 48000, 32000)[index] >> {3: 0, 2: 1, 0: 2}[version]
        at += _length(_KBITS[version == 3][made[at + 2] >> 4], rate, version == 3) + (made[at + 2] >> 1 & 1)
    return starts


def _length(kbits: int, rate: int, one: bool) -> int:
    return (144 if one else 72) * kbits * 1000 // rate
