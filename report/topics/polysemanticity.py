"""How many of a neuron's highest clips the captions have something in common of, and the kinds of sounds among them, on the pages of neurons
and networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from markupsafe import Markup

from report.contents import Layer
from report.parts.page import Page
from report.parts.texts import cut, plural
from report.topics.topic import Part, Parts, Topic
from report.topics.tuning import Tuning

USUAL_K = 5
"""Highest clips that pages tell of, or what the run looked at that is nearest to it."""
WORDS = 120
"""Characters of a cluster's words."""
CLOUD, LONGEST = 40, 30
"""Words of a cloud, and characters of one."""


class Polysemanticity(Topic):
    """The latest finished run: rows of the derived table for one k by layer, the clusters of sentences, how their number was chosen, and the words of
    their `clouds`: each with its occurrences and its size beside the commonest one, 0 to 1."""

    stage = "polysemanticity"
    tables = ("polysemanticity", "sentence_clusters", "sentence_cluster_words", "sentence_elbow")

    def read(self) -> None:
        """Read a study's polysemanticity."""
        self.layers: dict[int, list[dict]] = {}
        self.clusters: list[dict] = []
        self.clouds: dict[int, list[tuple[str, int, float]]] = {}
        self.elbow: list[dict] = []
        self.k = USUAL_K
        if self.run_id is None:
            return
        by_name = {layer.name: layer.layer_id for layer in self.study.by_first}
        rows = [row for row in self.table("polysemanticity") if row["run_id"] == self.run_id and row["layer"] in by_name]
        self.k = min((row["k"] for row in rows), key=lambda k: abs(k - USUAL_K), default=USUAL_K)
        for row in rows:
            if row["k"] == self.k:
                self.layers.setdefault(by_name[row["layer"]], []).append(row)
        self.elbow = [row for row in self.table("sentence_elbow") if row["run_id"] == self.run_id]
        for row in self.table("sentence_clusters"):
            if row["run_id"] == self.run_id:
                self.clusters.append(row | {"words": cut(row["words"], WORDS) or "no words of their own"})

        most: dict[int, int] = {}
        for row in self.table("sentence_cluster_words"):
            if row["run_id"] == self.run_id and row["rank"] <= CLOUD:
                first = most.setdefault(row["cluster"], row["occurrences"])
                size = math.sqrt(row["occurrences"] / first)
                self.clouds.setdefault(row["cluster"], []).append((cut(row["word"], LONGEST), row["occurrences"], size))
        for cloud in self.clouds.values():
            cloud.sort()

    def network(self, page: Page) -> Iterator[Part]:
        """Shares of neurons with one meaning, a line per tau."""
        rows = [
            {"layer": layer.name, "position": position, "series": f"{math.ceil(row['tau'] * self.k - 1e-9)} of {self.k}",
             "neurons": row["interpretable"], "total": row["neurons"], "untold": row["untold"], "value": round(row["share"], 5),
             "href": page.root + layer.page}
            for position, layer in enumerate(self.study.layers) for row in self.layers.get(layer.layer_id, [])
        ]  # fmt: skip
        if rows:
            html = page.draw("polysemanticity", rows=rows, clusters=self.clusters, clouds=self.clouds, elbow=self.elbow, k=self.k)
            yield Part(html, "words", rows={"polysemanticity": rows}, link=("polysemanticity", "polysemanticity"))

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """Of each living neuron of a layer that was looked at: how many of its k highest clips share a cluster of sentences, and its words;
        and the kinds of sounds that words tell apart among its highest clips."""
        rows = self.con.execute(
            f"SELECT neuron_id, shared, cluster, missing FROM polysemanticity WHERE run_id = ? AND k = {self.k} AND neuron_id BETWEEN ? AND ?",
            [self.run_id, layer.first, layer.last],
        ).fetchall()
        kinds = self._kinds(layer)
        if not rows and not kinds:
            return Parts()
        words = {row["cluster"]: escape(row["words"]) for row in self.clusters}
        facts = self.known[Tuning].layers[layer.layer_id]
        texts = {fact.neuron_id: f"Fewer than {self.k} clips lie above 0, too few to compare." for fact in facts if not fact.is_dead}
        for neuron_id, shared, cluster, missing in rows:
            without = f", {plural(missing, 'clip')} without a caption" if missing else ""
            if cluster is None:
                texts[neuron_id] = f"None of its {self.k} highest clips has a caption."
            else:
                texts[neuron_id] = (
                    f"<b>{shared} of {self.k}</b> highest clips share sentences about <i>{words.get(cluster, '')}</i>{without}."
                )
        section = "<section><h2>One meaning or several</h2>{}<p>{}</p></section>"
        return Parts({n: [Part(Markup(section.format(kinds.get(n, ""), text)), "words")] for n, text in texts.items()})

    def _kinds(self, layer: Layer) -> dict[int, str]:
        """The kinds of sounds that neurons answer to, each with its words and the ranks of its clips among those shown."""
        its = [self.run_id, layer.first, layer.last]
        counted = self.con.execute(
            "SELECT neuron_id, meanings, clips FROM meaning_count WHERE run_id = ? AND neuron_id BETWEEN ? AND ?", its
        )
        verdicts = {neuron_id: (meanings, clips) for neuron_id, meanings, clips in counted.fetchall()}
        groups: dict[int, list[str]] = {}
        for neuron_id, words, clips, ranks in self.con.execute(
            """SELECT neuron_id, words, any_value(clips), list(rank ORDER BY rank) FILTER (rank IS NOT NULL)
            FROM (SELECT * FROM meaning WHERE run_id = ? AND neuron_id BETWEEN ? AND ?) JOIN meaning_clip USING (run_id, neuron_id, meaning)
            LEFT JOIN (SELECT neuron_id, clip_id, rank FROM top_clip WHERE run_id = ? AND reduction = ? AND side = 'high') USING (neuron_id, clip_id)
            GROUP BY neuron_id, meaning, words ORDER BY neuron_id, meaning""",
            [*its, self.study.run_id, layer.reduction],
        ).fetchall():
            where = f": numbers {_ranges(ranks)}" if ranks and verdicts[neuron_id][0] > 1 else ""
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
            out[neuron_id] = f"<p>{text}</p>"
        return out


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers, three or more in a row as a range: "1–4, 6, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
