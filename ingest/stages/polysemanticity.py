"""Stage `polysemanticity`: neurons whose highest clips have nothing in common that captions say (AND, Algorithm 1), and those that answer to
two kinds of sounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from ingest.language.sentences import sentences
from ingest.language.text_encoders import load_encoder
from ingest.methods import meanings, polysemanticity
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.captions import read_captions
from ingest.stages.recorded import read_recorded
from warehouse.store import UserError

STAGE = "polysemanticity"
TITLE = "polysemanticity of {network} on {dataset}"
UNIT = "units of work"
NEEDS = ("captions",)
CODE_VERSION = 2
BOUNDS = {"clusters": (1, math.inf), "most_common": (0, math.inf), "ks": (1, math.inf)}
SEED = 0


@dataclass(frozen=True)
class Settings:
    """Which neurons have one meaning. clusters: of sentences. most_common: share of all clips above which a cluster, having a sentence of so
    many captions, says nothing of a neuron (1: the paper's rule, all clusters count). ks: numbers of top clips. meanings: beyond the paper,
    when a neuron has several (a table of its own, see ingest.methods.meanings.Thresholds)."""

    clusters: int = polysemanticity.CLUSTERS
    most_common: float = 1.0
    ks: tuple[int, ...] = polysemanticity.KS
    meanings: meanings.Thresholds = field(default_factory=meanings.Thresholds)

    def __post_init__(self) -> None:
        if not self.ks:
            raise UserError("polysemanticity: ks is empty: give numbers of top clips")


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Cluster the sentences of all captions and count, for every neuron recorded, the top clips that share one, and the meanings that words
    tell apart (ingest.methods.meanings); a layer is a unit of work.

    A neuron with fewer than k clips above 0 has no row for that k: its ranking goes on with clips that it does not answer to.
    """
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    captions, captioner = read_captions(context.warehouse, context.runs["captions"])
    encoder = load_encoder(context.settings("descriptions").encoder)
    parameters = {
        "clusters": settings.clusters, "most_common": settings.most_common, "ks": settings.ks, "meanings": vars(settings.meanings),
        "captions": captioner, "encoder": encoder.parameters,
    }  # fmt: skip
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=SEED)
    if run.finished:
        return Outcome(run, 0, run.failures())
    said = [captions.get(int(clip), "") for clip in recorded.clip_ids]
    pairs = [(sentence, column) for column, caption in enumerate(said) for sentence in sentences(caption)]
    if not pairs:
        raise UserError(f"no clip of {recorded.dataset} has a caption: ingest captions first")
    texts, owners = [sentence for sentence, _ in pairs], np.array([column for _, column in pairs])
    labels = polysemanticity.sentence_clusters(encoder.embed(texts), settings.clusters, SEED)
    member = polysemanticity.clip_clusters(labels, owners, len(said))
    member[:, member.mean(axis=0) > settings.most_common] = False
    worked = 0
    if "sentence clusters" not in run.done():
        words = polysemanticity.cluster_words(texts, labels)
        frame = pl.DataFrame(
            {
                "cluster": range(len(words)),
                "sentences": np.bincount(labels, minlength=len(words)),
                "words": [", ".join(word.word for word in found) for found in words],
            }
        )
        run.record(["sentence clusters"], {"sentence_cluster": frame})
        worked += 1
    vocabulary = meanings.vocabulary(said)
    for item, layer in run.pending(recorded.plan(), progress):
        tables = {"polysemanticity": count(layer.matrix(), member, settings.ks, layer.first_neuron_id)}
        run.record([item], tables | tell(layer.matrix(), vocabulary, recorded.clip_ids, settings.meanings, layer.first_neuron_id))
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def count(matrix: np.ndarray, member: np.ndarray, ks: tuple[int, ...], first_neuron_id: int) -> pl.DataFrame:
    """Rows of table polysemanticity for a matrix [neurons, clips] and the sentence clusters of its clips [clips, clusters]."""
    values = np.where(np.isfinite(matrix), np.asarray(matrix, dtype=np.float32), -np.inf)
    order = np.argsort(-values, axis=1, kind="stable")[:, : max(ks)]
    above = (np.take_along_axis(values, order, axis=1) > 0).sum(axis=1)
    frames = []
    for k in ks:
        chosen = np.flatnonzero(above >= k)
        found = polysemanticity.agreement(member, order[chosen, :k])
        frames.append(
            pl.DataFrame(
                {
                    "neuron_id": first_neuron_id + chosen,
                    "k": np.full(len(chosen), k),
                    "shared": found.shared,
                    "cluster": pl.Series([None if cluster < 0 else int(cluster) for cluster in found.cluster], dtype=pl.Int64),
                    "missing": found.missing,
                }
            )
        )
    return pl.concat(frames)


def tell(
    matrix: np.ndarray, vocabulary: meanings.Vocabulary, clip_ids: np.ndarray, thresholds: meanings.Thresholds, first_neuron_id: int
) -> dict[str, pl.DataFrame]:
    """Rows of tables meaning_count, meaning and meaning_clip for a matrix [neurons, clips]."""
    counts, found, clips = [], [], []
    for neuron_id, activations in enumerate(matrix, first_neuron_id):
        verdict = meanings.verdict(vocabulary, activations, thresholds)
        if verdict is None:
            continue
        split = [None if np.isnan(value) else value for value in (verdict.transfer, verdict.shared_word)]
        counts.append((neuron_id, verdict.clips, len(verdict.meanings), *split))
        for number, meaning in enumerate(verdict.meanings, 1):
            found.append((neuron_id, number, len(meaning.clips), meaning.coherence, ", ".join(meaning.words)))
            clips += [(neuron_id, number, int(clip_ids[clip])) for clip in meaning.clips]
    key = ["neuron_id"]
    decimal = {"transfer": pl.Float64, "shared_word": pl.Float64}  # which polars cannot tell where all are None
    return {
        "meaning_count": pl.DataFrame(counts, [*key, "clips", "meanings", *decimal], orient="row", schema_overrides=decimal),
        "meaning": pl.DataFrame(found, [*key, "meaning", "clips", "coherence", "words"], orient="row"),
        "meaning_clip": pl.DataFrame(clips, [*key, "meaning", "clip_id"], orient="row"),
    }
