"""Work done by many processes: those of a Ray cluster, or parts that a scheduler such as Slurm starts.

All see the folder of the warehouse, the sounds and the files of networks and models at the same paths. They measure segments of activations and run
captioners, language models and encoders; the process that writes the warehouse commits what comes of it.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ingest.language.elsewhere import Answers, Elsewhere
from ingest.networks.network import pick_device
from ingest.networks.registry import check_network
from ingest.run import Reporter, listed, loaded
from ingest.stages import Here, Progress, activations, silent
from ingest.stages.extraction.carried import Carrier, fetched
from ingest.stages.extraction.measured import Segment
from ingest.stages.extraction.segments import Extraction, Measure, Plan
from ingest.stages.extraction.stored_types import Lost
from ingest.study import ClusterChoice, NetworkChoice, Study, TaskChoice
from ingest.workers import Done, Parts, Share, Workers
from warehouse import ledger, store
from warehouse.store import UserError, first_line

KILLER = "killed the process that measured it"
QUICK = {"RAY_grpc_client_keepalive_time_ms": "10000", "RAY_grpc_client_keepalive_timeout_ms": "10000", "RAY_USAGE_STATS_ENABLED": "0"}
"""A link that is cut without a word is otherwise waited for 450 seconds."""


def chosen(choice: ClusterChoice, address: str | None = None, gpus: str | None = None) -> Cluster | None:
    """Where a study's work is done: on the cluster at an address, by default [cluster]'s, or on GPUs of this machine; None: by this process."""
    if address is not None and gpus is not None:
        raise UserError("--cluster and --gpus were given: a cluster has its own GPUs, so use one of the two")
    if gpus is not None:
        return over_gpus(gpus, choice)
    address = choice.address if address is None else address
    return None if address is None else over_ray(address, choice)


def over_ray(address: str, choice: ClusterChoice | None = None) -> Cluster:
    """Work as tasks of the Ray cluster at an address, such as HOST:6379. Raises UserError without the package, or the cluster."""
    ray = _package("--cluster")
    if address in ("auto", "local") or not address:
        raise UserError(f"--cluster {address!r}: give the address of the cluster that is meant, such as 10.0.0.1:6379")
    try:
        ray.init(address=address, namespace="auricle", log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # whatever Ray says of addresses, tokens and versions
        raise UserError(f"cannot join the Ray cluster at {address}: {first_line(error)}") from None
    return Cluster(ray, choice or ClusterChoice())


def over_gpus(gpus: str, choice: ClusterChoice | None = None) -> Cluster:
    """Work as tasks of `all` GPUs of this machine, or of so many. Raises UserError where it has none, or fewer."""
    import torch

    found = torch.cuda.device_count()
    if gpus != "all" and not (gpus.isdecimal() and int(gpus) >= 1):
        raise UserError(f"--gpus {gpus!r}: give all, or how many")
    if not found:
        raise UserError("--gpus: PyTorch sees no GPU on this machine: leave it out")
    if gpus != "all" and int(gpus) > found:
        raise UserError(f"--gpus {gpus}: PyTorch sees {found} on this machine")
    return of_its_own(found if gpus == "all" else int(gpus), choice)


def of_its_own(gpus: int, choice: ClusterChoice | None = None) -> Cluster:
    """Work as tasks of a cluster that is this process's own, with a secret that nobody else has and in a folder where no other cluster is looked
    for; it ends with the process. Raises UserError without the package."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # read as the package is imported
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        os.environ.pop(name, None)
    ray = _package("--gpus")
    folder = tempfile.mkdtemp(prefix="auricle-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(ray.shutdown)
    try:
        ray.init(
            address="local", num_gpus=gpus, namespace="auricle", log_to_driver=False, logging_level="ERROR", include_dashboard=False,
            _temp_dir=folder, _node_ip_address="127.0.0.1",
        )  # fmt: skip
    except Exception as error:  # whatever keeps it from starting
        raise UserError(f"cannot start Ray on this machine: {first_line(error)}") from None
    if len(ray.nodes()) != 1 or ray.cluster_resources().get("GPU", 0) != gpus:
        raise UserError("Ray joined another cluster in place of one of its own: stop that with `ray stop`")
    return Cluster(ray, choice or ClusterChoice())


def _package(option: str) -> ModuleType:
    os.environ.update({name: os.environ.get(name, value) for name, value in QUICK.items()})
    try:
        import ray
    except ImportError:
        raise UserError(f"{option} needs Ray: pip install 'auricle[cluster]'") from None
    return ray


class Cluster(Here):
    """A Ray cluster that measures segments and runs engines, one kind of work at a time, whose processes hold its memory until it ends."""

    def __init__(self, ray: ModuleType, choice: ClusterChoice) -> None:
        self.ray, self.choice = ray, choice
        self.workers: Workers | None = None
        self._key: object = None
        self._nodes, self._retried = set[str](), 0

    def __call__(self, choice: NetworkChoice) -> Measure:
        """What measures segments of a network: one GPU a task where the study's device is none of the processor's and the cluster has some,
        otherwise one processor, unless [cluster] says otherwise."""
        return carried(self.choice, partial(self._measured, choice))

    def engine(self, stage: str, load: Callable[[], Any], engine: Any, method: str) -> Elsewhere:
        """A stage's engine, loaded by every process that runs its `method`."""
        tasks = self._tasks(stage)
        share = self._share(tasks, wants_gpu=getattr(engine, "device", None) != "cpu")

        def answered(batches: Sequence[Sequence[Any]]) -> Iterator[Answers]:
            if batches:
                make = partial(Running, load, method, (engine.name, engine.parameters), share, _versions())
                workers = self._at((stage, method, engine.name), f"{stage} by {engine.name}", make, share)
                with self._ended_by_faults():
                    for number, done in workers.each(batches, lambda batch: [[item] for item in batch]):
                        yield _answers(number, done)

        return Elsewhere(engine, answered, self.choice.prompts)

    def noted(self, progress: Progress) -> Progress:
        """Progress that says how many nodes there are, and retries."""

        def tell(done: int, total: int) -> None:
            progress(done, total, self._note(self.workers.places if self.workers else set()))  # type: ignore[call-arg]  # bars take a note, too

        return tell

    def rest(self) -> str:
        """End the processes of a stage; what is to be said of them."""
        self._end()
        said = f" on {self._note(self._nodes)}" if self._nodes else ""
        self._nodes, self._retried = set(), 0
        return said

    def _note(self, nodes: set[str]) -> str:
        retried = self._retried + (self.workers.retried if self.workers else 0)
        again = f", {retried} tried again" if retried else ""
        return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}{again}" if nodes else ""

    def _end(self) -> None:
        if self.workers:
            self.workers.end()
            self._nodes |= self.workers.places
            self._retried += self.workers.retried
            self.workers = self._key = None

    def _at(self, key: object, what: str, make: Callable[[], Any], share: Share) -> Workers:
        """The processes of a kind of work; those of another are ended, and their GPUs free."""
        if self.workers is None or self._key != key:
            self._end()
            self.workers, self._key = Workers(self.ray, what, make, share, self.choice.allow_mixed_devices), key
        return self.workers

    def _tasks(self, stage: str) -> TaskChoice:
        return next((tasks for tasks in self.choice.tasks if stage in tasks.stages), TaskChoice((stage,)))

    def _share(self, tasks: TaskChoice, wants_gpu: bool) -> Share:
        has_gpus = any(node["Alive"] and node["Resources"].get("GPU", 0) >= 1 for node in self.ray.nodes())
        gpus = tasks.gpus if tasks.gpus is not None else float(has_gpus and wants_gpu)
        return Share(tasks.cpus, gpus, tasks.python)

    def _measured(self, choice: NetworkChoice, extraction: Extraction, numbers: Sequence[int], progress: Progress) -> Generator[Segment]:
        """Segments as they come in. One that kills all who are at it is measured without those of its clips that do so alone."""
        share = self._share(self._tasks(activations.STAGE), wants_gpu=extraction.settings.device != "cpu")
        on_gpu = share.gpus > 0 and extraction.settings.device != "cpu"
        batch = extraction.settings.batch or (64 if on_gpu else 8)
        plan = replace(extraction.plan, settings=replace(extraction.settings, device="cuda" if on_gpu else "cpu", batch=batch))
        make = partial(Measuring, plan, choice, _versions(), self.choice.segments)
        workers = self._at((choice, plan.folder), f"segments of {extraction.network.name}", make, share)
        clips = len(plan.clips) - sum(len(extraction.segments[number]) for number in numbers)
        again: list[tuple[int, dict[str, str]]] = []
        first: list[tuple[int, dict[str, str]]] = [(number, {}) for number in numbers]
        with self._ended_by_faults():
            of_all = workers.each(first, lambda piece: extraction.segments[piece[0]])
            for place, done in itertools.chain(of_all, (found for pieces in [again] for found in workers.each(pieces))):
                if isinstance(done, Parts):
                    alone = zip(extraction.segments[numbers[place]], done.results, strict=True)
                    again.append((numbers[place], {name: KILLER for (_, name), one in alone if one is None}))
                    continue
                clips += done.result.clips
                progress(clips, len(plan.clips))
                yield done.result

    @contextlib.contextmanager
    def _ended_by_faults(self) -> Iterator[None]:
        """Whatever goes wrong ends the processes."""
        try:
            yield
        except BaseException:
            self._end()
            raise


class Measuring:
    """A process's network, for all segments of a plan, which go to the plan's folder, or a URL. Raises UserError where it, or what computes it, is
    not the driver's."""

    def __init__(self, plan: Plan, choice: NetworkChoice, versions: dict[str, str], url: str | None) -> None:
        _prove(versions)
        network = loaded(choice)
        if network.checkpoint_sha256 != plan.network_sha256:
            raise UserError(
                f"{platform.node()} has another checkpoint of {network.name}: {network.checkpoint_sha256[:8]} in place of {plan.network_sha256[:8]}"
            )
        self.carrier = Carrier(url) if url else None
        if url:
            self._own = tempfile.TemporaryDirectory(prefix="auricle-")
            plan = replace(plan, folder=Path(self._own.name) / plan.folder.name)
        self.extraction = Extraction(plan, network)
        self.device = _kind(self.extraction.device)

    def __call__(self, piece: tuple[int, Any]) -> Segment | None:
        """Measure a segment, given by its number and the clips not to be touched; or a clip by itself, by its number and name, and keep nothing."""
        number, rest = piece
        if not isinstance(rest, str):
            [segment] = self.extraction.measure([number], silent, rest)
            if self.carrier:
                self.carrier.send(self.extraction, segment)
            return segment
        alone = f"alone-{number}"
        with (
            store.scratch(self.extraction.plan.folder / alone) as folder,
            contextlib.suppress(Exception),
        ):  # what is wrong is said with its segment
            list(Extraction(replace(self.extraction.plan, clips=(piece,), folder=folder), self.extraction.network).measure([0], silent))
        return None


class Running:
    """A process's engine. Raises UserError where it is not the driver's, or where what computes it is not, unless it is to run in another Python."""

    def __init__(
        self, load: Callable[[], Any], method: str, identity: tuple[str, dict[str, object]], share: Share, versions: dict[str, str]
    ) -> None:
        _prove({name: version for name, version in versions.items() if name == "auricle"} if share.python else versions)
        engine = load()
        if (engine.name, engine.parameters) != identity:
            raise UserError(
                f"{platform.node()} has another {identity[0]}: {json.dumps(engine.parameters)} in place of {json.dumps(identity[1])}"
            )
        if hasattr(engine, "gpus"):
            engine.gpus = max(1, int(share.gpus))
        self.ask, self.device = getattr(engine, method), _kind(getattr(engine, "device", None) or pick_device("auto"))

    def __call__(self, batch: Sequence[Any]) -> list[Any]:
        """What the engine says of a batch."""
        return list(self.ask(batch))


def _answers(number: int, done: Done | Parts) -> Answers:
    whole = [done] if isinstance(done, Done) else [one for one in done.results if one]
    said = done.result if isinstance(done, Done) else [one.result[0] if one else None for one in done.results]
    rows: list[dict[str, object]] = [
        {
            "batch": secrets.token_hex(8), "items": len(one.result), "node": one.place.node, "device": one.place.device,
            "python": one.place.python, "packages": one.place.packages, "seconds": one.seconds,
        }
        for one in whole
    ]  # fmt: skip
    return Answers(number, said, rows)


def _kind(device: str) -> str:
    """What a device is."""
    import torch

    return device if device == "cpu" else f"{device.partition(':')[0]} ({torch.cuda.get_device_name(device)})"


def _prove(versions: dict[str, str]) -> None:
    """Raise UserError where packages are not those of the driver."""
    here = _versions()
    if other := [f"{name} {here.get(name)} in place of {version}" for name, version in versions.items() if here.get(name) != version]:
        raise UserError(f"{platform.node()} has {', '.join(other)}: install the same everywhere")


def _versions() -> dict[str, str]:
    return json.loads(ledger.package_versions())


def carried(choice: ClusterChoice, measure: Measure) -> Measure:
    """Segments as `measure` has them measured, by way of [cluster]'s URL, where it has one."""
    return fetched(Carrier(choice.segments), measure) if choice.segments else measure


def measure_part(warehouse: Path, study: Study, part: str, reporter: Reporter) -> None:
    """Measure part K/N of the segments of a study's activations, without writing the warehouse, which must hold its clips; those that lie there
    already are not measured again. Part 1/N has every Nth segment from the first."""
    first, _, step = part.partition("/")
    if not (first.isdecimal() and step.isdecimal() and 1 <= int(first) <= int(step)):
        raise UserError(f"--part {part!r}: give K/N, such as 3/64, with K from 1 to N")
    carrier = Carrier(study.cluster.segments) if study.cluster.segments else None
    for dataset in study.dataset:
        listing = listed(dataset, warehouse.parent, reporter)
        with store.connect_readonly(warehouse) as con:
            found = con.execute(
                "SELECT content_sha256 FROM dataset WHERE name = ? ORDER BY dataset_id DESC LIMIT 1", [listing.name]
            ).fetchall()
        if not found:
            raise UserError(f"{warehouse} has no data set {listing.name}: run `auricle ingest` with --stage clips first")
        for choice in study.network:
            network = loaded(choice)
            title = f"segments of {network.name} on {listing.name}"
            check_network(network, network.name)
            while True:
                work = activations.planned(
                    warehouse, network, listing.name, found[0][0], {entry.name: entry.path for entry in listing.entries}, study.of("activations"),
                    layers=choice.layers, positions=choice.positions, for_specificity="specificity" in study.planned(),
                )  # fmt: skip
                run = ledger.find(warehouse, activations.STAGE, parameters=work.parameters, **work.inputs)
                extraction = Extraction(work.plan, network)
                if carrier and carrier.lost(extraction):
                    continue
                mine = range(int(first) - 1, len(extraction.segments), int(step))
                there = carrier.segments(extraction) if carrier else extraction.finished({})
                pending = [] if run and run[1] else [number for number in mine if number not in there]
                done = 0
                try:
                    with reporter.stage(title) as progress:
                        for segment in extraction.measure(pending, progress):
                            if carrier:
                                carrier.send(extraction, segment)
                            done += 1
                except Lost:
                    if carrier:
                        carrier.say_lost(extraction)
                    reporter.say(
                        f"{title}: float16 does not keep all values, measured again as float32; so must be what other parts have measured"
                    )
                    continue
                reporter.say(f"{title}: {done} of {len(extraction.segments)} measured" if done else f"{title}: nothing to do")
                break


def parts_only(choice: ClusterChoice) -> Callable[[NetworkChoice], Measure]:
    """Measures nothing: all segments must lie there, measured by parts. Raises UserError for those that do not."""

    def refuse(extraction: Extraction, numbers: Sequence[int], _: Progress) -> Generator[Segment]:
        if not numbers:
            return
        shown = ", ".join(str(number + 1) for number in numbers[:10]) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
        raise UserError(
            f"of {len(extraction.segments)} segments {shown} are not measured: run their parts, of N parts (segment - 1) % N + 1"
        )
        yield

    return lambda _: carried(choice, refuse)
