"""Stage `tuning`: what each neuron answers to in a battery of known stimuli (data set `stimuli`): frequency, level, modulation, pitch, ripples"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from ingest.methods.tuning.measures import Drawn, Tuning, measure
from ingest.methods.tuning.words import Found, sentence
from ingest.sounds.stimuli import battery
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import RecordedLayer, read_recorded
from warehouse.store import UserError

STAGE = "tuning"
TITLE = "tuning of {network}"
UNIT = "layers"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 2
STIMULI = "what is played"


@dataclass(frozen=True)
class Settings:
    """Nothing to choose."""


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Measure every layer recorded on the data set stimuli; a layer is a unit of work, and what was played another one.

    Raises UserError for another data set, or where stimuli are missing.
    """
    if context.listing.reader.split()[0] != "stimuli":  # what was drawn of them stands behind
        raise UserError(
            f"tuning is measured on the data set stimuli, not on {context.dataset}: give it to a study of its own, reader stimuli"
        )
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    clip = dict(zip(recorded.clip_names, recorded.clip_ids.tolist(), strict=True))
    played = battery()
    if missing := [stimulus.name for stimulus in played if stimulus.name not in clip]:
        raise UserError(
            f"tuning needs all {len(played)} stimuli, of which {len(missing)} are not recorded, such as {missing[0]}: ingest all"
        )
    table = pl.DataFrame([{"clip_id": clip[s.name], **asdict(s)} for s in played], infer_schema_length=None)
    column = {name: place for place, name in enumerate(recorded.clip_names)}
    places = np.array([column[stimulus.name] for stimulus in played])
    heard_hz = context.network.sample_rate_hz / 2
    run = recorded.begin(STAGE, CODE_VERSION, {})
    worked = 0
    plan: dict[str, RecordedLayer | None] = {STIMULI: None, **recorded.plan()}
    for item, layer in run.pending(plan, progress):
        if layer is None:
            nothing = measure(np.zeros((1, len(played))), table, heard_hz)
            run.record([item], {"stimulus": table, "tuning_condition": conditions(nothing, table)})
        else:
            found = measure(np.asarray(layer.matrix())[:, places], table, heard_hz)
            ids = np.arange(layer.first_neuron_id, layer.first_neuron_id + layer.neurons)
            run.record(
                [item], {"tuning": measures(found, ids), "tuning_curve": curves(found, ids), "tuning_sentence": sentences(found, ids)}
            )
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def conditions(tuning: Tuning, table: pl.DataFrame) -> pl.DataFrame:
    """Rows of table tuning_condition: where each curve's conditions lie, and the first of the loudest clips of each."""

    def clip(name: str, drawn: Drawn, which: dict[str, float | None]) -> int:
        rows = table.filter(*(pl.col(key).eq_missing(pl.lit(value)) for key, value in {**drawn.which, **which}.items()))
        return int(rows.sort("level_dbfs", "repeat", descending=[True, False])["clip_id"][0])

    rows = [
        (name, position, next(iter(which.values())), which.get("density"), clip(name, drawn, which))
        for name, drawn in tuning.curves.items()
        for position, which in enumerate(drawn.conditions)
    ]
    schema = {"curve": pl.String, "position": pl.Int64, "value": pl.Float64, "density": pl.Float64, "clip_id": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def measures(tuning: Tuning, neuron_ids: np.ndarray) -> pl.DataFrame:
    """Rows of table tuning."""
    return pl.concat(
        pl.DataFrame({"neuron_id": neuron_ids, "measure": [name] * len(neuron_ids), **its._asdict()})
        for name, its in tuning.measures.items()
    ).with_columns(pl.col("value", "low", "high", "q").fill_nan(None))


def curves(tuning: Tuning, neuron_ids: np.ndarray) -> pl.DataFrame:
    """Rows of table tuning_curve, of neurons that are not 0 on all of a curve."""
    return pl.concat(
        pl.DataFrame(
            {
                "neuron_id": neuron_ids[some],
                "curve": [name] * int(some.sum()),
                "responses": pl.Series(curve.mean[some].astype(np.float32).tolist(), dtype=pl.List(pl.Float32)),
                "error": curve.error[some].astype(np.float32),
            }
        )
        for name, (curve, some) in {name: (its.curve, its.curve.mean.any(axis=1)) for name, its in tuning.curves.items()}.items()
    )


def sentences(tuning: Tuning, neuron_ids: np.ndarray) -> pl.DataFrame:
    """Rows of table tuning_sentence, of neurons of which something can be said."""
    rows = []
    for unit, neuron_id in enumerate(neuron_ids.tolist()):
        found = {}
        for name, its in tuning.measures.items():
            value, low, high = (None if np.isnan(part[unit]) else float(part[unit]) for part in its[:3])
            if value is not None:
                found[name] = Found(value, low, high)
        if said := sentence(found):
            rows.append((neuron_id, said))
    return pl.DataFrame(rows, schema={"neuron_id": pl.Int64, "sentence": pl.String}, orient="row")
