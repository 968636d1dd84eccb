"""Processes of a Ray cluster that do one kind of work: each makes what does it once, proves that it may, and then takes piece after piece.

A process or node that dies costs the piece it was at an attempt; another takes its place. What dies again and again is taken apart and tried by parts.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from warehouse import ledger
from warehouse.store import UserError, first_line

RETRIES = 2
"""Times that a piece is tried again after its process or node died, and then its parts once each."""
AHEAD = 2
"""Pieces that a process has before it, that which it is at among them."""
LOOK_S = 5.0
"""Between two looks for nodes that came or went."""


@dataclass(frozen=True)
class Place:
    """Where a process runs: the machine's name, Ray's number of the node, the kind of device, the Python that runs it and its packages, as JSON."""

    node: str
    node_id: str
    device: str
    python: str
    packages: str


@dataclass(frozen=True)
class Done:
    """A piece of work: what came of it, where, in how many seconds."""

    result: Any
    place: Place
    seconds: float


@dataclass(frozen=True)
class Parts:
    """A piece that killed all who were at it: what came of its parts, None for those that kill by themselves."""

    results: list[Done | None]


class Worker:
    """A process of the cluster. `make` gives what does a piece, with the kind of device that it does it on as its attribute `device`."""

    def __init__(self, make: Callable[[], Any]) -> None:
        import ray

        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves a machine's GPUs to those who asked for none
        self.make = make

    def begin(self) -> Place:
        """Make what does the work. Raises UserError where it must not be done here."""
        import ray

        self.work = self.make()
        node_id = ray.get_runtime_context().get_node_id()
        return Place(platform.node(), node_id, self.work.device, sys.executable, ledger.package_versions())

    def do(self, piece: Any) -> tuple[Any, float]:
        """What comes of a piece, and how many seconds it took."""
        begun = time.monotonic()
        result = self.work(piece)
        return result, round(time.monotonic() - begun, 3)


@dataclass
class _Process:
    """A worker as the driver sees it. `alone`: nothing may wait behind what it is at; `fell`: it died, and what it died at has been told."""

    handle: Any
    place: Place | None = None
    waiting: int = 0
    alone: bool = False
    fell: bool = False


@dataclass(frozen=True)
class Share:
    """What a process takes of a node, and the Python that runs it, None for the driver's own."""

    cpus: float = 1
    gpus: float = 0
    python: str | None = None

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many of it a node has room for."""
        rooms = [resources.get(name, 0) / taken for name, taken in (("CPU", self.cpus), ("GPU", self.gpus)) if taken]
        return int(min(rooms, default=1))


@dataclass
class Workers:
    """As many processes as fit, all over the cluster. `make`: see Worker. `mixed`: devices may be of several kinds."""

    ray: ModuleType
    what: str
    make: Callable[[], Any]
    share: Share
    mixed: bool = False
    retried: int = 0
    places: set[str] = field(default_factory=set)
    """Nodes that have taken part, by Ray's numbers."""

    def __post_init__(self) -> None:
        exceptions = self.ray.exceptions
        self._died = (exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError,
                      exceptions.ObjectLostError, exceptions.RuntimeEnvSetupError)  # fmt: skip
        self._check_python()
        environment = {"runtime_env": {"py_executable": self.share.python}} if self.share.python else {}
        self._actor = self.ray.remote(
            num_cpus=self.share.cpus, num_gpus=self.share.gpus, max_restarts=0, max_task_retries=0, **environment
        )(Worker)  # fmt: skip
        self._made = self.ray.put(self.make)
        self._beginning: dict[Any, _Process] = {}
        self._working: list[_Process] = []
        self._room, self._most, self._looked, self._fallen, self._device = 0, 0, 0.0, 0, ""

    def _check_python(self) -> None:
        """Raise UserError where a node lacks the Python: Ray would wait for it without a word."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Node

        for node in self.ray.nodes() if self.share.python else ():
            if node["Alive"] and self.share.fits(node["Resources"]):
                there = self.ray.remote(num_cpus=0, scheduling_strategy=Node(node["NodeID"], soft=False))(shutil.which)
                if not self.ray.get(there.remote(self.share.python)):
                    raise UserError(f"{node['NodeManagerHostname']} has no Python {self.share.python}, which {self.what} is to run in")

    def each(self, pieces: Sequence[Any], parts: Callable[[Any], Sequence[Any]] | None = None) -> Generator[tuple[int, Done | Parts]]:
        """What comes of pieces, by number, in whatever order. `parts` takes one apart that killed all who were at it; without, that is an error.

        Raises UserError where no process can be had, or as the work does."""
        waiting = deque[tuple[int, int | None]]((number, None) for number in range(len(pieces)))
        flying: dict[Any, tuple[_Process, tuple[int, int | None]]] = {}
        tried = Counter[tuple[int, int | None]]()
        split: dict[int, tuple[Sequence[Any], dict[int, Done | None]]] = {}
        try:
            while waiting or flying:
                self._grow(len(waiting))
                while waiting and (process := self._free(alone := waiting[0][1] is not None or waiting[0] in tried)):
                    which = number, part = waiting.popleft()
                    process.alone = alone
                    piece = pieces[number] if part is None else split[number][0][part]
                    process.waiting += 1
                    flying[process.handle.do.remote(piece)] = process, which
                ready, _ = self.ray.wait([*flying, *self._beginning], num_returns=1, timeout=LOOK_S)
                for reference in ready:
                    if reference in self._beginning:
                        self._begun(reference)
                        continue
                    oldest = next(other for other in flying if flying[other][0] is flying[reference][0]) is reference
                    process, which = flying.pop(reference)
                    number, part = which
                    done = self._got(reference, process)
                    if done is None:
                        to_blame = oldest and not process.fell  # others waited behind it
                        process.fell = process.fell or oldest
                        tried[which] += to_blame
                        if tried[which] <= (RETRIES if part is None else 1):
                            self.retried += to_blame
                            waiting.appendleft(which)
                            continue
                        if part is None:
                            if parts is None:
                                raise UserError(
                                    f"{self.what}: piece {number + 1} killed {RETRIES + 1} processes, though no part of it does alone"
                                )
                            split[number] = parts(pieces[number]), {}
                            waiting.extendleft((number, one) for one in reversed(range(len(split[number][0]))))
                            continue
                    if part is None:
                        assert done
                        yield number, done
                    else:
                        of, results = split[number]
                        results[part] = done
                        if len(results) == len(of):
                            yield number, Parts([results[one] for one in range(len(of))])
        finally:
            for process, _ in flying.values():  # at what nobody waits for any more
                self._end(process)

    def end(self) -> None:
        """End all processes, so that their memory is free."""
        for process in [*self._working, *self._beginning.values()]:
            self._end(process)
        self._beginning.clear()

    def _free(self, alone: bool) -> _Process | None:
        """The process with the least before it, unless all have enough. `alone`: one with nothing, for what may kill it: answers to what came before
        would go down with it."""
        open_to = [process for process in self._working if process.waiting < (1 if alone or process.alone else AHEAD)]
        return min(open_to, key=lambda process: process.waiting, default=None)

    def _grow(self, waiting: int) -> None:
        """Begin processes where there is room and work."""
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            self._room = sum(self.share.fits(node["Resources"]) for node in self.ray.nodes() if node["Alive"])
            self._most = max(self._most, self._room)
        have = len(self._working) + len(self._beginning)
        if not self._room and not have:
            raise UserError(
                f"{self.what}: no node of the cluster has {self.share.cpus:g} processors and {self.share.gpus:g} GPUs for a task"
            )
        idle = sum(not process.waiting for process in self._working)
        for _ in range(min(self._room - have, waiting - idle - len(self._beginning))):
            process = _Process(self._actor.remote(self._made))
            self._beginning[process.handle.begin.remote()] = process

    def _begun(self, reference: Any) -> None:
        """Take in a process that has begun. One that must not work stays among those that begin, and ends with them."""
        process = self._beginning[reference]
        try:
            place = self.ray.get(reference)
        except self._died as error:
            del self._beginning[reference]
            self._end(process)
            self._fallen, self._looked = self._fallen + 1, 0.0
            if self._fallen > RETRIES * self._most:
                raise UserError(f"{self.what}: processes die as they begin: {told(error)}") from None
            return
        except self.ray.exceptions.RayTaskError as error:
            raise cause(error) from None
        self._fallen = 0
        self._device = self._device or place.device
        if place.device != self._device and not self.mixed:
            raise UserError(
                f"{place.node} works on {place.device}, others on {self._device}: values would differ, so take one kind, or say "
                "allow_mixed_devices = true in [cluster]"
            )
        del self._beginning[reference]
        process.place = place
        self.places.add(place.node_id)
        self._working.append(process)

    def _got(self, reference: Any, process: _Process) -> Done | None:
        """What a process gives back; None where it died."""
        process.waiting -= 1
        try:
            result, seconds = self.ray.get(reference)
        except self._died:
            self._looked = 0.0
            self._end(process)
            return None
        except self.ray.exceptions.RayTaskError as error:
            raise cause(error) from None
        assert process.place
        return Done(result, process.place, seconds)

    def _end(self, process: _Process) -> None:
        if process in self._working:
            self._working.remove(process)
        with contextlib.suppress(Exception):
            self.ray.kill(process.handle)


def cause(error: Any) -> Exception:
    """What a task raised, where it is meant for the user or for who asked, else in a line."""
    expected = isinstance(error.cause, UserError) or type(error.cause).__module__.partition(".")[0] == "ingest"
    return error.cause if expected else UserError(f"a task failed: {first_line(error.cause)}")


def told(error: Exception) -> str:
    """The line that says most of an error of Ray's, whose last is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else type(error).__name__)[:300]
