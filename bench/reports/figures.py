"""The figures of a run's report. Each says what it shows in words, and gives its data as CSV.

A figure whose data is missing is left out with the reason; nothing is drawn from nothing.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.metrics import METRICS, Measured
from bench.record import RunRecord, Verdict
from bench.reports import answer, svg, units

if TYPE_CHECKING:
    import pandas as pd

POINTS_PER_LINE = 400
POINTS_PER_PANEL = 3_000
_LONGEST = 36  # characters of a label that fit beside a value
_LEAST, _MOST = 1e-15, 1e15  # what is drawn; values beyond are no measurement of anything
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
_GUTTER = 14  # pixels left free at both sides
_MARKS = {"pass": ("o", svg.PASS), "miss": ("X", svg.MISS), "not proven": ("D", svg.NOT_PROVEN)}

Array = npt.NDArray[np.floating[Any]]
Rows = list[tuple[Any, ...]]


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


def draw(record: RunRecord, samples: pd.DataFrame) -> list[Drawing | Omitted]:
    """Draw every figure the record and its samples have the data for."""
    return [
        _baseline(record),
        *_distributions(record, samples),
        _percentiles(record),
        _quality(record, samples),
        _ingestion(record, samples),
    ]


# --- beside the documented baseline -----------------------------------------------------------------


def _baseline(record: RunRecord) -> Drawing | Omitted:
    title = "Beside the documented baseline"
    judged = [v for v in record.verdicts if v.verdict in answer.JUDGED and _drawable(v.ratio)]
    if not judged:
        return Omitted(title, "no documented figure has a measured ratio above 0")
    ends = [end for v in judged for end in _drawable(*_ratios(v))]
    sections = dict.fromkeys(verdict.section for verdict in judged)
    height = 24 * len(sections) + 40 * len(judged)
    with svg.canvas(height + 52) as figure:
        axes = _axes(figure, _GUTTER, _GUTTER, 6, 46)
        _log_axis(axes, [*ends, 0.5, 2], units.RATIO)
        axes.set_ylim(height, 0)
        _baseline_rows(axes, [(name, [v for v in judged if v.section == name]) for name in sections])
        axes.set_xlabel("measured ÷ documented (log scale); shaded: the better side")
        _without_y(axes)
        words = "; ".join(f"{_short_title(v)} {_ratio(v)}, {v.better} is better, {v.verdict}" for v in judged)
        drawn = svg.write(figure, "baseline", title, f"Measured over documented. {words}.")
    return Drawing(
        key="baseline",
        title=title,
        caption="Each mark is a measured figure divided by the documented one, with its 95% interval where "
        f"there is one. Documented is the line at 1{units.RATIO}; the shaded side is better.",
        svg=drawn,
        csv=_csv(
            ("section", "title", "metric", "labels", "better", "ratio", "ci_low", "ci_high", "verdict"),
            [
                (v.section, v.title, v.metric, answer.described(v.labels), v.better, *_ratios(v), v.verdict)
                for v in judged
            ],
        ),
    )


def _baseline_rows(axes: Axes, sections: Iterable[tuple[str, Iterable[Verdict]]]) -> None:
    across, y = axes.get_yaxis_transform(), 0
    for name, verdicts in sections:
        axes.text(0, y + 18, _cut(answer.printable(name), 60), transform=across, weight="bold")
        y += 24
        for verdict in verdicts:
            _baseline_row(axes, y, verdict)
            y += 40


def _baseline_row(axes: Axes, top: int, verdict: Verdict) -> None:
    ratio, upper, middle, lower = verdict.ratio or 0.0, top + 19, top + 27, top + 35
    left, right = axes.get_xlim()
    better = (left, 1) if verdict.better == "lower" else (1, right)
    axes.fill_between(better, upper, lower, color=svg.PASS, alpha=0.14, linewidth=0)
    axes.plot([1, 1], [upper, lower], color=svg.DOCUMENTED, linewidth=1.5)
    mark, colour = _MARKS[verdict.verdict]
    _interval(axes, verdict, middle, color=colour, linewidth=2.5)
    axes.plot([ratio], [middle], marker=mark, markersize=7, color=colour, linestyle="none")
    across = axes.get_yaxis_transform()
    axes.text(0, top + 15, _cut(_short_title(verdict), _LONGEST), transform=across)
    said = f"{units.show(ratio, units.RATIO)} {verdict.verdict}"
    axes.text(1, top + 15, said, transform=across, ha="right", color=colour, weight="bold")


def _short_title(verdict: Verdict) -> str:
    return answer.printable(verdict.title)


def _ratios(verdict: Verdict) -> tuple[float | None, float | None, float | None]:
    return verdict.ratio, verdict.ci_low, verdict.ci_high


def _ratio(verdict: Verdict) -> str:
    return units.show(verdict.ratio, units.RATIO, verdict.ci_low, verdict.ci_high)


# --- latency distributions ---------------------------------------------------------------------------


def _distributions(record: RunRecord, samples: pd.DataFrame) -> list[Drawing | Omitted]:
    drawings: list[Drawing | Omitted] = []
    for series in _latency_series():
        rows = samples[samples["series"] == series]
        for phase, group in rows.groupby("phase", sort=False):
            key = f"distribution-{len(drawings) + 1}"
            drawings.append(_distribution(record, series, str(phase), group, key))
    return drawings or [Omitted("Latency distributions", "the run holds no timed searches")]


def _latency_series() -> list[str]:
    return list(dict.fromkeys(metric.series for metric in METRICS.values() if metric.quantile is not None))


def _distribution(
    record: RunRecord, series: str, phase: str, rows: pd.DataFrame, key: str
) -> Drawing | Omitted:
    name = answer.printable(f"{series} {phase}".strip())
    title = f"Latency distribution: {name}"
    lines = {int(str(repeat)): _usable(group["value"]) for repeat, group in rows.groupby("repeat")}
    lines = {repeat: values for repeat, values in lines.items() if len(values)}
    if not lines:
        return Omitted(title, "no sample is a finite time above 0")
    each = max(2, min(POINTS_PER_LINE, POINTS_PER_PANEL // len(lines)))
    points = {repeat: _ecdf(values, each) for repeat, values in lines.items()}
    documented = [v for v in record.verdicts if _is_latency_of(v, series, phase)]
    with svg.canvas(250) as figure:
        axes = _axes(figure, 44, _GUTTER, 10, 46)
        extremes = [float(end) for times, _ in points.values() for end in (times[0], times[-1])]
        _log_axis(axes, [*extremes, *(v.baseline for v in documented)], "s")
        for times, shares in points.values():
            axes.plot(times, shares, color=svg.SERIES, alpha=0.6, linewidth=1.2, drawstyle="steps-post")
        for place, verdict in enumerate(documented):
            _documented_line(axes, verdict, place)
        _share_axis(axes)
        axes.set_xlabel("time (log scale)")
        drawn = svg.write(figure, key, title, _distribution_in_words(lines, documented))
    return Drawing(
        key, title, _distribution_caption(lines, each, len(rows), documented), drawn, _ecdf_csv(points)
    )


def _usable(values: pd.Series[float]) -> Array:
    array = np.sort(values.to_numpy(dtype=np.float64, na_value=np.nan))
    return array[(array > _LEAST) & (array < _MOST)]


def _ecdf(values: Array, points: int) -> tuple[Array, Array]:
    """At most `points` of the steps of sorted `values`: first and last always, the rest evenly by rank."""
    ranks = np.unique(np.linspace(0, len(values) - 1, min(points, len(values))).round().astype(int))
    return values[ranks], (ranks + 1) / len(values)


def _is_latency_of(verdict: Verdict, series: str, phase: str) -> bool:
    metric = METRICS.get(verdict.metric)
    return (
        metric is not None
        and metric.series == series
        and verdict.unit == "s"
        and verdict.labels.get("phase", "") == phase
        and bool(_drawable(verdict.baseline))
    )


def _documented_line(axes: Axes, verdict: Verdict, place: int) -> None:
    quantile = METRICS[verdict.metric].quantile
    axes.axvline(verdict.baseline, color=svg.DOCUMENTED, linewidth=1.5, linestyle=(0, (5, 3)))
    if quantile is not None:
        axes.plot([verdict.baseline], [quantile], marker="o", color=svg.DOCUMENTED, linestyle="none")
    on_left = axes.transAxes.inverted().transform(axes.transData.transform((verdict.baseline, 0)))[0] > 0.5
    axes.annotate(
        f"documented {_statistic(verdict)} {units.show(verdict.baseline, 's')}",
        (verdict.baseline, 0.04 + 0.09 * place),
        (-5 if on_left else 5, 0),
        textcoords="offset points",
        ha="right" if on_left else "left",
        color=svg.DOCUMENTED,
        bbox={"facecolor": svg.PAGE, "edgecolor": "none", "pad": 1},
    )


def _statistic(verdict: Verdict) -> str:
    return verdict.metric.rpartition(".")[2]


def _share_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 0.95]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: units.tick(share, "")))
    axes.grid(axis="y", color=svg.MUTED, alpha=0.25, linewidth=0.6)


def _distribution_in_words(lines: dict[int, Array], documented: Sequence[Verdict]) -> str:
    medians = [float(np.median(values)) for values in lines.values()]
    slowest = max(float(values[-1]) for values in lines.values())
    words = [
        f"{len(lines)} processes",
        f"medians from {units.show(min(medians), 's')} to {units.show(max(medians), 's')}",
        f"slowest {units.show(slowest, 's')}",
        *(f"documented {_statistic(v)} {units.show(v.baseline, 's')}" for v in documented),
    ]
    return "; ".join(words) + "."


def _distribution_caption(
    lines: dict[int, Array], each: int, rows: int, documented: Sequence[Verdict]
) -> str:
    drawn = sum(len(values) for values in lines.values())
    parts = [f"The share of {drawn:,} samples that took at most so long, one line per process."]
    if any(len(values) > each for values in lines.values()):
        parts.append(f"Each line is drawn through {each} of its samples, its fastest and slowest among them.")
    if documented:
        parts.append("Dashed: the documented figure.")
    if drawn < rows:
        parts.append(f"{rows - drawn:,} samples are left out: they are no finite time above 0.")
    return " ".join(parts)


def _ecdf_csv(points: dict[int, tuple[Array, Array]]) -> str:
    rows = [
        (repeat + 1, f"{time:.6g}", f"{share:.6g}")
        for repeat, (times, shares) in points.items()
        for time, share in zip(times, shares, strict=True)
    ]
    return _csv(("process", "seconds", "share"), rows)


# --- latency percentiles -----------------------------------------------------------------------------


def _percentiles(record: RunRecord) -> Drawing | Omitted:
    title = "Latency percentiles"
    series = set(_latency_series())
    latencies = [
        m for m in record.metrics if m.unit == "s" and m.name in METRICS and METRICS[m.name].series in series
    ]
    groups: dict[str, list[Measured]] = {}
    for metric in latencies:
        if _drawable(metric.value):
            groups.setdefault(_group(metric), []).append(metric)
    if not groups:
        return Omitted(title, "no latency metric has a value")
    with svg.canvas(24 * len(groups) + 20 * sum(map(len, groups.values())) + 56) as figure:
        axes = _axes(figure, 44, 82, 6, 46)
        shown = [metric for group in groups.values() for metric in group]
        _log_axis(axes, [end for m in shown for end in _drawable(m.value, m.ci_low, m.ci_high)], "s", most=4)
        axes.grid(axis="x", color=svg.MUTED, alpha=0.25, linewidth=0.6)
        _percentile_rows(axes, groups)
        axes.set_xlabel("time (log scale)")
        _without_y(axes)
        words = "; ".join(f"{_group(m)} {_last(m)} {_value(m)}" for m in shown)
        drawn = svg.write(figure, "percentiles", title, f"{words}.")
    hidden = [f"{_group(m)} {_last(m)}: {m.reason}" for m in latencies if m.value is None]
    return Drawing(
        key="percentiles",
        title=title,
        caption=_percentile_caption(shown)
        + (f" Not shown: {answer.printable('; '.join(hidden))}." if hidden else ""),
        svg=drawn,
        csv=_csv(
            ("metric", "labels", "seconds", "ci_low", "ci_high", "samples", "processes"),
            [
                (m.name, answer.described(m.labels), m.value, m.ci_low, m.ci_high, m.n, m.repeats)
                for m in shown
            ],
        ),
    )


def _percentile_caption(shown: Sequence[Measured]) -> str:
    if any(_drawable(metric.ci_low, metric.ci_high) for metric in shown):
        return "Marks are means over the processes, bars their 95% intervals."
    return "Marks are means over the processes, which are too few for intervals."


def _percentile_rows(axes: Axes, groups: dict[str, list[Measured]]) -> None:
    across, y = axes.get_yaxis_transform(), 0
    for name, metrics in groups.items():
        axes.text(-0.16, y + 16, _cut(name, _LONGEST), transform=across, weight="bold")
        y += 24
        for metric in metrics:
            middle = y + 10
            axes.text(-0.16, middle, _last(metric), transform=across, va="center", color=svg.MUTED)
            _interval(axes, metric, middle, color=svg.SERIES, linewidth=3, alpha=0.5)
            axes.plot(
                [metric.value or 0], [middle], marker="o", markersize=5, color=svg.SERIES, linestyle="none"
            )
            axes.text(1.04, middle, units.show(metric.value, "s"), transform=across, va="center")
            y += 20
    axes.set_ylim(y + 4, 0)


def _group(metric: Measured) -> str:
    phase = answer.described(metric.labels)
    return answer.printable(f"{METRICS[metric.name].series} {phase}".strip())


def _last(metric: Measured) -> str:
    return metric.name.rpartition(".")[2]


def _value(metric: Measured) -> str:
    return units.show(metric.value, metric.unit, metric.ci_low, metric.ci_high)


# --- rates and quality, process by process -----------------------------------------------------------


def _ingestion(record: RunRecord, samples: pd.DataFrame) -> Drawing | Omitted:
    title = "Ingestion rate, by process"
    metric = next((m for m in record.metrics if m.name == "memory.ingest.rate"), None)
    values = {} if metric is None else _by_process(metric, samples)
    if metric is None or not values:
        return Omitted(title, (metric and metric.reason) or "the run holds no timed ingestion")
    with svg.canvas(190) as figure:
        axes = _axes(figure, 50, _GUTTER, 10, 44)
        places = [repeat + 1 for repeat in values]
        axes.bar(places, list(values.values()), color=svg.SERIES, alpha=0.75, width=0.6)
        _value_band(axes, metric)
        axes.set_xlim(0.4, max(5, *places) + 0.6)
        axes.set_ylim(0, 1.08 * max([*values.values(), *_drawable(metric.value, metric.ci_high), _LEAST]))
        axes.xaxis.set_major_locator(FixedLocator(places[:: math.ceil(len(places) / 12)]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel(f"process; bars in {metric.unit}")
        words = ", ".join(f"process {r + 1} {units.show(v, metric.unit)}" for r, v in values.items())
        drawn = svg.write(figure, "ingestion", title, f"{words}; together {_value(metric)}.")
    band = ", with its 95% interval" if _drawable(metric.ci_low, metric.ci_high) else ""
    return Drawing(
        key="ingestion",
        title=title,
        caption=f"One bar per process. The line is all of them together{band}: {_value(metric)}.",
        svg=drawn,
        csv=_csv(("process", metric.unit), [(repeat + 1, value) for repeat, value in values.items()]),
    )


def _value_band(axes: Axes, metric: Measured) -> None:
    for value in _drawable(metric.value):
        axes.axhline(value, color=svg.INK, linewidth=1.2)
    ends = _drawable(metric.ci_low, metric.ci_high)
    if len(ends) == 2:
        axes.axhspan(*ends, color=svg.INK, alpha=0.15, linewidth=0)


def _quality(record: RunRecord, samples: pd.DataFrame) -> Drawing | Omitted:
    title = "Quality"
    qualities = [m for m in record.metrics if m.name in METRICS and METRICS[m.name].quality]
    shown = [(m, _by_process(m, samples)) for m in qualities if m.value is not None and 0 <= m.value <= 1]
    if not shown:
        return Omitted(title, "the run holds no judged search")
    with svg.canvas(44 * len(shown) + 34) as figure:
        axes = _axes(figure, _GUTTER, 24, 6, 28)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(shown), 0)
        axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: units.tick(share, "")))
        for place, (metric, values) in enumerate(shown):
            _quality_row(axes, place, metric, list(values.values()))
        _without_y(axes)
        words = "; ".join(f"{answer.title(m.name, m.labels)} {_value(m)}" for m, _ in shown)
        drawn = svg.write(figure, "quality", title, f"{words}.")
    rows = [
        (m.name, answer.described(m.labels), repeat + 1, value)
        for m, values in shown
        for repeat, value in values.items()
    ]
    return Drawing(
        key="quality",
        title=title,
        caption="Bars are the mean over all queries, the line at a bar's end its 95% interval, and the small "
        "circles the processes one by one.",
        svg=drawn,
        csv=_csv(("metric", "labels", "process", "value"), rows),
    )


def _quality_row(axes: Axes, place: int, metric: Measured, values: Sequence[float]) -> None:
    y, across = place + 0.7, axes.get_yaxis_transform()
    axes.text(0, place + 0.38, _cut(answer.title(metric.name, metric.labels), _LONGEST), transform=across)
    axes.text(1, place + 0.38, _value(metric), transform=across, ha="right", weight="bold")
    axes.barh(y, metric.value or 0, height=0.4, color=svg.SERIES, alpha=0.35)
    _interval(axes, metric, y, color=svg.SERIES, linewidth=2.5)
    axes.plot(values, [y] * len(values), "o", markersize=4, markerfacecolor="none", color=svg.INK)


def _by_process(metric: Measured, samples: pd.DataFrame) -> dict[int, float]:
    """What each process alone gives for a metric, where it gives anything that can be drawn."""
    known = METRICS[metric.name]
    rows = samples[(samples["series"] == known.series) & (samples["phase"] == metric.labels.get("phase", ""))]
    derived = {int(str(repeat)): known.derive(group) for repeat, group in rows.groupby("repeat")}
    return {repeat: v for repeat, v in derived.items() if v is not None and 0 <= v < _MOST}


# --- axes --------------------------------------------------------------------------------------------


def _axes(figure: Figure, left: int, right: int, top: int, bottom: int) -> Axes:
    """Axes that leave so many pixels at each side."""
    width, height = (float(size) * 72 for size in figure.get_size_inches())
    return figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    )


def _without_y(axes: Axes) -> None:
    axes.spines["left"].set_visible(False)
    axes.yaxis.set_visible(False)


def _log_axis(axes: Axes, values: Iterable[float], unit: str, most: int = 6) -> None:
    """A log x axis round `values`, with at most so many round ticks."""
    logs = [math.log10(value) for value in values]
    room = max(0.05, 0.05 * (max(logs) - min(logs)))
    low, high = min(logs) - room, max(logs) + room
    axes.set_xscale("log")
    axes.set_xlim(10**low, 10**high)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high, most)))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value, unit)))


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between 10^low and 10^high, as many as leave room for their labels."""
    least_gap = (high - low) / (1.5 * most)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    for steps in _STEPS:
        logs = [exponent + math.log10(step) for exponent in exponents for step in steps]
        logs = [log for log in logs if low <= log <= high]
        if len(logs) <= most and all(after - before >= least_gap for before, after in pairwise(logs)):
            return [10**log for log in logs]
    return [10**log for log in logs[:: math.ceil(len(logs) / most)]]


def _drawable(*values: float | None) -> list[float]:
    """Those of `values` that a log axis has a place for."""
    return [v for v in values if v is not None and _LEAST < v < _MOST]


def _interval(axes: Axes, of: Verdict | Measured, y: float, **style: Any) -> None:
    ends = _drawable(of.ci_low, of.ci_high)
    if len(ends) == 2:
        axes.plot(ends, [y, y], **style)


def _cut(label: str, longest: int) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


def _csv(header: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """A spreadsheet must not take text for a formula."""
    if isinstance(value, str):
        text = answer.printable(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return value
