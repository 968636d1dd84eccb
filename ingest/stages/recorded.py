"""What a finished run of stage activations left, as the later stages read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from ingest.sounds.draws import grouped_folds
from ingest.sounds.listing import Entry
from warehouse import ledger, store
from warehouse.ledger import Run
from warehouse.matrices import Matrix, open_matrix
from warehouse.store import UserError

FOLDS, FOLD_SEED = 5, 0


@dataclass(frozen=True)
class RecordedLayer:
    """A layer's matrix: rows are its neurons, from `first_neuron_id` on; `kind` and `shape` as in table layer. `shares_path` is the file of
    the shares of values above 0, where these were recorded."""

    layer_id: int
    name: str
    kind: str
    shape: tuple[int, ...]
    non_negative: bool
    first_neuron_id: int
    neurons: int
    reduction: str
    path: Path
    shares_path: Path | None = None

    @property
    def item(self) -> str:
        """Its name as a unit of work."""
        return f"layer {self.layer_id}"

    def matrix(self) -> Matrix:
        """Activations [neurons, clips], read as they are asked for."""
        return open_matrix(self.path)

    def shares(self) -> Matrix | None:
        """Share of each clip's values above 0 [neurons, clips], read as they are asked for; None when not recorded."""
        return open_matrix(self.shares_path) if self.shares_path else None


@dataclass(frozen=True)
class Recorded:
    """A run: its clips in column order, the number of each one's class in the main label set (-1: none, or several) and fold (from 1), and
    the layers in forward order."""

    warehouse: Path
    run_id: int
    run_key: str
    dataset: str
    dataset_sha256: str
    network: str
    network_sha256: str
    clip_s: float
    clip_ids: np.ndarray
    clip_names: tuple[str, ...]
    class_ids: np.ndarray
    class_names: tuple[str, ...]
    labels: np.ndarray
    folds: np.ndarray
    drawn_folds: bool
    layers: tuple[RecordedLayer, ...]

    def subject(self) -> dict[str, object]:
        """Parameters that say what a run of a later stage is about."""
        return {"dataset": self.dataset, "network": self.network, "clip_s": self.clip_s, "activations": self.run_key}

    def begin(
        self, stage: str, code_version: int, parameters: Mapping[str, object], *, seed: int | None = None, device: str = "cpu"
    ) -> Run:
        """Begin or continue a later stage's run; see ledger.begin. `parameters` are those beside its subject."""
        return ledger.begin(self.warehouse, stage, device=device, **self._named(code_version, parameters, seed))

    def find(self, stage: str, code_version: int, parameters: Mapping[str, object], *, seed: int | None = None) -> tuple[int, bool] | None:
        """The run that `begin` would continue, and whether it is done; see ledger.find."""
        return ledger.find(self.warehouse, stage, **self._named(code_version, parameters, seed))

    def _named(self, code_version: int, parameters: Mapping[str, object], seed: int | None) -> dict[str, Any]:
        return {
            "parameters": {**self.subject(), **parameters}, "code_version": code_version, "dataset_sha256": self.dataset_sha256,
            "network_sha256": self.network_sha256, "seed": seed,
        }  # fmt: skip

    def plan(self) -> dict[str, RecordedLayer]:
        """The layers as units of work."""
        return {layer.item: layer for layer in self.layers}


def read_recorded(warehouse: Path, run_id: int) -> Recorded:
    """Read a finished run; where the data set has no folds, five are drawn, each class spread evenly and clips of one group kept together."""
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            """SELECT run_key, dataset_id, dataset.name, content_sha256, network.name, network_sha256, clip_s FROM run
            JOIN dataset ON dataset.name = run.parameters::JSON ->> 'dataset' AND content_sha256 = dataset_sha256
            JOIN network ON network.name = run.parameters::JSON ->> 'network' AND checkpoint_sha256 = network_sha256
              AND clip_s = (run.parameters::JSON ->> 'clip_s')::DOUBLE
            WHERE run.run_id = ? AND stage = 'activations' AND status = 'done'""",
            [run_id],
        ).fetchall()
        if not rows:
            raise UserError(f"run {run_id} of {warehouse} is no finished run of stage activations")
        [(run_key, dataset_id, dataset, dataset_sha256, network, network_sha256, clip_s)] = rows
        classes = con.execute(
            "SELECT class_id, name FROM class WHERE label_set_id = (SELECT min(label_set_id) FROM label_set WHERE dataset_id = ?) ORDER BY 1",
            [dataset_id],
        ).fetchall()
        clips = con.execute(
            """SELECT clip_id, clip.name, fold, source_group FROM activation_clip JOIN clip USING (clip_id)
            WHERE run_id = ? ORDER BY column_index""",
            [run_id],
        ).fetchall()
        labels = _labels(con, [row[0] for row in clips], [row[0] for row in classes])
        layers = con.execute(
            """SELECT layer_id, layer.name, kind, shape, non_negative,
                      (SELECT min(neuron_id) FROM neuron WHERE neuron.layer_id = layer.layer_id), neurons, reduction, path,
                      (SELECT path FROM activation_file AS shares WHERE shares.run_id = activation_file.run_id
                       AND shares.layer_id = layer.layer_id AND shares.reduction = 'active')
            FROM activation_file JOIN layer USING (layer_id) WHERE run_id = ? AND reduction IN ('mean', 'cls', 'window_mean')
            ORDER BY position""",
            [run_id],
        ).fetchall()
    drawn = any(row[2] is None for row in clips)
    if drawn:
        entries = [Entry(row[1], Path(), {"": (str(label),)}, None, row[3]) for row, label in zip(clips, labels, strict=True)]
        fold_of = grouped_folds(entries, FOLDS, FOLD_SEED)
        folds = np.array([fold_of[row[1]] for row in clips], dtype=np.int64)
    else:
        folds = np.array([row[2] for row in clips], dtype=np.int64)
    return Recorded(
        warehouse, run_id, run_key, dataset, dataset_sha256, network, network_sha256, clip_s,
        np.array([row[0] for row in clips], dtype=np.int64), tuple(row[1] for row in clips),
        np.array([row[0] for row in classes], dtype=np.int64), tuple(row[1] for row in classes), labels, folds, drawn,
        tuple(
            RecordedLayer(row[0], row[1], row[2], tuple(json.loads(row[3])), row[4], row[5], row[6], row[7], warehouse.parent / row[8],
                          warehouse.parent / row[9] if row[9] else None)
            for row in layers
        ),
    )  # fmt: skip


def _labels(con: duckdb.DuckDBPyConnection, clip_ids: list[int], class_ids: list[int]) -> np.ndarray:
    number = {class_id: index for index, class_id in enumerate(class_ids)}
    found: dict[int, list[int]] = {}
    for clip_id, class_id in con.execute("SELECT clip_id, class_id FROM clip_label").fetchall():
        if class_id in number:
            found.setdefault(clip_id, []).append(number[class_id])
    return np.array([found[clip][0] if len(found.get(clip, ())) == 1 else -1 for clip in clip_ids], dtype=np.int64)


def relabelled(recorded: Recorded, label_set: str) -> Recorded:
    """The same clips with the classes of another label set; a clip with several of them has none."""
    with store.connect_readonly(recorded.warehouse) as con:
        found = con.execute(
            """SELECT label_set.name, label_set_id FROM label_set JOIN dataset USING (dataset_id) WHERE dataset.name = ? AND content_sha256 = ?
            ORDER BY label_set_id""",
            [recorded.dataset, recorded.dataset_sha256],
        ).fetchall()
        if label_set not in dict(found):
            raise UserError(f"{recorded.dataset} has no label set {label_set}: it has {', '.join(name for name, _ in found)}")
        classes = con.execute("SELECT class_id, name FROM class WHERE label_set_id = ? ORDER BY 1", [dict(found)[label_set]]).fetchall()
        label_of = dict(
            con.execute(
                """SELECT clip_id, min(class_id) FROM clip_label JOIN class USING (class_id) WHERE label_set_id = ?
                GROUP BY clip_id HAVING count(*) = 1""",
                [dict(found)[label_set]],
            ).fetchall()
        )
    number = {class_id: index for index, (class_id, _) in enumerate(classes)}
    labels = np.array([number.get(label_of.get(int(clip)), -1) for clip in recorded.clip_ids], dtype=np.int64)
    return replace(
        recorded,
        class_ids=np.array([row[0] for row in classes], dtype=np.int64),
        class_names=tuple(row[1] for row in classes),
        labels=labels,
    )


def durations(recorded: Recorded) -> np.ndarray:
    """Seconds of every clip's file [clips]."""
    with store.connect_readonly(recorded.warehouse) as con:
        rows = con.execute(
            "SELECT duration_s FROM activation_clip JOIN clip USING (clip_id) WHERE run_id = ? ORDER BY column_index", [recorded.run_id]
        )
        return rows.fetchnumpy()["duration_s"]


def clip_groups(warehouse: Path, recorded: Recorded) -> list[str]:
    """What each clip was cut from, in column order; its own name where that is unknown."""
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            """SELECT coalesce('group ' || source_group, 'clip ' || name) FROM activation_clip JOIN clip USING (clip_id)
            WHERE run_id = ? ORDER BY column_index""",
            [recorded.run_id],
        ).fetchall()
    return [group for (group,) in rows]
