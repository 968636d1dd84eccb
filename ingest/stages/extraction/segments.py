"""Runs a network over a run's clips a segment at a time, into files that a killed run goes on from, without opening a warehouse.

A segment is measured by one process, by itself, and the same whoever does it: values of its clips, a matrix a layer and reduction, and their ranking, in
files whose names nobody else uses, and last of all a record of what was done. It counts when the one who writes the warehouse has committed its row.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import shutil
import time
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ingest.methods.extremes import Extremes
from ingest.networks.network import Network, course_steps, pick_device
from ingest.sounds.sound import SoundError, load
from ingest.stages import Progress
from ingest.stages.extraction import stored_types
from ingest.stages.extraction.measured import Segment
from ingest.stages.extraction.recording import Batch, Recorder, collect
from warehouse import store
from warehouse.matrices import write_matrix
from warehouse.store import UserError

FILE_CLIPS = 8192
"""Of a run of no more clips, a matrix is one file; of more, a folder of parts, its segments' files."""
SEGMENT_CLIPS, SEGMENT_BYTES = 256, 256 << 20
MANY, PART_BYTES = 64, 1 << 30
"""Of a run of more clips, the segments from which on they are larger, and what memory they may take."""
COURSE_BYTES = 160 << 20
WORKERS, AHEAD = 4, 3
FLOAT16_MAX = 65504.0
LOST = "lost"
"""File of a folder of segments that says that float16 does not keep the values of some."""


@dataclass(frozen=True)
class Settings:
    """How activations are taken. dtype: of the stored matrices; auto is float16, and float32 for a layer whose values do not survive that
    (overflow, underflow to 0, lost order), which is then said. precision: of the forward pass, other than float32 by autocast. top_k: clips
    kept on either side of a neuron's ranking. shares: also record the share of each clip's values above 0; by default where stage
    specificity is to be done, but not again for runs on which it was done without. token: all, a neuron's mean and maximum over a clip; or
    first, its value at the first token alone (AST's CLS, BEATs' first patch), as AND was published. neighbor_clips: over how many clips, drawn
    from all, neurons are correlated to find their neighbours; by default all, or as many as 2e13 / neurons² and at least 1000. device (auto
    takes a GPU where there is one; cpu, cuda, cuda:1, ...), batch, clips per forward pass (by default 8, on a GPU 64), and segment, the most
    clips that a process measures at a time (by default 256, and of many clips up to 8192), do not change results beyond rounding."""

    dtype: Literal["auto", "float16", "float32"] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    top_k: int = 20
    shares: bool | None = None
    token: Literal["all", "first"] = "all"
    neighbor_clips: int | None = None
    device: str = "auto"
    batch: int | None = None
    segment: int | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("top_k", self.top_k),
            ("batch", self.batch),
            ("segment", self.segment),
            ("neighbor_clips", self.neighbor_clips),
        ):
            if value is not None and value < 1:
                raise UserError(f"activations: {name} is {value}, it must be at least 1")
        if self.shares and self.token == "first":
            raise UserError('activations: shares are those of all tokens: leave them out, or token = "first"')

    def parameters(self) -> dict[str, object]:
        """What goes into the run. Runs from before there were shares, and those whose values all fit float16, stay what they are."""
        kept: dict[str, object] = {
            "dtype": "float16" if self.dtype == "auto" else self.dtype,
            "precision": self.precision,
            "top_k": self.top_k,
        }
        return kept | ({"shares": True} if self.shares else {}) | ({"token": "first"} if self.token == "first" else {})


@dataclass(frozen=True)
class Plan:
    """All that the segments of a run are measured from, the same in every process that takes part: SHA-256 of the network's checkpoint, the `layers`
    recorded in forward order, `clips` numbers and names in column order, `paths` their sound files by name, `dtype` that of the values in segments, and
    `folder` is where these go, which all processes must see."""

    network_sha256: str
    layers: tuple[str, ...]
    positions: bool
    settings: Settings
    dtype: str
    clips: tuple[tuple[int, str], ...]
    paths: Mapping[str, Path]
    folder: Path

    @property
    def top_k(self) -> int:
        """Clips kept on either side of a ranking; there are no more than all."""
        return min(self.settings.top_k, max(1, len(self.clips)))


class Extraction:
    """A process's own passes over segments of a plan."""

    def __init__(self, plan: Plan, network: Network) -> None:
        self.plan, self.network, self.settings, self.positions = plan, network, plan.settings, plan.positions
        self.device = pick_device(plan.settings.device)
        by_name = {layer.name: layer for layer in network.layers}
        self.layers = [by_name[name] for name in plan.layers]
        network.module.to(self.device)
        first, shares = self.settings.token == "first", bool(self.settings.shares)
        self.recorder = Recorder(network, self.layers, positions=plan.positions, shares=shares, first=first, device=self.device)
        self.rows = [self.recorder.neurons(layer) for layer in self.layers]
        self.dtype = np.dtype(plan.dtype)
        self.watched = self.settings.dtype == "auto" and plan.dtype == "float16"
        self.clip_bytes = sum(self.rows) * len(self.recorder.reductions) * self.dtype.itemsize
        self.in_parts = len(plan.clips) > FILE_CLIPS
        self.size = min(segment_clips(self.clip_bytes, len(plan.clips)), self.settings.segment or FILE_CLIPS)
        self.batch = min(self.settings.batch or (8 if self.device == "cpu" else 64), self.size)
        self.segments = [plan.clips[start : start + self.size] for start in range(0, len(plan.clips), self.size)]
        self.files = {(number, name): f"{number:04d}.{name}.npy" for number in range(len(self.layers)) for name in self.reductions(number)}
        """Names of a segment's files, by number of layer and reduction."""

    def file(self, segment: Segment, key: tuple[int, str]) -> Path:
        """A segment's file of values [neurons, clips], by number of layer and reduction."""
        return segment.values(self.plan.folder) / self.files[key]

    def sha256(self, segment: Segment, key: tuple[int, str]) -> str:
        """Hash of that."""
        return segment.files[list(self.files).index(key)]

    def names(self, segment: Segment) -> list[str]:
        """A segment's files but its record, relative to the plan's folder."""
        values = [f"{segment.name}/{name}" for name in self.files.values()]
        return values if self.positions else [*values, segment.ranking(self.plan.folder).name]

    def fits(self, segment: Segment) -> bool:
        """Whether it is one of the plan's."""
        known = segment.segment < len(self.segments) and segment.clips == len(self.segments[segment.segment])
        return known and len(segment.files) == len(self.files)

    def reductions(self, number: int) -> tuple[str, ...]:
        """Those of a layer: the mean over windows is all there is of single units beside positions."""
        return ("mean",) if self.positions and not self.layers[number].is_map else self.recorder.reductions

    def told(self, counted: Mapping[int, str]) -> list[Segment]:
        """Segments that have been measured whole, by what their records say; of attempts at one that counts, by `counted`, that one."""
        found = []
        for path in sorted(self.plan.folder.glob("segment-*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                segment = Segment.read(path)
                if self.fits(segment) and counted.get(segment.segment, segment.attempt) == segment.attempt:
                    found.append(segment)
        return found

    def finished(self, counted: Mapping[int, str], settled: Container[int] = ()) -> dict[int, Segment]:
        """Segments that lie whole in the plan's folder, by number; of several attempts at one that which counts, by `counted`, otherwise any. Of the
        layers `settled`, by number, nothing is needed any more."""
        found = {}
        for segment in self.told(counted):
            folder = segment.values(self.plan.folder)
            files = [folder / name for (number, _), name in self.files.items() if number not in settled]
            if all(map(Path.is_file, files)) and (self.positions or segment.ranking(self.plan.folder).is_file()):
                found[segment.segment] = segment
        return found

    def sweep(self, kept: Iterable[Segment]) -> None:
        """Delete the files of attempts that did not come to count. Only while nobody measures."""
        names = {segment.name for segment in kept}
        for path in self.plan.folder.glob("segment-*"):
            if ".".join(path.name.split(".")[:2]) not in names or path.suffix == ".tmp":
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def check_space(self) -> None:
        """Raise UserError where the run would not fit: files are copied together beside segments; parts are these, but where types are chosen by layer."""
        by_layer = self.settings.dtype == "auto" and self.dtype == np.float32
        times = 2.2 if not self.in_parts else 1.6 if by_layer else 1.1
        needed, free = times * self.clip_bytes * len(self.plan.clips) + 1e8, store.free_bytes(self.plan.folder.parent)
        if free < needed:
            raise UserError(
                f"{self.plan.folder} has {free / 1e9:.1f} GB free, this run needs {needed / 1e9:.1f} GB: free some or move the warehouse"
            )

    def measure(self, numbers: Sequence[int], progress: Progress, without: Mapping[str, str] | None = None) -> Generator[Segment]:
        """Measure segments, one after the other; sounds are decoded ahead. `without`: clips that are not to be touched, and why. Raises
        stored_types.Lost where float16 does not keep the values."""
        where = self.device if self.device == "cpu" else f"{self.device.partition(':')[0]} ({torch.cuda.get_device_name(self.device)})"
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        with self._loaded(numbers, without or {}) as batches, self.recorder:
            for number in numbers:
                begun = time.monotonic()
                segment = Segment(number, len(self.segments[number]), os.urandom(4).hex(), platform.node(), where)
                extremes = new_extremes(self.recorder, self.plan.top_k, self.batch)
                try:
                    values, failures = self._segment(number, batches, extremes, progress)
                except stored_types.Lost:
                    (self.plan.folder / LOST).touch()
                    raise
                if not self.positions:
                    arrays = {
                        f"{number}.{name}": array for number, extreme in enumerate(extremes) for name, array in extreme.arrays().items()
                    }
                    temporary = segment.ranking(self.plan.folder).with_suffix(".npz.tmp")
                    with temporary.open("wb") as file:
                        np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
                    store.publish(temporary, segment.ranking(self.plan.folder))
                hashes = self._written(segment.values(self.plan.folder), values)
                segment = replace(segment, files=hashes, seconds=round(time.monotonic() - begun, 3), failures=tuple(failures))
                segment.tell(self.plan.folder)
                yield segment

    def _written(self, folder: Path, values: torch.Tensor) -> tuple[str, ...]:
        """Write a segment's values [reductions, clips, neurons of all layers] to its files; returns their hashes."""
        folder.mkdir()
        first = [0, *itertools.accumulate(self.rows)]
        hashes = []
        for (number, reduction), name in self.files.items():
            part = values[self.reductions(number).index(reduction), :, first[number] : first[number + 1]]
            matrix = part.T.contiguous().numpy()
            hashes.append(write_matrix(folder / name, matrix.shape, matrix.dtype, [matrix]))
        store.settle(folder / name for name in self.files.values())
        return tuple(hashes)

    def _segment(
        self, number: int, batches: Iterator[Batch], extremes: list[Extremes], progress: Progress
    ) -> tuple[torch.Tensor, list[tuple[str, str]]]:
        clips = self.segments[number]
        reductions = len(self.recorder.reductions)
        values = torch.full((reductions, len(clips), sum(self.rows)), torch.nan, dtype=getattr(torch, self.dtype.name))
        kept = stored_types.watcher(self.layers, self.rows, reductions, positions=self.positions) if self.watched else None
        failures: list[tuple[str, str]] = []
        column, before = 0, number * self.size
        while column < len(clips):
            batch = next(batches)
            failures += batch.failures
            if batch.columns:
                columns = torch.tensor(batch.columns) + column
                plain, courses, bad = self._forward(batch)
                failures += bad
                if kept is not None:
                    kept.update(plain.flatten(1))
                values[:, columns] = plain.transpose(0, 1).to(values.dtype)
                clip_ids = torch.tensor([clips[column][0] for column in columns.tolist()])
                if not self.positions:
                    mean = values[0, columns]
                    for extreme, part, course in zip(extremes, mean.split(self.rows, dim=1), courses, strict=True):
                        extreme.update(part, clip_ids, course)
            column += batch.clips
            progress(before + column, len(self.plan.clips))
        if kept is not None and kept.lost():
            raise stored_types.Lost
        return values, failures

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor | None], list[tuple[str, str]]]:
        """Run a batch through the network: values [clips, reductions, neurons of all layers] (float32), NaN where they are not finite, each layer's
        courses, and failures."""
        autocast = (
            torch.autocast(self.device.partition(":")[0], dtype=getattr(torch, self.settings.precision))
            if self.settings.precision != "float32"
            else contextlib.nullcontext()
        )
        with torch.inference_mode(), autocast:
            waveforms = torch.from_numpy(batch.waveforms).to(self.device)
            self.recorder.valid_s = valid_s = torch.from_numpy(batch.valid_s)
            self.network.forward(self.network.prepare_padded(waveforms, valid_s.to(self.device)))
        values = torch.empty((len(batch.columns), len(self.recorder.reductions), sum(self.rows)))
        courses = []
        for layer, part in zip(self.layers, values.split(self.rows, dim=2), strict=True):
            recorded = self.recorder.batch.pop(layer.name, None)
            if recorded is None:
                raise UserError(
                    f"layer {layer.name} ({layer.module}) of {self.network.name} never ran: leave it out of the network's layers"
                )
            for number, reduction in enumerate(self.recorder.reductions):
                part[:, number] = recorded.reductions[reduction]
            courses.append(None if recorded.course is None else recorded.course.cpu())
        return values, courses, self._amiss(values, batch.names)

    def _amiss(self, values: torch.Tensor, names: Sequence[str]) -> list[tuple[str, str]]:
        """Put NaN for what is not finite of a batch's values; returns the failures by clip, each clip once. Raises UserError for values that the study's
        float16 does not hold."""
        by_layer = values.split(self.rows, dim=2)
        if self.settings.dtype == "float16" and bool((values.abs().nan_to_num_(0, posinf=0) > FLOAT16_MAX).any()):
            beyond = [bool((part.abs().nan_to_num_(0, posinf=0) > FLOAT16_MAX).any()) for part in by_layer]
            raise UserError(f"layer {self.layers[beyond.index(True)].name} of {self.network.name} exceeds float16: use --dtype float32")
        if bool(values.sum().isfinite()):  # in a tenth of the time that looking at each takes
            return []
        bad = ~values.isfinite()
        failures: dict[str, str] = {}
        for layer, rows, part in zip(self.layers, self.rows, bad.split(self.rows, dim=2), strict=True):
            for position, number in part.any(dim=2).nonzero().tolist():
                reason = f"layer {layer.name}: {int(part[position, number].sum())} of {rows} neurons not finite"
                failures.setdefault(names[position], reason)
        values.masked_fill_(bad, torch.nan)
        return list(failures.items())

    @contextlib.contextmanager
    def _loaded(self, numbers: Sequence[int], without: Mapping[str, str]) -> Iterator[Iterator[Batch]]:
        """Batches of segments in order, none across a segment's end, decoded ahead by worker threads."""

        shortest_s = self.network.shortest_s

        def loaded(clip: tuple[int, str]) -> tuple[np.ndarray, float] | str:
            if clip[1] in without:
                return without[clip[1]]
            try:
                sound = load(self.plan.paths[clip[1]], sample_rate_hz=self.network.sample_rate_hz, clip_s=self.network.clip_s)
                if sound[1] < shortest_s - 0.5 / self.network.sample_rate_hz:
                    return f"{sound[1]:.4f} s of sound: {self.network.name} takes no less than {shortest_s:.4f} s"
                return sound
            except KeyError:
                return "not in the data set's folder any more"
            except SoundError as error:
                return str(error)

        jobs = [
            self.segments[number][start : start + self.batch]
            for number in numbers
            for start in range(0, len(self.segments[number]), self.batch)
        ]

        def batches(pool: ThreadPoolExecutor) -> Iterator[Batch]:
            queue: deque[tuple[Sequence[tuple[int, str]], list[Future]]] = deque()
            for job in jobs:
                queue.append((job, [pool.submit(loaded, clip) for clip in job]))
                if len(queue) > AHEAD:
                    clips, futures = queue.popleft()
                    yield collect(clips, [future.result() for future in futures])
            for clips, futures in queue:
                yield collect(clips, [future.result() for future in futures])

        pool = ThreadPoolExecutor(WORKERS)
        try:
            yield batches(pool)
        finally:
            pool.shutdown(cancel_futures=True)


def segment_clips(clip_bytes: int, clips: int) -> int:
    """Clips of a segment of a run of so many, where the values of each take so many bytes. With few clips a kill loses little; with many, files are few."""
    if clips <= FILE_CLIPS:
        return max(min(SEGMENT_CLIPS, SEGMENT_BYTES // clip_bytes), 8)
    size = SEGMENT_CLIPS
    while size * MANY < clips and size < FILE_CLIPS:
        size *= 2
    return max(min(size, PART_BYTES // clip_bytes // 8 * 8), 8)


def new_extremes(recorder: Recorder, top_k: int, batch: int) -> list[Extremes]:
    """Empty rankings for a recorder's layers, with room for as many waiting clips as memory for courses allows, a batch at the least."""
    steps = [1 if recorder.first else course_steps(recorder.network, layer) for layer in recorder.layers]
    clip_bytes = sum(2 * count * layer.neurons for count, layer in zip(steps, recorder.layers, strict=True))
    capacity = max(batch, min(SEGMENT_CLIPS, COURSE_BYTES // clip_bytes))
    return [Extremes(layer.neurons, top_k, count, capacity) for count, layer in zip(steps, recorder.layers, strict=True)]


Measure = Callable[[Extraction, Sequence[int], Progress], Generator[Segment]]
"""Has segments of an extraction measured, in whatever order."""
