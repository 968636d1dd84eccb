"""Which network it is: what shapes its values, and by which hash a warehouse knows it."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from ingest.networks.checkpoints import COMPUTED, tensor_sha256
from ingest.networks.network import Network
from ingest.sounds.listing import AUDIO_ENDINGS
from warehouse.store import UserError, connect_readonly, publish, run_folder, sha256_file, sha256_json

RECORD = "network.json"
FILES = "files"
CODE = {".py", ".pyc", ".pyi"}
OPENED_ELSEWHERE = (*AUDIO_ENDINGS, ".h5", ".hdf5", ".safetensors", ".parquet", ".arrow", ".feather")
WATCHED: dict[str, set[Path] | None] = {}
"""Folders of which opened files are told, with what was opened; None when that is over."""
SAID = {"tensors": "its tensors", "file": "its Python code", "config": "its configuration", "preprocessor": "its preprocessor",
        "output_names": "its label names"}  # fmt: skip
OURS = {"analyze", "auricle", "ingest", "report", "warehouse"}


def identify(network: Network, path: Path, function: str, weights: Path | None, read: Iterable[Path] = ()) -> None:
    """Have the hash of a network from a user's file stand for its parameters and buffers, and note these, the file and what it `read` in
    `shaped_by`.

    A hash of the tensors, or of the `weights` file, stays. Any other text is hashed together with what shapes the values; what has the form
    of a SHA-256 and is none of these raises UserError.
    """
    given = network.checkpoint_sha256
    tensors = network.tensors()
    everything = tensors | {name: buffer for name, buffer in network.module.named_buffers() if name not in tensors}
    sources = [[file.relative_to(path.parent).as_posix(), sha256_file(file)] for file in sorted(imported(path))]
    network.shaped_by = {"tensors": tensor_sha256(everything), "file": sha256_json([function, sources])}
    files = {os.path.relpath(file, os.path.abspath(path.parent)): file for file in [*read, *_named(path)]}
    files |= {"weights": weights} if weights is not None else {}
    network.shaped_by[FILES] = {Path(name).as_posix(): sha256_file(file) for name, file in sorted(files.items()) if file.is_file()}
    if (
        given in COMPUTED
        or given == tensor_sha256(tensors)
        or (weights is not None and weights.is_file() and given == sha256_file(weights))
    ):
        return
    if len(given) == 64 and len(set(given)) > 1 and not set(given.lower()) - set("0123456789abcdef"):
        raise UserError(
            f"{path}:{function}: checkpoint_sha256 {given[:8]}... is not that of the network's tensors: leave it out, or give "
            "ingest.networks.checkpoints.tensor_sha256(module.state_dict())"
        )
    network.checkpoint_sha256 = sha256_json([given, shape(network)])


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[set[Path]]:
    """Collects the files below a folder, other than Python's own, that are opened for reading meanwhile: by Python, which is told of no file that
    a library opens by itself."""
    if not WATCHED:
        sys.addaudithook(_hear)  # for good: there is no taking it back
    root, found = os.path.abspath(folder), set[Path]()
    WATCHED[root] = found
    try:
        yield found
    finally:
        WATCHED[root] = None


def _hear(event: str, arguments: tuple) -> None:
    if event != "open" or not any(found is not None for found in WATCHED.values()):
        return
    with contextlib.suppress(Exception):  # which would be the opening code's
        path, _, flags = arguments
        place = Path(os.path.abspath(os.fsdecode(path)))
        for root, found in WATCHED.items():
            if found is not None and not flags & os.O_WRONLY and _is_data(place, Path(root)):
                found.add(place)


def _is_data(file: Path, folder: Path) -> bool:
    if not file.is_relative_to(folder) or file.suffix in CODE:
        return False
    return not any(part.startswith(".") or part in ("__pycache__", "site-packages") for part in file.relative_to(folder).parts[:-1])


def _named(path: Path) -> Iterator[Path]:
    """Files of the kinds that libraries open by themselves whose names stand in a user's code."""
    folder = Path(os.path.abspath(path.parent))
    for source in imported(path):
        with contextlib.suppress(SyntaxError, ValueError):
            for node in ast.walk(ast.parse(source.read_bytes())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(OPENED_ELSEWHERE):
                    places = {Path(os.path.abspath(base / node.value)) for base in (folder, source.parent)}
                    yield from (place for place in places if _is_data(place, folder))


def imported(path: Path) -> set[Path]:
    """A Python file and the files below its folder that it imports, and what these import."""
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file not in found and file.is_file():
            found.add(file)
            waiting += _imports(file, path.parent)
    return found


def _imports(file: Path, folder: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # then it is not imported either
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(folder, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else folder
            names = [(base, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names]
        else:
            continue
        for base, name in names:
            parts = name.split(".")
            if parts[0] not in OURS and base.is_relative_to(folder):
                for place in (base.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)):
                    yield from (place.with_name(f"{place.name}.py"), place / "__init__.py")


def shape(network: Network) -> dict[str, object]:
    """All that is known to shape a network's values and names, beside its hash."""
    return {**{name: value for name, value in network.shaped_by.items() if value}, "output_names": list(network.output_names or [])}


def settle(warehouse: Path, network: Network) -> None:
    """Give a network the hash by which a warehouse knows it (see `known_as`), and note what it read beside runs recorded without."""
    network.checkpoint_sha256, unnoted = known_as(warehouse, network)
    for folder in unnoted:
        record(folder, network)


def known_as(warehouse: Path, network: Network) -> tuple[str, list[Path]]:
    """The hash by which a warehouse knows a network, or would: another than its own where there is one of this name and hash that was shaped
    by something else: another file of the user's, other label names, another configuration. Nothing is known of runs made before this was
    recorded but their label names, nor of the files that a network read in those recorded without, whose folders are given: these are now
    taken to be the same. Writes nothing."""
    with connect_readonly(warehouse) as con:
        named = con.execute(
            "SELECT output_names FROM network WHERE name = ? AND checkpoint_sha256 = ?", [network.name, network.checkpoint_sha256]
        ).fetchall()
        runs = con.execute(
            "SELECT run_id FROM run WHERE stage = 'activations' AND network_sha256 = ? AND parameters::JSON ->> 'network' = ?",
            [network.checkpoint_sha256, network.name],
        ).fetchall()
    now = written(network)
    other = any((json.loads(names) if names else []) != now["output_names"] for (names,) in named)
    unnoted = []
    for (run_id,) in () if other else runs:
        folder = run_folder(warehouse, run_id, continued=False)
        if before := _read(folder):
            other |= before | {FILES: before.get(FILES, now[FILES])} != now
            if not other and FILES not in before:
                unnoted.append(folder)
    return (sha256_json([network.checkpoint_sha256, shape(network)]) if other else network.checkpoint_sha256), unnoted


def written(network: Network) -> dict[str, object]:
    """What is kept of a network beside a run's matrices; what it read, though it be nothing."""
    return {FILES: {}, **shape(network)}


def record(folder: Path, network: Network) -> None:
    """Keep what shapes a network's values beside the matrices of a run."""
    temporary = folder / f"{RECORD}.tmp"
    temporary.write_text(json.dumps(written(network), ensure_ascii=False, sort_keys=True), encoding="utf-8")
    publish(temporary, folder / RECORD)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / RECORD
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def differences(folder: Path, network: Network) -> str:
    """What a network has that is not as in the record of a run, in words; nothing where there is no record."""
    before, now = _read(folder), written(network)
    said = [words for name, words in SAID.items() if name in before and before[name] != now.get(name)]
    old, new = before.get(FILES, now[FILES]), cast(dict[str, str], now[FILES])
    return ", ".join(said + sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))
