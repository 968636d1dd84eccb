"""The map of a study's neurons (stage map): its page, and what leads to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from markupsafe import Markup

from report.contents import Layer
from report.parts.page import Page, Press
from report.topics.maps import points
from report.topics.maps.points import Placed
from report.topics.topic import Known, Part, Parts, Topic


class Map(Topic):
    """The latest finished run, which may have the neurons of several networks."""

    stage = "map"
    tables = ("map",)

    def read(self) -> None:
        """Read how good it is; places are read when they are asked for."""
        names = ("clips", "neurons", "placed", "near_10", "near_50", "start_run_id", "shared")
        found = self.con.execute(f"SELECT {', '.join(names)} FROM neuron_map WHERE run_id = ?", [self.run_id]).fetchall()
        self.facts = dict(zip(names, found[0], strict=True)) if found else None

    @property
    def address(self) -> str:
        """Of its page."""
        return f"{self.study.folder}/map.html"

    @cached_property
    def placed(self) -> list[Placed]:
        """Layers that have neurons on the map, the study's own first, then those of the other networks on it."""
        if self.facts is None:
            return []
        found = self.con.execute(
            "SELECT neuron_id, x, y FROM neuron_position WHERE run_id = ? ORDER BY neuron_id", [self.run_id]
        ).fetchnumpy()
        ids, places = found["neuron_id"], np.stack([found["x"], found["y"]], axis=1)
        others = [
            known for known in self.known.studies if known.study.dataset is self.dataset and known.study.name != self.study.name
        ]  # fmt: skip
        out = []
        for known in [self.known, *others]:
            for layer in known.study.layers:
                start, end = np.searchsorted(ids, [layer.first, layer.last + 1])
                if layer.has_pages and end > start:
                    out.append(Placed(known, layer, ids[start:end] - layer.first, places[start:end]))
        return out

    @property
    def shown(self) -> bool:
        """Whether this is the run that the page shows, of several side by side."""
        return bool(self.placed) and self.run_id == self.known[Map].run_id

    def network(self, page: Page) -> Iterator[Part]:
        """A way to it, and how good it is."""
        if self.shown:
            yield Part(page.draw("map", facts=self.facts, address=self.address), "top", link=("map", "map"))

    def layer(self, page: Page, layer: Layer) -> Iterator[Part]:
        """A way to the layer on it."""
        numbers = [number for number, its in enumerate(self.placed) if its.layer.layer_id == layer.layer_id]
        if self.shown and numbers:
            link = Markup('<p class="note"><a href="../map.html#layers={}">This layer on the map of all neurons</a></p>').format(numbers[0])
            yield Part(link, "top", self.runs)

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """A way to each neuron on it."""
        ids = [neuron_id for its in self.placed if its.layer.layer_id == layer.layer_id for neuron_id in its.neuron_ids]
        link = f'<p class="note"><a href="{page.root}{self.address}#at={{}}">On the map of all neurons</a></p>'
        return Parts({neuron_id: [Part(Markup(link.format(neuron_id)), "summary")] for neuron_id in ids}, self.runs if ids else [])

    def pages(self, press: Press) -> Iterator[tuple[str, str]]:
        """The map, its neurons, and what is said of them."""
        if not self.placed:
            return
        said = points.words(self.placed)
        networks = list({its.known.study.folder: its.known.study for its in self.placed}.values())
        yield press.page(self.address).write(
            "map", [self.study.run_id, *self.runs], title=f"Map of {self.study.title}", study=self.study, facts=self.facts,
            networks=networks, said=bool(said),
        )  # fmt: skip
        yield f"{self.study.folder}/map-data.js", points.script(self.placed, press.media.missing)
        if said:
            yield f"{self.study.folder}/map-words.js", said

    @classmethod
    def overview(cls, page: Page, studies: Sequence[Known]) -> Iterator[Part]:
        """Ways to all maps."""
        shown = [its for known in studies if (its := known[cls]).placed]
        if shown:
            yield Part(page.draw("maps", maps=shown))
