"""Whether values survive being stored as float16, which has 11 significant bits between 6.1e-5 and 65,504 and nothing but 0 below 3e-8."""

from __future__ import annotations

from dataclasses import dataclass

import torch

LEVELS = 8
NEXT_TO_0 = 1e-6
NOISE = 64  # steps of float32 within which a value is taken for constant


class Kept:
    """What float16 does to neurons' values that come in some clips at a time; see lost_in_float16, which says it of all at once. `levels` [neurons]:
    the steps that a neuron's values must lie on, LEVELS or, where the order is not asked for, 0."""

    def __init__(self, levels: torch.Tensor) -> None:
        self.levels, self.underflow = levels, False
        self.range = _Range.of(torch.empty((1, len(levels))).fill_(torch.nan))

    def update(self, values: torch.Tensor) -> None:
        """Take in values [clips, neurons] (float32; what is not finite is left out)."""
        self.underflow = self.underflow or bool(values.half().count_nonzero() < values.count_nonzero())
        self.range = self.range.with_those_of(_Range.of(values))

    def lost(self) -> str | None:
        """The worst that happens to any neuron; None when float16 keeps them all."""
        if bool(self.range.largest.half().isinf().any()):
            return "overflow"
        if self.underflow:
            return "underflow"
        differ = self.range.spread > NOISE * torch.finfo(torch.float32).eps * self.range.largest
        return "lost order" if bool((differ & (self.range.spread < self.range.room(self.levels))).any()) else None


def lost_in_float16(values: torch.Tensor, *, positions: bool = False) -> str | None:
    """What float16 does to some neuron's values [clips, neurons] (float32; what is not finite is left out); None when it keeps them.

    `overflow`; `underflow`: a value becomes 0; `lost order`: all of a neuron's values, though they differ, lie on fewer than 8 steps, or than
    there are clips. Of `positions`, many of which hardly move, the order is not asked for.
    """
    kept = Kept(levels(values.shape[1], positions=positions))
    kept.update(values)
    return kept.lost()


def levels(neurons: int, *, positions: bool = False) -> torch.Tensor:
    """The steps that neurons' values must lie on, [neurons]."""
    return torch.full((neurons,), 0 if positions else LEVELS)


def seems_lost(stored: torch.Tensor, *, positions: bool = False) -> bool:
    """Whether values [clips, neurons] read from float16 look as if it did not keep them: a neuron has values next to 0 beside values of 0, or all
    of them, several, on too few steps."""
    values = stored.float()
    if bool(((values == 0).any(dim=0) & ((values != 0) & (values.abs() < NEXT_TO_0)).any(dim=0)).any()):
        return True
    found = _Range.of(values)
    return bool(((found.spread > found.step) & (found.spread < found.room(levels(values.shape[1], positions=positions)))).any())


@dataclass(frozen=True)
class _Range:
    """Each neuron's least and greatest value and how many are finite [neurons]."""

    low: torch.Tensor
    high: torch.Tensor
    count: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> _Range:
        low, high = values.amin(dim=0), values.amax(dim=0)  # NaN where any is
        if bool((low.isfinite() & high.isfinite()).all()):
            return cls(low, high, torch.full(low.shape, len(values)))
        finite = values.isfinite()
        return cls(values.where(finite, torch.inf).amin(dim=0), values.where(finite, -torch.inf).amax(dim=0), finite.sum(dim=0))

    def with_those_of(self, other: _Range) -> _Range:
        return _Range(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high), self.count + other.count)

    @property
    def spread(self) -> torch.Tensor:
        return self.high - self.low

    @property
    def largest(self) -> torch.Tensor:
        """Magnitude."""
        return torch.maximum(self.low.abs(), self.high.abs()).where(self.count > 0, 0)

    @property
    def step(self) -> torch.Tensor:
        """Of float16, at the largest."""
        return torch.exp2(torch.frexp(self.largest)[1].float() - 11).clamp_min(2.0**-24)

    def room(self, levels: torch.Tensor) -> torch.Tensor:
        """Range that a neuron needs to be ordered."""
        return self.step * torch.minimum(self.count, levels)
