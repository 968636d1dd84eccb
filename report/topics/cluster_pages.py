"""Pages of clusters: their sounds, classes, entropies and neurons, and what the network loses without them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from html import escape

import numpy as np
from markupsafe import Markup

from report.contents import Class, Dataset, Layer
from report.parts import svg
from report.parts.cards import Cards
from report.parts.page import Press
from report.parts.svg import number
from report.topics.clusters import Cluster, Clusters
from report.topics.interventions import Drop, Interventions
from report.topics.topic import Topic
from report.topics.tuning import Tuning

CLASSES, MEMBERS, CHANNELS = 8, 120, 12
GROUPS = 8
"""Most classes of a second label set that get a colour each."""
ENTROPIES = (
    ("class_entropy", "SEnt", "How evenly the classes move it: 0 when only one does, 1 when all do alike."),
    ("position_entropy", "PEnt", "How evenly its neurons lie over time and frequency: 0 when all stand at one point, 1 when spread over the plane."),
    ("channel_entropy", "CEnt", "How evenly its neurons lie over the layer’s channels: 0 when all are of one channel, 1 when of all alike."),
)  # fmt: skip


class ClusterPages(Topic):
    """The pages of a study's clusters."""

    def pages(self, press: Press) -> Iterator[tuple[str, str]]:
        """A page for each cluster."""
        found, disturbed, dataset = self.known[Clusters], self.known[Interventions], self.dataset
        order = [cluster for layer in self.study.layers for cluster in found.layers.get(layer.layer_id, [])]
        if not order:
            return
        cards = Cards(dataset, self.study.view, press.media, order[0].page.count("/"))
        groups, group_of = _grouping(dataset)
        at = 0
        for layer in self.study.layers:
            clusters = found.layers.get(layer.layer_id, [])
            by_id = {cluster.cluster_id: cluster for cluster in clusters}
            chosen = found.chosen(layer)
            members = self._listed(layer) if layer.has_pages else {}
            places = {} if layer.has_pages else self._places(layer, clusters)
            for cluster in clusters:
                drops = disturbed.drops.get(cluster.cluster_id, [])
                sources = [cluster.run_id, *([disturbed.run_of[cluster.cluster_id]] if drops else [])]
                yield press.page(cluster.page).write(
                    "cluster", sources, title=cluster.title, study=self.study, layer=layer, dataset=dataset, cluster=cluster,
                    levels=found.levels[layer.layer_id],
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
                    drops=_drops(drops), disturbed=disturbed,
                )  # fmt: skip
                at += 1

    def _listed(self, layer: Layer) -> dict[int, list[tuple]]:
        """Members by cluster, as (file, label, best class)."""
        out: dict[int, list[tuple]] = defaultdict(list)
        for cluster_id, neuron_id in self.known[Clusters].members(layer):
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


def _drops(drops: list[Drop]) -> list[dict]:
    """An intervention's groups of classes with their bars, on one scale."""
    ends = [end for drop in drops for end in (*drop.cluster, *drop.control) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return [{"drop": drop, "bars": Markup(svg.paired_bars(drop.cluster, drop.control, low, high))} for drop in drops]
