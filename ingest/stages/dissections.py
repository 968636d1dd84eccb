"""Stage `dissections`: the concepts of a given set that fit a neuron best, by five similarity functions (AND, module A)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from ingest.language.elsewhere import Elsewhere, embeddings
from ingest.language.models import LanguageModel, Reply, read_prompt
from ingest.language.replies import Asker
from ingest.language.text_encoders import TextEncoder, load_encoder
from ingest.language.word_lists import read_concepts
from ingest.methods import concept_scores, similarity
from ingest.methods.summaries import icl_answer, icl_answers, icl_prompt, icl_top_prompt
from ingest.networks.network import Network
from ingest.networks.registry import load_audio_text
from ingest.stages import Context, Outcome, Progress, silent
from ingest.stages.captions import read_captions
from ingest.stages.extraction.recording import padding_parameter
from ingest.stages.recorded import Recorded, RecordedLayer, read_recorded
from warehouse import ledger, store
from warehouse.ledger import Run
from warehouse.store import UserError

if TYPE_CHECKING:
    from ingest.networks.audio_text import Listener

STAGE = "dissections"
TITLE = "dissections of {network} on {dataset}"
UNIT = "layers"
NEEDS: tuple[str, ...] = ()
CODE_VERSION = 1
BOUNDS = {"kept": (1, math.inf)}
SEED = 0
METHODS = ("DB", "TAB", "ICL")
READS = {"DB": "captions", "ICL": "descriptions"}
NO_CONCEPT = "the reply names none of the concepts"


@dataclass(frozen=True)
class Settings:
    """Concepts of a given set. concepts: esc50, audioset or classes (the data set's own); file: a text file instead, one concept a line.
    methods: DB (captions and concepts as text), TAB (sounds and concepts by the audio-text network `tab_network`, with its `tab_weights`) and
    ICL (the language model of descriptions chooses, after `shots` of the paper's two examples; with `icl_top` it is asked once more for so many
    concepts, which rank after the one chosen). encoder: of texts, by default that of descriptions; CLIP's folder is read as CLIP. functions:
    of similarity, see ingest.methods.similarity.FUNCTIONS, in their `mode`. scale: of DB's softmax over concepts; kept: how many concepts a
    neuron are kept."""

    concepts: str = "esc50"
    file: Path | None = None
    functions: tuple[str, ...] = tuple(similarity.FUNCTIONS)
    mode: similarity.Mode = "paper"
    scale: float | None = 100.0
    kept: int = 10
    methods: tuple[Literal["DB", "TAB", "ICL"], ...] = ("DB",)
    tab_network: str = "clap-2022"
    tab_weights: Path | None = None
    encoder: str | None = None
    shots: int = 2
    icl_top: int = 1

    def __post_init__(self) -> None:
        if not self.methods:
            raise UserError("dissections: methods is empty: name DB, TAB or ICL")
        if self.shots not in (1, 2):
            raise UserError(f"dissections: shots is {self.shots}, it must be 1 or 2: the paper has two examples")
        if self.icl_top < 1:
            raise UserError(f"dissections: icl_top is {self.icl_top}, it must be at least 1")
        for function in self.functions:
            if function not in similarity.FUNCTIONS:
                raise UserError(f"dissections: function {function!r} is not known: it must be one of {', '.join(similarity.FUNCTIONS)}")

    @property
    def needs(self) -> tuple[str, ...]:
        """What its methods read."""
        return tuple(stage for method, stage in READS.items() if method in self.methods)

    @property
    def concept_set(self) -> str:
        """Name or file of the concept set."""
        return str(self.file or self.concepts)

    def parameters(self) -> dict[str, object]:
        """What goes into the run, methods in one order. Runs of one method from before there were several stay what they are, but for equal
        clips, which in the paper's mode no longer rank as they lie."""
        methods = [method for method in METHODS if method in self.methods]
        ties = {"ties": "drawn"} if self.mode == "paper" and methods != ["ICL"] else {}
        shared = {"concepts": self.concept_set, "functions": self.functions, "mode": self.mode, "scale": self.scale, "kept": self.kept}
        asked: dict[str, object] = {}
        if "ICL" in methods:
            asked |= ({"shots": self.shots} if self.shots != 2 else {}) | ({"icl_top": self.icl_top} if self.icl_top != 1 else {})
        return shared | ties | ({"methods": methods} if methods != ["DB"] else {}) | asked


def fault(settings: Settings, of: Callable[[str], Any]) -> str | None:
    """What is wrong with the settings beside those of other stages."""
    if "ICL" in settings.methods and of("descriptions").engine in ("measured", "commonalities"):
        return "ICL needs a language model: choose an engine of descriptions other than measured and commonalities"
    return None


@dataclass(frozen=True)
class Sources:
    """What the methods read. TAB: an audio-text network (see ingest.networks.audio_text), and the sound files by clip name. ICL: a run of
    descriptions and a language model, which with `retry` is asked again for replies that could not be used. `reader` and `listener` embed texts
    and sounds, here or elsewhere."""

    reader: TextEncoder | Elsewhere
    network: Network | None = None
    listener: Listener | Elsewhere | None = None
    paths: Mapping[str, Path] = field(default_factory=dict)
    description_run: int | None = None
    model: LanguageModel | None = None
    retry: bool = False


def run(context: Context, settings: Settings, progress: Progress = silent) -> Outcome:
    """Name every neuron recorded from a concept set; a layer is a unit of work.

    DB and TAB compare activations with how much of each concept a clip's caption or its sound holds. Clips without a caption or an
    embedding, or with activations that are not finite, take no part; a function that cannot be computed on a layer is a failure row. ICL
    has the language model of descriptions choose a concept for every description. A neuron whose reply cannot be used, or names no concept of
    the set, has a failure row; with `retry` under descriptions it is asked for once more, and so are neurons described since.
    """
    recorded = read_recorded(context.warehouse, context.runs["activations"])
    own = [name.replace("_", " ") for name in recorded.class_names]
    concepts = own if settings.concept_set == "classes" else read_concepts(settings.concept_set)
    encoder = load_encoder(name := settings.encoder or context.settings("descriptions").encoder)
    reader = context.where.engine(STAGE, functools.partial(load_encoder, name), encoder, "embed")
    captions, sources, read = _read(context, settings, reader)
    parameters = {
        **settings.parameters(), "concepts": store.sha256_json(concepts), "concept_set": Path(settings.concept_set).name,
        "encoder": encoder.parameters, **read,
    }  # fmt: skip
    run = recorded.begin(STAGE, CODE_VERSION, parameters, seed=SEED)
    work = _Work(run, recorded, captions, concepts, encoder, sources, settings)
    worked, done = 0, run.done()
    for number, (item, layer) in enumerate(recorded.plan().items(), 1):
        if item not in done:
            frame, failures = work.rows(layer)
            run.record([item], {"closed_concept": frame}, failures)
            worked += 1
        elif sources.retry and (missing := work.unchosen(layer)):
            frame, failures = work.choose(layer, missing)
            mended = [f"neuron {neuron}" for neuron in frame["neuron_id"].to_list()]
            run.record([], {"closed_concept": frame}, failures, mended)
            worked += bool(mended)
        progress(number, len(recorded.layers))
    run.finish()
    return Outcome(run, worked, run.failures())


def _read(context: Context, settings: Settings, reader: TextEncoder | Elsewhere) -> tuple[dict[int, str], Sources, dict[str, object]]:
    """Captions by clip id for DB, what the other methods read, and the parameters that say what this is. Raises UserError for what is not
    there."""
    warehouse, runs, described = context.warehouse, context.runs, context.settings("descriptions")
    captions: dict[int, str] = {}
    network = model = listener = None
    read: dict[str, object] = {}
    if "DB" in settings.methods:
        captions, read["captions"] = read_captions(warehouse, runs["captions"])
    if "TAB" in settings.methods:
        device = context.settings("activations").device
        here = listening(settings.tab_network, settings.tab_weights, device)
        network = here.network
        load = functools.partial(listening, settings.tab_network, settings.tab_weights, "cpu" if device == "cpu" else "auto")
        listener = context.where.engine(STAGE, load, here, "embed")
        with store.connect_readonly(warehouse) as con:
            [(content,)] = con.execute("SELECT content_sha256 FROM dataset WHERE run_id = ?", [runs["clips"]]).fetchall()
        heard = padding_parameter(warehouse, network, context.dataset, content)
        read["audio_text"] = {"name": network.name, "sha256": network.checkpoint_sha256, "clip_s": network.clip_s, **heard}
    if "ICL" in settings.methods:
        model = described.language_model()
        assert model  # fault refuses others
        model = context.where.engine(STAGE, described.language_model, model, "complete")
        read["descriptions"], _, _ = ledger.finished(warehouse, runs["descriptions"], "descriptions")
        top = {"top_prompt": read_prompt("icl_top").sha256} if settings.icl_top > 1 else {}
        read["model"] = {"name": model.name, **model.parameters, "prompt": read_prompt("icl").sha256, **top}
    return captions, Sources(reader, network, listener, context.paths, runs.get("descriptions"), model, described.retry), read


def listening(name: str, weights: Path | None, device: str) -> Listener:
    """The audio-text network of a name, to listen with."""
    from ingest.networks.audio_text import Listener

    return Listener(load_audio_text(name, weights, device))


@dataclass
class _Work:
    run: Run
    recorded: Recorded
    captions: dict[int, str]
    concepts: list[str]
    encoder: TextEncoder
    sources: Sources
    settings: Settings

    @functools.cached_property
    def concept_texts(self) -> np.ndarray:
        """The encoder's embeddings of the concepts [concepts, d]."""
        return embeddings(self.sources.reader, self.concepts)

    @functools.cached_property
    def scores(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For DB and TAB, columns of the clips that take part and how much of each concept these hold [clips, concepts]."""
        found = {}
        if "DB" in self.settings.methods:
            clips = [int(clip) for clip in self.recorded.clip_ids]
            columns = np.array([index for index, clip in enumerate(clips) if clip in self.captions], dtype=np.int64)
            if not len(columns):
                raise UserError(f"no clip of {self.recorded.dataset} has a caption: ingest captions first")
            texts = embeddings(self.sources.reader, [self.captions[clips[column]] for column in columns])
            found["DB"] = columns, concept_scores.described_by(texts, self.concept_texts, self.settings.scale)
        if self.sources.network and self.sources.listener:
            from ingest.networks.audio_text import in_rows, text_embeddings

            names, network = self.recorded.clip_names, self.sources.network
            sounds = in_rows(network, self.sources.listener.embed([self.sources.paths.get(name) for name in names]))
            texts = text_embeddings(network, self.concepts)
            heard = np.isfinite(sounds).all(axis=1)
            unheard = [name for name, is_heard in zip(names, heard, strict=True) if not is_heard]
            self.run.record([], {}, [(name, f"{network.name} has no embedding of it") for name in unheard])
            found["TAB"] = np.flatnonzero(heard), concept_scores.tagged_by(sounds[heard], texts)
        return found

    def rows(self, layer: RecordedLayer) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
        """Rows of table closed_concept of a layer by every method, and what failed."""
        frames, failures, cosines = [], [], self.name_cosines(layer)
        for method, (columns, scores) in self.scores.items():
            for frame, failure in dissect(layer, method, columns, scores, self.concepts, cosines, self.settings):
                frames.append(frame)
                failures += [failure] if failure else []
        if "ICL" in self.settings.methods:
            frame, failed = self.choose(layer, self.described(layer))
            frames.append(frame)
            failures += failed
        return (pl.concat(frames) if frames else pl.DataFrame()), failures

    def name_cosines(self, layer: RecordedLayer) -> np.ndarray | None:
        """Cosine of each neuron's name and each concept [neurons, concepts], NaN for neurons without a name; None when none has one."""
        with store.connect_readonly(self.run.warehouse) as con:
            rows = con.execute("SELECT name FROM neuron WHERE layer_id = ? ORDER BY neuron_id", [layer.layer_id]).fetchall()
        known = [index for index, (name,) in enumerate(rows) if name]
        if not known:
            return None
        cosines = np.full((len(rows), len(self.concepts)), np.nan)
        cosines[known] = self.encoder.embed([rows[index][0].replace("_", " ") for index in known]) @ self.concept_texts.T
        return cosines

    def described(self, layer: RecordedLayer) -> dict[int, list[str]]:
        """Kept points of a layer's neurons that have any."""
        with store.connect_readonly(self.run.warehouse) as con:
            return dict(
                con.execute(
                    """SELECT neuron_id, list(text ORDER BY position) FROM summary_point
                    WHERE run_id = ? AND is_kept AND neuron_id BETWEEN ? AND ? GROUP BY neuron_id ORDER BY neuron_id""",
                    [self.sources.description_run, layer.first_neuron_id, layer.first_neuron_id + layer.neurons - 1],
                ).fetchall()
            )

    def unchosen(self, layer: RecordedLayer) -> dict[int, list[str]]:
        """Kept points of a layer's neurons for which no concept was chosen yet; nothing when ICL is none of the methods."""
        if "ICL" not in self.settings.methods:
            return {}
        with store.connect_readonly(self.run.warehouse) as con:
            rows = con.execute(
                "SELECT neuron_id FROM closed_concept WHERE run_id = ? AND method = 'ICL' AND neuron_id BETWEEN ? AND ?",
                [self.run.run_id, layer.first_neuron_id, layer.first_neuron_id + layer.neurons - 1],
            ).fetchall()
        chosen = {neuron for (neuron,) in rows}
        return {neuron: points for neuron, points in self.described(layer).items() if neuron not in chosen}

    def chosen(self, reply: Reply) -> Reply:
        """A reply held to the concept set: one that names none of the concepts cannot be used."""
        return reply if reply.text is None or icl_answer(reply.text, self.concepts) else Reply(None, reply.raw, NO_CONCEPT)

    def choose(self, layer: RecordedLayer, described: dict[int, list[str]]) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
        """Rows of the concepts that the language model chooses for neurons by their kept points, and the neurons for which it chooses none."""
        assert self.sources.model
        ask = Asker(self.run, self.sources.model, judge=self.chosen, retry=self.sources.retry)
        replies = ask([icl_prompt(points, self.concepts, self.settings.shots) for points in described.values()])
        first = {
            neuron: icl_answer(reply.text, self.concepts) if reply.text is not None else None
            for neuron, reply in zip(described, replies, strict=True)
        }
        failures = [
            (f"neuron {neuron}", reply.reason or NO_CONCEPT) for neuron, reply in zip(described, replies, strict=True) if not first[neuron]
        ]
        named = {neuron: [concept] for neuron, concept in first.items() if concept}
        if (top := min(self.settings.icl_top, len(self.concepts))) > 1:
            ask = Asker(self.run, self.sources.model, judge=self.listed, retry=self.sources.retry)
            for neuron, reply in zip(named, ask([icl_top_prompt(described[n], self.concepts, top) for n in named]), strict=True):
                more = icl_answers(reply.text, self.concepts) if reply.text is not None else []
                failures += [] if more else [(f"neuron {neuron}, first {top}", reply.reason or NO_CONCEPT)]
                named[neuron] = list(dict.fromkeys([*named[neuron], *more]))[:top]
        number = {concept: index for index, concept in enumerate(self.concepts)}
        rows = [
            (neuron - layer.first_neuron_id, rank, number[concept]) for neuron, its in named.items() for rank, concept in enumerate(its)
        ]
        units, ranks, chosen = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        # No score but the order.
        return _frame(layer, "ICL", "icl", (units, ranks), chosen, 1 / (1 + ranks), self.concepts, self.name_cosines(layer)), failures

    def listed(self, reply: Reply) -> Reply:
        """A reply held to the concept set: one that lists none of the concepts cannot be used."""
        return reply if reply.text is None or icl_answers(reply.text, self.concepts) else Reply(None, reply.raw, NO_CONCEPT)


def dissect(
    layer: RecordedLayer,
    method: str,
    columns: np.ndarray,
    scores: np.ndarray,
    concepts: list[str],
    name_cosines: np.ndarray | None,
    settings: Settings,
) -> list[tuple[pl.DataFrame, tuple[str, str] | None]]:
    """For each similarity function the rows of table closed_concept of a layer, and why there are none where it fails. All neurons of the
    layer are compared in one call: functions that weigh a neuron against the others take the layer for these.

    `columns` are the clips that `scores` [clips, concepts] is of; `name_cosines` as _Work.name_cosines.
    """
    matrix = np.asarray(layer.matrix())[:, columns]
    complete = np.flatnonzero(np.isfinite(matrix).all(axis=0))
    if settings.mode == "paper":  # the programs of the other modes take equal clips as they lie
        complete = np.random.default_rng(SEED).permutation(complete)
    activations = matrix[:, complete].T
    found: list[tuple[pl.DataFrame, tuple[str, str] | None]] = []
    nothing = np.zeros(0, dtype=np.int64)
    for function in settings.functions:
        options = {"seed": SEED} if function == "rank_reorder" else {}
        failure = None
        places: tuple[np.ndarray, ...] = (nothing, nothing)
        chosen, values = nothing, np.zeros(0)
        try:
            similar = similarity.FUNCTIONS[function](activations, scores[complete], mode=settings.mode, **options)
        except ValueError as error:
            failure = f"{layer.name}, {method} {function}", str(error).splitlines()[0]
        else:
            indices, best = similarity.best(similar, settings.kept)
            places = np.nonzero(indices >= 0)
            chosen, values = indices[places], best.data[places]
        found.append((_frame(layer, method, function, places, chosen, values, concepts, name_cosines), failure))
    return found


def _frame(
    layer: RecordedLayer,
    method: str,
    function: str,
    places: tuple[np.ndarray, ...],
    chosen: np.ndarray,
    scores: np.ndarray,
    concepts: list[str],
    name_cosines: np.ndarray | None,
) -> pl.DataFrame:
    """Rows of table closed_concept: concepts by number, at places (neuron of the layer, rank from 0)."""
    neurons, ranks = places
    cosines = np.full(len(neurons), np.nan) if name_cosines is None else name_cosines[neurons, chosen]
    return pl.DataFrame(
        {
            "neuron_id": layer.first_neuron_id + neurons,
            "method": [method] * len(neurons),
            "function": [function] * len(neurons),
            "rank": ranks + 1,
            "concept": [concepts[index] for index in chosen],
            "score": scores,
            "name_cosine": cosines,
        },
        schema_overrides={"method": pl.String, "function": pl.String, "concept": pl.String, "name_cosine": pl.Float64},
    ).with_columns(pl.col("name_cosine").fill_nan(None))
