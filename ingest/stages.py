"""Running a study: its stages in order, each told what the ones before it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ingest.clips import Outcome, Progress, ingest_clips
from ingest.datasets import read_dataset
from ingest.task_sets import draw
from warehouse import store
from warehouse.store import UserError

if TYPE_CHECKING:
    from ingest.captions import Captioner
    from ingest.language import LanguageModel
    from ingest.networks import Network
    from ingest.study import CaptionChoice, DescriptionChoice, NetworkChoice, ScoreChoice, Study
    from ingest.text_encoders import TextEncoder


class Reporter(Protocol):
    """Where a study tells what it does."""

    def say(self, line: str) -> None:
        """One line."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """A stage begins; gives what to call as it advances."""
        ...


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
        wanted |= set(LATER[stage].before(study)) if stage in wanted else set()
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


def _specific_ablations(context: Context, progress: Progress) -> Outcome:
    from ingest.specific_ablation_tables import Settings, ingest_specific_ablations

    settings = Settings(**asdict(context.study.specific_ablations))
    return ingest_specific_ablations(
        context.warehouse, context.network, context.runs["specificity"], context.paths, settings, progress=progress
    )


def _captions(context: Context, progress: Progress) -> Outcome:
    from ingest.caption_tables import ingest_captions
    from ingest.captions import Imported

    captioner = load_captioner(context.study.captions)
    if isinstance(captioner, Imported):
        captioner.check(list(context.paths.values()))
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


def load_language_model(choice: DescriptionChoice | ScoreChoice, where: str = "descriptions") -> LanguageModel | None:
    """The language model of a choice; None for commonalities, or no engine. Raises UserError for what it lacks."""
    from ingest import endpoint, language

    if choice.engine in (None, "commonalities"):
        return None
    if choice.model is None:
        raise UserError(f"{where}: {choice.engine} needs a model: give model")
    if choice.engine == "endpoint":
        if choice.url is None:
            raise UserError(f"{where}: endpoint needs an address: give url")
        return endpoint.Endpoint(choice.url, choice.model, key_variable=choice.key_variable, seed=choice.seed, max_tokens=choice.max_tokens)
    if choice.engine == "vllm":
        return language.Vllm(choice.model, seed=choice.seed, max_tokens=choice.max_tokens)
    return language.Transformers(choice.model, max_tokens=choice.max_tokens)


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
        Settings(choice.k, choice.held_out, choice.share, choice.threshold, choice.seed), retry=choice.retry, progress=progress,
    )  # fmt: skip


def _dissections(context: Context, progress: Progress) -> Outcome:
    from ingest.dissection_tables import Settings, Sources, ingest_dissections

    choice, descriptions, runs = context.study.dissections, context.study.descriptions, context.runs
    settings = Settings(str(choice.file or choice.concepts), mode=choice.mode, scale=choice.scale, kept=choice.kept, methods=choice.methods)
    device = context.study.activations.device
    network = load_audio_text(choice.tab_network, choice.tab_weights, device) if "TAB" in choice.methods else None
    model = load_language_model(descriptions) if "ICL" in choice.methods else None
    sources = Sources(runs.get("captions"), network, context.paths, runs.get("descriptions"), model, descriptions.retry)
    return ingest_dissections(
        context.warehouse, runs["activations"], sources, load_encoder(descriptions.encoder), settings, progress=progress
    )  # fmt: skip


def load_audio_text(name: str, weights: Path | None, device: str) -> Network:
    """An audio-text network, as load_network takes it, on a device. Raises UserError for one that reads no text."""
    from ingest.activations import pick_device
    from ingest.audio_text import check_reads_text
    from ingest.networks import load_network

    network = load_network(name, weights=weights)
    check_reads_text(network)
    network.module.to(pick_device(device))
    return network


def _dissections_need(study: Study) -> tuple[str, ...]:
    read = {"DB": ("captions",), "ICL": ("descriptions",)}
    return tuple(stage for method in study.dissections.methods for stage in read.get(method, ()))


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
    from ingest.score_tables import Settings, ingest_scores

    choice, runs, device = context.study.scores, context.runs, context.study.activations.device
    audio = load_audio_text(choice.audio_network, choice.audio_weights, device) if "audio" in choice.scorers else None
    judge = load_language_model(choice, "scores") if "judge" in choice.scorers else None
    return ingest_scores(
        context.warehouse, runs["activations"], runs["captions"], runs["descriptions"], load_encoder(context.study.descriptions.encoder),
        Settings(choice.scorers, choice.judge_neurons, choice.judge_clips, choice.seed), audio=audio, paths=context.paths, judge=judge,
        retry=choice.retry, progress=progress,
    )  # fmt: skip


def _validation(context: Context, progress: Progress) -> Outcome:
    from ingest.validation_tables import ingest_validation

    return ingest_validation(context.warehouse, context.network, context.runs, progress=progress)


@dataclass(frozen=True)
class Later:
    """A stage after activations: how it is run, what it needs to be run before, and how its lines read."""

    run: Callable[[Context, Progress], Outcome]
    title: str
    unit: str = "layers"
    needs: tuple[str, ...] | Callable[[Study], tuple[str, ...]] = ()

    def before(self, study: Study) -> tuple[str, ...]:
        """The stages it needs in a study."""
        return self.needs(study) if callable(self.needs) else self.needs


LATER = {
    "probes": Later(_probes, "probes of {network} on {dataset}"),
    "clusters": Later(_clusters, "clusters of {network} on {dataset}", "units of work"),
    "interventions": Later(_interventions, "interventions on {network} with {dataset}", "units of work", ("clusters",)),
    "specificity": Later(_specificity, "specificity of {network} on {dataset}", "label sets"),
    "specific_ablations": Later(
        _specific_ablations, "ablations of class-specific neurons of {network} with {dataset}", "units of work", ("specificity",)
    ),
    "captions": Later(_captions, "captions of {dataset}", "batches"),
    "descriptions": Later(_descriptions, "descriptions of {network} on {dataset}", needs=("captions",)),
    "scores": Later(_scores, "scores of descriptions of {network} on {dataset}", needs=("captions", "descriptions")),
    "dissections": Later(_dissections, "dissections of {network} on {dataset}", needs=_dissections_need),
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
