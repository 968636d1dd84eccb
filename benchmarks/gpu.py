"""A GPU beside the processor: the same values, how fast, and exact first neighbours of a whole layer of positions.

    python benchmarks/gpu.py agreement | tf32 | ingest FOLDER | throughput | neighbors [POINTS] | table [NEURONS...] | gpus

* agreement: `auricle ingest` of YAMNet and Whisper tiny.en over the starter sounds and notes, on either device, in float32: largest difference
  of a layer's matrices over its largest value, and the share of the highest clips that are the same.
* tf32: the same for YAMNet's forward pass with torch's own setting for convolutions, which Auricle turns off.
* ingest: seconds of `auricle ingest --network yamnet` over a copy of ESC-50 (or a part of it).
* throughput: clips a second of 10 s through networks of full size and random weights, bare and with every layer recorded.
* neighbors: first neighbours among 706,560 points (the paper's conv1) of 2,000 clips, exact; recall against float64 on 1,000 sampled points.
* table: the 8 neighbours of every one of 50,000 and 200,000 neurons over 500 clips, as table neighbor has them; of 50,000 on the processor, too.
* gpus: `auricle ingest --gpus all` of YAMNet over the starter sounds and notes (needs Ray), and the same by one process: seconds, and whether matrices
  are the same bytes and the highest clips the same.

Each adds its figures to benchmarks/results/gpu.json under the device's name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from warehouse import store

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "gpu.json"


def ingest(folder: Path, *arguments: str) -> float:
    """Seconds that `auricle ingest` takes, in this process, whose imports are done."""
    from auricle import main

    sys.argv = ["auricle", "ingest", *arguments, "--warehouse", str(folder / "a.duckdb")]
    start = time.perf_counter()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    return time.perf_counter() - start


def matrices(folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """What was recorded: (layer, reduction) to [neurons, clips]."""
    with store.connect_readonly(folder / "a.duckdb") as con:
        rows = con.execute("SELECT layer.name, reduction, path FROM activation_file JOIN layer USING (layer_id) ORDER BY ALL").fetchall()
    return {(layer, reduction): np.load(folder / path) for layer, reduction, path in rows}


def highest(folder: Path) -> set[tuple]:
    """The highest clips: (neuron, reduction, rank, clip)."""
    with store.connect_readonly(folder / "a.duckdb") as con:
        return set(
            con.execute("SELECT neuron_id, reduction, rank, clip_id FROM top_clip WHERE side = 'high' AND activation > 0").fetchall()
        )


def agreement() -> dict:
    found = {}
    for network in ("yamnet", "whisper-tiny.en"):
        for dataset in ("starter", "notes"):
            with tempfile.TemporaryDirectory() as name:
                folders = {device: Path(name) / device for device in ("cpu", "cuda")}
                seconds = {
                    device: ingest(folder, "--network", network, "--dataset", dataset, "--dtype", "float32", "--device", device)
                    for device, folder in folders.items()
                }
                values, clips = ({device: read(folder) for device, folder in folders.items()} for read in (matrices, highest))
            differences = {
                key: float(np.nanmax(np.abs(values["cpu"][key] - values["cuda"][key])) / np.nanmax(np.abs(values["cpu"][key])))
                for key in values["cpu"]
            }
            worst = max(differences, key=differences.__getitem__)
            found[f"{network}, {dataset}"] = {
                "seconds": {device: round(value, 1) for device, value in seconds.items()},
                "largest_relative_difference": differences[worst], "in": list(worst), "matrices": len(differences),
                "clips": next(iter(values["cpu"].values())).shape[1],
                "same_highest_clips": round(len(clips["cpu"] & clips["cuda"]) / len(clips["cpu"]), 6),
            }  # fmt: skip
    return found


def tf32() -> dict:
    from ingest.networks.network import pick_device
    from ingest.networks.registry import load_network
    from ingest.sounds.readers import read_dataset
    from ingest.sounds.sound import load

    with tempfile.TemporaryDirectory() as name:
        network = load_network("yamnet")
        entries = read_dataset("starter", Path(name)).entries[:64]
        sounds = [load(entry.path, sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s)[0] for entry in entries]
    inputs = network.prepare(torch.from_numpy(np.stack(sounds)))
    wanted, last = network.forward(inputs), {}
    for setting in ("as torch has it", "as Auricle has it"):
        torch.backends.cudnn.allow_tf32 = True
        if setting == "as Auricle has it":
            pick_device()
        network.module.to("cuda")
        last[setting] = float((network.forward(inputs.to("cuda")).cpu() - wanted).abs().max())
        network.module.to("cpu")
    return {"largest difference of YAMNet's outputs": last}


def esc50(source: str) -> dict:
    found = {}
    for device in ("cuda", "cpu"):
        with tempfile.TemporaryDirectory() as name:
            seconds = ingest(Path(name), "--network", "yamnet", "--dataset", "esc50", "--source", source, "--device", device)
            found[device] = {"seconds": round(seconds, 1), "clips": next(iter(matrices(Path(name)).values())).shape[1]}
    return found


def throughput() -> dict:
    """Clips of 10 s a second: AST base, and an encoder of Whisper large's size, every block's layers recorded."""
    from transformers import (
        ASTConfig,
        ASTFeatureExtractor,
        ASTForAudioClassification,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForAudioClassification,
    )

    from ingest.networks.registry import load_network
    from ingest.stages.extraction.recording import Recorder

    whisper = WhisperConfig(
        d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, decoder_layers=1, num_mel_bins=128,
        decoder_attention_heads=20, decoder_ffn_dim=5120,
    )  # fmt: skip
    found = {}
    for title, model, extractor, batch in (
        ("AST base", ASTForAudioClassification(ASTConfig(num_labels=527)), ASTFeatureExtractor(), 64),
        ("Whisper large encoder", WhisperForAudioClassification(whisper), WhisperFeatureExtractor(feature_size=128), 16),
    ):
        with tempfile.TemporaryDirectory() as name:
            model.save_pretrained(name)
            extractor.save_pretrained(name)
            network = load_network(name, clip_s=10.0)
        network.module.to("cuda")
        waveforms = torch.randn(batch, int(network.sample_rate_hz * 10)) * 0.1
        seconds = torch.full((batch,), 10.0, dtype=torch.float64)
        inputs = network.prepare_padded(waveforms.to("cuda"), seconds.to("cuda"))
        recorder = Recorder(network, network.layers, device="cuda")

        def bare(network=network, inputs=inputs) -> None:
            network.forward(inputs)

        def recorded(network=network, inputs=inputs, recorder=recorder, seconds=seconds) -> None:
            recorder.valid_s = seconds
            with torch.inference_mode(), recorder:
                network.forward(inputs)
                for layer in network.layers:
                    {name: values.cpu() for name, values in recorder.batch.pop(layer.name).reductions.items()}

        times = {task.__name__: median_seconds(task) for task in (bare, recorded)}
        found[title] = {
            "neurons": sum(layer.neurons for layer in network.layers), "batch": batch,
            **{f"{task}_clips_per_second": round(batch / value, 1) for task, value in times.items()},
            "ratio": round(times["recorded"] / times["bare"], 3), "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        }  # fmt: skip
        del network, inputs, recorder
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return found


def median_seconds(task: Callable[[], None]) -> float:
    """Of seven runs after two, the device's work included."""
    times = []
    for _ in range(9):
        torch.cuda.synchronize()
        start = time.perf_counter()
        task()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def neighbors(points: int = 706_560, dimensions: int = 2000) -> dict:
    from ingest.methods import clusters

    values = draw(points, dimensions)
    clusters.first_neighbors(values[:5000], device="cuda")
    start = time.perf_counter()
    found = clusters.first_neighbors(values, device="cuda")
    seconds = time.perf_counter() - start
    return {
        "points": points, "dimensions": dimensions, "seconds": round(seconds, 1), "recall": clusters.recall(found, values),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }  # fmt: skip


def table(*neurons: int) -> dict:
    """Neighbours on the device, and of the first number on the processor."""
    from ingest.methods.mapping import neighbors as method

    found: dict[str, dict] = {}
    for count in neurons or (50_000, 200_000):
        values, rows, times = draw(count, 500), {}, {}
        list(method.neighbors(values[:4000], device="cuda"))
        torch.cuda.reset_peak_memory_stats()
        for device in ("cuda", "cpu") if not found else ("cuda",):
            start = time.perf_counter()
            blocks = list(method.neighbors(values, device=device))
            times[device] = round(time.perf_counter() - start, 1)
            rows[device] = [np.concatenate([block[part] for block in blocks]) for part in (1, 2)]
        found[f"{count} neurons, 500 clips"] = {"seconds": times, "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
        if "cpu" in rows:
            (numbers, correlations), (other_numbers, other_correlations) = rows["cuda"], rows["cpu"]
            found[f"{count} neurons, 500 clips"] |= {
                "same_neighbors": round(float((numbers == other_numbers).mean()), 6),
                "largest_difference_of_correlations": float(np.abs(correlations - other_correlations).max()),
            }
    return found


def gpus() -> dict:
    found = {}
    for dataset in ("starter", "notes"):
        with tempfile.TemporaryDirectory() as name:
            folders = {option: Path(name) / option.strip("-").replace(" ", "-") for option in ("--device cuda", "--gpus all")}
            seconds, said = {}, {}
            for option, folder in folders.items():
                folder.mkdir()
                command = ["-m", "auricle", "ingest", "--network", "yamnet", "--dataset", dataset, "--warehouse", str(folder / "a.duckdb")]
                start = time.perf_counter()
                done = subprocess.run([sys.executable, *command, *option.split()], cwd=ROOT, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stdout + done.stderr)
                seconds[option], said[option] = round(time.perf_counter() - start, 1), done.stdout.strip().splitlines()[-1]
            one, other = (matrices(folder) for folder in folders.values())
            found[dataset] = {
                "seconds": seconds, "said": said["--gpus all"], "matrices": len(one), "clips": next(iter(one.values())).shape[1],
                "equal": one.keys() == other.keys() and all(one[key].tobytes() == other[key].tobytes() for key in one),
                "same_highest_clips": highest(folders["--device cuda"]) == highest(folders["--gpus all"]),
            }  # fmt: skip
    return found


def draw(points: int, dimensions: int) -> np.ndarray:
    """Rectified activations [points, dimensions] of families of 20 tuned alike, as in clusters.py; drawn on the device for speed."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    stimuli = normal(64, dimensions) / 8
    values = np.empty((points, dimensions), dtype=np.float32)
    for start in range(0, points, 20_000):
        rows = min(20_000, points - start)
        tuning = normal(rows // 20, 64).repeat_interleave(20, dim=0) + 0.5 * normal(rows, 64)
        values[start : start + rows] = (torch.exp(0.5 * normal(rows, 1)) * (tuning @ stimuli - 0.7).clamp(min=0)).cpu().numpy()
    return values


def main() -> None:
    """Measure, print, add to the file."""
    task, *arguments = sys.argv[1:]
    tasks: dict[str, Callable[..., dict]] = {
        "agreement": agreement, "tf32": tf32, "ingest": esc50, "throughput": throughput, "neighbors": lambda *n: neighbors(*map(int, n)),
        "table": lambda *n: table(*map(int, n)), "gpus": gpus,
    }  # fmt: skip
    found = tasks[task](*arguments)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    results.setdefault(device, {"torch": torch.__version__})[task] = found
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({task: found}, indent=1))


if __name__ == "__main__":
    main()
