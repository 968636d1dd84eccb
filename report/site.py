"""Build the atlas: everything the warehouse says, as a folder of pages."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import duckdb

from analyze import tables
from report import contents, data, record, topics
from report.asked import Asked
from report.folder import Folder, alone
from report.media import Media
from report.pages.networks import layers, network
from report.pages.neurons import neurons
from report.pages.overview import overview
from report.pages.sounds import classes, clips, datasets
from report.parts import charts, citing
from report.parts.page import Press
from report.parts.search_index import Index, Related
from report.topics.topic import Known
from warehouse.containers import is_there
from warehouse.store import UserError, connect_readonly

HERE = Path(__file__).parent
PARTS = ("**/*.py", "*.sql", "templates/**/*.j2", "static/*")
Progress = Callable[[str, int, int], None]
"""Called now and then with what is being made, how many are done, and how many there are."""


@dataclass
class Built:
    """What a report did, and what the site then holds. Pages are all files but sounds and pictures; `pages_per_second` counts neuron pages, in
    `neuron_seconds`, in which sounds and pictures are made, too."""

    written: int
    unchanged: int
    media: int
    removed: int
    missing: int
    seconds: float
    neurons: int
    neuron_seconds: float
    media_files: int
    media_bytes: int
    page_bytes: int
    left_out: int = 0

    @property
    def pages_per_second(self) -> float:
        """Neuron pages rendered and compared or written per second."""
        return self.neurons / self.neuron_seconds if self.neuron_seconds else 0.0

    def __str__(self) -> str:
        done = f"{self.written} pages written, {self.unchanged} unchanged, {self.media} media files written, {self.seconds:.1f} s"
        pages, media = f"{self.written + self.unchanged} pages", f"{self.media_files} media files"
        left = f"\n{self.left_out} neurons have no page of their own, a row of their layer's alone: more by --pages, others by --layer"
        return (
            f"{done}\n{pages} of {self.page_bytes / 1e6:.1f} MB, {media} of {self.media_bytes / 1e6:.1f} MB{left if self.left_out else ''}"
        )


def build(
    warehouse: Path, site: Path, asked: Asked | None = None, *, progress: Progress | None = None, related: Related | None = None
) -> Built:
    """Bring the atlas in `site` up to date with a warehouse.

    Files that would not change are left alone, and files of an earlier report that nothing links to any more are removed; files that no
    report made are never touched. `related` finds words near
    others in meaning for the search, which does without where it is None. Raises UserError when the warehouse cannot be read or the folder not written.
    """
    started = time.perf_counter()
    connect_readonly(warehouse).close()  # no folder is made where there is none, or a topic cannot be loaded
    topics.installed()
    try:
        with alone(site):
            built = _build(warehouse, Folder(site), asked or Asked(), related, progress)
    except OSError as error:
        raise UserError(f"cannot write the atlas: {error.strerror or error} ({error.filename or site})") from error
    return replace(built, seconds=time.perf_counter() - started)


def _build(warehouse: Path, folder: Folder, asked: Asked, related: Related | None, progress: Progress | None) -> Built:
    with connect_readonly(warehouse) as con:
        state = fingerprint(con, asked, related)
        gone = folder.missing_sounds()
        if folder.is_current(state) and not any(is_there(Path(path)) for path in gone):
            pages, media_files = folder.before()
            return Built(0, len(pages), 0, 0, len(gone), 0.0, 0, 0.0, len(media_files), sum(media_files), sum(pages), folder.left_out)
        shown = asked.read(con)
    with Media(shown, folder, progress) as media:
        while True:
            folder.begin()
            with connect_readonly(warehouse) as con:
                if (now_state := fingerprint(con, asked, related)) != state:
                    state, shown = now_state, asked.read(con)
                made = Site(Press(con, media), shown, asked.all_clips, related)
                for path, text in made.pages():
                    folder.put(path, text)
                first = time.perf_counter()
                folder.announce(*made.neuron_addresses())
                for done, (path, text) in enumerate(made.neuron_pages(), 1):
                    folder.put(path, text)
                    if progress and (done % 500 == 0 or done == shown.neurons):
                        progress("neuron pages", done, shown.neurons)
                seconds = time.perf_counter() - first
                for path, text in made.last_pages():
                    folder.put(path, text)
            # The warehouse is closed meanwhile: an open reader would keep an ingest from committing.
            if media.finish():
                break
        page_bytes, (files, media_bytes) = sum(folder.files.values()), media.keep()
        removed = folder.finish(state, sorted(media.sources), shown.left_out)
    return Built(
        folder.written, folder.unchanged, media.made, removed, len(media.missing), 0.0, shown.neurons, seconds, files, media_bytes, page_bytes,
        shown.left_out,
    )  # fmt: skip


def fingerprint(con: duckdb.DuckDBPyConnection, asked: Asked, related: Related | None = None) -> str:
    """Hash of all a site follows from: the warehouse's runs and row counts, what renders them, what is asked for, and by what words are related."""
    digest = hashlib.sha256(repr((asked, related and related.key)).encode())
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

    def __init__(self, press: Press, shown: contents.Contents, all_clips: bool = False, related: Related | None = None) -> None:
        self.press, self.shown, self.all_clips, self.related, self.topics = press, shown, all_clips, related, topics.installed()
        self.studies: list[Known] = []
        self.studies += [Known(press.con, study, self.topics, self.studies) for study in shown.studies]
        self.own = [known for known in self.studies if known.study.host is None]
        self.heard = [(dataset, [its for its in self.studies if its.study.dataset is dataset]) for dataset in shown.datasets]
        self.entries = [entry for topic in self.topics if (entry := topic.entry(self.own))]
        press.templates.globals["entries"] = self.entries

    def pages(self) -> Iterator[tuple[str, str | bytes]]:
        """Addresses and texts of everything that comes before neurons' pages."""
        press = self.press
        for path in sorted((HERE / "static").iterdir()):
            yield f"static/{path.name}", (self.head() if path.name == "atlas.js" else "") + path.read_text("utf-8")
        yield "static/charts.js", charts.specifications()
        yield "static/vega.js", charts.vega()
        index = Index(self.shown)
        for topic in self.topics:
            topic.search(index, self.own)
        yield "search.js", index.script()
        yield "related.js", index.related(self.related)
        for known in self.own:
            yield network(press, known)
            yield from layers(press, known)
            for its in known:
                yield from its.pages(press)
        for topic in self.topics:
            yield from topic.list_pages(press, self.own)
        yield from datasets(press, self.shown)
        for dataset, studies in self.heard:
            yield from classes(press, dataset, studies)
        yield from record.pages(press)
        yield "cite.js", citing.script(press.con)
        yield press.page("lists.html").write("lists", title="Lists of neurons")
        yield from data.pages(press.con, self.studies[0].derived if self.studies else {})

    def head(self) -> str:
        """What the script needs to make the head of neurons' pages, and the search's box: links, and what the search finds."""
        entries = self.entries
        links = [["Networks", "index.html#networks"], ["Sounds", "index.html#sounds"], *([entry.title, entry.address] for entry in entries)]
        links += [["Runs", "runs.html"], ["Schema", "schema.html"], ["SQL", "cookbook.html"], ["Lists", "lists.html"]]
        texts = [", ".join(["Search neurons", "classes", *finds, "clips"]) for finds in zip(*[entry[2:] for entry in entries], strict=True)]
        said = {"links": links, "finds": texts or ["Search neurons, classes, clips"] * 2}
        return f"AURICLE_HEAD={json.dumps(said, ensure_ascii=False, separators=(',', ':'))};\n"

    def neuron_addresses(self) -> Iterator[str]:
        """Addresses of all neurons' pages."""
        for study in self.shown.own:
            for layer in (layer for layer in study.by_first if layer.is_asked):
                yield from (f"{layer.folder}/{layer.file(neuron_id)}" for neuron_id in layer.ids)

    def neuron_pages(self) -> Iterator[tuple[str, str]]:
        """Addresses and texts of all neurons' pages and their style sheets."""
        for known in self.own:
            yield from neurons(self.press, known)

    def last_pages(self) -> Iterator[tuple[str, str]]:
        """Addresses and texts of the overview, when what it links to is there, and of clips, when it is known which of them other pages show."""
        press = self.press
        yield overview(press, self.shown, self.topics, self.own)
        for dataset, studies in self.heard:
            yield from clips(press, self.topics, dataset, studies, all_clips=self.all_clips)
