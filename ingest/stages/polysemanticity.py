"""Stage `polysemanticity`: which neurons' highest clips have something in common that their captions say (AND, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from ingest.language.sentences import sentences
from ingest.language.text_encoders import TextEncoder, load_encoder
from ingest.methods import meanings, polysemanticity
from ingest.stages import Context, Outcome, Progress
from ingest.stages.captions import read_captions
from ingest.stages.recorded import read_recorded
from warehouse import ledger
from warehouse.store import UserError, insert

STAGE = "polysemanticity"
TITLE = "polysemanticity of {network} on {dataset}"
UNIT = "units of work"
CODE_VERSION = 2
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


def needs(settings: Settings) -> tuple[str, ...]:
    """What it reads."""
    return ("captions",)


def run(context: Context, settings: Settings, progress: Progress | None = None) -> Outcome:
    """Tell how many meanings the neurons recorded have."""
    encoder = load_encoder(context.settings("descriptions").encoder)
    return ingest_polysemanticity(
        context.warehouse, context.runs["activations"], context.runs["captions"], encoder, settings, progress=progress
    )


def ingest_polysemanticity(
    warehouse: Path,
    activation_run: int,
    caption_run: int,
    encoder: TextEncoder,
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
) -> Outcome:
    """Cluster the sentences of all captions and count, for every neuron, the top clips that share one, and the meanings that words tell apart
    (ingest.methods.meanings); a layer is a unit of work.

    A neuron with fewer than k clips above 0 has no row for that k: its ranking goes on with clips that it does not answer to.
    """
    settings = settings or Settings()
    recorded = read_recorded(warehouse, activation_run)
    captions, captioner = read_captions(warehouse, caption_run)
    run = ledger.begin(
        warehouse,
        STAGE,
        parameters={
            **recorded.subject(),
            "clusters": settings.clusters,
            "most_common": settings.most_common,
            "ks": settings.ks,
            "meanings": vars(settings.meanings),
            "captions": captioner,
            "encoder": encoder.parameters,
        },
        code_version=CODE_VERSION,
        dataset_sha256=recorded.dataset_sha256,
        network_sha256=recorded.network_sha256,
        seed=SEED,
    )
    worked, done = 0, run.done()
    if not run.finished:
        texts, owners = [], []
        for column, clip in enumerate(recorded.clip_ids):
            for sentence in sentences(captions.get(int(clip), "")):
                texts.append(sentence)
                owners.append(column)
        if not texts:
            raise UserError(f"no clip of {recorded.dataset} has a caption: ingest captions first")
        labels = polysemanticity.sentence_clusters(encoder.embed(texts), settings.clusters, SEED)
        member = polysemanticity.clip_clusters(labels, np.array(owners), len(recorded.clip_ids))
        member[:, member.mean(axis=0) > settings.most_common] = False
        if "sentence clusters" not in done:
            words = polysemanticity.cluster_words(texts, labels)
            frame = pl.DataFrame(
                {
                    "cluster": range(len(words)),
                    "sentences": np.bincount(labels, minlength=len(words)),
                    "words": [", ".join(word.word for word in found) for found in words],
                }
            )
            with run.commit(["sentence clusters"]) as con:
                insert(con, "sentence_cluster", frame.with_columns(pl.lit(run.run_id).alias("run_id")))
            worked += 1
        vocabulary = meanings.vocabulary([captions.get(int(clip), "") for clip in recorded.clip_ids])
        for number, layer in enumerate(recorded.layers):
            item = f"layer {layer.layer_id}"
            if item not in done:
                frames = {"polysemanticity": count(layer.matrix(), member, settings.ks, layer.first_neuron_id, run.run_id)}
                frames |= tell(layer.matrix(), vocabulary, recorded.clip_ids, settings.meanings, layer.first_neuron_id, run.run_id)
                with run.commit([item]) as con:
                    for table, frame in frames.items():
                        insert(con, table, frame)
                worked += 1
            if progress:
                progress(number + 1, len(recorded.layers))
        run.finish()
    return Outcome(run, worked, run.failures())


def count(matrix: np.ndarray, member: np.ndarray, ks: tuple[int, ...], first_neuron_id: int, run_id: int) -> pl.DataFrame:
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
                    "run_id": np.full(len(chosen), run_id),
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
    matrix: np.ndarray,
    vocabulary: meanings.Vocabulary,
    clip_ids: np.ndarray,
    thresholds: meanings.Thresholds,
    first_neuron_id: int,
    run_id: int,
) -> dict[str, pl.DataFrame]:
    """Rows of tables meaning_count, meaning and meaning_clip for a matrix [neurons, clips]."""
    counts, found, clips = [], [], []
    for neuron_id, activations in enumerate(matrix, first_neuron_id):
        verdict = meanings.verdict(vocabulary, activations, thresholds)
        if verdict is None:
            continue
        split = [None if np.isnan(value) else value for value in (verdict.transfer, verdict.shared_word)]
        counts.append((run_id, neuron_id, verdict.clips, len(verdict.meanings), *split))
        for number, meaning in enumerate(verdict.meanings, 1):
            found.append((run_id, neuron_id, number, len(meaning.clips), meaning.coherence, ", ".join(meaning.words)))
            clips += [(run_id, neuron_id, number, int(clip_ids[clip])) for clip in meaning.clips]
    key = ["run_id", "neuron_id"]
    decimal = {"transfer": pl.Float64, "shared_word": pl.Float64}  # which polars cannot tell where all are None
    return {
        "meaning_count": pl.DataFrame(counts, [*key, "clips", "meanings", *decimal], orient="row", schema_overrides=decimal),
        "meaning": pl.DataFrame(found, [*key, "meaning", "clips", "coherence", "words"], orient="row"),
        "meaning_clip": pl.DataFrame(clips, [*key, "meaning", "clip_id"], orient="row"),
    }
