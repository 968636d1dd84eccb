"""The low-level task: what layers of a network of pitch (CREPE tiny) hold of notes and are tuned to, beside one of sound events (YAMNet).

    python -m benchmarks.pitch WAREHOUSE

Of every layer: how many of 360 synthesised notes a linear classifier tells rightly from means over time, by note name (12 classes, whatever
the octave), over folds that keep timbres whole; and the tuning of its neurons (medians and quartiles of best frequency, bandwidth and pitch apart
from the spectrum, and the shares tuned). Both hear the middle second of a clip, so that they have the same of it. How close CREPE's outputs are to
their published pitches is benchmarks/crepe.py's. Writes benchmarks/results/pitch.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from analyze import tables
from ingest.run import run_study
from ingest.study import make_study
from tests.small import Silent
from warehouse import store

RESULTS = Path(__file__).parent / "results" / "pitch.json"
NETWORKS = ("yamnet", "crepe-tiny")
CLIP_S = 1.0


def main() -> None:
    """Measure, print, write."""
    warehouse = Path(sys.argv[1]).resolve()
    network = [{"name": name, "clip_s": CLIP_S} for name in NETWORKS]
    for stage, reader in (("probes", "notes"), ("tuning", "stimuli")):
        study = {"stages": [stage], "dataset": [{"reader": reader}], "network": network}
        run_study(warehouse, make_study(study, "study", warehouse.parent), Silent())
    found: dict[str, dict[str, dict[str, object]]] = {name: {} for name in NETWORKS}
    with store.connect_readonly(warehouse) as con:
        probes = tables.table(con, "probes").to_dicts()
        tuning = tables.table(con, "tuning").to_dicts()
    for row in probes:
        if row["method"] == "linear" and row["network"] in found and row["dataset"] == "notes":
            found[row["network"]].setdefault(row["layer"], {})["notes"] = {
                name: round(row[name], 4) for name in ("accuracy", "low", "high", "chance")
            }
    for row in tuning:
        if row["network"] in found and row["measure"] in ("frequency_hz", "bandwidth_octaves", "pitch_hz"):
            figures = {name: row[name] for name in ("tuned", "quantile_25", "median", "quantile_75")}
            found[row["network"]].setdefault(row["layer"], {})[row["measure"]] = {
                name: None if value is None else float(f"{value:.4g}") for name, value in figures.items()
            }
    RESULTS.write_text(json.dumps({"clip_s": CLIP_S, "networks": found}, indent=1) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
