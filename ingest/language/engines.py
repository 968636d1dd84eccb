"""Language models as they are run: vLLM, transformers or a server, by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingest.language.endpoint import Endpoint
from ingest.language.loading import causal_model, chat_tokens, model_identity, vllm_engine
from ingest.language.models import CUT_OFF, MAX_TOKENS, LanguageModel, Reply, begins_thinking, judged
from warehouse.store import UserError


def _too_long(tokens: int, most: int) -> Reply:
    return Reply(None, "", f"prompt of {tokens} tokens, the model takes fewer than {most}")


def _marked(text: str, is_cut: bool) -> str:
    return text + CUT_OFF if is_cut and text.strip() else text


def _thinks(tokenizer: Any, prompt: Sequence[int]) -> bool:
    """Whether a prompt's end, which the chat template wrote, begins the model's thinking."""
    return begins_thinking(tokenizer.decode(prompt[-16:]))


class Vllm:
    """Offline batches through vLLM, all prompts of a call at once. Loaded with the first prompt. vLLM needs an environment of its own."""

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
        given = {"engine": "vllm", "dtype": self.dtype, "context": self.context}
        return {**model_identity(self.model, self.revision), **self.sampling, **given}

    @functools.cached_property
    def _engine(self) -> Any:
        return vllm_engine(
            self.model, revision=self.revision, seed=int(self.sampling["seed"]), dtype=self.dtype, context=self.context, gpus=self.gpus,
            enable_prefix_caching=True,
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
        return [judged(next(said), _thinks(tokenizer, ids)) if len(ids) < most else _too_long(len(ids), most) for ids in tokens]


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
        return causal_model(self.model, self.revision, self.dtype, self.device)

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
            replies |= {
                i: judged(_marked(text, cut), _thinks(tokenizer, tokens[i])) for i, text, cut in zip(batch, texts, is_cut, strict=True)
            }
        return [replies[i] for i in range(len(prompts))]


def load_language_model(
    where: str,
    engine: str | None,
    model: str | None,
    *,
    url: str | None,
    key_variable: str | None,
    seed: int,
    max_tokens: int,
    extra: Mapping[str, object] | None = None,
) -> LanguageModel | None:
    """A language model by the names of a study's section `where`: engine vllm, transformers or endpoint; None for any other, which needs none.

    Raises UserError for what it lacks.
    """
    if extra and engine != "endpoint":
        raise UserError(f"{where}: extra goes into requests to an endpoint: set engine to endpoint, or leave it out")
    if engine not in ("vllm", "transformers", "endpoint"):
        return None
    if model is None:
        raise UserError(f"{where}: {engine} needs a model: give model")
    if engine == "endpoint":
        if url is None:
            raise UserError(f"{where}: endpoint needs an address: give url")
        return Endpoint(url, model, key_variable=key_variable, seed=seed, max_tokens=max_tokens, extra=extra)
    return Vllm(model, seed=seed, max_tokens=max_tokens) if engine == "vllm" else Transformers(model, max_tokens=max_tokens)
