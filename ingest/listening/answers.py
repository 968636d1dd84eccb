"""What `auricle listen` asks: files through a network, alone or against others, and keeping a folder of them as a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ingest.listening.sounds import File, Sound, find_files, read_sounds, reader_of
from warehouse.store import UserError

if TYPE_CHECKING:
    from ingest.listening.ear import Ear
    from ingest.run import Reporter

ROWS, ROWS_IN_ALL = 3, 20
"""Neurons shown of each layer; where two groups are compared, in all."""
SHOWN, SHOWN_BESIDE = 12, 4
"""Sounds on a page; on each side where two groups are compared."""
WORDS = 70
BARS = " ▁▂▃▄▅▆▇█"
BARS_ACROSS = 16


@dataclass(frozen=True)
class Answer:
    """Sounds as an `ear` heard them, those that they were compared with (`against`, or none), what both are called, and `neurons`, of listen.listen or
    listen.tell_apart with its `test`."""

    ear: Ear
    sounds: list[Sound]
    against: list[Sound]
    titles: tuple[str, str]
    neurons: pl.DataFrame
    test: str | None = None

    @property
    def heading(self) -> str:
        """What was heard, by what, and among what the percentiles are."""
        run = self.ear.run
        one = _named(self.titles[0], self.sounds)
        by = f"{run.network}, percentiles among {run.clips} clips of {run.dataset} (run {run.run_id}, {self.ear.places[0].reduction})"
        if not self.against:
            return f"{one}; {by}"
        tested = {"paired": f"{len(self.sounds)} pairs by name", "two-sample": "two samples", None: "two single sounds, nothing is tested"}
        return f"{one} against {_named(self.titles[1], self.against)}; {by}; {tested[self.test]}"

    def top(self, rows: int | None = None) -> pl.DataFrame:
        """The neurons that are shown: so many of each layer, over all sounds where there are several; of two groups so many in all."""
        from ingest.listening.listen import summarise

        if self.against:
            return self.neurons.head(rows or ROWS_IN_ALL)
        frame = self.neurons if len(self.sounds) == 1 else summarise(self.neurons)
        return frame.filter(pl.col("rank") <= (rows or ROWS))

    def shown(self, rows: int | None = None) -> dict[str, Any]:
        """What a page shows of it: report.listening.Listening's fields, sounds as tuples of Heard's. The first sounds are shown, each with
        its own most unusual neurons, or of two groups with those of `top`."""
        from ingest.listening.listen import listen

        found = self.top(rows)
        sides, only = [], found["neuron_id"].implode()
        for sounds in (self.sounds, self.against) if self.against else (self.sounds,):
            first = [sound for sound in sounds if sound.path][: SHOWN_BESIDE if self.against else SHOWN]
            heard = self.neurons if sounds is self.sounds and not self.against else listen(self.ear, first)
            wanted = pl.col("neuron_id").is_in(only) if self.against else pl.col("rank") <= (rows or ROWS)
            sides.append(
                [
                    (sound.name, sound.path, sound.start_s, sound.heard_s, sound.duration_s, sound.part,
                     heard.filter(pl.col("sound") == sound.name, wanted))
                    for sound in first
                ]
            )  # fmt: skip
        counts = [len(self.sounds), len(self.against)] if self.against else [len(self.sounds)]
        return {
            "heading": self.heading, "run_id": self.ear.run.run_id, "clip_s": self.ear.network.clip_s, "rate_hz": self.ear.network.sample_rate_hz,
            "sides": sides, "counts": counts, "titles": self.titles, "neurons": found.head(0) if counts == [1] else found, "is_tested": self.test is not None,
        }  # fmt: skip

    def table(self, rows: int | None = None) -> tuple[list[str], list[tuple]]:
        """Headers and rows of a table of `top`."""
        found = self.top(rows)
        if self.against:
            numbers = ["percentile", "percentile_other", "difference", "q_value"][: 4 if self.test else 3]
        elif len(self.sounds) == 1:
            numbers = ["value", "percentile", "deviations"]
        else:
            numbers = ["percentile", "lowest", "highest"]
        course = ["course"] if "course" in found.columns and found["course"].count() else []
        lines = [
            (row["layer"], _unit(row), *(row[name] for name in numbers), *(_bars(row[name]) for name in course), _said(row))
            for row in found.iter_rows(named=True)
        ]
        return ["layer", "unit", *numbers, *course, "what is known of it"], lines


def ask(warehouse: Path, files: Sequence[Path], against: Sequence[Path], say: Callable[[str], None], **choice: Any) -> Answer:
    """Listen to files and folders, or compare them with others; `choice` as of ear.open_ear. What is left out is said. Raises UserError."""
    found = [find_files(paths, say) for paths in (files, against)]
    from ingest.listening.ear import open_ear
    from ingest.listening.listen import listen, tell_apart

    ear = open_ear(warehouse, **choice)
    titles = (_title(files, found[0]), _title(against, found[1]))
    sounds, others = (_read(ear, part, paths, say) for part, paths in zip(found, (files, against), strict=True))
    if others:
        apart = tell_apart(ear, sounds, others)
        return Answer(ear, sounds, others, titles, apart.neurons, apart.test)
    return Answer(ear, sounds, [], titles, listen(ear, sounds))


def check_keeps(files: Sequence[Path], against: Sequence[Path]) -> None:
    """Raise UserError unless what is listened to is one folder, which can be kept as a data set."""
    if against or len(files) != 1 or not files[0].is_dir():
        raise UserError("--keep makes a data set of one folder: give that folder alone")


def keep(ear: Ear, folder: Path, name: str, reporter: Reporter) -> int:
    """Make a data set of a folder and record the ear's network over it, as an ingest of the folder with the settings of the ear's run; gives the number of
    failures."""
    from ingest.run import run_study
    from ingest.stages.extraction.segments import Settings
    from ingest.study import DatasetChoice, NetworkChoice, Study

    given = ear.run.parameters
    settings = Settings(
        dtype="float32" if given.get("dtype") == "float32" else "auto",
        precision=given.get("precision", "float32"),
        top_k=given.get("top_k", 20),
        shares=given.get("shares"),
        token=given.get("token", "all"),
        device=ear.device,
    )
    layers = tuple(given["layers"]) if given.get("layers") else None
    network = NetworkChoice(ear.loaded.spec, ear.loaded.weights, ear.loaded.clip_s, layers, bool(given.get("positions")), ear.loaded.names)
    study = Study((DatasetChoice(reader_of(folder), folder, name),), (network,), settings={"activations": settings})
    return run_study(ear.warehouse, study, reporter)


def _unit(row: dict[str, Any]) -> str:
    """A neuron within its layer: number, and position or name where it has one."""
    place = "" if row["time_position"] is None else f" ({row['time_position']}, {row['frequency_position']})"
    return f"{row['unit']}{place}" + (f" ({row['neuron']})" if row["neuron"] is not None else "")


def _read(ear: Ear, files: list[File], named: Sequence[Path], say: Callable[[str], None]) -> list[Sound]:
    network = ear.network
    return read_sounds(
        files, sample_rate_hz=network.sample_rate_hz, clip_s=network.clip_s, shortest_s=network.shortest_s, named=named, say=say
    ) if files else []  # fmt: skip


def _title(given: Sequence[Path], files: Sequence[File]) -> str:
    """What sounds are called: after the file or folder that was given."""
    names = [path.resolve().name for path in given]
    return files[0].name if len(files) == 1 else ", ".join(names[:3]) + (", …" if names[3:] else "")


def _named(title: str, sounds: Sequence[Sound]) -> str:
    if len(sounds) == 1:
        return f"{sounds[0].name}, {sounds[0].part}"
    cut = sum(sound.is_cut for sound in sounds)
    return f"{title}, {len(sounds)} sounds" + (f", of {'all' if cut == len(sounds) else cut} the middle" if cut else "")


def _said(row: dict[str, Any]) -> str:
    """A neuron's description, else its best class."""
    if row["description"]:
        return row["description"] if len(row["description"]) <= WORDS else row["description"][: WORDS - 1].rstrip() + "…"
    if row["best_class"] is None or row["average_precision"] is None:
        return ""
    return f"best class {row['best_class']} (average precision {row['average_precision']:.2f})"


def _bars(course: list[float | None] | None) -> str:
    """A course as bars, from 0 or its lowest step to its highest; a blank where nothing is left of the sound."""
    known = [value for value in course or () if value is not None]
    if not course or not known:
        return ""
    low, high = min(0.0, *known), max(0.0, *known)
    width = -(-len(course) // BARS_ACROSS)
    parts = [[value for value in course[start : start + width] if value is not None] for start in range(0, len(course), width)]
    scale = (len(BARS) - 2) / ((high - low) or 1)
    return "".join(BARS[1 + round((max(part) - low) * scale)] if part else " " for part in parts)
