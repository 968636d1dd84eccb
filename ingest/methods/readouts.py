"""What a network says a clip is: its own classifier through a map of class names, zero-shot, or a linear head fitted for the purpose.

Each read-out turns the network's outputs, averaged over a clip's windows, into predictions: class numbers [clips], -1 where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.pipeline import Pipeline

from ingest.methods.probes import answerable, fit_linear, predict_linear, usable
from warehouse.store import UserError


def class_counts(
    predictions: np.ndarray, labels: np.ndarray, classes: int, readable: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Correct [..., classes] and total [classes] of predictions [..., clips], for instance [repeats, clips].

    Counted are clips with a class and, in every row, a prediction, of the classes that are `readable` [classes] (default: all).
    """
    counted = (labels >= 0) & (predictions >= 0).reshape(-1, len(labels)).all(axis=0)
    if readable is not None:
        counted &= readable[labels]
    member = (labels[counted, None] == np.arange(classes)).astype(np.int64)
    return (predictions[..., counted] == labels[counted]).astype(np.int64) @ member, member.sum(axis=0)


def prompted(prompt: str, name: str) -> str:
    """A class's name, spaces for underscores, in the hole {} of a prompt, or behind one that has none."""
    plain = name.replace("_", " ")
    return prompt.replace("{}", plain) if "{}" in prompt else prompt + plain


def same_names(output_names: Sequence[str] | None, classes: Sequence[str]) -> dict[str, list[str]]:
    """A label map by the names themselves: of each class the output of its name, whatever the case and underscores or spaces; classes that no
    output is called are left out."""
    plain = {name.replace("_", " ").strip().lower(): name for name in reversed(output_names or ())}
    return {name: [plain[key]] for name in classes if (key := name.replace("_", " ").strip().lower()) in plain}


@dataclass(frozen=True)
class OwnClassifier:
    """The network's own outputs read as other classes: `columns` are the outputs that mean each class, in order of class number."""

    columns: tuple[tuple[int, ...], ...]

    @property
    def readable(self) -> np.ndarray:
        """Which classes [classes] some output means; of the others nothing can be said."""
        return np.array([bool(columns) for columns in self.columns], dtype=bool)

    def __call__(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs [clips, outputs] to predictions [clips]: the readable class whose highest output is highest, the lowest number of equals."""
        scores = np.stack([outputs[:, list(c)].max(axis=1) if c else np.full(len(outputs), -np.inf) for c in self.columns], axis=1)
        return _best(scores)


def own_classifier(output_names: Sequence[str] | None, classes: Sequence[str], label_map: dict[str, list[str]]) -> OwnClassifier:
    """Read-out of `classes` (names in order of class number) through a label map; a class the map lacks is not readable.

    Raises UserError when the network has no names, the map names an output that it does not have, or no class is readable.
    """
    if not output_names:
        raise UserError("the network has no named outputs: use zero-shot or a linear head instead of its own classifier")
    index = {name: column for column, name in enumerate(output_names)}
    for name in classes:
        missing = [wanted for wanted in label_map.get(name, []) if wanted not in index]
        if missing:
            raise UserError(f"the label map gives {missing[0]} for {name}, which is no output of the network: correct the map")
    columns = tuple(tuple(index[wanted] for wanted in label_map.get(name, [])) for name in classes)
    if not any(columns):
        raise UserError("the label map gives no output for any of the classes: it belongs to another data set")
    return OwnClassifier(columns)


@dataclass(frozen=True)
class ZeroShot:
    """Classes told by text: `texts` [classes, dimensions] are embeddings of one prompt a class."""

    texts: np.ndarray

    def __call__(self, outputs: np.ndarray) -> np.ndarray:
        """Audio embeddings [clips, dimensions] to predictions [clips]: the text of greatest cosine; -1 for an embedding of length 0."""
        return _best(_unit(outputs) @ _unit(self.texts).T)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _best(scores: np.ndarray) -> np.ndarray:
    """Highest of scores [clips, classes]; -1 for clips with a score that is NaN."""
    undefined = np.isnan(scores).any(axis=1)
    return np.where(undefined, -1, np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1))


@dataclass(frozen=True)
class LinearHead:
    """Classifiers on penultimate features, one per fold, fitted on the clips of the other folds; it reads the clips that it was fitted for.

    `folds` [clips] says whose turn it is; -1 for a clip that is not read.
    """

    folds: np.ndarray
    classifiers: dict[int, Pipeline]

    def __call__(self, outputs: np.ndarray) -> np.ndarray:
        """Features of the same clips [clips, features], changed or not, to predictions [clips]."""
        if len(outputs) != len(self.folds):
            raise ValueError(f"{len(outputs)} clips, but the head was fitted for {len(self.folds)}")
        predictions = np.full(len(outputs), -1)
        for fold, classifier in self.classifiers.items():
            clips = self.folds == fold
            predictions[clips] = predict_linear(classifier, outputs[clips])
        return predictions


def fit_head(features: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, strength: float = 1.0) -> LinearHead:
    """A head for features [clips, features], labels and folds [clips] (negative: none): see `probes.fit_linear`.

    Clips are read that have features, class and fold, and whose class another fold has too. Raises UserError when there are none.
    """
    finite = np.isfinite(features).all(axis=1)
    takes_part, read = usable(labels, folds, finite), answerable(labels, folds, finite)
    if not read.any():
        raise UserError("a linear head needs classes with clips in at least two folds")
    classifiers = {}
    for fold in np.unique(folds[read]):
        training = takes_part & (folds != fold)
        classifiers[int(fold)] = fit_linear(features[training], labels[training], strength=strength)
    return LinearHead(np.where(read, folds, -1), classifiers)
