"""The pipeline with one change at a time: what each does to the answers, and to how long they take."""

from __future__ import annotations

import math
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.metrics import Measured
from bench.record import RunRecord
from bench.reports import answer, svg, tables, units
from bench.reports.figures.drawing import (
    GUTTER,
    LONGEST,
    Drawing,
    as_csv,
    axes_in,
    cut,
    drawable,
    log_axis,
    without_y,
)
from bench.reports.sweep import Sweep

_QUALITY, _COST = "query.ablation.ndcg_difference", "query.ablation.cost"
_ROW = 40  # pixels of a change
_GAP = 28  # pixels between the panels
_LEAST = 0.01  # of nDCG, that the axis reaches to both sides


class _Change(NamedTuple):
    name: str
    quality: Measured
    cost: Measured


def of_run(record: RunRecord) -> list[Drawing]:
    """Draw every change that has both figures, in the order of the record."""
    changes = _changes(record)
    return [_draw(changes)] if changes else []


def of_sweep(made: Sweep) -> list[Drawing]:
    """Draw the first valid cell that made any: changes of one pipeline say nothing of another's."""
    valid = (made.record(point) for point in made.points if point.valid)
    return next((drawn for record in valid if (drawn := of_run(record))), [])


def _changes(record: RunRecord) -> list[_Change]:
    found: dict[str, dict[str, Measured]] = {}
    for metric in record.metrics:
        if metric.name in (_QUALITY, _COST) and metric.value is not None and math.isfinite(metric.value):
            found.setdefault(metric.labels.get("change", ""), {})[metric.name] = metric
    return [
        _Change(answer.printable(name), one[_QUALITY], one[_COST])
        for name, one in found.items()
        if len(one) == 2 and abs(one[_QUALITY].value or 0) <= 1 and drawable(one[_COST].value)
    ]


def _draw(changes: list[_Change]) -> Drawing:
    height = _ROW * len(changes)
    with svg.canvas(height + 54) as figure:
        half = (svg.WIDTH - 2 * GUTTER - _GAP) // 2
        quality = axes_in(figure, GUTTER, GUTTER + half + _GAP, 6, 48)
        cost = axes_in(figure, GUTTER + half + _GAP, GUTTER, 6, 48)
        _quality_axis(quality, changes)
        _cost_axis(cost, changes)
        for axes in (quality, cost):
            axes.set_ylim(height, 0)
            without_y(axes)
        for place, change in enumerate(changes):
            _row(quality, cost, _ROW * place, change)
        words = "; ".join(
            f"{change.name} nDCG@10 {answer.value(change.quality)}, latency {answer.value(change.cost)}"
            for change in changes
        )
        drawn = svg.write(figure, "ablation", tables.ABLATION, f"{words}.")
    return Drawing(
        key="ablation",
        title=tables.ABLATION,
        caption="Each row is the pipeline with that one change, beside the pipeline as it is (the upright "
        "lines), on the same queries. Left, the difference in nDCG@10, its 95% interval over queries; "
        "right, the median ratio of latencies, its interval over processes, where they are enough for "
        "one. Round marks are better (green) or worse (red) with the whole interval; grey diamonds are "
        "not proven.",
        svg=drawn,
        csv=as_csv(
            ("change", "metric", "value", "ci_low", "ci_high"),
            [
                (change.name, one.name, one.value, one.ci_low, one.ci_high)
                for change in changes
                for one in (change.quality, change.cost)
            ],
        ),
    )


def _quality_axis(axes: Axes, changes: list[_Change]) -> None:
    ends = [-_LEAST, _LEAST, *(end for change in changes for end in _ends(change.quality))]
    room = 0.06 * (max(ends) - min(ends))
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.3g}" if value else "0"))
    axes.set_xlabel("nDCG@10, points; right is better", fontsize=10)


def _cost_axis(axes: Axes, changes: list[_Change]) -> None:
    ends = [end for change in changes for end in drawable(*_ends(change.cost))]
    log_axis(axes, [*ends, 0.8, 1.25], units.RATIO, most=4)
    axes.set_xlabel("latency, log scale; left is better", fontsize=10)


def _ends(metric: Measured) -> list[float]:
    return [v for v in (metric.value, metric.ci_low, metric.ci_high) if v is not None and math.isfinite(v)]


def _row(quality: Axes, cost: Axes, top: float, change: _Change) -> None:
    quality.text(
        0, top + 14, cut(change.name, LONGEST), transform=quality.get_yaxis_transform(), weight="bold"
    )
    said = f"{units.show(change.quality.value, units.POINTS)}, {units.show(change.cost.value, units.RATIO)}"
    cost.text(1, top + 14, said, transform=cost.get_yaxis_transform(), ha="right")
    _mark(quality, top + 28, change.quality, 0)
    _mark(cost, top + 28, change.cost, 1)


def _mark(axes: Axes, y: float, metric: Measured, none: float) -> None:
    mark, colour = "D", svg.MUTED
    axes.plot([none, none], [y - 8, y + 8], color=svg.MUTED, linewidth=1)
    if metric.ci_low is not None and metric.ci_high is not None:
        axes.plot(
            [metric.ci_low, metric.ci_high], [y, y], color=(colour := _colour(metric, none)), linewidth=2.5
        )
        mark = "D" if colour == svg.MUTED else "o"
    axes.plot(
        [metric.value or 0.0], [y], mark, color=colour, markersize=6 if mark == "D" else 7, markeredgewidth=0
    )


def _colour(metric: Measured, none: float) -> str:
    low, high = metric.ci_low, metric.ci_high
    if low is None or high is None or low <= none <= high:
        return svg.MUTED
    return svg.PASS if (low > none) == (metric.better == "higher") else svg.MISS
