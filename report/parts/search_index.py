"""The search index: names and addresses of neurons, classes, words and clips, and what is said of them, as one classic script; and related words."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

from report.contents import Contents, Dataset, Study

FIELDS = ("description", "rule", "aside", "tuning", "caption")
"""Where a word is said: of neurons in the description, in a rule's main condition or aside from it, of their tuning; the last of clips."""
PARTS_OF_SPEECH = ("adjective", "noun", "verb", "preposition")
WORDS = 6000
"""Words of a site that others are related to, those said most often."""
WORD = re.compile(r"[^\W\d_]{2,}(?:-[^\W\d_]{2,})*")
LONGEST = 30
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NUMBERS = frozenset(["khz", "hz", "ms", "db", "dbfs"])


class Related(Protocol):
    """Finds words that are near others in meaning; see ingest.language.related_words, which whoever builds an atlas may hand over."""

    @property
    def key(self) -> str:
        """What its answer follows from, but the words asked for."""

    def __call__(self, words: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
        """By word, places in `words` of those it is near, nearest first, and their cosines."""


def words_of(text: str) -> Iterable[str]:
    """Words of a text in lower case, each once; one of several parts, and its parts."""
    found: dict[str, None] = {}
    for word in WORD.findall(text.lower()):
        for part in (word, *word.split("-")):
            if len(part) <= LONGEST and part not in NUMBERS:
                found[part] = None
    return found


def packed(numbers: Iterable[int]) -> str:
    """Rising numbers as text: the step to each, five bits a character, lowest first, 32 added where more follow."""
    out, before = [], -1
    for number in numbers:
        step, before = number - before - 1, number
        while step >= 32:
            out.append(DIGITS[32 + step % 32])
            step //= 32
        out.append(DIGITS[step])
    return "".join(out)


class Index:
    """What the search finds; topics add to it.

    `studies`: title `t`, folder `f`, layers `l` as [name, folder, neurons, units or null when they count from 0, names or null]; where
    descriptions were scored, the held-out AUROC of each neuron's behind it, in hundredths or null, and a digit for each, its place in
    analyze.trust.LEVELS; `d`, by place of a layer its dead neurons, packed.
    `classes`: [name, label set and data set, page, [[study, layer, place in the layer, average precision], ...]], best detectors first;
    where clusters owe a class more of their activation than any other of their layer, [[study, name, page, share], ...] behind it.
    `words`: [word, its kind and how many neurons of which study carry it, page, [[study, layer, place in the layer], ...]], of the words with
    a page. `clips`: [name, page, classes]. `layers` holds entries by run of the study and number, `classes` by number.
    `said`: words `w`, the parts of speech of each where they are known as bits `p`, and by field the neurons or clips of which each is said, packed;
    neurons are counted through all studies and layers.
    """

    def __init__(self, contents: Contents) -> None:
        self.layers: dict[tuple[int, int], list] = {}
        self.classes: dict[int, list] = {}
        self.words: list[list] = []
        self.clips: list[list] = []
        self._studies: list[dict] = []
        self._places: dict[tuple[int, int], tuple[int, int]] = {}
        self._firsts: dict[tuple[int, int], int] = {}
        self._said: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        self._parts: dict[str, int] = defaultdict(int)
        self._clips: dict[int, int] = {}
        first = 0
        for at, study in enumerate(contents.own):
            shown = [layer for layer in study.layers if layer.has_pages]
            for place, layer in enumerate(shown):
                units = None if layer.units == list(range(layer.neurons)) else layer.units
                names = layer.names if any(name is not None for name in layer.names) else None
                key = (study.run_id, layer.layer_id)
                self._places[key] = (at, place)
                self._firsts[key] = first
                first += layer.neurons
                self.layers[key] = [layer.name, layer.short + layer.rows, layer.neurons, units, names]
            self._studies.append({"t": study.title, "f": study.folder, "l": [self.layers[study.run_id, layer.layer_id] for layer in shown]})
        for dataset in contents.datasets:
            self.classes |= {c.class_id: [c.name, f"{c.label_set}, {dataset.name}", c.page, []] for c in dataset.classes.values()}
            self._clips |= {clip_id: len(self.clips) + at for at, clip_id in enumerate(dataset.clips)}
            self.clips += [[clip.title, clip.page, dataset.label(clip)] for clip in dataset.clips.values()]

    def neuron(self, study: Study, neuron_id: int) -> list[int]:
        """A neuron as entries name it: study, layer, place in the layer."""
        layer = study.layer_of(neuron_id)
        return [*self._places[study.run_id, layer.layer_id], neuron_id - layer.first]

    def say(self, study: Study, neuron_id: int, field: str, text: str) -> None:
        """Let a neuron with a page be found by the words of a text."""
        layer = study.layer_of(neuron_id)
        number = self._firsts[study.run_id, layer.layer_id] + neuron_id - layer.first
        for word in words_of(text):
            self._said[field][word].add(number)

    def hear(self, dataset: Dataset, clip_id: int, text: str) -> None:
        """Let a clip be found by the words of its caption."""
        if clip_id in dataset.clips:
            for word in words_of(text):
                self._said["caption"][word].add(self._clips[clip_id])

    def speak(self, word: str, part: str) -> None:
        """Let a word be one of a part of speech."""
        if part in PARTS_OF_SPEECH:
            self._parts[word.lower()] |= 1 << PARTS_OF_SPEECH.index(part)

    def bury(self, study: Study, dead: dict[int, list[int]]) -> None:
        """Name a study's dead neurons by their place, by layer."""
        for layer_id, places in dead.items():
            at, place = self._places[study.run_id, layer_id]
            if places:
                self._studies[at].setdefault("d", {})[place] = packed(places)

    def vocabulary(self) -> list[str]:
        """Words of the site, those said of most neurons and clips first."""
        counts: dict[str, int] = defaultdict(int)
        for its in self._said.values():
            for word, places in its.items():
                counts[word] += len(places)
        names = [entry[0] for entry in self.classes.values()] + [entry[0] for entry in self.words]
        names += [name for layer in self.layers.values() for name in layer[4] or () if name is not None]
        for name in names:
            for word in words_of(name.replace("_", " ")):
                counts[word] += 1
        return sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]

    def script(self) -> str:
        """JavaScript that assigns the index."""
        words = sorted({word for its in self._said.values() for word in its})
        said = {"w": " ".join(words), "p": {word: bits for word, bits in sorted(self._parts.items()) if " " not in word}}
        said |= {field: [packed(sorted(self._said[field].get(word, ()))) for word in words] for field in FIELDS if self._said[field]}
        index = {"studies": self._studies, "classes": [*self.classes.values()], "words": self.words, "clips": self.clips}
        return f"AURICLE_SEARCH={_json(index | ({'said': said} if words else {}))};\n"

    def related(self, related: Related | None) -> str:
        """JavaScript that assigns which words of the site others are near: words `s` of the site, others `o` behind them, and for each, places in `s` and
        cosines in hundredths, packed one by one; null where nobody can tell."""
        if related is None:
            return "AURICLE_RELATED=null;\n"
        words = self.vocabulary()
        near = related(words)
        others = sorted(near.keys() - set(words))
        rows = ["".join(packed([at]) + packed([round(100 * cosine)]) for at, cosine in near.get(word, ())) for word in (*words, *others)]
        return f"AURICLE_RELATED={_json({'s': ' '.join(words), 'o': ' '.join(others), 'n': ' '.join(rows)})};\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
