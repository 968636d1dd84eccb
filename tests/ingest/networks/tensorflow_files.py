"""Writing a TensorFlow checkpoint by hand, from the format's description, so that its reader is tested against something else."""

import struct
from functools import cache
from pathlib import Path

import numpy as np

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}


@cache
def table(bits: int) -> list[int]:
    """What CRC-32C makes of every value of so many bits, bit by bit."""
    values = []
    for value in range(1 << bits):
        for _ in range(bits):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        values.append(value)
    return values


@cache
def crc(data: bytes) -> int:
    """CRC-32C, two bytes at a time and a last odd one, masked as LevelDB does it. Kept, because tests write the same weights again."""
    pairs, register = table(16), 0xFFFFFFFF
    for pair in struct.unpack(f"<{len(data) // 2}H", data[: len(data) // 2 * 2]):
        register = register >> 16 ^ pairs[(register ^ pair) & 0xFFFF]
    for byte in data[len(data) // 2 * 2 :]:
        register = register >> 8 ^ table(8)[(register ^ byte) & 0xFF]
    register ^= 0xFFFFFFFF
    return ((register >> 15 | register << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    result = b""
    while number >= 0x80:
        result += bytes([number & 0x7F | 0x80])
        number >>= 7
    return result + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block whose keys share prefixes, with one restart point, no compression and its checksum."""
    content, before = b"", b""
    for key, value in entries:
        shared = next((i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), min(len(key), len(before)))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    content += struct.pack("<II", 0, 1) + b"\0"
    return content + struct.pack("<I", crc(content))


def write_checkpoint(folder: Path, tensors: dict[str, np.ndarray], checksums: bool = True) -> Path:
    """Write variables.index and its data file; returns the folder. `checksums=False` writes wrong ones for the data."""
    folder.mkdir(parents=True, exist_ok=True)
    data, entries = b"", [(b"", field(1, 1))]
    for name in sorted(tensors):
        raw = tensors[name].tobytes()
        shape = b"".join(field(2, field(1, size)) for size in tensors[name].shape)
        entry = field(1, TYPES[str(tensors[name].dtype)]) + field(2, shape) + field(4, len(data)) + field(5, len(raw))
        entries.append((name.encode(), entry + varint(6 << 3 | 5) + struct.pack("<I", crc(raw) if checksums else 1)))
        data += raw
    half = len(entries) // 2
    index, handles = b"", []
    for part in (entries[:half], entries[half:]):
        if part:
            written = block(part)
            handles.append((part[-1][0], varint(len(index)) + varint(len(written) - 5)))
            index += written
    footer = b""
    for written in (block([]), block(handles)):
        footer += varint(len(index)) + varint(len(written) - 5)
        index += written
    index += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (folder / "variables.index").write_bytes(index)
    (folder / "variables.data-00000-of-00001").write_bytes(data)
    return folder
