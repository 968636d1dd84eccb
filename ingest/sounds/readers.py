"""The readers of data sets, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ingest.sounds.attribute_sets import read_crema_d, read_gise_51, read_surge, read_voxceleb1, read_voxforge
from ingest.sounds.datasets import read_audiofolder, read_esc50, read_folder, read_starter
from ingest.sounds.listing import GUESSED, Listing, Reading
from ingest.sounds.metadata import show
from ingest.sounds.shards import read_parquet, read_webdataset
from ingest.sounds.task_sets import (
    read_gtzan,
    read_libricount,
    read_medley_solos_db,
    read_notes,
    read_nsynth,
    read_pcvc,
    read_speech_commands,
    read_stimuli,
)
from warehouse.store import UserError

SYNTHESISED = ("starter", "notes", "stimuli")  # readers that write the sounds they read


def read_dataset(reader: str, source: Path, name: str | None = None, reading: Reading = GUESSED) -> Listing:
    """List the sounds of the data set in folder `source`. `name` defaults to the reader's (esc50, starter) or the folder's name; readers
    that have to guess (GUESSING) keep to `reading`.

    Raises UserError where the data set as a whole cannot be read; a single bad file or row becomes a Rejected item.
    """
    if reader not in READERS:
        raise UserError(f"unknown reader {show(reader)}: choose one of {', '.join(READERS)}")
    if reader not in SYNTHESISED and not source.is_dir():
        problem = "is not a folder" if source.exists() else "does not exist"
        raise UserError(f"data set folder {show(source)} {problem}: give the folder that holds the sounds")
    if reading == GUESSED:
        return READERS[reader](source, name)
    if not (guessing := GUESSING.get(reader)):
        raise UserError(f"reader {reader} takes no labels, separator or splits: only {', '.join(GUESSING)} guess these")
    return guessing(source, name, reading)


GUESSING: dict[str, Callable[[Path, str | None, Reading], Listing]] = {
    "folder": read_folder,
    "audiofolder": read_audiofolder,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
}

READERS: dict[str, Callable[[Path, str | None], Listing]] = {
    "esc50": read_esc50,
    "folder": read_folder,
    "audiofolder": read_audiofolder,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
    "starter": read_starter,
    "nsynth": read_nsynth,
    "medley-solos-db": read_medley_solos_db,
    "gtzan": read_gtzan,
    "pcvc": read_pcvc,
    "speech-commands": read_speech_commands,
    "libricount": read_libricount,
    "notes": read_notes,
    "stimuli": read_stimuli,
    "crema-d": read_crema_d,
    "voxceleb1": read_voxceleb1,
    "voxforge": read_voxforge,
    "gise-51": read_gise_51,
    "surge": read_surge,
}
"""Readers by name. Each takes the folder and the data set's name or None; `read_dataset` checks the folder first."""
