"""What of a warehouse the atlas is asked to show."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from report import contents
from warehouse.store import UserError

MOST_PAGES = 100_000
"""Neurons' pages, unless more are asked for."""


@dataclass(frozen=True)
class Asked:
    """Sounds and pictures of clips, too, that no page but their own shows; pages for the neurons of these layers, or of all, as long as there are at most
    so many. A layer has them for all of its neurons or for none; those without have their rows on the layer's page."""

    all_clips: bool = False
    layers: tuple[str, ...] | None = None
    pages: int = MOST_PAGES

    def read(self, con: duckdb.DuckDBPyConnection) -> contents.Contents:
        """What is shown of the warehouse `con` is open on. Raises UserError for a layer that no network has."""
        shown = contents.read(con)
        its = [layer for study in shown.own for layer in study.layers if layer.has_pages]
        if unknown := set(self.layers or ()) - {layer.name for layer in its}:
            names = ", ".join(dict.fromkeys(layer.name for layer in its))
            raise UserError(f"there is no layer {min(unknown)} in the warehouse: {names or 'it has none'}")
        pages = 0
        for layer in its:
            layer.is_asked = self.layers is None or layer.name in self.layers
            if layer.is_asked and pages + layer.neurons > self.pages:
                layer.is_asked, shown.left_out = False, shown.left_out + layer.neurons
            pages += layer.neurons if layer.is_asked else 0
        return shown
