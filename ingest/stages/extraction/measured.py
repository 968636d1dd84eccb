"""Segments of a run's clips as they were measured, and the files that say so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from warehouse import store
from warehouse.matrices import joint_sha256


@dataclass(frozen=True)
class Segment:
    """A segment as it was measured: which of the plan, how many clips, on which node and kind of device, in how many seconds, by which attempt, SHA-256
    of its files of values [neurons, clips] in the order of Extraction.files, and the failures by clip."""

    segment: int
    clips: int
    attempt: str
    node: str
    device: str
    seconds: float = 0.0
    files: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()

    @property
    def item(self) -> str:
        """Its name as a unit of work."""
        return item(self.segment)

    @property
    def name(self) -> str:
        """What its files and folder are called."""
        return f"segment-{self.segment:05d}.{self.attempt}"

    @property
    def sha256(self) -> str:
        """SHA-256 of its files' hashes."""
        return joint_sha256(self.files)

    def values(self, folder: Path) -> Path:
        """Folder of its files of values."""
        return folder / self.name

    def ranking(self, folder: Path) -> Path:
        """File of its highest and lowest clips, by number of layer; positions have none."""
        return folder / f"{self.name}.npz"

    def record(self, folder: Path) -> Path:
        """File that says it is whole."""
        return folder / f"{self.name}.json"

    def tell(self, folder: Path) -> None:
        """Say that it is whole."""
        path = self.record(folder)
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(asdict(self)))
        store.publish(temporary, path)

    @classmethod
    def read(cls, path: Path) -> Segment:
        """What was told. Raises OSError, ValueError, TypeError or KeyError for what is no such record."""
        return cls.of(json.loads(path.read_text()))

    @classmethod
    def of(cls, told: dict[str, Any]) -> Segment:
        """What a record says. Raises TypeError or KeyError for what is none."""
        failures = tuple((name, reason) for name, reason in told["failures"])
        return cls(**{**told, "files": tuple(told["files"]), "failures": failures})


def item(segment: int) -> str:
    """A segment's name as a unit of work."""
    return f"segment {segment:05d}"
