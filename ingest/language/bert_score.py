"""BERTScore: how alike two texts are, token by token (Zhang et al. 2020)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingest.language.loading import model_identity
from ingest.language.text_encoders import minilm, readable
from warehouse.store import UserError

MOST_TOKENS = 512


@dataclass(frozen=True)
class Tokens:
    """A text's tokens: their embeddings [tokens, dimensions] (float32) of unit length, and which of them are words or parts of words rather
    than marks of its beginning and end. Marks can be matched, as in the authors' program, but are not scored."""

    vectors: np.ndarray
    scored: np.ndarray


def match(reference: Tokens, candidates: Sequence[Tokens]) -> np.ndarray:
    """Precision, recall and F1 [candidates, 3] of texts against a reference (section 3): the mean over a candidate's tokens of their highest cosine to
    one of the reference, the same the other way round, and the harmonic mean of both; neither weighted by rarity nor rescaled.

    NaN where a text has no token to score, or where F1 is not above 0.
    """
    found = np.full((len(candidates), 3), np.nan)
    usable = [index for index, text in enumerate(candidates) if text.scored.any()]
    if not usable or not reference.scored.any():
        return found
    starts = np.cumsum([0, *(len(candidates[index].vectors) for index in usable[:-1])])
    scored = np.concatenate([candidates[index].scored for index in usable])
    cosines = np.concatenate([candidates[index].vectors for index in usable]) @ reference.vectors.T
    precision = np.add.reduceat(cosines.max(axis=1) * scored, starts) / np.add.reduceat(scored.astype(np.int64), starts)
    recall = np.maximum.reduceat(cosines, starts, axis=0)[:, reference.scored].mean(axis=1)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.full(len(usable), np.nan), where=both > 0)
    found[usable] = np.stack([precision, recall, f1], axis=1)
    return found


class TokenEncoder:
    """An encoder of transformers such as BERT or RoBERTa, from a folder or by its name on the Hugging Face hub.

    Tokens are embedded by its layer number ceil(0.7 n) of n: of the layers that agree best with people's judgement, by the authors' table,
    these are the ones of BERT base (9 of 12), RoBERTa large (17 of 24), DistilBERT and BERT with 6 layers (5). `name` is for a folder that is
    called otherwise.
    """

    def __init__(self, model: str | Path, *, name: str | None = None, device: str | None = None, batch_size: int = 32) -> None:
        self.model, self.device, self.batch_size = model, device, batch_size
        self.name = name or Path(model).name

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any, int]:
        """Tokenizer, model, and the most tokens it takes."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        model_identity(self.model)  # a missing folder has a better message there
        where = {"local_files_only": Path(self.model).is_dir()}
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(str(self.model), add_prefix_space=True, **where)
            loaded: Any = AutoModel.from_pretrained(str(self.model), output_loading_info=True, **where)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.model} cannot be loaded for BERTScore ({reason[:160]}): name a folder of BERT or RoBERTa") from None
        model, report = loaded
        if missing := [key for key in report["missing_keys"] if "pooler" not in key]:
            raise UserError(f"{self.model} has no weights for {min(missing)}: name a folder of BERT or RoBERTa")
        if model.config.is_encoder_decoder or tokenizer.pad_token is None:
            raise UserError(f"{self.model} is no encoder of texts: BERTScore wants one such as BERT or RoBERTa")
        most = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", MOST_TOKENS), MOST_TOKENS)
        return tokenizer, model.eval().to(self.device or ("cuda" if torch.cuda.is_available() else "cpu")), most

    @property
    def layer(self) -> int:
        """Layer that embeds, from 1."""
        return math.ceil(0.7 * self._loaded[1].config.num_hidden_layers)

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of texts, the first 512. Any string will do."""
        import torch

        tokenizer, model, most = self._loaded
        marks = [mark for mark in (tokenizer.cls_token_id, tokenizer.sep_token_id) if mark is not None]
        found = []
        for start in range(0, len(texts), self.batch_size):
            batch = [readable(text).strip() for text in texts[start : start + self.batch_size]]
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=most, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                states = model(**inputs, output_hidden_states=True).hidden_states[self.layer].float().cpu().numpy()
            states /= np.maximum(np.linalg.norm(states, axis=2, keepdims=True), np.finfo(np.float32).tiny)
            ids, there = inputs["input_ids"].cpu().numpy(), inputs["attention_mask"].cpu().numpy().astype(bool)
            found += [Tokens(vectors[mask], ~np.isin(row[mask], marks)) for vectors, row, mask in zip(states, ids, there, strict=True)]
        return found


def minilm_tokens(device: str | None = None) -> TokenEncoder:
    """all-MiniLM-L6-v2 as in text_encoders.minilm: layer 5 of 6, 384 dimensions."""
    encoder = minilm()
    return TokenEncoder(encoder.model, name=encoder.name, device=device)
