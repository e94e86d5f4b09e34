"""Latencies: every sample as a distribution, and the percentiles that the samples carry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.metrics import METRICS, Measured
from bench.record import RunRecord, Verdict
from bench.reports import answer, svg, tables, units
from bench.reports.figures.drawing import (
    GUTTER,
    LEAST,
    LONGEST,
    MOST,
    Drawing,
    Omitted,
    as_csv,
    axes_in,
    cut,
    draw_interval,
    drawable,
    log_axis,
    without_y,
)

if TYPE_CHECKING:
    import pandas as pd

POINTS_PER_LINE = 400
POINTS_PER_PANEL = 3_000

Array = npt.NDArray[np.floating[Any]]


def distributions(record: RunRecord, samples: pd.DataFrame) -> list[Drawing | Omitted]:
    """Draw each series of timed searches, one line per process."""
    drawings: list[Drawing | Omitted] = []
    for series in _latency_series():
        rows = samples[samples["series"] == series]
        for labels, group in rows.groupby("labels", sort=False):
            key = f"distribution-{len(drawings) + 1}"
            drawings.append(_distribution(record, series, json.loads(str(labels)), group, key))
    return drawings or [Omitted("Latency distributions", "the run holds no timed searches")]


def _latency_series() -> list[str]:
    """The series of which a report shows percentiles, those of its tables left out."""
    metrics = [m for m in METRICS.values() if m.quantile is not None and m.name not in tables.SHOWN]
    return list(dict.fromkeys(metric.series for metric in metrics))


def _distribution(
    record: RunRecord, series: str, labels: Mapping[str, str], rows: pd.DataFrame, key: str
) -> Drawing | Omitted:
    name = answer.printable(f"{series} {answer.described(labels)}".strip())
    title = f"Latency distribution: {name}"
    lines = {int(str(repeat)): _usable(group["value"]) for repeat, group in rows.groupby("repeat")}
    lines = {repeat: values for repeat, values in lines.items() if len(values)}
    if not lines:
        return Omitted(title, "no sample is a finite time above 0")
    each = max(2, min(POINTS_PER_LINE, POINTS_PER_PANEL // len(lines)))
    points = {repeat: _ecdf(values, each) for repeat, values in lines.items()}
    documented = [v for v in record.verdicts if _is_latency_of(v, series, labels)]
    with svg.canvas(250) as figure:
        axes = axes_in(figure, 44, GUTTER, 10, 46)
        extremes = [float(end) for times, _ in points.values() for end in (times[0], times[-1])]
        log_axis(axes, [*extremes, *(v.baseline for v in documented)], "s")
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
    return array[(array > LEAST) & (array < MOST)]


def _ecdf(values: Array, points: int) -> tuple[Array, Array]:
    """At most `points` of the steps of sorted `values`: first and last always, the rest evenly by rank."""
    ranks = np.unique(np.linspace(0, len(values) - 1, min(points, len(values))).round().astype(int))
    return values[ranks], (ranks + 1) / len(values)


def _is_latency_of(verdict: Verdict, series: str, labels: Mapping[str, str]) -> bool:
    metric = METRICS.get(verdict.metric)
    return (
        metric is not None
        and metric.series == series
        and verdict.unit == "s"
        and verdict.labels == labels
        and bool(drawable(verdict.baseline))
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
    return as_csv(("process", "seconds", "share"), rows)


def percentiles(record: RunRecord) -> Drawing | Omitted:
    """Draw the percentiles of each series of timed searches."""
    title = "Latency percentiles"
    series = set(_latency_series())
    latencies = [
        m for m in record.metrics if m.unit == "s" and m.name in METRICS and METRICS[m.name].series in series
    ]
    groups: dict[str, list[Measured]] = {}
    for metric in latencies:
        if drawable(metric.value):
            groups.setdefault(_group(metric), []).append(metric)
    if not groups:
        return Omitted(title, "no latency metric has a value")
    with svg.canvas(24 * len(groups) + 20 * sum(map(len, groups.values())) + 56) as figure:
        axes = axes_in(figure, 44, 82, 6, 46)
        shown = [metric for group in groups.values() for metric in group]
        log_axis(axes, [end for m in shown for end in drawable(m.value, m.ci_low, m.ci_high)], "s", most=4)
        axes.grid(axis="x", color=svg.MUTED, alpha=0.25, linewidth=0.6)
        _percentile_rows(axes, groups)
        axes.set_xlabel("time (log scale)")
        without_y(axes)
        words = "; ".join(f"{_group(m)} {_last(m)} {answer.value(m)}" for m in shown)
        drawn = svg.write(figure, "percentiles", title, f"{words}.")
    hidden = [f"{_group(m)} {_last(m)}: {m.reason}" for m in latencies if m.value is None]
    return Drawing(
        key="percentiles",
        title=title,
        caption=_percentile_caption(shown)
        + (f" Not shown: {answer.printable('; '.join(hidden))}." if hidden else ""),
        svg=drawn,
        csv=as_csv(
            ("metric", "labels", "seconds", "ci_low", "ci_high", "samples", "processes"),
            [
                (m.name, answer.described(m.labels), m.value, m.ci_low, m.ci_high, m.n, m.repeats)
                for m in shown
            ],
        ),
    )


def _percentile_caption(shown: Sequence[Measured]) -> str:
    if any(drawable(metric.ci_low, metric.ci_high) for metric in shown):
        return "Marks are means over the processes, bars their 95% intervals."
    return "Marks are means over the processes, which are too few for intervals."


def _percentile_rows(axes: Axes, groups: dict[str, list[Measured]]) -> None:
    across, y = axes.get_yaxis_transform(), 0
    for name, metrics in groups.items():
        axes.text(-0.16, y + 16, cut(name, LONGEST), transform=across, weight="bold")
        y += 24
        for metric in metrics:
            middle = y + 10
            axes.text(-0.16, middle, _last(metric), transform=across, va="center", color=svg.MUTED)
            draw_interval(axes, metric, middle, color=svg.SERIES, linewidth=3, alpha=0.5)
            axes.plot(
                [metric.value or 0], [middle], marker="o", markersize=5, color=svg.SERIES, linestyle="none"
            )
            axes.text(1.04, middle, units.show(metric.value, "s"), transform=across, va="center")
            y += 20
    axes.set_ylim(y + 4, 0)


def _group(metric: Measured) -> str:
    return answer.printable(f"{METRICS[metric.name].series} {answer.described(metric.labels)}".strip())


def _last(metric: Measured) -> str:
    return metric.name.rpartition(".")[2]
