"""Whether a neuron's top clips have something in common: clusters of caption sentences that many of them share (AND, ICML 2024, section
4.5, Algorithm 1 and appendix G)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CLUSTERS = 11
KS = (5, 10, 20)
SHARES = (3 / 5, 4 / 5, 5 / 5)
N_INIT = 10
WORD = r"(?u)\b\w+(?:[-'’]\w+)*\b"


def sentence_clusters(embeddings: np.ndarray, clusters: int = CLUSTERS, seed: int = 0) -> np.ndarray:
    """K-means clusters of caption sentences: labels [sentences] (int64), from 0 for the largest cluster, equally large ones in the order of
    their first sentences.

    `embeddings` is [sentences, d], of the sentences of all captions, repetitions included. The best of 10 starts by k-means++ is taken;
    with fewer different sentences than `clusters`, each is a cluster. Raises ValueError for values that are not finite.
    """
    from sklearn.cluster import KMeans

    embeddings = np.asarray(embeddings)
    if not len(embeddings):
        return np.zeros(0, dtype=np.int64)
    if not np.isfinite(embeddings).all():
        raise ValueError(f"the embedding of sentence {np.argwhere(~np.isfinite(embeddings))[0, 0]} is not finite: leave it out")
    different, labels = np.unique(embeddings, axis=0, return_inverse=True)
    if len(different) > clusters:
        labels = KMeans(clusters, n_init=N_INIT, random_state=seed).fit(embeddings).labels_
    _, first, labels, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(sizes), dtype=np.int64)
    number[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return number[labels.ravel()]


@dataclass(frozen=True)
class Elbow:
    """K-means of the same sentences into ever more clusters: `clusters` and, for each, the mean distance of a sentence from its cluster's
    centre (`distance`); the number `chosen`."""

    clusters: np.ndarray
    distance: np.ndarray
    chosen: int


def elbow(embeddings: np.ndarray, most: int, seed: int = 0) -> Elbow:
    """The number of sentence clusters at the elbow of the mean distance within clusters, from 1 to `most` (Thorndike 1953).

    Thorndike looks for the number after which the curve falls no more than gently; here that is the number whose point lies farthest below
    the straight line between the curve's ends (Satopaa et al. 2011, "Kneedle"). `embeddings` is [sentences, d] of finite values.
    """
    from sklearn.cluster import KMeans

    embeddings = np.asarray(embeddings)
    numbers = np.arange(1, min(most, len(np.unique(embeddings, axis=0))) + 1)
    fits = [KMeans(int(number), n_init=N_INIT, random_state=seed).fit(embeddings) for number in numbers]
    distance = np.array([np.linalg.norm(embeddings - fit.cluster_centers_[fit.labels_], axis=1).mean() for fit in fits])
    if len(numbers) < 3 or distance[0] <= distance[-1]:
        return Elbow(numbers, distance, int(numbers[-1]) if len(numbers) else 0)
    along, down = (numbers - 1) / (numbers[-1] - 1), (distance - distance[-1]) / (distance[0] - distance[-1])
    return Elbow(numbers, distance, int(numbers[np.argmax(1 - along - down)]))


def clip_clusters(labels: np.ndarray, clip_of_sentence: np.ndarray, clips: int) -> np.ndarray:
    """Which clusters a clip's caption has a sentence of, [clips, clusters] (bool); none for a clip without a caption.

    `labels` and `clip_of_sentence` are [sentences]: the sentence's cluster and the number of its clip, 0 to `clips` - 1.
    """
    member = np.zeros((clips, int(labels.max(initial=-1)) + 1), dtype=bool)
    member[clip_of_sentence, labels] = True
    return member


@dataclass(frozen=True)
class Agreement:
    """Per neuron [neurons]: of how many top clips the captions share a cluster at most (`shared`), that `cluster` (the lowest of equals, -1
    where no clip has a caption), and how many top clips have no caption (`missing`); of `k` top clips."""

    shared: np.ndarray
    cluster: np.ndarray
    missing: np.ndarray
    k: int


def agreement(member: np.ndarray, top_clips: np.ndarray) -> Agreement:
    """What the captions of every neuron's top clips share.

    `member` is [clips, clusters] (bool), as from `clip_clusters`; `top_clips` [neurons, K] are clip numbers, negative where a data set has fewer than K clips,
    which counts as a clip without a caption.
    """
    neurons, k = top_clips.shape
    counts = np.zeros((neurons, member.shape[1]), dtype=np.int64)
    missing = np.full(neurons, k)
    captioned = np.asarray(member.any(axis=1))
    for clips in top_clips.T:
        known = np.flatnonzero(clips >= 0)
        known = known[captioned[clips[known]]]
        missing[known] -= 1
        counts[known] += member[clips[known]]
    shared = counts.max(axis=1, initial=0)
    cluster = counts.argmax(axis=1) if counts.shape[1] else np.zeros(neurons, dtype=np.int64)
    return Agreement(shared, np.where(shared > 0, cluster, -1), missing, k)


def verdicts(found: Agreement, share: float) -> np.ma.MaskedArray:
    """Whether a neuron is interpretable, [neurons] (bool): one cluster occurs in the captions of at least tau = `share` K top clips (Figures
    6 and 11 to 14 count the neurons of which it does not). Masked where it does not, but could if clips without a caption had one.
    """
    tau = math.ceil(share * found.k - 1e-9)
    interpretable = found.shared >= tau
    return np.ma.masked_array(interpretable, mask=~interpretable & (found.shared + found.missing >= tau))


@dataclass(frozen=True)
class Word:
    """A word of a cluster of sentences, how often it occurs there, and how distinctive of the cluster it is (c-TF-IDF)."""

    word: str
    occurrences: int
    weight: float


def cluster_words(
    sentences: Sequence[str], labels: np.ndarray, words: int = 10, by: Literal["weight", "occurrences"] = "weight"
) -> list[list[Word]]:
    """The words of every cluster of sentences, at most `words` each: the most distinctive first, or by `occurrences` those that occur most, of which
    Table 8's clouds are made.

    The weight is c-TF-IDF (Grootendorst 2022, arXiv 2203.05794, equation 2, with shares for counts): a word's share of the cluster's words times
    ln(1 + mean number of words in a cluster / occurrences of the word in all). English stop words are left out; case does not matter.
    `labels` is [sentences], as from `sentence_clusters`.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    clusters = int(labels.max(initial=-1)) + 1
    texts = [" \n ".join(sentences[int(index)] for index in np.flatnonzero(labels == cluster)) for cluster in range(clusters)]
    vectorizer = CountVectorizer(stop_words="english", token_pattern=WORD)
    try:
        counts = vectorizer.fit_transform(texts).toarray().astype(np.int64)
    except ValueError:  # no text, or nothing but stop words
        return [[] for _ in texts]
    vocabulary = vectorizer.get_feature_names_out()
    totals = counts.sum(axis=1, keepdims=True)
    weights = counts / np.maximum(totals, 1) * np.log(1 + totals.mean() / counts.sum(axis=0))
    found = []
    for cluster in range(clusters):
        order = np.argsort(-(weights if by == "weight" else counts)[cluster], kind="stable")[
            :words
        ]  # the vocabulary is sorted, so equals come by the alphabet
        found.append(
            [Word(str(vocabulary[i]), int(counts[cluster, i]), float(weights[cluster, i])) for i in order if counts[cluster, i] > 0]
        )
    return found
