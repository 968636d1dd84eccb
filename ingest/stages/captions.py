"""Stage `captions`: what a captioner says of every clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ingest.language.acoustic import Acoustic
from ingest.language.captions import Caption, Captioner, accept
from ingest.language.elsewhere import KILLED, in_turn
from ingest.language.imported import Imported
from ingest.language.models import THOUGHT
from ingest.language.tags import Tags
from ingest.networks.registry import load_network
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.extraction.recording import padding_parameter
from warehouse import ledger, store
from warehouse.store import UserError

STAGE = "captions"
TITLE = "captions of {dataset}"
UNIT = "batches"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1
BATCH = 100


@dataclass(frozen=True)
class Settings:
    """Who captions. captioner: acoustic (measurements), tags (classes that the network `tagger` hears, with its `tagger_weights`, and
    measurements), import (from the CSV or Parquet `file`), clapcap (its checkpoint as `file`), transformers, vllm or endpoint; the last three
    with `model` (a folder or hub name), endpoint with `url`, the environment variable `key_variable` that holds its key, and a table `extra` of
    what else the server wants in a request (an empty text takes a field out)."""

    captioner: Literal["acoustic", "tags", "import", "clapcap", "transformers", "vllm", "endpoint"] = "acoustic"
    tagger: str = "yamnet"
    tagger_weights: Path | None = None
    file: Path | None = None
    model: str | None = None
    url: str | None = None
    key_variable: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Caption every clip of the data set; a hundred are a unit of work, and one that cannot be captioned has a failure row instead.

    Tags of the network itself are refused: they would describe it by its own classes.
    """
    captioner = load_captioner(settings)
    if isinstance(captioner, Imported):
        captioner.check(list(context.paths.values()))
    if isinstance(captioner, Tags) and captioner.circular_for(context.network):
        raise UserError(f"tags of {context.network.name} would describe it by its own classes: choose another tagger or captioner")
    with store.connect_readonly(context.warehouse) as con:
        [(dataset, content)] = con.execute("SELECT name, content_sha256 FROM dataset WHERE run_id = ?", [context.runs["clips"]]).fetchall()
        clips = con.execute(
            "SELECT clip_id, clip.name FROM clip JOIN dataset USING (dataset_id) WHERE run_id = ? ORDER BY clip_id", [context.runs["clips"]]
        ).fetchall()
    parameters = {"dataset": dataset, "captioner": captioner.name, **captioner.parameters}
    if isinstance(captioner, Tags):
        parameters |= padding_parameter(context.warehouse, captioner.network, dataset, content)
    if _took_thinking(context.warehouse, captioner.name):
        parameters["thinking"] = "left out"
    run = ledger.begin(context.warehouse, STAGE, parameters=parameters, code_version=CODE_VERSION, dataset_sha256=content)
    batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    done, paths = run.done(), context.paths
    pending = [batch for batch in batches if not run.finished and _item(batch) not in done]
    asked = captioner
    if not isinstance(captioner, Imported):
        asked = context.where.engine(STAGE, partial(load_captioner, settings), captioner, "caption")
    progress(len(batches) - len(pending), len(batches))
    for worked, answers in enumerate(in_turn(asked, captioner.caption, ([paths[name] for _, name in batch] for batch in pending)), 1):
        batch = pending[answers.number]
        found = [caption or Caption(None, "", KILLED) for caption in answers.said]
        kept = [(clip_id, caption.text, caption.raw) for (clip_id, _), caption in zip(batch, found, strict=True) if caption.text]
        failures = [(name, caption.reason or "no caption") for (_, name), caption in zip(batch, found, strict=True) if not caption.text]
        captions = pl.DataFrame(kept, schema=["clip_id", "text", "raw"], orient="row")
        run.record([_item(batch)], {"caption": captions, **answers.tables()}, failures)
        progress(len(batches) - len(pending) + worked, len(batches))
    run.finish()
    return Outcome(run, len(pending), run.failures())


def _item(batch: list[tuple[int, str]]) -> str:
    """A batch as a unit of work."""
    return f"clips from {batch[0][0]}"


def _took_thinking(warehouse: Path, captioner: str) -> bool:
    """Whether captions of the captioner that the warehouse holds were once taken with the thinking before them: they are made again."""
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            """SELECT caption.text, raw FROM caption JOIN run USING (run_id)
               WHERE parameters::JSON ->> 'captioner' = ? AND regexp_matches(raw, '(?i)think|thought|reason')""",
            [captioner],
        ).fetchall()
    return any(THOUGHT.search(raw) and accept(raw).text != text for text, raw in rows)


def read_captions(warehouse: Path, caption_run: int) -> tuple[dict[int, str], str]:
    """Captions by clip id of a finished run, and the run's key. Raises UserError for any other run."""
    key, _, _ = ledger.finished(warehouse, caption_run, STAGE)
    with store.connect_readonly(warehouse) as con:
        return dict(con.execute("SELECT clip_id, text FROM caption WHERE run_id = ? ORDER BY clip_id", [caption_run]).fetchall()), key


def load_captioner(choice: Settings) -> Captioner:
    """The captioner of a choice. Raises UserError for what it lacks."""
    if choice.extra and choice.captioner != "endpoint":
        raise UserError("captions: extra goes into requests to an endpoint: set captioner to endpoint, or leave it out")
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
        return AudioEndpoint(choice.url, choice.model, key_variable=choice.key_variable, extra=choice.extra)
    return (VllmAudio if choice.captioner == "vllm" else TransformersAudio)(choice.model)
