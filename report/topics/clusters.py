"""Clusters of neurons: which are shown, and where pages lead to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

from report.contents import Class, Layer
from report.parts.page import Page
from report.parts.search_index import Index
from report.topics.interventions import Interventions
from report.topics.topic import Known, Part, Parts, Topic

FOUND = 6
"""Clusters of a class in the search index."""


@dataclass(slots=True)
class Cluster:
    """A cluster that has a page; `classes` are (class, activation) and `clips` (clip, activation), highest first."""

    cluster_id: int
    run_id: int
    layer: Layer
    partition: int
    number: int
    parent_id: int | None
    neurons: int
    is_chosen: bool
    class_entropy_bits: float | None
    class_entropy: float | None
    position_entropy: float | None
    channel_entropy: float | None
    classes: list[tuple[int, float]] = field(default_factory=list)
    clips: list[tuple[int, float]] = field(default_factory=list)

    @property
    def file(self) -> str:
        """File name of its page."""
        return f"cluster-{self.partition}-{self.number:04d}.html"

    @property
    def page(self) -> str:
        """Address of its page."""
        return f"{self.layer.folder}/{self.file}"

    @property
    def name(self) -> str:
        """Its number in words; of a partition that is not the chosen one, with the level."""
        return f"cluster {self.number}" + ("" if self.is_chosen else f" of level {self.partition}")

    @property
    def title(self) -> str:
        """The cluster in words."""
        return f"{self.layer.name}{'' if self.layer.has_pages else ' positions'} · {self.name}"

    @property
    def total(self) -> float | None:
        """Its activation summed over the classes; None where parts of it cannot be shares."""
        if not self.classes or self.classes[-1][1] < 0 or self.classes[0][1] <= 0:
            return None
        return sum(value for _, value in self.classes)

    def shares(self) -> dict[int, float]:
        """Share of each class in the summed activation; empty where undefined."""
        total = self.total
        return {class_id: value / total for class_id, value in self.classes} if total else {}


class Clusters(Topic):
    """The clusters of the chosen partitions, and those that were disturbed, of the latest finished run over channels and over positions."""

    stage = "clusters"
    tables = ("entropies",)

    def read(self) -> None:
        """Read a study's clusters."""
        # By layer, the chosen partition's first; and how many partitions it has.
        self.layers: dict[int, list[Cluster]] = {}
        self.levels: dict[int, int] = {}
        # Rows of the derived table `entropies` with their layers.
        self.boxes: list[tuple[Layer, dict]] = []
        # By class: each layer's chosen cluster that owes it the greatest share of its activation, and the share.
        self.paths: dict[int, list[tuple[Cluster, float]]] = {}
        self.runs = []
        shown = self.con.execute(
            """SELECT layer_id, run_id FROM clustering JOIN layer USING (layer_id) WHERE list_contains(?, run_id) AND network_id = ?
               QUALIFY run_id = max(run_id) OVER (PARTITION BY kind = 'position')""",
            [self.finished or [-1], self.study.network_id],
        ).fetchall()
        run_of = dict(shown)
        layers = [layer for layer in self.study.layers if layer.layer_id in run_of]
        if not layers:
            return
        self.runs = sorted({run_of[layer.layer_id] for layer in layers})
        named = {(run_of[layer.layer_id], layer.name): layer for layer in layers}
        self.boxes = [(layer, row) for row in self.table("entropies") if (layer := named.get((row["run_id"], row["layer"])))]
        for layer in layers:
            where = [run_of[layer.layer_id], layer.layer_id]
            self.levels[layer.layer_id] = self.con.execute(
                "SELECT coalesce(max(partition), -1) + 1 FROM cluster WHERE run_id = ? AND layer_id = ?", where
            ).fetchall()[0][0]
            rows = self.con.execute(
                """SELECT cluster_id, run_id, partition, number, parent_id, neurons, is_chosen, class_entropy_bits, class_entropy_ratio,
                       position_entropy_ratio, channel_entropy_ratio
                   FROM cluster WHERE run_id = ? AND layer_id = ? AND (is_chosen OR list_contains(?, cluster_id))
                   ORDER BY NOT is_chosen, partition DESC, number""",
                [*where, sorted(self.known[Interventions].drops) or [-1]],
            ).fetchall()
            if not rows:
                continue
            clusters = {row[0]: Cluster(row[0], row[1], layer, *row[2:]) for row in rows}
            for source, column, order in (("ccav", "class_id", "activation DESC, class_id"), ("cluster_clip", "clip_id", "rank")):
                for cluster_id, of, value in self.con.execute(
                    f"""SELECT cluster_id, {column}, activation FROM {source} JOIN (SELECT unnest(?) AS cluster_id) USING (cluster_id)
                        ORDER BY cluster_id, {order}""",
                    [list(clusters)],
                ).fetchall():
                    (clusters[cluster_id].classes if source == "ccav" else clusters[cluster_id].clips).append((of, value))
            self.layers[layer.layer_id] = list(clusters.values())
            best: dict[int, tuple[Cluster, float]] = {}
            for cluster in self.chosen(layer):
                for class_id, share in cluster.shares().items():
                    if class_id not in best or share > best[class_id][1]:
                        best[class_id] = (cluster, share)
            for class_id, place in best.items():
                self.paths.setdefault(class_id, []).append(place)

    def chosen(self, layer: Layer) -> list[Cluster]:
        """Clusters of a layer's chosen partition."""
        return [cluster for cluster in self.layers.get(layer.layer_id, []) if cluster.is_chosen]

    def members(self, layer: Layer) -> list[tuple[int, int]]:
        """(cluster, neuron) of a layer, in the clusters' order."""
        ids = [cluster.cluster_id for cluster in self.layers.get(layer.layer_id, [])]
        return self.con.execute(
            """SELECT cluster_id, neuron_id FROM cluster_member
               JOIN (SELECT unnest(?) AS cluster_id, unnest(range(len(?))) AS place) USING (cluster_id) ORDER BY place, neuron_id""",
            [ids, ids],
        ).fetchall() if ids else []  # fmt: skip

    def network(self, page: Page) -> Iterator[Part]:
        """Charts of entropies, of layers taken by channel and by position."""
        for kind in ("channels", "positions"):
            if rows := self._box_rows(page.root, positions=kind == "positions"):
                yield Part(page.draw("entropies", kind=kind), "numbers", rows={f"entropies_{kind}": rows})

    def _box_rows(self, root: str, *, positions: bool) -> list[dict]:
        """Rows of the chart of entropies, of layers taken by position or the others."""
        return [
            {"layer": layer.name, "position": row["position"], "series": row["entropy"], "low": round(row["minimum"], 4),
             "from": round(row["quantile_25"], 4), "value": round(row["median"], 4), "to": round(row["quantile_75"], 4),
             "high": round(row["maximum"], 4), "clusters": row["clusters"], "href": root + layer.page}
            for layer, row in self.boxes if (layer.kind == "position") == positions
        ]  # fmt: skip

    def layer(self, page: Page, layer: Layer) -> Iterator[Part]:
        """The list of a layer's clusters."""
        rows = []
        for cluster in self.layers.get(layer.layer_id, []):
            sound = page.listen(self.study, cluster.clips[0][0] if cluster.clips else None)
            first = self.dataset.class_of(cluster.classes[0][0]) if cluster.classes else None
            share = cluster.shares().get(first.class_id) if first else None
            rows.append({"cluster": cluster, "listen": Markup(sound), "first": first, "share": share})
        if rows:
            html = page.draw("layer_clusters", end="", layer=layer, clusters=rows, chosen=len(self.chosen(layer)))
            yield Part(html, "below", [self.layers[layer.layer_id][0].run_id], link=("clusters", f"{len(rows)} clusters"))

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """Links to each neuron's clusters, the chosen one first."""
        texts = {}
        for cluster in self.layers.get(layer.layer_id, []):
            first = self.dataset.class_of(cluster.classes[0][0]) if cluster.classes else None
            about = f"{cluster.neurons} neurons" + (f", most for {escape(first.name)}" if first else "")
            texts[cluster.cluster_id] = (
                f'<li><a href="{cluster.file}">{cluster.name[0].upper()}{cluster.name[1:]}</a> <span class="note">{about}</span></li>'
            )
        links: dict[int, str] = defaultdict(str)
        for cluster_id, neuron_id in self.members(layer):
            links[neuron_id] += texts[cluster_id]
        section = '<section><h2>Cluster</h2><ul class="bare">{}</ul></section>'
        return Parts({neuron_id: {"more": Markup(section.format(text))} for neuron_id, text in links.items()})

    def of_class(self, page: Page, cls: Class) -> Iterator[Part]:
        """A class's path through the clusters."""
        if path := self.paths.get(cls.class_id):
            yield Part(page.draw("class_clusters", study=self.study, dataset=self.dataset, cls=cls, path=path), runs=self.runs)

    @classmethod
    def overview(cls, page: Page, studies: Sequence[Known]) -> Iterator[Part]:
        """What a cluster is."""
        if any(clusters for known in studies for clusters in known[cls].layers.values()):
            yield Part(page.draw("about_clusters"), "glossary")

    @classmethod
    def search(cls, index: Index, studies: Sequence[Known]) -> None:
        """Each class's paths."""
        paths: dict[int, list[tuple[int, str, str, float]]] = defaultdict(list)
        for at, known in enumerate(studies):
            for class_id, path in known[cls].paths.items():
                paths[class_id] += [(at, cluster.title, cluster.page, round(share, 3)) for cluster, share in path]
        for class_id, found in paths.items():
            index.classes[class_id].append(sorted(found, key=lambda place: -place[3])[:FOUND])
