"""Concept scores against scikit-learn and scipy, and concept sets as they are published or as a user may write them."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics.pairwise import cosine_similarity

from ingest.language.word_lists import read_concepts
from ingest.methods.concept_scores import described_by, tagged_by
from warehouse.store import UserError

ESC50 = Path(os.environ.get("AURICLE_ESC50") or Path(__file__).parents[3] / "../shared/data/esc50")


def test_scores():
    rng = np.random.default_rng(0)
    clips, concepts = rng.normal(size=(30, 16)).astype(np.float32), 5 * rng.normal(size=(8, 16)).astype(np.float32)
    cosines = cosine_similarity(clips.astype(float), concepts.astype(float))
    np.testing.assert_allclose(tagged_by(clips, concepts), cosines, rtol=1e-9)
    np.testing.assert_allclose(described_by(clips, concepts, scale=None), cosines, rtol=1e-9)
    np.testing.assert_allclose(described_by(clips, concepts), softmax(100 * cosines, axis=1), rtol=1e-9)
    np.testing.assert_allclose(described_by(clips, concepts, scale=3000), softmax(3000 * cosines, axis=1), rtol=1e-7)
    assert described_by(clips[:0], concepts).shape == (0, 8)


def test_clips_without_an_embedding_are_refused():
    clips, concepts = np.ones((4, 3)), np.ones((2, 3))
    clips[2] = 0
    with pytest.raises(ValueError, match="caption embedding 2 is zero or not finite"):
        described_by(clips, concepts)
    concepts[1, 0] = np.nan
    with pytest.raises(ValueError, match="concept embedding 1 is zero or not finite"):
        tagged_by(clips[:2], concepts)
    with pytest.raises(ValueError, match="not of one model"):
        tagged_by(np.ones((4, 3)), np.ones((2, 5)))


def test_shipped_sets():
    esc50, audioset = read_concepts("esc50"), read_concepts("audioset")
    assert len(set(esc50)) == 50
    assert (esc50[0], esc50[14], esc50[49]) == ("dog", "chirping birds", "hand saw")
    # Numbers and names from the published class_labels_indices.csv; 1, 2, 12, 32, 33 and 277 are those that YAMNet does not have.
    assert len(set(audioset)) == 527
    published = {0: "Speech", 1: "Male speech, man speaking", 2: "Female speech, woman speaking", 12: "Battle cry", 32: "Male singing",
                 33: "Female singing", 74: "Dog", 277: "Funny music", 345: "Dental drill, dentist's drill", 500: "Silence",
                 526: "Field recording"}  # fmt: skip
    assert {index: audioset[index] for index in published} == published
    with open(Path(__file__).parents[3] / "ingest" / "language" / "words" / "esc50_audioset.csv", encoding="utf-8") as file:
        named = {name for row in csv.DictReader(file) for name in row["audioset"].split(";") if name}
    assert named <= set(audioset)


@pytest.mark.skipif(not (ESC50 / "meta" / "esc50.csv").is_file(), reason=f"no ESC-50 at {ESC50}: set AURICLE_ESC50 to its folder")
def test_esc50_is_in_the_order_of_its_targets():
    with open(ESC50 / "meta" / "esc50.csv", encoding="utf-8") as file:
        names = {int(row["target"]): row["category"].replace("_", " ") for row in csv.DictReader(file)}
    assert read_concepts("esc50") == [names[target] for target in range(50)]


def test_a_set_of_ones_own(tmp_path):
    path = tmp_path / "sounds.txt"
    path.write_bytes("\ufeffglass  breaking\r\n\r\n  steam rushing\t\r\nglass breaking\r\nGlass breaking\r\nKlänge <b>'\r\n".encode())
    assert read_concepts(path) == ["glass breaking", "steam rushing", "Glass breaking", "Klänge <b>'"]
    path.write_text("\n".join(f"concept {index}" for index in range(100_000)))
    assert read_concepts(str(path))[99_999] == "concept 99999"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no concept set or file"),
        (b"", "holds no concepts"),
        (b" \n\n\t\n", "holds no concepts"),
        ("Hähne".encode("latin-1"), "is not text in UTF-8"),
        ("dog\ncat".encode("utf-16"), "is not text in UTF-8"),
    ],
)
def test_a_set_that_cannot_be_used(tmp_path, content, problem):
    path = tmp_path / "sounds.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as error:
        read_concepts(path)
    assert "\n" not in str(error.value)
    assert "give esc50, audioset or a text file" in str(error.value)


def test_folders_vast_files_and_impossible_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_concepts(tmp_path)
    with open(tmp_path / "vast", "wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(UserError, match="has more than 64 MiB"):
        read_concepts(tmp_path / "vast")
    for name in ("esc51", "a\nb", "nul\0l", "x" * 5000):
        with pytest.raises(UserError) as error:
            read_concepts(name)
        assert "\n" not in str(error.value)
        assert "\0" not in str(error.value)
