"""Chart specifications: one per chart type, made by Altair and stored once; pages bring rows of the fields named here."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import altair as alt
import vl_convert

HEIGHT = 210


def _lines(x: alt.X, legend: bool) -> alt.LayerChart:
    """A line per `series` over layers; rows need `layer`, `series`, `value`, `label` and, to be clickable, `href`."""
    tooltip = [
        alt.Tooltip("label:N", title="at"),
        alt.Tooltip("value:Q", title="value", format=".3f"),
        alt.Tooltip("series:N", title="network"),
    ]
    base = alt.Chart(alt.NamedData("rows"), width="container", height=HEIGHT).encode(
        x=x,
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5)),
        color=alt.Color("series:N", legend=alt.Legend() if legend else None),
    )
    points = base.mark_point(filled=True, size=42, opacity=1).encode(tooltip=tooltip, href="href:N")
    return base.mark_line(strokeWidth=2) + points


def by_layer() -> alt.LayerChart:
    """A value per layer of one network, layers in forward order (`position`)."""
    return _lines(_layers(), legend=False)


def by_depth() -> alt.LayerChart:
    """A value per layer of several networks, over `depth`: 0 is a network's first layer, 1 its last."""
    return _lines(
        alt.X("depth:Q", title="depth in the network", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", tickCount=5)),
        legend=True,
    )


def _neurons(x: alt.X) -> alt.Chart:
    """A point per neuron at its best average precision; rows need `neuron`, `best`, `ap`, `selectivity`, `active` and `href`."""
    return (
        alt.Chart(alt.NamedData("rows"), width="container", height=300)
        .mark_circle(opacity=0.65, size=44)
        .encode(
            x=x,
            y=alt.Y("ap:Q", title="best average precision"),
            tooltip=[
                alt.Tooltip("neuron:N"),
                alt.Tooltip("best:N", title="best class"),
                alt.Tooltip("ap:Q", title="AP", format=".3f"),
                alt.Tooltip("selectivity:Q", format=".3f"),
                alt.Tooltip("active:Q", title="active", format=".1%"),
            ],
            href="href:N",
        )
    )


def selective_neurons() -> alt.Chart:
    """A layer's neurons by their highest selectivity."""
    return _neurons(alt.X("selectivity:Q", title="highest selectivity for any class"))


def active_neurons() -> alt.Chart:
    """A layer's neurons by how many clips they answer to, where values of both signs leave selectivity undefined."""
    return _neurons(alt.X("active:Q", title="share of clips above 0", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])))


def _layers() -> alt.X:
    return alt.X("layer:N", title=None, sort=alt.EncodingSortField("position", op="min"), axis=alt.Axis(labelAngle=-60, labelOverlap=True))


def _accuracy(color: alt.Color, chance_color: Any) -> alt.LayerChart:
    """Accuracy by layer with its interval, a line per `series`; rows need those of `by_layer`, and `low`, `high` and `chance`."""
    rows = alt.Chart(alt.NamedData("rows"), width="container", height=260)
    base = rows.encode(
        x=_layers(),
        color=color,
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("series:N"),
            alt.Tooltip("label:N", title="probe"),
            alt.Tooltip("value:Q", title="accuracy", format=".1%"),
            alt.Tooltip("low:Q", title="95 % from", format=".1%"),
            alt.Tooltip("high:Q", title="to", format=".1%"),
        ],
    )
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5, format="%"))
    chance = rows.mark_rule(strokeDash=[4, 4]).encode(y=alt.Y("max(chance):Q", title=None), color=chance_color)
    return (
        chance
        + base.mark_rule(opacity=0.5, strokeWidth=1.5).encode(y=alt.Y("low:Q", title=None), y2="high:Q")
        + base.mark_line(strokeWidth=2).encode(y=y)
        + base.mark_point(filled=True, size=42, opacity=1).encode(y=y, href="href:N")
    )


def probes() -> alt.LayerChart:
    """Probes of one data set: the best k, k = 1 and the linear one."""
    return _accuracy(alt.Color("series:N", sort=["best k", "k = 1", "linear"], legend=alt.Legend()), alt.value("gray"))


def tasks() -> alt.LayerChart:
    """The best k of several data sets, each with its own chance."""
    color = alt.Color("series:N", legend=alt.Legend())
    return _accuracy(color, color)


def entropies() -> alt.LayerChart:
    """Box plots by layer, side by side per `series`, from their five numbers `low`, `from`, `value` (the median), `to` and `high`."""
    base = alt.Chart(alt.NamedData("rows"), width="container", height=260).encode(
        x=_layers(),
        xOffset=alt.XOffset("series:N", sort=["SEnt", "PEnt", "CEnt"]),
        color=alt.Color("series:N", sort=["SEnt", "PEnt", "CEnt"], legend=alt.Legend()),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("series:N", title="entropy"),
            alt.Tooltip("value:Q", title="median", format=".3f"),
            alt.Tooltip("from:Q", title="quartile", format=".3f"),
            alt.Tooltip("to:Q", title="quartile", format=".3f"),
            alt.Tooltip("clusters:Q"),
        ],
    )
    low = alt.Y("low:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    return (
        base.mark_rule(strokeWidth=1).encode(y=low, y2="high:Q")
        + base.mark_bar(opacity=0.55, size=6).encode(y=alt.Y("from:Q", title=None), y2="to:Q", href="href:N")
        + base.mark_tick(thickness=2, size=8, orient="horizontal").encode(y=alt.Y("value:Q", title=None))
    )


def _counted(rows: alt.Chart, **channels: Any) -> Any:
    """A share by layer; rows need `layer`, `position`, `series`, `value` and its `neurons` of `total`, and, to be clickable, `href`."""
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("series:N"),
        alt.Tooltip("value:Q", title="share", format=".1%"),
        alt.Tooltip("neurons:Q"),
        alt.Tooltip("total:Q", title="of"),
    ]
    return rows.encode(x=_layers(), tooltip=tooltip, href="href:N", **channels)


def shares() -> alt.LayerChart:
    """Shares of neurons by layer, a line per `series`."""
    rows = alt.Chart(alt.NamedData("rows"), width="container", height=HEIGHT)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domainMin=0), axis=alt.Axis(tickCount=5, format="%"))
    color = alt.Color("series:N", legend=alt.Legend())
    return _counted(rows.mark_line(strokeWidth=2), y=y, color=color) + _counted(
        rows.mark_point(filled=True, size=42, opacity=1), y=y, color=color
    )


def share() -> alt.LayerChart:
    """The share of one thing by layer."""
    rows = alt.Chart(alt.NamedData("rows"), width="container", height=160)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domainMin=0), axis=alt.Axis(tickCount=4, format="%"))
    return _counted(rows.mark_line(strokeWidth=2), y=y) + _counted(rows.mark_point(filled=True, size=42, opacity=1), y=y)


def adjectives() -> alt.Chart:
    """A map of shares, layers to the right and a row per `series` in their `order`; the darker, the more."""
    rows = alt.Chart(alt.NamedData("rows"), width="container", height=240).mark_rect()
    return _counted(
        rows,
        y=alt.Y("series:N", title=None, sort=alt.EncodingSortField("order", op="min")),
        color=alt.Color("value:Q", scale=alt.Scale(domainMin=0), legend=alt.Legend(format=".0%", gradientLength=160)),
    )


def importance() -> alt.LayerChart:
    """Accuracy by `share` of neurons silenced, a line per `series`, which is dashed for random choices."""
    base = alt.Chart(alt.NamedData("rows"), width="container", height=280).encode(
        x=alt.X("share:Q", title="share of neurons silenced", axis=alt.Axis(format="%", tickCount=5)),
        y=alt.Y("value:Q", title="accuracy", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5, format="%")),
        color=alt.Color("series:N", legend=alt.Legend(columns=4)),
        tooltip=[
            alt.Tooltip("series:N", title="most"),
            alt.Tooltip("share:Q", format=".0%"),
            alt.Tooltip("neurons:Q"),
            alt.Tooltip("value:Q", title="accuracy", format=".1%"),
            alt.Tooltip("repetitions:Q"),
        ],
    )
    dash = alt.condition("datum.series == 'random'", alt.value([5, 4]), alt.value([1, 0]))
    return base.mark_line(strokeWidth=2).encode(strokeDash=dash) + base.mark_point(filled=True, size=36, opacity=1)


def unlearning() -> alt.LayerChart:
    """A point per class and `series` at the changes of its logit (`own`) and of the others' (`other`); the line is where both are alike."""
    rows = alt.Chart(alt.NamedData("rows"), width="container", height=320)
    title = "dA: change of the class’s logit"
    points = rows.mark_circle(opacity=0.75, size=50).encode(
        x=alt.X("other:Q", title="dR: change of the other classes’ logits", axis=alt.Axis(tickCount=8)),
        y=alt.Y("own:Q", title=title),
        color=alt.Color("series:N", legend=alt.Legend()),
        tooltip=[
            alt.Tooltip("class:N"),
            alt.Tooltip("series:N", title="neurons by"),
            alt.Tooltip("neurons:Q"),
            alt.Tooltip("own:Q", title="dA", format=".3f"),
            alt.Tooltip("other:Q", title="dR", format=".3f"),
        ],
        href="href:N",
    )
    alike = rows.mark_line(strokeDash=[4, 4], color="gray", strokeWidth=1).encode(x="other:Q", y=alt.Y("other:Q", title=title))
    return alike + points


def specific_ablations() -> alt.LayerChart:
    """A point per class and `series` at the percentage points lost without `random` and without its `specific` neurons; the line is where both
    are alike."""
    rows = alt.Chart(alt.NamedData("rows"), width="container", height=320)
    title = "points lost without specific neurons"
    points = rows.mark_circle(opacity=0.6, size=50).encode(
        x=alt.X("random:Q", title="points lost without random neurons", axis=alt.Axis(tickCount=8)),
        y=alt.Y("specific:Q", title=title),
        color=alt.Color("series:N", legend=alt.Legend()),
        tooltip=[
            alt.Tooltip("class:N"),
            alt.Tooltip("series:N", title="specific by"),
            alt.Tooltip("neurons:Q"),
            alt.Tooltip("undisturbed:Q", title="clips right before"),
            alt.Tooltip("total:Q", title="of"),
            alt.Tooltip("specific:Q", title="points lost", format=".1f"),
            alt.Tooltip("random:Q", title="by random", format=".1f"),
        ],
        href="href:N",
    )
    alike = rows.mark_line(strokeDash=[4, 4], color="gray", strokeWidth=1).encode(x="random:Q", y=alt.Y("random:Q", title=title))
    return alike + points


TYPES = {
    "by_layer": by_layer, "by_depth": by_depth, "selective_neurons": selective_neurons, "active_neurons": active_neurons,
    "probes": probes, "tasks": tasks, "entropies": entropies, "shares": shares, "share": share, "adjectives": adjectives,
    "importance": importance, "unlearning": unlearning, "specific_ablations": specific_ablations,
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
