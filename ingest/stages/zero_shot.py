"""Stage `zero_shot`: how well an audio-text network such as CLAP tells the classes by prompts alone, nothing fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ingest.language.word_lists import class_prompts
from ingest.methods.readouts import ZeroShot, prompted
from ingest.networks.audio_text import audio_embeddings, check_reads_text, text_embeddings
from ingest.networks.network import pick_device
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.recorded import read_recorded, relabelled
from warehouse import ledger
from warehouse.store import UserError

STAGE = "zero_shot"
TITLE = "zero-shot classification of {dataset} by {network}"
UNIT = "prompts"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """How classes are put in words. prompts: templates whose hole {} takes a class's name, each read by itself; by default the CLAP paper's for
    the reader of the data set (Table 3, and this is a sound of {} for all others). label_set: by default the data set's first."""

    prompts: tuple[str, ...] | None = None
    label_set: str | None = None

    def __post_init__(self) -> None:
        for prompt in self.prompts or ():
            if prompt.count("{}") != 1:
                raise UserError(f"zero_shot: prompt {prompt!r} must have one hole {{}} for the class's name")


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Give every clip the class whose prompt's embedding has the greatest cosine to the clip's; a prompt is a unit of work.

    A clip that cannot be embedded has a failure row, and so has one without a class of the label set, or with several.
    """
    network = context.network
    check_reads_text(network)
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    if settings.label_set is not None:
        recorded = relabelled(recorded, settings.label_set)
    if not len(recorded.class_ids):
        raise UserError(f"{recorded.dataset} has no classes: zero_shot needs their names")
    prompts = settings.prompts or (class_prompts(context.listing.reader),)
    parameters = {
        "dataset": recorded.dataset, "network": recorded.network, "clip_s": recorded.clip_s, "prompts": prompts,
        "label_set": settings.label_set,
    }  # fmt: skip
    device = pick_device(context.settings("activations").device)
    run = ledger.begin(
        context.warehouse, STAGE, parameters=parameters, code_version=CODE_VERSION, dataset_sha256=recorded.dataset_sha256,
        network_sha256=recorded.network_sha256, device=device,
    )  # fmt: skip
    labelled = np.flatnonzero(recorded.labels >= 0)
    embeddings: np.ndarray | None = None
    worked = 0
    for item, prompt in run.pending({f"prompt {prompt}": prompt for prompt in prompts}, progress):
        if embeddings is None:
            network.module.to(device)
            embeddings = audio_embeddings(network, [recorded.clip_names[column] for column in labelled], context.paths)
        texts = text_embeddings(network, [prompted(prompt, name) for name in recorded.class_names])
        found = ZeroShot(texts)(embeddings)
        told = found >= 0
        pairs, clips = np.unique(np.stack([recorded.labels[labelled][told], found[told]]), axis=1, return_counts=True)
        frame = pl.DataFrame(
            {
                "prompt": [prompt] * len(clips), "class_id": recorded.class_ids[pairs[0]], "told_class_id": recorded.class_ids[pairs[1]],
                "clips": clips,
            }
        )  # fmt: skip
        failures = [(recorded.clip_names[column], "no embedding of it, or of a prompt, can be had") for column in labelled[~told]]
        failures += [
            (name, "not one class of the label set") for name, label in zip(recorded.clip_names, recorded.labels, strict=True) if label < 0
        ]
        run.record([item], {"zero_shot": frame}, failures)
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())
