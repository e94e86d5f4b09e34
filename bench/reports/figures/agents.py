"""The agents under load: latency, utilisation and what became of the questions, over the capacity's share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.metrics import Measured
from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import LEAST, MOST, Drawing, Omitted, as_csv, axes_in, drawable, ticks

_TITLE = "Agents under load"
_LATENCIES = {"agents.load.latency.p50": "p50", "agents.load.latency.p95": "p95"}
_MEANS = {"agents.load.latency.mean": "mean"}  # drawn where no load has the samples for a percentile
_UTILISATION = {"agents.load.utilisation": ""}  # named after the agent
_OUTCOMES = {
    "agents.load.within_objective": "in time",
    "agents.load.rejection_rate": "rejected",
    "agents.load.timeout_rate": "timed out",
    "agents.load.failure_rate": "failed",
    "agents.load.degraded_rate": "degraded",
}
_MARKS = ("o", "s", "^", "D")
_PALE = {"p50": 0.5}
_PANELS = (140, 110, 110)  # pixels of height
_SIDES = 50, 14  # pixels left free beside them
_ABOVE, _BELOW = 44, 46  # pixels above each, for what it shows and its key, and below the last
_WIDE = 6.2  # pixels of a character of a key
_APART = 34  # pixels between two loads that are named


class _Point(NamedTuple):
    load: float
    value: float
    measured: Measured


Lines = Mapping[str, Sequence[_Point]]


def under_load(record: RunRecord) -> list[Drawing | Omitted]:
    """Draw the curves over the loads, where a run offered any."""
    latency = _lines(record, _LATENCIES) or _lines(record, _MEANS)
    busy = _lines(record, _UTILISATION)
    ends = {of: line for of, line in _lines(record, _OUTCOMES).items() if any(point.value for point in line)}
    if not busy:
        return []
    height = sum(_PANELS) + _ABOVE * len(_PANELS) + _BELOW
    with svg.canvas(height) as figure:
        panels = _panels(figure, height)
        _draw_latency(panels[0], latency, _objective(record))
        _draw_shares(panels[1], busy, "utilisation", svg.KINDS[:3])
        for documented in _documented(record):
            _bound(panels[1], documented, f"documented {units.tick(documented, '')}")
        _draw_shares(panels[2], ends, "of the questions", svg.KINDS[3:])
        _load_axis(panels, sorted({point.load for line in busy.values() for point in line}))
        words = "; ".join(
            f"{of} {_shown(point)} at {point.load:.0%}"
            for of, line in {**latency, **busy, **ends}.items()
            for point in line
        )
        drawn = svg.write(figure, "agents", _TITLE, f"By load: {words}.")
    return [Drawing("agents", _TITLE, _caption(record), drawn, _csv({**latency, **busy, **ends}))]


def _lines(record: RunRecord, names: Mapping[str, str]) -> dict[str, list[_Point]]:
    """What was measured at each load, the lowest first, by the name of the line or by the agent."""
    found: dict[str, list[_Point]] = {}
    for metric in record.metrics:
        load, value = _load(metric.labels.get("load", "")), metric.value
        if metric.name in names and load and value is not None and 0 <= value < MOST:
            of = names[metric.name] or answer.printable(metric.labels.get("agent", ""))
            found.setdefault(of, []).append(_Point(load, value, metric))
    return {of: sorted(line, key=lambda point: point.load) for of, line in found.items()}


def _load(label: str) -> float | None:
    """The share of the capacity that a label gives in percent; None where it gives none."""
    number = label.removesuffix("%")
    return int(number) / 100 if number.isdecimal() and len(number) <= 4 and int(number) else None


def _objective(record: RunRecord) -> float | None:
    """What p95 is to keep to, in seconds."""
    found: Any = record.experiment
    for key in ("suite", "agents", "objective_p95"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, float) and drawable(found) else None


def _documented(record: RunRecord) -> list[float]:
    """What utilisation is documented, where it is."""
    return [
        verdict.baseline
        for verdict in record.verdicts
        if verdict.metric == "agents.utilisation" and drawable(verdict.baseline)
    ]


def _panels(figure: Figure, height: int) -> list[Axes]:
    """One below the other."""
    panels, top = [], 0
    for high in _PANELS:
        top += _ABOVE
        axes = axes_in(figure, *_SIDES, top, height - top - high)
        axes.grid(color=svg.MUTED, alpha=0.25, linewidth=0.6)
        panels.append(axes)
        top += high
    return panels


def _draw_latency(axes: Axes, lines: Lines, objective: float | None) -> None:
    values = [point.value for line in lines.values() for point in line if point.value > LEAST]
    values += drawable(objective)
    for number, (of, line) in enumerate(lines.items()):
        _draw(axes, line, _MARKS[number], svg.SERIES, alpha=_PALE.get(of, 1.0))
    if objective is not None:
        _bound(axes, objective, f"objective {units.tick(objective, 's')}")
    if values:
        low, high = min(values) / 1.5, 1.5 * max(values)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(FixedLocator(ticks(math.log10(low), math.log10(high), 5)))
        axes.yaxis.set_minor_locator(FixedLocator([]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value, "s")))
    _above(axes, "latency (log scale)", dict.fromkeys(lines, svg.SERIES))


def _bound(axes: Axes, value: float, said: str) -> None:
    """A line to stay below, or to reach, and what it is."""
    axes.axhline(value, color=svg.DOCUMENTED, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.annotate(
        said, (0, value), (4, 4), ("axes fraction", "data"), "offset points",
        color=svg.DOCUMENTED, bbox={"facecolor": svg.PAGE, "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def _draw_shares(axes: Axes, lines: Lines, title: str, palette: Sequence[str]) -> None:
    colours = {of: palette[number % len(palette)] for number, of in enumerate(lines)}
    for number, (of, colour) in enumerate(colours.items()):
        _draw(axes, lines[of], _MARKS[number % len(_MARKS)], colour)
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: units.tick(share, "")))
    _above(axes, title, colours)


def _draw(axes: Axes, line: Sequence[_Point], mark: str, colour: str, alpha: float = 1.0) -> None:
    style: dict[str, Any] = {"color": colour, "alpha": alpha}
    for point in line:
        ends = drawable(point.measured.ci_low, point.measured.ci_high)
        if len(ends) == 2:
            axes.plot([point.load] * 2, ends, linewidth=3, color=colour, alpha=0.4 * alpha)
    loads, values = [point.load for point in line], [point.value for point in line]
    axes.plot(loads, values, marker=mark, markersize=4.5, markeredgewidth=0, linewidth=1.5, **style)


def _above(axes: Axes, title: str, colours: Mapping[str, str]) -> None:
    """Say what a panel shows, and name its lines below that, in their colours and with their marks."""
    frame = axes.get_window_extent()
    axes.text(0, 1 + 24 / frame.height, title, transform=axes.transAxes, color=svg.MUTED)
    x = 4.0
    for number, (of, colour) in enumerate(colours.items()):
        style: dict[str, Any] = {"color": colour, "alpha": _PALE.get(of, 1.0)}
        place = x / frame.width, 1 + 12 / frame.height
        axes.plot(
            *([at] for at in place), _MARKS[number % len(_MARKS)], markersize=6, markeredgewidth=0,
            transform=axes.transAxes, clip_on=False, **style,
        )  # fmt: skip
        axes.text(place[0] + 9 / frame.width, place[1], of, va="center", transform=axes.transAxes)
        x += 26 + _WIDE * len(of)


def _load_axis(panels: Sequence[Axes], loads: Sequence[float]) -> None:
    """One scale for all: the capacity marked, the loads named where there is room."""
    low, high = min(loads[0], 1.0), max(loads[-1], 1.0)
    room = 0.04 * (high - low) + 0.01
    gap = _APART * (high - low + 2 * room) / panels[-1].get_window_extent().width
    shown: list[float] = []
    for load in sorted(loads, key=lambda load: (load != 1.0, load not in (loads[0], loads[-1]))):
        if all(abs(load - other) >= gap for other in shown):
            shown.append(load)
    for axes in panels:
        axes.axvline(1, color=svg.MUTED, linewidth=1)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda load, _: f"{load:.0%}"))
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("questions asked, in percent of the capacity")


def _shown(point: _Point) -> str:
    return units.show(point.value, point.measured.unit)


def _caption(record: RunRecord) -> str:
    parts = ["Questions arrive at random; latency counts from when each was to be asked."]
    capacity = next((m for m in record.metrics if m.name == "agents.capacity" and m.value), None)
    if capacity:
        parts.append(f"100% is the capacity, {answer.value(capacity)}, as each process measured it.")
    parts.append(
        "In time is what was answered within the objective. A percentile is drawn where the questions are "
        "enough to carry it; those without an answer count as the slowest. Bars are 95% intervals."
    )
    return " ".join(parts)


def _csv(lines: Lines) -> str:
    return as_csv(
        ("load", "line", "metric", "unit", "value", "ci_low", "ci_high"),
        [
            (point.load, of, one.name, one.unit, point.value, one.ci_low, one.ci_high)
            for of, line in lines.items()
            for point in line
            for one in (point.measured,)
        ],
    )
