"""Open concepts: the adjectives, nouns, verbs and prepositions of a neuron's description (Audio Network Dissection, module C)."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ingest.language.models import read_prompt
from ingest.language.sentences import tokens
from ingest.language.word_lists import word_list
from warehouse.store import UserError

PartOfSpeech = Literal["adjective", "noun", "verb", "preposition"]
Tagger = Callable[[Sequence[str]], list[tuple[str, str]]]
"""Tokens of one sentence to (token, tag of the Penn Treebank)."""

PARTS: tuple[tuple[PartOfSpeech, tuple[str, ...]], ...] = (
    ("adjective", ("JJ", "JJR", "JJS", "VBN")),
    ("noun", ("NN", "NNS", "NNP", "NNPS")),
    ("verb", ("VB", "VBD", "VBG", "VBN", "VBP", "VBZ")),
    ("preposition", ("IN",)),
)
NEGATIONS = frozenset({"no", "not", "n't"})
NEGATED_TOKENS = 4

TAGGER = "textblob-aptagger==0.2.0"
TAGGER_SHA256 = "1109164b3d28dce58f96b763128bab2fd8754c3921fd3330de2724ac6d1ada7c"


@dataclass(frozen=True)
class Concept:
    """A word of the `sentence_index`-th point, from 0, in lower case."""

    word: str
    pos: PartOfSpeech
    sentence_index: int


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, strings, numbers and sets, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != ("__builtin__", "set"):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return set


def read_weights(path: Path) -> tuple[dict[str, dict[str, float]], dict[str, str], set[str]]:
    """Weights by feature and tag, tags of unambiguous words, and all tags. Raises UserError for any file but the one known."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != TAGGER_SHA256:
        raise UserError(f"{path} does not hold the tagger's weights known as {TAGGER}: pip install --force-reinstall {TAGGER}")
    return _PlainUnpickler(io.BytesIO(content)).load()


@functools.cache
def perceptron_tagger() -> Tagger:
    """NLTK's averaged perceptron tagger with the weights its author published in textblob-aptagger (trained on the Wall Street Journal).

    NLTK's own weights for it, which the paper used, come by download only. Raises UserError when a package is missing or not the one known.
    """
    package = importlib.util.find_spec("textblob_aptagger")
    if package is None or not package.submodule_search_locations or importlib.util.find_spec("nltk") is None:
        raise UserError(f"the part-of-speech tagger is not installed: pip install nltk {TAGGER}")
    from nltk.tag.perceptron import PerceptronTagger

    tagger = PerceptronTagger(load=False)
    weights = Path(package.submodule_search_locations[0]) / "trontagger-0.1.0.pickle"
    tagger.model.weights, tagger.tagdict, tagger.classes = read_weights(weights)
    tagger.model.classes = tagger.classes
    return tagger.tag


def open_concepts(points: Iterable[str], tag: Tagger | None = None, *, as_published: bool = False) -> list[Concept]:
    """Words of the points of a calibrated summary, in order, each once per point and part of speech.

    Adjectives are JJ* and VBN without a "no" or "not" among the four tokens before; a participle (VBN) is a verb, too. Stop words are left
    out except among prepositions, which nearly all are, and so are adjectives that say nothing of any sound (first, various, recorded).
    Words of acoustic_adjectives are adjectives, too, where they are tagged VBG (fluctuating) or NN before a noun (broadband), unless
    `as_published`.
    Words are tagged in lower case, because a capital at the beginning makes a name of "Loud". `tag` is perceptron_tagger() by default.
    """
    tag = tag or perceptron_tagger()
    found: dict[Concept, None] = {}
    for index, point in enumerate(points):
        tagged = tag(tokens(point.lower()))
        for place, (token, kind) in enumerate(tagged):
            word = token.strip("'`’‘“”\"*_.-")
            if not re.fullmatch(r"[^\W\d_](?:[\w'’-]{0,38}[^\W_])", word):
                continue
            negated = any(before in NEGATIONS for before, _ in tagged[max(0, place - NEGATED_TOKENS) : place])
            before_noun = place + 1 < len(tagged) and tagged[place + 1][1].startswith("NN")
            likely = not as_published and word in word_list("acoustic_adjectives") and (kind == "VBG" or (kind == "NN" and before_noun))
            for part, kinds in PARTS:
                if not (kind in kinds or (part == "adjective" and likely)) or (part != "preposition" and word in word_list("stop_words")):
                    continue
                if part == "adjective" and (negated or word in word_list("trivial_adjectives")):
                    continue
                found[Concept(word, part, index)] = None
    return list(found)


def acoustic_question(adjective: str) -> str:
    """The prompt that asks whether an adjective describes sound (paper, footnote 1 and A.2)."""
    return read_prompt("acoustic_adjective").text.format(adjective=adjective)


def parse_yes_no(reply: str) -> bool | None:
    """The answer in a reply; None when it gives none or both. A yes or no at the beginning counts before any later one."""
    text = re.sub(r"\(?\byes\s*(?:or|/)\s*no\b\)?", " ", reply.lower())
    first = re.match(r"[\W_]*(?:(?:the )?answer(?: is)?[\W_]+)?(yes|no)\b", text)
    if first:
        return first[1] == "yes"
    answers = set(re.findall(r"\byes\b|\bno\b", text))
    return answers == {"yes"} if len(answers) == 1 else None
