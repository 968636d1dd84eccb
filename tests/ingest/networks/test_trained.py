"""Training in the three ways on synthesised sounds, with the published weights where they are in the cache."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from ingest.networks.checkpoints import read_safetensors
from ingest.networks.fetch import cached_path
from ingest.networks.passes import class_logits, read_waveforms
from ingest.networks.registry import check_network, load_network
from ingest.networks.trained import HEADER, load_trained, log_mel_frames
from ingest.networks.training import train
from ingest.networks.yamnet import mel_matrix
from ingest.sounds.readers import read_dataset
from tests.ingest.networks import test_beats, test_transformer
from warehouse.store import UserError

CLASSES = ["chirp", "hum", "noise"]
needs_yamnet = pytest.mark.skipif(not cached_path("yamnet").is_file(), reason="YAMNet's weights are not in the cache")
needs_whisper = pytest.mark.skipif(not cached_path("whisper-tiny.en").is_file(), reason="Whisper's weights are not in the cache")


def sound(kind, rng):
    time = np.arange(int(16000 * rng.uniform(2, 6))) / 16000
    if kind == "noise":
        return rng.uniform(0.02, 0.3) * rng.standard_normal(len(time)).clip(-3, 3)
    pitch = rng.uniform(90, 140) * time if kind == "hum" else rng.uniform(300, 500) * time**2
    return rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * pitch)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Eight clips of each class in four folds, and one without a fold."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "kind", "fold"])
        for index in range(24):
            kind = CLASSES[index % 3]
            soundfile.write(folder / f"{index:02d}.wav", sound(kind, rng), 16000)
            table.writerow([f"{index:02d}.wav", kind, index // 6 + 1])
        soundfile.write(folder / "loose.wav", sound("hum", rng), 16000)
        table.writerow(["loose.wav", "hum", ""])
    return folder


@pytest.fixture(scope="module")
def listing(source):
    return read_dataset("audiofolder", source)


def held_out(listing, network, fold):
    """Prepared inputs and class numbers of a fold's clips, read anew."""
    entries = [entry for entry in listing.entries if entry.fold == fold]
    sounds = np.zeros((len(entries), 80000), dtype=np.float32)
    valid_s = torch.zeros(len(entries), dtype=torch.float64)
    for index, (row, entry) in enumerate(zip(sounds, entries, strict=True)):
        samples = soundfile.read(entry.path, dtype="float32")[0]
        start = max(0, (len(samples) - 80000) // 2)
        samples = samples[start : start + 80000]
        row[: len(samples)] = samples
        valid_s[index] = len(samples) / 16000
    return network.prepare_padded(torch.from_numpy(sounds), valid_s), np.array(
        [CLASSES.index(entry.labels["kind"][0]) for entry in entries]
    )


def check_target(network, trained, listing):
    """A saved and loaded network is whole, takes any layer's own value back, and gets as many clips right as training said."""
    check_network(network, "target")
    assert network.output_names == CLASSES
    assert network.layers[-1].name == "classifier"
    inputs, labels = held_out(listing, network, trained.fold)
    outputs = network.forward(inputs)
    for layer in (network.layers[0], network.layers[-2], network.layers[-1]):
        caught = []
        handle = network.module.get_submodule(layer.module).register_forward_hook(
            lambda *call, caught=caught: caught.append(call[2].clone())
        )
        network.forward(inputs)
        handle.remove()
        torch.testing.assert_close(network.tail(layer, caught[0], inputs), outputs, rtol=1e-4, atol=1e-4, equal_nan=True)
    right = network.mean_over_windows(outputs).argmax(dim=1).numpy() == labels
    assert trained.total == np.bincount(labels).tolist()
    assert trained.correct == [int(right[labels == label].sum()) for label in range(3)]
    assert trained.test_accuracy == right.mean()


def test_frames_of_the_small_cnn_are_yamnets_in_pairs():
    sounds = np.random.default_rng(0).standard_normal((2, 80000)).astype(np.float32) * 0.1
    found = log_mel_frames(torch.from_numpy(sounds))
    assert found.shape == (2, 1, 256, 64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(sounds, ((0, 0), (0, 4000)))
    for step in (0, 23, 24, 47, 48, 100, 247, 255):
        pair = [
            np.abs(np.fft.rfft(padded[:, start : start + 400] * window, 512)) @ mel_matrix().numpy()
            for start in (320 * step, 320 * step + 160)
        ]
        expected = (np.mean([np.log(one + 0.001) for one in pair], axis=0) + 2.2) / 2.8
        np.testing.assert_allclose(found[:, 0, step].numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_from_scratch_the_same_seed_gives_the_same_network(listing, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    seen = []
    trained = train("scratch", "cnn", listing, fold=4, seed=1, epochs=12, progress=lambda *done: seen.append(done))
    assert torch.equal(torch.get_rng_state(), before)
    assert seen == [(epoch, 12) for epoch in range(1, 13)]
    again = train("scratch", "cnn", listing, fold=4, seed=1, epochs=12)
    other = train("scratch", "cnn", listing, fold=4, seed=2, epochs=1)
    assert trained.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in trained.tensors.items())
    assert not torch.equal(trained.tensors["conv1.0.weight"], other.tensors["conv1.0.weight"])
    assert trained.test_accuracy >= 5 / 6
    trained.save(tmp_path / "new" / "cnn.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cnn.safetensors"]
    network = load_trained(tmp_path / "new" / "cnn.safetensors")
    check_target(network, trained, listing)
    assert (network.name, network.windows, network.window_s) == ("cnn-scratch", 1, 5.12)
    assert [layer.shape for layer in network.layers] == [(24, 128, 32), (48, 64, 16), (96, 32, 8), (192, 16, 4), (3,)]
    header = json.loads(read_safetensors(tmp_path / "new" / "cnn.safetensors")[1][HEADER])
    assert (header["way"], header["seed"], header["base_sha256"], header["classes"]) == ("scratch", 1, None, CLASSES)
    assert header["test_accuracy"] == sum(header["correct"]) / 6


@needs_yamnet
def test_a_frozen_body_is_the_published_one_and_a_fine_tuned_one_is_not(listing, tmp_path):
    published = load_network("yamnet")
    networks = {}
    for way in ("frozen", "fine-tuned"):
        trained = train(way, "yamnet", listing, fold=4, epochs=20 if way == "frozen" else 1)
        assert trained.base_sha256 == published.checkpoint_sha256
        assert trained.test_accuracy == 1
        trained.save(tmp_path / "net.safetensors")
        networks[way] = load_trained(tmp_path / "net.safetensors")
        check_target(networks[way], trained, listing)
        assert networks[way].name == f"yamnet-{way}"
        assert sum(layer.neurons for layer in networks[way].layers[:-1]) == 10_944
        assert [layer.name for layer in networks[way].layers[:-1]] == [layer.name for layer in published.layers[:-1]]
    padded = 0
    for name, part in published.module.named_modules():
        if isinstance(part, nn.Conv2d):
            frozen, tuned = (networks[way].module.get_submodule(name) for way in ("frozen", "fine-tuned"))
            assert torch.equal(frozen.weight, part.weight)
            assert torch.equal(frozen.bias, part.bias)
            assert not torch.equal(tuned.weight, part.weight)
            if part.kernel_size == (4, 4):  # its first row and column stand for padding and stay 0
                padded += 1
                assert not tuned.weight[:, :, 0].any()
                assert not tuned.weight[:, :, :, 0].any()
    assert padded == 5


@needs_whisper
def test_whisper_s_encoder_hears_the_clip_alone(source, tmp_path):
    listing = read_dataset("audiofolder", source)
    listing.entries[:] = [*listing.entries[:6], *listing.entries[18:21]]  # folds 1 and 4
    trained = train("frozen", "whisper-tiny.en", listing, fold=4, epochs=20)
    trained.save(tmp_path / "net.safetensors")
    network = load_trained(tmp_path / "net.safetensors")
    check_target(network, trained, listing)
    published = load_network("whisper-tiny.en")
    assert [layer.name for layer in network.layers[:-1]] == [layer.name for layer in published.layers]
    assert [layer.shape for layer in network.layers[:3]] == [(250, 384), (250, 1536), (250, 384)]
    assert network.counts_padding is False
    own = network.module.model.encoder.state_dict()
    for name, tensor in published.module.model.state_dict().items():
        assert torch.equal(own[name], tensor[:250] if name == "embed_positions.weight" else tensor)
    # Convolutions and positions come first, and are the same whether silence follows or not, but for the last token's view of it.
    sounds = torch.randn(1, 80000, generator=torch.Generator().manual_seed(0)) * 0.1
    first = []
    for net in (network, published):
        norm = net.module.get_submodule("model.encoder.layers.0" if net is network else "model.layers.0").self_attn_layer_norm
        norm.register_forward_pre_hook(lambda _module, given: first.append(given[0]))
        net.forward(net.prepare(sounds))
    torch.testing.assert_close(first[0][:, :248], first[1][:, :248], rtol=0, atol=1e-4)


def given(folder, base):
    """A checkpoint of random weights in the format that a base is published in."""
    if base == "beats":
        tensors = {name: tensor for name, tensor in test_beats.small_tensors().items() if not name.startswith("predictor")}
        return test_beats.save(folder / "beats.pt", tensors, test_beats.SMALL | {"finetuned_model": False})
    torch.manual_seed(0)
    extractor = transformers.ASTFeatureExtractor(max_length=512, num_mel_bins=64)
    config = transformers.ASTConfig(**test_transformer.AST | {"max_length": 512}, num_labels=7)
    for part in (transformers.ASTForAudioClassification(config), extractor):
        part.save_pretrained(folder / "ast")
    return folder / "ast"


@pytest.mark.parametrize("base", ["ast", "beats"])
def test_heads_of_given_checkpoints_are_trained_on_any_folds(listing, tmp_path, base):
    """A head on a frozen body leaves the body as it is; fine-tuning does not. BEATs' checkpoint has no predictor, AST's one of other classes."""
    weights = str(given(tmp_path, base))
    bodies = {}
    for way in ("frozen", "fine-tuned"):
        trained = train(way, base, listing, fold=None, epochs=30 if way == "frozen" else 1, weights=weights, clip_s=4.0)
        assert trained.fold == 4
        trained.save(tmp_path / "net.safetensors")
        network = load_network(str(tmp_path / "net.safetensors"))
        assert (network.name, network.clip_s) == (f"{base}-{way}", 4.0)
        assert network.held_out == (listing.name, 4, trained.held_out_clips)
        assert network.output_names == CLASSES
        check_network(network, "target")
        inputs = [network.prepare_padded(*sounds) for sounds in read_waveforms(
            network, [e.name for e in listing.entries if e.fold == 4], {e.name: e.path for e in listing.entries})]  # fmt: skip
        labels = np.array([CLASSES.index(entry.labels["kind"][0]) for entry in listing.entries if entry.fold == 4])
        right = class_logits(network, inputs).argmax(axis=1) == labels
        assert sum(trained.correct) == right.sum()
        bodies[way] = trained.tensors
        if way == "frozen":
            assert trained.test_accuracy >= 0.5  # chance is a third
    published = load_file_or_torch(weights)
    same = {name for name, tensor in published.items() if name in bodies["frozen"] and torch.equal(bodies["frozen"][name], tensor)}
    heads = {name for name in bodies["frozen"] if name.startswith(("classifier.dense", "predictor"))}
    assert len(heads) == 2
    assert same >= {name for name in bodies["frozen"] if name in published} - heads
    assert any(not torch.equal(bodies["fine-tuned"][name], published[name]) for name in same)


def load_file_or_torch(weights):
    """Tensors of a given checkpoint by name."""
    return torch.load(weights)["model"] if weights.endswith(".pt") else load_file(f"{weights}/model.safetensors")


def test_what_cannot_be_trained_is_refused(listing, source, tmp_path):
    def refusal(way="scratch", base="cnn", data=listing, **options):
        with pytest.raises(UserError) as caught:
            train(way, base, data, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "cnn cannot be trained frozen: choose of scratch: cnn; fine-tuned: yamnet, ast, beats" in refusal("frozen")
    assert "ast is trained from a checkpoint: give its folder or hub name" in refusal("frozen", "ast", fold=1)
    assert "no checkpoint at" in refusal("frozen", "beats", fold=1, weights="nowhere.pt")
    assert "brings its own weights" in refusal(fold=1, weights="x")
    assert "cannot be trained distilled" in refusal("distilled", "yamnet")
    assert "no labelled clip in fold 5" in refusal()
    assert "0 epochs" in refusal(fold=1, epochs=0)
    lacking = read_dataset("audiofolder", source)
    lacking.entries[:] = [entry for entry in lacking.entries if entry.labels["kind"] != ("noise",) or entry.fold == 1]
    assert "no clip of noise outside fold 1" in refusal(data=lacking, fold=1)
    lacking.label_sets.clear()
    assert "has no labels" in refusal(data=lacking, fold=1)
    broken = read_dataset("audiofolder", source)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    broken.entries[3] = type(broken.entries[3])("broken.wav", tmp_path / "broken.wav", {"kind": ("hum",)}, 2, None)
    assert "broken.wav cannot be learned from" in refusal(data=broken, fold=1)


def test_files_that_are_no_trained_networks_are_refused(listing, tmp_path):
    path = tmp_path / "net.safetensors"
    train("scratch", "cnn", listing, fold=4, epochs=1).save(path)
    tensors, header = load_file(path), json.loads(read_safetensors(path)[1][HEADER])

    def refusal(tensors=tensors, **changes):
        save_file(tensors, path, {HEADER: json.dumps(header | changes)})
        with pytest.raises(UserError) as caught:
            load_trained(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "keys 1 missing, first classifier.bias" in refusal(
        {name: tensor for name, tensor in tensors.items() if name != "classifier.bias"}
    )
    assert "2 of the wrong shape, first classifier.bias [3] instead of [2]" in refusal(classes=["a", "b"])
    for changes in ({"way": "frozen"}, {"way": ["x"]}, {"base": 3}, {"classes": "abc"}, {"classes": []}, {"classes": [1, 2, 3]}):
        assert "does not know" in refusal(**changes) or "does not say" in refusal(**changes)
    assert "does not say how it was trained" in refusal(correct=None)
    save_file(tensors, path)
    with pytest.raises(UserError, match="does not say how it was trained"):
        load_trained(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_trained(path)
    with pytest.raises(UserError, match="no trained network at"):
        load_trained(tmp_path / "nothing")
