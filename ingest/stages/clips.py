"""Stage `clips`: reads a data set's sounds, measures them, and writes the rows that all else refers to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import soundfile

from ingest.language.elsewhere import KILLED, Answers, Elsewhere
from ingest.sounds.listing import Entry, Listing, Rejected
from ingest.sounds.sound import MAX_SAMPLE, SoundError, measure_file, read_by_streams
from ingest.stages import Context, Here, Outcome, Progress, silent
from warehouse import containers, ledger, store

STAGE = "clips"
TITLE = "clips of {dataset}"
UNIT = "clips"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1
BATCH, COMMITS = 250, 64
"""Clips committed together at the least, and so many commits at the most: what one costs grows with what the warehouse holds."""
WORKERS = 4
IN_HAND = 4096
GRAIN_NS = 3_000_000_000
STREAMS_VERSION = 1  # of what makes read_by_streams say yes
LISTING = "/listing"  # the item of the data set itself; no clip's name begins with a slash


@dataclass(frozen=True)
class Settings:
    """Every clip is decoded once, measured and hashed: a file whose size, time of change and inode are those of the last time is not hashed again,
    unless `rehash` asks for it."""

    rehash: bool = False


def _sha256(path: Path) -> str | None:
    try:
        return store.sha256_file(path)
    except OSError:
        return None


def _measured(path: Path) -> dict[str, float | int | None] | str:
    try:
        return measure_file(path)
    except SoundError as error:
        return str(error)


ASKED: dict[str, Callable[[Path], Any]] = {"sha256": _sha256, "streams": read_by_streams, "measured": _measured}
"""Of a file: the hash of its content, None where it cannot be read; whether it is read by its streams; what a clip's row says, or what is wrong."""


class Reader:
    """Reads files in a process of a cluster."""

    name, device = "sounds", "cpu"
    parameters: Mapping[str, object] = {"libsndfile": soundfile.__libsndfile_version__}

    def ask(self, items: Sequence[tuple[str, Path]]) -> list[Any]:
        """What is ASKED of each file."""
        return [ASKED[what](path) for what, path in items]


@dataclass(frozen=True)
class _Files:
    """Has files read: by threads of this process or, if they are more than a batch, where the stage's work is done."""

    pool: Executor
    where: Here

    def each(self, what: str, entries: Sequence[Entry], told: list[dict[str, object]] | None = None) -> Iterator[Any]:
        """What is ASKED of the file of each entry, in order, None for one that kills whoever reads it; `told` gets rows of table batch."""
        paths, reader = [entry.path for entry in entries], Reader()
        there = self.where.engine(STAGE, Reader, reader, "ask") if len(paths) > BATCH else reader
        if not isinstance(there, Elsewhere):  # some in hand at a time: of millions the waiting work alone would take gigabytes
            for start in range(0, len(paths), IN_HAND):
                yield from self.pool.map(ASKED[what], paths[start : start + IN_HAND])
            return
        early: dict[int, Answers] = {}
        turn = 0
        for answers in there.answered([[(what, path) for path in paths[start : start + BATCH]] for start in range(0, len(paths), BATCH)]):
            early[answers.number] = answers
            while turn in early:
                here = early.pop(turn)
                if told is not None:
                    told += here.batches
                yield from here.said
                turn += 1


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Bring the data set in."""
    return ingest_clips(context.warehouse, context.listing, progress, rehash=settings.rehash, where=context.where)


def ingest_clips(
    warehouse: Path, listing: Listing, progress: Progress = silent, *, rehash: bool = False, where: Here | None = None
) -> Outcome:
    """Bring a data set into the warehouse. A file that cannot be used becomes a failure row, the rest goes on. `where`: has files read.

    Continues an interrupted run; does nothing when the same content is already in.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        files = _Files(pool, where or Here())
        hashes = _hashes(warehouse, listing.entries, files, rehash=rehash)
        content = content_sha256(listing, hashes)
        streamed = _streamed(warehouse, content, listing, files)
        parameters: dict[str, object] = {"dataset": listing.name, "reader": listing.reader}
        if streamed:  # versions before took another length, or less of the sound, for them
            content, parameters = store.sha256_json([content, "streams", streamed]), parameters | {"decoding": "whole streams"}
        run = ledger.begin(warehouse, STAGE, parameters=parameters, code_version=CODE_VERSION, dataset_sha256=content)
        if run.finished and _above_scale(run):
            content, parameters = store.sha256_json([content, "scale"]), parameters | {"largest_sample": f"{MAX_SAMPLE:g} times full scale"}
            run = ledger.begin(warehouse, STAGE, parameters=parameters, code_version=CODE_VERSION, dataset_sha256=content)
        if run.finished:
            _follow_source(run, listing)
            _add_amplitudes(run, listing, files)
            return Outcome(run, 0, run.failures())
        done = run.done()
        if LISTING not in done:
            with run.commit([LISTING], ((item.item, _reason(item)) for item in listing.rejected)) as con:
                _insert_dataset(con, run, listing)
        pending = [entry for entry in listing.entries if entry.name not in done]
        before, size = len(listing.entries) - len(pending), max(BATCH, len(pending) // COMMITS)
        told: list[dict[str, object]] = []
        measured = files.each("measured", pending, told)
        for start in range(0, len(pending), size):
            batch = pending[start : start + size]
            rows, failures = [], []
            for number, (entry, result) in enumerate(zip(batch, measured, strict=False)):
                if number % BATCH == 0:
                    progress(before + start + number, len(listing.entries))
                if not isinstance(result, dict):
                    failures.append((entry.name, result or KILLED))
                else:
                    rows.append(
                        {"name": entry.name, "sha256": hashes[entry.name], "fold": entry.fold, "source_group": entry.group, **result}
                    )
            kept = {row["name"] for row in rows}
            with run.commit([entry.name for entry in batch], failures) as con:
                _insert_clips(con, run, rows, [entry for entry in batch if entry.name in kept])
                if told:
                    store.insert(con, "batch", pl.DataFrame(told).with_columns(pl.lit(run.run_id).alias("run_id")))
            told.clear()
            progress(before + start + len(batch), len(listing.entries))
    run.finish()
    return Outcome(run, len(pending), run.failures())


def content_sha256(listing: Listing, hashes: dict[str, str | None]) -> str:
    """Hash over everything read from a data set: file contents (None: unreadable) by name, labels, folds, groups, rejected rows, classes."""
    entries = ([entry.name, hashes[entry.name], entry.labels, entry.fold, entry.group] for entry in listing.entries)
    rejected = [(item.item, item.reason) for item in listing.rejected]
    # The JSON of all in one list, of which no more than an entry is held.
    digest = hashlib.sha256(f"[{_json(listing.reader)}, [".encode("utf-8", "surrogatepass"))
    for number, entry in enumerate(entries):
        digest.update(f"{', ' if number else ''}{_json(entry)}".encode("utf-8", "surrogatepass"))
    digest.update(f"], {_json(rejected)}, {_json(listing.label_sets)}]".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _reason(rejected: Rejected) -> str:
    return f"{rejected.reason}; {rejected.advice}" if rejected.advice else rejected.reason


def _hashes(warehouse: Path, entries: list[Entry], files: _Files, *, rehash: bool) -> dict[str, str | None]:
    """Hash of each file's content by name, None of one that cannot be read; known ones of files that have not changed since."""
    began_ns = time.time_ns()
    seen: dict[Path, tuple[int, int, int] | None] = {}
    columns: dict[str, list] = {name: [] for name in ("path", "size_bytes", "modified_ns", "inode")}
    for entry in entries:
        path = entry.path.absolute()
        state = _state(container[0] if (container := containers.container(path)) else path, seen)
        for name, value in zip(columns, (str(path), *(state or (None, None, None))), strict=True):
            columns[name].append(value)
    types = {"path": pl.String, "size_bytes": pl.Int64, "modified_ns": pl.Int64, "inode": pl.UInt64}
    states = pl.DataFrame(columns, schema=types).with_row_index("position")
    known: list[str | None] = [None] * len(entries)
    if not rehash:
        with store.connect_readonly(warehouse) as con:
            con.register("states", states)
            query = """SELECT sha256 FROM states LEFT JOIN file_hash USING (path, size_bytes, modified_ns, inode) ORDER BY position"""
            known = [sha256 for (sha256,) in con.execute(query).fetchall()]
    pending = [position for position, sha256 in enumerate(known) if sha256 is None]
    for position, sha256 in zip(pending, files.each("sha256", [entries[position] for position in pending]), strict=True):
        known[position] = sha256
    # A file that changes again within the grain of its file system's clock would look the same.
    settled = (pl.col("modified_ns") < began_ns - GRAIN_NS) & pl.col("sha256").is_not_null()
    new = states.with_columns(pl.Series("sha256", known, pl.String))[pending].filter(settled).drop("position")
    if len(new):
        with store.transaction(warehouse) as con:
            con.register("new", new)
            con.execute("INSERT OR REPLACE INTO file_hash BY NAME SELECT * FROM new")
    return dict(zip((entry.name for entry in entries), known, strict=True))


def _state(path: Path, seen: dict[Path, tuple[int, int, int] | None]) -> tuple[int, int, int] | None:
    """Size, time of change and inode of a file, looked up once; None of one that is not there."""
    if path not in seen:
        if len(seen) > IN_HAND:  # of files, which are asked for once; the sounds of a container come together
            seen.clear()
        try:
            found = path.stat()
            seen[path] = (found.st_size, found.st_mtime_ns, found.st_ino)
        except OSError:
            seen[path] = None
    return seen[path]


def _streamed(warehouse: Path, content: str, listing: Listing, files: _Files) -> list[str]:
    """Names of the files that are read by their streams. For that every frame of an MP3 is passed over, so it is kept by the hash of what was
    read, and of a file that is another this is not."""
    kept = store.activation_folder(warehouse) / "streams" / f"{content}.json"
    version = [STREAMS_VERSION, soundfile.__libsndfile_version__]
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(kept.read_bytes())
        if found["version"] == version:
            return found["names"]
    names = [entry.name for entry, by in zip(listing.entries, files.each("streams", listing.entries), strict=True) if by]
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(".tmp")
        temporary.write_text(json.dumps({"version": version, "names": names}))
        store.publish(temporary, kept)
    return names


def _above_scale(run: ledger.Run) -> bool:
    """Whether a version before took clips that are refused now."""
    with store.connect_readonly(run.warehouse) as con:
        query = "SELECT count(*) FROM clip JOIN dataset USING (dataset_id) WHERE run_id = ? AND peak_dbfs > ?"
        row = con.execute(query, [run.run_id, 20 * math.log10(MAX_SAMPLE) + 0.01]).fetchone()
    return bool(row and row[0])


def _insert_dataset(con: duckdb.DuckDBPyConnection, run: ledger.Run, listing: Listing) -> None:
    con.execute(
        """INSERT INTO dataset
        SELECT (SELECT coalesce(max(dataset_id), 0) + 1 FROM dataset), run_id, $name,
               (SELECT count(*) + 1 FROM dataset WHERE name = $name), $reader, $source, dataset_sha256, $license
        FROM run WHERE run_id = $run_id""",
        {"name": listing.name, "reader": listing.reader, "source": str(listing.source.absolute()), "license": listing.license, "run_id": run.run_id},
    )  # fmt: skip
    for label_set, classes in listing.label_sets.items():
        con.execute(
            """INSERT INTO label_set
            SELECT (SELECT coalesce(max(label_set_id), 0) + 1 FROM label_set), dataset_id, ? FROM dataset WHERE run_id = ?""",
            [label_set, run.run_id],
        )
        names = pl.DataFrame({"name": classes}, schema={"name": pl.String}).with_row_index("position", 1)
        con.register("names", names)
        con.execute(
            """INSERT INTO class
            SELECT (SELECT coalesce(max(class_id), 0) FROM class) + position, (SELECT max(label_set_id) FROM label_set), name
            FROM names ORDER BY position"""
        )


def _insert_clips(con: duckdb.DuckDBPyConnection, run: ledger.Run, rows: list[dict], entries: Iterable[Entry]) -> None:
    if not rows:
        return
    clips = pl.DataFrame(rows, infer_schema_length=None).with_row_index("position", 1)
    labels = pl.DataFrame(
        [(entry.name, label_set, name) for entry in entries for label_set, names in entry.labels.items() for name in names],
        schema={"clip": pl.String, "label_set": pl.String, "class": pl.String},
        orient="row",
    )
    con.register("clips", clips)
    con.register("labels", labels)
    con.execute(
        """INSERT INTO clip BY NAME
        SELECT (SELECT coalesce(max(clip_id), 0) FROM clip) + position AS clip_id,
               (SELECT dataset_id FROM dataset WHERE run_id = ?) AS dataset_id, * EXCLUDE position
        FROM clips ORDER BY position""",
        [run.run_id],
    )
    con.execute(
        """INSERT INTO clip_label
        SELECT DISTINCT clip.clip_id, class.class_id
        FROM labels
        JOIN dataset ON dataset.run_id = ?
        JOIN clip ON clip.dataset_id = dataset.dataset_id AND clip.name = labels.clip
        JOIN label_set ON label_set.dataset_id = dataset.dataset_id AND label_set.name = labels.label_set
        JOIN class ON class.label_set_id = label_set.label_set_id AND class.name = labels.class
        ORDER BY ALL""",
        [run.run_id],
    )


def _follow_source(run: ledger.Run, listing: Listing) -> None:
    """Remember where the sounds are now, when a data set already read has moved."""
    source = str(listing.source.absolute())
    with store.connect_readonly(run.warehouse) as con:
        known = con.execute("SELECT source FROM dataset WHERE run_id = ?", [run.run_id]).fetchone()
    if known and known[0] != source:
        with store.transaction(run.warehouse) as con:
            con.execute("UPDATE dataset SET source = ? WHERE run_id = ?", [source, run.run_id])


def _add_amplitudes(run: ledger.Run, listing: Listing, files: _Files) -> None:
    """Measure the mean amplitude of clips that came in before it was measured."""
    query = "SELECT clip.name FROM clip JOIN dataset USING (dataset_id) WHERE run_id = ? AND mean_amplitude IS NULL"
    with store.connect_readonly(run.warehouse) as con:
        lacking = {name for (name,) in con.execute(query, [run.run_id]).fetchall()}
    entries = [entry for entry in listing.entries if entry.name in lacking]
    if not entries:
        return
    measured = [
        (entry.name, found["mean_amplitude"])
        for entry, found in zip(entries, files.each("measured", entries), strict=True)
        if isinstance(found, dict)
    ]
    with store.transaction(run.warehouse) as con:
        con.register("measured", pl.DataFrame(measured, {"name": pl.String, "mean_amplitude": pl.Float64}, orient="row"))
        con.execute(
            """UPDATE clip SET mean_amplitude = measured.mean_amplitude FROM measured
            WHERE clip.name = measured.name AND dataset_id = (SELECT dataset_id FROM dataset WHERE run_id = ?)""",
            [run.run_id],
        )
