"""Where results come from: the runs of a warehouse, and each as a line of a page's footer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import duckdb
from markupsafe import Markup


def read(con: duckdb.DuckDBPyConnection) -> list[dict]:
    """All runs, latest first: columns of table `run`, and what they ran on in words."""
    runs = con.sql("""
        SELECT run.* REPLACE (make_timestamp(epoch_us(started_at)) AS started_at, make_timestamp(epoch_us(finished_at)) AS finished_at),
            coalesce(d.name || ' version ' || d.version || ' (' || d.content_sha256[:8] || ')', '') AS dataset,
            coalesce(n.name || ' (' || n.checkpoint_sha256[:8] || ')', '') AS network,
            (SELECT parameters FROM v_run WHERE v_run.run_id = run.run_id) AS apart, coalesce(u.units, 0) AS units, coalesce(f.failed, 0) AS failed
        FROM run
        LEFT JOIN (SELECT content_sha256 AS sha, min_by(dataset, dataset_id) AS d FROM dataset GROUP BY 1) ON sha = run.dataset_sha256
        LEFT JOIN (SELECT checkpoint_sha256 AS checkpoint, min_by(network, network_id) AS n FROM network GROUP BY 1)
            ON checkpoint = run.network_sha256
        LEFT JOIN (SELECT run_id, count(*) AS units FROM work_unit GROUP BY 1) u ON u.run_id = run.run_id
        LEFT JOIN (SELECT run_id, count(*) AS failed FROM failure GROUP BY 1) f ON f.run_id = run.run_id
        ORDER BY run.run_id DESC""").pl().to_dicts()  # fmt: skip
    for run in runs:
        run["about"] = " on ".join(filter(None, [run["network"], run["dataset"]]))
        try:
            versions = json.loads(run["package_versions"])
            run["packages"] = ", ".join(f"{name} {version}" for name, version in versions.items())
        except (ValueError, AttributeError):
            run["packages"] = run["package_versions"]
    return runs


def line(run: dict, root: str) -> Markup:
    """A run in a line, with a link to its entry among all runs."""
    number = run["run_id"]
    return Markup('From <a href="{}runs.html#run-{}">run {}</a>, stage {}: {}, on {}; {}; {}.').format(
        root, number, number, run["stage"], run["about"] + (f" ({run['apart']})" if run["apart"] else ""), run["device"],
        f"finished {time(run['finished_at'])}" if run["finished_at"] else "not finished", run["packages"],
    )  # fmt: skip


def brief(run: dict, others: Sequence[dict], root: str) -> Markup:
    """A run by what it is about, with a link to its entry among all runs, and others by their stages."""
    link = Markup('<a href="{}runs.html#run-{}">run {}</a>').format(root, run["run_id"], run["run_id"])
    more = ", ".join(f"{other['run_id']} ({other['stage']})" for other in others)
    runs = f"; {'runs' if len(others) > 1 else 'run'} {more}" if more else ""
    return Markup("From {}, stage {}: {}{}.").format(link, run["stage"], run["about"], runs)


def time(value: datetime | None) -> str:
    """A moment, to the minute."""
    return value.strftime("%Y-%m-%d %H:%M UTC") if value else "not finished"
