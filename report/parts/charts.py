"""Chart specifications: one per chart type, made by Altair and stored once; pages bring rows of the fields named here."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import altair as alt
import vl_convert

HEIGHT = 210


def _rows(height: int) -> alt.Chart:
    return alt.Chart(alt.NamedData("rows"), width="container", height=height)


def _tips(*fields: str) -> list[alt.Tooltip]:
    """What hovering tells: each field as `name:type`, its title and format behind it where they are not its own, parted by bars."""
    out = []
    for field in fields:
        name, *more = field.split("|")
        named: dict[str, Any] = {key: value for key, value in zip(("title", "format"), more, strict=False) if value}
        out.append(alt.Tooltip(name, **named))
    return out


def _layers() -> alt.X:
    return alt.X("layer:N", title=None, sort=alt.EncodingSortField("position", op="min"), axis=alt.Axis(labelAngle=-60, labelOverlap=True))


def _lines(x: alt.X, legend: bool) -> alt.LayerChart:
    """A line per `series` over layers; rows need `layer`, `series`, `value`, `label` and, to be clickable, `href`."""
    base = _rows(HEIGHT).encode(
        x=x,
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5)),
        color=alt.Color("series:N", legend=alt.Legend() if legend else None),
    )
    tips = _tips("label:N|at", "value:Q|value|.3f", "series:N|network")
    return base.mark_line(strokeWidth=2) + base.mark_point(filled=True, size=42, opacity=1).encode(tooltip=tips, href="href:N")


def by_layer() -> alt.LayerChart:
    """A value per layer of one network, layers in forward order (`position`)."""
    return _lines(_layers(), legend=False)


def by_depth() -> alt.LayerChart:
    """A value per layer of several networks, over `depth`: 0 is a network's first layer, 1 its last."""
    axis, scale = alt.Axis(format=".0%", tickCount=5), alt.Scale(domain=[0, 1])
    return _lines(alt.X("depth:Q", title="depth in the network", scale=scale, axis=axis), legend=True)


def _neurons(x: alt.X) -> alt.Chart:
    """A point per neuron at its best average precision; rows need `neuron`, `best`, `ap`, `selectivity`, `active` and `href`."""
    tips = _tips("neuron:N", "best:N|best class", "ap:Q|AP|.3f", "selectivity:Q||.3f", "active:Q|active|.1%")
    points = _rows(300).mark_circle(opacity=0.65, size=44)
    return points.encode(x=x, y=alt.Y("ap:Q", title="best average precision"), tooltip=tips, href="href:N")


def selective_neurons() -> alt.Chart:
    """A layer's neurons by their highest selectivity."""
    return _neurons(alt.X("selectivity:Q", title="highest selectivity for any class"))


def active_neurons() -> alt.Chart:
    """A layer's neurons by how many clips they answer to, where values of both signs leave selectivity undefined."""
    return _neurons(alt.X("active:Q", title="share of clips above 0", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])))


def _accuracy(color: alt.Color, chance_color: Any) -> alt.LayerChart:
    """Accuracy by layer with its interval, a line per `series`; rows need those of `by_layer`, and `low`, `high` and `chance`."""
    rows = _rows(260)
    tips = _tips("layer:N", "series:N", "label:N|probe", "value:Q|accuracy|.1%", "low:Q|95 % from|.1%", "high:Q|to|.1%")
    base = rows.encode(x=_layers(), color=color, tooltip=tips)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5, format="%"))
    return (
        rows.mark_rule(strokeDash=[4, 4]).encode(y=alt.Y("max(chance):Q", title=None), color=chance_color)
        + base.mark_rule(opacity=0.5, strokeWidth=1.5).encode(y=alt.Y("low:Q", title=None), y2="high:Q")
        + base.mark_line(strokeWidth=2).encode(y=y)
        + base.mark_point(filled=True, size=42, opacity=1).encode(y=y, href="href:N")
    )


def probes() -> alt.LayerChart:
    """Probes of one data set: the best k, k = 1 and the linear one."""
    return _accuracy(alt.Color("series:N", sort=["best k", "k = 1", "linear"], legend=alt.Legend()), alt.value("gray"))


def tuning() -> alt.LayerChart:
    """Median of a measure by layer, with its quartiles; rows need `layer`, `position`, `value`, `low`, `high`, `tuned` and `href`."""
    tips = _tips("layer:N", "value:Q|median|.3", "low:Q|quartile|.3", "high:Q|quartile|.3", "tuned:Q|tuned|.0%")
    y = alt.Y("value:Q", title=None, scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=5, format=",~g"))
    base = _rows(HEIGHT).encode(x=_layers(), y=y, tooltip=tips)
    quartiles = base.mark_rule(opacity=0.5, strokeWidth=1.5).encode(y=alt.Y("low:Q", title=None), y2="high:Q")
    return quartiles + base.mark_line(strokeWidth=2) + base.mark_point(filled=True, size=42, opacity=1).encode(href="href:N")


def tasks() -> alt.LayerChart:
    """The best k of several data sets, each with its own chance."""
    color = alt.Color("series:N", legend=alt.Legend())
    return _accuracy(color, color)


def trust() -> alt.LayerChart:
    """Medians of a test by layer, a line per `series` with its interval, and the floor dashed; rows need those of `by_layer`, and `low`, `high`,
    `floor`, `chance`, `neurons` and `above_floor`."""
    order = ["held out", "near misses", "intruder", "fuzz"]
    color = alt.Color("series:N", sort=order, legend=alt.Legend())
    tips = _tips("layer:N", "series:N|test", "value:Q|median|.3f", "low:Q|95 % from|.3f", "high:Q|to|.3f", "floor:Q|floor|.3f", "chance:Q",
                 "above_floor:Q|above their floor|.0%", "neurons:Q")  # fmt: skip
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    base = _rows(260).encode(x=_layers(), color=color, tooltip=tips)
    # Where no layer has an interval, a reader of screens would meet an empty group of marks; the table says them all.
    return (
        base.mark_line(strokeDash=[4, 4], strokeWidth=1, opacity=0.8).encode(y=alt.Y("floor:Q", title=None))
        + base.mark_rule(opacity=0.5, strokeWidth=1.5, aria=False).encode(y=alt.Y("low:Q", title=None), y2="high:Q")
        + base.mark_line(strokeWidth=2).encode(y=y)
        + base.mark_point(filled=True, size=42, opacity=1).encode(y=y, href="href:N")
    )


def entropies() -> alt.LayerChart:
    """Box plots by layer, side by side per `series`, from their five numbers `low`, `from`, `value` (the median), `to` and `high`."""
    order = ["SEnt", "PEnt", "CEnt"]
    tips = _tips("layer:N", "series:N|entropy", "value:Q|median|.3f", "from:Q|quartile|.3f", "to:Q|quartile|.3f", "clusters:Q")
    color = alt.Color("series:N", sort=order, legend=alt.Legend())
    base = _rows(260).encode(x=_layers(), xOffset=alt.XOffset("series:N", sort=order), color=color, tooltip=tips)
    low = alt.Y("low:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    return (
        base.mark_rule(strokeWidth=1).encode(y=low, y2="high:Q")
        + base.mark_bar(opacity=0.55, size=6).encode(y=alt.Y("from:Q", title=None), y2="to:Q", href="href:N")
        + base.mark_tick(thickness=2, size=8, orient="horizontal").encode(y=alt.Y("value:Q", title=None))
    )


def _counted(rows: alt.Chart, **channels: Any) -> Any:
    """A share by layer; rows need `layer`, `position`, `series`, `value` and its `neurons` of `total`, and, to be clickable, `href`."""
    tips = _tips("layer:N", "series:N", "value:Q|share|.1%", "neurons:Q", "total:Q|of")
    return rows.encode(x=_layers(), tooltip=tips, href="href:N", **channels)


def _shares(height: int, ticks: int, **channels: Any) -> alt.LayerChart:
    """Shares by layer as points on lines."""
    rows, y = _rows(height), alt.Y("value:Q", title=None, scale=alt.Scale(domainMin=0), axis=alt.Axis(tickCount=ticks, format="%"))
    points = rows.mark_point(filled=True, size=42, opacity=1)
    return _counted(rows.mark_line(strokeWidth=2), y=y, **channels) + _counted(points, y=y, **channels)


def shares() -> alt.LayerChart:
    """Shares of neurons by layer, a line per `series`."""
    return _shares(HEIGHT, 5, color=alt.Color("series:N", legend=alt.Legend()))


def share() -> alt.LayerChart:
    """The share of one thing by layer."""
    return _shares(160, 4)


def adjectives() -> alt.Chart:
    """A map of shares, layers to the right and a row per `series` in their `order`; the darker, the more."""
    y = alt.Y("series:N", title=None, sort=alt.EncodingSortField("order", op="min"))
    color = alt.Color("value:Q", scale=alt.Scale(domainMin=0), legend=alt.Legend(format=".0%", gradientLength=160))
    return _counted(_rows(240).mark_rect(), y=y, color=color)


def specific_classes() -> alt.Chart:
    """A map of shares of a layer's neurons, layers to the right and a row per class (`series`) in their `order`."""
    y = alt.Y("series:N", title=None, sort=alt.EncodingSortField("order", op="min"), axis=alt.Axis(labelOverlap=True))
    color = alt.Color("value:Q", scale=alt.Scale(domainMin=0), legend=alt.Legend(format=".1%", gradientLength=160))
    return _counted(_rows(420).mark_rect(), y=y, color=color)


def sharing() -> alt.Chart:
    """A map of the Jaccard index of every two classes, in the order of `row` and `column`."""
    tips = _tips("first:N|class", "first_neurons:Q|its neurons", "second:N|other class", "second_neurons:Q|its neurons ", "shared:Q",
                 "value:Q|Jaccard index|.3f", "expected:Q|of random sets|.3f")  # fmt: skip
    return _rows(420).mark_rect().encode(
        x=alt.X("second:N", title=None, sort=alt.EncodingSortField("column", op="min"), axis=alt.Axis(labelAngle=-60, labelOverlap=True)),
        y=alt.Y("first:N", title=None, sort=alt.EncodingSortField("row", op="min"), axis=alt.Axis(labelOverlap=True)),
        color=alt.Color("value:Q", scale=alt.Scale(domainMin=0), legend=alt.Legend(format=".2f", gradientLength=160)),
        tooltip=tips, href="href:N",
    )  # fmt: skip


def frequent_adjectives() -> alt.Chart:
    """Bars of the share of neurons by `adjective` in their `order`; `series` is the level."""
    y = alt.Y("adjective:N", title=None, sort=alt.EncodingSortField("order", op="min"), axis=alt.Axis(labelLimit=160))
    x = alt.X("value:Q", title=None, axis=alt.Axis(format="%", tickCount=5))
    tips = _tips("adjective:N", "series:N|level", "neurons:Q", "value:Q|share|.1%")
    return _rows(330).mark_bar().encode(x=x, y=y, color=alt.Color("series:N", legend=alt.Legend()), tooltip=tips, href="href:N")


def acoustics() -> alt.LayerChart:
    """Boxes from `low` to `high` (quartiles) with the median (`value`) by `adjective`, side by side for neurons with and without it (`series`)."""
    tips = _tips("adjective:N", "series:N|neurons", "neurons:Q", "low:Q|quartile|.3~g", "value:Q|median|.3~g", "high:Q|quartile|.3~g")
    order = ["with it", "without"]
    color = alt.Color("series:N", sort=order, legend=alt.Legend())
    x = alt.X("adjective:N", title=None, axis=alt.Axis(labelAngle=0))
    base = _rows(HEIGHT).encode(x=x, xOffset=alt.XOffset("series:N", sort=order), color=color, tooltip=tips)
    y = alt.Y("low:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    ticks = base.mark_tick(thickness=2, orient="horizontal").encode(y=alt.Y("value:Q", title=None))
    return base.mark_bar(opacity=0.55).encode(y=y, y2="high:Q") + ticks


def importance() -> alt.LayerChart:
    """Accuracy by `share` of neurons silenced, a line per `series`, which is dashed for random choices."""
    base = _rows(280).encode(
        x=alt.X("share:Q", title="share of neurons silenced", axis=alt.Axis(format="%", tickCount=5)),
        y=alt.Y("value:Q", title="accuracy", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5, format="%")),
        color=alt.Color("series:N", legend=alt.Legend(columns=4)),
        tooltip=_tips("series:N|most", "share:Q||.0%", "neurons:Q", "value:Q|accuracy|.1%", "repetitions:Q"),
    )
    dash = alt.condition("datum.series == 'random'", alt.value([5, 4]), alt.value([1, 0]))
    return base.mark_line(strokeWidth=2).encode(strokeDash=dash) + base.mark_point(filled=True, size=36, opacity=1)


def _against(x: str, y: str, opacity: float, *tips: str) -> alt.LayerChart:
    """A point per class and `series`, fields as for `_tips`; on the line, both are alike."""
    (across, across_title), (up, up_title) = x.split("|"), y.split("|")
    rows, color = _rows(320), alt.Color("series:N", legend=alt.Legend())
    points = rows.mark_circle(opacity=opacity, size=50).encode(
        x=alt.X(across, title=across_title, axis=alt.Axis(tickCount=8)), y=alt.Y(up, title=up_title), color=color,
        tooltip=_tips("class:N", *tips), href="href:N",
    )  # fmt: skip
    return rows.mark_line(strokeDash=[4, 4], color="gray", strokeWidth=1).encode(x=across, y=alt.Y(across, title=up_title)) + points


def unlearning() -> alt.LayerChart:
    """Classes by the changes of their logit (`own`) and of the others' (`other`)."""
    x, y = "other:Q|dR: change of the other classes’ logits", "own:Q|dA: change of the class’s logit"
    return _against(x, y, 0.75, "series:N|neurons by", "neurons:Q", "own:Q|dA|.3f", "other:Q|dR|.3f")


def unlearning_classes() -> alt.Chart:
    """A map of the change (`value`) of every `class` by the class that is `unlearned`; red loses, blue gains."""
    scale = alt.Scale(scheme="redblue", domain=alt.DomainUnionWith(unionWith=[0]), domainMid=0)  # 0 is in it where all lose, too
    color = alt.Color("value:Q", scale=scale, legend=alt.Legend(title="change", gradientLength=160))
    tips = _tips("unlearned:N", "class:N", "value:Q|change of its logit|.3f", "series:N|neurons by")
    base = _rows(420).mark_rect().encode(x=alt.X("class:N", title=None), y=alt.Y("unlearned:N", title=None), color=color)
    return base.encode(tooltip=tips, href="href:N")


def specific_ablations() -> alt.LayerChart:
    """Classes by the percentage points lost without `random` and without their `specific` neurons."""
    x, y = "random:Q|points lost without random neurons", "specific:Q|points lost without specific neurons"
    tips = "series:N|specific by", "neurons:Q", "undisturbed:Q|clips right before", "total:Q|of"
    return _against(x, y, 0.6, *tips, "specific:Q|points lost|.1f", "random:Q|by random|.1f")


TYPES = {
    "by_layer": by_layer, "by_depth": by_depth, "selective_neurons": selective_neurons, "active_neurons": active_neurons,
    "probes": probes, "tuning": tuning, "tasks": tasks, "trust": trust, "entropies": entropies, "shares": shares, "share": share, "adjectives": adjectives,
    "frequent_adjectives": frequent_adjectives, "acoustics": acoustics,
    "importance": importance, "unlearning": unlearning, "unlearning_classes": unlearning_classes,
    "specific_ablations": specific_ablations, "specific_classes": specific_classes, "sharing": sharing,
}  # fmt: skip


@cache
def specifications() -> str:
    """Classic script that assigns every specification to a global."""
    specs = {name: json.loads(make().to_json(validate=True)) for name, make in TYPES.items()}
    return f"AURICLE_CHARTS={json.dumps(specs, sort_keys=True, separators=(',', ':'))};\n"


@cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one classic script.

    It is wrapped in a function because its thousands of top-level names would otherwise be the page's.
    """
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return f"(function(){{{bundle}}})();\n"


def rows_script(**charts: list[dict]) -> str:
    """Rows of a page's charts as a JavaScript object that cannot end the script element it stands in."""
    text = json.dumps(charts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
