"""Stage `captions`: what a captioner says of every clip of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from ingest.language.acoustic import Acoustic
from ingest.language.captions import Captioner
from ingest.language.imported import Imported
from ingest.language.tags import Tags
from ingest.networks.registry import load_network
from ingest.stages import Context, Outcome, Progress
from warehouse import ledger, store
from warehouse.store import UserError, insert

STAGE = "captions"
TITLE = "captions of {dataset}"
UNIT = "batches"
CODE_VERSION = 1
BATCH = 100


@dataclass(frozen=True)
class Settings:
    """Who captions. captioner: acoustic (measurements), tags (classes that the network `tagger` hears, with its `tagger_weights`, and
    measurements), import (from the CSV or Parquet `file`), clapcap (its checkpoint as `file`), transformers, vllm or endpoint; the last three
    with `model` (a folder or hub name), endpoint with `url` and the environment variable `key_variable` that holds its key."""

    captioner: Literal["acoustic", "tags", "import", "clapcap", "transformers", "vllm", "endpoint"] = "acoustic"
    tagger: str = "yamnet"
    tagger_weights: Path | None = None
    file: Path | None = None
    model: str | None = None
    url: str | None = None
    key_variable: str | None = None


def needs(settings: Settings) -> tuple[str, ...]:
    """Nothing but clips."""
    return ()


def run(context: Context, settings: Settings, progress: Progress | None = None) -> Outcome:
    """Caption the clips. Tags of the network itself are refused: they would describe it by its own classes."""
    captioner = load_captioner(settings)
    if isinstance(captioner, Imported):
        captioner.check(list(context.paths.values()))
    if isinstance(captioner, Tags) and captioner.circular_for(context.network):
        raise UserError(f"tags of {context.network.name} would describe it by its own classes: choose another tagger or captioner")
    return ingest_captions(context.warehouse, context.runs["clips"], context.paths, captioner, progress=progress)


def ingest_captions(
    warehouse: Path, clip_run: int, paths: dict[str, Path], captioner: Captioner, *, progress: Progress | None = None
) -> Outcome:
    """Caption the clips of a finished run of stage clips; `paths` are the sound files by clip name. A hundred clips are a unit of work.

    A clip that cannot be captioned has a failure row instead of a caption.
    """
    with store.connect_readonly(warehouse) as con:
        rows = con.execute("SELECT name, content_sha256 FROM dataset WHERE run_id = ?", [clip_run]).fetchall()
        if not rows:
            raise UserError(f"run {clip_run} of {warehouse} is no run of stage clips")
        clips = con.execute(
            "SELECT clip_id, clip.name FROM clip JOIN dataset USING (dataset_id) WHERE run_id = ? ORDER BY clip_id", [clip_run]
        ).fetchall()
    [(dataset, content)] = rows
    parameters = {"dataset": dataset, "captioner": captioner.name, **captioner.parameters}
    run = ledger.begin(warehouse, STAGE, parameters=parameters, code_version=CODE_VERSION, dataset_sha256=content)
    worked, done = 0, run.done()
    if not run.finished:
        for start in range(0, len(clips), BATCH):
            batch = clips[start : start + BATCH]
            item = f"clips from {batch[0][0]}"
            if item not in done:
                found = captioner.caption([paths[name] for _, name in batch])
                kept = [(clip_id, caption.text, caption.raw) for (clip_id, _), caption in zip(batch, found, strict=True) if caption.text]
                failures = [
                    (name, caption.reason or "no caption") for (_, name), caption in zip(batch, found, strict=True) if not caption.text
                ]
                frame = pl.DataFrame(kept, schema={"clip_id": pl.Int64, "text": pl.String, "raw": pl.String}, orient="row")
                with run.commit([item], failures) as con:
                    insert(con, "caption", frame.with_columns(pl.lit(run.run_id).alias("run_id")))
                worked += 1
            if progress:
                progress(min(start + BATCH, len(clips)), len(clips))
        run.finish()
    return Outcome(run, worked, run.failures())


def read_captions(warehouse: Path, caption_run: int) -> tuple[dict[int, str], str]:
    """Captions by clip id of a finished run, and the run's key. Raises UserError for any other run."""
    with store.connect_readonly(warehouse) as con:
        rows = con.execute("SELECT run_key FROM run WHERE run_id = ? AND stage = 'captions' AND status = 'done'", [caption_run]).fetchall()
        if not rows:
            raise UserError(f"run {caption_run} of {warehouse} is no finished run of stage captions")
        return dict(con.execute("SELECT clip_id, text FROM caption WHERE run_id = ? ORDER BY clip_id", [caption_run]).fetchall()), rows[0][
            0
        ]


def load_captioner(choice: Settings) -> Captioner:
    """The captioner of a choice. Raises UserError for what it lacks."""
    if choice.captioner == "acoustic":
        return Acoustic()
    if choice.captioner == "tags":
        return Tags(load_network(choice.tagger, weights=choice.tagger_weights))
    if choice.captioner == "import":
        if choice.file is None:
            raise UserError("captions: import needs the file to read: give file")
        return Imported(choice.file)
    from ingest.language.audio_models import AudioEndpoint, TransformersAudio, VllmAudio
    from ingest.language.clapcap import ClapCaption

    if choice.captioner == "clapcap":
        return ClapCaption(choice.file)
    if choice.model is None:
        raise UserError(f"captions: {choice.captioner} needs a model: give model")
    if choice.captioner == "endpoint":
        if choice.url is None:
            raise UserError("captions: endpoint needs an address: give url")
        return AudioEndpoint(choice.url, choice.model, key_variable=choice.key_variable)
    return (VllmAudio if choice.captioner == "vllm" else TransformersAudio)(choice.model)
