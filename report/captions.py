"""What captioners say of clips, for the pages of clips and under their cards."""

from __future__ import annotations

import duckdb

from report.contents import Dataset


def of_run(con: duckdb.DuckDBPyConnection, run_id: int) -> dict[int, str]:
    """Captions of a run by clip."""
    return dict(con.execute("SELECT clip_id, text FROM caption WHERE run_id = ?", [run_id]).fetchall())


def of_dataset(con: duckdb.DuckDBPyConnection, dataset: Dataset) -> list[tuple[int, str, dict[int, str]]]:
    """Run, captioner and captions by clip of each captioner's latest finished run on a data set as it stands there."""
    runs = con.execute(
        """SELECT run_id, parameters::JSON ->> 'captioner' AS captioner FROM run
           WHERE stage = 'captions' AND status = 'done' AND dataset_sha256 = ? AND parameters::JSON ->> 'dataset' = ?
           QUALIFY run_id = max(run_id) OVER (PARTITION BY captioner) ORDER BY run_id""",
        [dataset.content_sha256, dataset.name],
    ).fetchall()
    return [(run_id, captioner or "captioner", of_run(con, run_id)) for run_id, captioner in runs]
