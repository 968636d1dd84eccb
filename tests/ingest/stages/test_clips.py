"""Stage clips: which files are hashed again, and what is read elsewhere."""

import os
import tarfile
import time
from pathlib import Path

import numpy as np
import soundfile

from ingest.language.elsewhere import KILLED, Answers, Elsewhere
from ingest.sounds.readers import read_dataset
from ingest.stages import Here, clips
from ingest.stages.clips import ingest_clips
from ingest.study import make_study
from warehouse import store

LONG_AGO = time.time_ns() - 60 * 10**9


def write(path: Path, level: float, modified_ns: int = LONG_AGO) -> Path:
    """A sound of 0.1 s, as large whatever its level, in the file that there is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        soundfile.write(file, np.full(800, level), 8000, format="WAV", subtype="PCM_16")
    os.utime(path, ns=(modified_ns, modified_ns))
    return path


def hashes(warehouse: Path, source: Path, reader: str = "folder", *, rehash: bool = False) -> dict[str, str]:
    """Ingest, and the hashes of the newest version's clips."""
    with store.writer(warehouse):
        ingest_clips(warehouse, read_dataset(reader, source, "x"), rehash=rehash)
    with store.connect_readonly(warehouse) as con:
        return dict(con.execute("SELECT name, sha256 FROM clip WHERE dataset_id = (SELECT max(dataset_id) FROM dataset)").fetchall())


def kept(warehouse: Path) -> dict[str, str]:
    with store.connect_readonly(warehouse) as con:
        return dict(con.execute("SELECT path, sha256 FROM file_hash").fetchall())


def test_unchanged_files_are_not_hashed_again_unless_asked_for(tmp_path):
    warehouse, source = tmp_path / "w.duckdb", tmp_path / "set"
    one, two = write(source / "a/1.wav", 0.1), write(source / "a/2.wav", 0.2)
    first = hashes(warehouse, source)
    assert kept(warehouse) == {str(one): store.sha256_file(one), str(two): store.sha256_file(two)}
    write(one, 0.3)  # nothing but the content tells
    assert hashes(warehouse, source) == first
    write(two, 0.4, LONG_AGO + 1)  # a nanosecond later
    second = hashes(warehouse, source)
    assert second == first | {"a/2.wav": store.sha256_file(two)}
    assert hashes(warehouse, source, rehash=True) == {"a/1.wav": store.sha256_file(one), "a/2.wav": store.sha256_file(two)}
    assert kept(warehouse)[str(one)] == store.sha256_file(one)


def test_another_file_in_a_file_s_place_is_hashed(tmp_path):
    warehouse, source = tmp_path / "w.duckdb", tmp_path / "set"
    path, other = write(source / "a/1.wav", 0.1), write(tmp_path / "other.wav", 0.2)
    hashes(warehouse, source)
    os.rename(other, path)  # of its size and time
    assert hashes(warehouse, source) == {"a/1.wav": store.sha256_file(path)}


def test_a_file_changed_a_moment_ago_is_hashed_every_time(tmp_path):
    warehouse, source = tmp_path / "w.duckdb", tmp_path / "set"
    now = time.time_ns()
    path = write(source / "a/1.wav", 0.1, now)
    hashes(warehouse, source)
    assert kept(warehouse) == {}
    write(path, 0.2, now)
    assert hashes(warehouse, source) == {"a/1.wav": store.sha256_file(path)}


def test_nothing_is_written_where_nothing_is_new(tmp_path):
    warehouse, source = tmp_path / "w.duckdb", tmp_path / "set"
    write(source / "a/1.wav", 0.1)
    hashes(warehouse, source)
    before = warehouse.stat().st_mtime_ns
    hashes(warehouse, source)
    assert warehouse.stat().st_mtime_ns == before


def test_a_sound_in_a_container_is_as_old_as_that(tmp_path):
    warehouse, source = tmp_path / "w.duckdb", tmp_path / "set"
    source.mkdir()

    def pack(level: float, modified_ns: int) -> Path:
        with tarfile.open(source / "x.tar", "w") as tar:
            tar.add(write(tmp_path / "1.wav", level), "1.wav")
        os.utime(source / "x.tar", ns=(modified_ns, modified_ns))
        return source / "x.tar" / "1.wav"

    sound = pack(0.1, LONG_AGO)
    first = hashes(warehouse, source, "webdataset")
    assert kept(warehouse) == {str(sound): store.sha256_file(sound)} == {str(sound): first["x.tar/1.wav"]}
    pack(0.2, LONG_AGO)
    assert hashes(warehouse, source, "webdataset") == first
    pack(0.2, LONG_AGO + 10**9)
    assert hashes(warehouse, source, "webdataset") == {"x.tar/1.wav": store.sha256_file(sound)} != first


def test_a_study_asks_for_it():
    study = make_study({"dataset": [{"reader": "starter"}], "clips": {"rehash": True}}, "x")
    assert study.of("clips").rehash
    assert make_study({"dataset": [{"reader": "starter"}]}, "x").changed("clips", rehash=True).of("clips").rehash


class BackToFront(Here):
    """Has the last batch done first, and nothing comes of measuring one file."""

    def engine(self, stage, load, engine, method):
        def said(item):
            return None if item[0] == "measured" and item[1].name == "3.wav" else getattr(engine, method)([item])[0]

        def answered(batches):
            for number in reversed(range(len(batches))):
                yield Answers(number, [said(item) for item in batches[number]])

        return Elsewhere(engine, answered)


def test_sounds_read_elsewhere_in_any_order_come_in_as_they_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "BATCH", 2)
    for number in range(7):
        write(tmp_path / "x" / f"{number}.wav", 0.1 + number / 20)
    found = []
    for name, where in (("here", None), ("there", BackToFront())):
        with store.writer(tmp_path / f"{name}.duckdb"):
            outcome = ingest_clips(tmp_path / f"{name}.duckdb", read_dataset("folder", tmp_path / "x", "x"), where=where)
        with store.connect_readonly(tmp_path / f"{name}.duckdb") as con:
            found.append(con.execute("SELECT * EXCLUDE clip_id FROM clip ORDER BY clip_id").fetchall())
            failures = con.execute("SELECT item, reason FROM failure").fetchall()
    assert found[1] == found[0][:3] + found[0][4:]
    assert (outcome.worked, failures) == (7, [("3.wav", KILLED)])
