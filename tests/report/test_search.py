"""The search in headless Chromium: words near others in meaning, misspelt ones, reasons, filters, and an address that shows what its sender saw."""

from __future__ import annotations

import pytest
import soundfile as sf

from ingest.language.related_words import LEAST, NEAREST, RelatedWords, at_hand
from ingest.language.text_encoders import minilm
from report import site as atlas
from report.parts import plain_words
from report.parts.search_index import DIGITS, packed, words_of
from tests.report import small_warehouse as small
from tests.report.conftest import CLIP_S, sound

SAID = {5: "Repeated high-pitched tones.", 1: "Low rumble of an engine.", 2: "Splashing water.", 3: "High wind.", 4: "Faint speech."}
FOUND = "[...document.querySelectorAll('#found a')].map(a => a.textContent)"

needs_encoder = pytest.mark.usefixtures("minilm_folder")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """A warehouse whose neurons say SAID, and its atlas with related words by the real encoder."""
    root = tmp_path_factory.mktemp("said")
    (root / "sounds").mkdir()
    clips = {f"clip-{i}.wav": {"category": [("dog", "clock_alarm")[i % 2]]} for i in range(6)}
    for i, name in enumerate(clips):
        sf.write(root / "sounds" / name, *sound(i))
    with small.create(root / "w.duckdb") as con:
        dataset = small.add_dataset(con, "few", root / "sounds", clips, None)
        run = small.add_network(con, "toy net", dataset, [("conv/1", 6, True)], CLIP_S)
        described = small.add_language(con, run, "odd")["descriptions"]
        con.execute("DELETE FROM summary_point")
        con.execute("DELETE FROM concept")
        ids = [n for (n,) in con.execute("SELECT neuron_id FROM neuron ORDER BY 1").fetchall()]
        con.executemany(
            "INSERT INTO summary_point VALUES (?, ?, 0, ?, true, NULL, NULL)", [(described, ids[at], text) for at, text in SAID.items()]
        )
        con.executemany(
            "INSERT INTO concept VALUES (?, ?, ?, ?, 1, NULL)",
            [(described, ids[5], "high", "adjective"), (described, ids[5], "tones", "noun")],
        )
    site = root / "site"
    atlas.build(root / "w.duckdb", site, related=at_hand() or RelatedWords(minilm()))
    return root / "w.duckdb", site


def search(chromium, page, text):
    """What is found for a text typed into the search of a page."""
    chromium.open(page)
    chromium.js("document.getElementById('q').focus()")
    chromium.type(text)
    chromium.until("window.AURICLE_RELATED !== undefined && !document.getElementById('hits').hidden")
    return chromium.js(FOUND)


@needs_encoder
def test_high_beeping_finds_repeated_high_pitched_tones_and_says_why(said, chromium):
    neurons = [text for text in search(chromium, said[1] / "index.html", "high beeping") if text.startswith("conv/1")]
    assert neurons[0].startswith("conv/1 · 5description: high")
    assert "beeping ≈ high-pitched" in neurons[0]
    assert chromium.messages == []
    assert [url for url in chromium.requests if not url.startswith(("data:", said[1].resolve().as_uri()))] == []


@needs_encoder
@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("motor", "conv/1 · 1description: motor ≈ engine"),
        ("splahsing", "conv/1 · 2description: splahsing → splashing"),
        ("high-piched", "conv/1 · 5description: high, piched → "),
        ("rumbling", "conv/1 · 1description: rumbling = rumble"),
        ("a sound of speach", "conv/1 · 4description: speach → speech"),
    ],
)
def test_related_words_forms_and_misspellings(said, chromium, typed, first):
    assert search(chromium, said[1] / "index.html", typed)[0].startswith(first)


@needs_encoder
def test_a_link_shows_what_its_sender_saw(said, chromium):
    page = said[1] / "networks/toy-net/index.html"
    assert sum(text.startswith("conv/1") for text in search(chromium, page, "high")) >= 2
    chromium.js("s = document.querySelector('#hits select[name=pos]'); s.value = '0'; s.dispatchEvent(new Event('change'))")
    seen, link = chromium.js(FOUND), chromium.js("location.href")
    assert link.endswith("#q=high&pos=0")
    other = chromium.fresh()
    other.open(link)
    other.until("!document.getElementById('hits').hidden")
    assert other.js(FOUND) == seen
    assert other.js("[document.getElementById('q').value, document.querySelector('#hits select[name=pos]').value]") == ["high", "0"]


def test_without_an_encoder_the_search_works_by_letters_and_says_so(built, chromium):
    assert (built[1] / "related.js").read_text() == "AURICLE_RELATED=null;\n"
    assert any("dog" in text.lower() for text in search(chromium, built[1] / "index.html", "dgo dog"))
    assert "no text encoder was at hand" in chromium.js("document.querySelector('#hits .none').textContent")


@needs_encoder
def test_a_report_with_nothing_new_does_nothing_and_an_encoder_is_noticed(said):
    related = at_hand() or RelatedWords(minilm())
    assert atlas.build(*said, related=related).written == 0
    assert atlas.build(*said).written == 1  # related.js
    assert atlas.build(*said, related=related).written == 1


@needs_encoder
def test_related_words_are_near_and_none_excludes_another(tmp_path):
    related = RelatedWords(minilm(), tmp_path / "words.npz")
    words = ["loud", "quiet", "dog", "engine", "rain"]
    near = related(words)
    assert words[near["puppy"][0][0]] == "dog"
    assert words[near["motor"][0][0]] == "engine"
    assert all(len(its) <= NEAREST and all(cosine >= LEAST for _, cosine in its) for its in near.values())
    assert not any({0, 1} <= {at for at, _ in its} for its in near.values())
    assert all(words[at] != "quiet" for at, _ in near.get("loud", []))
    assert related(words) == near  # from the kept embeddings
    assert RelatedWords(minilm(), tmp_path / "no folder" / "words.npz").kept.parent.exists() is False


def test_numbers_are_packed_as_the_page_unpacks_them():
    def unpacked(text):
        found, at, value, scale = [], -1, 0, 1
        for digit in map(DIGITS.index, text):
            value, scale = value + (digit & 31) * scale, scale * 32
            if digit < 32:
                at += value + 1
                found, value, scale = [*found, at], 0, 1
        return found

    for numbers in ([0], [0, 1, 2], [5, 36, 37, 1100, 40_000], []):
        assert unpacked(packed(numbers)) == numbers


def test_words_of_texts_and_plain_words_of_rules():
    assert list(words_of("A High-pitched beep, over 5.1 kHz")) == ["high-pitched", "high", "pitched", "beep", "over"]
    assert "high-pitched" in plain_words.of_condition("rolloff_hz", "over", "reaching high (roll-off over 5.1 kHz)")
    assert "short bursts" in plain_words.of_condition("event_s", "under", "short events (under 0.2 s)")
    assert plain_words.of_condition("centroid_hz", "over", "not dull (spectral centre over 300 Hz)") == ""
    assert plain_words.of_condition("heard as Dog", "over", "heard as “Dog” (over 0.2)") == "Dog"
    assert "rising sweeps" in plain_words.of_tuning(None, 16.0, "Best at 1 kHz, rising sweeps.")
