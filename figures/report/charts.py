"""The charts of a report as Altair specifications: how they look. What is drawn in them, the page's script puts in.

Each takes its rows from a named dataset, has the width of the page, and a parameter `picked`, the points that the
reader has chosen. Every row of points has `id`, `series`, `at` (the point in words), and for each number its text.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from .. import style

_COUNT = 63
"""Looks before they repeat: that of colours times that of markers."""
_SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "M-1,-1L1,1M1,-1L-1,1",
    "<": "triangle-left",
    ">": "triangle-right",
}
_LOOKS = [style.look(index) for index in range(_COUNT)]
_PICKED = "indexof(picked, datum.id) >= 0"
_HEIGHT = 340


def _data() -> alt.Chart:
    return alt.Chart(alt.NamedData("rows"))


def _colour(*, legend: bool = True) -> alt.Color:
    scale = alt.Scale(range=[look.colour for look in _LOOKS])
    shown = (
        alt.Legend(orient="top", title=None, labelLimit=220, symbolLimit=_COUNT, symbolOpacity=1) if legend else None
    )
    return alt.Color("series:N", scale=scale, sort=None, legend=shown)


def _shape() -> alt.Shape:
    return alt.Shape("series:N", scale=alt.Scale(range=[_SHAPES[look.marker] for look in _LOOKS]), sort=None)


def _filling() -> alt.Opacity:
    """Return how much of a marker is filled, a share: all of it where the queue is steady."""
    return alt.Opacity("filling:Q", scale=None, legend=None)


def _fit(chart: alt.LayerChart | alt.FacetChart, height: int = _HEIGHT) -> dict[str, Any]:
    """Return a chart as wide as its place, in the looks of the figures."""
    picked = alt.param(name="picked", value=[])
    plain = {"labelColor": "#222222", "titleColor": "#222222", "titleFontWeight": "normal", "labelLimit": 150}
    dressed = (
        chart.add_params(picked)
        .properties(width="container", height=height)
        .configure(font="system-ui, sans-serif", autosize=alt.AutoSizeParams(type="fit", contains="padding"))
        .configure_axis(gridColor="#E3E3E3", labelFontSize=12, titleFontSize=12, **plain)
        .configure_legend(labelFontSize=12, labelColor="#222222", columnPadding=14)
        .configure_view(stroke=None)
    )
    found: dict[str, Any] = dressed.to_dict()
    for layer in found["layer"]:
        layer.pop("data", None)
    return found | {"data": {"name": "rows"}}


def lines() -> dict[str, Any]:
    """Return a chart of means over an axis: a line for each series with its band, markers that can be picked.

    Rows: x, y, low, high, theory, filling, queue.
    """
    x = alt.X("x:Q", scale=alt.Scale(zero=False, nice=False, padding=12))
    y = alt.Y("y:Q", scale=alt.Scale(zero=False))
    base = _data().encode(x=x)
    tooltip = [alt.Tooltip("at:N", title="point"), alt.Tooltip("text:N"), alt.Tooltip("queue:N", title="queue")]
    size = alt.when(_PICKED).then(alt.value(260)).otherwise(alt.value(64))
    width = alt.when(_PICKED).then(alt.value(3)).otherwise(alt.value(1.5))
    return _fit(
        alt.layer(
            base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q", color=_colour()),
            base.mark_rule(strokeWidth=1.2).encode(y=alt.Y("low:Q"), y2="high:Q", color=_colour()),
            base.mark_line(strokeWidth=1.6).encode(y=y, color=_colour()),
            base.mark_line(strokeWidth=1.2, strokeDash=[5, 3]).encode(
                y=alt.Y("theory:Q"), color=alt.value("#222222"), detail="series:N"
            ),
            base.mark_point(filled=True, size=64).encode(y=y, color=_colour(), shape=_shape(), opacity=_filling()),
            base.mark_point(cursor="pointer").encode(
                y=y, color=_colour(), shape=_shape(), size=size, strokeWidth=width, tooltip=tooltip
            ),
        )
    )


def scatter() -> dict[str, Any]:
    """Return a chart of one mean against another, a marker for each point, with both intervals.

    Rows: x, x_low, x_high, y, low, high, filling, queue, frontier; points surely on the frontier have a ring at ring_x
    and ring_y, those possibly on it a broken one.
    """
    x, y = alt.X("x:Q", scale=alt.Scale(zero=False, padding=12)), alt.Y("y:Q", scale=alt.Scale(zero=False, padding=12))
    base = _data()
    size = alt.when(_PICKED).then(alt.value(260)).otherwise(alt.value(64))
    width = alt.when(_PICKED).then(alt.value(3)).otherwise(alt.value(1.5))
    tooltip = [
        alt.Tooltip("at:N", title="point"),
        alt.Tooltip("x_text:N"),
        alt.Tooltip("text:N"),
        alt.Tooltip("queue:N", title="queue"),
        alt.Tooltip("frontier:N", title="on the frontier"),
    ]
    broken = alt.when("datum.frontier == 'possibly'").then(alt.value([2, 2])).otherwise(alt.value([1, 0]))
    return _fit(
        alt.layer(
            base.mark_rule(strokeWidth=1).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=_colour()),
            base.mark_rule(strokeWidth=1).encode(x=alt.X("x_low:Q"), x2="x_high:Q", y=y, color=_colour()),
            base.mark_point(filled=True, size=64).encode(x=x, y=y, color=_colour(), shape=_shape(), opacity=_filling()),
            base.mark_point(size=190, color="#222222", strokeWidth=1.2).encode(
                x=alt.X("ring_x:Q"), y=alt.Y("ring_y:Q"), strokeDash=broken
            ),
            base.mark_point(cursor="pointer").encode(
                x=x, y=y, color=_colour(), shape=_shape(), size=size, strokeWidth=width, tooltip=tooltip
            ),
        )
    )


def over_time() -> dict[str, Any]:
    """Return a chart of means over time, a line for each point that is picked, with its band. Rows: x, y, low, high."""
    base = _data().encode(x=alt.X("x:Q", title="time (s)", scale=alt.Scale(nice=False)))
    tooltip = [
        alt.Tooltip("series:N", title="point"),
        alt.Tooltip("x:Q", title="time (s)", format=".4~g"),
        alt.Tooltip("y:Q", format=".4~g"),
        alt.Tooltip("low:Q", title="from", format=".4~g"),
        alt.Tooltip("high:Q", title="to", format=".4~g"),
    ]
    return _fit(
        alt.layer(
            base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q", color=_colour()),
            base.mark_line(strokeWidth=1.6).encode(y=alt.Y("y:Q"), color=_colour()),
            base.mark_point(filled=True, size=16, opacity=0.01).encode(
                y=alt.Y("y:Q"), color=_colour(), tooltip=tooltip
            ),
        ),
        260,
    )


def steps(x_title: str, y_title: str) -> dict[str, Any]:
    """Return a chart of plain lines, as of distributions and courses. Rows: x, y, series."""
    tooltip = [
        alt.Tooltip("series:N", title="of"),
        alt.Tooltip("x:Q", title=x_title, format=".4~g"),
        alt.Tooltip("y:Q", title=y_title, format=".4~g"),
    ]
    base = _data().encode(x=alt.X("x:Q", title=x_title), y=alt.Y("y:Q", title=y_title), color=_colour())
    return _fit(
        alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=20, opacity=0.01).encode(tooltip=tooltip)), 280
    )


def against(x_title: str, y_title: str) -> dict[str, Any]:
    """Return a chart of one number against another, with the line of equality. Rows: x, y, series, at, text."""
    x, y = (
        alt.X("x:Q", title=x_title, scale=alt.Scale(type="log")),
        alt.Y("y:Q", title=y_title, scale=alt.Scale(type="log")),
    )
    tooltip = [alt.Tooltip("at:N", title="cell"), alt.Tooltip("text:N", title="measured, fitted")]
    return _fit(
        alt.layer(
            _data().mark_line(color="#999999", strokeDash=[4, 3]).encode(x=x, y=alt.Y("x:Q")),
            _data().mark_point(filled=True, size=48).encode(x=x, y=y, color=_colour(), shape=_shape(), tooltip=tooltip),
        )
    )


_VERDICTS = {"yes": ("#0072B2", "circle"), "equal": ("#56B4E9", "circle"), "no": ("#D55E00", "square")}
_VERDICTS |= {"cannot tell": (style.GREY, "triangle-up")}


def claims() -> dict[str, Any]:
    """Return a chart of what was simulated over what is claimed, a row each, with the interval and the verdict.

    Rows: name, y (the ratio), low, high, series (the verdict), text.
    """
    domain = list(_VERDICTS)
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=domain, range=[colour for colour, _ in _VERDICTS.values()]),
        legend=alt.Legend(orient="top", title="agrees", columns=2),
    )
    shape = alt.Shape("series:N", scale=alt.Scale(domain=domain, range=[shape for _, shape in _VERDICTS.values()]))
    name = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=190))
    tooltip = [alt.Tooltip("name:N", title="row"), alt.Tooltip("text:N", title="why")]
    x = alt.X("y:Q", title="simulated / claimed", scale=alt.Scale(zero=False))
    chart = alt.layer(
        _data().mark_rule(color="#999999").encode(x=alt.datum(1)),
        _data().mark_rule(strokeWidth=1.4, clip=True).encode(y=name, x=alt.X("low:Q"), x2="high:Q", color=colour),
        _data().mark_point(filled=True, size=56).encode(y=name, x=x, color=colour, shape=shape, tooltip=tooltip),
    )
    return _fit(chart)
