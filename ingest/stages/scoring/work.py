"""What every way of scoring works on: the descriptions of a run, and the clips that were held out when they were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from ingest.methods import held_out
from ingest.methods.extremes import is_signed
from ingest.stages.recorded import Recorded, RecordedLayer
from warehouse.ledger import Run


@dataclass(frozen=True)
class Clips:
    """Held-out clips that have a caption: their columns (bool), captions, what they were cut from, and where they lie in a space in which near
    means alike [clips, features], by a metric of scipy's cdist."""

    columns: np.ndarray
    captions: list[str]
    groups: list[str]
    places: np.ndarray
    metric: str


@dataclass(frozen=True)
class Found:
    """A layer's units with a description, their `values` and positives [units, usable clips], and which held-out clips are usable (bool)."""

    units: list[int]
    values: np.ndarray
    positive: np.ndarray
    usable: np.ndarray

    def of(self, known: np.ndarray) -> Found:
        """The same of some units (bool)."""
        return Found(
            [unit for unit, its in zip(self.units, known, strict=True) if its], self.values[known], self.positive[known], self.usable
        )


@dataclass
class Work:
    """A run of stage scores."""

    run: Run
    recorded: Recorded
    descriptions: dict[int, str]
    clips: Clips
    seed: int

    @cached_property
    def done(self) -> set[str]:
        """Units of work done before."""
        return self.run.done()

    def found(self, layer: RecordedLayer, known: np.ndarray | None = None) -> Found:
        """What is there to score of a layer: clips are usable where the whole layer's values are finite, and that are `known`."""
        whole = np.asarray(layer.matrix())
        signed, matrix = is_signed(whole), whole[:, self.clips.columns]
        usable = np.isfinite(matrix).all(axis=0)
        if known is not None:
            usable &= known
        units = [unit for unit in range(layer.neurons) if layer.first_neuron_id + unit in self.descriptions]
        values = matrix[units][:, usable].astype(np.float32)
        return Found(units, values, held_out.positives(values, signed[units]), usable)

    def groups(self, usable: np.ndarray) -> list[str]:
        """What the usable ones of the held-out clips were cut from."""
        return [self.clips.groups[place] for place in np.flatnonzero(usable)]

    def rows(
        self,
        layer: RecordedLayer,
        units: Sequence[int],
        scorer: str,
        positive: np.ndarray,
        scores: held_out.Scores,
        correlation: np.ndarray | None = None,
    ) -> pl.DataFrame:
        """Rows of table description_score; none for neurons whose score is undefined."""
        size = len(units)
        frame = pl.DataFrame(
            {
                "neuron_id": layer.first_neuron_id + np.array(units, dtype=np.int64),
                "scorer": pl.Series([scorer] * size, dtype=pl.String), "clips": np.full(size, positive.shape[1]),
                "positives": positive.sum(axis=1), "auroc": scores.auroc, "low": scores.low, "high": scores.high,
                "average_precision": scores.average_precision, "floor": scores.floor, "p_value": scores.p_value,
                "correlation": np.full(size, np.nan) if correlation is None else correlation,
            }
        )  # fmt: skip
        kept = frame.filter(pl.all_horizontal(pl.col("auroc", "average_precision", "floor").is_finite()))
        return kept.with_columns(pl.col("low", "high", "correlation").fill_nan(None))


def item(scorer: str, layer: RecordedLayer) -> str:
    """A layer as a unit of work of a scorer."""
    return f"layer {layer.layer_id}" if scorer == "captions" else f"{scorer}, layer {layer.layer_id}"


def neurons(layer: RecordedLayer) -> range:
    """Numbers of a layer's neurons."""
    return range(layer.first_neuron_id, layer.first_neuron_id + layer.neurons)
