"""A sparse autoencoder of a layer's vectors: what it encodes, and what its latents stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn.functional import linear

from ingest.networks.checkpoints import tensor_sha256
from warehouse.store import sha256_json

Normalised = Literal["none", "layer_norm", "constant_norm_rescale"]


@dataclass(frozen=True)
class Autoencoder:
    """Latents of a vector x [width]: relu(encoder (x - centre) + bias), of which `k` a vector are kept, or those above the `threshold` [latents], or all.

    `encoder` and `decoder` are [latents, width], `bias` is [latents]; x is taken back as latents @ decoder + `shift` [width]. With `normalised`
    x is brought to mean 0 and deviation 1 (layer_norm), or to the norm sqrt(width), before all that. No latent depends on any vector but its own.
    """

    encoder: torch.Tensor
    bias: torch.Tensor
    decoder: torch.Tensor
    shift: torch.Tensor
    centre: torch.Tensor | None = None
    k: int | None = None
    threshold: torch.Tensor | None = None
    normalised: Normalised = "none"

    @property
    def latents(self) -> int:
        """How many there are."""
        return len(self.encoder)

    @property
    def width(self) -> int:
        """Values of a vector that it takes."""
        return self.encoder.shape[1]

    @property
    def kept(self) -> str:
        """Which latents of a vector are not 0, in words."""
        if self.k is not None:
            return f"the {self.k} highest of each vector"
        return "those above zero" if self.threshold is None else "those above a threshold"

    @property
    def sha256(self) -> str:
        """Hash of all that shapes its latents."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return sha256_json([tensor_sha256(tensors), self.k, self.normalised])

    def to(self, device: torch.device) -> Autoencoder:
        """The same elsewhere."""
        if self.encoder.device == device:
            return self
        moved: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **moved)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Latents [..., latents] (float32) of vectors [..., width]; NaN for a vector that holds NaN."""
        given = self._centred(vectors)
        before = linear(given, self.encoder, self.bias).relu()
        if self.k is not None:
            highest = before.topk(self.k, dim=-1)
            before = torch.zeros_like(before).scatter(-1, highest.indices, highest.values)
        elif self.threshold is not None:
            before = before.where(before > self.threshold, 0)
        empty = given.isnan().any(dim=-1, keepdim=True)
        return before.masked_fill(empty, torch.nan) if bool(empty.any()) else before

    def change(self, vectors: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
        """What a difference of latents [..., latents] changes of the vectors [..., width] that they stand for."""
        return difference @ self.decoder * self._scale(vectors.float())[1]

    def reconstruct(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vectors [..., width] as the latents say they are."""
        mean, scale = self._scale(vectors.float())
        return (self.encode(vectors) @ self.decoder + self.shift) * scale + mean

    def _centred(self, vectors: torch.Tensor) -> torch.Tensor:
        mean, scale = self._scale(vectors.float())
        given = vectors.float() if self.normalised == "none" else (vectors.float() - mean) / scale
        return given if self.centre is None else given - self.centre

    def _scale(self, vectors: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        if self.normalised == "layer_norm":
            return vectors.mean(dim=-1, keepdim=True), vectors.std(dim=-1, keepdim=True) + 1e-5
        if self.normalised == "constant_norm_rescale":
            return 0.0, vectors.norm(dim=-1, keepdim=True) / self.width**0.5
        return 0.0, 1.0
