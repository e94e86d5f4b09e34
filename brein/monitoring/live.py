"""The live page: one HTML file without anything from elsewhere, and what it asks for every two seconds."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from brein import metrics
from brein.metrics import LATENCY_BUCKETS, Definition
from brein.monitoring.health import FAILED, LATENCY, finite, report
from brein.monitoring.service import Monitoring

_PAGE = Path(__file__).with_name("live.html")


@cache
def page() -> str:
    """The page as HTML; it asks /dashboard/data for `snapshot`, with `?since=` the time of the last point."""
    return _PAGE.read_text("utf-8")


@cache
def policy() -> str:
    """The page's Content-Security-Policy: its own style and script, its own origin, nothing else."""
    hashes = {
        tag: base64.b64encode(
            hashlib.sha256(re.findall(rf"<{tag}>(.*?)</{tag}>", page(), re.DOTALL)[0].encode()).digest()
        ).decode()
        for tag in ("style", "script")
    }
    return (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def snapshot(monitoring: Monitoring, since: float = 0.0) -> dict[str, Any]:
    """What the page shows, for JSON: figures over the window, totals as `/metrics` has them, and the points
    after `since` (seconds since 1970). Takes as long as `Metrics.render`."""
    window = monitoring.config.window
    queries = monitoring.monitor.statistics(LATENCY, window, unanswered=FAILED)
    now = monitoring.monitor.clock()
    scraped = _Scraped(monitoring.metrics)
    return {
        "now": now,
        "started": monitoring.started,
        "window": window,
        "version": scraped.labels(metrics.BUILD)[0]["version"],
        "queries": {
            "p50": finite(queries.median),
            "p95": finite(queries.p95),
            "p99": finite(queries.p99),
            "answered_rate": _rate(queries.count, now - queries.since),
            "failed_rate": _rate(queries.unanswered, now - queries.since),
            "answered": scraped.total(metrics.QUERY_DURATION, {"answered"}),
            "failed": scraped.total(metrics.QUERY_DURATION, set(metrics.FAILURES)),
        },
        "process": {
            "memory": scraped.one(metrics.MEMORY),
            "documents": scraped.one(metrics.DOCUMENTS),
            "connections": scraped.one(metrics.CONNECTIONS),
            "index": scraped.sum(metrics.INDEX),
        },
        "caches": [
            {
                **labels,
                "hit_rate": scraped.of(metrics.CACHE_HIT_RATE, labels),
                "hits": scraped.of(metrics.CACHE_HITS, labels),
                "misses": scraped.of(metrics.CACHE_MISSES, labels),
                "entries": scraped.of(metrics.CACHE_ENTRIES, labels),
                "bytes": scraped.of(metrics.CACHE_SIZE, labels),
                "available": scraped.of(metrics.CACHE_AVAILABLE, labels) == 1,
            }
            for labels in scraped.labels(metrics.CACHE_HITS)
        ],
        "agents": [
            {
                **labels,
                "queue": scraped.of(metrics.AGENT_QUEUE, labels),
                "slots": scraped.of(metrics.AGENT_SLOTS, labels),
                "busy": scraped.of(metrics.AGENT_SLOTS_BUSY, labels),
                "rejected": scraped.of(metrics.AGENT_REJECTED, labels),
                "timed_out": scraped.of(metrics.AGENT_TIMED_OUT, labels),
            }
            for labels in scraped.labels(metrics.AGENT_SLOTS)
        ],
        "kpis": report(monitoring.kpis())["kpis"],
        "alerts": [
            {**asdict(alert), "value": finite(alert.value)}
            for alert in tuple(monitoring.alerts.firing.values())
        ],
        "anomalies": [asdict(alert) for alert in monitoring.monitor.alerts()[-5:]],
        "buckets": LATENCY_BUCKETS,
        "points": [asdict(point) for point in tuple(monitoring.points) if point.time > since],
    }


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None


class _Scraped:
    """One reading of all metrics, as a scrape has it."""

    def __init__(self, read: metrics.Metrics) -> None:
        self._samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in read.registry.collect():
            for sample in family.samples:
                self._samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value

    def labels(self, definition: Definition) -> list[dict[str, str]]:
        return [dict(labels) for labels in self._samples.get(definition.name, {})]

    def of(self, definition: Definition, labels: dict[str, str]) -> float | None:
        return self._samples.get(definition.name, {}).get(frozenset(labels.items()))

    def one(self, definition: Definition) -> float | None:
        return self.of(definition, {})

    def sum(self, definition: Definition) -> float | None:
        values = self._samples.get(definition.name, {}).values()
        return sum(values) if values else None

    def total(self, definition: Definition, outcomes: set[str]) -> float:
        """Observations of a histogram that has outcomes."""
        return sum(
            value
            for labels, value in self._samples.get(f"{definition.name}_count", {}).items()
            if dict(labels)["outcome"] in outcomes
        )
