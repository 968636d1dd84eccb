"""Two runs of activations side by side: layers, neurons that do the same in both, and what became of descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from warehouse import store
from warehouse.matrices import open_matrix
from warehouse.store import UserError

BLOCK = 2048


@dataclass(frozen=True)
class Comparison:
    """layers: both runs' layers by position in the network, with neurons and median correlation of best matches. matches: for every neuron of
    the first run the neuron of the second whose activation correlates most, `mutual` where that holds the other way round, too.
    descriptions: neurons of one network whose description differs between the latest run of each."""

    layers: pl.DataFrame
    matches: pl.DataFrame
    descriptions: pl.DataFrame

    def export(self, folder: Path) -> None:
        """Write matches and descriptions to a folder as CSV."""
        folder.mkdir(parents=True, exist_ok=True)
        self.matches.write_csv(folder / "matches.csv")
        self.descriptions.write_csv(folder / "descriptions.csv")


def compare(warehouse: Path, first: int, second: int) -> Comparison:
    """Compare two finished runs of stage activations by the clips that both heard, known by content.

    Neurons that never change have no match. Raises UserError for other runs, or when fewer than three clips are common.
    """
    with store.connect_readonly(warehouse) as con:
        columns = [_clips(con, run) for run in (first, second)]
        common = sorted(columns[0].keys() & columns[1].keys())
        if len(common) < 3:
            raise UserError(f"runs {first} and {second} have {len(common)} clips in common: a comparison needs at least 3")
        layers = [_layers(con, run) for run in (first, second)]
        changed = _descriptions(con, first, second)
    sides = []
    for found, clips in zip(layers, columns, strict=True):
        chosen = [clips[sha256] for sha256 in common]
        values = np.concatenate([open_matrix(warehouse.parent / path)[:, chosen].astype(np.float32) for path in found["path"]])
        ids = np.concatenate([start + np.arange(neurons) for start, neurons in found.select("first_neuron_id", "neurons").rows()])
        position = np.repeat(found["position"].to_numpy(), found["neurons"].to_numpy())
        sides.append((_standard(values), ids, position))
    (a, a_ids, a_position), (b, b_ids, b_position) = sides
    to_b, correlation = _best(a, b)
    to_a, _ = _best(b, a)
    known = np.flatnonzero(to_b >= 0)
    matches = pl.DataFrame(
        {
            "neuron_id": a_ids[known], "position": a_position[known], "match_id": b_ids[to_b[known]], "match_position": b_position[to_b[known]],
            "correlation": correlation[known], "mutual": to_a[to_b[known]] == known,
        }
    )  # fmt: skip
    summed = matches.group_by("position").agg(
        pl.col("correlation").median().alias("median_correlation"), pl.col("mutual").mean().alias("mutual_share")
    )
    shown = ("position", "layer", "neurons")
    both = (
        layers[0].select(shown).join(layers[1].select(shown), on="position", how="full", coalesce=True, suffix="_second").sort("position")
    )
    return Comparison(both.join(summed, on="position", how="left"), matches, changed)


def _clips(con: duckdb.DuckDBPyConnection, run: int) -> dict[str, int]:
    """Column of each clip by content; of equal clips the first."""
    rows = con.execute(
        """SELECT sha256, min(column_index) FROM activation_clip JOIN clip USING (clip_id) JOIN run USING (run_id)
        WHERE run_id = ? AND stage = 'activations' AND status = 'done' GROUP BY sha256""",
        [run],
    ).fetchall()
    if not rows:
        raise UserError(f"run {run} is no finished run of stage activations: `auricle status` lists the runs")
    return dict(rows)


def _layers(con: duckdb.DuckDBPyConnection, run: int) -> pl.DataFrame:
    return con.sql(
        """SELECT layer.position, layer.name AS layer, neurons, path,
                  (SELECT min(neuron_id) FROM neuron WHERE neuron.layer_id = layer.layer_id) AS first_neuron_id
        FROM activation_file JOIN layer USING (layer_id) WHERE run_id = $run AND reduction IN ('mean', 'cls', 'window_mean') ORDER BY position""",
        params={"run": run},
    ).pl()


def _standard(values: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1; 0 where a neuron never changes, or has a value that is not finite."""
    values = values - values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    usable = np.isfinite(length) & (length > 1e-12)
    return np.divide(values, length, out=np.zeros_like(values), where=usable)


def _best(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `one` the row of `other` that correlates most, -1 for a constant, and the correlation."""
    changes = other.any(axis=1)
    index, value = np.full(len(one), -1), np.full(len(one), np.nan, dtype=np.float32)
    for rows in _blocks(len(one)):
        correlation = one[rows] @ other.T
        correlation[:, ~changes] = -np.inf
        index[rows], value[rows] = correlation.argmax(axis=1), correlation.max(axis=1)
    index[~one.any(axis=1)] = -1
    return (index if changes.any() else np.full(len(one), -1)), value


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))


def _descriptions(con: duckdb.DuckDBPyConnection, first: int, second: int) -> pl.DataFrame:
    """Neurons described after both runs, whose texts differ; only runs of one network have such. A run compared with itself is taken by its two
    latest runs of descriptions."""
    return con.sql(
        """WITH described AS (
            SELECT later.run_id, recorded.run_id AS activation_run,
                   row_number() OVER (PARTITION BY recorded.run_id ORDER BY later.run_id DESC) AS age
            FROM run AS later JOIN run AS recorded ON recorded.run_key = later.parameters::JSON ->> 'activations'
            WHERE later.stage = 'descriptions' AND later.status = 'done'),
        chosen AS (
            SELECT (SELECT run_id FROM described WHERE activation_run = $second AND age = 1) AS new_run,
                   (SELECT run_id FROM described WHERE activation_run = $first AND age = CASE WHEN $first = $second THEN 2 ELSE 1 END) AS old_run)
        SELECT neuron_id, layer, unit, before.description AS before, after.description AS after
        FROM chosen JOIN v_description AS after ON after.run_id = new_run JOIN v_description AS before USING (neuron_id) JOIN v_neuron USING (neuron_id)
        WHERE before.run_id = old_run AND before.description IS DISTINCT FROM after.description ORDER BY neuron_id""",
        params={"first": first, "second": second},
    ).pl()
