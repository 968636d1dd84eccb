"""What a network loses when some of its neurons are silenced or get another clip's activations (CLAP 2024, section on interventions).

The outputs of the layer are kept once for all clips; every repeat then runs only what lies above it. A neuron is a position of the
flattened layer, for a convolution one of channels x time x frequency; whole channels are sets of positions. In networks that cut clips into
windows a neuron is changed window by window, from the same window of the other clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ingest.methods.probes import Z95
from ingest.methods.readouts import class_counts
from ingest.networks.network import Layer, Network, TailForm, check_attributed
from ingest.networks.passes import module_device, room
from warehouse.store import UserError

REPEATS = 10
MOST_CLUSTERS, LARGEST = 1000, 100
BATCH_CLIPS = 8

Readout = Callable[[np.ndarray], np.ndarray]
"""Outputs averaged over a clip's windows [clips, ...] to predictions: class numbers [clips], -1 where there is none."""
Mode = Literal["resample", "zero"]


# --- The layer's outputs, kept ------------------------------------------------------------------------------------------------------------


@dataclass
class Cache:
    """Outputs of one layer for all clips, and what running the rest of the network from them takes.

    `values` is [clips, windows, positions] as they lie in memory: of a convolution time, frequency, channel, which fast convolutions like
    best, else as in `layer.shape`. `inputs` are the prepared inputs [clips, windows, ...]; None where the tail does without.
    """

    network: Network
    layer: Layer
    values: torch.Tensor
    inputs: torch.Tensor | None

    @property
    def clips(self) -> int:
        """Number of clips."""
        return len(self.values)

    @property
    def form(self) -> TailForm:
        """How the rest of the network is run: its own way, from the layer on, or by a whole pass."""
        return self.network.tail_form(self.layer)

    def rows(self, positions: np.ndarray) -> torch.Tensor:
        """Where flattened positions of `layer.shape` lie in `values`."""
        if self.layer.axes != "channel,time,frequency":
            return torch.from_numpy(np.asarray(positions, dtype=np.int64))
        channels, time, frequency = self.layer.shape
        channel, place = np.divmod(np.asarray(positions, dtype=np.int64), time * frequency)
        return torch.from_numpy(place * channels + channel)

    def activations(self, values: torch.Tensor) -> torch.Tensor:
        """Values [clips, windows, positions] as the layer puts them out: float32 [clips * windows, *layer.shape]."""
        if self.layer.axes != "channel,time,frequency":
            return values.float().reshape(-1, *self.layer.shape)
        channels, time, frequency = self.layer.shape
        return values.float().reshape(-1, time, frequency, channels).permute(0, 3, 1, 2)

    def live(self) -> np.ndarray:
        """Flattened positions [live] that are not 0 on every window of every clip, ascending."""
        alive = torch.zeros(self.values.shape[2], dtype=torch.bool)
        for start in range(0, self.clips, BATCH_CLIPS):
            alive |= (self.values[start : start + BATCH_CLIPS] != 0).flatten(0, 1).any(dim=0)
        everywhere = np.arange(len(alive))
        return everywhere[alive[self.rows(everywhere)].numpy()]


@torch.inference_mode()
def cache_layers(
    network: Network, layers: Sequence[Layer], batches: Iterable[torch.Tensor], clips: int, folder: Path | None = None
) -> list[Cache]:
    """Run prepared inputs, batches of [clips * windows, ...] of `clips` clips together, once, and keep the outputs of `layers` (float32).

    With `folder` they lie in new files there, mapped into memory, so that layers larger than memory can be had; the files are the caller's
    to delete. Raises UserError for values that are not finite.
    """
    found: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in layers}
    handles = [
        network.module.get_submodule(layer.module).register_forward_hook(
            # A copy: the next module may work in place.
            lambda _module, _inputs, output, name=layer.name: found[name].append(_first(output).detach().clone())
        )
        for layer in layers
    ]
    caches = [
        Cache(network, layer, room((clips, network.windows, math.prod(layer.shape)), folder and folder / f"{index}.float32"), None)
        for index, layer in enumerate(layers)
    ]
    wanted = [cache for cache in caches if cache.form != "sequence"]
    inputs: torch.Tensor | None = None
    done = 0
    try:
        for batch in batches:
            network.forward(batch)
            rows = slice(done, done + len(batch) // network.windows)
            done = rows.stop
            if done > clips:
                raise ValueError(f"batches hold more than {clips} clips")
            if wanted:
                inputs = (
                    room((clips, network.windows, *batch.shape[1:]), folder and folder / f"{len(layers)}.float32")
                    if inputs is None
                    else inputs
                )
                inputs[rows] = batch.unflatten(0, (-1, network.windows)).cpu()
            held = ~batch.flatten(1).isnan().all(dim=1) if network.padding and network.windows > 1 else None  # see Padding
            for cache in caches:
                output = found[cache.layer.name].pop().float()
                check_attributed(network, cache.layer, output, len(batch) // network.windows, bool(found[cache.layer.name]))
                if not (output if held is None else output[held.to(output.device)]).isfinite().all():
                    raise UserError(f"layer {cache.layer.name} of {network.name} puts out values that are not finite: leave such clips out")
                laid = output.permute(0, 2, 3, 1) if cache.layer.axes == "channel,time,frequency" else output
                cache.values[rows] = laid.reshape(-1, network.windows, cache.values.shape[2]).cpu()
    finally:
        for handle in handles:
            handle.remove()
    if done < clips:
        raise ValueError(f"batches hold {done} clips instead of {clips}")
    for cache in wanted:
        cache.inputs = inputs
    return caches


def _first(output: object) -> torch.Tensor:
    first = output[0] if isinstance(output, tuple) else output
    assert isinstance(first, torch.Tensor)
    return first


# --- Changing neurons ---------------------------------------------------------------------------------------------------------------------


def channel_positions(layer: Layer, channels: np.ndarray) -> np.ndarray:
    """Flattened positions of whole channels (or units) of a layer, ascending."""
    every = np.arange(math.prod(layer.shape)).reshape(layer.shape)
    return np.sort((every[..., channels] if layer.axes.endswith("unit") else every[channels]).ravel())


def draw_donors(clips: int, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """For every repeat and clip another clip [repeats, clips]: permutations without a fixed point, each equally likely.

    As each clip gives exactly once, the changed neurons keep their distribution over the data set. Raises UserError for fewer than two.
    """
    if clips < 2:
        raise UserError(f"resampling needs at least 2 clips, there is {clips}: nothing can be taken from another clip")
    donors = np.empty((repeats, clips), dtype=np.int64)
    for row in donors:
        row[:] = rng.permutation(clips)
        while (row == np.arange(clips)).any():  # e times on average
            row[:] = rng.permutation(clips)
    return donors


def draw_controls(live: np.ndarray, neurons: np.ndarray, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """For every repeat as many random live neurons as `neurons` has, none of them among those: [repeats, neurons].

    Raises UserError when there are not enough others.
    """
    others = np.setdiff1d(live, neurons)
    if len(others) < len(neurons):
        raise UserError(f"no control for {len(neurons)} neurons: only {len(others)} other live ones")
    return np.stack([rng.choice(others, len(neurons), replace=False) for _ in range(repeats)])


@torch.inference_mode()
def run_changed(
    cache: Cache, neurons: np.ndarray, donors: np.ndarray | None, *, module: str | None = None, batch: int = BATCH_CLIPS
) -> np.ndarray:
    """Outputs [clips, ...] (mean over windows) of the network when `neurons` (flattened positions) hold their values on the `donors` [clips]
    instead, or 0 without donors. No neurons: the network as it is.

    `module` takes the output of that module instead of the network's, for a linear head's penultimate features; it must run after the layer.
    """
    network, rows = cache.network, cache.rows(neurons)
    caught: list[torch.Tensor] = []
    handle = (
        network.module.get_submodule(module).register_forward_hook(lambda *args: caught.append(_first(args[2]).clone())) if module else None
    )
    device = module_device(network)
    outputs = []
    try:
        for start in range(0, cache.clips, batch):
            values = cache.values[start : start + batch].clone()
            if len(rows):
                if donors is None:
                    values[:, :, rows] = 0
                else:
                    clips = torch.from_numpy(np.asarray(donors[start : start + batch]))
                    # A clip of fewer windows gives them again and again.
                    windows = torch.arange(values.shape[1]) % (~cache.values[clips, :, 0].isnan()).sum(dim=1, keepdim=True)
                    values[:, :, rows] = cache.values[clips[:, None, None], windows[:, :, None], rows]
            inputs = cache.inputs[start : start + batch].flatten(0, 1) if cache.inputs is not None else torch.empty(0)
            result = network.tail(cache.layer, cache.activations(values).to(device), inputs.to(device))
            if module:
                if len(caught) != 1:
                    raise ValueError(f"{module} ran {len(caught)} times above layer {cache.layer.name} instead of once")
                result = caught.pop()
            empty = cache.values[start : start + batch, :, 0].isnan().flatten()
            result = result.float() if not empty.any() else result.float().masked_fill(_like(empty, result), torch.nan)
            outputs.append(network.mean_over_windows(result).cpu())
    finally:
        if handle:
            handle.remove()
    return torch.cat(outputs).numpy()


def _like(rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return rows.to(values.device).view(-1, *[1] * (values.dim() - 1))


def mean_over_tokens(outputs: np.ndarray) -> np.ndarray:
    """Outputs [clips, ..., units] to [clips, units]: the mean over what lies between, without the tokens that hold nothing of a clip (NaN)."""
    axes = tuple(range(1, outputs.ndim - 1))
    return np.nanmean(outputs, axis=axes) if axes else outputs


# --- Which clusters to change -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """Predictions of an intervention: before [clips], after [repeats, clips] and with control neurons [repeats, clips]; zeroing, which
    leaves nothing to chance, has one repeat of `after`. `form` says how the rest of the network was run."""

    before: np.ndarray
    after: np.ndarray
    control: np.ndarray
    form: TailForm

    def counts(self, labels: np.ndarray, classes: int, readable: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Per class: `total` and `before` [classes], `after` and `control` [repeats, classes], all over the clips that every one predicts."""
        stacked = np.concatenate([self.before[None], self.after, self.control])
        correct, total = class_counts(stacked, labels, classes, readable)
        repeats = len(self.after)
        return {"total": total, "before": correct[0], "after": correct[1 : 1 + repeats], "control": correct[1 + repeats :]}


def intervene(
    cache: Cache,
    neurons: np.ndarray,
    readout: Readout,
    *,
    live: np.ndarray,
    seed: int,
    mode: Mode = "resample",
    repeats: int = REPEATS,
    before: np.ndarray | None = None,
    module: str | None = None,
    batch: int = BATCH_CLIPS,
) -> Effect:
    """Change `neurons` (flattened positions, see `channel_positions`) on all clips and read out what the network then says.

    Control: as many random `live` neurons, none of the chosen, drawn anew in every repeat and changed from the same donors. `before` are the
    predictions of the network as it is, computed when not given. `module`: see `run_changed`. Raises UserError when there is one clip only,
    no neuron, or not enough for a control.
    """
    neurons = np.unique(neurons)
    if not len(neurons):
        raise UserError(f"no neurons of layer {cache.layer.name} given: choose at least one")
    if neurons[0] < 0 or neurons[-1] >= cache.values.shape[2]:
        raise UserError(f"layer {cache.layer.name} has neurons 0 to {cache.values.shape[2] - 1}, not {neurons[0]} to {neurons[-1]}")
    rng = np.random.default_rng(seed)
    donors = draw_donors(cache.clips, repeats, rng)
    controls = draw_controls(live, neurons, repeats, rng)

    def predict(chosen: np.ndarray, repeat: int) -> np.ndarray:
        return readout(run_changed(cache, chosen, donors[repeat] if mode == "resample" else None, module=module, batch=batch))

    if before is None:
        before = predict(neurons[:0], 0)
    after = np.stack([predict(neurons, repeat) for repeat in range(repeats if mode == "resample" else 1)])
    return Effect(before, after, np.stack([predict(chosen, repeat) for repeat, chosen in enumerate(controls)]), cache.form)


# --- Is the difference one? ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Change of accuracy over the same clips, after - before: its 95% interval, clips that got worse and better, and the p-value of the sign
    test (two-sided, exact). None without clips."""

    clips: int
    change: float | None
    low: float | None
    high: float | None
    worse: int
    better: int
    p_value: float | None


def paired(before: np.ndarray, after: np.ndarray) -> Paired:
    """Compare shares of right answers before and after, each [clips] or [repeats, clips] (bool), clip by clip; repeats are averaged.

    The interval is the normal one on paired differences after adding two clips, one that got worse and one that got better (Bonett and Price
    2012, J. Educ. Behav. Stat. 37, 479-488, of whose two differing cells these are the fractional form); unlike the bare one it does
    not shrink to a point when no clip changes. The sign test leaves out clips that did not change (Conover 1999, section 3.4).
    """
    first, second = (np.atleast_2d(np.asarray(values, dtype=np.float64)).mean(axis=0) for values in (before, after))
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} clips before, {len(second)} after")
    clips = len(first)
    if not clips:
        return Paired(0, None, None, None, 0, 0, None)
    difference = np.round(second - first, 12)
    center = difference.sum() / (clips + 2)
    deviation = math.sqrt(max(((difference**2).sum() + 2) / (clips + 2) - center**2, 0) / (clips + 2))
    worse, better = int((difference < 0).sum()), int((difference > 0).sum())
    low, high = max(-1.0, center - Z95 * deviation), min(1.0, center + Z95 * deviation)
    return Paired(clips, float(difference.mean()), float(low), float(high), worse, better, sign_test(worse, better))


def sign_test(worse: int, better: int) -> float:
    """Probability that fair coins fall at least as unevenly: two-sided exact p-value; 1 when nothing changed."""
    changed = worse + better
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, changed + 1)))])
    fewer = np.arange(min(worse, better) + 1)
    return float(min(1.0, 2 * np.exp(logs[changed] - logs[fewer] - logs[changed - fewer] - changed * math.log(2)).sum()))


@dataclass(frozen=True)
class Candidate:
    """A cluster worth intervening on: its partition (index), its number in it, its size in neurons, its entropy over classes."""

    partition: int
    cluster: int
    size: int
    entropy: float


def candidates(
    partitions: Sequence[np.ndarray],
    entropies: Sequence[np.ndarray],
    mean_neuron_entropy: float,
    *,
    most_clusters: int = MOST_CLUSTERS,
    largest: int = LARGEST,
) -> list[Candidate]:
    """The largest clusters that are more specific than neurons are: those of all partitions with at most `most_clusters` clusters whose
    entropy lies below the model's mean over single neurons.

    `partitions` are cluster numbers [neurons] (negative: in none), `entropies` of their clusters [clusters], NaN where undefined: such are
    never chosen. Nested clusters of several partitions can both be. Largest first; of equals the earlier partition and cluster.
    """
    found = []
    for index, (assigned, entropy) in enumerate(zip(partitions, entropies, strict=True)):
        sizes = np.bincount(assigned[assigned >= 0], minlength=len(entropy))
        if len(sizes) != len(entropy):
            raise ValueError(f"partition {index} has {len(sizes)} clusters but {len(entropy)} entropies")
        if np.count_nonzero(sizes) > most_clusters:
            continue
        chosen = np.flatnonzero((sizes > 0) & (entropy < mean_neuron_entropy))
        found += [Candidate(index, int(cluster), int(sizes[cluster]), float(entropy[cluster])) for cluster in chosen]
    return sorted(found, key=lambda candidate: (-candidate.size, candidate.partition, candidate.cluster))[:largest]
