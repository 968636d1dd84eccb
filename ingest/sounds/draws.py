"""Balanced draws and grouped folds of any data set."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from ingest.sounds.listing import Entry, Listing
from ingest.sounds.metadata import show
from warehouse.store import UserError


def draw(listing: Listing, *, per_class: int | None = None, folds: int | None = None, seed: int = 0) -> Listing:
    """A listing with `per_class` clips of each class of its main label set, and with `folds` grouped folds in place of its own.

    What was asked for is added to the listing's `reader`, and so reaches the warehouse and the content's hash; asked for nothing, the
    listing is returned as it is. Raises UserError where it cannot be done.
    """
    asked = {"per_class": per_class, "folds": folds}
    if per_class is None and folds is None:
        return listing
    if not listing.label_sets:
        raise UserError(f"data set {listing.name} has no labels: nothing to balance or to part into folds by")
    main, entries = next(iter(listing.label_sets)), listing.entries
    if per_class is not None:
        entries = balance(entries, main, per_class, seed)
    if folds is not None:
        fold_of = grouped_folds(entries, folds, seed, main)
        entries = [replace(entry, fold=fold_of[entry.name]) for entry in entries]
    occurring = {(label_set, class_) for entry in entries for label_set, classes in entry.labels.items() for class_ in classes}
    label_sets = {label_set: [c for c in classes if (label_set, c) in occurring] for label_set, classes in listing.label_sets.items()}
    reader = " ".join([listing.reader, *(f"{option}={value}" for option, value in asked.items() if value is not None), f"seed={seed}"])
    return replace(listing, entries=entries, label_sets={key: kept for key, kept in label_sets.items() if kept}, reader=reader)


def balance(entries: list[Entry], label_set: str, per_class: int, seed: int = 0) -> list[Entry]:
    """Draw `per_class` entries of each class of `label_set`, in their order; entries without one class there are left out.

    The draw takes the lowest hashes of seed, class and name: the same on any machine and in any order of the entries. Raises UserError for
    a class that has too few.
    """
    if per_class < 1:
        raise UserError(f"per_class is {per_class}, it must be at least 1")
    by_class: dict[str, list[Entry]] = {}
    for entry in entries:
        if len(classes := entry.labels.get(label_set, ())) == 1:
            by_class.setdefault(classes[0], []).append(entry)
    if few := [class_ for class_, members in by_class.items() if len(members) < per_class]:
        smallest = min(few, key=lambda class_: len(by_class[class_]))
        raise UserError(f"per_class is {per_class}, but class {show(smallest)} has only {len(by_class[smallest])} clips: ask for fewer")
    kept = {
        entry.name
        for class_, members in by_class.items()
        for entry in sorted(members, key=lambda entry: _rank(seed, class_, entry.name))[:per_class]
    }
    return [entry for entry in entries if entry.name in kept]


def grouped_folds(entries: list[Entry], folds: int, seed: int = 0, label_set: str | None = None) -> dict[str, int]:
    """Fold (1 to `folds`) of each entry by name: all entries of one group in one fold, each class spread as evenly as that allows.

    Entries without a group stand alone; `label_set` is the first one named by default. Groups are dealt from the largest to the smallest,
    each to the fold that so far holds the smallest share of its classes (as scikit-learn's StratifiedGroupKFold, with squared shares);
    the seed orders groups of one size. Raises UserError for fewer groups than folds.
    """
    if folds < 2:
        raise UserError(f"folds is {folds}, it must be at least 2")
    label_set = label_set or next((first for entry in entries for first in entry.labels), "")
    classes = {class_: i for i, class_ in enumerate(sorted({c for entry in entries for c in entry.labels.get(label_set, ())}))}
    groups: dict[tuple[bool, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.group is None, entry.name if entry.group is None else entry.group), []).append(entry)
    if len(groups) < folds:
        raise UserError(f"folds is {folds}, but there are only {len(groups)} groups that must stay together: ask for fewer")
    counts = {}
    for group, members in groups.items():
        counts[group] = np.bincount([classes[c] for e in members for c in e.labels.get(label_set, ())], minlength=len(classes))
    total = np.maximum(sum(counts.values(), np.zeros(len(classes))), 1)
    weight = (total.mean() / total) ** 2
    held, sizes = np.zeros((folds, len(classes))), np.zeros(folds)
    fold_of: dict[str, int] = {}
    for group in sorted(groups, key=lambda group: (-len(groups[group]), _rank(seed, str(group[0]), group[1]))):
        share = (held @ (counts[group] * weight)).round(9)  # rounded so that ties are ties on any machine
        fold = int(np.lexsort((sizes, share))[0])
        held[fold] += counts[group]
        sizes[fold] += len(groups[group])
        fold_of |= {entry.name: fold + 1 for entry in groups[group]}
    return {entry.name: fold_of[entry.name] for entry in entries}


def _rank(seed: int, *texts: str) -> bytes:
    """A place in a random order that depends on nothing but seed and texts."""
    return hashlib.sha256("\0".join((str(seed), *texts)).encode("utf-8", "surrogatepass")).digest()
