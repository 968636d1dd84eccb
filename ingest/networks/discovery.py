"""Layers of a network by its structure, for those who do not want to list them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from ingest.networks.network import Axes, Layer

NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
NON_NEGATIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softmax, nn.Softplus, nn.Hardsigmoid)
ACTIVATIONS = (*NON_NEGATIVE, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.ELU, nn.SELU, nn.LeakyReLU, nn.PReLU, nn.Hardswish, nn.LogSoftmax)
AXES: dict[tuple[type, int], Axes] = {
    (nn.Conv2d, 4): "channel,time,frequency",
    (nn.Conv1d, 3): "channel,time",
    (nn.Linear, 3): "token,unit",
    (nn.Linear, 2): "unit",
}


@torch.inference_mode()
def discover_layers(module: nn.Module, inputs: torch.Tensor) -> list[Layer]:
    """Layers of a network, in forward order, for those who do not want to list them: its convolutions and linear layers.

    One forward pass over prepared `inputs` [windows, ...] is watched. A layer is taken after the normalisation and activation modules that
    follow it directly; activations called as functions are not seen, and then the value before them is recorded. Two-dimensional
    convolutions are taken to have time before frequency. Modules that run more than once in a pass are left out. A layer is named after
    its convolution or linear module, with slashes for dots.
    """
    calls: list[tuple[str, nn.Module, Any, Any]] = []
    handles = []
    for path, part in module.named_modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear, *NORMALISATIONS, *ACTIVATIONS)):

            def record(part: nn.Module, given: tuple, result: Any, path: str = path) -> None:
                calls.append((path, part, given[0] if given else None, result))

            handles.append(part.register_forward_hook(record))
    mode = module.training
    try:
        module.eval()(inputs)
    finally:
        module.train(mode)
        for handle in handles:
            handle.remove()
    ran = Counter(path for path, *_ in calls)
    layers = []
    for index, (path, part, _, result) in enumerate(calls):
        axes = next((axes for (kind, dims), axes in AXES.items() if isinstance(part, kind) and result.dim() == dims), None)
        if axes is None or ran[path] > 1:
            continue
        last_path, last = path, part
        for next_path, following, given, outcome in calls[index + 1 :]:
            belongs = given is result and isinstance(following, NORMALISATIONS + ACTIVATIONS) and ran[next_path] == 1
            if not belongs or isinstance(last, ACTIVATIONS):
                break
            last_path, last, result = next_path, following, outcome
        layers.append(Layer(path.replace(".", "/"), last_path, tuple(result.shape[1:]), axes, isinstance(last, NON_NEGATIVE)))
    return layers
