"""Rules over measured properties: the few conditions that tell which clips activate a neuron, found on some clips and checked on others.

A condition is a property, a direction and a threshold. It holds to a degree: 1 from the threshold on, and before it as far as the clip's place among the
clips the rule was found on is from the end to the threshold's; a clip of which the property is undefined does not meet it. A rule predicts a
response: the weighted mean of the degrees of its conditions, at most three, which are found by least squares (forward selection with
exchange: Miller 2002, Subset Selection in Regression, chapter 3). Their number is chosen by cross-validation over what clips were cut from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from ingest.methods import held_out

MOST = 3
FOLDS = 5
PLACES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
"""Of thresholds: the share of the clips that lie before them."""
EMPHASIS = 4  # power of the response's rank that conditions are fitted to: which clips are highest matters more than the order below
GAIN = 0.005  # of the cross-validated AUROC that pays for another condition
CHANCE_Z = 2.8  # standard errors above chance that make a rule: the best of three rules is looked at
SPARSE = 0.5  # share of the clips above a property's lowest value
FEWEST_KNOWN = 10  # clips of which a property is defined
BLOCK = 512  # neurons at once
RIDGE = 1e-4
LEAST_OWN = 0.02  # share of a condition's variance that the others must leave to it


@dataclass(frozen=True)
class Rules:
    """Rules by neuron. Conditions in the order of their weights [neurons, 3]: `property` is a column (-1 behind the last), `direction` 1 for over and -1 for
    under, `threshold` in the property's unit, before which the share `place` of the clips lies; `weight` sums to 1. `predicted` [neurons, clips] from
    0 to 1, NaN without a rule.

    `auroc` [neurons, 4]: cross-validated AUROC of the best rules of 0 (0.5) to 3 conditions; NaN where there are too few positives, or clips of
    too few sources. `tried` [neurons] is the number of conditions chosen by it (0: not tried), `low`, `high` that rule's 95 % interval, and `count` the
    same number where it is better than chance, else 0."""

    property: np.ndarray
    direction: np.ndarray
    threshold: np.ndarray
    place: np.ndarray
    weight: np.ndarray
    predicted: np.ndarray
    auroc: np.ndarray
    tried: np.ndarray
    count: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class _Part:
    """Candidate conditions as seen from some clips: degrees [conditions, all clips] in units of their deviation over these, that unit [conditions], the
    same centred [conditions, these clips], and the products of these among each other."""

    degrees: np.ndarray
    unit: np.ndarray
    centred: np.ndarray
    products: np.ndarray


class Candidates:
    """All candidate conditions on `properties` [clips, properties] (NaN: undefined) as seen from the clips `written` [clips] (bool) and from the folds
    of these over `groups` [clips]. Made once for many layers."""

    def __init__(self, properties: np.ndarray, groups: Sequence[str], written: np.ndarray | None = None, *, seed: int = 0) -> None:
        values = np.asarray(properties, dtype=np.float64)
        self.values = np.where(np.isfinite(values), values, np.nan)
        self.written = np.ones(len(values), dtype=bool) if written is None else np.asarray(written, dtype=bool)
        known = np.isfinite(self.values[self.written]).sum(axis=0) >= FEWEST_KNOWN
        self.kinds = [kind for column in np.flatnonzero(known) for kind in _kinds(int(column), self.values[self.written, column])]
        self.groups = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
        sources = np.unique(self.groups[self.written])
        fold_of = np.full(int(self.groups.max(initial=-1)) + 1, -1)
        fold_of[np.random.default_rng(seed).permutation(sources)] = np.arange(len(sources)) % FOLDS
        self.folds = np.where(self.written, fold_of[self.groups], -1)
        self.whole = self._part(self.written)
        several = len(sources) >= FOLDS and len(self.kinds) > 0
        self.parts = [self._part(self.written & (self.folds != fold)) for fold in range(FOLDS)] if several else []

    def _part(self, seen: np.ndarray) -> _Part:
        degrees = np.zeros((len(self.kinds), len(self.values)), dtype=np.float32)
        for column in dict.fromkeys(kind[0] for kind in self.kinds):
            place = _places(self.values[:, column], seen)
            rows = [row for row, kind in enumerate(self.kinds) if kind[0] == column]
            for row in rows:
                degrees[row] = _degree(place, *self.kinds[row][1:])
        centre = degrees[:, seen].mean(axis=1, keepdims=True)
        norm = np.linalg.norm(degrees[:, seen] - centre, axis=1, keepdims=True)
        unit = np.where(norm > 1e-6, 1 / np.maximum(norm, 1e-6), 0).astype(np.float32)
        centred = (degrees[:, seen] - centre) * unit
        return _Part(degrees * unit, unit[:, 0], centred, centred @ centred.T)

    def threshold(self, condition: int) -> float:
        """In the property's unit: where the share of the written clips that PLACES names lies before it."""
        column, sign, at = self.kinds[condition]
        known = self.values[self.written, column]
        edge = float(np.nanquantile(known, at if sign > 0 else 1 - at))
        above = known[known > np.nanmin(known)]
        return float(above.min()) if sign < 0 and len(above) and edge < above.min() else edge


def _kinds(column: int, known: np.ndarray) -> list[tuple[int, int, float]]:
    """Candidate conditions on a property: column, direction and place of the threshold. Of one that most clips have at its lowest value, as a
    word that few captions hold, one in each direction: half of the others lie beyond it, or they all."""
    known = known[np.isfinite(known)]
    rest = float(np.mean(known > known.min()))
    if rest < SPARSE:
        return [(column, 1, 1 - rest / 2), (column, -1, rest)] if rest else []
    return [(column, sign, place) for sign in (1, -1) for place in PLACES]


def _places(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Share of the clips `seen` that lie below each value, half of its equals among them; NaN for NaN."""
    known = np.sort(values[seen & np.isfinite(values)])
    below = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / 2 / max(1, len(known))
    return np.where(np.isfinite(values), below, np.nan)


def _degree(place: np.ndarray, sign: int, at: float) -> np.ndarray:
    """To what degree a condition holds, 0 to 1, where the clips it was found on lie before a value to the share `place`."""
    return np.nan_to_num(np.minimum(place if sign > 0 else 1 - place, at) / at)


def degree(values: np.ndarray, known: np.ndarray, sign: int, at: float) -> np.ndarray:
    """To what degree a condition over (`sign` 1) or under (-1) a threshold, before which the share `at` of the clips lies, holds of any `values`
    [...] of its property, 0 to 1, by the values `known` [clips] of the clips it was found on."""
    every = np.concatenate([np.ravel(values), known])
    place = _places(every, np.arange(len(every)) >= np.size(values))[: np.size(values)]
    return _degree(place, sign, at).reshape(np.shape(values))


def find(candidates: Candidates, responses: np.ndarray) -> Rules:
    """Rules of neurons from their responses [neurons, clips] on the written clips alone; others may hold anything. Clips on which a response is
    not finite count as its lowest."""
    neurons, clips = np.shape(responses)
    undefined, none = np.full((neurons, MOST), np.nan), np.zeros(neurons, dtype=np.int64)
    rules = Rules(
        property=np.full((neurons, MOST), -1), direction=np.zeros((neurons, MOST), dtype=np.int64), threshold=undefined, place=undefined.copy(),
        weight=undefined.copy(), predicted=np.full((neurons, clips), np.nan, np.float32), auroc=np.full((neurons, MOST + 1), np.nan),
        tried=none, count=none.copy(), low=np.full(neurons, np.nan), high=np.full(neurons, np.nan),
    )  # fmt: skip
    for start in range(0, neurons, BLOCK):
        _find(candidates, np.asarray(responses[start : start + BLOCK]), start, rules)
    return rules


def auroc(predicted: np.ndarray, positive: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC [neurons] of predictions for `positive`, both [neurons, clips], and its standard error where clips come in `groups` [clips] (numbers): the
    variance of its influence function summed by group (Obuchowski 1997, Biometrics 53)."""
    ours = positive.sum(axis=1, keepdims=True).astype(np.float64)
    others = positive.shape[1] - ours
    ranks = rankdata(predicted, axis=1)
    inner = np.where(
        positive, rankdata(np.where(positive, predicted, np.inf), axis=1), rankdata(np.where(positive, np.inf, predicted), axis=1)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        beaten = np.where(positive, (ranks - inner) / others, 1 - (ranks - inner) / ours)
        area = (beaten * positive).sum(axis=1) / ours[:, 0]
        influence = (beaten - area[:, None]) / np.where(positive, ours, others)
    number = int(groups.max()) + 1
    member = np.zeros((len(groups), number))
    member[np.arange(len(groups)), groups] = 1
    return area, np.sqrt((np.nan_to_num(influence) @ member) ** 2 @ np.ones(number) * number / max(1, number - 1))


def _find(candidates: Candidates, responses: np.ndarray, start: int, rules: Rules) -> None:
    """Find the rules of a block of neurons, which begins at `start`."""
    seen = candidates.written
    known = np.asarray(responses[:, seen], dtype=np.float64)
    lowest = np.nanmin(np.where(np.isfinite(known), known, np.inf), axis=1, keepdims=True, initial=np.inf)
    known = np.where(np.isfinite(known), known, np.where(np.isfinite(lowest), lowest, 0))
    positive = held_out.positives(known)
    rows = np.flatnonzero(positive.any(axis=1))
    if not candidates.parts or not len(rows):
        return
    known, positive = known[rows], positive[rows]
    outside = np.zeros((MOST, len(rows), known.shape[1]), dtype=np.float32)
    for fold, part in enumerate(candidates.parts):
        tested = (candidates.folds == fold)[seen]
        for count, (chosen, weights) in enumerate(_select(part, _wanted(known[:, ~tested]))):
            outside[count][:, tested] = _predict(part.degrees[:, seen][:, tested], chosen, weights)
    groups = np.unique(candidates.groups[seen], return_inverse=True)[1]
    areas, errors = (np.stack(found, axis=1) for found in zip(*(auroc(values, positive, groups) for values in outside), strict=True))
    count = 1 + (areas >= areas.max(axis=1, keepdims=True) - GAIN).argmax(axis=1)
    area, error = (values[np.arange(len(rows)), count - 1] for values in (areas, errors))
    at = start + rows
    rules.auroc[at] = np.column_stack([np.full(len(rows), 0.5), areas])
    rules.low[at], rules.high[at] = np.clip(area - 1.96 * error, 0, 1), np.clip(area + 1.96 * error, 0, 1)
    rules.tried[at] = count
    ours = positive.sum(axis=1)
    by_chance = np.sqrt(
        (positive.shape[1] + 1) / (12 * ours * (positive.shape[1] - ours))
    )  # of AUROCs of noise: few positives tell little of their own error
    better = area - CHANCE_Z * np.maximum(error, by_chance) > 0.5
    for number, (chosen, weights) in enumerate(_select(candidates.whole, _wanted(known)), 1):
        mine = np.flatnonzero(better & (count == number))
        if len(mine):
            _keep(candidates, rules, at[mine], chosen[mine], weights[mine])


def _keep(candidates: Candidates, rules: Rules, at: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> None:
    """Write the rules of the neurons `at` down: conditions [neurons, count], their weights over scaled degrees."""
    part, number = candidates.whole, chosen.shape[1]
    plain = weights * part.unit[chosen]
    total = plain.sum(axis=1, keepdims=True)
    rules.predicted[at] = _predict(part.degrees, chosen, weights) / np.maximum(total, 1e-9)
    plain = plain / np.maximum(total, 1e-9)
    order = np.argsort(-plain, axis=1, kind="stable")
    chosen, plain = np.take_along_axis(chosen, order, 1), np.take_along_axis(plain, order, 1)
    rules.count[at] = number
    for column in range(number):
        kinds = [candidates.kinds[condition] for condition in chosen[:, column]]
        rules.property[at, column] = [kind[0] for kind in kinds]
        rules.direction[at, column] = [kind[1] for kind in kinds]
        rules.threshold[at, column] = [candidates.threshold(condition) for condition in chosen[:, column]]
        rules.place[at, column] = [kind[2] for kind in kinds]
        rules.weight[at, column] = plain[:, column]


def _wanted(responses: np.ndarray) -> np.ndarray:
    """What conditions are fitted to [neurons, clips]: a power of the response's rank, centred, of unit length."""
    wanted = ((rankdata(responses, axis=1) - 0.5) / responses.shape[1]) ** EMPHASIS
    wanted -= wanted.mean(axis=1, keepdims=True)
    return (wanted / np.maximum(np.linalg.norm(wanted, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _predict(degrees: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums [neurons, clips] of scaled degrees [conditions, clips] of the conditions `chosen` [neurons, count]."""
    total = np.zeros((len(chosen), degrees.shape[1]), dtype=np.float32)
    for column in range(chosen.shape[1]):
        total += weights[:, column, None].astype(np.float32) * degrees[chosen[:, column]]
    return total


def _select(part: _Part, wanted: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The best conditions [neurons, count] and their weights, none below 0, for 1 to MOST of them: each time the one that explains most beside
    the others, after which each is exchanged once for whatever explains more."""
    told = wanted @ part.centred.T  # [neurons, conditions]
    chosen: list[np.ndarray] = []
    found = []
    for _ in range(MOST):
        chosen.append(_best(part.products, told, chosen))
        for place in range(len(chosen)) if len(chosen) > 1 else ():
            chosen[place] = _best(part.products, told, chosen[:place] + chosen[place + 1 :])
        its = np.stack(chosen, axis=1)
        found.append((its, np.maximum(_weights(part.products, told, its)[0], 0)))
    return found


def _weights(products: np.ndarray, told: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares weights [neurons, count] of conditions, and the inverse of their products."""
    inverse = np.linalg.inv(products[chosen[:, :, None], chosen[:, None, :]] + RIDGE * np.eye(chosen.shape[1], dtype=np.float32))
    return np.einsum("nij,nj->ni", inverse, np.take_along_axis(told, chosen, axis=1)), inverse


def _best(products: np.ndarray, told: np.ndarray, beside: Sequence[np.ndarray]) -> np.ndarray:
    """The condition [neurons] that explains most beside those chosen, of those that raise the prediction where they hold."""
    if not beside:
        return told.argmax(axis=1)
    its = np.stack(beside, axis=1)
    weights, inverse = _weights(products, told, its)
    rows = [products[condition] for condition in beside]
    left, own = told.copy(), np.ones_like(told)
    for i, row in enumerate(rows):
        left -= weights[:, i, None] * row
        for j, other in enumerate(rows):
            if j == i:
                own -= inverse[:, i, i, None] * row * row
            elif j > i:
                own -= 2 * inverse[:, i, j, None] * row * other
    return np.where((left > 0) & (own > LEAST_OWN), left * left / np.maximum(own, LEAST_OWN), 0).argmax(axis=1)
