"""Readers: what they list, and what becomes of metadata that is wrong, hostile or merely odd."""

import json
import os
import subprocess
import sys
import tracemalloc
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ingest.sounds.datasets import ESC50_SUPER_CATEGORIES
from ingest.sounds.listing import Listing
from ingest.sounds.readers import READERS, read_dataset
from ingest.sounds.sound import measure_file
from warehouse.store import UserError

ESC50 = Path(os.environ.get("AURICLE_ESC50") or Path(__file__).parents[3] / "../shared/data/esc50")
needs_esc50 = pytest.mark.skipif(not ESC50.is_dir(), reason="ESC-50 is neither at ../shared/data/esc50 nor at AURICLE_ESC50")


def sounds(folder: Path, *names: str) -> Path:
    """Write a tenth of a second of sound under each name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(800), 8000, format="WAV")
    return folder


def test_every_reader_is_known_by_name_to_a_process_that_asks_for_nothing_else():
    asked = "from ingest.sounds.readers import READERS; print(*READERS)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) >= {"esc50", "notes", "gtzan", "crema-d", "voxceleb1", "voxforge", "gise-51", "surge", "nsynth"}
    assert set(done.stdout.split()) == set(READERS)


def audiofolder(folder: Path, table: str | bytes, *names: str, ending: str = "csv") -> Path:
    (sounds(folder, *names) / f"metadata.{ending}").write_bytes(table.encode() if isinstance(table, str) else table)
    return folder


def esc50(folder: Path, table: str, *names: str) -> Path:
    sounds(folder / "audio", *names)
    (folder / "audio").mkdir(exist_ok=True)
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text(table, encoding="utf-8")
    return folder


def names(listing: Listing) -> list[str]:
    return [entry.name for entry in listing.entries]


def reasons(listing: Listing) -> dict[str, str]:
    items = {rejected.item: rejected.reason for rejected in listing.rejected}
    assert len(items) == len(listing.rejected)
    assert not any("\n" in text for pair in items.items() for text in pair)
    return items


def refusal(reader: str, source: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_dataset(reader, source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


# ESC-50


@needs_esc50
def test_the_real_esc50() -> None:
    listing = read_dataset("esc50", ESC50)
    assert (listing.name, listing.reader, len(listing.entries), listing.rejected) == ("esc50", "esc50", 2000, [])
    assert list(listing.label_sets) == ["category", "super_category"]
    assert listing.label_sets["super_category"] == list(ESC50_SUPER_CATEGORIES)
    assert Counter(entry.labels["super_category"] for entry in listing.entries) == {(name,): 400 for name in ESC50_SUPER_CATEGORIES}
    found = {entry.labels["category"][0]: entry.labels["super_category"][0] for entry in listing.entries}
    assert (found["crow"], found["rain"], found["laughing"], found["clock_tick"], found["siren"]) == ESC50_SUPER_CATEGORIES
    classes = listing.label_sets["category"]
    assert len(classes) == 50
    assert classes[:3] == ["dog", "rooster", "pig"]
    assert classes[-1] == "hand_saw"
    assert Counter(entry.labels["category"] for entry in listing.entries) == {(name,): 40 for name in classes}
    assert Counter(entry.fold for entry in listing.entries) == dict.fromkeys(range(1, 6), 400)
    folds: dict[str | None, set[int | None]] = {}
    for entry in listing.entries:
        folds.setdefault(entry.group, set()).add(entry.fold)
    assert sum(len(found) > 1 for found in folds.values()) == 4
    assert listing.license
    assert "CC BY-NC 3.0" in listing.license
    assert "Piczak" in listing.license


@needs_esc50
def test_every_sound_of_the_real_esc50_decodes() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(measure_file, [entry.path for entry in read_dataset("esc50", ESC50).entries]))
    assert len(found) == 2000
    assert sum(clip["channels"] == 2 for clip in found) == 91
    assert sum(clip["sample_rate_hz"] == 48_000 for clip in found) == 41
    assert sum(abs(clip["duration_s"] - 5) > 0.1 for clip in found) == 5


ESC50_TABLE = "filename,fold,target,category,esc10,src_file,take\n"


def test_esc50_takes_another_ending_and_orders_classes_by_target(tmp_path: Path) -> None:
    table = ESC50_TABLE + "a.wav,1,9,apple,True,17,A\nb.ogg,2,10,zebra,False,18,A\nc.wav,5,2,cat,False,17,B\nd.wav,,,dog,,,\n"
    listing = read_dataset("esc50", esc50(tmp_path, table, "a.ogg", "b.wav", "c.wav", "c.ogg", "d.flac", "d.txt"))
    assert names(listing) == ["a.ogg", "b.wav", "c.wav", "d.flac"]
    assert list(listing.label_sets.items()) == [
        ("category", ["cat", "apple", "zebra", "dog"]),
        ("super_category", ["animals", "natural soundscapes & water sounds"]),
    ]
    assert listing.entries[3].labels == {"category": ("dog",)}
    assert [(entry.fold, entry.group) for entry in listing.entries] == [(1, "17"), (2, "18"), (5, "17"), (None, None)]
    assert listing.entries[0].path == tmp_path / "audio" / "a.ogg"


def test_esc50_bad_rows_are_rejected_and_the_rest_is_kept(tmp_path: Path) -> None:
    rows = [
        "a.wav,6,0,dog",
        "a.wav,one,0,dog",
        "a.wav,1,0,dog",
        "a.ogg,1,0,dog",
        "../b.wav,1,0,dog",
        "b.wav,1,0,dog",
        ",1,0,dog",
        "a.wav,0,0,x",
    ]
    listing = read_dataset("esc50", esc50(tmp_path, "filename,fold,target,category\n" + "\n".join(rows), "a.wav"))
    assert (names(listing), listing.label_sets) == (["a.wav"], {"category": ["dog"], "super_category": ["animals"]})
    assert reasons(listing) == {
        "esc50.csv line 2: a.wav": "fold 6 is none of 1 to 5",
        "esc50.csv line 3: a.wav": "fold one is not a whole number",
        "esc50.csv line 5: a.wav": "already listed in line 4",
        "esc50.csv line 6: ../b.wav": "leads out of the data set's folder",
        "esc50.csv line 7: b.wav": "file not found",
        "esc50.csv line 8": "has no file name",
        "esc50.csv line 9: a.wav": "already listed in line 4",
    }


def test_esc50_without_its_parts(tmp_path: Path) -> None:
    assert "audio is missing: reader esc50 needs meta/esc50.csv and audio/" in refusal("esc50", tmp_path)
    (tmp_path / "audio").mkdir()
    assert refusal("esc50", tmp_path).endswith("esc50.csv does not exist: the reader needs it")
    esc50(tmp_path, "filename,fold,category\na.wav,1,dog\n")
    assert "has no column target, only filename, fold, category: add it" in refusal("esc50", tmp_path)


# Folders


def test_folder_has_one_folder_a_class(tmp_path: Path) -> None:
    sounds(tmp_path, "dog/b.wav", "dog/a.WAV", "cat/deep/er/x.flac", "10/x.wav", "2/x.wav", "top.wav", ".hidden/x.wav", "dog/.x.wav")
    sounds(tmp_path, "__MACOSX/x.wav", "dog/notes.txt", "empty/readme.md")
    listing = read_dataset("folder", tmp_path, "animals")
    assert (names(listing), listing.label_sets) == (
        ["10/x.wav", "2/x.wav", "cat/deep/er/x.flac", "dog/a.WAV", "dog/b.wav", "top.wav"],
        {"class": ["10", "2", "cat", "dog"]},
    )
    assert [entry.labels for entry in listing.entries[2:]] == [{"class": ("cat",)}, {"class": ("dog",)}, {"class": ("dog",)}, {}]
    assert (listing.name, listing.license, listing.rejected) == ("animals", None, [])
    (tmp_path / "link").symlink_to(".")
    through = read_dataset("folder", tmp_path / "link")
    assert (names(through), through.name) == (names(listing), tmp_path.name)


def test_folder_of_files_only_has_no_classes_and_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    listing = read_dataset("folder", sounds(tmp_path, "b.wav", "a.wav"))
    assert (names(listing), listing.label_sets) == (["a.wav", "b.wav"], {})
    assert read_dataset("folder", sounds(tmp_path, "10/x.wav", "9/x.wav", "-1/x.wav")).label_sets == {"class": ["-1", "9", "10"]}


def test_folder_links_and_odd_names(tmp_path: Path) -> None:
    outside = sounds(tmp_path / "outside", "secret.wav")
    source = sounds(tmp_path / "set", "dog/a.wav", "dog/gone.wav", "dog/line\nbreak.wav", "c" * 200 + "/x.wav")
    (source / "dog" / "gone.wav").unlink()
    (source / "dog" / "gone.wav").symlink_to("nowhere.wav")
    (source / "dog" / "inside.wav").symlink_to("a.wav")
    (source / "dog" / "outside.wav").symlink_to(outside / "secret.wav")
    (source / "linked").symlink_to(outside)
    (source / "loop").symlink_to(source)
    (source / "dog" / "folder.wav").mkdir()
    os.mkfifo(source / "dog" / "pipe.wav")
    listing = read_dataset("folder", source)
    assert names(listing) == ["c" * 200 + "/x.wav", "dog/a.wav", "dog/inside.wav"]
    assert reasons(listing) == {
        "dog/gone.wav": "file not found",
        "dog/line\\nbreak.wav": "the file name holds control characters",
        "dog/outside.wav": "a symbolic link that leads out of the data set's folder",
        "dog/pipe.wav": "not a file",
        "linked": "a symbolic link to a folder; give the folder itself",
        "loop": "a symbolic link to a folder; give the folder itself",
    }


def test_folder_name_that_is_not_utf8(tmp_path: Path) -> None:
    sounds(tmp_path, "dog/a.wav")
    try:
        os.rename(tmp_path / "dog" / "a.wav", os.fsencode(tmp_path) + b"/dog/\xff.wav")
    except OSError:
        pytest.skip("this disk takes only valid UTF-8")
    assert reasons(read_dataset("folder", tmp_path)) == {"dog/\\udcff.wav": "the file name is not valid Unicode"}


def test_sources_that_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for reader in ("esc50", "folder", "audiofolder"):
        assert "gone does not exist: give the folder that holds the sounds" in refusal(reader, tmp_path / "gone")
        assert "file is not a folder: give the folder that holds the sounds" in refusal(reader, tmp_path / "file")
    assert "empty holds no sound files" in refusal("folder", tmp_path / "empty")
    assert "holds no metadata.csv, metadata.jsonl or metadata.parquet; for one folder a class use reader folder" in refusal(
        "audiofolder", tmp_path / "empty"
    )
    assert refusal("esc-50", tmp_path) == f"unknown reader esc-50: choose one of {', '.join(READERS)}"


# Audiofolder


def test_audiofolder_columns_are_label_sets_in_their_order(tmp_path: Path) -> None:
    table = 'speaker,file_name,digit,fold,group,note\nann,a.wav,10,1,s1,\nbob,sub/b.wav,9,2.0,,\n,c.wav,,,s2,"hum, low"\n'
    listing = read_dataset("audiofolder", audiofolder(tmp_path, table, "a.wav", "sub/b.wav", "c.wav"))
    assert names(listing) == ["a.wav", "sub/b.wav", "c.wav"]
    assert list(listing.label_sets.items()) == [("speaker", ["ann", "bob"]), ("digit", ["9", "10"]), ("note", ["hum, low"])]
    assert [(entry.fold, entry.group) for entry in listing.entries] == [(1, "s1"), (2, None), (None, "s2")]
    assert listing.entries[0].labels == {"speaker": ("ann",), "digit": ("10",)}
    assert listing.entries[2].labels == {"note": ("hum, low",)}


def test_audiofolder_json_lines(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.wav", "tags": ["dog", "indoor", "dog"], "loud": True, "count": 3, "fold": 1, "group": 7},
        {"file_name": "b.wav", "tags": [], "loud": None, "extra": "é"},
        {"file_name": "c.wav", "count": float("nan"), "tags": "cat"},
    ]
    text = "\n\n".join(json.dumps(row) for row in rows)
    listing = read_dataset("audiofolder", audiofolder(tmp_path, text, "a.wav", "b.wav", "c.wav", ending="jsonl"))
    assert listing.label_sets == {"tags": ["cat", "dog", "indoor"], "loud": ["true"], "count": ["3"], "extra": ["é"]}
    assert listing.entries[0].labels == {"tags": ("dog", "indoor"), "loud": ("true",), "count": ("3",)}
    assert (listing.entries[0].fold, listing.entries[0].group) == (1, "7")
    assert listing.entries[2].labels == {"tags": ("cat",)}
    assert listing.rejected == []


BAD_ROWS = {
    "traversal": ("../outside.wav,dog", "leads out of the data set's folder"),
    "traversal with backslashes": (r"..\outside.wav,dog", "leads out of the data set's folder"),
    "absolute": ("/etc/passwd,dog", "an absolute path; file names are relative to the data set's folder"),
    "absolute on Windows": (r"C:\sounds\a.wav,dog", "an absolute path; file names are relative to the data set's folder"),
    "network share": (r"\\server\share\a.wav,dog", "an absolute path; file names are relative to the data set's folder"),
    "link leading out": ("outside.wav,dog", "a symbolic link that leads out of the data set's folder"),
    "below a linked folder": ("linked/outside.wav,dog", "a symbolic link that leads out of the data set's folder"),
    "folder": ("folder.wav,dog", "not a file"),
    "below a file": ("good.wav/x.wav,dog", "file not found"),
    "missing": ("gone.wav,dog", "file not found"),
    "no name": (",dog", "has no file name"),
    "listed twice": ("good.wav,cat", "already listed in line 2"),
    "listed twice, written otherwise": (".//good.wav,dog", "already listed in line 2"),
    "NUL": ("a\0.wav,dog", "the file name holds control characters"),
    "escape sequence": ("a\x1b[2J.wav,dog", "the file name holds control characters"),
    "line break": ('"a\nb.wav",dog', "the file name holds control characters"),
    "long name": ("n" * 300 + ".wav,dog", "cannot be read: File name too long"),
    "long path": ("n/" * 5000 + ".wav,dog", "cannot be read: File name too long"),
    "long label": ("other.wav," + "d" * 501, "label class has 501 characters; the limit is 500"),
    "control character in a label": ("other.wav,d\x07g", "label class holds control characters"),
    "too many cells": ("other.wav,dog,1,2", "has 4 cells, the header 3"),
    "fold with a fraction": ("other.wav,dog,1.5", "fold 1.5 is not a whole number"),
    "negative fold": ("other.wav,dog,-1", "fold -1 is not a whole number"),
    "huge fold": ("other.wav,dog,99999999999", "fold 99999999999 is not a whole number"),
}


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row_is_rejected_and_the_rest_is_kept(tmp_path: Path, row: str, reason: str) -> None:
    sounds(tmp_path, "outside.wav")
    source = audiofolder(
        tmp_path / "set", f"file_name,class,fold\ngood.wav,dog,1\n{row}\nlast.wav,cat,2\n", "good.wav", "last.wav", "other.wav"
    )
    (source / "outside.wav").symlink_to(tmp_path / "outside.wav")
    (source / "linked").symlink_to(tmp_path)
    (source / "folder.wav").mkdir()
    listing = read_dataset("audiofolder", source)
    assert (names(listing), listing.label_sets) == (["good.wav", "last.wav"], {"class": ["cat", "dog"]})
    ((item, found),) = reasons(listing).items()
    assert found == reason
    line = 4 if "\n" in row else 3
    assert (item.startswith(f"metadata.csv line {line}"), len(item) < 300, item.isprintable()) == (True, True, True)


BAD_LINES = {
    "broken": ('{"file_name": "b.wav", "class": "do', "not JSON: Invalid control character at"),
    "list": ('["b.wav"]', "not a JSON object"),
    "deep": ("[" * 100_000, "not JSON that can be read: a number too long or nested too deep"),
    "long number": (
        '{"file_name": "b.wav", "class": ' + "9" * 5000 + "}",
        "not JSON that can be read: a number too long or nested too deep",
    ),
    "no name": ('{"class": "dog"}', "has no file name"),
    "number for a name": ('{"file_name": 7}', "the file name is not a text"),
    "half a character": (r'{"file_name": "\ud800.wav"}', "the file name is not valid Unicode"),
    "half a character in a label": (r'{"file_name": "b.wav", "class": "\udfff"}', "label class is not valid Unicode"),
    "object for a label": ('{"file_name": "b.wav", "class": {"a": 1}}', "label class is an object, not a text"),
    "nameless label": ('{"file_name": "b.wav", "": "dog"}', "a label set has no name"),
    "fold true": ('{"file_name": "b.wav", "fold": true}', "fold True is not a whole number"),
    "many members": (json.dumps({"file_name": "b.wav"} | {f"x{i}": 1 for i in range(300)}), "has 301 members; the limit is 200"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_bad_json_line_is_rejected_and_the_rest_is_kept(tmp_path: Path, line: str, reason: str) -> None:
    text = f'{{"file_name": "a.wav", "class": "dog"}}\n{line}\n{{"file_name": "c.wav", "class": "cat"}}\n'
    listing = read_dataset("audiofolder", audiofolder(tmp_path, text, "a.wav", "b.wav", "c.wav", ending="jsonl"))
    assert (names(listing), listing.label_sets) == (["a.wav", "c.wav"], {"class": ["cat", "dog"]})
    assert list(reasons(listing).values()) == [reason]


BAD_TABLES = {
    "empty": ("", "lists no files: give it a header with file_name and one row a file"),
    "semicolons": ("file_name;class\na.wav;dog\n", "has no column file_name, only file_name;class: separate them with commas"),
    "two columns of one name": ("file_name,class,class\na.wav,dog,cat\n", "has two columns class: rename one"),
    "Latin-1": ("file_name,class\na.wav,caf\xe9\n".encode("latin-1"), "not UTF-8 text here or soon after: save the file as UTF-8"),
    "UTF-16": ("file_name,class\na.wav,dog\n".encode("utf-16"), "line 1: not UTF-8 text here or soon after"),
    "binary": (bytes(range(256)) * 100, "not UTF-8 text"),
    "unclosed quotation": ('file_name,class\n"a.wav,dog\nb.wav,cat\n', "not proper CSV (unexpected end of data)"),
    "huge field": ("file_name,class\na.wav," + "d" * 900_000, "line 2: not proper CSV (field larger than field limit"),
    "million columns": ("file_name" + ",x" * 500_000 + "\n", "has 500001 columns; the limit is 200"),
    "million columns over many lines": ('"file_name"' + ',"\n"' * 800_000 + "\n", "a row of more than 1048576 characters"),
    "control character in a column": (
        "file_name,cl\x07ss\na.wav,dog\n",
        "line 1: a column name holds control characters: rename the column",
    ),
}


@pytest.mark.parametrize(("table", "reason"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_table_that_cannot_be_used_ends_in_one_line(tmp_path: Path, table: str | bytes, reason: str) -> None:
    source = audiofolder(tmp_path, table, "a.wav", "b.wav")
    tracemalloc.start()
    found = refusal("audiofolder", source)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert reason in found
    assert "metadata.csv" in found


def test_huge_table_is_refused_before_it_is_read(tmp_path: Path) -> None:
    source = audiofolder(tmp_path, "file_name,class\na.wav,dog\n", "a.wav")
    os.truncate(source / "metadata.csv", 600 << 20)  # takes no room on the disk
    assert "has 600 MiB; the limit is 512: split the data set" in refusal("audiofolder", source)


def test_table_with_too_many_lines_is_refused(tmp_path: Path) -> None:
    source = audiofolder(tmp_path, "file_name,class\n" + "\n" * 3_000_000, "a.wav")
    assert "line 3000001: more than 3000000 lines" in refusal("audiofolder", source)


def test_table_that_is_a_folder_a_pipe_or_doubled(tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav")
    (tmp_path / "metadata.csv").mkdir()
    assert "metadata.csv is not a file" in refusal("audiofolder", tmp_path)
    (tmp_path / "metadata.csv").rmdir()
    os.mkfifo(tmp_path / "metadata.csv")
    assert "metadata.csv is not a file" in refusal("audiofolder", tmp_path)
    (tmp_path / "metadata.jsonl").write_text("{}")
    assert "holds both metadata.csv and metadata.jsonl: remove one" in refusal("audiofolder", tmp_path)


def test_json_that_is_no_json_lines(tmp_path: Path) -> None:
    source = audiofolder(tmp_path, json.dumps([{"file_name": "a.wav"}], indent=1), "a.wav", ending="jsonl")
    assert "metadata.jsonl lists no files: write one JSON object with file_name a line" in refusal("audiofolder", source)


def test_json_with_ever_new_members_is_refused(tmp_path: Path) -> None:
    files = [f"{i}.wav" for i in range(202)]
    text = "\n".join(json.dumps({"file_name": name, f"key {name}": "x"}) for name in files)
    assert "has more than 200 label sets" in refusal("audiofolder", audiofolder(tmp_path, text, *files, ending="jsonl"))


def test_all_rows_rejected_is_a_listing_without_entries(tmp_path: Path) -> None:
    listing = read_dataset("audiofolder", audiofolder(tmp_path, "file_name,class\ngone.wav,dog\n"))
    assert (listing.entries, listing.label_sets, len(listing.rejected)) == ([], {}, 1)


def test_spreadsheets_and_pandas_leave_traces_that_do_no_harm(tmp_path: Path) -> None:
    table = "\ufeff,file_name, class \r\n0,a.wav,  <b>dog</b>  \r\n\r\n1,b.wav\r\n2,c.wav,big\tdog,,\r\n3,sub\\d.wav,\r\n"
    listing = read_dataset("audiofolder", audiofolder(tmp_path, table, "a.wav", "b.wav", "c.wav", "sub/d.wav"))
    assert (names(listing), listing.label_sets) == (["a.wav", "b.wav", "c.wav", "sub/d.wav"], {"class": ["<b>dog</b>", "big dog"]})
    assert listing.rejected == []


def test_accents_are_found_by_either_spelling(tmp_path: Path) -> None:
    composed, split = (unicodedata.normalize(form, "ñandú 鳥.wav") for form in ("NFC", "NFD"))
    table = f"file_name,class\n{composed},{unicodedata.normalize('NFD', 'é')}\nsub/{split},é\n"
    listing = read_dataset("audiofolder", audiofolder(tmp_path, table, split, "sub/" + composed))
    assert (listing.label_sets, listing.rejected) == ({"class": ["é"]}, [])
    assert all(entry.path.is_file() and entry.path == tmp_path / entry.name for entry in listing.entries)


def test_starter_is_written_and_read(starter: Path) -> None:
    listing = read_dataset("starter", starter)
    assert (listing.name, listing.reader, len(listing.entries), listing.rejected) == ("starter", "starter", 225, [])
    assert not listing.notes  # nothing of our own is guessed
    assert list(listing.label_sets) == ["class", "octave", "course"]
    assert len(listing.label_sets["class"]) == 15
    assert listing.label_sets["course"] == ["gliding", "repeated", "steady"]
    assert listing.license
    assert listing.license.startswith("CC0")
    assert Counter(entry.fold for entry in listing.entries) == dict.fromkeys(range(1, 6), 45)
