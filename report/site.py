"""Build the atlas: everything the warehouse says, as a folder of pages."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import duckdb

from analyze import tables
from report import contents, media, record, topics
from report.folder import Folder, alone
from report.pages.networks import layers, network
from report.pages.neurons import neurons
from report.pages.overview import overview
from report.pages.sounds import classes, clips, datasets
from report.parts import charts
from report.parts.page import Press
from report.parts.search_index import Index
from report.topics.topic import Known
from warehouse.containers import is_there
from warehouse.store import UserError, connect_readonly

HERE = Path(__file__).parent
PARTS = ("**/*.py", "*.sql", "templates/**/*.j2", "static/*")
Progress = Callable[[str, int, int], None]
"""Called now and then with what is being made, how many are done, and how many there are."""


@dataclass
class Built:
    """What a report did. Pages are all files but sounds and pictures; `pages_per_second` counts neuron pages, in `neuron_seconds`."""

    written: int
    unchanged: int
    media: int
    removed: int
    missing: int
    seconds: float
    neurons: int
    neuron_seconds: float

    @property
    def pages_per_second(self) -> float:
        """Neuron pages rendered and compared or written per second."""
        return self.neurons / self.neuron_seconds if self.neuron_seconds else 0.0


def build(warehouse: Path, site: Path, *, progress: Progress | None = None) -> Built:
    """Bring the atlas in `site` up to date with a warehouse.

    Files that would not change are left alone, and files of an earlier report that nothing links to any more are removed; files that no
    report made are never touched. Raises UserError when the warehouse cannot be read or the folder not written.
    """
    started = time.perf_counter()
    connect_readonly(warehouse).close()  # no folder is made where there is none, or a topic cannot be loaded
    topics.installed()
    try:
        with alone(site):
            return _build(warehouse, Folder(site), progress, started)
    except OSError as error:
        raise UserError(f"cannot write the atlas: {error.strerror or error} ({error.filename or site})") from error


def _build(warehouse: Path, folder: Folder, progress: Progress | None, started: float) -> Built:
    while True:
        with connect_readonly(warehouse) as con:
            state = fingerprint(con)
            gone = folder.missing_sounds()
            if folder.is_current(state) and not any(is_there(Path(path)) for path in gone):
                return Built(0, folder.pages_before(), 0, 0, len(gone), time.perf_counter() - started, 0, 0.0)
            shown = contents.read(con)
        folder.begin()
        # The warehouse is closed meanwhile: an open reader would keep an ingest from committing.
        found = media.make(shown, folder, progress)
        with connect_readonly(warehouse) as con:
            if fingerprint(con) != state:
                continue
            made = Site(Press(con, found), shown)
            for path, text in made.pages():
                folder.put(path, text)
            first = time.perf_counter()
            for done, (path, text) in enumerate(made.neuron_pages(), 1):
                folder.put(path, text)
                if progress and (done % 500 == 0 or done == shown.neurons):
                    progress("neuron pages", done, shown.neurons)
        seconds = time.perf_counter() - first
        removed = folder.finish(state, sorted(found.sources))
        now = time.perf_counter() - started
        return Built(folder.written, folder.unchanged, found.made, removed, len(found.missing), now, shown.neurons, seconds)


def fingerprint(con: duckdb.DuckDBPyConnection) -> str:
    """Hash of all a site follows from: the warehouse's runs and row counts, and what renders them."""
    digest = hashlib.sha256()
    for row in con.execute(
        "SELECT * REPLACE (epoch_us(started_at) AS started_at, epoch_us(finished_at) AS finished_at) FROM run ORDER BY 1"
    ).fetchall():
        digest.update(repr(row).encode("utf-8", "surrogatepass"))
    for (table,) in con.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY 1").fetchall():
        digest.update(f"{table} {con.execute(f'SELECT count(*) FROM {table}').fetchall()}".encode())
    for pattern in PARTS:
        for path in sorted(HERE.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    digest.update(Path(tables.intervals.__file__).read_bytes())
    for topic in topics.installed():
        digest.update(repr([topic.__module__, topic.__qualname__, *map(tables.sql, topic.tables), *topic.sql.items()]).encode())
        if topic not in topics.BUILT_IN:
            digest.update(Path(inspect.getfile(topic)).read_bytes())
    digest.update(" ".join(version(name) for name in ("jinja2", "altair", "vl-convert-python")).encode())
    return digest.hexdigest()


class Site:
    """Renders every page of a site."""

    def __init__(self, press: Press, shown: contents.Contents) -> None:
        self.press, self.shown, self.topics = press, shown, topics.installed()
        self.studies: list[Known] = []
        self.studies += [Known(press.con, study, self.topics, self.studies) for study in shown.studies]
        press.templates.globals["entries"] = [entry for topic in self.topics if (entry := topic.entry(self.studies))]

    def pages(self) -> Iterator[tuple[str, str]]:
        """Addresses and texts of everything but neurons' pages; the overview comes last, when what it links to is there."""
        press = self.press
        for path in sorted((HERE / "static").iterdir()):
            yield f"static/{path.name}", path.read_text("utf-8")
        yield "static/charts.js", charts.specifications()
        yield "static/vega.js", charts.vega()
        index = Index(self.shown)
        for topic in self.topics:
            topic.search(index, self.studies)
        yield "search.js", index.script()
        for known in self.studies:
            yield network(press, known)
            yield from layers(press, known)
            for its in known:
                yield from its.pages(press)
        for topic in self.topics:
            yield from topic.list_pages(press, self.studies)
        yield from datasets(press, self.shown)
        heard = [(dataset, [its for its in self.studies if its.study.dataset is dataset]) for dataset in self.shown.datasets]
        for dataset, studies in heard:
            yield from classes(press, dataset, studies)
        for dataset, studies in heard:
            yield from clips(press, self.topics, dataset, studies)
        yield from record.pages(press)
        yield overview(press, self.shown, self.topics, self.studies)

    def neuron_pages(self) -> Iterator[tuple[str, str]]:
        """Addresses and texts of all neurons' pages."""
        for known in self.studies:
            yield from neurons(self.press, known)
