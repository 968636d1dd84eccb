"""Probes against scikit-learn, exact arithmetic and published intervals."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ingest.methods import probes


def layer_like(seed, neurons=3000, clips=250, classes=10):
    """Rectified activations [neurons, clips] in float16 that share few directions, as a layer's do, with labels and folds."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(clips) % classes)
    folds = rng.permutation(np.arange(clips) % 5) + 1
    directions = rng.normal(size=(classes, 12))[labels] * 0.7 + rng.normal(size=(clips, 12))
    return (rng.normal(size=(neurons, 12)) @ directions.T + 20).clip(0).astype(np.float16), labels, folds


def test_gram_of_blocks_is_the_direct_product(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "CHUNK_VALUES", 10_000)
    activations, _, _ = layer_like(0)
    path = tmp_path / "values.npy"
    np.save(path, activations)
    mapped = np.load(path, mmap_mode="r")
    exact = activations.astype(np.longdouble).T @ activations.astype(np.longdouble)
    for blocks in ([mapped], [mapped[:1], mapped[1:700], mapped[700:700], mapped[700:]]):
        found = probes.gram(blocks)
        assert found.dtype == np.float64
        assert float(np.abs(found / exact - 1).max()) < 1e-14
    distances = probes.squared_distances(found)
    direct = ((activations.astype(float)[:, :, None] - activations.astype(float)[:, None, :20]) ** 2).sum(axis=0)
    np.testing.assert_allclose(distances[:, :20], direct, rtol=1e-9, atol=1e-6)
    assert (distances.diagonal() == 0).all()


def test_gram_reads_pieces_of_bounded_size(monkeypatch):
    monkeypatch.setattr(probes, "CHUNK_VALUES", 1000)
    assert max(piece.size for piece in probes._pieces([np.ones((5000, 40), np.float16)])) <= 1000


def test_gram_marks_clips_without_activations():
    activations = np.ones((6, 4), dtype=np.float32)
    activations[2, 1] = np.nan
    found = probes.gram([activations[:2], activations[2:]])
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 1]).all()
    assert (np.delete(np.delete(found, 1, 0), 1, 1) == 6).all()
    assert np.isnan(probes.squared_distances(found)[1, 1])
    with pytest.raises(ValueError, match="5 clips"):
        probes.gram([activations, np.ones((2, 5))])
    with pytest.raises(ValueError, match="at least one block"):
        probes.gram([])


@pytest.mark.parametrize("seed", range(3))
def test_neighbors_equal_scikit_learn_for_every_fold_and_k(seed):
    """Votes tie all the time: up to 100 neighbours of 200, 10 classes."""
    activations, labels, folds = layer_like(seed)
    found = probes.knn_predictions(probes.squared_distances(probes.gram([activations])), labels, folds)
    assert sorted(found.predictions) == list(probes.KS)
    assert not found.absent
    features = activations.T.astype(np.float64)
    for fold in range(1, 6):
        training, tested = folds != fold, folds == fold
        for k in probes.KS:
            reference = KNeighborsClassifier(k, algorithm="brute").fit(features[training], labels[training])
            np.testing.assert_array_equal(found.predictions[k][tested], reference.predict(features[tested]))


def test_neighbors_equal_scikit_learn_where_distances_tie():
    """Whole numbers: distances are exact and tie. Which of several clips on the edge of the k nearest counts is open in scikit-learn, so
    clips are compared for which there is no such choice, and all clips with a plain stable sort."""
    rng = np.random.default_rng(0)
    activations, labels, folds = rng.integers(0, 3, (6, 200)), rng.integers(0, 4, 200), rng.integers(0, 5, 200)
    distances = probes.squared_distances(probes.gram([activations]))
    found = probes.knn_predictions(distances, labels, folds, (1, 2, 3, 5, 9, 50))
    compared = 0
    for fold in range(5):
        training, tested = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        for k, predicted in found.predictions.items():
            reference = KNeighborsClassifier(k, algorithm="brute").fit(activations.T[training].astype(float), labels[training])
            expected = reference.predict(activations.T[tested].astype(float))
            for clip, answer in zip(tested, expected, strict=True):
                order = sorted(range(len(training)), key=lambda other, clip=clip: (distances[clip, training[other]], other))
                votes = np.bincount(labels[training[order[:k]]], minlength=4)
                assert predicted[clip] == votes.argmax()
                if distances[clip, training[order[k - 1]]] < distances[clip, training[order[k]]]:
                    assert predicted[clip] == answer
                    compared += 1
    assert compared > 100


@pytest.mark.parametrize("values", ["like a layer", "whole numbers"])
def test_neighbors_from_blocks_are_those_from_the_matrix(values, monkeypatch):
    """Blocks of neurons and of a few tested clips; distances that tie; clips with values that are not finite."""
    activations, labels, folds = layer_like(5, neurons=300)
    if values == "whole numbers":
        activations = np.random.default_rng(0).integers(0, 3, (6, 250)).astype(np.float32)
    activations[2, 9], activations[5, 30] = np.nan, np.inf
    expected = probes.knn_predictions(probes.squared_distances(probes.gram([activations])), labels, folds)
    monkeypatch.setattr(probes, "DISTANCES", 1500)
    monkeypatch.setattr(probes, "CHUNK_VALUES", 1000)
    found = probes.knn_predictions_from_blocks(lambda: [activations[:2], activations[2:]], labels, folds)
    assert found.absent == expected.absent
    assert found.predictions.keys() == expected.predictions.keys()
    for k, predicted in expected.predictions.items():
        np.testing.assert_array_equal(found.predictions[k], predicted)
    assert found.predictions[1][9] == -1


def test_k_beyond_the_training_clips_is_absent_with_a_reason():
    activations, labels, folds = layer_like(0, neurons=50, clips=60)
    distances = probes.squared_distances(probes.gram([activations]))
    found = probes.knn_predictions(distances, labels, folds, (1, 48, 49, 100))
    assert sorted(found.predictions) == [1, 48]
    assert found.absent == {k: f"fold 1 has 48 training clips, fewer than {k}" for k in (49, 100)}
    assert probes.knn_predictions(distances, labels, np.ones_like(folds)).absent[1] == "fold 1 has 0 training clips, fewer than 1"
    assert probes.knn_predictions(distances, -np.ones_like(labels), folds, (1,)).absent == {
        1: "no clip has a class, a fold and activations"
    }
    with pytest.raises(ValueError, match="at least 1"):
        probes.knn_predictions(distances, labels, folds, (0, 1))


def test_clips_without_activation_class_or_fold_take_no_part():
    activations, labels, folds = layer_like(1, neurons=40, clips=100)
    values, labels, folds = activations.astype(np.float32), labels.copy(), folds.copy()
    values[3, 7], labels[11], folds[13] = np.inf, -1, -1
    gone = np.array([7, 11, 13])
    found = probes.knn_predictions(probes.squared_distances(probes.gram([values])), labels, folds, (1, 5))
    kept = np.setdiff1d(np.arange(100), gone)
    rest = probes.knn_predictions(probes.squared_distances(probes.gram([values[:, kept]])), labels[kept], folds[kept], (1, 5))
    for k in (1, 5):
        assert (found.predictions[k][gone] == -1).all()
        np.testing.assert_array_equal(found.predictions[k][kept], rest.predictions[k])
    linear = probes.linear_predictions(values, labels, folds)
    np.testing.assert_array_equal(
        linear.predictions[kept], probes.linear_predictions(values[:, kept], labels[kept], folds[kept]).predictions
    )
    assert (linear.predictions[gone] == -1).all()
    assert linear.left_out == {"no class": 1, "no fold": 1, "no activation": 1}
    assert sum(row.total for row in probes.counts(linear.predictions, labels, folds)) == 97


def test_a_class_in_one_fold_is_counted_nowhere():
    activations, labels, folds = layer_like(2, neurons=40, clips=100)
    labels = labels.copy()
    labels[5] = 10  # alone
    found = probes.knn_predictions(probes.squared_distances(probes.gram([activations])), labels, folds, (1,))
    assert found.predictions[1][5] >= 0  # scikit-learn predicts it too, and cannot be right
    rows = probes.counts(found.predictions, labels, folds)
    assert 10 not in {row.label for row in rows}
    assert sum(row.total for row in rows) == 99
    linear = probes.linear_predictions(activations, labels, folds)
    assert linear.predictions[5] == -1
    assert linear.left_out == {"class in one fold only": 1}


def test_counts():
    labels, folds = np.array([0, 0, 1, 1, 1, -1]), np.array([1, 2, 1, 2, 2, 1])
    rows = probes.counts({1: np.array([0, 1, 1, 1, 0, 0]), 3: np.array([1, 0, -1, 1, 1, 0])}, labels, folds)
    assert [(row.k, row.fold, row.label, row.correct, row.total) for row in rows] == [
        (1, 1, 0, 1, 1), (1, 1, 1, 1, 1), (1, 2, 0, 0, 1), (1, 2, 1, 1, 2), (3, 1, 0, 0, 1), (3, 2, 0, 1, 1),
    ]  # fmt: skip
    assert probes.counts(np.array([0, 0, 1, 1, 1, 0]), labels, folds)[0].k is None


def test_wilson_intervals():
    """Newcombe (1998, Stat. Med. 17, 857-872), table I, score method without continuity correction."""
    for correct, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert probes.wilson(correct, total) == pytest.approx((low, high), abs=5e-5)
    assert probes.wilson(20, 20)[1] == 1.0
    assert np.isnan(probes.wilson(0, 0)).all()
    with pytest.raises(ValueError, match="3 of 2"):
        probes.wilson(3, 2)


@pytest.mark.parametrize("neurons", [30, 600])
def test_linear_classifier_is_the_regression_it_claims_to_be(neurons):
    """Against another solver run to the end. Fewer and more neurons than clips; a neuron that never changes is among them."""
    activations, labels, folds = layer_like(3, neurons=neurons)
    activations = activations.astype(np.float64)
    activations[4] = 7.3
    found = probes.linear_predictions(activations, labels, folds).predictions
    for fold in (1, 4):
        training, tested = folds != fold, folds == fold
        reference = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-7, max_iter=5000)).fit(
            activations.T[training], labels[training]
        )
        ours = probes.fit_linear(activations.T[training], labels[training])
        np.testing.assert_allclose(ours.predict_proba(activations.T[tested]), reference.predict_proba(activations.T[tested]), atol=0.02)
        np.testing.assert_array_equal(found[tested], reference.predict(activations.T[tested]))


def test_linear_classifier_from_products_equals_scikit_learn_on_the_centred_neurons():
    activations, labels, folds = layer_like(4, neurons=600)
    features = activations.T.astype(np.float64)
    found = probes.linear_predictions_from_gram(probes.gram([activations]), labels, folds).predictions
    for fold in (1, 4):
        training, tested = folds != fold, folds == fold
        mean = features[training].mean(axis=0)
        rank = np.linalg.matrix_rank(features[training] - mean)
        scale = np.sqrt(((features[training] - mean) ** 2).sum() / training.sum() / rank)
        reference = LogisticRegression(tol=1e-7, max_iter=5000).fit((features[training] - mean) / scale, labels[training])
        np.testing.assert_array_equal(found[tested], reference.predict((features[tested] - mean) / scale))


def test_linear_classifier_of_constant_neurons_says_the_commonest_class():
    labels, folds = np.array([0, 1, 1] * 10), np.arange(30) % 2
    for values in (np.ones((4, 30)), np.ones((40, 30))):
        assert (probes.linear_predictions(values, labels, folds).predictions == 1).all()
    assert (probes.linear_predictions_from_gram(np.ones((30, 30)), labels, folds).predictions == 1).all()
