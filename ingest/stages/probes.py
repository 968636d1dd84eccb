"""Stage `probes`: how much of the classes each layer holds: k nearest neighbours and a linear classifier over the folds."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from ingest.methods import probes
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import FOLD_SEED, read_recorded
from warehouse.matrices import Matrix
from warehouse.store import UserError

STAGE = "probes"
TITLE = "probes of {network} on {dataset}"
UNIT = "layers"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1
BOUNDS = {"ks": (1, math.inf)}
STANDARDISED_NEURONS = 8192
"""Up to as many neurons the linear probe standardises each; beyond, it works from the clips' products alone."""


CLIP_SEED, BLOCK = 0, 512
MATRIX_CLIPS, PRODUCT_CLIPS, DRAWN_CLIPS = 4096, 16_384, 20_000
"""Up to as many clips neighbours are found in one matrix of clips x clips, the linear probe takes one, and no clips are drawn by default."""


@dataclass(frozen=True)
class Settings:
    """How layers are probed; the linear probe is ingest.methods.probes.fit_linear. ks: numbers of neighbours. clips: so many are drawn where there are
    more; by default 20,000, as the time that probes take grows with their square."""

    ks: tuple[int, ...] = probes.KS
    clips: int | None = None

    def __post_init__(self) -> None:
        if self.clips is not None and self.clips < 1:
            raise UserError(f"probes: clips is {self.clips}, it must be at least 1")


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Probe every layer recorded; a layer is a unit of work. A k that has too few training clips is a failure row, and so is the linear probe of a
    layer of more than 8192 neurons on more than 16,384 clips, whose products take too much memory."""
    recorded, ks = read_recorded(context.warehouse, context.runs["activations"]), settings.ks
    parameters: dict[str, object] = {"ks": list(ks), "folds": "drawn" if recorded.drawn_folds else "official"}
    seed = FOLD_SEED if recorded.drawn_folds else None
    count, clips = settings.clips or DRAWN_CLIPS, len(recorded.clip_ids)
    if count < clips and (settings.clips or not recorded.find(STAGE, CODE_VERSION, parameters, seed=seed)):  # runs from before had all
        parameters["clips"] = count
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=seed)
    drawn = np.sort(np.random.default_rng(CLIP_SEED).choice(clips, count, replace=False)) if "clips" in parameters else slice(None)
    labels, folds = recorded.labels[drawn], recorded.folds[drawn]
    worked = 0
    with run.gathered() as gathering:
        for item, layer in gathering.pending(recorded.plan(), progress):
            blocks = functools.partial(_blocks, layer.matrix(), drawn)
            products = probes.gram(blocks()) if len(labels) <= MATRIX_CLIPS else None
            near = (
                probes.knn_predictions_from_blocks(blocks, labels, folds, ks)
                if products is None
                else probes.knn_predictions(probes.squared_distances(products), labels, folds, ks)
            )
            found: dict[str, dict[int, np.ndarray] | np.ndarray] = {"knn": near.predictions}
            failures = [(f"{layer.name}, k = {k}", reason) for k, reason in near.absent.items()]
            if layer.neurons <= STANDARDISED_NEURONS or len(labels) <= PRODUCT_CLIPS:
                linear = (
                    probes.linear_predictions(layer.matrix()[:, drawn], labels, folds)
                    if layer.neurons <= STANDARDISED_NEURONS
                    else probes.linear_predictions_from_gram(probes.gram(blocks()) if products is None else products, labels, folds)
                )
                found["linear"] = linear.predictions
                failures += [(f"{layer.name}, {reason}", f"{count} clips left out") for reason, count in linear.left_out.items() if count]
            else:
                failures += [(f"{layer.name}, linear", f"{layer.neurons} neurons on {len(labels)} clips: draw up to {PRODUCT_CLIPS} clips")]
            rows = [
                (layer.layer_id, method, count.k, count.fold, int(recorded.class_ids[count.label]), count.correct, count.total)
                for method, predictions in found.items()
                for count in probes.counts(predictions, labels, folds)
            ]
            frame = pl.DataFrame(rows, schema=["layer_id", "method", "k", "fold", "class_id", "correct", "total"], orient="row")
            gathering.record([item], {"probe": frame}, failures)
            worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def _blocks(matrix: Matrix, clips: np.ndarray | slice) -> Iterator[np.ndarray]:
    """The matrix [neurons, clips] at these clips, a block of neurons after the other."""
    for start in range(0, max(1, len(matrix)), BLOCK):
        yield matrix[start : start + BLOCK, clips]
