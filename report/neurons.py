"""Pages of neurons: one bulk read per layer, then strings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from html import escape
from itertools import groupby
from operator import itemgetter

import duckdb
import jinja2
import numpy as np
from markupsafe import Markup

from report import language, specificity, svg
from report.cards import Cards
from report.clusters import StudyClusters, member_links
from report.contents import Layer, Study
from report.facts import StudyFacts, chances
from report.language import StudyLanguage
from report.media import Media
from report.specificity import StudySpecificity
from report.svg import number

HIGH, LOW, LOW_NON_NEGATIVE, OPEN = 20, 20, 6, 12
"""Clips on a page. Below a neuron that cannot be negative lie clips that leave it near 0: a few of them say all there is to hear."""
CLASSES, PROFILE = 8, 60
STATISTICS = {
    "mean": "Mean", "deviation": "Deviation", "minimum": "Minimum", "quantile_05": "5 %", "quantile_25": "25 %", "median": "Median",
    "quantile_75": "75 %", "quantile_95": "95 %", "maximum": "Maximum", "share_active": "Share of clips above 0",
}  # fmt: skip
REDUCTIONS = {
    "mean": "mean over time", "max": "maximum over time", "cls": "class token", "window_mean": "mean over windows",
}  # fmt: skip


def pages(
    con: duckdb.DuckDBPyConnection,
    study: Study,
    facts: StudyFacts,
    groups: StudyClusters,
    words: StudyLanguage,
    specific: StudySpecificity,
    media: Media,
    template: jinja2.Template,
    provenance: str,
) -> Iterator[tuple[str, str]]:
    """Addresses and texts of all neuron pages of a study."""
    order = [layer for layer in study.layers if layer.has_pages]
    cards = Cards(study.dataset, study.view, media, order[0].folder.count("/") + 1 if order else 0, words.captions)
    chance = chances(study.dataset)
    for at, layer in enumerate(order):
        before, after = order[at - 1] if at else None, order[at + 1] if at + 1 < len(order) else None
        yield from _layer_pages(con, study, layer, before, after, facts, groups, words, specific, cards, chance, template, provenance)


def _layer_pages(
    con, study, layer, before, after, facts, groups, words, specific, cards, chance, template, provenance
) -> Iterator[tuple[str, str]]:
    """Addresses and texts of one layer's neuron pages."""
    last = layer.first + layer.neurons - 1
    summaries = _summaries(con, study, layer)
    tops = _top_clips(con, study, layer, cards)
    others = _other_tops(con, study, layer, cards)
    profiles = _profiles(con, study, layer, cards.root, chance)
    neighbors = _neighbors(con, study, layer, facts, cards.root)
    clusters = member_links(con, groups, study.dataset, layer)
    said = language.said(con, words, layer, facts, cards.root)
    specific_to = specificity.lines(specific, study, layer, cards.root)
    constant = {
        "study": study, "layer": layer, "root": cards.root, "provenance": provenance, "reductions": REDUCTIONS, "number": number,
        "dataset": study.dataset,
    }  # fmt: skip
    for neuron_id in range(layer.first, last + 1):
        fact = facts.of(layer, neuron_id)
        previous = (layer, neuron_id - 1) if neuron_id > layer.first else before and (before, before.first + before.neurons - 1)
        following = (layer, neuron_id + 1) if neuron_id < last else after and (after, after.first)
        top = tops.get(neuron_id, _NO_TOPS)
        best = study.dataset.class_of(fact.class_id)
        text = template.render(
            constant,
            title=layer.title(neuron_id),
            unit=layer.units[neuron_id - layer.first],
            fact=fact,
            best=best,
            chance=best and chance[best.class_id],
            previous=previous and f"../{previous[0].folder.rpartition('/')[2]}/{previous[0].file(previous[1])}",
            following=following and f"../{following[0].folder.rpartition('/')[2]}/{following[0].file(following[1])}",
            summary=summaries.get(neuron_id),
            top=top,
            others=others.get(neuron_id, ()),
            profiles=specific_to.get(neuron_id, Markup()) + profiles.get(neuron_id, Markup()),
            neighbors=neighbors.get(neuron_id, ""),
            clusters=clusters.get(neuron_id, ""),
            said=said.get(neuron_id, language.NOTHING),
        )
        yield f"{layer.folder}/{layer.file(neuron_id)}", text


def _rows(con, study, layer, columns: str, table: str, where: str = "true", order: str = "neuron_id", values: tuple = ()) -> list[tuple]:
    """Rows of a mass table for the neurons of a layer; `values` are for the question marks in `where`."""
    return con.execute(
        f"SELECT {columns} FROM {table} WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND {where} ORDER BY {order}",
        [study.run_id, layer.first, layer.first + layer.neurons - 1, *values],
    ).fetchall()


def _summaries(con, study: Study, layer: Layer) -> dict[int, dict[str, Markup]]:
    """Histogram and table of statistics by neuron."""
    rows = _rows(con, study, layer, f"neuron_id, reduction, histogram::JSON::INTEGER[], {', '.join(STATISTICS)}", "activation_summary",
                 order="neuron_id, reduction = 'mean' DESC, reduction")  # fmt: skip
    out = {}
    for neuron_id, group in groupby(rows, key=itemgetter(0)):
        found = list(group)
        shown = next((row for row in found if row[1] == layer.reduction), found[0])
        drawing = ""
        if shown[2]:
            low, high = shown[5], shown[11]
            drawing = svg.histogram(shown[2], low, high, shown[6:11])
            drawing += f'<p class="ends"><span>{number(low)}</span><span>{number(high)}</span></p>'
        head = "".join(f"<th>{REDUCTIONS.get(row[1], escape(row[1]))}</th>" for row in found)
        body = "".join(
            [f"<tr><th>{name}</th>{''.join([f'<td>{number(row[i])}</td>' for row in found])}</tr>" for i, name in _NUMBERED_STATISTICS]
        )
        table = f'<table class="numbers"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
        out[neuron_id] = {"drawing": Markup(drawing), "table": Markup(table), "value": shown[3]}
    return out


_NUMBERED_STATISTICS = list(enumerate(STATISTICS.values(), 3))
_NO_TOPS: dict = {"open": "", "more": "", "high": 0, "low_cards": "", "low": 0, "range": None}


def _top_clips(con, study: Study, layer: Layer, cards: Cards) -> dict[int, dict]:
    """Cards of the highest and lowest clips by neuron."""
    low_clips = LOW_NON_NEGATIVE if layer.non_negative else LOW
    found = con.sql(
        """SELECT neuron_id, side, clip_id, activation, course FROM top_clip
           WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND reduction = ? AND (side = 'high' AND rank <= ? OR side = 'low' AND rank <= ?)
           ORDER BY neuron_id, side, rank""",
        params=[study.run_id, layer.first, layer.first + layer.neurons - 1, layer.reduction, HIGH, low_clips],
    ).to_arrow_table()
    if not len(found):
        return {}
    neurons = found["neuron_id"].to_numpy()
    sides, clips, values = (found[name].to_pylist() for name in ("side", "clip_id", "activation"))
    firsts = np.flatnonzero(np.diff(neurons, prepend=-1))
    steps = _course_matrix(found["course"].combine_chunks())
    width = steps.shape[1]
    lines, lows, highs = [""] * len(clips), None, None
    if width:
        # One scale for all of a neuron's lines, from 0 (or its lowest step) to its highest.
        with np.errstate(invalid="ignore"):
            low = np.minimum.reduceat(np.nan_to_num(np.fmin.reduce(steps, axis=1)), firsts).clip(max=0)
            high = np.maximum.reduceat(np.nan_to_num(np.fmax.reduce(steps, axis=1)), firsts).clip(min=0)
        counts = np.diff(firsts, append=len(clips))
        lines = svg.courses(steps, low.repeat(counts), high.repeat(counts))
        lows, highs = low.tolist(), high.tolist()
    out = {}
    card = cards.card
    texts = [card(c, f"<b>{number(v)}</b>", line, width) for c, v, line in zip(clips, values, lines, strict=True)]
    for at, (first, end) in enumerate(zip(firsts.tolist(), [*firsts.tolist()[1:], len(clips)], strict=True)):
        split = next((i for i in range(first, end) if sides[i] == "low"), end)
        out[int(neurons[first])] = {
            "open": Markup("".join(texts[first : min(first + OPEN, split)])),
            "more": Markup("".join(texts[first + OPEN : split])),
            "high": split - first,
            "low_cards": Markup("".join(texts[split:end])),
            "low": end - split,
            "range": (lows[at], highs[at]) if lows and highs and any(lines[first:end]) else None,
        }
    return out


def _course_matrix(courses) -> np.ndarray:
    """Courses (an Arrow list array) as rows x steps, NaN after a shorter one's end and where there is none."""
    lengths = courses.value_lengths().fill_null(0).to_numpy()
    width = int(lengths.max(initial=0))
    flat = courses.flatten().to_numpy(zero_copy_only=False)
    if (lengths == width).all():
        return flat.reshape(len(lengths), width)
    matrix = np.full((len(lengths), width), np.nan, np.float32)
    matrix[np.arange(width) < lengths[:, None]] = flat
    return matrix


def _other_tops(con, study: Study, layer: Layer, cards: Cards) -> dict[int, list[tuple[str, Markup]]]:
    """Highest clips by the reductions the page does not rank by, as lines of links."""
    rows = _rows(con, study, layer, "neuron_id, reduction, clip_id, activation", "top_clip",
                 "side = 'high' AND rank <= 10 AND reduction <> ?", "neuron_id, reduction, rank", (layer.reduction,))  # fmt: skip
    out: dict[int, list[tuple[str, Markup]]] = defaultdict(list)
    clips = study.dataset.clips
    names = {
        clip.clip_id: f'<li><a href="{cards.root}{clip.page}">{escape(clip.title)}</a> {escape(study.dataset.label(clip))} <b>'
        for clip in (clips[clip_id] for clip_id in {row[2] for row in rows})
    }
    for (neuron_id, reduction), group in groupby(rows, key=itemgetter(0, 1)):
        items = "".join([f"{names[clip_id]}{number(value)}</b></li>" for _, _, clip_id, value in group])
        out[neuron_id].append((REDUCTIONS.get(reduction, reduction), Markup(items)))
    return out


def _profiles(con, study: Study, layer: Layer, root: str, chance: dict[int, float]) -> dict[int, Markup]:
    """Class profiles by neuron: the classes it detects best as bars, and the means of all."""
    dataset = study.dataset
    out: dict[int, list[str]] = defaultdict(list)
    links = {c.class_id: f'<tr><th><a href="{root}{c.page}">{escape(c.name)}</a></th>' for c in dataset.classes.values()}
    for set_name, members in dataset.label_sets.items():
        if not members:
            continue
        within = f"reduction = ? AND class_id IN ({', '.join(map(str, members))})"
        best = con.execute(
            f"""SELECT neuron_id, class_id, average_precision, selectivity, mean FROM class_activation
                WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND {within}
                QUALIFY row_number() OVER (PARTITION BY neuron_id ORDER BY average_precision DESC NULLS LAST, class_id) <= {CLASSES}
                ORDER BY neuron_id, average_precision DESC NULLS LAST, class_id""",
            [study.run_id, layer.first, layer.first + layer.neurons - 1, layer.reduction],
        ).fetchall()
        means = dict(
            _rows(
                con,
                study,
                layer,
                f"neuron_id, list(mean ORDER BY mean DESC) FILTER (isfinite(mean))[:{PROFILE}]",
                "class_activation",
                f"{within} GROUP BY neuron_id",
                values=(layer.reduction,),
            )
        )
        shares = {chance[c] for c in members}
        at_chance = f", chance AP {number(shares.pop())}" if len(shares) == 1 else ""
        caption = f"{escape(set_name)}: {min(CLASSES, len(members))} of {len(members)} classes{at_chance}"
        for neuron_id, group in groupby(best, key=itemgetter(0)):
            body = "".join(
                [
                    f'{links[c]}<td class="bar" style="--v:{100 * (ap or 0):.0f}%">{number(ap)}</td>'
                    f"<td>{number(s)}</td><td>{number(m)}</td></tr>"
                    for _, c, ap, s, m in group
                ]
            )
            drawing = svg.profile(means[neuron_id]) if means.get(neuron_id) else ""
            out[neuron_id].append(
                f'<table class="profile"><caption>{caption}</caption><thead><tr><th>Class</th>'
                f'<th><abbr title="Average precision">AP</abbr></th>'
                f"<th>Selectivity</th><th>Mean</th></tr></thead><tbody>{body}</tbody></table>{drawing}"
            )
    return {neuron_id: Markup("".join(parts)) for neuron_id, parts in out.items()}


def _neighbors(con, study: Study, layer: Layer, facts: StudyFacts, root: str) -> dict[int, Markup]:
    """Nearest neurons by neuron."""
    rows = _rows(con, study, layer, "neuron_id, neighbor_id, correlation", "neighbor", "rank <= 10", "neuron_id, rank")
    links: dict[int, str] = {}
    for neighbor_id in {row[1] for row in rows}:
        other = study.layer_of(neighbor_id)
        best = study.dataset.class_of(facts.of(other, neighbor_id).class_id)
        links[neighbor_id] = (
            f'<tr><th><a href="../{other.folder.rpartition("/")[2]}/{other.file(neighbor_id)}">{escape(other.title(neighbor_id))}</a></th>'
            f"<td>{escape(best.name) if best else '–'}</td><td>"
        )
    return {
        neuron_id: Markup("".join([f"{links[other]}{number(r)}</td></tr>" for _, other, r in group]))
        for neuron_id, group in groupby(rows, key=itemgetter(0))
    }
