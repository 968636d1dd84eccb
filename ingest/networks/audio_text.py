"""Audio-text networks such as CLAP: sounds and texts embedded in one space.

Any network with a method `text_embeddings(texts)` that returns a tensor [texts, d] is one; its own output [clips * windows, d] is the
embedding of sounds. It runs where its module lies. LAION's CLAP (Wu et al. 2023) is here as transformers' ClapModel; Microsoft's are in
ingest.networks.clap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ingest.networks.checkpoints import quiet, tensor_sha256
from ingest.networks.clap import htsat_token_times
from ingest.networks.network import Layer, Network, Padding
from ingest.networks.passes import prepared, stack
from ingest.networks.transformer import _refuse_misfits, trace
from ingest.sounds.sound import SoundError, load
from warehouse.store import UserError, first_line, sha256_json

BATCH_CLIPS = 8
MODEL = "laion/clap-htsat-unfused"
LONGEST_PROMPT = 77  # tokens, of LAION's own program


def check_reads_text(network: Network) -> None:
    """Raises UserError for a network that embeds no text."""
    if not callable(getattr(network, "text_embeddings", None)):
        raise UserError(f"{network.name} reads no text: choose an audio-text network, such as clap-2022")


def text_embeddings(network: Network, texts: Sequence[str]) -> np.ndarray:
    """Embeddings [texts, d] (float32) of texts, not normalised. Raises UserError for a network or a text that it cannot be done with."""
    check_reads_text(network)
    return network.text_embeddings(texts).float().cpu().numpy()  # type: ignore[attr-defined]


def audio_embeddings(network: Network, names: Sequence[str], paths: Mapping[str, Path]) -> np.ndarray:
    """Embeddings [clips, d] (float32) of the clips `names`, whose sound files `paths` has: the network's output, averaged over a clip's
    windows, not normalised.

    A clip that cannot be read, or whose embedding is zero or not finite, has a row of NaN. Raises UserError for a network that reads no
    text, and when no clip is left.
    """
    return in_rows(network, Listener(network).embed([paths.get(name) for name in names]))


def in_rows(network: Network, found: Sequence[np.ndarray]) -> np.ndarray:
    """Embeddings, empty for clips without, as `audio_embeddings` gives them."""
    width = max(map(len, found), default=0)
    if not width:
        raise UserError(f"{network.name} can embed none of {len(found)} clips: their sound files cannot be read any more")
    return np.stack([row if len(row) else np.full(width, np.nan, dtype=np.float32) for row in found])


class Listener:
    """An audio-text network as what embeds sound files. Raises UserError for a network that reads no text."""

    def __init__(self, network: Network) -> None:
        check_reads_text(network)
        self.network, self.name = network, network.name
        self.parameters = {"sha256": network.checkpoint_sha256, "clip_s": network.clip_s}

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(next(self.network.module.parameters()).device)

    def embed(self, files: Sequence[Path | None]) -> list[np.ndarray]:
        """Embeddings [d] (float32) of sound files, averaged over their windows; empty where a file cannot be read, or its embedding is zero or not
        finite."""
        network = self.network
        result = [np.zeros(0, dtype=np.float32)] * len(files)
        for start in range(0, len(files), BATCH_CLIPS):
            rows, sounds = [], []
            for row, file in enumerate(files[start : start + BATCH_CLIPS], start):
                with contextlib.suppress(SoundError):
                    if file is not None:
                        sounds.append(load(file, sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s))
                        rows.append(row)
            if not rows:
                continue
            output = network.forward(prepared(network, stack(sounds)))
            if not isinstance(output, torch.Tensor) or output.dim() != 2:
                raise UserError(f"{network.name} puts out no embedding of a clip: choose an audio-text network, such as clap-2022")
            for row, embedding in zip(rows, network.mean_over_windows(output.float()).cpu().numpy(), strict=True):
                if np.isfinite(embedding).all() and embedding.any():
                    result[row] = embedding
        return result


# --- LAION's CLAP -----------------------------------------------------------------------------------------------------------------------


class LaionAudio(nn.Module):
    """ClapModel's audio side with one tensor in and one out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.audio_model, self.audio_projection = model.audio_model, model.audio_projection

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Log-mel spectrograms [clips, 1, frames, bands] to embeddings [clips, d] of unit length."""
        longer = torch.zeros(len(features), 1, dtype=torch.bool, device=features.device)
        pooled = self.audio_model(input_features=features, is_longer=longer).pooler_output
        return nn.functional.normalize(self.audio_projection(pooled), dim=-1)


class LaionClap(Network):
    """HTSAT's audio encoder as a network to dissect, with embeddings of texts for zero-shot classification."""

    def __init__(self, name: str, model: Any, extractor: Any, tokenizer: Any) -> None:
        module = LaionAudio(model).eval().requires_grad_(False)
        self._text = nn.ModuleDict({"model": model.text_model, "projection": model.text_projection}).eval().requires_grad_(False)
        self._tokenizer, self._extractor, self._width = tokenizer, extractor, int(model.config.projection_dim)
        super().__init__(
            name,
            "clap-htsat",
            module,
            sample_rate_hz=int(extractor.sampling_rate),
            clip_s=float(extractor.max_length_s),
            layers=laion_layers(module, model.config.audio_config, extractor),
            checkpoint_sha256=tensor_sha256(model.state_dict()),
            note="LAION's CLAP, loaded with transformers as ClapModel.",
            padding=Padding("repeated whole", self._prepare_padded, self._steps),
            prepare=lambda waveforms: self._features(list(waveforms)),
        )

    def _features(self, sounds: Sequence[torch.Tensor]) -> torch.Tensor:
        """Log-mel spectrograms of sounds [samples] each, as the extractor makes them: short ones are repeated as often as they fit whole."""
        found = self._extractor([sound.float().cpu().numpy() for sound in sounds], sampling_rate=self.sample_rate_hz, return_tensors="pt")
        return found["input_features"].to(device=sounds[0].device, dtype=torch.float32)

    def _prepare_padded(self, waveforms: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        return self._features([waveform[:count] for waveform, count in zip(waveforms, samples.tolist(), strict=True)])

    def _steps(self, layer: Layer, samples: torch.Tensor) -> torch.Tensor:
        """All that hold the sound, some of them once more; what is left behind the last repetition is silence."""
        filled = samples * (self.samples // samples)
        return -(-filled * layer.time_steps // self.samples)

    @torch.inference_mode()
    def text_embeddings(self, prompts: Sequence[str], batch: int = 32) -> torch.Tensor:
        """Embeddings [prompts, d] of unit length. Raises UserError for a prompt of more than 77 tokens, of which the published program reads
        no more."""
        device = next(self.module.parameters()).device
        self._text.to(device)
        parts = []
        for start in range(0, len(prompts), batch):
            texts = list(prompts[start : start + batch])
            tokens = self._tokenizer(texts, padding=True, return_tensors="pt").to(device)
            lengths = tokens["attention_mask"].sum(dim=1)
            if int(lengths.max()) > LONGEST_PROMPT:
                longest = int(lengths.argmax())
                raise UserError(
                    f"{self.name} reads at most {LONGEST_PROMPT} tokens, this prompt has {int(lengths[longest])}: {texts[longest][:60]!r}"
                )
            pooled = self._text["model"](input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
            parts.append(nn.functional.normalize(self._text["projection"](pooled), dim=-1))
        return torch.cat(parts) if parts else torch.zeros(0, self._width, device=device)


def laion_layers(module: LaionAudio, config: Any, extractor: Any) -> list[Layer]:
    """Per transformer block `mlp_act` (after GELU) and `mlp_out`, then `output`, the normalised tokens whose mean is projected.

    As for clap-2023: attention works on windows in an order of its own, so its parts put out nothing that belongs to one clip.
    """
    frames = 1 + extractor.nb_max_samples // extractor.hop_length
    calls, _ = trace(module, torch.zeros(1, 1, frames, config.num_mel_bins))
    shapes = {call.path: tuple(call.result.shape[1:]) for call in calls if call.result is not None}
    found, block = [], 0
    for stage, depth in enumerate(config.depths):
        for place in range(depth):
            block += 1
            path = f"audio_model.audio_encoder.layers.{stage}.blocks.{place}"
            found += [(f"block{block}/mlp_act", f"{path}.intermediate"), (f"block{block}/mlp_out", f"{path}.output.dense")]
    found.append(("output", "audio_model.audio_encoder.norm"))
    segments = config.spec_size // config.num_mel_bins
    return [Layer(name, path, shapes[path], "token,unit", token_times=htsat_token_times(shapes[path][0], segments)) for name, path in found]


def load_laion_clap(weights: Path | None = None, clip_s: float | None = None) -> LaionClap:
    """LAION's CLAP: HTSAT, 48 kHz, clips of 10 s; layers by structure (see `laion_layers`), with values below zero.

    `weights` is a folder that transformers saved a ClapModel, its feature extractor and its tokeniser to; without it laion/clap-htsat-unfused is
    asked of the hub's cache. Models that fuse crops of long clips are refused: their extractor draws at random which clip of a batch counts as
    long. Raises UserError in one line for whatever cannot be read.
    """
    import transformers

    if weights is not None and not Path(weights).is_dir():
        raise UserError(
            f"laion-clap: {weights} is no folder: give the one that transformers saved the model, its extractor and tokeniser to"
        )
    spec = str(weights or MODEL)
    options: dict[str, Any] = {"local_files_only": weights is not None, "trust_remote_code": False}
    try:
        with quiet():
            config: Any = transformers.AutoConfig.from_pretrained(spec, **options)
            if config.model_type != "clap":
                raise UserError(f"laion-clap: {spec} holds a model of type {config.model_type} instead of clap")
            extractor: Any = transformers.ClapFeatureExtractor.from_pretrained(spec, **options)
            if config.audio_config.enable_fusion or extractor.truncation == "fusion":
                raise UserError(
                    f"laion-clap: {spec} fuses crops that its extractor draws at random: take an unfused model, such as {MODEL}"
                )
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(spec, **options)
            loaded: Any = transformers.ClapModel.from_pretrained(
                spec, output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32, weights_only=True, **options
            )
    except UserError:
        raise
    except Exception as error:  # the library raises nearly every kind of error
        what = "cannot be loaded as a ClapModel" if weights else "is not in the hub's cache and the hub does not give it"
        more = "" if weights else ": give a folder as weights"
        raise UserError(f"laion-clap: {spec} {what} ({type(error).__name__}: {first_line(error)}){more}") from None
    model, info = loaded
    _refuse_misfits(spec, info)
    if clip_s not in (None, float(extractor.max_length_s)):
        raise UserError(
            f"laion-clap cannot take clips of {clip_s:g} s: it fills up what it hears to {extractor.max_length_s} s, so give that or nothing"
        )
    network = LaionClap("laion-clap", model, extractor, tokenizer)
    for name, written in (("config", config.to_dict()), ("preprocessor", extractor.to_dict())):
        kept = {key: value for key, value in written.items() if not key.startswith("_") and key != "transformers_version"}
        network.shaped_by[name] = sha256_json(kept)
    return network
