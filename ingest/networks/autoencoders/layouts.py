"""Reading sparse autoencoders from the files in which they are published: tensors and plain values only, nothing pickled is run.

Layouts, told apart by the names of the tensors:

* dictionary_learning (Marks, Karvonen & Mueller), and AudioSAE (Aparin et al. 2026): `encoder.weight`, `encoder.bias`, `decoder.weight` with
  `b_dec` and `k` (AutoEncoderTopK, BatchTopKSAE, the latter with its `threshold`), with `bias`, or with `decoder.bias` (ReLU);
  config.json beside it says which by `dict_class`. `auricle train sae` writes the first.
* sparsify (EleutherAI), and FREUD's TopK of Whisper (Sadov 2024): `encoder.weight`, `encoder.bias`, `W_dec`, `b_dec`; k stands in cfg.json or in hparams.
* FREUD's L1 of Whisper: `decoder.weight`, `encoder_bias`; the encoder is the decoder's columns at unit length.
* SAELens: `W_enc`, `b_enc`, `W_dec`, `b_dec` and, of jumprelu, `threshold`, with its cfg.json beside them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ingest.networks.autoencoders.autoencoder import Autoencoder, Normalised
from ingest.networks.checkpoints import TORCH_ENDINGS, read_safetensors, unpickled
from warehouse.store import UserError, first_line

Activation = Literal["topk", "batchtopk"]
HEADER = "auricle_sae"
FILES = ("sae_weights.safetensors", "sae.safetensors", "model.safetensors", "ae.safetensors", "ae.pt", "params.npz")
CONFIGS = ("cfg.json", "config.json")
CLASSES = {
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "batchtopk",
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
}
"""Classes of dictionary_learning that are known, and which latents they keep."""
LAYOUTS = "dictionary_learning, AudioSAE, sparsify, FREUD and SAELens (docs/networks.md)"


def read_autoencoder(path: Path, activation: Activation | None = None) -> tuple[Autoencoder, dict[str, Any]]:
    """The autoencoder in a file, or in the folder that holds one, and what `auricle train sae` wrote about it (empty for another's).

    `activation` stands in for a file that does not say which latents it keeps; where it says so, it is that. With topk the k highest latents of
    every vector are kept, though batches shared them in training. BatchTopK goes by its threshold: what its training did with a
    batch would make a clip's latents depend on the clips beside it. Raises UserError in one line for whatever cannot be read for what it is.
    """
    path = _file(Path(path))
    tensors, header, kept = _content(path)
    config = {} if header else _config(path) | kept
    names = set(tensors)
    dense = {"encoder.weight", "encoder.bias"}
    if "W_enc" in names:
        found = _saelens(path, tensors, config, activation)
    elif names == {"decoder.weight", "encoder_bias"}:
        columns = torch.nn.functional.normalize(_matrix(path, tensors, "decoder.weight"), dim=0).T
        _say_nothing(path, activation, "relu")
        found = Autoencoder(columns, tensors["encoder_bias"].float(), columns, torch.zeros(columns.shape[1]))
    elif names == {*dense, "W_dec", "b_dec"}:
        _known(path, config, "activation", ("topk",), "topk")
        if config.get("transcode"):
            raise UserError(f"{path} is a transcoder, whose latents stand for another layer's values: give a sparse autoencoder")
        _say_nothing(path, activation, "topk")
        decoder = _matrix(path, tensors, "W_dec")
        found = _dense(path, tensors, decoder, tensors["b_dec"], tensors["b_dec"], k=_k(path, tensors, config))
    elif dense | {"decoder.weight"} <= names:
        found = _dictionary_learning(path, tensors, config, activation, "topk" if header else None)
    else:
        raise UserError(f"{path} has no known layout of a sparse autoencoder (tensors {', '.join(sorted(names)[:6])}): known are {LAYOUTS}")
    return _checked(path, found), header


# --- Files --------------------------------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Path:
    if path.is_dir():
        there = [path / name for name in FILES if (path / name).is_file()]
        if not there:
            raise UserError(f"{path} holds no sparse autoencoder: none of {', '.join(FILES)} is there; give its file")
        return there[0]
    if not path.is_file():
        raise UserError(f"no sparse autoencoder at {path}: give an existing file or folder")
    return path


def _content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Tensors by name, the header of our own files, and plain values kept in the file beside the tensors."""
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        try:
            header = json.loads(metadata.get(HEADER, "{}"))
        except ValueError:
            header = None
        if not isinstance(header, dict):
            raise UserError(f"{path} has a broken header {HEADER}: train it again")
        return tensors, header, {}
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}, {}, {}
        except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{path} is not a whole npz file of plain arrays ({first_line(error)}): copy or fetch it again") from None
    if path.suffix not in TORCH_ENDINGS:
        raise UserError(
            f"{path} is no known kind of file for a sparse autoencoder: give .safetensors, .npz or {', '.join(sorted(TORCH_ENDINGS))}"
        )
    content = unpickled(path)
    kept = content.get("hparams", {}) if isinstance(content, Mapping) else {}
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict (names with tensors): save the autoencoder's state_dict()")
    return dict(content), {}, kept if isinstance(kept, dict) else {}


def _config(path: Path) -> dict[str, Any]:
    for name in CONFIGS:
        if (file := path.parent / name).is_file():
            try:
                config = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UserError(f"{file} is not JSON: {first_line(error)}") from None
            if not isinstance(config, dict):
                raise UserError(f"{file} holds no settings: a table is expected")
            return config
    return {}


def _all(config: Any, key: str) -> Iterator[Any]:
    """Every value of a key in nested tables."""
    if isinstance(config, Mapping):
        if key in config:
            yield config[key]
        for value in config.values():
            yield from _all(value, key)


# --- Layouts ------------------------------------------------------------------------------------------------------------------------------


def _dictionary_learning(
    path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], activation: Activation | None, said: str | None
) -> Autoencoder:
    rest = tensors.keys() - {"encoder.weight", "encoder.bias", "decoder.weight"}
    classes = set(_all(config, "dict_class")) - {None}
    if strange := [name for name in classes if name not in CLASSES]:
        raise UserError(f"{path} is of the class {str(strange[0])[:60]}, whose activation is not known: known are {', '.join(CLASSES)}")
    said = CLASSES[classes.pop()] if len(classes) == 1 else said
    decoder = _matrix(path, tensors, "decoder.weight").T
    if rest == {"bias"} or rest == {"decoder.bias"}:
        _say_nothing(path, activation, "relu")
        [name] = rest
        return _dense(path, tensors, decoder, tensors["bias"] if name == "bias" else None, tensors[name])
    if "b_dec" not in rest or not rest <= {"b_dec", "k", "threshold"}:
        raise UserError(
            f"{path} has no known layout of a sparse autoencoder (beside encoder and decoder {', '.join(sorted(rest))}): known are {LAYOUTS}"
        )
    threshold = float(tensors["threshold"]) if "threshold" in tensors and tensors["threshold"].numel() == 1 else None
    if "threshold" in tensors and threshold is None:
        raise UserError(f"{path} has {tensors['threshold'].numel()} thresholds where one is expected: known are {LAYOUTS}")
    if said == "batchtopk" and activation == "topk":
        said = "topk"  # asked for: see read_autoencoder
    if said is None and activation is None:
        raise UserError(
            f'{path} does not say which latents it keeps: give activation = "batchtopk" (by its threshold) or "topk" (the k highest of each vector)'
        )
    if said is not None and activation is not None:
        _say_nothing(path, activation, said)
    kind = said or activation
    if kind == "relu":
        raise UserError(f"{path} has tensors of TopK and says that it is a ReLU's: one of the two is wrong")
    if kind == "topk":
        return _dense(path, tensors, decoder, tensors["b_dec"], tensors["b_dec"], k=_k(path, tensors, config))
    if threshold is None or not threshold >= 0:
        raise UserError(
            f"{path} is a BatchTopK without a threshold, which would make a clip's latents depend on the clips beside it: give one that has it, "
            'or activation = "topk" for the k highest of each vector'
        )
    return _dense(path, tensors, decoder, tensors["b_dec"], tensors["b_dec"], threshold=torch.tensor(threshold))


def _saelens(path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], activation: Activation | None) -> Autoencoder:
    if not config:
        raise UserError(f"{path} has SAELens' tensors and no cfg.json beside it, which says how they are used: put it there")
    architecture = _known(path, config, "architecture", ("standard", "jumprelu", "topk", "batchtopk"), "standard")
    more = tensors.keys() - {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "scaling_factor"}
    missing = {"b_enc", "W_dec", "b_dec"} - tensors.keys()
    if more or missing:
        raise UserError(f"{path} is no {architecture} of SAELens: {'unexpected' if more else 'missing'} {min(more or missing)}")
    for key, usual in (("finetuning_scaling_factor", False), ("reshape_activations", "none"), ("transcoder", False)):
        if config.get(key, usual) not in (usual, None):
            raise UserError(f"{path}: {key} = {config[key]!r} in its cfg.json is not supported")
    normalised: Normalised = _known(path, config, "normalize_activations", ("none", "layer_norm", "constant_norm_rescale"), "none")
    kind = _known(path, config, "activation_fn", ("relu", "topk"), str(config.get("activation_fn_str") or "relu"))
    if kind not in ("relu", "topk"):
        raise UserError(f"{path}: activation {kind!r} in its cfg.json is not known")
    encoder, decoder, bias = _matrix(path, tensors, "W_enc").T, _matrix(path, tensors, "W_dec"), tensors["b_enc"].float()
    if config.get("rescale_acts_by_decoder_norm"):
        norm = decoder.norm(dim=1)
        encoder, bias, decoder = encoder * norm[:, None], bias * norm, decoder / norm[:, None]
    topk = architecture == "topk" or kind == "topk" or (architecture == "batchtopk" and activation == "topk")
    if architecture == "batchtopk" and not topk and "threshold" not in tensors:
        raise UserError(
            f'{path} is a BatchTopK without a threshold: save it for inference, or activation = "topk" for the k highest of each vector'
        )
    if activation is not None and architecture != "batchtopk":
        _say_nothing(path, activation, "topk" if topk else architecture)
    if architecture == "jumprelu" and "threshold" not in tensors:
        raise UserError(f"{path} is no jumprelu of SAELens: missing threshold")
    shift = tensors["b_dec"].float()
    return Autoencoder(
        encoder, bias, decoder, shift, shift if config.get("apply_b_dec_to_input", True) else None, _k(path, tensors, config) if topk else None,
        tensors["threshold"].float() if architecture in ("jumprelu", "batchtopk") and not topk else None, normalised,
    )  # fmt: skip


def _dense(
    path: Path,
    tensors: dict[str, torch.Tensor],
    decoder: torch.Tensor,
    centre: torch.Tensor | None,
    shift: torch.Tensor,
    *,
    k: int | None = None,
    threshold: torch.Tensor | None = None,
) -> Autoencoder:
    encoder = _matrix(path, tensors, "encoder.weight")
    return Autoencoder(
        encoder, tensors["encoder.bias"].float(), decoder, shift.float(), None if centre is None else centre.float(), k, threshold
    )


# --- Checks -------------------------------------------------------------------------------------------------------------------------------


def _matrix(path: Path, tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if tensors[name].dim() != 2:
        raise UserError(f"{path} is no sparse autoencoder of a layer's vectors: {name} is {list(tensors[name].shape)}")
    return tensors[name].float()


def _known(path: Path, config: Mapping[str, Any], key: str, allowed: tuple[str, ...], default: str) -> Any:
    value = config.get(key) or default
    if value not in allowed:
        raise UserError(f"{path}: {key} {str(value)[:60]!r} is not known: it must be one of {', '.join(allowed)}")
    return value


def _say_nothing(path: Path, activation: str | None, kind: str) -> None:
    """An activation that is given must be the file's own."""
    if activation is not None and activation != kind:
        raise UserError(f"{path} keeps its latents by {kind}: leave out activation = {activation!r}")


def _k(path: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> int:
    """Latents kept of a vector: the tensor `k`, or what the configuration says at any depth."""
    said = (
        {float(tensors["k"])}
        if "k" in tensors and tensors["k"].numel() == 1
        else {k for k in _all(config, "k") if isinstance(k, int | float)}
    )
    if len(said) != 1:
        raise UserError(
            f"{path} does not say how many latents it keeps of a vector: k must stand in the file or in {' or '.join(CONFIGS)} beside it"
        )
    [k] = said
    if not (k >= 1 and k % 1 == 0):
        raise UserError(f"{path} keeps {k:g} latents of a vector: k must be a whole number above 0")
    return int(k)


def _checked(path: Path, found: Autoencoder) -> Autoencoder:
    latents, width = found.encoder.shape
    expected = {"bias": (latents,), "decoder": (latents, width), "shift": (width,), "centre": (width,)}
    for name, shape in expected.items():
        value = getattr(found, name)
        if value is not None and tuple(value.shape) != shape:
            raise UserError(
                f"{path} does not fit together: {name} is {list(value.shape)} beside an encoder of {latents} latents of {width} values"
            )
    if found.threshold is not None and found.threshold.numel() not in (1, latents):
        raise UserError(f"{path} does not fit together: {found.threshold.numel()} thresholds of {latents} latents")
    if found.k is not None and found.k > latents:
        raise UserError(f"{path} keeps {found.k} of {latents} latents: k must not be above them")
    if not all(value.isfinite().all() for value in vars(found).values() if isinstance(value, torch.Tensor)):
        raise UserError(f"{path} holds values that are not finite: fetch or train it again")
    return found
