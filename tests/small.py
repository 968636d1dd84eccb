"""A small real network and a small real data set."""

import contextlib
import os
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

from ingest.networks.checkpoints import tensor_sha256
from ingest.networks.network import Layer, Network

RATE, CLIP_S = 8000, 1.0


def spectrogram(waveforms: torch.Tensor) -> torch.Tensor:
    """[clips, samples] to [clips, 1, 32 frames, 16 bands]."""
    frames = waveforms.unfold(1, 250, 250)
    return torch.fft.rfft(frames).abs()[:, None, :, :64].unflatten(3, (16, 4)).mean(dim=4)


def small_network() -> Network:
    """Two convolutions and a classifier; weights from a seed."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3, stride=2, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3)
    )  # fmt: skip
    layers = [
        Layer("conv1", "1", (5, 32, 16), "channel,time,frequency", non_negative=True),
        Layer("conv2", "3", (7, 16, 8), "channel,time,frequency"),
        Layer("logits", "6", (3,), "unit"),
    ]
    return Network(
        "small", "test", module, sample_rate_hz=RATE, clip_s=CLIP_S, layers=layers, checkpoint_sha256=tensor_sha256(module.state_dict()),
        output_names=["low", "high", "noise"], prepare=spectrogram,
    )  # fmt: skip


def write_sounds(folder: Path, clips: int = 30, seed: int = 0) -> Path:
    """A `folder` data set of three classes: low tones, high tones, noise; some clips equal, one silent, of several lengths and rates."""
    rng = np.random.default_rng(seed)
    for index in range(clips):
        kind = ("low", "high", "noise")[index % 3]
        rate = (8000, 16000)[index % 2]
        time = np.arange(int(rate * (0.5 + 0.25 * (index % 4)))) / rate
        pitch = {"low": 200, "high": 2500, "noise": 0}[kind] * (1 + (index // 6) * 0.05)
        sound = 0.1 * rng.standard_normal(len(time)) if kind == "noise" else 0.3 * np.sin(2 * np.pi * pitch * time)
        if index == 5:
            sound *= 0
        (folder / kind).mkdir(parents=True, exist_ok=True)
        file = folder / kind / f"{index:03d}.wav"
        soundfile.write(file, sound, rate)
        os.utime(file, (0, 0))  # as files are that have lain there: their hashes are kept
    return folder


def write_label_map(path: Path) -> Path:
    """The classes of the sounds are the outputs of the network."""
    path.write_text("class,names\nlow,low\nhigh,high\nnoise,noise\n")
    return path


def planted_network() -> Network:
    """A network whose neurons are known: 0-3 hear low tones and alone carry class low, 4-7 noise, 8-23 answer to everything and carry nothing."""
    bands = nn.Conv2d(1, 24, (1, 16))
    mix = nn.Linear(24, 3)
    with torch.no_grad():
        for parameter in (bands.weight, bands.bias, mix.weight, mix.bias):
            parameter.zero_()
        bands.weight[:4, 0, 0, 1] = torch.tensor([1.0, 0.9, 1.1, 0.95])
        bands.weight[4:8, 0, 0, 10] = torch.tensor([1.0, 0.9, 1.1, 0.95])
        for channel in range(8, 24):
            bands.weight[channel, 0, 0, channel % 16] = 0.01
            bands.bias[channel] = 2 + channel / 8
        mix.weight[0, :4], mix.weight[2, 4:8] = 0.25, 1.0
        mix.bias[:] = torch.tensor([-3.0, 0.0, -2.0])
    module = nn.Sequential(bands, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), mix)
    layers = [Layer("bands", "1", (24, 32, 1), "channel,time,frequency", non_negative=True), Layer("logits", "4", (3,), "unit")]
    return Network(
        "planted", "test", module, sample_rate_hz=RATE, clip_s=CLIP_S, layers=layers, checkpoint_sha256=tensor_sha256(module.state_dict()),
        output_names=["low", "high", "noise"], prepare=spectrogram,
    )  # fmt: skip


def reading_network() -> Network:
    """The planted network as one of sounds and texts: a text's embedding is what it says of low, high and noise, first come, nothing else."""
    network = planted_network()
    network.output_names = None

    def text_embeddings(texts):
        return torch.tensor([[float(word in text.split()) for word in ("low", "high", "noise")] for text in texts])

    network.text_embeddings = text_embeddings  # type: ignore[attr-defined]
    return network


def unnamed_network() -> Network:
    """The planted network as published checkpoints often are: its outputs are LABEL_0, LABEL_1, LABEL_2."""
    network = planted_network()
    network.output_names = ["LABEL_0", "LABEL_1", "LABEL_2"]
    return network


def twice_network() -> Network:
    """The planted network with its bands twice, one layer above the other."""
    network = planted_network()
    same = nn.Conv2d(24, 24, 1)
    with torch.no_grad():
        same.weight[:] = torch.eye(24)[:, :, None, None]
        same.bias[:] = 0
    bands, relu, *rest = network.module
    module = nn.Sequential(bands, relu, same, nn.ReLU(), *rest)
    layers = [
        network.layers[0],
        Layer("again", "3", (24, 32, 1), "channel,time,frequency", non_negative=True),
        Layer("logits", "6", (3,), "unit"),
    ]
    return Network(
        "planted", "test", module, sample_rate_hz=RATE, clip_s=CLIP_S, layers=layers, checkpoint_sha256=tensor_sha256(module.state_dict()),
        output_names=["low", "high", "noise"], prepare=spectrogram,
    )  # fmt: skip


class Silent:
    """Says nothing."""

    def say(self, line):
        pass

    @contextlib.contextmanager
    def stage(self, title):
        yield lambda *_: None


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)
