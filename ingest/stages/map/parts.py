"""What a map is made of: layers with the neurons that take part, of one network or several, and where these lay on an earlier map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ingest.methods.mapping import correlations
from ingest.methods.mapping.layout import Layout
from ingest.stages.recorded import Recorded, RecordedLayer, read_recorded
from warehouse import store

ROWS = 2048
"""Neurons read at a time."""


@dataclass(frozen=True)
class Part:
    """A layer of the map: which of its neurons take part [neurons], and the columns of the clips."""

    layer: RecordedLayer
    clips: np.ndarray
    varies: np.ndarray

    @property
    def neuron_ids(self) -> np.ndarray:
        """Numbers of the neurons that take part."""
        return self.layer.first_neuron_id + np.flatnonzero(self.varies)

    def blocks(self) -> Iterator[np.ndarray]:
        """Standardised activations of these, ROWS neurons at a time."""
        matrix = self.layer.matrix()
        for start in range(0, self.layer.neurons, ROWS):
            rows = matrix[start : start + ROWS][self.varies[start : start + ROWS]]
            if len(rows):
                yield correlations.standardised(rows[:, self.clips])


def gathered(runs: list[Recorded]) -> list[Part]:
    """The layers of channels and units of runs, over the clips that all recorded."""
    shared = sorted(set.intersection(*({int(clip) for clip in its.clip_ids} for its in runs)))
    parts = []
    for its in runs:
        column = {int(clip): place for place, clip in enumerate(its.clip_ids)}
        clips = np.array([column[clip] for clip in shared], dtype=np.int64)
        parts += [Part(layer, clips, _varies(layer, clips)) for layer in its.layers if layer.kind != "position"]
    return parts


def _varies(layer: RecordedLayer, clips: np.ndarray) -> np.ndarray:
    matrix = layer.matrix()
    blocks = [correlations.varies(matrix[start : start + ROWS][:, clips]) for start in range(0, layer.neurons, ROWS)]
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=bool)


def earlier_layout(warehouse: Path, run_id: int, neuron_ids: np.ndarray) -> tuple[int | None, Layout | None]:
    """The latest finished map of an earlier run that has any of the neurons, and their places on it (NaN: none)."""
    with store.connect_readonly(warehouse) as con:
        con.register("asked", pl.DataFrame({"neuron_id": neuron_ids}))
        found = con.execute(
            """SELECT run_id, unit FROM neuron_map JOIN run USING (run_id) WHERE run_id < ? AND status = 'done'
            AND run_id IN (SELECT run_id FROM neuron_position JOIN asked USING (neuron_id)) ORDER BY run_id DESC LIMIT 1""",
            [run_id],
        ).fetchall()
        if not found:
            return None, None
        [(earlier, unit)] = found
        rows = con.execute(
            "SELECT neuron_id, x, y FROM neuron_position JOIN asked USING (neuron_id) WHERE run_id = ?", [earlier]
        ).fetchnumpy()
    places = np.full((len(neuron_ids), 2), np.nan)
    order = np.argsort(neuron_ids)
    at = order[np.searchsorted(neuron_ids, rows["neuron_id"], sorter=order)]
    places[at, 0], places[at, 1] = rows["x"], rows["y"]
    return earlier, Layout(places, unit)


def beside(recorded: Recorded) -> list[Recorded]:
    """The newest run of each other network over the same data set that is older than this one: those that come later do not change it."""
    with store.connect_readonly(recorded.warehouse) as con:
        rows = con.execute(
            """SELECT max(run_id) FROM run WHERE stage = 'activations' AND status = 'done' AND dataset_sha256 = ?
            AND parameters::JSON ->> 'dataset' = ? AND parameters::JSON ->> 'network' <> ? AND run_id < ?
            AND NOT EXISTS (SELECT 1 FROM activation_file JOIN layer USING (layer_id) WHERE activation_file.run_id = run.run_id AND kind = 'position')
            GROUP BY parameters::JSON ->> 'network' ORDER BY 1""",
            [recorded.dataset_sha256, recorded.dataset, recorded.network, recorded.run_id],
        ).fetchall()
    return [read_recorded(recorded.warehouse, run_id) for (run_id,) in rows]
