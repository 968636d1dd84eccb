"""Stage `properties`: what can be measured of every clip, which rules are made of (engine measured under `[descriptions]`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ingest.methods import held_out, rules
from ingest.methods.contrast import standing
from ingest.methods.rule_words import captioned
from ingest.sounds import acoustics, bands
from ingest.sounds.sound import SoundError, decode
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.captions import read_captions
from ingest.stages.recorded import Recorded, clip_groups
from warehouse import ledger, store

STAGE = "properties"
TITLE = "properties of {dataset}"
UNIT = "batches"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1
BATCH = 100
DEEPEST_DB = 90.0
PROPERTY = {"clip_id": pl.Int64, "property": pl.String, "value": pl.Float64}


@dataclass(frozen=True)
class Settings:
    """Nothing to choose."""


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Measure every clip: of longer ones the middle, as long as the network hears; a hundred are a unit of work, and one that cannot be read
    has a failure row instead."""
    with store.connect_readonly(context.warehouse) as con:
        [(dataset, content)] = con.execute("SELECT name, content_sha256 FROM dataset WHERE run_id = ?", [context.runs["clips"]]).fetchall()
        clips = con.execute(
            "SELECT clip_id, clip.name FROM clip JOIN dataset USING (dataset_id) WHERE run_id = ? ORDER BY clip_id", [context.runs["clips"]]
        ).fetchall()
    clip_s = context.network.clip_s
    parameters: dict[str, object] = {"dataset": dataset, "clip_s": clip_s, "acoustics": acoustics.VERSION, "bands": bands.VERSION}
    run = ledger.begin(context.warehouse, STAGE, parameters=parameters, code_version=CODE_VERSION, dataset_sha256=content)
    batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    worked, paths = 0, context.paths
    for item, batch in run.pending({f"clips from {batch[0][0]}": batch for batch in batches}, progress):
        rows: list[tuple[int, str, float]] = []
        failures = []
        for clip_id, name in batch:
            try:
                rows += [(clip_id, key, value) for key, value in measure(paths[name], clip_s).items()]
            except SoundError as error:
                failures.append((name, str(error)))
        run.record([item], {"clip_property": pl.DataFrame(rows, schema=PROPERTY, orient="row")}, failures)
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def measure(path: Path, clip_s: float) -> dict[str, float]:
    """All properties that are defined of the middle `clip_s` of a file; digital silence between events makes pauses DEEPEST_DB deep. Raises
    SoundError for a file that cannot be read."""
    mono, rate_hz, _ = decode(path, middle_s=clip_s)
    return measured(mono, rate_hz)


def measured(mono: np.ndarray, rate_hz: int) -> dict[str, float]:
    """All properties that are defined of a mono sound [samples]."""
    found = {name: float(value) for name, value in asdict(acoustics.measure(mono, rate_hz)).items() if value is not None}
    if "pause_depth_db" in found:
        found["pause_depth_db"] = min(found["pause_depth_db"], DEEPEST_DB)
    return found | bands.measure(mono, rate_hz)


def read_properties(warehouse: Path, run_id: int, clip_ids: Sequence[int]) -> tuple[list[str], np.ndarray, str]:
    """Names of the properties of a finished run, their values [clips, properties] (NaN: undefined), and the run's key. Raises UserError for any
    other run."""
    key, _, _ = ledger.finished(warehouse, run_id, STAGE)
    with store.connect_readonly(warehouse) as con:
        names = [
            name for (name,) in con.execute("SELECT DISTINCT property FROM clip_property WHERE run_id = ? ORDER BY 1", [run_id]).fetchall()
        ]
        rows = con.execute("SELECT clip_id, property, value FROM clip_property WHERE run_id = ?", [run_id]).fetchnumpy()
    values = np.full((len(clip_ids), len(names)), np.nan)
    row = {int(clip): place for place, clip in enumerate(clip_ids)}
    column = {name: place for place, name in enumerate(names)}
    for clip, name, value in zip(rows["clip_id"].tolist(), rows["property"].tolist(), rows["value"].tolist(), strict=True):
        if clip in row:
            values[row[clip], column[name]] = value
    return names, values, key


@dataclass(frozen=True)
class Candidates:
    """What rules are made of: names of properties, the conditions on them, and where each clip stands by each of those that were measured
    [clips, properties]."""

    names: list[str]
    conditions: rules.Candidates
    places: np.ndarray


def read_candidates(recorded: Recorded, property_run: int, caption_run: int, share: float, seed: int) -> tuple[Candidates, str]:
    """Candidates of the properties of a finished run and of what captions say beside measurements, as seen from the clips that are not held out
    (`share` of the sources), and that run's key."""
    warehouse, clips = recorded.warehouse, recorded.clip_ids.tolist()
    names, values, key = read_properties(warehouse, property_run, clips)
    captions, _ = read_captions(warehouse, caption_run)
    with store.connect_readonly(warehouse) as con:
        raw = dict(con.execute("SELECT clip_id, raw FROM caption WHERE run_id = ?", [caption_run]).fetchall())
        [(name,)] = con.execute("SELECT parameters::JSON ->> 'captioner' FROM run WHERE run_id = ?", [caption_run]).fetchall()
    said, heard = captioned(captions, raw, clips, name)
    groups = clip_groups(warehouse, recorded)
    conditions = rules.Candidates(np.hstack([values, heard]), groups, ~held_out.split(groups, share, seed), seed=seed)
    return Candidates([*names, *said], conditions, standing(values)), key
