"""The agents under load: latency, utilisation and what became of the questions, over the capacity's share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import (
    LEAST,
    MARKS,
    MOST,
    Curve,
    Drawing,
    Point,
    bound_line,
    curves_csv,
    draw_curves,
    drawable,
    seconds_axis,
    stacked,
    whole_number,
    with_room,
)

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
_PALE = {"p50": 0.5}
_PANELS = (140, 110, 110)  # pixels of height
_APART = 34  # pixels between two loads that are named


def under_load(record: RunRecord) -> list[Drawing]:
    """Draw the curves over the loads, where a run offered any."""
    latency = _curves(_lines(record, _LATENCIES) or _lines(record, _MEANS), [svg.SERIES])
    busy = _curves(_lines(record, _UTILISATION), svg.KINDS[:3])
    happened = {of: line for of, line in _lines(record, _OUTCOMES).items() if any(p.value for p in line)}
    outcomes = _curves(happened, svg.KINDS[3:])
    if not busy:
        return []
    with stacked(*_PANELS) as (figure, panels):
        _draw_latency(panels[0], latency, _objective(record))
        _draw_shares(panels[1], "utilisation", busy)
        for documented in _documented(record):
            bound_line(panels[1], documented, f"documented {units.tick(documented, '')}")
        _draw_shares(panels[2], "of the questions", outcomes)
        _load_axis(panels, sorted({point.x for curve in busy for point in curve.points}))
        words = "; ".join(
            f"{curve.name} {_shown(point)} at {point.x:.0%}"
            for curve in [*latency, *busy, *outcomes]
            for point in curve.points
        )
        drawn = svg.write(figure, "agents", _TITLE, f"By load: {words}.")
    csv = curves_csv("load", [*latency, *busy, *outcomes])
    return [Drawing("agents", _TITLE, _caption(record), drawn, csv)]


def _lines(record: RunRecord, names: Mapping[str, str]) -> dict[str, list[Point]]:
    """What was measured at each load, the lowest first, by the name of the line or by the agent."""
    found: dict[str, list[Point]] = {}
    for metric in record.metrics:
        load, value = _load(metric.labels.get("load", "")), metric.value
        if metric.name in names and load and value is not None and 0 <= value < MOST:
            of = names[metric.name] or answer.printable(metric.labels.get("agent", ""))
            found.setdefault(of, []).append(Point(load, value, metric))
    return {of: sorted(line, key=lambda point: point.x) for of, line in found.items()}


def _curves(lines: Mapping[str, Sequence[Point]], palette: Sequence[str]) -> list[Curve]:
    return [
        Curve(of, line, palette[n % len(palette)], MARKS[n % len(MARKS)], _PALE.get(of, 1.0))
        for n, (of, line) in enumerate(lines.items())
    ]


def _load(label: str) -> float | None:
    """The share of the capacity that a label gives in percent; None where it gives none."""
    number = whole_number(label.removesuffix("%"))
    return number / 100 if number else None


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


def _draw_latency(axes: Axes, curves: Sequence[Curve], objective: float | None) -> None:
    draw_curves(axes, "latency (log scale)", curves)
    values = [point.value for curve in curves for point in curve.points if point.value > LEAST]
    if objective is not None:
        bound_line(axes, objective, f"objective {units.tick(objective, 's')}")
    seconds_axis(axes, [*values, *drawable(objective)])


def _draw_shares(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    draw_curves(axes, title, curves)
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: units.tick(share, "")))


def _load_axis(panels: Sequence[Axes], loads: Sequence[float]) -> None:
    """One scale for all: the capacity marked, the loads named where there is room."""
    low, high = min(loads[0], 1.0), max(loads[-1], 1.0)
    room = 0.04 * (high - low) + 0.01
    gap = _APART * (high - low + 2 * room) / panels[-1].get_window_extent().width
    shown = with_room(sorted(loads, key=lambda load: (load != 1.0, load not in (loads[0], loads[-1]))), gap)
    for axes in panels:
        axes.axvline(1, color=svg.MUTED, linewidth=1)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda load, _: f"{load:.0%}"))
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("questions asked, in percent of the capacity")


def _shown(point: Point) -> str:
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
