"""Expressions of Prometheus' query language that rules and panels have in common.

`by` names labels, `span` is a time ("5m"), `chosen` more matchers ("job=…").
"""

from __future__ import annotations

from collections.abc import Callable

from brein import metrics
from brein.metrics import FAILURES

BUCKET = f"{metrics.QUERY_DURATION.name}_bucket"
COUNT = f"{metrics.QUERY_DURATION.name}_count"
ANSWERED = 'outcome="answered"'
FAILED = f'outcome=~"{"|".join(FAILURES)}"'
JUDGED = f'outcome=~"{"|".join(("answered", *FAILURES))}"'  # the others are the caller's doing


def total(by: str, name: str, *matchers: str) -> str:
    """The sum of a metric, as it is now."""
    chosen = ", ".join(filter(None, matchers))
    return f"sum by ({by}) ({name}{{{chosen}}})"


def rate(by: str, span: str, name: str, *matchers: str) -> str:
    """The sum of a counter's growth, a second."""
    chosen = ", ".join(filter(None, matchers))
    return f"sum by ({by}) (rate({name}{{{chosen}}}[{span}]))"


def increase(by: str, span: str, name: str, *matchers: str) -> str:
    """The sum of a counter's growth."""
    chosen = ", ".join(filter(None, matchers))
    return f"sum by ({by}) (increase({name}{{{chosen}}}[{span}]))"


def buckets(by: str, span: str, chosen: str = "") -> str:
    """Rates of the latency buckets; a query that failed counts as slower than any."""
    within = rate(by, span, BUCKET, ANSWERED, 'le!="+Inf"', chosen)
    beyond = rate(by, span, BUCKET, JUDGED, 'le="+Inf"', chosen)
    return f"{within} or {beyond}"


def failure_ratio(by: str, span: str, chosen: str = "") -> str:
    """Of the queries that were not the caller's to end, those that the service failed."""
    return f"{rate(by, span, COUNT, FAILED, chosen)} / {rate(by, span, COUNT, JUDGED, chosen)}"


def hit_ratio(by: str, span: str, chosen: str = "") -> str:
    """Hits over look-ups of cache levels."""
    hits, misses = (rate(by, span, each.name, chosen) for each in (metrics.CACHE_HITS, metrics.CACHE_MISSES))
    return f"{hits} / ({hits} + {misses})"


def hit_ratio_so_far(by: str, chosen: str = "") -> str:
    """Hits over look-ups of cache levels since the start; nothing of those that nobody looked into."""
    hits, misses = (total(by, each.name, chosen) for each in (metrics.CACHE_HITS, metrics.CACHE_MISSES))
    return f"{hits} / ({hits} + {misses} > 0)"


def search_look_ups(growth: Callable[..., str], by: str, span: str, chosen: str = "") -> str:
    """Look-ups of search results, which begin at l1; `growth` is `rate` or `increase`."""
    return " + ".join(
        growth(by, span, each.name, 'cache="search"', 'level="l1"', chosen)
        for each in (metrics.CACHE_HITS, metrics.CACHE_MISSES)
    )


def search_hit_ratio(by: str, span: str, chosen: str = "") -> str:
    """Of the look-ups of search results, those that any level answered."""
    hits = rate(by, span, metrics.CACHE_HITS.name, 'cache="search"', chosen)
    return f"{hits} / ({search_look_ups(rate, by, span, chosen)})"


def utilisation(by: str, span: str, chosen: str = "") -> str:
    """Busy slot-seconds of agents over all there were."""
    return (
        f"{rate(by, span, metrics.AGENT_BUSY.name, chosen)} / {total(by, metrics.AGENT_SLOTS.name, chosen)}"
    )
