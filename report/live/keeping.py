"""Lists of neurons and votes on descriptions: tables neuron_list, listed_neuron and vote of the warehouse. Each change is a short transaction of
its own, so that an ingest beside it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb

from report import contents
from warehouse import store
from warehouse.store import UserError

NAME, NOTE = 200, 2000
"""Characters."""
DESCRIBED = """SELECT v_description.run_id, description FROM v_description JOIN run USING (run_id)
    WHERE neuron_id = ? AND status = 'done' AND description IS NOT NULL ORDER BY run_id DESC LIMIT 1"""


def _one_line(text: object, most: int, what: str) -> str:
    found = " ".join(str(text or "").split())
    if not found or len(found) > most or not found.isprintable():
        raise UserError(f"{what} must be a text of 1 to {most} characters")
    return found


def _neuron(con: duckdb.DuckDBPyConnection, neuron_id: object) -> int:
    try:
        number = int(str(neuron_id))
        known = con.execute("SELECT neuron_id FROM neuron WHERE neuron_id = ?", [number]).fetchall()
    except (ValueError, duckdb.Error):
        known = []
    if not known:
        raise UserError(f"there is no neuron {str(neuron_id)[:40]}: give its neuron_id")
    return number


def _neurons(con: duckdb.DuckDBPyConnection, neurons: object) -> list[int]:
    """One neuron, or those of a list without repeats, in its order."""
    if not isinstance(neurons, list):
        return [_neuron(con, neurons)]
    if not neurons or not all(isinstance(neuron, int) and 0 <= neuron < 2**31 for neuron in neurons):
        raise UserError("a list of neurons must hold their neuron_ids")
    asked = list(dict.fromkeys(neurons))
    rows = con.execute(
        "SELECT neuron_id FROM neuron JOIN (SELECT unnest($asked::INTEGER[]) AS neuron_id) USING (neuron_id)", {"asked": asked}
    )
    known = {neuron_id for (neuron_id,) in rows.fetchall()}
    for neuron in asked:
        if neuron not in known:
            raise UserError(f"there is no neuron {neuron}: give its neuron_id")
    return asked


def add(con: duckdb.DuckDBPyConnection, *, name: object, neuron: object, note: object = None) -> None:
    """Put a neuron, or several, on a list, which is begun where there is none of that name; a note replaces the one before."""
    title, numbers = _one_line(name, NAME, "the name of a list"), _neurons(con, neuron)
    said = _one_line(note, NOTE, "a note") if note else None
    con.execute(
        """INSERT INTO neuron_list SELECT coalesce((SELECT max(neuron_list_id) FROM neuron_list), 0) + 1, $name, now()
        WHERE NOT EXISTS (FROM neuron_list WHERE name = $name)""",
        {"name": title},
    )
    con.execute(
        """INSERT OR REPLACE INTO listed_neuron SELECT neuron_list_id, unnest($neurons), $note, now() FROM neuron_list WHERE name = $name""",
        {"name": title, "neurons": numbers, "note": said},
    )


def remove(con: duckdb.DuckDBPyConnection, *, name: object, neuron: object) -> None:
    """Take a neuron off a list; a list without neurons goes, too."""
    title = str(name)
    con.execute(
        "DELETE FROM listed_neuron WHERE neuron_id = ? AND neuron_list_id = (SELECT neuron_list_id FROM neuron_list WHERE name = ?)",
        [_neuron(con, neuron), title],
    )
    con.execute("DELETE FROM neuron_list WHERE name = ? AND neuron_list_id NOT IN (SELECT neuron_list_id FROM listed_neuron)", [title])


def vote(con: duckdb.DuckDBPyConnection, *, neuron: object, voter: object, fits: object) -> None:
    """Say whether the latest description of a neuron fits; a voter's vote before it is replaced."""
    number, who = _neuron(con, neuron), _one_line(voter, NAME, "who votes")
    if not isinstance(fits, bool):
        raise UserError("a vote says that a description fits, or that it does not")
    described = con.execute(DESCRIBED, [number]).fetchall()
    if not described:
        raise UserError(f"neuron {number} has no description to vote on")
    con.execute("INSERT OR REPLACE INTO vote VALUES (?, ?, ?, ?, now())", [number, described[0][0], who, fits])


CHANGES: dict[str, Callable[..., None]] = {"add": add, "remove": remove, "vote": vote}


def change(warehouse: Path, what: str, values: dict) -> None:
    """Do one of CHANGES. Raises UserError."""
    try:
        with store.transaction(warehouse) as con:
            CHANGES[what](con, **values)
    except TypeError:
        raise UserError(f"{what} takes other values") from None
    except duckdb.CatalogException:
        raise UserError(f"{warehouse} was made before it could keep lists and votes: ingest into a new one") from None


def of_neuron(con: duckdb.DuckDBPyConnection, neuron: object) -> dict:
    """A neuron's lists and those there are, its latest description, and how many say of it that it fits, and that it does not."""
    number = _neuron(con, neuron)
    described = con.execute(DESCRIBED, [number]).fetchall()
    names = con.execute("SELECT name FROM neuron_list ORDER BY name").fetchall()
    on = con.execute("SELECT name FROM listed_neuron JOIN neuron_list USING (neuron_list_id) WHERE neuron_id = ? ORDER BY 1", [number])
    found = {
        "lists": [name for (name,) in on.fetchall()],
        "names": [name for (name,) in names],
        "described": None,
        "fits": 0,
        "fits_not": 0,
    }
    if described:
        found["described"] = described[0][1]
        [(found["fits"], found["fits_not"])] = con.execute(
            "SELECT count(*) FILTER (fits), count(*) FILTER (NOT fits) FROM vote WHERE neuron_id = ? AND description_run_id = ?",
            [number, described[0][0]],
        ).fetchall()
    return found


def shown(con: duckdb.DuckDBPyConnection) -> dict:
    """All lists with their neurons, and the votes by neuron, as the page of lists shows them: titles and addresses of pages."""
    lists: dict[str, list[dict]] = {}
    pages = Pages(con)
    for name, neuron, note, added in con.execute(
        """SELECT name, neuron_id, note, added_at FROM listed_neuron JOIN neuron_list USING (neuron_list_id)
        ORDER BY lower(name), name, added_at, neuron_id"""
    ).fetchall():
        lists.setdefault(name, []).append(pages.of(neuron) | {"note": note, "added": f"{added:%Y-%m-%d %H:%M}"})
    votes = con.execute(
        """SELECT vote.neuron_id, any_value(description), count(*) FILTER (fits), count(*) FILTER (NOT fits), string_agg(voter, ', ' ORDER BY voter)
        FROM vote LEFT JOIN v_description ON v_description.neuron_id = vote.neuron_id AND v_description.run_id = description_run_id
        GROUP BY vote.neuron_id, description_run_id ORDER BY max(voted_at) DESC, 1"""
    ).fetchall()
    voted = [pages.of(row[0]) | {"described": row[1], "fits": row[2], "fits_not": row[3], "voters": row[4]} for row in votes]
    return {"lists": lists, "votes": voted}


class Pages:
    """Neurons' titles and the addresses of their pages."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.layers = [(study, layer) for study in contents.read(con).studies for layer in study.layers]

    def of(self, neuron_id: int) -> dict:
        """A neuron, and its page below the site's root where it has one."""
        for study, layer in self.layers:
            if layer.first <= neuron_id <= layer.last:
                page = f"{layer.folder}/{layer.file(neuron_id)}" if layer.has_pages else None
                return {"neuron": neuron_id, "title": layer.title(neuron_id), "page": page, "network": study.name, "run": study.run_id}
        return {"neuron": neuron_id, "title": f"neuron {neuron_id}", "page": None, "network": None, "run": None}
