"""Prometheus' rules: what is recorded for the service as a whole, and what is an alert."""

from __future__ import annotations

from typing import Any

from brein import metrics
from brein.monitoring import promql
from brein.monitoring.health import LEAST_FAILURES, LEAST_LOOKUPS, LEAST_QUERIES, TARGETS, Target
from brein.monitoring.monitor import needed

JOB = "brein"
_RECORDED_BUCKETS = f"job_le:{promql.BUCKET}:rate5m"
_RECORDED_P95 = f"job:{metrics.QUERY_DURATION.name}:p95_rate5m"
_RECORDED_FAILURES = "job:brein_query_failures:ratio_rate5m"
_RECORDED_HITS = "job:brein_search_cache_hits:ratio_rate5m"


def recording() -> list[dict[str, Any]]:
    """What is asked for again and again, for the service as a whole."""
    recorded = {
        _RECORDED_BUCKETS: promql.buckets("job, le", "5m"),
        f"job:{metrics.QUERY_DURATION.name}:p50_rate5m": f"histogram_quantile(0.5, {_RECORDED_BUCKETS})",
        _RECORDED_P95: f"histogram_quantile(0.95, {_RECORDED_BUCKETS})",
        f"job:{metrics.QUERY_DURATION.name}:p99_rate5m": f"histogram_quantile(0.99, {_RECORDED_BUCKETS})",
        "job:brein_queries_answered:rate5m": promql.rate("job", "5m", promql.COUNT, promql.ANSWERED),
        _RECORDED_FAILURES: promql.failure_ratio("job", "5m"),
        _RECORDED_HITS: promql.search_hit_ratio("job", "5m"),
        "job_cache_level:brein_cache_hits:ratio_rate5m": promql.hit_ratio("job, cache, level", "5m"),
        "job_agent:brein_agent_utilisation:ratio_rate5m": promql.utilisation("job, agent", "5m"),
        "job_instance:brein_cpu_seconds:rate5m": promql.rate("job, instance", "5m", metrics.CPU.name),
        "job_instance:brein_disk_bytes:rate5m": (
            f"{promql.rate('job, instance', '5m', metrics.DISK_READ.name)} + "
            f"{promql.rate('job, instance', '5m', metrics.DISK_WRITTEN.name)}"
        ),
    }
    return [{"record": name, "expr": expression} for name, expression in recorded.items()]


def alerts() -> list[dict[str, Any]]:
    """One rule for each KPI, and those that say why one is about to be missed."""
    return [
        _alert(
            "BreinDown", f'up{{job="{JOB}"}} == 0', "1m", "{{ $labels.instance }} does not answer", "critical"
        ),
        *(_kpi_alert(target) for target in TARGETS),
        _alert(
            "BreinAgentRefuses",
            f"{promql.rate('job, agent', '5m', metrics.AGENT_REJECTED.name)} > 0",
            "5m",
            "{{ $labels.agent }} has no place for {{ $value | humanize }} requests a second",
        ),
        _alert(
            "BreinCacheLevelDown",
            f"min by (job, instance, cache, level) ({metrics.CACHE_AVAILABLE.name}) == 0",
            "5m",
            "the {{ $labels.cache }} cache goes without {{ $labels.level }}",
        ),
    ]


def _kpi_alert(target: Target) -> dict[str, Any]:
    beyond = f"{'>=' if target.within == 'below' else '<='} {target.bound:g}"
    instances = "max by (job, instance)"
    queries = promql.increase("job", "5m", promql.COUNT, promql.JUDGED)
    failures = promql.increase("job", "5m", promql.COUNT, promql.FAILED)
    look_ups = promql.search_look_ups(promql.increase, "job", "5m")
    expression = {
        # As many as the KPI needs: of fewer, a share says nothing.
        "latency": f"{_RECORDED_P95} {beyond} and {queries} >= {needed(0.95)}",
        "errors": (
            f"{_RECORDED_FAILURES} {beyond} and "
            f"({queries} >= {LEAST_QUERIES} or {failures} >= {LEAST_FAILURES})"
        ),
        "hit_rate": f"{_RECORDED_HITS} {beyond} and {look_ups} >= {LEAST_LOOKUPS}",
        # An instance knows whether more was asked for; its rate alone does not say.
        "throughput": f'{instances} ({metrics.KPI_STATE.name}{{kpi="throughput", state="missed"}}) == 1',
    }.get(target.name, f'{instances} ({metrics.KPI_VALUE.name}{{kpi="{target.name}"}}) {beyond}')
    name = "Brein" + "".join(word.capitalize() for word in target.name.split("_")) + "Missed"
    summary = f"{target.title} must be {target.within} {target.bound:g} {target.unit}"
    return _alert(name, expression, "5m", summary)


def _alert(
    name: str, expression: str, lasting: str, summary: str, severity: str = "warning"
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
