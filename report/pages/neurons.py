"""Pages of neurons: one bulk read per layer, then strings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from operator import itemgetter

import duckdb
import numpy as np
from markupsafe import Markup

from report.contents import Layer, Study
from report.media import spectrogram_path
from report.parts import svg
from report.parts.cards import CAPTION, Cards
from report.parts.page import Press
from report.parts.svg import number
from report.parts.texts import REDUCTIONS, cut
from report.topics.captions import Captions
from report.topics.rules import Rules
from report.topics.topic import Known, by_place
from report.topics.tuning import Tuning

HIGH, LOW, LOW_NON_NEGATIVE, OPEN = 20, 20, 6, 12
"""Clips on a page, and those that are open, with their lines. Below a neuron that cannot be negative lie clips that leave it near 0: a few of
them say all there is to hear."""
STATISTICS = {
    "mean": "Mean", "deviation": "Deviation", "minimum": "Minimum", "quantile_05": "5 %", "quantile_25": "25 %", "median": "Median",
    "quantile_75": "75 %", "quantile_95": "95 %", "maximum": "Maximum", "share_active": "Share of clips above 0",
}  # fmt: skip
PLACES = ("lead", "told", "summary", "words", "closed", "classes")


def neurons(press: Press, known: Known) -> Iterator[tuple[str, str]]:
    """Addresses and texts of all neuron pages of a study."""
    study = known.study
    order = [layer for layer in study.layers if layer.has_pages and layer.is_asked]
    if not order:
        return
    files = [f"{layer.short}/{layer.file(neuron_id)}" for layer in order for neuron_id in layer.ids]
    turns = zip([None, *files], files, [*files[1:], None], strict=False)
    for layer in order:
        yield from _layer(press, known, layer, turns)


def _layer(press: Press, known: Known, layer: Layer, turns: Iterator[tuple]) -> Iterator[tuple[str, str]]:
    """Addresses and texts of one layer's neuron pages and of their style sheet; `turns` brings each neuron's file within the study's folder, the one
    before, and the one after it."""
    study, dataset, chance, facts = known.study, known.study.dataset, known.study.dataset.chances, known[Tuning].layers[layer.layer_id]
    page, template = press.page(layer.page), press.templates.get_template("neuron.html.j2")
    cards = Cards(dataset, study.view, press.media, layer.page.count("/"), known[Captions].texts)
    summaries, tops = _summaries(press.con, study, layer), _top_clips(press.con, study, layer, cards, known[Rules].facts(layer))
    measured = known[Rules].measured(layer)
    others = _other_tops(press.con, study, layer, cards)
    said = [topic.neurons(page, layer) for topic in known]
    constant = {
        "study": study, "layer": layer, "root": page.root, "reductions": REDUCTIONS, "dataset": dataset,
        "provenance": page.brief_foot([study.run_id, *(run for parts in said for run in parts.runs)]),
    }  # fmt: skip
    said = [parts for parts in said if parts.of]
    # The numbers are asked first: when they end, no turn of the next layer is lost.
    for neuron_id, (previous, file, following) in zip(layer.ids, turns, strict=False):
        fact = facts[neuron_id - layer.first]
        best = dataset.class_of(fact.class_id)
        text = template.render(
            constant, neuron_id=neuron_id, title=layer.title(neuron_id), unit=layer.units[neuron_id - layer.first], fact=fact,
            best=best, chance=best and chance[best.class_id], previous=previous, following=following,
            measured=measured.get(neuron_id), summary=summaries.get(neuron_id), top=tops.get(neuron_id, _NO_TOPS),
            others=others.get(neuron_id, ()), at=by_place([part for parts in said for part in parts.of.get(neuron_id, ())], *PLACES),
        )  # fmt: skip
        yield f"{study.folder}/{file}", lean(text, f"{page.root}{dataset.folder}/")
    yield f"{layer.folder}/clips.css", _style(cards)


def _style(cards: Cards) -> str:
    """A style sheet of a layer's neuron pages with what is the same on many of them: the sounds' licence, and for links to clips' pages the classes, the
    name, the caption, the picture, and where what the network hears begins, in seconds. atlas.js makes text of it; without scripts, this does."""
    dataset, view = cards.dataset, cards.view
    said = r'var(--l) "\a" var(--n,"")' + (r' "\a" var(--c,"")' if cards.captions else "")
    rules = ['@charset "utf-8";', f".license::after{{content:{_quoted(dataset.license or '')}}}"]
    rules += [
        f"html:not(.js) .neuron .cards a::after{{content:{said};white-space:pre-line}}",
        "html:not(.js) .others a::after{content:var(--l)}",
    ]
    for clip_id, address in sorted(cards.linked.items()):
        clip, label = dataset.clips[clip_id], dataset.main_label(dataset.clips[clip_id])
        start, caption = clip.start_s(view.clip_s), cards.captions.get(clip_id)
        its = {
            "l": _quoted(label), "n": _quoted(clip.title) if clip.title != label else "",
            "c": _quoted(cut(caption, CAPTION)) if caption is not None else "", "t": f"{start:.3f}" if start >= 0.01 else "",
        }  # fmt: skip
        place = f'[href="{address}"]'
        rules.append(f".sounds {place}{{{';'.join([f'--{name}:{value}' for name, value in its.items() if value])}}}")
        if cards.media.has(clip, view):
            rules.append(f".cards {place}::before{{background-image:url({cards.root}{spectrogram_path(clip, view)})}}")
    return "\n".join(rules) + "\n"


def _quoted(text: str) -> str:
    """A text as a string of a style sheet."""
    return '"' + "".join([f"\\{ord(c):x} " if c in '"\\<' or c < " " else c for c in text]) + '"'


_ENDS = re.compile("</(?:li|dt|dd|tr|td|th|tbody|thead)>|</p>(?=\\s*</?(?:p|ol|ul|dl|table|details|section|div|figure)\\b)")
_QUOTES = re.compile(r"""="([^\s"'=<>`]*[^\s"'=<>`/])\"""")


def lean(text: str, folder: str) -> str:
    """A page without what HTML lets a page leave out, and with addresses below `folder`, that of a data set, as they are from its clips', which
    is the page's base: end tags of lists' and tables' parts and paragraphs, and quotes about values without spaces. What data say is escaped, so none of it
    is meant."""
    base, rest = text.split("<base ", 1)
    base, rest = f"{base}<base {rest[: rest.index('>')]}", rest[rest.index(">") :]
    rest = rest.replace(f'="{folder}clips/', '="').replace(f'="{folder}', '="../')
    return base + _QUOTES.sub(r"=\1", _ENDS.sub("", rest))


def _summaries(con: duckdb.DuckDBPyConnection, study: Study, layer: Layer) -> dict[int, dict[str, Markup]]:
    """Histogram and table of statistics by neuron."""
    rows = con.execute(
        f"""SELECT neuron_id, reduction, histogram::JSON::INTEGER[], {", ".join(STATISTICS)} FROM activation_summary
            WHERE run_id = ? AND neuron_id BETWEEN ? AND ? ORDER BY neuron_id, reduction = 'mean' DESC, reduction""",
        [study.run_id, layer.first, layer.last],
    ).fetchall()
    out = {}
    for neuron_id, group in groupby(rows, key=itemgetter(0)):
        found = list(group)
        shown = next((row for row in found if row[1] == layer.reduction), found[0])
        drawing = ""
        if shown[2]:
            low, high = shown[5], shown[11]
            drawing = f"<figure {svg.histogram(shown[2], low, high, shown[6:11])}><figcaption>{number(low)} to {number(high)}</figcaption></figure>"
        head = "".join(f"<th>{REDUCTIONS.get(row[1], escape(row[1]))}</th>" for row in found)
        body = "".join(
            [f"<tr><th>{name}</th>{''.join([f'<td>{number(row[i])}</td>' for row in found])}</tr>" for i, name in _NUMBERED_STATISTICS]
        )
        table = f'<table class="numbers"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
        out[neuron_id] = {"drawing": Markup(drawing), "table": Markup(table), "value": shown[3]}
    return out


_NUMBERED_STATISTICS = list(enumerate(STATISTICS.values(), 3))
_NO_TOPS: dict = {"open": "", "more": "", "high": 0, "low_cards": "", "low": 0, "range": None}


def _top_clips(
    con: duckdb.DuckDBPyConnection, study: Study, layer: Layer, cards: Cards, facts: Mapping[tuple[int, int], str]
) -> dict[int, dict]:
    """Cards of the highest and lowest clips by neuron; `facts` by neuron and clip stand on them."""
    low_clips = LOW_NON_NEGATIVE if layer.non_negative else LOW
    found = con.sql(
        """SELECT neuron_id, side, clip_id, activation, course FROM top_clip
           WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND reduction = ? AND (side = 'high' AND rank <= ? OR side = 'low' AND rank <= ?)
           ORDER BY neuron_id, side, rank""",
        params=[study.run_id, layer.first, layer.last, layer.reduction, HIGH, low_clips],
    ).to_arrow_table()
    if not len(found):
        return {}
    neurons = found["neuron_id"].to_numpy()
    sides, clips, values = (found[name].to_pylist() for name in ("side", "clip_id", "activation"))
    firsts = np.flatnonzero(np.diff(neurons, prepend=-1))
    steps = _course_matrix(found["course"].combine_chunks())
    lines, lows, highs = [""] * len(clips), None, None
    if steps.shape[1]:
        # One scale for all of a neuron's lines, from 0 (or its lowest step) to its highest.
        with np.errstate(invalid="ignore"):
            low = np.minimum.reduceat(np.nan_to_num(np.fmin.reduce(steps, axis=1)), firsts).clip(max=0)
            high = np.maximum.reduceat(np.nan_to_num(np.fmax.reduce(steps, axis=1)), firsts).clip(min=0)
        counts = np.diff(firsts, append=len(clips))
        lines = svg.traces(steps, low.repeat(counts), high.repeat(counts))
        lows, highs = low.tolist(), high.tolist()
    out = {}
    brief, none = cards.brief, "." * steps.shape[1]
    said = [facts.get(place, "") for place in zip(neurons.tolist(), clips, strict=True)] if facts else [""] * len(clips)

    def items(first: int, end: int, *, drawn: bool = False) -> Markup:
        """A list of clips, with their lines, one after the other, where these are to be drawn."""
        if first == end:
            return Markup()
        line = f' data-c="{"".join([line or none for line in lines[first:end]])}"' if drawn and any(lines[first:end]) else ""
        its = [brief(clips[at], number(values[at]), said[at]) for at in range(first, end)]
        return Markup(f'<ol class="cards"{line}>{"".join(its)}</ol>')

    for at, (first, end) in enumerate(zip(firsts.tolist(), [*firsts.tolist()[1:], len(clips)], strict=True)):
        split = next((i for i in range(first, end) if sides[i] == "low"), end)
        out[int(neurons[first])] = {
            "open": items(first, min(first + OPEN, split), drawn=True),
            "more": items(min(first + OPEN, split), split),
            "high": split - first,
            "low_cards": items(split, end),
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


def _other_tops(con: duckdb.DuckDBPyConnection, study: Study, layer: Layer, cards: Cards) -> dict[int, list[tuple[str, Markup]]]:
    """Highest clips by the reductions the page does not rank by, as lines of links."""
    rows = con.execute(
        """SELECT neuron_id, reduction, clip_id, activation FROM top_clip
           WHERE run_id = ? AND neuron_id BETWEEN ? AND ? AND side = 'high' AND rank <= 10 AND reduction <> ?
           ORDER BY neuron_id, reduction, rank""",
        [study.run_id, layer.first, layer.last, layer.reduction],
    ).fetchall()
    out: dict[int, list[tuple[str, Markup]]] = defaultdict(list)
    for (neuron_id, reduction), group in groupby(rows, key=itemgetter(0, 1)):
        items = "".join([f"<li>{cards.link(clip_id)} {number(value)}" for _, _, clip_id, value in group])
        out[neuron_id].append((REDUCTIONS.get(reduction, reduction), Markup(items)))
    return out
