"""Stage `specificity`: class-specific neurons by AAPE, beside LAPE, selectivity, average precision and AUROC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from ingest.methods import specificity
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.layer_tables import label_sets
from ingest.stages.recorded import read_recorded
from warehouse import store

STAGE = "specificity"
TITLE = "specificity of {network} on {dataset}"
UNIT = "label sets"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 2
BOUNDS = {"least_active": (0, 1), "lowest_entropy": (0, 1), "class_quantile": (0, 1)}


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


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Measure every neuron recorded against every label set, each a unit of work.

    The unit of P is the moment (a frame or token) where a run recorded the shares of them that are active, otherwise the clip. All layers are
    one population, as the quantiles of AAPE demand. Clips with an activation that is not finite in any layer are left out.
    """
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    unit = "moment" if recorded.layers and all(layer.shares_path for layer in recorded.layers) else "clip"
    run = recorded.begin(STAGE, CODE_VERSION, {**vars(settings), "unit": unit})
    if run.finished:
        return Outcome(run, 0, run.failures())
    with store.connect_readonly(context.warehouse) as con:
        by_set = label_sets(con, recorded.run_id)
        set_of = dict(con.execute("SELECT class_id, label_set_id FROM class").fetchall())
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
    plan = {set_of[int(class_ids[0])]: (class_ids, member) for class_ids, member in by_set if len(class_ids) > 1}
    worked = 0
    for item, label_set in run.pending({f"label set {label_set}": label_set for label_set in plan}, progress):
        class_ids, member = plan[label_set]
        tables = measure(activations, active, member[complete], neuron_ids, signed, class_ids, settings)
        for table in ("specificity", "measure_agreement"):
            tables[table] = tables[table].with_columns(pl.lit(label_set).alias("label_set_id"))
        run.record([item], tables)
        worked += 1
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
        named, value = pl.Series([name] * len(rows), dtype=pl.String), matrix[rows, columns].astype(np.float64)
        pairs.append(pl.DataFrame({"measure": named, "neuron_id": neuron_ids[rows], "class_id": class_ids[columns], "value": value}))
    mean = np.nanmean(np.where(np.isnan(p).all(axis=1, keepdims=True), 0, p), axis=1)
    agreed = specificity.rank_agreement({"aape": -entropy, "probability": p, **values})
    return {
        "specificity": pl.DataFrame({"neuron_id": neuron_ids, "probability": mean, "entropy": pl.Series(entropy).fill_nan(None)}),
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
