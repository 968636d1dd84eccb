"""A language model as judge: how likely a clip, known by its caption, activates a neuron, known by its description."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from ingest.language.models import Reply, answer, read_prompt

HIGHEST = 10
LONGEST = 2000  # characters of a description or caption
RATING = re.compile(r"[\s*_>#\"']*(?:rating[\s*_\"']*[:=]?[\s*_\"']*)?([0-9]{1,2})(?:\s*(?:/|out of)\s*10)?[\s*_.\"']*", re.IGNORECASE)


def judge_prompt(description: str, caption: str) -> str:
    """The prompt for a rating. Both texts stand on one line each, as JSON strings, so that neither can end its quotes."""
    description, caption = (json.dumps(" ".join(text.split())[:LONGEST], ensure_ascii=False) for text in (description, caption))
    return read_prompt("judge").text.format(description=description, caption=caption)


def parse_rating(reply: str) -> int | None:
    """The rating, 0 to 10, that a reply gives on a line of its own ("Rating: 7", "7", "7/10"); None when it gives none or, on several lines, different
    ones, as one that repeats a rating out of a caption does."""
    lines = answer(reply).splitlines()
    found = {int(match[1]) for line in lines if (match := RATING.fullmatch(line))}
    return found.pop() if len(found) == 1 and max(found) <= HIGHEST else None


def rated(reply: Reply) -> Reply:
    """A judge's reply as a whole number from 0 to 10; one without a rating cannot be used."""
    rating = parse_rating(reply.text) if reply.text is not None else None
    # A number alone holds no word, which makes a reply unusable elsewhere.
    if reply.text is None and (match := RATING.fullmatch(answer(reply.raw))) and int(match[1]) <= HIGHEST:
        rating = int(match[1])
    if rating is None:
        return Reply(None, reply.raw, reply.reason or f"no rating from 0 to {HIGHEST} in the reply")
    return Reply(str(rating), reply.raw, None)


def draw_neurons(candidates: Sequence[tuple[int, int]], most: int, seed: int) -> set[tuple[int, int]]:
    """Up to `most` of the neurons, given by place of layer and unit."""
    chosen = np.random.default_rng(seed).permutation(len(candidates))[:most]
    return {candidates[place] for place in chosen}


def draw_clips(positive: np.ndarray, most: int, seed: Sequence[int]) -> np.ndarray:
    """Columns of up to `most` clips, ascending: half of them from those in `positive` [clips], half from the others."""
    rng = np.random.default_rng(list(seed))
    sides = [rng.permutation(np.flatnonzero(side))[: most // 2] for side in (positive, ~positive)]
    return np.sort(np.concatenate(sides))
