"""Texts compared with clips by cosine, and rules by what they predict of them; each also tried on near misses, intruders and, of rules, moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ingest.language.text_encoders import TextEncoder, readable
from ingest.methods import held_out
from ingest.methods.contrast import standing
from ingest.networks.network import Network
from ingest.stages import Progress
from ingest.stages.properties import read_properties
from ingest.stages.recorded import RecordedLayer
from ingest.stages.scoring.moments import Moments
from ingest.stages.scoring.trials import range_rows, tried
from ingest.stages.scoring.work import Found, Work, item
from warehouse import store
from warehouse.matrices import open_matrix
from warehouse.store import UserError

Predictions = Callable[[RecordedLayer], np.ndarray]
"""What is predicted of the held-out clips [neurons, clips], by layer; NaN for a neuron of which nothing is."""
BATCH = 32
SHORTEST_PROMPT = 40
"""Characters below which it is not for its length that an audio-text network refuses a text."""


@dataclass(frozen=True)
class Comparison:
    """Embeddings of unit length of the clips [clips, dimensions], NaN for one without, and how texts are embedded beside them."""

    clips: np.ndarray
    embed: Callable[[Sequence[str]], np.ndarray]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_sound(network: Network | None, names: Sequence[str], paths: Mapping[str, Path]) -> Comparison:
    """Clips and texts as an audio-text network hears and reads them."""
    from ingest.networks.audio_text import audio_embeddings, text_embeddings

    assert network is not None

    def embedded(text: str) -> np.ndarray:
        """Of a text too long for the network, as much of its beginning as it takes."""
        while True:
            try:
                return text_embeddings(network, [text])[0]
            except UserError:
                if len(text) < SHORTEST_PROMPT:
                    raise
                text = text[: 9 * len(text) // 10]

    def embed(texts: Sequence[str]) -> np.ndarray:
        text_embeddings(network, ["a sound"])  # tells of a missing tokeniser before any text is blamed
        distinct = list(dict.fromkeys(texts))
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(distinct), BATCH):
            batch = distinct[start : start + BATCH]
            shown = [readable(text) for text in batch]
            try:
                vectors = list(text_embeddings(network, shown))
            except UserError:  # one of them is too long
                vectors = [embedded(text) for text in shown]
            found |= zip(batch, vectors, strict=True)
        return _unit(np.stack([found[text] for text in texts]))

    return Comparison(_unit(audio_embeddings(network, names, paths)), embed)


def ruled(warehouse: Path, description_run: int, columns: np.ndarray) -> Predictions:
    """What rules predict of the clips of `columns` (bool)."""
    with store.connect_readonly(warehouse) as con:
        paths = dict(con.execute("SELECT layer_id, path FROM prediction_file WHERE run_id = ?", [description_run]).fetchall())
    return lambda layer: open_matrix(warehouse.parent / paths[layer.layer_id])[:, columns]


def alike(
    warehouse: Path, property_run: int | None, clip_ids: Sequence[int], captions: Sequence[str], encoder: TextEncoder
) -> tuple[np.ndarray, str]:
    """Where clips lie by the properties of a run, if it is given, else by the embeddings of their captions, and the metric of that space."""
    if property_run is None:
        return encoder.embed(captions), "euclidean"
    return standing(read_properties(warehouse, property_run, clip_ids)[1]), "cityblock"


@dataclass
class Comparing:
    """Scores descriptions by comparison; `by_range` is the scorer whose units of work also keep the clips of neurons' ranges."""

    work: Work
    by_range: str

    def compared(self, scorer: str, compare: Callable[[], Comparison], progress: Progress) -> int:
        """Score by cosine; returns the number of layers done now."""
        comparison = None
        worked, layers = 0, self.work.recorded.layers
        for number, layer in enumerate(layers):
            if item(scorer, layer) not in self.work.done:
                comparison = comparison or compare()
                found = self.work.found(layer, np.isfinite(comparison.clips).all(axis=1))
                texts = [self.work.descriptions[layer.first_neuron_id + unit] for unit in found.units]
                similarity = comparison.embed(texts) @ comparison.clips[found.usable].T if texts else np.zeros((0, 0))
                self.work.run.record([item(scorer, layer)], self.scored(layer, scorer, found, similarity))
                worked += 1
            progress(number + 1, len(layers))
        return worked

    def predicted(self, scorer: str, predict: Callable[[], Predictions], progress: Progress, moments: Moments | None = None) -> int:
        """Score predicted responses; returns the number of layers done now."""
        predictions = None
        worked, layers = 0, self.work.recorded.layers
        for number, layer in enumerate(layers):
            if item(scorer, layer) not in self.work.done:
                predictions = predictions or predict()
                found = self.work.found(layer)
                its = predictions(layer)[found.units][:, found.usable].astype(np.float32)
                known = np.asarray(np.isfinite(its).all(axis=1))
                found, its = found.of(known), its[known]
                tables = self.scored(layer, scorer, found, its, held_out.rank_correlation(its, found.values))
                if moments and "description_test" in tables:
                    tables["description_test"] = pl.concat([tables["description_test"], moments.rows(layer)])
                self.work.run.record([item(scorer, layer)], tables)
                worked += 1
            progress(number + 1, len(layers))
        return worked

    def scored(
        self, layer: RecordedLayer, scorer: str, found: Found, similarity: np.ndarray, correlation: np.ndarray | None = None
    ) -> dict[str, pl.DataFrame]:
        """Rows of a layer's neurons by table, from the similarity of each text to each usable clip."""
        if not found.units:
            return {}
        groups, clips = self.work.groups(found.usable), self.work.clips
        rows = self.work.rows(layer, found.units, scorer, found.positive, held_out.score(similarity, found.positive, groups), correlation)
        places = clips.places[found.usable]
        tests, misses = tried(layer, scorer, found, similarity, (places, clips.metric), groups, self.work.seed)
        tables = {"description_score": rows, "description_test": tests}
        if scorer == self.by_range:
            clip_ids = self.work.recorded.clip_ids[clips.columns][found.usable]
            tables["range_clip"] = range_rows(layer, found, misses, clip_ids)
        return tables
