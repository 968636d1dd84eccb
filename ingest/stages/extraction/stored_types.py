"""As what a run of stage activations stores its matrices when the study leaves that open: float16, and float32 for layers that need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ingest.methods.precision import Kept, levels, lost_in_float16, seems_lost
from ingest.networks.network import Layer
from warehouse import ledger, store
from warehouse.matrices import Matrix, open_matrix

WATCHED = "float16-watched"
WORST_FIRST = ("overflow", "underflow", "lost order")
BLOCK_VALUES = 4_000_000


class Lost(Exception):
    """Some of the clips' values that float16 does not keep: types are to be chosen by layer, from the values of all clips."""


def watch(folder: Path, watched: bool) -> None:
    """Mark a run's folder as one where every value is compared with what is stored, or as none."""
    (folder / WATCHED).touch() if watched else (folder / WATCHED).unlink(missing_ok=True)


def watcher(layers: Sequence[Layer], rows: Sequence[int], reductions: int, *, positions: bool) -> Kept:
    """What float16 does to values [clips, reductions * neurons of all layers], `rows` neurons a layer."""
    of_all = [levels(count, positions=positions and layer.is_map) for layer, count in zip(layers, rows, strict=True)]
    return Kept(torch.cat(of_all).repeat(reductions))


def lost(matrices: Iterable[Matrix], *, positions: bool) -> str | None:
    """The worst that float16 does to values of matrices, None when it keeps them; see lost_in_float16."""
    found = {
        lost_in_float16(torch.from_numpy(values).T, positions=positions) for matrix in matrices for _, values in matrix.blocks(BLOCK_VALUES)
    }
    return next((what for what in WORST_FIRST if what in found), None)


def is_by_layer(warehouse: Path, stage: str, parameters: dict[str, object], key: dict[str, Any]) -> bool:
    """Whether types are to be chosen by layer, as float16 was found not to do for all: there is such a run, or the float16 run of these
    parameters is done, was not watched, and what it stored looks so."""
    if ledger.find(warehouse, stage, parameters={**parameters, "dtype": "auto"}, **key):
        return True
    run_id, done = ledger.find(warehouse, stage, parameters=parameters, **key) or (0, False)
    watched = store.run_folder(warehouse, run_id, continued=False) / WATCHED
    if not done or watched.exists():
        return False
    with store.connect_readonly(warehouse) as con:
        files = con.execute(
            "SELECT path, kind = 'position' FROM activation_file JOIN layer USING (layer_id) WHERE run_id = ?", [run_id]
        ).fetchall()
    for path, positions in ((warehouse.parent / name, positions) for name, positions in files):
        blocks = open_matrix(path).blocks(BLOCK_VALUES) if path.exists() else ()
        if any(seems_lost(torch.from_numpy(values).T, positions=positions) for _, values in blocks):
            return True
    if watched.parent.is_dir():
        watched.touch()  # read once
    return False


def said(run: ledger.Run) -> ledger.Run:
    """A run that tells which of its layers are stored as float32, and what float16 would do to them."""
    with store.connect_readonly(run.warehouse) as con:
        rows = con.execute(
            """SELECT name, kind = 'position', list(path ORDER BY path) FROM activation_file JOIN layer USING (layer_id)
            WHERE run_id = ? AND activation_file.dtype = 'float32' GROUP BY name, kind, position ORDER BY position""",
            [run.run_id],
        ).fetchall()
    names = []
    for name, positions, paths in rows[:10]:
        each = (lost([open_matrix(run.warehouse.parent / path)], positions=positions) for path in paths)
        how = next(filter(None, each), None)
        names.append(f"{name} ({how})")
    more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
    line = f"float16 does not keep the values of {', '.join(names)}{more}: stored as float32" if rows else "all layers fit float16"
    return replace(run, why="; ".join(filter(None, (run.why, line))))
