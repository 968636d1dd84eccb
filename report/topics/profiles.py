"""What sets a neuron apart: the classes it detects best, its means over all classes, and the neurons most like it."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from itertools import groupby
from operator import itemgetter

from markupsafe import Markup

from report.contents import Layer
from report.parts import svg
from report.parts.page import Page
from report.parts.svg import number
from report.topics.topic import Part, Parts, Topic
from report.topics.tuning import Tuning

CLASSES, PROFILE = 8, 60
HEAD = '<thead><tr><th>Class</th><th title="Average precision">AP</th><th>Selectivity</th><th>Mean</th></tr></thead>'


class Profiles(Topic):
    """Class profiles and nearest neurons."""

    def neurons(self, page: Page, layer: Layer) -> Parts:
        """Both, for all neurons of a layer."""
        parts: dict[int, list[Part]] = defaultdict(list)
        head = '<section><h2 title="By correlation over the clips">Nearest neurons</h2><ol class="near">'
        for neuron_id, text in self._profiles(page, layer).items():
            parts[neuron_id].append(Part(Markup(text), "classes"))
        for neuron_id, rows in self._neighbors(page, layer).items():
            parts[neuron_id].append(Part(Markup(f"{head}{rows}</ol></section>")))
        return Parts(parts)

    def _profiles(self, page: Page, layer: Layer) -> dict[int, str]:
        """The classes a neuron detects best as bars, and the means of all, by neuron."""
        dataset, chance = self.dataset, self.dataset.chances
        out: dict[int, str] = defaultdict(str)
        main = set(dataset.main_classes)  # which the others mostly follow from
        links = {
            c.class_id: f'<tr><th><a href="{page.root}{c.page}">{escape(c.name)}</a></th>' if c.class_id in main else f"<tr><th>{escape(c.name)}</th>"
            for c in dataset.classes.values()
        }  # fmt: skip
        for set_name, members in dataset.label_sets.items():
            if not members:
                continue
            source = f"""FROM class_activation WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND reduction = ?
                AND class_id IN ({", ".join(map(str, members))})"""
            values = [self.study.run_id, layer.first, layer.last, layer.reduction]
            best = self.con.execute(
                f"""SELECT neuron_id, class_id, average_precision, selectivity, mean {source}
                    QUALIFY row_number() OVER (PARTITION BY neuron_id ORDER BY average_precision DESC NULLS LAST, class_id) <= {CLASSES}
                    ORDER BY neuron_id, average_precision DESC NULLS LAST, class_id""",
                values,
            ).fetchall()
            means = dict(
                self.con.execute(
                    f"SELECT neuron_id, list(mean ORDER BY mean DESC) FILTER (isfinite(mean))[:{PROFILE}] {source} GROUP BY neuron_id",
                    values,
                ).fetchall()
            )
            shares = {chance[c] for c in members}
            at_chance = f", chance AP {number(shares.pop())}" if len(shares) == 1 else ""
            caption = f"{escape(set_name)}: {min(CLASSES, len(members))} of {len(members)} classes{at_chance}"
            for neuron_id, group in groupby(best, key=itemgetter(0)):
                body = "".join(
                    [f"{links[c]}<td>{number(ap)}</td><td>{number(s)}</td><td>{number(m)}</td></tr>" for _, c, ap, s, m in group]
                )
                its = means.get(neuron_id)
                drawing = (
                    f'<figure data-c="{svg.levels(its)}"><figcaption>Means of {len(its)} classes</figcaption></figure>'
                    if its and len(members) > CLASSES
                    else ""
                )
                head = "" if neuron_id in out else HEAD
                out[neuron_id] += f'<table class="profile"><caption>{caption}</caption>{head}<tbody>{body}</tbody></table>{drawing}'
        return out

    def _neighbors(self, page: Page, layer: Layer) -> dict[int, str]:
        """Rows of the nearest neurons, by neuron."""
        rows = self.con.execute(
            """SELECT neuron_id, neighbor_id, correlation FROM neighbor
               WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND rank <= 10 ORDER BY neuron_id, rank""",
            [self.study.run_id, layer.first, layer.last],
        ).fetchall()
        links: dict[int, str] = {}
        for neighbor_id in {row[1] for row in rows}:
            other = self.study.layer_of(neighbor_id)
            best = self.known[Tuning].best_class(other, neighbor_id)
            links[neighbor_id] = (
                f'<li><a href="{page.root}{other.folder}/{other.file(neighbor_id)}">{escape(other.title(neighbor_id))}</a> '
                f"{escape(best.name) if best else '–'} <b>"
            )
        return {
            neuron_id: "".join([f"{links[other]}{number(r)}</b></li>" for _, other, r in group])
            for neuron_id, group in groupby(rows, key=itemgetter(0))
        }
