"""The ledger: which work is done. Runs with their provenance, units of work, failures."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import polars as pl

from warehouse import store

Unit = TypeVar("Unit")
GATHER_S, GATHER_BYTES = 3.0, 64 << 20
PACKAGES = ("auricle", "duckdb", "numpy", "openTSNE", "polars", "soundfile", "soxr", "torch", "transformers")


@dataclass(frozen=True)
class Run:
    """One execution of a stage, begun or continued.

    `why` says in words what differs from the last run of the same stage on the same subject; None for a first or continued run.
    """

    warehouse: Path
    run_id: int
    stage: str
    input_sha256: str
    parameter_sha256: str
    code_version: int
    finished: bool
    why: str | None

    def done(self) -> set[str]:
        """Items whose unit of work is committed."""
        with store.connect_readonly(self.warehouse) as con:
            rows = con.execute(
                "SELECT item FROM work_unit WHERE stage = ? AND input_sha256 = ? AND parameter_sha256 = ? AND code_version = ?",
                [self.stage, self.input_sha256, self.parameter_sha256, self.code_version],
            ).fetchall()
        return {item for (item,) in rows}

    @contextlib.contextmanager
    def commit(self, items: Iterable[str], failures: Iterable[tuple[str, str]] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction for a payload and its ledger rows: insert the payload into the connection given.

        `items` are the units finished, `failures` pairs of item and one-line reason.
        """
        units = pl.DataFrame({"item": list(items)}, schema={"item": pl.String})
        failed = pl.DataFrame(list(failures), schema={"item": pl.String, "reason": pl.String}, orient="row")
        with store.transaction(self.warehouse) as con:
            yield con
            con.register("units", units)
            con.execute(
                "INSERT INTO work_unit SELECT ?, item, ?, ?, ?, ?, now() FROM units",
                [self.stage, self.input_sha256, self.parameter_sha256, self.code_version, self.run_id],
            )
            if len(failed):
                con.register("failed", failed)
                con.execute("INSERT OR IGNORE INTO failure SELECT ?, ?, item, reason, now() FROM failed", [self.run_id, self.stage])

    def record(
        self, items: Iterable[str], tables: Mapping[str, pl.DataFrame], failures: Iterable[tuple[str, str]] = (), mended: Sequence[str] = ()
    ) -> None:
        """Commit the rows of tables, which get the run's number, with their units of work and failures, in one transaction; failures of the
        items `mended` go."""
        with self.commit(items, failures) as con:
            self._insert(con, tables, mended)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[Gathering]:
        """The run for the time of many quick units, whose records are committed several at a time, and at the end."""
        gathering = Gathering(**vars(self))
        try:
            yield gathering
        finally:
            gathering.flush()  # what was done before an error stays done

    def _insert(self, con: duckdb.DuckDBPyConnection, tables: Mapping[str, pl.DataFrame], mended: Sequence[str]) -> None:
        if mended:
            con.execute("DELETE FROM failure WHERE run_id = ? AND list_contains(?, item)", [self.run_id, list(mended)])
        for table, frame in tables.items():
            if len(frame):
                store.insert(con, table, frame.with_columns(pl.lit(self.run_id).alias("run_id")))

    def pending(self, plan: Mapping[str, Unit], progress: Callable[[int, int], None]) -> Iterator[tuple[str, Unit]]:
        """Items of a plan whose unit of work is not committed, one after the other, with what is to be worked on."""
        done = plan.keys() if self.finished else self.done()
        for number, (item, unit) in enumerate(plan.items(), 1):
            if item not in done:
                yield item, unit
            progress(number, len(plan))

    def finish(self) -> None:
        """Mark the run as done, unless it was."""
        if self.finished:
            return
        with store.transaction(self.warehouse) as con:
            con.execute("UPDATE run SET status = 'done', finished_at = now() WHERE run_id = ?", [self.run_id])

    def failures(self) -> int:
        """Number of failures recorded for the run."""
        with store.connect_readonly(self.warehouse) as con:
            row = con.execute("SELECT count(*) FROM failure WHERE run_id = ?", [self.run_id]).fetchone()
        return int(row[0]) if row else 0


@dataclass(frozen=True)
class Gathering(Run):
    """A run whose records wait for each other: units of work are committed in one transaction, all of each or nothing, once GATHER_S have passed
    since the last one or their rows take GATHER_BYTES. Opening and closing the warehouse costs more than a quick unit's rows; readers get in between."""

    waiting: list[tuple[Sequence[str], Mapping[str, pl.DataFrame], Sequence[tuple[str, str]], Sequence[str]]] = field(default_factory=list)
    committed: list[float] = field(default_factory=lambda: [time.monotonic()])

    def record(
        self, items: Iterable[str], tables: Mapping[str, pl.DataFrame], failures: Iterable[tuple[str, str]] = (), mended: Sequence[str] = ()
    ) -> None:
        """As that of a run, but that it may wait for further units."""
        self.waiting.append((tuple(items), tables, tuple(failures), mended))
        taken = sum(frame.estimated_size() for _, held, _, _ in self.waiting for frame in held.values())
        if time.monotonic() - self.committed[-1] >= GATHER_S or taken >= GATHER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Commit what waits."""
        units, self.waiting[:] = list(self.waiting), []
        if units:
            with self.commit([item for unit in units for item in unit[0]], [pair for unit in units for pair in unit[2]]) as con:
                for _, tables, _, mended in units:
                    self._insert(con, tables, mended)
        self.committed[:] = [time.monotonic()]


def finished(warehouse: Path, run_id: int, stage: str) -> tuple[str, dict[str, Any], int | None]:
    """Key, parameters and seed of a finished run of a stage. Raises UserError for any other run."""
    with store.connect_readonly(warehouse) as con:
        row = con.execute(
            "SELECT run_key, parameters, seed FROM run WHERE run_id = ? AND stage = ? AND status = 'done'", [run_id, stage]
        ).fetchone()
    if row is None:
        raise store.UserError(f"run {run_id} of {warehouse} is no finished run of stage {stage}")
    return row[0], json.loads(row[1]), row[2]


def find(warehouse: Path, stage: str, *, parameters: dict[str, object], code_version: int, **inputs: Any) -> tuple[int, bool] | None:
    """Number of the run that `begin` would continue, and whether it is done; None when it would begin one."""
    run_key = key(stage, parameters=parameters, code_version=code_version, **inputs)
    with store.connect_readonly(warehouse) as con:
        row = con.execute("SELECT run_id, status = 'done' FROM run WHERE run_key = ?", [run_key]).fetchone()
    return (int(row[0]), bool(row[1])) if row else None


def key(stage: str, *, parameters: dict[str, object], code_version: int, **inputs: Any) -> str:
    """Key of the run that `begin` would begin or continue."""
    return _hashes(stage, parameters, code_version, **inputs)[2]


def _hashes(
    stage: str,
    parameters: dict[str, object],
    code_version: int,
    dataset_sha256: str | None = None,
    network_sha256: str | None = None,
    seed: int | None = None,
) -> tuple[str, str, str]:
    """Hashes of a run's inputs and parameters, and its key."""
    inputs, given = store.sha256_json([dataset_sha256, network_sha256, seed]), store.sha256_json(parameters)
    return inputs, given, store.sha256_json([stage, inputs, given, code_version])


def forget(run: Run, tables: Iterable[str]) -> None:
    """Take back a run that cannot be finished, with its rows in these tables, units of work and failures."""
    with store.transaction(run.warehouse) as con:
        for table in (*tables, "failure", "work_unit"):
            con.execute(f"DELETE FROM {table} WHERE run_id = ?", [run.run_id])
    with store.transaction(run.warehouse) as con:  # of its own: DuckDB minds references that the same transaction deletes
        con.execute("DELETE FROM run WHERE run_id = ?", [run.run_id])


def begin(
    warehouse: Path,
    stage: str,
    *,
    parameters: dict[str, object],
    code_version: int,
    dataset_sha256: str | None = None,
    network_sha256: str | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> Run:
    """Begin a run, or continue the one with the same stage, inputs, parameters and code version.

    `parameters` must hold everything that changes results; by convention its keys `dataset` and `network` name the subject.
    """
    input_sha256, parameter_sha256, key = _hashes(stage, parameters, code_version, dataset_sha256, network_sha256, seed)
    query = "SELECT run_id, status FROM run WHERE run_key = ?"
    with store.connect_readonly(warehouse) as con:
        found = con.execute(query, [key]).fetchone()
        why = None if found else _difference(con, stage, parameters, code_version, dataset_sha256, network_sha256, seed)
    if not found:
        with store.transaction(warehouse) as con:
            con.execute(
                "INSERT INTO run SELECT coalesce(max(run_id), 0) + 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, now(), NULL, 'running' FROM run",
                [stage, key, dataset_sha256, network_sha256, json.dumps(parameters, sort_keys=True, ensure_ascii=False), seed, code_version,
                 package_versions(), git_revision(), device],
            )  # fmt: skip
            found = con.execute(query, [key]).fetchone()
    assert found
    return Run(warehouse, found[0], stage, input_sha256, parameter_sha256, code_version, found[1] == "done", why)


def _difference(
    con: duckdb.DuckDBPyConnection,
    stage: str,
    parameters: dict[str, object],
    code_version: int,
    dataset_sha256: str | None,
    network_sha256: str | None,
    seed: int | None,
) -> str | None:
    rows = con.execute(
        "SELECT run_id, parameters, code_version, dataset_sha256, network_sha256, seed FROM run WHERE stage = ? ORDER BY run_id DESC",
        [stage],
    ).fetchall()
    parameters = json.loads(json.dumps(parameters))  # lists for tuples, as they are stored
    for run_id, text, old_code, old_dataset, old_network, old_seed in rows:
        old = json.loads(text)
        if any(old.get(key) != parameters.get(key) for key in ("dataset", "network")):
            continue
        reasons = [
            f"{key} was {json.dumps(old.get(key))}, is {json.dumps(parameters.get(key))}"
            for key in sorted(old.keys() | parameters.keys())
            if old.get(key) != parameters.get(key)
        ]
        if old_dataset != dataset_sha256:
            reasons.append("the data set's content changed")
        if old_network != network_sha256:
            reasons.append("the checkpoint changed")
        if old_seed != seed:
            reasons.append(f"seed was {old_seed}, is {seed}")
        if old_code != code_version:
            reasons.append(f"the stage's code went from version {old_code} to {code_version}")
        return f"not run {run_id} again: " + "; ".join(reasons)
    return None


@functools.cache
def package_versions() -> str:
    """Versions of Python and the packages that shape results, as a JSON object; as they were when first asked for."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return json.dumps(versions, sort_keys=True)


@functools.cache
def git_revision() -> str | None:
    """Commit of the checkout this code runs from, with "+" when tracked files differ; None outside a checkout. As it was when first asked
    for: a process goes on with the code it loaded."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+" if changes.strip() else "")
