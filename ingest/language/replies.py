"""A language model whose replies the warehouse keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from ingest.language.elsewhere import KILLED, Elsewhere, in_turn
from ingest.language.models import CUT_OFF, THOUGHT, UNFINISHED, LanguageModel, Reply, ask, judged, prompt_sha256
from warehouse import store
from warehouse.ledger import Run

ASKED_AT_ONCE = 64
"""Prompts between two commits of their replies."""


def identity(warehouse: Path, stage: str, model: LanguageModel, judge: Callable[[Reply], Reply] | None = None) -> dict[str, object]:
    """A model's name and parameters. Where the warehouse holds replies to the stage that were once taken with the thinking before the answer,
    these say so: what was made of them is made again."""
    found = {"name": model.name, **model.parameters}
    with store.connect_readonly(warehouse) as con:
        rows = con.execute(
            "SELECT reply.text, raw FROM reply JOIN run USING (run_id) WHERE model_sha256 = ? AND stage = ?",
            [store.sha256_json(found), stage],
        ).fetchall()
    taken = any(THOUGHT.search(raw) and _judged(raw, judge).text != text for text, raw in rows)
    return found | {"thinking": "left out"} if taken else found


def _judged(raw: str, judge: Callable[[Reply], Reply] | None) -> Reply:
    return judge(judged(raw)) if judge else judged(raw)


def _whole(reply: Reply, aloud: bool) -> Reply:
    """A reply, unusable if it was cut off before the end of the thinking that others of the model's begin with, though none writes its beginning."""
    unfinished = aloud and reply.text is not None and reply.raw.endswith(CUT_OFF) and not THOUGHT.search(reply.raw)
    return replace(reply, text=None, reason=UNFINISHED) if unfinished else reply


class Asker:
    """A language model whose replies the warehouse keeps. `judge` makes those that cannot be used for its purpose unusable."""

    def __init__(self, run: Run, model: LanguageModel, *, judge: Callable[[Reply], Reply] | None = None, retry: bool = False) -> None:
        self.run, self.model, self.judge, self.retry = run, model, judge, retry
        self.key = store.sha256_json({"name": model.name, **model.parameters})

    def __call__(self, prompts: Sequence[str]) -> list[Reply]:
        """A reply per prompt, those that the warehouse holds from there."""
        with store.connect_readonly(self.run.warehouse) as con:
            rows = con.execute("SELECT prompt_sha256, text, raw, reason FROM reply WHERE model_sha256 = ?", [self.key]).fetchall()
        known = {row[0]: _judged(row[2], self.judge) if THOUGHT.search(row[2]) else Reply(*row[1:]) for row in rows}
        aloud = any(THOUGHT.search(reply.raw) for reply in known.values())
        if self.retry:
            known = {key: reply for key, reply in known.items() if reply.text is not None}
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt_sha256(prompt) not in known))
        size = self.model.size if isinstance(self.model, Elsewhere) else ASKED_AT_ONCE
        batches, came = [new[start : start + size] for start in range(0, len(new), size)], dict[str, Reply]()
        for answers in in_turn(self.model, partial(ask, self.model), [[shown(prompt) for prompt in batch] for batch in batches]):
            said = {prompt: reply or Reply(None, "", KILLED) for prompt, reply in zip(batches[answers.number], answers.said, strict=True)}
            came |= said
            if not aloud and any(THOUGHT.search(reply.raw) for reply in said.values()):
                aloud, said = True, came  # those that came before are judged again, so that the order does not count
            replies = [
                (prompt, self.judge(reply) if self.judge else reply) for prompt, reply in ((p, _whole(r, aloud)) for p, r in said.items())
            ]
            rows = [
                (self.key, prompt_sha256(prompt), self.run.run_id, shown(prompt), reply.raw, reply.text, reply.reason)
                for prompt, reply in replies
            ]
            with self.run.commit([]) as con:
                con.executemany("INSERT OR REPLACE INTO reply VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                for table, frame in answers.tables().items():
                    store.insert(con, table, frame.with_columns(pl.lit(self.run.run_id).alias("run_id")))
            known |= {prompt_sha256(prompt): reply for prompt, reply in replies}
        return [known[prompt_sha256(prompt)] for prompt in prompts]


def shown(prompt: str) -> str:
    """A prompt as it is sent and stored: tokenizers refuse lone surrogates."""
    return prompt.encode("utf-8", "backslashreplace").decode()
