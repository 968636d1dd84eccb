"""Summaries of captions: prompts for a language model, its answer cut into points, calibration (Audio Network Dissection, module B).

A point is one sentence of a summary. For a summary without a model see ingest.methods.commonalities.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingest.language.models import CUT_OFF, read_prompt
from ingest.language.sentences import _split, sentences, tokens
from ingest.language.text_encoders import TextEncoder
from ingest.language.word_lists import opposites, word_list

THRESHOLD = 0.7  # paper, A.4; the released program is called with 0.5
FEWEST_TOKENS = 6
GREETINGS = ("sure", "here are", "here is", "hope this helps", "this help", "based on", "let me know", "please", "any more help")
RELEASED_GREETINGS = (*GREETINGS[:2], "this help", "based on", "\n\n1", "let me know", "please", "need any more help")
NEGATORS = frozenset(
    ("no", "not", "nor", "neither", "never", "cannot", "without", "free", "lack", "lacks", "lacking", "absence", "devoid", "minimal")
)
NEGATED_WORDS = 4
# What captions and summaries say of any sound.
COMMON_STEMS = frozenset(
    {"sound", "audio", "clip", "record", "hear", "heard", "featur", "contain", "like", "second", "pitch", "octav", "hertz", "hz", "level"}
)
SHORT, SAME_WORDING = 2, 0.75  # content words; share of the other words
UNFINISHED = re.compile(rf"[^.!?\n]*{CUT_OFF.strip()}\s*$")


def summary_prompt(captions: Sequence[str]) -> str:
    """The prompt for a summary of captions (paper, A.2), which stand one a line."""
    lines = "\n".join(f"{number}. {' '.join(caption.split())}" for number, caption in enumerate(captions, 1))
    return read_prompt("summary").text.format(captions=lines)


def icl_prompt(points: Sequence[str], concepts: Sequence[str], shots: int = 2) -> str:
    """The prompt that has a concept chosen for a calibrated summary after one or two examples (paper, Table 5)."""
    if shots not in (1, 2):
        raise ValueError(f"there are examples for 1 or 2 shots, not {shots}")
    instruction, *examples, query = read_prompt("icl").text.split("\n\n")
    description = " ".join(" ".join(points).split())
    return "\n\n".join([instruction.format(concepts=", ".join(concepts)), *examples[:shots], query.format(description=description)])


def icl_top_prompt(points: Sequence[str], concepts: Sequence[str], top: int) -> str:
    """The prompt that has the `top` concepts chosen for a calibrated summary. The paper has values for five, but not how it asked for them: the
    instruction is Table 5's for several, without examples, whose answers are of one."""
    description = " ".join(" ".join(points).split())
    return read_prompt("icl_top").text.format(concepts=", ".join(concepts), top=top, description=description)


def icl_answers(reply: str, concepts: Sequence[str]) -> list[str]:
    """The concepts that a reply to icl_top_prompt lists after its last "Answer:", in order, each once; what is none of the concepts is passed
    over. Case, underscores, numbering and punctuation do not matter; concepts may hold commas themselves."""
    known = {_plain(concept): concept for concept in concepts}
    _, *answers = re.split("answer:", reply, flags=re.IGNORECASE)
    parts = [_plain(re.sub(r"^\W*\d+\W+", "", part)) for part in re.split(r"[,;\n]", answers[-1])] if answers else []
    longest = 1 + max((concept.count(",") for concept in concepts), default=0)
    found, place = [], 0
    while place < len(parts):
        sizes = range(min(longest, len(parts) - place), 0, -1)
        size = next((size for size in sizes if " ".join(parts[place : place + size]) in known), None)
        if size:
            found.append(known[" ".join(parts[place : place + size])])
        place += size or 1
    return list(dict.fromkeys(found))


def icl_answer(reply: str, concepts: Sequence[str]) -> str | None:
    """The concept that a reply to icl_prompt chooses: what follows its last "Answer:", or else the only concept it puts in quotes.

    None when that is none of the concepts; case, underscores and punctuation do not matter.
    """
    known = {_plain(concept): concept for concept in concepts}
    if "answer:" in reply.lower():
        line = reply[reply.lower().rindex("answer:") + len("answer:") :].strip().splitlines()
        return known.get(_plain(line[0])) if line else None
    quoted = {_plain(text) for text in re.findall(r"[\"'‘“]([^\"'’”\n]{1,100})[\"'’”]", reply)} & set(known)
    return known[quoted.pop()] if len(quoted) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", text.lower()).split())


def clean_points(text: str, *, as_released: bool = False) -> list[str]:
    """The points of a model's summary: its sentences of more than five tokens (words and marks), each once, without greetings, what
    announces a list, and the half sentence of a reply that was cut off.

    A greeting holds "sure", "here are", "based on", "please" and the like as whole words. `as_released` finds them within words, too, so
    that a sentence on pressure or measured levels is lost, and keeps repetitions.
    """
    if as_released:
        found = _split(text)
        found = found if len(found) >= 3 else text.split("\n")
        return [s for s in found if len(tokens(s)) >= FEWEST_TOKENS and not any(word in s.lower() for word in RELEASED_GREETINGS)]
    greeting = re.compile(r"\b(?:" + "|".join(GREETINGS) + r")\b")
    long = [s for s in sentences(UNFINISHED.sub("", text)) if len(tokens(s)) >= FEWEST_TOKENS]
    return list(dict.fromkeys(s for s in long if not greeting.search(s.lower()) and not s.endswith(":")))


@dataclass(frozen=True)
class Point:
    """A point of the summary of the highest clips after calibration.

    `cosine` is the highest to a point of the lowest clips' summary of those that count (NaN without such), `because` that point's text where
    it makes this one be dropped.
    """

    text: str
    kept: bool
    because: str | None
    cosine: float


def calibrate(
    high: Sequence[str], low: Sequence[str], encoder: TextEncoder, threshold: float = THRESHOLD, *, as_published: bool = False
) -> list[Point]:
    """Drop the points of `high` whose embedding has a cosine above `threshold` with that of any point of `low` (paper, section 3.4).

    To sentence encoders opposites and equal wording are much alike: with all-MiniLM-L6-v2 "It is a high-pitched sound." has a cosine of 0.91
    with "It is a low-pitched sound." and of 0.74 with "It is a noisy sound." Therefore a pair that differs (see `differ`) does not count,
    unless `as_published`.
    """
    if not len(high) or not len(low):
        return [Point(text, True, None, float("nan")) for text in high]
    cosines = (encoder.embed(high) @ encoder.embed(low).T).astype(np.float64)
    if not as_published:
        for i, j in np.argwhere(cosines > threshold).tolist():
            if differ(high[i], low[j]):
                cosines[i, j] = np.nan
    points = []
    for text, row in zip(high, cosines, strict=True):
        nearest = int(np.argmax(np.nan_to_num(row, nan=-np.inf)))
        dropped = bool(row[nearest] > threshold)
        points.append(Point(text, not dropped, low[nearest] if dropped else None, float(row[nearest])))
    return points


def calibrate_as_released(high: Sequence[str], low: Sequence[str], encoder: TextEncoder, threshold: float = 0.5) -> list[Point]:
    """What the released program does: it takes sentences out of both lists while it walks them beside their embeddings, which stay. After
    the first one every sentence is compared by another's embedding, and the wrong ones go. Each point's `cosine` and `because` are those
    of its own embedding."""
    vectors, others = encoder.embed(high), encoder.embed(low)
    kept, left = list(high), list(low)
    for text, vector in zip(kept, vectors):  # noqa: B905 - the list shrinks meanwhile
        for other, beside in zip(left, others):  # noqa: B905
            if vector @ beside > threshold:
                if text in kept:
                    kept.remove(text)
                if other in left:
                    left.remove(other)
    found = []
    for point in calibrate(high, low, encoder, threshold, as_published=True):
        stays = point.text in kept
        if stays:
            kept.remove(point.text)
        found.append(Point(point.text, stays, None if stays else point.because, point.cosine))
    return found


def differ(point: str, other: str) -> bool:
    """Whether two points say different things however alike their embeddings: one denies what the other says, or has a word that excludes
    a word of the other's (ingest/language/words/opposites.txt), each without the other's word; or both are short and worded alike, and each names
    something that the other does not ("It is a loud sound." and "It is a noisy sound.")."""
    ours, theirs = stems(point), stems(other)
    only_ours, only_theirs = ours - theirs, theirs - ours
    excluded = _exclusions()
    if any(_denied(stem) in only_theirs or excluded.get(stem, frozenset()) & only_theirs for stem in only_ours):
        return True
    frame, others = _frame(point), _frame(other)
    named, also_named = only_ours - COMMON_STEMS, only_theirs - COMMON_STEMS
    short = max(len(ours - COMMON_STEMS), len(theirs - COMMON_STEMS)) <= SHORT
    return short and bool(named and also_named) and len(frame & others) >= max(2, SAME_WORDING * len(frame | others))


def _frame(sentence: str) -> frozenset[str]:
    """The words that a sentence shares with those that say the same of something else."""
    found = ((core_of(word), stem) for word, stem in stemmed(sentence.split()))
    return frozenset("a" if word == "an" else stem or word for word, stem in found if not stem or stem in COMMON_STEMS)


def _denied(stem: str) -> str:
    return stem.removeprefix("no ") if stem.startswith("no ") else f"no {stem}"


def stems(sentence: str) -> frozenset[str]:
    """Stems of a sentence's content words, with "no " before those that are denied."""
    return frozenset(stem for _, stem in stemmed(sentence.split()) if stem)


def stemmed(words: Sequence[str]) -> list[tuple[str, str]]:
    """Each word with its stem in lower case, "" for function words, "no " before a stem that one of the four words before it denies."""
    found, denied = [], 0
    for word in words:
        core = core_of(word)
        if core in NEGATORS or core.endswith("n't"):
            denied = NEGATED_WORDS
            stem = ""
        else:
            if core == "but":
                denied = 0
            function_word = core in word_list("stop_words") or not any(character.isalnum() for character in core)
            stem = "" if function_word else ("no " if denied else "") + stem_of(core)
            denied = max(0, denied - 1)
        found.append((word, stem))
        if word.endswith((",", ";", ":", ".")):
            denied = 0
    return found


def core_of(word: str) -> str:
    """A word in lower case without the marks around it."""
    return word.lower().replace("’", "'").strip(".,;:!?\"'()[]*…“”‘")


@functools.lru_cache(maxsize=100_000)
def stem_of(word: str) -> str:
    """Snowball's English stem: "barks" and "barking" are "bark"."""
    return _stemmer().stem(word)


@functools.cache
def _stemmer() -> Any:
    from nltk.stem.snowball import SnowballStemmer

    return SnowballStemmer("english")


@functools.cache
def _exclusions() -> dict[str, frozenset[str]]:
    """Stems that exclude each stem."""
    found: dict[str, set[str]] = {}
    for line in opposites():
        sides = [{stem_of(word) for word in side} for side in line]
        for side in sides:
            for stem in side:
                found.setdefault(stem, set()).update(*(other for other in sides if other is not side))
    return {stem: frozenset(others) for stem, others in found.items()}
