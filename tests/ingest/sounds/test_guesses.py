"""What readers guess of strangers' folders and tables: the right classes, said in a line, and what a study may say in place of the guess."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from ingest.sounds.listing import Listing, Reading
from ingest.sounds.readers import read_dataset
from ingest.stages.clips import content_sha256, ingest_clips
from ingest.study import make_study
from warehouse import store
from warehouse.store import UserError


def sounds(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(800, 0.1), 8000, format="WAV")
    return folder


def table(folder: Path, text: str, count: int, ending: str = "csv") -> Path:
    (sounds(folder, *(f"{i}.wav" for i in range(count))) / f"metadata.{ending}").write_text(text, encoding="utf-8")
    return folder


def classes(listing: Listing) -> dict[str, tuple[str, ...]]:
    """Classes of the first label set by file."""
    first = next(iter(listing.label_sets), "")
    return {entry.name: entry.labels.get(first, ()) for entry in listing.entries}


# Folders


@pytest.mark.parametrize("parts", [("train", "test"), ("Training", "Validation"), ("dev_set", "eval_set"), ("train",)])
def test_folders_of_splits_are_no_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    listing = read_dataset("folder", sounds(tmp_path, *(f"{part}/{class_}/a.wav" for part in parts for class_ in ("dog", "cat"))))
    assert listing.label_sets == {"class": ["cat", "dog"]}
    (note,) = listing.notes
    assert note.startswith(f"folders {', '.join(sorted(parts))} are taken for splits of the data set: the folders in them are the classes")
    as_said = read_dataset("folder", tmp_path, reading=Reading(splits=False))
    assert (as_said.label_sets, as_said.notes) == ({"class": sorted(parts)}, ())


def test_folders_of_folds_are_folds(tmp_path: Path) -> None:
    listing = read_dataset("folder", sounds(tmp_path, *(f"audio/fold{i}/{i}.wav" for i in (1, 2, 10))))
    assert listing.label_sets == {}
    assert [entry.fold for entry in listing.entries] == [1, 10, 2]
    assert "so that no clip has a class" in listing.notes[0]
    listing = read_dataset("folder", sounds(tmp_path / "two", "fold1/dog/a.wav", "fold2/cat/a.wav"))
    assert [(entry.fold, entry.labels) for entry in listing.entries] == [(1, {"class": ("dog",)}), (2, {"class": ("cat",)})]


def test_classes_that_are_called_like_a_split_stay_classes(tmp_path: Path) -> None:
    for place, names in {"a": ("train/a.wav", "car/a.wav"), "b": ("train/a.wav",), "c": ("dog/train/a.wav", "dog/test/a.wav")}.items():
        listing = read_dataset("folder", sounds(tmp_path / place, *names))
        assert (listing.label_sets, listing.notes) == ({"class": sorted({name.split("/")[0] for name in names})}, ())


def test_the_only_folder_of_sounds_is_no_class(tmp_path: Path) -> None:
    listing = read_dataset("folder", sounds(tmp_path, "audio/dog/a.wav", "audio/cat/a.wav"))
    assert listing.label_sets == {"class": ["cat", "dog"]}
    assert listing.notes == ("the classes are the folders in audio, the only one; `splits = false` in the study makes it the class",)


def test_files_of_other_endings_are_read_by_their_beginning_or_told_of(tmp_path: Path) -> None:
    sounds(tmp_path, "dog/a.wav", "dog/0a1b2c3d", "dog/b.PART")
    soundfile.write(tmp_path / "dog" / "c.sph", np.full(800, 0.1), 8000, format="NIST")
    for name, content in {
        "x.webm": b"\x1a\x45\xdf\xa3",
        "x.xyz": b"?",
        "y.xyz": b"?",
        "noending": b"?",
        "notes.txt": b"?",
        "README": b"?",
    }.items():
        (tmp_path / "dog" / name).write_bytes(content)
    listing = read_dataset("folder", tmp_path)
    assert [entry.name for entry in listing.entries] == [f"dog/{name}" for name in ("0a1b2c3d", "a.wav", "b.PART", "c.sph", "x.webm")]
    assert listing.notes == ("left out: 3 files that neither end nor begin like sounds (2 .xyz, 1 without ending)",)


def test_links_into_the_data_sets_own_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = sounds(tmp_path / "hub" / "blobs", "00ff"), tmp_path / "hub" / "snapshots" / "0123"
    annexed = sounds(tmp_path / "annexed" / ".git" / "annex" / "objects", "k")
    elsewhere = sounds(tmp_path / "elsewhere", "a.wav")
    for link, target in {
        snapshot / "audio" / "0.wav": blobs / "00ff",
        snapshot / "audio" / "1.wav": elsewhere / "a.wav",
        tmp_path / "annexed" / "set" / "dog" / "0.wav": annexed / "k",
    }.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    (blobs / "11").write_text("file_name,label\naudio/0.wav,dog\naudio/1.wav,cat\n")
    (snapshot / "metadata.csv").symlink_to(blobs / "11")
    listing = read_dataset("audiofolder", snapshot)
    assert classes(listing) == {"audio/0.wav": ("dog",)}
    store.create(tmp_path / "w.duckdb")
    ingest_clips(tmp_path / "w.duckdb", listing)
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        assert con.execute("SELECT item, reason FROM failure").fetchall() == [
            ("metadata.csv line 3: audio/1.wav", "a symbolic link that leads out of the data set's folder; copy the files there (cp -rL)")
        ]
    assert classes(read_dataset("folder", tmp_path / "annexed" / "set")) == {"dog/0.wav": ("dog",)}


# Cells


CELLS = {
    "FSD50K": ('"Dog,Bark"', "Dog", '"Bark,Wind"', "Wind"),
    "spaces": ('"Dog, Bark"', "Dog", '"Bark, Wind"', '"Wind, Dog"'),
    "semicolons": ("Dog;Bark", "Dog", "Bark;Wind", "Wind"),
    "bars": ("Dog | Bark", "Dog", "Bark | Wind", "Dog | Wind"),
    "Python": ("\"['Dog', 'Bark']\"", "['Dog']", "\"['Bark', 'Wind']\"", "['Wind']"),
    "numpy": ("['Dog' 'Bark']", "['Dog']", "['Bark' 'Wind']", "['Wind']"),
    "JSON": ('"[""Dog"", ""Bark""]"', '"[""Dog""]"', '"[""Bark"", ""Wind""]"', '"[""Wind""]"'),
    "bare": ('"[Dog, Bark]"', "[Dog]", '"[Bark, Wind]"', "[Wind]"),
}


@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
def test_cells_that_hold_several_labels(tmp_path: Path, cells: tuple[str, ...]) -> None:
    text = "file_name,labels\n" + "".join(f"{i}.wav,{cell}\n" for i, cell in enumerate(cells))
    listing = read_dataset("audiofolder", table(tmp_path, text, 4))
    assert listing.label_sets == {"labels": ["Bark", "Dog", "Wind"]}
    assert classes(listing)["0.wav"] == ("Dog", "Bark")
    assert len(listing.notes) == 1
    whole = read_dataset("audiofolder", tmp_path, reading=Reading(separator=""))
    assert (len(whole.label_sets["labels"]), whole.notes) == (4, ())


def test_names_that_hold_a_comma_are_taken_whole_and_said_to_be(tmp_path: Path) -> None:
    names = ["guitar, acoustic", "guitar, electric", "bass, acoustic", "bass, electric"]
    listing = read_dataset(
        "audiofolder", table(tmp_path, "file_name,x\n" + "".join(f'{i}.wav,"{name}"\n' for i, name in enumerate(names)), 4)
    )
    assert listing.label_sets == {"x": sorted(names)}
    assert listing.notes == (
        'cells of column x hold ",", such as bass, acoustic, and are taken whole; `separator = ","` in the study parts them',
    )
    parted = read_dataset("audiofolder", tmp_path, reading=Reading(separator=","))
    assert parted.label_sets == {"x": ["acoustic", "bass", "electric", "guitar"]}
    numbers = read_dataset("audiofolder", table(tmp_path / "n", 'file_name,x\n0.wav,"1,5"\n1.wav,"2,5"\n', 2))
    assert (numbers.label_sets, numbers.notes) == ({"x": ["1,5", "2,5"]}, ())


# Columns


def test_what_numbers_times_or_describes_the_sounds_is_no_label_set(tmp_path: Path) -> None:
    rows = [f"{i},{i}.wav,{i / 7:.3f},what was said {i},id{i},{'dog' if i % 2 else 'cat'},{i % 3}" for i in range(24)]
    text = "Unnamed: 0,file_name,duration_s,transcription,clip_number,class,speaker\n" + "\n".join(rows)
    listing = read_dataset("audiofolder", table(tmp_path, text, 24))
    assert listing.label_sets == {"class": ["cat", "dog"], "speaker": ["0", "1", "2"]}
    assert listing.notes == (
        "columns Unnamed: 0, duration_s, transcription, clip_number are taken for no labels (numbers of rows, times, free text); "
        "`labels` in the study says otherwise",
    )
    said = read_dataset("audiofolder", tmp_path, reading=Reading(labels=("speaker", "transcription")))
    assert (list(said.label_sets), said.notes) == (["speaker", "transcription"], ())
    with pytest.raises(UserError, match="labels names column spaeker, which is not there, only Unnamed: 0, "):
        read_dataset("audiofolder", tmp_path, reading=Reading(labels=("spaeker",)))


def test_settings_that_a_reader_does_not_heed_are_refused(tmp_path: Path) -> None:
    sounds(tmp_path, "a/1.wav", "b/2.wav")
    for reading in (Reading(labels=("nosuch",)), Reading(separator=",")):
        with pytest.raises(UserError, match="reader folder takes no labels or separator"):
            read_dataset("folder", tmp_path, reading=reading)
    assert read_dataset("folder", tmp_path, reading=Reading(labels=("class",), separator="")).label_sets == {"class": ["a", "b"]}


def test_columns_of_labels_stay_as_they_were_and_so_does_the_content(tmp_path: Path) -> None:
    text = "speaker,file_name,digit,note,sentence\nann,0.wav,10,C,x\nbob,1.wav,9,D,x\n"
    listing = read_dataset("audiofolder", table(tmp_path, text, 2))
    assert (list(listing.label_sets), listing.notes) == (["speaker", "digit", "note", "sentence"], ())
    assert content_sha256(listing, {"0.wav": "0", "1.wav": "1"}) == "e024fa53f118462198dccf5d3410e857d7c95c94dfd4dab8717d76cf21d9a9d6"


# Tables


def test_metadata_in_each_split_is_read_as_one_data_set(tmp_path: Path) -> None:
    for part, label in {"train": "dog", "test": "cat"}.items():
        table(tmp_path / part, f"file_name,label\n0.wav,{label}\n../x.wav,{label}\n/1.wav,{label}\n", 2)
    listing = read_dataset("audiofolder", tmp_path)
    assert classes(listing) == {"test/0.wav": ("cat",), "train/0.wav": ("dog",)}
    assert listing.notes == ("metadata in each of test, train, read as one data set",)
    assert [rejected.item for rejected in listing.rejected] == [
        f"{part}/metadata.csv line {line}: {file}" for part in ("test", "train") for line, file in ((3, "../x.wav"), (4, "/1.wav"))
    ]


def test_metadata_as_parquet(tmp_path: Path) -> None:
    sounds(tmp_path, "0.wav", "1.wav", "2.wav")
    frame = pl.DataFrame(
        {"file_name": ["0.wav", "1.wav"], "label": [["dog", "wind"], ["cat"]], "n": [1, None], "audio": [{"bytes": b"x"}] * 2}
    )
    frame.write_parquet(tmp_path / "metadata.parquet")
    listing = read_dataset("audiofolder", tmp_path)
    assert listing.label_sets == {"label": ["cat", "dog", "wind"], "n": ["1"]}
    assert classes(listing) == {"0.wav": ("dog", "wind"), "1.wav": ("cat",)}
    assert listing.notes == ("left out: 1 sound files that the metadata does not list",)
    for content, reason in {b"PAR1 no PAR1": "is not Parquet that can be read", b"": "is not Parquet that can be read"}.items():
        (tmp_path / "metadata.parquet").write_bytes(content)
        with pytest.raises(UserError, match=reason) as caught:
            read_dataset("audiofolder", tmp_path)
        assert "\n" not in str(caught.value)
    pl.DataFrame({"path": ["0.wav"]}).write_parquet(tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="has no column file_name, only path: add it"):
        read_dataset("audiofolder", tmp_path)


def test_byte_order_marks_anywhere_do_no_harm(tmp_path: Path) -> None:
    listing = read_dataset("audiofolder", table(tmp_path / "csv", "\ufeff\ufefffile_name,label\n0.wav,dog\n\ufeff1.wav,\ufeffdog\n", 2))
    assert classes(listing) == {"0.wav": ("dog",), "1.wav": ("dog",)}
    lines = (
        "\ufeff"
        + json.dumps({"file_name": "0.wav", "label": "\ufeffdog"})
        + "\n\ufeff"
        + json.dumps({"file_name": "1.wav", "label": "dog"})
    )
    assert classes(read_dataset("audiofolder", table(tmp_path / "lines", lines, 2, "jsonl"))) == {"0.wav": ("dog",), "1.wav": ("dog",)}


def test_a_study_says_how_to_read(tmp_path: Path) -> None:
    said = {"reader": "audiofolder", "source": "s", "labels": ["a", "b"], "separator": ";", "splits": False}
    (choice,) = make_study({"dataset": [said]}, "study.toml").dataset
    assert choice.reading == Reading(("a", "b"), ";", False)
    with pytest.raises(
        UserError, match="reader esc50 takes no labels, separator or splits: only folder, audiofolder, parquet, webdataset guess these"
    ):
        read_dataset("esc50", tmp_path, reading=choice.reading)
