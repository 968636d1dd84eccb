"""How many of a neuron's highest clips the captions have something in common of, and the kinds of sounds among them, for the pages of neurons
and networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

import duckdb
from markupsafe import Markup

from analyze.tables import table
from report.contents import Layer, Study, runs_of
from report.facts import NeuronFacts
from report.texts import cut, plural

K = 5
WORDS = 120
"""Characters of a cluster's words."""


@dataclass(slots=True)
class StudyPolysemanticity:
    """The latest finished run: rows of the derived table for k = K by layer, and the clusters of sentences; and the run whose highest clips
    the pages show."""

    run_id: int | None = None
    activation_run: int | None = None
    layers: dict[int, list[dict]] = field(default_factory=dict)
    clusters: list[dict] = field(default_factory=list)


def read(con: duckdb.DuckDBPyConnection, study: Study) -> StudyPolysemanticity:
    """Read a study's polysemanticity."""
    runs = runs_of(con, study, "polysemanticity")
    if not runs:
        return StudyPolysemanticity()
    found = StudyPolysemanticity(runs[0], study.run_id)
    by_name = {layer.name: layer.layer_id for layer in study.by_first}
    for row in table(con, "polysemanticity").to_dicts():
        if row["run_id"] == found.run_id and row["k"] == K and row["layer"] in by_name:
            found.layers.setdefault(by_name[row["layer"]], []).append(row)
    for row in table(con, "sentence_clusters").to_dicts():
        if row["run_id"] == found.run_id:
            found.clusters.append(row | {"words": cut(row["words"], WORDS) or "no words of their own"})
    return found


def chart_rows(found: StudyPolysemanticity, study: Study, root: str) -> list[dict]:
    """Rows of the chart over layers, a line per tau."""
    return [
        {"layer": layer.name, "position": position, "series": f"{row['tau'] * K:.0f} of {K}", "neurons": row["interpretable"], "total": row["neurons"],
         "value": round(row["share"], 5), "href": root + layer.page}
        for position, layer in enumerate(study.layers) for row in found.layers.get(layer.layer_id, [])
    ]  # fmt: skip


def lines(con: duckdb.DuckDBPyConnection, found: StudyPolysemanticity, layer: Layer, facts: list[NeuronFacts]) -> dict[int, Markup]:
    """By living neuron of a layer that was looked at: how many of its K highest clips share a cluster of sentences, and its words; and the
    kinds of sounds that words tell apart among its highest clips."""
    its = [found.run_id, layer.first, layer.first + layer.neurons - 1]
    rows = con.execute(
        f"SELECT neuron_id, shared, cluster, missing FROM polysemanticity WHERE run_id = ? AND k = {K} AND neuron_id BETWEEN ? AND ?", its
    ).fetchall()
    kinds = _kinds(con, found, layer)
    if not rows and not kinds:
        return {}
    words = {row["cluster"]: escape(row["words"]) for row in found.clusters}
    out = {fact.neuron_id: Markup(f"<p>Fewer than {K} clips lie above 0, too few to compare.</p>") for fact in facts if not fact.is_dead}
    for neuron_id, shared, cluster, missing in rows:
        without = f", {plural(missing, 'clip')} without a caption" if missing else ""
        if cluster is None:
            text = f"None of its {K} highest clips has a caption."
        else:
            text = f"<b>{shared} of {K}</b> highest clips share sentences about <i>{words.get(cluster, '')}</i>{without}."
        out[neuron_id] = Markup(f"<p>{text}</p>")
    return {neuron_id: kinds.get(neuron_id, Markup()) + text for neuron_id, text in out.items()}


def _kinds(con: duckdb.DuckDBPyConnection, found: StudyPolysemanticity, layer: Layer) -> dict[int, Markup]:
    """The kinds of sounds that neurons answer to, each with its words and the ranks of its clips among those shown."""
    its = [found.run_id, layer.first, layer.first + layer.neurons - 1]
    counted = con.execute("SELECT neuron_id, meanings, clips FROM meaning_count WHERE run_id = ? AND neuron_id BETWEEN ? AND ?", its)
    verdicts = {neuron_id: (meanings, clips) for neuron_id, meanings, clips in counted.fetchall()}
    groups: dict[int, list[str]] = {}
    for neuron_id, words, clips, ranks in con.execute(
        """SELECT neuron_id, words, any_value(clips), list(rank ORDER BY rank) FILTER (rank IS NOT NULL)
        FROM (SELECT * FROM meaning WHERE run_id = ? AND neuron_id BETWEEN ? AND ?) JOIN meaning_clip USING (run_id, neuron_id, meaning)
        LEFT JOIN (SELECT neuron_id, clip_id, rank FROM top_clip WHERE run_id = ? AND reduction = ? AND side = 'high') USING (neuron_id, clip_id)
        GROUP BY neuron_id, meaning, words ORDER BY neuron_id, meaning""",
        [*its, found.activation_run, layer.reduction],
    ).fetchall():
        where = f": numbers {', '.join(map(str, ranks))}" if ranks and verdicts[neuron_id][0] > 1 else ""
        groups.setdefault(neuron_id, []).append(
            f"<i>{escape(cut(words, WORDS)) or 'no words of their own'}</i> ({plural(clips, 'clip')}{where})"
        )
    out = {}
    for neuron_id, (meanings, clips) in verdicts.items():
        its_groups = groups.get(neuron_id, [])
        if meanings == 0:
            text = f"<b>No meaning in words</b>: they do not tell its {clips} highest clips from those that leave it cold."
        elif meanings == 1:
            text = f"<b>One meaning</b> in words: {its_groups[0] if its_groups else ''}."
        else:
            text = f"Answers to <b>{meanings} kinds</b> of sounds: {'; '.join(its_groups)}."
        out[neuron_id] = Markup(f"<p>{text}</p>")
    return out
