"""Contrast: examples from a neuron's whole range, near misses among them, for a language model that is to say what sets its highest clips apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ingest.language.models import read_prompt

RANGE = (0.9, 0.75, 0.5)
"""Quantiles of a neuron's responses whose clips stand between its highest and its near misses."""
COLD = 0.5
"""Quantile of the responses above which no clip is a near miss."""
NOTHING = "nothing that was measured tells"


class Contrast(NamedTuple):
    """Captions of the highest clips, of some in the rest of the range, falling, and of near misses; what was measured, in words."""

    high: tuple[str, ...]
    middle: tuple[str, ...]
    near: tuple[str, ...]
    facts: str

    def prompt(self) -> str:
        """The prompt that asks for what sets the highest apart."""
        parts = {name: _listed(getattr(self, name)) for name in ("high", "middle", "near")}
        return read_prompt("contrast").text.format(**parts, facts=self.facts or NOTHING)


def _listed(captions: Sequence[str]) -> str:
    return "\n".join(f"{number}. {' '.join(caption.split())}" for number, caption in enumerate(captions, 1)) or "none"


def standing(properties: np.ndarray) -> np.ndarray:
    """Places of clips by each of their properties [clips, properties], 0 to 1; in the middle where one is undefined."""
    known = np.isfinite(properties)
    order = np.argsort(np.argsort(np.where(known, properties, np.inf), axis=0, kind="stable"), axis=0)
    return np.where(known, (order + 0.5) / np.maximum(1, known.sum(axis=0)), 0.5)


def is_cold(responses: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which clips [clips] (bool) do not activate a neuron: no higher than the middle of its `responses` [clips], and none of the clips `high`."""
    cold = np.isfinite(responses) & (responses <= np.nanquantile(responses, COLD))
    cold[high] = False
    return cold


def near_misses(responses: np.ndarray, high: np.ndarray, places: np.ndarray, k: int) -> np.ndarray:
    """Up to `k` clips (columns) whose properties, by `places` [clips, properties] (see `standing`), are most like those of the clips `high` on the mean,
    and of which the `responses` [clips] of a neuron lie no higher than the middle."""
    likeness = -np.abs(places - places[high].mean(axis=0)).mean(axis=1)
    cold = is_cold(responses, high)
    order = np.argsort(-likeness, kind="stable")
    return order[cold[order]][:k]


def matched(responses: np.ndarray, high: np.ndarray, places: np.ndarray, k: int, metric: str = "cityblock") -> np.ndarray:
    """For each of the first `k` of the clips `high` (columns) in turn the clip most like it that is no other's yet, of those of which the `responses`
    [clips] of a neuron lie no higher than the middle: columns, fewer where these run out.

    `places` [clips, features] say what is alike, by a `metric` of scipy's cdist. Matched one by one, near misses differ among each other as the
    highest do, so that what is common to both tells neither.
    """
    from scipy.spatial.distance import cdist

    cold = np.flatnonzero(is_cold(responses, high))
    if not len(cold):
        return cold
    apart = cdist(places[high[:k]], places[cold], metric)
    found: list[int] = []
    for row in apart[: len(cold)]:
        row[found] = np.inf
        found.append(int(row.argmin()))
    return cold[found]


def middle(responses: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The clips (columns) at RANGE of a neuron's `responses` [clips] that are none of its highest."""
    order = np.argsort(np.where(np.isfinite(responses), responses, -np.inf), kind="stable")
    order = order[np.isfinite(responses[order])]
    found = dict.fromkeys(int(order[min(len(order) - 1, int(quantile * len(order)))]) for quantile in RANGE) if len(order) else {}
    return np.array([clip for clip in found if clip not in set(high.tolist())], dtype=np.int64)
