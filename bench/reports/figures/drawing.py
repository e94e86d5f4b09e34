"""What every figure shares: the drawing itself, its axes, its data as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.metrics import METRICS, Measured, label_text
from bench.record import Verdict
from bench.reports import answer, svg, units

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 36  # characters of a label that fit beside a value
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # what formulas begin with, and its full-width forms
LEAST, MOST = 1e-15, 1e15  # what is drawn; values beyond are no measurement of anything
GUTTER = 14  # pixels left free at both sides
MARKS = ("o", "s", "^", "D")  # tell curves apart beside their colours
_LEFT, _HEAD, _FOOT = 50, 44, 46  # pixels beside panels, above each for its title and key, below the last
_WIDE = 6.2  # pixels of a character of a key
# Ticks of a decade of a log axis, the closest first.
_STEPS = (
    [n / 10 for n in range(10, 100)],
    [n / 10 for n in range(10, 100, 2)],
    [n / 10 for n in range(10, 100, 5)],
    [1, 1.5, 2, 3, 4, 5, 7],
    [1, 2, 3, 5],
    [1, 2, 5],
    [1, 3],
    [1],
)


@dataclass(frozen=True)
class Drawing:
    """One figure: SVG, a caption, and the rows it was drawn from as CSV."""

    key: str
    title: str
    caption: str
    svg: str
    csv: str


@dataclass(frozen=True)
class Omitted:
    """A figure that could not be drawn, and why."""

    title: str
    reason: str


class Point(NamedTuple):
    """What was measured at one place of the x axis."""

    x: float
    value: float
    measured: Measured


class Curve(NamedTuple):
    """Points in ascending order, and how they are drawn and named."""

    name: str
    points: Sequence[Point]
    colour: str
    mark: str = MARKS[0]
    alpha: float = 1.0


@contextmanager
def stacked(*heights: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of panels so many pixels high, one below the other, with room above for their keys."""
    height = sum(heights) + _HEAD * len(heights) + _FOOT
    with svg.canvas(height) as figure:
        panels, top = [], 0
        for high in heights:
            top += _HEAD
            axes = axes_in(figure, _LEFT, GUTTER, top, height - top - high)
            axes.grid(color=svg.MUTED, alpha=0.25, linewidth=0.6)
            panels.append(axes)
            top += high
        yield figure, panels


def draw_curves(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    """Draw curves with their 95% intervals, and say above what the panel shows and which curve is which."""
    for curve in curves:
        _draw(axes, curve)
    frame = axes.get_window_extent()
    axes.text(0, 1 + 24 / frame.height, title, transform=axes.transAxes, color=svg.MUTED)
    x = 4.0
    for curve in curves:
        place = x / frame.width, 1 + 12 / frame.height
        axes.plot(
            *([at] for at in place), curve.mark, markersize=6, markeredgewidth=0, color=curve.colour,
            alpha=curve.alpha, transform=axes.transAxes, clip_on=False,
        )  # fmt: skip
        axes.text(place[0] + 9 / frame.width, place[1], curve.name, va="center", transform=axes.transAxes)
        x += 26 + _WIDE * len(curve.name)


def _draw(axes: Axes, curve: Curve) -> None:
    for point in curve.points:
        ends = drawable(point.measured.ci_low, point.measured.ci_high)
        if len(ends) == 2:
            axes.plot([point.x] * 2, ends, linewidth=3, color=curve.colour, alpha=0.4 * curve.alpha)
    axes.plot(
        [point.x for point in curve.points], [point.value for point in curve.points], marker=curve.mark,
        markersize=4.5, markeredgewidth=0, linewidth=1.5, color=curve.colour, alpha=curve.alpha,
    )  # fmt: skip


def with_room(places: Iterable[float], gap: float) -> list[float]:
    """Those of `places`, the most important first, that are so far from all before them."""
    kept: list[float] = []
    for place in places:
        if all(abs(place - other) >= gap for other in kept):
            kept.append(place)
    return kept


def whole_number(label: str) -> int | None:
    """The number from 1 to 9,999 that a label is; None where it is none."""
    return int(label) or None if label.isdecimal() and len(label) <= 4 else None


def axes_in(figure: Figure, left: int, right: int, top: int, bottom: int) -> Axes:
    """Axes that leave so many pixels at each side."""
    width, height = (float(size) * 72 for size in figure.get_size_inches())
    return figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    )


def without_y(axes: Axes) -> None:
    """Take off the y axis."""
    axes.spines["left"].set_visible(False)
    axes.yaxis.set_visible(False)


def log_axis(axes: Axes, values: Iterable[float], unit: str, most: int = 6) -> None:
    """A log x axis round `values`, with at most so many round ticks."""
    logs = [math.log10(value) for value in values]
    room = max(0.05, 0.05 * (max(logs) - min(logs)))
    low, high = min(logs) - room, max(logs) + room
    axes.set_xscale("log")
    axes.set_xlim(10**low, 10**high)
    axes.xaxis.set_major_locator(FixedLocator(ticks(low, high, most)))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value, unit)))


def seconds_axis(axes: Axes, values: Iterable[float]) -> None:
    """A log y axis of seconds round `values`, if there are any, with at most five round ticks."""
    if not (known := list(values)):
        return
    low, high = min(known) / 1.5, 1.5 * max(known)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(ticks(math.log10(low), math.log10(high), 5)))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value, "s")))


def bound_line(axes: Axes, value: float, said: str) -> None:
    """A line to stay below, or to reach, and what it is."""
    axes.axhline(value, color=svg.DOCUMENTED, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.annotate(
        said, (0, value), (4, 4), ("axes fraction", "data"), "offset points",
        color=svg.DOCUMENTED, bbox={"facecolor": svg.PAGE, "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between 10^low and 10^high, as many as leave room for their labels."""
    least_gap = (high - low) / (1.5 * most)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    for steps in _STEPS:
        logs = [exponent + math.log10(step) for exponent in exponents for step in steps]
        logs = [log for log in logs if low <= log <= high]
        if len(logs) <= most and all(after - before >= least_gap for before, after in pairwise(logs)):
            return [10**log for log in logs]
    return [10**log for log in logs[:: math.ceil(len(logs) / most)]]


def drawable(*values: float | None) -> list[float]:
    """Those of `values` that a log axis has a place for."""
    return [v for v in values if v is not None and LEAST < v < MOST]


def draw_interval(axes: Axes, of: Verdict | Measured, y: float, **style: Any) -> None:
    """Draw the 95% interval where there is one."""
    ends = drawable(of.ci_low, of.ci_high)
    if len(ends) == 2:
        axes.plot(ends, [y, y], **style)


def cut(label: str, longest: int) -> str:
    """The label, or as much of it as fits."""
    return label if len(label) <= longest else label[: longest - 1] + "…"


def as_csv(header: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> str:
    """Rows as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_cell, header))
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def curves_csv(x: str, curves: Iterable[Curve]) -> str:
    """The points of curves as CSV; `x` is what their places are."""
    return as_csv(
        (x, "line", "metric", "unit", "value", "ci_low", "ci_high"),
        [
            (point.x, curve.name, one.name, one.unit, point.value, one.ci_low, one.ci_high)
            for curve in curves
            for point in curve.points
            for one in (point.measured,)
        ],
    )


def _cell(value: Any) -> Any:
    """A spreadsheet must not take text for a formula."""
    if isinstance(value, str):
        text = answer.printable(value)
        return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
    return value


def by_process(metric: Measured, samples: pd.DataFrame) -> dict[int, float]:
    """What each process alone gives for a metric, where it gives anything that can be drawn."""
    known = METRICS[metric.name]
    labels = label_text(metric.labels)
    rows = samples[(samples["series"] == known.series) & (samples["labels"] == labels)]
    derived = {int(str(repeat)): known.derive(group) for repeat, group in rows.groupby("repeat")}
    return {repeat: v for repeat, v in derived.items() if v is not None and 0 <= v < MOST}
