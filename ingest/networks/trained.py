"""Targets of dissection that were trained on a data set's own classes (AND 2024, Table 1): see ingest.networks.training.

A trained network is one safetensors file: its tensors, and how it came about as JSON in the header. It takes clips of 5 s, AST and BEATs those
that they were trained with.
"""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ingest.networks.beats import beats_network, read_config
from ingest.networks.checkpoints import load_exactly, read_safetensors, tensor_sha256
from ingest.networks.network import HeldOut, Layer, Network
from ingest.networks.yamnet import PADDING, ChannelsLast, Yamnet, expected_shapes, patches
from warehouse.store import UserError, first_line

CLIP_S = 5.0
BASES = {"scratch": ("cnn",), "fine-tuned": ("yamnet", "ast", "beats"), "frozen": ("yamnet", "whisper-tiny.en", "ast", "beats")}
"""What can be trained in each way."""
GIVEN = ("ast", "beats")
"""Bases that a user's checkpoint gives; what it says of them beside the tensors goes into the file's header as `body`."""
HEADER = "auricle_trained"
TOKENS_PER_S = 50  # of Whisper's encoder
FEATURES = {"yamnet": 1024, "whisper-tiny.en": 384}  # that the classifier takes
CNN_CHANNELS = (24, 48, 96, 192)
CNN_FRAMES = 256  # of 20 ms in a clip
CNN_MEAN, CNN_DEVIATION = -2.2, 2.8  # of log-mel values of everyday sounds, roughly


class MeanAndPeak(nn.Module):
    """Mean over frequency, then mean over time plus maximum over time (Kong et al., 2020, PANNs): short sounds are not drowned."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """[clips, channels, time, frequency] to [clips, channels]."""
        course = values.mean(dim=3)
        return course.mean(dim=2) + course.amax(dim=2)


class PooledEncoder(nn.Module):
    """Whisper's encoder on a clip alone, without the 25 s of silence that it is otherwise padded with, and a classifier on the mean token."""

    main_input_name = "input_features"

    def __init__(self, classes: int) -> None:
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        from ingest.networks.whisper import DIMENSIONS

        super().__init__()
        self.config = WhisperConfig(**DIMENSIONS, max_source_positions=round(CLIP_S * TOKENS_PER_S))
        self.encoder = WhisperEncoder(self.config)
        self.classifier = nn.Linear(self.config.d_model, classes)

    def forward(self, input_features: torch.Tensor) -> SimpleNamespace:
        """Log-mel [clips, 80, 500] to `logits` [clips, classes]."""
        return SimpleNamespace(logits=self.classifier(self.encoder(input_features).last_hidden_state.mean(dim=1)))


def log_mel_frames(waveforms: torch.Tensor) -> torch.Tensor:
    """YAMNet's log-mel bands in frames of 20 ms, standardised: waveforms [clips, 80000] at 16 kHz to [clips, 1, 256, 64]."""
    cut = patches(waveforms).unflatten(0, (len(waveforms), -1))[:, :, 0]  # each patch begins in the middle of the one before
    frames = torch.cat([cut[:, :, :48].flatten(1, 2), cut[:, -1, 48:]], dim=1)[:, : 2 * CNN_FRAMES]
    return (frames.unflatten(1, (-1, 2)).mean(dim=2)[:, None] - CNN_MEAN) / CNN_DEVIATION


def yamnet_network(classes: list[str], tensors: dict[str, torch.Tensor], origin: str | Path) -> Network:
    """YAMNet with another classifier: 27 rectified convolutions, and the logits of a window."""
    bare = Yamnet({name: torch.zeros(shape) for name, shape in expected_shapes().items()}, None, CLIP_S)
    module = nn.Sequential(OrderedDict(list(bare.module.named_children())[:-2], classifier=nn.Linear(1024, len(classes))))
    load_exactly(module, tensors, origin)
    return Network(
        "yamnet", "mobilenet", module.requires_grad_(False), sample_rate_hz=bare.sample_rate_hz, clip_s=CLIP_S, windows=bare.windows,
        window_s=bare.window_s, window_hop_s=bare.window_hop_s, layers=[*bare.layers[:-1], Layer("classifier", "classifier", (len(classes),), "unit")],
        checkpoint_sha256=tensor_sha256(tensors), output_names=classes, prepare=patches, padding=PADDING,
    )  # fmt: skip


def cnn_module(classes: int) -> nn.Sequential:
    """Four convolutions of 4 x 4, normalised and rectified, each halving time and frequency; from [clips, 1, 256, 64] to logits."""
    blocks: dict[str, nn.Module] = {
        f"conv{number}": nn.Sequential(nn.Conv2d(given, channels, 4, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        for number, (given, channels) in enumerate(itertools.pairwise((1, *CNN_CHANNELS)), start=1)
    }
    module = nn.Sequential(
        OrderedDict(layout=ChannelsLast(), **blocks, pool=MeanAndPeak(), classifier=nn.Linear(CNN_CHANNELS[-1], classes))
    )
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations


def cnn_network(classes: list[str], tensors: dict[str, torch.Tensor], origin: str | Path) -> Network:
    """`cnn_module` over the clip as a whole: four rectified convolutions, and the logits."""
    module = cnn_module(len(classes))
    load_exactly(module, tensors, origin)
    layers = [
        Layer(f"conv{number}", f"conv{number}", (channels, CNN_FRAMES >> number, 64 >> number), "channel,time,frequency", non_negative=True)
        for number, channels in enumerate(CNN_CHANNELS, start=1)
    ]
    return Network(
        "cnn", "cnn", module.requires_grad_(False), sample_rate_hz=16000, clip_s=CLIP_S, window_s=CNN_FRAMES * 0.02,
        layers=[*layers, Layer("classifier", "classifier", (len(classes),), "unit")], checkpoint_sha256=tensor_sha256(tensors),
        output_names=classes, prepare=log_mel_frames,
    )  # fmt: skip


def whisper_network(classes: list[str], tensors: dict[str, torch.Tensor], origin: str | Path) -> Network:
    """Whisper tiny.en's encoder with a classifier: attention, mlp_in and mlp_out of four blocks, and the logits."""
    from transformers import WhisperFeatureExtractor

    from ingest.networks.transformer import build_network, whisper_features

    model = PooledEncoder(len(classes))
    load_exactly(model, tensors, origin)
    prepare = whisper_features(WhisperFeatureExtractor(chunk_length=int(CLIP_S)))
    return build_network("whisper-tiny.en", model, prepare, sample_rate_hz=16000, clip_s=CLIP_S, input_s=CLIP_S, output_names=classes)


def ast_network(classes: list[str], tensors: dict[str, torch.Tensor], origin: str | Path, body: Mapping[str, Any]) -> Network:
    """An Audio Spectrogram Transformer of transformers with another classifier; `body` holds `config`, `preprocessor` and `clip_s`."""
    import transformers

    from ingest.networks.transformer import build_network, preparation

    model = transformers.ASTForAudioClassification(transformers.ASTConfig(**body["config"] | {"id2label": dict(enumerate(classes))}))
    load_exactly(model, tensors, origin)
    extractor = transformers.ASTFeatureExtractor(**body["preprocessor"])
    prepare, prepare_padded, input_s = preparation(transformers, extractor, "ast")
    return build_network(
        "ast", model, prepare, prepare_padded=prepare_padded, sample_rate_hz=int(extractor.sampling_rate), clip_s=float(body["clip_s"]),
        input_s=input_s, output_names=classes,
    )  # fmt: skip


def beats_classifier(classes: list[str], tensors: dict[str, torch.Tensor], origin: str | Path, body: Mapping[str, Any]) -> Network:
    """BEATs with another predictor; `body` holds `cfg` and `clip_s`."""
    config = read_config({**body["cfg"], "finetuned_model": True, "predictor_class": len(classes)}, origin)
    return beats_network(Path(origin), config, tensors, classes, float(body["clip_s"]))


NETWORKS: dict[str, Callable[..., Network]] = {
    "cnn": cnn_network, "yamnet": yamnet_network, "whisper-tiny.en": whisper_network, "ast": ast_network, "beats": beats_classifier,
}  # fmt: skip


def make(base: str, classes: list[str], tensors: dict[str, torch.Tensor], origin: str | Path, body: Mapping[str, Any] | None) -> Network:
    """The network of a base with a classifier for these classes. Raises UserError for tensors or a body that do not fit."""
    if base not in GIVEN:
        return NETWORKS[base](classes, tensors, origin)
    try:
        return NETWORKS[base](classes, tensors, origin, body or {})
    except UserError:
        raise
    except Exception as error:  # the library raises nearly every kind of error for a bad configuration
        raise UserError(f"{origin} does not say what {base} is ({type(error).__name__}: {first_line(error)}): train it again") from None


def load_trained(path: Path) -> Network:
    """The network in a file that `Trained.save` wrote; its last layer is `classifier`, whose raw logits are what it puts out.

    Raises UserError for any other file, or one whose tensors do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no trained network at {path}: give a safetensors file as `auricle train` writes it")
    tensors, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata[HEADER])
        way, base, classes = str(header["way"]), str(header["base"]), header["classes"]
        right, tested = sum(header["correct"]), sum(header["total"])
        held_out = HeldOut(str(header["dataset"]), int(header["fold"]), header.get("held_out_clips"))
        note = f"{base} {way} on {header['dataset']} without fold {header['fold']}, of which it gets {right} of {tested} clips right."
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} does not say how it was trained: give a file as `auricle train` writes it") from None
    if base not in BASES.get(way, ()) or not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or not classes:
        raise UserError(f"{path} holds {base[:40]!r} trained {way[:40]!r}, which this version does not know, or no class names")
    network = make(base, classes, tensors, path, header.get("body"))
    network.name, network.note, network.held_out = f"{base}-{way}", note, held_out
    return network
