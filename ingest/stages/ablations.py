"""Stage `ablations`: unlearning and feature importance, for a network trained on the data set's classes (AND, sections 4.3 and 4.4)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ingest.methods.ablations import ablated, importance_masks, inner_layers, random_masks, unlearning
from ingest.networks.network import Network, keep_freed_memory
from ingest.networks.passes import BATCH_CLIPS, class_logits, prepare_clips, read_waveforms
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import Recorded, read_recorded
from warehouse import ledger, store
from warehouse.store import UserError, activation_folder, scratch

STAGE = "ablations"
TITLE = "ablations of {network} with {dataset}"
UNIT = "units of work"
NEEDS = ("descriptions", "dissections")
CODE_VERSION = 4
SEED = 0
TOP_CONCEPTS = 3
FREQUENT_ADJECTIVES = 4
CRITERIA = ("nouns", "adjectives", "verbs", "prepositions", "length", "basic", "high-level")


@dataclass(frozen=True)
class Settings:
    """Ablations of a classifier. fold: test clips, by default all. functions: similarity functions of the dissections by which neurons are
    chosen, with each of their methods but ICL. seeds: random choices. shares: of all neurons, for feature importance; none to leave that
    out."""

    fold: int | None = None
    functions: tuple[str, ...] = ("cosine_cubed", "wpmi")
    seeds: int = 3
    shares: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.1)


Units = dict[str, np.ndarray]


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Unlearn every class, and take shares of all neurons away; a class is a unit of work, and so is a share by one criterion.

    The network's outputs must be the data set's classes. Outputs themselves are never silenced. A class that no neuron was dissected to has
    a failure row for that way of choosing.
    """
    warehouse, network = context.warehouse, context.network
    recorded = read_recorded(warehouse, context.runs["activations"])
    order = output_order(network, recorded)
    keys = {stage: ledger.finished(warehouse, context.runs[stage], stage)[0] for stage in NEEDS}
    parameters = {"fold": settings.fold, "functions": settings.functions, "seeds": settings.seeds, "shares": settings.shares, **keys}
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=SEED)
    if run.finished:
        return Outcome(run, 0, run.failures())
    tested = (recorded.labels >= 0) & ((recorded.folds == settings.fold) if settings.fold is not None else True)
    if not tested.any():
        raise UserError(f"no clip of {recorded.dataset} lies in fold {settings.fold}: choose one that has clips, or none for all")
    keep_freed_memory()
    words = Words(warehouse, recorded, context.runs["descriptions"], context.runs["dissections"])
    plan = [f"class {label}" for label in range(len(recorded.class_ids))]
    plan += [f"{criterion} {share:g} {repetition}" for criterion, share, repetition in shares_of(settings, words.frequent_adjectives())]
    worked = 0
    with scratch(activation_folder(warehouse) / "ablations.tmp") as folder:
        passes = _Passes(network, recorded, np.flatnonzero(tested), order, context.paths, folder)
        for item, _ in run.pending(dict.fromkeys(plan), progress):
            if item.startswith("class "):
                rows, failures = _unlearn(passes, words, int(item.split()[1]), settings)
                run.record([item], {"unlearning": pl.DataFrame(rows, infer_schema_length=None)}, failures)
            else:
                criterion, share, repetition = item.rsplit(maxsplit=2)
                row, answers = _weigh(passes, words, criterion, float(share), int(repetition))
                run.record([item], {"importance": pl.DataFrame([row]), "importance_answer": answers})
            worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def output_order(network: Network, recorded: Recorded) -> list[int]:
    """Column of the network's outputs for each class of the data set. Raises UserError unless every class has one."""
    plain = {name.replace("_", " ").lower(): column for column, name in enumerate(network.output_names or [])}
    missing = [name for name in recorded.class_names if name.replace("_", " ").lower() not in plain]
    if missing or not recorded.class_names:
        raise UserError(
            f"{network.name} has no output for {missing[0] if missing else 'any class'}: ablations need a network trained on {recorded.dataset}"
        )
    return [plain[name.replace("_", " ").lower()] for name in recorded.class_names]


def shares_of(settings: Settings, adjectives: list[str]) -> Iterator[tuple[str, float, int]]:
    """Criterion, share and repetition of every ablation for feature importance; an adjective in quotes is a criterion of its own."""
    if settings.shares:
        yield "none", 0.0, 0
    for criterion in (*CRITERIA, *(f"'{adjective}'" for adjective in adjectives), "random"):
        for share in settings.shares:
            yield from ((criterion, share, repetition) for repetition in range(settings.seeds))


class Words:
    """What is said of each neuron, by layer name."""

    def __init__(self, warehouse: Path, recorded: Recorded, description_run: int, dissection_run: int) -> None:
        with store.connect_readonly(warehouse) as con:
            self.concepts = con.sql(
                """SELECT layer.name AS layer, neuron_id - first AS unit, word, part_of_speech, occurrences, is_acoustic
                FROM concept JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
                JOIN (SELECT layer_id, min(neuron_id) AS first FROM neuron GROUP BY layer_id) USING (layer_id) WHERE run_id = $run""",
                params={"run": description_run},
            ).pl()
            self.lengths = con.sql(
                """SELECT layer.name AS layer, neuron_id - first AS unit, len(string_split(description, ' ')) AS words
                FROM v_description JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
                JOIN (SELECT layer_id, min(neuron_id) AS first FROM neuron GROUP BY layer_id) USING (layer_id)
                WHERE run_id = $run AND description IS NOT NULL""",
                params={"run": description_run},
            ).pl()
            self.basic = [word for (word,) in con.execute("FROM v_basic_adjective").fetchall()]
            self.closed = con.sql(
                """SELECT layer.name AS layer, neuron_id - first AS unit, method, function, concept
                FROM closed_concept JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
                JOIN (SELECT layer_id, min(neuron_id) AS first FROM neuron GROUP BY layer_id) USING (layer_id)
                WHERE run_id = $run AND rank <= $top""",
                params={"run": dissection_run, "top": TOP_CONCEPTS},
            ).pl()
            [(parameters,)] = con.execute("SELECT parameters FROM run WHERE run_id = ?", [dissection_run]).fetchall()
        self.methods: list[str] = json.loads(parameters).get("methods", ["DB"])
        self.neurons = {layer.name: layer.neurons for layer in recorded.layers}

    def named(self, class_name: str) -> Units:
        """Neurons with a noun that is a word of the class's name. Whole words: "use" is none of "mouse click"."""
        words = re.findall(r"[a-z]+", class_name.lower())
        return self._units(self.concepts.filter((pl.col("part_of_speech") == "noun") & pl.col("word").is_in(words)))

    def dissected(self, class_name: str, method: str, function: str) -> Units:
        """Neurons that have the class among their first concepts by a method and similarity function."""
        plain = pl.col("concept").str.to_lowercase().str.replace_all("_", " ")
        chosen = (pl.col("method") == method) & (pl.col("function") == function) & (plain == class_name.lower().replace("_", " "))
        return self._units(self.closed.filter(chosen))

    def ways(self, class_name: str, functions: Sequence[str]) -> dict[str, Units]:
        """Neurons of a class by every way of choosing them: open concepts, then methods of dissection."""
        found = {"open": self.named(class_name)}
        for method in self.methods:
            if method == "ICL":
                found[method] = self.dissected(class_name, method, "icl")
            else:
                found |= {f"{method} {function}": self.dissected(class_name, method, function) for function in functions}
        return found

    def _units(self, frame: pl.DataFrame) -> Units:
        return {layer: found["unit"].unique().sort().to_numpy() for (layer,), found in frame.group_by(["layer"], maintain_order=True)}

    def _adjectives(self) -> pl.DataFrame:
        return self.concepts.filter((pl.col("part_of_speech") == "adjective") & pl.col("is_acoustic"))

    def frequent_adjectives(self) -> list[str]:
        """The basic adjectives said of most neurons, four at most, as in Figure 4c."""
        counted = self._adjectives().filter(pl.col("word").is_in(self.basic)).group_by("word").len()
        return counted.sort("len", "word", descending=[True, False])["word"].head(FREQUENT_ADJECTIVES).to_list()

    def scores(self, criterion: str) -> Units:
        """Score of every neuron by layer; NaN for those that are not described, and for those without the adjective that is asked for."""
        result = {name: np.full(neurons, np.nan) for name, neurons in self.neurons.items()}
        if criterion.startswith("'"):
            for layer, unit in self._adjectives().filter(pl.col("word") == criterion.strip("'")).select("layer", "unit").rows():
                result[layer][unit] = 1
            return result
        for layer, unit, words in self.lengths.rows():
            result[layer][unit] = words if criterion == "length" else 0
        if criterion in ("basic", "high-level"):
            basic = pl.col("word").is_in(self.basic)
            chosen = self._adjectives().filter(basic if criterion == "basic" else ~basic)
        else:
            chosen = self.concepts.filter(pl.col("part_of_speech") == criterion.removesuffix("s"))
        for layer, unit, count in chosen.group_by("layer", "unit").agg(pl.col("occurrences").sum()).rows():
            result[layer][unit] = count
        return result


class _Passes:
    """Runs the network over the tested clips, with some neurons silenced or none."""

    def __init__(
        self, network: Network, recorded: Recorded, columns: np.ndarray, order: list[int], paths: dict[str, Path], folder: Path
    ) -> None:
        self.network, self.recorded, self.order = network, recorded, order
        names = [recorded.clip_names[column] for column in columns]
        inputs = prepare_clips(network, read_waveforms(network, names, paths), len(names), folder / "inputs.float32")
        self.batches = inputs.split(BATCH_CLIPS * network.windows)
        self.labels, self.clip_ids = recorded.labels[columns], recorded.clip_ids[columns]
        self.before = self.logits({})

    def logits(self, units: Units) -> np.ndarray:
        """Raw logits [clips, classes of the data set]."""
        inner = {layer.name for layer in inner_layers(self.network)}
        with ablated(self.network, {layer: chosen for layer, chosen in units.items() if layer in inner}):
            return class_logits(self.network, self.batches)[:, self.order]

    def count(self, units: Units) -> int:
        """Neurons that would be silenced."""
        inner = {layer.name for layer in inner_layers(self.network)}
        return sum(len(chosen) for layer, chosen in units.items() if layer in inner)


def _unlearn(passes: _Passes, words: Words, label: int, settings: Settings) -> tuple[list[dict[str, object]], list[tuple[str, str]]]:
    """Rows of table unlearning of a class, and ways of choosing that found no neuron."""
    name = passes.recorded.class_names[label]
    ways = words.ways(name, settings.functions)
    asked = [(way, 0, units) for way, units in ways.items()]
    size = max(passes.count(units) for units in ways.values())  # a control no way of choosing is larger than
    asked += [("random", seed, random_masks(passes.network, size, seed=1000 * seed + label)) for seed in range(settings.seeds)]
    rows: list[dict[str, object]] = []
    failures = []
    own, right = passes.labels == label, passes.before.argmax(axis=1) == passes.labels
    if not own.any():
        return [], [(name, "no clip of the class is tested")]
    for way, repetition, units in asked:
        if not passes.count(units):
            if way != "random":
                failures.append((f"{name}, {way}", "no neuron was dissected to the class"))
            continue
        after = passes.logits(units)
        change, still = unlearning(passes.before, after, passes.labels, label), after.argmax(axis=1) == passes.labels
        rows.append(
            {
                "class_id": int(passes.recorded.class_ids[label]), "chosen_by": way, "repetition": repetition, "neurons": passes.count(units),
                "logit_change": change.own, "other_logit_change": None if change.rest != change.rest else change.rest,
                "correct_before": int((right & own).sum()), "correct_after": int((still & own).sum()), "total": int(own.sum()),
                "other_correct_before": int((right & ~own).sum()), "other_correct_after": int((still & ~own).sum()),
                "other_total": int((~own).sum()),
            }
        )  # fmt: skip
    return rows, failures


def _weigh(passes: _Passes, words: Words, criterion: str, share: float, repetition: int) -> tuple[dict[str, object], pl.DataFrame]:
    """A row of table importance, and those of importance_answer."""
    network = passes.network
    if criterion == "none":
        units: Units = {}
    elif criterion == "random":
        total = sum(layer.neurons for layer in inner_layers(network))
        units = random_masks(network, round(share * total), seed=repetition)
    else:
        inner = {layer.name for layer in inner_layers(network)}
        scores = {layer: values for layer, values in words.scores(criterion).items() if layer in inner}
        units = importance_masks(network, scores, share, seed=repetition)
    right = passes.logits(units).argmax(axis=1) == passes.labels
    asked = {"criterion": criterion, "share": share, "repetition": repetition}
    answers = pl.DataFrame({**{key: [value] * len(right) for key, value in asked.items()}, "clip_id": passes.clip_ids, "is_correct": right})
    return {**asked, "neurons": passes.count(units), "correct": int(right.sum()), "total": len(right)}, answers
