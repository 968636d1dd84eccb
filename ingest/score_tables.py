"""Stage `scores`: held-out scores of descriptions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from ingest import held_out
from ingest.caption_tables import read_captions
from ingest.clips import Outcome, Progress
from ingest.description_tables import clip_groups
from ingest.layer_tables import insert
from ingest.recorded import read_recorded
from ingest.text_encoders import TextEncoder
from warehouse import ledger, store
from warehouse.store import UserError

STAGE = "scores"
CODE_VERSION = 1


def ingest_scores(
    warehouse: Path, activation_run: int, caption_run: int, description_run: int, encoder: TextEncoder, *, progress: Progress | None = None
) -> Outcome:
    """Score the descriptions of a finished run that held clips out, by these clips' captions; a layer is a unit of work.

    Neurons without a description, or with fewer than five held-out clips above 0, have no row.
    """
    recorded = read_recorded(warehouse, activation_run)
    captions, captioner = read_captions(warehouse, caption_run)
    with store.connect_readonly(warehouse) as con:
        rows = con.execute("SELECT run_key, parameters, seed FROM run WHERE run_id = ? AND status = 'done'", [description_run]).fetchall()
        if not rows or not json.loads(rows[0][1]).get("held_out"):
            raise UserError("no clips were held out when descriptions were written: give held_out, such as 0.5, in [descriptions]")
        [(described, text, seed)] = rows
        descriptions = dict(
            con.execute(
                "SELECT neuron_id, description FROM v_description WHERE run_id = ? AND description IS NOT NULL", [description_run]
            ).fetchall()
        )
    run = ledger.begin(
        warehouse, STAGE, parameters={**recorded.subject(), "descriptions": described, "captions": captioner, "encoder": encoder.parameters},
        code_version=CODE_VERSION, dataset_sha256=recorded.dataset_sha256, network_sha256=recorded.network_sha256,
    )  # fmt: skip
    worked, done = 0, run.done()
    if not run.finished:
        kept_out = held_out.split(clip_groups(warehouse, recorded), json.loads(text)["held_out"], seed)
        kept_out &= np.array([int(clip) in captions for clip in recorded.clip_ids])
        clips = encoder.embed([captions[int(clip)] for clip in recorded.clip_ids[kept_out]])
        for number, layer in enumerate(recorded.layers):
            item = f"layer {layer.layer_id}"
            if item not in done:
                matrix = np.asarray(layer.matrix())[:, kept_out]
                units = [unit for unit in range(layer.neurons) if layer.first_neuron_id + unit in descriptions]
                complete = np.isfinite(matrix).all(axis=0)
                texts = encoder.embed([descriptions[layer.first_neuron_id + unit] for unit in units])
                positive = held_out.positives(matrix[units][:, complete])
                found = held_out.score(texts @ clips[complete].T, positive)
                frame = pl.DataFrame(
                    {
                        "run_id": np.full(len(units), run.run_id), "neuron_id": layer.first_neuron_id + np.array(units, dtype=np.int64),
                        "scorer": pl.Series(["captions"] * len(units), dtype=pl.String), "clips": np.full(len(units), int(complete.sum())),
                        "positives": positive.sum(axis=1), "auroc": found.auroc, "low": found.low, "high": found.high,
                        "average_precision": found.average_precision, "floor": found.floor,
                    }
                )  # fmt: skip
                with run.commit([item]) as con:
                    insert(con, "description_score", frame.filter(pl.all_horizontal(pl.selectors.float().is_finite())))
                worked += 1
            if progress:
                progress(number + 1, len(recorded.layers))
        run.finish()
    return Outcome(run, worked, run.failures())
