"""Build the atlas: everything the warehouse says, as a folder of pages."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import duckdb
import jinja2
from markupsafe import Markup

from analyze import tables
from report import (
    ablations,
    charts,
    clusters,
    concepts,
    contents,
    facts,
    interventions,
    language,
    media,
    neurons,
    pages,
    probes,
    record,
    search_index,
    sounds,
    specific_ablations,
    specificity,
)  # fmt: skip
from report.folder import Folder
from warehouse.store import UserError, connect_readonly

HERE = Path(__file__).parent
PARTS = ("*.py", "*.sql", "templates/*", "static/*")
TABLES = (
    "adjectives", "dissections", "entropies", "importance", "interventions", "polysemanticity", "probes", "sentence_clusters",
    "specific_ablation_classes", "specific_ablations", "specific_neurons", "unlearning",
)  # fmt: skip
"""Derived tables that pages show."""

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
    folder = Folder(site)
    try:
        while True:
            with connect_readonly(warehouse) as con:
                state = fingerprint(con)
                gone = folder.missing_sounds()
                if folder.is_current(state) and not any(os.path.exists(path) for path in gone):
                    return Built(0, folder.pages_before(), 0, 0, len(gone), time.perf_counter() - started, 0, 0.0)
                shown = contents.read(con)
            folder.begin()
            # The warehouse is closed meanwhile: an open reader would keep an ingest from committing.
            found = media.make(shown, folder, progress)
            with connect_readonly(warehouse) as con:
                if fingerprint(con) != state:
                    continue
                return _render(con, shown, found, folder, state, started, progress)
    except OSError as error:
        raise UserError(f"cannot write the atlas: {error.strerror or error} ({error.filename or site})") from error


def _render(con, shown, found, folder, state, started, progress) -> Built:
    """Write all pages."""
    made = Site(con, shown, found)
    for path, text in made.pages():
        folder.put(path, text)
    first = time.perf_counter()
    total = shown.neurons
    for done, (path, text) in enumerate(made.neuron_pages(), 1):
        folder.put(path, text)
        if progress and (done % 500 == 0 or done == total):
            progress("neuron pages", done, total)
    seconds = time.perf_counter() - first
    removed = folder.finish(state, sorted(found.sources))
    now = time.perf_counter() - started
    return Built(folder.written, folder.unchanged, found.made, removed, len(found.missing), now, total, seconds)


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
    for name in TABLES:
        digest.update(tables.sql(name).encode())
    digest.update(" ".join(version(name) for name in ("jinja2", "altair", "vl-convert-python")).encode())
    return digest.hexdigest()


class Site:
    """Renders every page of a site."""

    def __init__(self, con: duckdb.DuckDBPyConnection, shown: contents.Contents, found: media.Media) -> None:
        self.con = con
        self.shown = shown
        self.found = found
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True, auto_reload=False,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        self.facts = [facts.read(con, study) for study in shown.studies]
        self.interventions = [interventions.read(con, study) for study in shown.studies]
        self.clusters = [clusters.read(con, *both) for both in zip(shown.studies, self.interventions, strict=True)]
        self.probes = [probes.read(con, study) for study in shown.studies]
        self.language = [language.read(con, study) for study in shown.studies]
        self.ablations = [ablations.read(con, study) for study in shown.studies]
        self.specific = [specific_ablations.read(con, study) for study in shown.studies]
        self.specificity = [specificity.read(con, study) for study in shown.studies]
        self.templates.globals["has_concepts"] = any(its.concepts.words for its in self.language)

    def pages(self) -> Iterator[tuple[str, str]]:
        """Addresses and texts of everything but neurons' pages; the overview comes last, when what it links to is there."""
        con, shown, found, known = self.con, self.shown, self.found, self.facts
        get = lambda name: self.templates.get_template(f"{name}.html.j2")  # noqa: E731
        for path in sorted((HERE / "static").iterdir()):
            yield f"static/{path.name}", path.read_text("utf-8")
        yield "static/charts.js", charts.specifications()
        yield "static/vega.js", charts.vega()
        words = [its.concepts for its in self.language]
        yield "search.js", search_index.script(shown, known, self.clusters, words, [its.descriptions for its in self.language])
        feet = [record.footers(con, depth) for depth in range(6)]
        each = (
            shown.studies,
            known,
            self.clusters,
            self.interventions,
            self.probes,
            self.language,
            self.ablations,
            self.specific,
            self.specificity,
        )
        for study, its, groups, disturbed, probed, said, lost, less, specific in zip(*each, strict=True):
            yield from pages.network(shown, study, its, disturbed, groups, self.probes, said, lost, less, specific, get("network"), feet[2])
            yield from pages.layers(study, its, groups, probed, said, self.found, get("layer"), feet[3])
            yield from clusters.pages(con, study, groups, its, disturbed, found, get("cluster"), feet[3])
            yield from concepts.pages(con, study, said.concepts, said.descriptions, its, found, get("concept"), feet[2])
            yield from ablations.page(study, lost, get("unlearning"), feet[1])
        yield from concepts.index(shown.studies, words, get("concepts"), feet[1])
        yield from sounds.datasets(con, shown, get("dataset"), feet[2])
        yield from sounds.classes(shown, known, self.clusters, self.specificity, found, get("class"), feet[4])
        yield from sounds.clips(con, shown, known, found, get("clip"), feet[3])
        yield from record.runs_page(con, get("runs"))
        yield from record.schema_page(con, get("schema"))
        yield from record.cookbook_page(con, get("cookbook"))
        shown_runs = [*(study.run_id for study in shown.studies), *(dataset.run_id for dataset in shown.datasets)]
        foot = Markup("<br>").join(feet[0][run_id] for run_id in dict.fromkeys(shown_runs))
        yield from pages.overview(
            shown, known, self.clusters, found, get("overview"), foot or Markup("The warehouse holds no finished run.")
        )

    def neuron_pages(self) -> Iterator[tuple[str, str]]:
        """Addresses and texts of all neurons' pages."""
        template = self.templates.get_template("neuron.html.j2")
        feet = record.footers(self.con, 3)
        each = (self.shown.studies, self.facts, self.clusters, self.language, self.specificity)
        for study, known, groups, words, specific in zip(*each, strict=True):
            runs = [study.run_id, *words.runs, *([specific.run_id] if specific.run_id is not None else [])]
            foot = Markup("<br>").join([feet[run_id] for run_id in runs])
            yield from neurons.pages(self.con, study, known, groups, words, specific, self.found, template, foot)
