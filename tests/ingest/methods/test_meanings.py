"""Meanings of neurons whose clips are of known kinds, with scikit-learn's AUROC for what tells them apart."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ingest.methods.meanings import Thresholds, Vocabulary, verdict, vocabulary

RNG = np.random.default_rng(0)
COLOURS = ("bright", "dull", "warm", "harsh", "metallic", "wooden", "hollow", "rough")


def captions(kinds, extra=3):
    """A caption for each kind ("" for a missing one), with a few words drawn at random."""
    return [" ".join([kind, *RNG.choice(COLOURS, extra, replace=False)]) if kind else "" for kind in kinds]


def told(found):
    return [(sorted(meaning.clips.tolist()), meaning.words) for meaning in found.meanings]


def test_words_that_several_captions_have():
    found = vocabulary(["A dog barks.", "dogs bark, no siren", "Dogs. Dogs!", "the siren", "", "no siren; a rare gong"])
    assert found.words == ("bark", "dogs", "no siren")  # "siren" and "gong" are in one caption each
    assert found.said.toarray().astype(int).T.tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1]]
    assert found.captioned.tolist() == [True, True, True, False, False, True]
    assert vocabulary(["", "\ud800 \0"]).words == ()


def test_two_kinds_of_sounds_are_two_meanings():
    kinds = ["dog barking"] * 12 + ["rain falling"] * 8 + ["engine", "bell", "siren", "organ"] * 10
    values = np.r_[RNG.uniform(1, 2, 20), np.zeros(40)]
    shuffle = RNG.permutation(60)
    words, values = vocabulary(np.array(captions(kinds))[shuffle].tolist()), values[shuffle]
    found = verdict(words, values)
    assert [clips for clips, _ in told(found)] == [
        sorted(np.flatnonzero(shuffle < 12)),
        sorted(np.flatnonzero((shuffle >= 12) & (shuffle < 20))),
    ]
    assert [set(said[:2]) for _, said in told(found)] == [{"dog", "barking"}, {"rain", "falling"}]
    assert all((np.diff(values[meaning.clips]) <= 0).all() for meaning in found.meanings)
    # Only the one kind, or both in clips that leave the neuron cold as well: one meaning, none.
    assert len(verdict(words, np.where(shuffle < 12, values, 0)).meanings) == 1
    assert verdict(words, np.where(np.arange(60) % 3 == 0, 1.0 + np.arange(60), 0)).meanings == ()


def test_a_word_that_all_share_and_no_cold_clip_has_is_one_meaning():
    kinds = ["loud dog barking"] * 10 + ["loud rain falling"] * 10 + ["quiet dog barking", "quiet rain falling"] * 15
    found = verdict(vocabulary(captions(kinds)), np.r_[np.linspace(2, 1, 20), np.zeros(30)])
    assert [(len(clips), said[0]) for clips, said in told(found)] == [(20, "loud")]
    assert found.shared_word == 1
    # What both share, but many cold clips too, is no reason.
    kinds = ["steady dog barking"] * 10 + ["steady rain falling"] * 10 + [f"steady {kind}" for kind in ("bell", "engine", "siren")] * 10
    found = verdict(vocabulary(captions(kinds)), np.r_[np.linspace(2, 1, 20), np.zeros(30)])
    assert [len(clips) for clips, _ in told(found)] == [10, 10]
    assert found.shared_word <= 0.75


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    words = Vocabulary(vocabulary([" ".join(rng.choice(COLOURS, rng.integers(1, 5))) for _ in range(80)]).said, COLOURS)
    said, values = words.said.toarray(), np.maximum(rng.normal(size=80), 0)
    top, cold = np.argsort(-values)[:20], np.flatnonzero(values == 0)
    any_split = Thresholds(smallest_share=0, transfer=2, shared_word=2, coherence=0)
    found = verdict(words, values, any_split)
    first, second = (meaning.clips for meaning in found.meanings)
    assert sorted([*first, *second]) == sorted(top)

    def told_apart(group, clips):
        weights = said[group].mean(axis=0) - said[cold].mean(axis=0)
        return roc_auc_score([1] * len(clips) + [0] * len(cold), np.round(said[[*clips, *cold]] @ weights, 12))

    assert found.transfer == pytest.approx((told_apart(first, second) + told_apart(second, first)) / 2)
    for meaning in found.meanings:
        left_out = [told_apart(np.setdiff1d(meaning.clips, clip), [clip]) for clip in meaning.clips]
        assert meaning.coherence == pytest.approx(np.mean(left_out))
    best = max((1 + min(said[first, w].mean(), said[second, w].mean()) - said[cold, w].mean()) / 2 for w in range(said.shape[1]))
    assert found.shared_word == pytest.approx(best)


def test_who_has_no_verdict():
    kinds = ["dog"] * 10 + ["rain"] * 30
    words, values = vocabulary(captions(kinds)), np.r_[np.linspace(2, 1, 10), np.zeros(30)]
    assert verdict(words, values).clips == 10
    assert verdict(words, np.where(np.arange(40) < 5, values, 0)) is None  # five clips above 0
    assert verdict(vocabulary(captions(["dog"] * 5 + [""] * 5 + kinds[10:])), values) is None  # five of ten with a caption
    assert verdict(words, np.full(40, np.nan)) is None
    # Without clips at 0, and with some that are not finite, the lower half is cold.
    dense = np.where(np.arange(40) < 10, values, 0.1 - np.arange(40) / 1000)
    assert [len(clips) for clips, _ in told(verdict(words, np.where(np.arange(40) == 0, np.inf, dense), Thresholds(k=9)))] == [9]
    assert verdict(vocabulary([""] * 40), values) is None
