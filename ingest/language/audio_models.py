"""Captioners that are audio language models, through transformers, vLLM or an address."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ingest.language.captions import Caption, accept, hear, in_batches
from ingest.language.endpoint import Endpoint
from ingest.language.loading import audio_model, audio_processor, model_identity, vllm_engine
from ingest.language.models import begins_thinking, read_prompt
from ingest.sounds.notes import wav

LONGEST_S = 30.0  # what Whisper's encoder, which most audio language models listen with, takes
MAX_TOKENS = 512
ENDPOINT_RATE_HZ = 16_000


class _AudioLanguageModel:
    """What the engines share: the model's processor, its chat template around a sound and the prompt, and how clips are heard."""

    def __init__(
        self,
        model: str | Path,
        *,
        batch: int,
        revision: str | None = None,
        prompt: str = "caption",
        clip_s: float = LONGEST_S,
        max_tokens: int = MAX_TOKENS,
        dtype: str = "auto",
    ) -> None:
        self.model, self.revision, self.clip_s, self.max_tokens, self.dtype, self.batch = model, revision, clip_s, max_tokens, dtype, batch
        self.name = Path(model).name
        self.prompt = read_prompt(prompt)

    def _identity(self, engine: str) -> dict[str, object]:
        given = {"prompt_sha256": self.prompt.sha256, "clip_s": self.clip_s, "max_tokens": self.max_tokens, "dtype": self.dtype}
        return {"engine": engine, **model_identity(self.model, self.revision), **given}

    @functools.cached_property
    def processor(self) -> Any:
        """The model's processor of sound and text. Raises UserError for a model without one."""
        return audio_processor(self.model, self.revision)

    @functools.cached_property
    def thinks(self) -> bool:
        """Whether the chat template begins the model's thinking."""
        return begins_thinking(self.processor.apply_chat_template(self.conversation(), add_generation_prompt=True, tokenize=False))

    @property
    def rate_hz(self) -> int:
        """Sample rate the model listens at."""
        return int(self.processor.feature_extractor.sampling_rate)

    def conversation(self, sound: object = None) -> list[dict[str, object]]:
        """The prompt with a sound, as chat templates take it."""
        return [{"role": "user", "content": [{"type": "audio", "audio": sound}, {"type": "text", "text": self.prompt.text}]}]

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file. Raises UserError when the model cannot be loaded."""
        return in_batches(paths, lambda path: hear(path, self.rate_hz, self.clip_s), self._say, self.batch)

    def _say(self, sounds: list[np.ndarray]) -> list[Caption]:
        raise NotImplementedError


class TransformersAudio(_AudioLanguageModel):
    """An audio language model of the Qwen2-Audio class through transformers, from a folder or the hub, greedily."""

    def __init__(self, model: str | Path, *, batch: int = 8, device: str | None = None, **options: Any) -> None:
        super().__init__(model, batch=batch, **options)
        self.device = device

    @functools.cached_property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return self._identity("transformers")

    @functools.cached_property
    def _network(self) -> Any:
        return audio_model(self.model, self.revision, self.dtype, self.device)

    def _say(self, sounds: list[np.ndarray]) -> list[Caption]:
        import torch

        model = self._network
        inputs = self.processor.apply_chat_template(
            [self.conversation(sound) for sound in sounds],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt", "sampling_rate": self.rate_hz},
        ).to(model.device, dtype=model.dtype)
        # The checkpoint's own sampling settings do not apply to greedy decoding.
        greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        with torch.inference_mode():
            outputs = model.generate(**inputs, max_new_tokens=self.max_tokens, **greedy)
        texts = self.processor.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [accept(text, self.thinks) for text in texts]


class VllmAudio(_AudioLanguageModel):
    """An audio language model through vLLM, all clips of a batch at once. vLLM needs an environment of its own."""

    def __init__(
        self,
        model: str | Path,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        context: int | None = None,
        gpus: int = 1,
        batch: int = 256,
        **options: Any,
    ) -> None:
        """`context` is the most tokens of sound, prompt and caption together, by default as many as the model can take."""
        super().__init__(model, batch=batch, **options)
        self.sampling, self.context, self.gpus = {"temperature": temperature, "seed": seed, "max_tokens": self.max_tokens}, context, gpus

    @functools.cached_property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return self._identity("vllm") | self.sampling | {"context": self.context}

    def requests(self, sounds: Sequence[np.ndarray]) -> list[dict[str, object]]:
        """What vLLM is asked for each sound: the prompt in the model's chat template, and the sound beside it."""
        text = self.processor.apply_chat_template(self.conversation(), add_generation_prompt=True, tokenize=False)
        return [{"prompt": text, "multi_modal_data": {"audio": (sound, self.rate_hz)}} for sound in sounds]

    @functools.cached_property
    def _engine(self) -> Any:
        return vllm_engine(
            self.model, revision=self.revision, seed=int(self.sampling["seed"]), dtype=self.dtype, context=self.context, gpus=self.gpus,
            limit_mm_per_prompt={"audio": 1},
        )  # fmt: skip

    def _say(self, sounds: list[np.ndarray]) -> list[Caption]:
        engine = self._engine
        from vllm import SamplingParams

        outputs = engine.generate(self.requests(sounds), SamplingParams(**self.sampling), use_tqdm=False)
        return [accept(output.outputs[0].text, self.thinks) for output in outputs]


class AudioEndpoint:
    """A server with OpenAI's chat completions that takes sound (`input_audio`): see ingest.language.endpoint for how it is asked and what `options`
    there are. Sound is sent as a 16-bit WAV file at 16 kHz."""

    device = "cpu"
    """No GPU would help."""

    def __init__(
        self, url: str, model: str, *, prompt: str = "caption", clip_s: float = LONGEST_S, batch: int = 32, **options: Any
    ) -> None:
        self._endpoint = Endpoint(url, model, **{"max_tokens": MAX_TOKENS} | options)
        self.name, self.prompt, self.clip_s, self.batch = model, read_prompt(prompt), clip_s, batch

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return self._endpoint.parameters | {"prompt_sha256": self.prompt.sha256, "clip_s": self.clip_s, "rate_hz": ENDPOINT_RATE_HZ}

    def content(self, sound: np.ndarray) -> list[dict[str, object]]:
        """What is asked of a sound [samples]: the sound and the prompt, as the content of a message."""
        data = base64.b64encode(wav(np.rint(np.clip(sound, -1, 1) * 32767).astype(np.int16), ENDPOINT_RATE_HZ)).decode()
        return [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, {"type": "text", "text": self.prompt.text}]

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file. Raises UserError when the server is not there, refuses the key or the model, or answers nothing."""
        return in_batches(paths, lambda path: hear(path, ENDPOINT_RATE_HZ, self.clip_s), self._say, self.batch)

    def _say(self, sounds: list[np.ndarray]) -> list[Caption]:
        # A message's content may be parts as well as a text; the endpoint passes on either.
        replies = self._endpoint.complete(cast(Sequence[str], [self.content(sound) for sound in sounds]))
        return [accept(reply.raw) if reply.raw else Caption(None, "", reply.reason) for reply in replies]
