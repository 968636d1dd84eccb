"""Whether values survive being stored as float16, which has 11 significant bits between 6.1e-5 and 65,504 and nothing but 0 below 3e-8."""

from __future__ import annotations

import torch

LEVELS = 8
NEXT_TO_0 = 1e-6
NOISE = 64  # steps of float32 within which a value is taken for constant


def lost_in_float16(values: torch.Tensor, *, positions: bool = False) -> str | None:
    """What float16 does to some neuron's values [clips, neurons] (float32; what is not finite is left out); None when it keeps them.

    `overflow`; `underflow`: a value becomes 0; `lost order`: all of a neuron's values, though they differ, lie on fewer than 8 steps, or than
    there are clips. Of `positions`, many of which hardly move, the order is not asked for.
    """
    plain = values.where(values.isfinite(), 0)
    stored = plain.half()
    if bool(stored.isinf().any()):
        return "overflow"
    if bool(((stored == 0) & (plain != 0)).any()):
        return "underflow"
    spread, largest, _, room = _spread(values, positions)
    differ = spread > NOISE * torch.finfo(torch.float32).eps * largest
    return "lost order" if bool((differ & (spread < room)).any()) else None


def seems_lost(stored: torch.Tensor, *, positions: bool = False) -> bool:
    """Whether values [clips, neurons] read from float16 look as if it did not keep them: a neuron has values next to 0 beside values of 0, or all
    of them, several, on too few steps."""
    values = stored.float()
    if bool(((values == 0).any(dim=0) & ((values != 0) & (values.abs() < NEXT_TO_0)).any(dim=0)).any()):
        return True
    spread, _, step, room = _spread(values, positions)
    return bool(((spread > step) & (spread < room)).any())


def _spread(values: torch.Tensor, positions: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each neuron's range, largest magnitude, step of float16 there, and range that it needs to be ordered [neurons]."""
    finite = values.isfinite()
    spread = values.where(finite, -torch.inf).amax(dim=0) - values.where(finite, torch.inf).amin(dim=0)
    largest = values.where(finite, 0).abs().amax(dim=0)
    step = torch.exp2(torch.frexp(largest)[1].float() - 11).clamp_min(2.0**-24)
    return spread, largest, step, step * finite.sum(dim=0).clamp(max=0 if positions else LEVELS)
