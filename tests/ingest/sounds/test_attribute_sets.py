"""Readers of the sets by whose attributes neurons are compared, on miniatures in their official layouts, and the recipes for them."""

import csv
import os
import re
from collections import Counter
from math import floor, log2
from pathlib import Path

import duckdb
import numpy as np
import pytest
import soundfile

from ingest.sounds.attribute_sets import CREMA_D_EMOTIONS, CREMA_D_SENTENCES, ESC50_CATEGORIES
from ingest.sounds.draws import draw
from ingest.sounds.listing import Listing
from ingest.sounds.readers import read_dataset
from ingest.stages.clips import ingest_clips
from warehouse import store
from warehouse.store import UserError

ROOT = Path(__file__).parents[3]
READERS = ("crema-d", "voxceleb1", "voxforge", "gise-51", "surge")


def sounds(folder: Path, *names: str) -> Path:
    """Write a tenth of a second of sound under each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, 0.1 * np.sin(np.arange(1600) / 5), 16_000)
    return folder


def summary(listing: Listing) -> dict[str, tuple[dict[str, tuple[str, ...]], str | None]]:
    return {entry.name: (entry.labels, entry.group) for entry in listing.entries}


def reasons(listing: Listing) -> dict[str, str]:
    items = {rejected.item: rejected.reason for rejected in listing.rejected}
    assert len(items) == len(listing.rejected)
    return items


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path: Path, reader: str) -> None:
    sounds(tmp_path, "dogs/bark.wav", "wav/dogs/bark.wav")
    (tmp_path / "de-20100101-abc.tgz").write_bytes(b"")
    with pytest.raises(UserError, match=f"holds no .*reader {reader} needs") as caught:
        read_dataset(reader, tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["de-20100101-abc.tgz", "dogs", "wav"]


# CREMA-D

DEMOGRAPHICS = (
    '"ActorID","Age","Sex","Race","Ethnicity"\n'
    '1001,51,"Male","Caucasian","Not Hispanic"\n'
    '1002,21,"Female","Caucasian","Not Hispanic"\n'
    '1040,42,"Male","Caucasian","Not Hispanic"\n'
)


@pytest.mark.parametrize("folder", ["", "AudioWAV/"])
def test_crema_d_labels_of_every_kind(tmp_path: Path, folder: str) -> None:
    names = ("1001_DFA_ANG_XX.wav", "1002_IEO_DIS_LO.wav", "1002_IEO_HAP_HI.wav", "1002_IEO_SAD_MD.wav", "1040_ITH_SAD_X.wav")
    bad = ("1001_DFA_JOY_XX.wav", "1001_XYZ_ANG_XX.wav", "1099_DFA_ANG_XX.wav", "1001_DFA_ANG_XX copy.wav")
    sounds(tmp_path, *(folder + name for name in (*names, *bad)))
    (tmp_path / "VideoDemographics.csv").write_text(DEMOGRAPHICS, encoding="utf-8-sig")
    listing = read_dataset("crema-d", tmp_path)
    assert list(listing.label_sets.items()) == [
        ("emotion", ["anger", "disgust", "happiness", "sadness"]),
        ("arousal", ["low", "high"]),
        ("gender", ["female", "male"]),
        ("level", ["low", "medium", "high"]),
        ("sentence", ["Don't forget a jacket", "I think I have a doctor's appointment", "It's eleven o'clock"]),
        ("speaker", ["1001", "1002", "1040"]),
    ]
    found = summary(listing)
    assert list(found) == [folder + name for name in names]
    assert found[folder + "1001_DFA_ANG_XX.wav"] == (
        {
            "emotion": ("anger",),
            "arousal": ("high",),
            "gender": ("male",),
            "sentence": ("Don't forget a jacket",),
            "speaker": ("1001",),
        },
        "1001",
    )
    assert found[folder + "1002_IEO_DIS_LO.wav"][0] == {
        "emotion": ("disgust",),
        "arousal": ("low",),
        "gender": ("female",),
        "level": ("low",),
        "sentence": ("It's eleven o'clock",),
        "speaker": ("1002",),
    }
    assert [labels["arousal"] for labels, _ in found.values()] == [("high",), ("low",), ("high",), ("low",), ("low",)]
    not_a_name = "the name is not ACTOR_SENTENCE_EMOTION_LEVEL.wav with CREMA-D's abbreviations"
    assert reasons(listing) == {folder + name: not_a_name for name in bad} | {
        f"{folder}1099_DFA_ANG_XX.wav": "actor 1099 is not in VideoDemographics.csv"
    }
    assert (len(CREMA_D_EMOTIONS), len(CREMA_D_SENTENCES)) == (6, 12)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (None, "is missing or no table of people: put the data set's own VideoDemographics.csv there"),
        (b"ActorID,Age\n1001,51\n", "has no column Sex"),
        (b"", "has no column ActorID"),
        (b"\xff\xfe\0", "is not a table in UTF-8"),
        (b'ActorID,Sex\n1001,"Male' + b"x" * 200_000, "is not a table in UTF-8"),
        (b"x" * (1 << 21), "is missing or no table of people"),
    ],
)
def test_a_table_of_people_that_cannot_be_used(tmp_path: Path, table: bytes | None, problem: str) -> None:
    sounds(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav")
    if table is not None:
        (tmp_path / "VideoDemographics.csv").write_bytes(table)
    with pytest.raises(UserError, match=problem) as caught:
        read_dataset("crema-d", tmp_path)
    assert "\n" not in str(caught.value)


# VoxCeleb1

VOX1_META = (
    "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
    "id10001\tA.J._Buckley\tm\tIreland\tdev\n"
    'id10002\t"Weird_Al_Yankovic\tm\tUSA\tdev\n'  # a quotation mark quotes nothing between tabs
    "id10270\tEartha_Kitt\tf\tUSA\ttest\n"
    "id10271\tNobody\n"
)


def voxceleb1(folder: Path, dev: str = "wav", test: str = "wav") -> Path:
    sounds(folder / dev, "id10001/1zcIwhmdeo4/00001.wav", "id10001/1zcIwhmdeo4/00002.wav", "id10002/0_laIeN-Q44/00001.wav")
    sounds(folder / test, "id10270/x6uYqmx31kE/00001.wav", "id10271/5r0dWxy17C8/00001.wav", "id11999/x/00001.wav")
    (folder / "vox1_meta.csv").write_text(VOX1_META)
    return folder


@pytest.mark.parametrize(("dev", "test"), [("wav", "wav"), ("vox1_dev_wav/wav", "vox1_test_wav/wav"), ("dev/wav", "test/wav"), ("", "")])
def test_voxceleb1_of_one_or_two_archives(tmp_path: Path, dev: str, test: str) -> None:
    listing = read_dataset("voxceleb1", voxceleb1(tmp_path, dev, test))
    in_dev, in_test = (f"{part}/".lstrip("/") for part in (dev, test))
    assert summary(listing) == {
        f"{in_dev}id10001/1zcIwhmdeo4/00001.wav": ({"gender": ("male",), "nationality": ("Ireland",)}, "id10001"),
        f"{in_dev}id10001/1zcIwhmdeo4/00002.wav": ({"gender": ("male",), "nationality": ("Ireland",)}, "id10001"),
        f"{in_dev}id10002/0_laIeN-Q44/00001.wav": ({"gender": ("male",), "nationality": ("USA",)}, "id10002"),
        f"{in_test}id10270/x6uYqmx31kE/00001.wav": ({"gender": ("female",), "nationality": ("USA",)}, "id10270"),
        f"{in_test}id10271/5r0dWxy17C8/00001.wav": ({}, "id10271"),
    }
    assert listing.label_sets == {"gender": ["female", "male"], "nationality": ["Ireland", "USA"]}
    assert reasons(listing) == {f"{in_test}id11999": "speaker id11999 is not in vox1_meta.csv"}


# VoxForge

README = (
    "User Name:{name}\n\nSpeaker Characteristics:\n\nGender: {gender}\nAge Range: Adult\nLanguage: {language}\nPronunciation dialect: x\n"
)


def submission(folder: Path, readme: str | bytes | None, *names: str, called: str = "README") -> None:
    sounds(folder, *(names or ("wav/a0001.wav",)))
    (folder / "etc").mkdir()
    (folder / "etc" / "PROMPTS").write_text("a0001 AUTHOR OF THE DANGER TRAIL\n")
    if readme is not None:
        (folder / "etc" / called).write_bytes(readme if isinstance(readme, bytes) else readme.encode())


def test_voxforge_languages_speakers_and_broken_readmes(tmp_path: Path) -> None:
    original = "www.repository.voxforge1.org/downloads/Russian/Trunk/Audio/Main/16kHz_16bit"
    russian = README.format(name="x", gender="Мужчина", language="RU").encode("cp1251")
    german = README.format(name="ralf", gender="Männlich", language="EN").replace("\n", "\r\n").encode("latin-1")
    submission(tmp_path / "de" / "ralf-20080112-abc", german, "wav/de5-1.wav", "wav/de5-2.wav", "flac/de5-1.flac")
    submission(tmp_path / "de" / "anonymous-20100101-aaa", None)
    submission(tmp_path / "de" / "anonymous-20100101-bbb", b"\x00\xff" * 99)
    submission(tmp_path / original / "VM-men-1-20110102-xyz", russian, "flac/ru_1.flac", called="readme")
    submission(tmp_path / "Aaron-20080318-kdl", README.format(name="Aaron", gender="Please Select", language="EN"))
    submission(tmp_path / "odd", "Gender:\nAge Range: Adult\nfirst language: DE\nLanguage: Klingon\n")
    (tmp_path / "de" / "broken-20100101-ccc" / "wav").mkdir(parents=True)
    listing = read_dataset("voxforge", tmp_path)
    assert summary(listing) == {
        "Aaron-20080318-kdl/wav/a0001.wav": ({"language": ("English",)}, "Aaron"),
        "de/anonymous-20100101-aaa/wav/a0001.wav": ({"language": ("German",)}, "anonymous-20100101-aaa"),
        "de/anonymous-20100101-bbb/wav/a0001.wav": ({"language": ("German",)}, "anonymous-20100101-bbb"),
        "de/ralf-20080112-abc/wav/de5-1.wav": ({"language": ("German",), "gender": ("male",)}, "ralf"),
        "de/ralf-20080112-abc/wav/de5-2.wav": ({"language": ("German",), "gender": ("male",)}, "ralf"),
        "odd/wav/a0001.wav": ({}, "odd"),
        f"{original}/VM-men-1-20110102-xyz/flac/ru_1.flac": ({"language": ("Russian",), "gender": ("male",)}, "VM-men-1"),
    }
    assert list(listing.label_sets.items()) == [("language", ["English", "German", "Russian"]), ("gender", ["male"])]
    assert listing.rejected == []
    one = read_dataset("voxforge", tmp_path / "de")  # the folder itself names the language
    assert listing.entries[3].labels == one.entries[2].labels
    assert (one.entries[2].name, one.label_sets["language"]) == ("ralf-20080112-abc/wav/de5-1.wav", ["German"])


@pytest.mark.parametrize(
    ("said", "gender"),
    [
        *(
            ("Gender: " + word, "male")
            for word in ("Male", "male;", "Männlich", "MÃ¤nnlich", "Masculin", "Masculino", "Maschio", "Мужчина", "M")
        ),
        *(("Gender: " + word, "female") for word in ("Female", "[female]", "Weiblich", "Féminin", "Femenino", "Femmina", "Женщина", "F")),
        *(("Gender: " + word, None) for word in ("unbekannt", "desconocido", "[male/female]", "Sélectionnez", "другое", "")),
        ("Geschlecht: weiblich", "female"),
        ("Sexe: Féminin", "female"),
        ("Sex: Male\nGender: Female", "male"),
    ],
)
def test_genders_as_the_submission_programs_wrote_them(tmp_path: Path, said: str, gender: str | None) -> None:
    submission(tmp_path / "xy-20100101-abc", f"User Name:xy\n\n{said}\nAge Range: Male\n")
    assert read_dataset("voxforge", tmp_path).entries[0].labels.get("gender") == ((gender,) if gender else None)


# GISE-51


@pytest.mark.parametrize("base", ["", "isolated_events/"])
def test_gise_51_events_of_all_parts(tmp_path: Path, base: str) -> None:
    names = ("train/Applause/64760.wav", "train/Dog/370_2.wav", "val/Walk_and_footsteps/370_1.wav", "eval/Wind/gust.wav")
    sounds(tmp_path, *(base + name for name in names), "mixtures/train/soundscape.wav")
    (tmp_path / base / "train" / "lbl_map.json").write_text("{}")
    listing = read_dataset("gise-51", tmp_path)
    assert summary(listing) == {
        f"{base}train/Applause/64760.wav": ({"event": ("Applause",)}, "64760"),
        f"{base}train/Dog/370_2.wav": ({"event": ("Dog",), "category": ("dog",)}, "370"),
        f"{base}val/Walk_and_footsteps/370_1.wav": ({"event": ("Walk_and_footsteps",), "category": ("footsteps",)}, "370"),
        f"{base}eval/Wind/gust.wav": ({"event": ("Wind",), "category": ("wind",)}, None),
    }
    assert list(listing.label_sets) == ["event", "category"]


def test_events_that_esc50_has_too_mean_the_same_audioset_class() -> None:
    with (ROOT / "ingest" / "language" / "words" / "esc50_audioset.csv").open(newline="") as file:
        audioset = {row["class"]: row["audioset"].split(";") for row in csv.DictReader(file)}
    for event, category in ESC50_CATEGORIES.items():
        assert event.replace("_and_", ", ").replace("_", " ") in audioset[category]
    assert len(set(ESC50_CATEGORIES.values())) == len(ESC50_CATEGORIES) == 13


# Surge


def test_surge_pitches_fall_into_nine_octaves_as_their_frequencies_do(tmp_path: Path) -> None:
    preset = "surge-patches-factory-Pads-Ghost-Pad-velocity64"
    (tmp_path / "surge" / preset).mkdir(parents=True)
    for pitch in range(21, 109):
        (tmp_path / "surge" / preset / f"note{pitch:03}.ogg").touch()
    for name in ("note128.ogg", "silence.ogg"):
        (tmp_path / "surge" / preset / name).touch()
    listing = read_dataset("surge", tmp_path)
    for entry in listing.entries:
        above_c0 = 12 * log2(440 * 2 ** ((int(entry.labels["pitch"][0]) - 69) / 12) / 16.3516)
        assert entry.labels["octave"] == (str(floor(round(above_c0) / 12)),)
    assert Counter(entry.labels["octave"][0] for entry in listing.entries) == {"0": 3, "8": 1} | {str(octave): 12 for octave in range(1, 8)}
    assert listing.label_sets["pitch"] == [str(pitch) for pitch in range(21, 109)]
    assert listing.label_sets["octave"] == [str(octave) for octave in range(9)]
    assert listing.label_sets["note"] == ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
    assert summary(listing)[f"surge/{preset}/note060.ogg"] == ({"pitch": ("60",), "octave": ("4",), "note": ("C",)}, preset)
    wrong = "the name is not noteNNN.ogg with a MIDI pitch from 0 to 127"
    assert reasons(listing) == {f"surge/{preset}/{name}": wrong for name in ("note128.ogg", "silence.ogg")}


@pytest.mark.slow
def test_surge_in_the_warehouse_shares_its_octaves_with_the_notes(tmp_path: Path) -> None:
    folder = tmp_path / "surge"
    sounds(folder, *(f"{preset}-velocity64/note{pitch:03}.ogg" for preset in ("A", "B") for pitch in (36, 48, 108)))
    listing = draw(read_dataset("surge", folder), folds=2)
    assert {entry.group: entry.fold for entry in listing.entries}.keys() == {"A-velocity64", "B-velocity64"}
    assert len({(entry.group, entry.fold) for entry in listing.entries}) == 2  # no preset in both folds
    warehouse = tmp_path / "w.duckdb"
    with store.writer(warehouse):
        for found in (listing, read_dataset("notes", tmp_path / "notes")):
            ingest_clips(warehouse, found)
    with duckdb.connect(str(warehouse), read_only=True) as con:
        shared = con.execute(
            """SELECT class.name, count(DISTINCT dataset_id), count(*) FROM clip_label JOIN class USING (class_id)
            JOIN label_set USING (label_set_id) WHERE label_set.name = 'octave' GROUP BY ALL HAVING count(DISTINCT dataset_id) > 1 ORDER BY 1"""
        ).fetchall()
    assert shared == [("2", 2, 2 + 72), ("3", 2, 2 + 72)]


# The recipes


def test_every_set_has_a_recipe_and_the_python_in_them_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    named = set(re.findall(r'reader = "([a-z0-9-]+)"|--dataset ([a-z0-9-]+)', text))
    assert {*READERS, "nsynth", "gtzan", "audiofolder", "stimuli", "parquet", "webdataset"} == {"".join(pair) for pair in named}
    source = voxceleb1(tmp_path / "voxceleb1")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    listing = read_dataset("audiofolder", source)
    assert next(iter(listing.label_sets)) == "speaker"
    assert Counter(entry.labels["speaker"][0] for entry in listing.entries) == {"id10001": 2, "id10002": 1, "id10270": 1, "id10271": 1}
    assert {entry.name: entry.group for entry in listing.entries} == {
        entry.name: entry.group for entry in read_dataset("voxceleb1", source).entries
    }
