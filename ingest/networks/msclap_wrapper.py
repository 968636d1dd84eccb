"""msclap as it is here: imported without torchaudio, its networks built without a download."""

from __future__ import annotations

import importlib
import sys
import warnings
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

from warehouse.store import UserError

INSTALL = "install it with `make install-clap`, or `pip install librosa torchlibrosa pyyaml` and `pip install --no-deps msclap==1.3.4`"


@dataclass(frozen=True)
class Version:
    """What msclap's configuration does not say about a version: the checkpoint's name, what the tokeniser gives, and a note."""

    family: str
    checkpoint: str
    text_model: str
    token_keys: tuple[str, ...]
    note: str


VERSIONS = {
    "2022": Version(
        family="cnn14",
        checkpoint="CLAP_weights_2022.pth",
        text_model="bert-base-uncased",
        token_keys=("input_ids", "token_type_ids", "attention_mask"),
        note="CLAP's audio encoder, trained on 128,000 pairs of sound and caption (Elizalde et al., 2022).",
    ),
    "2023": Version(
        family="htsat",
        checkpoint="CLAP_weights_2023.pth",
        text_model="gpt2",
        token_keys=("input_ids", "attention_mask"),
        note="CLAP's audio encoder, trained on 4.6 million pairs of sound and text (Elizalde et al., 2023). "
        "GELU units: values below zero are small but there.",
    ),
}


def import_msclap() -> Any:
    """msclap's module `CLAPWrapper`, imported without torchaudio, of which it uses only the reading of files.

    A stand-in takes torchaudio's place during the import and is taken away again; transformers comes first, as it looks for torchaudio
    itself. Warnings and transformers' log level, which the import would switch off for good, stay as they are. Raises UserError.
    """
    if "msclap.CLAPWrapper" in sys.modules:
        return sys.modules["msclap.CLAPWrapper"]
    from transformers import AutoModel, AutoTokenizer, GPT2LMHeadModel  # noqa: F401  # resolved before the stand-in can be seen
    from transformers.utils import is_torchaudio_available
    from transformers.utils import logging as messages

    is_torchaudio_available()  # remembered by transformers
    names = ("torchaudio", "torchaudio.transforms")
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    verbosity = messages.get_verbosity()
    try:
        sys.modules |= _stand_in()
        with warnings.catch_warnings():
            return importlib.import_module("msclap.CLAPWrapper")
    except ImportError as error:
        for name in [name for name in sys.modules if name.partition(".")[0] == "msclap"]:
            del sys.modules[name]
        raise UserError(
            f"CLAP needs the package msclap ({(str(error).splitlines() or [type(error).__name__])[0][:160]}): {INSTALL}"
        ) from None
    finally:
        messages.set_verbosity(verbosity)
        for name in names:
            sys.modules.pop(name, None)
        sys.modules |= before


def _stand_in() -> dict[str, ModuleType]:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("sound is read by ingest.sounds.sound and given to msclap as tensors")

    torchaudio, transforms = ModuleType("torchaudio"), ModuleType("torchaudio.transforms")
    for module in (torchaudio, transforms):
        module.__spec__ = ModuleSpec(module.__name__, None)
    torchaudio.load = refuse  # type: ignore[attr-defined]
    torchaudio.transforms = transforms  # type: ignore[attr-defined]
    transforms.Resample = refuse  # type: ignore[attr-defined]
    return {module.__name__: module for module in (torchaudio, transforms)}


def build_wrapper(version: str, text_config: Any) -> Any:
    """msclap's wrapper of a version around a network with random weights, without tokeniser; nothing is downloaded.

    msclap fills its text model from the hub before the checkpoint overwrites every weight of it: here it is built from `text_config`,
    a transformers configuration, alone. That also frees the text model's folder from having to be called after its kind.
    """
    msclap = import_msclap()
    clap_module: Any = sys.modules["msclap.models.clap"]

    class Wrapper(msclap.CLAPWrapper):  # type: ignore[name-defined]
        """msclap's wrapper, its network built but not loaded."""

        def load_clap(self) -> tuple[Any, None, Any]:
            """In place of msclap's: the network, no tokeniser yet, and the configuration."""
            args = self.read_config_as_args(self.config_as_str, is_config_str=True)
            self.token_keys = list(VERSIONS[version].token_keys)
            real = clap_module.AutoModel
            clap_module.AutoModel = SimpleNamespace(from_pretrained=lambda _: real.from_config(text_config))
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="torch.meshgrid")  # in msclap's HTSAT
                    clap = clap_module.CLAP(
                        audioenc_name=args.audioenc_name,
                        sample_rate=args.sampling_rate,
                        window_size=args.window_size,
                        hop_size=args.hop_size,
                        mel_bins=args.mel_bins,
                        fmin=args.fmin,
                        fmax=args.fmax,
                        classes_num=args.num_classes,
                        out_emb=args.out_emb,
                        text_model=args.text_model,
                        transformer_embed_dim=args.transformer_embed_dim,
                        d_proj=args.d_proj,
                    )
            finally:
                clap_module.AutoModel = real
            return clap.eval().requires_grad_(False), None, args

    return Wrapper(model_fp="-", version=version)
