"""Open concepts: the adjectives, nouns, verbs and prepositions of a neuron's description (Audio Network Dissection, module C)."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ingest.language.models import read_prompt
from ingest.language.sentences import tokens
from ingest.language.word_lists import class_names, word_list
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

NOUNS_AND_VERBS = frozenset({"NN", "NNS", "VB", "VBD", "VBN", "VBP", "VBZ"})
OF_SOUNDS = ["VBZ", "NNS", "PREVWD", "of"]  # a rule: tag, new tag, where
# What TextBlob's dictionary has otherwise or not at all.
WORDS = {"audio": "NN", "cymbal": "NN", "second": "NN", "siren": "NN", "2": "CD", "4": "CD"}
WORDS |= dict.fromkeys(("fading", "fast", "mid-pitched", "narrowband"), "JJ")


@dataclass(frozen=True)
class Concept:
    """A word of the `sentence_index`-th point, from 0, in lower case."""

    word: str
    pos: PartOfSpeech
    sentence_index: int


@functools.cache
def pattern_tagger() -> Tagger:
    """TextBlob's PatternTagger (De Smedt & Daelemans 2012: words by dictionary and ending), and the contextual rules (Brill 1992) that come
    with it, which TextBlob does not apply: those that make verbs of nouns and nouns of verbs. The others, learned from newspapers, make
    nouns of the adjectives of captions.

    F1 of adjectives, nouns, verbs and prepositions on tests/golden/tagged_sentences.txt is 0.91; PatternTagger alone has 0.84, NLTK's
    perceptron tagger with the weights of textblob-aptagger 0.89. Raises UserError when TextBlob is missing.
    """
    if importlib.util.find_spec("textblob") is None:
        raise UserError("the part-of-speech tagger is not installed: pip install textblob")
    from textblob.en import lexicon, parser

    known = {**dict(lexicon.items()), **WORDS}
    rules = []
    for rule in [*lexicon.context, OF_SOUNDS]:
        if {rule[0], rule[1]} <= NOUNS_AND_VERBS:
            list.append(alone := type(lexicon.context)(), rule)  # its own append reads the file of all rules first
            rules.append((rule[0], alone))

    def tag(words: Sequence[str]) -> list[tuple[str, str]]:
        tagged = parser.find_tags(list(words), lexicon=known)
        for changed, rule in rules:
            if any(kind == changed for _, kind in tagged):
                tagged = rule.apply(tagged)
        return [(word, kind) for word, kind in tagged]

    return tag


def open_concepts(points: Iterable[str], tag: Tagger | None = None, *, as_published: bool = False) -> list[Concept]:
    """Words of the points of a calibrated summary, in order, each once per point and part of speech.

    Adjectives are JJ* and VBN without a "no" or "not" among the four tokens before; a participle (VBN) is a verb, too. Stop words are left
    out except among prepositions, which nearly all are, and so are adjectives that say nothing of any sound (first, various, recorded).
    Words of acoustic_adjectives are adjectives, too, where they are tagged VBG (fluctuating) or NN before a noun (broadband), unless
    `as_published`.
    Words are tagged in lower case, because a capital at the beginning makes a name of "Loud". `tag` is pattern_tagger() by default.
    """
    tag = tag or pattern_tagger()
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


def lemmas(word: str, pos: PartOfSpeech) -> frozenset[str]:
    """What a word may be an inflection of, itself among it: of nouns the singular, of verbs what endings were put to. Some are no words
    (knocke), which harms nobody."""
    found = {word}
    if pos == "noun":
        from textblob.en.inflect import singularize

        found.add(singularize(word))
    elif pos == "verb":
        for ending in ("ing", "ed", "es", "s"):
            if word.endswith(ending) and len(stem := word.removesuffix(ending)) > 2:
                found |= {stem, f"{stem}e"} if ending[0] != "s" else {stem}
                if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "ls":
                    found.add(stem[:-1])
    return frozenset(found)


class Naming:
    """By what words descriptions name a class: those that word_lists.class_names has for it; without such a list its own words but stop words,
    each by itself. A noun counts by its singular, a verb where the name ends in -ing."""

    def __init__(self, class_name: str) -> None:
        plain = " ".join(re.findall(r"[a-z]+", class_name.lower()))
        own = [word for word in plain.split() if word not in word_list("stop_words")]
        self.names = [tuple(name.split()) for name in class_names().get(plain, own)]

    def parts(self, word: str, pos: str) -> set[str]:
        """Words of the names that a word stands for."""
        wanted = {part for name in self.names for part in name}
        if pos == "noun":
            return {part for part in wanted if lemmas(word, "noun") & lemmas(part, "noun")}
        if pos == "verb":
            return {part for part in wanted if part.endswith("ing") and lemmas(word, "verb") & lemmas(part, "verb")}
        return set()

    def named(self, parts: Iterable[str]) -> bool:
        """Whether the words of some name are all there."""
        said = set(parts)
        return any(said.issuperset(name) for name in self.names)
