"""Readers of the probing sets on miniatures in their official layouts, balanced draws and grouped folds."""

import json
import os
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pytest
import soundfile

from ingest.sounds.draws import balance, draw, grouped_folds
from ingest.sounds.listing import Entry, Listing
from ingest.sounds.notes import NOTES
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import decode
from ingest.sounds.task_sets import GENRES, WORDS
from ingest.stages.clips import ingest_clips
from warehouse import store
from warehouse.store import UserError

READERS = ("nsynth", "medley-solos-db", "gtzan", "pcvc", "speech-commands", "libricount")


def sound(path: Path, seconds: float = 0.05, rate_hz: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)
    soundfile.write(path, wave, rate_hz, format="AU" if path.suffix == ".au" else "WAV")


def reasons(listing: Listing) -> dict[str, str]:
    items = {rejected.item: rejected.reason for rejected in listing.rejected}
    assert len(items) == len(listing.rejected)
    assert not any("\n" in text for pair in items.items() for text in pair)
    return items


def summary(listing: Listing) -> dict[str, tuple[dict[str, tuple[str, ...]], str | None]]:
    return {entry.name: (entry.labels, entry.group) for entry in listing.entries}


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path: Path, reader: str) -> None:
    sound(tmp_path / "dogs" / "bark.wav")
    (tmp_path / "read.me").write_text("no data set")
    with pytest.raises(UserError, match=f"holds no .*reader {reader} needs") as caught:
        read_dataset(reader, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not exist: give the folder that holds the sounds"):
        read_dataset(reader, tmp_path / "gone")
    assert sorted(os.listdir(tmp_path)) == ["dogs", "read.me"]


# NSynth


def nsynth(folder: Path, pitches: dict[str, int], **extra: object) -> Path:
    notes: dict[str, object] = {}
    for name, pitch in pitches.items():
        instrument = name.rsplit("-", 2)[0]
        family = instrument.split("_")[0]
        notes[name] = {
            "note": 7, "note_str": name, "instrument": 3, "instrument_str": instrument, "pitch": pitch, "velocity": 100, "sample_rate": 16000,
            "qualities": [0] * 10, "qualities_str": ["dark"], "instrument_family": 0, "instrument_family_str": family, "instrument_source": 0,
            "instrument_source_str": "acoustic",
        }  # fmt: skip
        sound(folder / "audio" / f"{name}.wav")
    (folder / "examples.json").write_text(json.dumps(notes | extra))
    return folder


def test_nsynth_labels_and_groups_of_two_splits(tmp_path: Path) -> None:
    nsynth(
        tmp_path / "nsynth-test",
        {"bass_synthetic_068-049-025": 49, "keyboard_electronic_001-021-127": 21, "guitar_acoustic_010-060-075": 60},
    )
    nsynth(tmp_path / "nsynth-valid", {"bass_synthetic_033-009-025": 9})
    listing = read_dataset("nsynth", tmp_path)
    assert (listing.name, listing.reader, listing.rejected) == ("nsynth", "nsynth", [])
    assert list(listing.label_sets.items()) == [
        ("note", ["C", "C#", "A"]),
        ("octave", ["-1", "0", "3", "4"]),
        ("instrument_family", ["bass", "guitar", "keyboard"]),
    ]
    assert summary(listing) == {
        "nsynth-valid/audio/bass_synthetic_033-009-025.wav": (
            {"note": ("A",), "octave": ("-1",), "instrument_family": ("bass",)},
            "bass_synthetic_033",
        ),
        "nsynth-test/audio/bass_synthetic_068-049-025.wav": (
            {"note": ("C#",), "octave": ("3",), "instrument_family": ("bass",)},
            "bass_synthetic_068",
        ),
        "nsynth-test/audio/keyboard_electronic_001-021-127.wav": (
            {"note": ("A",), "octave": ("0",), "instrument_family": ("keyboard",)},
            "keyboard_electronic_001",
        ),
        "nsynth-test/audio/guitar_acoustic_010-060-075.wav": (
            {"note": ("C",), "octave": ("4",), "instrument_family": ("guitar",)},
            "guitar_acoustic_010",
        ),
    }
    assert all(entry.fold is None and entry.path == tmp_path / entry.name for entry in listing.entries)
    one = read_dataset("nsynth", tmp_path / "nsynth-test", "test")
    assert (one.name, len(one.entries), one.entries[0].name) == ("test", 3, "audio/bass_synthetic_068-049-025.wav")


def test_nsynth_bad_notes_are_rejected_and_the_rest_is_kept(tmp_path: Path) -> None:
    sound(tmp_path / "outside.wav")
    extra = {"../../outside": {"pitch": 60}, "gone": {"pitch": 60}, "loud": {"pitch": 128}, "odd": {"pitch": True}, "text": "x", "none": {}}
    listing = read_dataset("nsynth", nsynth(tmp_path / "set" / "nsynth-test", {"bass_synthetic_068-049-025": 49}, **extra).parent)
    assert [entry.name for entry in listing.entries] == ["nsynth-test/audio/bass_synthetic_068-049-025.wav"]
    no_pitch = "has no MIDI pitch from 0 to 127 in examples.json"
    assert reasons(listing) == {
        "nsynth-test/audio/../../outside.wav": "not the name of an NSynth note",
        "nsynth-test/audio/gone.wav": "file not found",
        **{f"nsynth-test/audio/{name}.wav": no_pitch for name in ("loud", "odd", "text", "none")},
    }


@pytest.mark.parametrize(
    ("text", "problem"), [("{", "is not JSON"), ("[1]", "lists no notes"), ("{}", "lists no notes"), ("[" * 99_999, "is not JSON")]
)
def test_nsynth_table_that_cannot_be_used(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "examples.json").write_text(text)
    with pytest.raises(UserError, match=problem):
        read_dataset("nsynth", tmp_path)


# Medley-solos-DB

MEDLEY = (
    "subset,instrument,instrument_id,song_id,uuid4\n"
    "training,clarinet,0,0,0b1c\n"
    "test,violin,7,201,9f4e\n"
    "test,tenor saxophone,5,190,77aa\n"
    "validation,violin,7,201,abcd\n"
    "test,piano,4,12,gone\n"
)


@pytest.mark.parametrize("folder", ["", "audio"])
@pytest.mark.parametrize("ending", [".wav", ".wav.wav"])
def test_medley_solos_db_without_its_saxophone(tmp_path: Path, folder: str, ending: str) -> None:
    (tmp_path / "Medley-solos-DB_metadata.csv").write_text(MEDLEY)
    for stem in ("training-0_0b1c", "test-7_9f4e", "test-5_77aa", "validation-7_abcd"):
        sound(tmp_path / folder / f"Medley-solos-DB_{stem}{ending}")
    listing = read_dataset("medley-solos-db", tmp_path)
    prefix = f"{folder}/" if folder else ""
    assert summary(listing) == {
        f"{prefix}Medley-solos-DB_training-0_0b1c{ending}": ({"instrument": ("clarinet",)}, "0"),
        f"{prefix}Medley-solos-DB_test-7_9f4e{ending}": ({"instrument": ("violin",)}, "201"),
        f"{prefix}Medley-solos-DB_validation-7_abcd{ending}": ({"instrument": ("violin",)}, "201"),
    }
    assert listing.label_sets == {"instrument": ["clarinet", "violin"]}
    assert reasons(listing) == {"Medley-solos-DB_metadata.csv line 6: Medley-solos-DB_test-4_gone.wav": "file not found"}


# GTZAN


def gtzan(folder: Path, clips: int = 2, ending: str = "wav") -> Path:
    for genre in GENRES:
        for i in range(clips):
            sound(folder / genre / f"{genre}.{i:05}.{ending}")
    return folder.parent


@pytest.mark.parametrize(("folder", "ending"), [("genres_original", "wav"), ("genres", "au")])
def test_gtzan_genres(tmp_path: Path, folder: str, ending: str) -> None:
    source = gtzan(tmp_path / folder, ending=ending)
    (tmp_path / folder / "jazz" / "._jazz.00000.wav").write_text("left by an archiver")
    listing = read_dataset("gtzan", source)
    assert listing.label_sets == {"genre": list(GENRES)}
    assert (len(listing.entries), listing.rejected, listing.license) == (20, [], None)
    assert summary(listing)[f"{folder}/jazz/jazz.00001.{ending}"] == ({"genre": ("jazz",)}, None)
    assert len(read_dataset("gtzan", source / folder).entries) == 20


def test_the_damaged_clip_of_gtzan_becomes_a_failure_row(tmp_path: Path) -> None:
    source = gtzan(tmp_path / "gtzan" / "genres_original", clips=1)
    (source / "genres_original" / "jazz" / "jazz.00054.wav").write_bytes(b"\x80\0\0\0 no RIFF header" * 100)
    warehouse = tmp_path / "w.duckdb"
    listing = read_dataset("gtzan", source)
    assert (len(listing.entries), listing.rejected) == (11, [])
    with store.writer(warehouse):
        outcome = ingest_clips(warehouse, listing)
    assert (outcome.worked, outcome.failures) == (11, 1)
    with duckdb.connect(str(warehouse), read_only=True) as con:
        ((item, reason),) = con.execute("SELECT item, reason FROM failure").fetchall()
        assert con.execute("SELECT count(*) FROM clip").fetchone() == (10,)
    assert item == "genres_original/jazz/jazz.00054.wav"
    assert reason.startswith("not audio that libsndfile can read")


# PCVC


def pcvc(folder: Path, *speakers: str, samples: int = 480) -> dict[str, np.ndarray]:
    """Speakers' files as the authors write them: array `aud` of 1 x 23 x 6 x samples."""
    io = pytest.importorskip("scipy.io")
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    arrays = {speaker: chance.uniform(-0.5, 0.5, (1, 23, 6, samples)) for speaker in speakers}
    for speaker, array in arrays.items():
        io.savemat(folder / f"{speaker}.mat", {"aud": array}, do_compression=True)
    return arrays


@pytest.mark.parametrize("folder", ["", "Samples"])
def test_pcvc_sounds_labels_and_speakers(tmp_path: Path, folder: str) -> None:
    arrays = pcvc(tmp_path / folder, "S1", "S2")
    listing = read_dataset("pcvc", tmp_path)
    assert (listing.name, len(listing.entries), listing.rejected) == ("pcvc", 2 * 23 * 6, [])
    assert listing.label_sets == {"consonant": [str(i) for i in range(1, 24)], "vowel": [str(i) for i in range(1, 7)]}
    assert list(listing.label_sets) == ["consonant", "vowel"]
    assert Counter(entry.group for entry in listing.entries) == {"S1": 138, "S2": 138}
    assert set(Counter(entry.labels["consonant"] for entry in listing.entries).values()) == {12}
    entry = next(entry for entry in listing.entries if entry.name == "clips/S2/23-4.wav")
    assert (entry.labels, entry.group) == ({"consonant": ("23",), "vowel": ("4",)}, "S2")
    mono, rate_hz, channels = decode(entry.path)
    assert (rate_hz, channels) == (48_000, 1)
    assert np.array_equal(mono, arrays["S2"][0, 22, 3].astype(np.float32))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    assert read_dataset("pcvc", tmp_path) == listing
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")} == written


def test_pcvc_follows_a_changed_file_and_names_of_phonemes(tmp_path: Path) -> None:
    pcvc(tmp_path, "S1")
    read_dataset("pcvc", tmp_path)
    array = np.full((23, 6, 100), 16384, dtype=np.int16)  # integers are brought to full scale 1
    pytest.importorskip("scipy.io").savemat(tmp_path / "S1.mat", {"aud": array})
    consonants = ["ʔ", *"bptsʤʧhxdzrʒʃɣfkglmnvj"]
    (tmp_path / "phonemes.txt").write_text(" ".join(consonants) + "\næ e o ɒ i u\n", encoding="utf-8")
    listing = read_dataset("pcvc", tmp_path)
    assert listing.label_sets == {"consonant": consonants, "vowel": ["æ", "e", "o", "ɒ", "i", "u"]}
    mono, _, _ = decode(listing.entries[7].path)
    assert listing.entries[7].labels == {"consonant": ("b",), "vowel": ("e",)}
    assert mono == pytest.approx(np.full(100, 0.5), abs=1e-4)
    (tmp_path / "phonemes.txt").write_text("b p t")
    with pytest.raises(UserError, match="must hold 23 different consonants and then 6 different vowels"):
        read_dataset("pcvc", tmp_path)


def test_pcvc_files_that_hold_something_else_are_rejected(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    pcvc(tmp_path, "S1")
    io.savemat(tmp_path / "flat.mat", {"aud": np.zeros(1000)})
    io.savemat(tmp_path / "two.mat", {"a": np.zeros((23, 6, 9)), "b": np.zeros((23, 6, 9))})
    (tmp_path / "text.mat").write_text("not MATLAB's " * 30)
    (tmp_path / "cut.mat").write_bytes((tmp_path / "S1.mat").read_bytes()[:5000])
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    listing = read_dataset("pcvc", tmp_path)
    assert {entry.group for entry in listing.entries} == {"S1"}
    found = reasons(listing)
    assert found.keys() == {"flat.mat", "two.mat", "text.mat", "cut.mat", "new.mat"}
    assert found["flat.mat"] == found["two.mat"] == "not a speaker's sounds: holds no single array of 23 consonants x 6 vowels x samples"
    assert "save it again with -v7" in found["new.mat"]
    assert all(found[name].startswith("not a speaker's sounds: scipy cannot read it") for name in ("text.mat", "cut.mat"))
    assert os.listdir(tmp_path / "clips") == ["S1"]


# Speech Commands


def speech_commands(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    for i, word in enumerate(words):
        for speaker in ("0a7c2a8d", f"{i:08x}"):
            for take in range(2):
                sound(folder / word / f"{speaker}_nohash_{take}.wav")
    sound(folder / "_background_noise_" / "running_tap.wav")
    (folder / "testing_list.txt").write_text("yes/0a7c2a8d_nohash_0.wav\n")
    return folder


def test_speech_commands_words_and_speakers(tmp_path: Path) -> None:
    source = speech_commands(tmp_path)
    sound(source / "yes" / "copy.wav")
    listing = read_dataset("speech-commands", source)
    assert len(WORDS) == 35
    assert listing.label_sets == {"word": sorted(WORDS)}
    assert set(Counter(entry.labels["word"] for entry in listing.entries).values()) == {4}
    assert len(listing.entries) == 35 * 4
    assert summary(listing)["yes/0a7c2a8d_nohash_1.wav"] == ({"word": ("yes",)}, "0a7c2a8d")
    assert reasons(listing) == {"yes/copy.wav": "the name is not SPEAKER_nohash_NUMBER.wav"}


# LibriCount


@pytest.mark.parametrize("folder", ["", "test"])
def test_libricount_counts(tmp_path: Path, folder: str) -> None:
    for count in range(11):
        sound(tmp_path / folder / f"{count}_{1000 + count}.wav")
    (tmp_path / folder / "3_1003.json").write_text("{}")
    sound(tmp_path / folder / "11_1.wav")
    listing = read_dataset("libricount", tmp_path)
    assert listing.label_sets == {"speaker_count": [str(count) for count in range(11)]}
    assert (len(listing.entries), listing.rejected) == (11, [])
    assert summary(listing)[f"{folder}/10_1010.wav".lstrip("/")] == ({"speaker_count": ("10",)}, None)


# Balanced draws and grouped folds


def entries(*rows: tuple[str, str | None], copies: int = 1) -> list[Entry]:
    """Entries of (class, group), each `copies` times."""
    return [
        Entry(f"{i}-{copy}.wav", Path("x"), {"class": (class_,)} if class_ else {}, None, group)
        for i, (class_, group) in enumerate(rows)
        for copy in range(copies)
    ]


def test_a_balanced_draw_takes_as_many_of_each_class_and_depends_on_the_seed_alone() -> None:
    found = entries(("dog", None), ("cat", None), ("dog", None), ("", None), ("owl", None), copies=20)
    drawn = balance(found, "class", 10, seed=1)
    assert Counter(entry.labels["class"][0] for entry in drawn) == {"dog": 10, "cat": 10, "owl": 10}
    assert drawn == [entry for entry in found if entry in drawn]  # in the order given
    assert drawn == balance(found, "class", 10, seed=1)
    assert {entry.name for entry in balance(found[::-1], "class", 10, seed=1)} == {entry.name for entry in drawn}
    assert {entry.name for entry in balance(found, "class", 10, seed=2)} != {entry.name for entry in drawn}
    assert [entry.name for entry in balance(entries(("a", None), copies=9), "class", 2, seed=0)] == ["0-5.wav", "0-6.wav"]
    with pytest.raises(UserError, match="per_class is 21, but class cat has only 20 clips: ask for fewer"):
        balance(found, "class", 21)
    with pytest.raises(UserError, match="it must be at least 1"):
        balance(found, "class", 0)


def test_no_group_is_split_across_folds_and_classes_stay_spread() -> None:
    chance = np.random.default_rng(3)
    found = entries(*((f"word{i % 7}", f"speaker{chance.integers(60)}") for i in range(1400)))
    folds = grouped_folds(found, 5, seed=0)
    by_group: dict[str | None, set[int]] = {}
    for entry in found:
        by_group.setdefault(entry.group, set()).add(folds[entry.name])
    assert all(len(where) == 1 for where in by_group.values())
    sizes = Counter(folds.values())
    assert sorted(sizes) == [1, 2, 3, 4, 5]
    assert max(sizes.values()) - min(sizes.values()) < 0.05 * 280
    cells = Counter((entry.labels["class"][0], folds[entry.name]) for entry in found)
    assert len(cells) == 35
    assert 25 < min(cells.values()) <= max(cells.values()) < 55  # 40 each on the average
    assert folds == grouped_folds(found, 5, seed=0)
    assert folds != grouped_folds(found, 5, seed=1)


def test_folds_are_as_stratified_as_scikit_learns() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    ours, theirs = [], []
    for seed in range(8):
        chance = np.random.default_rng(seed)
        found = entries(*((f"instrument{chance.integers(7)}", f"song{chance.integers(90) ** 2 // 100}") for _ in range(965)))
        classes = np.array([entry.labels["class"][0] for entry in found])
        groups = np.array([entry.group for entry in found])
        folds = grouped_folds(found, 5)
        ours.append(spread(classes, np.array([folds[entry.name] - 1 for entry in found])))
        fold_of = np.zeros(len(found), dtype=int)
        for fold, (_, test) in enumerate(selection.StratifiedGroupKFold(5).split(classes, classes, groups)):
            fold_of[test] = fold
        theirs.append(spread(classes, fold_of))
    assert np.mean(ours) < np.mean(theirs) < 0.02


def spread(classes: np.ndarray, fold_of: np.ndarray) -> float:
    """Deviation over five folds of the share of a class's clips, averaged over the classes."""
    shares = [[np.mean(fold_of[classes == class_] == fold) for fold in range(5)] for class_ in np.unique(classes)]
    return float(np.std(shares, axis=1).mean())


def test_clips_without_groups_are_stratified_exactly() -> None:
    found = entries(("a", None), ("b", None), ("", None), copies=20)
    folds = grouped_folds(found, 5)
    assert set(Counter((entry.labels.get("class"), folds[entry.name]) for entry in found).values()) == {4}
    with pytest.raises(UserError, match="folds is 5, but there are only 2 groups that must stay together"):
        grouped_folds(entries(("a", "x"), ("b", "y"), copies=9), 5)
    with pytest.raises(UserError, match="folds is 1, it must be at least 2"):
        grouped_folds(found, 1)


def test_a_draw_is_recorded_and_makes_another_version_of_the_data_set(tmp_path: Path) -> None:
    listing = read_dataset("speech-commands", speech_commands(tmp_path / "sc", ("yes", "no", "up")))
    assert draw(listing) is listing
    drawn = draw(listing, per_class=3, folds=2, seed=4)
    assert drawn.reader == "speech-commands per_class=3 folds=2 seed=4"
    assert (len(drawn.entries), drawn.label_sets) == (9, listing.label_sets)
    by_group: dict[str | None, set[int | None]] = {}
    for entry in drawn.entries:
        by_group.setdefault(entry.group, set()).add(entry.fold)
    assert all(len(where) == 1 for where in by_group.values())
    assert draw(listing, folds=2).reader == "speech-commands folds=2 seed=0"
    warehouse = tmp_path / "w.duckdb"
    with store.writer(warehouse):
        for found in (listing, drawn, draw(listing, per_class=3, folds=2, seed=4), draw(listing, per_class=3, folds=2, seed=5)):
            ingest_clips(warehouse, found)
    with duckdb.connect(str(warehouse), read_only=True) as con:
        rows = con.execute(
            "SELECT version, reader, count(clip_id) FROM dataset JOIN clip USING (dataset_id) GROUP BY ALL ORDER BY 1"
        ).fetchall()
    assert rows == [
        (1, "speech-commands", 12),
        (2, "speech-commands per_class=3 folds=2 seed=4", 9),
        (3, "speech-commands per_class=3 folds=2 seed=5", 9),
    ]


def test_classes_that_no_longer_occur_are_dropped_and_unlabelled_sets_refused(tmp_path: Path) -> None:
    listing = read_dataset("notes", tmp_path / "notes")
    drawn = draw(listing, per_class=1, seed=1)
    assert drawn.label_sets["note"] == list(NOTES)
    assert set(drawn.label_sets["octave"]) == {class_ for entry in drawn.entries for class_ in entry.labels["octave"]}
    assert {entry.fold for entry in draw(listing, folds=6).entries} == {1, 2, 3, 4, 5, 6}
    sound(tmp_path / "plain" / "a.wav")
    with pytest.raises(UserError, match="data set plain has no labels: nothing to balance"):
        draw(read_dataset("folder", tmp_path / "plain"), per_class=1)
