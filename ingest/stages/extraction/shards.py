"""Runs a network over a run's clips, a shard at a time, into files that a killed run continues from."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ingest.methods.extremes import Extremes
from ingest.networks.network import Layer, Network, course_steps
from ingest.sounds.sound import SoundError, load
from ingest.stages import Progress
from ingest.stages.extraction import stored_types
from ingest.stages.extraction.recording import Batch, Recorder, collect
from warehouse import ledger, store
from warehouse.store import UserError

SHARD_CLIPS, SHARD_BYTES = 256, 256 << 20
COURSE_BYTES = 160 << 20
WORKERS, AHEAD = 4, 3
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Settings:
    """How activations are taken. dtype: of the stored matrices; auto is float16, and float32 for a layer whose values do not survive that
    (overflow, underflow to 0, lost order), which is then said. precision: of the forward pass, other than float32 by autocast. top_k: clips
    kept on either side of a neuron's ranking. shares: also record the share of each clip's values above 0; by default where stage
    specificity is to be done, but not again for runs on which it was done without. token: all, a neuron's mean and maximum over a clip; or
    first, its value at the first token alone (AST's CLS, BEATs' first patch), as AND was published. device (auto takes a GPU where there is
    one; cpu, cuda, cuda:1, ...) and batch, clips per forward pass (by default 8, on a GPU 64), do not change results beyond rounding."""

    dtype: Literal["auto", "float16", "float32"] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    top_k: int = 20
    shares: bool | None = None
    token: Literal["all", "first"] = "all"
    device: str = "auto"
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("top_k", self.top_k), ("batch", self.batch)):
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


class Extraction:
    """The pass over the clips of one run."""

    def __init__(
        self,
        run: ledger.Run,
        network: Network,
        layers: list[Layer],
        positions: bool,
        settings: Settings,
        dtype: str,
        paths: dict[str, Path],
        folder: Path,
        device: str,
    ) -> None:
        self.run, self.network, self.layers, self.positions, self.settings = run, network, layers, positions, settings
        self.paths, self.folder, self.device = paths, folder, device
        self.batch = settings.batch or (8 if device == "cpu" else 64)
        network.module.to(device)
        first = settings.token == "first"
        self.recorder = Recorder(network, layers, positions=positions, shares=bool(settings.shares), first=first, device=device)
        self.rows = [self.recorder.neurons(layer) for layer in layers]
        self.dtype = np.dtype(dtype)
        self.watched = settings.dtype == "auto" and dtype == "float16"
        with store.connect_readonly(run.warehouse) as con:
            self.clips: list[tuple[int, str]] = con.execute(
                "SELECT clip_id, name FROM activation_clip JOIN clip USING (clip_id) WHERE run_id = ? ORDER BY column_index", [run.run_id]
            ).fetchall()
        self.top_k = min(settings.top_k, max(1, len(self.clips)))  # there are no more to be ranked
        clip_bytes = sum(self.rows) * len(self.recorder.reductions) * self.dtype.itemsize
        self.shard = shard_clips(clip_bytes)
        self.batch = min(self.batch, self.shard)
        self.shards = [self.clips[start : start + self.shard] for start in range(0, len(self.clips), self.shard)]
        needed = 2.2 * clip_bytes * len(self.clips) + 1e8
        if store.free_bytes(folder) < needed:
            raise UserError(
                f"{folder} has {store.free_bytes(folder) / 1e9:.1f} GB free, this run needs {needed / 1e9:.1f} GB: free some or move the warehouse"
            )

    def shard_files(self) -> list[Path]:
        """Files of all shards, each [reductions, neurons, clips of the shard]."""
        return [self.folder / f"shard-{index:05d}.npy" for index in range(len(self.shards))]

    def run_shards(self, done: set[str], progress: Progress) -> int:
        """Compute the shards that are not done; returns how many."""
        pending = [index for index in range(len(self.shards)) if f"shard {index:05d}" not in done]
        if not pending:
            return 0
        extremes = new_extremes(self.recorder, self.top_k, self.batch)
        if pending[0] > 0 and not self.positions:
            with np.load(self._state_file(pending[0] - 1)) as state:
                for index, extreme in enumerate(extremes):
                    extreme.restore(state, f"{index}.")
        with self._loaded(pending) as batches, self.recorder:
            for index in pending:
                values, failures = self._shard(index, batches, extremes, progress)
                self._save(self.shard_files()[index], values)
                if not self.positions:
                    arrays = {
                        f"{number}.{name}": array for number, extreme in enumerate(extremes) for name, array in extreme.arrays().items()
                    }
                    self._save(self._state_file(index), **arrays)
                self.run.record([f"shard {index:05d}"], {}, failures)
                if index:
                    self._state_file(index - 1).unlink(missing_ok=True)
        return len(pending)

    def _shard(
        self, index: int, batches: Iterator[Batch], extremes: list[Extremes], progress: Progress
    ) -> tuple[np.ndarray, list[tuple[str, str]]]:
        clips = self.shards[index]
        values = torch.full((len(self.recorder.reductions), len(clips), sum(self.rows)), torch.nan, dtype=getattr(torch, self.dtype.name))
        plain = torch.full_like(values, torch.nan, dtype=torch.float32) if self.watched else None
        failures: list[tuple[str, str]] = []
        column = 0
        while column < len(clips):
            batch = next(batches)
            failures += batch.failures
            if batch.columns:
                columns = torch.tensor(batch.columns) + column
                failures += self._forward(
                    batch, columns, torch.tensor([clips[column][0] for column in columns.tolist()]), values, extremes, plain
                )
            column += batch.clips
            progress(index * self.shard + column, len(self.clips))
        if plain is not None:
            stored_types.check(plain, self.layers, self.rows, positions=self.positions)
        return values.transpose(1, 2).contiguous().numpy(), failures

    def _forward(
        self,
        batch: Batch,
        columns: torch.Tensor,
        clip_ids: torch.Tensor,
        values: torch.Tensor,
        extremes: list[Extremes],
        plain: torch.Tensor | None,
    ) -> list[tuple[str, str]]:
        """Run a batch through the network, put its values into their columns and rank them."""
        failures = []
        autocast = (
            torch.autocast(self.device.partition(":")[0], dtype=getattr(torch, self.settings.precision))
            if self.settings.precision != "float32"
            else contextlib.nullcontext()
        )
        with torch.inference_mode(), autocast:
            waveforms = torch.from_numpy(batch.waveforms).to(self.device)
            self.recorder.valid_s = torch.from_numpy(batch.valid_s).to(self.device)
            self.network.forward(self.network.prepare_padded(waveforms, self.recorder.valid_s))
        row = 0
        for layer, rows, extreme in zip(self.layers, self.rows, extremes, strict=True):
            recorded = self.recorder.batch.pop(layer.name, None)
            if recorded is None:
                raise UserError(
                    f"layer {layer.name} ({layer.module}) of {self.network.name} never ran: leave it out of the network's layers"
                )
            for number, reduction in enumerate(self.recorder.reductions):
                found = recorded.reductions[reduction].float().cpu()
                if self.settings.dtype == "float16" and bool((found.abs().nan_to_num(0, posinf=0) > FLOAT16_MAX).any()):
                    raise UserError(f"layer {layer.name} of {self.network.name} exceeds float16: use --dtype float32")
                bad = ~found.isfinite()
                if bool(bad.any()):
                    found = found.masked_fill(bad, torch.nan)
                    for position in bad.any(dim=1).nonzero()[:, 0].tolist():
                        failures.append(
                            (batch.names[position], f"layer {layer.name}: {int(bad[position].sum())} of {rows} neurons not finite")
                        )
                values[number, columns, row : row + rows] = found.to(values.dtype)
                if plain is not None:
                    plain[number, columns, row : row + rows] = found
            if not self.positions:
                extreme.update(values[0, columns, row : row + rows], clip_ids, None if recorded.course is None else recorded.course.cpu())
            row += rows
        first: dict[str, str] = {}
        for name, reason in failures:
            first.setdefault(name, reason)
        return list(first.items())

    @contextlib.contextmanager
    def _loaded(self, pending: list[int]) -> Iterator[Iterator[Batch]]:
        """Batches of the pending shards in order, none across a shard's end, decoded ahead by worker threads."""

        shortest_s = self.network.shortest_s

        def loaded(clip: tuple[int, str]) -> tuple[np.ndarray, float] | str:
            try:
                sound = load(self.paths[clip[1]], sample_rate_hz=self.network.sample_rate_hz, clip_s=self.network.clip_s)
                if sound[1] < shortest_s - 0.5 / self.network.sample_rate_hz:
                    return f"{sound[1]:.4f} s of sound: {self.network.name} takes no less than {shortest_s:.4f} s"
                return sound
            except KeyError:
                return "not in the data set's folder any more"
            except SoundError as error:
                return str(error)

        jobs = [
            self.shards[index][start : start + self.batch] for index in pending for start in range(0, len(self.shards[index]), self.batch)
        ]

        def batches(pool: ThreadPoolExecutor) -> Iterator[Batch]:
            queue: deque[tuple[list[tuple[int, str]], list[Future]]] = deque()
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

    def _state_file(self, index: int) -> Path:
        return self.folder / f"state-{index:05d}.npz"

    @staticmethod
    def _save(path: Path, array: np.ndarray | None = None, **arrays: np.ndarray) -> None:
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            if array is not None:
                np.save(file, array)
            else:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        store.publish(temporary, path)


def shard_clips(clip_bytes: int) -> int:
    """Clips of a shard, where the values of each take so many bytes."""
    return max(min(SHARD_CLIPS, SHARD_BYTES // clip_bytes), 8)


def new_extremes(recorder: Recorder, top_k: int, batch: int) -> list[Extremes]:
    """Empty rankings for a recorder's layers, with room for as many waiting clips as memory for courses allows, a batch at the least."""
    steps = [1 if recorder.first else course_steps(recorder.network, layer) for layer in recorder.layers]
    clip_bytes = sum(2 * count * layer.neurons for count, layer in zip(steps, recorder.layers, strict=True))
    capacity = max(batch, min(SHARD_CLIPS, COURSE_BYTES // clip_bytes))
    return [Extremes(layer.neurons, top_k, count, capacity) for count, layer in zip(steps, recorder.layers, strict=True)]


def remove_shards(folder: Path) -> None:
    """Delete what a finished run continued from."""
    for pattern in ("shard-*", "state-*", "*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
