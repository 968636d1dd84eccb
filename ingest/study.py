"""A study: which data sets and networks to bring in, and how. Read from a TOML file or put together from flags."""

from __future__ import annotations

import codecs
import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ingest import stages
from ingest.sounds.listing import Reading
from ingest.sounds.readers import READERS, SYNTHESISED
from warehouse.store import UserError, first_line, is_special

LONGEST_STUDY = 10_000_000  # bytes
LONGEST_CLIP_S = 3600.0
LARGEST = 2**63 - 1
LONGEST_SHOWN = 200  # characters


@dataclass(frozen=True)
class DatasetChoice:
    """A data set: `reader`, `source` folder (starter, notes and stimuli need none), and a `name` other than the reader's own.

    `per_class` clips of each class and `folds` grouped folds are drawn by `seed`: see ingest.sounds.draws.draw. `labels`, `separator` and
    `splits` stand in place of what readers guess: see ingest.sounds.listing.Reading.
    """

    reader: str
    source: Path | None = None
    name: str | None = None
    per_class: int | None = None
    folds: int | None = None
    seed: int = 0
    labels: tuple[str, ...] | None = None
    separator: str | None = None
    splits: bool = True

    @property
    def reading(self) -> Reading:
        """What is said of metadata and folders."""
        return Reading(self.labels, self.separator, self.splits)


@dataclass(frozen=True)
class SaeChoice:
    """A sparse autoencoder whose latents are a layer: its `file`, or the folder that holds it; the `layer` that it sees, which a file of `auricle
    train sae` says itself; the `name` that the latents' layer has behind that; and the `activation` of a file that does not say it."""

    file: Path
    layer: str | None = None
    name: str = "sae"
    activation: Literal["topk", "batchtopk"] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UserError(f"saes: name is {_shown(self.name)}, it must be of letters, digits and underscores")


@dataclass(frozen=True)
class NetworkChoice:
    """A network: `name` as for `auricle networks`, and optionally its checkpoint, seconds of a clip, layers, whether every position of a
    convolution is a neuron, beside single units, the names of its outputs in their order, or a text file with one a line, and sparse
    autoencoders whose latents are layers, too."""

    name: str
    weights: Path | None = None
    clip_s: float | None = None
    layers: tuple[str, ...] | None = None
    positions: bool = False
    names: tuple[str, ...] | Path | None = None
    saes: tuple[SaeChoice, ...] = ()

    def __post_init__(self) -> None:
        if self.clip_s is not None and not self.clip_s <= LONGEST_CLIP_S:
            raise UserError(f"network: clip_s is {self.clip_s:g}, it must be at most {LONGEST_CLIP_S:g} seconds")


@dataclass(frozen=True)
class TaskChoice:
    """What a task of some `stages` takes of a cluster: the `python` that runs it, by default the driver's own, `gpus` (by default one where the cluster
    has some and the work would use it; 0.5 for two tasks on each) and `cpus`."""

    stages: tuple[str, ...]
    python: str | None = None
    gpus: float | None = None
    cpus: float = 1.0

    def __post_init__(self) -> None:
        if self.cpus < 0 or (self.gpus or 0) < 0 or not (self.cpus or self.gpus):
            raise UserError("cluster: tasks: a task takes cpus or gpus, and less than none of neither")


@dataclass(frozen=True)
class ClusterChoice:
    """The Ray cluster that does the work: its `address`, unless `auricle ingest` is given one; URL of a folder through which `segments` come from
    machines that do not see the warehouse's; whether devices may be of several kinds; `prompts` of a task, whose replies are committed together; and
    what `tasks` of stages take."""

    address: str | None = None
    segments: str | None = None
    allow_mixed_devices: bool = False
    prompts: int = 64
    tasks: tuple[TaskChoice, ...] = ()

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise UserError(f"cluster: prompts is {self.prompts}, it must be at least 1")


@dataclass(frozen=True)
class ReportChoice:
    """What `auricle report` makes pages of: the neurons of these `layers`, by default of all, as long as they are at most `pages`."""

    layers: tuple[str, ...] | None = None
    pages: int | None = None

    def __post_init__(self) -> None:
        if self.pages is not None and self.pages < 0:
            raise UserError(f"report: pages is {self.pages}, it must be 0 or more")


@dataclass(frozen=True)
class Study:
    """All of it. `settings` are those of stages by name, of the stage's own class; a stage that has none there holds its defaults. Stages beyond
    clips and activations are done when they are named, and what a stage needs is done before it."""

    dataset: tuple[DatasetChoice, ...] = ()
    network: tuple[NetworkChoice, ...] = ()
    stages: tuple[str, ...] = stages.USUAL
    settings: Mapping[str, Any] = field(default_factory=dict)
    cluster: ClusterChoice = ClusterChoice()
    report: ReportChoice = ReportChoice()

    def of(self, stage: str) -> Any:
        """Settings of a stage."""
        return self.settings[stage] if stage in self.settings else stages.load(stage).Settings()

    def changed(self, stage: str, **values: Any) -> Study:
        """The study with other settings of a stage."""
        return replace(self, settings={**self.settings, stage: replace(self.of(stage), **values)})

    def planned(self) -> list[str]:
        """The stages to do, in order: clips first, and unless nothing else is named, activations."""
        if set(self.stages) == {"clips"}:
            return ["clips"]
        wanted = set(self.stages) | set(stages.USUAL)
        for name in reversed(stages.names()):
            if name in wanted:
                wanted |= set(getattr(self.of(name), "needs", stages.load(name).NEEDS))
        return [name for name in stages.names() if name in wanted]


def read_study(path: Path) -> Study:
    """Read and check a study file. Paths in it are relative to its folder. Raises UserError for anything not understood."""
    try:
        if is_special(path):
            raise UserError(f"cannot read study {path}: it is no regular file")
        if (size := path.stat().st_size) > LONGEST_STUDY:
            raise UserError(f"{path} is no study: it has {size} bytes, more than {LONGEST_STUDY}")
        data = path.read_bytes()
        table = tomllib.loads(data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read study {path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a study") from None
    except ValueError as error:  # of TOML, of its characters, and of numbers with thousands of digits
        raise UserError(f"{path} is not TOML: {first_line(error)}") from None
    return make_study(table, str(path), path.parent)


def report_choice(path: Path | None, layers: Sequence[str] | None, pages: int | None) -> dict[str, Any]:
    """What a study file's section [report] asks for, unless the command line asks for other layers or another number of pages; what nobody asks for is
    left out."""
    its = read_study(path).report if path else ReportChoice()
    asked = {"layers": tuple(layers) if layers else its.layers, "pages": its.pages if pages is None else pages}
    return {name: value for name, value in asked.items() if value is not None}


def make_study(table: Mapping[str, Any], where: str, folder: Path | None = None) -> Study:
    """The study that a file's table describes, checked; `where` begins what is said of a fault, paths are relative to `folder`."""
    own = ("dataset", "network", "stages", "cluster", "report")
    hints, sections = get_type_hints(Study), stages.names()
    for key in table:
        if key not in (*own, *sections):
            raise UserError(
                f"{where}: {_shown(key)} is not known:{_nearest(key, (*own, *sections))} it must be one of {', '.join((*own, *sections))}"
            )
    base = folder or Path()
    values = {key: _parse(hints[key], table[key], f"{where}: {key}", base) for key in own if key in table}
    settings = {name: _parse(stages.load(name).Settings, table[name], f"{where}: {name}", base) for name in sections if name in table}
    return check_study(Study(**values, settings=settings), where)


def of_flags(
    dataset: Mapping[str, Any], networks: Sequence[str], heard: Mapping[str, Any], saes: Sequence[str], activations: Mapping[str, Any],
    named: Sequence[str] | None,
) -> Study:  # fmt: skip
    """The study of one data set that a command line's flags describe; every network is `heard` alike, `named` are the stages."""
    if "reader" not in dataset:
        raise UserError("no data set is named: give --dataset and --source, or a study file")
    network = [given(name=spec, **heard, saes=[{"file": file} for file in saes]) for spec in networks]
    return make_study({"dataset": [dataset], "network": network, "activations": activations} | given(stages=named or None), "ingest")


def check_study(study: Study, where: str) -> Study:
    """Refuse what no stage would take."""
    for stage in study.stages:
        _one_of(stage, stages.names(), f"{where}: stage")
    for stage in (stage for tasks in study.cluster.tasks for stage in tasks.stages):
        _one_of(stage, stages.names(), f"{where}: cluster: tasks: stage")
    for name, settings in study.settings.items():
        _check_choices(settings, f"{where}: {name}")
        _check_bounds(settings, getattr(stages.load(name), "BOUNDS", {}), f"{where}: {name}")
        if fault := getattr(stages.load(name), "fault", lambda *_: None)(settings, study.of):
            raise UserError(f"{where}: {name}: {fault}")
    for dataset in study.dataset:
        _one_of(dataset.reader, tuple(READERS), f"{where}: reader")
        if dataset.source is None and dataset.reader not in SYNTHESISED:
            raise UserError(f"{where}: reader {dataset.reader} needs the folder of the data set: give its source")
    for network in study.network:
        for sae in network.saes:
            _check_choices(sae, f"{where}: network: saes")
    if not study.dataset:
        raise UserError(f"{where}: no data set is named, nothing to do")
    names = [dataset.name or dataset.reader for dataset in study.dataset]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: two data sets are called {name}: give each its own name")
    return study


def _check_choices(settings: Any, where: str) -> None:
    """Refuse what is none of the values that a field allows."""
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        allowed = next((get_args(part) for part in _parts(hint) if get_origin(part) is Literal), ())
        items, what = (value, name.removesuffix("s")) if isinstance(value, tuple) else ((value,), name)
        for item in items if allowed else ():
            if item is not None:
                _one_of(item if isinstance(item, str) else _shown(item), allowed, f"{where}: {what}")


def _check_bounds(settings: Any, bounds: Mapping[str, tuple[float, float]], where: str) -> None:
    """Refuse numbers, or numbers in lists, outside of a stage's bounds."""
    for name, (least, most) in bounds.items():
        value = getattr(settings, name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None and not least <= item <= most:
                range_ = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
                raise UserError(f"{where}: {name} is {item:g}, it must be {range_}")


def _parts(hint: Any) -> list[Any]:
    """A type and all that it is made of."""
    return [hint, *(part for inner in get_args(hint) if get_origin(hint) is not Literal for part in _parts(inner))]


def _one_of(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        raise UserError(f"{what} {_shown(value)} is not known:{_nearest(value, allowed)} it must be one of {', '.join(allowed)}")


def _nearest(value: str, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(value[:LONGEST_SHOWN], allowed, 1, 0.5)
    return f" did you mean {near[0]!r}?" if near else ""


def _shown(value: Any) -> str:
    """A value as TOML's reader has it, at most so much of it as fits a line."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deeply; a number of thousands of digits
        text = "what is too large to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse(kind: type, value: Any, where: str, folder: Path) -> Any:
    """Build a dataclass from a TOML table, or a value of a declared type from a TOML value."""
    if hasattr(kind, "__dataclass_fields__"):
        if not isinstance(value, dict):
            raise UserError(f"{where}: a table is expected, not {_shown(value)}")
        hints = get_type_hints(kind)
        known = tuple(item.name for item in fields(kind))
        for key in value:
            if key not in known:
                raise UserError(f"{where}: {_shown(key)} is not known:{_nearest(key, known)} it must be one of {', '.join(known)}")
        values = {key: _parse(hints[key], item, f"{where}: {key}", folder) for key, item in value.items()}
        try:
            return kind(**values)
        except UserError as error:  # it names its section itself
            raise UserError(f"{where.rpartition(': ')[0]}: {error}") from None
        except TypeError as error:
            raise UserError(f"{where}: {str(error).partition('missing ')[2] or error} is missing") from None
    if get_origin(kind) in (Union, UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        fits = [part for part in parts if (get_origin(part) is tuple) == isinstance(value, list)]
        return _parse((fits or parts)[0], value, where, folder)
    if get_origin(kind) is Literal:
        return value
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: a table is expected, not {_shown(value)}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: a list is expected, not {_shown(value)}")
        return tuple(_parse(get_args(kind)[0], item, where, folder) for item in value)
    if isinstance(value, str) and not _is_text(found := str(folder / value) if kind is Path else value):
        raise UserError(f"{where}: {_shown(found)} is no UTF-8: give it another name")
    if kind is Path and value == "":
        raise UserError(f"{where}: a path is expected, not ''")
    if kind is Path and isinstance(value, str):
        path = folder / value
        if is_special(path) and not path.is_dir():
            raise UserError(f"{where}: {_shown(str(path))} is neither a regular file nor a folder")
        return path
    if isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(f"{where}: the number is too large, it must be at most {LARGEST}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: a number is expected, not {value}")
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{where}: {_shown(value)} holds a NUL character")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {kind.__name__} is expected, not {_shown(value)}")
    return value


def given(**values: object) -> dict[str, object]:
    """A table of a study file from flags: what was given of them, paths as the file has them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items() if value is not None}
