"""Clips shorter than others in networks of the transformers library: what of the input is sound, and which steps of a layer hold it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ingest.networks.network import Layer, Padding

FRAME_S, HOP_S = 0.025, 0.010  # of Kaldi's filter bank, which AST's extractor computes
PreparePadded = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def after_filter_bank(prepare: PreparePadded, sample_rate_hz: int, stride: float) -> Padding:
    """AST: its extractor fills up behind the filter bank's frames, before it normalises. `stride` is that of patches, in frames."""
    frame, hop = round(FRAME_S * sample_rate_hz), round(HOP_S * sample_rate_hz)

    def steps(layer: Layer, samples: torch.Tensor) -> torch.Tensor:
        frames = 1 + (samples - frame).clamp_min(0) // hop
        return (-(-frames // int(stride))).clamp(max=layer.time_steps)

    return Padding("after the filter bank", prepare, steps, shortest=frame)
