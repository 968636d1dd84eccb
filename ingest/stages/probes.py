"""Stage `probes`: how much of the classes each layer holds: k nearest neighbours and a linear classifier over the folds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from ingest.methods import probes
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import FOLD_SEED, read_recorded

STAGE = "probes"
TITLE = "probes of {network} on {dataset}"
UNIT = "layers"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1
BOUNDS = {"ks": (1, math.inf)}
STANDARDISED_NEURONS = 8192
"""Up to as many neurons the linear probe standardises each; beyond, it works from the clips' products alone."""


@dataclass(frozen=True)
class Settings:
    """How layers are probed; the linear probe is ingest.methods.probes.fit_linear. ks: numbers of neighbours."""

    ks: tuple[int, ...] = probes.KS


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Probe every layer recorded; a layer is a unit of work. A k that has too few training clips is a failure row."""
    recorded, ks = read_recorded(context.warehouse, context.runs["activations"]), settings.ks
    parameters = {"ks": list(ks), "folds": "drawn" if recorded.drawn_folds else "official"}
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=FOLD_SEED if recorded.drawn_folds else None)
    worked = 0
    with run.gathered() as gathering:
        for item, layer in gathering.pending(recorded.plan(), progress):
            matrix = np.asarray(layer.matrix())
            products = probes.gram([matrix])
            near = probes.knn_predictions(probes.squared_distances(products), recorded.labels, recorded.folds, ks)
            linear = (
                probes.linear_predictions(matrix, recorded.labels, recorded.folds)
                if layer.neurons <= STANDARDISED_NEURONS
                else probes.linear_predictions_from_gram(products, recorded.labels, recorded.folds)
            )
            found = [
                (layer.layer_id, method, count.k, count.fold, int(recorded.class_ids[count.label]), count.correct, count.total)
                for method, predictions in (("knn", near.predictions), ("linear", linear.predictions))
                for count in probes.counts(predictions, recorded.labels, recorded.folds)
            ]
            frame = pl.DataFrame(found, schema=["layer_id", "method", "k", "fold", "class_id", "correct", "total"], orient="row")
            failures = [(f"{layer.name}, k = {k}", reason) for k, reason in near.absent.items()]
            failures += [(f"{layer.name}, {reason}", f"{clips} clips left out") for reason, clips in linear.left_out.items() if clips]
            gathering.record([item], {"probe": frame}, failures)
            worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())
