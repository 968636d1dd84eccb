"""How far descriptions can be trusted: held-out scores and harder tests, as a badge beside each description and by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analyze import trust
from analyze.intervals import q_values
from report.contents import Layer, runs_of, scores_of
from report.parts.page import Page
from report.parts.search_index import Index
from report.parts.svg import number
from report.topics.topic import Column, Known, Part, Parts, Topic

COMPARED = {
    "rule": "among {clips} clips it was not found on, its rule tells those that activate the neuron most with an AUROC of",
    "captions": "among {clips} clips it was not written from, it tells those that activate the neuron most with an AUROC of",
    "captions beside a rule": "its words, by the captions of {clips} such clips:",
    "tuning": "by its tuning to known stimuli alone, of the sounds of {clips} such clips:",
    "audio": "by the sound of {clips} such clips, instead of captions:",
    "judge": "by a language model’s ratings of {clips} such clips:",
    "detection": "by which of {clips} clips of its whole range a language model names:",
}
"""How each scorer's score is put, in the order in which they are shown; the first there is makes the badge."""
CHARTED = {
    "rule": "By what rules predict", "captions": "By captions", "tuning": "By what tuning predicts", "audio": "By sound",
    "judge": "By a language model’s ratings", "detection": "By what a language model names",
}  # fmt: skip
"""What the chart of each is called."""
TESTS = {
    "near misses": "against near misses alone",
    "intruder": "told which of five clips does not belong (chance 0.20)",
    "fuzz": "when in a clip",
}
"""Harder tests, as pages put them."""
SERIES = ("held out", *TESTS)


@dataclass(frozen=True, slots=True)
class Score:
    """A held-out score: AUROC, the ends of its interval, the floor, the number of clips, and the q-value among all neurons; see table
    description_score."""

    scorer: str
    auroc: float
    low: float | None
    high: float | None
    floor: float
    clips: int
    q_value: float | None

    @property
    def level(self) -> str:
        """One of trust.LEVELS."""
        return trust.level(self.auroc, self.floor, self.q_value)


class Trust(Topic):
    """The scores of the latest descriptions; of several runs side by side, each its own."""

    stage = "scores"
    tables = ("trust",)

    def read(self) -> None:
        """Read a study's scores."""
        # By neuron its held-out scores by each scorer, the one to be shown where there is room for one first, and its harder tests' values and floors.
        self.scores: dict[int, list[Score]] = {}
        self.tests: dict[int, list[tuple[str, str, float, float]]] = {}
        described = next(iter(runs_of(self.con, self.study, "descriptions")), None)
        self.scored = scores_of(self.con, described)
        found = self.con.execute(
            "SELECT neuron_id, scorer, auroc, low, high, floor, clips, p_value FROM description_score WHERE run_id = ? ORDER BY neuron_id",
            [self.scored],
        ).fetchall()
        for scorer in COMPARED:
            its = [row for row in found if row[1] == scorer]
            for (neuron_id, *score, _), q_value in zip(its, q_values([row[-1] for row in its]), strict=True):
                self.scores.setdefault(neuron_id, []).append(Score(*[*score, q_value]))
        for neuron_id, *test in self.con.execute(
            "SELECT neuron_id, scorer, test, value, floor FROM description_test WHERE run_id = ? ORDER BY neuron_id", [self.scored]
        ).fetchall():
            self.tests.setdefault(neuron_id, []).append(tuple(test))

    def level(self, neuron_id: int) -> str:
        """How far a neuron's description can be trusted, by the scorer that is shown first."""
        its = self.scores.get(neuron_id)
        return its[0].level if its else trust.LEVELS[2]

    def network(self, page: Page) -> Iterator[Part]:
        """Medians by layer of every test, a chart a scorer."""
        on_page = {layer.name: layer for layer in self.study.layers}
        found = [row for row in self.table("trust") if row["run_id"] == self.run_id and row["layer"] in on_page]
        if not found:
            return
        charts: dict[str, list[dict]] = {}
        for scorer in (scorer for scorer in COMPARED if any(row["scorer"] == scorer for row in found)):
            charts[f"trust_{scorer}"] = [
                {
                    "layer": row["layer"], "position": row["position"], "series": row["test"], "neurons": row["neurons"],
                    "href": page.root + on_page[row["layer"]].page, "chance": row["chance"], "floor": round(row["floor"], 4),
                    **{name: row[name] if row[name] is None else round(row[name], 4) for name in ("value", "low", "high", "above_floor")},
                }
                for row in sorted(found, key=lambda row: (SERIES.index(row["test"]), row["position"])) if row["scorer"] == scorer
            ]  # fmt: skip
        html = page.draw("trust", charts=charts, rows=found, pages=on_page, most_false=trust.MOST_FALSE, names=CHARTED)
        yield Part(html, "words", rows=charts, link=("trust", "trust in descriptions"))

    def column(self, layer: Layer) -> Column | None:
        """How far each description can be trusted, in the table of neurons, which can be narrowed to a level."""
        levels = {neuron_id: self.level(neuron_id) for neuron_id in layer.ids}
        return Column("Trust", "", levels, trust.LEVELS) if any(neuron_id in self.scores for neuron_id in layer.ids) else None

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """Nothing but their run: descriptions have the badges."""
        return Parts(runs=[self.scored] if self.scored and any(neuron_id in self.scores for neuron_id in layer.ids) else [])

    def badge(self, page: Page, layer: Layer, neuron_id: int) -> str:
        """What stands beside the description of a neuron of a layer: how far it can be trusted, and by which scores."""
        scores, level = self.scores.get(neuron_id, []), self.level(neuron_id)
        said = "no run of stage scores has it"
        if scores:
            first = scores[0]
            said = f"held-out AUROC <b>{first.auroc:.2f}</b>{_interval(first)}, {trust.why(first.auroc, first.floor, first.q_value)}"
        name = (
            level
            if not self.run_id or not self.scores
            else f'<a href="{page.root}{layer.page}#trust-{level.replace(" ", "-")}">{level}</a>'
        )
        badge = f'<p><span class="trust {level.replace(" ", "-")}">{name}</span> <span class="note">{said}</span></p>'
        return badge + _held_out(scores, self.tests.get(neuron_id, []))

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """Held-out scores of each layer's neurons, and which descriptions can be trusted."""
        for known in studies:
            its = known[cls]
            for layer in known.study.by_first:
                scores = [its.scores.get(neuron_id) for neuron_id in layer.ids]
                if any(scores):
                    index.layers[known.study.run_id, layer.layer_id] += [
                        [round(100 * found[0].auroc) if found else None for found in scores],
                        "".join(str(trust.LEVELS.index(its.level(neuron_id))) for neuron_id in layer.ids),
                    ]


def behind(scores: list[Score] | None) -> str:
    """What follows a description in a table's cell."""
    return f" (AUROC {scores[0].auroc:.2f})" if scores else ""


def _interval(score: Score) -> str:
    return f" ({score.low:.2f} to {score.high:.2f})" if score.low is not None and score.high is not None else ""


def _held_out(scores: list[Score], tests: list[tuple[str, str, float, float]]) -> str:
    """How well a description tells the neuron's clips among those it was not written from, and what harder tests say of the scorer shown first."""
    said: list[str] = []
    for score in scores:
        other = {"judge": "chance", "detection": "chance", "rule": "other neurons’ rules do", "tuning": "other neurons’ tuning does"}.get(
            score.scorer, "other neurons’ descriptions do"
        )
        verdict = f"{'more' if score.auroc > score.floor else 'no more'} than {other} ({score.floor:.2f})"
        how = "captions beside a rule" if score.scorer == "captions" and said else score.scorer
        among = f", q {number(score.q_value)} among all neurons" if score.q_value is not None else ""
        said.append(f"{COMPARED[how].format(clips=score.clips)} <b>{score.auroc:.2f}</b>{_interval(score)}, {verdict}{among}")
    if not said:
        return ""
    hard = [
        f"{words} <b>{value:.2f}</b> (floor {floor:.2f})"
        for test, words in TESTS.items() for scorer, its, value, floor in tests if its == test and scorer == scores[0].scorer
    ]  # fmt: skip
    harder = f'<p class="note">Harder tests: {"; ".join(hard)}.</p>' if hard else ""
    summary = f"<summary>{'All scores and harder tests' if hard else 'All scores'}</summary>"
    return f'<details>{summary}<p class="note">Held-out score: {"; ".join(said)}.</p>{harder}</details>'
