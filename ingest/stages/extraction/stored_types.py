"""As what a run of stage activations stores its matrices when the study leaves that open: float16, and float32 for layers that need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ingest.methods.precision import lost_in_float16, seems_lost
from ingest.networks.network import Layer
from warehouse import ledger, store

WATCHED = "float16-watched"


class Lost(Exception):
    """Some of the clips' values that float16 does not keep: types are to be chosen by layer, from the values of all clips."""


def watch(folder: Path, watched: bool) -> None:
    """Mark a run's folder as one where every value is compared with what is stored, or as none."""
    (folder / WATCHED).touch() if watched else (folder / WATCHED).unlink(missing_ok=True)


def check(values: torch.Tensor, layers: Sequence[Layer], rows: Sequence[int], *, positions: bool) -> None:
    """Raise Lost for values [reductions, clips, neurons of all layers] (float32), `rows` neurons a layer, that float16 does not keep."""
    for layer, part in zip(layers, values.split(list(rows), dim=2), strict=True):
        if any(lost_in_float16(reduction, positions=positions and layer.is_map) for reduction in part):
            raise Lost


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
        if path.is_file() and seems_lost(torch.from_numpy(np.load(path)).T, positions=positions):
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
        matrices = (torch.from_numpy(np.load(run.warehouse.parent / path)).T for path in paths)
        how = next(filter(None, (lost_in_float16(matrix, positions=positions) for matrix in matrices)), None)
        names.append(f"{name} ({how})")
    more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
    line = f"float16 does not keep the values of {', '.join(names)}{more}: stored as float32" if rows else "all layers fit float16"
    return replace(run, why="; ".join(filter(None, (run.why, line))))
