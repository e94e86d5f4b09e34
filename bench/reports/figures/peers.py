"""The peers suite: recall against latency, a line for each participant, the engine's the thickest."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import LEAST, MOST, Drawing, Omitted, as_csv, axes_in, cut, log_axis

_TASKS = {"vectors": "Beside peers: vectors in, rows out", "text": "Beside peers: text in, rows out"}
# Told apart by colour and by mark; the colours can be read on a light page and on a dark one.
_STYLES = (
    ("#d95f02", "s"), ("#7570b3", "^"), ("#1b9e77", "D"), ("#c2458b", "v"), ("#8a7500", "P"),
    ("#5f8fd0", "X"), ("#b15928", "<"), ("#6a9a1f", ">"), ("#808080", "*"), ("#9d6bc9", "p"),
)  # fmt: skip
_LINE = 17  # pixels of a line of the legend
_MOST = 1e-3  # the least share of neighbours missed that is drawn


class _Point(NamedTuple):
    recall: float
    latency: float
    setting: str


def peers(record: RunRecord) -> list[Drawing | Omitted]:
    """Draw a figure for each task that was measured."""
    curves = {task: _curves(record, task) for task in _TASKS}
    return [_draw(task, curves[task]) for task in _TASKS if curves[task]]


def _curves(record: RunRecord, task: str) -> dict[tuple[bool, str], list[_Point]]:
    """What can be drawn of each, by whether it is a peer and its name, the least recall first."""
    found: dict[tuple[bool, str], dict[str, dict[str, float]]] = {}
    for metric in record.metrics:
        labels, what = metric.labels, metric.name.removeprefix("peers.")
        if (
            labels.get("task") == task
            and metric.value is not None
            and what in ("latency.p50", "recall_at_10")
        ):
            who = ("engine" not in labels, labels.get("engine") or labels.get("peer", ""))
            found.setdefault(who, {}).setdefault(labels.get("setting", ""), {})[what] = metric.value
    points = {
        who: sorted(
            _Point(values["recall_at_10"], values["latency.p50"], setting)
            for setting, values in settings.items()
            if len(values) == 2 and LEAST < values["latency.p50"] < MOST and 0 <= values["recall_at_10"] <= 1
        )
        for who, settings in found.items()
    }
    return {who: points[who] for who in sorted(points) if points[who]}


def _draw(task: str, curves: dict[tuple[bool, str], list[_Point]]) -> Drawing:
    key, title = f"peers-{task}", _TASKS[task]
    lines = math.ceil(len(curves) / 2)
    with svg.canvas(294 + _LINE * lines) as figure:
        axes = axes_in(figure, 50, 14, 24, 52 + _LINE * lines)
        log_axis(axes, [point.latency for line in curves.values() for point in line], "s")
        for place, ((is_peer, _), line) in enumerate(curves.items()):
            _line(axes, line, _style(place, is_peer))
        _legend(axes, list(curves))
        low = min(point.recall for line in curves.values() for point in line)
        _recall_axis(axes, low)
        axes.set_xlabel("p50 of one search (log scale)")
        axes.set_title("recall@10", loc="left", fontsize="medium", color=svg.MUTED)
        rows = [
            (name, "peer" if is_peer else "engine", point.setting, point.latency, point.recall)
            for (is_peer, name), line in curves.items()
            for point in line
        ]
        words = "; ".join(
            f"{name} {setting} recall@10 {units.show(recall, '')} in {units.show(latency, 's')}"
            for name, _, setting, latency, recall in rows
        )
        drawn = svg.write(figure, key, title, f"{answer.printable(words)}.")
    return Drawing(
        key=key,
        title=title,
        caption="Upper left is better. Each mark is one setting as measured; thick lines are the engine's. "
        "Recall@10 is drawn by the share missed, on a log scale, down to 0.1%.",
        svg=drawn,
        csv=as_csv(("name", "side", "setting", "p50_seconds", "recall_at_10"), rows),
    )


def _missed(recall: float) -> float:
    return -math.log10(max(1 - recall, _MOST))


def _line(axes: Axes, line: list[_Point], style: dict[str, Any]) -> None:
    axes.plot([point.latency for point in line], [_missed(point.recall) for point in line], **style)


def _style(place: int, is_peer: bool) -> dict[str, Any]:
    if not is_peer:
        line = ("-", (0, (2.5, 1.2)))[place % 2]
        return {
            "color": svg.SERIES,
            "marker": "oh"[place % 2],
            "linewidth": 3.0,
            "markersize": 7,
            "linestyle": line,
        }
    colour, mark = _STYLES[place % len(_STYLES)]
    return {"color": colour, "marker": mark, "linewidth": 1.2, "markersize": 5}


def _legend(axes: Axes, names: list[tuple[bool, str]]) -> None:
    """Names below the axes, in two columns."""
    half, height = math.ceil(len(names) / 2), axes.get_window_extent().height
    for place, (is_peer, name) in enumerate(names):
        x, y = 0.5 * (place // half), -(58 + _LINE * (place % half)) / height
        across: dict[str, Any] = {"transform": axes.transAxes}
        axes.plot([x, x + 0.06], [y, y], clip_on=False, **across, **_style(place, is_peer))
        weight = "normal" if is_peer else "bold"
        axes.text(x + 0.09, y, cut(answer.printable(name), 20), va="center", weight=weight, **across)


def _recall_axis(axes: Axes, low: float) -> None:
    shown = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]
    floor = max((share for share in shown if share <= low), default=0.0)
    axes.set_ylim(_missed(floor) - 0.05, _missed(1) + 0.1)
    there = [share for share in shown if share >= floor]
    axes.yaxis.set_major_locator(FixedLocator([_missed(share) for share in there]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: units.tick(round(1 - 10**-y, 6), "")))
    axes.grid(color=svg.MUTED, alpha=0.25, linewidth=0.6)
