"""A language model as judge: how likely a clip, known by its caption, activates a neuron, known by its description; and which of several do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from ingest.language.models import Reply, answer, read_prompt

HIGHEST = 10
LONGEST = 2000  # characters of a description or caption
AT_ONCE = 10  # clips that a model is asked to tell apart
NAMED = re.compile(
    r"[\s*_>#\"']*clips?[\s*_\"']*[:=][\s*_\"']*([0-9]{1,2}(?:(?:\s*(?:,|and))+\s*[0-9]{1,2})*|none)[\s*_.,\"']*", re.IGNORECASE
)
RATING = re.compile(r"[\s*_>#\"']*(?:rating[\s*_\"']*[:=]?[\s*_\"']*)?([0-9]{1,2})(?:\s*(?:/|out of)\s*10)?[\s*_.\"']*", re.IGNORECASE)


def judge_prompt(description: str, caption: str) -> str:
    """The prompt for a rating. Both texts stand on one line each, as JSON strings, so that neither can end its quotes."""
    return read_prompt("judge").text.format(description=_quoted(description), caption=_quoted(caption))


def _quoted(text: str) -> str:
    return json.dumps(" ".join(text.split())[:LONGEST], ensure_ascii=False)


def detection_prompt(description: str, captions: Sequence[str]) -> str:
    """The prompt for which of some clips activate the neuron; texts are quoted as for a rating."""
    listed = "\n".join(f"{number}. {_quoted(caption)}" for number, caption in enumerate(captions, 1))
    return read_prompt("detection").text.format(description=_quoted(description), captions=listed)


def parse_clips(reply: str) -> frozenset[int] | None:
    """The numbers of clips that a reply names on a line of its own ("Clips: 1, 4", "Clips: none"); None when no line does, or several do otherwise."""
    found = {match[1].lower() for line in answer(reply).splitlines() if (match := NAMED.fullmatch(line))}
    numbers = {frozenset(int(number) for number in re.findall(r"[0-9]+", text)) for text in found}
    return numbers.pop() if len(numbers) == 1 else None


def detected(reply: Reply) -> Reply:
    """A reply to a prompt for detection as "clips" and their numbers; one that names none of AT_ONCE, and does not say so, cannot be used."""
    clips = parse_clips(reply.text) if reply.text is not None else None
    if clips is None or not clips <= set(range(1, AT_ONCE + 1)):
        return Reply(None, reply.raw, reply.reason or "no line that names clips in the reply")
    return Reply(" ".join(["clips", *map(str, sorted(clips))]), reply.raw, None)


def understood(reply: Reply) -> Reply:
    """A reply to either prompt."""
    told = detected(reply)
    return told if told.text is not None else rated(reply)


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


def draw_ranges(values: np.ndarray, positive: np.ndarray, misses: np.ndarray, most: int, seed: Sequence[int]) -> np.ndarray:
    """Columns of up to `most` clips from a neuron's whole range, in drawn order: half of them from those in `positive` [clips], a quarter its near
    `misses` (columns), the rest evenly from its other `values` [clips], highest to lowest."""
    rng = np.random.default_rng(list(seed))
    ours = rng.permutation(np.flatnonzero(positive))[: most // 2]
    near = misses[: most // 4]
    rest = np.setdiff1d(np.flatnonzero(~positive), near)
    rest = rest[np.argsort(-values[rest], kind="stable")]
    count = min(len(rest), most // 2 - len(near))
    spread = rest[np.round(np.linspace(0, len(rest) - 1, count)).astype(int)] if count else rest[:0]
    return rng.permutation(np.concatenate([ours, near, spread]))
