"""Stage `specificity`: class-specific neurons by AAPE, beside LAPE, selectivity, average precision and AUROC."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from ingest.methods import specificity
from ingest.networks.network import Network
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.extraction.layer_tables import label_sets
from ingest.stages.extraction.recording import Recorder
from ingest.stages.recorded import Recorded, RecordedLayer, durations, read_recorded
from warehouse import store
from warehouse.store import UserError

STAGE = "specificity"
TITLE = "specificity of {network} on {dataset}"
UNIT = "label sets"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 2
SEED = 0
BOUNDS = {"least_active": (0, 1), "lowest_entropy": (0, 1), "class_quantile": (0, 1)}
LARGE = ("esc50", "gise-51")
"""Readers of the data sets of which the paper keeps twice the usual share of neurons."""
CLIPS_COUNTED = "its activations have no shares of moments, so AAPE counts clips: shares = true under [activations] makes it as published"


@dataclass(frozen=True)
class Settings:
    """The filters of AAPE: least_active, lowest_entropy, class_quantile, activity, entropy_among, population and with_ties are those of
    ingest.methods.specificity.specific_neurons. Where shares were recorded they are by default as published: lowest_entropy 0.02 for ESC-50 and
    GISE-51, else 0.01, no ties kept (of equal entropies a seeded draw), and every moment of a clip counts as one; otherwise 0.02 and with ties.
    above: where shares were not recorded, a clip counts as active when its activation is above zero or, as a mean of rectified values nearly
    always is, above the neuron's mean over the clips. same_thresholds: LAPE takes lowest_entropy, class_quantile and with_ties of AAPE, not
    its own. folds: only clips of these are counted, so that others are left to test on; by default all, as published."""

    least_active: float = 0.05
    lowest_entropy: float | None = None
    class_quantile: float = 0.95
    activity: specificity.Activity = "mean"
    entropy_among: specificity.EntropyAmong = "all neurons"
    population: specificity.Population = "all pairs"
    above: Literal["zero", "mean"] = "mean"
    with_ties: bool | None = None
    same_thresholds: bool = False
    folds: tuple[int, ...] | None = None

    def settled(self, unit: str, reader: str) -> Settings:
        """With the defaults for a unit of P and a data set by its reader, as table dataset has it."""
        share = 0.02 if unit == "clip" or reader.split(" ")[0] in LARGE else 0.01
        return replace(
            self,
            lowest_entropy=share if self.lowest_entropy is None else self.lowest_entropy,
            with_ties=unit == "clip" if self.with_ties is None else self.with_ties,
            folds=None if self.folds is None else tuple(sorted(set(self.folds))),
        )

    def parameters(self) -> dict[str, object]:
        """What goes into the run; runs from before there were the last two stay what they are."""
        return {name: value for name, value in vars(self).items() if name not in ("same_thresholds", "folds") or value}

    @property
    def seed(self) -> int | None:
        """Of the draw among equal entropies."""
        return None if self.with_ties else SEED


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Measure every neuron recorded against every label set, each a unit of work.

    The unit of P is the moment (a frame or token) where a run recorded the shares of them that are active, otherwise the clip. All layers are
    one population, as the quantiles of AAPE demand. Clips with an activation that is not finite in any layer are left out. Raises UserError
    when no clip lies in the folds.
    """
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    unit = "moment" if recorded.layers and all(layer.shares_path for layer in recorded.layers) else "clip"
    with store.connect_readonly(context.warehouse) as con:
        [(reader,)] = con.execute(
            "SELECT reader FROM dataset WHERE name = ? AND content_sha256 = ?", [recorded.dataset, recorded.dataset_sha256]
        ).fetchall()
    settings = settings.settled(unit, reader)
    chosen = np.isin(recorded.folds, settings.folds) if settings.folds is not None else np.ones(len(recorded.folds), dtype=bool)
    if not chosen.any():
        among = ", ".join(map(str, np.unique(recorded.folds)))
        raise UserError(f"specificity: no clip of {recorded.dataset} lies in the folds {list(settings.folds or ())}: choose among {among}")
    weights = moments(context.network, recorded) if unit == "moment" else [None] * len(recorded.layers)
    parameters = settings.parameters() | {"unit": unit} | ({"moments": "counted"} if any(each is not None for each in weights) else {})
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=settings.seed)
    if run.finished:
        return Outcome(run, 0, run.failures())
    with store.connect_readonly(context.warehouse) as con:
        by_set = label_sets(con, recorded.run_id)
        set_of = dict(con.execute("SELECT class_id, label_set_id FROM class").fetchall())
    activations = np.concatenate([np.asarray(layer.matrix()) for layer in recorded.layers])
    neuron_ids = np.concatenate([layer.first_neuron_id + np.arange(layer.neurons) for layer in recorded.layers])
    signed = np.concatenate([np.full(layer.neurons, not layer.non_negative) for layer in recorded.layers])
    complete = chosen & np.isfinite(activations).all(axis=0)
    activations = activations[:, complete]
    if unit == "moment":
        active = np.concatenate([np.asarray(layer.shares()) for layer in recorded.layers])[:, complete]
    else:
        floor = activations.mean(axis=1, dtype=np.float64, keepdims=True) if settings.above == "mean" else 0
        active = activations > floor

    def probability(member: np.ndarray) -> np.ndarray:
        rows = np.split(active, np.cumsum([layer.neurons for layer in recorded.layers])[:-1])
        counts = [None if each is None else each[complete] for each in weights]
        return np.concatenate(
            [specificity.activation_probability(*layer) for layer in zip(rows, [member] * len(rows), counts, strict=True)]
        )

    plan = {set_of[int(class_ids[0])]: (class_ids, member) for class_ids, member in by_set if len(class_ids) > 1}
    worked = 0
    for item, label_set in run.pending({f"label set {label_set}": label_set for label_set in plan}, progress):
        class_ids, member = plan[label_set]
        member = member[complete]
        tables = measure(activations, probability(member), member, neuron_ids, signed, class_ids, settings)
        for table in ("specificity", "measure_agreement"):
            tables[table] = tables[table].with_columns(pl.lit(label_set).alias("label_set_id"))
        run.record([item], tables)
        worked += 1
    run.finish()
    recording = context.settings("activations")
    by_default = recording is not None and recording.shares is None and recording.token == "all"
    if worked and unit == "clip" and not context.positions and by_default:
        run = replace(run, why="; ".join(filter(None, (run.why, CLIPS_COUNTED))))
    return Outcome(run, worked, run.failures())


def moments(network: Network, recorded: Recorded) -> list[np.ndarray | None]:
    """How many moments of each clip [clips] a layer counts, for every layer recorded; None where they are as many for all clips. They follow
    from the clips' lengths, as in ingest.stages.extraction.recording."""
    seconds, clip = np.unique(np.minimum(durations(recorded), network.clip_s), return_inverse=True)
    layers = {layer.name: layer for layer in network.layers}

    def of_layer(stored: RecordedLayer) -> np.ndarray | None:
        if stored.name not in layers:
            raise UserError(f"{network.name} has no layer {stored.name} any more: ingest its activations again")
        recorder = Recorder(network, [layers[stored.name]], shares=True)
        recorder.valid_s = torch.from_numpy(seconds)
        counts = recorder.moments(layers[stored.name]).numpy()
        return counts[clip] if len(np.unique(counts)) > 1 else None

    return [of_layer(stored) for stored in recorded.layers]


def measure(
    activations: np.ndarray,
    p: np.ndarray,
    member: np.ndarray,
    neuron_ids: np.ndarray,
    signed: np.ndarray,
    class_ids: np.ndarray,
    settings: Settings,
) -> dict[str, pl.DataFrame]:
    """Rows of tables specificity, specific_neuron and measure_agreement for one label set, without run and label set.

    `activations` are [neurons, clips], `p` activation probabilities [neurons, classes], `member` [clips, classes]. `settings` are settled.
    Of the measures without filters, as many pairs are called specific as of
    AAPE, those of the highest values, and more where the last ones are equal.
    """
    assert settings.lowest_entropy is not None
    with_ties = bool(settings.with_ties)
    entropy = specificity.activation_probability_entropy(p)
    aape = specificity.specific_neurons(
        p, least_active=settings.least_active, lowest_entropy=settings.lowest_entropy, class_quantile=settings.class_quantile,
        activity=settings.activity, entropy_among=settings.entropy_among, population=settings.population, with_ties=with_ties,
        seed=settings.seed,
    )  # fmt: skip
    alike: dict[str, Any] = {"lowest_entropy": settings.lowest_entropy, "class_quantile": settings.class_quantile, "with_ties": with_ties}
    lape = specificity.lape(p, **(alike if settings.same_thresholds else {})).specific
    precision, auroc = specificity.detection(activations, member)
    selectivity = specificity.selectivity_index(activations, member)
    selectivity[signed] = np.nan
    values = {"selectivity": selectivity, "average_precision": precision, "auroc": auroc}
    found = {"aape": (aape, p), "lape": (lape, p)}
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
