"""Stage zero_shot: stored counts against cosines computed here, its derived tables, what a page says, and refusals."""

import duckdb
import numpy as np
import pytest

from analyze import tables
from ingest.language.word_lists import class_prompts
from ingest.methods.readouts import prompted
from ingest.networks.audio_text import audio_embeddings
from ingest.run import run_study
from ingest.sounds.readers import READERS, read_dataset
from ingest.stages import zero_shot
from ingest.study import make_study
from report.site import build
from tests.small import Silent, reading_network, write_sounds
from warehouse.check import check
from warehouse.store import UserError

pytestmark = pytest.mark.slow

SMALL = f"{__file__.rpartition('/ingest/')[0]}/small.py"
PROMPTS = ["this is a sound of {}", "a {} tone", "{}"]


def study(folder, network="reading_network", **settings):
    table = {
        "stages": ["probes", "zero_shot"], "dataset": [{"reader": "folder", "source": "sounds", "name": "sounds"}],
        "network": [{"name": f"{SMALL}:{network}", "layers": ["logits"]}], "activations": {"device": "cpu", "batch": 4}, "zero_shot": settings,
    }  # fmt: skip
    return make_study(table, "study", folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero-shot")
    write_sounds(folder / "sounds")
    run_study(folder / "w.duckdb", study(folder, prompts=PROMPTS), Silent())
    return folder


def test_counts_are_those_of_the_greatest_cosine(made):
    assert list(check(made / "w.duckdb")) == []
    network, listing = reading_network(), read_dataset("folder", made / "sounds", "sounds")
    names = [entry.name for entry in listing.entries]
    sounds = audio_embeddings(network, names, {entry.name: entry.path for entry in listing.entries})
    true = [name.split("/")[0] for name in names]
    classes = list(dict.fromkeys(true))
    texts = network.text_embeddings(classes).numpy()
    cosine = (sounds / np.linalg.norm(sounds, axis=1, keepdims=True)) @ texts.T
    told = [classes[place] for place in cosine.argmax(axis=1)]
    assert 0 < sum(a == b for a, b in zip(true, told, strict=True)) < len(true)
    expected = sorted((a, b, sum(pair == (a, b) for pair in zip(true, told, strict=True))) for a, b in set(zip(true, told, strict=True)))
    with duckdb.connect(str(made / "w.duckdb"), read_only=True) as con:
        for prompt in PROMPTS:
            rows = con.execute(
                """SELECT a.name, b.name, clips FROM zero_shot JOIN class AS a USING (class_id) JOIN class AS b ON b.class_id = told_class_id
                WHERE prompt = ? ORDER BY 1, 2""",
                [prompt],
            ).fetchall()
            assert rows == expected
        table = tables.table(con, "zero_shot").to_dicts()
        tasks = tables.table(con, "tasks").to_dicts()
    whole = [row for row in table if row["class"] is None]
    right = sum(clips for a, b, clips in expected if a == b)
    assert [(row["prompt"], row["correct"], row["total"]) for row in whole] == [(prompt, right, 30) for prompt in sorted(PROMPTS)]
    assert all(row["low"] < row["accuracy"] < row["high"] and row["chance"] == pytest.approx(1 / 3) for row in whole)
    assert {row["class"]: row["correct"] for row in table if row["prompt"] == "{}" and row["class"]} == {
        name: sum(clips for a, b, clips in expected if a == b == name) for name in classes
    }
    [task] = tasks
    assert task["zero_shot"] == right / 30
    assert 0 <= task["low"] < task["knn"] < task["high"] <= 1
    assert (task["layer"], task["clips"], task["published_knn"]) == ("logits", 30, None)


def test_a_second_time_nothing_is_done_and_the_pages_say_what_was_found(made):
    said = []

    class Lines(Silent):
        def say(self, line):
            said.append(line)

    run_study(made / "w.duckdb", study(made, prompts=PROMPTS), Lines())
    assert "zero-shot classification of sounds by planted: run 4, nothing to do" in said
    build(made / "w.duckdb", made / "site")
    page = (made / "site/networks/planted/index.html").read_text()
    assert "What it tells by prompts alone" in page
    assert all(f"“{prompt}”" in page for prompt in PROMPTS)
    assert "By the prompt “a {} tone” planted tells" in next((made / "site/datasets/sounds/classes").rglob("noise.html")).read_text()


def test_each_task_has_the_papers_prompt():
    """CLAP paper, Table 3; ESC-50 as its program has it."""
    assert {name: class_prompts(name) for name in ("nsynth", "medley-solos-db", "gtzan", "pcvc", "speech-commands", "libricount", "esc50")} == {
        "nsynth": "This is a {} note", "medley-solos-db": "This is a sound of {}", "gtzan": "This is a {} song", "pcvc": "{}",
        "speech-commands": "{}", "libricount": "{} people speaking", "esc50": "this is a sound of {}",
    }  # fmt: skip
    assert class_prompts("nsynth per_class=150 seed=0") == "This is a {} note"
    assert {class_prompts(name) for name in ("folder", "starter", "crema-d")} == {"this is a sound of {}"}
    assert set(READERS) > {"nsynth", "libricount"}
    assert prompted("{} people speaking", "3") == "3 people speaking"
    assert prompted("this is a sound of ", "clock_alarm") == "this is a sound of clock alarm"


def test_refusals_are_one_line(made):
    with pytest.raises(UserError, match="planted reads no text: choose an audio-text network"):
        run_study(made / "w.duckdb", study(made, "planted_network"), Silent())
    with pytest.raises(UserError, match="has no label set pitch: it has"):
        run_study(made / "w.duckdb", study(made, label_set="pitch"), Silent())
    for prompt in ("a sound", "{} or {}"):
        with pytest.raises(UserError, match=r"must have one hole \{\} for the class's name"):
            zero_shot.Settings(prompts=(prompt,))
