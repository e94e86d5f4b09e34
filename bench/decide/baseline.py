"""The documented baseline: absolute figures, each beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from bench.config import BaselineConfig, BaselineFigure
from bench.errors import UsageError
from bench.metrics import METRICS, Measured
from bench.record import Trial, Verdict

_SUITES = {metric.suite for metric in METRICS.values()}
Word = Literal["pass", "miss", "not proven", "missing"]


def check(baseline: BaselineConfig) -> None:
    """Refuse a baseline that contradicts the metrics' own definitions.

    Metrics that no suite gives yet may be named: their figures are reported as missing.

    Raises:
        UsageError: a metric of a suite there is does not exist, or its unit or direction differs.
    """
    for figure in baseline.figures:
        metric = METRICS.get(figure.metric)
        if metric is None and figure.suite in _SUITES:
            raise UsageError(f"baseline {baseline.name}, {figure.title}: {figure.metric} is not a metric")
        if metric and (metric.unit, metric.better) != (figure.unit, figure.better):
            raise UsageError(
                f"baseline {baseline.name}, {figure.title}: {figure.metric} is in "
                f"{metric.unit or 'no unit'}, {metric.better} is better; the baseline says "
                f"{figure.unit or 'no unit'}, {figure.better}"
            )


def judge(
    baseline: BaselineConfig,
    metrics: Sequence[Measured],
    trials: Sequence[Trial],
    conditions: Mapping[str, str],
    skipped: Mapping[str, str],
) -> list[Verdict]:
    """One verdict for each figure, in the baseline's order; the mappings are those of the record."""
    verdicts = []
    for figure in baseline.figures:
        measured = next((m for m in metrics if m.name == figure.metric and m.labels == figure.labels), None)
        word, why = (
            _word(figure, measured) if measured else ("missing", _why_missing(figure, trials, skipped))
        )
        verdicts.append(_verdict(figure, measured, word, why, conditions))
    return verdicts


def _word(figure: BaselineFigure, measured: Measured) -> tuple[Word, str]:
    if measured.value is None:
        return "missing", str(measured.reason)
    if measured.ci_low is None or measured.ci_high is None:
        return "not proven", f"no interval: {measured.reason}"
    if measured.reasons:
        return "not proven", "; ".join(measured.reasons)
    return compare(figure.value, measured.ci_low, measured.ci_high, figure.better)


def _why_missing(figure: BaselineFigure, trials: Sequence[Trial], skipped: Mapping[str, str]) -> str:
    for metrics, reason in skipped.items():
        if figure.metric.startswith(metrics):
            return reason
    statuses = {trial.status for trial in trials if trial.suite == figure.suite}
    if not statuses:
        return f"needs the suite {figure.suite}"
    if "failed" in statuses:
        return f"trials of the suite {figure.suite} failed"
    return f"the suite {figure.suite} gave no such figure"


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


def _verdict(
    figure: BaselineFigure, measured: Measured | None, word: Word, why: str, conditions: Mapping[str, str]
) -> Verdict:
    value, low, high = (measured.value, measured.ci_low, measured.ci_high) if measured else (None, None, None)

    def ratio(number: float | None) -> float | None:
        return None if number is None else number / figure.value

    metric = METRICS.get(figure.metric)
    condition = metric and conditions.get(" ".join((metric.series, *figure.labels.values())))
    return Verdict(
        metric=figure.metric,
        labels=figure.labels,
        section=figure.section,
        title=figure.title,
        documented=figure.documented,
        scenario=f"{figure.scenario}; {condition}" if measured and condition else figure.scenario,
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
