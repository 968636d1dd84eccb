"""Which words are near others in meaning, for an atlas's search: a page without a server cannot embed what is typed, a table can say what it is near."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ingest.language.text_encoders import TextEncoder, minilm
from ingest.language.word_lists import opposites, sounds_like, word_list
from ingest.networks.fetch import cached_path

NEAREST = 12
"""Words that a word is near."""
LIKE = 0.6
"""What stands for the cosine of a sound's word and one of those that describe it (words/sounds_like.txt): the encoder has none of beeps and tones."""
PROMPT = "a {} sound"
LEAST = 0.35
"""How words are put to the encoder, whose mean over the list is then taken off, and the cosine from which on two of them are related.

Of 199 pairs of words for one thing (of AudioSet's names such as "Beep, bleep", and of ESC-50's classes beside AudioSet's) 39 % are among each other's first
five, against 34 % of the words alone; 0.6 % of all pairs of the words of these names and Auricle's acoustic adjectives reach 0.35."""


class RelatedWords:
    """Finds the words of an atlas that each of its words, and each common word about sound (words/sound_words.txt), is near.

    `kept` is a file for embeddings of words, which are then made once; a folder that cannot be written makes no difference but time.
    """

    def __init__(self, encoder: TextEncoder, kept: Path | None = None) -> None:
        self.encoder, self.kept = encoder, kept

    @property
    def key(self) -> str:
        """What the answer follows from, but the words asked for."""
        lists = hashlib.sha256(
            repr([*map(sorted, (word_list("sound_words"),)), sounds_like(), PROMPT, LEAST, NEAREST]).encode()
        ).hexdigest()[:16]
        return f"{self.encoder.name} {lists}"

    def __call__(self, words: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
        """By word of `words` and of the list, places in `words` of up to NEAREST others with a cosine of LEAST or more, nearest first, and cosines.

        Of words that exclude each other (words/opposites.txt), which encoders put near each other, only the nearest is kept; words near none are left out.
        """
        asked = list(dict.fromkeys([*words, *sorted(word_list("sound_words")), *sounds_like()]))
        if not words:
            return {}
        vectors = self._embedded(asked)
        vectors -= vectors[[i for i, word in enumerate(asked) if word in word_list("sound_words")]].mean(axis=0)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        sides = [[(side, its) for its in line for side in its] for line in opposites()]
        excluded: dict[str, set[str]] = {}
        for line in sides:
            for word, its in line:
                excluded.setdefault(word, set()).update(other for other, side in line if side is not its)
        found, places = {}, {word: at for at, word in enumerate(words)}
        for start in range(0, len(asked), 1000):  # a thousand at a time, or a large atlas takes gigabytes
            cosines = vectors[start : start + 1000] @ vectors[: len(words)].T
            for word, row in zip(asked[start : start + 1000], cosines, strict=True):
                no = excluded.get(word, set())
                order = np.argsort(-row, kind="stable")[: 2 * NEAREST + 1].tolist()
                near = [(places[its], LIKE) for its in sounds_like().get(word, ()) if its in places and its != word]
                no = no.union(*(excluded.get(words[at], set()) for at, _ in near))
                for i in order:
                    if row[i] >= LEAST and words[i] != word and words[i] not in no and i not in dict(near):
                        near.append((i, float(row[i])))
                        no = no | excluded.get(words[i], set())
                if near:
                    found[word] = sorted(near, key=lambda its: -its[1])[:NEAREST]
        return found

    def _embedded(self, words: list[str]) -> np.ndarray:
        """Embeddings [words, dimensions] (float32)."""
        known: dict[str, np.ndarray] = {}
        if self.kept:
            with contextlib.suppress(OSError, ValueError, KeyError, EOFError), np.load(self.kept, allow_pickle=False) as file:
                if file["prompt"].item() == PROMPT:
                    known = dict(zip(file["words"].tolist(), file["vectors"], strict=True))
        new = [word for word in words if word not in known]
        if new:
            known |= zip(new, self.encoder.embed([PROMPT.format(word) for word in new]).astype(np.float16), strict=True)
            if self.kept:
                temporary = self.kept.with_suffix(f".{os.getpid()}.npz")
                with contextlib.suppress(OSError):
                    np.savez(temporary, prompt=np.array(PROMPT), words=np.array(list(known)), vectors=np.stack(list(known.values())))
                    os.replace(temporary, self.kept)
        return np.stack([known[word] for word in words]).astype(np.float32)


def at_hand() -> RelatedWords | None:
    """By all-MiniLM-L6-v2, where it was fetched already and can be run; nothing is downloaded."""
    path = cached_path("minilm")
    if not path.is_dir() or importlib.util.find_spec("sentence_transformers") is None:
        return None
    return RelatedWords(minilm(), path.with_name(f"{path.name}-words.npz"))
