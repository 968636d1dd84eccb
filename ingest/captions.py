"""Captions: what clips sound like, in words. The captioners here need no audio language model; for those see ingest.audio_language."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ingest import acoustics
from ingest.datasets import AUDIO_ENDINGS
from ingest.language import MACHINE, MARKUP, REFUSAL, judged
from ingest.metadata import read_rows, show
from ingest.sound import SoundError, decode, fit
from warehouse.store import UserError, sha256_file

if TYPE_CHECKING:
    from ingest.networks import Network  # imports torch

WINDOW = 8  # tokens; Audio Network Dissection, released program
LONGEST_CAPTION = 4000  # characters
LONGEST_S = 600.0  # of longer files the middle is described
MAX_TAGS = 3
LOG_LENGTH = 10  # class scores kept in a caption's raw text
SPEECH = re.compile(r"\b(?:say|speak|talk|shout|sing|whisper|ask|repl[iy]|tell|word|lyric)|[\"“‘]")
Activation = Literal["none", "sigmoid", "softmax"]


@dataclass(frozen=True)
class Caption:
    """What a captioner says of a clip. `text` is None when that is no description, and `reason` says in one line why.

    `raw` is where the text comes from: the model's words, or measurements and class scores as JSON; empty when there are none.
    """

    text: str | None
    raw: str
    reason: str | None


class Captioner(Protocol):
    """What describes sound files in words."""

    @property
    def name(self) -> str:
        """Short name to show."""

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions, JSON-able: equal names and parameters give equal captions, as far as the engine can promise that."""

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file, in order."""


# --- From what a model said to a caption --------------------------------------------------------------------------------------------------


def accept(raw: str) -> Caption:
    """The caption in what a model said, cleaned up; none when that is empty, a refusal, in another script, or longer than 4,000 characters.

    Whatever the text asks a reader to do is left as it is: captions are only ever data.
    """
    safe, visible = judged(raw).raw, _visible(raw)
    reply = judged(visible)
    if reply.reason and not (reply.reason == "refusal" and _is_reported(visible)):
        return Caption(None, safe, reply.reason)
    text = clean_up(reply.text or visible)
    if len(text) > LONGEST_CAPTION:
        return Caption(None, safe, f"caption of {len(text)} characters, more than {LONGEST_CAPTION}")
    return Caption(text, safe, None) if any(map(str.isalpha, text)) else Caption(None, safe, "caption without a word")


def _is_reported(text: str) -> bool:
    """Whether what looks like a refusal is somebody's speech in the clip."""
    plain = text.lower().replace("’", "'")
    found = REFUSAL.search(plain)
    return found is not None and not MACHINE.search(plain) and bool(SPEECH.search(plain[: found.start()]))


def clean_up(text: str) -> str:
    """A text without markup, control characters, lone surrogates and needless space, and without what a looping model repeats.

    Where any eight tokens occur twice, the first line is kept, of a single line the first sentence (Audio Network Dissection, released
    program); what still repeats itself ends where it begins to.
    """
    from ingest.summaries import sentences

    visible = _visible(MARKUP.sub(" ", html.unescape(_visible(text))))
    lines = [line for line in (" ".join(line.split()) for line in visible.splitlines()) if line]
    if _repetition(" ".join(lines)) is None:
        return "\n".join(lines)
    first = lines[0] if len(lines) > 1 else sentences(lines[0])[0]
    if _repetition(first) is not None:
        first = sentences(first)[0]
    end = _repetition(first)
    return first if end is None else " ".join(first.split()[:end])


def _visible(text: str) -> str:
    """A text without characters that have no shape: control and format characters, lone surrogates, unassigned ones."""
    return "".join(c for c in text if c in "\t\n\r" or not unicodedata.category(c).startswith("C"))


def _repetition(text: str) -> int | None:
    """Number of the token at which a window of eight occurs for the second time; None when none does."""
    tokens = text.split()
    seen = set()
    for start in range(len(tokens) - WINDOW + 1):
        window = tuple(tokens[start : start + WINDOW])
        if window in seen:
            return start
        seen.add(window)
    return None


# --- By measurement -----------------------------------------------------------------------------------------------------------------------


class Acoustic:
    """Says what is measured (ingest.acoustics): nothing is invented. `clip_s` is what is heard of longer files, their middle."""

    name = "acoustic"

    def __init__(self, clip_s: float = LONGEST_S) -> None:
        self.clip_s = clip_s

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return {"version": acoustics.VERSION, "clip_s": self.clip_s}

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file; a file that cannot be read has none."""
        return [self._caption(path) for path in paths]

    def _caption(self, path: Path) -> Caption:
        try:
            mono, rate_hz, _ = decode(path, middle_s=self.clip_s)
        except SoundError as error:
            return Caption(None, "", str(error))
        found = acoustics.measure(mono, rate_hz)
        return Caption(" ".join(acoustics.describe(found)), json.dumps(_shortened(found)), None)


def _shortened(found: acoustics.Measurement) -> dict[str, float]:
    """What could be measured, to six digits."""
    return {name: float(f"{value:.6g}") for name, value in asdict(found).items() if value is not None}


# --- By another network's classes ---------------------------------------------------------------------------------------------------------


class Tags:
    """Says the classes that a classifier hears, one a sentence, and the measurements after them.

    A class is said when its score, the highest over the network's windows, is at least `threshold` and `share` of the clip's best, up to
    three of them; AudioSet's class Silence only when no other is. `activation` makes scores of the network's outputs; by default it is
    sigmoid or softmax by what the network was trained for, and none where the network ends in one. Dissecting the network whose classes
    these are would be circular: see `circular_for`.
    """

    name = "tags"

    def __init__(
        self,
        network: Network,
        *,
        acoustic: bool = True,
        threshold: float = 0.2,
        share: float = 0.4,
        activation: Activation | None = None,
        batch: int = 8,
    ) -> None:
        """Raises UserError for a network without class names."""
        if not network.output_names:
            raise UserError(f"{network.name} names no classes, so it cannot say what it hears: choose a classifier such as yamnet")
        self.network, self.acoustic, self.threshold, self.share, self.batch = network, acoustic, threshold, share, batch
        self.activation = activation or last_activation(network)
        self.names = [" ".join(clean_up(name).split())[:100] or f"class {index}" for index, name in enumerate(network.output_names)]

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return {
            "network": self.network.name,
            "network_sha256": self.network.checkpoint_sha256,
            "clip_s": self.network.clip_s,
            "acoustic": acoustics.VERSION if self.acoustic else None,
            "threshold": self.threshold,
            "share": self.share,
            "activation": self.activation,
        }

    def circular_for(self, target: Network) -> bool:
        """Whether these captions would explain `target` by its own classes: it is this network, or has its weights."""
        return target.name == self.network.name or target.checkpoint_sha256 == self.network.checkpoint_sha256

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file; a file that cannot be read, or of which nothing can be said, has none."""
        return [caption for start in range(0, len(paths), self.batch) for caption in self._batch(paths[start : start + self.batch])]

    def _batch(self, paths: Sequence[Path]) -> Iterator[Caption]:
        sounds: list[tuple[np.ndarray, int] | str] = []
        for path in paths:
            try:
                sounds.append(decode(path, middle_s=LONGEST_S)[:2])
            except SoundError as error:
                sounds.append(str(error))
        heard = [sound for sound in sounds if not isinstance(sound, str)]
        scores = iter(
            self.scores([fit(*sound, sample_rate_hz=self.network.sample_rate_hz, clip_s=self.network.clip_s)[0] for sound in heard])
        )
        for sound in sounds:
            yield Caption(None, "", sound) if isinstance(sound, str) else self._said(*sound, next(scores))

    def scores(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Scores [clips, classes] from 0 to 1 of waveforms of the network's length [samples]."""
        import torch

        if not waveforms:
            return np.zeros((0, len(self.names)))
        device = next((parameter.device for parameter in self.network.module.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            outputs = self.network.forward(self.network.prepare(torch.from_numpy(np.stack(waveforms)).to(device))).float()
            if self.activation != "none":
                outputs = outputs.sigmoid() if self.activation == "sigmoid" else outputs.softmax(dim=-1)
            return outputs.unflatten(0, (len(waveforms), self.network.windows)).amax(dim=1).cpu().double().numpy()

    def _said(self, mono: np.ndarray, rate_hz: int, scores: np.ndarray) -> Caption:
        ranked = [int(index) for index in np.argsort(-scores, kind="stable")]  # NaN comes last and is never said
        lowest = max(self.threshold, self.share * float(np.nan_to_num(scores).max()))
        heard = [index for index in ranked if scores[index] >= lowest]
        heard = [index for index in heard if self.names[index].lower() != "silence"] or heard
        said = [f"This sounds like {_spoken(self.names[index])}." for index in heard[:MAX_TAGS]]
        kept: dict[str, object] = {
            "classes": {self.names[index]: round(float(scores[index]), 4) for index in ranked[:LOG_LENGTH] if scores[index] >= 0}
        }
        if self.acoustic:
            found = acoustics.measure(mono, rate_hz)
            said += acoustics.describe(found)
            kept["measurements"] = _shortened(found)
        raw = json.dumps(kept)
        return Caption(" ".join(said), raw, None) if said else Caption(None, raw, f"no class scores {self.threshold:g} or more")


def last_activation(network: Network) -> Activation:
    """What turns a network's outputs into scores: nothing where its last module does, sigmoid for several classes at once, else softmax."""
    from torch import nn

    if isinstance(list(network.module.modules())[-1], (nn.Sigmoid, nn.Softmax)):
        return "none"
    config: Any = getattr(getattr(network.module, "model", None), "config", None)
    return "sigmoid" if getattr(config, "problem_type", None) == "multi_label_classification" else "softmax"


def _spoken(name: str) -> str:
    """A class name within a sentence; AudioSet's names give synonyms after commas."""
    words = re.sub(r"[\s_]+", " ", name.rstrip(".!? "))
    return (words[:1].lower() + words[1:] if words[1:2].islower() else words).replace(", ", " or ")


# --- From a file --------------------------------------------------------------------------------------------------------------------------


class Imported:
    """Captions from a CSV, JSON lines or Parquet file with the columns `file` (or `clip`) and `caption`.

    A file is named by its path within the data set or any end of it, with or without its ending.
    """

    name = "imported"

    def __init__(self, path: Path) -> None:
        """Read and check the file; raises UserError for one without these columns, with a bad row, or with two captions of a file."""
        self.path = path
        self._captions: dict[PurePosixPath, str] = {}
        for where, name, text in _parquet_rows(path) if path.suffix == ".parquet" else _table_rows(path):
            if not isinstance(name, str) or not name.strip("/ "):
                raise UserError(f"{show(path)} {where}: no file is named")
            if text is not None and not isinstance(text, str):
                raise UserError(f"{show(path)} {where}: the caption is {show(text, 40)}, not a text")
            key = _key(name)
            if key in self._captions:
                raise UserError(f"{show(path)} {where}: a second caption of {show(name)}: keep one")
            self._captions[key] = text or ""
        self._sha256 = sha256_file(path)

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the captions."""
        return {"sha256": self._sha256}

    def check(self, paths: Sequence[Path]) -> None:
        """Raise UserError when the file names sounds that are not among all of a data set's, or one line fits several of them."""
        taken: dict[PurePosixPath, Path] = {}
        for path in paths:
            if (key := self._find(path)) is not None:
                if key in taken:
                    raise UserError(f"{show(self.path)}: {show(key)} may be {show(taken[key])} or {show(path)}: name the folder, too")
                taken[key] = path
        if unknown := [key for key in self._captions if key not in taken]:
            raise UserError(f"{show(self.path)} names {len(unknown)} sounds that the data set does not have, first {show(unknown[0])}")

    def caption(self, paths: Sequence[Path]) -> list[Caption]:
        """One caption per file; those the file does not name have none."""
        keys = [self._find(path) for path in paths]
        return [Caption(None, "", f"not in {show(self.path.name)}") if key is None else accept(self._captions[key]) for key in keys]

    def _find(self, path: Path) -> PurePosixPath | None:
        """The longest end of a path that has a caption."""
        parts = _key(path.as_posix()).parts
        ends = (PurePosixPath(*parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in self._captions), None)


def _key(name: str) -> PurePosixPath:
    """A path without leading ./ and without an audio file's ending."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.strip().replace("\\", "/")))
    return path.with_suffix("") if path.suffix.lower() in AUDIO_ENDINGS else path


def _table_rows(path: Path) -> Iterator[tuple[str, object, object]]:
    """Place, file and caption of each row of a CSV or JSON lines file."""
    for line, row in read_rows(path, required=("caption",) if path.suffix == ".csv" else ()):
        if isinstance(row, str):
            raise UserError(f"{show(path)} line {line}: {row}: mend the row")
        column = next((name for name in ("file", "clip") if name in row), None)
        if column is None or "caption" not in row:
            missing = "caption" if column else "file or clip"
            raise UserError(f"{show(path)} has no column {missing}, only {show(', '.join(row))}: add it")
        yield f"line {line}", row[column], row["caption"]


def _parquet_rows(path: Path) -> Iterator[tuple[str, object, object]]:
    """Place, file and caption of each row of a Parquet file."""
    import polars

    try:
        columns = polars.read_parquet_schema(path)
        column = next((name for name in ("file", "clip") if name in columns), None)
        if column is None or "caption" not in columns:
            missing = "caption" if column else "file or clip"
            raise UserError(f"{show(path)} has no column {missing}, only {show(', '.join(columns))}: add it")
        table = polars.read_parquet(path, columns=[column, "caption"])
    except (OSError, polars.exceptions.PolarsError) as error:
        raise UserError(f"{show(path)} cannot be read as Parquet: {show(str(error).splitlines()[0], 120)}") from None
    for number, (name, text) in enumerate(zip(table[column], table["caption"], strict=True), start=1):
        yield f"row {number}", name, text
