"""What to cite of an atlas: a script with the runs of a warehouse, which pages load when somebody asks how to cite them."""

from __future__ import annotations

import json
from importlib.metadata import version

import duckdb

from report.parts import provenance
from report.parts.provenance import time


def script(con: duckdb.DuckDBPyConnection) -> str:
    """JavaScript that assigns, by run, its lines of a citation: stage, network and checkpoint, data set, and with what versions it was made."""
    of = dict(con.execute("SELECT checkpoint_sha256, any_value(name || ' (' || family || ')') FROM network GROUP BY 1").fetchall())
    sets = dict(
        con.execute(
            "SELECT content_sha256, any_value(name || ' version ' || version || coalesce(', ' || license, '')) FROM dataset GROUP BY 1"
        ).fetchall()
    )
    runs = {}
    for run in provenance.read(con):
        lines = [f"Run {run['run_id']}, stage {run['stage']}, {time(run['finished_at'])}"]
        if run["network_sha256"]:
            lines.append(f"  Network: {of.get(run['network_sha256'], run['network'])}, checkpoint SHA-256 {run['network_sha256']}")
        if run["dataset_sha256"]:
            lines.append(f"  Data set: {sets.get(run['dataset_sha256'], run['dataset'])}, content SHA-256 {run['dataset_sha256']}")
        git = f", git {run['git_revision'][:12]}" if run["git_revision"] else ""
        lines.append(f"  Made with: {run['packages']}{git}; on {run['device']}")
        runs[run["run_id"]] = lines
    made = {"auricle": version("auricle"), "runs": runs}
    return f"AURICLE_RUNS={json.dumps(made, ensure_ascii=False, separators=(',', ':'))};\n"
