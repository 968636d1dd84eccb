"""Examples from a neuron's whole range."""

import numpy as np

from ingest.methods import contrast


def test_near_misses_are_like_the_highest_and_do_not_activate():
    rng = np.random.default_rng(0)
    properties = rng.normal(size=(200, 4))
    responses = np.where((properties[:, 0] > 0.5) & (properties[:, 1] > 0), properties[:, 0], -5)
    high = np.argsort(-responses)[:5]
    near = contrast.near_misses(responses, high, contrast.standing(properties), 8)
    assert len(near) == 8
    assert (responses[near] == -5).all()
    assert properties[near, 0].mean() > 0.4  # the property that it hears is like the highest ones', if not the other
    assert not set(near) & set(high)
    assert len(contrast.near_misses(responses[:6], np.array([0]), contrast.standing(properties[:6]), 8)) <= 5


def test_undefined_properties_stand_in_the_middle_and_undefined_responses_are_no_examples():
    places = contrast.standing(np.array([[3.0, np.nan], [1.0, 2.0], [np.nan, np.nan]]))
    np.testing.assert_allclose(places, [[0.75, 0.5], [0.25, 0.5], [0.5, 0.5]])
    responses = np.array([np.nan, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert contrast.middle(responses, np.array([10])).tolist() == [8, 6]
    assert 0 not in contrast.near_misses(responses, np.array([10]), contrast.standing(np.zeros((11, 1))), 20)


def test_the_prompt_has_all_of_it():
    text = contrast.Contrast(("A dog\nbarks.",), ("Rain.",), (), "").prompt()
    assert "1. A dog barks.\n" in text
    assert "do not activate it:\nnone\n" in text
    assert contrast.NOTHING in text
    assert "bright (over 2 kHz)" in contrast.Contrast((), (), (), "bright (over 2 kHz)").prompt()
