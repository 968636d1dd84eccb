"""Open, create, migrate and write a warehouse."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from warehouse import containers, locks

if TYPE_CHECKING:  # spares those who only read its import
    import numpy as np
    import polars as pl
    import pyarrow

SCHEMA_VERSION = 6

STORAGE_VERSION = "v1.4.0"
PATIENCE_S = 60.0
SETTLED_AT_ONCE = 16

# By process, a database in memory that a warehouse is attached to for a transaction: starting DuckDB takes several times as long as a small
# commit. By process, because DuckDB's threads do not survive a fork; what a child finds of its parent's it must leave alone.
_MEMORY: dict[int, duckdb.DuckDBPyConnection] = {}

LOCAL = "put the warehouse on a local disk"
_WARNED: set[str] = set()


class UserError(Exception):
    """Something the user can mend; its text is one line: what is wrong, where, what to do."""


def warehouse_path(text: str | Path) -> Path:
    """A warehouse's path as a user gives it. Raises UserError for one that cannot be a file's."""
    given = str(text)
    if given.endswith("/") or Path(given).name in ("", ".."):
        raise UserError(f"--warehouse {given!r} names no file: give one, like warehouse/auricle.duckdb")
    if not given.isascii() and any("\ud800" <= character <= "\udfff" for character in given):
        raise UserError(f"--warehouse {given!r} is no UTF-8: name another file")
    return Path(given)


def given_path(text: str | Path) -> Path:
    """A path as a user gives it; an empty one, of a variable that is not set, say, would be the working folder."""
    if not str(text):
        raise UserError("a path is empty: name a file or folder, or leave its option out")
    return Path(text)


def is_special(path: Path) -> bool:
    """Whether something other than a regular file is at a path, such as a pipe, which waits for ever to be read."""
    return path.exists() and not path.is_file()


def first_line(error: BaseException) -> str:
    """What an error says, as one line of at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def auricle_version() -> str:
    """Version of the installed distribution."""
    try:
        return importlib.metadata.version("auricle")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def schema_sql() -> str:
    """Text of schema.sql, from the checkout or from the installed package."""
    here = Path(__file__).parent
    for path in (here.parent / "schema.sql", here / "schema.sql"):
        if path.is_file():
            return path.read_text()
    raise UserError("schema.sql is missing from this installation: install Auricle again")


def migration_sql(version: int) -> str:
    """SQL that takes a warehouse from the version before to `version`: what schema.sql says below its line `-- Since version N`."""
    return re.split(r"(?m)^-- Since version \d+", schema_sql())[version - 1]


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of the bytes of a file, or of a sound in a container."""
    with containers.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """Hex SHA-256 of a JSON-representable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def publish(temporary: Path, final: Path) -> None:
    """Move a finished file or folder to its final name: after a crash there is the whole of it or nothing."""
    if temporary.is_file():
        _settle(temporary)
    os.replace(temporary, final)


def save_array(path: Path, array: np.ndarray) -> str:
    """Write an array as a .npy file, whole or not at all; returns the file's hash."""
    import numpy as np

    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    digest = sha256_file(temporary)
    publish(temporary, path)
    return digest


def settle(files: Iterable[Path]) -> None:
    """Have written files reach the disk; several at once, which costs little more than one."""
    with ThreadPoolExecutor(SETTLED_AT_ONCE) as pool:
        list(pool.map(_settle, files))


def _settle(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(path: Path) -> None:
    """Create an empty warehouse of the present schema at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    leftovers = (temporary, temporary.with_name(temporary.name + ".wal"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    try:
        with duckdb.connect() as con:
            con.execute(f"ATTACH '{_quoted(temporary)}' AS warehouse (STORAGE_VERSION '{STORAGE_VERSION}')")
            con.execute("USE warehouse")
            con.execute("BEGIN")
            con.execute(schema_sql())
            con.execute("INSERT INTO schema_version VALUES (?, now(), ?)", [SCHEMA_VERSION, auricle_version()])
            con.execute("COMMIT")
            con.execute("USE memory")
            con.execute("DETACH warehouse")
        publish(temporary, path)
    finally:  # nothing, once it is published
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)


def connect_readonly(path: Path, patience_s: float = PATIENCE_S) -> duckdb.DuckDBPyConnection:
    """Open a warehouse for reading; waits up to `patience_s` while another process commits.

    Raises UserError when there is no warehouse, it is no warehouse, or its schema version is not the present one.
    """
    if not path.is_file():
        if is_special(path):
            raise UserError(f"{path} is no regular file: name another with --warehouse")
        raise UserError(f"no warehouse at {path}: make one with `auricle ingest` or `auricle demo`, or name another with --warehouse")
    con = _open(path, patience_s=patience_s)
    try:
        version = _version(con, path)
        if version < SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}, this Auricle reads {SCHEMA_VERSION}: run `auricle ingest` on it once to migrate"
            )
    except BaseException:
        con.close()
        raise
    return con


def ask(path: Path, sql: str) -> pyarrow.Table | None:
    """The result of a statement on a warehouse that is open for reading only; None of one that has none. Raises UserError where it fails."""
    with connect_readonly(path) as con:
        con.execute("SET enable_progress_bar = false")  # it would stand among the results
        try:
            relation = con.sql(sql)
            return None if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"the query failed: {' '.join(str(error).split())}") from None


@contextlib.contextmanager
def transaction(path: Path, patience_s: float = PATIENCE_S) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the warehouse for one transaction: commit at the end, nothing at all on an exception. Waits while readers have it open."""
    if os.getpid() not in _MEMORY:
        _MEMORY[os.getpid()] = duckdb.connect(config={"temp_directory": f"{path}.tmp"})
    con, detached = _MEMORY[os.getpid()].cursor(), False
    try:
        _patiently(path, patience_s, lambda: con.execute(f"ATTACH '{_quoted(path)}' AS warehouse"))
        con.execute("USE warehouse")
        con.execute("BEGIN")
        yield con
        con.execute("COMMIT")
        with contextlib.suppress(duckdb.Error):  # committed; a checkpoint that failed is made up for when the file is next opened
            con.execute("USE memory")
            con.execute("DETACH warehouse")
            detached = True
    finally:
        if not detached:
            _MEMORY.pop(os.getpid()).close()  # and with it the file, whatever state it is in
        con.close()


def extend(path: Path, sql: str) -> None:
    """Create the tables that SQL of a package outside Auricle creates where they are missing."""
    with transaction(path) as con:
        con.execute(sql)


@contextlib.contextmanager
def writer(path: Path, command: str = "") -> Iterator[None]:
    """Be the one writer of the warehouse, which is created or migrated first.

    Raises UserError naming the process that holds it, and for a folder or file that cannot be written.
    """
    if is_special(path):
        raise UserError(f"{path} is no regular file: name another with --warehouse")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise UserError(f"{path} is being written by {holder}: wait for it to end, or stop it") from None
        except OSError as error:
            raise UserError(f"{path} cannot be locked ({error.strerror}): {LOCAL}") from None
        _check_locks(path)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} ({command or ' '.join(sys.argv)[:200]}, since {datetime.now():%Y-%m-%d %H:%M:%S})")
        lock.flush()
        try:
            if not path.exists():
                create(path)
            _migrate(path)
            yield
        finally:
            lock.truncate(0)


def _check_locks(path: Path) -> None:
    """Refuse a file system that would let a second writer in, and warn of one that might let in one on another machine."""
    try:
        honoured = locks.are_honoured(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be locked ({error.strerror}): {LOCAL}") from None
    kind = locks.shared(path)
    if not honoured:
        raise UserError(f"{path} lies where locks are not honoured{f', on {kind}' if kind else ''}, and two writers would ruin it: {LOCAL}")
    if kind and str(path) not in _WARNED:
        _WARNED.add(str(path))
        print(
            f"{path} lies on {kind}, where locks may not hold between machines: write from one machine at a time, or {LOCAL}",
            file=sys.stderr,
        )


def _migrate(path: Path) -> None:
    con = _open(path, patience_s=PATIENCE_S)
    with con:
        version = _version(con, path)
    for step in range(version + 1, SCHEMA_VERSION + 1):
        with transaction(path) as con:
            con.execute("-- " + migration_sql(step))
            con.execute("INSERT INTO schema_version VALUES (?, now(), ?)", [step, auricle_version()])


def _version(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    try:
        [(version,)] = con.execute("SELECT max(version) FROM schema_version").fetchall()
    except duckdb.CatalogException:
        version = None
    if not isinstance(version, int):  # none, or another program's
        raise UserError(f"{path} is a DuckDB database but not an Auricle warehouse: name another file with --warehouse")
    if version > SCHEMA_VERSION:
        raise UserError(f"{path} has schema version {version}, this Auricle knows up to {SCHEMA_VERSION}: install a newer Auricle")
    return int(version)


def _open(path: Path, *, patience_s: float) -> duckdb.DuckDBPyConnection:
    return _patiently(path, patience_s, lambda: duckdb.connect(str(path), read_only=True))


def _patiently(path: Path, patience_s: float, attempt: Callable[[], duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
    """What an attempt to open the warehouse gives, made again while another process holds it."""
    deadline = time.monotonic() + patience_s
    pause = 0.01
    while True:
        try:
            return attempt()
        except duckdb.IOException as error:
            text = str(error).splitlines()[0]
            if "Could not set lock" not in text:
                raise UserError(f"cannot open {path}: {text}") from None
            if time.monotonic() > deadline:
                holder = text.partition("held in ")[2].partition(". See")[0] or "another process"
                raise UserError(f"{path} has been in use for {patience_s:.0f} s by {holder}: close it there and try again") from None
        except duckdb.Error as error:
            raise UserError(f"cannot open {path}: {str(error).splitlines()[0]}") from None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def free_bytes(folder: Path) -> int:
    """Free space of the file system that holds `folder`, in bytes."""
    return shutil.disk_usage(folder).free


def activation_folder(warehouse: Path) -> Path:
    """Folder of a warehouse's activation files, beside the database file: NAME.activations of NAME.duckdb, otherwise one that no other
    database beside it has, not even one whose name differs behind the last dot alone."""
    return warehouse.with_suffix(".activations") if warehouse.suffix == ".duckdb" else warehouse.with_name(f"{warehouse.name}-activations")


def run_folder(warehouse: Path, run_id: int, *, continued: bool) -> Path:
    """Folder of a run's activation files. A run that is continued may have begun where warehouses of any ending had them before."""
    name = f"run-{run_id:04d}"
    folder, before = activation_folder(warehouse) / name, warehouse.with_suffix(".activations") / name
    return before if continued and before.is_dir() and not folder.exists() else folder


def insert(con: duckdb.DuckDBPyConnection, table: str, frame: pl.DataFrame) -> None:
    """Load a frame whose column names are those of the table; activation_file gets its number."""
    con.register("frame", frame)
    if table == "activation_file":
        con.execute(
            """INSERT INTO activation_file BY NAME
            SELECT (SELECT coalesce(max(activation_file_id), 0) FROM activation_file) + row_number() OVER () AS activation_file_id, * FROM frame"""
        )
    else:
        con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM frame")
    con.unregister("frame")


def rows(frame: pyarrow.Table) -> list[tuple]:
    """Rows of a result; columns of dates that Python does not know, such as those before Christ, as texts."""
    columns = []
    for number, column in enumerate(frame.columns):
        try:
            columns.append(column.to_pylist())
        except (OverflowError, ValueError):
            with duckdb.connect() as memory:
                memory.register("frame", frame.select([number]).rename_columns(["value"]))
                columns.append([text for (text,) in memory.execute("SELECT value::VARCHAR FROM frame").fetchall()])
    return list(zip(*columns, strict=True))


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder, removed at the end; what a killed run left in it goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
