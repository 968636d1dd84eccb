"""Stages: each is one module, which reads the warehouse, calls a method and commits rows.

A stage's module holds all that is its own (see `Stage`). To add one: its file here and its name in `BUILT_IN`. An installed package adds
stages by entry points of the group `auricle.stages`, each naming a module; these run after the built-in ones.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ingest.sounds.listing import Listing
from warehouse import ledger
from warehouse.store import UserError

if TYPE_CHECKING:
    from ingest.networks.network import Network

BUILT_IN = (
    "clips", "activations", "tuning", "probes", "zero_shot", "clusters", "interventions", "specificity", "specific_ablations", "captions", "properties",
    "descriptions", "scores", "dissections", "polysemanticity", "ablations", "map", "validation",
)  # fmt: skip
"""In the order they are run in."""
USUAL = BUILT_IN[:2]
"""Done when a study names none."""

Progress = Callable[[int, int], None]
"""Called with units done and units in all."""


def silent(done: int, total: int) -> None:
    """Progress that nobody follows."""


class Here:
    """Where stages run their engines (readers of sounds, captioners, language models, encoders): in this process. Others have that done elsewhere: see
    ingest.cluster."""

    def engine(self, stage: str, load: Callable[[], Any], engine: Any, method: str) -> Any:
        """What runs a stage's engine: itself, or what has its `method` run by other processes, which `load` it."""
        return engine

    def noted(self, progress: Progress) -> Progress:
        """Progress that says what there is to say of where work is done."""
        return progress

    def rest(self) -> str:
        """A stage has ended; what there is to say of where it was done."""
        return ""


@dataclass(frozen=True)
class Outcome:
    """What a stage did: its run, units worked on now, and failures recorded for the run in all."""

    run: ledger.Run
    worked: int
    failures: int


@dataclass(frozen=True)
class Context:
    """What a stage works on: a data set as listed, the settings of every stage by name, and after stage clips a network with the names of the
    layers that the study chose (None: all) and whether every position of these is a neuron; `runs` of the stages done so far by name;
    `planned` names all that are done. `measure`: what has segments of activations measured elsewhere than in this process; `where`: engines run."""

    warehouse: Path
    listing: Listing
    settings: Callable[[str], Any]
    network: Network = None  # type: ignore[assignment]  # before a network is named nothing but clips is done
    layers: tuple[str, ...] | None = None
    positions: bool = False
    runs: dict[str, int] = field(default_factory=dict)
    planned: tuple[str, ...] = ()
    measure: Callable[..., Any] | None = None
    where: Here = field(default_factory=Here)

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.listing.name

    @property
    def paths(self) -> dict[str, Path]:
        """The sound files by clip name."""
        return {entry.name: entry.path for entry in self.listing.entries}


class Stage(Protocol):
    """A module of this package. Its docstring says in its first line what the stage adds.

    TITLE: a line about a run begins with it, with {network} and {dataset} filled in; UNIT: what is counted in it. NEEDS: stages to be done
    before, beside clips and activations; a property `needs` of the settings tells better where it depends on these. Settings: a dataclass,
    the study file's section of the stage's name, whose docstring is that section's documentation. Where there are, BOUNDS has the least and
    the most that settings may be, and fault(settings, of) says what is wrong with them beside those of other stages, which `of` gives.
    SCHEMA, of packages outside Auricle: SQL that creates the stage's tables where they are missing; Auricle's own are in schema.sql.
    """

    TITLE: str
    UNIT: str
    NEEDS: tuple[str, ...]
    Settings: type
    __doc__: str

    def run(self, context: Context, settings: Any, progress: Progress = silent) -> Outcome:
        """Do what is not done yet. Raises UserError for what cannot be."""


def names() -> tuple[str, ...]:
    """Names of all stages in the order they are run in."""
    return (*BUILT_IN, *sorted({entry.name for entry in entry_points(group="auricle.stages")} - set(BUILT_IN)))


def adds(name: str) -> str:
    """What a stage adds, in a line: its module's docstring begins with it."""
    return " ".join(load(name).__doc__.split("\n\n")[0].split()).partition(": ")[2].removesuffix(".")


def section(name: str) -> tuple[str, list[tuple[str, str]]]:
    """What a stage adds and may be told in a study file's section, and the defaults of that. Raises UserError for a name that is none's."""
    if name not in names():
        raise UserError(f"there is no stage {name}: {', '.join(names())}")
    settings = load(name).Settings()
    return f"{adds(name)}\n\n{inspect.cleandoc(settings.__doc__ or '')}", [(key, repr(value)) for key, value in vars(settings).items()]


def load(name: str) -> Stage:
    """The stage of a name, one of `names`; its module is imported when it is asked for."""
    if name in BUILT_IN:
        return cast(Stage, importlib.import_module(f"{__name__}.{name}"))
    return next(iter(entry_points(group="auricle.stages", name=name))).load()
