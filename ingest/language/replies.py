"""A language model whose replies the warehouse keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ingest.language.models import LanguageModel, Reply, ask, prompt_sha256
from warehouse import store
from warehouse.ledger import Run

ASKED_AT_ONCE = 64
"""Prompts between two commits of their replies."""


class Asker:
    """A language model whose replies the warehouse keeps. `judge` makes those that cannot be used for its purpose unusable."""

    def __init__(self, run: Run, model: LanguageModel, *, judge: Callable[[Reply], Reply] | None = None, retry: bool = False) -> None:
        self.run, self.model, self.judge, self.retry = run, model, judge, retry
        self.key = store.sha256_json({"name": model.name, **model.parameters})

    def __call__(self, prompts: Sequence[str]) -> list[Reply]:
        """A reply per prompt, those that the warehouse holds from there."""
        with store.connect_readonly(self.run.warehouse) as con:
            rows = con.execute("SELECT prompt_sha256, text, raw, reason FROM reply WHERE model_sha256 = ?", [self.key]).fetchall()
        known = {row[0]: Reply(*row[1:]) for row in rows if not (self.retry and row[1] is None)}
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt_sha256(prompt) not in known))
        for start in range(0, len(new), ASKED_AT_ONCE):
            batch = new[start : start + ASKED_AT_ONCE]
            replies = [self.judge(reply) if self.judge else reply for reply in ask(self.model, batch)]
            shown = [prompt.encode("utf-8", "backslashreplace").decode() for prompt in batch]
            rows = [
                (self.key, prompt_sha256(prompt), self.run.run_id, text, reply.raw, reply.text, reply.reason)
                for prompt, text, reply in zip(batch, shown, replies, strict=True)
            ]
            with self.run.commit([]) as con:
                con.executemany("INSERT OR REPLACE INTO reply VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            known |= {row[1]: reply for row, reply in zip(rows, replies, strict=True)}
        return [known[prompt_sha256(prompt)] for prompt in prompts]
