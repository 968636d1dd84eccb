"""Lists of words: those shipped with Auricle, and a user's own."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from ingest.sounds.metadata import show
from warehouse.store import UserError

HERE = Path(__file__).parent / "words"
SHIPPED = {"esc50": ("esc50_audioset.csv", "class"), "audioset": ("audioset_classes.csv", "display_name")}
MAX_BYTES = 64 << 20


def read_concepts(name_or_path: str | Path) -> list[str]:
    """The concepts of a set, in its order, none twice.

    `esc50`: the 50 class names of ESC-50 (Piczak 2015), with spaces for underscores. `audioset`: the 527 display names of AudioSet
    (Gemmeke et al. 2017, Google, CC BY 4.0), in the order of its class_labels_indices.csv. Anything else is a text file in UTF-8 with one
    concept a line; blank lines and repetitions are left out. Raises UserError for a file that cannot be used.
    """
    name = str(name_or_path)
    if name in SHIPPED:
        file, column = SHIPPED[name]
        with open(HERE / file, newline="", encoding="utf-8") as table:
            concepts = [row[column] for row in csv.DictReader(table)]
        return [concept.replace("_", " ") for concept in concepts]
    path, wanted = Path(name_or_path), "give esc50, audioset or a text file with one concept a line"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"concept set {show(path)} has more than {MAX_BYTES >> 20} MiB: {wanted}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no concept set or file {show(name)}: {wanted}") from None
    except OSError as error:
        raise UserError(f"concept set {show(path)} cannot be read ({error.strerror}): {wanted}") from None
    except ValueError:  # UnicodeDecodeError, and a path with a null character
        raise UserError(f"concept set {show(name)} is not text in UTF-8: {wanted}") from None
    found = dict.fromkeys(" ".join(line.split()) for line in text.split("\n"))
    found.pop("", None)
    if not found:
        raise UserError(f"concept set {show(path)} holds no concepts: {wanted}")
    return list(found)


@functools.cache
def word_list(name: str) -> frozenset[str]:
    """Words of ingest/language/words/NAME.txt, one a line: acoustic_adjectives (what stands in for a language model's answers to acoustic_question),
    stop_words, trivial_adjectives."""
    lines = (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


@functools.cache
def class_names() -> dict[str, tuple[str, ...]]:
    """What ESC-50's classes are called in descriptions, by class with spaces for underscores: nouns in the singular, verbs ending in -ing; of a
    name of several words all must be there. Classes of other data sets have no list."""
    with open(HERE / "class_names.csv", newline="", encoding="utf-8") as table:
        return {row["class"].replace("_", " "): tuple(row["names"].split(SEPARATOR)) for row in csv.DictReader(table)}


ESC50_AUDIOSET = HERE / "esc50_audioset.csv"
SEPARATOR = ";"


def read_label_map(path: Path = ESC50_AUDIOSET) -> dict[str, list[str]]:
    """A data set's classes and the output names that mean each, from a CSV with two columns, names separated by semicolons; often several,
    and none where the network knows no such class. The default leads from ESC-50 to AudioSet (display names of YAMNet's class map)."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"label map {path} cannot be read: {str(error).splitlines()[0]}") from None
    for line, row in enumerate(rows, start=2):
        if len(row) != 2 or len(header) != 2:
            raise UserError(f"label map {path} has {len(row)} columns in line {line}: give class and names, separated by {SEPARATOR}")
    found: dict[str, list[str]] = {}
    for name, names in rows:
        if name in found:
            raise UserError(f"label map {path} lists the class {name} twice: give all its names in one row")
        found[name] = [part.strip() for part in names.split(SEPARATOR) if part.strip()]
    return found


@functools.cache
def class_prompts(reader: str) -> str:
    """The CLAP paper's prompt (Table 3) for data sets of a reader, with {} for a class's name; for others "this is a sound of {}"."""
    with open(HERE / "prompts.csv", newline="", encoding="utf-8") as table:
        shipped = {row["reader"]: row["prompt"] for row in csv.DictReader(table)}
    return shipped.get(reader.split(" ")[0], shipped["esc50"])


@functools.cache
def opposites() -> tuple[tuple[frozenset[str], ...], ...]:
    """Words that exclude each other: sides of each line of words/opposites.txt, a word of one against those of the others."""
    lines = (HERE / "opposites.txt").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(frozenset(side.split()) for side in line.split("|")) for line in lines if not line.startswith("#"))


@functools.cache
def sounds_like() -> dict[str, tuple[str, ...]]:
    """What sounds are like, by word: words/sounds_like.txt, which was written by hand."""
    lines = (HERE / "sounds_like.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("|") for line in lines if not line.startswith("#")]
    return {word: tuple(like.split()) for words, like in pairs for word in words.split()}
