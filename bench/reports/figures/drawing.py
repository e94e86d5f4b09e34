"""What every figure shares: the drawing itself, its axes, its data as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.metrics import METRICS, Measured, label_text
from bench.record import Verdict
from bench.reports import answer, units

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 36  # characters of a label that fit beside a value
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # what formulas begin with, and its full-width forms
LEAST, MOST = 1e-15, 1e15  # what is drawn; values beyond are no measurement of anything
GUTTER = 14  # pixels left free at both sides
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
