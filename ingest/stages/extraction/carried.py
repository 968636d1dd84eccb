"""Segments by way of a folder at a URL, such as s3://BUCKET/FOLDER, from processes that do not see that of the warehouse.

Who measures a segment sends its files and then the record that says that it is whole; the process that writes the warehouse fetches them, and takes
them away when they are committed. What URLs there are, and how one is let in, is said by fsspec and the package for the store (s3fs, gcsfs, ...).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Generator, Sequence

from ingest.stages import Progress
from ingest.stages.extraction import stored_types
from ingest.stages.extraction.measured import Segment
from ingest.stages.extraction.segments import LOST, Extraction, Measure
from warehouse import store
from warehouse.store import UserError, first_line


class Carrier:
    """The folder at a URL. Raises UserError where it cannot be had."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec

            self._there, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"segments {url!r}: {first_line(error)}") from None
        self.url = url

    def segments(self, extraction: Extraction) -> dict[int, Segment]:
        """Those that lie there whole, by number."""
        with self._reached():
            names = sorted(name for name in self._names(extraction) if name.endswith(".json"))
            told = [Segment.of(json.loads(self._there.cat_file(self._at(extraction, name)))) for name in names]
        return {segment.segment: segment for segment in told if extraction.fits(segment)}

    def send(self, extraction: Extraction, segment: Segment) -> None:
        """Send a segment of the plan's folder, in which it is then no more."""
        folder = extraction.plan.folder
        with self._reached():
            self._there.makedirs(self._at(extraction, segment.name), exist_ok=True)
            for name in extraction.names(segment):
                self._there.put_file(str(folder / name), self._at(extraction, name))
            record = segment.record(folder)
            self._there.put_file(str(record), self._at(extraction, record.name))
        shutil.rmtree(segment.values(folder))
        for path in (record, segment.ranking(folder)):
            path.unlink(missing_ok=True)

    def fetch(self, extraction: Extraction, segment: Segment) -> None:
        """Fetch a segment into the plan's folder. Raises UserError where it is not what was measured."""
        folder = extraction.plan.folder
        segment.values(folder).mkdir(parents=True, exist_ok=True)
        with self._reached():
            for name in extraction.names(segment):
                self._there.get_file(self._at(extraction, name), str(folder / name))
        for key in extraction.files:
            if store.sha256_file(extraction.file(segment, key)) != extraction.sha256(segment, key):
                raise UserError(
                    f"{self.url}: {segment.name}/{extraction.files[key]} is not what was measured: delete {segment.name}.json there"
                )
        segment.tell(folder)

    def lost(self, extraction: Extraction) -> bool:
        """Whether somebody found that float16 does not keep all values; then it is said in the plan's folder, too."""
        with self._reached():
            found = LOST in self._names(extraction)
        if found:
            extraction.plan.folder.mkdir(parents=True, exist_ok=True)
            (extraction.plan.folder / LOST).touch()
        return found

    def say_lost(self, extraction: Extraction) -> None:
        """Say that."""
        with self._reached():
            self._there.makedirs(self._at(extraction, ""), exist_ok=True)
            self._there.pipe_file(self._at(extraction, LOST), b"float16")

    def clear(self, extraction: Extraction) -> None:
        """Delete what lies there of the plan's segments."""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            self._there.rm(self._at(extraction, ""), recursive=True)

    def _names(self, extraction: Extraction) -> list[str]:
        self._there.invalidate_cache()
        try:
            return [name.rstrip("/").rpartition("/")[2] for name in self._there.ls(self._at(extraction, ""), detail=False)]
        except FileNotFoundError:
            return []

    def _at(self, extraction: Extraction, name: str) -> str:
        return f"{self._root.rstrip('/')}/{extraction.plan.folder.name}/{name}".rstrip("/")

    @contextlib.contextmanager
    def _reached(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"segments {self.url!r}: {first_line(error)}") from None


def fetched(carrier: Carrier, measure: Measure) -> Measure:
    """Fetches the segments that lie at the URL, and has `measure`, whose processes send what they measure, do the others."""

    def measured(extraction: Extraction, numbers: Sequence[int], progress: Progress) -> Generator[Segment]:
        if carrier.lost(extraction):
            raise stored_types.Lost
        there = carrier.segments(extraction)
        wanted = [there[number] for number in numbers if number in there]
        rest = [number for number in numbers if number not in there]
        try:
            with contextlib.closing(measure(extraction, rest, progress)) if rest else contextlib.nullcontext(()) as others:
                for segment in itertools.chain(wanted, others):
                    carrier.fetch(extraction, segment)
                    yield segment
        except stored_types.Lost:
            carrier.say_lost(extraction)
            carrier.lost(extraction)
            raise
        carrier.clear(extraction)

    return measured
