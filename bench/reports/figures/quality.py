"""Recall and the other qualities of the searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.metrics import METRICS, Measured
from bench.record import RunRecord
from bench.reports import answer, svg, tables, units
from bench.reports.figures.drawing import (
    GUTTER,
    LONGEST,
    Drawing,
    Omitted,
    as_csv,
    axes_in,
    by_process,
    cut,
    draw_interval,
    without_y,
)

if TYPE_CHECKING:
    import pandas as pd


def qualities(record: RunRecord, samples: pd.DataFrame) -> Drawing | Omitted:
    """Draw every quality that stands in no table."""
    title = "Quality"
    known = [m for m in record.metrics if m.name in METRICS and m.name not in tables.SHOWN]
    judged = [m for m in known if METRICS[m.name].quality and m.value is not None and 0 <= m.value <= 1]
    shown = [(m, by_process(m, samples)) for m in judged]
    if not shown:
        return Omitted(title, "the run holds no judged search")
    with svg.canvas(44 * len(shown) + 34) as figure:
        axes = axes_in(figure, GUTTER, 24, 6, 28)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(shown), 0)
        axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: units.tick(share, "")))
        for place, (metric, values) in enumerate(shown):
            _quality_row(axes, place, metric, list(values.values()))
        without_y(axes)
        words = "; ".join(f"{answer.title(m.name, m.labels)} {answer.value(m)}" for m, _ in shown)
        drawn = svg.write(figure, "quality", title, f"{words}.")
    rows = [
        (m.name, answer.described(m.labels), repeat + 1, value)
        for m, values in shown
        for repeat, value in values.items()
    ]
    return Drawing(
        key="quality",
        title=title,
        caption="Bars are the mean over all queries, the line at a bar's end its 95% interval, and the small "
        "circles the processes one by one.",
        svg=drawn,
        csv=as_csv(("metric", "labels", "process", "value"), rows),
    )


def _quality_row(axes: Axes, place: int, metric: Measured, values: Sequence[float]) -> None:
    y, across = place + 0.7, axes.get_yaxis_transform()
    axes.text(0, place + 0.38, cut(answer.title(metric.name, metric.labels), LONGEST), transform=across)
    axes.text(1, place + 0.38, answer.value(metric), transform=across, ha="right", weight="bold")
    axes.barh(y, metric.value or 0, height=0.4, color=svg.SERIES, alpha=0.35)
    draw_interval(axes, metric, y, color=svg.SERIES, linewidth=2.5)
    axes.plot(values, [y] * len(values), "o", markersize=4, markerfacecolor="none", color=svg.INK)
