"""Summaries: prompts, points and calibration, with the real MiniLM where meaning matters."""

from typing import ClassVar

import numpy as np
import pytest

from ingest.language.models import CUT_OFF
from ingest.language.sentences import sentences
from ingest.language.text_encoders import minilm
from ingest.methods.summaries import calibrate, calibrate_as_released, clean_points, differ, icl_answer, icl_prompt, stems, summary_prompt

needs_minilm = pytest.mark.usefixtures("minilm_folder")

# In the manner of the paper's Table 6 and Figure 7.
HIGH = """Sure! Here are the commonalities among the audio clips based on their descriptions:

1. **Loud and intense sounds:** All of the audio clips feature loud and intense sounds, which suggests a sense of drama or urgency.
2. **High-pitched sounds:** Four of the five audio clips feature high-pitched sounds, which could create a sense of tension or excitement.
3. **Breaking or tapping sounds:** Three of the audio clips feature sounds of breaking or tapping. This gives a sense of impact.
4. **No background noise:** None of the audio clips has any background noise, so that the sounds stand out.

I hope this helps! Please let me know if you need any more help."""
LOW = """The following things are common to the clips:
- Soft natural sounds: Most of the clips feature the quiet sounds of wind, rain or a flowing stream.
- Low-pitched sounds: Three of the five audio clips feature low-pitched sounds, such as a humming engine.
- No background noise: There is no background noise in any of the recordings.
"""


def test_sentences():
    text = "A dog barks. It is loud, e.g. like thunder, at approx. 4.5 barks per second! Really?\nA new line\ngoes on."
    assert sentences(text) == [
        "A dog barks.", "It is loud, e.g. like thunder, at approx. 4.5 barks per second!", "Really?", "A new line goes on.",
    ]  # fmt: skip
    assert sentences("# Points\n\n* *one*\n* two\n  wraps\n10) three. Four. (5) `Five`") == [
        "Points",
        "one",
        "two wraps",
        "three.",
        "Four.",
        "Five",
    ]
    assert sentences("Points: 1. Loud. 2. Low-pitched. 3. Two-second clips") == ["Points:", "Loud.", "Low-pitched.", "Two-second clips"]
    assert sentences("Loud dogs\nlow-pitched bells") == ["Loud dogs", "low-pitched bells"]  # fewer than three: by line
    assert sentences("") == sentences(" \n\n- \n") == []
    assert sentences("\ud800. 😀! <b>") == ["\ud800.", "😀!", "<b>"]


def test_points_are_long_enough_and_no_greetings():
    assert clean_points(HIGH) == [
        "Loud and intense sounds: All of the audio clips feature loud and intense sounds, which suggests a sense of drama or urgency.",
        "High-pitched sounds: Four of the five audio clips feature high-pitched sounds, which could create a sense of tension or excitement.",
        "Breaking or tapping sounds: Three of the audio clips feature sounds of breaking or tapping.",
        "This gives a sense of impact.",
        "No background noise: None of the audio clips has any background noise, so that the sounds stand out.",
    ]
    assert len(clean_points(LOW)) == 3
    # Five tokens with the full stop are too few, six are enough.
    assert clean_points("It is loud now. It is very loud now. It is very loud now.") == ["It is very loud now."]


@pytest.mark.parametrize("end", ["The second half of it is", "It", ""])
def test_what_was_cut_off_is_no_point(end):
    whole = ["The clips are loud and noisy.", "They all end with a click"]
    assert clean_points(f"1. {whole[0]}\n2. {whole[1]}\n3. {end}{CUT_OFF}") == whole
    assert clean_points(f"{whole[0]} {end}{CUT_OFF}") == whole[:1]


def test_greetings_are_whole_words_unless_as_released():
    text = (
        "The pressure of the air is high. The measured level is rather low. I am sure that they are loud. The dogs are pleased by all this."
    )
    kept = ["The pressure of the air is high.", "The measured level is rather low.", "The dogs are pleased by all this."]
    assert clean_points(text) == kept
    assert clean_points(text, as_released=True) == []
    assert clean_points("The dogs bark very loudly. The air is under pressure now. It rains.", as_released=True) == [
        "The dogs bark very loudly."
    ]


@needs_minilm
def test_calibration_drops_what_both_summaries_say_and_nothing_else():
    high, low, encoder = clean_points(HIGH), clean_points(LOW), minilm(device="cpu")
    cosines = encoder.embed(high).astype(float) @ encoder.embed(low).T.astype(float)
    found = calibrate(high, low, encoder)
    assert [point.text for point in found] == high
    assert [point.because for point in found] == [None, None, None, None, low[2]]
    assert [point.kept for point in found] == [True, True, True, True, False]
    # As published, without telling them apart, the paper's rule: the high-pitched and the low-pitched point are alike, too.
    paper = calibrate(high, low, encoder, as_published=True)
    assert [point.kept for point in paper] == [bool(row.max() <= 0.7) for row in cosines] == [True, False, True, True, False]
    np.testing.assert_allclose([point.cosine for point in paper], cosines.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found[1].cosine, np.delete(cosines[1], 1).max(), atol=1e-6)
    assert all(point.kept and np.isnan(point.cosine) for point in calibrate(high, [], encoder))
    assert calibrate([], low, encoder) == []


class Table:
    """Embeddings [texts, 3] by hand."""

    name = "table"
    parameters: ClassVar = {}
    vectors: ClassVar = {
        "a": (1, 0, 0),
        "b": (0, 1, 0),
        "c": (0, 0, 1),
        "x": (0.75, 0.5, 0),
        "y": (0, 0, 1),
        "It is not loud.": (1, 0, 0),
        "It is loud.": (1, 0, 0),
    }

    def embed(self, texts):
        return np.array([self.vectors[text] for text in texts], dtype=np.float32).reshape(len(texts), 3)


def test_the_threshold_is_exceeded_not_met():
    found = calibrate(["a", "b"], ["x"], Table(), 0.5)
    assert [(point.kept, point.because) for point in found] == [(False, "x"), (True, None)]
    np.testing.assert_allclose([point.cosine for point in found], [0.75, 0.5])
    assert np.isnan(calibrate(["It is loud."], ["It is not loud."], Table())[0].cosine)


def test_as_released_takes_out_the_wrong_points():
    # By hand: a and x agree (0.75), so both go; walking on, b is skipped, c is compared by b's embedding and nothing agrees.
    found = calibrate_as_released(["a", "b", "c"], ["x", "y"], Table())
    assert [point.kept for point in found] == [False, True, True]
    assert [point.kept for point in calibrate(["a", "b", "c"], ["x", "y"], Table(), 0.5)] == [False, True, False]


@pytest.mark.parametrize(
    ("one", "other", "opposed"),
    [
        ("It is a loud sound.", "It is a quiet sound.", True),
        ("Low-pitched sounds are common.", "All are high-pitched.", True),
        ("The sounds grow louder.", "The sounds are fading.", True),
        ("There is no background noise.", "There is background noise.", True),
        ("The clips are free of background noise.", "There is no background noise.", False),
        ("Loud and quiet sounds alternate.", "The clips are quiet.", False),
        ("A dog barks.", "A cat meows.", False),
        ("It is a noisy sound.", "It is a sharp, sudden sound.", True),
        ("Its pitch is in octave 4.", "Its pitch is in octave 5.", True),
        ("It is a silent clip.", "There is silence in the clip.", False),
        ("It is a loud, noisy sound.", "It is a noisy sound.", False),
        (
            "All of the clips are clear recordings of a bell in a church.",
            "All of the clips are good recordings of a bell in a hall.",
            False,
        ),
        ("It isn't loud.", "It is not loud.", False),
        ("It isn't loud but quiet.", "It is loud.", True),
    ],
)
def test_what_differs(one, other, opposed):
    assert differ(one, other) == differ(other, one) == opposed


def test_stems_know_what_is_denied():
    assert stems("The dogs' barking isn’t loud, it is quiet.") == {"dog", "bark", "no loud", "quiet"}
    assert stems("There is no loud, no rhythmic and no very distant humming noise") >= {
        "no loud",
        "no rhythmic",
        "no distant",
        "no hum",
        "no nois",
    }


def test_prompts_hold_any_text():
    hostile = "Ignore this {captions} {0}\nand that."
    prompt = summary_prompt(["A dog barks.", hostile])
    assert prompt.endswith("\n\n1. A dog barks.\n2. Ignore this {captions} {0} and that.")
    prompt = icl_prompt(["Loud {x}.", "Barks."], ["dog", "{cat}"])
    assert prompt.startswith("You have a set of object classnames: dog, {cat}\nThe following is a description about some audio clips.")
    assert prompt.endswith("\n\nDescription: Loud {x}. Barks.")
    assert [icl_prompt(["a"], ["b"], shots).count("Answer:") for shots in (1, 2)] == [1, 2]
    with pytest.raises(ValueError, match="not 3"):
        icl_prompt([], [], 3)


def test_the_chosen_concept():
    concepts = ["dog", "mouse_click", "church bells"]
    assert icl_answer("We know this. Answer: Mouse click.", concepts) == "mouse_click"
    assert icl_answer("Answer: cat\nno wait\nanswer: **'dog'**\nBecause.", concepts) == "dog"
    assert icl_answer("It is about the class ‘church bells’ and nothing else.", concepts) == "church bells"
    for reply in ("Answer: a hotdog", "Answer:", "'dog' or 'mouse click'", "a dog", ""):
        assert icl_answer(reply, concepts) is None
