"""How much of the classes a layer holds: nearest neighbours and linear classifiers on its activations, over folds.

Everywhere `labels` are class numbers [clips], negative for a clip without a class, and `folds` fold numbers [clips], negative for a clip
without a fold: such clips are left out. Predictions are class numbers [clips], -1 where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # takes a second to import, which those who only want an interval are spared
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

KS = (*range(1, 10), 20, 50, 100)
CHUNK_VALUES, DISTANCES = 4_000_000, 16_000_000
Z95 = 1.959963984540054
SOLVER = "newton-cg"  # ten times as fast here as lbfgs: the neurons of a layer are far from independent


def gram(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Products of every two clips' activations [clips, clips] (float64), summed over blocks [neurons of the block, clips].

    Blocks may be memory maps of any size and kind: each is read in pieces of 32 MB as float64. A clip with a value that is not finite has
    NaN in its row and column.
    """
    total: np.ndarray | None = None
    finite = np.ones(0, dtype=bool)
    for piece in _pieces(blocks):
        if total is None:
            total, finite = np.zeros((piece.shape[1], piece.shape[1])), np.ones(piece.shape[1], dtype=bool)
        if piece.shape[1] != len(total):
            raise ValueError(f"a block has {piece.shape[1]} clips, the ones before have {len(total)}")
        there = np.isfinite(piece)
        if not there.all():
            finite &= there.all(axis=0)
            piece[~there] = 0
        total += piece.T @ piece
    if total is None:
        raise ValueError("no activations: there must be at least one block")
    total[~finite] = np.nan
    total[:, ~finite] = np.nan
    return total


def _pieces(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        if block.ndim != 2:
            raise ValueError(f"a block must be [neurons, clips], not {list(block.shape)}")
        step = max(1, CHUNK_VALUES // max(block.shape[1], 1))
        for start in range(0, max(len(block), 1), step):
            yield np.array(block[start : start + step], dtype=np.float64)


def squared_distances(gram: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [clips, clips] of clips from their products; NaN where those are."""
    squares = np.diag(gram)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
    np.fill_diagonal(distances, np.where(np.isfinite(squares), 0.0, np.nan))
    return distances


@dataclass(frozen=True)
class Neighbors:
    """Predictions [clips] by k. A k that some fold has too few training clips for is in `absent` with the reason instead."""

    predictions: dict[int, np.ndarray]
    absent: dict[int, str]


def knn_predictions(distances: np.ndarray, labels: np.ndarray, folds: np.ndarray, ks: Sequence[int] = KS) -> Neighbors:
    """Majority vote of the k nearest clips of the other folds, for every fold and k from one matrix [clips, clips].

    The same as scikit-learn's KNeighborsClassifier (uniform weights): of classes with equally many votes the one with the lowest number
    wins. Of clips equally far the earlier is nearer, where scikit-learn leaves the order open. Clips whose own distance is NaN take no part.
    """
    return _voted(lambda tested, others: distances[np.ix_(tested, others)], np.isfinite(np.diag(distances)), labels, folds, ks)


def knn_predictions_from_blocks(
    blocks: Callable[[], Iterable[np.ndarray]], labels: np.ndarray, folds: np.ndarray, ks: Sequence[int] = KS
) -> Neighbors:
    """The same from the activations, for more clips than a matrix [clips, clips] could hold: `blocks` gives them, [neurons of the block, clips]
    as for `gram`, each time it is called, which is once for every DISTANCES distances."""
    squares, finite = np.zeros(len(labels)), np.ones(len(labels), dtype=bool)
    for piece in _pieces(blocks()):
        finite &= np.isfinite(piece).all(axis=0)
        squares += np.einsum("nc,nc->c", piece, piece)

    def distances(tested: np.ndarray, others: np.ndarray) -> np.ndarray:
        product = np.zeros((len(tested), len(others)))
        for piece in _pieces(blocks()):
            product += piece[:, tested].T @ piece[:, others]
        product *= -2
        product += squares[tested, None]
        product += squares[others]
        return np.maximum(product, 0, out=product)

    return _voted(distances, finite, labels, folds, ks)


def _voted(
    distances: Callable[[np.ndarray, np.ndarray], np.ndarray], finite: np.ndarray, labels: np.ndarray, folds: np.ndarray, ks: Sequence[int]
) -> Neighbors:
    """Votes among clips that are finite, by their distances from some to others."""
    takes_part = usable(labels, folds, finite)
    classes = int(labels.max(initial=-1)) + 1
    numbers = np.unique(folds[takes_part])
    training = {int(fold): np.flatnonzero(takes_part & (folds != fold)) for fold in numbers}
    fold, fewest = min(((f, len(clips)) for f, clips in training.items()), key=lambda item: item[1], default=(-1, 0))
    absent = {k: f"fold {fold} has {fewest} training clips, fewer than {k}" for k in ks if k > fewest}
    if fold < 0:
        absent = dict.fromkeys(ks, "no clip has a class, a fold and activations")
    possible = sorted(k for k in set(ks) if k not in absent)
    if possible and possible[0] < 1:
        raise ValueError(f"k must be at least 1, not {possible[0]}")
    predictions = {k: np.full(len(labels), -1) for k in possible}
    if not possible:
        return Neighbors(predictions, absent)
    for number, others in training.items():
        clips = np.flatnonzero(takes_part & (folds == number))
        step = max(1, DISTANCES // len(others))
        for tested in (clips[start : start + step] for start in range(0, len(clips), step)):
            voters = labels[others][_nearest(distances(tested, others), possible[-1])]
            votes = np.zeros((len(tested), classes), dtype=np.int32)
            rows = np.arange(len(tested))
            for rank in range(possible[-1]):
                votes[rows, voters[:, rank]] += 1
                if rank + 1 in predictions:
                    predictions[rank + 1][tested] = votes.argmax(axis=1)  # the first of equals
    return Neighbors(predictions, absent)


def _nearest(distances: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k least of every row, the least first, of equals the first, [rows, k]."""
    found = np.empty((len(distances), k), dtype=np.int64)
    for row, values in enumerate(distances):
        near = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
        found[row] = near[np.argsort(values[near], kind="stable")[:k]]
    return found


def usable(labels: np.ndarray, folds: np.ndarray, finite: np.ndarray | None = None) -> np.ndarray:
    """Which clips [clips] take part: those with a class, a fold and finite activations."""
    found = (labels >= 0) & (folds >= 0)
    return found if finite is None else found & finite


def answerable(labels: np.ndarray, folds: np.ndarray, finite: np.ndarray | None = None) -> np.ndarray:
    """Which clips [clips] can be predicted rightly at all: their class has a usable clip in another fold.

    A class whose only clips lie in one fold is unknown when that fold is tested; calling those clips wrong would measure the folds.
    """
    found = usable(labels, folds, finite)
    result = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels[found]):
        of_class = found & (labels == label)
        if len(np.unique(folds[of_class])) > 1:
            result |= of_class
    return result


def left_out(labels: np.ndarray, folds: np.ndarray, finite: np.ndarray | None = None) -> dict[str, int]:
    """Number of clips that no count holds, by reason; reasons without clips are not listed."""
    labelled, with_fold = labels >= 0, folds >= 0
    found = usable(labels, folds, finite)
    reasons = {
        "no class": int((~labelled).sum()),
        "no fold": int((labelled & ~with_fold).sum()),
        "no activation": int((labelled & with_fold & ~found).sum()),
        "class in one fold only": int((found & ~answerable(labels, folds, finite)).sum()),
    }
    return {reason: number for reason, number in reasons.items() if number}


@dataclass(frozen=True)
class Count:
    """Clips of one class in one fold, and how many of them were predicted rightly with k neighbours (k None: another kind of probe)."""

    k: int | None
    fold: int
    label: int
    correct: int
    total: int


def counts(predictions: dict[int, np.ndarray] | np.ndarray, labels: np.ndarray, folds: np.ndarray) -> list[Count]:
    """Correct and total per k, fold and class, from predictions [clips], or those by k.

    Clips without a prediction and clips whose class no other fold has (see `answerable`) are in no count; a fold and class without a clip has
    no row.
    """
    by_k: dict[int | None, np.ndarray] = (
        {k: found for k, found in predictions.items()} if isinstance(predictions, dict) else {None: predictions}
    )
    rows = []
    for k, predicted in by_k.items():
        counted = answerable(labels, folds, predicted >= 0)
        for fold in np.unique(folds[counted]):
            inside = counted & (folds == fold)
            total = np.bincount(labels[inside])
            right = np.bincount(labels[inside & (predicted == labels)], minlength=len(total))
            rows += [Count(k, int(fold), int(label), int(right[label]), int(total[label])) for label in np.flatnonzero(total)]
    return rows


def wilson(correct: int, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927, score interval); NaN without clips."""
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is no share")
    if total == 0:
        return math.nan, math.nan
    share, square = correct / total, Z95**2
    center = (share + square / (2 * total)) / (1 + square / total)
    half = Z95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    # At the ends the interval closes exactly; rounding must not open it.
    return (0.0 if correct == 0 else center - half), (1.0 if correct == total else center + half)


def fit_linear(features: np.ndarray, labels: np.ndarray, *, strength: float = 1.0) -> Pipeline:
    """Multinomial logistic regression on features [clips, features], each standardised over these clips: scikit-learn's StandardScaler and
    LogisticRegression(C=strength). With one class only it always says that one."""
    from sklearn.dummy import DummyClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = DummyClassifier() if len(np.unique(labels)) == 1 else _regression(strength)
    return make_pipeline(StandardScaler(), classifier).fit(np.asarray(features, dtype=np.float64), labels)


def _regression(strength: float) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, solver=SOLVER)


def predict_linear(classifier: Pipeline, features: np.ndarray) -> np.ndarray:
    """Features [clips, features] to class numbers [clips]; -1 for clips with a value that is not finite."""
    predictions, finite = np.full(len(features), -1), np.isfinite(features).all(axis=1)
    if finite.any():
        predictions[finite] = classifier.predict(np.asarray(features[finite], dtype=np.float64))
    return predictions


def _coordinates(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From products of training clips [clips, clips] and of others with them [others, clips]: coordinates of both in an orthonormal basis of
    the training clips' span; directions without extent are dropped."""
    values, vectors = np.linalg.eigh(inside)
    kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    if not kept.any():
        return np.zeros((len(inside), 1)), np.zeros((len(outside), 1))
    basis = vectors[:, kept] / np.sqrt(values[kept])
    return inside @ basis, outside @ basis


@dataclass(frozen=True)
class LinearProbe:
    """Predictions [clips] of classifiers fitted without the clip's fold, and the clips left out, by reason."""

    predictions: np.ndarray
    left_out: dict[str, int]


def linear_predictions(activations: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, strength: float = 1.0) -> LinearProbe:
    """A logistic regression per fold on activations [neurons, clips] standardised over its training clips (see `fit_linear`).

    For a layer that does not fit into memory see `linear_predictions_from_gram`. Clips with a value that is not finite are neither trained
    on nor tested, and neither are tested whose class no other fold has.
    """
    features = np.asarray(activations).T
    finite = np.isfinite(features).all(axis=1)
    tested = answerable(labels, folds, finite)
    predictions = np.full(len(labels), -1)
    for fold, training in _training(labels, folds, finite):
        clips = tested & (folds == fold)
        if clips.any():
            predictions[clips] = predict_linear(fit_linear(features[training], labels[training], strength=strength), features[clips])
    return LinearProbe(predictions, left_out(labels, folds, finite))


def linear_predictions_from_gram(products: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, strength: float = 1.0) -> LinearProbe:
    """A logistic regression per fold from products [clips, clips] alone (see `gram`), for layers of any size.

    The solution lies in the span of the training clips, so this is exact. The neurons are centred over the training clips, and all are
    divided by one common number rather than each by its own deviation, which the products do not tell: the one that makes the mean
    variance 1 over the dimensions that the clips span, so that `strength` means much the same in layers of any size.
    """
    finite = np.isfinite(np.diag(products))
    tested = answerable(labels, folds, finite)
    predictions = np.full(len(labels), -1)
    for fold, training in _training(labels, folds, finite):
        clips = tested & (folds == fold)
        if not clips.any():
            continue
        inside = products[np.ix_(training, training)]
        row, whole = inside.mean(axis=0), inside.mean()
        centered = inside - row[:, None] - row[None, :] + whole
        outside = products[np.ix_(clips, training)]
        outside = outside - outside.mean(axis=1, keepdims=True) - row[None, :] + whole
        known, asked = _coordinates(centered, outside)
        scale = math.sqrt(max(float(np.mean(known**2)), 1e-300))  # mean variance over the dimensions of the span
        if len(np.unique(labels[training])) == 1:
            predictions[clips] = labels[training][0]
        else:
            predictions[clips] = _regression(strength).fit(known / scale, labels[training]).predict(asked / scale)
    return LinearProbe(predictions, left_out(labels, folds, finite))


def _training(labels: np.ndarray, folds: np.ndarray, finite: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each fold with its training clips [clips] (bool), where there are any."""
    takes_part = usable(labels, folds, finite)
    for fold in np.unique(folds[takes_part]):
        training = takes_part & (folds != fold)
        if training.any():
            yield int(fold), training
