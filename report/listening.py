"""The page of `auricle listen`: sounds with the neurons that they move, each with its course over the spectrogram; one file that needs no other."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import soundfile as sf
from markupsafe import Markup

from report import contents
from report.contents import Clip, Layer, View
from report.folder import replace
from report.media import mp3, spectrogram_png
from report.parts import provenance, svg
from report.parts.page import templates
from report.parts.texts import cut
from warehouse.store import UserError, connect_readonly

HERE = Path(__file__).parent
GENERATOR = '<meta name="generator" content="Auricle listening">'
DESCRIPTION = 240
"""Characters of a description; the neuron's page in the atlas has all of it."""
NOT_PLAYED = (sf.LibsndfileError, ValueError, EOFError, OSError)


@dataclass(frozen=True)
class Heard:
    """A sound: its name, its file, where in it the part begins that the network heard, how long that is and the file, what was heard in words, and
    its neurons, rows as listen.listen gives them."""

    name: str
    path: Path
    start_s: float
    heard_s: float
    duration_s: float
    part: str
    neurons: pl.DataFrame


@dataclass(frozen=True)
class Listening:
    """What a page shows: sounds, on two sides where they were compared; how many there were on each, and what they are called; the neurons of all
    sounds (empty for a single one), or those that tell the sides apart; run, seconds and rate of the network."""

    heading: str
    run_id: int
    clip_s: float
    rate_hz: int
    sides: Sequence[Sequence[Heard]]
    counts: Sequence[int]
    titles: Sequence[str]
    neurons: pl.DataFrame
    is_tested: bool

    @classmethod
    def of(cls, **given: Any) -> Listening:
        """From what an answer shows: its sounds as tuples."""
        return cls(**given | {"sides": [[Heard(*sound) for sound in side] for side in given["sides"]]})


def build_page(warehouse: Path, target: Path, shown: Listening, site: Path | None = None) -> Path:
    """Write the page to `target`, a file.html or a folder, where it is index.html; neurons link to their pages in the atlas `site`, where it has them.

    All is in the page: sounds as MP3, cut to what was heard, and pictures. Returns its path. Raises UserError where it cannot be written, would
    replace a file that is none of Auricle's, or the atlas has no page of the network.
    """
    page = target if target.suffix.lower() in (".html", ".htm") else target / "index.html"
    try:
        if page.exists() and (not page.is_file() or GENERATOR not in page.read_text("utf-8", "replace")):
            raise UserError(f"{page} was not made by `auricle listen` and would be overwritten: name another with --page")
        with connect_readonly(warehouse) as con:
            links = _Links(site, page.parent, contents.read(con).studies, shown.run_id) if site else None
            [run] = [run for run in provenance.read(con) if run["run_id"] == shown.run_id]
        root = f"{quote(os.path.relpath(site, page.parent))}/" if site else ""
        line = provenance.line(run, root)
        drawn = _Drawn(shown, links)
        text = templates().get_template("listening.html.j2").render(
            shown=shown,
            sides=[[drawn.sound(side, at, heard) for at, heard in enumerate(its)] for side, its in enumerate(shown.sides)],
            rows=drawn.rows(),
            ticks=[f"{shown.clip_s * i / 5:g} s" for i in range(6)],
            root=root,
            style=Markup((HERE / "static" / "style.css").read_text("utf-8")),
            provenance=line if site else line.striptags(),
        )  # fmt: skip
        page.parent.mkdir(parents=True, exist_ok=True)
        replace(page, text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"cannot write the page: {error.strerror or error} ({error.filename or page})") from error
    return page


class _Links:
    """Addresses of neurons' pages in an atlas, relative to a folder."""

    def __init__(self, site: Path, folder: Path, studies: Sequence[contents.Study], run_id: int) -> None:
        self.site, self.folder = site, folder
        layers = [layer for study in studies if study.run_id == run_id for layer in study.by_first]
        self.layers: dict[str, Layer] = {layer.name: layer for layer in layers}
        if not any((site / layer.page).is_file() for layer in layers):
            raise UserError(f"{site} has no page of this network on this data set: make them with `auricle report --site {site}`")

    def of(self, layer: str, neuron_id: int) -> str | None:
        """A neuron's page; None where it has none."""
        found = self.layers.get(layer)
        if found is None or not found.first <= neuron_id <= found.last:
            return None
        path = self.site / found.folder / found.file(neuron_id)
        return quote(os.path.relpath(path, self.folder)) if path.is_file() else None


class _Drawn:
    """What is drawn of sounds and neurons."""

    def __init__(self, shown: Listening, links: _Links | None) -> None:
        self.shown, self.links = shown, links

    def sound(self, side: int, at: int, heard: Heard) -> dict:
        """A sound's picture, sound and neurons by layer, from the output down."""
        view = View(self.shown.clip_s, self.shown.rate_hz)
        found: dict = {"key": f"s{side}-{at}", "name": heard.name, "part": heard.part, "reason": None, "heard_s": heard.heard_s}
        try:
            picture = spectrogram_png(heard.path, Clip(0, heard.name, "", heard.duration_s, ""), view)
            found["picture"] = "data:image/png;base64," + base64.b64encode(picture).decode()
            found["audio"] = "data:audio/mpeg;base64," + base64.b64encode(mp3(heard.path, heard.start_s, heard.heard_s)).decode()
        except NOT_PLAYED as error:
            found["reason"] = str(error)
        layers = heard.neurons.partition_by("layer", maintain_order=True) if not self.shown.counts[1:] else []
        found["layers"] = [(part["layer"][0], [self.card(found, row) for row in part.iter_rows(named=True)]) for part in reversed(layers)]
        return found

    def card(self, sound: dict, row: dict) -> dict:
        """A neuron of a sound."""
        return self.about(row) | {"picture": self.picture(sound["key"], sound["reason"], sound["name"], row["course"])} | {
            name: row[name] for name in ("value", "percentile", "deviations")
        }  # fmt: skip

    def about(self, row: dict) -> dict:
        """Which neuron it is, and what is known of it."""
        place = "" if row["time_position"] is None else f" ({row['time_position']}, {row['frequency_position']})"
        title = f"{row['layer']} · {row['unit']}{place}" + (f" ({row['neuron']})" if row["neuron"] is not None else "")
        said = cut(row["description"], DESCRIPTION) if row["description"] else None
        return {
            "title": title,
            "href": self.links.of(row["layer"], row["neuron_id"]) if self.links else None,
            "said": said,
            "best": row["best_class"],
            "precision": row["average_precision"],
        }

    def picture(self, key: str, reason: str | None, name: str, course: Sequence[float | None] | None) -> Markup:
        """A sound's spectrogram with a course over it."""
        line = ""
        if course:
            steps = np.array([[np.nan if value is None else value for value in course]], dtype=np.float32)
            if np.isfinite(steps).any():
                low, high = np.nanmin(steps, axis=1).clip(max=0), np.nanmax(steps, axis=1).clip(min=0)
                [path] = svg.courses(steps, low, high)
                box = f'viewBox="0 0 {len(course)} {svg.LEVELS}" preserveAspectRatio="none" aria-hidden="true"'
                line = f'<svg {box}><path d="{path}"/></svg>' if path else ""
        if reason is not None:
            return Markup(f'<div class="s">{line}</div>')
        shot = f'<svg class="shot" viewBox="0 0 320 96" preserveAspectRatio="none" aria-hidden="true"><use href="#{key}-shot"/></svg>'
        button = f'<button type="button" class="go" aria-label="Play {escape(name)}"></button>'
        return Markup(f'<div class="s" data-sound="{key}">{shot}{line}{button}<i class="head"></i></div>')

    def rows(self) -> list[dict]:
        """Neurons over all sounds, or by how they tell the sides apart; these with the sound of each side that moves the neuron most."""
        found = []
        for row in self.shown.neurons.iter_rows(named=True):
            pictures = [self.example(side, row["neuron_id"]) for side in range(len(self.shown.sides))] if self.shown.counts[1:] else []
            numbers = {name: row.get(name) for name in ("percentile", "percentile_other", "difference", "q_value", "lowest", "highest")}
            found.append(self.about(row) | numbers | {"pictures": pictures})
        return found

    def example(self, side: int, neuron_id: int) -> Markup:
        """The sound among those of a side that moves a neuron most."""
        best = Markup()
        highest = -1.0
        for at, heard in enumerate(self.shown.sides[side]):
            row = heard.neurons.row(by_predicate=pl.col("neuron_id") == neuron_id, named=True)
            if (row["percentile"] or 0) > highest:
                highest = row["percentile"] or 0
                best = self.picture(f"s{side}-{at}", None, heard.name, row["course"])
        return best
