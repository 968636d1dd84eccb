"""Which network it is: what shapes its values, and by which hash a warehouse knows it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

from ingest.networks.checkpoints import COMPUTED, tensor_sha256
from ingest.networks.network import Network
from warehouse.store import UserError, connect_readonly, publish, run_folder, sha256_file, sha256_json

RECORD = "network.json"
OURS = {"analyze", "auricle", "ingest", "report", "warehouse"}


def identify(network: Network, path: Path, function: str, weights: Path | None) -> None:
    """Have the hash of a network from a user's file stand for its parameters and buffers, and note these and the file in `shaped_by`.

    A hash of the tensors, or of the `weights` file, stays. Any other text is hashed together with what shapes the values; what has the form
    of a SHA-256 and is none of these raises UserError.
    """
    given = network.checkpoint_sha256
    tensors = network.tensors()
    everything = tensors | {name: buffer for name, buffer in network.module.named_buffers() if name not in tensors}
    sources = [[file.relative_to(path.parent).as_posix(), sha256_file(file)] for file in sorted(imported(path))]
    network.shaped_by = {"tensors": tensor_sha256(everything), "file": sha256_json([function, sources])}
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
    return {**network.shaped_by, "output_names": list(network.output_names or [])}


def settle(warehouse: Path, network: Network) -> None:
    """Give a network another hash where the warehouse has one of this name and hash that was shaped by something else: another file of the
    user's, other label names, another configuration. Nothing is known of runs made before this was recorded but their label names."""
    with connect_readonly(warehouse) as con:
        named = con.execute(
            "SELECT output_names FROM network WHERE name = ? AND checkpoint_sha256 = ?", [network.name, network.checkpoint_sha256]
        ).fetchall()
        runs = con.execute(
            "SELECT run_id FROM run WHERE stage = 'activations' AND network_sha256 = ? AND parameters::JSON ->> 'network' = ?",
            [network.checkpoint_sha256, network.name],
        ).fetchall()
    now = shape(network)
    other = any((json.loads(names) if names else []) != now["output_names"] for (names,) in named)
    for (run_id,) in () if other else runs:
        record = run_folder(warehouse, run_id, continued=False) / RECORD
        other |= record.is_file() and json.loads(record.read_text()) != now
    if other:
        network.checkpoint_sha256 = sha256_json([network.checkpoint_sha256, now])


def record(folder: Path, network: Network) -> None:
    """Keep what shapes a network's values beside the matrices of a run."""
    temporary = folder / f"{RECORD}.tmp"
    temporary.write_text(json.dumps(shape(network), ensure_ascii=False, sort_keys=True))
    publish(temporary, folder / RECORD)
