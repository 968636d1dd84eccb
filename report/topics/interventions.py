"""What disturbing clusters cost a study's network, for the pages of clusters and networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

from report.contents import Layer
from report.parts.page import Page
from report.topics.topic import Part, Topic

T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
    2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1 to 30 degrees of freedom."""

Mean = tuple[float, float | None, float | None]
"""A mean over repetitions, and the ends of its 95 % interval; None for a single repetition."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Percentage points of accuracy lost on a cluster's first (place 1), second (2) or other classes (3), as many as `classes`."""

    place: int
    class_id: int | None
    classes: int
    cluster: Mean
    control: Mean


class Interventions(Topic):
    """The latest finished run of each cluster: drops by cluster, the run of each cluster, rows of the derived table by layer, accuracy by cluster
    on the classes that move it most, and the number of repetitions. A cluster's first and second class are those that move it most among the
    ones that were read out."""

    stage = "interventions"
    tables = ("interventions", "intervention_classes")

    def read(self) -> None:
        """Read a study's interventions."""
        self.run_of: dict[int, int] = {}
        self.drops: dict[int, list[Drop]] = {}
        self.layers: list[tuple[Layer | None, dict]] = []
        self.classes: dict[int, list[dict]] = {}
        self.repetitions = 0
        if not self.finished:
            return
        means: dict[tuple[int, int], dict[str, Mean]] = {}
        about: dict[tuple[int, int], tuple[int, int]] = {}
        for run_id, cluster_id, place, target, mean, deviation, repetitions, class_id, classes in self.con.execute(
            """WITH ranked AS (
                SELECT run_id, cluster_id, target, repetition, class_id, 100 * (readout.correct - intervention.correct) / readout.total AS points,
                       least(3, row_number() OVER (PARTITION BY run_id, cluster_id, target, repetition ORDER BY ccav.activation DESC, class_id)) AS place
                FROM intervention JOIN readout USING (run_id, class_id) JOIN ccav USING (cluster_id, class_id)
                WHERE list_contains(?, run_id) AND readout.total > 0),
            latest AS (SELECT cluster_id, max(run_id) AS run_id FROM ranked GROUP BY cluster_id),
            repeated AS (
                SELECT run_id, cluster_id, place, target, repetition, avg(points) AS points, min(class_id) AS class_id, count(*) AS classes
                FROM ranked GROUP BY ALL)
            SELECT repeated.run_id, cluster_id, place, target, avg(points), stddev_samp(points), count(*), min(class_id), max(classes)
            FROM repeated JOIN latest USING (cluster_id, run_id)
            GROUP BY repeated.run_id, cluster_id, place, target ORDER BY cluster_id, place, target""",
            [self.finished],
        ).fetchall():
            means.setdefault((cluster_id, place), {})[target] = interval(mean, deviation, repetitions)
            about[cluster_id, place] = (class_id, classes)
            self.run_of[cluster_id] = run_id
            self.repetitions = max(self.repetitions, repetitions)
        for (cluster_id, place), both in means.items():
            if len(both) == 2:
                class_id, classes = about[cluster_id, place]
                drop = Drop(place, class_id if place < 3 else None, classes, both["cluster"], both["control"])
                self.drops.setdefault(cluster_id, []).append(drop)
        # A name may stand for a layer's channels and for its positions: those meant are the ones whose clusters were disturbed.
        of_clusters = "SELECT DISTINCT layer_id FROM cluster WHERE list_contains(?, cluster_id)"
        ids = {layer_id for (layer_id,) in self.con.execute(of_clusters, [[*self.drops] or [-1]]).fetchall()}
        by_name = {layer.name: layer for layer in self.study.layers if layer.layer_id in ids}
        self.layers = [(by_name.get(row["layer"]), row) for row in self.table("interventions") if row["run_id"] in self.run_of.values()]

        for row in self.table("intervention_classes"):
            if self.run_of.get(row["cluster_id"]) == row["run_id"]:
                its = self.classes.setdefault(row["cluster_id"], [])
                if row["changed"] == "none":
                    its.append({"class_id": row["class_id"], "name": row["class"], "total": row["total"], "bars": {}})
                its[-1]["bars"][row["changed"]] = (row["accuracy"], row["low"], row["high"])

    def network(self, page: Page) -> Iterator[Part]:
        """What disturbing clusters cost, by layer."""
        if self.layers:
            yield Part(page.draw("interventions", disturbed=self), "numbers")


def interval(mean: float, deviation: float | None, count: int) -> Mean:
    """A mean of `count` values and its 95 % interval by Student's t."""
    if count < 2 or deviation is None:
        return mean, None, None
    half = (T_975[count - 2] if count - 2 < len(T_975) else 1.96) * deviation / sqrt(count)
    return mean, mean - half, mean + half
