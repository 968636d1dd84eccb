"""What the server's pages let people choose from: tables with their columns, queries, runs with their layers, clips."""

from __future__ import annotations

import duckdb

from analyze import intervals, tables
from report import record
from warehouse.store import UserError

CLIPS = 50_000


def schema(con: duckdb.DuckDBPyConnection) -> dict:
    """Tables and views with their columns, functions of derived tables, the cookbook's queries, and the derived tables."""
    return {
        "tables": [
            {"name": table["name"], "comment": table["comment"], "size": table["size"], "columns": table["columns"]}
            for table in record.tables_of(con)
        ],
        "functions": sorted(intervals.FUNCTIONS),
        "recipes": [{"name": title, "sql": sql} for title, sql in record.recipes()],
        "derived": [{"name": name, "comment": tables.description(name), "sql": tables.sql(name)} for name in tables.names()],
    }


def runs(con: duckdb.DuckDBPyConnection) -> list[dict]:
    """Finished runs of stage activations, the latest of each network and data set first, with the layers whose neurons they recorded."""
    found = con.execute(
        """SELECT run_id, network, dataset, has_positions FROM v_activation_run ORDER BY is_latest DESC, run_id DESC"""
    ).fetchall()
    layers: dict[int, list[dict]] = {}
    for run_id, layer_id, name, kind, shape, neurons in con.execute(
        """SELECT run_id, layer_id, any_value(layer.name), any_value(kind), any_value(layer.shape), any_value(neurons)
        FROM activation_file JOIN layer USING (layer_id) GROUP BY run_id, layer_id ORDER BY run_id, any_value(position), layer_id"""
    ).fetchall():
        layers.setdefault(run_id, []).append({"layer": layer_id, "name": name, "kind": kind, "shape": shape, "neurons": neurons})
    return [
        {"run": run, "title": f"{network} on {dataset}" + (", single positions" if positions else ""), "layers": layers.get(run, [])}
        for run, network, dataset, positions in found
    ]


def clips(con: duckdb.DuckDBPyConnection, run_id: int) -> list[dict]:
    """Clips that a run heard, by number, with their classes."""
    rows = con.execute(
        """SELECT clip_id, clip.name,
                  (SELECT string_agg(class.name, ', ' ORDER BY class_id) FROM clip_label JOIN class USING (class_id) WHERE clip_label.clip_id = clip.clip_id)
        FROM activation_clip JOIN clip USING (clip_id) WHERE run_id = ? ORDER BY column_index LIMIT ?""",
        [run_id, CLIPS],
    ).fetchall()
    return [{"clip": clip, "name": name, "classes": classes or ""} for clip, name, classes in rows]


def place(con: duckdb.DuckDBPyConnection, neuron_id: int) -> dict:
    """The layer of a neuron, and what stands for it among the layer's: its number, of a single position its neuron_id."""
    rows = con.execute("SELECT layer_id, kind, unit FROM neuron JOIN layer USING (layer_id) WHERE neuron_id = ?", [neuron_id]).fetchall()
    if not rows:
        raise UserError(f"there is no neuron {neuron_id}: give its neuron_id")
    [(layer, kind, unit)] = rows
    return {"layer": layer, "units": neuron_id if kind == "position" else unit}
