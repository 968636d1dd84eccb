"""Clusters of neurons: which are shown, where pages lead to them, and their own pages."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from markupsafe import Markup

from report.contents import Class, Dataset, Layer, runs_of
from report.parts import svg
from report.parts.cards import Cards
from report.parts.page import Page, Press
from report.parts.search_index import Index
from report.parts.svg import number
from report.topics.interventions import Drop, Interventions
from report.topics.topic import Known, Part, Parts, Topic
from report.topics.tuning import Tuning

CLASSES, MEMBERS, CHANNELS = 8, 120, 12
FOUND = 6
"""Clusters of a class in the search index."""
GROUPS = 8
"""Most classes of a second label set that get a colour each."""
ENTROPIES = (
    ("class_entropy", "SEnt", "How evenly the classes move it: 0 when only one does, 1 when all do alike."),
    ("position_entropy", "PEnt", "How evenly its neurons lie over time and frequency: 0 when all stand at one point, 1 when spread over the plane."),
    ("channel_entropy", "CEnt", "How evenly its neurons lie over the layer’s channels: 0 when all are of one channel, 1 when of all alike."),
)  # fmt: skip


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
    is_newest: bool = True
    classes: list[tuple[int, float]] = field(default_factory=list)
    clips: list[tuple[int, float]] = field(default_factory=list)

    @property
    def file(self) -> str:
        """File name of its page; where a newer run has clustered the layer with other parameters, its run is in it."""
        return f"cluster-{self.partition}-{self.number:04d}{'' if self.is_newest else f'~run-{self.run_id}'}.html"

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
    """The clusters of the chosen partitions, and those that were disturbed, of each layer's latest finished run."""

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
        newest, run_of = self._run_of(runs_of(self.con, self.study, self.stage)), self._run_of(self.finished)
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
            for cluster in clusters.values():
                cluster.is_newest = newest[layer.layer_id] == run_of[layer.layer_id]
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

    def _run_of(self, runs: Sequence[int]) -> dict[int, int]:
        """The newest of some runs for each layer that one of them clustered."""
        return dict(
            self.con.execute(
                """SELECT layer_id, max(run_id) FROM clustering JOIN layer USING (layer_id) WHERE list_contains(?, run_id) AND network_id = ?
                   GROUP BY layer_id""",
                [runs or [-1], self.study.network_id],
            ).fetchall()
        )

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
        """The chart of entropies; that of a run over positions holds its layers of single units beside them."""
        kind = "positions" if any(layer.kind == "position" for layer, _ in self.boxes) else "channels"
        if rows := self._box_rows(page.root):
            yield Part(page.draw("entropies", kind=kind), "numbers", rows={f"entropies_{kind}": rows})

    def _box_rows(self, root: str) -> list[dict]:
        """Rows of the chart of entropies."""
        return [
            {"layer": layer.name, "position": row["position"], "series": row["entropy"], "low": round(row["minimum"], 4),
             "from": round(row["quantile_25"], 4), "value": round(row["median"], 4), "to": round(row["quantile_75"], 4),
             "high": round(row["maximum"], 4), "clusters": row["clusters"], "href": root + layer.page}
            for layer, row in self.boxes
        ]  # fmt: skip

    def layer(self, page: Page, layer: Layer) -> Iterator[Part]:
        """The list of a layer's clusters."""
        rows = []
        for cluster in self.layers.get(layer.layer_id, []):
            sound = page.listen(self.study, cluster.clips[0][0] if cluster.clips else None)
            first = self.dataset.class_of(cluster.classes[0][0]) if cluster.classes else None
            share = cluster.shares().get(first.class_id) if first else None
            rows.append({"cluster": cluster, "listen": sound, "first": first, "share": share})
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
                f'<li><a href="{page.root}{cluster.page}">{cluster.name[0].upper()}{cluster.name[1:]}</a> <span class="note">{about}</span></li>'
            )
        links: dict[int, str] = defaultdict(str)
        for cluster_id, neuron_id in self.members(layer):
            links[neuron_id] += texts[cluster_id]
        section = '<section><h2>Cluster</h2><ul class="bare">{}</ul></section>'
        return Parts({neuron_id: [Part(Markup(section.format(text)))] for neuron_id, text in links.items()})

    def of_class(self, page: Page, cls: Class) -> Iterator[Part]:
        """A class's path through the clusters."""
        if path := self.paths.get(cls.class_id):
            yield Part(page.draw("class_clusters", study=self.study, dataset=self.dataset, cls=cls, path=path), runs=self.runs)

    def pages(self, press: Press) -> Iterator[tuple[str, str]]:
        """A page for each cluster, those of runs side by side among them."""
        yield from self._pages(press, newest=True)
        for its in self.known.beside(Clusters):
            yield from its._pages(press, newest=False)

    def _pages(self, press: Press, *, newest: bool) -> Iterator[tuple[str, str]]:
        """Pages of the clusters of each layer's newest run, or of the others."""
        dataset = self.dataset
        shown = {layer_id: [one for one in clusters if one.is_newest == newest] for layer_id, clusters in self.layers.items()}
        order = [cluster for layer in self.study.layers for cluster in shown.get(layer.layer_id, [])]
        if not order:
            return
        cards = Cards(dataset, self.study.view, press.media, order[0].page.count("/"))
        groups, group_of = _grouping(dataset)
        at = 0
        for layer in self.study.layers:
            clusters = shown.get(layer.layer_id, [])
            by_id = {cluster.cluster_id: cluster for cluster in clusters}
            chosen = self.chosen(layer)
            members = self._listed(layer) if layer.has_pages else {}
            places = {} if layer.has_pages else self._places(layer, clusters)
            for cluster in clusters:
                every = [its for its in self.known.beside(Interventions) if cluster.cluster_id in its.drops]
                sources = [cluster.run_id, *(its.run_of[cluster.cluster_id] for its in every)]
                yield press.page(cluster.page).write(
                    "cluster", sources, title=cluster.title, study=self.study, layer=layer, dataset=dataset, cluster=cluster,
                    levels=self.levels[layer.layer_id],
                    previous=order[at - 1] if at else None, following=order[at + 1] if at + 1 < len(order) else None,
                    first=dataset.class_of(cluster.classes[0][0]) if cluster.classes else None, shares=cluster.shares(),
                    cards=Markup("".join([cards.card(clip_id, f"<b>{number(value)}</b>") for clip_id, value in cluster.clips])),
                    bars=Markup(_bars(dataset, cluster, groups, group_of)),
                    groups=groups, group_of=group_of, top=CLASSES,
                    classes=[(dataset.classes[class_id], value) for class_id, value in cluster.classes],
                    entropies=[_entropy(key, name, text, cluster, chosen) for key, name, text in ENTROPIES],
                    members=members.get(cluster.cluster_id, []), shown_members=MEMBERS, place=places.get(cluster.cluster_id),
                    parent=by_id.get(cluster.parent_id or -1),
                    children=[other for other in clusters if other.parent_id == cluster.cluster_id],
                    disturbed=[self._disturbed(its, cluster.cluster_id) for its in every],
                )  # fmt: skip
                at += 1

    def _disturbed(self, its: Interventions, cluster_id: int) -> tuple:
        """What an intervention did to a cluster: where it is from, its parameters, drops, and accuracy by class."""
        said = self.known.latest.get(its.run_of[cluster_id])
        return its, said, _drops(its.drops[cluster_id]), _by_class(its.classes.get(cluster_id, []))

    def _listed(self, layer: Layer) -> dict[int, list[tuple]]:
        """Members by cluster, as (file, label, best class)."""
        out: dict[int, list[tuple]] = defaultdict(list)
        for cluster_id, neuron_id in self.members(layer):
            unit, name = layer.units[neuron_id - layer.first], layer.names[neuron_id - layer.first]
            best = self.known[Tuning].best_class(layer, neuron_id)
            out[cluster_id].append((layer.file(neuron_id), str(unit) if name is None else f"{unit} {name}", best.name if best else ""))
        return out

    def _places(self, layer: Layer, clusters: list[Cluster]) -> dict[int, dict]:
        """By cluster: its neurons on the plane of time and frequency, and by channel."""
        shape = json.loads(layer.shape)
        if len(shape) != 3 or not clusters:
            return {}
        ids = [cluster.cluster_id for cluster in clusters]
        source = "FROM cluster_member JOIN neuron USING (neuron_id) JOIN (SELECT unnest(?) AS cluster_id) USING (cluster_id)"
        counts = {cluster_id: np.zeros(shape[1:], np.int64) for cluster_id in ids}
        for cluster_id, time, frequency, count in self.con.execute(
            f"SELECT cluster_id, time_position, frequency_position, count(*) {source} WHERE time_position IS NOT NULL GROUP BY ALL", [ids]
        ).fetchall():
            counts[cluster_id][time, frequency] = count
        channels: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for cluster_id, channel, count in self.con.execute(
            f"SELECT cluster_id, unit, count(*) AS n {source} GROUP BY ALL ORDER BY cluster_id, n DESC, unit", [ids]
        ).fetchall():
            channels[cluster_id].append((channel, count))
        return {
            cluster_id: {
                "map": Markup(svg.plane(plane)), "most": int(plane.max()), "channels": channels[cluster_id][:CHANNELS],
                "of": len(channels[cluster_id]), "all": shape[0], "times": shape[1], "frequencies": shape[2],
            }
            for cluster_id, plane in counts.items()
        }  # fmt: skip

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


def _grouping(dataset: Dataset) -> tuple[list[Class], dict[int, int]]:
    """A coarser label set to colour the main one's classes by: its classes, and which of them each main class lies in.

    It is the first other set with 2 to GROUPS classes, fewer than the main one, in which all clips of a main class carry the same class.
    """
    main, *others = [*dataset.label_sets.values()] or [[]]
    for members in others:
        at = {class_id: place for place, class_id in enumerate(members)}
        found: dict[int, int] = {}
        for class_id in main:
            carried = {tuple(at[c] for c in dataset.clips[clip].classes if c in at) for clip in dataset.classes[class_id].clips}
            if len(carried) == 1 and len(only := carried.pop()) == 1:
                found[class_id] = only[0]
        if 2 <= len(members) <= GROUPS and len(members) < len(main) and len(found) == len(main):
            return [dataset.classes[c] for c in members], found
    return [], {}


def _entropy(key: str, name: str, text: str, cluster: Cluster, chosen: list[Cluster]) -> dict:
    """An entropy, with the chosen clusters' as marks to compare it with."""
    value = getattr(cluster, key)
    others = [entropy for other in chosen if (entropy := getattr(other, key)) is not None]
    drawing = "" if value is None else svg.strip(others, value, f"{name} {number(value)}; the layer’s chosen clusters beside it")
    bits = cluster.class_entropy_bits if key == "class_entropy" else None
    return {"name": name, "text": text, "value": value, "bits": bits, "drawing": Markup(drawing)}


def _bars(dataset: Dataset, cluster: Cluster, groups: list[Class], group_of: dict[int, int]) -> str:
    """The class activation vector as bars, highest first."""
    shares = cluster.shares()
    found = []
    for class_id, value in cluster.classes:
        name = dataset.classes[class_id].name
        more = f", {groups[group_of[class_id]].name}" if groups else ""
        part = f": {100 * shares[class_id]:.1f} %" if shares else f": {number(value)}"
        found.append((value, group_of.get(class_id), escape(name + more + part)))
    return svg.class_bars(found)


def _by_class(rows: list[dict]) -> list[dict]:
    """Accuracy on the classes that move a cluster most with none, the cluster or a control changed, with bars on a scale from 0 to 1."""
    whole = [row for row in rows if len(row["bars"]) == 3]
    return [
        row | {"drawing": Markup(svg.bars([(name, row["bars"][name]) for name in ("none", "cluster", "control")], 0, 1))} for row in whole
    ]


def _drops(drops: list[Drop]) -> list[dict]:
    """An intervention's groups of classes with their bars, on one scale."""
    ends = [end for drop in drops for end in (*drop.cluster, *drop.control) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return [{"drop": drop, "bars": Markup(svg.paired_bars(drop.cluster, drop.control, low, high))} for drop in drops]
