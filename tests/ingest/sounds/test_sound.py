"""Decoding, fitting and measuring, on sounds whose figures follow from theory, and on files that are broken in many ways."""

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ingest.sounds.sound import SoundError, decode, fit, load, measure, measure_file

RATE = 44_100


def sine(frequency_hz: float, seconds: float = 2.0, rate_hz: int = RATE, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def wav(data: bytes, *, rate_hz: int = RATE, channels: int = 1, bits: int = 16, code: int = 1, size: int | None = None) -> bytes:
    """A WAV file made by hand; `size` is what the header promises of the data, code 1 is PCM and 3 is float."""
    block = channels * bits // 8
    form = struct.pack("<IHHIIHH", 16, code, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block, bits)
    size = len(data) if size is None else size
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size) + data


def sparse_wav(path: Path, seconds: float, rate_hz: int, bits: int = 16) -> Path:
    """A long file of digital silence that takes no room on the disk."""
    size = round(seconds * rate_hz) * bits // 8
    head = wav(b"", rate_hz=rate_hz, bits=bits, size=size)
    path.write_bytes(head[:4] + struct.pack("<I", 36 + size) + head[8:])
    os.truncate(path, len(head) + size)
    return path


def encoded(folder: Path, sound: np.ndarray, format_: str, subtype: str | None = None, rate_hz: int = RATE) -> Path:
    path = folder / f"sound.{format_.lower()}"
    soundfile.write(path, sound, rate_hz, format=format_, subtype=subtype)
    return path


def refusal(path: Path) -> str:
    """The reason for which a file is refused, the same by every way in."""
    reasons = set()
    for read in (decode, measure_file, lambda path: load(path, sample_rate_hz=16_000, clip_s=60.0)):
        with pytest.raises(SoundError) as caught:
            read(path)
        reasons.add(str(caught.value))
    (reason,) = reasons
    assert "\n" not in reason
    assert str(path) not in reason
    assert len(reason) < 300
    return reason


# Measurements


@pytest.mark.parametrize(("rate_hz", "frequency_hz"), [(8000, 440.0), (16000, 1000.0), (22050, 60.0), (44100, 3000.0), (48000, 15000.0)])
def test_a_sine_has_the_level_and_frequency_of_theory(rate_hz: int, frequency_hz: float) -> None:
    found = measure(sine(frequency_hz, 3.0, rate_hz, 0.5), rate_hz)
    assert found["duration_s"] == 3.0
    assert found["rms_dbfs"] == pytest.approx(-3.01 - 6.02, abs=0.01)
    assert found["peak_dbfs"] == pytest.approx(-6.02, abs=0.02)
    assert found["median_frequency_hz"] == pytest.approx(frequency_hz, abs=0.005 * frequency_hz + 2)
    assert found["silence_share"] == 0.0


def test_half_of_the_power_of_white_noise_lies_below_a_quarter_of_the_rate() -> None:
    assert measure(noise(20 * RATE), RATE)["median_frequency_hz"] == pytest.approx(RATE / 4, rel=0.01)


def test_median_frequency_agrees_with_one_transform_of_the_whole_file() -> None:
    sound = np.convolve(noise(5 * RATE), np.hanning(12) / 6, mode="same").astype(np.float32)
    power = np.abs(np.fft.rfft(sound.astype(np.float64))) ** 2
    whole = np.searchsorted(np.cumsum(power), power.sum() / 2) * RATE / len(sound)
    assert measure(sound, RATE)["median_frequency_hz"] == pytest.approx(whole, rel=0.01)


def test_every_sample_counts_the_same_wherever_it_lies() -> None:
    """Two clicks of equal power, low and high, in any place: the median must see both, so half the power lies between them."""
    low, high = sine(500, 0.05), sine(9000, 0.05)
    for first in (0, 1000, 3000, 7000, 40000 - len(high)):
        sound = np.zeros(40000, dtype=np.float32)
        sound[first : first + len(high)] += high
        sound[20000 : 20000 + len(low)] += 0.98 * low
        assert measure(sound, RATE)["median_frequency_hz"] > 5000
        sound[20000 : 20000 + len(low)] += 0.04 * low
        assert measure(sound, RATE)["median_frequency_hz"] < 3000


def test_mean_amplitude_is_that_of_absolute_values() -> None:
    assert measure(np.array([0.5, -0.25] * 4000, dtype=np.float32), RATE)["mean_amplitude"] == 0.375
    sine = np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE).astype(np.float32)
    assert measure(sine, RATE)["mean_amplitude"] == pytest.approx(2 / np.pi, rel=1e-3)


def test_digital_silence_has_no_level_and_no_frequency() -> None:
    found = measure(np.zeros(RATE, dtype=np.float32), RATE)
    nothing = {"rms_dbfs": None, "peak_dbfs": None, "mean_amplitude": 0.0, "median_frequency_hz": None}
    assert found == {"duration_s": 1.0, **nothing, "silence_share": 1.0}


def test_share_of_silence_counts_frames_of_20_ms_below_minus_60_decibels() -> None:
    loud, faint = np.full(RATE, 0.00101, dtype=np.float32), np.full(RATE, 0.00099, dtype=np.float32)
    assert measure(np.concatenate([loud, faint, faint, faint]), RATE)["silence_share"] == 0.75
    assert measure(faint[:100], RATE)["silence_share"] == 1.0
    assert measure(loud[:100], RATE)["silence_share"] == 0.0


@pytest.mark.parametrize("value", [1e-44, 1e-30, 1e9])
def test_the_smallest_and_greatest_samples_are_measured(value: float) -> None:
    found = measure(np.full(5000, value, dtype=np.float32), RATE)
    assert found["rms_dbfs"] == pytest.approx(20 * np.log10(float(np.float32(value))), abs=1e-6)
    assert found["median_frequency_hz"] is not None
    assert np.isfinite(found["median_frequency_hz"])


def test_measuring_block_by_block_equals_measuring_at_once(tmp_path: Path) -> None:
    sound = noise(5_000_001)
    path = encoded(tmp_path, sound, "WAV", "FLOAT")
    found = measure_file(path)
    assert (found.pop("sample_rate_hz"), found.pop("channels")) == (RATE, 1)
    assert found == pytest.approx(measure(sound, RATE), rel=1e-9)


# Decoding


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_sample_formats(tmp_path: Path, subtype: str) -> None:
    sound = sine(440, 0.5, amplitude=0.5)
    mono, rate_hz, channels = decode(encoded(tmp_path, sound, "WAV", subtype))
    assert (rate_hz, channels, mono.dtype, mono.shape) == (RATE, 1, np.float32, sound.shape)
    assert np.abs(mono - sound).max() < {"PCM_U8": 0.01, "ULAW": 0.02, "ALAW": 0.02}.get(subtype, 1e-4)


@pytest.mark.parametrize(
    ("format_", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("FLAC", None), ("AIFF", None), ("CAF", None)]
)
def test_the_content_decides_the_format_not_the_ending(tmp_path: Path, format_: str, subtype: str | None) -> None:
    path = encoded(tmp_path, sine(440, 2.0, 48_000, 0.5), format_, subtype, 48_000)
    for name in ("x.wav", "x.flac", "x", "x.txt"):
        mono, rate_hz, _ = decode(path.rename(tmp_path / name))
        path = tmp_path / name
        assert (len(mono), rate_hz) == (96_000, 48_000)
        assert measure(mono, rate_hz)["median_frequency_hz"] == pytest.approx(440, abs=3)


@pytest.mark.parametrize("channels", [2, 3, 12, 200])
def test_channels_are_mixed_by_their_mean(tmp_path: Path, channels: int) -> None:
    sound = noise(4000 * channels).reshape(4000, channels)
    mono, _, found = decode(encoded(tmp_path, sound, "WAV", "FLOAT"))
    assert found == channels
    np.testing.assert_allclose(mono, sound.mean(axis=1, dtype=np.float64), atol=1e-6)


def test_opposite_channels_cancel(tmp_path: Path) -> None:
    sound = sine(440, 0.2)
    found = measure_file(encoded(tmp_path, np.column_stack([sound, -sound]), "WAV", "FLOAT"))
    assert (found["channels"], found["rms_dbfs"]) == (2, None)


def test_names_may_be_anything_the_disk_takes(tmp_path: Path) -> None:
    source = encoded(tmp_path, sine(440, 0.1), "WAV").read_bytes()
    for name in ("ñandú 鳥 🔔.wav", "n" * 251 + ".wav", "line\nbreak.wav", "$(x);'\".wav"):
        (tmp_path / name).write_bytes(source)
        assert len(decode(tmp_path / name)[0]) == 4410
    broken = os.fsencode(tmp_path) + b"/\xff\xfe.wav"
    try:
        Path(os.fsdecode(broken)).write_bytes(source)
    except OSError:
        return  # this disk takes only valid UTF-8
    assert len(decode(Path(os.fsdecode(broken)))[0]) == 4410


def test_a_single_sample_is_a_clip(tmp_path: Path) -> None:
    path = tmp_path / "one.wav"
    path.write_bytes(wav(struct.pack("<h", 16384)))
    found = measure_file(path)
    assert (found["duration_s"], found["silence_share"]) == (1 / RATE, 0.0)
    samples, real_s = load(path, sample_rate_hz=16_000, clip_s=1.0)
    assert (samples.shape, np.isfinite(samples).all(), real_s) == ((16_000,), True, 1 / RATE)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_written_to_a_pipe_is_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "pipe.wav"
    path.write_bytes(wav(b"\1\0" * 500, size=size))
    assert len(decode(path)[0]) == 500
    path.write_bytes(wav(b"\1\0" * 500, size=1008))  # nor are a few missing bytes a reason
    assert len(decode(path)[0]) == 500


# Fitting


def test_padding_on_the_right_keeps_the_sound_and_says_its_length() -> None:
    sound = noise(8000)
    samples, real_s = fit(sound, 16_000, sample_rate_hz=16_000, clip_s=1.0)
    assert (samples.dtype, real_s) == (np.float32, 0.5)
    np.testing.assert_array_equal(samples, np.concatenate([sound, np.zeros(8000)]))


@pytest.mark.parametrize("extra", [1, 2, 3001, 100_001])
def test_a_longer_sound_gives_its_middle(extra: int) -> None:
    sound = noise(16_000 + extra)
    samples, real_s = fit(sound, 16_000, sample_rate_hz=16_000, clip_s=1.0)
    assert real_s == 1.0
    np.testing.assert_array_equal(samples, sound[extra // 2 : extra // 2 + 16_000])


@pytest.mark.parametrize("rate_hz", [1000, 8000, 11_025, 22_050, 44_100, 48_000, 96_000, 768_000])
@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.975, 1.0, 2.7])
def test_resampling_keeps_pitch_level_and_length(rate_hz: int, seconds: float) -> None:
    sound = sine(200, max(seconds, 1 / rate_hz), rate_hz, 0.5)
    samples, real_s = fit(sound, rate_hz, sample_rate_hz=16_000, clip_s=0.975)
    assert (samples.shape, samples.dtype) == ((15_600,), np.float32)
    assert np.isfinite(samples).all()
    assert real_s == pytest.approx(min(len(sound) / rate_hz, 0.975))
    if seconds >= 0.3:
        kept = samples[: round(real_s * 16_000)][200:-200]
        assert np.abs(np.fft.rfft(kept * np.hanning(len(kept)))).argmax() * 16_000 / len(kept) == pytest.approx(200, abs=4)
        assert np.sqrt(np.mean(kept**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize(("format_", "subtype"), [("WAV", "PCM_16"), ("FLAC", None), ("OGG", "VORBIS")])
@pytest.mark.parametrize("samples", [30_000, 200_001, 300_000])
def test_reading_only_the_middle_gives_the_same_samples(tmp_path: Path, format_: str, subtype: str | None, samples: int) -> None:
    path = encoded(tmp_path, noise(2 * samples).reshape(samples, 2), format_, subtype)
    mono, rate_hz, _ = decode(path)
    whole, whole_s = fit(mono, rate_hz, sample_rate_hz=16_000, clip_s=2.0)
    middle, middle_s = load(path, sample_rate_hz=16_000, clip_s=2.0)
    assert whole_s == middle_s
    np.testing.assert_allclose(middle, whole, atol=1e-6)
    part = decode(path, middle_s=1.0)[0]
    start = (samples - len(part)) // 2
    assert len(part) in (min(samples, RATE), min(samples, RATE + 1))
    np.testing.assert_allclose(part, mono[start : start + len(part)], atol=1e-6)


@pytest.mark.slow
def test_an_hour_is_measured_and_cut_in_bounded_memory(tmp_path: Path) -> None:
    path = sparse_wav(tmp_path / "hour.wav", 3600, 16_000)
    tracemalloc.start()
    found = measure_file(path)
    samples, real_s = load(path, sample_rate_hz=16_000, clip_s=5.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found["duration_s"], found["silence_share"], found["rms_dbfs"]) == (3600.0, 1.0, None)
    assert (samples.shape, real_s) == ((80_000,), 5.0)
    assert peak < 120e6  # the hour takes 230 MB


# Bad files: each ends in one line


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.wav") == "file not found"
    os.symlink(tmp_path / "gone.wav", tmp_path / "link.wav")
    assert refusal(tmp_path / "link.wav") == "file not found"


def test_folder_or_pipe_instead_of_a_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "not a file"
    os.mkfifo(tmp_path / "pipe.wav")
    assert refusal(tmp_path / "pipe.wav") == "not a file"


def test_name_too_long(tmp_path: Path) -> None:
    assert refusal(tmp_path / ("n" * 300 + ".wav")) == "cannot be read: File name too long"


def test_link_to_itself(tmp_path: Path) -> None:
    os.symlink(tmp_path / "loop.wav", tmp_path / "loop.wav")
    assert refusal(tmp_path / "loop.wav").startswith("cannot be read: ")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_file_that_must_not_be_read(tmp_path: Path) -> None:
    path = encoded(tmp_path, sine(440, 0.1), "WAV")
    path.chmod(0)
    assert refusal(path) == "cannot be read: permission denied"


NOT_AUDIO = {
    "text": b"file_name,class\n" * 20,
    "html": b"<!doctype html><title>404 not found</title>",
    "zeros": bytes(1000),
    "header only half there": wav(b"\1\0" * 100)[:30],
    "0 Hz": wav(b"\1\0" * 100, rate_hz=0),
    "4 GHz": wav(b"\1\0" * 100, rate_hz=4_000_000_000),
    "no channels": wav(b"\1\0" * 100, channels=0),
    "2000 channels": wav(b"\1\0" * 10_000, channels=2000),
    "no bits": wav(b"\1\0" * 100, bits=0),
    "unknown code": wav(b"\1\0" * 100, code=0x4242),
}


@pytest.mark.parametrize("content", NOT_AUDIO.values(), ids=NOT_AUDIO)
def test_content_that_is_no_audio(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    assert refusal(path).startswith("not audio that libsndfile can read: ")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"")
    assert refusal(tmp_path / "x.wav") == "empty file (0 bytes)"


def test_header_without_samples(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(b""))
    assert refusal(tmp_path / "x.wav") == "no samples"


@pytest.mark.parametrize("rate_hz", [1, 999, 768_001, 2**31 - 1])
def test_absurd_sample_rate(tmp_path: Path, rate_hz: int) -> None:
    (tmp_path / "x.wav").write_bytes(wav(b"\1\0" * 100, rate_hz=rate_hz))
    assert refusal(tmp_path / "x.wav") == f"sample rate {rate_hz} Hz is outside 1000 to 768000 Hz"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([np.nan] * 5, "holds 5 non-finite samples (NaN or infinite)"),
        ([0.1, np.nan, 0.2, 0.3, 0.1], "holds 1 non-finite samples (NaN or infinite)"),
        ([0.1, np.inf, -np.inf, 0.3, 0.1], "holds 2 non-finite samples (NaN or infinite)"),
        ([0.1, 1e30, 0.2, 0.3, 0.1], "samples reach 1e+30 times full scale"),
    ],
)
def test_samples_that_are_no_sound(tmp_path: Path, values: list[float], reason: str) -> None:
    (tmp_path / "x.wav").write_bytes(wav(np.array(values, dtype="<f4").tobytes(), bits=32, code=3))
    assert refusal(tmp_path / "x.wav") == reason


def test_float64_beyond_float32_counts_as_infinite(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(np.array([1e300, 0.5]).tobytes(), bits=64, code=3))
    assert refusal(tmp_path / "x.wav") == "holds 1 non-finite samples (NaN or infinite)"


@pytest.mark.filterwarnings("error")
def test_infinite_sound_is_refused_without_a_word_of_numpy(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(np.full(8000, np.inf, dtype="<f4").tobytes(), bits=32, code=3))
    with pytest.raises(SoundError, match="holds 8000 non-finite samples"):
        measure_file(tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("format_", "subtype", "reason"),
    [
        ("WAV", None, "truncated: "),
        ("AIFF", None, "truncated: "),
        ("AU", None, "truncated: "),
        ("OGG", "VORBIS", "truncated: the Ogg stream has no last page"),
        ("OGG", "OPUS", "not audio that libsndfile can read: "),
        ("FLAC", None, "broken after "),
        ("MP3", None, "truncated: "),
        ("CAF", None, "not audio that libsndfile can read: "),
    ],
)
def test_truncated_file(tmp_path: Path, format_: str, subtype: str | None, reason: str) -> None:
    path = encoded(tmp_path, noise(96_000), format_, subtype, 48_000)
    os.truncate(path, path.stat().st_size // 2)
    assert refusal(path).startswith(reason)


def test_flac_that_does_not_say_its_length(tmp_path: Path) -> None:
    path = encoded(tmp_path, noise(20_000), "FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples: 0 is unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert refusal(path).startswith("its header does not say how long it is")


def test_a_header_that_promises_days_is_not_believed(tmp_path: Path) -> None:
    path = encoded(tmp_path, noise(20_000), "FLAC")
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    assert refusal(path) == "433 hours long; the limit is 24"


def test_longer_than_a_day(tmp_path: Path) -> None:
    assert refusal(sparse_wav(tmp_path / "x.wav", 25 * 3600, 1000, bits=8)) == "25 hours long; the limit is 24"


@pytest.mark.parametrize(
    ("format_", "subtype"), [("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None), ("AIFF", None), ("CAF", None)]
)
def test_random_damage_gives_a_sound_or_a_reason(tmp_path: Path, format_: str, subtype: str | None) -> None:
    path = encoded(tmp_path, noise(16_000).reshape(8000, 2), format_, subtype, 16_000)
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(7)
    for _ in range(60):
        damaged = content.copy()
        places = rng.integers(0, rng.choice([100, len(content)]), rng.integers(1, 8))
        damaged[places] = rng.integers(0, 256, len(places))
        path.write_bytes(damaged.tobytes())
        try:
            samples, real_s = load(path, sample_rate_hz=16_000, clip_s=0.4)
        except SoundError:
            continue  # any other exception fails the test
        assert samples.shape == (6400,)
        assert np.isfinite(samples).all()
        assert 0 < real_s <= 0.4
