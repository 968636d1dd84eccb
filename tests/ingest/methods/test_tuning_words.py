"""Tuning in a sentence: what is sure is said, in plain words with numbers."""

from ingest.methods.tuning.words import Found, sentence

SURE = {
    "frequency_hz": Found(1203, 1100, 1300), "bandwidth_octaves": Found(0.55, 0.4, 0.7), "tone_rate_hz": Found(8, 6, 10),
    "noise_rate_hz": Found(8, 6, 10), "rate_hz": Found(8.1, 6, 10), "rate_holds": Found(1), "direction": Found(0.4, 0.2, 0.5),
    "pitch_hz": Found(221, 200, 240), "level_dbfs": Found(-50, -50, -40), "gap_ms": Found(5, 5, 5),
}  # fmt: skip


def test_all_that_is_sure_is_said_in_one_sentence():
    assert sentence(SURE) == (
        "Best at 1.2 kHz (half an octave wide), amplitude modulation of 8.1 a second, rising sweeps, a pitch of 221 Hz, noise from −50 dBFS on, "
        "gaps from 5 ms on."
    )


def test_what_repeats_do_not_agree_on_is_left_out():
    assert sentence(
        SURE | {"frequency_hz": Found(1203, 700, 1500), "direction": Found(0.4, -0.1, 0.5), "level_dbfs": Found(-50, -80, -40)}
    ) == ("Amplitude modulation of 8.1 a second, a pitch of 221 Hz, gaps from 5 ms on.")
    assert sentence({"frequency_hz": Found(1203)}) is None
    assert sentence({}) is None


def test_a_rate_says_of_what_it_is():
    rate = {"rate_hz": Found(8, 6, 10), "rate_holds": Found(0)}
    assert sentence(rate | {"tone_rate_hz": Found(8, 6, 10)}) == "Amplitude modulation of 8 a second of tones."
    assert sentence(rate | {"noise_rate_hz": Found(8, 6, 10)}) == "Amplitude modulation of 8 a second of noise."
    both = {"tone_rate_hz": Found(8, 6, 10), "noise_rate_hz": Found(32, 30, 40)}
    assert sentence(rate | both) == "Amplitude modulation of 8 a second, other rates for tones than for noise."


def test_widths_are_in_words():
    said = [sentence({"frequency_hz": Found(500, 490, 510), "bandwidth_octaves": Found(wide)}) for wide in (0.2, 1.1, 2.4, 4.3)]
    assert said == [f"Best at 500 Hz ({wide} wide)." for wide in ("a third of an octave", "one octave", "2.5 octaves", "4.5 octaves")]
