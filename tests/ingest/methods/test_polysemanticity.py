"""Sentence clusters, verdicts worked out by hand and by plain sets, and the words of a cluster by the formula."""

import math

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from ingest.methods.polysemanticity import KS, SHARES, agreement, clip_clusters, cluster_words, sentence_clusters, verdicts


def test_clusters_of_sentences():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(11, 24))
    sizes = [40, 5, 33, 61, 12, 7, 25, 18, 50, 9, 29]
    made = np.repeat(np.arange(11), sizes)[rng.permutation(sum(sizes))]
    embeddings = (centers[made] + 0.05 * rng.normal(size=(len(made), 24))).astype(np.float32)
    labels = sentence_clusters(embeddings)
    assert adjusted_rand_score(made, labels) == 1
    assert np.bincount(labels).tolist() == sorted(sizes, reverse=True)
    assert (labels == sentence_clusters(embeddings)).all()

    few = sentence_clusters(embeddings, clusters=4, seed=3)
    reference = KMeans(4, n_init=10, random_state=3).fit(embeddings).labels_
    assert adjusted_rand_score(reference, few) == 1


def test_fewer_different_sentences_than_clusters():
    words = np.eye(3)[[2, 0, 2, 1, 0, 1, 1]]
    assert sentence_clusters(words).tolist() == [1, 2, 1, 0, 2, 0, 0]  # by size, then by first sentence
    assert sentence_clusters(words, clusters=3).tolist() == [1, 2, 1, 0, 2, 0, 0]
    assert sentence_clusters(words[:1]).tolist() == [0]
    assert sentence_clusters(np.zeros((0, 5))).shape == (0,)
    with pytest.raises(ValueError, match="sentence 1 is not finite"):
        sentence_clusters(np.array([[0.0], [np.nan]]))


def test_verdicts_by_hand():
    # Captions of clips 0 to 5 have sentences of clusters {0}, {0, 1}, {1}, {1, 2}, none, {2}.
    member = clip_clusters(np.array([0, 0, 1, 0, 1, 2, 1, 2]), np.array([0, 1, 1, 1, 2, 3, 3, 5]), 6)
    assert member.astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]]
    top = np.array([[0, 1, 2, 3, 5], [0, 1, 3, 4, 5], [1, 2, 3, 4, -1], [-1, -1, -1, 4, -1], [0, 5, 0, 5, 0]])
    found = agreement(member, top)
    assert found.shared.tolist() == [3, 2, 3, 0, 3]
    assert found.cluster.tolist() == [1, 0, 1, -1, 0]
    assert found.missing.tolist() == [0, 1, 2, 5, 0]
    # A neuron's verdict is unknown where captions that are missing could still bring a cluster to tau.
    assert verdicts(found, 3 / 5).tolist() == [True, None, True, None, True]
    assert verdicts(found, 4 / 5).tolist() == [False, False, None, None, False]
    assert verdicts(found, 5 / 5).tolist() == [False, False, None, None, False]
    assert verdicts(agreement(clip_clusters(np.zeros(0, int), np.zeros(0, int), 6), top), 1 / 5).mask.all()


@pytest.mark.parametrize("k", KS)
def test_verdicts_by_plain_sets(k):
    rng = np.random.default_rng(k)
    clip_of_sentence = np.sort(np.concatenate([np.arange(200), rng.integers(0, 200, 300)]))
    labels = rng.choice(11, 500, p=rng.dirichlet(np.ones(11) / 2))
    top = np.stack([rng.permutation(200)[:k] for _ in range(300)])
    found = agreement(clip_clusters(labels, clip_of_sentence, 200), top)
    captions = [set(labels[clip_of_sentence == clip].tolist()) for clip in range(200)]
    for share, tau in zip(SHARES, {5: (3, 4, 5), 10: (6, 8, 10), 20: (12, 16, 20)}[k], strict=True):
        expected = [any(sum(cluster in captions[clip] for clip in clips) >= tau for cluster in range(11)) for clips in top]
        assert verdicts(found, share).tolist() == expected
        assert not verdicts(found, share).mask.any()
    assert verdicts(found, 3 / 5).any()


def test_words_of_clusters():
    sentences = ["A loud, high-pitched bell.", "The bell rings; bell!", "A loud engine", "It is the <script>", "of"]
    words = cluster_words(sentences, np.array([0, 0, 1, 1, 2]), words=3)
    assert [[(word.word, word.occurrences) for word in cluster] for cluster in words] == [
        [("bell", 3), ("high-pitched", 1), ("rings", 1)],
        [("engine", 1), ("script", 1), ("loud", 1)],
        [],
    ]
    # Words left: bell 3, high-pitched, loud, rings; engine, loud, script; none: 3 a cluster on average.
    assert words[0][0].weight == pytest.approx(3 / 6 * math.log(1 + 3 / 3))
    assert words[1][2].weight == pytest.approx(1 / 3 * math.log(1 + 3 / 2))
    assert cluster_words(["the", "\ud800 \0"], np.array([0, 1])) == [[], []]
    assert cluster_words([], np.zeros(0, dtype=int)) == []
