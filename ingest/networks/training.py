"""Training targets of dissection on a data set's own classes, in the three ways of AND (2024, Table 1): from scratch, fine-tuned, frozen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ingest.networks.beats import read_published
from ingest.networks.checkpoints import save_safetensors, tensor_sha256
from ingest.networks.network import Network
from ingest.networks.passes import Sounds, class_logits, prepare_clips, stack
from ingest.networks.registry import load_network
from ingest.networks.trained import BASES, CLIP_S, CNN_DEVIATION, CNN_FRAMES, FEATURES, GIVEN, HEADER, TOKENS_PER_S, cnn_module, make
from ingest.sounds.listing import Entry, Listing
from ingest.sounds.metadata import show
from ingest.sounds.sound import SoundError, load
from warehouse.store import UserError, sha256_json

Progress = Callable[[int, int], None]
BATCH_CLIPS = 8
SMOOTHING = 0.1
WINDOWS = 2  # of a clip's ten that a step of fine-tuning sees
GAIN_DEVIATION = 0.5  # of natural logarithms of magnitude: 4 dB
CNN_SHOWN = 128  # frames of a clip that a step of training sees


@dataclass(frozen=True)
class Recipe:
    """Passes over the training clips, clips a step, learning rate at the start (it ends at 0), and weight decay (AdamW)."""

    epochs: int
    batch: int
    rate: float
    decay: float


WHOLE = Recipe(epochs=10, batch=16, rate=1e-5, decay=1e-2)  # of transformers; AST's own for ESC-50 is of this rate
HEAD = Recipe(epochs=30, batch=64, rate=3e-3, decay=0.0)
# Chosen on ESC-50's fold 1 after earlier results on fold 5 had been seen: accuracies on fold 5 may be a little too good.
RECIPES = {"scratch": Recipe(40, 32, 3e-3, 1e-2), "fine-tuned": Recipe(6, 32, 2e-4, 0.0), "frozen": HEAD}


@dataclass(frozen=True)
class Trained:
    """A trained network and how right it is on the clips of the fold held out: `correct` of `total`, each [classes].

    `base_sha256` is the checkpoint that it started from, None from scratch; `held_out_clips` as in HeldOut, `body` as in trained.GIVEN.
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
    held_out_clips: str | None = None
    body: dict[str, Any] | None = None

    @property
    def test_accuracy(self) -> float:
        """Share of the clips of the held-out fold that it gets right."""
        return sum(self.correct) / sum(self.total)

    def save(self, path: Path) -> None:
        """Write the safetensors file that `load_trained` reads, whole or not at all."""
        header = asdict(replace(self, tensors={})) | {"test_accuracy": self.test_accuracy}
        del header["tensors"]
        save_safetensors(path, self.tensors, {HEADER: json.dumps(header)})


def train(
    way: str,
    base: str,
    listing: Listing,
    *,
    fold: int | None = 5,
    seed: int = 0,
    epochs: int | None = None,
    weights: str | None = None,
    clip_s: float = CLIP_S,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Trained:
    """Train `base` in a `way` (see BASES) on the main label set of a data set, on every fold but `fold` (None: the last), which then tests it.

    frozen: a linear classifier on the mean feature of a clip, everything below as published. fine-tuned: the same first, then the whole
    network. scratch: a small CNN from random weights. `weights` and `clip_s` are of bases that a checkpoint gives: ast (a folder or hub name of
    transformers) and beats (a published file). `epochs` replaces the recipe's, of the last step. On a CPU with equally many
    threads the same seed gives the same network, bit for bit. `progress` is told (epochs done, of how many). Raises UserError when the way
    or base is not known, or folds or labels are missing.
    """
    if base not in BASES.get(way, ()):
        known = "; ".join(f"{name}: {', '.join(bases)}" for name, bases in BASES.items())
        raise UserError(f"{base} cannot be trained {way}: choose of {known}")
    recipe = WHOLE if way == "fine-tuned" and base in GIVEN else RECIPES[way]
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    if recipe.epochs < 1:
        raise UserError(f"{recipe.epochs} epochs train nothing: give at least 1")
    if base not in GIVEN and (weights is not None or clip_s != CLIP_S):
        raise UserError(f"{base} brings its own weights and takes clips of {CLIP_S:g} s: leave out weights and seconds of a clip")
    if fold is None:
        fold = max((entry.fold for entry in listing.entries if entry.fold is not None), default=0)
        if not fold:
            raise UserError(f"data set {listing.name} has no folds to leave one out: draw some, --folds 5, or folds = 5 in a study")
    classes, entries, labels = _main_labels(listing, fold)
    held_out = torch.tensor([entry.fold == fold for entry in entries])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = _given(base, weights, len(classes), clip_s) if base in GIVEN else (*_start(base, len(classes)), None)
        tensors, base_sha256, body = start
        network = make(base, classes, tensors, base, body)
        network.module.to(device)
        inputs = prepare_clips(network, _waveforms(network, entries), len(entries)).unflatten(0, (-1, network.windows))
        if empty := inputs.flatten(1).isnan().all(dim=1).nonzero()[:, 0].tolist():
            raise UserError(f"{entries[empty[0]].path} is too short for {base}: take it out of the data set")
        clips = Clips(inputs, torch.tensor(labels), (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0])
        if way == "scratch":
            _train_cnn(network, clips, recipe, progress)
        else:
            _train_head(network, clips, recipe if way == "frozen" else HEAD, progress if way == "frozen" else None)
        if way == "fine-tuned":
            (_fine_tune_whole if base in GIVEN else _fine_tune)(network, clips, recipe, progress)
    logits = class_logits(network, (inputs[rows].flatten(0, 1) for rows in clips.test.split(BATCH_CLIPS)))
    truth = clips.labels[clips.test].numpy()
    right = truth[logits.argmax(axis=1) == truth]
    correct, total = (np.bincount(of, minlength=len(classes)).tolist() for of in (right, truth))
    state = {name.removeprefix("model."): tensor.cpu().clone() for name, tensor in network.module.state_dict().items()}
    unseen = sha256_json(sorted(entry.name for entry in listing.entries if entry.fold == fold))
    return Trained(way, base, classes, listing.name, state, base_sha256, seed, fold, recipe, correct, total, unseen, body)


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


def _waveforms(network: Network, entries: list[Entry]) -> Iterator[Sounds]:
    """Batches in order."""

    def read(entry: Entry) -> tuple[np.ndarray, float]:
        try:
            return load(entry.path, sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s)
        except SoundError as error:
            raise UserError(f"{entry.path} cannot be learned from: {error}; take it out of the data set") from None

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(entries), BATCH_CLIPS):
            yield stack(list(pool.map(read, entries[start : start + BATCH_CLIPS])))


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


def _given(base: str, weights: str | None, classes: int, clip_s: float) -> tuple[dict[str, torch.Tensor], str | None, dict[str, Any]]:
    """Tensors of AST or BEATs before training, its classifier all zeros, the checksum of the checkpoint, and its body."""
    if weights is None:
        raise UserError(f"{base} is trained from a checkpoint: give its {'folder or hub name' if base == 'ast' else 'file'} as --weights")
    if base == "beats":
        config, tensors, _ = read_published(Path(weights))
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("predictor.")}
        head = {"predictor.weight": torch.zeros(classes, config.encoder_embed_dim), "predictor.bias": torch.zeros(classes)}
        return kept | head, tensor_sha256(tensors), {"cfg": asdict(config), "clip_s": clip_s}
    import transformers

    source = load_network(weights, clip_s=clip_s)
    if source.family != "audio-spectrogram-transformer":
        raise UserError(f"{weights} is no AST but {source.family}: give one that transformers knows as audio-spectrogram-transformer")
    model: Any = source.module.model
    inner = {name.removeprefix("audio_spectrogram_transformer."): tensor for name, tensor in model.state_dict().items()}
    width, norm = model.config.hidden_size, {"weight": torch.ones, "bias": torch.zeros}
    tensors = {f"audio_spectrogram_transformer.{name}": tensor for name, tensor in inner.items() if not name.startswith("classifier.")}
    tensors |= {f"classifier.layernorm.{name}": inner.get(f"classifier.layernorm.{name}", fill(width)) for name, fill in norm.items()}
    tensors |= {"classifier.dense.weight": torch.zeros(classes, width), "classifier.dense.bias": torch.zeros(classes)}
    extractor = transformers.AutoFeatureExtractor.from_pretrained(weights.removeprefix("hf:"), local_files_only=True)
    left = ("id2label", "label2id", "transformers_version")
    settings = {key: value for key, value in model.config.to_diff_dict().items() if key not in left}
    return tensors, source.checkpoint_sha256, {"config": settings, "preprocessor": extractor.to_dict(), "clip_s": clip_s}


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
    """Train the classifier on what it takes, averaged over a clip's windows and standardised; the standardising goes into its weights. BEATs'
    takes every token, and its logits are averaged: the same as those of the mean token."""
    last = network.layers[-1]
    classifier = network.module.get_submodule(last.token_module or last.module)
    assert isinstance(classifier, nn.Linear)
    found: list[torch.Tensor] = []

    def keep(_module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        found.append(network.mean_over_windows(given[0].nanmean(dim=1) if given[0].dim() == 3 else given[0]))

    handle = classifier.register_forward_pre_hook(keep)
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
        held = ~clips.inputs[rows, :, 0, 0, 0].isnan()  # windows of sound, which come first
        shown = (torch.rand(len(rows), network.windows) + ~held).argsort(dim=1)[:, :WINDOWS]
        shown = shown.where(held.gather(1, shown), shown[:, :1])
        values = clips.inputs[rows[:, None], shown] + GAIN_DEVIATION * torch.randn(len(rows), 1, 1, 1, 1)
        return module(values.flatten(0, 1).to(inside.device)).unflatten(0, (-1, WINDOWS)).mean(dim=1)

    module.requires_grad_(True)
    handles = [weight.register_hook(lambda gradient: gradient * inside) for weight in padded]
    _optimise(logits, list(module.parameters()), clips, recipe, progress)
    for handle in handles:
        handle.remove()
    module.requires_grad_(False)


def _fine_tune_whole(network: Network, clips: Clips, recipe: Recipe, progress: Progress | None) -> None:
    """Train all of a transformer on whole clips."""
    module = network.module.requires_grad_(True)
    device = next(module.parameters()).device
    _optimise(lambda rows: network.own(module(clips.inputs[rows, 0].to(device))), list(module.parameters()), clips, recipe, progress)
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
