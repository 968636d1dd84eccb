"""Files of which libsndfile by itself reads another length, or another part where it seeks: against a decode of the whole and counted frames."""

import io
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ingest.sounds.readers import read_dataset
from ingest.sounds.sound import SoundError, decode, fit, load, measure_file, read_by_streams
from ingest.sounds.streams import streams
from ingest.stages import clips
from ingest.stages.clips import ingest_clips
from warehouse import store

RATE = 44_100
KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
ID3 = b"ID3\x04\0\0" + bytes([0, 0, 40, 0]) + b"\xff\xfb\x90\xc4" * 1280  # a tag whose picture looks like frames


def noise(seconds: float, rate_hz: int = RATE, seed: int = 0, loud_s: float = 2.0) -> np.ndarray:
    """Noise that is loud first, so that a length guessed from the first frames of a variable bitrate falls short."""
    sound = np.random.default_rng(seed).standard_normal(round(seconds * rate_hz)).clip(-1.9, 1.9)
    sound[: round(loud_s * rate_hz)] *= 0.5
    sound[round(loud_s * rate_hz) :] *= 0.01
    return sound.astype(np.float32)


def encode(sound: np.ndarray, format_: str, subtype: str | None = None, rate_hz: int = RATE, **options: object) -> bytes:
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", rate_hz, 1, subtype, format=format_, **options) as file:
        for start in range(0, len(sound), 50_000):
            file.write(sound[start : start + 50_000])
    return out.getvalue()


def mp3(sound: np.ndarray, mode: str = "VARIABLE", rate_hz: int = RATE) -> bytes:
    return encode(sound, "MP3", None, rate_hz, bitrate_mode=mode, compression_level=0.0)


def frames(content: bytes) -> list[int]:
    """Length in bytes of every frame of an MPEG-1 layer III stream at 44.1 kHz, headers included."""
    place, found = 0, []
    while place + 4 <= len(content):
        found.append(144 * KBPS[content[place + 2] >> 4] * 1000 // RATE + (content[place + 2] >> 1 & 1))
        place += found[-1]
    return found


def piped(content: bytes) -> bytes:
    """The file as an encoder leaves it that cannot go back: without the frame that tells the length."""
    return content[frames(content)[0] :]


def whole(content: bytes) -> np.ndarray:
    """Libsndfile's own decode from the first sample to the last."""
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]


def heard(folder: Path, content: bytes) -> np.ndarray:
    """All samples, once the stage's measurement and a network's window have been seen to agree with them."""
    path = folder / "sound"
    path.write_bytes(content)
    mono, rate_hz, _ = decode(path)
    assert measure_file(path)["duration_s"] == pytest.approx(len(mono) / rate_hz)
    window, expected = (load(path, sample_rate_hz=16_000, clip_s=0.7)[0], fit(mono, rate_hz, sample_rate_hz=16_000, clip_s=0.7)[0])
    np.testing.assert_array_equal(window, expected)
    return mono


def refusal(folder: Path, content: bytes) -> str:
    path = folder / "sound"
    path.write_bytes(content)
    with pytest.raises(SoundError) as caught:
        measure_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# MP3


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize(
    ("before", "after"), [(b"", b""), (ID3, b"TAG" + bytes(125)), (b"", bytes(20_000)), (b"", b"\xff\xfb\xe0\xc4" + bytes(300))]
)
def test_an_mp3_that_does_not_say_its_length_is_heard_to_the_end(tmp_path: Path, mode: str, before: bytes, after: bytes) -> None:
    content = mp3(noise(8), mode)
    sound = heard(tmp_path, before + piped(content) + after)
    assert len(sound) == (len(frames(content)) - 1) * 1152
    known = whole(content)  # the same without the encoder's 576 and the decoder's 529 samples of delay
    np.testing.assert_allclose(sound[1105 : 1105 + len(known) - 3000], known[: len(known) - 3000], atol=1e-3)


def test_an_mp3_that_says_its_length_is_read_as_ever(tmp_path: Path) -> None:
    for content in (mp3(noise(4)), mp3(noise(4), "CONSTANT"), ID3 + mp3(noise(4))):
        np.testing.assert_array_equal(heard(tmp_path, content), whole(content))
        assert streams(tmp_path / "sound") == []


def test_joined_mp3_files_are_one_sound(tmp_path: Path) -> None:
    one, two = mp3(noise(3)), mp3(noise(4, seed=1), "CONSTANT")
    parts = [whole(one), whole(two), whole(one)]
    np.testing.assert_array_equal(heard(tmp_path, one + two + one), np.concatenate(parts))
    np.testing.assert_array_equal(heard(tmp_path, ID3 + one + ID3 + two + b"TAG" + bytes(125)), np.concatenate(parts[:2]))
    for content in (one + piped(two), piped(two) + one):
        assert len(heard(tmp_path, content)) == len(whole(one)) + (len(frames(two)) - 1) * 1152


def test_a_window_of_an_mp3_does_not_depend_on_where_a_decoder_begins(tmp_path: Path) -> None:
    """At 22.05 kHz the frames are so short that libsndfile, which seeks a few frames ahead, misses some of what a frame refers to."""
    content = encode(noise(20, 22_050, loud_s=20), "MP3", None, 22_050)
    mono, path = heard(tmp_path, content), tmp_path / "sound"
    for seconds in np.linspace(0.1, 15, 40):
        part = decode(path, middle_s=seconds)[0]
        np.testing.assert_array_equal(part, mono[(len(mono) - len(part)) // 2 :][: len(part)])


# Formats without exact seeking


@pytest.mark.parametrize(
    ("format_", "subtype"),
    [("WAV", "GSM610"), ("WAV", "G721_32"), ("AU", "G723_24"), ("AIFF", "GSM610"), ("WAV", "IMA_ADPCM"), ("CAF", "ALAC_16"), ("OGG", "OPUS"),
     ("OGG", "VORBIS"), ("XI", "DPCM_16")],
)  # fmt: skip
def test_a_window_is_the_window_of_the_whole_decode(tmp_path: Path, format_: str, subtype: str) -> None:
    content = encode(noise(6, 8000), format_, subtype, 8000)
    np.testing.assert_array_equal(heard(tmp_path, content), whole(content))


# Joined Ogg and FLAC files


@pytest.mark.parametrize(("format_", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16")])
def test_joined_files_are_one_sound(tmp_path: Path, format_: str, subtype: str) -> None:
    one, two = (encode(noise(seconds, 48_000, seed), format_, subtype, 48_000) for seed, seconds in enumerate((3, 4)))
    np.testing.assert_array_equal(heard(tmp_path, one + two), np.concatenate([whole(one), whole(two)]))
    assert len(streams(tmp_path / "sound")) == 2
    (tmp_path / "sound").write_bytes(one)
    assert streams(tmp_path / "sound") == []


def test_joined_files_of_different_rates_are_refused(tmp_path: Path) -> None:
    one, two = (encode(noise(1, rate_hz), "FLAC", None, rate_hz) for rate_hz in (44_100, 22_050))
    assert refusal(tmp_path, one + two) == "joins sounds of 44100 Hz x 1 and 22050 Hz x 1 channels; part them"


# WAV headers


PCM = (noise(1.5, 16_000, loud_s=1.5) * 15_000).astype("<i2").tobytes()
FORM = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)


def wav(data: int, riff: int, behind: bytes = b"", content: bytes = PCM) -> bytes:
    return b"RIFF" + struct.pack("<I", riff) + b"WAVE" + FORM + b"data" + struct.pack("<I", data) + content + behind


@pytest.mark.parametrize(
    "content",
    [wav(0, 0), wav(0, len(PCM) + 36), wav(0xFFFFFFFF, 0xFFFFFFFF),
     b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQI", 28, 0, 0, 0, 0) + FORM + b"data\xff\xff\xff\xff" + PCM],
)  # fmt: skip
def test_a_wav_whose_sizes_were_never_filled_in_is_whole(tmp_path: Path, content: bytes) -> None:
    np.testing.assert_array_equal(heard(tmp_path, content), np.frombuffer(PCM, "<i2") / np.float32(32768))


def test_what_follows_the_sound_does_not_matter_unless_it_is_more_sound(tmp_path: Path) -> None:
    for behind in (b"LIST\4\0\0\0abcd", b"TAG" + bytes(125), bytes(100_000)):
        assert len(heard(tmp_path, wav(len(PCM), len(PCM) + 36, behind))) == len(PCM) // 2
    assert refusal(tmp_path, wav(0, 48 + 408, b"LIST" + struct.pack("<I", 400) + b"abcd" * 100, b"")) == "no samples"
    assert refusal(tmp_path, wav(1000, 1036)) == f"its header says 1000 bytes of sound, but {len(PCM)} follow; encode it again"


def test_other_headers_that_say_there_is_nothing(tmp_path: Path) -> None:
    content = b".snd" + struct.pack(">IIIII", 24, 0, 3, 16_000, 1) + PCM
    assert refusal(tmp_path, content) == f"no samples, its header says, though it has {len(content)} bytes; encode it again"


# Scale


def test_integers_stored_as_floats_are_refused_and_a_little_above_full_scale_is_taken(tmp_path: Path) -> None:
    sound = noise(1, loud_s=1)
    assert refusal(tmp_path, encode(32_768 * sound, "WAV", "FLOAT")).startswith(
        "samples reach 31130 times full scale; if they are integers"
    )
    assert refusal(tmp_path, encode(np.rint(4 * sound), "WAV", "FLOAT")).startswith("samples are integers up to 4 stored as floats")
    for scale in (1.4, 8.0):
        assert np.abs(heard(tmp_path, encode(scale * sound, "WAV", "FLOAT"))).max() == pytest.approx(scale * 0.95, rel=0.01)
    square = np.sign(sound)
    np.testing.assert_array_equal(heard(tmp_path, encode(square, "WAV", "FLOAT")), square)


# What earlier versions brought in


def test_only_what_was_read_otherwise_before_is_said_to_be(tmp_path: Path) -> None:
    steady = mp3(noise(4), "CONSTANT")
    same = [
        steady,
        piped(steady),
        encode(noise(2), "OGG", "VORBIS"),
        encode(noise(2), "FLAC"),
        wav(len(PCM), len(PCM) + 36),
        b"",
        b"no sound",
    ]
    other = [piped(mp3(noise(8))), piped(steady), steady + steady, wav(0, 0), wav(1000, 1036)]
    for content in same + other:
        (tmp_path / "sound").write_bytes(content)
        assert read_by_streams(tmp_path / "sound") == (content in other)
    assert not read_by_streams(tmp_path / "gone")


@pytest.mark.slow
def test_a_warehouse_takes_in_again_what_was_read_otherwise_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.mp3").write_bytes(piped(mp3(noise(8))))
    soundfile.write(tmp_path / "set" / "b.wav", 1000 * noise(1), RATE, subtype="FLOAT")
    listing, warehouse = read_dataset("folder", tmp_path / "set"), tmp_path / "w.duckdb"
    store.create(warehouse)
    assert ingest_clips(warehouse, listing).failures == 1
    for name in ("old", "hot"):
        store.create(tmp_path / f"{name}.duckdb")
    with monkeypatch.context() as before:
        before.setattr("ingest.sounds.sound.streams", lambda path: [])
        before.setattr("ingest.sounds.sound.MAX_SAMPLE", 1e9)
        assert ingest_clips(tmp_path / "old.duckdb", listing).failures == 0
    shutil.rmtree(tmp_path / "old.activations")  # there was no list of them either
    outcomes = [ingest_clips(tmp_path / "old.duckdb", listing) for _ in range(2)]
    assert [(outcome.worked, outcome.failures) for outcome in outcomes] == [(2, 1), (0, 1)]
    assert outcomes[0].run.why == 'not run 1 again: decoding was null, is "whole streams"; the data set\'s content changed'
    (tmp_path / "set" / "a.mp3").unlink()
    listing = read_dataset("folder", tmp_path / "set")
    with monkeypatch.context() as before:
        before.setattr("ingest.sounds.sound.MAX_SAMPLE", 1e9)
        ingest_clips(tmp_path / "hot.duckdb", listing)
    outcomes = [ingest_clips(tmp_path / "hot.duckdb", listing) for _ in range(2)]
    assert [(outcome.worked, outcome.failures) for outcome in outcomes] == [(1, 1), (0, 1)]
    assert outcomes[0].run.why.startswith('not run 1 again: largest_sample was null, is "16 times full scale"')


def test_streams_are_sought_once_for_each_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sounds").mkdir()
    one = encode(noise(1.0), "OGG", "VORBIS")
    for name in "abc":
        (tmp_path / "sounds" / f"{name}.ogg").write_bytes(one)
    sought = []
    monkeypatch.setitem(clips.ASKED, "streams", lambda path: sought.append(path.name) or read_by_streams(path))

    def ingest() -> tuple[int, int]:
        sought.clear()
        outcome = ingest_clips(tmp_path / "w.duckdb", read_dataset("folder", tmp_path / "sounds", "sounds"))
        return outcome.run.run_id, len(sought)

    with store.writer(tmp_path / "w.duckdb"):
        assert [ingest(), ingest()] == [(1, 3), (1, 0)]
        kept = (tmp_path / "sounds" / "b.ogg").stat()
        (tmp_path / "sounds" / "b.ogg").write_bytes(one + one)
        os.utime(tmp_path / "sounds" / "b.ogg", ns=(kept.st_atime_ns, kept.st_mtime_ns))
        assert [ingest(), ingest()] == [(2, 3), (2, 0)]
        (tmp_path / "sounds" / "b.ogg").write_bytes(one)
        assert ingest() == (1, 0)
        for record in (tmp_path / "w.activations").rglob("*.json"):
            record.write_text("{")
        assert [ingest(), ingest()] == [(1, 3), (1, 0)]
