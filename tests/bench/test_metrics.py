import numpy as np
import pytest

from bench.metrics import METRICS, derive
from bench.trial import frame


def rows(series, values, repeat=0, phase="", suite="query", **columns):
    return [
        {
            "suite": suite, "series": series, "phase": phase, "repeat": repeat, "seq": seq, "start": 0.0,
            "value": value, "items": 1, **{name: given[seq] for name, given in columns.items()},
        }
        for seq, value in enumerate(values)
    ]  # fmt: skip


def find(samples, name, **labels):
    return next(m for m in derive(frame(samples)) if m.name == name and m.labels == labels)


def test_every_metric_of_the_contract_that_these_suites_give_is_in_the_table():
    latencies = {
        f"{p}.latency.{s}" for p in ("memory.search", "query") for s in ("mean", "p50", "p95", "p99")
    }
    others = {
        "memory.ingest.rate", "memory.search.throughput", "memory.recall_at_10", "memory.index.build_time",
        "memory.index.bytes_per_vector", "memory.peak", "query.throughput", "query.cache_hit_rate",
        "query.ndcg_at_10", "query.recall_at_10",
    }  # fmt: skip
    assert latencies | others <= set(METRICS)
    assert all(metric.suite in ("memory", "query") for metric in METRICS.values())


def test_a_rate_is_items_over_seconds():
    samples = [{**row, "items": 300} for repeat in range(5) for row in rows("memory.ingest", [3.0], repeat)]
    measured = find(samples, "memory.ingest.rate")
    assert measured.value == pytest.approx(100)
    assert (measured.ci_low, measured.ci_high) == pytest.approx((100, 100))
    assert (measured.n, measured.repeats, measured.unit) == (5, 5, "documents/s")


def test_a_latency_is_the_geometric_mean_of_the_processes():
    samples = [
        row
        for repeat, level in enumerate((1, 2, 4, 8, 16))
        for row in rows("memory.search", [level] * 20, repeat)
    ]
    median = find(samples, "memory.search.latency.p50")
    assert median.value == pytest.approx(4)
    assert median.ci_low < 4 < median.ci_high
    assert median.n == 100


def test_too_few_samples_give_a_reason_instead_of_a_value():
    samples = [row for repeat in range(5) for row in rows("memory.search", np.ones(999), repeat)]
    p99 = find(samples, "memory.search.latency.p99")
    assert p99.value is None
    assert p99.reason == "999 of the 1,000 samples a process this percentile needs"


def test_too_few_processes_give_a_value_without_an_interval():
    samples = [row for repeat in range(3) for row in rows("memory.search", np.ones(30), repeat)]
    mean = find(samples, "memory.search.latency.mean")
    assert mean.value == 1
    assert mean.ci_low is None
    assert "3 of the 5 processes" in mean.reason


def test_phases_are_told_apart_by_their_label():
    samples = rows("query.search", np.ones(30), phase="cold") + rows(
        "query.search", np.ones(30) * 2, phase="zipf"
    )
    assert find(samples, "query.latency.mean", phase="cold").value == 1
    assert find(samples, "query.latency.mean", phase="zipf").value == 2


def test_quality_is_a_mean_over_queries_with_a_bootstrap_interval():
    queries, quality = [f"q{n}" for n in range(40)], [float(n % 2) for n in range(40)]
    samples = [
        row
        for repeat in range(2)
        for row in rows("query.search", np.ones(40), repeat, "cold", query=queries, ndcg_at_10=quality)
    ]
    measured = find(samples, "query.ndcg_at_10", phase="cold")
    assert measured.value == 0.5
    assert 0.3 < measured.ci_low < 0.5 < measured.ci_high < 0.7


def test_a_hit_rate_stays_between_0_and_1():
    samples = [
        row
        for repeat in range(5)
        for row in rows(
            "query.search", np.ones(40), repeat, "zipf", cache_hit=[n >= repeat for n in range(40)]
        )
    ]
    measured = find(samples, "query.cache_hit_rate", phase="zipf")
    assert measured.value == pytest.approx(0.95)
    assert measured.ci_high <= 1


def test_no_samples_give_no_metrics():
    assert derive(frame([])) == []


def test_what_is_counted_is_its_own_interval():
    measured = find(rows("memory.index.bytes", [1544.0], suite="memory"), "memory.index.bytes_per_vector")
    assert (measured.value, measured.ci_low, measured.ci_high, measured.reason) == (1544, 1544, 1544, None)
