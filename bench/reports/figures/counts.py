"""What figures over a number of clients or services share: rates in one panel, what they gain in another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import (
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

_PANELS = (150, 110)  # pixels of height
_APART = 24  # pixels between two numbers that are named


class Panel(NamedTuple):
    """Curves, and what they show."""

    title: str
    curves: Sequence[Curve]


def points(record: RunRecord, name: str, counted: str, **labels: str) -> list[Point]:
    """What a metric is for each number in its label `counted`, the lowest first; `labels` are its others."""
    found = [
        Point(number, metric.value, metric)
        for metric in record.metrics
        if metric.name == name and labels == {of: v for of, v in metric.labels.items() if of != counted}
        if (number := whole_number(metric.labels.get(counted, "")))
        if metric.value is not None and 0 <= metric.value < MOST
    ]
    return sorted(found, key=lambda point: point.x)


def draw(key: str, title: str, caption: str, things: str, *, rates: Panel, gains: Panel) -> Drawing:
    """Draw rates and gains over a number of `things`, which the label of their metrics gives."""
    curves = [*rates.curves, *gains.curves]
    with stacked(*_PANELS) as (figure, panels):
        draw_curves(panels[0], rates.title, rates.curves)
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.6g}"))
        panels[1].axhline(1, color=svg.MUTED, linewidth=1)
        draw_curves(panels[1], gains.title, gains.curves)
        panels[1].yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: units.tick(ratio, units.RATIO)))
        for axes in panels:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])  # the line of no gain may be the highest
        _number_axis(panels, sorted({point.x for curve in curves for point in curve.points}), things)
        words = "; ".join(
            f"{curve.name} {units.show(point.value, answer.unit(point.measured))} at {point.x:g}"
            for curve in curves
            for point in curve.points
        )
        drawn = svg.write(figure, key, title, f"By {things}: {words}.")
    return Drawing(key, title, caption, drawn, curves_csv(things, curves))


def _number_axis(panels: Sequence[Axes], numbers: Sequence[float], things: str) -> None:
    """One scale for both, on which twice as many are always as far away; named where there is room."""
    low, high = math.log2(numbers[0]), math.log2(numbers[-1])
    room = 0.05 * (high - low) + 0.1
    gap = _APART * (high - low + 2 * room) / panels[-1].get_window_extent().width
    ends = (numbers[-1], numbers[0])
    named = with_room([math.log2(number) for number in dict.fromkeys((*ends, *numbers))], gap)
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xlim(2 ** (low - room), 2 ** (high + room))
        axes.xaxis.set_major_locator(FixedLocator([2**log for log in named]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.0f}"))
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    panels[-1].set_xlabel(f"{things} at once (log scale)")
