"""What CREPE's outputs listen to is published: does the loudest sound of each lie at its own pitch?

    python benchmarks/crepe.py [crepe-tiny] [crepe]

Tones are synthesised at the 360 outputs' published pitches: sinusoids, and harmonic tones (all harmonics below 7.5 kHz, amplitudes 1 over
their number), phases from a seed. An output's response to a tone is its mean over frames that lie whole within the tone. Counted are the
outputs whose highest response over the pitches is at most 50 cents from the published one. Writes benchmarks/results/crepe.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from ingest.networks.crepe import FRAME, HOP, SAMPLE_RATE_HZ, STEP_CENTS, pitches_hz
from ingest.networks.network import Network
from ingest.networks.registry import load_network

RESULTS = Path(__file__).parent / "results" / "crepe.json"
CLIP_S, FRAMES, BATCH = 0.2, 4, 24
TOP_HZ, LEVEL, WITHIN_CENTS = 7500.0, 0.1, 50
USUAL_LOW_HZ = 50.0  # below which torchcrepe looks for no pitch unless told to


def tones(pitches: list[float], harmonic: bool) -> torch.Tensor:
    """Waveforms [pitches, samples] of one level."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(CLIP_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    sounds = []
    for pitch in pitches:
        numbers = np.arange(1, max(1, int(TOP_HZ / pitch)) + 1 if harmonic else 2)
        phases = rng.uniform(0, 2 * np.pi, len(numbers))
        sound = (np.sin(2 * np.pi * pitch * numbers[:, None] * time_s + phases[:, None]) / numbers[:, None]).sum(axis=0)
        sounds.append(LEVEL * sound / np.sqrt(np.mean(sound**2)))
    return torch.from_numpy(np.stack(sounds)).float()


def responses(network: Network, sounds: torch.Tensor) -> np.ndarray:
    """Mean of every output over whole frames: [sounds, outputs]."""
    first = FRAME // 2 // HOP + 1
    found = []
    for batch in sounds.split(BATCH):
        inputs = network.prepare(batch).unflatten(0, (len(batch), network.windows))[:, first : first + FRAMES]
        found.append(network.forward(inputs.flatten(0, 1)).unflatten(0, (len(batch), FRAMES)).mean(dim=1))
    return torch.cat(found).double().numpy()


def judged(found: np.ndarray, pitches: np.ndarray) -> dict[str, object]:
    """Counts and errors over outputs; rows of `found` are pitches, columns outputs."""
    off = STEP_CENTS * (found.argmax(axis=0) - np.arange(len(pitches)))
    right, usual = np.abs(off) <= WITHIN_CENTS, pitches >= USUAL_LOW_HZ
    return {
        "outputs": len(pitches),
        "within_50_cents": int(right.sum()),
        "share": round(float(right.mean()), 4),
        "outputs_from_50_hz": int(usual.sum()),
        "within_50_cents_from_50_hz": int(right[usual].sum()),
        "share_from_50_hz": round(float(right[usual].mean()), 4),
        "median_absolute_cents": float(np.median(np.abs(off))),
        "lowest_peak": round(float(found.max(axis=0).min()), 4),
        "beyond": {f"{pitches[index]:.1f} Hz": int(off[index]) for index in np.flatnonzero(~right)},
    }


def main(names: list[str]) -> None:
    """Measure the networks named and keep the results beside those of others."""
    pitches = pitches_hz()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in names:
        network = load_network(name, clip_s=CLIP_S)
        results[name] = {
            kind: judged(responses(network, tones(pitches, kind == "harmonic")), np.array(pitches)) for kind in ("sinusoids", "harmonic")
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        for kind, row in results[name].items():
            print(name, kind, json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:] or ["crepe-tiny", "crepe"])
