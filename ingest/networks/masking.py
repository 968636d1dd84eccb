"""Clips shorter than others in networks of the transformers library: what of the input is sound, and which steps of a layer hold it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ingest.networks.network import Layer, Network, Padding

FRAME_S, HOP_S = 0.025, 0.010  # of Kaldi's filter bank, which AST's extractor computes
PreparePadded = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Masking:
    """Lets a speech model (wav2vec2 and its kin) hear of each clip the part that is not NaN, with the values that the part alone gives.

    Attention is masked as transformers does it for a batch of unequal clips. Models whose first convolution is normalised over time per
    channel were trained on sounds of their own length (transformers pads them with zeros and lets these into the statistics, which moves
    every value): here the statistics are those of the sound.
    """

    def __init__(self, model: Any) -> None:
        self.takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        self.lengths: Callable[[torch.Tensor], torch.Tensor] = getattr(model, "_get_feat_extract_output_lengths", lambda count: count)
        self.held: torch.Tensor | None = None
        for part in model.modules():
            conv = getattr(part, "conv", None)
            if isinstance(conv, nn.Conv1d) and conv.in_channels == 1:
                for norm in part.children():
                    if isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels:
                        norm.register_forward_hook(functools.partial(self._normalise, conv))

    def __call__(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inputs [clips, steps, ...] without NaN, and the attention mask where it says something. A clip that is NaN throughout stays so."""
        present = ~inputs.isnan().flatten(2).any(dim=2) if inputs.dim() > 2 else ~inputs.isnan()
        mask = present | ~present.any(dim=1, keepdim=True)
        self.held = None
        if bool(mask.all()):
            return {"inputs": inputs}
        self.held = mask.sum(dim=1)
        inputs = inputs.masked_fill(~mask.view(*mask.shape, *[1] * (inputs.dim() - 2)), 0)
        return {"inputs": inputs} | ({"attention_mask": mask.long()} if self.takes_mask else {})

    def _normalise(self, conv: nn.Conv1d, norm: nn.GroupNorm, given: tuple, _output: torch.Tensor) -> torch.Tensor | None:
        if self.held is None:
            return None
        values: torch.Tensor = given[0]  # clips, channels, frames
        count = (self.held - conv.kernel_size[0]) // conv.stride[0] + 1
        held = (torch.arange(values.shape[2], device=values.device) < count[:, None])[:, None]
        count = count.clamp_min(1)[:, None, None]
        mean = values.where(held, 0).sum(dim=2, keepdim=True) / count
        centred = values - mean
        variance = centred.where(held, 0).square().sum(dim=2, keepdim=True) / count
        return centred * (variance + norm.eps).rsqrt() * norm.weight[:, None] + norm.bias[:, None]

    def steps(self, held: torch.Tensor, every: int, steps: int) -> torch.Tensor:
        """How many of a layer's `steps` hold a clip that is `held` [clips] of `every` steps of the input."""
        total, found = int(self.lengths(torch.tensor(every))), self.lengths(held)
        return (found if total == steps else -(-found * steps // max(total, 1))).clamp(0, steps)

    def blank(self, outputs: torch.Tensor, every: int) -> torch.Tensor:
        """Outputs [clips, steps, units] with NaN where a step holds nothing of its clip; others as they are."""
        if self.held is None or outputs.dim() != 3:
            return outputs
        steps = self.steps(self.held, every, outputs.shape[1])
        beyond = torch.arange(outputs.shape[1], device=outputs.device) >= steps[:, None]
        return outputs.masked_fill(beyond[:, :, None], torch.nan)


def after_filter_bank(prepare: PreparePadded, sample_rate_hz: int, stride: float) -> Padding:
    """AST: its extractor fills up behind the filter bank's frames, before it normalises. `stride` is that of patches, in frames."""
    frame, hop = round(FRAME_S * sample_rate_hz), round(HOP_S * sample_rate_hz)

    def steps(layer: Layer, samples: torch.Tensor) -> torch.Tensor:
        frames = 1 + (samples - frame).clamp_min(0) // hop
        return (-(-frames // int(stride))).clamp(max=layer.time_steps)

    return Padding("after the filter bank", prepare, steps, shortest=frame)


def masked(masking: Masking, prepare: PreparePadded, samples: int) -> Padding:
    """Speech models: the sound alone is normalised, and what follows it masked. `samples` are those of a clip."""

    @functools.cache
    def input_steps(count: int) -> int:
        """Steps of the input for a clip of so many samples; 0 for one too short."""
        found = prepare(torch.zeros(1, samples), torch.tensor([count]))[0]
        return int((~found.flatten(1).isnan().any(dim=1) if found.dim() > 1 else ~found.isnan()).sum())

    every = prepare(torch.zeros(1, samples), torch.tensor([samples])).shape[1]

    def heard(count: int) -> bool:
        return int(masking.lengths(torch.tensor(input_steps(count)))) > 0

    def steps(layer: Layer, counts: torch.Tensor) -> torch.Tensor:
        held = torch.tensor([input_steps(count) for count in counts.tolist()], device=counts.device)
        return masking.steps(held, every, layer.time_steps)

    low, high = 0, samples  # the shortest clip that is heard lies above low and not above high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if heard(middle) else (middle, high)
    return Padding("masked" if masking.takes_mask else "zeros after preparation", prepare, steps, shortest=high)


AS_ALONE = {"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"}
WHOLE, TRIED = "whole clips only", "masked, as alone"


@torch.inference_mode()
def refuse_unequal(network: Network) -> Network:
    """A speech model whose masked short clips do not have the values that they have alone is left to take whole clips only.

    In some families padding leaks through convolutions, or a clip's steps are rounded differently beside others. Those of AS_ALONE were
    compared with transformers' own program; of others a few lengths are tried. What was found is the name of the padding.
    """
    padding = network.padding
    if padding is None or network.family in AS_ALONE:
        return network
    noise = torch.randn(1, network.samples, generator=torch.Generator().manual_seed(0)) * 0.1
    frame = round(HOP_S * network.sample_rate_hz)  # lengths of an odd and an even number of steps are among them
    lengths = {network.samples * 3 // 10, *(network.samples // 2 + more * frame for more in (0, 1, 2, 3)), network.samples * 3 // 4}
    for count in sorted(length for length in lengths if padding.shortest <= length < network.samples):
        counts = torch.tensor([count])
        beside = _values(network, padding.prepare(torch.nn.functional.pad(noise[:, :count], (0, network.samples - count)), counts))
        inputs = network.prepare(noise[:, :count])
        alone, unheard = _values(network, inputs), int(inputs[0].flatten(1).isnan().any(dim=1).sum()) if inputs.dim() > 2 else 0
        for layer in network.layers:
            one, other = (values[layer.name][0] for values in (beside, alone))
            fits = True
            if layer.time_steps:
                steps = int(padding.steps(layer, counts))
                fits = len(other) - unheard <= steps <= len(other)
                one, other = one[:steps].mean(dim=0), other[:steps].mean(dim=0)
            if not fits or not torch.allclose(one, other, rtol=0, atol=torch.finfo(one.dtype).eps ** 0.5 * float(other.abs().max())):
                network.padding = replace(padding, name=WHOLE, shortest=network.samples)
                return network
    network.padding = replace(padding, name=TRIED)
    return network


def _values(network: Network, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the layers put out for prepared inputs."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        network.module.get_submodule(layer.module).register_forward_hook(
            lambda _module, _given, result, name=layer.name: found.__setitem__(name, result[0] if isinstance(result, tuple) else result)
        )
        for layer in network.layers
    ]
    try:
        network.module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
