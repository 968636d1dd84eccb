"""Running a study: its stages in order, each told what the ones before it did."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ingest import stages
from ingest.methods.probes import wilson
from ingest.sounds.draws import draw
from ingest.sounds.listing import Listing
from ingest.sounds.readers import read_dataset
from ingest.stages import Context, Here, Progress
from ingest.study import DatasetChoice, NetworkChoice, Study, make_study, read_study
from warehouse import store
from warehouse.store import UserError

if TYPE_CHECKING:
    from ingest.networks.network import Network
    from ingest.stages.extraction.segments import Measure

    Spread = Callable[[NetworkChoice], Measure]
    """How segments of a network's activations are measured elsewhere than in this process."""


class Reporter(Protocol):
    """Where a study tells what it does."""

    def say(self, line: str) -> None:
        """One line."""

    def stage(self, title: str) -> AbstractContextManager[Progress]:
        """A stage begins; gives what to call as it advances."""


def run_study(warehouse: Path, study: Study, reporter: Reporter, spread: Spread | None = None) -> int:
    """Run a study's stages as the warehouse's one writer; returns the number of failures its runs recorded. `spread`: how segments of a network's
    activations are measured elsewhere than in this process, and, where it is a Here, engines run."""
    failures = 0
    where = spread if isinstance(spread, Here) else Here()
    planned = study.planned()
    with store.writer(warehouse):
        for dataset in study.dataset:
            listing = listed(dataset, warehouse.parent, reporter)
            heard = Context(warehouse, listing, study.of, planned=tuple(planned), where=where)
            failures += _run(planned[0], heard, reporter)
            for choice in study.network if planned[1:] else ():
                network = loaded(choice)
                context = replace(
                    heard, network=network, layers=choice.layers, positions=choice.positions, runs=dict(heard.runs),
                    measure=spread(choice) if spread else None,
                )  # fmt: skip
                failures += sum([_run(name, context, reporter) for name in planned[1:]])
    return failures


def loaded(choice: NetworkChoice) -> Network:
    """A network of a study, its outputs named and the latents of its autoencoders among its layers."""
    from ingest.networks.autoencoders.latents import attach
    from ingest.networks.registry import load_network, name_outputs

    network = name_outputs(load_network(choice.name, weights=choice.weights, clip_s=choice.clip_s), choice.names)
    return attach(network, [vars(sae) for sae in choice.saes], choice.layers)


def trained(
    file: Path | None,
    base: str,
    way: str,
    out: Path,
    reporter: Reporter,
    *,
    dataset: dict[str, Any],
    network: dict[str, Any],
    latents: int | None,
    k: int,
    **options: Any,
) -> str:
    """Train what `auricle train` is asked for (`options` fold, seed, epochs and device), on the data set of a study file or of a table, the network of
    an autoencoder likewise; returns what came of it, in a line."""  # fmt: skip
    if dataset if file else "reader" not in dataset:
        raise UserError("give the data set by a study file, or by --dataset and --source")
    if base != "sae" and ("name" in network or latents):
        raise UserError("--network and --latents go with sae: auricle train sae LAYER --network NAME")
    if base == "sae" and (network if file else "name" not in network):
        raise UserError("give the network by a study file, or by --network, --weights and --clip-seconds")
    study = read_study(file) if file else make_study({"dataset": [dataset], "network": [network] if base == "sae" else []}, "train")
    if base == "sae":
        drawn = {name: options[name] for name in ("seed", "epochs") if options[name] is not None}
        recipe = {"latents": latents, "k": k, **drawn}
        return train_autoencoder(study, way, out, reporter, recipe=recipe, fold=options["fold"], device=options["device"])
    clip_s = network.get("clip_s", 5.0)
    return train_target(study, base, way, out, reporter, weights=network.get("weights"), clip_s=clip_s, **options)


def train_target(study: Study, base: str, way: str, out: Path, reporter: Reporter, **options: Any) -> str:
    """Train a network on the classes of a study's one data set (`options` as of training.train) and write BASE-WAY.safetensors to the folder
    `out`; returns how right it is, in a line."""
    from ingest.networks.training import train

    if len(study.dataset) > 1:
        raise UserError(f"the study names {len(study.dataset)} data sets: a network is trained on one")
    listing = listed(study.dataset[0], out, reporter)
    with reporter.stage(f"training {base}") as progress:
        trained = train(way, base, listing, progress=progress, **options)
    path, correct, total = out / f"{base}-{way}.safetensors", sum(trained.correct), sum(trained.total)
    trained.save(path)
    low, high = wilson(correct, total)
    return (
        f"{path}: {correct} of {total} clips of fold {trained.fold} of {listing.name} right, {100 * correct / total:.1f} % "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
    )


def train_autoencoder(
    study: Study, layer: str, out: Path, reporter: Reporter, *, recipe: Mapping[str, Any], fold: int | None, device: str
) -> str:
    """Train a sparse autoencoder on a layer of a study's one network over its one data set (`recipe` as in autoencoders.training.Recipe, of
    the `latents` None for four times the layer's neurons) and write NETWORK-LAYER-sae.safetensors to the folder `out`; returns what it is worth, in lines."""
    from ingest.networks.autoencoders.clips import train_sae
    from ingest.networks.autoencoders.latents import find_layer
    from ingest.networks.autoencoders.training import Recipe

    if len(study.dataset) != 1 or len(study.network) != 1:
        raise UserError(
            f"the study names {len(study.dataset)} data sets and {len(study.network)} networks: an autoencoder is trained on one of each"
        )
    listing, network = listed(study.dataset[0], out, reporter), loaded(replace(study.network[0], saes=()))
    latents = recipe["latents"] or 4 * find_layer(network, layer).neurons
    name = re.sub(r"[^\w.-]+", "-", f"{Path(network.name).name}-{layer}-sae")
    path, unfinished = out / f"{name}.safetensors", out / f"{name}.unfinished"
    with reporter.stage(f"training an autoencoder of {layer} of {network.name}") as progress:
        trained = train_sae(
            network, layer, listing, Recipe(**{**recipe, "latents": latents}), fold=fold, unfinished=unfinished, device=device, progress=progress
        )  # fmt: skip
    trained.save(path)
    unfinished.unlink(missing_ok=True)
    said, worth = trained.said, trained.said["held_out"]
    recovered = "" if worth["output_recovered"] is None else f", {100 * worth['output_recovered']:.1f} % of the output's loss recovered"
    return (
        f"{path}: {latents} latents of {layer}, {said['k']} a vector, {said['dead']} dead; on {worth['clips']} clips of fold {said['fold']} of "
        f"{listing.name} {100 * worth['variance_explained']:.1f} % of the variance explained{recovered}"
    )


def listed(dataset: DatasetChoice, beside: Path, reporter: Reporter) -> Listing:
    """A data set of a study, read and drawn; sounds that are synthesised lie in the folder `beside` a warehouse."""
    listing = read_dataset(dataset.reader, dataset.source or beside / dataset.reader, dataset.name, dataset.reading)
    for note in listing.notes:
        reporter.say(f"data set {listing.name}: {note}")
    return draw(listing, per_class=dataset.per_class, folds=dataset.folds, seed=dataset.seed)


def _run(name: str, context: Context, reporter: Reporter) -> int:
    """Run a stage, enter its run in the context and tell about it; returns the failures recorded."""
    stage = stages.load(name)
    title = stage.TITLE.format(network=context.network.name if context.network else "", dataset=context.dataset)
    if schema := getattr(stage, "SCHEMA", None):
        store.extend(context.warehouse, schema)
    with reporter.stage(title) as progress:
        outcome = stage.run(context, context.settings(name), context.where.noted(progress))
    done_by = context.where.rest()
    context.runs[name] = outcome.run.run_id
    if outcome.run.why:
        reporter.say(f"{title}: {outcome.run.why}")
    done = f"{outcome.worked} {stage.UNIT} done" if outcome.worked else "nothing to do"
    failed = f", {outcome.failures} failures" if outcome.failures else ""
    reporter.say(f"{title}: run {outcome.run.run_id}, {done}{done_by}{failed}")
    return outcome.failures
