"""Concept sets, and how much of each concept a clip holds: by its caption, or by its sound.

These scores [clips, concepts] are what ingest.methods.similarity compares a neuron's activations with (AND, ICML 2024, section 3.3, module A).
"""

from __future__ import annotations

import numpy as np


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
