"""Stage `descriptions`: what a neuron's highest clips share in words and its lowest do not, and the concepts in it (AND, modules B and C)."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ingest.language.engines import load_language_model
from ingest.language.models import LanguageModel
from ingest.language.replies import Asker, identity
from ingest.language.text_encoders import TextEncoder, load_encoder
from ingest.language.word_lists import word_list
from ingest.methods import held_out
from ingest.methods.commonalities import calibrate_shared, commonalities
from ingest.methods.concepts import acoustic_question, open_concepts, parse_yes_no
from ingest.methods.extremes import answered, drawn_order
from ingest.methods.summaries import THRESHOLD, Point, calibrate, calibrate_as_released, clean_points, summary_prompt
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.captions import read_captions
from ingest.stages.recorded import Recorded, RecordedLayer, clip_groups, read_recorded
from warehouse import store
from warehouse.ledger import Run
from warehouse.store import UserError

STAGE = "descriptions"
TITLE = "descriptions of {network} on {dataset}"
UNIT = "layers"
NEEDS = ("captions",)
CODE_VERSION = 2
BOUNDS = {"k": (1, math.inf), "held_out": (0, 1), "share": (0, 1), "threshold": (-1, 1)}
POINT = {
    "neuron_id": pl.Int64, "position": pl.Int64, "text": pl.String, "is_kept": pl.Boolean, "because": pl.String, "cosine": pl.Float64,
}  # fmt: skip
CONCEPT = {"neuron_id": pl.Int64, "word": pl.String, "part_of_speech": pl.String, "occurrences": pl.Int64, "is_acoustic": pl.Boolean}


@dataclass(frozen=True)
class Settings:
    """How neurons are described. engine: commonalities (what captions share, no model), or a language model through transformers, vllm or
    endpoint, with `model` (a folder or hub name), `url`, `key_variable`, `extra` as for captions; max_tokens: the most of a reply; retry asks again for
    replies that could not be used. encoder: of sentences, minilm or a folder or hub name.

    k: clips on each side. held_out: share of the sources whose clips are kept out for stage scores. share: of the clips, that a point
    without a model must hold for. threshold: cosine above which calibration drops a point of a language model (for points without one see
    ingest.methods.commonalities.calibrate_shared). calibration: points (opposites and equally worded points do not count, see
    ingest.methods.summaries.calibrate), published (sentence by sentence, whatever they say, and whoever wrote them) or as-released (the
    program, called with 0.5, which takes other sentences out). clean_up: words (greetings as whole words), or published (within words, too,
    so that "pressure" is one). concepts: acoustic (adjectives of a list however they are tagged, too) or published (as tagged). seed: draws
    the clips held out, the order of equal clips, and what a model samples.
    """

    engine: Literal["commonalities", "transformers", "vllm", "endpoint"] = "commonalities"
    model: str | None = None
    url: str | None = None
    key_variable: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    encoder: str = "minilm"
    k: int = 5
    held_out: float = 0.0
    share: float = 0.5
    threshold: float = THRESHOLD
    calibration: Literal["points", "published", "as-released"] = "points"
    clean_up: Literal["words", "published"] = "words"
    concepts: Literal["acoustic", "published"] = "acoustic"
    seed: int = 0
    max_tokens: int = 1024
    retry: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"descriptions: max_tokens is {self.max_tokens}, it must be at least 1")

    def as_published(self) -> dict[str, str]:
        """What of it is done otherwise than by default, for the run."""
        usual = {field.name: field.default for field in fields(Settings)}
        return {name: getattr(self, name) for name in ("calibration", "clean_up", "concepts") if getattr(self, name) != usual[name]}

    def language_model(self) -> LanguageModel | None:
        """The language model; None for commonalities. Raises UserError for what it lacks."""
        return load_language_model(
            "descriptions",
            self.engine,
            self.model,
            url=self.url,
            key_variable=self.key_variable,
            seed=self.seed,
            max_tokens=self.max_tokens,
            extra=self.extra,
        )


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Describe the neurons recorded from the captions."""
    return ingest_descriptions(
        context.warehouse, context.runs["activations"], context.runs["captions"], load_encoder(settings.encoder), settings.language_model(),
        settings, retry=settings.retry, progress=progress,
    )  # fmt: skip


def ingest_descriptions(
    warehouse: Path,
    activation_run: int,
    caption_run: int,
    encoder: TextEncoder,
    model: LanguageModel | None = None,
    settings: Settings | None = None,
    *,
    retry: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Describe every living neuron of a finished run of activations from captions; a layer is a unit of work.

    Without a language model the points are what the captions share (ingest.methods.commonalities). Replies are kept as they come, so that none is
    asked for again; a neuron whose reply cannot be used has a failure row, and with `retry` is asked for once more.
    """
    settings = settings or Settings()
    recorded = read_recorded(warehouse, activation_run)
    captions, captioner = read_captions(warehouse, caption_run)
    parameters = {
        "k": settings.k, "held_out": settings.held_out, "share": settings.share, "threshold": settings.threshold,
        "captions": captioner, "encoder": encoder.parameters,
        "model": identity(warehouse, STAGE, model) if model else "commonalities", **settings.as_published(),
    }  # fmt: skip
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=settings.seed)
    if settings.held_out:
        kept_out = held_out.split(clip_groups(warehouse, recorded), settings.held_out, settings.seed)
        captions = {
            int(clip): captions[int(clip)]
            for clip, out in zip(recorded.clip_ids, kept_out, strict=True)
            if not out and int(clip) in captions
        }
    work = _Work(run, recorded, captions, encoder, Asker(run, model, retry=retry) if model else None, settings)
    worked, done = 0, run.done()
    for number, (item, layer) in enumerate(recorded.plan().items(), 1):
        if item not in done:
            points, words, failures = work.describe(work.tops(layer))
            run.record([item], work.rows(points, words), failures)
            worked += 1
        elif retry and (failed := work.failed(layer)):
            points, words, failures = work.describe({neuron: sides for neuron, sides in work.tops(layer).items() if neuron in failed})
            mended = [f"neuron {neuron}" for neuron in failed if f"neuron {neuron}" not in dict(failures)]
            run.record([], work.rows(points, words), mended=mended)
            worked += bool(mended)
        progress(number, len(recorded.layers))
    run.finish()
    return Outcome(run, worked, run.failures())


Tops = dict[int, tuple[tuple[str, ...], tuple[str, ...]]]
"""Captions of the highest and of the lowest clips, by neuron."""


@dataclass
class _Work:
    run: Run
    recorded: Recorded
    captions: dict[int, str]
    encoder: TextEncoder
    asker: Asker | None
    settings: Settings

    def tops(self, layer: RecordedLayer) -> Tops:
        """A layer's neurons but the dead ones; clips without a caption, or held out, are passed over. Of neurons that are never below 0, clips
        at 0 are none of the highest. Equal clips come in a drawn order."""
        matrix = np.asarray(layer.matrix())
        alive = (np.where(np.isfinite(matrix), matrix, 0) != 0).any(axis=1)
        usable = np.array([int(clip) in self.captions for clip in self.recorded.clip_ids])
        values, clips = matrix[:, usable], self.recorded.clip_ids[usable]
        k, seed = self.settings.k, self.settings.seed
        high, low = (drawn_order(values, seed, layer.name, lowest=lowest)[:, :k] for lowest in (False, True))
        may, finite = answered(matrix)[:, usable], np.isfinite(values)
        found: Tops = {}
        for unit in np.flatnonzero(alive):
            ups, downs = high[unit][may[unit, high[unit]]], low[unit][finite[unit, low[unit]]]
            found[layer.first_neuron_id + int(unit)] = (
                tuple(self.captions[int(clip)] for clip in clips[ups]),
                tuple(self.captions[int(clip)] for clip in clips[downs]),
            )
        return found

    def failed(self, layer: RecordedLayer) -> set[int]:
        """Neurons of a layer with a failure row."""
        with store.connect_readonly(self.run.warehouse) as con:
            rows = con.execute(
                """SELECT neuron_id FROM failure JOIN neuron ON item = 'neuron ' || neuron_id WHERE run_id = ? AND layer_id = ?""",
                [self.run.run_id, layer.layer_id],
            ).fetchall()
        return {neuron for (neuron,) in rows}

    def describe(self, tops: Tops) -> tuple[dict[int, list[Point]], list[tuple[int, str, str, int, bool | None]], list[tuple[str, str]]]:
        """Calibrated points and rows of table concept (without run) of neurons, and what failed."""
        distinct = list(dict.fromkeys(side for sides in tops.values() for side in sides if side))
        summaries: dict[tuple[str, ...], list[str]] = {(): []}
        faults: dict[tuple[str, ...], str] = {}
        if self.asker:
            for side, reply in zip(distinct, self.asker([summary_prompt(side) for side in distinct]), strict=True):
                as_released = self.settings.clean_up == "published"
                summaries[side] = clean_points(reply.text, as_released=as_released) if reply.text is not None else []
                if not summaries[side]:
                    faults[side] = reply.reason or "the reply holds no sentence of six words"
        else:
            summaries |= {side: commonalities(side, self.encoder, self.settings.share) for side in distinct}
        points: dict[int, list[Point]] = {}
        failures = []
        for neuron, (high, low) in tops.items():
            if fault := faults.get(high) or faults.get(low):
                failures.append((f"neuron {neuron}", fault))
            else:
                points[neuron] = self.calibrated(summaries[high], summaries[low])
        return points, self.words(points), failures

    def calibrated(self, high: list[str], low: list[str]) -> list[Point]:
        """The points of the highest clips' summary, calibrated by those of the lowest's."""
        threshold = self.settings.threshold
        if self.settings.calibration == "published":
            return calibrate(high, low, self.encoder, threshold, as_published=True)
        if self.settings.calibration == "as-released":
            return calibrate_as_released(high, low, self.encoder, threshold)
        return calibrate(high, low, self.encoder, threshold) if self.asker else calibrate_shared(high, low, self.encoder)

    def words(self, points: dict[int, list[Point]]) -> list[tuple[int, str, str, int, bool | None]]:
        """Open concepts of the kept points."""
        as_published = self.settings.concepts == "published"
        counted = {
            neuron: Counter((c.word, c.pos) for c in open_concepts([p.text for p in found if p.kept], as_published=as_published))
            for neuron, found in points.items()
        }
        adjectives = sorted({word for found in counted.values() for word, part in found if part == "adjective"})
        if self.asker:
            replies = self.asker([acoustic_question(word) for word in adjectives])
            acoustic = {word: parse_yes_no(reply.text or "") for word, reply in zip(adjectives, replies, strict=True)}
        else:
            acoustic = {word: word in word_list("acoustic_adjectives") for word in adjectives}
        return [
            (neuron, word, part, count, acoustic[word] if part == "adjective" else None)
            for neuron, found in counted.items()
            for (word, part), count in found.items()
        ]

    def rows(self, points: dict[int, list[Point]], words: list[tuple[int, str, str, int, bool | None]]) -> dict[str, pl.DataFrame]:
        """Rows of tables summary_point and concept."""
        said = [
            (neuron, position, point.text, point.kept, point.because, None if point.cosine != point.cosine else point.cosine)
            for neuron, found in points.items()
            for position, point in enumerate(found)
        ]
        return {
            "summary_point": pl.DataFrame(said, schema=POINT, orient="row"),
            "concept": pl.DataFrame(words, schema=CONCEPT, orient="row"),
        }
