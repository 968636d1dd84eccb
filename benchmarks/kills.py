"""Random kills of `auricle ingest` over most stages and of `auricle report`, each carried on to the end, against undisturbed runs.

    python -m benchmarks.kills [KILLS] [FOLDER]

A round ingests one of two studies into a new warehouse and renders its site: one of a small network with every stage but tuning, zero_shot and
validation, and one of the planted network with validation. Each process is killed with SIGKILL at a moment drawn uniformly between its start and a span that is
the whole of an undisturbed run or a part of it, and the next one continues, until one comes to its end. Then every table (without times)
and every activation file must equal the undisturbed ones, every file of the site those of an undisturbed report, nothing unfinished may lie
about, and `check` must find nothing. Counts go to results/kills.json after each round, and on from there: called again, it goes on until
there are KILLS (1000).

A process is forked after the imports, and computes by one thread at the lowest priority. What a round left that was unequal is kept in FOLDER
(a temporary one by default).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.ipc  # noqa: F401  loaded before the fork, not after each, as are the stages and the report below
import torch

from ingest import stages
from ingest.language.text_encoders import load_encoder
from ingest.networks import audio_text, planted, registry  # noqa: F401
from ingest.run import run_study
from ingest.stages import clips
from ingest.stages.extraction import segments
from ingest.study import Study, make_study
from report.site import build
from tests.small import write_label_map, write_sounds
from tests.test_resume import content
from warehouse import ledger
from warehouse.check import check

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "kills.json"
KILLS, SEED = 1000, 0
ALONE = {f"{library}_THREADS": "1" for library in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "RAYON_NUM", "POLARS_MAX")} | {
    "TOKENIZERS_PARALLELISM": "false"
}
"""One thread, from the start of a process."""
SPANS = (1, 1 / 2, 1 / 4, 1 / 8)
"""Of an undisturbed run's time: how late a process may be killed. Drawn once a round and command."""
MOST = 24
"""Kills of one command in a round, after which it is left to end."""
HANGS_S = 600
ANALYZED = ("captions", "descriptions", "scores", "dissections", "polysemanticity", "ablations")
FIRST = ("probes", "clusters", "interventions", "specificity", "specific_ablations")

Line = str


def studies(folder: Path) -> dict[str, Study]:
    """The two studies by name; their sounds lie in the folder."""
    sounds = write_sounds(folder / "sounds")
    (sounds / "low" / "broken.wav").write_text("not sound")
    disturbed = {"label_map": str(write_label_map(folder / "map.csv"))}
    small = {
        "stages": [*FIRST, *ANALYZED],
        "dataset": [{"reader": "folder", "source": str(sounds), "name": "sounds"}],
        "network": [{"name": f"{ROOT / 'tests' / 'small.py'}:small_network"}],
        "activations": {"device": "cpu", "batch": 4, "top_k": 5},
        "interventions": {"largest": 2, "repeats": 2, **disturbed},
        "specific_ablations": {"draws": 2, **disturbed},
        "specificity": {"lowest_entropy": 0.5, "class_quantile": 0.8},
        "descriptions": {"held_out": 0.5},
        "dissections": {"concepts": "classes"},
        "ablations": {"shares": [0.25], "seeds": 2},
    }
    known = {
        "stages": ["validation"],
        "dataset": [{"reader": "starter", "source": str(folder / "starter"), "per_class": 2}],
        "network": [{"name": "planted", "layers": ["classes", "outputs"]}],
        "activations": {"device": "cpu", "top_k": 5},
        "specificity": {"lowest_entropy": 0.3},
        "polysemanticity": {"clusters": 5, "most_common": 0.5},
        "dissections": {"concepts": "classes"},
        "ablations": {"shares": [], "seeds": 1},
    }
    return {"small": make_study(small, "small"), "planted": make_study(known, "planted")}


class Mark:
    """What a child is at, in memory that it shares with its parent."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 128)

    def set(self, text: str) -> None:
        """Write it."""
        self.memory[:128] = text.encode()[:128].ljust(128)

    def get(self) -> str:
        """Read it."""
        return self.memory[:128].decode().strip()


class Reporter:
    """Says nothing, and marks the stage."""

    def __init__(self, mark: Mark, study: Study) -> None:
        self.mark = mark
        self.titles = {stages.load(name).TITLE.partition("{")[0]: name for name in study.planned()}

    def say(self, line: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Mark the stage of a title."""
        self.mark.set(self.titles[max((begin for begin in self.titles if title.startswith(begin)), key=len)])
        yield lambda done, total: None


class Runs:
    """Children that ingest a study and render its site."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, Mark()
        self.studies = studies(folder)

    def ingest(self, study: str, place: Path) -> Callable[[], object]:
        """What a child does to ingest."""
        return lambda: run_study(place / "w.duckdb", self.studies[study], Reporter(self.mark, self.studies[study]))

    def report(self, study: str, place: Path) -> Callable[[], object]:
        """What a child does to render."""

        def work() -> None:
            self.mark.set("report: pages")
            build(place / "w.duckdb", place / "site", progress=lambda part, done, total: self.mark.set(f"report: {part}"))

        return work

    def child(self, work: Callable[[], object], moment: float | None) -> tuple[bool, str, float]:
        """Do a piece of work in a child, killed after so many seconds; whether it was, at what, and the seconds that it took."""
        self.mark.set("start")
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        deadline = started + (HANGS_S if moment is None else moment)
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                break
            if (left := deadline - time.monotonic()) <= 0:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                break
            time.sleep(min(left, 0.005))
        seconds = time.monotonic() - started
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed and moment is None:
            raise Fault(f"a process was at {self.mark.get()} for {HANGS_S} s")
        if not killed and status:
            raise Fault(f"a process at {self.mark.get()} ended with status {status}")
        return killed, self.mark.get(), seconds


class Fault(Exception):
    """Something that must not be, in a line."""


def times_of(path: Path) -> None:
    """Give every run the same times, which pages show."""
    with duckdb.connect(str(path)) as con:
        con.execute("UPDATE run SET started_at = TIMESTAMPTZ '2026-01-01 00:00:00Z', finished_at = TIMESTAMPTZ '2026-01-01 00:00:01Z'")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(whole: Path, place: Path) -> list[Line]:
    """What of a warehouse differs from the undisturbed one."""
    one, other = content(whole / "w.duckdb"), content(place / "w.duckdb")
    found = [f"table {table}" for table in one.keys() | other.keys() if one.get(table) != other.get(table)]
    files, others = hashes(whole / "w.activations"), hashes(place / "w.activations")
    found += [f"activations {path}" for path in files.keys() | others.keys() if files.get(path) != others.get(path)]
    found += [f"left: {path.name}" for path in place.rglob("*") if path.suffix in (".tmp", ".wal")]
    return sorted(found + [f"check: {line}" for line in check(place / "w.duckdb")])


def site_differences(whole: Path, site: Path) -> list[Line]:
    """What of a site differs from the undisturbed one."""
    files, others = hashes(whole), hashes(site)
    return sorted(f"site {path}" for path in files.keys() | others.keys() if files.get(path) != others.get(path))


def killed_to_the_end(runs: Runs, work: Callable[[], object], rng: np.random.Generator, whole_s: float) -> list[str]:
    """Do a piece of work, killed again and again; what it was at each time."""
    span, found = whole_s * float(rng.choice(SPANS)), []
    while len(found) < MOST:
        killed, at, _ = runs.child(work, float(rng.uniform(0, span)))
        if not killed:
            return found
        found.append(at)
    runs.child(work, None)
    return found


@dataclass
class Round:
    """What was killed, and what is unequal."""

    kills: list[str] = field(default_factory=list)
    unequal: list[Line] = field(default_factory=list)


def one_round(runs: Runs, number: int, whole: dict[str, tuple[Path, float, float]]) -> Round:
    """One study killed to its end; its folder stays where something is unequal."""
    rng = np.random.default_rng([SEED, number])
    study = tuple(whole)[number % len(whole)]
    undisturbed, ingest_s, report_s = whole[study]
    place = runs.folder / f"round-{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    found = Round()
    try:
        found.kills += killed_to_the_end(runs, runs.ingest(study, place), rng, ingest_s)
        found.unequal += differences(undisturbed, place)
        times_of(place / "w.duckdb")
        found.kills += killed_to_the_end(runs, runs.report(study, place), rng, report_s)
        found.unequal += site_differences(undisturbed / "site", place / "site")
    except Fault as fault:
        found.unequal.append(str(fault))
    if not found.unequal:
        shutil.rmtree(place)
    found.unequal = [f"round {number}, {study}: {line}" for line in found.unequal]
    return found


def main(wanted: int, folder: Path) -> None:
    """Undisturbed runs first, then rounds."""
    os.nice(19)
    torch.set_num_threads(1)
    clips.BATCH, segments.SEGMENT_CLIPS = 13, 12
    folder.mkdir(parents=True, exist_ok=True)
    runs = Runs(folder)
    for name in stages.BUILT_IN:
        stages.load(name)
    ledger.package_versions()
    revision = ledger.git_revision() or "unknown"
    encoder = load_encoder("minilm")
    _ = encoder.parameters, encoder.encoder._loaded  # kept for the children
    whole = {}
    for study in runs.studies:
        place = folder / f"whole-{study}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        runs.child(runs.ingest(study, place), None)  # the first one also writes what is kept, such as sounds
        shutil.rmtree(place)
        place.mkdir()
        _, _, ingest_s = runs.child(runs.ingest(study, place), None)
        times_of(place / "w.duckdb")
        _, _, report_s = runs.child(runs.report(study, place), None)
        whole[study] = place, ingest_s, report_s
        print(f"{study}: ingest {ingest_s:.1f} s, report {report_s:.1f} s, {len(hashes(place / 'site'))} files of the site", flush=True)
    empty = {"kills": 0, "rounds": 0, "by_stage": {}, "unequal": [], "revisions": {}}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else empty
    while results["kills"] < wanted:
        found = one_round(runs, results["rounds"], whole)
        results["rounds"] += 1
        results["kills"] += len(found.kills)
        results["by_stage"] = dict(sorted((Counter(results["by_stage"]) + Counter(found.kills)).items()))
        results["unequal"] += found.unequal
        results["revisions"][revision] = results["revisions"].get(revision, 0) + len(found.kills)
        temporary = RESULTS.with_suffix(".tmp")
        temporary.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(temporary, RESULTS)
        print(
            f"{time.strftime('%H:%M:%S')} round {results['rounds']}: {results['kills']} kills, {len(results['unequal'])} unequal",
            flush=True,
        )
        for line in found.unequal:
            print(line, flush=True)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ALONE.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.kills", *sys.argv[1:]], {**os.environ, **ALONE})
    place = Path(sys.argv[2]).absolute() if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="kills-"))
    main(int(sys.argv[1]) if len(sys.argv) > 1 else KILLS, place)
