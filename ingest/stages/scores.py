"""Stage `scores`: how well descriptions tell which held-out clips activate the neuron (`held_out` under `[descriptions]`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ingest.language.engines import load_language_model
from ingest.language.judge import detected, rated, understood
from ingest.language.models import LanguageModel, read_prompt
from ingest.language.replies import Asker, identity
from ingest.language.text_encoders import TextEncoder, load_encoder
from ingest.methods import held_out
from ingest.networks.network import Network
from ingest.networks.registry import load_audio_text
from ingest.stages import Context, Outcome, Progress, silent, tuning
from ingest.stages.captions import read_captions
from ingest.stages.extraction.recording import padding_parameter
from ingest.stages.recorded import clip_groups, read_recorded
from ingest.stages.scoring.asking import Asking
from ingest.stages.scoring.comparing import Comparing, Comparison, Predictions, alike, by_sound, ruled
from ingest.stages.scoring.moments import Moments
from ingest.stages.scoring.work import Clips, Work
from warehouse import ledger, store
from warehouse.store import UserError

STAGE = "scores"
TITLE = "scores of descriptions of {network} on {dataset}"
UNIT = "layers"
NEEDS = ("captions", "descriptions")
CODE_VERSION = 4
ASKED = {"judge": rated, "detection": detected}
"""Scorers that ask a language model, and how its replies are read."""
BOUNDS = {"window_s": (0.1, 60.0)}


@dataclass(frozen=True)
class Settings:
    """How descriptions are scored on held-out clips. Those of engine measured are scored by what their rules predict and by the scorers named, others
    by these alone. scorers: captions (texts against captions), tuning (what the neuron's tuning alone predicts of the sounds, where stage tuning measured
    the network in the same warehouse; see ingest.methods.tuning.forward), audio (texts against sounds, by the audio-text network `audio_network` with its
    `audio_weights`), judge (a language model that rates single clips, with `engine`, `model`, `url`,
    `key_variable`, `extra` and `max_tokens` as for descriptions; retry asks it again for replies that could not be used) and detection (the same model
    tells which of ten clips of a neuron's whole range, near misses among them, activate it).

    judge_neurons: how many neurons a language model is asked about, judge_clips: by how many clips each. seed: draws these, and their floor.
    window_s: seconds of the windows of sound by which rules are asked when in a clip the neuron is active.
    """

    scorers: tuple[Literal["captions", "tuning", "audio", "judge", "detection"], ...] = ("captions",)
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
    window_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.scorers:
            raise UserError("scores: scorers is empty: name captions, tuning, audio, judge or detection")
        if (asked := next((scorer for scorer in ASKED if scorer in self.scorers), None)) and self.engine is None:
            raise UserError(f"scores: {asked} needs a language model: give engine, one of transformers, vllm, endpoint")
        for name, value, least in (
            ("judge_neurons", self.judge_neurons, 1), ("judge_clips", self.judge_clips, 4), ("max_tokens", self.max_tokens, 1),
        ):  # fmt: skip
            if value < least:
                raise UserError(f"scores: {name} is {value}, it must be at least {least}")

    def judge(self) -> LanguageModel | None:
        """The language model that judges; None without one. Raises UserError for what it lacks."""
        return load_language_model(
            "scores", self.engine, self.model, url=self.url, key_variable=self.key_variable, seed=self.seed, max_tokens=self.max_tokens,
            extra=self.extra,
        )  # fmt: skip


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Score the descriptions written."""
    device, encoder = context.settings("activations").device, load_encoder(context.settings("descriptions").encoder)
    audio = load_audio_text(settings.audio_network, settings.audio_weights, device) if "audio" in settings.scorers else None
    judge = None
    if set(ASKED) & set(settings.scorers):
        judge = settings.judge()
        judge = judge and context.where.engine(STAGE, settings.judge, judge, "complete")
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
    tuning takes what the neuron's tuning predicts of the sounds (`paths` by clip name), audio compares descriptions with these by the audio-text
    network `audio`. These four are also tried on near misses and intruders
    (ingest.methods.scoring.trials), and rules on when in a clip the neuron is active (ingest.methods.scoring.moments). `judge` is the language model that
    rates single clips, or detects.
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
    for scorer in ASKED:
        if scorer in scorers:
            if judge is None:
                raise UserError(f"scores: {scorer} needs a language model: give engine, model and, for an endpoint, url")
            parameters[scorer] = {
                **identity(warehouse, STAGE, judge, understood), "prompt": read_prompt(scorer).sha256, "neurons": settings.judge_neurons,
                "clips": settings.judge_clips,
            }  # fmt: skip
    if "tuning" in scorers:
        tuned, parameters["tuning"] = tuning.of_network(warehouse, recorded)
    if "rule" in scorers and settings.window_s != Settings.window_s:
        parameters["window_s"] = settings.window_s
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=settings.seed)
    worked = 0
    if not run.finished or retry:
        groups = clip_groups(warehouse, recorded)
        held = held_out.split(groups, written["held_out"], seed or 0)
        kept = held & np.array([int(clip) in captions for clip in recorded.clip_ids])
        said = [captions[int(clip)] for clip in recorded.clip_ids[kept]]
        measured = _run_of(warehouse, written.get("properties"))
        space = alike(warehouse, measured, recorded.clip_ids[kept].tolist(), said, encoder)
        clips = Clips(kept, said, [groups[place] for place in np.flatnonzero(kept)], *space)
        work = Work(run, recorded, descriptions, clips, settings.seed)
        comparing = Comparing(work, next((scorer for scorer in scorers if scorer not in ASKED), ""))
        names = [recorded.clip_names[place] for place in np.flatnonzero(kept)]
        compare: dict[str, Callable[[], Comparison]] = {
            "captions": lambda: Comparison(encoder.embed(clips.captions), encoder.embed),
            "audio": lambda: by_sound(audio, names, paths or {}),
        }
        predict: dict[str, Callable[[], Predictions]] = {
            "rule": lambda: ruled(warehouse, description_run, kept),
            "tuning": lambda: tuning.forward(recorded, tuned, names, paths or {}),
        }
        for number, scorer in enumerate(scorers):

            def tell(done: int, total: int, number: int = number) -> None:
                progress(number * total + done, len(scorers) * total)

            if scorer in predict:
                moments = None
                if scorer == "rule":
                    assert measured is not None
                    moments = Moments(work, description_run, measured, ~held, paths or {}, settings.window_s)
                worked += comparing.predicted(scorer, predict[scorer], tell, moments)
            elif scorer in ASKED:
                assert judge is not None
                asker = Asker(run, judge, judge=ASKED[scorer], retry=retry)
                worked += Asking(work, asker, scorer, settings.judge_neurons, settings.judge_clips).scored(retry, tell)
            else:
                worked += comparing.compared(scorer, compare[scorer], tell)
        run.finish()
    return Outcome(run, worked, run.failures())


def _run_of(warehouse: Path, key: object) -> int | None:
    """The run of a key."""
    with store.connect_readonly(warehouse) as con:
        rows = con.execute("SELECT run_id FROM run WHERE run_key = ?", [key]).fetchall()
    return rows[0][0] if rows else None
