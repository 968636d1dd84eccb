"""Stage `validation`: how often each method finds what was planted, for planted networks only (`auricle validate`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from ingest.methods import held_out, validation
from ingest.methods.tuning import judged
from ingest.networks import planted
from ingest.networks.tuned.planted import NAME, TunedNetwork
from ingest.networks.tuned.planted import truth as tuned_truth
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import Recorded, read_recorded
from warehouse import ledger, store

STAGE = "validation"
TITLE = "validation on {network} with {dataset}"
UNIT = "units of work"
CODE_VERSION = 2
SEED = 0
TAU = 1.0
LAYER = "classes"
MEASURES = ("aape", "lape", "selectivity", "average_precision", "auroc")
NEEDS = ("descriptions", "dissections", "polysemanticity", "specificity", "clusters", "ablations")


@dataclass(frozen=True)
class Settings:
    """What is put to the test (`of`): methods, on the planted network; tuning (data set stimuli) or measured rules over pairs of properties, on the
    network planted-tuning."""

    of: Literal["methods", "tuning", "rules"] = "methods"

    @property
    def needs(self) -> tuple[str, ...]:
        """Stages to be done before."""
        return {"methods": NEEDS, "tuning": ("tuning",), "rules": ("descriptions",)}[self.of]


def pairs_found(frame: pl.DataFrame) -> list[tuple]:
    """Of table validation, each way of AAPE with the planted pairs of neuron and class that it found, and how many there are."""
    found = frame.filter(frame["method"].str.starts_with("aape"), frame["measure"] == "recall")
    return found.group_by("method", maintain_order=True).agg(pl.sum("correct", "total")).rows()


def studies(captioner: str = "acoustic") -> tuple[dict[str, Any], ...]:
    """The studies, as tables of a study file, that put every method to the test on the planted network: first the concepts as the programs
    were released, AAPE as published, without ties and with, and the measured rules, then all.

    In the planted network more neurons are specific than AAPE's usual share of 2 %, and short captions of measurements are told apart by
    more clusters than those of a language model. Its layers have one moment a clip, active above zero, so shares would say nothing more.
    Behind it the network whose tuning is known hears the stimuli, and the starter sounds for rules.
    """
    base = {
        "dataset": [{"reader": "starter"}], "network": [{"name": "planted"}], "captions": {"captioner": captioner},
        "activations": {"shares": False}, "polysemanticity": {"clusters": 64, "most_common": 0.3}, "ablations": {"shares": []},
        "specificity": {"lowest_entropy": 0.3, "same_thresholds": True}, "descriptions": {"engine": "commonalities"},
    }  # fmt: skip
    released = {"stages": ["dissections"], "dissections": {"concepts": "classes", "mode": "as-released"}}
    published = [
        {"stages": ["specificity"], "specificity": {"lowest_entropy": 0.02, "above": "zero", "with_ties": ties, "same_thresholds": True}}
        for ties in (False, True)
    ]
    measured = {"stages": ["descriptions"], "descriptions": {"engine": "measured"}}
    full = {"stages": ["validation"], "dissections": {"concepts": "classes"}}
    tuned = {
        "network": [{"name": NAME}], "stages": ["validation"], "captions": {"captioner": "acoustic"}, "activations": {"shares": False},
        "descriptions": {"engine": "measured"},
    }  # fmt: skip
    return (
        base | released, *[base | each for each in published], base | measured, base | full,
        tuned | {"dataset": [{"reader": "stimuli"}], "validation": {"of": "tuning"}},
        tuned | {"dataset": [{"reader": "starter"}], "validation": {"of": "rules"}},
    )  # fmt: skip


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Score the finished runs of the stages needed on a planted network, one unit of work. Raises UserError for another network.

    Methods: open concepts (a neuron's acoustic adjectives and nouns), and the same shuffled between neurons as a control; the first concept
    by each method of dissection and similarity function in every mode that the activations were dissected in; each measure of specificity,
    and AAPE by every other share and rule of ties that they were measured with; the finest and the chosen clusters; measured rules, where the
    activations were described by them; polysemanticity of 5 clips, all of which must agree; the number of meanings; ablations by the ways of
    choosing neurons. For `of` tuning and rules see ingest.methods.tuning.judged.
    """
    if settings.of != "methods":
        return _tuned(context, settings, progress)
    warehouse, runs, truth = context.warehouse, context.runs, planted.truth(context.network)
    recorded = read_recorded(warehouse, runs["activations"])
    keys: dict[str, object] = {stage: ledger.finished(warehouse, runs[stage], stage)[0] for stage in NEEDS}
    others = _other_ways(warehouse, runs)
    also: dict[str, object] = {"specificity_also": [key for _, _, key in others]} if others else {}
    if ruled := _ruled(warehouse, recorded.run_key):
        also["rules"] = ruled[1]
    run = recorded.begin(STAGE, CODE_VERSION, keys | also, seed=SEED)
    if run.finished:
        return Outcome(run, 0, run.failures())
    neuron = {layer.first_neuron_id + unit: (layer.name, unit) for layer in recorded.layers for unit in range(layer.neurons)}
    found = [*_names(warehouse, runs, neuron, truth), *_sets(warehouse, runs, neuron, truth, recorded.class_names)]
    for run_id, way, _ in others:
        [aape, *_] = _sets(warehouse, runs | {"specificity": run_id}, neuron, truth, recorded.class_names)
        found.append((f"{aape[0]}, {way}", aape[1]))
    found += [*_groups(warehouse, runs, neuron, truth), *_ablations(warehouse, runs)]
    if ruled:
        found.append(("measured rules", validation.score_rules(_conditions(warehouse, ruled[0], neuron), truth)))
    return _finish(run, found, progress)


Found = list[tuple[str, list[validation.Score]]]


def _finish(run: ledger.Run, found: Found, progress: Progress) -> Outcome:
    rows = [(method, s.measure, s.layer, s.kind, s.right, s.total) for method, scores in found for s in scores]
    columns = ("method", "measure", "layer", "kind", "correct", "total")
    run.record(["scores"], {"validation": pl.DataFrame(rows, schema=columns, orient="row")})
    progress(1, 1)
    run.finish()
    return Outcome(run, 1, run.failures())


def _tuned(context: Context, settings: Settings, progress: Progress) -> Outcome:
    """Score the tuning, or the measured rules, of the network whose tuning is known."""
    warehouse, runs, truth = context.warehouse, context.runs, tuned_truth(context.network)
    recorded = read_recorded(warehouse, runs["activations"])
    [needed] = settings.needs
    run = recorded.begin(STAGE, CODE_VERSION, {"of": settings.of, needed: ledger.finished(warehouse, runs[needed], needed)[0]}, seed=SEED)
    if run.finished:
        return Outcome(run, 0, run.failures())
    neuron = {layer.first_neuron_id + unit: (layer.name, unit) for layer in recorded.layers for unit in range(layer.neurons)}
    if settings.of == "rules":
        assert isinstance(context.network, TunedNetwork)
        conditions = _conditions(warehouse, runs[needed], neuron)
        return _finish(
            run, [("measured rules, pairs", judged.score_properties(conditions, truth, _alone(recorded, context.network)))], progress
        )
    measured: dict[validation.Neuron, dict[str, float]] = {place: {} for place in neuron.values()}
    with store.connect_readonly(warehouse) as con:
        rows = con.execute("SELECT neuron_id, measure, value FROM tuning WHERE run_id = ? AND value IS NOT NULL", [runs[needed]]).fetchall()
    for neuron_id, measure, value in rows:
        measured[neuron[neuron_id]][measure] = value
    return _finish(run, [("tuning", judged.score_tuning(measured, truth))], progress)


def _alone(recorded: Recorded, network: TunedNetwork) -> dict[validation.Neuron, float]:
    """AUROC with which the better of a pair's parts alone tells the pair's clips; none of a pair that is never active."""
    values = {layer.name: np.asarray(layer.matrix(), dtype=np.float32) for layer in recorded.layers}
    heard = np.isfinite(values["tuned"]).all(axis=0)
    positive = held_out.positives(values["pairs"][:, heard])
    return {
        ("pairs", unit): max(
            roc_auc_score(positive[unit], values["tuned"][one, heard]),
            roc_auc_score(positive[unit], (-1 if without else 1) * values["tuned"][other, heard]),
        )
        for unit, (one, other, without) in enumerate(network.pairs)
        if positive[unit].any()
    }


def _names(warehouse: Path, runs: dict[str, int], neuron: dict[int, validation.Neuron], truth: list[planted.Planted]) -> Found:
    with store.connect_readonly(warehouse) as con:
        words = con.execute(
            "SELECT neuron_id, word FROM concept WHERE run_id = ? AND (part_of_speech = 'noun' OR is_acoustic)", [runs["descriptions"]]
        ).fetchall()
        closed = con.execute(
            """SELECT CASE WHEN method = 'ICL' THEN method WHEN mode = 'paper' THEN method || ' ' || function
                        ELSE method || ' ' || function || ', ' || mode END AS way, neuron_id, concept
            FROM (SELECT run_id, method, parameters::JSON ->> 'mode' AS mode FROM run JOIN (SELECT DISTINCT run_id, method FROM closed_concept) USING (run_id)
                  WHERE stage = 'dissections' AND status = 'done' AND parameters::JSON ->> 'activations' = (SELECT run_key FROM run WHERE run_id = ?)
                  QUALIFY run_id = max(run_id) OVER (PARTITION BY method, CASE WHEN method <> 'ICL' THEN mode END))
            JOIN closed_concept USING (run_id, method) WHERE rank = 1 ORDER BY way, neuron_id""",
            [runs["activations"]],
        ).fetchall()
    names: dict[validation.Neuron, list[str]] = {place: [] for place in neuron.values()}
    for neuron_id, word in words:
        names[neuron[neuron_id]].append(word)
    # Whose words are whose, but not how many there are, is what the control destroys.
    places = list(names)
    order = np.random.default_rng(SEED).permutation(len(places))
    shuffled = {place: names[places[other]] for place, other in zip(places, order, strict=True)}
    found: Found = [
        ("open concepts", validation.score_names(names, truth)),
        ("open concepts, shuffled", validation.score_names(shuffled, truth)),
    ]
    for way in sorted({way for way, _, _ in closed}):
        first = {neuron[neuron_id]: [concept] for of, neuron_id, concept in closed if of == way}
        of_classes = [what for what in truth if what.kind in ("class", "sum", "duplicate") and what.classes]
        found.append((way, validation.score_names(first, of_classes)))
    return found


def _ruled(warehouse: Path, recorded: str) -> tuple[int, str] | None:
    """The latest finished run of measured descriptions of recorded activations: its number and key."""
    with store.connect_readonly(warehouse) as con:
        return con.execute(  # type: ignore[return-value]
            """SELECT run_id, run_key FROM run WHERE stage = 'descriptions' AND status = 'done' AND parameters::JSON ->> 'model' = 'measured'
            AND parameters::JSON ->> 'activations' = ? ORDER BY run_id DESC LIMIT 1""",
            [recorded],
        ).fetchone()


def _conditions(warehouse: Path, run_id: int, neuron: dict[int, validation.Neuron]) -> dict[validation.Neuron, list[tuple[str, bool]]]:
    """Properties of the conditions of each neuron's rule, and whether over the threshold."""
    with store.connect_readonly(warehouse) as con:
        living = con.execute("SELECT neuron_id FROM rule WHERE run_id = ?", [run_id]).fetchall()
        rows = con.execute(
            "SELECT neuron_id, property, direction = 'over' FROM rule_condition WHERE run_id = ? ORDER BY neuron_id, position", [run_id]
        ).fetchall()
    found: dict[validation.Neuron, list[tuple[str, bool]]] = {neuron[neuron_id]: [] for (neuron_id,) in living}
    for neuron_id, name, over in rows:
        found[neuron[neuron_id]].append((name, over))
    return found


def _sets(
    warehouse: Path, runs: dict[str, int], neuron: dict[int, validation.Neuron], truth: list[planted.Planted], classes: tuple[str, ...]
) -> Found:
    sizes = Counter(layer for layer, _ in neuron.values())
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            "SELECT measure, neuron_id, name FROM specific_neuron JOIN class USING (class_id) WHERE run_id = ?", [runs["specificity"]]
        ).fetchall()
    matrices = {measure: np.zeros((sizes[LAYER], len(classes)), dtype=bool) for measure in MEASURES}
    for measure, neuron_id, name in rows:
        layer, unit = neuron[neuron_id]
        if name in classes and layer == LAYER:
            matrices[measure][unit, classes.index(name)] = True
    return [(measure, validation.score_sets({LAYER: found}, truth, classes)) for measure, found in matrices.items()]


def _other_ways(warehouse: Path, runs: dict[str, int]) -> list[tuple[int, str, str]]:
    """Other finished runs of specificity on the same activations that AAPE's share or ties tell apart: number, these in words, key."""
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            """SELECT max(run_id), way, any_value(run_key ORDER BY run_id DESC) FROM (
                SELECT *, format('{:g} %, ', 100 * (parameters::JSON ->> 'lowest_entropy')::DOUBLE) ||
                                 CASE WHEN (parameters::JSON ->> 'with_ties')::BOOLEAN THEN 'ties kept' ELSE 'no ties kept' END AS way FROM run
                WHERE stage = 'specificity' AND status = 'done' AND parameters::JSON ->> 'activations' = (SELECT run_key FROM run WHERE run_id = $1))
            GROUP BY way HAVING max(run_id) <> $2 ORDER BY way""",
            [runs["activations"], runs["specificity"]],
        ).fetchall()
    return rows


def _groups(warehouse: Path, runs: dict[str, int], neuron: dict[int, validation.Neuron], truth: list[planted.Planted]) -> Found:
    with store.connect_readonly(warehouse) as con:
        members = con.execute(
            "SELECT partition, is_chosen, neuron_id, cluster_id FROM cluster JOIN cluster_member USING (cluster_id) WHERE run_id = ?",
            [runs["clusters"]],
        ).fetchall()
        verdicts = con.execute(
            "SELECT neuron_id, shared < ? * k FROM polysemanticity WHERE run_id = ? AND k = 5 AND missing = 0",
            [TAU, runs["polysemanticity"]],
        ).fetchall()
        counted = con.execute("SELECT neuron_id, meanings FROM meaning_count WHERE run_id = ?", [runs["polysemanticity"]]).fetchall()
    finest = {neuron[row[2]]: row[3] for row in members if row[0] == 0}
    chosen = {neuron[row[2]]: row[3] for row in members if row[1]}
    return [
        ("clusters, finest", validation.score_clusters(finest, truth)),
        ("clusters, chosen", validation.score_clusters(chosen, truth)),
        ("polysemanticity", validation.score_verdicts({neuron[neuron_id]: verdict for neuron_id, verdict in verdicts}, truth)),
        ("meanings", validation.score_meanings({neuron[neuron_id]: number for neuron_id, number in counted}, truth)),
    ]


def _ablations(warehouse: Path, runs: dict[str, int]) -> Found:
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            "SELECT chosen_by, logit_change, coalesce(other_logit_change, 0) FROM unlearning WHERE run_id = ?", [runs["ablations"]]
        ).fetchall()
    return [
        (
            f"ablation, {way}",
            validation.score_ablation([row[1] for row in rows if row[0] == way], [row[2] for row in rows if row[0] == way]),
        )
        for way in sorted({row[0] for row in rows})
    ]
