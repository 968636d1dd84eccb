"""Stage `ablations`: unlearning and feature importance, for a network trained on the data set's classes (AND, sections 4.3 and 4.4)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from ingest.methods.ablations import ablated, importance_masks, inner_layers, logit_changes, random_masks, unlearning
from ingest.methods.concepts import Naming
from ingest.methods.readouts import same_names
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
CODE_VERSION = 5
BOUNDS = {"seeds": (0, math.inf), "shares": (0, 1)}
SEED = 0
TOP_CONCEPTS = 3
FREQUENT_ADJECTIVES = 4
RANDOM = "random as "
CRITERIA = ("nouns", "adjectives", "verbs", "prepositions", "length", "basic", "high-level")


@dataclass(frozen=True)
class Settings:
    """Ablations of a classifier. fold: test clips, by default the fold that the network was trained without, all where that is not known.
    functions: similarity functions of the dissections by which neurons are chosen, with each of their methods but ICL. naming: how a
    description names a class; lemmas, by its nouns and by known synonyms (ingest.methods.concepts.Naming), or as published by any noun that
    is a part of the class's name, letter by letter. seeds: random choices. shares: of all neurons, for feature importance; none to leave
    that out. basic: the adjectives that count as basic there; measurable (those of view v_basic_adjective), published (the paper's four), or
    words."""

    fold: int | None = None
    functions: tuple[str, ...] = ("cosine_cubed", "wpmi")
    naming: Literal["lemmas", "published"] = "lemmas"
    seeds: int = 3
    shares: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.1)
    basic: tuple[str, ...] = ("measurable",)


Units = dict[str, np.ndarray]
Tables = dict[str, list[dict[str, object]]]


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Unlearn every class, and take shares of all neurons away; a class is a unit of work, and so is a share by one criterion.

    The network's outputs must be the data set's classes. Outputs themselves are never silenced. A class that no neuron was dissected to has
    a failure row for that way of choosing.
    """
    warehouse, network = context.warehouse, context.network
    recorded = read_recorded(warehouse, context.runs["activations"])
    order = output_order(network, recorded)
    keys = {stage: ledger.finished(warehouse, context.runs[stage], stage)[0] for stage in NEEDS}
    fold = tested_fold(settings, network, recorded)
    chosen = {name: getattr(settings, name) for name in ("functions", "naming", "seeds", "shares", "basic")}
    parameters = {"fold": fold, **chosen, **keys}
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=SEED)
    if run.finished:
        return Outcome(run, 0, run.failures())
    tested = (recorded.labels >= 0) & (recorded.folds == fold if fold is not None else True)
    if not tested.any():
        raise UserError(f"no clip of {recorded.dataset} lies in fold {fold}: choose one that has clips, or none for all")
    keep_freed_memory()
    words = Words(warehouse, recorded, context.runs["descriptions"], context.runs["dissections"], settings)
    plan = [f"class {label}" for label in range(len(recorded.class_ids))]
    plan += [f"{criterion} {share:g} {repetition}" for criterion, share, repetition in shares_of(settings, words.frequent_adjectives())]
    worked = 0
    with scratch(activation_folder(warehouse) / "ablations.tmp") as folder:
        passes = _Passes(network, recorded, np.flatnonzero(tested), order, context.paths, folder)
        for item, _ in run.pending(dict.fromkeys(plan), progress):
            if item.startswith("class "):
                tables, failures = _unlearn(passes, words, int(item.split()[1]), settings)
            else:
                criterion, share, repetition = item.rsplit(maxsplit=2)
                tables, failures = _weigh(passes, words, criterion, float(share), int(repetition)), []
            run.record([item], {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()}, failures)
            worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def tested_fold(settings: Settings, network: Network, recorded: Recorded) -> int | None:
    """The fold whose clips are tested; None for all. Raises UserError for clips that the network is known to have been trained on."""
    unseen = network.held_out
    if unseen is None or unseen.dataset != recorded.dataset:
        return settings.fold
    if settings.fold not in (None, unseen.fold):
        raise UserError(
            f"{network.name} was trained on fold {settings.fold} of {unseen.dataset}, which cannot test it: give fold = {unseen.fold} or none"
        )
    clips = sorted(name for name, fold in zip(recorded.clip_names, recorded.folds, strict=True) if fold == unseen.fold)
    if unseen.clips_sha256 not in (None, store.sha256_json(clips)):
        raise UserError(
            f"fold {unseen.fold} of {unseen.dataset} is not the one that {network.name} was trained without: draw folds and clips as then"
        )
    return unseen.fold


def output_order(network: Network, recorded: Recorded) -> list[int]:
    """Column of the network's outputs for each class of the data set. Raises UserError unless every class has one."""
    named = same_names(network.output_names, recorded.class_names)
    missing = [name for name in recorded.class_names if name not in named]
    if missing or not recorded.class_names:
        raise UserError(
            f"{network.name} has no output for {missing[0] if missing else 'any class'}: ablations need a network trained on {recorded.dataset}, "
            "or its outputs' names under [[network]]"
        )
    return [(network.output_names or []).index(named[name][0]) for name in recorded.class_names]


def shares_of(settings: Settings, adjectives: list[str]) -> Iterator[tuple[str, float, int]]:
    """Criterion, share and repetition of every ablation for feature importance; an adjective in quotes is a criterion of its own."""
    if settings.shares:
        yield "none", 0.0, 0
    for criterion in (*CRITERIA, *(f"'{adjective}'" for adjective in adjectives), "random"):
        for share in settings.shares:
            yield from ((criterion, share, repetition) for repetition in range(settings.seeds))


class Words:
    """What is said of each neuron, by layer name."""

    def __init__(self, warehouse: Path, recorded: Recorded, description_run: int, dissection_run: int, settings: Settings) -> None:
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
            views = {"measurable": "v_basic_adjective", "published": "v_published_basic_adjective"}
            self.basic = list(settings.basic)
            if len(self.basic) == 1 and self.basic[0] in views:
                self.basic = [word for (word,) in con.execute(f"FROM {views[self.basic[0]]}").fetchall()]
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
        self.naming = settings.naming

    def named(self, class_name: str) -> Units:
        """Neurons whose description names the class."""
        said = self.concepts.filter(pl.col("part_of_speech").is_in(["noun", "verb"]))
        if self.naming == "published":
            return self._units(
                said.filter((pl.col("part_of_speech") == "noun") & pl.lit(class_name.lower()).str.contains(pl.col("word"), literal=True))
            )
        naming = Naming(class_name)
        stands_for = {
            (word, part): sorted(naming.parts(word, part)) for word, part in said.select("word", "part_of_speech").unique().rows()
        }
        found: dict[tuple[str, int], set[str]] = {}
        for layer, unit, word, part in said.select("layer", "unit", "word", "part_of_speech").rows():
            if parts := stands_for[word, part]:
                found.setdefault((layer, unit), set()).update(parts)
        chosen = [place for place, parts in found.items() if naming.named(parts)]
        return self._units(pl.DataFrame(chosen, {"layer": pl.String, "unit": pl.Int64}, orient="row"))

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
        """Those that module C accepts."""
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
        elif criterion == "adjectives":
            chosen = self._adjectives()
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


def _unlearn(passes: _Passes, words: Words, label: int, settings: Settings) -> tuple[Tables, list[tuple[str, str]]]:
    """Rows of tables unlearning and unlearning_effect of a class, and ways of choosing that found no neuron. Every way has as many random
    neurons beside it."""
    name = passes.recorded.class_names[label]
    ways = words.ways(name, settings.functions)
    failures = [(f"{name}, {way}", "no neuron was dissected to the class") for way, units in ways.items() if not passes.count(units)]
    own, right = passes.labels == label, passes.before.argmax(axis=1) == passes.labels
    if not own.any():
        return {}, [(name, "no clip of the class is tested")]
    asked = [(way, 0, units) for way, units in ways.items()]
    for way, units in ways.items():
        drawn = [random_masks(passes.network, passes.count(units), seed=1000 * seed + label) for seed in range(settings.seeds)]
        asked += [(f"{RANDOM}{way}", seed, masks) for seed, masks in enumerate(drawn)]
    tables: Tables = {"unlearning": [], "unlearning_effect": []}
    drawn_before: dict[tuple[int, int], np.ndarray] = {}  # two ways that found as many neurons have the same random ones
    for way, repetition, units in asked:
        neurons = passes.count(units)
        if not neurons:
            continue
        after = drawn_before.get((neurons, repetition)) if way.startswith(RANDOM) else None
        if after is None:
            after = passes.logits(units)
        if way.startswith(RANDOM):
            drawn_before[neurons, repetition] = after
        change, still = unlearning(passes.before, after, passes.labels, label), after.argmax(axis=1) == passes.labels
        key = {"class_id": int(passes.recorded.class_ids[label]), "chosen_by": way, "repetition": repetition}
        tables["unlearning"].append(
            {
                **key, "neurons": neurons,
                "logit_change": change.own, "other_logit_change": None if change.rest != change.rest else change.rest,
                "correct_before": int((right & own).sum()), "correct_after": int((still & own).sum()), "total": int(own.sum()),
                "other_correct_before": int((right & ~own).sum()), "other_correct_after": int((still & ~own).sum()),
                "other_total": int((~own).sum()),
            }
        )  # fmt: skip
        tables["unlearning_effect"] += [
            {**key, "read_class_id": int(passes.recorded.class_ids[read]), "logit_change": value}
            for read, value in logit_changes(passes.before, after, passes.labels).items()
        ]
    return {name: rows for name, rows in tables.items() if rows}, failures


def _weigh(passes: _Passes, words: Words, criterion: str, share: float, repetition: int) -> Tables:
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
    answers = [{**asked, "clip_id": int(clip_id), "is_correct": bool(told)} for clip_id, told in zip(passes.clip_ids, right, strict=True)]
    row = {**asked, "neurons": passes.count(units), "correct": int(right.sum()), "total": len(right)}
    return {"importance": [row], "importance_answer": answers}
