"""Sentences of texts and words of sentences."""

from __future__ import annotations

import functools
import importlib.util
import re
from typing import Any

from warehouse.store import UserError

ABBREVIATIONS = {"e.g", "i.e", "eg", "ie", "etc", "vs", "approx", "ca", "cf", "dr", "mr", "mrs", "ms", "prof", "st", "fig"}

BULLET = re.compile(r"^(?:\s*(?:[-*+•–—·▪◦>]|#{1,6}|\(?\d{1,3}[.)]|\(?[a-zA-Z]\))\s+)+")
INLINE_NUMBER = re.compile(r"(?<=[.!?:])[ \t]+(?=\(?\d{1,2}[.)]\s+\W{0,3}[A-Z])")
EMPHASIS = re.compile(r"\*+|_{2,}|`+")


def sentences(text: str) -> list[str]:
    """Sentences of a text, without bullets, numbering and Markdown's emphasis.

    Items of lists, lines after a blank one and lines after the end of a sentence begin anew; within them Punkt's rules apply (Kiss & Strunk
    2006). Where that finds fewer than three sentences, every line is at least one.
    """
    lines = INLINE_NUMBER.sub("\n", text).splitlines()
    blocks: list[str] = []
    ended = True
    for line in lines:
        content = _content(line)
        if blocks and not (ended or BULLET.match(line)) and content:
            blocks[-1] += " " + content
        elif content:
            blocks.append(content)
        ended = not content or content.endswith((".", "!", "?", ":", ";"))
    found = [sentence for block in blocks for sentence in _split(block)]
    if len(found) < 3:
        found = [sentence for line in lines for sentence in _split(_content(line))]
    return found


def _content(line: str) -> str:
    return EMPHASIS.sub("", BULLET.sub("", line)).strip()


def _split(block: str) -> list[str]:
    return [sentence.strip() for sentence in _splitter().tokenize(block) if sentence.strip()]


@functools.cache
def _splitter() -> Any:
    """Punkt with our own abbreviations: NLTK's trained parameters come by download only."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def tokens(sentence: str) -> list[str]:
    """Words and marks as in the Penn Treebank: "isn't" is "is", "n't"; "high-pitched" is one."""
    return _tokenizer().tokenize(sentence)


@functools.cache
def _tokenizer() -> Any:
    if importlib.util.find_spec("nltk") is None:
        raise UserError("NLTK is not installed: pip install nltk")
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()
