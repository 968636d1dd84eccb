"""What people say of descriptions: reading the answers that a rating page downloads (AND, Table 3)."""

from __future__ import annotations

import json
from pathlib import Path

from ingest.metadata import show
from warehouse import store
from warehouse.store import UserError

MAX_BYTES = 16 << 20
LONGEST = 4000


def ingest_ratings(warehouse: Path, path: Path) -> int:
    """Read a file of answers into table rating, all or nothing; returns how many. A rater's earlier answer on a neuron is replaced.

    The file is a JSON object with `rater` and `answers`, each {neuron_id, description_run_id, rating 1 to 5, own_words or null}. Raises
    UserError naming the first answer that is wrong, or whose neuron was not described by that run.
    """
    answers = read_answers(path)
    with store.writer(warehouse), store.transaction(warehouse) as con:
        known = set(con.execute("SELECT DISTINCT run_id, neuron_id FROM summary_point").fetchall())
        for number, (_, neuron, run, _, _) in enumerate(answers, start=1):
            if (run, neuron) not in known:
                raise UserError(
                    f"{show(path)}: answer {number}: run {run} described no neuron {neuron}: the page belongs to another warehouse"
                )
        con.executemany("DELETE FROM rating WHERE rater = ? AND neuron_id = ? AND description_run_id = ?", [row[:3] for row in answers])
        con.executemany("INSERT INTO rating VALUES (?, ?, ?, ?, ?, now())", answers)
    return len(answers)


def read_answers(path: Path) -> list[tuple[str, int, int, int, str | None]]:
    """Answers of a file as (rater, neuron, run, rating, own words)."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{show(path)} has more than {MAX_BYTES >> 20} MiB: it is no file of answers")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{show(path)} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{show(path)} is not JSON in UTF-8: give the file that the rating page downloads") from None
    rater, answers = (found.get("rater"), found.get("answers")) if isinstance(found, dict) else (None, None)
    if not isinstance(rater, str) or not rater.strip() or not isinstance(answers, list) or not answers:
        raise UserError(f"{show(path)} needs a rater and answers: give the file that the rating page downloads")
    rows: dict[tuple[int, int], tuple[str, int, int, int, str | None]] = {}
    for number, answer in enumerate(answers, start=1):
        values = [answer.get(key) for key in ("neuron_id", "description_run_id", "rating")] if isinstance(answer, dict) else []
        whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31]
        words = answer.get("own_words") if isinstance(answer, dict) else None
        if len(whole) != 3 or not 1 <= whole[2] <= 5 or not isinstance(words, str | None):
            raise UserError(f"{show(path)}: answer {number} needs whole numbers neuron_id, description_run_id and rating (1 to 5)")
        text = " ".join((words or "").encode("utf-8", "replace").decode().split())[:LONGEST] or None
        rows[whole[0], whole[1]] = (" ".join(rater.encode("utf-8", "replace").decode().split())[:200], whole[0], whole[1], whole[2], text)
    return list(rows.values())
