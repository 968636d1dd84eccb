"""Stage `probes`: how much of the classes every layer of a recorded network holds, by neighbours and by a linear classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ingest.methods import probes
from ingest.stages import Context, Outcome, Progress
from ingest.stages.recorded import FOLD_SEED, read_recorded
from warehouse import ledger
from warehouse.store import insert

STAGE = "probes"
TITLE = "probes of {network} on {dataset}"
UNIT = "layers"
CODE_VERSION = 1
STANDARDISED_NEURONS = 8192
"""Up to as many neurons the linear probe standardises each; beyond, it works from the clips' products alone."""


@dataclass(frozen=True)
class Settings:
    """Nothing to choose: the k of the neighbours, the linear probe and the folds are those of the paper, see ingest.methods.probes."""


def needs(settings: Settings) -> tuple[str, ...]:
    """Nothing but activations."""
    return ()


def run(context: Context, settings: Settings, progress: Progress | None = None) -> Outcome:
    """Probe the layers recorded."""
    return ingest_probes(context.warehouse, context.runs["activations"], progress=progress)


def ingest_probes(warehouse: Path, activation_run: int, *, ks: tuple[int, ...] = probes.KS, progress: Progress | None = None) -> Outcome:
    """Probe every layer of a finished run of activations; a layer is a unit of work. A k that has too few training clips is a failure row."""
    recorded = read_recorded(warehouse, activation_run)
    run = ledger.begin(
        warehouse,
        STAGE,
        parameters={**recorded.subject(), "ks": list(ks), "folds": "drawn" if recorded.drawn_folds else "official"},
        code_version=CODE_VERSION,
        dataset_sha256=recorded.dataset_sha256,
        network_sha256=recorded.network_sha256,
        seed=FOLD_SEED if recorded.drawn_folds else None,
    )
    worked, done = 0, run.done()
    for number, layer in enumerate(recorded.layers):
        item = f"layer {layer.layer_id}"
        if not run.finished and item not in done:
            matrix = layer.matrix()
            products = probes.gram([matrix])
            near = probes.knn_predictions(probes.squared_distances(products), recorded.labels, recorded.folds, ks)
            linear = (
                probes.linear_predictions(matrix, recorded.labels, recorded.folds)
                if layer.neurons <= STANDARDISED_NEURONS
                else probes.linear_predictions_from_gram(products, recorded.labels, recorded.folds)
            )
            found = [
                (method, count.k, count.fold, int(recorded.class_ids[count.label]), count.correct, count.total)
                for method, predictions in (("knn", near.predictions), ("linear", linear.predictions))
                for count in probes.counts(predictions, recorded.labels, recorded.folds)
            ]
            frame = pl.DataFrame(found, schema=["method", "k", "fold", "class_id", "correct", "total"], orient="row")
            failures = [(f"{layer.name}, k = {k}", reason) for k, reason in near.absent.items()]
            failures += [(f"{layer.name}, {reason}", f"{clips} clips left out") for reason, clips in linear.left_out.items() if clips]
            with run.commit([item], failures) as con:
                if len(frame):
                    insert(con, "probe", frame.with_columns(pl.lit(run.run_id).alias("run_id"), pl.lit(layer.layer_id).alias("layer_id")))
            worked += 1
        if progress:
            progress(number + 1, len(recorded.layers))
    if not run.finished:
        run.finish()
    return Outcome(run, worked, run.failures())
