"""A study: which data sets and networks to bring in, and how. Read from a TOML file or put together from flags."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ingest.datasets import READERS, SYNTHESISED
from ingest.stages import STAGES
from warehouse.store import UserError

USUAL_STAGES = ("clips", "activations")


@dataclass(frozen=True)
class DatasetChoice:
    """A data set: `reader`, `source` folder (starter and notes need none), and a `name` other than the reader's own.

    `per_class` clips of each class and `folds` grouped folds are drawn by `seed`: see ingest.task_sets.draw.
    """

    reader: str
    source: Path | None = None
    name: str | None = None
    per_class: int | None = None
    folds: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class NetworkChoice:
    """A network: `name` as for `auricle networks`, and optionally its checkpoint, seconds of a clip, layers, and whether every position is a
    neuron."""

    name: str
    weights: Path | None = None
    clip_s: float | None = None
    layers: tuple[str, ...] | None = None
    positions: bool = False


@dataclass(frozen=True)
class ActivationChoice:
    """How activations are taken: see ingest.activations.Settings (stage specificity wants `shares`); `batch` and `device` do
    not change results beyond rounding."""

    dtype: str = "float16"
    precision: str = "float32"
    top_k: int = 20
    shares: bool = False
    device: str = "auto"
    batch: int | None = None


@dataclass(frozen=True)
class ClusterChoice:
    """How neurons are clustered: see ingest.clusters.finch for the backends."""

    backend: str = "exact"


@dataclass(frozen=True)
class InterventionChoice:
    """How clusters are disturbed and their effect is read out: see ingest.intervention_tables.Settings. `label_map` is a CSV from the data
    set's classes to the network's output names; by default the one for ESC-50 and AudioSet."""

    layers: tuple[str, ...] | None = None
    largest: int = 100
    repeats: int = 10
    mode: str = "resample"
    readout: str | None = None
    label_map: Path | None = None
    prompt: str = "this is a sound of "


@dataclass(frozen=True)
class CaptionChoice:
    """Who captions: acoustic (measurements), tags (classes that `tagger` hears, with its `tagger_weights`, and measurements), import (from
    the CSV or Parquet `file`), clapcap (its checkpoint as `file`), transformers, vllm or endpoint (see ingest.audio_language); the last
    three with `model`, endpoint with `url` and the environment variable `key_variable` that holds its key."""

    captioner: str = "acoustic"
    tagger: str = "yamnet"
    tagger_weights: Path | None = None
    file: Path | None = None
    model: str | None = None
    url: str | None = None
    key_variable: str | None = None


@dataclass(frozen=True)
class DescriptionChoice:
    """Who summarises: commonalities (no model), transformers, vllm or endpoint, with `model` (a folder or hub name), `url` and
    `key_variable` as for captions, and the most tokens of a reply; and the sentence encoder, minilm or a folder or hub name. `seed` draws
    the clips held out, and what a model samples. For the rest see ingest.description_tables.Settings; `retry` asks again for replies that
    could not be used."""

    engine: str = "commonalities"
    model: str | None = None
    url: str | None = None
    key_variable: str | None = None
    encoder: str = "minilm"
    k: int = 5
    held_out: float = 0.0
    share: float = 0.5
    threshold: float = 0.7
    seed: int = 0
    max_tokens: int = 1024
    retry: bool = False


@dataclass(frozen=True)
class ScoreChoice:
    """How descriptions are scored on held-out clips: see ingest.score_tables.Settings. `scorers` are captions (texts against captions), audio
    (texts against sounds, by `audio_network` with its `audio_weights`) and judge (a language model, with `engine`, `model`, `url`,
    `key_variable` and `max_tokens` as for descriptions); `retry` asks it again for replies that could not be used."""

    scorers: tuple[Literal["captions", "audio", "judge"], ...] = ("captions",)
    audio_network: str = "clap-2022"
    audio_weights: Path | None = None
    engine: Literal["transformers", "vllm", "endpoint"] | None = None
    model: str | None = None
    url: str | None = None
    key_variable: str | None = None
    judge_neurons: int = 200
    judge_clips: int = 20
    seed: int = 0
    max_tokens: int = 1024
    retry: bool = False


@dataclass(frozen=True)
class DissectionChoice:
    """Closed concepts: see ingest.dissection_tables.Settings. `concepts` is esc50, audioset or classes (the data set's own); `file` a text file instead, one
    concept a line. `methods` are DB (captions and concepts as text), TAB (sounds and concepts by the audio-text network `tab_network`, with
    its `tab_weights`) and ICL (the language model of descriptions chooses)."""

    concepts: str = "esc50"
    file: Path | None = None
    mode: Literal["paper", "as-released", "clip-dissect"] = "paper"
    scale: float | None = 100.0
    kept: int = 10
    methods: tuple[str, ...] = ("DB",)
    tab_network: str = "clap-2022"
    tab_weights: Path | None = None


@dataclass(frozen=True)
class PolysemanticityChoice:
    """Which neurons have one meaning: see ingest.polysemanticity_tables.Settings."""

    clusters: int = 11
    most_common: float = 1.0


@dataclass(frozen=True)
class AblationChoice:
    """Ablations of a classifier: see ingest.ablation_tables.Settings."""

    fold: int | None = None
    functions: tuple[str, ...] = ("cosine_cubed", "wpmi")
    seeds: int = 3
    shares: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.1)


@dataclass(frozen=True)
class SpecificityChoice:
    """The filters of AAPE: see ingest.specificity_tables.Settings."""

    least_active: float = 0.05
    lowest_entropy: float = 0.02
    class_quantile: float = 0.95
    activity: Literal["mean", "max"] = "mean"
    entropy_among: Literal["all neurons", "active neurons"] = "all neurons"
    population: Literal["all pairs", "kept pairs", "per class", "per neuron"] = "all pairs"
    above: Literal["zero", "mean"] = "mean"
    with_ties: bool = True


@dataclass(frozen=True)
class SpecificAblationChoice:
    """How neurons specific to a class are silenced: see ingest.specific_ablation_tables.Settings; `label_map` as for interventions."""

    measures: tuple[Literal["aape", "lape", "selectivity", "average_precision", "auroc"], ...] = ("aape",)
    draws: int = 10
    folds: tuple[int, ...] | None = None
    readout: str | None = None
    label_map: Path | None = None
    prompt: str = "this is a sound of "
    label_set: str | None = None


@dataclass(frozen=True)
class Study:
    """All of it. Stages beyond clips and activations are done when they are named."""

    dataset: tuple[DatasetChoice, ...] = ()
    network: tuple[NetworkChoice, ...] = ()
    stages: tuple[str, ...] = USUAL_STAGES
    activations: ActivationChoice = field(default_factory=ActivationChoice)
    clusters: ClusterChoice = field(default_factory=ClusterChoice)
    interventions: InterventionChoice = field(default_factory=InterventionChoice)
    captions: CaptionChoice = field(default_factory=CaptionChoice)
    descriptions: DescriptionChoice = field(default_factory=DescriptionChoice)
    scores: ScoreChoice = field(default_factory=ScoreChoice)
    dissections: DissectionChoice = field(default_factory=DissectionChoice)
    polysemanticity: PolysemanticityChoice = field(default_factory=PolysemanticityChoice)
    ablations: AblationChoice = field(default_factory=AblationChoice)
    specificity: SpecificityChoice = field(default_factory=SpecificityChoice)
    specific_ablations: SpecificAblationChoice = field(default_factory=SpecificAblationChoice)


def validation_studies(captioner: str = "acoustic") -> tuple[Study, ...]:
    """The studies that put every method to the test on the planted network: first the concepts as the programs were released, then all.

    In the planted network more neurons are specific than AAPE's usual share of 2 %, and short captions of measurements are told apart by
    more clusters than those of a language model.
    """
    base = Study(
        (DatasetChoice("starter"),),
        (NetworkChoice("planted"),),
        ("dissections",),
        captions=CaptionChoice(captioner=captioner),
        dissections=DissectionChoice(concepts="classes", mode="as-released"),
        polysemanticity=PolysemanticityChoice(clusters=64, most_common=0.3),
        ablations=AblationChoice(shares=()),
        specificity=SpecificityChoice(lowest_entropy=0.3),
    )
    return base, replace(base, stages=("validation",), dissections=DissectionChoice(concepts="classes"))


def read_study(path: Path) -> Study:
    """Read and check a study file. Paths in it are relative to its folder. Raises UserError for anything not understood."""
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read study {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {str(error).splitlines()[0]}") from None
    return check_study(_parse(Study, table, str(path), path.parent), str(path))


def check_study(study: Study, where: str) -> Study:
    """Refuse values no stage would take."""
    _one_of(study.activations.dtype, ("float16", "float32"), f"{where}: dtype")
    _one_of(study.activations.precision, ("float32", "bfloat16", "float16"), f"{where}: precision")
    for stage in study.stages:
        _one_of(stage, STAGES, f"{where}: stage")
    _one_of(study.clusters.backend, ("exact", "nn-descent", "finch-clust"), f"{where}: clusters: backend")
    _one_of(study.interventions.mode, ("resample", "zero"), f"{where}: interventions: mode")
    _one_of(study.interventions.readout or "own", ("own", "zero-shot", "linear"), f"{where}: interventions: readout")
    _one_of(study.specific_ablations.readout or "own", ("own", "zero-shot", "linear"), f"{where}: specific_ablations: readout")
    if study.specific_ablations.draws < 1:
        raise UserError(f"{where}: specific_ablations: draws is {study.specific_ablations.draws}, it must be at least 1")
    captioners = ("acoustic", "tags", "import", "clapcap", "transformers", "vllm", "endpoint")
    _one_of(study.captions.captioner, captioners, f"{where}: captions: captioner")
    engines = ("commonalities", "transformers", "vllm", "endpoint")
    _one_of(study.descriptions.engine, engines, f"{where}: descriptions: engine")
    if not study.scores.scorers:
        raise UserError(f"{where}: scores: scorers is empty: name captions, audio or judge")
    if "judge" in study.scores.scorers and study.scores.engine is None:
        raise UserError(f"{where}: scores: judge needs a language model: give engine, one of {', '.join(engines[1:])}")
    for name, least in (("judge_neurons", 1), ("judge_clips", 4)):
        if getattr(study.scores, name) < least:
            raise UserError(f"{where}: scores: {name} is {getattr(study.scores, name)}, it must be at least {least}")
    if not study.dissections.methods:
        raise UserError(f"{where}: dissections: methods is empty: name DB, TAB or ICL")
    for method in study.dissections.methods:
        _one_of(method, ("DB", "TAB", "ICL"), f"{where}: dissections: method")
    if "ICL" in study.dissections.methods and study.descriptions.engine == "commonalities":
        raise UserError(f"{where}: dissections: ICL needs a language model: choose an engine of descriptions other than commonalities")
    for section, choice in (("descriptions", study.descriptions), ("scores", study.scores)):
        if choice.max_tokens < 1:
            raise UserError(f"{where}: {section}: max_tokens is {choice.max_tokens}, it must be at least 1")
    for name in ("largest", "repeats"):
        if getattr(study.interventions, name) < 1:
            raise UserError(f"{where}: interventions: {name} is {getattr(study.interventions, name)}, it must be at least 1")
    for dataset in study.dataset:
        _one_of(dataset.reader, tuple(READERS), f"{where}: reader")
        if dataset.source is None and dataset.reader not in SYNTHESISED:
            raise UserError(f"{where}: reader {dataset.reader} needs the folder of the data set: give its source")
    for name in ("top_k", "batch"):
        value = getattr(study.activations, name)
        if value is not None and value < 1:
            raise UserError(f"{where}: {name} is {value}, it must be at least 1")
    if not study.dataset:
        raise UserError(f"{where}: no data set is named, nothing to do")
    names = [dataset.name or dataset.reader for dataset in study.dataset]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: two data sets are called {name}: give each its own name")
    return study


def _one_of(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        raise UserError(f"{what} {value!r} is not known:{_nearest(value, allowed)} it must be one of {', '.join(allowed)}")


def _nearest(value: str, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(value, allowed, 1, 0.5)
    return f" did you mean {near[0]!r}?" if near else ""


def _parse(kind: type, value: Any, where: str, folder: Path) -> Any:
    """Build a dataclass from a TOML table, or a value of a declared type from a TOML value."""
    if hasattr(kind, "__dataclass_fields__"):
        if not isinstance(value, dict):
            raise UserError(f"{where}: a table is expected, not {value!r}")
        hints = get_type_hints(kind)
        known = tuple(item.name for item in fields(kind))
        for key in value:
            if key not in known:
                raise UserError(f"{where}: {key!r} is not known:{_nearest(key, known)} it must be one of {', '.join(known)}")
        try:
            return kind(**{key: _parse(hints[key], item, f"{where}: {key}", folder) for key, item in value.items()})
        except TypeError as error:
            raise UserError(f"{where}: {str(error).partition('missing ')[2] or error} is missing") from None
    if get_origin(kind) in (Union, UnionType):
        return _parse(next(part for part in get_args(kind) if part is not type(None)), value, where, folder)
    if get_origin(kind) is Literal:
        _one_of(value if isinstance(value, str) else repr(value), get_args(kind), where)
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: a list is expected, not {value!r}")
        return tuple(_parse(get_args(kind)[0], item, where, folder) for item in value)
    if kind is Path and isinstance(value, str):
        return folder / value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {kind.__name__} is expected, not {value!r}")
    return value
