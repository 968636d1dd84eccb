"""Stage `scores`: how well descriptions tell which held-out clips activate the neuron (`held_out` under `[descriptions]`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ingest.language.engines import load_language_model
from ingest.language.judge import draw_clips, draw_neurons, judge_prompt, rated
from ingest.language.models import LanguageModel, read_prompt
from ingest.language.replies import Asker, identity
from ingest.language.text_encoders import TextEncoder, load_encoder, readable
from ingest.methods import held_out
from ingest.methods.extremes import is_signed
from ingest.networks.network import Network
from ingest.networks.registry import load_audio_text
from ingest.stages import Context, Outcome, Progress, silent, tuning
from ingest.stages.captions import read_captions
from ingest.stages.extraction.recording import padding_parameter
from ingest.stages.recorded import Recorded, RecordedLayer, clip_groups, read_recorded
from warehouse import ledger, store
from warehouse.ledger import Run
from warehouse.store import UserError

STAGE = "scores"
TITLE = "scores of descriptions of {network} on {dataset}"
UNIT = "layers"
NEEDS = ("captions", "descriptions")
CODE_VERSION = 3
BATCH = 32
SHORTEST_PROMPT = 40
"""Characters below which it is not for its length that an audio-text network refuses a text."""


@dataclass(frozen=True)
class Settings:
    """How descriptions are scored on held-out clips. Those of engine measured are scored by what their rules predict and by the scorers named, others
    by these alone. scorers: captions (texts against captions), tuning (what the neuron's tuning alone predicts of the sounds, where stage tuning measured the
    network in the same warehouse; see ingest.methods.tuning.forward), audio (texts against sounds, by the audio-text network `audio_network` with its
    `audio_weights`) and judge (a language model that rates single clips, with `engine`, `model`, `url`,
    `key_variable`, `extra` and `max_tokens` as for descriptions; retry asks it again for replies that could not be used).

    judge_neurons: how many neurons a judge judges, judge_clips: by how many clips each. seed: draws these, and a judge's floor.
    """

    scorers: tuple[Literal["captions", "tuning", "audio", "judge"], ...] = ("captions",)
    audio_network: str = "clap-2022"
    audio_weights: Path | None = None
    engine: Literal["transformers", "vllm", "endpoint"] | None = None
    model: str | None = None
    url: str | None = None
    key_variable: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    judge_neurons: int = 200
    judge_clips: int = 20
    seed: int = 0
    max_tokens: int = 1024
    retry: bool = False

    def __post_init__(self) -> None:
        if not self.scorers:
            raise UserError("scores: scorers is empty: name captions, tuning, audio or judge")
        if "judge" in self.scorers and self.engine is None:
            raise UserError("scores: judge needs a language model: give engine, one of transformers, vllm, endpoint")
        for name, value, least in (
            ("judge_neurons", self.judge_neurons, 1), ("judge_clips", self.judge_clips, 4), ("max_tokens", self.max_tokens, 1),
        ):  # fmt: skip
            if value < least:
                raise UserError(f"scores: {name} is {value}, it must be at least {least}")


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Score the descriptions written."""
    device, encoder = context.settings("activations").device, load_encoder(context.settings("descriptions").encoder)
    audio = load_audio_text(settings.audio_network, settings.audio_weights, device) if "audio" in settings.scorers else None
    judge = None
    if "judge" in settings.scorers:
        judge = load_language_model(
            "scores", settings.engine, settings.model, url=settings.url, key_variable=settings.key_variable, seed=settings.seed,
            max_tokens=settings.max_tokens, extra=settings.extra,
        )  # fmt: skip
    return ingest_scores(
        context.warehouse, context.runs["activations"], context.runs["captions"], context.runs["descriptions"], encoder, settings,
        audio=audio, paths=context.paths, judge=judge, retry=settings.retry, progress=progress,
    )  # fmt: skip


def ingest_scores(
    warehouse: Path,
    activation_run: int,
    caption_run: int,
    description_run: int,
    encoder: TextEncoder,
    settings: Settings | None = None,
    *,
    audio: Network | None = None,
    paths: Mapping[str, Path] | None = None,
    judge: LanguageModel | None = None,
    retry: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Score the descriptions of a finished run that held clips out, on these clips; a layer is a unit of work of each scorer.

    Scorer rule takes what measured rules predict, which nobody need name (floor: other neurons' rules); captions compares descriptions with captions,
    tuning takes what the neuron's tuning predicts of the sounds (`paths` by clip name), audio compares descriptions with them by the audio-text
    network `audio`, and `judge` is the language model that rates single clips.
    Neurons without a description, and those never below 0 with fewer than five held-out clips above it, have no row. Replies of the judge are
    kept as they come; a neuron of which one cannot be used has a failure row instead of a score, and with `retry` its unusable ones are asked
    for again. Raises UserError for what a scorer lacks.
    """
    settings = settings or Settings()
    recorded = read_recorded(warehouse, activation_run)
    captions, captioner = read_captions(warehouse, caption_run)
    described, written, seed = ledger.finished(warehouse, description_run, "descriptions")
    scorers = tuple(dict.fromkeys([*(["rule"] if written.get("model") == "measured" else []), *settings.scorers]))
    if not written.get("held_out"):
        raise UserError("no clips were held out when descriptions were written: give held_out, such as 0.5, in [descriptions]")
    with store.connect_readonly(warehouse) as con:
        descriptions = dict(
            con.execute(
                "SELECT neuron_id, description FROM v_description WHERE run_id = ? AND description IS NOT NULL", [description_run]
            ).fetchall()
        )
    parameters: dict[str, object] = {
        "descriptions": described, "captions": captioner, "encoder": encoder.parameters, "scorers": list(scorers),
    }  # fmt: skip
    if "audio" in scorers:
        if audio is None:
            raise UserError("scores: audio needs an audio-text network: give audio_network")
        heard = padding_parameter(warehouse, audio, recorded.dataset, recorded.dataset_sha256)
        parameters["audio"] = {"network": audio.name, "sha256": audio.checkpoint_sha256, "clip_s": audio.clip_s, **heard}
    if "tuning" in scorers:
        tuned, parameters["tuning"] = tuning.of_network(warehouse, recorded)
    if "judge" in scorers:
        if judge is None:
            raise UserError("scores: judge needs a language model: give engine, model and, for an endpoint, url")
        parameters["judge"] = {
            **identity(warehouse, STAGE, judge, rated), "prompt": read_prompt("judge").sha256, "neurons": settings.judge_neurons,
            "clips": settings.judge_clips,
        }  # fmt: skip
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=settings.seed)
    worked = 0
    if not run.finished or retry:
        groups = clip_groups(warehouse, recorded)
        kept = held_out.split(groups, written["held_out"], seed or 0)
        kept &= np.array([int(clip) in captions for clip in recorded.clip_ids])
        clips = _Clips(kept, [captions[int(clip)] for clip in recorded.clip_ids[kept]], [groups[place] for place in np.flatnonzero(kept)])
        work = _Work(run, recorded, descriptions, clips, settings)
        asker = Asker(run, judge, judge=rated, retry=retry) if judge is not None and "judge" in scorers else None
        compare: dict[str, Callable[[], _Comparison]] = {
            "captions": lambda: _Comparison(encoder.embed(clips.captions), encoder.embed),
            "audio": lambda: _by_sound(audio, [recorded.clip_names[place] for place in np.flatnonzero(kept)], paths or {}),
        }
        for number, scorer in enumerate(scorers):
            tell = lambda done, total, number=number: progress(number * total + done, len(scorers) * total)  # noqa: E731
            if scorer == "rule":
                worked += work.predicted(scorer, lambda: work.ruled(description_run), tell)
            elif scorer == "tuning":
                names = [recorded.clip_names[place] for place in np.flatnonzero(kept)]
                worked += work.predicted(scorer, lambda names=names: tuning.forward(recorded, tuned, names, paths or {}), tell)  # type: ignore[misc]
            else:
                worked += work.judged(asker, retry, tell) if scorer == "judge" and asker else work.compared(scorer, compare[scorer], tell)
        run.finish()
    return Outcome(run, worked, run.failures())


@dataclass(frozen=True)
class _Clips:
    """Held-out clips that have a caption: their columns (bool), captions, and what they were cut from."""

    columns: np.ndarray
    captions: list[str]
    groups: list[str]


@dataclass(frozen=True)
class _Comparison:
    """Embeddings of unit length of the clips [clips, dimensions], NaN for one without, and how texts are embedded beside them."""

    clips: np.ndarray
    embed: Callable[[Sequence[str]], np.ndarray]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _by_sound(network: Network | None, names: Sequence[str], paths: Mapping[str, Path]) -> _Comparison:
    from ingest.networks.audio_text import audio_embeddings, text_embeddings

    assert network is not None

    def embedded(text: str) -> np.ndarray:
        """Of a text too long for the network, as much of its beginning as it takes."""
        while True:
            try:
                return text_embeddings(network, [text])[0]
            except UserError:
                if len(text) < SHORTEST_PROMPT:
                    raise
                text = text[: 9 * len(text) // 10]

    def embed(texts: Sequence[str]) -> np.ndarray:
        text_embeddings(network, ["a sound"])  # tells of a missing tokeniser before any text is blamed
        distinct = list(dict.fromkeys(texts))
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(distinct), BATCH):
            batch = distinct[start : start + BATCH]
            shown = [readable(text) for text in batch]
            try:
                vectors = list(text_embeddings(network, shown))
            except UserError:  # one of them is too long
                vectors = [embedded(text) for text in shown]
            found |= zip(batch, vectors, strict=True)
        return _unit(np.stack([found[text] for text in texts]))

    return _Comparison(_unit(audio_embeddings(network, names, paths)), embed)


@dataclass
class _Work:
    run: Run
    recorded: Recorded
    descriptions: dict[int, str]
    clips: _Clips
    settings: Settings

    @cached_property
    def done(self) -> set[str]:
        return self.run.done()

    def compared(self, scorer: str, compare: Callable[[], _Comparison], progress: Progress) -> int:
        """Score by cosine; returns the number of layers done now."""
        comparison, worked = None, 0
        for number, layer in enumerate(self.recorded.layers):
            item = _item(scorer, layer)
            if item not in self.done:
                comparison = comparison or compare()
                units, positive, usable = self.found(layer, np.isfinite(comparison.clips).all(axis=1))
                rows = pl.DataFrame()
                if units:
                    texts = comparison.embed([self.descriptions[layer.first_neuron_id + unit] for unit in units])
                    groups = [self.clips.groups[place] for place in np.flatnonzero(usable)]
                    scores = held_out.score(texts @ comparison.clips[usable].T, positive, groups)
                    rows = self.rows(layer, units, scorer, positive, scores)
                self.run.record([item], {"description_score": rows})
                worked += 1
            progress(number + 1, len(self.recorded.layers))
        return worked

    def ruled(self, description_run: int) -> Callable[[RecordedLayer], np.ndarray]:
        """What rules predict of the held-out clips [neurons, clips], by layer."""
        with store.connect_readonly(self.run.warehouse) as con:
            paths = dict(con.execute("SELECT layer_id, path FROM prediction_file WHERE run_id = ?", [description_run]).fetchall())
        return lambda layer: np.load(self.run.warehouse.parent / paths[layer.layer_id], mmap_mode="r")[:, self.clips.columns]

    def predicted(self, scorer: str, predict: Callable[[], Callable[[RecordedLayer], np.ndarray]], progress: Progress) -> int:
        """Score predicted responses; returns the number of layers done now."""
        predictions, worked = None, 0
        for number, layer in enumerate(self.recorded.layers):
            item = _item(scorer, layer)
            if item not in self.done:
                predictions = predictions or predict()
                units, positive, usable = self.found(layer)
                its = predictions(layer)[units][:, usable].astype(np.float32)
                known = np.atleast_1d(np.isfinite(its).all(axis=1))
                units, positive, its = [unit for unit, is_known in zip(units, known, strict=True) if is_known], positive[known], its[known]
                rows = pl.DataFrame()
                if units:
                    groups = [self.clips.groups[place] for place in np.flatnonzero(usable)]
                    scores = held_out.score(its, positive, groups)
                    values = np.asarray(layer.matrix())[:, self.clips.columns][units][:, usable]
                    rows = self.rows(layer, units, scorer, positive, scores, held_out.rank_correlation(its, values))
                self.run.record([item], {"description_score": rows})
                worked += 1
            progress(number + 1, len(self.recorded.layers))
        return worked

    def found(self, layer: RecordedLayer, known: np.ndarray | None = None) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Units with a description, their positives [units, usable clips], and which of the held-out clips are usable: those where the whole
        layer's values are finite, and that are `known`."""
        signed = is_signed(layer.matrix())
        matrix = np.asarray(layer.matrix())[:, self.clips.columns]
        usable = np.isfinite(matrix).all(axis=0)
        if known is not None:
            usable &= known
        units = [unit for unit in range(layer.neurons) if layer.first_neuron_id + unit in self.descriptions]
        return units, held_out.positives(matrix[units][:, usable], signed[units]), usable

    def judged(self, asker: Asker, retry: bool, progress: Progress) -> int:
        """Score by a judge; returns the number of layers done now."""
        worked, layers = 0, self.recorded.layers
        failed = self.failed() if retry else set()
        todo = [layer for layer in layers if _item("judge", layer) not in self.done or any(neuron in _neurons(layer) for neuron in failed)]
        drawn = self.drawn() if todo else set()
        for number, layer in enumerate(layers):
            if layer in todo:
                again = _item("judge", layer) in self.done
                wanted = [
                    unit for place, unit in sorted(drawn) if place == number and (not again or layer.first_neuron_id + unit in failed)
                ]
                frames, failures = self.rate(asker, number, wanted)
                mended = {f"neuron {layer.first_neuron_id + unit}" for unit in wanted} - {item for item, _ in failures}
                items = [] if again else [_item("judge", layer)]
                self.run.record(items, {"description_score": pl.concat(frames)} if frames else {}, failures, sorted(mended))
                worked += 1
            progress(number + 1, len(layers))
        return worked

    def failed(self) -> set[int]:
        """Neurons of which a reply could not be used."""
        with store.connect_readonly(self.run.warehouse) as con:
            rows = con.execute("SELECT item FROM failure WHERE run_id = ? AND starts_with(item, 'neuron ')", [self.run.run_id]).fetchall()
        return {int(item.removeprefix("neuron ")) for (item,) in rows}

    def drawn(self) -> set[tuple[int, int]]:
        """The neurons judged, out of all that have a description and positives."""
        candidates = []
        for number, layer in enumerate(self.recorded.layers):
            units, positive, _ = self.found(layer)
            candidates += [(number, unit) for unit, its in zip(units, positive, strict=True) if its.any()]
        return draw_neurons(candidates, self.settings.judge_neurons, self.settings.seed)

    def rate(self, asker: Asker, number: int, wanted: Sequence[int]) -> tuple[list[pl.DataFrame], list[tuple[str, str]]]:
        """Rows of table description_score of a layer's neurons, and what failed."""
        if not wanted:
            return [], []
        layer, seed = self.recorded.layers[number], self.settings.seed
        units, positive, usable = self.found(layer)
        places = np.flatnonzero(usable)
        row_of = {unit: row for row, unit in enumerate(units)}
        chosen = {unit: draw_clips(positive[row_of[unit]], self.settings.judge_clips, (seed, number, unit)) for unit in wanted}
        prompts = {
            unit: [judge_prompt(self.descriptions[layer.first_neuron_id + unit], self.clips.captions[place]) for place in places[clips]]
            for unit, clips in chosen.items()
        }
        replies = iter(asker([prompt for its in prompts.values() for prompt in its]))
        frames, failures = [], []
        for unit, clips in chosen.items():
            its = [next(replies) for _ in clips]
            if reason := next((reply.reason or "no rating" for reply in its if reply.text is None), None):
                failures.append((f"neuron {layer.first_neuron_id + unit}", f"judge: {reason}"))
                continue
            ratings = np.array([[float(reply.text or "nan") for reply in its]])
            inside = positive[row_of[unit], clips][None]
            groups = [self.clips.groups[place] for place in places[clips]]
            scores = held_out.score(ratings, inside, groups)
            scores.floor[0], scores.p_value[0] = held_out.permutation_floor(ratings[0], inside[0], groups, seed=(seed, number, unit))
            frames.append(self.rows(layer, [unit], "judge", inside, scores))
        return frames, failures

    def rows(
        self,
        layer: RecordedLayer,
        units: list[int],
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


def _item(scorer: str, layer: RecordedLayer) -> str:
    return f"layer {layer.layer_id}" if scorer == "captions" else f"{scorer}, layer {layer.layer_id}"


def _neurons(layer: RecordedLayer) -> range:
    return range(layer.first_neuron_id, layer.first_neuron_id + layer.neurons)
