"""Reading checkpoints without running anything they contain: safetensors, torch files as plain tensors, TensorFlow variables."""

from __future__ import annotations

import hashlib
import logging
import pickle
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from warehouse.store import UserError, first_line, publish

TORCH_ENDINGS = {".pt", ".pth", ".bin", ".ckpt"}

# TensorFlow's DataType numbers (types.proto) that a network's variables have.
TENSORFLOW_TYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 6: np.int8, 9: np.int64, 10: np.bool_, 19: np.float16}
TABLE_MAGIC = 0xDB4775248B80FB57


COMPUTED: set[str] = set()
"""Hashes of tensors made in this process, to tell them from those that were typed in."""


class _Broken(Exception):
    """A TensorFlow checkpoint whose bytes do not hold together; the message says how."""


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a safetensors or torch file, a SavedModel folder or a TensorFlow `variables` folder.

    Torch files are read with `weights_only=True`, so a pickle that would run code is refused. Raises UserError for anything that cannot
    be read whole.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no checkpoint at {path}: give an existing safetensors or torch file, SavedModel or variables folder")
    if path.is_dir():
        for folder in (path / "variables", path):
            if (folder / "variables.index").is_file():
                return read_tensorflow(folder)
        raise UserError(f"{path} is not a TensorFlow checkpoint: it has neither variables/variables.index nor variables.index")
    if path.name == "variables.index":
        return read_tensorflow(path.parent)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if path.suffix in TORCH_ENDINGS:
        return read_torch(path)
    raise UserError(f"{path} is no known kind of checkpoint: give .safetensors, {', '.join(sorted(TORCH_ENDINGS))} or a TensorFlow folder")


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by name and the header's metadata; raises UserError when the file is missing, truncated or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # the file itself cannot be iterated
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({first_line(error)}): copy or fetch it again") from None


def read_torch(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a torch file holding a state dict, itself or under the key `state_dict` or `model`; nothing in it is run."""
    content = unpickled(path)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict (names with tensors): save the module's state_dict()")
    return dict(content)


def unpickled(path: Path) -> Any:
    """What a torch file holds, if these are tensors and plain values; raises UserError for anything else, and nothing in it is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is refused: it is broken or holds pickled code rather than tensors only; convert it to safetensors where you trust it"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a whole torch checkpoint ({first_line(error)}): copy or fetch it again") from None


def tensor_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over sorted names, dtypes, shapes and values, so the same tensors have the same hash whatever file held them."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    COMPUTED.add(digest.hexdigest())
    return digest.hexdigest()


def check_exactly(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], origin: str | Path) -> None:
    """Raise UserError naming the first missing key, the first unexpected key and the first wrong shape, if there is any."""
    missing = sorted(expected.keys() - shapes.keys())
    unexpected = sorted(shapes.keys() - expected.keys())
    wrong = [key for key in sorted(expected.keys() & shapes.keys()) if tuple(shapes[key]) != tuple(expected[key])]
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing, first {missing[0]}")
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected, first {unexpected[0]}")
    if wrong:
        faults.append(f"{len(wrong)} of the wrong shape, first {wrong[0]} {list(shapes[wrong[0]])} instead of {list(expected[wrong[0]])}")
    if faults:
        raise UserError(f"{origin} does not fit this network: keys {'; '.join(faults)}")


def load_exactly(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], origin: str | Path) -> None:
    """Load tensors into a module, every key matched and every shape equal; otherwise UserError and the module is left as it was."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_exactly({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected, origin)
    module.load_state_dict(tensors)


# --- TensorFlow: an index (a LevelDB table of BundleEntryProto messages) beside raw little-endian data files ------------------------------


def read_tensorflow(folder: Path) -> dict[str, torch.Tensor]:
    """Numeric variables by checkpoint key from a folder with `variables.index` and its data files, without TensorFlow.

    Format: tensorflow/core/util/tensor_bundle and tensorflow/core/lib/io/format.cc. Sizes, bounds and CRC-32C sums are checked; raises
    UserError when any does not hold.
    """
    index = folder / "variables.index"
    try:
        return _read_bundle(index)
    except _Broken as error:
        raise UserError(f"{index.with_suffix('')} is not a whole TensorFlow checkpoint ({error}): copy or fetch it again") from None
    except OSError as error:
        raise UserError(f"cannot read the TensorFlow checkpoint {index.with_suffix('')} ({first_line(error)})") from None


def _read_bundle(index: Path) -> dict[str, torch.Tensor]:
    entries = dict(_table(index.read_bytes()))
    header = _fields(entries.pop(b"", b""))
    shards = _last(header, 1, 0)
    if shards < 1 or _last(header, 2, 0) != 0:
        raise _Broken("its header names no shard or big-endian data")
    data = [_shard(index, number, shards) for number in range(shards)]
    tensors = {}
    for key, value in entries.items():
        fields = _fields(value)
        name = key.decode("utf-8", "replace")
        dtype = TENSORFLOW_TYPES.get(_last(fields, 1, 0))
        if dtype is None:  # strings such as the object graph are no weights
            continue
        shape = tuple(_last(_fields(size), 1, 0) for size in _fields(_last(fields, 2, b"")).get(2, []))
        shard, offset, size = (_last(fields, number, 0) for number in (3, 4, 5))
        if shard >= shards or 7 in fields or size != np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)):
            raise _Broken(f"bad entry for {name}")
        raw = data[shard][offset : offset + size]
        if len(raw) != size:
            raise _Broken(f"the data file ends within {name}")
        if _masked(crc32c(raw)) != _last(fields, 6, 0):
            raise _Broken(f"wrong checksum for {name}")
        tensors[name] = torch.from_numpy(np.frombuffer(raw, dtype).reshape(shape).copy())
    return tensors


def _shard(index: Path, number: int, shards: int) -> bytes:
    return index.with_name(f"{index.stem}.data-{number:05d}-of-{shards:05d}").read_bytes()


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of an uncompressed LevelDB table, in order."""
    if len(content) < 48 or struct.unpack("<Q", content[-8:])[0] != TABLE_MAGIC:
        raise _Broken("the index is truncated or no index")
    footer = content[-48:-8]
    position = 0
    handle = []
    for _ in range(4):  # offset and size of the metaindex, then of the index block
        number, position = _varint(footer, position)
        handle.append(number)
    for _, value in _entries(_block(content, handle[2], handle[3])):
        offset, position = _varint(value, 0)
        size, _ = _varint(value, position)
        yield from _entries(_block(content, offset, size))


def _block(content: bytes, offset: int, size: int) -> bytes:
    """A block's content, followed in the file by its kind of compression (one byte) and the checksum of both."""
    block = content[offset : offset + size + 5]
    if len(block) != size + 5 or size < 4:
        raise _Broken("the index is truncated")
    if _masked(crc32c(block[:-4])) != struct.unpack("<I", block[-4:])[0]:
        raise _Broken("wrong checksum in the index")
    if block[size] != 0:
        raise _Broken("its index is compressed, which is not supported")
    return block[:size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Entries of a block: each key repeats a prefix of the one before; the restart points at the end are only needed for searching."""
    end = len(block) - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        size, position = _varint(block, position)
        if shared > len(key) or position + unshared + size > end:
            raise _Broken("bad entry in the index")
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + size]
        position += size


def _varint(content: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise _Broken("bad number in the index")


def _fields(message: bytes) -> dict[int, list]:
    """Fields of a protobuf message by number: integers for varint and fixed32, bytes for the rest."""
    fields: dict[int, list] = {}
    position = 0
    value: int | bytes
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, position = _varint(message, position)
            raw = message[position : position + size]
            position += size
            if len(raw) != size:
                raise _Broken("bad message in the index")
            value = int.from_bytes(raw, "little") if kind != 2 else raw
        else:
            raise _Broken("bad message in the index")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _last(fields: dict[int, list], number: int, default):
    """Value of a field given at most once; wrong kinds of value count as broken."""
    value = fields.get(number, [default])[-1]
    if type(value) is not type(default):
        raise _Broken("bad message in the index")
    return value


def _masked(crc: int) -> int:
    """LevelDB's masked form of a checksum."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_CRC_TABLE = _crc_table()


def _feed(register: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Advance many CRC registers at once, each by its row of bytes."""
    for column in columns.T:
        register = _CRC_TABLE[(register ^ column) & 0xFF] ^ (register >> 8)
    return register


def _apply(operator: np.ndarray, register: np.ndarray) -> np.ndarray:
    """Multiply registers with a 32 x 32 matrix over GF(2), given by what it makes of each bit."""
    result = np.zeros_like(register)
    for bit in range(32):
        result ^= np.where((register >> bit) & 1, operator[bit], np.uint32(0))
    return result


def crc32c(data: bytes, lane: int = 1024) -> int:
    """CRC-32C (Castagnoli), as LevelDB and TensorFlow use it.

    The sum is linear over GF(2): lanes of the data are summed side by side in numpy and joined pairwise, which takes a third of a
    second for 15 MB where a loop over bytes takes many.
    """
    if len(data) < 4 * lane:
        return int(_feed(np.array([0xFFFFFFFF], np.uint32), np.frombuffer(data, np.uint8)[None])[0]) ^ 0xFFFFFFFF
    lanes = 1 << (-(-len(data) // lane) - 1).bit_length()
    columns = np.zeros(lanes * lane, np.uint8)  # zeros in front leave a register of 0 as it is
    columns[-len(data) :] = np.frombuffer(data, np.uint8)
    columns[-len(data) : lanes * lane - len(data) + 4] ^= 0xFF  # the same as starting the register with ones
    registers = _feed(np.zeros(lanes, np.uint32), columns.reshape(lanes, lane))
    operator = _feed(np.uint32(1) << np.arange(32, dtype=np.uint32), np.zeros((32, lane), np.uint8))
    while len(registers) > 1:
        registers = _apply(operator, registers[0::2]) ^ registers[1::2]
        operator = _apply(operator, operator)
    return int(registers[0]) ^ 0xFFFFFFFF


def save_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors by name as a safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
    publish(temporary, path)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of transformers, and the log lines of it and of the hub, whose errors are told in one line."""
    from transformers.utils import logging as messages

    verbosity, hub = messages.get_verbosity(), logging.getLogger("huggingface_hub")
    level, bars = hub.level, messages.is_progress_bar_enabled()
    messages.set_verbosity(messages.CRITICAL)
    messages.disable_progress_bar()
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        messages.set_verbosity(verbosity)
        if bars:
            messages.enable_progress_bar()
        hub.setLevel(level)
