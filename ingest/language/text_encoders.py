"""Text encoders: texts in, embeddings of unit length out, so that a product of two is their cosine."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ingest.language.loading import model_identity
from warehouse.store import UserError

LONGEST_TEXT = 20_000  # characters; encoders read the first 77 to 512 tokens


class TextEncoder(Protocol):
    """A network that embeds texts."""

    @property
    def name(self) -> str:
        """Short name to show."""

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the embeddings, JSON-able."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [texts, dimensions] (float32) of unit length. Any string will do, also an empty or a very long one."""


def readable(text: str) -> str:
    """What encoders are given of a text: its first 20,000 characters, "?" for lone surrogates, which tokenizers refuse."""
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode()


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


class SentenceTransformer:
    """An encoder of sentence-transformers (Reimers & Gurevych 2019), from a folder or by its name on the Hugging Face hub.

    `name` is for a folder that is called otherwise.
    """

    def __init__(
        self, model: str | Path, *, name: str | None = None, revision: str | None = None, device: str | None = None, batch_size: int = 64
    ) -> None:
        self.model, self.revision, self.device, self.batch_size = model, revision, device, batch_size
        self._named = {} if name is None else {"model": name}
        self.name = name or Path(model).name

    @functools.cached_property
    def parameters(self) -> dict[str, object]:
        """What identifies the embeddings."""
        return {"encoder": "sentence-transformers", **model_identity(self.model, self.revision), **self._named}

    @functools.cached_property
    def _loaded(self) -> Any:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise UserError("sentence-transformers is not installed: pip install sentence-transformers")
        from sentence_transformers import SentenceTransformer as Model

        model_identity(self.model)  # a missing folder has a better message here
        try:
            return Model(str(self.model), revision=self.revision, device=self.device, local_files_only=Path(self.model).is_dir())
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _unloadable(self.model, error) from None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See TextEncoder."""
        if not texts:
            return np.zeros((0, self._loaded.get_embedding_dimension()), dtype=np.float32)
        found = self._loaded.encode([readable(text) for text in texts], batch_size=self.batch_size, show_progress_bar=False)
        return _unit(found)


class ClipText:
    """The text side of CLIP (Radford et al. 2021) from a folder of transformers, for example of openai/clip-vit-base-patch32. Reads the
    first 77 tokens."""

    def __init__(self, model: str | Path, *, revision: str | None = None, device: str | None = None, batch_size: int = 64) -> None:
        self.model, self.revision, self.device, self.batch_size = model, revision, device, batch_size
        self.name = Path(model).name

    @functools.cached_property
    def parameters(self) -> dict[str, object]:
        """What identifies the embeddings."""
        return {"encoder": "clip", **model_identity(self.model, self.revision)}

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        import torch
        from transformers import AutoTokenizer, CLIPTextModelWithProjection

        model_identity(self.model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, revision=self.revision or "main")
            loaded: Any = CLIPTextModelWithProjection.from_pretrained(
                self.model, revision=self.revision or "main", output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _unloadable(self.model, error) from None
        model, report = loaded
        if report["missing_keys"]:
            raise UserError(f"{self.model} has no weights for {min(report['missing_keys'])}: it is no CLIP text encoder")
        return tokenizer, model.eval().to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See TextEncoder."""
        import torch

        tokenizer, model = self._loaded
        found = [np.zeros((0, model.config.projection_dim), dtype=np.float32)]
        for start in range(0, len(texts), self.batch_size):
            batch = [readable(text) for text in texts[start : start + self.batch_size]]
            length = model.config.max_position_embeddings
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=length, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                found.append(
                    model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).text_embeds.float().cpu().numpy()
                )
        return _unit(np.concatenate(found))


def _unloadable(model: str | Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"{model} cannot be loaded as a text encoder ({reason[:160]}): give a folder with config.json and its weights")


def minilm(device: str | None = None) -> SentenceTransformer:
    """all-MiniLM-L6-v2 (384 dimensions), fetched when it is not in the cache. The paper used the L12 model of the same family: give that to
    SentenceTransformer. Raises UserError when it cannot be fetched."""
    from ingest.networks.fetch import fetch

    return SentenceTransformer(fetch("minilm"), name="all-MiniLM-L6-v2", device=device)


class Cached:
    """An encoder that embeds every text once, keeping up to `most` embeddings in memory, the latest used."""

    def __init__(self, encoder: TextEncoder, most: int = 200_000) -> None:
        self.encoder, self.most = encoder, most
        self.name = encoder.name
        self._known: dict[str, np.ndarray] = {}

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the embeddings: the encoder's."""
        return self.encoder.parameters

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See TextEncoder."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new or not texts:
            self._known |= zip(new, embeddings := self.encoder.embed(new), strict=True)
        if not texts:
            return embeddings
        for text in dict.fromkeys(texts):
            self._known[text] = self._known.pop(text)  # now the latest
        result = np.stack([self._known[text] for text in texts])
        while len(self._known) > self.most:
            del self._known[next(iter(self._known))]
        return result


@cache
def load_encoder(name: str) -> TextEncoder:
    """The encoder of a name: minilm, or a folder or hub name of sentence-transformers or of CLIP (then its text side)."""
    if name == "minilm":
        return Cached(minilm())
    return Cached(ClipText(name) if _is_clip(name) else SentenceTransformer(name))


def _is_clip(name: str) -> bool:
    """Whether a folder's config.json, or a hub name without a word on sentences, says CLIP."""
    config = Path(name) / "config.json"
    if config.is_file():
        try:
            kind = json.loads(config.read_text(encoding="utf-8")).get("model_type", "")
        except (ValueError, OSError, AttributeError):
            return False  # told when it is loaded
        return kind in ("clip", "clip_text_model")
    return (
        not Path(name).is_dir() and re.search(r"(?<![a-z])clip(?![a-z])", name.lower()) is not None and "sentence-transformers" not in name
    )
