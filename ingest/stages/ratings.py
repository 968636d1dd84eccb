"""What people say of descriptions, and how like their own words these are: the answers that a rating page downloads (AND, Table 3)."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from ingest.language.bert_score import TokenEncoder, match, minilm_tokens
from ingest.language.text_encoders import TextEncoder, minilm
from ingest.sounds.metadata import show
from warehouse import store
from warehouse.store import UserError, insert

MAX_BYTES = 16 << 20
LONGEST = 4000


def ingest_ratings(warehouse: Path, path: Path, bert_encoder: str | None = None) -> int:
    """Read a file of answers into table rating, all or nothing; returns how many. A rater's earlier answer on a neuron is replaced.

    The file is a JSON object with `rater` and `answers`, each {neuron_id, description_run_id, rating 1 to 5, own_words or null} and, for closed
    concepts rated beside the description, `concepts` {whose: rating}, which go into table concept_rating. All that
    table rating_similarity says of the rated runs of descriptions is computed anew and stored with the answers, by all-MiniLM-L6-v2 and, for
    BERTScore, by `bert_encoder`: a folder or hub name, by default all-MiniLM-L6-v2 as well. Raises UserError naming the first answer that is
    wrong, or whose neuron was not described by that run, and for encoders that cannot be loaded.
    """
    read = read_answers(path)
    answers, concepts = [row[:5] for row in read], [(*row[:3], said_by, rating) for row in read for said_by, rating in row[5].items()]
    runs = sorted({run for _, _, run, _, _ in answers})
    with store.writer(warehouse):
        with store.connect_readonly(warehouse) as con:
            known = set(con.execute("SELECT DISTINCT run_id, neuron_id FROM summary_point").fetchall())
            for number, (_, neuron, run, _, _) in enumerate(answers, start=1):
                if (run, neuron) not in known:
                    raise UserError(
                        f"{show(path)}: answer {number}: run {run} described no neuron {neuron}: the page belongs to another warehouse"
                    )
            rows = con.execute(
                "SELECT rater, neuron_id, description_run_id, own_words FROM rating WHERE list_contains(?, description_run_id)", [runs]
            ).fetchall()
            words = {row[:3]: row[3] for row in rows} | {(rater, neuron, run): text for rater, neuron, run, _, text in answers}
            said = {run: _said(con, run, {neuron for _, neuron, rated in words if rated == run}) for run in runs}
        for _, neuron, run, said_by, _ in concepts:
            if said_by not in said[run][neuron]:
                raise UserError(
                    f"{show(path)}: run {run} has no concept by {show(said_by)} of neuron {neuron}: the page belongs to another warehouse"
                )
        frames = []
        if any(words.values()):  # loading the encoders takes seconds
            encoder, tokens = minilm(), TokenEncoder(bert_encoder) if bert_encoder else minilm_tokens()
            for run in runs:
                own = {(rater, neuron): text for (rater, neuron, rated), text in words.items() if rated == run and text}
                frame = similarities(own, said[run], encoder, tokens)
                named = pl.lit(f"{tokens.name}, layer {tokens.layer}").alias("bert_encoder")
                frames.append(frame.with_columns(pl.lit(run).alias("description_run_id"), named))
        with store.transaction(warehouse) as con:
            con.executemany("DELETE FROM rating WHERE rater = ? AND neuron_id = ? AND description_run_id = ?", [row[:3] for row in answers])
            con.executemany("INSERT INTO rating VALUES (?, ?, ?, ?, ?, now())", answers)
            con.executemany(
                "DELETE FROM concept_rating WHERE rater = ? AND neuron_id = ? AND description_run_id = ?", [row[:3] for row in answers]
            )
            if concepts:
                con.executemany("INSERT INTO concept_rating VALUES (?, ?, ?, ?, ?)", concepts)
            con.execute("DELETE FROM rating_similarity WHERE list_contains(?, description_run_id)", [runs])
            for frame in frames:
                insert(con, "rating_similarity", frame)
    return len(answers)


def _said(con: duckdb.DuckDBPyConnection, run: int, neurons: set[int]) -> dict[int, dict[str, str]]:
    """What was said of neurons, by who said it: see view v_said."""
    said: dict[int, dict[str, str]] = {neuron: {} for neuron in neurons}
    rows = con.execute(
        "SELECT neuron_id, said_by, text FROM v_said WHERE description_run_id = ? AND list_contains(?, neuron_id) ORDER BY ALL",
        [run, sorted(neurons)],
    ).fetchall()
    for neuron, said_by, text in rows:
        said[neuron][said_by] = text
    return said


def similarities(
    own: dict[tuple[str, int], str], said: dict[int, dict[str, str]], encoder: TextEncoder, tokens: TokenEncoder
) -> pl.DataFrame:
    """Rows of table rating_similarity but for its run: how like the words of each rater and neuron is what was said of the neuron, what
    the other raters say of it, and the descriptions of the other rated neurons, which is what chance gives.

    `said` holds every rated neuron. Where several texts are compared, their mean stands, of BERTScore over those that have one.
    """
    every = list(dict.fromkeys([*own.values(), *(text for texts in said.values() for text in texts.values())]))
    vectors = dict(zip(every, encoder.embed(every), strict=True))
    matched = dict(zip(every, tokens.tokens(every), strict=True))
    by_neuron: dict[int, dict[str, str]] = {}
    for (rater, neuron), text in own.items():
        by_neuron.setdefault(neuron, {})[rater] = text
    rows: list[tuple[str, int, str, float, float | None]] = []
    for (rater, neuron), text in own.items():
        compared = {said_by: [other] for said_by, other in said[neuron].items()}
        compared["raters"] = [other for name, other in by_neuron[neuron].items() if name != rater]
        compared["other descriptions"] = [
            texts["description"] for other, texts in said.items() if other != neuron and "description" in texts
        ]
        for said_by, others in compared.items():
            if others:
                cosine = float(np.mean(np.stack([vectors[other] for other in others]) @ vectors[text]))
                f1 = match(matched[text], [matched[other] for other in others])[:, 2]
                defined = f1[np.isfinite(f1)]
                rows.append((rater, neuron, said_by, cosine, float(defined.mean()) if len(defined) else None))
    schema = {"rater": pl.String, "neuron_id": pl.Int32, "said_by": pl.String, "cosine": pl.Float64, "bert_score": pl.Float64}
    return pl.DataFrame(rows, schema, orient="row")


def read_answers(path: Path) -> list[tuple[str, int, int, int, str | None, dict[str, int]]]:
    """Answers of a file as (rater, neuron, run, rating, own words, ratings of concepts)."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{show(path)} has more than {MAX_BYTES >> 20} MiB: it is no file of answers")
        if store.is_special(path):
            raise UserError(f"cannot read {path}: it is no regular file")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{show(path)} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{show(path)} is not JSON in UTF-8: give the file that the rating page downloads") from None
    rater, answers = (found.get("rater"), found.get("answers")) if isinstance(found, dict) else (None, None)
    if not isinstance(rater, str) or not rater.strip() or not isinstance(answers, list) or not answers:
        raise UserError(f"{show(path)} needs a rater and answers: give the file that the rating page downloads")
    rows: dict[tuple[int, int], tuple[str, int, int, int, str | None, dict[str, int]]] = {}
    for number, answer in enumerate(answers, start=1):
        values = [answer.get(key) for key in ("neuron_id", "description_run_id", "rating")] if isinstance(answer, dict) else []
        whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31]
        words = answer.get("own_words") if isinstance(answer, dict) else None
        if len(whole) != 3 or not 1 <= whole[2] <= 5 or not isinstance(words, str | None):
            raise UserError(f"{show(path)}: answer {number} needs whole numbers neuron_id, description_run_id and rating (1 to 5)")
        concepts = answer.get("concepts") or {}
        marks = list(concepts.values()) if isinstance(concepts, dict) else [None]
        if not all(isinstance(mark, int) and not isinstance(mark, bool) and 1 <= mark <= 5 for mark in marks):
            raise UserError(f"{show(path)}: answer {number} needs whole numbers from 1 to 5 as ratings of concepts")
        text = " ".join((words or "").encode("utf-8", "replace").decode().split())[:LONGEST] or None
        name = " ".join(rater.encode("utf-8", "replace").decode().split())[:200]
        rows[whole[0], whole[1]] = (name, whole[0], whole[1], whole[2], text, concepts)
    return list(rows.values())
