"""The topics: one file a subject, and those that installed packages bring."""

from __future__ import annotations

from importlib.metadata import entry_points

from report.topics.ablations import Ablations
from report.topics.acoustics import Acoustics
from report.topics.captions import Captions
from report.topics.clusters import Clusters
from report.topics.concepts import Concepts
from report.topics.descriptions import Descriptions
from report.topics.dissections import Dissections
from report.topics.interventions import Interventions
from report.topics.maps.map import Map
from report.topics.polysemanticity import Polysemanticity
from report.topics.probes import Probes
from report.topics.profiles import Profiles
from report.topics.receptive import Receptive
from report.topics.rules import Rules
from report.topics.sharing import Sharing
from report.topics.specific_ablations import SpecificAblations
from report.topics.specificity import Specificity
from report.topics.topic import Topic
from report.topics.trust import Trust
from report.topics.tuning import Tuning
from report.topics.zero_shot import ZeroShot
from warehouse.store import UserError

GROUP = "auricle.topics"
"""Entry points of packages: each names a subclass of Topic."""
BUILT_IN: tuple[type[Topic], ...] = (
    Tuning, Receptive, Probes, ZeroShot, Clusters, Interventions, Captions, Descriptions, Trust, Rules, Concepts, Acoustics,
    Polysemanticity, Dissections, Ablations, Specificity, SpecificAblations, Profiles, Sharing, Map,
)  # fmt: skip
"""In the order in which pages' footers name their runs, and their parts stand where they share a place."""


def installed() -> list[type[Topic]]:
    """All topics: the built-in ones, then those of packages by their entry points' names. Raises UserError for one that cannot be used."""
    found = list(BUILT_IN)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        try:
            topic = entry.load()
        except Exception as error:
            raise UserError(f"the topic {entry.name} ({entry.value}) cannot be loaded: {' '.join(str(error).split())}") from error
        if not (isinstance(topic, type) and issubclass(topic, Topic)):
            raise UserError(f"the topic {entry.name} ({entry.value}) is no subclass of report.topics.topic.Topic")
        if topic not in found:
            found.append(topic)
    return found
