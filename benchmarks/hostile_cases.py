"""The cases of hostile.py: name, what must come of it, arguments, options."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import soundfile

ROOT = Path(__file__).parent.parent
NETWORK = f"{ROOT / 'tests' / 'small.py'}:small_network"
Row = tuple[str, str, Callable[[Path], list[Any]], dict[str, Any]]
WAREHOUSE = {"warehouse": True}


def at(folder: Path) -> list[Any]:
    return ["--warehouse", folder / "w.duckdb"]


def work(folder: Path, *more: Any) -> list[Any]:
    return ["ingest", "--network", NETWORK, "--dataset", "folder", "--source", folder / "sounds", *at(folder), *more]


def flags() -> list[Row]:
    """Flags of `ingest` that cannot be, or can but barely."""
    given = {
        "--top-k abc": "--top-k",
        "--top-k -1": "top_k",
        "--top-k 0": "top_k",
        "--top-k 1e3": "--top-k",
        f"--top-k {10**30}": "too large",
        "--batch 0": "batch",
        "--batch -5": "batch",
        f"--batch {10**25}": "too large",
        "--clip-seconds 0": "clip_s",
        "--clip-seconds -1": "clip_s",
        "--clip-seconds inf": "a number is expected",
        "--clip-seconds 1e-9": "clip_s",
        "--clip-seconds five": "--clip-seconds",
        "--dtype float64": "dtype",
        "--dtype ": "dtype",
        "--precision int8": "precision",
        "--device cuda:99": "device",
        "--device gpu": "device",
        "--device cpu:7": "",
        "--stage nosuch": "nosuch",
        "--stage Probes": "did you mean 'probes'",
        "--stage ": "stage",
        "--source nosuch": "nosuch",
        "--source /dev/null": "",
        "--source ": "a path is empty",
        "--source sounds/low/000.wav": "",
        "--network nosuch": "nosuch",
        "--network ": "",
        "--network nosuch.py:network": "nosuch.py",
        "--network sounds/low/000.wav:f": "",
        "--network a/b/c/d": "a/b/c/d",
        "--network sounds": "sounds",
        "--layer nosuch": "nosuch",
        "--layer ": "layer",
        "--weights nosuch": "",
        "--weights sounds": "",
        "--weights sounds/low/000.wav": "",
        "--dataset nosuch": "nosuch",
        "--dataset Folder": "did you mean 'folder'",
        "--dataset ": "",
        "--dataset esc50": "",
        "--dataset audiofolder": "",
        "--bert-encoder x": "ratings",
        "--nosuch": "nosuch",
        "--top-k": "top-k",
        "--name ": "=units of work done",
    }
    rows: list[Row] = []
    for text, want in given.items():
        option, space, value = text.partition(" ")
        rows.append(
            (f"ingest {text!r}", want, lambda f, option=option, space=space, value=value: work(f, option, *([value] if space else [])), {})
        )
    rows += [
        ("the same layer twice", "=units of work done", lambda f: work(f, "--layer", "conv1", "--layer", "conv1"), {}),
        ("the same network twice", "=nothing to do", lambda f: work(f, "--network", NETWORK), {}),
        ("a study and flags", "use one of the two", lambda f: ["ingest", f / "study.toml", "--dataset", "folder", *at(f)], {}),
        ("two studies", "one study file at a time", lambda f: ["ingest", f / "a.toml", f / "b.toml", *at(f)], {}),
        ("no data set", "no data set is named", lambda f: ["ingest", "--network", NETWORK, *at(f)], {}),
        ("no source", "needs the folder", lambda f: ["ingest", "--network", NETWORK, "--dataset", "folder", *at(f)], {}),
        ("a warehouse under a file", "", lambda f: work(f, "--warehouse", f / "sounds" / "low" / "000.wav" / "w.duckdb"), {}),
        (
            "a warehouse with a NUL's neighbour in its name",
            "=units of work done",
            lambda f: work(f, "--warehouse", f / "w\x01'\";--.duckdb"),
            {},
        ),
        ("a warehouse with a name too long", "", lambda f: work(f, "--warehouse", f / ("w" * 300 + ".duckdb")), {}),
        ("a warehouse in /proc", "", lambda f: work(f, "--warehouse", "/proc/w.duckdb"), {}),
        ("a warehouse without ending", "=units of work done", lambda f: work(f, "--warehouse", f / "w"), {}),
        ("a warehouse called .duckdb", "=units of work done", lambda f: work(f, "--warehouse", f / ".duckdb"), {}),
        ("a data set's name with a slash, quotes and newlines", "", lambda f: work(f, "--name", "a/'\"\n; DROP TABLE run; --"), {}),
        ("a data set's name of 3000 characters", "", lambda f: work(f, "--name", "n" * 3000), {}),
    ]
    return rows


def commands() -> list[Row]:
    """Other commands with arguments that cannot be."""
    given = {
        "nosuch": "nosuch",
        "stages nosuch": "there is no stage nosuch",
        "stages ": "there is no stage",
        "fetch nosuch": "nosuch",
        "fetch ../minilm": "../minilm",
        "analyze nosuch": "nosuch",
        "analyze ../../etc/passwd": "",
        "analyze datasets --output /dev/null": "/dev/null",
        "analyze datasets --output /proc/x": "/proc/x",
        "analyze datasets --output sounds/low/000.wav": "000.wav",
        "compare 1 2": "",
        "compare 2 2": "",
        "compare 98 99": "",
        f"compare 2 {10**30}": "",
        "compare a b": "first",
        "compare 2": "second",
        "compare -- -1 2": "",
        "validate --captioner nosuch": "nosuch",
        "report --rating -1": "",
        "report --rating 0": "",
        "report --rating x": "--rating",
        "report --rating 1000000000": "",
        "ingest ratings": "no file of answers",
        "ingest ratings nosuch": "nosuch",
        "ingest ratings sounds": "sounds",
        "ingest ratings sounds/low/000.wav": "000.wav",
        "query": "sql",
        "query SELECT --format xml": "xml",
        "status extra": "extra",
        "check --warehouse": "warehouse",
    }
    rows: list[Row] = []
    for text, want in given.items():
        parts = text.split(" ")
        rows.append(
            (
                f"auricle {text}",
                want,
                lambda f, parts=parts, text=text: [
                    *parts,
                    *(
                        []
                        if parts[-1] == "--warehouse"
                        else at(f)
                        if text != "query" and parts[0] not in ("stages", "fetch", "nosuch") and "--" not in parts
                        else []
                    ),
                ],
                WAREHOUSE,
            )
        )
    for command in ("status", "check", "report", "analyze", "query"):
        more = ["SELECT 1"] if command == "query" else []
        rows.append(
            (f"{command} without a warehouse", "no warehouse at", lambda f, command=command, more=more: [command, *more, *at(f)], {})
        )
    return rows


STUDY = f"""
[[dataset]]
reader = "folder"
source = "sounds"
DATASET
[[network]]
name = "{NETWORK}"
NETWORK
[activations]
device = "cpu"
ACTIVATIONS
"""


def study(folder: Path, text: str | bytes) -> list[Any]:
    path = folder / "study.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return ["ingest", path, *at(folder)]


def filled(stages: str = "", DATASET: str = "", NETWORK: str = "", ACTIVATIONS: str = "", rest: str = "") -> str:
    text = STUDY.replace("DATASET", DATASET).replace("\nNETWORK", f"\n{NETWORK}").replace("ACTIVATIONS", ACTIVATIONS)
    return (f"stages = {stages}\n" if stages else "") + text + rest


def studies() -> list[Row]:
    """Study files."""
    texts: dict[str, tuple[str | bytes, str]] = {
        "empty": ("", "no data set is named"),
        "of comments": ("# nothing", "no data set is named"),
        "of random bytes": (bytes(range(256)) * 9, "not TOML"),
        "in Latin-1": ("# é".encode("latin-1"), "not TOML"),
        "with a key twice": ("seed = 1\nseed = 2", "not TOML"),
        "that is JSON": ('{"dataset": []}', "not TOML"),
        "with dataset as a table": ('[dataset]\nreader = "folder"', "a list is expected"),
        "with datasets that are numbers": ("dataset = [1, 2]", "a table is expected"),
        "with no datasets": ("dataset = []", "no data set is named"),
        "with a reader that is a number": ("[[dataset]]\nreader = 5", "str is expected"),
        "without a reader": ('[[dataset]]\nsource = "sounds"', "reader"),
        "with two sets of one name": ('[[dataset]]\nreader = "starter"\n[[dataset]]\nreader = "starter"', "two data sets are called"),
        "with an emoji for a key": ('"🦉" = 1', "is not known"),
        "with a date": (filled(DATASET="per_class = 2026-01-01"), "int is expected"),
        "with stages as a text": (filled('"probes"'), "a list is expected"),
        "with stages of numbers": (filled("[1]"), "str is expected"),
        "with no stages": (filled("[]"), "=units of work done"),
        "with a stage twice": (filled('["clips", "clips"]'), "=30 clips done".replace("30", "9")),
        "with a NUL in a path": (filled(DATASET='name = "a\\u0000b"'), "NUL"),
        "with per_class 0": (filled(DATASET="per_class = 0"), "per_class"),
        "with per_class -1": (filled(DATASET="per_class = -1"), "per_class"),
        "with per_class 1.5": (filled(DATASET="per_class = 1.5"), "int is expected"),
        "with per_class of a billion": (filled(DATASET="per_class = 1000000000"), "per_class"),
        "with folds 1": (filled(DATASET="folds = 1"), "fold"),
        "with folds 0": (filled(DATASET="folds = 0"), "fold"),
        "with folds -3": (filled(DATASET="folds = -3"), "fold"),
        "with folds of a billion": (filled(DATASET="folds = 1000000000"), "fold"),
        "with a seed of -1": (filled(DATASET="folds = 2\nseed = -1"), "=units of work done"),
        "with a seed of 2^63 - 1": (filled(DATASET=f"folds = 2\nseed = {2**63 - 1}"), "=units of work done"),
        "with a seed of 2^70": (filled(DATASET=f"seed = {2**70}"), "too large"),
        "with labels that are not there": (filled(DATASET='labels = ["nosuch"]'), "takes no labels"),
        "with no labels": (filled(DATASET="labels = []"), ""),
        "with splits as a text": (filled(DATASET='splits = "yes"'), "bool is expected"),
        "with clip_s as a text": (filled(NETWORK='clip_s = "5"'), "float is expected"),
        "with no layers": (filled(NETWORK="layers = []"), ""),
        "with layers as a text": (filled(NETWORK='layers = "conv1"'), "a list is expected"),
        "with positions 1": (filled(NETWORK="positions = 1"), "bool is expected"),
        "with top_k true": (filled(ACTIVATIONS="top_k = true"), "int is expected"),
        "with shares of no": (filled(ACTIVATIONS='shares = "no"'), "bool is expected"),
    }
    settings = {
        "probes": ("ks = []", "ks = [0]", "ks = [-1]", "ks = [1000000000]", "ks = [5, 5]", "ks = 5", "nosuch = 1"),
        "clusters": ('backend = "nosuch"', "backend = 1"),
        "interventions": (
            "largest = 0",
            "largest = -1",
            "repeats = 0",
            "repeats = -1",
            'mode = "nosuch"',
            'readout = "nosuch"',
            'label_map = "nosuch"',
            'label_map = "sounds"',
            'label_map = "sounds/low/000.wav"',
            'readout = "zero-shot"',
            "layers = []",
            'layers = ["nosuch"]',
        ),
        "specificity": (
            "least_active = 2.0",
            "least_active = -1.0",
            "lowest_entropy = 0.0",
            "class_quantile = 1.5",
            "class_quantile = -0.5",
            'activity = "min"',
            'population = "nosuch"',
            "least_active = nan",
        ),
        "specific_ablations": (
            "measures = []",
            'measures = ["nosuch"]',
            "draws = 0",
            "draws = -1",
            "folds = [99]",
            "folds = []",
            'label_set = "nosuch"',
        ),
        "captions": (
            'captioner = "import"',
            'captioner = "import"\nfile = "nosuch"',
            'captioner = "import"\nfile = "sounds"',
            'captioner = "import"\nfile = "sounds/low/000.wav"',
            'captioner = "endpoint"',
            'captioner = "transformers"',
            'captioner = "transformers"\nmodel = "/nosuch"',
            'captioner = "vllm"\nmodel = "x"',
            'captioner = "tags"\ntagger = "nosuch"',
            'captioner = "clapcap"\nfile = "nosuch"',
            'captioner = "endpoint"\nmodel = "m"\nurl = "file:///etc/passwd"',
            'captioner = "endpoint"\nmodel = "m"\nurl = "http://user:secret@localhost/v1"',
            'captioner = "endpoint"\nmodel = "m"\nurl = ""',
            'captioner = "endpoint"\nmodel = "m"\nurl = "http://localhost:1/v1"\nkey_variable = "NOSUCH"',
            'captioner = "endpoint"\nmodel = "m"\nurl = "http://[::1"',
            'captioner = "endpoint"\nmodel = "m"\nurl = "http://localhost:1/v1"\nextra = 5',
        ),
        "descriptions": (
            "k = 0",
            "k = -1",
            "held_out = 1.0",
            "held_out = -0.1",
            "held_out = 2.0",
            "share = 0.0",
            "share = 2.0",
            "threshold = 2.0",
            'engine = "nosuch"',
            'engine = "endpoint"',
            'engine = "endpoint"\nmodel = "m"\nurl = "ftp://x"',
            'encoder = "/nosuch"',
            'encoder = "sounds"',
            "max_tokens = 0",
            "max_tokens = -1",
            "seed = -1",
        ),
        "scores": ("scorers = []", 'scorers = ["nosuch"]', 'scorers = ["judge"]', "judge_neurons = -1", "judge_clips = 0"),
        "dissections": (
            'concepts = "nosuch"',
            'file = "nosuch"',
            'file = "sounds"',
            'file = "sounds/low/000.wav"',
            "functions = []",
            'functions = ["nosuch"]',
            "kept = 0",
            "kept = -1",
            "scale = 0.0",
            "scale = -1.0",
            "scale = inf",
            "methods = []",
            'methods = ["ICL"]',
            'methods = ["TAB"]\ntab_network = "nosuch"',
            'methods = ["TAB"]\ntab_weights = "nosuch"',
        ),
        "polysemanticity": (
            "clusters = 0",
            "clusters = -1",
            "clusters = 1000000",
            "most_common = -1.0",
            "ks = []",
            "ks = [0]",
            "ks = [1000000]",
            "meanings = 5",
            "[polysemanticity.meanings]\nk = 0",
        ),
        "ablations": (
            "fold = 99",
            "seeds = 0",
            "seeds = -1",
            "shares = [2.0]",
            "shares = [-1.0]",
            "functions = []",
            'functions = ["nosuch"]',
        ),
    }
    rows: list[Row] = [(f"a study {name}", want, lambda f, text=text: study(f, text), {}) for name, (text, want) in texts.items()]
    for stage, values in settings.items():
        for value in values:
            more = 'readout = "linear"\n' if stage in ("interventions", "specific_ablations") and "readout" not in value else ""
            text = filled(f'["{stage}"]', rest=value if value.startswith("[") else f"[{stage}]\n{value}\n{more}")
            rows.append((f"[{stage}] {' '.join(value.split())}", "", lambda f, text=text: study(f, text), WAREHOUSE))
    return rows


def sounds() -> list[Row]:
    """Folders of sounds, beside nine good ones or with nothing else."""

    def wav(folder: Path, name: str, data: np.ndarray, rate: int = 8000, **options: Any) -> None:
        (folder / "sounds" / "low").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "sounds" / "low" / name, data, rate, **options)

    def put(folder: Path, name: str, data: bytes) -> None:
        path = folder / "sounds" / "low" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def cut(folder: Path, ending: str, share: float) -> None:
        tone = np.sin(np.arange(16000) / 8)
        wav(folder, f"whole.{ending}", tone, 16000)
        path = folder / "sounds" / "low" / f"whole.{ending}"
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    def emptied(folder: Path) -> None:
        for path in sorted((folder / "sounds").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()

    tone = np.sin(np.arange(8000) / 8)
    one_failure, ten = "=9 files done".replace("9 files", "10 clips") + ", 1 failures", "=10 clips done"
    made: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "a file of no bytes": (one_failure, lambda f: put(f, "x.wav", b"")),
        "a text that is called .wav": (one_failure, lambda f: put(f, "x.wav", b"hello" * 99)),
        "a header and nothing else": (
            "=",
            lambda f: put(f, "x.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0"),
        ),
        "half of a header": (one_failure, lambda f: put(f, "x.wav", b"RIFF\x24\0\0\0WAVEfm")),
        "a rate of 0": (
            one_failure,
            lambda f: put(f, "x.wav", b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\0\0\0\0\0\0\0\0\2\0\x10\0data\4\0\0\0\0\0\0\0"),
        ),
        "a rate of 4 GHz": (
            "=",
            lambda f: put(f, "x.wav", b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\xff\xff\xff\xff\0\0\0\0\2\0\x10\0data\4\0\0\0\0\0\0\0"),
        ),
        "a rate of 1 Hz": ("=", lambda f: wav(f, "x.wav", np.ones(3), 1)),
        "no channels": (
            one_failure,
            lambda f: put(f, "x.wav", b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\1\0\0\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\4\0\0\0\0\0\0\0"),
        ),
        "one sample": ("=", lambda f: wav(f, "x.wav", np.ones(1))),
        "200 channels": (ten, lambda f: wav(f, "x.wav", np.ones((800, 200)) * 0.1)),
        "samples that are NaN": ("=", lambda f: wav(f, "x.wav", np.full(8000, np.nan), subtype="FLOAT")),
        "samples that are infinite": ("=", lambda f: wav(f, "x.wav", np.full(8000, np.inf), subtype="FLOAT")),
        "samples of 1e30": ("=", lambda f: wav(f, "x.wav", tone * 1e30, subtype="FLOAT")),
        "samples of 1e300": ("=", lambda f: wav(f, "x.wav", tone * 1e300, subtype="DOUBLE")),
        "samples of 1e-310": (ten, lambda f: wav(f, "x.wav", tone * 1e-310, subtype="DOUBLE")),
        "half a FLAC": ("=", lambda f: cut(f, "flac", 0.5)),
        "half an Ogg": ("=", lambda f: cut(f, "ogg", 0.5)),
        "half an MP3": ("=", lambda f: cut(f, "mp3", 0.5)),
        "half an AIFF": ("=", lambda f: cut(f, "aiff", 0.5)),
        "an MP3 of noise": ("=", lambda f: put(f, "x.mp3", np.random.default_rng(0).bytes(20000))),
        "a FLAC that is called .mp3": (
            "=10 clips done",
            lambda f: (cut(f, "flac", 1), (f / "sounds/low/whole.flac").rename(f / "sounds/low/x.mp3")),
        ),
        "a name with a newline, quotes and markup": ("=, 1 failures", lambda f: wav(f, "a\n'\"<script>[bold]%s{}.wav", tone)),
        "a name that begins with a dash": (ten, lambda f: wav(f, "--help.wav", tone)),
        "a name of 250 bytes": (ten, lambda f: wav(f, "n" * 246 + ".wav", tone)),
        "a name of right-to-left letters and an owl": (ten, lambda f: wav(f, "‮שלום🦉.wav", tone)),
        "names that differ in case": ("=11 clips done", lambda f: (wav(f, "a.wav", tone), wav(f, "A.WAV", tone * 0.5))),
        "names that differ in their Unicode form": (
            "=11 clips done",
            lambda f: (wav(f, "\u00e9.wav", tone), wav(f, "e\u0301.wav", tone * 0.5)),
        ),
        "a name that is no UTF-8": ("", lambda f: os.rename(f / "sounds/low/000.wav", os.fsencode(f / "sounds/low") + b"/\xff.wav")),
        "nothing": ("no", emptied),
        "nothing but text": ("no", lambda f: (emptied(f), put(f, "a.txt", b"a"))),
        "nothing but broken files": ("", lambda f: (emptied(f), put(f, "a.wav", b"a"), put(f, "b.wav", b"b"))),
        "one clip": ("=1 clips done", lambda f: (emptied(f), wav(f, "a.wav", tone))),
        "a silent clip alone": ("=1 clips done", lambda f: (emptied(f), wav(f, "a.wav", tone * 0))),
        "the same clip 20 times": ("=20 clips done", lambda f: (emptied(f), [wav(f, f"{n}.wav", tone) for n in range(20)])),
        "a link that goes round": ("", lambda f: (f / "sounds/low/loop").symlink_to(f / "sounds")),
        "a link to itself": ("", lambda f: (f / "sounds/low/x.wav").symlink_to(f / "sounds/low/x.wav")),
        "a link to nowhere": ("", lambda f: (f / "sounds/low/x.wav").symlink_to("/nosuch.wav")),
        "a link to /dev/zero": ("", lambda f: (f / "sounds/low/x.wav").symlink_to("/dev/zero")),
        "a pipe": ("", lambda f: os.mkfifo(f / "sounds/low/x.wav")),
        "a folder called x.wav": ("", lambda f: (f / "sounds/low/x.wav").mkdir()),
        "a class with markup in its name": ("=units of work done", lambda f: (f / "sounds/low").rename(f / "sounds/<b>'\"\n;--")),
        "a class of 250 letters": ("=units of work done", lambda f: (f / "sounds/low").rename(f / "sounds" / ("c" * 250))),
        "200 classes of nothing": ("=units of work done", lambda f: [(f / "sounds" / f"c{n}").mkdir() for n in range(200)]),
        "folders 60 deep": (
            "",
            lambda f: (f / "sounds/low/000.wav").rename((deep := f / "sounds" / "/".join("d" * 60)).mkdir(parents=True) or deep / "a.wav"),
        ),
    }

    def given(make: Callable[[Path], Any]) -> Callable[[Path], list[Any]]:
        def arguments(folder: Path) -> list[Any]:
            make(folder)
            return work(folder)

        return arguments

    rows: list[Row] = [(f"sounds: {name}", want, given(make), {}) for name, (want, make) in made.items()]
    rows.append(
        (
            "report of sounds with odd names",
            "=pages written",
            lambda f: [wav(f, "a'\"<script>%s{}.wav", tone)] and ["report", *at(f), "--site", f / "site"],
            WAREHOUSE,
        )
    )
    rows.append(
        ("report of sounds that went", "=pages written", lambda f: emptied(f) or ["report", *at(f), "--site", f / "site"], WAREHOUSE)
    )
    rows.append(
        (
            "report of sounds that are other ones now",
            "=pages written",
            lambda f: put(f, "000.wav", b"x") or ["report", *at(f), "--site", f / "site"],
            WAREHOUSE,
        )
    )
    return rows


def metadata() -> list[Row]:
    """metadata.csv and its like beside the sounds."""
    row = "low/000.wav,a\nhigh/001.wav,b\n"
    texts: dict[str, tuple[str | bytes, str]] = {
        "of no bytes": ("", ""),
        "of a header": ("file_name,label\n", ""),
        "without file_name": ("name,label\n" + row, "file_name"),
        "of a file that is not there": ("file_name,label\nnosuch.wav,a\n" + row, ""),
        "of a file twice": ("file_name,label\n" + row + row, ""),
        "of a file above": ("file_name,label\n../../etc/passwd,a\n" + row, ""),
        "of an absolute file": ("file_name,label\n/etc/passwd,a\n" + row, ""),
        "with a field of 200,000 letters": ("file_name,label\nlow/000.wav," + "x" * 200_000 + "\nhigh/001.wav,b\n", ""),
        "with a quote that never ends": ('file_name,label\nlow/000.wav,"a\n' + row, ""),
        "with a NUL": ("file_name,label\nlow/000.wav,a\0b\nhigh/001.wav,b\n", ""),
        "with a byte order mark": ("\ufefffile_name,label\n" + row, "=2 clips done"),
        "in UTF-16": (("file_name,label\n" + row).encode("utf-16"), "not UTF-8"),
        "in Latin-1": ("file_name,label\nlow/000.wav,é\nhigh/001.wav,b\n".encode("latin-1"), ""),
        "of random bytes": (bytes(range(256)) * 9, ""),
        "with rows that are too short": ("file_name,label,more\n" + row, ""),
        "with rows that are too long": ("file_name,label\nlow/000.wav,a,b,c\nhigh/001.wav,b\n", ""),
        "with a column twice": ("file_name,label,label\nlow/000.wav,a,b\nhigh/001.wav,b,c\n", ""),
        "with a column without a name": ("file_name,,label\nlow/000.wav,x,b\nhigh/001.wav,y,c\n", ""),
        "with folds that are words": ("file_name,label,fold\nlow/000.wav,a,one\nhigh/001.wav,b,two\n", ""),
        "with labels that are empty": ("file_name,label\nlow/000.wav,\nhigh/001.wav,\n", ""),
        "with a column called like a table": ("file_name,run\n" + row, "=2 clips done"),
        "with Windows' line ends and slashes": ("file_name,label\r\nlow\\000.wav,a\r\nhigh\\001.wav,b\r\n", ""),
    }

    def given(name: str, text: str | bytes) -> Callable[[Path], list[Any]]:
        def arguments(folder: Path) -> list[Any]:
            (folder / "sounds" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
            return ["ingest", "--dataset", "audiofolder", "--source", folder / "sounds", "--stage", "clips", *at(folder)]

        return arguments

    rows: list[Row] = [(f"a metadata.csv {name}", want, given("metadata.csv", text), {}) for name, (text, want) in texts.items()]
    lines = {
        "that is no JSON": ("{oops\n", ""),
        "of lists": ("[1, 2]\n", ""),
        "of numbers": ("5\n", ""),
        "with nested labels": ('{"file_name": "low/000.wav", "label": {"a": [1]}}\n', ""),
        "with file_name a number": ('{"file_name": 5, "label": "a"}\n', ""),
        "with file_name null": ('{"file_name": null, "label": "a"}\n', ""),
        "nested 100,000 deep": ("[" * 100_000, ""),
        "with a lone surrogate": ('{"file_name": "low/000.wav", "label": "\\ud800"}\n{"file_name": "high/001.wav", "label": "b"}\n', ""),
        "with NaN and numbers": ('{"file_name": "low/000.wav", "label": NaN}\n{"file_name": "high/001.wav", "label": 1e400}\n', ""),
        "with a number of 5000 digits": ('{"file_name": "low/000.wav", "label": ' + "9" * 5000 + "}\n", ""),
    }
    rows += [(f"a metadata.jsonl {name}", want, given("metadata.jsonl", text), {}) for name, (text, want) in lines.items()]
    rows.append(("a metadata.parquet of random bytes", "", given("metadata.parquet", bytes(range(256)) * 9), {}))
    rows.append(("a metadata.csv and esc50", "", lambda f: ["ingest", "--dataset", "esc50", "--source", f / "sounds", *at(f)], {}))
    return rows


NET = """
import torch
from ingest.networks.network import Layer, Network
def network(**changed):
    module = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 400, stride=160), torch.nn.ReLU())
    given = dict(sample_rate_hz=8000, clip_s=1.0, layers=[Layer("conv", "1", (4, 48), "channel,time", non_negative=True)],
                 prepare=lambda waveforms: waveforms[:, None])
    return Network("mine", "cnn", module, **(given | changed))
"""


def networks() -> list[Row]:
    """A user's own network's file, and checkpoints."""
    files = {
        "that is no Python": ("def f(:", "mine.py"),
        "of random bytes": (bytes(range(256)), "mine.py"),
        "that imports what is not there": ("import nosuch_module", "nosuch_module"),
        "without the function": ("x = 1", "f"),
        "whose function is a number": ("f = 5", "f"),
        "whose function raises": ("def f(): raise ValueError('a\\nb')", "a"),
        "whose function returns nothing": ("def f(): pass", ""),
        "that ends the process": ("import sys; sys.exit(7)", ""),
        "that is interrupted": ("raise KeyboardInterrupt", "130=interrupted"),
        "that prints": (NET + "\nprint('hello')\nf = network", "=units of work done"),
        "that calls itself for ever": ("def f(): return f()", ""),
        "with no layers": (NET + "\nf = lambda: network(layers=[])", ""),
        "with a layer twice": (NET + "\nl = Layer('conv', '1', (4, 48), 'channel,time')\nf = lambda: network(layers=[l, l])", ""),
        "with a module that is not there": (NET + "\nf = lambda: network(layers=[Layer('a', '9.nosuch', (4, 48), 'channel,time')])", ""),
        "with another shape": (NET + "\nf = lambda: network(layers=[Layer('a', '1', (5, 7), 'channel,time')])", ""),
        "with axes of its own": (NET + "\nf = lambda: network(layers=[Layer('a', '1', (4, 48), 'smell')])", ""),
        "at -8000 Hz": (NET + "\nf = lambda: network(sample_rate_hz=-8000)", ""),
        "at 0 Hz": (NET + "\nf = lambda: network(sample_rate_hz=0)", ""),
        "at 8000.5 Hz": (NET + "\nf = lambda: network(sample_rate_hz=8000.5)", ""),
        "of no seconds": (NET + "\nf = lambda: network(clip_s=0)", ""),
        "of NaN seconds": (NET + "\nf = lambda: network(clip_s=float('nan'))", ""),
        "of 1e9 seconds": (NET + "\nf = lambda: network(clip_s=1e9)", ""),
        "of a text of seconds": (NET + "\nf = lambda: network(clip_s='1')", ""),
        "with wrong numbers of names": (NET + "\nf = lambda: network(output_names=['a'])", ""),
        "whose weights are NaN": (
            NET + "\ndef f():\n    n = network()\n    torch.nn.init.constant_(n.module[0].weight, float('nan'))\n    return n",
            "",
        ),
        "whose prepare raises": (NET + "\ndef p(w): raise RuntimeError('no')\nf = lambda: network(prepare=p)", ""),
        "whose prepare returns nothing": (NET + "\nf = lambda: network(prepare=lambda w: None)", ""),
        "that returns a dictionary": ("def f(): return {}", ""),
        "that wants an argument": ("def f(a): pass", ""),
        "called network.name": (NET + "\ndef f():\n    n = network()\n    n.name = 'a/../b\\n'\n    return n", ""),
    }

    def given(text: str | bytes) -> Callable[[Path], list[Any]]:
        def arguments(folder: Path) -> list[Any]:
            (folder / "mine.py").write_bytes(text if isinstance(text, bytes) else text.encode())
            return ["ingest", "--network", f"{folder}/mine.py:f", "--dataset", "folder", "--source", folder / "sounds", *at(folder)]

        return arguments

    rows: list[Row] = [(f"a network's file {name}", want, given(text), {}) for name, (text, want) in files.items()]
    models: dict[str, dict[str, str | bytes]] = {
        "without config.json": {"model.safetensors": b"x"},
        "with a config.json of no JSON": {"config.json": "{"},
        "with a config.json that is a list": {"config.json": "[]"},
        "of an unknown kind": {"config.json": '{"model_type": "nosuch"}'},
        "of text": {"config.json": '{"model_type": "bert"}'},
        "without weights": {"config.json": '{"model_type": "wav2vec2"}'},
        "with weights that are cut off": {
            "config.json": '{"model_type": "wav2vec2", "num_hidden_layers": 1}',
            "model.safetensors": b"\xff" * 40,
        },
        "with code of its own": {
            "config.json": '{"model_type": "nosuch", "auto_map": {"AutoModel": "evil.Model"}}',
            "evil.py": "raise SystemExit(9)",
        },
        "with sizes of a billion": {"config.json": '{"model_type": "wav2vec2", "hidden_size": 1000000000}', "model.safetensors": b"x"},
    }

    def model(files: dict[str, str | bytes]) -> Callable[[Path], list[Any]]:
        def arguments(folder: Path) -> list[Any]:
            (folder / "model").mkdir()
            for name, data in files.items():
                (folder / "model" / name).write_bytes(data if isinstance(data, bytes) else data.encode())
            return ["ingest", "--network", folder / "model", "--dataset", "folder", "--source", folder / "sounds", *at(folder)]

        return arguments

    rows += [(f"a model's folder {name}", "model", model(files), {}) for name, files in models.items()]
    pickled = b"cos\nsystem\n(S'touch owned'\ntR."
    for network in ("yamnet", "m2d", "beats", "whisper-tiny.en"):
        for what, data in (("no bytes", b""), ("random bytes", bytes(range(256)) * 40), ("a program in a pickle", pickled)):
            rows.append(
                (
                    f"{network} with weights of {what}",
                    "",
                    lambda f, network=network, data=data: (
                        [(f / "net.pth").write_bytes(data)]
                        and [
                            "ingest",
                            "--network",
                            network,
                            "--weights",
                            f / "net.pth",
                            "--dataset",
                            "folder",
                            "--source",
                            f / "sounds",
                            *at(f),
                        ]
                    ),
                    {},
                )
            )
    return rows


def limit(kind: int, value: int) -> Callable[[], None]:
    """What a child does before it begins: allow itself no more of something."""
    return lambda: resource.setrlimit(kind, (value, value))


FOREIGN = {"uid": 54321}
"""Somebody whom the machine does not know."""


def surroundings() -> list[Row]:
    """Environment variables, streams, limits, folders, other people."""
    status = lambda f: ["status", *at(f)]  # noqa: E731
    report = lambda f: ["report", *at(f), "--site", f / "site"]  # noqa: E731
    ingest, done, pages = lambda f: work(f), "=units of work done", "=pages written"
    variables: list[tuple[dict[str, str | None], str]] = [
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, ""),
        ({"LC_ALL": "nosuch"}, ""),
        ({"LC_ALL": "tr_TR.UTF-8"}, ""),
        ({"PYTHONIOENCODING": "latin-1"}, ""),
        ({"PYTHONIOENCODING": "utf-16"}, ""),
        ({"COLUMNS": "1"}, ""),
        ({"COLUMNS": "abc"}, ""),
        ({"COLUMNS": "0", "LINES": "0"}, ""),
        ({"TERM": "dumb"}, ""),
        ({"FORCE_COLOR": "1"}, ""),
        ({"NO_COLOR": "1"}, ""),
        ({"TZ": "No/Such"}, ""),
        ({"TZ": ":"}, ""),
        ({"HOME": ""}, ""),
        ({"HOME": "/nosuch"}, ""),
        ({"HOME": None}, ""),
        ({"TMPDIR": "/nosuch"}, ""),
        ({"PATH": ""}, ""),
        ({"PATH": None}, ""),
        ({"PYTHONHASHSEED": "1"}, ""),
        ({"PYTHONOPTIMIZE": "2"}, ""),
        ({"PYTHONWARNINGS": "error"}, ""),
        ({"PYTHONDEVMODE": "1"}, ""),
        ({"PYTHONUNBUFFERED": "1"}, ""),
        ({"PYTHONSAFEPATH": "1"}, ""),
        ({"OMP_NUM_THREADS": "abc"}, ""),
        ({"OMP_NUM_THREADS": "0"}, ""),
        ({"OMP_NUM_THREADS": "100000"}, ""),
        ({"POLARS_MAX_THREADS": "abc"}, ""),
        ({"POLARS_MAX_THREADS": "0"}, ""),
        ({"POLARS_VERBOSE": "1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "7"}, ""),
    ]
    SHAPES = {"LC_ALL", "HOME", "TMPDIR", "PATH", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS", "TZ"}
    rows: list[Row] = []
    for env, _ in variables:
        shown = " ".join(f"{name}={value}" for name, value in env.items())
        refused = (
            "docstrings"
            if env.get("PYTHONOPTIMIZE") == "2"
            else "POLARS_MAX_THREADS"
            if env.get("POLARS_MAX_THREADS") in ("abc", "0")
            else ""
        )
        rows.append(
            (
                f"status under {shown}",
                refused or ("=" if env.get("PYTHONIOENCODING") == "utf-16" else "=9 clips"),
                status,
                {"env": env, **WAREHOUSE},
            )
        )
        if env.keys() & SHAPES:
            rows.append((f"ingest under {shown}", refused or done, ingest, {"env": env}))
    for env in (
        {"PYTHONOPTIMIZE": "2"},
        {"PYTHONWARNINGS": "error"},
        {"HOME": None},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"TZ": "No/Such"},
        {"PYTHONIOENCODING": "ascii"},
        {"TMPDIR": "/nosuch"},
        {"PATH": ""},
    ):
        rows.append(
            (
                f"report under {' '.join(f'{name}={value}' for name, value in env.items())}",
                "docstrings" if "PYTHONOPTIMIZE" in env else pages,
                report,
                {"env": env, **WAREHOUSE},
            )
        )
    rows += [
        ("stages under PYTHONOPTIMIZE=2", "docstrings", lambda f: ["stages"], {"env": {"PYTHONOPTIMIZE": "2"}}),
        ("stages probes under PYTHONOPTIMIZE=2", "docstrings", lambda f: ["stages", "probes"], {"env": {"PYTHONOPTIMIZE": "2"}}),
        ("datasets under PYTHONOPTIMIZE=2", "docstrings", lambda f: ["datasets"], {"env": {"PYTHONOPTIMIZE": "2"}}),
        (
            "query to CSV under TMPDIR=/nosuch",
            "=1",
            lambda f: ["query", "SELECT 1 AS a", "--format", "csv", *at(f)],
            {"env": {"TMPDIR": "/nosuch"}, **WAREHOUSE},
        ),
        ("AURICLE_WAREHOUSE empty", "", lambda f: ["status"], {"env": {"AURICLE_WAREHOUSE": ""}}),
        ("AURICLE_WAREHOUSE a folder", "", lambda f: ["status"], {"env": {"AURICLE_WAREHOUSE": "sounds"}}),
        ("AURICLE_WAREHOUSE with a slash", "names no file", lambda f: ["status"], {"env": {"AURICLE_WAREHOUSE": "w/"}}),
        (
            "AURICLE_CACHE a file",
            "",
            lambda f: ["ingest", "--network", "yamnet", "--dataset", "folder", "--source", f / "sounds", *at(f)],
            {"env": {"AURICLE_CACHE": "/dev/null", "PIP_NO_INDEX": "1"}},
        ),
        ("AURICLE_CACHE in /proc", "", lambda f: ["fetch", "yamnet"], {"env": {"AURICLE_CACHE": "/proc/x", "PIP_NO_INDEX": "1"}}),
        (
            "no network for fetch",
            "could not download",
            lambda f: ["fetch", "yamnet"],
            {"env": {"AURICLE_CACHE": "cache", "PIP_NO_INDEX": "1"}},
        ),
        (
            "a cache with a torn file",
            "",
            lambda f: [(f / "cache").mkdir()] and ["fetch", "yamnet"],
            {"env": {"AURICLE_CACHE": "cache", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}},
        ),
        ("standard input closed", "=9 clips", status, {"stdin": None, "preexec": lambda: os.close(0), **WAREHOUSE}),
        ("standard output closed", "=", status, {"preexec": lambda: os.close(1), **WAREHOUSE}),
        ("standard output closed, ingest", "=", ingest, {"preexec": lambda: os.close(1)}),
        ("standard error closed", "=9 clips", status, {"preexec": lambda: os.close(2), **WAREHOUSE}),
        (
            "standard error closed, a refusal",
            "2=",
            lambda f: ["status", "--warehouse", "nosuch"],
            {"preexec": lambda: os.close(2), "silent": True},
        ),
        ("all streams closed, report", "=", report, {"stdin": None, "preexec": lambda: [os.close(n) for n in (0, 1, 2)], **WAREHOUSE}),
        ("files of at most 100 kB", "too large", ingest, {"preexec": limit(resource.RLIMIT_FSIZE, 100_000)}),
        (
            "files of at most 1 kB, report",
            "File too large",
            report,
            {"preexec": limit(resource.RLIMIT_FSIZE, 1000), "left": ("manifest.part",), **WAREHOUSE},
        ),
        ("files of at most 1 kB, analyze", "", lambda f: ["analyze", *at(f)], {"preexec": limit(resource.RLIMIT_FSIZE, 1000), **WAREHOUSE}),
        ("no core, a small stack", done, ingest, {"preexec": limit(resource.RLIMIT_STACK, 1_000_000)}),
        ("64 open files", done, ingest, {"preexec": limit(resource.RLIMIT_NOFILE, 64)}),
        ("63 open files", "no more than 63 files", ingest, {"preexec": limit(resource.RLIMIT_NOFILE, 63)}),
        ("4 GB of addresses", "", ingest, {"preexec": limit(resource.RLIMIT_AS, 4_000_000_000)}),
        ("0.5 GB of addresses, status", "", status, {"preexec": limit(resource.RLIMIT_AS, 500_000_000), **WAREHOUSE}),
        ("3 GB of addresses, report", "", report, {"preexec": limit(resource.RLIMIT_AS, 3_000_000_000), **WAREHOUSE}),
        ("a umask that allows nothing", "", ingest, {"preexec": lambda: os.umask(0o777)}),
        (
            "a working folder that went",
            "no longer there",
            lambda f: ["status", *at(f)],
            {"code": "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\nfrom auricle import main; main()", **WAREHOUSE},
        ),
        (
            "a working folder that went, ingest",
            "no longer there",
            ingest,
            {"code": "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\nfrom auricle import main; main()"},
        ),
        (
            "a working folder that went, relative warehouse",
            "no longer there",
            lambda f: ["status"],
            {"code": "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\nfrom auricle import main; main()"},
        ),
        ("a stranger", done, ingest, FOREIGN),
        ("a stranger's report", "Permission denied", lambda f: ["report", *at(f), "--site", "/site"], FOREIGN | WAREHOUSE),
        ("a stranger's folder of sounds", "Permission denied", lambda f: (f / "sounds").chmod(0o700) or work(f), FOREIGN),
        ("a stranger's class of sounds", "", lambda f: (f / "sounds/low").chmod(0o700) or work(f), FOREIGN),
        ("a stranger's sound", "=1 failures", lambda f: (f / "sounds/low/000.wav").chmod(0o600) or work(f), FOREIGN),
        ("a stranger's warehouse to read", "=9 clips", lambda f: (f / "w.duckdb").chmod(0o444) or ["status", *at(f)], FOREIGN | WAREHOUSE),
        (
            "a stranger's secret warehouse",
            "Permission denied",
            lambda f: (f / "w.duckdb").chmod(0o600) or ["status", *at(f)],
            FOREIGN | WAREHOUSE | {"unsound": True},
        ),
        ("a stranger's warehouse to write", "", lambda f: (f / "w.duckdb").chmod(0o444) or work(f, "--top-k", 3), FOREIGN | WAREHOUSE),
        ("a stranger's folder to write", "Permission denied", lambda f: f.chmod(0o755) or work(f), FOREIGN),
        (
            "a stranger's study",
            "Permission denied",
            lambda f: [(f / "study.toml").write_text(""), (f / "study.toml").chmod(0o600)] and ["ingest", f / "study.toml", *at(f)],
            FOREIGN,
        ),
        (
            "a stranger's network",
            "",
            lambda f: [(f / "n.py").write_text(NET), (f / "n.py").chmod(0o600)] and work(f, "--network", f"{f}/n.py:network"),
            FOREIGN,
        ),
    ]
    return rows


def warehouses() -> list[Row]:
    """Warehouses that are none, damaged, older, newer or held, and what lies beside them."""

    def with_sql(*statements: str) -> Callable[[Path], Any]:
        def change(folder: Path) -> None:
            with duckdb.connect(str(folder / "w.duckdb")) as con:
                for statement in statements:
                    con.execute(statement)

        return change

    def with_bytes(change: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], Any]:
        return lambda f: (f / "w.duckdb").write_bytes(bytes(change(bytearray((f / "w.duckdb").read_bytes()))))

    def scrambled(start: float, end: float) -> Callable[[bytearray], bytearray]:
        def change(data: bytearray) -> bytearray:
            first, last = int(len(data) * start), int(len(data) * end)
            data[first:last] = np.random.default_rng(0).bytes(last - first)
            return data

        return change

    def activations(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda f: change(sorted((f / "w.activations").rglob("*.npy"))[0])

    changes: dict[str, Callable[[Path], Any]] = {
        "of no bytes": with_bytes(lambda data: b""),
        "of text": with_bytes(lambda data: b"hello" * 999),
        "of random bytes": with_bytes(scrambled(0, 1)),
        "of zeros": with_bytes(lambda data: bytes(len(data))),
        "cut to half": with_bytes(lambda data: data[: len(data) // 2]),
        "cut to its head": with_bytes(lambda data: data[:12288]),
        "with a torn head": with_bytes(lambda data: b"\0" * 4096 + data[4096:]),
        "with a torn middle": with_bytes(scrambled(0.4, 0.6)),
        "with a torn end": with_bytes(scrambled(0.9, 1)),
        "that is SQLite": with_bytes(lambda data: b"SQLite format 3\0" + bytes(4096)),
        "without a table": with_sql("DROP TABLE caption"),
        "without its version": with_sql("DROP TABLE schema_version"),
        "with an empty version": with_sql("DELETE FROM schema_version"),
        "of version 99": with_sql("INSERT INTO schema_version VALUES (99, now(), 'x')"),
        "of version 0": with_sql("UPDATE schema_version SET version = 0"),
        "with a column less": with_sql("ALTER TABLE top_clip RENAME COLUMN activation TO nom"),
        "with parameters that are no JSON": with_sql("UPDATE run SET parameters = '{oops'"),
        "whose run is unfinished": with_sql("UPDATE run SET status = 'running', finished_at = NULL"),
        "with a version that is no number": with_sql(
            "DROP TABLE schema_version", "CREATE TABLE schema_version (version VARCHAR)", "INSERT INTO schema_version VALUES ('x')"
        ),
        "with a log of random bytes": lambda f: (f / "w.duckdb.wal").write_bytes(bytes(range(256)) * 99),
        "with a folder for a log": lambda f: (f / "w.duckdb.wal").mkdir(),
    }
    rows: list[Row] = []
    for name, change in changes.items():
        for command in ("status", "ingest", "report"):
            arguments = {
                "status": lambda f: ["status", *at(f)],
                "ingest": lambda f: work(f, "--top-k", 3),
                "report": lambda f: ["report", *at(f), "--site", f / "site"],
            }[command]
            rows.append(
                (
                    f"{command} on a warehouse {name}",
                    "",
                    lambda f, change=change, arguments=arguments: [change(f)] and arguments(f),
                    {"unsound": True, "left": ("w.duckdb.wal",), **WAREHOUSE},
                )
            )
    beside: dict[str, Callable[[Path], Any]] = {
        "without its activations": lambda f: [path.unlink() for path in (f / "w.activations").rglob("*.npy")],
        "with an activation file cut": activations(lambda path: os.truncate(path, 100)),
        "with an empty activation file": activations(lambda path: os.truncate(path, 0)),
        "with an activation file of text": activations(lambda path: path.write_text("hello")),
        "with an activation file of pickles": activations(lambda path: np.save(path, np.array([{}]), allow_pickle=True)),
        "with an activation file of another shape": activations(lambda path: np.save(path, np.zeros((2, 2), np.float16))),
        "with a folder for an activation file": activations(lambda path: path.unlink() or path.mkdir()),
        "with a pipe for an activation file": activations(lambda path: path.unlink() or os.mkfifo(path)),
    }
    for name, change in beside.items():
        rows.append(
            (
                f"check on a warehouse {name}",
                "1=activation file",
                lambda f, change=change: [change(f)] and ["check", *at(f)],
                {"unsound": True, **WAREHOUSE},
            )
        )
        for command in ("ingest", "report"):
            more = (
                (lambda f: study(f, filled('["clusters", "probes"]')))
                if command == "ingest"
                else (lambda f: ["report", *at(f), "--site", f / "site"])
            )
            rows.append(
                (
                    f"{command} on a warehouse {name}",
                    "",
                    lambda f, change=change, more=more: [change(f)] and more(f),
                    {"unsound": True, **WAREHOUSE},
                )
            )
    rows += [
        ("a folder for a warehouse", "no regular file", lambda f: (f / "w.duckdb").mkdir() or work(f), {}),
        (
            "a link to nowhere for a warehouse",
            "=units of work done",
            lambda f: (f / "w.duckdb").symlink_to(f / "there.duckdb") or work(f),
            {},
        ),
        ("a link to itself for a warehouse", "", lambda f: (f / "w.duckdb").symlink_to(f / "w.duckdb") or work(f), {}),
        ("a folder for the lock", "w.duckdb.lock", lambda f: (f / "w.duckdb.lock").mkdir() or work(f), {}),
        ("a pipe for the lock", "", lambda f: os.mkfifo(f / "w.duckdb.lock") or work(f), {}),
        ("a folder for what is created", "", lambda f: (f / "w.duckdb.tmp").mkdir() or work(f), {"left": ("w.duckdb.tmp",)}),
        ("a file for the activations", "", lambda f: (f / "w.activations").write_text("x") and work(f), {}),
        ("a link to nowhere for the activations", "", lambda f: (f / "w.activations").symlink_to("/nosuch/there") or work(f), {}),
    ]
    return rows


def endpoints(serve: Callable[..., str]) -> list[Row]:
    """Servers of language models that misbehave."""

    def reply(content: Any) -> bytes:
        return json.dumps({"choices": [{"message": {"content": content}}]}).encode()

    answers: dict[str, tuple[tuple[Any, ...], str]] = {
        "is not there": ((), "does not answer"),
        "answers 401": ((401, b'{"error": {"message": "no key"}}'), "401"),
        "answers 404": ((404, b"no"), "404"),
        "answers 400": ((400, b'{"error": "bad"}'), "400"),
        "answers 500": ((500, b""), "500"),
        "sends elsewhere": ((302, b"", {"Location": "http://localhost:1/"}), "302"),
        "hangs up": ((0, b""), ""),
        "answers nothing": ((200, b""), ""),
        "answers a page": ((200, b"<html>welcome</html>"), ""),
        "answers a list": ((200, b"[]"), ""),
        "answers null": ((200, b"null"), ""),
        "answers no choices": ((200, b'{"choices": []}'), ""),
        "answers choices of numbers": ((200, b'{"choices": [1]}'), ""),
        "answers null content": ((200, reply(None)), ""),
        "answers a number": ((200, reply(5)), ""),
        "answers a list of parts": ((200, reply([{"type": "text", "text": "a"}])), ""),
        "answers lone surrogates": ((200, b'{"choices": [{"message": {"content": "\\ud800 It is a loud sound of six words."}}]}'), ""),
        "answers no UTF-8": ((200, b"\xff\xfe" * 50), ""),
        "answers nesting": ((200, b"[" * 100_000), ""),
        "answers a megabyte": ((200, reply("It is a loud and low sound again. " * 30_000)), ""),
        "answers markup and NUL": ((200, reply("<script>alert(1)</script>\0 It is a loud and low sound. ")), ""),
        "answers less than it says": ((200, b'{"choices"', {"Content-Length": "99999"}), ""),
        "answers 429": ((429, b"", {"Retry-After": "0"}), "429"),
        "answers 503 and a wait of a word": ((503, b"", {"Retry-After": "soon"}), "503"),
    }
    rows: list[Row] = []
    for name, (answer, want) in answers.items():
        text = '[descriptions]\nengine = "endpoint"\nmodel = "m"\nurl = "URL"\n'

        def given(folder: Path, answer: tuple[Any, ...] = answer, text: str = text) -> list[Any]:
            return study(
                folder, filled('["descriptions"]', rest=text.replace("URL", serve(*answer) if answer else "http://127.0.0.1:9/v1"))
            )

        rows.append((f"a server that {name}", want, given, WAREHOUSE))
    return rows


def captions() -> list[Row]:
    """Captions that somebody else made."""
    header = "file,caption\n"
    texts: dict[str, tuple[str | bytes, str]] = {
        "of no bytes": ("", ""),
        "of a header": (header, ""),
        "without captions": ("file\n000.wav\n", ""),
        "of no file": (header + ",hello there\n", "no file is named"),
        "of a file that is not there": (header + "nosuch.wav,hello\n", "nosuch"),
        "of a file twice": (header + "000.wav,a\n000.wav,b\n", "second caption"),
        "of empty ones": (header + "000.wav,\n001.wav,\n", ""),
        "of markup": (header + '000.wav,"<script>alert(1)</script> & ""quotes"""\n', ""),
        "of 100,000 letters": (header + "000.wav," + "loud " * 20_000 + "\n", ""),
        "of NULs": (header + "000.wav,a\0b\n", ""),
        "of an owl and right-to-left": (header + "000.wav,🦉 ‮שלום\n", ""),
        "of random bytes": (bytes(range(256)) * 9, ""),
        "of paths above": (header + "../../etc/passwd,a\n", ""),
        "in UTF-16": ((header + "000.wav,a dog barks\n").encode("utf-16"), "not UTF-8"),
    }

    def given(name: str, text: str | bytes) -> Callable[[Path], list[Any]]:
        def arguments(folder: Path) -> list[Any]:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
            return study(folder, filled('["captions"]', rest=f'[captions]\ncaptioner = "import"\nfile = "{name}"\n'))

        return arguments

    rows: list[Row] = [(f"captions {name}", want, given("c.csv", text), WAREHOUSE) for name, (text, want) in texts.items()]
    rows.append(("captions of a Parquet file of text", "", given("c.parquet", "hello"), WAREHOUSE))
    rows.append(("captions of JSON that is none", "", given("c.jsonl", "{oops"), WAREHOUSE))
    rows.append(("captions of an ending that nobody knows", "", given("c.xyz", header + "000.wav,a\n"), WAREHOUSE))
    return rows


def reports() -> list[Row]:
    """Odd places for a site."""
    pages = "=pages written"

    def into(
        site: str | Path | bytes, change: Callable[[Path], Any] = lambda f: None, **more: Any
    ) -> tuple[Callable[[Path], list[Any]], dict[str, Any]]:
        return lambda f: [change(f)] and ["report", *at(f), "--site", site], WAREHOUSE | more

    def site(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda f: (f / "site").mkdir() or change(f / "site")

    places: dict[str, tuple[str, tuple[Callable[[Path], list[Any]], dict[str, Any]]]] = {
        "a file": ("w.duckdb", into("w.duckdb")),
        "below a file": ("", into("w.duckdb/site")),
        "nothing": ("a path is empty", into("")),
        "/dev/null": ("/dev/null", into("/dev/null")),
        "/proc": ("", into("/proc/site")),
        "a name too long": ("", into("s" * 300)),
        "a path too long": ("", into("/".join(["s" * 200] * 30))),
        "a name that is no UTF-8": ("", into(b"s\xff")),
        "a name with markup": (pages, into("<b>'\"%20#?&")),
        "the folder of the sounds": ("", into("sounds")),
        "the warehouse's own folder": ("", into(".")),
        "a link to nowhere": ("", into("site", lambda f: (f / "site").symlink_to("/nosuch/x"))),
        "a link to itself": ("", into("site", lambda f: (f / "site").symlink_to(f / "site"))),
        "a link to a folder": (pages, into("site", lambda f: (f / "there").mkdir() or (f / "site").symlink_to("there"))),
        "a folder with a foreign page": ("was not made by Auricle", into("site", site(lambda s: (s / "index.html").write_text("mine")))),
        "a folder with a folder for a page": (
            "index.html",
            into("site", site(lambda s: (s / "index.html").mkdir()), left=("manifest.part",)),
        ),
        "a folder with a manifest of no JSON": (pages, into("site", site(lambda s: (s / "manifest.json").write_text("{")))),
        "a folder with a manifest of lists": (pages, into("site", site(lambda s: (s / "manifest.json").write_text("[]")))),
        "a folder with a manifest of nesting": ("", into("site", site(lambda s: (s / "manifest.json").write_text("[" * 100_000)))),
        "a folder with a manifest of odd files": (
            pages,
            into(
                "site",
                site(lambda s: (s / "manifest.json").write_text('{"files": {"../w.duckdb": 1, "/etc/passwd": 2, "": 3, "a\\u0000b": 4}}')),
            ),
        ),
        "a folder with a manifest of numbers": (
            "",
            into("site", site(lambda s: (s / "manifest.json").write_text('{"fingerprint": 5, "files": {"a": "b"}, "missing": 7}'))),
        ),
        "a folder with a folder for a manifest": ("", into("site", site(lambda s: (s / "manifest.json").mkdir()), left=("manifest.part",))),
        "a folder with a folder for a journal": ("", into("site", site(lambda s: (s / "manifest.part").mkdir()), left=("manifest.part",))),
        "a folder with a journal of random bytes": (
            "",
            into("site", site(lambda s: (s / "manifest.part").write_bytes(bytes(range(256)))), left=("manifest.part",)),
        ),
        "a folder with a journal of NULs": (
            "",
            into("site", site(lambda s: (s / "manifest.part").write_bytes(b"a\0b\n" * 9)), left=("manifest.part",)),
        ),
        "a folder with a file for a folder": ("", into("site", site(lambda s: (s / "static").write_text("x")), left=("manifest.part",))),
        "a folder with a folder for an unfinished file": (
            "",
            into("site", site(lambda s: (s / "search.js.tmp").mkdir()), left=("search.js.tmp", "manifest.part")),
        ),
        "a folder with a link for a page": (pages, into("site", site(lambda s: (s / "runs.html").symlink_to("/nosuch")))),
        "a folder that links round": (pages, into("site", site(lambda s: (s / "networks").mkdir() or (s / "networks/x").symlink_to(s)))),
        "a folder with a pipe for a page": (pages, into("site", site(lambda s: os.mkfifo(s / "runs.html")))),
        "a folder nobody may write": ("Permission denied", into("site", site(lambda s: s.chmod(0o555)), uid=54321)),
        "a folder nobody may read": ("Permission denied", into("site", site(lambda s: s.chmod(0o000)), uid=54321)),
    }
    return [(f"a report into {name}", want, given, options) for name, (want, (given, options)) in places.items()]


def queries() -> list[Row]:
    """SQL of any kind."""
    texts: dict[str, str] = {
        "": "",
        "-- nothing": "",
        ";": "",
        "SELEC 1": "the query failed",
        "SELECT 1; SELECT 2": "",
        "INSERT INTO run SELECT * FROM run": "read-only",
        "DROP TABLE run": "read-only",
        "SELECT * FROM nosuch": "nosuch",
        "ATTACH 'x.duckdb'": "",
        "COPY (SELECT 1) TO 'copied.csv'": "",
        "INSTALL nosuch": "",
        "LOAD nosuch": "",
        "SELECT 1 AS a, 2 AS a": "=",
        "SELECT 'NaN'::DOUBLE, 'inf'::DOUBLE, NULL": "=NaN",
        "SELECT '\\xFF'::BLOB": "=",
        "SELECT DATE '0044-03-15 (BC)'": "",
        "SELECT TIMESTAMP 'infinity'": "",
        "SELECT INTERVAL 1 YEAR": "=",
        "SELECT {'a': [1, {'b': 2}]}": "the query failed",
        "SELECT MAP {'a': 1}": "=",
        "SELECT 170141183460469231731687303715884105727": "=",
        "SELECT now()": "=",
        "SELECT error('a\nb')": "the query failed",
        f"SELECT {'(' * 5000}1{')' * 5000}": "",
        "SELECT 1 WHERE false": "=(0 rows)",
        "SELECT repeat('x', 1000000)": "=",
        "SELECT '[bold]' AS \"[red]\"": "=[bold]",
        "PRAGMA version": "=",
        "EXPLAIN SELECT 1": "=",
        "SET memory_limit = '1kB'": "",
        "SELECT count(*) FROM range(100000000000) a, range(1000) b WHERE a.range = -1 LIMIT 0": "=",
        "SELECT chr(0)": "=",
        "SELECT '\ud800'": "",
        "SELECT uuid()::UUID": "=",
        "SELECT TIME '24:00:00'": "",
        "SELECT '1'::BIT": "=",
        "SELECT TIMETZ '00:00:00+15:59'": "",
        "CALL nosuch()": "the query failed",
        "SELECT * FROM read_csv('/dev/null')": "",
        "CREATE TEMP TABLE t AS SELECT 1": "",
        "BEGIN": "",
        "CHECKPOINT": "",
    }

    def given(sql: str, form: str) -> Callable[[Path], list[Any]]:
        return lambda f: ["query", sql.encode("utf-8", "surrogatepass") if "\ud800" in sql else sql, "--format", form, *at(f)]

    rows: list[Row] = [(f"query {sql[:60]!r}", want, given(sql, "table"), WAREHOUSE) for sql, want in texts.items()]
    for form in ("csv", "json", "parquet"):
        for sql in list(texts)[12:32]:
            rows.append((f"query {sql[:60]!r} as {form}", "", given(sql, form), WAREHOUSE))
    return rows


def signals() -> list[Row]:
    """Signals at odd moments."""

    def send(after: float, *numbers: int) -> Callable[[Any, Path], None]:
        def during(process: Any, folder: Path) -> None:
            for number in numbers:
                time.sleep(after)
                if process.poll() is None:
                    process.send_signal(number)

        return during

    asleep = ["query", "SELECT sum(sqrt(a.range + b.range)) FROM range(1000000) a, range(1000000) b"]
    rows: list[Row] = [
        ("a query that is interrupted", "130=interrupted", lambda f: [*asleep, *at(f)], {"during": send(8, signal.SIGINT), **WAREHOUSE}),
        ("a query that is terminated", "143=terminated", lambda f: [*asleep, *at(f)], {"during": send(8, signal.SIGTERM), **WAREHOUSE}),
        ("an ingest that hears SIGHUP", "", lambda f: work(f), {"before": ["nohup"], "during": send(3, signal.SIGHUP)}),
        (
            "an ingest that is stopped and goes on",
            "=units of work done",
            lambda f: work(f),
            {"during": send(2, signal.SIGSTOP, signal.SIGCONT)},
        ),
        (
            "an ingest that hears SIGUSR1 ignored",
            "=units of work done",
            lambda f: work(f),
            {"preexec": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), "during": send(3, signal.SIGUSR1)},
        ),
        (
            "an ingest whose signals are ignored",
            "=units of work done",
            lambda f: work(f),
            {
                "preexec": lambda: [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)],
                "during": send(3, signal.SIGINT, signal.SIGTERM),
            },
        ),
    ]
    return rows


def cases(serve: Callable[..., str]) -> list[Row]:
    """All of them."""
    return [
        *flags(),
        *commands(),
        *studies(),
        *sounds(),
        *metadata(),
        *networks(),
        *surroundings(),
        *warehouses(),
        *endpoints(serve),
        *captions(),
        *reports(),
        *queries(),
        *signals(),
    ]
