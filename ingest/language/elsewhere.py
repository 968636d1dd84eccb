"""Engines that run in other processes: a captioner, language model or encoder here by its name, whose answers come from wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from ingest.language.captions import Caption
from ingest.language.models import Reply
from warehouse.store import UserError

KILLED = "killed the process that was at it"


@dataclass(frozen=True)
class Answers:
    """What an engine says of a batch, given by its number; rows of table batch that tell who answered, where that was another process."""

    number: int
    said: Sequence[Any]
    batches: list[dict[str, object]] = field(default_factory=list)

    def tables(self) -> dict[str, pl.DataFrame]:
        """The rows by table, as they are committed."""
        return {"batch": pl.DataFrame(self.batches)} if self.batches else {}


@dataclass(frozen=True)
class Elsewhere:
    """An engine that runs elsewhere. `engine`: this process's own, which tells its name and parameters and is asked nothing; `answered`: has batches
    answered, None for what killed whoever was at it; `size`: items of a batch where nobody says."""

    engine: Any
    answered: Callable[[Sequence[Sequence[Any]]], Iterator[Answers]]
    size: int = 64

    @property
    def name(self) -> str:
        """The engine's."""
        return self.engine.name

    @property
    def parameters(self) -> dict[str, object]:
        """The engine's."""
        return self.engine.parameters

    def complete(self, prompts: Sequence[str]) -> list[Reply]:
        """See ingest.language.models.LanguageModel."""
        return [Reply(None, "", KILLED) if reply is None else reply for reply in self._all(prompts)]

    def caption(self, sounds: Sequence[Any]) -> list[Caption]:
        """See ingest.language.captions.Captioner."""
        return [Caption(None, "", KILLED) if caption is None else caption for caption in self._all(sounds)]

    def embed(self, items: Sequence[Any]) -> list[np.ndarray]:
        """An embedding [d] an item, an empty one for what killed whoever was at it."""
        return [np.zeros(0, dtype=np.float32) if embedding is None else embedding for embedding in self._all(items)]

    def _all(self, items: Sequence[Any]) -> list[Any]:
        batches = [items[start : start + self.size] for start in range(0, len(items), self.size)]
        found = {answers.number: answers.said for answers in self.answered(batches)}
        return [said for number in range(len(batches)) for said in found[number]]


def embeddings(encoder: Any, texts: Sequence[str]) -> np.ndarray:
    """A text encoder's embeddings [texts, d], from wherever it runs. Raises UserError for a text that kills whoever is at it."""
    found = encoder.embed(texts)
    if lost := [text for text, embedding in zip(texts, found, strict=True) if not len(embedding)]:
        raise UserError(f"{encoder.name}: {lost[0][:80]!r} {KILLED}")
    return np.stack(list(found)) if len(texts) else np.asarray(found)


def in_turn(engine: Any, ask: Callable[[Sequence[Any]], Sequence[Any]], batches: Iterable[Sequence[Any]]) -> Iterator[Answers]:
    """What an engine answers to batches: one after the other by its own method `ask`, or as they come in from elsewhere."""
    if isinstance(engine, Elsewhere):
        yield from engine.answered(list(batches))
    else:
        for number, batch in enumerate(batches):
            yield Answers(number, ask(batch))
