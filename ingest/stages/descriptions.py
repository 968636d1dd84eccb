"""Stage `descriptions`: which measured properties tell when a neuron is active, or what its highest clips share in words (AND, modules B and C)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ingest.language.engines import load_language_model
from ingest.language.models import LanguageModel, read_prompt
from ingest.language.replies import Asker, identity
from ingest.language.text_encoders import TextEncoder, load_encoder
from ingest.language.word_lists import word_list
from ingest.methods import held_out, rules
from ingest.methods.commonalities import calibrate_shared, commonalities
from ingest.methods.concepts import acoustic_question, open_concepts, parse_yes_no
from ingest.methods.contrast import Contrast, middle, near_misses
from ingest.methods.rule_words import Condition, phrase, sentence, words_of
from ingest.methods.summaries import THRESHOLD, Point, calibrate, clean_points, summary_prompt
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.captions import read_captions
from ingest.stages.properties import Candidates, read_candidates
from ingest.stages.recorded import Recorded, RecordedLayer, clip_groups, read_recorded
from warehouse import ledger, store
from warehouse.ledger import Run
from warehouse.store import UserError

STAGE = "descriptions"
TITLE = "descriptions of {network} on {dataset}"
UNIT = "layers"
NEEDS = ("captions",)
CODE_VERSION = 1
POINT = {
    "neuron_id": pl.Int64, "position": pl.Int64, "text": pl.String, "is_kept": pl.Boolean, "because": pl.String, "cosine": pl.Float64,
}  # fmt: skip
RULE = {
    "neuron_id": pl.Int64, "conditions": pl.Int64, "auroc": pl.Float64, "low": pl.Float64, "high": pl.Float64, "auroc_fewer": pl.Float64,
    "auroc_more": pl.Float64, "reason": pl.String,
}  # fmt: skip
CONDITION = {
    "neuron_id": pl.Int64, "position": pl.Int64, "property": pl.String, "direction": pl.String, "threshold": pl.Float64, "weight": pl.Float64,
    "place": pl.Float64, "name": pl.String, "unit": pl.String, "text": pl.String,
}  # fmt: skip
NO_RULE, UNTRIED = "no measured property tells more than chance", "too few clips activate it, or too few sources, to try"
CONCEPT = {"neuron_id": pl.Int64, "word": pl.String, "part_of_speech": pl.String, "occurrences": pl.Int64, "is_acoustic": pl.Boolean}


@dataclass(frozen=True)
class Settings:
    """How neurons are described. engine: measured (a rule over properties of stage properties, and over what captions say that are not made of
    measurements, see ingest.methods.rules), commonalities (what captions share, no model), or a language model through transformers, vllm or
    endpoint, with `model` (a folder or hub name), `url`, `key_variable`, `extra` as for captions; max_tokens: the most of a reply; retry asks again for
    replies that could not be used. prompt: what a language model is asked: contrast (what sets a neuron's highest clips apart, given examples of its
    whole range, near misses and its measured rule) or published (what its highest clips share). encoder: of sentences, minilm or a folder or hub name.

    held_out: share of the sources whose clips are kept out for stage scores. seed: draws the clips held out, the folds that rules are checked on,
    and what a model samples. All but measured: k: clips on each side; share: of the clips, that a point without a model must hold for;
    threshold: cosine above which calibration drops a point of a language model (for points without one see
    ingest.methods.commonalities.calibrate_shared).
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
    seed: int = 0
    max_tokens: int = 1024
    retry: bool = False
    prompt: Literal["contrast", "published"] = "contrast"

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"descriptions: max_tokens is {self.max_tokens}, it must be at least 1")

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
    return ingest_descriptions(
        context.warehouse, context.runs["activations"], context.runs["captions"], load_encoder(settings.encoder), settings.language_model(),
        settings, property_run=context.runs["properties"] if settings.contrasts else None, retry=settings.retry, progress=progress,
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
        "model": identity(warehouse, STAGE, model) if model else "commonalities",
    }  # fmt: skip
    contrast = None
    if property_run is not None and model is not None:
        contrast, measured = read_candidates(recorded, property_run, caption_run, settings.held_out, settings.seed)
        parameters |= {"prompt": read_prompt("contrast").sha256, "properties": measured}
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=settings.seed if settings.held_out or contrast else None)
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
            run.record([item], _rows(points, words), failures)
            worked += 1
        elif retry and (failed := work.failed(layer)):
            points, words, failures = work.describe({neuron: sides for neuron, sides in work.tops(layer).items() if neuron in failed})
            mended = [f"neuron {neuron}" for neuron in failed if f"neuron {neuron}" not in dict(failures)]
            run.record([], _rows(points, words), mended=mended)
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
        """A layer's neurons but the dead ones; clips without a caption, or held out, are passed over. Of neurons that are never below 0, clips at 0 are none
        of the highest."""
        matrix = np.asarray(layer.matrix())
        alive = (np.where(np.isfinite(matrix), matrix, 0) != 0).any(axis=1)
        usable = np.array([int(clip) in self.captions for clip in self.recorded.clip_ids])
        values, clips = matrix[:, usable].astype(np.float32), self.recorded.clip_ids[usable]  # in order of clip id, which breaks ties
        k = self.settings.k
        high = np.argsort(np.where(np.isnan(values), np.inf, -values), axis=1, kind="stable")[:, :k]
        low = np.argsort(np.where(np.isnan(values), np.inf, values), axis=1, kind="stable")[:, :k]
        found: Tops = {}
        ruled = rules.find(self.contrast.conditions, matrix) if self.contrast else None
        for unit in np.flatnonzero(alive):
            row = values[unit]
            ups = np.array(
                [clip for clip in high[unit] if row[clip] > 0 or (not layer.non_negative and np.isfinite(row[clip]))], dtype=np.int64
            )
            downs = np.array([clip for clip in low[unit] if np.isfinite(row[clip])], dtype=np.int64)
            upper: Side = self.said(clips[ups])
            if self.contrast and ruled and len(ups):
                near = near_misses(row, ups, self.contrast.places[usable], k)
                facts = "; ".join(phrase(condition) for condition in _conditions(ruled, int(unit), self.contrast.names))
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
            prompts = [side.prompt() if isinstance(side, Contrast) else summary_prompt(side) for side in distinct]
            for side, reply in zip(distinct, self.asker(prompts), strict=True):
                summaries[side] = clean_points(reply.text) if reply.text is not None else []
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
                points[neuron] = (
                    calibrate(summaries[high], summaries[low], self.encoder, self.settings.threshold)
                    if self.asker
                    else calibrate_shared(summaries[high], summaries[low], self.encoder)
                )
        return points, _words(points, self.asker), failures


Words = list[tuple[int, str, str, int, bool | None]]
"""Rows of table concept, without run."""


def _words(points: dict[int, list[Point]], asker: Asker | None) -> Words:
    """Open concepts of the kept points."""
    counted = {
        neuron: Counter((c.word, c.pos) for c in open_concepts([p.text for p in found if p.kept])) for neuron, found in points.items()
    }
    adjectives = sorted({word for found in counted.values() for word, part in found if part == "adjective"})
    if asker:
        replies = asker([acoustic_question(word) for word in adjectives])
        acoustic = {word: parse_yes_no(reply.text or "") for word, reply in zip(adjectives, replies, strict=True)}
    else:
        acoustic = {word: word in word_list("acoustic_adjectives") for word in adjectives}
    return [
        (neuron, word, part, count, acoustic[word] if part == "adjective" else None)
        for neuron, found in counted.items()
        for (word, part), count in found.items()
    ]


def _rows(points: dict[int, list[Point]], words: Words) -> dict[str, pl.DataFrame]:
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


# --- Rules over measured properties --------------------------------------------------------------------------------------------------------


def _conditions(found: rules.Rules, unit: int, names: list[str]) -> list[Condition]:
    """The conditions of a neuron's rule."""
    rows = zip(found.property[unit], found.direction[unit], found.threshold[unit], found.place[unit], strict=True)
    return [Condition(names[column], int(sign), float(threshold), float(place)) for column, sign, threshold, place in rows if column >= 0]


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
    _, captioner = read_captions(warehouse, caption_run)
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
        alive = (np.where(np.isfinite(matrix), matrix, 0) != 0).any(axis=1)
        file = _published(run, layer, found.predicted)
        run.record([item], {**_rule_rows(layer, found, measured.names, np.flatnonzero(alive)), "prediction_file": pl.DataFrame([file])})
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def _published(run: Run, layer: RecordedLayer, predicted: np.ndarray) -> dict[str, object]:
    """Write a layer's predictions; its row of table prediction_file."""
    folder = store.run_folder(run.warehouse, run.run_id, continued=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{layer.layer_id:04d}.predicted.npy"
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, predicted.astype(np.float16))
    digest = store.sha256_file(temporary)
    store.publish(temporary, path)
    return {
        "layer_id": layer.layer_id, "path": path.relative_to(run.warehouse.parent).as_posix(), "neurons": predicted.shape[0],
        "clips": predicted.shape[1], "dtype": "float16", "sha256": digest,
    }  # fmt: skip


def _rule_rows(layer: RecordedLayer, found: rules.Rules, names: list[str], alive: np.ndarray) -> dict[str, pl.DataFrame]:
    """Rows of the tables that describe a layer's living neurons."""
    of_rules, of_conditions = [], []
    points: dict[int, list[Point]] = {}
    for unit in alive.tolist():
        neuron, areas = layer.first_neuron_id + unit, found.auroc[unit]
        count, tried = int(found.count[unit]), int(found.tried[unit])
        reason = None if count else NO_RULE if tried else UNTRIED
        numbers = (
            areas[tried],
            found.low[unit],
            found.high[unit],
            areas[max(0, tried - 1)],
            areas[tried + 1] if tried < rules.MOST else np.nan,
        )
        of_rules.append((neuron, count, *(float(number) if tried and np.isfinite(number) else None for number in numbers), reason))
        conditions = _conditions(found, unit, names)
        for i, condition in enumerate(conditions):
            words = words_of(condition.property)
            direction = "over" if condition.direction > 0 else "under"
            of_conditions.append((
                neuron, i, condition.property, direction, condition.threshold, float(found.weight[unit, i]), condition.place, words.name,
                words.unit, phrase(condition),
            ))  # fmt: skip
        points[neuron] = [Point(sentence(conditions), True, None, float("nan"))] if conditions else []
    return {
        "rule": pl.DataFrame(of_rules, schema=RULE, orient="row"),
        "rule_condition": pl.DataFrame(of_conditions, schema=CONDITION, orient="row"),
        # Units and what was measured are no concepts.
        **_rows(points, _words({n: [replace(p, text=re.sub(r" \(.*?\)", "", p.text)) for p in its] for n, its in points.items()}, None)),
    }
