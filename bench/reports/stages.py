"""Where a query's time goes: the mean time of each stage over all queries, so that the stages add up."""

from __future__ import annotations

from bench.metrics import Measured
from bench.record import RunRecord
from bench.reports import answer

WHOLE = "query.latency.mean"


def by_stage(record: RunRecord) -> dict[str, float]:
    """Seconds of each stage in a mean query, in the order in which the stages first ran.

    A query that went without a stage counts as none of it: what is measured of the queries that had the stage
    is spread over all.
    """
    query = whole(record)
    asked = query.n if query else 0
    return {
        answer.printable(metric.labels.get("stage", "")): metric.value * metric.n / asked
        for metric in record.metrics
        if metric.name == "query.stage.latency.mean" and metric.value is not None and asked
    }


def whole(record: RunRecord) -> Measured | None:
    """The mean query itself, every cache empty."""
    return next((m for m in record.metrics if m.name == WHOLE and m.labels == {"phase": "cold"}), None)
