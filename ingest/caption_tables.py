"""Stage `captions`: what a captioner says of every clip of a data set."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ingest.captions import Captioner
from ingest.clips import Outcome, Progress
from ingest.layer_tables import insert
from warehouse import ledger, store
from warehouse.store import UserError

STAGE = "captions"
CODE_VERSION = 1
BATCH = 100


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
