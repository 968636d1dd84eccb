"""Stage `tuning`: what each neuron answers to in a battery of known stimuli (data set `stimuli`): frequency, level, modulation, pitch, ripples"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ingest.methods.tuning.forward import predict
from ingest.methods.tuning.measures import Drawn, Tuning, measure
from ingest.methods.tuning.words import Found, sentence
from ingest.sounds.sound import load
from ingest.sounds.stimuli import BANDS_HZ, LEVELS_DBFS, MODULATIONS_HZ, battery
from ingest.sounds.third_octaves import third_octaves
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import Recorded, RecordedLayer, read_recorded
from warehouse import store
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


PREDICTING = {"band": len(BANDS_HZ), "level": len(LEVELS_DBFS), "noise rate": len(MODULATIONS_HZ), "noise unmodulated": 1}
"""Curves that responses to other sounds are predicted from, and their conditions."""


def of_network(warehouse: Path, recorded: Recorded) -> tuple[int, str]:
    """Number and key of the latest finished run of the stage on the network that was recorded. Raises UserError without one."""
    with store.connect_readonly(warehouse) as con:
        found = con.execute(
            """SELECT run_id, run_key FROM run WHERE stage = 'tuning' AND status = 'done' AND network_sha256 = ?
               AND parameters::JSON ->> 'network' = ? AND (parameters::JSON ->> 'clip_s')::DOUBLE = ? ORDER BY run_id DESC LIMIT 1""",
            [recorded.network_sha256, recorded.network, recorded.clip_s],
        ).fetchone()
    if found is None:
        raise UserError(
            f"scores: tuning needs the tuning of {recorded.network}, of clips of {recorded.clip_s:g} s: run stage tuning on the data set stimuli first"
        )
    run_id, run_key = found
    return run_id, run_key


def forward(recorded: Recorded, run_id: int, names: Sequence[str], paths: Mapping[str, Path]) -> Callable[[RecordedLayer], np.ndarray]:
    """What tuning predicts of clips by name [neurons, clips], by layer; NaN for neurons of which no measure is defined. Raises UserError for a clip without a
    file."""
    with store.connect_readonly(recorded.warehouse) as con:
        [(rate_hz,)] = con.execute(
            "SELECT sample_rate_hz FROM network WHERE name = ? AND checkpoint_sha256 = ? AND clip_s = ?",
            [recorded.network, recorded.network_sha256, recorded.clip_s],
        ).fetchall()
    bands, depths = [], []
    for name in names:
        if name not in paths:
            raise UserError(f"scores: tuning needs the sound of {name}, which is not listed")
        samples, valid_s = load(paths[name], sample_rate_hz=rate_hz, clip_s=recorded.clip_s)
        levels, rates = third_octaves(samples[: max(1, round(valid_s * rate_hz))], rate_hz)
        bands.append(levels)
        depths.append(rates)
    heard = np.array(BANDS_HZ) <= rate_hz / 2

    def predicted(layer: RecordedLayer) -> np.ndarray:
        last = layer.first_neuron_id + layer.neurons - 1
        with store.connect_readonly(recorded.warehouse) as con:
            rows = con.execute(
                "SELECT curve, neuron_id, responses FROM tuning_curve WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND list_contains(?, curve)",
                [run_id, layer.first_neuron_id, last, list(PREDICTING)],
            ).fetchall()
            tuned = con.execute(
                "SELECT DISTINCT neuron_id FROM tuning WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND value IS NOT NULL",
                [run_id, layer.first_neuron_id, last],
            ).fetchall()
        curves = {name: np.zeros((layer.neurons, size)) for name, size in PREDICTING.items()}
        for name, neuron_id, responses in rows:
            curves[name][neuron_id - layer.first_neuron_id, : len(responses)] = responses  # bands that are not heard are not there
        curves["band"] = curves["band"][:, heard]
        found = predict(curves, np.array(LEVELS_DBFS), [levels[heard] for levels in bands], np.array(depths))
        untuned = np.setdiff1d(np.arange(layer.neurons), [neuron_id - layer.first_neuron_id for (neuron_id,) in tuned])
        found[untuned] = np.nan
        return found

    return predicted
