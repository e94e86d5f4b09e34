"""The ingestion rate, process by process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.metrics import Measured
from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import (
    GUTTER,
    LEAST,
    Drawing,
    Omitted,
    as_csv,
    axes_in,
    by_process,
    drawable,
)

if TYPE_CHECKING:
    import pandas as pd


def ingestion(record: RunRecord, samples: pd.DataFrame) -> Drawing | Omitted:
    """Draw the ingestion rate of each process."""
    title = "Ingestion rate, by process"
    metric = next((m for m in record.metrics if m.name == "memory.ingest.rate"), None)
    values = {} if metric is None else by_process(metric, samples)
    if metric is None or not values:
        return Omitted(title, (metric and metric.reason) or "the run holds no timed ingestion")
    with svg.canvas(190) as figure:
        axes = axes_in(figure, 50, GUTTER, 10, 44)
        places = [repeat + 1 for repeat in values]
        axes.bar(places, list(values.values()), color=svg.SERIES, alpha=0.75, width=0.6)
        _value_band(axes, metric)
        axes.set_xlim(0.4, max(5, *places) + 0.6)
        axes.set_ylim(0, 1.08 * max([*values.values(), *drawable(metric.value, metric.ci_high), LEAST]))
        axes.xaxis.set_major_locator(FixedLocator(places[:: math.ceil(len(places) / 12)]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel(f"process; bars in {metric.unit}")
        words = ", ".join(f"process {r + 1} {units.show(v, metric.unit)}" for r, v in values.items())
        drawn = svg.write(figure, "ingestion", title, f"{words}; together {answer.value(metric)}.")
    band = ", with its 95% interval" if drawable(metric.ci_low, metric.ci_high) else ""
    return Drawing(
        key="ingestion",
        title=title,
        caption=f"One bar per process. The line is all of them together{band}: {answer.value(metric)}.",
        svg=drawn,
        csv=as_csv(("process", metric.unit), [(repeat + 1, value) for repeat, value in values.items()]),
    )


def _value_band(axes: Axes, metric: Measured) -> None:
    for value in drawable(metric.value):
        axes.axhline(value, color=svg.INK, linewidth=1.2)
    ends = drawable(metric.ci_low, metric.ci_high)
    if len(ends) == 2:
        axes.axhspan(*ends, color=svg.INK, alpha=0.15, linewidth=0)
