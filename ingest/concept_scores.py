"""Concept sets, and how much of each concept a clip holds: by its caption, or by its sound.

These scores [clips, concepts] are what ingest.similarity compares a neuron's activations with (AND, ICML 2024, section 3.3, module A).
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ingest.metadata import show
from warehouse.store import UserError

HERE = Path(__file__).parent
SHIPPED = {"esc50": ("esc50_audioset.csv", "class"), "audioset": ("audioset_classes.csv", "display_name")}
MAX_BYTES = 64 << 20


def described_by(caption_embeddings: np.ndarray, concept_embeddings: np.ndarray, scale: float | None = 100.0) -> np.ndarray:
    """Scores by description (DB), [clips, concepts] (float64): softmax over the concepts of `scale` times the cosine of caption and
    concept, as AND's program has it; with `scale` None the cosine itself, as its section 3.3 says.

    Embeddings are [clips, d] and [concepts, d] of one text encoder (CLIP's ViT-B/32 there). Raises ValueError for an embedding that is
    zero or not finite: leave out clips without a caption.
    """
    cosines = _cosines(caption_embeddings, concept_embeddings, "caption")
    if scale is None:
        return cosines
    weights = np.exp(scale * (cosines - cosines.max(axis=1, keepdims=True, initial=-1)))
    return weights / weights.sum(axis=1, keepdims=True)


def tagged_by(audio_embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """Scores by text and audio (TAB), [clips, concepts] (float64), -1..1: the cosine of a clip's sound and a concept's text.

    Embeddings are [clips, d] and [concepts, d] of one contrastive model (CLAP 630k-audioset-best there). Raises ValueError as `described_by`.
    """
    return _cosines(audio_embeddings, text_embeddings, "audio")


def _cosines(clips: np.ndarray, concepts: np.ndarray, kind: str) -> np.ndarray:
    if clips.ndim != 2 or concepts.ndim != 2 or clips.shape[1] != concepts.shape[1]:
        raise ValueError(f"{kind} embeddings {clips.shape} and concept embeddings {concepts.shape} are not of one model")
    units = []
    for name, given in ((kind, clips), ("concept", concepts)):
        embeddings = np.asarray(given, dtype=np.float64)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if len(wrong):
            raise ValueError(f"{name} embedding {wrong[0]} is zero or not finite: leave it out")
        units.append(embeddings / lengths)
    return units[0] @ units[1].T


def read_concepts(name_or_path: str | Path) -> list[str]:
    """The concepts of a set, in its order, none twice.

    `esc50`: the 50 class names of ESC-50 (Piczak 2015), with spaces for underscores. `audioset`: the 527 display names of AudioSet
    (Gemmeke et al. 2017, Google, CC BY 4.0), in the order of its class_labels_indices.csv. Anything else is a text file in UTF-8 with one
    concept a line; blank lines and repetitions are left out. Raises UserError for a file that cannot be used.
    """
    name = str(name_or_path)
    if name in SHIPPED:
        file, column = SHIPPED[name]
        with open(HERE / file, newline="", encoding="utf-8") as table:
            concepts = [row[column] for row in csv.DictReader(table)]
        return [concept.replace("_", " ") for concept in concepts]
    path, wanted = Path(name_or_path), "give esc50, audioset or a text file with one concept a line"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"concept set {show(path)} has more than {MAX_BYTES >> 20} MiB: {wanted}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no concept set or file {show(name)}: {wanted}") from None
    except OSError as error:
        raise UserError(f"concept set {show(path)} cannot be read ({error.strerror}): {wanted}") from None
    except ValueError:  # UnicodeDecodeError, and a path with a null character
        raise UserError(f"concept set {show(name)} is not text in UTF-8: {wanted}") from None
    found = dict.fromkeys(" ".join(line.split()) for line in text.split("\n"))
    found.pop("", None)
    if not found:
        raise UserError(f"concept set {show(path)} holds no concepts: {wanted}")
    return list(found)
