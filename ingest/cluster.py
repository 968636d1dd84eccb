"""Activations measured by many processes: tasks of a Ray cluster, or parts that a scheduler such as Slurm starts.

All see the folder of the warehouse, the sounds and the network's files at the same paths. Workers write segments and nothing else; the process
that writes the warehouse commits them.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ingest.networks.registry import check_network
from ingest.run import Reporter, listed, loaded
from ingest.stages import Progress, activations, silent
from ingest.stages.extraction.measured import Segment
from ingest.stages.extraction.segments import Extraction, Measure, Plan
from ingest.stages.extraction.stored_types import Lost
from ingest.study import NetworkChoice, Study
from warehouse import ledger, store
from warehouse.store import UserError, first_line

RETRIES = 2
"""Times that a segment is tried again after its process or node died, and then without the clips that kill it."""
AHEAD = 4
"""Segments that wait for each that can be measured at once."""
KILLER = "killed the process that measured it"
QUICK = {"RAY_grpc_client_keepalive_time_ms": "10000", "RAY_grpc_client_keepalive_timeout_ms": "10000", "RAY_USAGE_STATS_ENABLED": "0"}
"""A link that is cut without a word is otherwise waited for 450 seconds."""

_kept: dict[Path, Extraction] = {}


def over_ray(address: str) -> Callable[[NetworkChoice], Measure]:
    """Measures segments as tasks of the Ray cluster at an address, such as HOST:6379, one GPU a task where the study's device is none of the
    processor's and the cluster has some, otherwise one processor. Raises UserError without the package, or the cluster."""
    ray = _joined(address)

    return lambda choice: partial(_measured, ray, choice)


def _joined(address: str) -> ModuleType:
    os.environ.update({name: os.environ.get(name, value) for name, value in QUICK.items()})
    try:
        import ray
    except ImportError:
        raise UserError("--cluster needs Ray: pip install 'auricle[cluster]'") from None
    if address in ("auto", "local") or not address:
        raise UserError(f"--cluster {address!r}: give the address of the cluster that is meant, such as 10.0.0.1:6379")
    try:
        ray.init(address=address, namespace="auricle", log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # whatever Ray says of addresses, tokens and versions
        raise UserError(f"cannot join the Ray cluster at {address}: {first_line(error)}") from None
    return ray


def _measured(
    ray: ModuleType, choice: NetworkChoice, extraction: Extraction, numbers: Sequence[int], progress: Progress
) -> Generator[Segment]:
    """Segments as they come in from tasks. A process or node that dies costs its segments' attempts, see RETRIES."""
    total = ray.cluster_resources()
    on_gpu = total.get("GPU", 0) >= 1 and extraction.settings.device != "cpu"
    resources: dict[str, int] = {"num_cpus": 1, "num_gpus": 1 if on_gpu else 0}
    at_once = int(total.get("GPU" if on_gpu else "CPU", 1))
    settings = replace(extraction.settings, device="cuda" if on_gpu else "cpu", batch=extraction.settings.batch or (64 if on_gpu else 8))
    plan = replace(extraction.plan, settings=settings)
    given = ray.put((plan, choice, _versions()))
    task = ray.remote(**resources, max_retries=RETRIES, max_calls=0)(_segment)
    died = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
    waiting, flying = deque(numbers), dict[Any, int]()
    deadly: dict[int, Mapping[str, str]] = {}
    clips, device = len(plan.clips) - sum(len(extraction.segments[number]) for number in numbers), ""
    try:
        while waiting or flying:
            while waiting and len(flying) < AHEAD * at_once:
                number = waiting.popleft()
                flying[task.remote(given, number, deadly.get(number, {}))] = number
            [ready], _ = ray.wait(list(flying), num_returns=1)
            number = flying.pop(ready)
            try:
                segment = ray.get(ready)
            except died:
                if number in deadly:
                    raise UserError(
                        f"segment {number} of {extraction.network.name} kills its process though no clip of it does alone"
                    ) from None
                deadly[number] = _deadly(ray, resources, given, extraction.segments[number], died)
                waiting.appendleft(number)
                continue
            except ray.exceptions.RayTaskError as error:
                raise (
                    error.cause if isinstance(error.cause, UserError | Lost) else UserError(f"a task failed: {first_line(error.cause)}")
                ) from None
            device = device or segment.device
            if segment.device != device:
                raise UserError(
                    f"{segment.node} measures on {segment.device}, others on {device}: values would differ, so set device in [activations]"
                )
            clips += segment.clips
            progress(clips, len(plan.clips))
            yield segment
    finally:
        for left in flying:
            with contextlib.suppress(Exception):
                ray.cancel(left, force=True)


def _deadly(
    ray: ModuleType, resources: Mapping[str, int], given: Any, clips: Sequence[tuple[int, str]], died: tuple[type[Exception], ...]
) -> dict[str, str]:
    """Those of some clips that kill the process that measures them, each tried by itself, as failures."""
    task = ray.remote(**resources, max_retries=1, max_calls=0)(_alone)
    found = {}
    for one, (_, name) in [(task.remote(given, clip), clip) for clip in clips]:
        try:
            ray.get(one)
        except died:
            found[name] = KILLER
        except ray.exceptions.RayTaskError:
            continue  # what is wrong with it is said when its segment is measured
    return found


def _alone(given: tuple[Plan, NetworkChoice, Mapping[str, str]], clip: tuple[int, str]) -> None:
    """A task: measure a clip by itself, and keep nothing."""
    extraction = _extraction(*given)
    with store.scratch(extraction.plan.folder / f"alone-{clip[0]}") as folder:
        list(Extraction(replace(extraction.plan, clips=(clip,), folder=folder), extraction.network).measure([0], silent))


def _segment(given: tuple[Plan, NetworkChoice, Mapping[str, str]], number: int, without: Mapping[str, str]) -> Segment:
    """A task: measure a segment."""
    [segment] = _extraction(*given).measure([number], silent, without)
    return segment


def _extraction(plan: Plan, choice: NetworkChoice, versions: Mapping[str, str]) -> Extraction:
    """A worker's network, loaded once for all segments of a plan. Raises UserError where it, or what computes it, is not the driver's."""
    if plan.folder not in _kept:
        here = _versions()
        if other := [f"{name} {here.get(name)} in place of {versions[name]}" for name in versions if here.get(name) != versions[name]]:
            raise UserError(f"{platform.node()} has {', '.join(other)}: install the same everywhere")
        network = loaded(choice)
        if network.checkpoint_sha256 != plan.network_sha256:
            raise UserError(
                f"{platform.node()} has another checkpoint of {network.name}: {network.checkpoint_sha256[:8]} in place of {plan.network_sha256[:8]}"
            )
        _kept.clear()
        _kept[plan.folder] = Extraction(plan, network)
    return _kept[plan.folder]


def measure_part(warehouse: Path, study: Study, part: str, reporter: Reporter) -> None:
    """Measure part K/N of the segments of a study's activations, without writing the warehouse, which must hold its clips; those that lie there
    already are not measured again. Part 1/N has every Nth segment from the first."""
    first, _, step = part.partition("/")
    if not (first.isdecimal() and step.isdecimal() and 1 <= int(first) <= int(step)):
        raise UserError(f"--part {part!r}: give K/N, such as 3/64, with K from 1 to N")
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
                mine = range(int(first) - 1, len(extraction.segments), int(step))
                pending = [] if run and run[1] else [number for number in mine if number not in extraction.finished({})]
                try:
                    with reporter.stage(title) as progress:
                        done = sum(1 for _ in extraction.measure(pending, progress))
                except Lost:
                    reporter.say(
                        f"{title}: float16 does not keep all values, measured again as float32; so must be what other parts have measured"
                    )
                    continue
                reporter.say(f"{title}: {done} of {len(extraction.segments)} measured" if done else f"{title}: nothing to do")
                break


def parts_only(_: NetworkChoice) -> Measure:
    """Measures nothing: all segments must lie there, measured by parts. Raises UserError for those that do not."""

    def refuse(extraction: Extraction, numbers: Sequence[int], _: Progress) -> Generator[Segment]:
        shown = ", ".join(str(number + 1) for number in numbers[:10]) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
        raise UserError(
            f"of {len(extraction.segments)} segments {shown} are not measured: run their parts, of N parts (segment - 1) % N + 1"
        )
        yield

    return refuse


def _versions() -> dict[str, str]:
    return json.loads(ledger.package_versions())
