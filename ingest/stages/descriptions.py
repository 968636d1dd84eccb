"""Stage `descriptions`: which measured properties tell when a neuron is active, or what its highest clips share in words (AND, modules B and C)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ingest.language.engines import load_language_model
from ingest.language.models import LanguageModel, read_prompt
from ingest.language.replies import Asker, identity
from ingest.language.text_encoders import TextEncoder, load_encoder
from ingest.methods import held_out, rules
from ingest.methods.commonalities import calibrate_shared, commonalities
from ingest.methods.contrast import Contrast, middle, near_misses
from ingest.methods.extremes import answered, drawn_order, is_alive
from ingest.methods.rule_words import phrase
from ingest.methods.summaries import THRESHOLD, Point, calibrate, calibrate_as_released, clean_points, summary_prompt
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.captions import read_captions
from ingest.stages.properties import Candidates, read_candidates
from ingest.stages.recorded import Recorded, RecordedLayer, clip_groups, read_recorded
from ingest.stages.wording import conditions_of, open_words, point_rows, rule_rows
from warehouse import ledger, store
from warehouse.ledger import Run
from warehouse.store import UserError

STAGE = "descriptions"
TITLE = "descriptions of {network} on {dataset}"
UNIT = "layers"
NEEDS = ("captions",)
CODE_VERSION = 2
BOUNDS = {"k": (1, math.inf), "held_out": (0, 1), "share": (0, 1), "threshold": (-1, 1)}


@dataclass(frozen=True)
class Settings:
    """How neurons are described. engine: measured (a rule over properties of stage properties, and over what captions say that are not made of
    measurements, see ingest.methods.rules), commonalities (what captions share, no model), or a language model through transformers, vllm or
    endpoint, with `model` (a folder or hub name), `url`, `key_variable`, `extra` as for captions; max_tokens: the most of a reply; retry asks again for
    replies that could not be used. prompt: what a language model is asked: contrast (what sets a neuron's highest clips apart, given examples of its
    whole range, near misses and its measured rule) or published (what its highest clips share). encoder: of sentences, minilm or a folder or hub name.

    held_out: share of the sources whose clips are kept out for stage scores. seed: draws the clips held out, the folds that rules are checked on,
    the order of equal clips, and what a model samples. All but measured: k: clips on each side; share: of the clips, that a point without a model
    must hold for; threshold: cosine above which calibration drops a point of a language model (for points without one see
    ingest.methods.commonalities.calibrate_shared). calibration: points (opposites and equally worded points do not count, see
    ingest.methods.summaries.calibrate), published (sentence by sentence, whatever they say, and whoever wrote them) or as-released (the
    program, called with 0.5, which takes other sentences out). clean_up: words (greetings as whole words), or published (within words, too,
    so that "pressure" is one). concepts: acoustic (adjectives of a list however they are tagged, too) or published (as tagged).
    """

    engine: Literal["measured", "commonalities", "transformers", "vllm", "endpoint"] = "measured"
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
    prompt: Literal["contrast", "published"] = "contrast"

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"descriptions: max_tokens is {self.max_tokens}, it must be at least 1")

    def as_published(self) -> dict[str, str]:
        """What of it is done otherwise than by default, for the run."""
        usual = {field.name: field.default for field in fields(Settings)}
        return {name: getattr(self, name) for name in ("calibration", "clean_up", "concepts") if getattr(self, name) != usual[name]}

    @property
    def needs(self) -> tuple[str, ...]:
        """Stages to be done before."""
        return ("captions", "properties") if self.engine == "measured" or self.contrasts else NEEDS

    @property
    def contrasts(self) -> bool:
        """Whether a language model is asked for contrast."""
        return self.engine not in ("measured", "commonalities") and self.prompt == "contrast"

    def language_model(self) -> LanguageModel | None:
        """The language model; None without one. Raises UserError for what it lacks."""
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
    """Describe the neurons recorded from properties or from captions."""
    if settings.engine == "measured":
        return ingest_rules(
            context.warehouse,
            context.runs["activations"],
            context.runs["properties"],
            context.runs["captions"],
            settings,
            progress=progress,
        )
    model = settings.language_model()
    asked = model and context.where.engine(STAGE, settings.language_model, model, "complete")
    return ingest_descriptions(
        context.warehouse, context.runs["activations"], context.runs["captions"], load_encoder(settings.encoder), asked, settings,
        property_run=context.runs["properties"] if settings.contrasts else None, retry=settings.retry, progress=progress,
    )  # fmt: skip


def ingest_descriptions(
    warehouse: Path,
    activation_run: int,
    caption_run: int,
    encoder: TextEncoder,
    model: LanguageModel | None = None,
    settings: Settings | None = None,
    *,
    property_run: int | None = None,
    retry: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Describe every living neuron of a finished run of activations from captions; a layer is a unit of work.

    Without a language model the points are what the captions share (ingest.methods.commonalities). One is asked for contrast where the finished run
    of properties `property_run` is given; then points of near misses calibrate, too. Replies are kept as they come, so that none is asked for
    again; a neuron whose reply cannot be used has a failure row, and with `retry` is asked for once more.
    """
    settings = settings or Settings()
    recorded = read_recorded(warehouse, activation_run)
    captions, captioner = read_captions(warehouse, caption_run)
    parameters = {
        "k": settings.k, "held_out": settings.held_out, "share": settings.share, "threshold": settings.threshold,
        "captions": captioner, "encoder": encoder.parameters,
        "model": identity(warehouse, STAGE, model) if model else "commonalities", **settings.as_published(),
    }  # fmt: skip
    contrast = None
    if property_run is not None and model is not None:
        contrast, measured = read_candidates(recorded, property_run, caption_run, settings.held_out, settings.seed)
        parameters |= {"prompt": read_prompt("contrast").sha256, "properties": measured}
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=settings.seed)
    if settings.held_out:
        kept_out = held_out.split(clip_groups(warehouse, recorded), settings.held_out, settings.seed)
        captions = {
            int(clip): captions[int(clip)]
            for clip, out in zip(recorded.clip_ids, kept_out, strict=True)
            if not out and int(clip) in captions
        }
    work = _Work(run, recorded, captions, encoder, Asker(run, model, retry=retry) if model else None, settings, contrast)
    worked, done = 0, run.done()
    for number, (item, layer) in enumerate(recorded.plan().items(), 1):
        if item not in done:
            points, words, failures = work.describe(work.tops(layer))
            run.record([item], point_rows(points, words), failures)
            worked += 1
        elif retry and (failed := work.failed(layer)):
            points, words, failures = work.describe({neuron: sides for neuron, sides in work.tops(layer).items() if neuron in failed})
            mended = [f"neuron {neuron}" for neuron in failed if f"neuron {neuron}" not in dict(failures)]
            run.record([], point_rows(points, words), mended=mended)
            worked += bool(mended)
        progress(number, len(recorded.layers))
    run.finish()
    return Outcome(run, worked, run.failures())


Side = tuple[str, ...] | Contrast
Tops = dict[int, tuple[Side, tuple[str, ...]]]
"""Captions of the highest clips, or these in contrast to others, and of the lowest, by neuron."""


@dataclass
class _Work:
    run: Run
    recorded: Recorded
    captions: dict[int, str]
    encoder: TextEncoder
    asker: Asker | None
    settings: Settings
    contrast: Candidates | None = None

    def tops(self, layer: RecordedLayer) -> Tops:
        """A layer's neurons but the dead ones; clips without a caption, or held out, are passed over. Of neurons that are never below 0, clips
        at 0 are none of the highest. Equal clips come in a drawn order."""
        matrix = np.asarray(layer.matrix())
        alive = is_alive(matrix)
        usable = np.array([int(clip) in self.captions for clip in self.recorded.clip_ids])
        values, clips = matrix[:, usable], self.recorded.clip_ids[usable]
        k, seed = self.settings.k, self.settings.seed
        high, low = (drawn_order(values, seed, layer.name, lowest=lowest)[:, :k] for lowest in (False, True))
        may, finite = answered(matrix)[:, usable], np.isfinite(values)
        found: Tops = {}
        ruled = rules.find(self.contrast.conditions, matrix) if self.contrast else None
        for unit in np.flatnonzero(alive):
            row = values[unit].astype(np.float32)
            ups, downs = high[unit][may[unit, high[unit]]], low[unit][finite[unit, low[unit]]]
            upper: Side = self.said(clips[ups])
            if self.contrast and ruled and len(ups):
                near = near_misses(row, ups, self.contrast.places[usable], k)
                facts = "; ".join(phrase(condition) for condition in conditions_of(ruled, int(unit), self.contrast.names))
                upper = Contrast(self.said(clips[ups]), self.said(clips[middle(row, ups)]), self.said(clips[near]), facts)
                downs = np.array(list(dict.fromkeys([*near.tolist(), *downs.tolist()])), dtype=np.int64)
            found[layer.first_neuron_id + int(unit)] = (upper, self.said(clips[downs]))
        return found

    def said(self, clips: np.ndarray) -> tuple[str, ...]:
        """Captions of clips by their numbers."""
        return tuple(self.captions[int(clip)] for clip in clips)

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
        distinct: list[Side] = list(dict.fromkeys(side for sides in tops.values() for side in sides if side))
        summaries: dict[Side, list[str]] = {(): []}
        faults: dict[Side, str] = {}
        if self.asker:
            as_released = self.settings.clean_up == "published"
            prompts = [side.prompt() if isinstance(side, Contrast) else summary_prompt(side) for side in distinct]
            for side, reply in zip(distinct, self.asker(prompts), strict=True):
                summaries[side] = clean_points(reply.text, as_released=as_released) if reply.text is not None else []
                if not summaries[side]:
                    faults[side] = reply.reason or "the reply holds no sentence of six words"
        else:
            summaries |= {
                side: commonalities(side, self.encoder, self.settings.share) for side in distinct if not isinstance(side, Contrast)
            }
        points: dict[int, list[Point]] = {}
        failures = []
        for neuron, (high, low) in tops.items():
            if fault := faults.get(high) or faults.get(low):
                failures.append((f"neuron {neuron}", fault))
            else:
                points[neuron] = self.calibrated(summaries[high], summaries[low])
        return points, open_words(points, self.asker, self.settings.concepts == "published"), failures

    def calibrated(self, high: list[str], low: list[str]) -> list[Point]:
        """The points of the highest clips' summary, calibrated by those of the lowest's."""
        threshold = self.settings.threshold
        if self.settings.calibration == "published":
            return calibrate(high, low, self.encoder, threshold, as_published=True)
        if self.settings.calibration == "as-released":
            return calibrate_as_released(high, low, self.encoder, threshold)
        return calibrate(high, low, self.encoder, threshold) if self.asker else calibrate_shared(high, low, self.encoder)


def ingest_rules(
    warehouse: Path,
    activation_run: int,
    property_run: int,
    caption_run: int,
    settings: Settings | None = None,
    *,
    progress: Progress = silent,
) -> Outcome:
    """Describe every living neuron of a finished run of activations by a rule over measured properties, and over what captions say that are
    not made of measurements; a layer is a unit of work. What is predicted of every clip is a file beside the activations'."""
    settings = settings or Settings()
    recorded = read_recorded(warehouse, activation_run)
    captioner, _, _ = ledger.finished(warehouse, caption_run, "captions")
    key, _, _ = ledger.finished(warehouse, property_run, "properties")
    parameters = {"held_out": settings.held_out, "captions": captioner, "properties": key, "model": "measured"}
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=settings.seed)
    plan = recorded.plan()
    if run.finished:
        progress(len(plan), len(plan))
        return Outcome(run, 0, run.failures())
    measured, _ = read_candidates(recorded, property_run, caption_run, settings.held_out, settings.seed)
    worked = 0
    for item, layer in run.pending(plan, progress):
        matrix = np.asarray(layer.matrix())
        found = rules.find(measured.conditions, matrix)
        alive = is_alive(matrix)
        file = _published(run, layer, found.predicted)
        run.record([item], {**rule_rows(layer, found, measured.names, np.flatnonzero(alive)), "prediction_file": pl.DataFrame([file])})
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def _published(run: Run, layer: RecordedLayer, predicted: np.ndarray) -> dict[str, object]:
    """Write a layer's predictions; its row of table prediction_file."""
    folder = store.run_folder(run.warehouse, run.run_id, continued=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{layer.layer_id:04d}.predicted.npy"
    digest = store.save_array(path, predicted.astype(np.float16))
    return {
        "layer_id": layer.layer_id, "path": path.relative_to(run.warehouse.parent).as_posix(), "neurons": predicted.shape[0],
        "clips": predicted.shape[1], "dtype": "float16", "sha256": digest,
    }  # fmt: skip
