"""Addresses, drawings, sounds and pictures."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

import report
from report.addresses import slug, slugs
from report.contents import Clip, View
from report.media import HEIGHT, MAGMA, PADDING, WIDTH, mp3, spectrogram, spectrogram_png, write
from report.mp3 import RATES_HZ, Encoder, frames
from report.parts import charts, svg

TEMPLATES = Path(report.__file__).parent / "templates"


def test_slugs_are_safe_short_and_different():
    names = [
        "Dog",
        "dog",
        "DOG ",
        "犬",
        "猫",
        "",
        "con",
        "CON.1",
        "index",
        "a/b",
        "../../x",
        "x" * 300,
        "x" * 301,
        ".hidden",
        "aux",
        "dog-ö",
    ]
    made = slugs(names)
    assert len(set(made)) == len(names)
    for name in made:
        assert name == name.lower()
        assert 0 < len(name) <= 80
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._")
        assert not name.startswith(".")
        assert name.split(".")[0] not in ("con", "aux", "index")
    assert made[0] == "dog"


def test_slugs_do_not_change_when_names_are_added():
    assert slugs(["Dog", "dog", "cat"])[:2] == slugs(["Dog", "dog"])


def test_a_name_that_looks_like_a_made_slug_gets_another():
    made = slugs(["dog", "Dog"])
    assert len({*slugs(["dog", made[1], "Dog"])}) == 3


@pytest.mark.parametrize(
    ("name", "expected"), [("Ünï cödé", "uni-code"), ("a/b\\c", "a-b-c"), ("encoder.layers.0.fc1", "encoder.layers.0.fc1")]
)
def test_slug(name, expected):
    assert slug(name) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.12345, "0.123"),
        (-1.5, "−1.50"),
        (12.345, "12.35"),
        (123.45, "123.5"),
        (12345.6, "1.2e+04"),
        (1e-6, "1.0e−06"),
    ],
)
def test_number(value, text):
    assert svg.number(value) == text


def test_course_starts_and_ends_where_it_should():
    steps = np.array([[0, 1, 0.5], [1, np.nan, np.nan], [np.nan, 1, 1]])
    paths = svg.courses(steps, np.zeros(3), np.ones(3))
    assert paths == ["M0 30h.5l1-28 1 14h.5", "M0 2h1", ""]


def test_histogram_quantiles_stand_on_the_bars_scale():
    drawing = svg.histogram([4, 0, 1], 0.0, 3.0, (0.0, 0.5, 1.5, 2.0, 3.0))
    assert drawing == 'data-c="_0W" data-q="0,17,50,67,100"'
    assert svg.histogram([1, 1], -1.0, 3.0, (-1.0, 0.0, 1.0, 2.0, 3.0)).endswith(',100,25"')


def test_levels_are_digits_of_a_scale_that_holds_0():
    assert svg.levels([1.0, 0.5, 0.0]) == "0_W0"
    assert svg.levels([-1.0, 1.0]) == "W0_"
    assert svg.levels([0.0, 0.0]) == "000"


def test_a_trace_has_a_stop_for_each_step_it_ends_before():
    steps = np.array([[0, 1, 0.5], [1, np.nan, np.nan], [np.nan, 1, 1]])
    assert svg.traces(steps, np.zeros(3), np.ones(3)) == ["0_W", "_..", ""]


def test_rows_cannot_end_their_script():
    assert "<" not in charts.rows_script(rows=[{"class": "</script><script>alert(1)</script>"}])


def test_charts_validate_and_take_rows_by_name():
    text = charts.specifications()
    assert all(f'"{name}":' in text for name in charts.TYPES)
    assert '"url"' not in text


def clip(seconds: float) -> Clip:
    return Clip(1, "a.wav", "0" * 64, seconds, "")


def test_a_tone_is_a_line_at_its_mel_height():
    rate = 16_000
    t = np.arange(2 * rate) / rate
    image = spectrogram(np.sin(2 * np.pi * 1000 * t).astype(np.float32), rate, View(2.0, 16_000))
    assert image.shape == (HEIGHT, WIDTH)
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    expected = HEIGHT * (1 - (mel(1000) - mel(20)) / (mel(8000) - mel(20)))
    assert abs(int(np.argmax(image[:, WIDTH // 2])) - expected) < 2
    assert image.max() < PADDING


def test_time_after_the_end_of_a_short_clip_is_padding_not_silence():
    image = spectrogram(np.ones(8000, np.float32), 16_000, View(2.0, 16_000))
    assert (image[:, : WIDTH // 4] < PADDING).all()
    assert (image[:, WIDTH // 4 :] == PADDING).all()


def test_silence_is_dark_everywhere():
    assert (spectrogram(np.zeros(32_000, np.float32), 16_000, View(2.0, 16_000)) == 0).all()


@pytest.mark.parametrize("rate", [4000, 8000, 16_000, 44_100, 96_000])
def test_no_band_is_empty_below_the_files_highest_frequency(rate):
    noise = np.random.default_rng(0).normal(size=2 * rate).astype(np.float32)
    image = spectrogram(noise, rate, View(2.0, 16_000))
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    share = min(1.0, (mel(rate / 2) - mel(20)) / (mel(8000) - mel(20)))
    rows = image[::-1][: int(share * HEIGHT) - 2]
    assert (np.median(rows, axis=1) > PADDING // 2).all()


def test_a_long_clip_shows_its_middle(tmp_path):
    wave = np.zeros(48_000)
    wave[23_000:25_000] = np.random.default_rng(0).normal(size=2000)
    sf.write(tmp_path / "long.wav", wave, 16_000)
    picture = Image.open(io.BytesIO(spectrogram_png(tmp_path / "long.wav", clip(3.0), View(1.0, 16_000))))
    assert picture.size == (WIDTH, HEIGHT)
    assert picture.mode == "P"
    loudness = np.asarray(picture).astype(int).sum(axis=0)
    assert abs(int(np.average(np.arange(WIDTH), weights=loudness)) - WIDTH / 2) < 8


def test_magma_gets_steadily_lighter():
    table = np.frombuffer(MAGMA, np.uint8).reshape(256, 3) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(table) > -1).all()
    assert table[-1] > 200 > 5 > table[0]


@pytest.mark.parametrize(("rate", "expected"), [(44_100, 44_100), (16_000, 16_000), (96_000, 48_000), (11_000, 11_025), (4000, 8000)])
def test_mp3_keeps_length_and_rate(tmp_path, rate, expected):
    seconds = 1.5
    t = np.arange(round(seconds * rate)) / rate
    sf.write(tmp_path / "a.wav", np.stack([np.sin(2 * np.pi * 440 * t), np.zeros(t.size)], axis=1) * 0.5, rate)
    wave, got = sf.read(io.BytesIO(mp3(tmp_path / "a.wav")))
    assert got == expected
    assert wave.ndim == 1
    assert abs(len(wave) - seconds * got) <= 1
    assert np.sqrt((wave**2).mean()) == pytest.approx(0.25 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("rate", RATES_HZ)
@pytest.mark.parametrize("samples", [1, 500, 70_017])
def test_mp3_has_as_many_samples_as_the_sound_and_none_before_it(rate, samples):
    """By libsndfile, which reads the header that says what the encoder put at both ends; and no more bytes than libsndfile's own encoder makes."""
    wave = 0.3 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 0.2 * rate, samples)) / rate).astype(np.float32)
    encoder, theirs = Encoder(rate), io.BytesIO()
    encoder.write(wave[: samples // 3], last=False)
    encoder.write(wave[samples // 3 :], last=True)
    made = encoder.finish()
    heard, got = sf.read(io.BytesIO(made))
    assert (got, len(heard)) == (rate, samples)
    if samples > 1000:
        assert np.corrcoef(heard, wave)[0, 1] > 0.98
    sf.write(theirs, wave, rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.6)
    assert len(made) < 1.02 * len(theirs.getvalue()) + 200
    places = frames(made)
    assert made[places[0] :].find(b"Xing") in (13, 21)
    assert int.from_bytes(made[places[0] :].partition(b"Xing")[2][4:8], "big") == len(places) - 1


def test_a_sound_and_its_picture_from_one_reading_are_as_from_two(tmp_path):
    wave = np.random.default_rng(0).normal(size=(70 * 16_000, 2)) * np.linspace(0, 0.3, 70 * 16_000)[:, None]
    source, view = tmp_path / "long.wav", View(4.0, 16_000)
    sf.write(source, wave, 16_000)
    for start, its in ((58.0, clip(120.0)), (0.0, clip(3.0))):
        assert its.start_s(4.0) == start
        files = [(tmp_path / "a.mp3", True), (tmp_path / "a.png", False)]
        assert write(files, source, its, view) == [path.stat().st_size for path, _ in files]
        assert (tmp_path / "a.mp3").read_bytes() == mp3(source)
        assert (tmp_path / "a.png").read_bytes() == spectrogram_png(source, its, view)
        write([(tmp_path / "b.png", False)], source, its, view)
        assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_what_scrolls_can_be_reached_by_keyboard():
    """A region that may scroll sideways takes the focus, or holds something that does (axe-core's rule scrollable-region-focusable)."""
    out_of_reach = []
    for path in sorted(TEMPLATES.rglob("*.j2")):
        for tag, text in re.findall(r'(<pre[^>]*>|<div class="scroll"[^>]*>)(.*?)(?=</pre>|</div>)', path.read_text("utf-8"), re.DOTALL):
            if 'tabindex="0"' not in tag and not re.search(r"<button|<a href|\{\{ rows \}\}", text):
                out_of_reach.append(f"{path.name}: {tag}")
    assert out_of_reach == []
