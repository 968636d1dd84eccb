"""Open concepts: the tagger against tags by hand, the rules against sentences made for them."""

import importlib.util
from pathlib import Path

import pytest

from ingest.language.sentences import tokens
from ingest.language.word_lists import class_names, read_concepts, word_list
from ingest.methods import concepts
from ingest.methods.concepts import Concept, Naming, acoustic_question, lemmas, open_concepts, parse_yes_no, pattern_tagger
from warehouse.store import UserError

needs_tagger = pytest.mark.skipif(importlib.util.find_spec("textblob") is None, reason="textblob is not installed")
SENTENCES = Path(__file__).parents[2] / "golden" / "tagged_sentences.txt"

# Tagged by hand: adjective, noun, verb, preposition or other.
CAPTIONS = """
A/O small/J dog/N barks/V twice/O in/P a/O quiet/J street/N ./O
Sharp/J metallic/J clicks/N follow/V each/O other/J at/P regular/J intervals/N ./O
The/O engine/N hums/V with/P a/O deep/J ,/O steady/J drone/N ./O
Rain/N falls/V on/P a/O tin/N roof/N while/P thunder/N rumbles/V ./O
Four/O clips/N contain/V high-pitched/J squeaks/N ./O
The/O sound/N is/V muffled/J and/O distorted/J by/P wind/N ./O
Children/N laugh/V loudly/O near/P a/O busy/J road/N ./O
It/O is/V a/O short/J ,/O noisy/J sound/N without/P a/O clear/J pitch/N ./O
Waves/N crash/V against/P the/O shore/N ,/O rising/V and/O falling/V slowly/O ./O
A/O rhythmic/J ticking/N of/P a/O mechanical/J clock/N ./O
The/O recordings/N share/V a/O bright/J ,/O percussive/J attack/N ./O
A/O woman/N sneezes/V suddenly/O into/P a/O soft/J tissue/N ./O
Glass/N breaks/V with/P a/O loud/J crash/N ./O
Continuous/J broadband/J noise/N like/P heavy/J rain/N ./O
Birds/N chirp/V and/O a/O crow/N caws/V in/P the/O distance/N ./O
"""


COARSE = {"JJ": "J", "JJR": "J", "JJS": "J", "VBN": "J", "IN": "P", "NN": "N", "NNS": "N", "NNP": "N", "NNPS": "N"}


def tagged_by_hand(lines):
    """Words with their part by hand and by the tagger, of lines that are neither comments nor empty."""
    for line in lines.strip().splitlines():
        if not line.startswith("#"):
            words, kinds = zip(*(pair.rsplit("/", 1) for pair in line.split()), strict=True)
            assert tokens(" ".join(words).replace(" ,", ",").replace(" .", ".")) == list(words)
            for word, kind, (_, tag) in zip(words, kinds, pattern_tagger()([word.lower() for word in words]), strict=True):
                yield word, kind, COARSE.get(tag, "V" if tag.startswith("VB") else "O")


@needs_tagger
def test_the_tagger_on_captions_tagged_by_hand():
    """Adjectives, nouns and prepositions are what it finds; of the verbs of bare captions it takes some for nouns."""
    right, total = dict.fromkeys("JNVPO", 0), dict.fromkeys("JNVPO", 0)
    for word, kind, found in tagged_by_hand(CAPTIONS):
        if word.isalpha() or "-" in word:
            right[kind] += found == kind
            total[kind] += 1
    assert total == {"J": 24, "N": 33, "V": 17, "P": 14, "O": 29}
    assert right == {"J": 23, "N": 32, "V": 13, "P": 14, "O": 29}


@needs_tagger
def test_the_tagger_on_sentences_of_captions_and_summaries():
    """The perceptron tagger of textblob-aptagger has F1 of 0.87, 0.89, 0.83, 1 and 0.89; on the last twenty alone 0.82 in all, this one 0.87."""
    found = list(tagged_by_hand(SENTENCES.read_text(encoding="utf-8")))

    def f1(parts):
        right = sum(kind == tag and kind in parts for _, kind, tag in found)
        return 2 * right / sum((kind in parts) + (tag in parts) for _, kind, tag in found)

    assert [round(f1(parts), 2) for parts in ("J", "N", "V", "P", "JNVP")] == [0.93, 0.92, 0.83, 1.0, 0.91]


def by_hand(*tags):
    """A tagger that knows its tags."""
    return lambda words: list(zip(words, tags, strict=True))


def test_the_rules_by_hand():
    points = ["Loud dogs, not really very much muffled, bark at the loud sound"]
    tags = ("JJ", "NNS", ",", "RB", "RB", "RB", "RB", "VBN", ",", "VB", "IN", "DT", "JJ", "NN")
    assert open_concepts(points, by_hand(*tags)) == [
        Concept("loud", "adjective", 0), Concept("dogs", "noun", 0), Concept("muffled", "verb", 0),
        Concept("bark", "verb", 0), Concept("at", "preposition", 0), Concept("sound", "noun", 0),
    ]  # fmt: skip
    negated = {"no a b c loud": False, "no a b c d loud": True, "is n't loud": False, "not , deep": False, "know loud": True}
    for point, kept in negated.items():
        tags = ["XX"] * (len(tokens(point)) - 1) + ["JJ"]
        assert [c.pos for c in open_concepts(["x", point], lambda words, tags=tags: list(zip(words, tags)))] == ["adjective"] * kept  # noqa: B905
    for word in ("*", "--", "1", "'s", "x", "4th", "the", "first", "\ud800\ud801", "a" * 60, "…"):
        assert open_concepts([word], lambda words: [(word, "JJ") for word in words]) == []
    assert [c.word for c in open_concepts(["'Café' -deep- _dry_ low-pitched"], lambda words: [(word, "VBD") for word in words])] == [
        "café", "deep", "dry", "low-pitched",
    ]  # fmt: skip


@needs_tagger
def test_the_words_of_measured_captions_are_adjectives():
    spoken = "loud quiet high-pitched low-pitched mid-pitched low-frequency deep bright dull noisy broadband narrowband tonal harmonic pure"
    spoken += " silent short long continuous intermittent rhythmic repetitive sharp sudden gradual fluctuating steady fading swelling rising falling"
    points = [f"It is {'an' if word[0] in 'aeiou' else 'a'} {word} sound." for word in spoken.split()]
    assert [c.word for c in open_concepts(points) if c.pos == "adjective"] == spoken.split()
    published = [c.word for c in open_concepts(points, as_published=True) if c.pos == "adjective"]
    assert set(spoken.split()) - set(published) == {"broadband", "fluctuating", "swelling", "rising", "falling"}
    assert [c.word for c in open_concepts(["It rings. It is fluctuating and running."]) if c.pos == "adjective"] == ["fluctuating"]


@needs_tagger
def test_open_concepts_of_a_summary():
    points = ["Loud and High-Pitched sounds: All of the clips are loud, but none isn't muffled.", "There is no background noise.", ""]
    found = open_concepts(points)
    assert [c.word for c in found if c.pos == "adjective"] == ["loud", "high-pitched"]
    assert {(c.word, c.sentence_index) for c in found if c.pos == "noun"} == {
        ("sounds", 0),
        ("clips", 0),
        ("none", 0),
        ("background", 1),
        ("noise", 1),
    } - {("none", 0)}
    assert Concept("of", "preposition", 0) in found
    assert open_concepts([]) == []


def test_a_missing_tagger_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(concepts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install textblob"):
        pattern_tagger.__wrapped__()


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Yes, the adjective 'loud' describes a sound.", True),
        ("No. There is no sound to it, yes?", False),
        ("**Answer:** no\nReason: yes would be wrong.", False),
        ("Answer (yes or no): Yes", True),
        ("The answer is yes.", True),
        ("The adjective can be used, so yes.", True),
        ("yesterday was notable", None),
        ("It depends: yes for music, no for noise.", None),
        ("", None),
    ],
)
def test_yes_and_no(reply, answer):
    assert parse_yes_no(reply) is answer


def test_questions_and_word_lists():
    assert acoustic_question("dull{0}") == (
        "Can the adjective 'dull{0}' be used to describe the tone, emotion, or acoustic features of audio, music, or any other form of sound? "
        "Answer yes or no and give the reason."
    )
    spoken = "loud quiet high-pitched low-pitched mid-pitched deep bright dull noisy tonal harmonic sharp sudden short long continuous"
    spoken += " intermittent rhythmic repetitive fluctuating steady rising falling silent"
    assert set(spoken.split()) <= word_list("acoustic_adjectives")
    assert not word_list("acoustic_adjectives") & (word_list("stop_words") | word_list("trivial_adjectives"))
    assert all(
        word == word.lower().strip() for name in ("acoustic_adjectives", "stop_words", "trivial_adjectives") for word in word_list(name)
    )


@needs_tagger
@pytest.mark.parametrize(
    ("said", "named", "others"),
    [
        ("Dogs barking in a yard.", ["dog"], ["cat"]),
        ("It sounds like a wave.", ["sea waves"], ["water drops"]),
        ("Waves crash on the shore.", ["sea waves"], ["rain"]),
        ("A person sneezes loudly.", ["sneezing"], ["coughing"]),
        ("Ringing church bells.", ["church bells"], ["clock alarm"]),
        ("Use of a keyboard by a mouse.", ["keyboard typing", "mouse click"], ["can opening"]),
        ("A washing machine spins.", ["washing machine"], ["engine"]),
        ("A machine hums.", [], ["washing machine", "vacuum cleaner"]),
        ("The volume drops.", [], ["water drops"]),
        ("Several children laugh.", ["laughing"], ["crying baby"]),
        ("Cheerful jazz pianos.", ["jazz piano"], ["pop"]),
    ],
)
def test_descriptions_name_classes_by_lemmas_and_known_synonyms(said, named, others):
    found = open_concepts([said])
    for name in [*named, *others, *(each.replace(" ", "_") for each in named)]:
        naming = Naming(name)
        parts = [part for concept in found for part in naming.parts(concept.word, concept.pos)]
        assert naming.named(parts) == (name.replace("_", " ") in named), name


def test_every_class_with_a_list_of_names_is_one_of_esc50():
    assert class_names().keys() <= set(read_concepts("esc50"))
    assert all(all(name == name.strip().lower() for name in names) and names for names in class_names().values())


def test_lemmas_keep_the_word():
    assert lemmas("waves", "noun") == {"waves", "wave"}
    assert {"clap", "clapping"} <= lemmas("clapping", "verb")
    assert {"sneeze", "sneezing"} <= lemmas("sneezing", "verb")
    assert lemmas("loud", "adjective") == {"loud"}
