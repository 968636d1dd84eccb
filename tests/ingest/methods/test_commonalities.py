"""What captions share: cases with one right answer, and what must hold for any captions."""

import importlib.util
import random
import re

import pytest

from ingest.language.text_encoders import minilm
from ingest.methods.commonalities import commonalities

needs_minilm = pytest.mark.usefixtures("minilm_folder")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("textblob") is None, reason="textblob is not installed")

BARKS = "This sounds like a dog barking. It is a loud, high-pitched, noisy sound. Short repeated sounds, about 4 per second."


@pytest.mark.parametrize(
    ("captions", "points"),
    [
        (
            [
                BARKS,
                "This sounds like a dog. It is a loud, low-pitched, noisy sound. Short repeated sounds, about 6 per second.",
                "This sounds like a cat meowing. It is a loud, high-pitched, tonal sound. One long sound.",
                "This sounds like a dog barking. It is a quiet, high-pitched, noisy sound. Short repeated sounds, about 9 per second.",
                "This sounds like rain. It is an intermittent, loud, noisy sound. The level is falling.",
            ],
            # dog 3 of 5, barking 2; loud and noisy together 3, high-pitched with either 2, alone 3; 4, 6 and 9 per second once each.
            ["This sounds like a dog.", "It is a loud, noisy sound.", "It is a high-pitched sound.", "Short repeated sounds."],
        ),
        (
            [
                "It is a loud sound. Its pitch is in octave 4. It is rising in pitch. It has a 4-hertz beat.",
                "It is a loud sound. Its pitch is in octave 5. It is falling in pitch. It has an 8-hertz beat.",
                "It is a quiet sound. Its pitch is in octave 4. It is rising in pitch. It has a slow modulation.",
                "It is a loud sound.",
            ],
            ["It is a loud sound.", "Its pitch is in octave 4.", "It is rising in pitch.", "It has a beat."],
        ),
        (["It is a loud, high-pitched sound.", "It is a quiet, low-pitched sound.", "Tonal and rising."], []),
        ([BARKS] * 3, BARKS.replace(". ", ".\n").split("\n")),
        ([BARKS], BARKS.replace(". ", ".\n").split("\n")),
        (["The sound is not loud.", "The sound is not loud.", "The sound is loud."], ["The sound is not loud."]),
        (["There is no hum.", "There is a hum.", "A bell rings."], []),
        (
            ["It is a loud, dull sound.", "It is a dull and eerie sound.", "An eerie, dull and slow sound."],
            ["It is a dull and eerie sound."],
        ),
        (["Birds chirp softly in the forest.", "Two birds chirp.", "Some birds chirp, and the wind blows.", "A dog."], ["Birds chirp."]),
        (["Many short sounds.", "Few short sounds."], ["Short sounds."]),
        (["The bark of a dog", "dogs, barking"], ["The bark of a dog"]),
        ([], []),
        (["", " ", "\n"], []),
        (["Sound.", "This is a sound."], []),
        (["\ud800 <b>loud</b> \x00", "\ud800 <b>loud</b> \x00"], ["\ud800 <b>loud</b> \x00"]),
    ],
)
def test_what_captions_share(captions, points):
    found = commonalities(captions, None)
    assert [point.lower() for point in found] == [point.lower() for point in points]


def test_the_share_asked_for():
    captions = ["A loud sound."] * 2 + ["A quiet sound."] * 3
    assert commonalities(captions, None) == ["A quiet sound."]
    assert commonalities(captions, None, share=0.4) == ["A quiet sound.", "A loud sound."]
    assert commonalities(captions, None, share=0.8) == []
    assert commonalities(captions[1:3], None, share=0.1) == []  # never fewer than two


@needs_minilm
def test_the_same_in_other_words_needs_an_encoder():
    captions = ["A car drives past quickly.", "An automobile goes by.", "Someone plays the violin.", "A vehicle is passing at speed."]
    assert commonalities(captions, None) == []
    assert commonalities(captions, minilm(device="cpu")) in [[captions[0]], [captions[1]], [captions[3]]]
    # To the encoder these are alike, but they say the opposite.
    assert commonalities(
        ["A loud noise rises slowly.", "It is the quiet hush of noise, falling."] * 2, minilm(device="cpu"), share=0.9
    ) == ["noise"]


def test_no_word_is_invented_and_order_makes_no_difference_to_what_is_shared():
    rng = random.Random(0)
    words = [
        "a",
        "the",
        "loud",
        "deep,",
        "quiet",
        "dog",
        "barks",
        "in",
        "and",
        "not",
        "sound.",
        "rain",
        "slowly",
        "is",
        "of",
        "4",
        "bright.",
    ]
    for _ in range(150):
        captions = [" ".join(rng.choices(words, k=rng.randint(0, 14))) for _ in range(rng.randint(1, 6))]
        found = commonalities(captions, None)
        assert found == commonalities(captions, None)
        written = set(re.findall(r"\w+", " ".join(captions).lower()))
        assert set(re.findall(r"\w+", " ".join(found).lower())) <= written
        enough = max(min(2, len(captions)), -(-len(captions) // 2))
        for word in {"loud", "deep", "quiet", "dog", "rain", "bright"} & set(re.findall(r"\w+", " ".join(found).lower())):
            assert sum(word in caption for caption in captions) >= enough
