"""Data sets in containers: Parquet as `datasets` writes it, webdataset's tars, and what is wrong with either."""

import functools
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from ingest.listening.sounds import find_files, read_sounds, reader_of
from ingest.run import run_study
from ingest.sounds.listing import Listing, Reading
from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import SoundError, decode, load, measure_file, read_by_streams, sought_amiss
from ingest.stages.clips import ingest_clips
from ingest.study import make_study
from report.site import build
from tests.small import Silent
from warehouse import containers, store
from warehouse.store import UserError

RATE_HZ = 8000
SPEC = f"{__file__.rpartition('/ingest/')[0]}/small.py:small_network"
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


@functools.cache
def sound(number: int, ending: str = "wav", seconds: float = 0.5) -> bytes:
    """A file with a tone of its own pitch."""
    held = io.BytesIO()
    tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * number) * np.arange(round(RATE_HZ * seconds)) / RATE_HZ)
    soundfile.write(held, tone, RATE_HZ, format=ending.upper(), subtype=FORMATS[ending])
    return held.getvalue()


AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    "audio": {"sampling_rate": RATE_HZ, "_type": "Audio"},
    "label": {"names": ["zebra", "ant", "Beep, bleep"], "_type": "ClassLabel"},
    "text": {"dtype": "string", "_type": "Value"},
    "tags": {"feature": {"names": ["loud", "soft"], "_type": "ClassLabel"}, "_type": "Sequence"},
    "picture": {"_type": "Image"},
}


def parquet(path: Path, rows: list[dict], features: dict | None = FEATURES, group: int = 3) -> Path:
    """Rows in the layout and with the metadata that `datasets` writes."""
    kinds = {"audio": AUDIO, "label": pa.int64(), "text": pa.string(), "tags": pa.list_(pa.int64()), "picture": AUDIO}
    fields = [pa.field(name, kinds.get(name, pa.string())) for name in rows[0]]
    said = {"info": {"features": {name: kind for name, kind in (features or {}).items() if name in rows[0]}}}
    schema = pa.schema(fields, metadata={"huggingface": json.dumps(said)} if features else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


def row(number: int, label: int = 0, data: bytes | None = None, **more: object) -> dict:
    said = {"audio": {"bytes": sound(number) if data is None else data, "path": f"clip{number}.wav"}, "label": label}
    return said | {"text": f"a caption {number}", "tags": [number % 2]} | more


def tar(path: Path, files: list[tuple[str, bytes | str | dict]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, content in files:
            data = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


def sample(number: int, ending: str = "flac", **said: object) -> list[tuple[str, bytes | str | dict]]:
    return [(f"s{number:03}.{ending}", sound(number, ending)), (f"s{number:03}.json", {"animal": f"a{number % 3}", **said})]


def refusal(reader: str, source: Path, reading: Reading = Reading()) -> str:  # noqa: B008  # frozen
    with pytest.raises(UserError) as caught:
        read_dataset(reader, source, reading=reading)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reasons(listing: Listing) -> dict[str, str]:
    return {item.item: item.reason for item in listing.rejected}


def failures(warehouse: Path) -> dict[str, str]:
    with store.connect_readonly(warehouse) as con:
        return dict(con.execute("SELECT item, reason FROM failure").fetchall())


# Parquet


def test_datasets_layout(tmp_path):
    parquet(tmp_path / "data/train-00000-of-00002.parquet", [row(i, i % 3) for i in range(4)])
    parquet(tmp_path / "data/train-00001-of-00002.parquet", [row(i, -1) for i in range(4, 6)])
    parquet(tmp_path / "data/test-00000-of-00001.parquet", [row(i, 1) for i in range(6, 8)])
    listing = read_dataset("parquet", tmp_path, "x")
    assert [entry.name for entry in listing.entries][:3] == [
        "data/test-00000-of-00001.parquet/0/clip6.wav", "data/test-00000-of-00001.parquet/1/clip7.wav",
        "data/train-00000-of-00002.parquet/0/clip0.wav",
    ]  # fmt: skip
    assert listing.label_sets == {"label": ["zebra", "ant", "Beep, bleep"], "tags": ["loud", "soft"]}  # in the order of the feature
    assert [entry.labels.get("label") for entry in listing.entries] == [
        *[("ant",)] * 2, ("zebra",), ("ant",), ("Beep, bleep",), ("zebra",), None, None,
    ]  # fmt: skip
    assert "text" not in listing.label_sets
    assert any("text" in note for note in listing.notes)
    assert any("test, train" in note for note in listing.notes)
    for entry in listing.entries:
        number = int(entry.name.rpartition("clip")[2][0])
        assert containers.opened(entry.path).read() == sound(number)


def test_folds_by_file_name_and_by_column(tmp_path):
    for fold in (1, 2):
        parquet(tmp_path / f"fold{fold}-00000-of-00001.parquet", [row(i, i % 2) for i in range(2)])
    assert [entry.fold for entry in read_dataset("parquet", tmp_path).entries] == [1, 1, 2, 2]
    other = tmp_path / "other"
    parquet(other / "x.parquet", [row(i, fold=str(i), group=f"g{i}") for i in range(2)])
    found = read_dataset("parquet", other).entries
    assert [(entry.fold, entry.group) for entry in found] == [(0, "g0"), (1, "g1")]


def test_any_row_in_any_order_is_its_own(tmp_path):
    path = parquet(tmp_path / "x.parquet", [row(i) for i in range(25)], group=9)
    for number in (24, 0, 17, 18, 3, 3, 9, 8):
        assert containers.opened(path / str(number) / "clip.wav").read() == sound(number)
    assert containers.is_there(path / "24")
    assert not containers.is_there(path / "25")
    assert not containers.is_there(path / "x")
    with pytest.raises(FileNotFoundError):
        containers.opened(path / "25/clip.wav")


def test_rows_are_read_through_in_bounded_memory(tmp_path):
    data = np.random.default_rng(0).bytes(1 << 20)
    table = pa.Table.from_pylist(
        [{"audio": {"bytes": data[i:] + data[:i], "path": None}} for i in range(300)], schema=pa.schema([("audio", AUDIO)])
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=300, use_dictionary=False, write_batch_size=8)
    del table
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    most = 0
    for number in range(300):
        assert containers.opened(tmp_path / "x.parquet" / str(number)).read() == data[number:] + data[:number]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 120 << 20  # of 300 MiB in the group


def test_a_broken_row_is_a_failure_row(tmp_path):
    rows = [row(0), row(1, data=b"no sound at all"), row(2), row(3, label=7), row(4, data=b"")]
    rows.append(row(5) | {"audio": {"bytes": None, "path": "/elsewhere/a.wav"}})
    parquet(tmp_path / "set/train.parquet", rows)
    whole = parquet(tmp_path / "set/more.parquet", [row(6), row(7)])
    (tmp_path / "set/cut.parquet").write_bytes(whole.read_bytes()[:-30])
    with store.writer(tmp_path / "w.duckdb"):
        outcome = ingest_clips(tmp_path / "w.duckdb", read_dataset("parquet", tmp_path / "set"))
    found = failures(tmp_path / "w.duckdb")
    assert outcome.failures == len(found) == 5
    assert found["train.parquet/3/clip3.wav (row 3)"] == "label is 7, and there are 3 classes"
    assert "not audio" in found["train.parquet/1/clip1.wav"]
    assert found["train.parquet/4/clip4.wav"] == "empty file (0 bytes)"
    assert "no bytes, only a path" in found["train.parquet/5/a.wav"]
    assert "not Parquet" in found["cut.parquet"]
    with store.connect_readonly(tmp_path / "w.duckdb") as con:
        assert con.execute("SELECT count(*) FROM clip").fetchall() == [(4,)]


def test_bytes_that_are_damaged_inside_a_file(tmp_path):
    path = parquet(tmp_path / "x.parquet", [row(i) for i in range(6)])
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 300] = b"\xff" * 300
    path.write_bytes(data)
    with pytest.raises(SoundError, match="damaged"):
        measure_file(path / "4/clip4.wav")
    assert measure_file(path / "1/clip1.wav")["duration_s"] == 0.5


def test_which_column_holds_sounds(tmp_path):
    picture = {"picture": {"bytes": b"\x89PNG", "path": "x.png"}}
    first = picture | row(0)
    parquet(tmp_path / "a/x.parquet", [first])
    assert [entry.name for entry in read_dataset("parquet", tmp_path / "a").entries] == ["x.parquet/0/clip0.wav"]
    plain = [{"audio": sound(1), "kind": "dog"}]
    (tmp_path / "b").mkdir()
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "b/x.parquet")
    [entry] = read_dataset("parquet", tmp_path / "b").entries
    assert (entry.name, entry.labels) == ("x.parquet/0", {"kind": ("dog",)})
    assert containers.opened(entry.path).read() == sound(1)
    parquet(tmp_path / "c/x.parquet", [picture])
    assert "no Parquet file has a column of sounds" in refusal("parquet", tmp_path / "c")
    (tmp_path / "d").mkdir()
    assert "no Parquet file is there" in refusal("parquet", tmp_path / "d")
    assert "labels names column nought" in refusal("parquet", tmp_path / "a", Reading(labels=("nought",)))


def test_labels_and_separator_of_a_study(tmp_path):
    parquet(tmp_path / "x.parquet", [row(i, kinds="a/b") for i in range(3)])
    listing = read_dataset("parquet", tmp_path, reading=Reading(("kinds", "text"), "/"))
    assert listing.label_sets == {"kinds": ["a", "b"], "text": ["a caption 0", "a caption 1", "a caption 2"]}


# webdataset


def test_samples_of_tars(tmp_path):
    tar(
        tmp_path / "train-000000.tar",
        [*sample(0), *sample(1, "wav"), ("s002.cls", "4"), ("s002.txt", "a dog"), ("s002.ogg", sound(2, "ogg"))],
    )
    tar(
        tmp_path / "train-000001.tar",
        [("./deep.er/s003.mp3", sound(3, "mp3")), ("./deep.er/s003.seg.json", {"animal": "x"}), ("read.me", "x")],
    )
    listing = read_dataset("webdataset", tmp_path)
    assert [entry.name for entry in listing.entries] == [
        *("train-000000.tar/s000.flac", "train-000000.tar/s001.wav", "train-000000.tar/s002.ogg", "train-000001.tar/deep.er/s003.mp3"),
    ]
    assert [dict(entry.labels) for entry in listing.entries] == [
        *({"animal": ("a0",)}, {"animal": ("a1",)}, {"cls": ("4",), "txt": ("a dog",)}, {"animal": ("x",)}),
    ]
    assert listing.rejected == []
    for number, entry in enumerate(listing.entries):
        plain = tmp_path / f"plain{entry.path.suffix}"
        plain.write_bytes(sound(number, entry.path.suffix[1:]))
        assert store.sha256_file(entry.path) == store.sha256_file(plain)
        assert measure_file(entry.path) == measure_file(plain)
        assert np.array_equal(decode(entry.path, middle_s=0.2)[0], decode(plain, middle_s=0.2)[0])
        assert sought_amiss(entry.path) == sought_amiss(plain)


def test_sounds_that_are_read_by_streams(tmp_path):
    joined = sound(0, "ogg") + sound(1, "ogg")
    piped = bytearray(sound(2))
    piped[40:44] = bytes(4)
    tar(tmp_path / "x.tar", [("a.ogg", joined), ("b.wav", bytes(piped))])
    (tmp_path / "a.ogg").write_bytes(joined)
    (tmp_path / "b.wav").write_bytes(piped)
    for name in ("a.ogg", "b.wav"):
        inside = tmp_path / "x.tar" / name
        assert read_by_streams(inside)
        assert measure_file(inside) == measure_file(tmp_path / name)


def test_nested_members_lists_of_captions_and_columns(tmp_path):
    said = {"text": ["A dog barks"], "original": {"id": 1}, "boxes": [[1, 2]], "tag": ["dog", "bark"], "fold": 2, "group": "r1"}
    tar(tmp_path / "x.tar", [*sample(0, **said), *sample(1, **said | {"text": ["Rain"]})])
    listing = read_dataset("webdataset", tmp_path)
    assert listing.label_sets == {"animal": ["a0", "a1"], "tag": ["bark", "dog"]}
    assert [(entry.fold, entry.group) for entry in listing.entries] == [(2, "r1"), (2, "r1")]
    assert list(read_dataset("webdataset", tmp_path, reading=Reading(("text",))).label_sets) == ["text"]


def test_two_sounds_of_one_key_come_from_one_recording(tmp_path):
    tar(tmp_path / "x.tar", [("a.mix.wav", sound(0)), ("a.voice.wav", sound(1)), ("a.cls", "3"), ("b.wav", sound(2))])
    found = read_dataset("webdataset", tmp_path).entries
    assert [(entry.name, entry.group, dict(entry.labels)) for entry in found] == [
        ("x.tar/a.mix.wav", "x.tar/a", {"cls": ("3",)}), ("x.tar/a.voice.wav", "x.tar/a", {"cls": ("3",)}), ("x.tar/b.wav", None, {}),
    ]  # fmt: skip


def test_two_keys_alike_keep_their_own_labels_and_the_first_sound(tmp_path):
    tar(tmp_path / "x.tar", [("a.wav", sound(0)), ("a.cls", "1"), ("a.wav", sound(1)), ("a.cls", "2"), ("b.wav", sound(2)), ("b.cls", "1")])
    listing = read_dataset("webdataset", tmp_path)
    assert [(entry.name, entry.labels["cls"]) for entry in listing.entries] == [("x.tar/a.wav", ("1",)), ("x.tar/b.wav", ("1",))]
    assert reasons(listing) == {"x.tar/a.wav (member 3)": "already listed in member 1"}
    assert containers.opened(tmp_path / "x.tar/a.wav").read() == sound(0)


def test_broken_members_are_failure_rows(tmp_path):
    files = [*sample(0), ("bad.flac", b"junk" * 50), ("bad.cls", "1"), *sample(1), ("j.wav", sound(3)), ("j.json", "{no"), ("u.wav", sound(4)),
             ("u.txt", b"\xff\xfe\xff")]  # fmt: skip
    path = tar(tmp_path / "set/x.tar", files)
    with tarfile.open(path, "a") as out:
        link = tarfile.TarInfo("link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
    with store.writer(tmp_path / "w.duckdb"):
        ingest_clips(tmp_path / "w.duckdb", read_dataset("webdataset", tmp_path / "set"))
    found = failures(tmp_path / "w.duckdb")
    assert "not audio" in found.pop("x.tar/bad.flac")
    assert found == {
        "x.tar/j.wav (member 7)": "j.json is not JSON that can be read", "x.tar/u.wav (member 9)": "u.txt is no UTF-8",
        "x.tar/link.wav (member 11)": "a link, or no whole file, in the tar: put the file itself there",
    }  # fmt: skip


def test_a_tar_that_is_cut_off_keeps_what_is_whole(tmp_path):
    path = tar(tmp_path / "x.tar", [*sample(0), *sample(1), *sample(2)])
    with tarfile.open(path) as found:
        start = {member.name: member.offset_data for member in found}
    data = path.read_bytes()
    for cut, names, item, reason in (
        (start["s002.flac"] + 100, ["s000", "s001"], "x.tar/s002.flac (member 5)", "the tar is cut off: 100 of the"),
        (start["s001.json"] - 300, ["s000", "s001"], "x.tar", "the tar has no end mark behind byte"),
        (start["s001.flac"] - 512, ["s000"], "x.tar", "the tar has no end mark"),
    ):
        path.write_bytes(data[:cut])
        listing = read_dataset("webdataset", tmp_path)
        assert [entry.name for entry in listing.entries] == [f"x.tar/{name}.flac" for name in names]
        assert reason in reasons(listing)[item]
    damaged = bytearray(data)
    damaged[start["s001.flac"] - 512 : start["s001.flac"]] = b"x" * 512
    path.write_bytes(damaged)
    listing = read_dataset("webdataset", tmp_path)
    assert len(listing.entries) == 1
    assert "damaged at byte" in reasons(listing)["x.tar"]
    path.write_bytes(b"<html>not found</html>" * 100)
    listing = read_dataset("webdataset", tmp_path)
    assert (listing.entries, "is no tar" in reasons(listing)["x.tar"]) == ([], True)


def test_compressed_tars_are_refused(tmp_path):
    plain = tar(tmp_path / "x.tar", sample(0))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as out:
        out.add(plain, "x")
    assert "packed.tar is compressed: no sound in it can be reached without" in refusal("webdataset", tmp_path)
    (tmp_path / "packed.tar").rename(tmp_path / "packed.tar.gz")
    assert "packed.tar.gz is compressed" in refusal("webdataset", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "holds no .tar files" in refusal("webdataset", tmp_path / "empty")


def test_no_way_out_of_a_container(tmp_path):
    (tmp_path / "secret.wav").write_bytes(sound(9))
    tar(tmp_path / "set/x.tar", [("../../secret.wav", sound(0)), ("/etc/a.wav", sound(1))])
    parquet(tmp_path / "set/y.parquet", [row(0) | {"audio": {"bytes": sound(2), "path": "../../secret.wav"}}])
    found = [entry for reader in ("webdataset", "parquet") for entry in read_dataset(reader, tmp_path / "set").entries]
    assert [containers.opened(entry.path).read() for entry in found] == [sound(0), sound(1), sound(2)]
    outside = tar(tmp_path / "outside.tar", sample(0))
    (tmp_path / "set/z.tar").symlink_to(outside)
    assert "symbolic link" in reasons(read_dataset("webdataset", tmp_path / "set"))["z.tar"]


# All that opens sounds


@pytest.fixture(params=["webdataset", "parquet"])
def shards(request, tmp_path):
    if request.param == "parquet":
        parquet(tmp_path / "set/train.parquet", [row(i, i % 2, sound(i, "flac", 1.2)) for i in range(8)])
    else:
        tar(
            tmp_path / "set/train.tar",
            [part for i in range(8) for part in ((f"s{i}.flac", sound(i, "flac", 1.2)), (f"s{i}.cls", str(i % 2)))],
        )
    return request.param, tmp_path / "set"


def test_a_study_a_report_and_a_listener_find_them(shards, tmp_path):
    reader, source = shards
    warehouse, site = tmp_path / "w.duckdb", tmp_path / "site"
    table = {"dataset": [{"reader": reader, "source": str(source)}], "network": [{"name": SPEC}]}
    study = make_study(table | {"stages": ["clips", "activations", "captions", "properties"], "activations": {"device": "cpu"}}, "x")
    assert run_study(warehouse, study, Silent()) == 0
    with store.connect_readonly(warehouse) as con:
        [(count,)] = con.execute("SELECT count(*) FROM caption WHERE text IS NOT NULL").fetchall()
        rows = con.execute("SELECT name, sha256 FROM clip ORDER BY clip_id").fetchall()
    assert count == 8
    assert reader_of(source) == reader
    said: list[str] = []
    files = find_files([source], said.append)
    assert [(file.name, store.sha256_file(file.path)) for file in files] == rows
    heard = read_sounds(files, sample_rate_hz=RATE_HZ, clip_s=1.0, shortest_s=0.1, named=[], say=said.append)
    assert [len(one.samples) for one in heard] == [RATE_HZ] * 8
    assert np.array_equal(heard[3].samples, load(files[3].path, sample_rate_hz=RATE_HZ, clip_s=1.0)[0])
    [alone] = find_files([files[2].path], said.append)
    assert alone.path == files[2].path
    build(warehouse, site)
    assert len(list((site / "audio").glob("*.mp3"))) == 8
    assert len(list((site / "spectrograms").glob("*.png"))) == 8
    # What has gone is said, and found again when it is back.
    shutil.rmtree(site)
    [container] = list(source.iterdir())
    away = tmp_path / container.name
    os.rename(container, away)
    assert build(warehouse, site).missing == 8
    os.rename(away, container)
    assert build(warehouse, site).missing == 0
    assert len(list((site / "audio").glob("*.mp3"))) == 8
