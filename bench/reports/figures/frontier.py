"""The cells of a sweep as points: recall against what it costs, with the frontier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.frontier import Point
from bench.reports import answer, svg, sweep, units
from bench.reports.figures.drawing import Drawing, Omitted, as_csv, axes_in, cut, drawable, log_axis
from bench.reports.sweep import Sweep

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "h", "*")
_HEIGHT, _LINE = 290, 17  # pixels of the plot, and of a line of the legend
_LONGEST, _WIDE, _HIGH = 26, 5.4, 11  # of a point's label: characters, and pixels of one


_ROOM = 0.005  # of what is missed, so that a recall of 100% has a place on its logarithm
_SHARES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1)
Values = npt.NDArray[np.float64]


_BEHIND = {"facecolor": svg.PAGE, "edgecolor": "none", "pad": 0.5, "alpha": 0.75}


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


def frontiers(made: Sweep) -> list[Drawing | Omitted]:
    """Draw recall against each of the other axes that have a frontier with it."""
    drawn: list[Drawing | Omitted] = [
        _frontier(made, axes[1], best) for axes, best in made.frontiers.items() if len(axes) == 2
    ]
    return drawn or [Omitted("Frontier", _why_none(made))]


def _why_none(made: Sweep) -> str:
    if made.differences:
        return f"the cells differ in {' and '.join(made.differences)}, so they do not compare"
    return "no valid cell has both recall and what it costs"


def _frontier(made: Sweep, axis: str, best: Sequence[Point]) -> Drawing | Omitted:
    title = f"Recall@10 and {made.axes[axis].title}"
    shown = [p for p in made.points if p.valid and drawable(p.value(axis)) and p.value("recall") is not None]
    if not shown:
        return Omitted(title, "no value has a place on a log axis")
    kinds = list(dict.fromkeys(point.kind for point in shown))
    legend = _LINE * math.ceil(len(kinds) / 2)
    chosen = made.choice.point if made.choice else None
    with svg.canvas(_HEIGHT + legend) as figure:
        axes = axes_in(figure, 48, 16, 12, 46 + legend)
        _scale(axes, shown, axis)
        line = sorted((p.value(axis) or 0, p.value("recall") or 0) for p in best if p in shown)
        # Between two points the better in the other axis is all there is: a step, no slope.
        steps = "steps-post" if best[0].measured[axis].better == "lower" else "steps-pre"
        axes.plot(*zip(*line, strict=True), drawstyle=steps, color=svg.MUTED, linewidth=1, zorder=1)
        _limits(axes, made, axis)
        for point in shown:
            _draw(axes, point, axis, kinds.index(point.kind), muted=point not in best and point != chosen)
        if chosen in shown:
            _ring(axes, chosen, axis)
        named = {point.cell: sweep.in_words(made, point) for point in best}
        _labels(axes, shown, named, axis)
        _legend(axes, kinds)
        words = "; ".join(
            f"{sweep.in_words(made, p)} {sweep.value(p, 'recall')}, {sweep.value(p, axis)}" for p in best
        )
        drawn = svg.write(figure, f"frontier-{axis}", title, f"On the frontier: {words}.")
    return Drawing(
        f"frontier-{axis}", title, _caption(made, axis, shown, best), drawn, _csv(made, axis, shown, best)
    )


def _scale(axes: Axes, shown: Sequence[Point], axis: str) -> None:
    measured = [point.measured[axis] for point in shown]
    unit = measured[0].unit
    ends = [end for m in measured for end in drawable(m.value, m.ci_low, m.ci_high)]
    log_axis(axes, ends, unit, most=5)
    if len(unit) > 1:  # too long to stand at every tick
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    _recall_scale(axes, min(point.value("recall") or 0 for point in shown))
    axes.grid(color=svg.MUTED, alpha=0.2, linewidth=0.6)
    better = "left" if measured[0].better == "lower" else "right"
    said = f"{unit}, log scale" if len(unit) > 1 else "log scale"
    axes.set_xlabel(f"{said}; better is up and to the {better}")


def _recall_scale(axes: Axes, lowest: float) -> None:
    """Recall by the logarithm of what is missed: as much room from 90% to 99% as from 0 to 90%."""

    def place(recall: Values) -> Values:
        return -np.log10(_ROOM + 1 - recall)

    def recall(place: Values) -> Values:
        return _ROOM + 1 - 10.0**-place

    axes.set_yscale("function", functions=(place, recall))
    low, high = place(np.array([lowest, 1.0]))
    room = 0.08 * (high - low) + 0.02
    axes.set_ylim(*recall(np.array([low - room, high + room])))
    axes.yaxis.set_major_locator(FixedLocator([share for share in _SHARES if share >= lowest - 0.02]))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: units.tick(share, "")))


def _limits(axes: Axes, made: Sweep, axis: str) -> None:
    """The bounds of the objective, as dashed lines."""
    style: dict[str, Any] = {
        "color": svg.DOCUMENTED,
        "linewidth": 1.2,
        "linestyle": (0, (4, 3)),
        "zorder": 0.5,
    }
    limits = dict(made.objective)
    if limits.get(axis) is not None:
        axes.axvline(limits[axis], **style)
    if limits["recall"] is not None:
        axes.axhline(limits["recall"], **style)


def _draw(axes: Axes, point: Point, axis: str, kind: int, *, muted: bool) -> None:
    colour, alpha = svg.KINDS[kind % len(svg.KINDS)], 0.35 if muted else 1.0
    x, y = point.value(axis) or 0, point.value("recall") or 0
    across, up = point.measured[axis], point.measured["recall"]
    style: dict[str, Any] = {"color": colour, "alpha": 0.6 * alpha, "linewidth": 1.2, "zorder": 2}
    if len(ends := drawable(across.ci_low, across.ci_high)) == 2:
        axes.plot(ends, [y, y], **style)
    if up.ci_low is not None and up.ci_high is not None:
        axes.plot([x, x], [up.ci_low, up.ci_high], **style)
    axes.plot(
        [x],
        [y],
        _MARKS[kind % len(_MARKS)],
        markersize=6,
        color=colour,
        alpha=alpha,
        markeredgewidth=0,
        zorder=3,
    )


def _ring(axes: Axes, point: Point, axis: str) -> None:
    x, y = point.value(axis) or 0, point.value("recall") or 0
    axes.plot([x], [y], "o", markersize=13, markerfacecolor="none", color=svg.DOCUMENTED, markeredgewidth=1.6)


def _labels(axes: Axes, shown: Sequence[Point], names: Mapping[int, str], axis: str) -> None:
    """Name the points of the frontier, by their cells, where there is room beside them."""
    places = {point.cell: _place(axes, point, axis) for point in shown}
    taken = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in places.values()]
    frame = axes.get_window_extent()
    for cell in names.keys() & places.keys():
        text = cut(names[cell], _LONGEST)
        for box in _beside(*places[cell], _WIDE * len(text)):
            inside = (
                frame.x0 <= box.left
                and box.right <= frame.x1
                and frame.y0 <= box.bottom
                and box.top <= frame.y1
            )
            if inside and not any(box.meets(other) for other in taken):
                taken.append(box)
                x, y = axes.transData.inverted().transform((box.left, box.bottom + 2))
                axes.text(x, y, text, fontsize=10, bbox=_BEHIND, zorder=2.5)
                break


def _place(axes: Axes, point: Point, axis: str) -> tuple[float, float]:
    x, y = axes.transData.transform((point.value(axis) or 0, point.value("recall") or 0))
    return float(x), float(y)


def _beside(x: float, y: float, width: float) -> Iterator[_Box]:
    """Where a label of such a width may stand: above, below, and at both sides of a point."""
    for left, bottom in (
        (x - width - 3, y + 5),
        (x + 3, y - _HIGH - 5),
        (x + 8, y - _HIGH / 2),
        (x - width - 8, y - _HIGH / 2),
        (x - width / 2, y + 7),
        (x - width / 2, y - _HIGH - 7),
        (x + 3, y + 5),
        (x - width - 3, y - _HIGH - 5),
    ):
        yield _Box(left, bottom, left + width, bottom + _HIGH)


def _legend(axes: Axes, kinds: Sequence[str]) -> None:
    """The kinds of index below the axis, two in a line."""
    frame = axes.get_window_extent()
    for number, kind in enumerate(kinds):
        x, y = 6 + frame.width / 2 * (number % 2), -48 - _LINE * (number // 2)
        place = [x / frame.width], [y / frame.height]
        mark, colour = _MARKS[number % len(_MARKS)], svg.KINDS[number % len(svg.KINDS)]
        axes.plot(
            *place,
            mark,
            color=colour,
            markersize=6,
            markeredgewidth=0,
            transform=axes.transAxes,
            clip_on=False,
        )
        name = answer.printable(kind) or "no index"
        axes.text((x + 9) / frame.width, y / frame.height, name, va="center", transform=axes.transAxes)


def _caption(made: Sweep, axis: str, shown: Sequence[Point], best: Sequence[Point]) -> str:
    parts = [
        f"{answer.count(len(shown), 'cell')}; the line joins the {len(best)} on the frontier. Pale ones are "
        "dominated: another is as good in one and better in the other. Bars are 95% intervals."
    ]
    if dict(made.objective).get(axis) is not None or made.objective.recall is not None:
        parts.append("Dashed: the objective.")
    if made.choice and made.choice.point in shown:
        parts.append(f"Ringed: the cheapest, {made.choice.verdict}.")
    return " ".join(parts)


def _csv(made: Sweep, axis: str, shown: Sequence[Point], best: Sequence[Point]) -> str:
    header = (
        "cell",
        "configuration",
        "recall_at_10",
        "recall_low",
        "recall_high",
        axis,
        "low",
        "high",
        "frontier",
    )
    rows = []
    for point in shown:
        recall, other = point.measured["recall"], point.measured[axis]
        rows.append(
            (
                *(point.cell, sweep.configuration(made, point), recall.value, recall.ci_low, recall.ci_high),
                *(other.value, other.ci_low, other.ci_high, "yes" if point in best else "no"),
            )
        )
    return as_csv(header, rows)
