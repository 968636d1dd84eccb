"""What captions share, found without a model: every word of such a summary stands in a caption."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from ingest.language.sentences import sentences
from ingest.language.text_encoders import TextEncoder
from ingest.language.word_lists import word_list
from ingest.methods.concepts import Tagger, pattern_tagger
from ingest.methods.summaries import COMMON_STEMS, Point, calibrate, core_of, differ, stem_of, stemmed

ALIKE = 0.7
OTHER_WORDS = 0.5  # sentences that share fewer of their words are worded otherwise
SENTENCES, WORDS = 30, 60  # how many of a caption, and how many in one, are looked at
# Function words that make a difference to what is said.
TELLING_WORDS = frozenset(
    {"all", "always", "any", "before", "after", "above", "below", "down", "each", "every", "few", "many", "more", "most", "much", "never"}
    | {"none", "nothing", "off", "often", "over", "several", "some", "sometimes", "under", "up"}
)
MODIFIERS = ("JJ", "VBN", "VBG", "DT", "CD")
JOINTS = (",", "and", "or")

Tags = Callable[[tuple[str, ...]], list[str]]


@dataclass(frozen=True)
class _Sentence:
    """A sentence, where it stands, and the stems of its words that say something of a sound."""

    text: str
    caption: int
    place: int
    content: frozenset[str]


def commonalities(
    captions: Sequence[str], encoder: TextEncoder | None, share: float = 0.5, *, alike: float = ALIKE, tag: Tagger | None = None
) -> list[str]:
    """What at least `share` of the captions (and two, where there are two) say, in their own words; nothing in common is no point.

    Points are of three kinds. Sentences of a caption whose content words stand together in enough captions, without those modifiers and
    clauses that do not: "It is a loud, noisy sound." from "It is a loud, high-pitched, noisy sound."; sentences whose embeddings are alike
    (cosine at least `alike`) in enough captions though other words say so (needs an encoder); and a list of the shared words that are left.
    Words are compared by stem, and a denied word is another word. Points come in the order in which captions say such things.
    """
    if not captions:
        return []
    enough = max(min(2, len(captions)), math.ceil(share * len(captions) - 1e-9))
    found = [_read(text, i, place) for i, caption in enumerate(captions) for place, text in enumerate(_heard(caption))]
    said = [frozenset[str]().union(*(sentence.content for sentence in found if sentence.caption == i)) for i in range(len(captions))]
    counts = Counter(stem for stems in said for stem in stems)
    shared = {stem for stem, count in counts.items() if count >= enough}

    def support(sentence: _Sentence) -> int:
        return sum(sentence.content <= stems for stems in said)

    tags = _tags(tag) if tag else _usual_tags
    candidates: list[_Sentence] = []
    for sentence in found:
        # All that is shared at once, or else without the rarest, and so on; and each word alone.
        rarest_first = sorted(sentence.content & shared, key=lambda stem: (counts[stem], stem))
        got: frozenset[str] = frozenset()
        for allowed in [set(rarest_first[i:]) for i in range(len(rarest_first))] + [{stem} for stem in rarest_first[:-1]]:
            if not allowed <= got and (text := _reduced(sentence.text, allowed, captions, tags)) is not None:
                candidate = _read(text, sentence.caption, sentence.place)
                if support(candidate) >= enough:
                    candidates.append(candidate)
                    got |= candidate.content

    points: list[_Sentence] = []
    told: set[str] = set()
    while candidates:
        best = max(candidates, key=lambda candidate: (len(candidate.content - told), support(candidate)))
        if not best.content - told:
            break
        points.append(best)
        told |= best.content
    points += _otherwise_worded([sentence for sentence in found if not sentence.content <= told], encoder, enough, alike)
    points.sort(key=lambda sentence: sentence.place)
    words = {stem: core_of(word) for s in reversed(found) for word, stem in _stems(s.text) if stem in shared - told}
    left = [words[stem] for stem in words if not stem.startswith("no ") and re.search(r"[^\W\d_]{2}", stem)]
    return [point.text for point in points] + ([", ".join(sorted(left))] if left else [])


def calibrate_shared(high: Sequence[str], low: Sequence[str], encoder: TextEncoder) -> list[Point]:
    """Drop the points of `high` that a point of `low` says as well: all their content words stand in it.

    The counterpart of ingest.methods.summaries.calibrate for points made here. They are so much alike in form that a sentence encoder puts "It is a
    dull sound." and "It is a tonal sound." (cosine 0.8) closer than sentences of a language model that mean the same. `cosine` is
    calculated all the same.
    """
    others = [(text, _read(text, 0, 0).content) for text in low]
    points = []
    for point in calibrate(high, low, encoder, threshold=math.inf):
        said = _read(point.text, 0, 0).content
        because = next((text for text, content in others if said <= content), None)
        points.append(Point(point.text, because is None, because, point.cosine))
    return points


@functools.lru_cache(maxsize=100_000)
def _stems(text: str) -> list[tuple[str, str]]:
    """Each word of a text with its stem, "" where it says nothing of a sound."""
    found = [(word, stem or (core_of(word) if core_of(word) in TELLING_WORDS else "")) for word, stem in stemmed(text.split())]
    return [(word, "" if stem in COMMON_STEMS else stem) for word, stem in found]


def _read(text: str, caption: int, place: int) -> _Sentence:
    return _Sentence(text, caption, place, frozenset(stem for _, stem in _stems(text) if stem))


# A clip is among the highest of many neurons, so its caption comes again and again.
@functools.lru_cache(maxsize=20_000)
def _heard(caption: str) -> tuple[str, ...]:
    return tuple(text for text in sentences(caption)[:SENTENCES] if len(text.split()) <= WORDS)


def _tags(tag: Tagger) -> Tags:
    """The tags alone, of words and commas of a sentence without its end."""
    return lambda parts: [kind for _, kind in tag([*(part.lower() for part in parts), "."])]


@functools.lru_cache(maxsize=100_000)
def _usual_tags(parts: tuple[str, ...]) -> list[str]:
    return _tags(pattern_tagger())(parts)


def _reduced(text: str, allowed: AbstractSet[str], captions: Sequence[str], tag: Tags) -> str | None:
    """A sentence with no content word but the allowed: modifiers of a noun, adverbs and items of a list go alone, other words with the
    phrase that a preposition begins or with the whole clause. None where that is the first clause, or nothing would be said."""
    body = text.strip(" ,.!?;:")
    parts = re.findall(r"[^\s,]+|,", body)
    stems = iter(stem for _, stem in _stems(" ".join(parts).replace(" ,", ",")))
    says = ["" if part == "," else next(stems) for part in parts]
    unwanted = {i for i, stem in enumerate(says) if stem and stem not in allowed}
    tags = tag(tuple(parts))
    gone: set[int] = set()
    for i in sorted(unwanted):
        if says[i].startswith("no ") or not _can_go(i, parts, tags, unwanted):
            first = max((j for j in range(i) if parts[j] == ","), default=-1)
            last = next((j for j in range(i, len(parts)) if parts[j] == ","), len(parts))
            phrase = max((j for j in range(first + 2, i) if tags[j] == "IN" and parts[j].lower() != "like"), default=None)
            if phrase is not None and all(j in unwanted or not says[j] for j in range(phrase, last)):
                gone.update(range(phrase, last))
            elif first >= 0:
                gone.update(range(first, last))
            else:
                return None
        elif i not in gone:
            gone.add(i)
            after = i + 1
            if after < len(parts) and parts[after].lower() in JOINTS:
                gone.add(after)
                continue
            before = max((j for j in range(i) if j not in gone), default=-1)
            while before >= 0 and parts[before].lower() in JOINTS:
                gone.add(before)
                before -= 1
    if not any(stem and i not in gone for i, stem in enumerate(says)):
        return None
    left = [part for i, part in enumerate(parts) if i not in gone]
    end = left[-1].lower()
    if gone and end in word_list("stop_words") - TELLING_WORDS:  # "Its pitch is"
        return None
    return _written(left, captions, text[len(text.rstrip(" .!?;:")) :].strip())


def _can_go(i: int, parts: Sequence[str], tags: Sequence[str], unwanted: AbstractSet[int]) -> bool:
    """Whether a word is a modifier of a noun that follows, or one of the joined modifiers of which another stays."""
    if tags[i].startswith("RB"):
        return True
    if not tags[i].startswith(MODIFIERS):
        return False
    joined = [kind.startswith((*MODIFIERS, "RB")) or part.lower() in JOINTS for part, kind in zip(parts, tags, strict=False)]
    first, last = i, i
    while first > 0 and joined[first - 1]:
        first -= 1
    while last + 1 < len(parts) and joined[last + 1]:
        last += 1
    if last + 1 < len(parts) and tags[last + 1].startswith("NN"):
        return True
    return any(j not in unwanted and tags[j].startswith("JJ") for j in range(first, last + 1))


def _written(parts: Sequence[str], captions: Sequence[str], end: str) -> str | None:
    """Words and commas as a sentence; None where an article does not fit its new neighbour and no caption has the other one."""
    words = " ".join(parts).replace(" ,", ",").split()
    for i, (article, word) in enumerate(itertools.pairwise(words)):
        fitting = "an" if word[0].lower() in "aeiou" else "a"
        if article.lower() in ("a", "an") and article.lower() != fitting and f"{article} {word}" not in " ".join(captions):
            if not any(re.search(rf"\b{fitting}\b", caption, re.IGNORECASE) for caption in captions):
                return None
            words[i] = fitting
    text = " ".join(words)
    return text[0].upper() + text[1:] + end


def _otherwise_worded(found: Sequence[_Sentence], encoder: TextEncoder | None, enough: int, alike: float) -> list[_Sentence]:
    """One sentence of each group that enough captions have in other words, the most central first; no sentence is in two groups."""
    if encoder is None or not found or len({sentence.caption for sentence in found}) < enough:
        return []
    vectors = encoder.embed([sentence.text for sentence in found])
    cosines = vectors @ vectors.T
    words = [frozenset(stem_of(core_of(word)) for word in sentence.text.split()) for sentence in found]
    same = np.eye(len(found), dtype=bool)
    for i, j in np.argwhere(np.triu(cosines >= alike, 1)).tolist():
        overlap = len(words[i] & words[j]) / min(len(words[i]), len(words[j]))
        same[i, j] = same[j, i] = overlap < OTHER_WORDS and not differ(found[i].text, found[j].text)
    chosen: list[_Sentence] = []
    free = np.ones(len(found), dtype=bool)
    while True:
        groups = same & free
        sizes = [len({found[j].caption for j in np.flatnonzero(groups[i]).tolist()}) if free[i] else 0 for i in range(len(found))]
        best = max(range(len(found)), key=lambda i: (sizes[i], float((cosines[i] * groups[i]).sum())))
        if sizes[best] < enough:
            return chosen
        chosen.append(found[best])
        free &= ~groups[best]
