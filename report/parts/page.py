"""What pages are drawn with: templates, clips' media, and the lines of their footers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import duckdb
import jinja2
from markupsafe import Markup

from report.contents import Study
from report.media import Media, audio_path, spectrogram_path
from report.parts import provenance
from report.parts.svg import number

TEMPLATES = Path(__file__).parents[1] / "templates"


def templates() -> jinja2.Environment:
    """The templates of all pages."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True, auto_reload=False,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    made.globals |= {"number": number, "percent": percent}
    return made


def percent(value: float | None) -> str:
    """A share as a percentage without its sign; a dash when it is undefined."""
    return "–" if value is None else f"{100 * value:.1f}"


class Press:
    """Makes the pages of a site from an open warehouse and the media that were found."""

    def __init__(self, con: duckdb.DuckDBPyConnection, media: Media) -> None:
        self.con, self.media = con, media
        self.templates = templates()
        self.runs = provenance.read(con)
        self.run = {run["run_id"]: run for run in self.runs}
        self._feet: dict[str, dict[int, Markup]] = {}

    def page(self, address: str) -> Page:
        """The page of an address."""
        return Page(self, address)

    def feet(self, root: str) -> dict[int, Markup]:
        """Each run's line, for pages below `root`."""
        if root not in self._feet:
            self._feet[root] = {run["run_id"]: provenance.line(run, root) for run in self.runs}
        return self._feet[root]


@dataclass(frozen=True, slots=True)
class Page:
    """A page to be written. Of pages in one folder, any serves to draw a part of the others."""

    press: Press
    address: str

    @property
    def con(self) -> duckdb.DuckDBPyConnection:
        """The warehouse."""
        return self.press.con

    @property
    def root(self) -> str:
        """What leads from it to the site's root."""
        return "../" * self.address.count("/")

    def draw(self, topic: str, *, end: str = "\n", **values: object) -> Markup:
        """A part of the page from a template in `topics/`."""
        return Markup(self.press.templates.get_template(f"topics/{topic}.html.j2").render(values, root=self.root) + end)

    def foot(self, runs: Iterable[int | None]) -> Markup:
        """Lines of the footer, one for each of `runs`."""
        feet = self.press.feet(self.root)
        return Markup("<br>").join([feet[run_id] for run_id in dict.fromkeys(runs) if run_id is not None])

    def brief_foot(self, runs: Iterable[int | None]) -> Markup:
        """The footer of one of many pages: whom the first of `runs` is about, and of the others the stages alone; `runs.html` says the rest."""
        first, *others = [self.press.run[run_id] for run_id in dict.fromkeys(runs) if run_id is not None]
        return provenance.brief(first, others, self.root)

    def listen(self, study: Study, clip_id: int | None) -> Markup:
        """A clip's small spectrogram that plays it, for a table's cell; empty without a clip or its sound."""
        clip = study.dataset.clips.get(clip_id or -1)
        if clip is None or self.press.media.want(clip, study.view) is not None:
            return Markup()
        return Markup(
            f'<a class="listen" href="{self.root}{audio_path(clip)}" aria-label="Play highest clip, {escape(study.dataset.label(clip))}">'
            f'<img src="{self.root}{spectrogram_path(clip, study.view)}" alt="" loading="lazy"></a>'
        )

    def hear(self, study: Study, clip_id: int | None, text: str) -> Markup:
        """A text that leads to a clip's sound, with whose picture atlas.js makes it play; the text alone without a clip or its sound."""
        clip = study.dataset.clips.get(clip_id or -1)
        if clip is None or self.press.media.want(clip, study.view) is not None:
            return Markup(f"<em>{escape(text)}</em>")
        return Markup(f'<a href="{self.root}{audio_path(clip)}">{escape(text)}</a>')

    def write(self, template: str, runs: Iterable[int | None] = (), /, **values: object) -> tuple[str, str]:
        """Its address and text; `runs` are those its footer names."""
        text = self.press.templates.get_template(f"{template}.html.j2").render({"root": self.root, "provenance": self.foot(runs)} | values)
        return self.address, text
