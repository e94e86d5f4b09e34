"""The service over HTTP: searches by several of them side by side, and what it costs beside a bare server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.metrics import Measured
from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures import counts
from bench.reports.figures.counts import Panel
from bench.reports.figures.drawing import (
    GUTTER,
    LONGEST,
    Curve,
    Drawing,
    as_csv,
    axes_in,
    cut,
    draw_interval,
    drawable,
    without_y,
)

_SIDE_BY_SIDE = "Searches by several services side by side"
_HTTP = "Cached searches over HTTP"
_RATE, _CPU = "system.http.throughput", "system.http.cpu"
_ROW = 44  # pixels of a server
_GAP = 28  # pixels between the panels


class _Server(NamedTuple):
    name: str
    rate: Measured
    cpu: Measured


def side_by_side(record: RunRecord) -> list[Drawing]:
    """Draw searches a second, and the gain, over the number of services, where a run asked several."""
    rate, gain = (
        Curve(name, counts.points(record, f"system.processes.{metric}", "processes"), svg.SERIES)
        for name, metric in (("searches", "throughput"), ("gain", "gain"))
    )
    if not (rate.points and gain.points):
        return []
    caption = _begun(record, "system.processes") + (
        "The gain is the rate over that of the fewest services. Bars are 95% intervals, where the processes "
        "are enough for one."
    )
    drawing = counts.draw(
        "services",
        _SIDE_BY_SIDE,
        caption,
        "services",
        rates=Panel("searches answered a second", [rate]),
        gains=Panel("over the fewest services' rate", [gain]),
    )
    return [drawing]


def over_http(record: RunRecord) -> list[Drawing]:
    """Draw what each server answers a second, and the CPU of a request, where a run asked any as it can."""
    servers = _servers(record)
    if not servers:
        return []
    height = _ROW * len(servers)
    with svg.canvas(height + 54) as figure:
        half = (svg.WIDTH - 2 * GUTTER - _GAP) // 2
        rates = axes_in(figure, GUTTER, GUTTER + half + _GAP, 6, 48)
        cpu = axes_in(figure, GUTTER + half + _GAP, GUTTER, 6, 48)
        _bars(rates, "requests a second; right is better", [server.rate for server in servers])
        _bars(cpu, "CPU of a request; left is better", [server.cpu for server in servers])
        for place, server in enumerate(servers):
            name = cut(server.name, LONGEST // 2)
            rates.text(0, _ROW * place + 14, name, transform=rates.get_yaxis_transform(), weight="bold")
        words = "; ".join(
            f"{server.name} {answer.value(server.rate)}, {answer.value(server.cpu)} a request"
            for server in servers
        )
        drawn = svg.write(figure, "http", _HTTP, f"{words}.")
    rows = [
        (server.name, one.name, one.unit, one.value, one.ci_low, one.ci_high)
        for server in servers
        for one in (server.rate, server.cpu)
    ]
    table = as_csv(("server", "metric", "unit", "value", "ci_low", "ci_high"), rows)
    return [Drawing("http", _HTTP, _http_caption(record), drawn, table)]


def _servers(record: RunRecord) -> list[_Server]:
    """The servers that have both figures, in the order of the record."""
    found: dict[str, dict[str, Measured]] = {}
    for metric in record.metrics:
        if metric.name in (_RATE, _CPU) and drawable(metric.value):
            found.setdefault(metric.labels.get("server", ""), {})[metric.name] = metric
    return [
        _Server(answer.printable(name), one[_RATE], one[_CPU]) for name, one in found.items() if len(one) == 2
    ]


def _bars(axes: Axes, title: str, measured: Sequence[Measured]) -> None:
    """A bar from 0 for each, its value above, its interval across its end."""
    ends = [end for one in measured for end in drawable(one.value, one.ci_high)]
    axes.set_xlim(0, 1.02 * max(ends))
    axes.set_ylim(_ROW * len(measured), 0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, measured[0].unit)))
    axes.set_xlabel(title, fontsize=10)
    without_y(axes)
    for place, one in enumerate(measured):
        top = _ROW * place
        said = units.show(one.value, one.unit)
        axes.text(1, top + 14, said, transform=axes.get_yaxis_transform(), ha="right")
        axes.barh(top + 28, one.value or 0.0, height=16, color=svg.SERIES, alpha=0.6, linewidth=0)
        draw_interval(axes, one, top + 28, color=svg.INK, linewidth=2)


def _tick(value: float, unit: str) -> str:
    return units.tick(value, unit) if unit == "s" else f"{value:,.6g}"  # the title says what else it is


def _http_caption(record: RunRecord) -> str:
    ratio = next((m for m in record.metrics if m.name == "system.http.ratio" and m.value is not None), None)
    said = f"The service answers {answer.value(ratio)} of what the bare server echoes. " if ratio else ""
    lines = "Lines across the ends of bars are 95% intervals, where the processes are enough for one."
    return _begun(record, "system.http") + said + lines


def _begun(record: RunRecord, series: str) -> str:
    """How a caption begins: with what was measured, where the record says so."""
    condition = record.conditions.get(series)
    return f"{answer.printable(condition)}. " if condition else ""
