"""Stage `descriptions`: what a neuron's highest clips have in common and its lowest do not, in words (AND, modules B and C)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from ingest import held_out
from ingest.caption_tables import read_captions
from ingest.clips import Outcome, Progress
from ingest.commonalities import calibrate_shared, commonalities
from ingest.concepts import acoustic_question, open_concepts, parse_yes_no, word_list
from ingest.language import LanguageModel, Reply, ask, prompt_sha256
from ingest.layer_tables import insert
from ingest.recorded import Recorded, RecordedLayer, read_recorded
from ingest.summaries import THRESHOLD, Point, calibrate, clean_points, summary_prompt
from ingest.text_encoders import TextEncoder
from warehouse import ledger, store
from warehouse.ledger import Run

STAGE = "descriptions"
CODE_VERSION = 1
ASKED_AT_ONCE = 64
"""Prompts between two commits of their replies."""


@dataclass(frozen=True)
class Settings:
    """What shapes the results: clips on each side, the share of the clips kept out for scoring (see ingest.held_out; 0: none), the
    share of them that a point without a model must hold for, the cosine above which
    calibration drops a point of a language model (for points without one see commonalities.calibrate_shared), and the seed that draws
    the clips kept out."""

    k: int = 5
    held_out: float = 0.0
    share: float = 0.5
    threshold: float = THRESHOLD
    seed: int = 0


def ingest_descriptions(
    warehouse: Path,
    activation_run: int,
    caption_run: int,
    encoder: TextEncoder,
    model: LanguageModel | None = None,
    settings: Settings | None = None,
    *,
    retry: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Describe every living neuron of a finished run of activations from captions; a layer is a unit of work.

    Without a language model the points are what the captions share (ingest.commonalities). Replies are kept as they come, so that none is
    asked for again; a neuron whose reply cannot be used has a failure row, and with `retry` is asked for once more.
    """
    settings = settings or Settings()
    recorded = read_recorded(warehouse, activation_run)
    captions, captioner = read_captions(warehouse, caption_run)
    drawn_alike = {name: value for name, value in asdict(settings).items() if name != "seed"}  # the run has a column for that
    parameters = {
        **recorded.subject(), **drawn_alike, "captions": captioner, "encoder": encoder.parameters,
        "model": {"name": model.name, **model.parameters} if model else "commonalities",
    }  # fmt: skip
    run = ledger.begin(
        warehouse, STAGE, parameters=parameters, code_version=CODE_VERSION, dataset_sha256=recorded.dataset_sha256,
        network_sha256=recorded.network_sha256, seed=settings.seed if settings.held_out else None,
    )  # fmt: skip
    if settings.held_out:
        kept_out = held_out.split(clip_groups(warehouse, recorded), settings.held_out, settings.seed)
        captions = {
            int(clip): captions[int(clip)]
            for clip, out in zip(recorded.clip_ids, kept_out, strict=True)
            if not out and int(clip) in captions
        }
    work = _Work(run, recorded, captions, encoder, Asker(run, model, retry=retry) if model else None, settings)
    worked, done = 0, run.done()
    for number, layer in enumerate(recorded.layers):
        item = f"layer {layer.layer_id}"
        if item not in done:
            points, words, failures = work.describe(work.tops(layer))
            with run.commit([item], failures) as con:
                work.write(con, points, words)
            worked += 1
        elif retry and (failed := work.failed(layer)):
            points, words, failures = work.describe({neuron: sides for neuron, sides in work.tops(layer).items() if neuron in failed})
            with run.commit([]) as con:
                mended = [f"neuron {neuron}" for neuron in failed if f"neuron {neuron}" not in dict(failures)]
                con.execute("DELETE FROM failure WHERE run_id = ? AND list_contains(?, item)", [run.run_id, mended])
                work.write(con, points, words)
            worked += bool(mended)
        if progress:
            progress(number + 1, len(recorded.layers))
    if not run.finished:
        run.finish()
    return Outcome(run, worked, run.failures())


def clip_groups(warehouse: Path, recorded: Recorded) -> list[str]:
    """What each clip was cut from, in column order; its own name where that is unknown."""
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            """SELECT coalesce('group ' || source_group, 'clip ' || name) FROM activation_clip JOIN clip USING (clip_id)
            WHERE run_id = ? ORDER BY column_index""",
            [recorded.run_id],
        ).fetchall()
    return [group for (group,) in rows]


class Asker:
    """A language model whose replies the warehouse keeps."""

    def __init__(self, run: Run, model: LanguageModel, *, retry: bool = False) -> None:
        self.run, self.model, self.retry = run, model, retry
        self.key = store.sha256_json({"name": model.name, **model.parameters})

    def __call__(self, prompts: Sequence[str]) -> list[Reply]:
        """A reply per prompt, those that the warehouse holds from there."""
        with store.connect_readonly(self.run.warehouse) as con:
            rows = con.execute("SELECT prompt_sha256, text, raw, reason FROM reply WHERE model_sha256 = ?", [self.key]).fetchall()
        known = {row[0]: Reply(*row[1:]) for row in rows if not (self.retry and row[1] is None)}
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt_sha256(prompt) not in known))
        for start in range(0, len(new), ASKED_AT_ONCE):
            batch = new[start : start + ASKED_AT_ONCE]
            replies = ask(self.model, batch)
            rows = [
                (
                    self.key,
                    prompt_sha256(prompt),
                    self.run.run_id,
                    prompt.encode("utf-8", "backslashreplace").decode(),
                    reply.raw,
                    reply.text,
                    reply.reason,
                )
                for prompt, reply in zip(batch, replies, strict=True)
            ]
            with self.run.commit([]) as con:
                con.executemany("INSERT OR REPLACE INTO reply VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            known |= {row[1]: reply for row, reply in zip(rows, replies, strict=True)}
        return [known[prompt_sha256(prompt)] for prompt in prompts]


Tops = dict[int, tuple[tuple[str, ...], tuple[str, ...]]]
"""Captions of the highest and of the lowest clips, by neuron."""


@dataclass
class _Work:
    run: Run
    recorded: Recorded
    captions: dict[int, str]
    encoder: TextEncoder
    asker: Asker | None
    settings: Settings

    def tops(self, layer: RecordedLayer) -> Tops:
        """A layer's neurons but the dead ones; clips without a caption, or held out, are passed over. Of neurons that are never below 0, clips at 0 are none
        of the highest."""
        matrix = np.asarray(layer.matrix())
        alive = (np.where(np.isfinite(matrix), matrix, 0) != 0).any(axis=1)
        usable = np.array([int(clip) in self.captions for clip in self.recorded.clip_ids])
        values, clips = matrix[:, usable].astype(np.float32), self.recorded.clip_ids[usable]  # in order of clip id, which breaks ties
        k = self.settings.k
        high = np.argsort(np.where(np.isnan(values), np.inf, -values), axis=1, kind="stable")[:, :k]
        low = np.argsort(np.where(np.isnan(values), np.inf, values), axis=1, kind="stable")[:, :k]
        found: Tops = {}
        for unit in np.flatnonzero(alive):
            row = values[unit]
            ups = [clip for clip in high[unit] if row[clip] > 0 or (not layer.non_negative and np.isfinite(row[clip]))]
            downs = [clip for clip in low[unit] if np.isfinite(row[clip])]
            found[layer.first_neuron_id + int(unit)] = (
                tuple(self.captions[int(clips[clip])] for clip in ups),
                tuple(self.captions[int(clips[clip])] for clip in downs),
            )
        return found

    def failed(self, layer: RecordedLayer) -> set[int]:
        """Neurons of a layer with a failure row."""
        with store.connect_readonly(self.run.warehouse) as con:
            rows = con.execute(
                """SELECT neuron_id FROM failure JOIN neuron ON item = 'neuron ' || neuron_id WHERE run_id = ? AND layer_id = ?""",
                [self.run.run_id, layer.layer_id],
            ).fetchall()
        return {neuron for (neuron,) in rows}

    def describe(self, tops: Tops) -> tuple[dict[int, list[Point]], list[tuple[int, str, str, int, bool | None]], list[tuple[str, str]]]:
        """Calibrated points and rows of table concept (without run) of neurons, and what failed."""
        distinct = list(dict.fromkeys(side for sides in tops.values() for side in sides if side))
        summaries: dict[tuple[str, ...], list[str]] = {(): []}
        faults: dict[tuple[str, ...], str] = {}
        if self.asker:
            for side, reply in zip(distinct, self.asker([summary_prompt(side) for side in distinct]), strict=True):
                summaries[side] = clean_points(reply.text) if reply.text is not None else []
                if not summaries[side]:
                    faults[side] = reply.reason or "the reply holds no sentence of six words"
        else:
            summaries |= {side: commonalities(side, self.encoder, self.settings.share) for side in distinct}
        points: dict[int, list[Point]] = {}
        failures = []
        for neuron, (high, low) in tops.items():
            if fault := faults.get(high) or faults.get(low):
                failures.append((f"neuron {neuron}", fault))
            else:
                points[neuron] = (
                    calibrate(summaries[high], summaries[low], self.encoder, self.settings.threshold)
                    if self.asker
                    else calibrate_shared(summaries[high], summaries[low], self.encoder)
                )
        return points, self.words(points), failures

    def words(self, points: dict[int, list[Point]]) -> list[tuple[int, str, str, int, bool | None]]:
        """Open concepts of the kept points."""
        counted = {
            neuron: Counter((c.word, c.pos) for c in open_concepts([p.text for p in found if p.kept])) for neuron, found in points.items()
        }
        adjectives = sorted({word for found in counted.values() for word, part in found if part == "adjective"})
        if self.asker:
            replies = self.asker([acoustic_question(word) for word in adjectives])
            acoustic = {word: parse_yes_no(reply.text or "") for word, reply in zip(adjectives, replies, strict=True)}
        else:
            acoustic = {word: word in word_list("acoustic_adjectives") for word in adjectives}
        return [
            (neuron, word, part, count, acoustic[word] if part == "adjective" else None)
            for neuron, found in counted.items()
            for (word, part), count in found.items()
        ]

    def write(
        self, con: duckdb.DuckDBPyConnection, points: dict[int, list[Point]], words: list[tuple[int, str, str, int, bool | None]]
    ) -> None:
        """Insert rows of tables summary_point and concept."""
        rows = [
            (
                self.run.run_id,
                neuron,
                position,
                point.text,
                point.kept,
                point.because,
                None if point.cosine != point.cosine else point.cosine,
            )
            for neuron, found in points.items()
            for position, point in enumerate(found)
        ]
        types: dict[str, type[pl.DataType]] = {
            "run_id": pl.Int64, "neuron_id": pl.Int64, "position": pl.Int64, "text": pl.String, "is_kept": pl.Boolean, "because": pl.String,
            "cosine": pl.Float64,
        }  # fmt: skip
        insert(con, "summary_point", pl.DataFrame(rows, schema=types, orient="row"))
        types = {
            "run_id": pl.Int64, "neuron_id": pl.Int64, "word": pl.String, "part_of_speech": pl.String, "occurrences": pl.Int64,
            "is_acoustic": pl.Boolean,
        }  # fmt: skip
        insert(con, "concept", pl.DataFrame([(self.run.run_id, *word) for word in words], schema=types, orient="row"))
