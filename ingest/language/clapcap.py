"""The captioner of CLAP 2023, clapcap."""

from __future__ import annotations

import functools
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ingest.language.captions import Caption, accept, hear, in_batches
from warehouse.store import UserError, first_line

CLAPCAP_S = 7.0


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

        from ingest.networks import clap
        from ingest.networks.checkpoints import load_exactly, read_checkpoint, tensor_sha256
        from ingest.networks.msclap_wrapper import import_msclap

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
    from ingest.networks.msclap_wrapper import import_msclap

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
    from ingest.networks import clap

    key = key.replace("gpt.transformer.", "caption_encoder.base.")
    return any(re.fullmatch(pattern, key) and is_right(value) for pattern, is_right in clap.OLD_CONSTANTS.items())


def _hub_clapcap() -> Path:
    from huggingface_hub import hf_hub_download

    from ingest.networks import clap

    try:
        return Path(hf_hub_download(clap.REPOSITORY, CLAPCAP))
    except Exception as error:  # whatever the hub's client meets: no network, no space, offline mode
        raise UserError(
            f"{CLAPCAP} of {clap.REPOSITORY} is not in the hub's cache and could not be downloaded ({first_line(error)}): give the file"
        ) from None


def _gpt2_tokenizer(text: Path | None) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(text or CLAPCAP_TEXT), local_files_only=text is not None)
    except Exception as error:  # the library raises nearly every kind of error
        raise UserError(
            f"clapcap cannot write: no tokeniser in {text or 'the hub'} ({first_line(error)}): put the folder gpt2 beside the weights"
        ) from None


CLAPCAP, CLAPCAP_TEXT = "clapcap_weights_2023.pth", "gpt2"
