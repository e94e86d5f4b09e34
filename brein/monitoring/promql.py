"""Expressions of Prometheus' query language that rules and panels have in common.

`by` names labels, `span` is a time ("5m"), `chosen` more matchers ("job=…").
"""

from __future__ import annotations

from brein import metrics
from brein.metrics import FAILURES

BUCKET = f"{metrics.QUERY_DURATION.name}_bucket"
COUNT = f"{metrics.QUERY_DURATION.name}_count"
ANSWERED = 'outcome="answered"'
_FAILED = f'outcome=~"{"|".join(FAILURES)}"'
_JUDGED = f'outcome=~"{"|".join(("answered", *FAILURES))}"'  # the others are the caller's doing


def total(by: str, name: str, *matchers: str) -> str:
    """The sum of a metric, as it is now."""
    chosen = ", ".join(filter(None, matchers))
    return f"sum by ({by}) ({name}{{{chosen}}})"


def rate(by: str, span: str, name: str, *matchers: str) -> str:
    """The sum of a counter's growth, a second."""
    chosen = ", ".join(filter(None, matchers))
    return f"sum by ({by}) (rate({name}{{{chosen}}}[{span}]))"


def buckets(by: str, span: str, chosen: str = "") -> str:
    """Rates of the latency buckets; a query that failed counts as slower than any."""
    within = rate(by, span, BUCKET, ANSWERED, 'le!="+Inf"', chosen)
    beyond = rate(by, span, BUCKET, _JUDGED, 'le="+Inf"', chosen)
    return f"{within} or {beyond}"


def failure_ratio(by: str, span: str, chosen: str = "") -> str:
    """Of the queries that were not the caller's to end, those that the service failed."""
    return f"{rate(by, span, COUNT, _FAILED, chosen)} / {rate(by, span, COUNT, _JUDGED, chosen)}"


def hit_ratio(by: str, span: str, chosen: str = "") -> str:
    """Hits over look-ups of cache levels."""
    hits, misses = (rate(by, span, each.name, chosen) for each in (metrics.CACHE_HITS, metrics.CACHE_MISSES))
    return f"{hits} / ({hits} + {misses})"


def search_hit_ratio(by: str, span: str) -> str:
    """Of the look-ups of search results, which begin at l1, those that any level answered."""
    search, first = 'cache="search"', 'level="l1"'
    hits, misses = metrics.CACHE_HITS.name, metrics.CACHE_MISSES.name
    looked_up = f"{rate(by, span, hits, search, first)} + {rate(by, span, misses, search, first)}"
    return f"{rate(by, span, hits, search)} / ({looked_up})"


def utilisation(by: str, span: str, chosen: str = "") -> str:
    """Busy slot-seconds of agents over all there were."""
    return (
        f"{rate(by, span, metrics.AGENT_BUSY.name, chosen)} / {total(by, metrics.AGENT_SLOTS.name, chosen)}"
    )
