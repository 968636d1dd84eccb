"""Language models: prompts in, replies out, and which replies can be used. A prompt is one message of a user."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_TOKENS = 1024  # Audio Network Dissection, released program
LONGEST_REPLY = 20_000  # bytes of UTF-8
BEGINNING = 200  # characters in which a refusal stands

CUT_OFF = " …"
"""What stands at the end of a reply that reached its most tokens."""
_TAGS = r"<{0}(?:seed:)?(?:think(?:ing)?|thought|reason(?:ing)?)>|\[{0}THINK\]|◁{0}think▷"
THINKS = re.compile(_TAGS.format(""), re.IGNORECASE)
"""What begins a model's thinking."""
THOUGHT = re.compile(_TAGS.format("/"), re.IGNORECASE)
"""What ends it. The beginning may be missing from a reply: many chat templates end in it."""
UNFINISHED = "reply ends while thinking"
MARKUP = re.compile(r"<[^<>]{0,500}>|&\w{1,10};")
REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able|afraid i can)\b|\bi (?:cannot|can't|can not|won't|will not)\b"
    r"|\bi (?:do not|don't) have (?:access|the ability|the capability|any (?:audio|descriptions?))\b",
)
MACHINE = re.compile(r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b")


@dataclass(frozen=True)
class Reply:
    """What a model said. `text` is None when that cannot be used, and `reason` says in one line why.

    `raw` is all of it, with lone surrogates and control characters written as escapes, and CUT_OFF at the end where it reached its most
    tokens; it is empty when there was no answer at all.
    """

    text: str | None
    raw: str
    reason: str | None


class LanguageModel(Protocol):
    """A model that answers prompts."""

    @property
    def name(self) -> str:
        """Short name to show."""

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the replies, JSON-able: equal parameters give equal replies, as far as the engine can promise that."""

    def complete(self, prompts: Sequence[str]) -> list[Reply]:
        """One reply per prompt, in order."""


@dataclass(frozen=True)
class Prompt:
    """A prompt's text, perhaps with fields in braces, and its SHA-256."""

    text: str
    sha256: str


@functools.cache
def read_prompt(name: str) -> Prompt:
    """The prompt in ingest/language/prompts/NAME.txt."""
    text = (Path(__file__).parent / "prompts" / f"{name}.txt").read_text(encoding="utf-8").strip()
    return Prompt(text, prompt_sha256(text))


def prompt_sha256(prompt: str) -> str:
    """Hex SHA-256 of a prompt."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def ask(model: LanguageModel, prompts: Sequence[str], known: Mapping[str, Reply] | None = None) -> list[Reply]:
    """One reply per prompt, in order. Equal prompts are asked once, and not at all when `known` has a reply under their SHA-256."""
    known = known or {}
    hashes = [prompt_sha256(prompt) for prompt in prompts]
    new = {key: prompt for key, prompt in zip(hashes, prompts, strict=True) if key not in known}
    # Tokenizers refuse lone surrogates.
    answers = model.complete([prompt.encode("utf-8", "backslashreplace").decode() for prompt in new.values()]) if new else []
    found = dict(zip(new, answers, strict=True))
    return [known[key] if key in known else found[key] for key in hashes]


def answer(raw: str) -> str:
    """What a model wrote after its thinking: all that follows the last end of one."""
    *_, end = 0, *(match.end() for match in THOUGHT.finditer(raw))
    return raw[end:]


def begins_thinking(prompt: str) -> bool:
    """Whether a prompt, as the chat template made it, ends in the beginning of the model's thinking."""
    return any(not prompt[match.end() :].strip() for match in THINKS.finditer(prompt))


def judged(raw: str, thinks: bool = False) -> Reply:
    """A reply from what a model wrote: without its thinking, or unusable when it is empty, over 20 kB, markup only, hardly in Latin
    letters, a refusal, or holds lone surrogates or control characters. `thinks`: the prompt ended in the beginning of a thinking."""
    safe = "".join(_escaped(character) if _is_control(character) else character for character in raw)
    if thinks and not THOUGHT.search(raw):
        return Reply(None, safe, UNFINISHED)
    text = answer(raw).strip()
    return Reply(None, safe, reason) if (reason := _fault(text)) else Reply(text, safe, None)


def _fault(text: str) -> str | None:
    size = len(text.encode("utf-8", "surrogatepass"))
    words = MARKUP.sub(" ", text)
    letters = [character for character in words if character.isalpha()]
    plain = words.lower().replace("’", "'")
    if not text:
        return "empty reply"
    if size > LONGEST_REPLY:
        return f"reply of {size} bytes, more than {LONGEST_REPLY}"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        return "reply with lone surrogates"
    if any(map(_is_control, text)):
        return "reply with control characters"
    if THINKS.search(text):
        return UNFINISHED
    if not letters:
        return "reply without a word"
    if sum(ord(letter) < 0x250 for letter in letters) < len(letters) / 2:
        return "reply in another script"
    if REFUSAL.search(plain.lstrip()[:BEGINNING]) or MACHINE.search(plain):
        return "refusal"
    return None


def _is_control(character: str) -> bool:
    """Control characters but for tabs and line ends, lone surrogates, and what turns the direction of writing."""
    if character in "\t\n\r":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else f"\\x{ord(character):02x}"
