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
from ingest.methods.extremes import answered, drawn_order
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.captions import read_captions
from ingest.stages.recorded import read_recorded
from warehouse import store
from warehouse.ledger import Run
from warehouse.store import UserError

STAGE = "polysemanticity"
TITLE = "polysemanticity of {network} on {dataset}"
UNIT = "units of work"
NEEDS = ("captions",)
CODE_VERSION = 3
CLOUD_WORDS = 100  # of a cluster
BOUNDS = {"clusters": (1, math.inf), "most_common": (0, math.inf), "ks": (1, math.inf), "elbow": (3, math.inf)}
SEED = 0


@dataclass(frozen=True)
class Settings:
    """Which neurons have one meaning. clusters: of sentences; elbow: instead, the best number up to this one, by the elbow of the distances
    within clusters (ingest.methods.polysemanticity.elbow). most_common: share of all clips above which a cluster, having a sentence of so
    many captions, says nothing of a neuron (1: the paper's rule, all clusters count). ks: numbers of top clips; taus: shares of them that
    must have one cluster in common. meanings: beyond the paper, when a neuron has several (a table of its own, see
    ingest.methods.meanings.Thresholds)."""

    clusters: int = polysemanticity.CLUSTERS
    elbow: int | None = None
    most_common: float = 1.0
    ks: tuple[int, ...] = polysemanticity.KS
    taus: tuple[float, ...] = polysemanticity.SHARES
    meanings: meanings.Thresholds = field(default_factory=meanings.Thresholds)

    def __post_init__(self) -> None:
        if not self.ks or not self.taus:
            raise UserError(f"polysemanticity: {'taus' if self.ks else 'ks'} is empty: give at least one")
        for tau in self.taus:
            if not 0 < tau <= 1:
                raise UserError(f"polysemanticity: taus has {tau:g}, it must be a share of the top clips, above 0 and at most 1")

    def chosen_otherwise(self) -> dict[str, object]:
        """What is not as it was before there was a choice, for the run."""
        elbow = {"elbow": self.elbow} if self.elbow is not None else {}
        return elbow | ({"taus": self.taus} if self.taus != polysemanticity.SHARES else {})


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Cluster the sentences of all captions and count, for every neuron recorded, the top clips that share one, and the meanings that words
    tell apart (ingest.methods.meanings); a layer is a unit of work.

    A neuron that is never below 0 and has fewer than k clips above 0 has no row for that k: its ranking goes on with clips that it does not
    answer to. Of any other, its highest clips are its highest, whatever their sign. Equal clips come in a drawn order.
    """
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    captions, captioner = read_captions(context.warehouse, context.runs["captions"])
    encoder = load_encoder(context.settings("descriptions").encoder)
    parameters = {
        "clusters": settings.clusters, "most_common": settings.most_common, "ks": settings.ks, "meanings": vars(settings.meanings),
        "captions": captioner, "encoder": encoder.parameters, **settings.chosen_otherwise(),
    }  # fmt: skip
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=SEED)
    if run.finished:
        return Outcome(run, 0, run.failures())
    said = [captions.get(int(clip), "") for clip in recorded.clip_ids]
    pairs = [(sentence, column) for column, caption in enumerate(said) for sentence in sentences(caption)]
    if not pairs:
        raise UserError(f"no clip of {recorded.dataset} has a caption: ingest captions first")
    texts, owners = [sentence for sentence, _ in pairs], np.array([column for _, column in pairs])
    embeddings, clusters = encoder.embed(texts), settings.clusters
    if settings.elbow is not None:
        clusters = elbow(run, embeddings, settings.elbow)
    labels = polysemanticity.sentence_clusters(embeddings, clusters, SEED)
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
                "captions": polysemanticity.clip_clusters(labels, owners, len(said)).sum(axis=0),
            }
        )
        clouds = polysemanticity.cluster_words(texts, labels, CLOUD_WORDS, "occurrences")
        cloud = [(cluster, word.word, word.occurrences, word.weight) for cluster, found in enumerate(clouds) for word in found]
        table = pl.DataFrame(cloud, ["cluster", "word", "occurrences", "weight"], orient="row")
        run.record(["sentence clusters"], {"sentence_cluster": frame, "sentence_cluster_word": table})
        worked += 1
    vocabulary = meanings.vocabulary(said)
    for item, layer in run.pending(recorded.plan(), progress):
        matrix = np.asarray(layer.matrix())
        order = drawn_order(matrix, SEED, layer.name)
        tables = {"polysemanticity": count(matrix, order, member, settings.ks, layer.first_neuron_id)}
        run.record([item], tables | tell(matrix, order, vocabulary, recorded.clip_ids, settings.meanings, layer.first_neuron_id))
        worked += 1
    run.finish()
    return Outcome(run, worked, run.failures())


def elbow(run: Run, embeddings: np.ndarray, most: int) -> int:
    """The number of sentence clusters at the elbow, whose curve is table sentence_elbow."""
    if "sentence elbow" not in run.done():
        found = polysemanticity.elbow(embeddings, most, SEED)
        columns = {"clusters": found.clusters, "distance": found.distance, "is_chosen": found.clusters == found.chosen}
        run.record(["sentence elbow"], {"sentence_elbow": pl.DataFrame(columns)})
    with store.connect_readonly(run.warehouse) as con:
        [(clusters,)] = con.execute("SELECT clusters FROM sentence_elbow WHERE run_id = ? AND is_chosen", [run.run_id]).fetchall()
    return int(clusters)


def count(matrix: np.ndarray, order: np.ndarray, member: np.ndarray, ks: tuple[int, ...], first_neuron_id: int) -> pl.DataFrame:
    """Rows of table polysemanticity for a matrix [neurons, clips], its clips from the highest [neurons, clips] and their sentence clusters
    [clips, clusters]."""
    usable = answered(matrix).sum(axis=1)
    frames = []
    for k in ks:
        chosen = np.flatnonzero(usable >= k)
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
    matrix: np.ndarray,
    order: np.ndarray,
    vocabulary: meanings.Vocabulary,
    clip_ids: np.ndarray,
    thresholds: meanings.Thresholds,
    first_neuron_id: int,
) -> dict[str, pl.DataFrame]:
    """Rows of tables meaning_count, meaning and meaning_clip for a matrix [neurons, clips] and its clips from the highest."""
    counts, found, clips = [], [], []
    for neuron_id, (activations, ranked) in enumerate(zip(matrix, order, strict=True), first_neuron_id):
        verdict = meanings.verdict(vocabulary, activations, thresholds, order=ranked)
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
