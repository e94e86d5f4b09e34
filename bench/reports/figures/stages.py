"""Where the time of a mean query goes, stage by stage: a bar for a run, or for each cell of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.record import RunRecord
from bench.reports import answer, stages, svg, sweep, units
from bench.reports.figures.drawing import (
    GUTTER,
    LONGEST,
    MOST,
    Drawing,
    as_csv,
    axes_in,
    cut,
    drawable,
    without_y,
)
from bench.reports.sweep import Sweep

_TITLE = "Where a query's time goes"
_COLOURS = (*svg.KINDS, svg.MUTED, svg.INK)
_ROW, _LINE, _COLUMNS = 46, 17, 3  # pixels of a bar and its name, and of a line of the legend
_WIDE = 6.0  # pixels of a character in a bar


class _Bar(NamedTuple):
    name: str
    stages: Mapping[str, float]  # seconds
    whole: float | None


def of_run(record: RunRecord) -> list[Drawing]:
    """Draw the stages of a run's mean query, where it had any."""
    bar = _bar("mean query", record)
    return [_draw([bar])] if bar.stages else []


def of_sweep(made: Sweep) -> list[Drawing]:
    """Draw them for each valid cell that had any."""
    points = [point for point in made.compared if point.valid]
    bars = [_bar(sweep.in_words(made, point), made.record(point)) for point in points]
    bars = [bar for bar in bars if bar.stages]
    return [_draw(bars)] if bars else []


def _bar(name: str, record: RunRecord) -> _Bar:
    seconds = {stage: value for stage, value in stages.by_stage(record).items() if 0 <= value < MOST}
    whole = stages.whole(record)
    return _Bar(name, seconds, next(iter(drawable(whole.value)), None) if whole else None)


def _draw(bars: Sequence[_Bar]) -> Drawing:
    widest = sorted(bars, key=lambda bar: len(bar.stages), reverse=True)  # has most of the order
    names = list(dict.fromkeys(stage for bar in widest for stage in bar.stages))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    lines = -(-len(names) // _COLUMNS)
    with svg.canvas(_ROW * len(bars) + 52 + _LINE * lines) as figure:
        axes = axes_in(figure, GUTTER, GUTTER, 4, 48 + _LINE * lines)
        longest = max(max(sum(bar.stages.values()), bar.whole or 0) for bar in bars)
        axes.set_xlim(0, 1.02 * longest or 1)
        axes.set_ylim(len(bars), 0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value, "s")))
        axes.set_xlabel("mean time; the line is the whole query")
        without_y(axes)
        for place, bar in enumerate(bars):
            _row(axes, place, bar, colours)
        _legend(axes, colours)
        words = "; ".join(f"{bar.name}: {_in_words(bar)}" for bar in bars)
        drawn = svg.write(figure, "stages", _TITLE, f"{words}.")
    return Drawing(
        key="stages",
        title=_TITLE,
        caption="Means over all queries, caches empty; a query without a stage counts as none of it. Means "
        "add up, as medians do not. The line is the mean of whole queries: what is left up to it lies "
        "between stages.",
        svg=drawn,
        csv=as_csv(
            ("configuration", "stage", "mean_seconds"),
            [
                (bar.name, stage, value)
                for bar in bars
                for stage, value in [*bar.stages.items(), ("whole query", bar.whole)]
            ],
        ),
    )


def _row(axes: Axes, place: int, bar: _Bar, colours: Mapping[str, str]) -> None:
    y, across = place + 0.68, axes.get_yaxis_transform()
    axes.text(0, place + 0.34, cut(bar.name, LONGEST), transform=across, weight="bold")
    said = _shown(bar.whole if bar.whole is not None else sum(bar.stages.values()))
    axes.text(1, place + 0.34, said, transform=across, ha="right", weight="bold")
    pixels = axes.get_window_extent().width / (axes.get_xlim()[1] - axes.get_xlim()[0])
    left = 0.0
    for stage, colour in colours.items():
        value = bar.stages.get(stage, 0.0)
        axes.barh(y, value, left=left, height=0.44, color=colour, edgecolor=svg.PAGE, linewidth=0.5)
        if len(_shown(value)) * _WIDE < value * pixels:
            middle = left + value / 2
            axes.text(middle, y, _shown(value), ha="center", va="center", color=svg.PAGE, fontsize=10)
        left += value
    if bar.whole is not None:
        axes.plot([bar.whole] * 2, [y - 0.29, y + 0.29], color=svg.INK, linewidth=1.6)


def _legend(axes: Axes, colours: Mapping[str, str]) -> None:
    frame = axes.get_window_extent()
    for number, (name, colour) in enumerate(colours.items()):
        x, y = frame.width / _COLUMNS * (number % _COLUMNS) + 5, -50 - _LINE * (number // _COLUMNS)
        at = [x / frame.width], [y / frame.height]
        axes.plot(*at, "s", color=colour, markersize=8, transform=axes.transAxes, clip_on=False)
        axes.text((x + 10) / frame.width, y / frame.height, name, va="center", transform=axes.transAxes)


def _in_words(bar: _Bar) -> str:
    parts = [f"{stage} {_shown(value)}" for stage, value in bar.stages.items()]
    return answer.printable(", ".join([*parts, f"whole {_shown(bar.whole)}"]))


def _shown(seconds: float | None) -> str:
    return units.show(seconds, "s")
