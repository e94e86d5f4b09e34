"""The documented baseline: absolute figures, each beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bench.config import BaselineConfig, BaselineFigure
from bench.errors import UsageError
from bench.metrics import METRICS, Measured
from bench.record import Verdict

Word = Literal["pass", "miss", "not proven", "missing"]


def check(baseline: BaselineConfig) -> None:
    """Refuse a baseline that contradicts the metrics' own definitions.

    Metrics that no suite gives yet may be named: their figures are reported as missing.

    Raises:
        UsageError: a unit or direction differs from the metric's.
    """
    for figure in baseline.figures:
        metric = METRICS.get(figure.metric)
        if metric and (metric.unit, metric.better) != (figure.unit, figure.better):
            raise UsageError(
                f"baseline {baseline.name}, {figure.title}: {figure.metric} is in "
                f"{metric.unit or 'no unit'}, {metric.better} is better; the baseline says "
                f"{figure.unit or 'no unit'}, {figure.better}"
            )


def judge(baseline: BaselineConfig, metrics: Sequence[Measured]) -> list[Verdict]:
    """One verdict for each figure, in the baseline's order."""
    return [_judge_one(figure, _find(figure, metrics)) for figure in baseline.figures]


def _find(figure: BaselineFigure, metrics: Sequence[Measured]) -> Measured | None:
    return next((m for m in metrics if m.name == figure.metric and m.labels == figure.labels), None)


def _judge_one(figure: BaselineFigure, measured: Measured | None) -> Verdict:
    if measured is None or measured.value is None:
        why = (measured and measured.reason) or f"needs the suite {figure.suite}"
        return _verdict(figure, "missing", why)
    if measured.ci_low is None or measured.ci_high is None:
        return _verdict(figure, "not proven", f"no interval: {measured.reason}", measured)
    word, why = compare(figure.value, measured.ci_low, measured.ci_high, figure.better)
    return _verdict(figure, word, why, measured)


def compare(documented: float, low: float, high: float, better: str) -> tuple[Word, str]:
    """Pass where the whole interval is at least as good as documented, miss where all of it is worse."""
    if better == "lower":
        good, bad = high <= documented, low > documented
    else:
        good, bad = low >= documented, high < documented
    if good:
        return "pass", "the whole interval is at least as good as documented"
    if bad:
        return "miss", "the whole interval is worse than documented"
    return "not proven", "the interval holds the documented figure: more repeats would narrow it"


def _verdict(figure: BaselineFigure, word: Word, why: str, measured: Measured | None = None) -> Verdict:
    value, low, high = (measured.value, measured.ci_low, measured.ci_high) if measured else (None, None, None)

    def ratio(number: float | None) -> float | None:
        return None if number is None else number / figure.value

    return Verdict(
        metric=figure.metric,
        labels=figure.labels,
        section=figure.section,
        title=figure.title,
        documented=figure.documented,
        scenario=figure.scenario,
        unit=figure.unit,
        better=figure.better,
        baseline=figure.value,
        measured=value,
        ratio=ratio(value),
        ci_low=ratio(low),
        ci_high=ratio(high),
        verdict=word,
        reason=why,
    )
