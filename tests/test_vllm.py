"""Descriptions by a real language model through vLLM, killed midway and resumed. `make test-vllm` makes the environment and the model."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from ingest.language.engines import Vllm
from ingest.language.models import prompt_sha256
from warehouse.check import check

MODEL = Path(os.environ.get("AURICLE_SMOLLM2", "")).resolve()
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"),
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="AURICLE_SMOLLM2 names no model folder: make test-vllm"),
]
ROOT = Path(__file__).parent.parent
LAYER, BATCH, COMMITTED = "layer5/pointwise_conv", 64, 2
STUDY = f"""
stages = ["descriptions"]
[[dataset]]
reader = "starter"
[[network]]
name = "yamnet"
layers = ["{LAYER}"]
[descriptions]
engine = "vllm"
model = "{MODEL}"
max_tokens = 32
prompt = "published"
"""


def ingest(folder, deadly=0):
    """`auricle ingest` in a process of its own, which is killed when the replies to its batch number `deadly` are there but not committed.

    Returns its exit status and the prompts that it asked, by batch, as hashes.
    """
    folder.mkdir(exist_ok=True)
    (folder / "study.toml").write_text(STUDY)
    log = folder / "asked"
    log.write_text("")
    command = [
        sys.executable,
        "-m",
        "tests.test_vllm",
        str(log),
        str(deadly),
        "ingest",
        folder / "study.toml",
        "--warehouse",
        folder / "w.duckdb",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    asked = [json.loads(line) for line in log.read_text().splitlines()]
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, asked


def watched(log, deadly):
    """The engine itself, but that it notes what it is asked."""
    complete, batches = Vllm.complete, 0

    def noting(self, prompts):
        nonlocal batches
        batches += 1
        with log.open("a") as file:
            file.write(json.dumps([prompt_sha256(prompt) for prompt in prompts]) + "\n")
        replies = complete(self, prompts)
        if batches == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return replies

    return noting


def rows(folder, query):
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as con:
        return con.execute(query).fetchall()


def replies(folder):
    """Raw replies by hash of the prompt."""
    found = rows(folder, "SELECT prompt_sha256, raw FROM reply")
    assert len(dict(found)) == len(found)
    return dict(found)


def test_killed_midway_no_prompt_is_asked_twice(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, batches = ingest(killed, deadly=COMMITTED + 1)
    assert (status, [len(batch) for batch in batches]) == (-signal.SIGKILL, [BATCH] * (COMMITTED + 1))
    held = replies(killed)
    assert set(held) == {prompt for batch in batches[:COMMITTED] for prompt in batch}

    status, resumed = ingest(killed)
    assert status == 0
    asked = [prompt for batch in resumed for prompt in batch]
    assert len(asked) == len(set(asked)) > BATCH
    assert not held.keys() & set(asked)
    assert set(batches[COMMITTED]) <= set(asked)  # one batch is lost, no more
    found = replies(killed)
    assert found.keys() == held.keys() | set(asked)
    assert {prompt: found[prompt] for prompt in held} == held

    status, uninterrupted = ingest(whole)
    assert status == 0
    expected = replies(whole)
    assert batches + resumed[1:] == uninterrupted
    assert found == expected
    for table in ("summary_point", "concept"):
        assert rows(killed, f"FROM {table} ORDER BY ALL") == rows(whole, f"FROM {table} ORDER BY ALL")
    assert rows(killed, "SELECT item, reason FROM failure ORDER BY ALL") == rows(whole, "SELECT item, reason FROM failure ORDER BY ALL")

    path = rows(killed, "SELECT path FROM activation_file WHERE reduction = 'mean'")[0][0]
    layer = rows(killed, f"SELECT neuron_id FROM neuron JOIN layer USING (layer_id) WHERE layer.name = '{LAYER}' ORDER BY unit")
    living = {layer[unit][0] for unit in np.flatnonzero(np.load(killed / path).any(axis=1))}
    described = {neuron for (neuron,) in rows(killed, "SELECT DISTINCT neuron_id FROM summary_point")}
    failed = {int(item.removeprefix("neuron ")) for (item,) in rows(killed, "SELECT item FROM failure WHERE stage = 'descriptions'")}
    assert len(living) >= 200
    assert living == described | failed
    assert not described & failed
    assert len(described) >= 100

    assert ingest(killed) == (0, [])
    assert list(check(killed / "w.duckdb")) == []


if __name__ == "__main__":
    import auricle

    Vllm.complete = watched(Path(sys.argv[1]), int(sys.argv[2]))
    sys.argv = ["auricle", *sys.argv[3:]]
    auricle.main()
