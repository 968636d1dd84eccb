"""Near misses and intruders of a layer's neurons, and the clips of their ranges that people and language models are played or told of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from ingest.methods.contrast import is_cold, matched, middle
from ingest.methods.scoring.trials import Trials, intruder, near_misses
from ingest.stages.recorded import RecordedLayer
from ingest.stages.scoring.work import Found

MISSES, HIGHEST, COLD, SHOWN = 50, 20, 100, 5
"""Near misses compared, highest clips and cold ones among which an intruder stands, and near misses kept to be shown."""
TEST = {
    "neuron_id": pl.Int64, "scorer": pl.String, "test": pl.String, "clips": pl.Int64, "value": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "floor": pl.Float64, "p_value": pl.Float64,
}  # fmt: skip


def ranked(values: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Columns of a neuron's positives [clips], the highest of its values [clips] first."""
    high = np.flatnonzero(positive)
    return high[np.argsort(-values[high], kind="stable")]


def tried(
    layer: RecordedLayer, scorer: str, found: Found, similarity: np.ndarray, space: tuple[np.ndarray, str], groups: Sequence[str], seed: int
) -> tuple[pl.DataFrame, list[np.ndarray]]:
    """Rows of table description_test, and each unit's near misses: usable clips, by the places of these and a metric."""
    high = [ranked(*pair) for pair in zip(found.values, found.positive, strict=True)]
    misses = [matched(row, its, space[0], MISSES, space[1]) if len(its) else its for row, its in zip(found.values, high, strict=True)]
    cold = []
    for unit, row, its in zip(found.units, found.values, high, strict=True):
        clips = np.flatnonzero(is_cold(row, its)) if len(its) else its
        cold.append(np.sort(np.random.default_rng((seed, layer.layer_id, unit)).permutation(clips)[:COLD]))
    of = layer.first_neuron_id + np.array(found.units, dtype=np.int64)
    frames = [
        test_rows(of, scorer, "near misses", near_misses(similarity, found.positive, misses, groups)),
        test_rows(of, scorer, "intruder", intruder(similarity, [its[:HIGHEST] for its in high], cold, groups, seed=seed)),
    ]
    return pl.concat(frames), misses


def test_rows(neurons: np.ndarray, scorer: str, test: str, trials: Trials) -> pl.DataFrame:
    """Rows of table description_test; none for neurons that could not be tried, or without another text to set against theirs."""
    size = len(neurons)
    frame = pl.DataFrame(
        {
            "neuron_id": neurons, "scorer": [scorer] * size, "test": [test] * size, "clips": trials.clips, "value": trials.value,
            "low": trials.low, "high": trials.high, "floor": trials.floor, "p_value": trials.p_value,
        }, schema=TEST,
    )  # fmt: skip
    return frame.filter(pl.all_horizontal(pl.col("value", "floor").is_finite())).with_columns(pl.col("low", "high").fill_nan(None))


def range_rows(layer: RecordedLayer, found: Found, misses: Sequence[np.ndarray], clip_ids: np.ndarray) -> pl.DataFrame:
    """Rows of table range_clip: of units with positives, clips in the middle of the range and near misses."""
    kept: list[tuple[int, str, int, int]] = []
    for unit, row, positive, near in zip(found.units, found.values, found.positive, misses, strict=True):
        if positive.any():
            ranges = {"middle": middle(row, np.flatnonzero(positive)), "near miss": near[:SHOWN]}
            kept += [
                (layer.first_neuron_id + unit, name, rank, int(clip_ids[column]))
                for name, columns in ranges.items() for rank, column in enumerate(columns, 1)
            ]  # fmt: skip
    schema = {"neuron_id": pl.Int64, "range": pl.String, "rank": pl.Int64, "clip_id": pl.Int64}
    return pl.DataFrame(kept, schema=schema, orient="row")
