"""CLAP: checkpoints in the published format with random weights, loaded strictly, and compared with msclap's own loader and forward pass."""

import importlib.util
import json
import pathlib
import sys
import warnings
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

if importlib.util.find_spec("msclap") is None:
    pytest.skip("msclap is not installed: make install-clap", allow_module_level=True)

from transformers import BertConfig, BertModel, GPT2Config, GPT2Model
from transformers.utils import logging as messages

from ingest.networks import clap, msclap_wrapper, passes
from ingest.networks.network import Network
from ingest.networks.registry import check_network, load_network
from ingest.run import run_study
from ingest.sounds.sound import load
from ingest.stages.extraction.recording import Recorder
from ingest.study import make_study
from tests.small import Silent
from warehouse.store import UserError

pytestmark = pytest.mark.outside

CLASSES = ["dog", "crying_baby", "rain"]
TINY = {"bert-base-uncased": "2022", "gpt2": "2023"}


def write_bert(folder) -> BertConfig:
    """A folder as `save_pretrained` writes it for bert-base-uncased, one small layer deep."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "this",
        "is",
        "a",
        "sound",
        "of",
        *letters[1:],
        *("##" + letter for letter in letters),
    ]
    config = BertConfig(vocab_size=len(words), num_hidden_layers=1, intermediate_size=32)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}')
    return config


def write_gpt2(folder) -> GPT2Config:
    """The same for gpt2, its vocabulary the 256 bytes in GPT-2's order ('!' is 0) and the end of text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_ = [*map(chr, printable), *(chr(256 + number) for number in range(256 - len(printable)))]
    config = GPT2Config(vocab_size=257, n_layer=1, n_inner=32, n_positions=128, bos_token_id=256, eos_token_id=256)
    GPT2Model(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate([*bytes_, "<|endoftext|>"])}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024, "tokenizer_class": "GPT2Tokenizer"}')
    return config


@pytest.fixture(scope="module", autouse=True)
def published(tmp_path_factory):
    """A folder with both checkpoints, as msclap's files hold them, and the folders of the text models beside them."""
    folder = tmp_path_factory.mktemp("msclap-files")
    torch.manual_seed(0)
    for (name, version), write in zip(TINY.items(), (write_bert, write_gpt2), strict=True):
        config = write(folder / name)
        wrapper = msclap_wrapper.build_wrapper(version, config)
        state = wrapper.clap.state_dict()
        for key, value in state.items():  # normalisation that does something
            if key.endswith("running_mean"):
                value.normal_(std=0.1)
        old = {
            "2022": {"caption_encoder.base.embeddings.position_ids": torch.arange(512)[None]},
            "2023": {
                "caption_encoder.base.h.0.attn.bias": torch.ones(1024, 1024, dtype=torch.uint8).tril()[None, None],
                "caption_encoder.base.h.0.attn.masked_bias": torch.tensor(-1e4),
            },
        }[version]
        torch.save({"model": {**state, **old}}, folder / clap.VERSIONS[version].checkpoint)
    yield folder
    for path in folder.glob("*.pth"):
        path.unlink()


@pytest.fixture(scope="module")
def cnn14(published):
    return load_network("clap-2022", weights=published / "CLAP_weights_2022.pth")


@pytest.fixture(scope="module")
def htsat(published):
    return load_network("clap-2023", weights=published / "CLAP_weights_2023.pth")


def msclaps_own(folder, version: str):
    """msclap's wrapper as it loads itself, only told another folder for its text model."""
    text_model = str(folder / clap.VERSIONS[version].text_model)

    class Local(msclap_wrapper.import_msclap().CLAPWrapper):
        def read_config_as_args(self, *args, **kwargs):
            settings = super().read_config_as_args(*args, **kwargs)
            settings.text_model = text_model
            return settings

    wrapper = Local(folder / clap.VERSIONS[version].checkpoint, version)
    wrapper.tokenizer.encode_plus = wrapper.tokenizer.__call__
    return wrapper


def sounds(network, clips: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(clips, network.samples, generator=generator) * torch.logspace(-3, -1, clips)[:, None]


def refusal(version: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        {"2022": clap.load_clap_2022, "2023": clap.load_clap_2023}[version](**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cnn14_has_the_papers_layers(cnn14):
    """Localizing auditory concepts in CNNs, section 3: 1,454,080 neurons."""
    shapes = [(64, 345, 32), (128, 172, 16), (256, 86, 8), (512, 43, 4), (1024, 21, 2), (2048, 21, 2)]
    assert [layer.shape for layer in cnn14.layers] == [*shapes, (2048,)]
    assert [layer.name for layer in cnn14.layers] == ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc1"]
    assert sum(torch.Size(layer.shape).numel() for layer in cnn14.layers) == 1_454_080
    assert all(layer.non_negative for layer in cnn14.layers)
    assert (cnn14.name, cnn14.sample_rate_hz, cnn14.clip_s, cnn14.samples) == ("clap-2022", 44100, 5.0, 220500)
    check_network(cnn14, "clap-2022")


def test_cnn14_takes_clips_of_other_lengths(cnn14):
    layers = clap.cnn14_layers(2.13)
    assert layers[0].shape == (64, 147, 32)
    options = {"sample_rate_hz": 44100, "clip_s": 2.13, "checkpoint_sha256": "0" * 64}
    check_network(Network("shorter", "cnn14", cnn14.module, layers=layers, **options), "clap-2022")
    assert "at least 1 s" in refusal("2022", clip_s=0.5)
    assert "at least 1 s" in refusal("2022", clip_s=float("inf"))
    assert "so give 7 or nothing" in refusal("2023", clip_s=5.0)


def test_fc1_is_rectified_whatever_a_hook_does(cnn14):
    """msclap rectifies fc1's result in place, after hooks on fc1 have run."""
    layer = cnn14.layers[-1]
    kept, copied, pre = [], [], []
    encoder = cnn14.module.audio_encoder
    handles = [
        cnn14.module.get_submodule(layer.module).register_forward_hook(lambda _m, _i, value: kept.append(value)),
        cnn14.module.get_submodule(layer.module).register_forward_hook(lambda _m, _i, value: copied.append(value.clone())),
        encoder.base.fc1.linear.register_forward_hook(lambda _m, _i, value: pre.append(value)),
        encoder.projection.register_forward_hook(lambda _m, given, _o: copied.append(given[0].clone())),
    ]
    with Recorder(cnn14, [layer]) as recorder:
        cnn14.forward(cnn14.prepare(sounds(cnn14)))
    for handle in handles:
        handle.remove()
    assert (pre[0] < 0).any()  # the linear layer's own result was left as it is
    for value in (kept[0], *copied, recorder.batch["fc1"].reductions["mean"]):
        assert torch.equal(value, pre[0].relu())


def test_a_replaced_fc1_reaches_the_output_and_is_not_changed(cnn14):
    inputs = cnn14.prepare(sounds(cnn14))
    given = torch.randn(2, 2048)
    before = given.clone()
    result = cnn14.tail(cnn14.layers[-1], given, inputs)
    assert torch.equal(given, before)
    with torch.inference_mode():
        torch.testing.assert_close(result, cnn14.module.audio_encoder.projection(given.relu()))


@pytest.mark.parametrize("index", range(7))
def test_the_rest_of_cnn14_equals_a_full_pass(cnn14, index):
    layer = cnn14.layers[index]
    inputs, found = cnn14.prepare(sounds(cnn14)), []
    handle = cnn14.module.get_submodule(layer.module).register_forward_hook(lambda _m, _i, value: found.append(value.clone()))
    expected = cnn14.forward(inputs)
    handle.remove()
    changed = found[0].flip(0)  # each clip takes the other's
    torch.testing.assert_close(cnn14.tail(layer, found[0], inputs), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cnn14.tail(layer, changed, inputs), expected.flip(0), rtol=1e-5, atol=1e-5)
    assert cnn14.tail_form(layer) == "own"


@pytest.mark.parametrize("version", ["2022", "2023"])
def test_embeddings_are_msclaps_own(published, cnn14, htsat, version):
    """msclap loads the same file with its text model from a folder, and runs on the same tensors."""
    network = {"2022": cnn14, "2023": htsat}[version]
    reference = msclaps_own(published, version)
    waveforms, prompts = sounds(network), clap.class_prompts(CLASSES)
    audio, text = network.audio_embeddings(waveforms), network.text_embeddings(prompts, batch=2)
    assert audio.shape == (2, 1024)
    assert text.shape == (3, 1024)
    torch.testing.assert_close(audio, reference._get_audio_embeddings(waveforms[:, None]), rtol=0, atol=2e-6)
    torch.testing.assert_close(text, reference.get_text_embeddings(prompts), rtol=0, atol=2e-6)
    assert (text[0] - text[1]).abs().max() > 1e-3
    similarity = clap.cosine_similarity(audio, text)
    expected = reference.compute_similarity(audio, text)
    torch.testing.assert_close(similarity * reference.clap.logit_scale.exp(), expected)
    assert torch.equal(network.classify(waveforms, prompts), expected.argmax(dim=1))


def test_prompts_of_classes():
    assert clap.class_prompts(["crying_baby"]) == ["this is a sound of crying baby"]


def test_htsat_layers_are_found_by_structure(htsat):
    tokens, widths = [4096] * 2 + [1024] * 2 + [256] * 6 + [64] * 2, [96] * 2 + [192] * 2 + [384] * 6 + [768] * 2
    expected = []
    for number, (count, width) in enumerate(zip(tokens, widths, strict=True), start=1):
        expected += [(f"block{number}/mlp_act", (count, 4 * width)), (f"block{number}/mlp_out", (count, width))]
    assert [(layer.name, layer.shape) for layer in htsat.layers] == [*expected, ("output", (64, 768))]
    assert not any(layer.non_negative for layer in htsat.layers)
    assert [layer.time_steps for layer in htsat.layers[::2]] == [256] * 2 + [128] * 2 + [64] * 6 + [32] * 3
    assert isinstance(htsat.module.get_submodule(htsat.layers[0].module), nn.GELU)
    check_network(htsat, "clap-2023")


def test_htsat_tokens_lie_at_their_times(htsat):
    """A click changes the tokens of its own moment most, in whichever of the four pieces of the spectrogram it falls."""
    layer, seconds = htsat.layers[0], [0.6, 2.5, 5.2]
    waveforms = (sounds(htsat, 1) * 1e-3).repeat(4, 1)
    for clip, second in enumerate(seconds, start=1):
        waveforms[clip, round(second * 44100) :][:400] += 0.5
    values = []
    handle = htsat.module.get_submodule(layer.module).register_forward_hook(lambda _m, _i, value: values.append(value))
    htsat.forward(waveforms)
    handle.remove()
    for clip, second in enumerate(seconds, start=1):
        change = (values[0][clip] - values[0][0]).abs().sum(dim=1)
        by_time = torch.zeros(layer.time_steps).index_add_(0, torch.tensor(layer.token_times), change)
        assert abs(int(by_time.argmax()) - second / 7 * layer.time_steps) < 2


def test_the_recorder_takes_both(cnn14, htsat):
    for network in (cnn14, htsat):
        with torch.inference_mode(), Recorder(network, network.layers) as recorder:
            network.forward(network.prepare(sounds(network, 2)))
        for layer in network.layers:
            recorded = recorder.batch[layer.name]
            assert recorded.reductions["mean"].shape == (2, layer.neurons)
            assert recorded.reductions["mean"].isfinite().all()


def test_the_spectrogram_is_exact_in_half_precision_too(cnn14):
    waveforms = sounds(cnn14, 1)
    base = cnn14.module.audio_encoder.base
    seen = []
    handle = base.logmel_extractor.register_forward_hook(lambda _m, _i, value: seen.append(value))
    cnn14.forward(waveforms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cnn14.forward(waveforms)
    handle.remove()
    assert seen[1].dtype == torch.float32
    assert torch.equal(seen[0], seen[1])


def test_waveforms_must_have_the_exact_length(cnn14):
    for shape in [(1, 1000), (220500,), (1, 2, 220500)]:
        with pytest.raises(UserError, match="takes waveforms of shape"):
            cnn14.audio_embeddings(torch.zeros(shape))
    assert cnn14.audio_embeddings(torch.zeros(0, 220500)).shape == (0, 1024)


# --- Checkpoints --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unloaded(published):
    """The tensors of the checkpoint of 2023 and networks to load them into, both read once for many refusals."""
    built = {version: msclap_wrapper.build_wrapper(version, clap.text_config(version, published / name)) for name, version in TINY.items()}
    return clap.read_checkpoint(published / "CLAP_weights_2023.pth"), built


@pytest.fixture
def tampered(published, unloaded, monkeypatch):
    """Loads the checkpoint of 2023 after a change to its tensors; returns the refusal."""
    path = published / "CLAP_weights_2023.pth"
    tensors, built = unloaded
    monkeypatch.setattr(clap, "build_wrapper", lambda version, _: built[version])

    def attempt(change, version: str = "2023") -> str:
        changed = dict(tensors)
        change(changed)
        monkeypatch.setattr(clap, "read_checkpoint", lambda _: changed)
        return refusal(version, weights=path)

    return attempt


def test_a_checkpoint_must_fit_key_by_key(tampered):
    """msclap itself loads each of these without a word."""
    bias = "audio_encoder.base.htsat.layers.0.blocks.0.mlp.fc1.bias"
    message = tampered(lambda tensors: tensors.pop(bias))
    assert f"CLAP_weights_2023.pth does not fit this network: keys 1 missing, first {bias}" in message
    assert message.endswith(bias)
    assert tampered(lambda tensors: tensors.update(surprise=torch.zeros(1))).endswith("keys 1 unexpected, first surprise")
    assert "1 of the wrong shape, first logit_scale [2] instead of []" in tampered(
        lambda tensors: tensors.update(logit_scale=torch.zeros(2))
    )
    missing = tampered(lambda tensors: tensors.pop("caption_encoder.projection.linear1.weight"))
    assert missing.endswith("keys 1 missing, first caption_encoder.projection.linear1.weight")


def test_constants_of_old_transformers_are_passed_over_only_with_their_values(tampered):
    """The published files hold them; a file in which they say something else is another network's."""
    mask, number = "caption_encoder.base.h.0.attn.bias", "caption_encoder.base.h.0.attn.masked_bias"
    assert tampered(lambda tensors: tensors.update({mask: torch.ones(1, 1, 8, 8)})).endswith(f"keys 1 unexpected, first {mask}")
    assert tampered(lambda tensors: tensors.update({number: torch.tensor(0.5)})).endswith(f"keys 1 unexpected, first {number}")
    positions = torch.arange(512).flip(0)[None]
    assert not clap._is_old_constant("caption_encoder.base.embeddings.position_ids", positions)


def test_the_other_versions_checkpoint(tampered):
    message = tampered(lambda tensors: None, version="2022")
    assert "missing, first audio_encoder.base.bn0.bias" in message
    assert "unexpected, first audio_encoder.base.htsat.bn0.bias" in message


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    torch.save({"model": pathlib.PurePosixPath("x")}, tmp_path / "CLAP_weights_2022.pth")
    assert "holds pickled code" in refusal("2022", weights=tmp_path / "CLAP_weights_2022.pth")
    assert "no checkpoint at" in refusal("2022", weights=tmp_path / "none.pth")


def test_the_hash_is_of_the_networks_tensors(htsat, unloaded):
    old = {"caption_encoder.base.h.0.attn.bias", "caption_encoder.base.h.0.attn.masked_bias"}
    assert old < unloaded[0].keys()
    assert htsat.checkpoint_sha256 == clap.tensor_sha256({key: value for key, value in unloaded[0].items() if key not in old})


def test_the_hubs_cache(published, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal("2022")
    assert "CLAP_weights_2022.pth of microsoft/msclap is not in the hub's cache" in message
    assert message.endswith("give the file with --weights PATH")
    repository = tmp_path / "models--microsoft--msclap"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    cached = repository / "snapshots" / "abc" / "CLAP_weights_2023.pth"
    cached.symlink_to(published / "CLAP_weights_2023.pth")
    assert clap.hub_checkpoint("2023") == cached


# --- The text side ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def reading(htsat, monkeypatch):
    """The network of 2023 with another folder for its prompts."""

    def with_folder(folder):
        monkeypatch.setattr(htsat, "_text", folder)
        monkeypatch.setattr(htsat._wrapper, "tokenizer", None)
        return htsat

    return with_folder


def test_prompts_that_are_too_long(htsat):
    """msclap does not cut prompts, and fails with a shape error."""
    with pytest.raises(UserError, match="clap-2023 reads at most 77 tokens, this prompt has 1"):
        htsat.text_embeddings(["dog", "a" * 100])
    assert htsat.text_embeddings([]).shape == (0, 1024)


def test_the_text_folder_may_have_any_name(published, reading, htsat, tmp_path):
    expected = htsat.text_embeddings(["a dog"])
    (tmp_path / "clip" / "bert").mkdir(parents=True)
    folder = tmp_path / "clip" / "bert" / "words"
    folder.symlink_to(published / "gpt2")
    assert torch.equal(reading(folder).text_embeddings(["a dog"]), expected)


def test_tokenisers_that_do_not_fit(published, reading, tmp_path):
    with pytest.raises(UserError, match=r"holds no tokeniser .*put the folder gpt2 beside the checkpoint"):
        reading(tmp_path / "nothing").text_embeddings(["dog"])
    vocabulary = json.loads((published / "gpt2" / "vocab.json").read_text())
    for name in ("merges.txt", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_text((published / "gpt2" / name).read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {"!": 1, '"': 0}))
    with pytest.raises(UserError, match="'!' is token 1 instead of 0"):
        reading(tmp_path).text_embeddings(["dog"])
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {"one": 257, "two": 258}))
    with pytest.raises(UserError, match="has 259 tokens, clap-2023 knows 257"):
        reading(tmp_path).text_embeddings(["dog"])


def test_a_text_folder_of_another_model(published):
    message = refusal("2023", weights=published / "CLAP_weights_2023.pth", text=published / "bert-base-uncased")
    assert "holds a text model of type bert: clap-2023 has gpt2" in message
    assert "no folder" in refusal("2023", weights=published / "CLAP_weights_2023.pth", text=published / "nothing")


def test_the_default_text_models_are_the_published_ones():
    """Sizes of google-bert/bert-base-uncased and openai-community/gpt2."""
    bert, gpt2 = clap.text_config("2022", None), clap.text_config("2023", None)
    assert (bert.vocab_size, bert.hidden_size, bert.num_hidden_layers, bert.intermediate_size, bert.hidden_act) == (
        30522,
        768,
        12,
        3072,
        "gelu",
    )
    assert (gpt2.vocab_size, gpt2.n_embd, gpt2.n_layer, gpt2.n_positions, gpt2.activation_function) == (50257, 768, 12, 1024, "gelu_new")


# --- The import ---------------------------------------------------------------------------------------------------------------------------


def forget_msclap(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "msclap"]:
        monkeypatch.delitem(sys.modules, name)


def test_importing_msclap_leaves_no_traces(monkeypatch):
    """It switches off all warnings and transformers' messages, and needs torchaudio, which is not there."""
    forget_msclap(monkeypatch)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    filters, verbosity = list(warnings.filters), messages.get_verbosity()
    module = msclap_wrapper.import_msclap()
    assert warnings.filters == filters
    assert messages.get_verbosity() == verbosity
    assert "torchaudio" not in sys.modules
    with pytest.raises(NotImplementedError, match="given to msclap as tensors"):
        module.torchaudio.load("x.wav")


def test_a_torchaudio_that_is_there_stays(monkeypatch):
    forget_msclap(monkeypatch)
    real = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "torchaudio", real)
    msclap_wrapper.import_msclap()
    assert sys.modules["torchaudio"] is real


def test_without_msclap(monkeypatch):
    forget_msclap(monkeypatch)
    monkeypatch.setitem(sys.modules, "msclap", None)
    message = refusal("2022")
    assert "CLAP needs the package msclap" in message
    assert "make install-clap" in message


@pytest.mark.parametrize("version", ["2022", "2023"])
def test_short_clips_are_repeated_as_msclap_does(published, cnn14, htsat, version, tmp_path):
    """msclap reads the same files, but for those that are longer, of which it takes a random part: there it gets the middle."""
    network, reference = {"2022": cnn14, "2023": htsat}[version], msclaps_own(published, version)
    reference.read_audio = lambda path, resample: (torch.from_numpy(soundfile.read(path, dtype="float32")[0]), 44100)
    rng, paths, middles = np.random.default_rng(0), {}, []
    for seconds in (1.3, 4.0, network.clip_s, network.clip_s + 2):
        sound = (0.1 * rng.standard_normal(round(seconds * 44100))).astype(np.float32)
        paths[f"{seconds}.wav"] = tmp_path / f"{seconds}.wav"
        soundfile.write(paths[f"{seconds}.wav"], sound, 44100, subtype="FLOAT")
        middles.append(tmp_path / f"middle-{seconds}.wav")
        start = max(0, len(sound) - network.samples) // 2
        soundfile.write(middles[-1], sound[start : start + network.samples], 44100, subtype="FLOAT")
    [sounds_] = passes.read_waveforms(network, list(paths), paths)
    with Recorder(network, network.layers[-1:]) as recorder:
        recorder.valid_s = sounds_[1]
        found = network.forward(passes.prepared(network, sounds_))
    assert recorder.batch[network.layers[-1].name].reductions["mean"].isfinite().all()
    expected = torch.cat([reference.get_audio_embeddings([path], resample=False) for path in middles])
    for row, wanted in enumerate(expected):
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=1e-5)


def test_clap_from_a_study_by_positions_beside_fc1_and_by_prompts(published, tmp_path):
    """The last of the paper's layers in one run, and what the stage says of zero-shot against the embeddings themselves."""
    rng = np.random.default_rng(0)
    for place, name in enumerate(["dog", "rain"] * 3):
        (tmp_path / "sounds" / name).mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "sounds" / name / f"{place}.wav", 0.1 * rng.standard_normal(44100), 44100)
    table = {
        "stages": ["zero_shot", "clusters"], "dataset": [{"reader": "folder", "source": "sounds", "name": "sounds"}],
        "network": [
            {"name": "clap-2022", "weights": str(published / "CLAP_weights_2022.pth"), "clip_s": 1.0, "layers": ["conv5", "fc1"], "positions": True}
        ],
        "activations": {"device": "cpu", "batch": 4},
    }  # fmt: skip
    run_study(tmp_path / "w.duckdb", make_study(table, "study", tmp_path), Silent())
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as con:
        kinds = con.execute("SELECT name, kind FROM clustering JOIN layer USING (layer_id) ORDER BY position").fetchall()
        told = con.execute(
            """SELECT prompt, a.name, b.name, clips FROM zero_shot JOIN class AS a USING (class_id) JOIN class AS b ON b.class_id = told_class_id
            ORDER BY ALL"""
        ).fetchall()
        chosen = con.execute("SELECT count(DISTINCT layer_id) FROM cluster WHERE is_chosen").fetchall()
    assert kinds == [("conv5", "position"), ("fc1", "unit")]
    assert chosen == [(2,)]
    network = load_network("clap-2022", weights=published / "CLAP_weights_2022.pth", clip_s=1.0)
    names = ["dog", "rain"]
    paths = {f"{name}/{place}": tmp_path / "sounds" / name / f"{place}.wav" for place, name in enumerate(["dog", "rain"] * 3)}
    sounds = passes.prepared(network, passes.stack([load(path, sample_rate_hz=44100, clip_s=1.0) for path in paths.values()]))
    audio = torch.nn.functional.normalize(network.forward(sounds), dim=1)
    text = torch.nn.functional.normalize(network.text_embeddings([f"this is a sound of {name}" for name in names]), dim=1)
    expected = {}
    for true, place in zip([key.split("/")[0] for key in paths], (audio @ text.T).argmax(dim=1).tolist(), strict=True):
        key = ("this is a sound of {}", true, names[place])
        expected[key] = expected.get(key, 0) + 1
    assert {row[:3]: row[3] for row in told} == expected
