"""What is YAMNet tuned to, layer by layer, and what does it cost to find out?

    python -m benchmarks.tuning FOLDER

Synthesises the stimuli in FOLDER, runs YAMNet over them and stage tuning on its activations, each timed in CPU seconds of this process and its
children. Writes benchmarks/results/tuning.json: the times, and by measure and layer the share of neurons tuned, median and quartiles.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from analyze import tables
from ingest.run import run_study
from ingest.sounds.stimuli import write_stimuli
from ingest.study import make_study
from tests.small import Silent
from warehouse import store

RESULTS = Path(__file__).parent / "results" / "tuning.json"
MEASURES = ("frequency_hz", "bandwidth_octaves", "rate_hz", "rate_holds", "direction", "pitch_hz", "gap_ms", "level_dbfs")


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of some work."""

    def spent() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(its.ru_utime + its.ru_stime for its in used)

    before = spent()
    work()
    return round(spent() - before, 1)


def main() -> None:
    """Measure, print, write."""
    folder = Path(sys.argv[1])
    warehouse = folder / "tuning.duckdb"

    def ingest(stage: str) -> float:
        study = {"stages": [stage], "dataset": [{"reader": "stimuli"}], "network": [{"name": "yamnet"}]}
        return cpu_s(lambda: run_study(warehouse, make_study(study, "study", folder), Silent()))

    times = {"battery": cpu_s(lambda: write_stimuli(folder / "stimuli")), "activations": ingest("activations"), "tuning": ingest("tuning")}
    with store.connect_readonly(warehouse) as con:
        rows = tables.table(con, "tuning").to_dicts()
    layers: dict[str, dict[str, dict[str, float | None]]] = {name: {} for name in MEASURES}
    for row in rows:
        if row["measure"] in layers:
            figures = {name: row[name] for name in ("tuned", "quantile_25", "median", "quantile_75", "mean")}
            layers[row["measure"]][row["layer"]] = {name: None if x is None else float(f"{x:.4g}") for name, x in figures.items()}
    RESULTS.write_text(json.dumps({"cpu_s": times, "layers": layers}, indent=1) + "\n")
    print(json.dumps({"cpu_s": times}))


if __name__ == "__main__":
    main()
