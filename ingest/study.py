"""A study: which data sets and networks to bring in, and how. Read from a TOML file or put together from flags, and run."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Protocol, Union, get_args, get_origin, get_type_hints

from ingest.clips import Outcome, Progress, ingest_clips
from ingest.datasets import READERS, SYNTHESISED, read_dataset
from ingest.task_sets import draw
from warehouse import store
from warehouse.store import UserError

if TYPE_CHECKING:
    from ingest.networks import Network

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
    """How activations are taken: see ingest.activations.Settings; `batch` and `device` do not change results beyond rounding."""

    dtype: str = "float16"
    precision: str = "float32"
    top_k: int = 20
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
class Study:
    """All of it. Stages beyond clips and activations are done when they are named."""

    dataset: tuple[DatasetChoice, ...] = ()
    network: tuple[NetworkChoice, ...] = ()
    stages: tuple[str, ...] = USUAL_STAGES
    activations: ActivationChoice = field(default_factory=ActivationChoice)
    clusters: ClusterChoice = field(default_factory=ClusterChoice)
    interventions: InterventionChoice = field(default_factory=InterventionChoice)


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
    settings = Settings(choice.layers, choice.positions, study.activations.dtype, study.activations.precision, study.activations.top_k)
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
    context = Context(warehouse, study, network, dataset, paths, {"activations": outcome.run.run_id})
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
