from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest
import soundfile as sf

from ingest.stages import Context, activations, clusters, probes
from ingest.stages import map as mapping
from report import site as atlas
from tests.report import small_warehouse as small
from tests.report.chromium import BINARY, Chromium

SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"it's\" & <b onmouseover='alert(2)'>bold</b>"
IMAGE = "<img src=x onerror=alert(3)>.wav"
RATE = 16_000
CLIP_S = 2.0
LAYERS = [("conv/1", 12, True), ("Conv 1", 8, False), ("conv2", 16, True), ("con", 4, True), ("output", 6, True)]
OUTPUTS = ["Dog", SCRIPT, QUOTES, "sine wave", "犬", "a/b"]


def sound(seed: int, seconds: float = CLIP_S, rate: int = RATE, channels: int = 1) -> tuple[np.ndarray, int]:
    """A tone, a sweep or noise, in turn."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(size=t.size)
    wave = (np.sin(2 * np.pi * (200 + 90 * seed) * t), np.sin(2 * np.pi * (100 + 300 * t) * t), noise)[seed % 3]
    wave = 0.3 * wave * (t % 0.5 < 0.1 + 0.02 * seed)
    return np.stack([wave] * channels, axis=1), rate


def write_sounds(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The test sounds and their labels."""
    labels = ["dog", SCRIPT, QUOTES, "rain", "Rain", "犬"]
    names = {f"plain-{i}.wav": {"category": [labels[i % 6]], "a/b": ["x" if i % 2 else "y"]} for i in range(18)}
    odd = ["ünï cödé 犬.wav", "a #1 100%.wav", "a?b&c=d.wav", IMAGE, "sub dir/plain-0.wav", "PLAIN-1.wav", "index.wav", "x" * 150 + ".wav"]
    names |= {name: {"category": [labels[i % 6]], "a/b": ["x", "y"]} for i, name in enumerate(odd)}
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = {0: {"seconds": 3.0}, 1: {"seconds": 0.7}, 2: {"channels": 2}, 3: {"rate": 96_000}, 4: {"rate": 11_000}}.get(i, {})
        sf.write(path, *sound(i, **shape))
    return names


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> tuple[Path, Path, atlas.Built]:
    """A warehouse, its site, and what building it said."""
    root = tmp_path_factory.mktemp("atlas")
    clips = write_sounds(root / "sounds")
    with small.create(root / "small.duckdb") as con:
        dataset = small.add_dataset(con, f"odd {QUOTES}", root / "sounds", clips, f"By us {SCRIPT}, CC0")
        small.add_network(con, "toy net", dataset, LAYERS, CLIP_S, OUTPUTS)
        fewer = dict(list(clips.items())[:7])
        other = small.add_dataset(con, "seven", root / "sounds", fewer, None)
        small.add_network(con, "toy net", other, LAYERS, CLIP_S, OUTPUTS)
        small.add_network(con, "signed", other, [("only", 3, False)], CLIP_S, checkpoint="other")
        con.execute("INSERT INTO failure VALUES (1, 'clips', ?, ?, now())", [f"{SCRIPT}.wav", "empty file"])
        small.add_run(con, "activations", None, None, status="running")
    (root / "sounds" / "plain-9.wav").unlink()
    made = atlas.build(root / "small.duckdb", root / "site")
    return root / "small.duckdb", root / "site", made


@pytest.fixture
def copied(built, tmp_path) -> tuple[Path, Path]:
    """A warehouse and site of one's own."""
    shutil.copy(built[0], tmp_path / "small.duckdb")
    shutil.copytree(built[1], tmp_path / "site")
    return tmp_path / "small.duckdb", tmp_path / "site"


@pytest.fixture(scope="session")
def browser():
    """A headless browser."""
    if BINARY is None:
        pytest.skip("no Chromium on this machine: install chromium to run the browser tests")
    with Chromium() as running:
        yield running


@pytest.fixture
def chromium(browser) -> Chromium:
    """A new page of the browser."""
    return browser.fresh()


@pytest.fixture(scope="session")
def clustered(tmp_path_factory) -> tuple[Path, Path, atlas.Built]:
    """A warehouse with clusters and probes of the real stages, over channels and over positions, and interventions; its site; the report."""
    root = tmp_path_factory.mktemp("clustered")
    labels = [SCRIPT, QUOTES, "dog", "rain", "犬", "sine"]
    clips = {
        f"clip-{i}.wav": {"category": [labels[i % 6]], "super_category": [f"group {SCRIPT}" if i % 6 < 2 else "other"]} for i in range(30)
    }
    (root / "sounds").mkdir()
    for i, name in enumerate(clips):
        sf.write(root / "sounds" / name, *sound(i))
    warehouse = root / "small.duckdb"
    with small.create(warehouse) as con:
        dataset = small.add_dataset(con, f"groups {SCRIPT}", root / "sounds", clips, None)
        channels = small.add_network(
            con, "toy net", dataset, [("conv/1", 40, True), ("signed", 9, False), ("output", 6, True)], CLIP_S, OUTPUTS
        )
        positions = small.add_positions(con, "toy net", dataset, "conv/1", CLIP_S)
        small.add_run(con, "probes", None, None, status="running")
    of_channels, of_positions = (
        Context(warehouse, None, {"activations": activations.Settings(device="cpu")}.get, runs={"activations": run})
        for run in (channels, positions)
    )
    run = clusters.run(of_channels, clusters.Settings()).run.run_id
    clusters.run(of_positions, clusters.Settings())
    probes.run(of_positions, probes.Settings(ks=(1, 3)))
    probes.run(of_channels, probes.Settings(ks=(1, 3, 5)))
    with duckdb.connect(str(warehouse)) as con:
        small.add_interventions(con, run, 3)
    return warehouse, root / "site", atlas.build(warehouse, root / "site")


@pytest.fixture(scope="session")
def described(tmp_path_factory) -> tuple[Path, Path, dict[str, int]]:
    """A warehouse of a network of two layers with all that is said of it, odd texts among it; its site; the runs by stage."""
    root = tmp_path_factory.mktemp("described")
    labels = ["dog", SCRIPT, "rain"]
    clips = {f"clip-{i}.wav": {"category": [labels[i % 3]]} for i in range(9)}
    (root / "sounds").mkdir()
    for i, name in enumerate(clips):
        sf.write(root / "sounds" / name, *sound(i))
    with small.create(root / "small.duckdb") as con:
        dataset = small.add_dataset(con, "said", root / "sounds", clips, None)
        run = small.add_network(con, "toy net", dataset, [("conv/1", 10, False), ("output", 4, False)], CLIP_S, ["Dog", "rain", "b", "c"])
        runs = small.add_language(con, run, SCRIPT)
    atlas.build(root / "small.duckdb", root / "site")
    return root / "small.duckdb", root / "site", runs


@pytest.fixture(scope="session")
def mapped(tmp_path_factory) -> tuple[Path, Path, dict[int, tuple[float, float]]]:
    """A warehouse of two networks that heard the same clips, described, clustered and mapped on one plane by the real stages, odd texts among all; its
    site; the places of the neurons."""
    root = tmp_path_factory.mktemp("mapped")
    labels = ["dog", SCRIPT, "rain"]
    clips = {f"clip-{i}.wav": {"category": [labels[i % 3]]} for i in range(12)}
    (root / "sounds").mkdir()
    for i, name in enumerate(clips):
        sf.write(root / "sounds" / name, *sound(i))
    warehouse = root / "small.duckdb"
    with small.create(warehouse) as con:
        dataset = small.add_dataset(con, "said", root / "sounds", clips, None)
        small.add_network(con, "other net", dataset, [("only", 9, False)], CLIP_S, checkpoint="other")
        run = small.add_network(con, "toy net", dataset, [("conv/1", 150, True), ("output", 4, False)], CLIP_S, ["Dog", SCRIPT, "b", "c"])
        small.add_language(con, run, SCRIPT)
    context = Context(warehouse, None, {"activations": activations.Settings(device="cpu")}.get, runs={"activations": run})
    clusters.run(context, clusters.Settings())
    made = mapping.run(context, mapping.Settings(together=True)).run.run_id
    atlas.build(warehouse, root / "site")
    with duckdb.connect(str(warehouse), read_only=True) as con:
        found = con.execute("SELECT neuron_id, x, y FROM neuron_position WHERE run_id = ?", [made]).fetchall()
    return warehouse, root / "site", {neuron_id: (x, y) for neuron_id, x, y in found}
