"""Captions: what clips sound like, in words. Captioners give them and keep to one protocol."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr

from ingest.language.models import MACHINE, MARKUP, REFUSAL, answer, judged
from ingest.sounds.sound import SoundError, decode

WINDOW = 8  # tokens; Audio Network Dissection, released program
LONGEST_CAPTION = 4000  # characters
SPEECH = re.compile(r"\b(?:say|speak|talk|shout|sing|whisper|ask|repl[iy]|tell|word|lyric)|[\"“‘]")


@dataclass(frozen=True)
class Caption:
    """What a captioner says of a clip. `text` is None when that is no description, and `reason` says in one line why.

    `raw` is where the text comes from: the model's words, or measurements and class scores as JSON; empty when there are none.
    """

    text: str | None
    raw: str
    reason: str | None


class Captioner(Protocol):
    """What describes sound files in words."""

    @property
    def name(self) -> str:
        """Short name to show."""

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions, JSON-able: equal names and parameters give equal captions, as far as the engine can promise that."""

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file, in order."""


# --- From what a model said to a caption --------------------------------------------------------------------------------------------------


def accept(raw: str, thinks: bool = False) -> Caption:
    """The caption in what a model said, cleaned up; none when that is empty, a refusal, in another script, or longer than 4,000 characters.

    Whatever the text asks a reader to do is left as it is: captions are only ever data. `thinks`: see ingest.language.models.judged.
    """
    safe, visible = judged(raw).raw, answer(_visible(raw))
    reply = judged(_visible(raw), thinks)
    if reply.reason and not (reply.reason == "refusal" and _is_reported(visible)):
        return Caption(None, safe, reply.reason)
    text = clean_up(reply.text or visible)
    if len(text) > LONGEST_CAPTION:
        return Caption(None, safe, f"caption of {len(text)} characters, more than {LONGEST_CAPTION}")
    return Caption(text, safe, None) if any(map(str.isalpha, text)) else Caption(None, safe, "caption without a word")


def _is_reported(text: str) -> bool:
    """Whether what looks like a refusal is somebody's speech in the clip."""
    plain = text.lower().replace("’", "'")
    found = REFUSAL.search(plain)
    return found is not None and not MACHINE.search(plain) and bool(SPEECH.search(plain[: found.start()]))


def clean_up(text: str) -> str:
    """A text without markup, control characters, lone surrogates and needless space, and without what a looping model repeats.

    Where any eight tokens occur twice, the first line is kept, of a single line the first sentence (Audio Network Dissection, released
    program); what still repeats itself ends where it begins to.
    """
    from ingest.language.sentences import sentences

    visible = _visible(MARKUP.sub(" ", html.unescape(_visible(text))))
    lines = [line for line in (" ".join(line.split()) for line in visible.splitlines()) if line]
    if _repetition(" ".join(lines)) is None:
        return "\n".join(lines)
    first = lines[0] if len(lines) > 1 else sentences(lines[0])[0]
    if _repetition(first) is not None:
        first = sentences(first)[0]
    end = _repetition(first)
    return first if end is None else " ".join(first.split()[:end])


def _visible(text: str) -> str:
    """A text without characters that have no shape: control and format characters, lone surrogates, unassigned ones."""
    return "".join(c for c in text if c in "\t\n\r" or not unicodedata.category(c).startswith("C"))


def _repetition(text: str) -> int | None:
    """Number of the token at which a window of eight occurs for the second time; None when none does."""
    tokens = text.split()
    seen = set()
    for start in range(len(tokens) - WINDOW + 1):
        window = tuple(tokens[start : start + WINDOW])
        if window in seen:
            return start
        seen.add(window)
    return None


def hear(path: Path, rate_hz: int, clip_s: float) -> np.ndarray:
    """A file's sound [samples] (float32, mono) at `rate_hz`, of a longer one the middle `clip_s` seconds. Raises SoundError."""
    mono, found_hz, _ = decode(path, middle_s=clip_s)
    mono = mono[: round(clip_s * found_hz)]
    return np.ascontiguousarray(mono if found_hz == rate_hz else soxr.resample(mono, found_hz, rate_hz), dtype=np.float32)


def in_batches(
    paths: Sequence[Path], load: Callable[[Path], np.ndarray], say: Callable[[list[np.ndarray]], Sequence[Caption]], batch: int
) -> list[Caption]:
    """One caption per file, `batch` files at a time; a file that cannot be read has none."""
    captions: list[Caption] = []
    for start in range(0, len(paths), batch):
        sounds: list[np.ndarray | str] = []
        for path in paths[start : start + batch]:
            try:
                sounds.append(load(path))
            except SoundError as error:
                sounds.append(str(error))
        heard = [sound for sound in sounds if not isinstance(sound, str)]
        said = iter(say(heard) if heard else [])
        captions += [Caption(None, "", sound) if isinstance(sound, str) else next(said) for sound in sounds]
    return captions
