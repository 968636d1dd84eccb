"""The atlas of warehouses in which numbers that others are divided by are 0, missing or alone."""

import contextlib
import re
import warnings

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from ingest.networks.checkpoints import tensor_sha256
from ingest.networks.network import Layer, Network
from ingest.run import run_study
from ingest.stages import activations, interventions
from ingest.study import DatasetChoice, NetworkChoice, Study
from report.site import build
from tests.small import CLIP_S, RATE, Silent, spectrogram, write_label_map, write_sounds
from warehouse.store import UserError

pytestmark = pytest.mark.slow

STAGES = ("probes", "clusters", "interventions", "specificity", "captions")
KINDS = ("as it is", "zero", "nan", "one", "below zero", "tiny", "some nan", "one unit", "huge", "rectified")
UNDEFINED = re.compile(r"(?<![\w.-])(?:nan|-?inf)(?![\w-])")


class Odd(nn.Module):
    """Values of a layer made odd in one way."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        odd = {"zero": x * 0, "nan": x * torch.nan, "one": x * 0 + 1, "below zero": -x.abs() - 1, "tiny": x * 1e-30, "huge": x * 1e3,
               "rectified": x.relu()}  # fmt: skip
        if self.kind == "some nan":
            return torch.where(x > x.median(), torch.nan, x)
        if self.kind == "one unit":
            return torch.cat([x[:, :1], x[:, 1:] * 0], dim=1)
        return odd.get(self.kind, x)


def odd_network(first, second, out):
    """The small network with three odd layers."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1, bias=False), Odd(first), nn.Conv2d(5, 7, 3, stride=2, padding=1, bias=False), Odd(second),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3, bias=False), Odd(out),
    )  # fmt: skip
    layers = [
        Layer("conv1", "1", (5, 32, 16), "channel,time,frequency"), Layer("conv2", "3", (7, 16, 8), "channel,time,frequency"),
        Layer("logits", "7", (3,), "unit"),
    ]  # fmt: skip
    return Network(
        "odd", "test", module, sample_rate_hz=RATE, clip_s=CLIP_S, layers=layers, output_names=["low", "high", "noise"], prepare=spectrogram,
        checkpoint_sha256=tensor_sha256(module.state_dict()),
    )  # fmt: skip


def silenced(folder):
    """Sounds of which a class is silent: a network without biases answers it by nothing."""
    for path in (write_sounds(folder, 12) / "low").iterdir():
        soundfile.write(path, np.zeros(RATE), RATE)
    return folder


SETS = {
    "a silent class": silenced,
    "three classes": lambda folder: write_sounds(folder, 9),
    "one class": lambda folder: (write_sounds(folder.parent / "all", 9), (folder.parent / "all" / "low").rename(folder))[1].parent,
    "one clip": lambda folder: write_sounds(folder, 1),
    "no class": lambda folder: (write_sounds(folder.parent / "all", 6), (folder.parent / "all" / "low").rename(folder))[1],
    "a clip a class": lambda folder: write_sounds(folder, 3),
}


@pytest.mark.parametrize("seed", range(9))
def test_every_page_is_rendered_and_says_nothing_of_what_is_undefined(tmp_path, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    name = list(SETS)[seed % len(SETS)]
    kinds = {0: ("rectified",) * 3, 1: ("zero",) * 3, 2: ("nan",) * 3}.get(seed) or tuple(rng.choice(KINDS, 3))
    (tmp_path / "sets").mkdir()
    source = SETS[name](tmp_path / "sets" / "kind")
    monkeypatch.setattr("ingest.networks.registry.load_network", lambda *_, **__: odd_network(*kinds))
    settings = {
        "activations": activations.Settings(device="cpu", shares=True, dtype=str(rng.choice(["float16", "float32"]))),
        "interventions": interventions.Settings(repeats=2, readout="own", label_map=write_label_map(tmp_path / "map.csv")),
    }
    warehouse = tmp_path / "w.duckdb"
    done = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stage in ("activations", *STAGES):
            choice = Study((DatasetChoice("folder", source, "odd"),), (NetworkChoice("odd"),), ("clips", stage), settings)
            with contextlib.suppress(UserError):  # what a stage cannot do it says in a line
                run_study(warehouse, choice, Silent())
                done.append(stage)
    assert seed or done == ["activations", *STAGES]
    built = build(warehouse, tmp_path / "site")
    assert built.written > 10, (name, kinds, done)
    for page in (tmp_path / "site").rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>|<script.*?</script>|<code.*?</code>", "", page.read_text(), flags=re.DOTALL)
        assert not (found := UNDEFINED.search(text)), (name, kinds, done, page.name, text[found.start() - 120 : found.end() + 40])
