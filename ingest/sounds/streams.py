"""What a sound file is made of where libsndfile by itself would read another length: its streams, each to be opened on its own.

Joined MP3, Ogg and FLAC files hold several; an MP3 without a Xing or Info header has a length only its decoder knows; a WAV written to a pipe
may say that it holds nothing.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from warehouse import containers

# Kilobits a second by bitrate index 1 to 14: MPEG-1 layers I, II, III; MPEG-2 and 2.5 layer I, layers II and III (ISO 11172-3, 13818-3).
BITRATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
LONGEST_SEARCH = 1 << 16  # bytes between two MPEG frames that are looked through for the next
# Encoders differ in whether the header's own frame is counted.
SPARE_FRAMES = 2
Data = mmap.mmap | bytes
# The length that an MP3 of unknown length is given: the lowest bitrate is 44 times below the highest, so that no guess falls short.
STRETCH = 64


class SoundError(Exception):
    """A file that cannot be used as a clip; the message is the reason in one line, without the path."""


@dataclass(frozen=True)
class Stream:
    """Bytes `start` to `stop` of a file, to be read behind those of `head`. Of an `endless` one only decoding tells the length; its MPEG frames
    have room for `samples`."""

    start: int
    stop: int
    head: bytes = b""
    endless: bool = False
    samples: int = 0


class Opened:
    """A stream as a file for libsndfile. An endless one claims to be longer than it is, and gives zeros where a tag might end it."""

    def __init__(self, file: BinaryIO, stream: Stream) -> None:
        self.file = file
        self.stream = stream
        self.size = len(stream.head) + stream.stop - stream.start
        self.claimed = self.size * STRETCH + 65536 if stream.endless else self.size
        self.position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte."""
        self.position = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.claimed}[whence])
        return self.position

    def tell(self) -> int:
        """The byte to be read next."""
        return self.position

    def read(self, count: int) -> bytes:
        """At most `count` bytes."""
        head = self.stream.head
        if self.position < len(head):
            found = head[self.position : self.position + count]
        elif self.position < self.size:
            place = self.position - len(head)
            self.file.seek(self.stream.start + place)
            found = self.file.read(min(count, self.size - self.position))
        else:
            near_the_end = self.stream.endless and self.position >= self.claimed - 4096
            found = bytes(max(0, min(count, self.claimed - self.position))) if near_the_end else b""
        self.position += len(found)
        return found


def streams(path: Path) -> list[Stream]:
    """The streams to be read one after the other in place of the file; none where the file can be read as it is.

    Raises OSError, and SoundError for a file of which only a part would be heard.
    """
    with containers.opened(path) as file:
        if isinstance(file, io.BytesIO):
            return _streams(file.getvalue())
        if os.fstat(file.fileno()).st_size < 64:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _streams(data)


def _streams(data: Data) -> list[Stream]:
    size, begin = len(data), data[:4]
    if size < 64:
        return []
    if begin == b"OggS":
        return _parted(sorted(set(_ogg_begins(data))), size)
    if begin == b"fLaC":
        return _parted(sorted(set(_flac_begins(data))), size)
    if begin in (b"RIFF", b"RF64"):
        return _wav(data, size)
    return _mpeg(data, size) if begin[:3] == b"ID3" or _mpeg_frame(data, 0) else []


def _parted(begins: list[int], size: int) -> list[Stream]:
    """Streams that begin at these bytes, where there are several."""
    return [Stream(start, stop) for start, stop in zip(begins, [*begins[1:], size], strict=True)] if len(begins) > 1 else []


def _ogg_begins(data: Data) -> Iterator[int]:
    """Where Ogg streams begin that follow one another (RFC 3533): at a first page that comes after one that is none."""
    place, first = 0, False
    while 0 <= place <= len(data) - 27:
        begins = bool(data[place + 5] & 2)
        if begins and not first:
            yield place
        first = begins
        head = 27 + data[place + 26]
        place += head + sum(data[place + 27 : place + head])
        if data[place : place + 4] != b"OggS":
            place = data.find(b"OggS", place)


def _flac_begins(data: Data) -> Iterator[int]:
    """Where FLAC streams begin: at the marker with the block STREAMINFO, of 34 bytes, behind it."""
    place = 0
    while place >= 0:
        yield place
        place = data.find(b"fLaC\0\0\0\x22", place + 42)


def _wav(data: Data, size: int) -> list[Stream]:
    """The one stream of a WAV file whose header says that it holds no sound, though it does: all that follows."""
    place, form, long = 12, b"", 0
    while place + 8 <= size:
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name == b"ds64":
            long = int.from_bytes(data[place + 16 : place + 24], "little")
        elif name == b"fmt ":
            form = data[place : place + 8 + length + length % 2]
        elif name == b"data":
            start = place + 8
            length = long if length == 0xFFFFFFFF and data[:4] == b"RF64" else length
            after = size - start - length - length % 2
            if after <= max(length, 64) or _are_chunks(data, start + length + length % 2, size):
                return []
            if length or not form:
                raise SoundError(f"its header says {length} bytes of sound, but {size - start} follow; encode it again")
            return [Stream(start, size, b"RIFF\xff\xff\xff\xffWAVE" + form + b"data\xff\xff\xff\xff")]
        place += 8 + length + length % 2
    return []


def _are_chunks(data: Data, place: int, size: int) -> bool:
    """Whether nothing but chunks, or nothing but zeros, lies from a place on."""
    if not any(data[place : place + 4]):
        return not data[place:size].strip(b"\0")
    while place + 8 <= size:
        if not data[place : place + 4].isascii() or not data[place : place + 4].decode().isprintable():
            return False
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return place >= size - 8 and place <= size + 1


def _mpeg_frame(data: Data, place: int) -> tuple[int, int] | None:
    """Length in bytes and kind (version, layer and sampling rate, in bits) of the MPEG audio frame that begins here; None where none does."""
    if place + 4 > len(data) or data[place] != 0xFF or data[place + 1] & 0xE0 != 0xE0:
        return None
    version, layer, rate = data[place + 1] >> 3 & 3, 4 - (data[place + 1] >> 1 & 3), data[place + 2] >> 2 & 3
    bitrate, padding = data[place + 2] >> 4, data[place + 2] >> 1 & 1
    if version == 1 or layer == 4 or rate == 3 or not 0 < bitrate < 15:
        return None
    rate_hz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = BITRATES[1 if version == 3 else 2, layer][bitrate - 1] * 1000
    if layer == 1:
        return (12 * bits // rate_hz + padding) * 4, (data[place + 1] & 0x1E) << 8 | rate
    return (72 if layer == 3 and version != 3 else 144) * bits // rate_hz + padding, (data[place + 1] & 0x1E) << 8 | rate


def _mpeg_frames(data: Data, size: int) -> Iterator[tuple[int, int]]:
    """First and last byte (exclusive) of every whole MPEG frame, tags and damage between them passed over."""
    place, kind = 0, None
    while place + 4 <= size:
        if data[place : place + 3] == b"ID3" and place + 10 <= size:
            length = 0
            for byte in data[place + 6 : place + 10]:
                length = length << 7 | byte & 0x7F
            place += 10 + length + (10 if data[place + 5] & 0x10 else 0)
            continue
        frame = _mpeg_frame(data, place)
        if frame and kind in (None, frame[1]):
            if place + frame[0] > size:
                return
            following = _mpeg_frame(data, place + frame[0])
            if kind or (following and following[1] == frame[1]):
                kind = frame[1]
                yield place, place + frame[0]
                place += frame[0]
                continue
        place = _next_frame(data, place + 1, min(size, place + LONGEST_SEARCH), kind)
        if place < 0:
            return


def _next_frame(data: Data, place: int, stop: int, kind: int | None) -> int:
    """Where the next frame, behind which there is another, or the next tag begins; -1 where there is none in reach."""
    tag = data.find(b"ID3", place, stop)
    while (place := data.find(b"\xff", place, stop if tag < 0 else tag)) >= 0:
        frame = _mpeg_frame(data, place)
        if frame and kind in (None, frame[1]):
            following = _mpeg_frame(data, place + frame[0])
            if following and following[1] == frame[1]:
                return place
        place += 1
    return tag


def _promised(data: Data, place: int) -> int | None:
    """Frames that the Xing or Info header in this frame promises, 0 where it does not say; None for a frame of sound."""
    mono = data[place + 3] >> 6 == 3
    side = (17 if mono else 32) if data[place + 1] >> 3 & 3 == 3 else (9 if mono else 17)
    for mark in (place + 4 + side, place + 6 + side):
        if data[mark : mark + 4] in (b"Xing", b"Info"):
            flags, frames = struct.unpack(">II", data[mark + 4 : mark + 12])
            return frames if flags & 1 else 0
    return None


def _mpeg(data: Data, size: int) -> list[Stream]:
    """Streams of an MP3 file: each of those that begin with a Xing or Info header, and what has none. None where one header says what is there."""
    runs: list[tuple[int, list[int]]] = []  # frames promised, and where the header (or the first frame again) and the frames of sound begin
    ends: list[int] = []
    for place, end in _mpeg_frames(data, size):
        promised = _promised(data, place)
        if promised is not None or not runs:
            runs.append((promised or 0, [place] if promised is not None else [place, place]))
            ends.append(end)
        else:
            runs[-1][1].append(place)
            ends[-1] = end
    found = []
    for (promised, begins), end in zip(runs, ends, strict=True):
        sounds = len(begins) - 1
        if 0 < promised < sounds - SPARE_FRAMES:
            found += [Stream(begins[0], begins[promised + 1]), Stream(begins[promised + 1], end, endless=True)]
        elif sounds:
            mpeg_2, layer = data[begins[0] + 1] & 8 == 0, 4 - (data[begins[0] + 1] >> 1 & 3)
            size = 384 if layer == 1 else 576 if layer == 3 and mpeg_2 else 1152
            found.append(Stream(begins[0], end, endless=not promised, samples=0 if promised else sounds * size))
    return [] if len(runs) == 1 and len(found) <= 1 and runs[0][0] else found
