"""Kinds of sounds that a neuron answers to, by the words of its highest clips' captions: none in words, one meaning, or several.

Beyond the paper's Algorithm 1 (ingest.methods.polysemanticity), which asks whether top clips share something. So do two kinds of sounds: both may be
steady, and many clips that leave the neuron cold are steady, too. Here two groups of top clips are one meaning when the words that tell
one of them, by being there or not, from the cold clips tell the other as well (cross-condition generalization performance, Bernardi et al.
2020, Cell 183), or when a single word that nearly all top clips have, and hardly any cold clip, tells both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from ingest.methods.extremes import is_signed
from ingest.methods.summaries import core_of, stemmed

LEAST_CAPTIONS = 2


@dataclass(frozen=True)
class Thresholds:
    """When top clips are one meaning, several or none; see `verdict`.

    The defaults were chosen on planted networks of seeds 1 to 5, with captions of measurements and with YAMNet's tags, as those with the
    greatest recall of sums less false alarms; the network of seed 0, which `auricle validate` scores, took no part.
    """

    k: int = 20
    least_clips: int = 6
    smallest_share: float = 0.3
    transfer: float = 0.94
    shared_word: float = 0.98
    coherence: float = 0.85
    cold_share: float = 0.1


@dataclass(frozen=True)
class Vocabulary:
    """Which content words captions have: `said` [clips, words] (0 or 1), and the commonest spelling of each word, whose stem counts."""

    said: scipy.sparse.csr_array
    words: tuple[str, ...]

    @property
    def captioned(self) -> np.ndarray:
        """Which clips have a caption with a word, [clips] (bool)."""
        return np.diff(self.said.indptr) > 0


def vocabulary(captions: Sequence[str]) -> Vocabulary:
    """The content words (see ingest.methods.summaries.stemmed: denied ones are words of their own) that at least LEAST_CAPTIONS captions have.

    An empty caption is a missing one.
    """
    spellings: dict[str, Counter[str]] = {}
    found: list[set[str]] = []
    for caption in captions:
        pairs = [(core_of(word), stem) for word, stem in stemmed(caption.split()) if stem]
        for core, stem in pairs:
            spellings.setdefault(stem, Counter())[f"no {core}" if stem.startswith("no ") else core] += 1
        found.append({stem for _, stem in pairs})
    captions_with = Counter(stem for stems in found for stem in stems)
    column = {stem: place for place, stem in enumerate(sorted(stem for stem, count in captions_with.items() if count >= LEAST_CAPTIONS))}
    rows = [sorted(column[stem] for stem in stems if stem in column) for stems in found]
    lengths = np.cumsum([0, *(len(row) for row in rows)])
    places = np.array([place for row in rows for place in row], dtype=np.int64)
    said = scipy.sparse.csr_array((np.ones(len(places)), places, lengths), shape=(len(rows), len(column)))
    commonest = (min((-count, core) for core, count in spellings[stem].items())[1] for stem in column)
    return Vocabulary(said, tuple(commonest))


@dataclass(frozen=True)
class Meaning:
    """A kind of sounds: its top clips (numbers, the strongest first), the words that tell them from the clips that leave the neuron cold, most
    telling first, and how well those of the other clips tell each (`coherence`, AUROC, leaving one out; 0.5 is chance)."""

    clips: np.ndarray
    words: tuple[str, ...]
    coherence: float


@dataclass(frozen=True)
class Verdict:
    """What a neuron's top clips mean: none in words, one or several `meanings`, the one with most clips first, of `clips` top clips looked at.

    `transfer` is how well the words of either of the two most different groups of top clips tell the other group from the cold clips (AUROC,
    mean over both directions), `shared_word` the balanced accuracy of the best single word that both share; NaN where no two groups are large
    enough.
    """

    clips: int
    meanings: tuple[Meaning, ...]
    transfer: float
    shared_word: float


def verdict(
    vocabulary: Vocabulary, activations: np.ndarray, thresholds: Thresholds | None = None, words: int = 5, order: np.ndarray | None = None
) -> Verdict | None:
    """The meanings of a neuron with these activations, [clips]; None with fewer than `least_clips` captioned clips above 0, or without cold ones.

    Looked at are the `k` highest clips above 0; cold are those not above 0, or, where these are fewer than `cold_share` of all, the lower
    half. Of a neuron that is below 0 on some clip, the highest count whatever their sign, and the lower half is cold. `order` has the clips
    [clips] from the highest, where equal ones are not to come as they lie.
    Values that are not finite and clips without a caption are left out. Ward's method cuts the top clips in two by the words of their
    captions. The groups are meanings of their own when the smaller has at least `smallest_share` of the clips, their words transfer with an
    AUROC below `transfer`, no shared word alone has a balanced accuracy of `shared_word`, and both are coherent, `coherence` or more.
    Otherwise all top clips together are one meaning, if they are coherent.
    """
    limits = thresholds or Thresholds()
    values = np.where(np.isfinite(activations) & vocabulary.captioned, np.asarray(activations, dtype=np.float64), np.nan)
    usable = np.flatnonzero(~np.isnan(values))
    [signed] = is_signed(np.asarray(activations)[None])
    ranked = usable[np.argsort(-values[usable], kind="stable")] if order is None else order[~np.isnan(values[order])]
    top = ranked[: limits.k]
    top = top if signed else top[values[top] > 0]
    rest = np.setdiff1d(usable, top)
    cold = rest[values[rest] <= 0]
    if len(rest) and (signed or len(cold) < limits.cold_share * len(usable)):
        cold = rest[values[rest] <= np.median(values[usable])]
    if len(top) < limits.least_clips or not len(cold):
        return None
    neuron = _Neuron(vocabulary.said, top, cold)
    first, second = neuron.cut()
    transfer = shared_word = float("nan")
    groups = [np.arange(len(top))]
    if min(len(first), len(second)) >= limits.smallest_share * len(top):
        transfer, shared_word = neuron.transfer(first, second), neuron.shared_word(first, second)
        apart = transfer < limits.transfer and shared_word < limits.shared_word
        if apart and min(neuron.coherence(first), neuron.coherence(second)) >= limits.coherence:
            groups = sorted((first, second), key=lambda group: (-len(group), group[0]))
    found = []
    for group in groups:
        coherence = neuron.coherence(group)
        if coherence >= limits.coherence:
            weights = neuron.weights(group)
            telling = np.argsort(-weights, kind="stable")[:words]
            found.append(Meaning(top[group], tuple(vocabulary.words[place] for place in telling if weights[place] > 0), coherence))
    return Verdict(len(top), tuple(found), transfer, shared_word)


class _Neuron:
    """Top clips and cold ones, compared by words: a group's weights are the share of its clips that have a word less that of the cold clips,
    and a clip scores the sum of its words' weights. Groups are places among the top clips."""

    def __init__(self, said: scipy.sparse.csr_array, top: np.ndarray, cold: np.ndarray) -> None:
        self.said = np.asarray(said[top].toarray())
        self.usual = np.asarray(said[cold].mean(axis=0)).ravel()
        self.alike = self.said @ self.said.T
        self.cold_alike = np.asarray(said[cold] @ self.said.T)
        self.expected, self.cold_expected = self.said @ self.usual, np.asarray(said[cold] @ self.usual)

    def weights(self, group: np.ndarray) -> np.ndarray:
        return np.asarray(self.said[group].mean(axis=0) - self.usual)

    def cut(self) -> tuple[np.ndarray, np.ndarray]:
        from scipy.cluster.hierarchy import fcluster, linkage

        labels = fcluster(linkage(self.said, "ward"), 2, "maxclust")
        return np.flatnonzero(labels == 1), np.flatnonzero(labels != 1)

    def transfer(self, first: np.ndarray, second: np.ndarray) -> float:
        found = []
        for group, other in ((first, second), (second, first)):
            scores = self.alike[np.ix_(other, group)].mean(axis=1) - self.expected[other]
            found.append(_auroc(scores[:, None], self.cold_alike[:, group].mean(axis=1) - self.cold_expected))
        return float(np.mean(found))

    def shared_word(self, first: np.ndarray, second: np.ndarray) -> float:
        shared = np.minimum(self.said[first].mean(axis=0), self.said[second].mean(axis=0))
        return float((1 + shared - self.usual).max() / 2)

    def coherence(self, group: np.ndarray) -> float:
        others = len(group) - 1
        alike, cold_alike = self.alike[np.ix_(group, group)], self.cold_alike[:, group]
        scores = (alike.sum(axis=1) - np.diag(alike)) / others - self.expected[group]
        cold = (cold_alike.sum(axis=1, keepdims=True) - cold_alike) / others - self.cold_expected[:, None]
        return _auroc(scores[None, :], cold)


def _auroc(scores: np.ndarray, cold: np.ndarray) -> float:
    """Share of pairs in which the clip's score is above the cold one's, equal ones counting half; both are broadcast together."""
    scores, cold = scores.round(9), cold.round(9)  # equal sums of other words differ in their last bits
    return float(((scores > cold).mean() + (scores >= cold).mean()) / 2)
