"""The documented figures that were judged, each as a ratio."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes

from bench.record import RunRecord, Verdict
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import (
    GUTTER,
    LONGEST,
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

_MARKS = {"pass": ("o", svg.PASS), "miss": ("X", svg.MISS), "not proven": ("D", svg.NOT_PROVEN)}


def beside_documented(record: RunRecord) -> Drawing | Omitted:
    """Draw each judged figure as measured over documented."""
    title = "Beside the documented baseline"
    judged = [v for v in record.verdicts if v.verdict in answer.JUDGED and drawable(v.ratio)]
    if not judged:
        return Omitted(title, "no documented figure has a measured ratio above 0")
    ends = [end for v in judged for end in drawable(*_ratios(v))]
    sections = dict.fromkeys(verdict.section for verdict in judged)
    height = 24 * len(sections) + 40 * len(judged)
    with svg.canvas(height + 52) as figure:
        axes = axes_in(figure, GUTTER, GUTTER, 6, 46)
        log_axis(axes, [*ends, 0.5, 2], units.RATIO)
        axes.set_ylim(height, 0)
        _baseline_rows(axes, [(name, [v for v in judged if v.section == name]) for name in sections])
        axes.set_xlabel("measured ÷ documented (log scale); shaded: the better side")
        without_y(axes)
        words = "; ".join(f"{_short_title(v)} {_ratio(v)}, {v.better} is better, {v.verdict}" for v in judged)
        drawn = svg.write(figure, "baseline", title, f"Measured over documented. {words}.")
    return Drawing(
        key="baseline",
        title=title,
        caption="Each mark is a measured figure divided by the documented one, with its 95% interval where "
        f"there is one. Documented is the line at 1{units.RATIO}; the shaded side is better.",
        svg=drawn,
        csv=as_csv(
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
        axes.text(0, y + 18, cut(answer.printable(name), 60), transform=across, weight="bold")
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
    draw_interval(axes, verdict, middle, color=colour, linewidth=2.5)
    axes.plot([ratio], [middle], marker=mark, markersize=7, color=colour, linestyle="none")
    across = axes.get_yaxis_transform()
    axes.text(0, top + 15, cut(_short_title(verdict), LONGEST), transform=across)
    said = f"{units.show(ratio, units.RATIO)} {verdict.verdict}"
    axes.text(1, top + 15, said, transform=across, ha="right", color=colour, weight="bold")


def _short_title(verdict: Verdict) -> str:
    return answer.printable(verdict.title)


def _ratios(verdict: Verdict) -> tuple[float | None, float | None, float | None]:
    return verdict.ratio, verdict.ci_low, verdict.ci_high


def _ratio(verdict: Verdict) -> str:
    return units.show(verdict.ratio, units.RATIO, verdict.ci_low, verdict.ci_high)
