"""Stage `dissections`: which concepts of a given set fit every neuron best (AND, module A)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ingest import concept_scores, similarity
from ingest.caption_tables import read_captions
from ingest.clips import Outcome, Progress
from ingest.layer_tables import insert
from ingest.recorded import RecordedLayer, read_recorded
from ingest.text_encoders import TextEncoder
from warehouse import ledger, store
from warehouse.store import UserError

STAGE = "dissections"
CODE_VERSION = 1
SEED = 0


@dataclass(frozen=True)
class Settings:
    """What shapes the results: a concept set (see concept_scores.read_concepts, or classes: the data set's own),
    similarity functions (see similarity.FUNCTIONS), their mode,
    the scale of the softmax over concepts (None: plain cosines), and how many concepts a neuron are kept."""

    concepts: str = "esc50"
    functions: tuple[str, ...] = tuple(similarity.FUNCTIONS)
    mode: similarity.Mode = "paper"
    scale: float | None = 100.0
    kept: int = 10


def ingest_dissections(
    warehouse: Path,
    activation_run: int,
    caption_run: int,
    encoder: TextEncoder,
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
) -> Outcome:
    """Compare every neuron of a finished run of activations with a concept set by the clips' captions (DB); a layer is a unit of work.

    Clips without a caption, or with activations that are not finite, take no part. A function that cannot be computed on a layer is a
    failure row.
    """
    settings = settings or Settings()
    recorded = read_recorded(warehouse, activation_run)
    captions, captioner = read_captions(warehouse, caption_run)
    own = [name.replace("_", " ") for name in recorded.class_names]
    concepts = own if settings.concepts == "classes" else concept_scores.read_concepts(settings.concepts)
    run = ledger.begin(
        warehouse,
        STAGE,
        parameters={
            **recorded.subject(), **asdict(settings), "concepts": store.sha256_json(concepts), "concept_set": Path(settings.concepts).name,
            "captions": captioner, "encoder": encoder.parameters,
        },
        code_version=CODE_VERSION,
        dataset_sha256=recorded.dataset_sha256,
        network_sha256=recorded.network_sha256,
        seed=SEED,
    )  # fmt: skip
    worked, done = 0, run.done()
    if not run.finished:
        columns = np.array([index for index, clip in enumerate(recorded.clip_ids) if int(clip) in captions], dtype=np.int64)
        if not len(columns):
            raise UserError(f"no clip of {recorded.dataset} has a caption: ingest captions first")
        texts = encoder.embed([captions[int(recorded.clip_ids[column])] for column in columns])
        concept_texts = encoder.embed(concepts)
        scores = concept_scores.described_by(texts, concept_texts, settings.scale)
        for number, layer in enumerate(recorded.layers):
            item = f"layer {layer.layer_id}"
            if item not in done:
                names = neuron_names(warehouse, layer)
                frame, failures = dissect(layer, columns, scores, concepts, concept_texts, names, encoder, settings)
                with run.commit([item], failures) as con:
                    if len(frame):
                        insert(con, "closed_concept", frame.with_columns(pl.lit(run.run_id).alias("run_id")))
                worked += 1
            if progress:
                progress(number + 1, len(recorded.layers))
        run.finish()
    return Outcome(run, worked, run.failures())


def neuron_names(warehouse: Path, layer: RecordedLayer) -> list[str | None]:
    """Names of a layer's neurons in row order; None for those without."""
    with store.connect_readonly(warehouse) as con:
        return [
            name for (name,) in con.execute("SELECT name FROM neuron WHERE layer_id = ? ORDER BY neuron_id", [layer.layer_id]).fetchall()
        ]


def dissect(
    layer: RecordedLayer,
    columns: np.ndarray,
    scores: np.ndarray,
    concepts: list[str],
    concept_texts: np.ndarray,
    names: list[str | None],
    encoder: TextEncoder,
    settings: Settings,
) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
    """Rows of table closed_concept of a layer, and what failed. All its neurons are compared in one call: functions that weigh a neuron
    against the others take the layer for these."""
    matrix = np.asarray(layer.matrix())[:, columns]
    complete = np.isfinite(matrix).all(axis=0)
    activations = matrix[:, complete].T
    cosines: np.ndarray | None = None
    if any(names):
        cosines = np.full((len(names), len(concepts)), np.nan)
        known = [index for index, name in enumerate(names) if name]
        cosines[known] = encoder.embed([(names[index] or "").replace("_", " ") for index in known]) @ concept_texts.T
    frames, failures = [], []
    for function in settings.functions:
        options = {"seed": SEED} if function == "rank_reorder" else {}
        try:
            found = similarity.FUNCTIONS[function](activations, scores[complete], mode=settings.mode, **options)
        except ValueError as error:
            failures.append((f"{layer.name}, {function}", str(error).splitlines()[0]))
            continue
        indices, values = similarity.best(found, settings.kept)
        neurons, ranks = np.nonzero(indices >= 0)
        chosen = indices[neurons, ranks]
        frames.append(
            pl.DataFrame(
                {
                    "neuron_id": layer.first_neuron_id + neurons,
                    "method": ["DB"] * len(neurons),
                    "function": [function] * len(neurons),
                    "rank": ranks + 1,
                    "concept": [concepts[index] for index in chosen],
                    "score": values.data[neurons, ranks],
                    "name_cosine": np.full(len(neurons), np.nan) if cosines is None else cosines[neurons, chosen],
                }
            ).with_columns(pl.col("name_cosine").fill_nan(None))
        )
    return (pl.concat(frames) if frames else pl.DataFrame()), failures
