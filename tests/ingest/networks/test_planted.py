"""Planted networks: what was planted is there, by measurements of scipy and scikit-learn; and the scores, by hand."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch
from sklearn.metrics import average_precision_score

from ingest.methods.validation import ablated_units, score_ablation, score_clusters, score_meanings, score_names, score_sets, score_verdicts
from ingest.networks.network import Network
from ingest.networks.planted import CLASS_WORDS, Planted, load_planted, planted_network, truth
from ingest.networks.planted_measurements import BAND_EDGES_HZ, BANDS, SCALARS, measure
from ingest.networks.registry import check_network
from ingest.sounds import notes, sound, starter
from tests.small import small_network
from warehouse.store import UserError

pytestmark = pytest.mark.slow

RATE = 16_000
NAMES = list(starter.SOUNDS)


def fitted(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    return sound.fit(samples.astype(np.float32) / 32768, rate_hz, sample_rate_hz=RATE, clip_s=5.0)[0]


def layer_values(network: Network, waveforms: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs [units, clips] by layer."""
    found: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in network.layers}
    handles = [
        network.module.get_submodule(layer.module).register_forward_hook(lambda _m, _i, output, name=layer.name: found[name].append(output))
        for layer in network.layers
    ]
    for start in range(0, len(waveforms), 8):
        network.forward(network.prepare(torch.from_numpy(waveforms[start : start + 8])))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(outputs).double().numpy().T for name, outputs in found.items()}


@pytest.fixture(scope="module")
def network() -> Network:
    return planted_network()


@pytest.fixture(scope="module")
def clips() -> tuple[np.ndarray, np.ndarray]:
    """Four clips of each of the starter sounds' classes [60, samples], and their classes."""
    waveforms = []
    for number, (_, make) in enumerate(starter.SOUNDS.values()):
        for index in (0, 4, 8, 13):
            clip = starter.Clip(0, number, index)
            waveforms.append(fitted(np.rint(clip.finish(make(clip)) * 32767), clip.rate_hz))
    return np.stack(waveforms), np.repeat(np.arange(len(NAMES)), 4)


@pytest.fixture(scope="module")
def heard(network: Network, clips: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    return layer_values(network, clips[0])


def units(network: Network, layer: str, kind: str) -> list[Planted]:
    return [what for what in truth(network) if (what.layer, what.kind) == (layer, kind)]


def tone(hertz: float, seconds: float = 3.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def measured(waveform: np.ndarray) -> dict[str, float]:
    padded = np.pad(waveform, (0, 5 * RATE - len(waveform))).astype(np.float32)
    return dict(zip(SCALARS, measure(torch.from_numpy(padded[None]))[0].tolist(), strict=False))


# --- The network ----------------------------------------------------------------------------------------------------------------------------


def test_every_neuron_is_accounted_for(network: Network) -> None:
    check_network(network, "planted")
    places = [(layer.name, unit) for layer in network.layers for unit in range(layer.neurons)]
    assert [(what.layer, what.unit) for what in truth(network)] == places
    kinds = Counter((what.layer, what.kind) for what in truth(network))
    features = (
        "band",
        "onsets",
        "modulation",
        "loudness",
        "noisiness",
        "impulsiveness",
        "bandwidth",
        "octave",
        "duplicate",
        "dead",
        "noise",
    )
    assert all(kinds["features", kind] >= 8 for kind in features)
    assert all(kinds["classes", kind] >= 8 for kind in ("class", "sum", "negation", "duplicate", "dead", "noise"))
    assert network.output_names == [what.classes[0] for what in units(network, "outputs", "class")] == NAMES
    assert planted_network().checkpoint_sha256 == network.checkpoint_sha256 != planted_network(1).checkpoint_sha256


def test_class_neurons_find_their_class_alone(network: Network, clips: tuple[np.ndarray, np.ndarray], heard: dict[str, np.ndarray]) -> None:
    labels, mixed = clips[1], []
    for what in truth(network):
        if what.kind not in ("class", "sum", "negation") and not (what.kind == "duplicate" and what.classes):
            continue
        own = np.isin(labels, [NAMES.index(name) for name in what.classes])
        values = heard[what.layer][what.unit]
        if what.kind == "negation":
            assert values[own].max() < values[~own].min()
            continue
        assert average_precision_score(own, values) >= 0.95
        assert values[own].min() > 0 >= values[~own].max()  # of the outputs: a logit
        assert len(np.unique(values[own])) == own.sum()  # no two clips tie
        if what.kind == "sum":
            one, other = (values[labels == NAMES.index(name)] for name in what.classes)
            mixed.append(min(one.max(), other.max()) > max(one.min(), other.min()))
    assert np.mean(mixed) > 0.7  # by chance all of four clips stand above four others once in 35 times
    assert (heard["outputs"].argmax(axis=0) == labels).all()


def test_another_seed_plants_other_neurons_for_the_same_classes(clips: tuple[np.ndarray, np.ndarray]) -> None:
    other = planted_network(3)
    assert {what.classes for what in units(other, "classes", "sum")} != {
        what.classes for what in units(planted_network(), "classes", "sum")
    }
    heard = layer_values(other, clips[0][::2])
    assert (heard["outputs"].argmax(axis=0) == clips[1][::2]).all()


def test_duplicates_dead_and_noise(network: Network, clips: tuple[np.ndarray, np.ndarray], heard: dict[str, np.ndarray]) -> None:
    waveforms, labels = clips
    precisions = []
    for what in truth(network):
        values = heard[what.layer][what.unit]
        if what.kind == "duplicate":
            assert what.partner is not None
            assert np.corrcoef(values, heard[what.layer][what.partner])[0, 1] == pytest.approx(1, abs=1e-6)
        elif what.kind == "dead":
            assert (values == 0).all()
        elif what.kind == "noise":
            assert values.max() > 0
            precisions.append([average_precision_score(labels == number, values) for number in range(len(NAMES))])
    chance = np.random.default_rng(0).random((400, len(labels)))
    expected = np.mean([average_precision_score(labels == 3, row) for row in chance])
    assert np.mean(precisions) == pytest.approx(expected, abs=0.02)
    assert np.percentile(precisions, 95) < 0.4
    noise = [what.unit for what in units(network, "features", "noise")]
    one_by_one = np.concatenate([layer_values(network, waveform[None])["features"] for waveform in waveforms[::7]], axis=1)
    np.testing.assert_array_equal(one_by_one[noise], heard["features"][noise][:, ::7])
    near = waveforms[:1] + np.float32(2**-15) * (np.arange(waveforms.shape[1]) == 900)  # one sample, one step of 16 bits
    assert np.abs(layer_values(network, near)["features"][noise][:, 0] - heard["features"][noise, 0]).max() > 0.1


def test_silencing_a_class_takes_it_away_and_nothing_else(network: Network, heard: dict[str, np.ndarray]) -> None:
    layer = next(layer for layer in network.layers if layer.name == "classes")
    values = torch.from_numpy(heard["classes"].T).float()
    before = network.tail(layer, values, torch.empty(0))
    np.testing.assert_allclose(before.numpy().T, heard["outputs"], atol=1e-5)
    for number, name in enumerate(NAMES):
        silenced = values.clone()
        silenced[:, ablated_units(truth(network), name)["classes"]] = 0
        after = network.tail(layer, silenced, torch.empty(0))
        assert (after[:, number] == -2).all()
        others = [index for index in range(len(NAMES)) if index != number]
        np.testing.assert_allclose(after[:, others], before[:, others], atol=1e-6)


def test_silence_is_quiet_and_nothing_else(network: Network) -> None:
    features = layer_values(network, np.zeros((1, 80_000), np.float32))["features"][:, 0]
    by_kind = {what.kind for what in truth(network) if what.layer == "features" and features[what.unit] > 0}
    assert by_kind - {"duplicate"} == {"loudness", "noise"}
    assert all("quiet" in what.words for what in units(network, "features", "loudness") if features[what.unit] > 0)


def test_errors() -> None:
    with pytest.raises(UserError, match="small is not a planted network"):
        truth(small_network())
    with pytest.raises(UserError, match="leave out --weights"):
        load_planted(weights=Path("weights.safetensors"))
    with pytest.raises(UserError, match=r"clips of 0.01 s .* at least 0.032"):
        load_planted(clip_s=0.01)


# --- What the detectors measure -------------------------------------------------------------------------------------------------------------


def test_loudness_and_noisiness_rank_as_measured(
    network: Network, clips: tuple[np.ndarray, np.ndarray], heard: dict[str, np.ndarray]
) -> None:
    sounds = [waveform[: np.flatnonzero(waveform)[-1] + 1] for waveform in clips[0] if np.sqrt(np.mean(waveform**2)) > 1e-3]
    audible = np.array([np.sqrt(np.mean(waveform**2)) > 1e-3 for waveform in clips[0]])
    level = np.array([sound.measure(samples, RATE)["rms_dbfs"] for samples in sounds], dtype=float)

    def flatness(samples: np.ndarray) -> float:
        frequency, _, spectrum = scipy.signal.stft(samples, RATE, nperseg=512, noverlap=352, boundary=None, padded=False)
        power = np.abs(spectrum[(frequency >= 125) & (frequency <= 7000)]) ** 2 + 1e-30
        mean = power.mean(axis=0)
        loud = mean >= mean.max() / 1000
        return float(10 * np.log10(scipy.stats.gmean(power, axis=0) / mean)[loud].mean())

    flat = np.array([flatness(samples.astype(np.float64)) for samples in sounds])
    for kind, quantity, more in (("loudness", level, "loud"), ("noisiness", flat, "noisy")):
        for what in units(network, "features", kind):
            values = heard["features"][what.unit][audible]
            active = values > 0
            sign = 1 if more in what.words else -1
            if active.sum() >= 8:
                assert sign * scipy.stats.spearmanr(values[active], quantity[active]).statistic > 0.95
            if active.any() and not active.all():  # a threshold divides them
                assert (sign * quantity[active]).min() > (sign * quantity[~active]).max() - 0.5


def test_bands_answer_to_their_share_of_the_power(
    network: Network, clips: tuple[np.ndarray, np.ndarray], heard: dict[str, np.ndarray]
) -> None:
    audible = np.sqrt(np.mean(clips[0] ** 2, axis=1)) > 1e-3
    frequency, power = scipy.signal.periodogram(clips[0][audible].astype(np.float64), RATE, detrend="constant")
    edges = [0.0, *BAND_EDGES_HZ, RATE]
    first = network.module.get_submodule("features_linear")
    assert isinstance(first, torch.nn.Linear)
    for what in units(network, "features", "band"):
        weights = first.weight[what.unit].double().numpy()
        bands = np.flatnonzero(weights)
        low, high = edges[bands.min() - BANDS.start], edges[bands.max() - BANDS.start + 1]
        assert (high <= 509) == ("low-pitched" in what.words)
        assert (low >= 2033) == ("high-pitched" in what.words)
        share = power[:, (frequency >= low) & (frequency < high)].sum(axis=1) / power.sum(axis=1)
        expected = np.maximum(weights[bands[0]] * share + float(first.bias[what.unit]), 0)
        np.testing.assert_allclose(heard["features"][what.unit][audible], expected, atol=0.01)


def test_octaves_find_the_octave_of_a_note(network: Network) -> None:
    played = [(timbre, note, octave) for timbre in notes.TIMBRES for octave in notes.OCTAVES for note in ("C", "F", "B")]
    waveforms = np.stack([fitted(notes.synthesise(*which), notes.RATE_HZ) for which in played])
    values, octaves = layer_values(network, waveforms)["features"], np.array([octave for *_, octave in played])
    found = units(network, "features", "octave")
    for number, what in enumerate(found):
        assert average_precision_score(octaves == 2 + number // 2, values[what.unit]) > 0.99
    assert "deep" in found[0].words
    assert "high-pitched" in found[-1].words


def test_modulation_has_its_rate_and_depth(network: Network) -> None:
    time_s = np.arange(3 * RATE) / RATE
    waves = [tone(700) * (1 + 0.6 * np.sin(2 * np.pi * rate * time_s)) for rate in (2, 16)]
    slow, fast = (measured(wave) for wave in waves)
    assert slow["slow"] == pytest.approx(0.6, abs=0.03)
    assert fast["fast"] == pytest.approx(0.6 * 0.936, abs=0.03)  # what a Hann window of 20 ms leaves of 16 Hz
    assert max(slow["fast"], fast["slow"]) < 0.02
    values = layer_values(network, np.stack([np.pad(wave, (0, 2 * RATE)) for wave in waves]).astype(np.float32))["features"]
    for what in units(network, "features", "modulation"):
        if values[what.unit].max() > 0:
            assert values[what.unit].argmax() == ("fast" in what.words or "steady" in what.words)  # 16 Hz is not slow


def test_onsets_impulsiveness_and_bandwidth() -> None:
    clicks = np.zeros(4 * RATE)
    clicks[1000 :: RATE // 5] = 0.5
    assert measured(clicks)["onsets"] == pytest.approx(5, abs=0.3)
    assert measured(tone(440))["onsets"] == pytest.approx(1 / 3, abs=0.01)  # its beginning
    noise = np.random.default_rng(0).laplace(size=3 * RATE) * 0.05
    kurtosis = scipy.stats.kurtosis(noise, fisher=False)
    assert measured(noise)["impulsiveness"] == pytest.approx(math.log10(kurtosis / 3), abs=0.01)
    assert measured(tone(440) + tone(880))["bandwidth"] == pytest.approx(0.5, abs=0.01)
    assert measured(tone(440))["bandwidth"] < 0.05


# --- Scores ---------------------------------------------------------------------------------------------------------------------------------

SOME = [
    Planted("a", 0, "loudness", ("loud",)),
    Planted("a", 1, "duplicate", ("loud",), partner=0),
    Planted("a", 2, "dead"),
    Planted("b", 0, "class", CLASS_WORDS["Tick"], ("Tick",)),
    Planted("b", 1, "class", CLASS_WORDS["Tick"], ("Tick",)),
    Planted("b", 2, "class", CLASS_WORDS["Bell"], ("Bell",)),
    Planted("b", 3, "sum", (), ("Tick", "Bell")),
    Planted("b", 4, "negation", (), ("Bell",)),
    Planted("b", 5, "noise"),
]


def table(scores: list) -> dict[tuple[str, str, str], tuple[int, int]]:
    return {(score.measure, score.layer, score.kind): (score.right, score.total) for score in scores}


def test_names() -> None:
    found = {
        ("a", 0): ["Loud ", "\ud800"],
        ("a", 1): ["not loud"],
        ("a", 2): [],
        ("b", 0): ["tick"],
        ("b", 1): ["Bell", "dog"],
        ("b", 3): ["clock"],
        ("b", 4): ["bell"],
        ("b", 5): ["dog"],
    }
    scores = score_names(found, SOME)
    assert table(scores) == {
        ("named", "a", "loudness"): (1, 1),
        ("named", "a", "duplicate"): (0, 1),
        ("nothing named", "a", "dead"): (1, 1),
        ("named", "b", "class"): (1, 2),  # the third was not examined
        ("named", "b", "sum"): (0, 1),
        ("named in part", "b", "sum"): (1, 1),
        ("nothing named", "b", "noise"): (0, 1),
    }
    of_classes = next(score for score in scores if score.kind == "class")
    assert (of_classes.low, of_classes.high) == pytest.approx((0.0945, 0.9055), abs=1e-4)  # Wilson's interval of 1 in 2
    both = score_names({("b", 3): ["Chime", "TICK"]}, SOME)
    assert table(both) == {("named", "b", "sum"): (1, 1), ("named in part", "b", "sum"): (1, 1)}


def test_sets() -> None:
    found = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 1]], dtype=bool)
    assert table(score_sets({"b": found}, SOME, ["Tick", "Bell", "Siren"])) == {
        ("recall", "b", "class"): (2, 3),
        ("precision", "b", "class"): (2, 4),
        ("precision", "b", "all"): (4, 7),
        ("recall", "b", "sum"): (2, 2),
        ("precision", "b", "sum"): (2, 2),
        ("nothing found", "b", "negation"): (1, 1),
        ("nothing found", "b", "noise"): (0, 1),
    }
    with pytest.raises(ValueError, match=r"\[6, 2\], not \[6, 3\]"):
        score_sets({"b": found}, SOME, ["Tick", "Bell"])


def test_verdicts_clusters_and_ablations() -> None:
    verdicts = {("a", 0): False, ("a", 2): True, ("b", 0): True, ("b", 1): False, ("b", 2): None, ("b", 3): True, ("b", 5): False}
    assert table(score_verdicts(verdicts, SOME)) == {
        ("verdict", "a", "loudness"): (1, 1),
        ("verdict", "b", "class"): (1, 2),
        ("verdict", "b", "sum"): (1, 1),
        ("verdict", "b", "noise"): (0, 1),
    }
    meanings = {("a", 0): 1, ("a", 1): 0, ("a", 2): 1, ("b", 0): 2, ("b", 1): 1, ("b", 2): None, ("b", 3): 2, ("b", 4): 2, ("b", 5): 1}
    assert table(score_meanings(meanings, SOME)) == {
        ("verdict", "a", "loudness"): (1, 1),
        ("verdict", "a", "duplicate"): (0, 1),
        ("verdict", "b", "class"): (1, 2),
        ("verdict", "b", "sum"): (1, 1),
        ("verdict", "b", "noise"): (0, 1),
    }
    assert table(score_meanings({("b", 3): 0, ("b", 5): 0}, SOME)) == {("verdict", "b", "sum"): (0, 1), ("verdict", "b", "noise"): (1, 1)}
    labels = {("a", 0): 4, ("a", 1): 4, ("b", 0): 0, ("b", 1): 1, ("b", 2): 1}
    assert table(score_clusters(labels, SOME)) == {
        ("joined", "a", "duplicate"): (1, 1),
        ("joined", "b", "class"): (0, 1),
        ("kept apart", "b", "class"): (1, 2),
    }
    ablations = score_ablation([-3.0, -1.0, 0.5, math.nan], [-0.5, -2.0, 1.0, 0.0])
    assert table(ablations) == {("removed", "classes", "class"): (1, 3)}
    assert ablated_units(SOME, "Tick") == {"b": [0, 1]}
