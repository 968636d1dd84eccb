"""Replies that the warehouse keeps: asked for once, judged as they are judged today."""

import duckdb

from ingest.language.judge import rated
from ingest.language.models import CUT_OFF, UNFINISHED, judged
from ingest.language.replies import Asker, identity
from warehouse import ledger, store


class Model:
    """Says what a prompt asks for after a colon."""

    name, parameters = "model", {"engine": "none"}

    def complete(self, prompts):
        return [judged(prompt.partition(":")[2]) for prompt in prompts]


def made(folder, stage="descriptions"):
    path = folder / "w.duckdb"
    store.create(path)
    return path, ledger.begin(path, stage, parameters={}, code_version=1)


def test_what_was_taken_with_the_thinking_is_judged_again_and_said(tmp_path):
    path, run = made(tmp_path)
    Asker(run, Model())(["a:Hm. A banana.</think>Loud sounds.", "b:Quiet sounds."])
    assert identity(path, "descriptions", Model()) == {"name": "model", "engine": "none"}
    with duckdb.connect(str(path)) as con:  # as it was stored when only a whole <think> was left out
        con.execute("UPDATE reply SET text = raw")
    assert identity(path, "descriptions", Model()) == {"name": "model", "engine": "none", "thinking": "left out"}
    assert identity(path, "scores", Model(), rated) == {"name": "model", "engine": "none"}  # replies to another stage
    assert [reply.text for reply in Asker(run, Model())(["a:Hm. A banana.</think>Loud sounds.", "b:Quiet sounds."])] == [
        "Loud sounds.", "Quiet sounds.",
    ]  # fmt: skip


def test_a_judges_numbers_are_its_own(tmp_path):
    path, run = made(tmp_path, "scores")
    Asker(run, Model(), judge=rated)(["a:Rating: 2\n</think>\nRating: 8"])
    assert identity(path, "scores", Model(), rated) == {"name": "model", "engine": "none"}
    with duckdb.connect(str(path)) as con:
        con.execute("UPDATE reply SET text = '2'")
    assert identity(path, "scores", Model(), rated)["thinking"] == "left out"


def test_thinking_that_was_cut_off_is_no_answer_of_a_model_that_thinks_aloud(tmp_path):
    _, run = made(tmp_path)
    asked = Asker(run, Model())
    assert asked(["a:Okay, the user wants" + CUT_OFF])[0].text is not None  # may be an answer
    found = asked(["b:Hm.</think>Loud sounds.", "c:Okay, the user wants" + CUT_OFF, "d:Hm.</think>Loud" + CUT_OFF])
    assert [(reply.text, reply.reason) for reply in found] == [("Loud sounds.", None), (None, UNFINISHED), ("Loud" + CUT_OFF, None)]
    assert asked(["c:Okay, the user wants" + CUT_OFF])[0].reason == UNFINISHED
