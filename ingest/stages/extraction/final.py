"""Where a run's matrices lie in the end: a layer and reduction in one file, copied together from segments, or in a folder of parts, which these are.

Parts are moved, never copied, as a data set of many clips leaves no room for a copy; but where float16 does for the layer and its segments are float32.
A layer counts when its rows are committed: what was moved before goes back when the run is continued.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ingest.stages.extraction.measured import Segment
from ingest.stages.extraction.segments import Extraction
from warehouse import store
from warehouse.matrices import Matrix, part_name, write_matrix


def final_path(folder: Path, layer_id: int, layer: str, reduction: str, *, in_parts: bool) -> Path:
    """File, or folder of parts, of a matrix in a run's folder."""
    name = f"{layer_id:04d}-{re.sub(r'[^A-Za-z0-9]+', '-', layer)[:60]}.{reduction}"
    return folder / (name if in_parts else f"{name}.npy")


def copied_together(path: Path, matrix: Matrix, dtype: np.dtype) -> str:
    """Write a matrix to one file, in place of what was there; returns its hash."""
    temporary = path.with_name(path.name + ".tmp")
    digest = write_matrix(temporary, matrix.shape, dtype, (values for _, values in matrix.blocks()))
    store.publish(temporary, path)
    return digest


def moved_together(path: Path, extraction: Extraction, segments: Sequence[Segment], key: tuple[int, str], dtype: np.dtype) -> pl.DataFrame:
    """Make segments' files of a layer and reduction the parts of a folder; returns rows of table activation_part. Written anew are those of another type."""
    path.mkdir(exist_ok=True)
    rows = []
    for segment in segments:
        column = segment.segment * extraction.size
        file, part = extraction.file(segment, key), path / part_name(column)
        if dtype == extraction.dtype:
            store.publish(file, part)
            digest = extraction.sha256(segment, key)
        else:
            digest = copied_together(part, Matrix([file]), dtype)
        rows.append({"first_column": column, "clips": segment.clips, "sha256": digest})
    return pl.DataFrame(rows)


def put_back(extraction: Extraction, counted: Mapping[int, str], places: Mapping[tuple[int, str], Path]) -> None:
    """Move parts of matrices that did not come to count, by number of layer and reduction, back to the segments that they are known to be of by
    their hashes."""
    for key, place in places.items():
        if place.is_dir():
            for segment in extraction.told(counted):
                part, file = place / part_name(segment.segment * extraction.size), extraction.file(segment, key)
                if part.is_file() and not file.exists() and store.sha256_file(part) == extraction.sha256(segment, key):
                    store.publish(part, file)
            shutil.rmtree(place)
