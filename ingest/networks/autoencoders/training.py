"""Training sparse autoencoders (TopK: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv 2406.04093) on vectors that are read a
block at a time, so that no more than a block of them is ever held."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ingest.networks.autoencoders.autoencoder import Autoencoder
from ingest.networks.checkpoints import read_safetensors, save_safetensors
from warehouse.store import UserError, sha256_json

Progress = Callable[[int, int], None]
AUXILIARY = 1 / 32  # weight of the loss that revives dead latents (Gao et al., appendix A.2)
EPSILON = 6.25e-10  # of Adam (appendix A.4)
MEDIAN_ROWS, MEDIAN_STEPS = 16384, 50
HEADER = "auricle_sae_unfinished"


@dataclass(frozen=True)
class Recipe:
    """Latents, how many are kept of a vector, passes over the vectors, vectors a step, the learning rate at the start (it falls to 0 over the last fifth
    of the steps), and after how many vectors on which it was 0 a latent counts as dead and is revived. All draws are by `seed`."""

    latents: int
    k: int
    epochs: int = 5
    batch: int = 1024
    rate: float = 1e-3
    dead_after: int = 100_000
    seed: int = 0

    def check(self, width: int) -> None:
        """Raises UserError for what cannot be trained."""
        for name in ("latents", "k", "epochs", "batch", "dead_after"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if self.k > min(self.latents, width):
            raise UserError(f"k is {self.k}, it must be at most the {self.latents} latents and the {width} values of a vector")


@dataclass(frozen=True)
class Fitted:
    """An autoencoder, how many vectors it was shown, and which latents were active on any of the last epoch's [latents]."""

    sae: Autoencoder
    vectors: int
    alive: torch.Tensor


def fit(
    width: int,
    blocks: int,
    read: Callable[[int, int], torch.Tensor],
    recipe: Recipe,
    *,
    unfinished: Path | None = None,
    inputs: Any = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Fitted:
    """Train on `read(epoch, block)`, vectors [n, width] of each of so many blocks an epoch, which must be the same whenever they are read.

    After every block the state goes to the file `unfinished`, and a later call with the same recipe and `inputs` (what tells these vectors from
    others) continues from there, to the same result bit by bit on a CPU. The caller removes the file. Raises UserError for a recipe that cannot be
    trained, and for vectors that are all the same or not finite.
    """
    recipe.check(width)
    key = sha256_json([asdict(recipe), width, blocks, inputs])
    state = _State.resumed(unfinished, key, device) if unfinished else None
    for number in range(state.blocks if state else 0, recipe.epochs * blocks):
        epoch, block = divmod(number, blocks)
        vectors = read(epoch, block).float()
        if not vectors.isfinite().all():
            raise UserError("the layer puts out values that are not finite: an autoencoder cannot be trained on them")
        state = state or _State.begun(vectors, recipe, device)
        if block == 0:
            state.alive.zero_()
        order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(_seed(recipe.seed, number)))
        for start in range(0, len(vectors), recipe.batch):
            done = (number + start / len(vectors)) / (recipe.epochs * blocks)
            state.step(vectors[order[start : start + recipe.batch]].to(device), recipe, recipe.rate * min(1.0, 5 * (1 - done)))
        state.blocks = number + 1
        if unfinished:
            state.save(unfinished, key)
        if progress:
            progress(number + 1, recipe.epochs * blocks)
    assert state is not None
    return Fitted(state.autoencoder(recipe.k), state.shown, state.alive.cpu())


def _seed(seed: int, number: int) -> int:
    return int(sha256_json([seed, number])[:12], 16)


class _State:
    """Everything that training goes on from. Vectors are divided by `scale`, their root mean square of all values, while it lasts."""

    NAMES = ("encoder", "bias", "decoder", "centre")

    def __init__(self, tensors: dict[str, torch.Tensor], counts: dict[str, int]) -> None:
        self.tensors = tensors
        self.blocks, self.steps, self.shown = counts["blocks"], counts["steps"], counts["shown"]
        self.scale, self.alive, self.silent = tensors["scale"], tensors["alive"], tensors["silent"]

    @classmethod
    def begun(cls, vectors: torch.Tensor, recipe: Recipe, device: str) -> _State:
        """Encoder and decoder are the same random directions, the centre is the geometric median of the first vectors (Gao et al., 2.1 and A.1)."""
        scale = (vectors - vectors.mean(dim=0)).square().mean().sqrt()
        if not scale > 0:
            raise UserError("the layer puts out the same everywhere: an autoencoder has nothing to learn from it")
        generator = torch.Generator().manual_seed(_seed(recipe.seed, -1))
        directions = torch.nn.functional.normalize(torch.randn(recipe.latents, vectors.shape[1], generator=generator), dim=1)
        some = vectors[torch.randperm(len(vectors), generator=generator)[:MEDIAN_ROWS]]
        tensors = {
            "encoder": directions.clone(), "bias": torch.zeros(recipe.latents), "decoder": directions, "centre": geometric_median(some) / scale,
            "scale": scale, "alive": torch.zeros(recipe.latents, dtype=torch.bool), "silent": torch.zeros(recipe.latents, dtype=torch.int64),
        }  # fmt: skip
        tensors |= {f"{name}.{part}": torch.zeros_like(tensors[name]) for name in cls.NAMES for part in ("mean", "square")}
        return cls({name: value.to(device) for name, value in tensors.items()}, {"blocks": 0, "steps": 0, "shown": 0})

    @classmethod
    def resumed(cls, path: Path, key: str, device: str) -> _State | None:
        if not path.is_file():
            return None
        tensors, metadata = read_safetensors(path)
        try:
            header = json.loads(metadata[HEADER])
        except (KeyError, ValueError):
            raise UserError(f"{path} holds no unfinished training: move it away") from None
        return cls({name: value.to(device) for name, value in tensors.items()}, header["counts"]) if header["key"] == key else None

    def save(self, path: Path, key: str) -> None:
        header = {"key": key, "counts": {"blocks": self.blocks, "steps": self.steps, "shown": self.shown}}
        save_safetensors(path, self.tensors, {HEADER: json.dumps(header)})

    def step(self, vectors: torch.Tensor, recipe: Recipe, rate: float) -> None:
        """One step of Adam on the reconstruction's squared error as a share of the vectors' variance, and on the auxiliary loss."""
        given = vectors / self.scale
        parameters = {name: self.tensors[name].detach().requires_grad_() for name in self.NAMES}
        centred = given - parameters["centre"]
        before = torch.nn.functional.linear(centred, parameters["encoder"], parameters["bias"]).relu()
        highest = before.topk(recipe.k, dim=1)
        latents = torch.zeros_like(before).scatter(1, highest.indices, highest.values)
        left = centred - latents @ parameters["decoder"]
        spread = (given - given.mean(dim=0)).square().sum().clamp_min(1e-12)
        loss = left.square().sum() / spread
        dead = self.silent >= recipe.dead_after
        if revived := min(vectors.shape[1] // 2, int(dead.sum())):
            best = before.masked_fill(~dead, -torch.inf).topk(revived, dim=1)
            said = torch.zeros_like(before).scatter(1, best.indices, best.values) @ parameters["decoder"]
            rest = left.detach()
            loss = loss + AUXILIARY * ((rest - said).square().sum() / (rest - rest.mean(dim=0)).square().sum().clamp_min(1e-12))
        gradients = dict(zip(self.NAMES, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        with torch.no_grad():
            # What only makes a direction longer is undone anyhow, and must not fill Adam's memory (appendix A.4).
            along = (gradients["decoder"] * self.tensors["decoder"]).sum(dim=1, keepdim=True)
            gradients["decoder"] = gradients["decoder"] - along * self.tensors["decoder"]
            self.steps += 1
            for name, gradient in gradients.items():
                mean, square = self.tensors[f"{name}.mean"], self.tensors[f"{name}.square"]
                mean.lerp_(gradient, 0.1)
                square.lerp_(gradient.square(), 0.001)
                change = (mean / (1 - 0.9**self.steps)) / ((square / (1 - 0.999**self.steps)).sqrt() + EPSILON)
                self.tensors[name] -= rate * change
            self.tensors["decoder"].copy_(torch.nn.functional.normalize(self.tensors["decoder"], dim=1))
            fired = (latents > 0).any(dim=0)
            self.silent += len(vectors)
            self.silent[fired] = 0
            self.alive |= fired
        self.shown += len(vectors)

    def autoencoder(self, k: int) -> Autoencoder:
        """Of vectors as they are: latents scale with them."""
        encoder, bias, decoder, centre = (self.tensors[name].cpu().clone() for name in self.NAMES)
        scale = self.scale.cpu()
        return Autoencoder(encoder, bias * scale, decoder, centre * scale, centre * scale, k)


def geometric_median(points: torch.Tensor) -> torch.Tensor:
    """The point [width] of least summed distance to the points [n, width] (Weiszfeld's iteration)."""
    median = points.mean(dim=0)
    for _ in range(MEDIAN_STEPS):
        weights = 1 / (points - median).norm(dim=1).clamp_min(1e-12)
        following = (weights[:, None] * points).sum(dim=0) / weights.sum()
        if (following - median).norm() <= 1e-6 * median.norm():
            return following
        median = following
    return median
