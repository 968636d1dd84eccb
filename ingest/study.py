"""A study: which data sets and networks to bring in, and how. Read from a TOML file or put together from flags, and run."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from ingest.clips import Outcome, Progress, ingest_clips
from ingest.datasets import READERS, SYNTHESISED, read_dataset
from ingest.task_sets import draw
from warehouse import store
from warehouse.store import UserError

if TYPE_CHECKING:
    from ingest.captions import Captioner
    from ingest.language import LanguageModel
    from ingest.networks import Network
    from ingest.text_encoders import TextEncoder

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
    `key_variable` as for captions; and the sentence encoder, minilm or a folder or hub name. For the rest see
    ingest.description_tables.Settings; `retry` asks again for replies that could not be used."""

    engine: str = "commonalities"
    model: str | None = None
    url: str | None = None
    key_variable: str | None = None
    encoder: str = "minilm"
    k: int = 5
    held_out: float = 0.0
    share: float = 0.5
    threshold: float = 0.7
    retry: bool = False


@dataclass(frozen=True)
class DissectionChoice:
    """Closed concepts: see ingest.dissection_tables.Settings. `concepts` is esc50, audioset or classes (the data set's own); `file` a text file instead, one
    concept a line."""

    concepts: str = "esc50"
    file: Path | None = None
    mode: Literal["paper", "as-released", "clip-dissect"] = "paper"
    scale: float | None = 100.0
    kept: int = 10


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
    dissections: DissectionChoice = field(default_factory=DissectionChoice)
    polysemanticity: PolysemanticityChoice = field(default_factory=PolysemanticityChoice)
    ablations: AblationChoice = field(default_factory=AblationChoice)
    specificity: SpecificityChoice = field(default_factory=SpecificityChoice)


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


class Reporter(Protocol):
    """Where a study tells what it does."""

    def say(self, line: str) -> None:
        """One line."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """A stage begins; gives what to call as it advances."""
        ...


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
    captioners = ("acoustic", "tags", "import", "clapcap", "transformers", "vllm", "endpoint")
    _one_of(study.captions.captioner, captioners, f"{where}: captions: captioner")
    engines = ("commonalities", "transformers", "vllm", "endpoint")
    _one_of(study.descriptions.engine, engines, f"{where}: descriptions: engine")
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


def run_study(warehouse: Path, study: Study, reporter: Reporter) -> int:
    """Run a study's stages as the warehouse's one writer; returns the number of failures its runs recorded."""
    failures = 0
    with store.writer(warehouse):
        for dataset in study.dataset:
            source = dataset.source or warehouse.parent / dataset.reader
            listing = read_dataset(dataset.reader, source, dataset.name)
            listing = draw(listing, per_class=dataset.per_class, folds=dataset.folds, seed=dataset.seed)
            with reporter.stage(f"clips of {listing.name}") as progress:
                outcome = ingest_clips(warehouse, listing, progress)
            failures += _tell(reporter, f"clips of {listing.name}", outcome, "clips")
            if set(study.stages) == {"clips"}:
                continue
            paths = {entry.name: entry.path for entry in listing.entries}
            for choice in study.network:
                failures += _run_activations(warehouse, study, choice, listing.name, outcome, paths, reporter)
    return failures


def _run_activations(
    warehouse: Path, study: Study, choice: NetworkChoice, dataset: str, clips: Outcome, paths: dict[str, Path], reporter: Reporter
) -> int:
    from ingest.activations import Settings, ingest_activations
    from ingest.networks import load_network

    network = load_network(choice.name, weights=choice.weights, clip_s=choice.clip_s)
    given = study.activations
    settings = Settings(choice.layers, choice.positions, given.dtype, given.precision, given.top_k, given.shares)
    title = f"activations of {network.name} on {dataset}"
    with store.connect_readonly(warehouse) as con:
        row = con.execute("SELECT content_sha256, count(clip_id) FROM dataset LEFT JOIN clip USING (dataset_id) WHERE run_id = ? GROUP BY 1",
                          [clips.run.run_id]).fetchone()  # fmt: skip
    assert row
    if not row[1]:
        raise UserError(f'data set {dataset} has no usable clip: `auricle query "SELECT item, reason FROM failure"` says why')
    with reporter.stage(title) as progress:
        outcome = ingest_activations(
            warehouse, network, dataset, row[0], paths, settings,
            device=study.activations.device, batch=study.activations.batch, progress=progress,
        )  # fmt: skip
    failures = _tell(reporter, title, outcome, "units of work")
    context = Context(warehouse, study, network, dataset, paths, {"clips": clips.run.run_id, "activations": outcome.run.run_id})
    wanted = set(study.stages)
    for stage in reversed(LATER):
        wanted |= set(LATER[stage].needs) if stage in wanted else set()
    for stage, later in LATER.items():
        if stage in wanted:
            title = later.title.format(network=network.name, dataset=dataset)
            with reporter.stage(title) as progress:
                outcome = later.run(context, progress)
            context.runs[stage] = outcome.run.run_id
            failures += _tell(reporter, title, outcome, later.unit)
    return failures


@dataclass(frozen=True)
class Context:
    """What a later stage works on: a network and a data set, the sound files by clip name, and the runs of the stages before it."""

    warehouse: Path
    study: Study
    network: Network
    dataset: str
    paths: dict[str, Path]
    runs: dict[str, int]


def _probes(context: Context, progress: Progress) -> Outcome:
    from ingest.probe_tables import ingest_probes

    return ingest_probes(context.warehouse, context.runs["activations"], progress=progress)


def _clusters(context: Context, progress: Progress) -> Outcome:
    from ingest.activations import pick_device
    from ingest.cluster_tables import ingest_clusters

    choice, device = context.study.clusters, pick_device(context.study.activations.device)
    return ingest_clusters(context.warehouse, context.runs["activations"], backend=choice.backend, device=device, progress=progress)


def _interventions(context: Context, progress: Progress) -> Outcome:
    from ingest.intervention_tables import Settings, ingest_interventions

    settings = Settings(**asdict(context.study.interventions))
    return ingest_interventions(context.warehouse, context.network, context.runs["clusters"], context.paths, settings, progress=progress)


def _specificity(context: Context, progress: Progress) -> Outcome:
    from ingest.specificity_tables import Settings, ingest_specificity

    settings = Settings(**asdict(context.study.specificity))
    return ingest_specificity(context.warehouse, context.runs["activations"], settings, progress=progress)


def _captions(context: Context, progress: Progress) -> Outcome:
    from ingest.caption_tables import ingest_captions

    captioner = load_captioner(context.study.captions)
    circular_for = getattr(captioner, "circular_for", None)
    if circular_for and circular_for(context.network):
        raise UserError(f"tags of {context.network.name} would describe it by its own classes: choose another tagger or captioner")
    return ingest_captions(context.warehouse, context.runs["clips"], context.paths, captioner, progress=progress)


def load_captioner(choice: CaptionChoice) -> Captioner:
    """The captioner of a choice. Raises UserError for what it lacks."""
    from ingest.captions import Acoustic, Imported, Tags
    from ingest.networks import load_network

    if choice.captioner == "acoustic":
        return Acoustic()
    if choice.captioner == "tags":
        return Tags(load_network(choice.tagger, weights=choice.tagger_weights))
    if choice.captioner == "import":
        if choice.file is None:
            raise UserError("captions: import needs the file to read: give file")
        return Imported(choice.file)
    from ingest.audio_language import AudioEndpoint, ClapCaption, TransformersAudio, VllmAudio

    if choice.captioner == "clapcap":
        return ClapCaption(choice.file)
    if choice.model is None:
        raise UserError(f"captions: {choice.captioner} needs a model: give model")
    if choice.captioner == "endpoint":
        if choice.url is None:
            raise UserError("captions: endpoint needs an address: give url")
        return AudioEndpoint(choice.url, choice.model, key_variable=choice.key_variable)
    return (VllmAudio if choice.captioner == "vllm" else TransformersAudio)(choice.model)


def load_language_model(choice: DescriptionChoice) -> LanguageModel | None:
    """The language model of a choice; None for commonalities. Raises UserError for what it lacks."""
    from ingest import endpoint, language

    if choice.engine == "commonalities":
        return None
    if choice.model is None:
        raise UserError(f"descriptions: {choice.engine} needs a model: give model")
    if choice.engine == "endpoint":
        if choice.url is None:
            raise UserError("descriptions: endpoint needs an address: give url")
        return endpoint.Endpoint(choice.url, choice.model, key_variable=choice.key_variable)
    return (language.Vllm if choice.engine == "vllm" else language.Transformers)(choice.model)


@cache
def load_encoder(name: str) -> TextEncoder:
    """The sentence encoder of a name: see DescriptionChoice."""
    from ingest.text_encoders import Cached, SentenceTransformer, minilm

    return Cached(minilm() if name == "minilm" else SentenceTransformer(name))


def _descriptions(context: Context, progress: Progress) -> Outcome:
    from ingest.description_tables import Settings, ingest_descriptions

    choice, runs = context.study.descriptions, context.runs
    return ingest_descriptions(
        context.warehouse, runs["activations"], runs["captions"], load_encoder(context.study.descriptions.encoder), load_language_model(choice),
        Settings(choice.k, choice.held_out, choice.share, choice.threshold), retry=choice.retry, progress=progress,
    )  # fmt: skip


def _dissections(context: Context, progress: Progress) -> Outcome:
    from ingest.dissection_tables import Settings, ingest_dissections

    choice, runs = context.study.dissections, context.runs
    settings = Settings(str(choice.file or choice.concepts), mode=choice.mode, scale=choice.scale, kept=choice.kept)
    return ingest_dissections(
        context.warehouse,
        runs["activations"],
        runs["captions"],
        load_encoder(context.study.descriptions.encoder),
        settings,
        progress=progress,
    )


def _polysemanticity(context: Context, progress: Progress) -> Outcome:
    from ingest.polysemanticity_tables import Settings, ingest_polysemanticity

    choice, runs = context.study.polysemanticity, context.runs
    return ingest_polysemanticity(
        context.warehouse, runs["activations"], runs["captions"], load_encoder(context.study.descriptions.encoder),
        Settings(choice.clusters, choice.most_common), progress=progress,
    )  # fmt: skip


def _ablations(context: Context, progress: Progress) -> Outcome:
    from ingest.ablation_tables import Settings, ingest_ablations

    settings, runs = Settings(**asdict(context.study.ablations)), context.runs
    return ingest_ablations(
        context.warehouse, context.network, runs["activations"], runs["descriptions"], runs["dissections"], context.paths, settings,
        progress=progress,
    )  # fmt: skip


def _scores(context: Context, progress: Progress) -> Outcome:
    from ingest.score_tables import ingest_scores

    runs = context.runs
    encoder = load_encoder(context.study.descriptions.encoder)
    return ingest_scores(context.warehouse, runs["activations"], runs["captions"], runs["descriptions"], encoder, progress=progress)


def _validation(context: Context, progress: Progress) -> Outcome:
    from ingest.validation_tables import ingest_validation

    return ingest_validation(context.warehouse, context.network, context.runs, progress=progress)


@dataclass(frozen=True)
class Later:
    """A stage after activations: how it is run, what it needs to be run before, and how its lines read."""

    run: Callable[[Context, Progress], Outcome]
    title: str
    unit: str = "layers"
    needs: tuple[str, ...] = ()


LATER = {
    "probes": Later(_probes, "probes of {network} on {dataset}"),
    "clusters": Later(_clusters, "clusters of {network} on {dataset}", "units of work"),
    "interventions": Later(_interventions, "interventions on {network} with {dataset}", "units of work", ("clusters",)),
    "specificity": Later(_specificity, "specificity of {network} on {dataset}", "label sets"),
    "captions": Later(_captions, "captions of {dataset}", "batches"),
    "descriptions": Later(_descriptions, "descriptions of {network} on {dataset}", needs=("captions",)),
    "scores": Later(_scores, "scores of descriptions of {network} on {dataset}", needs=("captions", "descriptions")),
    "dissections": Later(_dissections, "dissections of {network} on {dataset}", needs=("captions",)),
    "polysemanticity": Later(_polysemanticity, "polysemanticity of {network} on {dataset}", "units of work", ("captions",)),
    "ablations": Later(_ablations, "ablations of {network} with {dataset}", "units of work", ("descriptions", "dissections")),
    "validation": Later(
        _validation,
        "validation on {network} with {dataset}",
        "units of work",
        ("descriptions", "dissections", "polysemanticity", "specificity", "clusters", "ablations"),
    ),
}
"""In the order they are run in; a stage's needs are run when it is."""
STAGES = ("clips", "activations", *LATER)


def _tell(reporter: Reporter, title: str, outcome: Outcome, unit: str) -> int:
    if outcome.run.why:
        reporter.say(f"{title}: {outcome.run.why}")
    done = f"run {outcome.run.run_id}, {outcome.worked} {unit} done" if outcome.worked else f"run {outcome.run.run_id}, nothing to do"
    failed = f", {outcome.failures} failures" if outcome.failures else ""
    reporter.say(f"{title}: {done}{failed}")
    return outcome.failures


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
