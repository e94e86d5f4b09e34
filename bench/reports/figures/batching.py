"""Queries embedded by several clients at once: rates in shared calls and alone, and what sharing gains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import (
    MARKS,
    MOST,
    Curve,
    Drawing,
    Point,
    curves_csv,
    draw_curves,
    stacked,
    whole_number,
    with_room,
)

_TITLE = "Queries embedded by several clients at once"
_RATE, _GAIN = "query.batching.rate", "query.batching.gain"
_STYLES = {"shared": (svg.SERIES, MARKS[0]), "alone": (svg.MUTED, MARKS[1])}
_PANELS = (150, 110)  # pixels of height
_APART = 24  # pixels between two numbers of clients that are named


def shared_calls(record: RunRecord) -> list[Drawing]:
    """Draw the rates and the gain over the number of clients, where a run embedded queries by several."""
    rates = [
        Curve(calls, points, *style)
        for calls, style in _STYLES.items()
        if (points := _points(record, _RATE, calls))
    ]
    gain = Curve("gain", _points(record, _GAIN), svg.SERIES)
    if not (rates and gain.points):
        return []
    with stacked(*_PANELS) as (figure, panels):
        draw_curves(panels[0], "queries embedded a second", rates)
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.6g}"))
        panels[1].axhline(1, color=svg.MUTED, linewidth=1)
        draw_curves(panels[1], "rate in shared calls over alone", [gain])
        panels[1].yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: units.tick(ratio, units.RATIO)))
        for axes in panels:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])  # the line of no gain may be the highest
        _clients_axis(panels, sorted({point.x for curve in (*rates, gain) for point in curve.points}))
        words = "; ".join(
            f"{curve.name} {units.show(point.value, answer.unit(point.measured))} at {point.x:g}"
            for curve in (*rates, gain)
            for point in curve.points
        )
        drawn = svg.write(figure, "batching", _TITLE, f"By clients: {words}.")
    return [Drawing("batching", _TITLE, _caption(record), drawn, curves_csv("clients", [*rates, gain]))]


def _points(record: RunRecord, name: str, calls: str | None = None) -> list[Point]:
    """What a metric is for each number of clients, the fewest first."""
    found = [
        Point(clients, metric.value, metric)
        for metric in record.metrics
        if metric.name == name and metric.labels.get("calls") == calls
        if (clients := whole_number(metric.labels.get("clients", "")))
        if metric.value is not None and 0 <= metric.value < MOST
    ]
    return sorted(found, key=lambda point: point.x)


def _clients_axis(panels: Sequence[Axes], clients: Sequence[float]) -> None:
    """One scale for both, on which twice as many are always as far away; named where there is room."""
    low, high = math.log2(clients[0]), math.log2(clients[-1])
    room = 0.05 * (high - low) + 0.1
    gap = _APART * (high - low + 2 * room) / panels[-1].get_window_extent().width
    ends = (clients[-1], clients[0])
    named = with_room([math.log2(number) for number in dict.fromkeys((*ends, *clients))], gap)
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xlim(2 ** (low - room), 2 ** (high + room))
        axes.xaxis.set_major_locator(FixedLocator([2**log for log in named]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.0f}"))
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("clients at once (log scale)")


def _caption(record: RunRecord) -> str:
    done = record.conditions.get("query.batching")
    parts = [f"{answer.printable(done)}."] if done else []
    parts.append(
        "The gain is the rate in shared calls over that alone, of the same queries in one process: above "
        f"1{units.RATIO} sharing is faster. Bars are 95% intervals, where the processes are enough for one."
    )
    return " ".join(parts)
