"""Stage `specificity`: which neurons are specific to which classes, by AAPE and by the measures it should be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from ingest.methods import specificity
from ingest.stages import Context, Outcome, Progress
from ingest.stages.layer_tables import label_sets
from ingest.stages.recorded import read_recorded
from warehouse import ledger, store
from warehouse.store import insert

STAGE = "specificity"
TITLE = "specificity of {network} on {dataset}"
UNIT = "label sets"
CODE_VERSION = 2


@dataclass(frozen=True)
class Settings:
    """The filters of AAPE: least_active, lowest_entropy, class_quantile, activity, entropy_among, population and with_ties are those of
    ingest.methods.specificity.specific_neurons. above: where shares were not recorded, a clip counts as active when its activation is above
    zero or, as a mean of rectified values nearly always is, above the neuron's mean over the clips."""

    least_active: float = 0.05
    lowest_entropy: float = 0.02
    class_quantile: float = 0.95
    activity: specificity.Activity = "mean"
    entropy_among: specificity.EntropyAmong = "all neurons"
    population: specificity.Population = "all pairs"
    above: Literal["zero", "mean"] = "mean"
    with_ties: bool = True


def needs(settings: Settings) -> tuple[str, ...]:
    """Nothing but activations."""
    return ()


def run(context: Context, settings: Settings, progress: Progress | None = None) -> Outcome:
    """Measure the neurons recorded."""
    return ingest_specificity(context.warehouse, context.runs["activations"], settings, progress=progress)


def ingest_specificity(
    warehouse: Path, activation_run: int, settings: Settings | None = None, *, progress: Progress | None = None
) -> Outcome:
    """Measure every neuron of a finished run of activations against every label set, each a unit of work.

    The unit of P is the moment (a frame or token) where a run recorded the shares of them that are active, otherwise the clip. All layers are
    one population, as the quantiles of AAPE demand. Clips with an activation that is not finite in any layer are left out.
    """
    settings = settings or Settings()
    recorded = read_recorded(warehouse, activation_run)
    unit = "moment" if recorded.layers and all(layer.shares_path for layer in recorded.layers) else "clip"
    run = ledger.begin(
        warehouse, STAGE, parameters={**recorded.subject(), **vars(settings), "unit": unit}, code_version=CODE_VERSION,
        dataset_sha256=recorded.dataset_sha256, network_sha256=recorded.network_sha256,
    )  # fmt: skip
    worked, done = 0, run.done()
    if not run.finished:
        with store.connect_readonly(warehouse) as con:
            by_set = label_sets(con, ledger.Run(warehouse, activation_run, "", "", "", 0, True, None))
        activations = np.concatenate([np.asarray(layer.matrix()) for layer in recorded.layers])
        neuron_ids = np.concatenate([layer.first_neuron_id + np.arange(layer.neurons) for layer in recorded.layers])
        signed = np.concatenate([np.full(layer.neurons, not layer.non_negative) for layer in recorded.layers])
        complete = np.isfinite(activations).all(axis=0)
        activations = activations[:, complete]
        if unit == "moment":
            active = np.concatenate([np.asarray(layer.shares()) for layer in recorded.layers])[:, complete]
        else:
            floor = activations.mean(axis=1, dtype=np.float64, keepdims=True) if settings.above == "mean" else 0
            active = activations > floor
        with store.connect_readonly(warehouse) as con:
            set_of = dict(con.execute("SELECT class_id, label_set_id FROM class").fetchall())
        for number, (class_ids, member) in enumerate(by_set):
            if len(class_ids) < 2:
                continue
            label_set = set_of[int(class_ids[0])]
            item = f"label set {label_set}"
            if item not in done:
                tables = measure(activations, active, member[complete], neuron_ids, signed, class_ids, settings)
                with run.commit([item]) as con:
                    for table, frame in tables.items():
                        extra = [pl.lit(run.run_id).alias("run_id")]
                        extra += [pl.lit(label_set).alias("label_set_id")] if table != "specific_neuron" else []
                        insert(con, table, frame.with_columns(*extra))
                worked += 1
            if progress:
                progress(number + 1, len(by_set))
        run.finish()
    return Outcome(run, worked, run.failures())


def measure(
    activations: np.ndarray,
    active: np.ndarray,
    member: np.ndarray,
    neuron_ids: np.ndarray,
    signed: np.ndarray,
    class_ids: np.ndarray,
    settings: Settings,
) -> dict[str, pl.DataFrame]:
    """Rows of tables specificity, specific_neuron and measure_agreement for one label set, without run and label set.

    `activations` and `active` (shares or bool) are [neurons, clips], `member` [clips, classes].
    Of the measures without filters, as many pairs are called specific as of
    AAPE, those of the highest values, and more where the last ones are equal.
    """
    p = specificity.activation_probability(active, member)
    entropy = specificity.activation_probability_entropy(p)
    aape = specificity.specific_neurons(
        p, least_active=settings.least_active, lowest_entropy=settings.lowest_entropy, class_quantile=settings.class_quantile,
        activity=settings.activity, entropy_among=settings.entropy_among, population=settings.population, with_ties=settings.with_ties,
    )  # fmt: skip
    precision, auroc = specificity.detection(activations, member)
    selectivity = specificity.selectivity_index(activations, member)
    selectivity[signed] = np.nan
    values = {"selectivity": selectivity, "average_precision": precision, "auroc": auroc}
    found = {"aape": (aape, p), "lape": (specificity.lape(p).specific, p)}
    found |= {name: (highest(matrix, int(aape.sum())), matrix) for name, matrix in values.items()}
    pairs = []
    for name, (chosen, matrix) in found.items():
        rows, columns = np.nonzero(chosen)
        pairs.append(
            pl.DataFrame(
                {
                    "measure": pl.Series([name] * len(rows), dtype=pl.String), "neuron_id": neuron_ids[rows], "class_id": class_ids[columns],
                    "value": matrix[rows, columns].astype(np.float64),
                }
            )
        )  # fmt: skip
    mean = np.nanmean(np.where(np.isnan(p).all(axis=1, keepdims=True), 0, p), axis=1)
    agreed = specificity.rank_agreement({"aape": -entropy, "probability": p, **values})
    return {
        "specificity": pl.DataFrame({"neuron_id": neuron_ids, "probability": mean, "entropy": entropy}).with_columns(
            pl.col("entropy").fill_nan(None)
        ),
        "specific_neuron": pl.concat(pairs),
        "measure_agreement": pl.DataFrame(
            [(a.a, a.b, a.pairs, float(a.spearman), float(a.top_jaccard)) for a in agreed],
            schema={"first": pl.String, "second": pl.String, "pairs": pl.Int64, "spearman": pl.Float64, "top_jaccard": pl.Float64},
            orient="row",
        ).with_columns(pl.col("spearman", "top_jaccard").fill_nan(None)),
    }


def highest(values: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest of a matrix, and those equal to the last of them; NaN is none of them."""
    flat = values.ravel()
    defined = np.sort(flat[~np.isnan(flat)])[::-1]
    if count == 0 or not len(defined):
        return np.zeros(values.shape, dtype=bool)
    return np.where(np.isnan(values), False, values >= defined[min(count, len(defined)) - 1])
