"""What a study's network loses without the neurons whose descriptions name a class, or that score high on a count of words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

import duckdb
import jinja2
from markupsafe import Markup

from analyze.tables import table
from report import charts
from report.contents import Study, runs_of
from report.dissections import FUNCTIONS
from report.svg import number


@dataclass(slots=True)
class StudyAblations:
    """The latest finished run: rows of the derived tables `unlearning` and `importance`, and unlearning by class, which `page` lists; `ways`
    are those of choosing neurons."""

    page: str
    run_id: int | None = None
    ways: list[str] = field(default_factory=list)
    unlearning: list[dict] = field(default_factory=list)
    importance: list[dict] = field(default_factory=list)
    classes: list[dict] = field(default_factory=list)


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudyAblations:
    """Read a study's ablations."""
    found = StudyAblations(f"unlearning/{study.folder.rpartition('/')[2]}.html")
    runs = runs_of(con, study, "ablations")
    if not runs:
        return found
    found.run_id = runs[0]
    [(parameters, dissections)] = con.execute(
        """SELECT run.parameters, dissected.parameters FROM run
           LEFT JOIN run AS dissected ON dissected.run_key = run.parameters::JSON ->> 'dissections' WHERE run.run_id = ?""",
        [found.run_id],
    ).fetchall()
    functions = json.loads(parameters).get("functions") or ()
    found.ways = ["open"]
    for method in json.loads(dissections or "{}").get("methods") or ["DB"]:
        found.ways += [method] if method == "ICL" else [f"{method} {function}" for function in functions]
    for name, rows in (("unlearning", found.unlearning), ("importance", found.importance)):
        rows += [row for row in table(con, name).to_dicts() if row["run_id"] == found.run_id]
    result = con.execute(
        """SELECT class_id, chosen_by, count(*) AS repetitions, avg(neurons) AS neurons, avg(logit_change) AS own, avg(other_logit_change) AS other,
               any_value(correct_before) AS before, avg(correct_after) AS after, any_value(total) AS total,
               any_value(other_correct_before) AS other_before, avg(other_correct_after) AS other_after, any_value(other_total) AS other_total
           FROM unlearning WHERE run_id = ? GROUP BY class_id, chosen_by ORDER BY class_id, chosen_by = 'random', chosen_by""",
        [found.run_id],
    )
    names = [column[0] for column in result.description]
    for values in result.fetchall():
        row = dict(zip(names, values, strict=True))
        if cls := study.dataset.class_of(row["class_id"]):
            found.classes.append(row | {"class": cls, "gap": None if row["other"] is None else row["other"] - row["own"]})
    return found


def way(chosen_by: str) -> str:
    """How neurons were chosen, in words."""
    method, _, function = chosen_by.partition(" ")
    if function:
        return f"{method}, {FUNCTIONS.get(function, function)}"
    return {"open": "open concepts", "random": "random, as many as the most"}.get(chosen_by, chosen_by)


def importance_rows(found: StudyAblations) -> list[dict]:
    """Rows of the chart of accuracy by share of neurons silenced, a line per criterion; all start with the whole network."""
    whole = next((row for row in found.importance if row["criterion"] == "none"), None)
    out: list[dict] = []
    for row in found.importance:
        if row is whole:
            continue
        points = [(row["share"], row)]
        if whole and not any(before["series"] == row["criterion"] for before in out):
            points.insert(0, (0.0, whole))
        out += [
            {"series": row["criterion"], "share": share, "value": round(point["accuracy"], 5), "neurons": round(point["neurons"], 1),
             "repetitions": point["repetitions"]}
            for share, point in points if point["accuracy"] is not None
        ]  # fmt: skip
    return out


def page(study: Study, found: StudyAblations, template: jinja2.Template, footers: Mapping[int, Markup]) -> Iterator[tuple[str, str]]:
    """The page of unlearning by class."""
    if not found.classes or found.run_id is None:
        return
    points = [
        {"class": row["class"].name, "series": way(row["chosen_by"]), "own": round(row["own"], 4), "other": round(row["other"], 4),
         "neurons": round(row["neurons"], 1), "href": f"../{row['class'].page}"}
        for row in found.classes if row["other"] is not None and isfinite(row["own"]) and isfinite(row["other"])
    ]  # fmt: skip
    yield found.page, template.render(
        title=f"Unlearning of {study.title}", root="../", study=study, dataset=study.dataset, rows=found.classes, way=way, number=number, points=points,
        unreached=_unreached(study, found), charts=Markup(charts.rows_script(unlearning=points)),
        provenance=Markup("<br>").join([footers[run_id] for run_id in (study.run_id, found.run_id)]),
    )  # fmt: skip


def _unreached(study: Study, found: StudyAblations) -> list[tuple[str, int, int]]:
    """Ways of choosing that found no neuron for some of the classes: in words, how many of how many."""
    reached: dict[str, set[int]] = {name: set() for name in found.ways}
    for row in found.classes:
        reached.setdefault(row["chosen_by"], set()).add(row["class_id"])
    total = len(next(iter(study.dataset.label_sets.values()), []))
    return [(way(name), total - len(its), total) for name, its in reached.items() if name != "random" and len(its) < total]
