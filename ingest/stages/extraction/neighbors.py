"""Table neighbor: of every neuron of a run those that go up and down with it most, from the run's matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ingest.methods.mapping.neighbors import neighbors
from warehouse import ledger, store
from warehouse.matrices import open_matrix

NEIGHBORS = 8
WORK = 2e13
"""Neurons, squared, times clips: up to so much all clips are taken, beyond, a sample. On one processor it takes six to seven minutes."""
LEAST, SEED = 1000, 0
"""Clips of a sample, and the seed of its draw. A correlation of 0.9 over 1000 clips is known to within 0.012."""


def sample_parameter(
    warehouse: Path, stage: str, parameters: dict[str, object], key: dict[str, Any], shape: tuple[int, int], asked: int | None
) -> dict[str, object]:
    """The parameter of a run whose neighbours are found from a sample of its clips: how many, those `asked` for, or as many as WORK allows. None
    where all are taken, as in all runs from before there were samples, which go on as they are. `shape`: neurons and clips."""
    neurons, clips = shape
    count = max(LEAST, int(WORK / max(1, neurons) ** 2)) if asked is None else asked
    if count >= clips:
        return {}
    before = [{**parameters, **shares, "dtype": dtype} for shares in ({}, {"shares": True}) for dtype in (parameters["dtype"], "auto")]
    if asked is None and any(ledger.find(warehouse, stage, parameters=found, **key) for found in before):
        return {}
    return {"neighbor_clips": count}


def find_neighbors(run: ledger.Run, parameters: Mapping[str, object], device: str) -> int:
    """Write the neighbours of the channels and units of a run with these parameters, a layer a unit of work; returns the layers done now."""
    done = run.done()
    with store.connect_readonly(run.warehouse) as con:
        rows = con.execute(
            """SELECT layer_id, path, neurons, clips, (SELECT min(neuron_id) FROM neuron WHERE neuron.layer_id = layer.layer_id)
            FROM activation_file JOIN layer USING (layer_id) WHERE run_id = ? AND reduction IN ('mean', 'cls') AND kind <> 'position'
            ORDER BY position""",
            [run.run_id],
        ).fetchall()
    pending = [f"neighbors {layer_id}" not in done for layer_id, *_ in rows]
    if not any(pending):
        return 0
    counts = [neurons for _, _, neurons, _, _ in rows]
    ends = np.cumsum(counts)
    stored = Stored(tuple(run.warehouse.parent / path for _, path, *_ in rows), tuple(map(int, ends)), rows[0][3])
    neuron_ids = np.concatenate([np.arange(first, first + neurons) for _, _, neurons, _, first in rows])
    sample = parameters.get("neighbor_clips")
    clips = np.random.default_rng(SEED).choice(stored.clips, int(str(sample)), replace=False) if sample else None
    layer, waiting = 0, [NOTHING]
    with run.gathered() as gathering:
        for part, numbers, correlations in neighbors(stored, NEIGHBORS, clips=clips, asked=np.repeat(pending, counts), device=device):
            at = part.start
            while at < part.stop:
                while ends[layer] <= at:
                    layer += 1
                till = min(part.stop, int(ends[layer]))
                inside = slice(at - part.start, till - part.start)
                if pending[layer]:
                    waiting.append(_frame(neuron_ids[at:till], neuron_ids[numbers[inside]], correlations[inside]))
                    if till == ends[layer]:
                        gathering.record([f"neighbors {rows[layer][0]}"], {"neighbor": pl.concat(waiting)})
                        waiting = [NOTHING]
                at = till
    return sum(pending)


def _frame(neuron_ids: np.ndarray, neighbor_ids: np.ndarray, correlations: np.ndarray) -> pl.DataFrame:
    """Rows of table neighbor from [neurons] and [neurons, k], NaN where a neuron has fewer neighbours."""
    k = correlations.shape[1]
    columns = {
        "neuron_id": np.repeat(neuron_ids, k),
        "neighbor_id": neighbor_ids.reshape(-1),
        "correlation": correlations.reshape(-1),
        "rank": np.tile(np.arange(1, k + 1), len(neuron_ids)),
    }
    return pl.DataFrame(columns, schema=NOTHING.schema).filter(pl.col("correlation").is_finite())


NOTHING = pl.DataFrame(schema={"neuron_id": pl.Int64, "neighbor_id": pl.Int64, "correlation": pl.Float32, "rank": pl.Int64})


@dataclass(frozen=True)
class Stored:
    """The neurons of several layers, one under the other, read from their files when they are asked for. `ends`: neurons up to the end of each."""

    paths: tuple[Path, ...]
    ends: tuple[int, ...]
    clips: int

    @property
    def shape(self) -> tuple[int, int]:
        """Neurons and clips."""
        return self.ends[-1], self.clips

    def __getitem__(self, key: tuple[slice, slice | np.ndarray]) -> np.ndarray:
        rows, columns = key
        found = []
        for path, first, end in zip(self.paths, (0, *self.ends), self.ends, strict=False):
            if first < rows.stop and end > rows.start:
                # Opened anew: pages of a map that stays open count as the process's own memory.
                found.append(open_matrix(path)[max(rows.start - first, 0) : rows.stop - first, columns])
        return found[0] if len(found) == 1 else np.concatenate(found)
