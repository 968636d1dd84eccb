"""Targets of dissection trained on a data set's own classes, in the three ways of AND (2024, Table 1): from scratch, fine-tuned, frozen.

A trained network is one safetensors file: its tensors, and how it came about as JSON in the header. It takes clips of 5 s.
"""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from ingest.ablations import class_logits, prepare_clips
from ingest.checkpoints import load_exactly, read_safetensors, tensor_sha256
from ingest.datasets import Entry, Listing
from ingest.metadata import show
from ingest.networks import Layer, Network, load_network
from ingest.readouts import class_counts
from ingest.sound import SoundError, load
from ingest.yamnet import ChannelsLast, Yamnet, expected_shapes, patches
from warehouse.store import UserError

CLIP_S = 5.0
BASES = {"scratch": ("cnn",), "fine-tuned": ("yamnet",), "frozen": ("yamnet", "whisper-tiny.en")}
"""What can be trained in each way."""
Progress = Callable[[int, int], None]
HEADER = "auricle_trained"
BATCH_CLIPS = 8
SMOOTHING = 0.1
WINDOWS = 2  # of a clip's ten that a step of fine-tuning sees
GAIN_DEVIATION = 0.5  # of natural logarithms of magnitude: 4 dB
TOKENS_PER_S = 50  # of Whisper's encoder
FEATURES = {"yamnet": 1024, "whisper-tiny.en": 384}  # that the classifier takes
CNN_CHANNELS = (24, 48, 96, 192)
CNN_FRAMES, CNN_SHOWN = 256, 128  # frames of 20 ms in a clip, and of them those that a step of training sees
CNN_MEAN, CNN_DEVIATION = -2.2, 2.8  # of log-mel values of everyday sounds, roughly


@dataclass(frozen=True)
class Recipe:
    """Passes over the training clips, clips a step, learning rate at the start (it ends at 0), and weight decay (AdamW)."""

    epochs: int
    batch: int
    rate: float
    decay: float


HEAD = Recipe(epochs=30, batch=64, rate=3e-3, decay=0.0)
# Chosen on ESC-50's fold 1 after earlier results on fold 5 had been seen: accuracies on fold 5 may be a little too good.
RECIPES = {"scratch": Recipe(40, 32, 3e-3, 1e-2), "fine-tuned": Recipe(6, 32, 2e-4, 0.0), "frozen": HEAD}


@dataclass(frozen=True)
class Trained:
    """A trained network and how right it is on the clips of the fold held out: `correct` of `total`, each [classes].

    `base_sha256` is the checkpoint that it started from, None from scratch.
    """

    way: str
    base: str
    classes: list[str]
    dataset: str
    tensors: dict[str, torch.Tensor]
    base_sha256: str | None
    seed: int
    fold: int
    recipe: Recipe
    correct: list[int]
    total: list[int]

    @property
    def test_accuracy(self) -> float:
        """Share of the clips of the held-out fold that it gets right."""
        return sum(self.correct) / sum(self.total)

    def save(self, path: Path) -> None:
        """Write the safetensors file that `load_trained` reads, whole or not at all."""
        from safetensors.torch import save_file

        header = asdict(replace(self, tensors={})) | {"test_accuracy": self.test_accuracy}
        del header["tensors"]
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, unfinished, {HEADER: json.dumps(header)})
        unfinished.replace(path)


# --- The networks -------------------------------------------------------------------------------------------------------------------------


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

        from ingest.whisper import DIMENSIONS

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
        checkpoint_sha256=tensor_sha256(tensors), output_names=classes, prepare=patches,
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

    from ingest.transformer_networks import build_network, whisper_features

    model = PooledEncoder(len(classes))
    load_exactly(model, tensors, origin)
    prepare = whisper_features(WhisperFeatureExtractor(chunk_length=int(CLIP_S)))
    return build_network("whisper-tiny.en", model, prepare, sample_rate_hz=16000, clip_s=CLIP_S, input_s=CLIP_S, output_names=classes)


NETWORKS: dict[str, Callable[[list[str], dict[str, torch.Tensor], str | Path], Network]] = {
    "cnn": cnn_network,
    "yamnet": yamnet_network,
    "whisper-tiny.en": whisper_network,
}


def load_trained(path: Path) -> Network:
    """The network in a file that `Trained.save` wrote; its last layer is `classifier`, whose raw logits are what it puts out.

    Raises UserError for any other file, or one whose tensors do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no trained network at {path}: give a safetensors file as benchmarks/train_targets.py writes it")
    tensors, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata[HEADER])
        way, base, classes = str(header["way"]), str(header["base"]), header["classes"]
        right, tested = sum(header["correct"]), sum(header["total"])
        note = f"{base} {way} on {header['dataset']} without fold {header['fold']}, of which it gets {right} of {tested} clips right."
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} does not say how it was trained: give a file as benchmarks/train_targets.py writes it") from None
    if base not in BASES.get(way, ()) or not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or not classes:
        raise UserError(f"{path} holds {base[:40]!r} trained {way[:40]!r}, which this version does not know, or no class names")
    network = NETWORKS[base](classes, tensors, path)
    network.name, network.note = f"{base}-{way}", note
    return network


# --- Training -----------------------------------------------------------------------------------------------------------------------------


def train(
    way: str,
    base: str,
    listing: Listing,
    *,
    fold: int = 5,
    seed: int = 0,
    epochs: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Trained:
    """Train `base` in a `way` (see BASES) on the main label set of a data set, on every fold but `fold`, which then tests it.

    frozen: a linear classifier on the mean feature of a clip, everything below as published. fine-tuned: the same first, then the whole
    network. scratch: a small CNN from random weights. `epochs` replaces the recipe's, of the last step. On a CPU with equally many
    threads the same seed gives the same network, bit for bit. `progress` is told (epochs done, of how many). Raises UserError when the way
    or base is not known, or folds or labels are missing.
    """
    if base not in BASES.get(way, ()):
        known = "; ".join(f"{name}: {', '.join(bases)}" for name, bases in BASES.items())
        raise UserError(f"{base} cannot be trained {way}: choose of {known}")
    recipe = RECIPES[way] if epochs is None else replace(RECIPES[way], epochs=epochs)
    if recipe.epochs < 1:
        raise UserError(f"{recipe.epochs} epochs train nothing: give at least 1")
    classes, entries, labels = _main_labels(listing, fold)
    held_out = torch.tensor([entry.fold == fold for entry in entries])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors, base_sha256 = _start(base, len(classes))
        network = NETWORKS[base](classes, tensors, base)
        network.module.to(device)
        inputs = prepare_clips(network, _waveforms(network, entries), len(entries)).unflatten(0, (-1, network.windows))
        clips = Clips(inputs, torch.tensor(labels), (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0])
        if way == "scratch":
            _train_cnn(network, clips, recipe, progress)
        else:
            _train_head(network, clips, recipe if way == "frozen" else HEAD, progress if way == "frozen" else None)
        if way == "fine-tuned":
            _fine_tune(network, clips, recipe, progress)
    logits = class_logits(network, (inputs[rows].flatten(0, 1) for rows in clips.test.split(BATCH_CLIPS)))
    correct, total = class_counts(logits.argmax(axis=1), clips.labels[clips.test].numpy(), len(classes))
    state = {name.removeprefix("model."): tensor.cpu() for name, tensor in network.module.state_dict().items()}
    return Trained(way, base, classes, listing.name, state, base_sha256, seed, fold, recipe, correct.tolist(), total.tolist())


@dataclass(frozen=True)
class Clips:
    """Prepared inputs [clips, windows, ...] and class numbers [clips]; the rows to learn from, and those held out."""

    inputs: torch.Tensor
    labels: torch.Tensor
    training: torch.Tensor
    test: torch.Tensor


def _main_labels(listing: Listing, fold: int) -> tuple[list[str], list[Entry], list[int]]:
    """Classes of the main label set, the clips that have one (the first, where several) and a fold, and their class numbers."""
    if not listing.label_sets:
        raise UserError(f"data set {listing.name} has no labels: a network is trained on those of its main label set")
    main, classes = next(iter(listing.label_sets.items()))
    entries = [entry for entry in listing.entries if entry.fold is not None and entry.labels.get(main)]
    labels = [classes.index(entry.labels[main][0]) for entry in entries]
    if not any(entry.fold == fold for entry in entries):
        raise UserError(f"data set {listing.name} has no labelled clip in fold {fold}: name a fold that it has, to test on")
    missing = set(range(len(classes))) - {label for entry, label in zip(entries, labels, strict=True) if entry.fold != fold}
    if missing:
        raise UserError(f"data set {listing.name} has no clip of {show(classes[min(missing)])} outside fold {fold}: it cannot be learned")
    return classes, entries, labels


def _waveforms(network: Network, entries: list[Entry]) -> Iterator[torch.Tensor]:
    """Batches [clips, samples] in order."""

    def read(entry: Entry) -> np.ndarray:
        try:
            return load(entry.path, sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s)[0]
        except SoundError as error:
            raise UserError(f"{entry.path} cannot be learned from: {error}; take it out of the data set") from None

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(entries), BATCH_CLIPS):
            yield torch.from_numpy(np.stack(list(pool.map(read, entries[start : start + BATCH_CLIPS]))))


def _start(base: str, classes: int) -> tuple[dict[str, torch.Tensor], str | None]:
    """Tensors of a network before training, its classifier all zeros, and the checksum of the checkpoint they come from."""
    if base == "cnn":
        return cnn_module(classes).state_dict(), None
    source = load_network(base, clip_s=CLIP_S)
    state: dict[str, Any] = dict(source.module.state_dict())
    if base == "yamnet":
        del state["logits.weight"], state["logits.bias"]
    else:
        state = {name.replace("model.", "encoder.", 1): tensor for name, tensor in state.items()}
        positions = "encoder.embed_positions.weight"
        state[positions] = state[positions][: round(CLIP_S * TOKENS_PER_S)]
    width = FEATURES[base]
    return state | {"classifier.weight": torch.zeros(classes, width), "classifier.bias": torch.zeros(classes)}, source.checkpoint_sha256


def _optimise(
    logits: Callable[[torch.Tensor], torch.Tensor], parameters: list[nn.Parameter], clips: Clips, recipe: Recipe, progress: Progress | None
) -> None:
    """Cross-entropy with smoothed labels by AdamW, the rate falling to 0 along a cosine. `logits` takes clip numbers to [clips, classes]."""
    rows = clips.training
    steps = max(1, len(rows) // recipe.batch)
    optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        for batch in rows[torch.randperm(len(rows))].tensor_split(steps):
            found = logits(batch)
            loss = nn.functional.cross_entropy(found, clips.labels[batch].to(found.device), label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if progress:
            progress(epoch + 1, recipe.epochs)


def _train_head(network: Network, clips: Clips, recipe: Recipe, progress: Progress | None) -> None:
    """Train the classifier on what it takes, averaged over a clip's windows and standardised; the standardising goes into its weights."""
    classifier = network.module.get_submodule(network.layers[-1].module)
    assert isinstance(classifier, nn.Linear)
    found: list[torch.Tensor] = []
    handle = classifier.register_forward_pre_hook(
        lambda _module, given: found.append(given[0].unflatten(0, (-1, network.windows)).mean(dim=1))
    )
    try:
        class_logits(network, (part.flatten(0, 1) for part in clips.inputs.split(BATCH_CLIPS)))
    finally:
        handle.remove()
    features = torch.cat(found).clone()  # made without gradients, which a copy may take part in
    seen = features[clips.training.to(features.device)]
    mean, deviation = seen.mean(dim=0), seen.std(dim=0).clamp_min(1e-6)
    standard = (features - mean) / deviation
    head = nn.Linear(classifier.in_features, classifier.out_features, device=features.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    _optimise(lambda rows: head(standard[rows.to(standard.device)]), list(head.parameters()), clips, recipe, progress)
    with torch.no_grad():
        classifier.weight.copy_(head.weight / deviation)
        classifier.bias.copy_(head.bias - classifier.weight @ mean)


def _fine_tune(network: Network, clips: Clips, recipe: Recipe, progress: Progress | None) -> None:
    """Train all of YAMNet on random windows of every clip at random gains."""
    module = network.module
    # The kernels of stride 2 keep the row and column of zeros that stand for TensorFlow's padding: see ConvolutionReLU.
    padded = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (4, 4)]
    inside = nn.functional.pad(torch.ones(3, 3), (1, 0, 1, 0)).to(padded[0].device)

    def logits(rows: torch.Tensor) -> torch.Tensor:
        shown = torch.rand(len(rows), network.windows).argsort(dim=1)[:, :WINDOWS]
        values = clips.inputs[rows[:, None], shown] + GAIN_DEVIATION * torch.randn(len(rows), 1, 1, 1, 1)
        return module(values.flatten(0, 1).to(inside.device)).unflatten(0, (-1, WINDOWS)).mean(dim=1)

    module.requires_grad_(True)
    handles = [weight.register_hook(lambda gradient: gradient * inside) for weight in padded]
    _optimise(logits, list(module.parameters()), clips, recipe, progress)
    for handle in handles:
        handle.remove()
    module.requires_grad_(False)


def _train_cnn(network: Network, clips: Clips, recipe: Recipe, progress: Progress | None) -> None:
    """Train the small CNN on a random part of every clip at random gains, two bands of frequency masked (SpecAugment, Park et al., 2019)."""
    module = network.module.requires_grad_(True).train()
    device = next(module.parameters()).device

    def logits(rows: torch.Tensor) -> torch.Tensor:
        starts = torch.randint(0, CNN_FRAMES - CNN_SHOWN + 1, (len(rows), 1))
        values = clips.inputs[rows[:, None], 0, 0, starts + torch.arange(CNN_SHOWN)][:, None]
        values = values + GAIN_DEVIATION / CNN_DEVIATION * torch.randn(len(rows), 1, 1, 1)
        for low, width in zip(torch.randint(0, 56, (2,)).tolist(), torch.randint(0, 9, (2,)).tolist(), strict=True):
            values[..., low : low + width] = 0
        return module(values.to(device))

    _optimise(logits, list(module.parameters()), clips, recipe, progress)
    module.requires_grad_(False).eval()
