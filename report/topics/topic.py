"""A topic: what the atlas says on one subject, on every page that has something of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple, TypeVar, cast

import duckdb
import polars as pl
from markupsafe import Markup

from analyze import tables
from report.contents import Class, Dataset, Layer, Study, runs_of
from report.parts.page import Page, Press
from report.parts.search_index import Index

T = TypeVar("T", bound="Topic")


class Part(NamedTuple):
    """What a topic puts on a page: markup and its place, the runs it comes from, rows of its charts by their names in the markup, and how
    the page's list of its parts leads to it (address within the page, text)."""

    html: Markup
    place: str = "more"
    runs: Sequence[int] = ()
    rows: Mapping[str, list[dict]] = MappingProxyType({})
    link: tuple[str, str] | None = None


class Parts(NamedTuple):
    """What a topic puts on the pages of many neurons or clips, by number, and the runs that all of these pages name."""

    of: Mapping[int, Sequence[Part]] = MappingProxyType({})
    runs: Sequence[int] = ()


def by_place(parts: Iterable[Part], *places: str) -> dict[str, list[Markup]]:
    """Markup of parts by place of a page, in their order."""
    at: dict[str, list[Markup]] = {place: [] for place in (*places, "more")}
    for part in parts:
        at[part.place].append(part.html)
    return at


def links(parts: Sequence[Part], at: Iterable[str]) -> list[tuple[str, str]]:
    """Links to parts by their places' order; none when they lead no further than the top."""
    found = [(place, part.link) for place in at for part in parts if part.place == place and part.link]
    return [link for _, link in found] if any(place != "top" for place, _ in found) else []


class Column(NamedTuple):
    """A column of a layer's table of neurons: its title, what a reader can look for in it, its text by neuron, and the texts, where these are few, that
    the table can be narrowed to."""

    title: str
    finds: str
    cells: Mapping[int, str]
    choices: Sequence[str] = ()


class Entry(NamedTuple):
    """A page that every page's head leads to, and what the search finds by it: in a word, and more exactly."""

    title: str
    address: str
    finds: str
    finds_exactly: str


class Topic:
    """What is known of one study on one subject, by all its stage's runs or by one. A topic overrides what it has something for.

    Markup stands in the place it names, or after all others, in `more`. Pages have these places. Network: `top`, `numbers`, `words`; layer:
    `top`, then `above` and `below` the chart of neurons; neuron: `lead`, `told` (behind it), `summary`, `words`, `closed`, `classes`; class: `detectors`;
    clip: `captions`; overview: `glossary`. `Part.rows` serves on a network's page, `Part.link` there and on a layer's.
    """

    stage: ClassVar[str] = ""
    """The stage whose finished runs it shows."""
    tables: ClassVar[tuple[str, ...]] = ()
    """Derived tables it shows."""
    sql: ClassVar[Mapping[str, str]] = {}
    """SQL of derived tables of its own by name."""

    def __init__(self, known: Known, run_id: int | None = None) -> None:
        self.known, self.con, self.study, self.dataset = known, known.con, known.study, known.study.dataset
        self.finished = [run_id] if run_id else runs_of(self.con, self.study, self.stage) if self.stage else []
        self.run_id = self.finished[0] if self.finished else None
        self.runs = self.finished[:1]
        self.read()

    def read(self) -> None:
        """Read what several pages need. `finished` has the stage's runs, latest first, `run_id` the latest, `runs` what the network's page
        names."""

    def table(self, name: str) -> list[dict]:
        """Rows of a derived table."""
        if name not in self.known.derived:
            own = self.sql.get(name)
            self.known.derived[name] = self.con.sql(own).pl() if own else tables.table(self.con, name)
        return self.known.derived[name].to_dicts()

    def network(self, page: Page) -> Iterable[Part]:
        """Parts of the network's page."""
        return ()

    def layer(self, page: Page, layer: Layer) -> Iterable[Part]:
        """Parts of a layer's page."""
        return ()

    def column(self, layer: Layer) -> Column | None:
        """A column of a layer's table of neurons."""
        return None

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """Parts of the pages of all neurons of a layer, which come from one bulk read."""
        return Parts()

    def of_class(self, page: Page, cls: Class) -> Iterable[Part]:
        """Parts of a class's page."""
        return ()

    def pages(self, press: Press) -> Iterator[tuple[str, str]]:
        """Pages of its own: addresses and texts."""
        yield from ()

    @classmethod
    def clips(cls, page: Page, dataset: Dataset, heard: Sequence[Known]) -> Parts:
        """Parts of the pages of all clips of a data set, which the studies `heard`."""
        return Parts()

    @classmethod
    def overview(cls, page: Page, studies: Sequence[Known]) -> Iterable[Part]:
        """Parts of the overview."""
        return ()

    @classmethod
    def entry(cls, studies: Sequence[Known]) -> Entry | None:
        """Its entry in every page's head."""
        return None

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """Add what the search finds by it."""

    @classmethod
    def list_pages(cls, press: Press, studies: Sequence[Known]) -> Iterator[tuple[str, str]]:
        """Pages of its own about all studies."""
        yield from ()


class Known:
    """What the topics know of a study, each read when first asked for. `studies` are all of the site, and `derived` holds the derived tables that any of
    these asked for."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, study: Study, topics: Sequence[type[Topic]] = (), studies: Sequence[Known] = ()
    ) -> None:
        self.con, self.study, self.topics, self.studies = con, study, topics, studies
        self._read: dict[type[Topic], Topic] = {}
        self._beside: dict[type[Topic], list] = {}
        self._latest: dict[int, str | None] | None = None
        self.derived: dict[str, pl.DataFrame] = studies[0].derived if studies else {}

    @property
    def latest(self) -> dict[int, str | None]:
        """Runs that stand side by side, and the parameters that tell each from the others; see view v_run."""
        if self._latest is None:
            self._latest = dict(self.con.execute("SELECT run_id, parameters FROM v_run WHERE is_latest").fetchall())
        return self._latest

    def __getitem__(self, topic: type[T]) -> T:
        if topic not in self._read:
            self._read[topic] = topic(self)
        return cast(T, self._read[topic])

    def __iter__(self) -> Iterator[Topic]:
        return (self[topic] for topic in self.topics)

    def beside(self, topic: type[T]) -> list[T]:
        """The topic by each of its stage's runs that stand side by side, newest first; where there is but one, by all."""
        if topic not in self._beside:
            runs = [run for run in self[topic].finished if run in self.latest] if topic.stage else []
            self._beside[topic] = [topic(self, run) for run in runs] if len(runs) > 1 else [self[topic]]
        return cast(list[T], self._beside[topic])

    def named(self, draw: Callable[[Topic], Iterable[Part]]) -> Iterator[Part]:
        """Parts of every topic, those of runs side by side under the names of these."""
        for topic in self.topics:
            every, drawn = self.beside(topic), 0
            for its in every:
                parts = [_of_tables(part, topic) for part in draw(its)]
                yield from parts if len(every) == 1 else (_of_run(part, its, self.latest, is_first=not drawn) for part in parts)
                drawn += len(parts)


def _of_tables(part: Part, topic: type[Topic]) -> Part:
    """A part whose heading names the derived tables that its topic shows, for who serves the page."""
    known = [name for name in topic.tables if name not in topic.sql]
    return part._replace(html=Markup(str(part.html).replace("<h2", f'<h2 data-derived="{" ".join(known)}"', 1))) if known else part


def _of_run(part: Part, topic: Topic, said: Mapping[int, str | None], *, is_first: bool) -> Part:
    """A part with its run's parameters in its heading; those after the first have charts and places of their own on the page."""
    run = topic.run_id
    about = Markup(" <small>run {}: {}</small></h2>").format(run, said.get(run or 0) or "")
    html = str(part.html).replace("</h2>", str(about), 1)
    if is_first:
        return part._replace(html=Markup(html), runs=[*part.runs, *topic.runs])
    for name in part.rows:
        html = html.replace(f'data-rows="{name}"', f'data-rows="{name}_{run}"')
    for attribute in ("id", "data-table"):
        html = re.sub(rf' {attribute}="([^"]+?)(-count)?"', rf' {attribute}="\1-{run}\2"', html)
    rows = {f"{name}_{run}": found for name, found in part.rows.items()}
    return Part(Markup(html), part.place, [*part.runs, *topic.runs], rows)
