"""What is said of rules: every property in words, numbers in its unit, 25 words at most."""

from dataclasses import fields

import numpy as np
import pytest

from ingest.methods.rule_words import LONGEST, PROPERTIES, Condition, captioned, phrase, sentence
from ingest.sounds import bands
from ingest.sounds.acoustics import Measurement


def test_every_property_has_words_of_its_own():
    measured = {field.name for field in fields(Measurement)} | set(bands.measure(np.random.default_rng(0).normal(size=48_000), 24_000))
    assert measured <= PROPERTIES.keys()
    for sides in ([words.over for words in PROPERTIES.values()], [words.name for words in PROPERTIES.values()]):
        assert len(set(sides)) == len(sides)


def test_a_sentence_says_properties_directions_and_numbers():
    rule = [Condition("high_share", 1, 0.62, 0.8), Condition("event_s", -1, 0.08, 0.9), Condition("onset_rate_hz", 1, 4, 0.9)]
    assert sentence(rule) == "Treble-heavy (power above 2 kHz over 62%), short events (under 80 ms), frequent onsets (over 4/s)."
    assert sentence([]) == ""


def test_over_a_threshold_that_most_clips_pass_a_sound_is_only_not_the_opposite():
    assert phrase(Condition("level_dbfs", 1, -45.2, 0.3)) == "not quiet (over −45 dBFS)"
    assert phrase(Condition("level_dbfs", -1, -12.0, 0.3)) == "not loud (under −12 dBFS)"
    assert phrase(Condition("event_s", 1, 0.05, 0.3)) == "no short events (over 50 ms)"
    assert phrase(Condition("level_dbfs", 1, -12.0, 0.9)) == "loud (over −12 dBFS)"


@pytest.mark.parametrize("place", [0.3, 0.9])
def test_no_sentence_is_longer_than_25_words(place):
    names = sorted(PROPERTIES, key=lambda name: -len(phrase(Condition(name, 1, -12345.6, place)).split()))[:20]
    for one in names:
        for other in names:
            for sign in (1, -1):
                said = sentence([Condition(name, sign, -12345.6, place) for name in (one, other, names[0])])
                assert 0 < len(said.split()) <= LONGEST
    assert len(sentence([Condition("heard as " + "very long " * 30, 1, 0.2, 0.9)] * 3).split()) <= LONGEST


def test_what_taggers_and_captioners_say():
    raw = {1: '{"classes": {"Dog": 0.9, "Rain": 0.1}}', 2: '{"classes": {"Rain": 0.8}}', 3: "no JSON"}
    names, values = captioned({1: "", 2: "", 3: ""}, raw, [1, 2, 3, 4], "tags")
    assert names == ["heard as Rain"]  # once is too rare
    np.testing.assert_array_equal(values[:, 0], [0.1, 0.8, 0, np.nan])
    texts = {clip: "A dog barks." if clip % 3 == 0 else "Rain and wind." for clip in range(9)}
    names, values = captioned(texts, {}, range(9), "clapcap")
    assert names == ["captioned barks", "captioned dog"]  # rain is in more than half
    assert values[:, 1].tolist() == [1, 0, 0] * 3
    assert captioned(texts, {}, range(9), "acoustic")[1].shape == (9, 0)
    assert phrase(Condition("heard as Dog", 1, 0.21, 0.9)) == "heard as “Dog” (over 0.21)"
    assert phrase(Condition("captioned dog", -1, 1.0, 0.3)) == "not captioned “dog”"
