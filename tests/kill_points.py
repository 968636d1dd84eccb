"""Run a small study once per point at which a crash could hurt, killed there with SIGKILL and resumed. Called by test_resume.

python -m tests.kill_points FOLDER [parts]: leaves FOLDER/whole/w.duckdb and FOLDER/N/w.duckdb for every point N, and prints their number. With `parts`
only activations are ingested, and their matrices are folders of parts.
A fork per run spares loading torch, and asking for versions, each time; the parent itself computes nothing and opens no database.
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.ipc  # noqa: F401  what polars hands DuckDB is read with it
import torch

from ingest.networks import audio_text, registry  # noqa: F401  loaded before the fork, not after each
from ingest.run import run_study
from ingest.stages import activations, clips, clusters, interventions, probes  # noqa: F401
from ingest.stages.extraction import segments
from ingest.study import DatasetChoice, NetworkChoice, Study
from tests.small import Silent, write_label_map, write_sounds
from warehouse import ledger, store

WORKERS = 2


class Points:
    """Counts the moments before and after each commit and file move, and dies at one of them."""

    def __init__(self, deadly=None):
        self.count, self.deadly = 0, deadly
        self.publish, self.transaction = store.publish, store.transaction
        store.publish, store.transaction = self.published, self.committed

    def reach(self):
        self.count += 1
        if self.count == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def published(self, temporary, final):
        self.reach()
        self.publish(temporary, final)
        self.reach()

    @contextlib.contextmanager
    def committed(self, *arguments, **options):
        with self.transaction(*arguments, **options) as con:
            yield con
            self.reach()
        self.reach()


def run(folder, sounds, parts, deadly=None):
    """One study in a child process; returns its exit signal or, by a file, the points it passed."""
    child = os.fork()
    if child == 0:
        points = Points(deadly)
        study = Study(
            (DatasetChoice("folder", sounds, "sounds"),),
            (NetworkChoice(f"{Path(__file__).parent / 'small.py'}:planted_network"),),
            stages=() if parts else ("probes", "clusters", "interventions"),
            settings={
                "activations": activations.Settings(dtype="float32" if parts else "auto", device="cpu", batch=4, top_k=5),
                "interventions": interventions.Settings(largest=1, repeats=2, label_map=sounds / "map.csv"),
            },
        )
        run_study(folder / "w.duckdb", study, Silent())
        (folder / "points").write_text(str(points.count))
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(folder, parts):
    """Do it all."""
    torch.set_num_threads(1)
    clips.BATCH, segments.SEGMENT_CLIPS = 13, 16 if parts else 12
    if parts:
        segments.FILE_CLIPS = 20
    sounds = write_sounds(folder / "sounds")
    (sounds / "low" / "broken.wav").write_text("not sound")
    write_label_map(sounds / "map.csv")
    for file in sounds.rglob("*.wav"):
        os.utime(file, (0, 0))  # as files are that have lain there: their hashes are kept
    ledger.package_versions(), ledger.git_revision()  # kept for the children
    (folder / "whole").mkdir()
    assert run(folder / "whole", sounds, parts) == 0
    total = int((folder / "whole" / "points").read_text())
    workers = [os.fork() or kill_and_resume(folder, sounds, parts, range(first, total + 1, WORKERS)) for first in range(1, WORKERS + 1)]
    assert not any(os.waitpid(worker, 0)[1] for worker in workers)
    print(total)


def kill_and_resume(folder, sounds, parts, points):
    """Work of a child: one study after another killed at its point and resumed."""
    for point in points:
        place = folder / str(point)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if os.WTERMSIG(run(place, sounds, parts, point)) != signal.SIGKILL or run(place, sounds, parts) != 0:
            os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] == ["parts"])
