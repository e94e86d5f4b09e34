import numpy as np
import pytest

from bench.metrics import METRICS, derive, label_text
from bench.trial import frame

COLD, ZIPF = {"phase": "cold"}, {"phase": "zipf"}


def rows(series, values, repeat=0, labels=None, suite="query", **columns):
    return [
        {
            "suite": suite, "series": series, "labels": label_text(labels or {}), "repeat": repeat,
            "seq": seq, "start": 0.0, "value": value, "items": 1,
            **{name: given[seq] for name, given in columns.items()},
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
        "memory.ingest.rate", "memory.search.throughput", "memory.search.batch_throughput",
        "memory.recall_at_1", "memory.recall_at_10", "memory.recall_at_100", "memory.filtered.recall_at_10",
        "memory.filtered.latency.mean", "memory.index.build_time", "memory.index.bytes_per_vector",
        "memory.index.disk_bytes_per_vector", "memory.shards.latency.mean", "memory.shards.cost",
        "memory.cache.answered", "memory.cache.hit_rate",
        "memory.cache.latency.mean", "memory.cache.latency.p95",
        "memory.storage.write_rate", "memory.storage.read_rate", "memory.coding.recall_at_10",
        "memory.mixed.latency.mean", "memory.mixed.recall_at_10", "memory.mixed.write_rate",
        "memory.streaming.latency.mean", "memory.streaming.recall_at_10", "memory.streaming.write_rate",
        "memory.streaming.bytes_per_vector", "query.filtered.latency.mean", "query.filtered.recall_at_10",
        "memory.coding.bytes_per_vector", "memory.peak", "query.throughput", "query.cache_hit_rate",
        "query.ndcg_at_10", "query.mrr_at_10", "query.recall_at_10",
    }  # fmt: skip
    assert latencies | others <= set(METRICS)
    assert all(metric.suite in ("memory", "query", "lab", "peers") for metric in METRICS.values())


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


def test_the_process_with_the_fewest_samples_left_is_the_reason():
    samples = with_warm_up("memory.search") + rows("memory.search", np.ones(2000), 1)
    p99 = find(samples, "memory.search.latency.p99")
    assert p99.value is None
    assert p99.reason == f"{600 - p99.cut} of the 1,000 samples a process this percentile needs"


def test_too_few_processes_give_a_value_without_an_interval():
    samples = [row for repeat in range(3) for row in rows("memory.search", np.ones(30), repeat)]
    mean = find(samples, "memory.search.latency.mean")
    assert mean.value == 1
    assert mean.ci_low is None
    assert "3 of the 5 processes" in mean.reason


def test_series_of_one_name_are_told_apart_by_their_labels():
    samples = [
        *rows("query.search", np.ones(30), labels=COLD),
        *rows("query.search", np.ones(30) * 2, labels=ZIPF),
    ]
    assert find(samples, "query.latency.mean", phase="cold").value == 1
    assert find(samples, "query.latency.mean", phase="zipf").value == 2


def test_quality_is_a_mean_over_queries_with_a_bootstrap_interval():
    queries, quality = [f"q{n}" for n in range(40)], [float(n % 2) for n in range(40)]
    samples = [
        row
        for repeat in range(2)
        for row in rows("query.search", np.ones(40), repeat, COLD, query=queries, ndcg_at_10=quality)
    ]
    measured = find(samples, "query.ndcg_at_10", phase="cold")
    assert measured.value == 0.5
    assert 0.3 < measured.ci_low < 0.5 < measured.ci_high < 0.7


def test_a_hit_rate_stays_between_0_and_1():
    samples = [
        row
        for repeat in range(5)
        for row in rows("query.search", np.ones(40), repeat, ZIPF, cache_hit=[n >= repeat for n in range(40)])
    ]
    measured = find(samples, "query.cache_hit_rate", phase="zipf")
    assert measured.value == pytest.approx(0.95)
    assert measured.ci_high <= 1


def test_no_samples_give_no_metrics():
    assert derive(frame([])) == []


def test_what_is_counted_is_its_own_interval():
    measured = find(rows("memory.index.bytes", [1544.0], suite="memory"), "memory.index.bytes_per_vector")
    assert (measured.value, measured.ci_low, measured.ci_high, measured.reason) == (1544, 1544, 1544, None)


def test_labels_are_written_in_one_way():
    assert label_text({"qtype": "QT_4bit", "of": "residuals"}) == '{"of": "residuals", "qtype": "QT_4bit"}'
    assert label_text({}) == "{}"


def test_a_cost_is_over_the_same_searches_on_one_shard():
    one = rows("memory.shards", [1.0, 2.0], labels={"shards": "1"}, suite="memory")
    two = rows("memory.shards", [3.0, 6.0], labels={"shards": "2"}, suite="memory", reference=[1.0, 2.0])
    assert find(one + two, "memory.shards.cost", shards="2").value == pytest.approx(3)
    assert not any(
        m.name == "memory.shards.cost" and m.labels == {"shards": "1"} for m in derive(frame(one + two))
    )


def with_warm_up(series, repeat=0, labels=None, **columns):
    steady = np.random.default_rng(repeat).lognormal(0, 0.05, 600)
    steady[:100] *= 5
    return rows(series, steady, repeat, labels, **columns)


@pytest.mark.parametrize(
    ("series", "labels", "name"),
    [
        ("memory.search", {}, "memory.search.latency.mean"),
        ("memory.shards", {"shards": "2"}, "memory.shards.latency.mean"),
        ("query.search", COLD, "query.latency.mean"),
    ],
)
def test_timings_from_a_cold_start_are_those_after_the_warm_up(series, labels, name):
    samples = [row for repeat in range(5) for row in with_warm_up(series, repeat, labels)]
    mean = find(samples, name, **labels)
    assert mean.value == pytest.approx(1, rel=0.02)
    assert mean.cut == pytest.approx(500, abs=100)
    assert mean.n + mean.cut == 3000
    assert mean.unsettled == 0


def test_a_pass_that_starts_with_empty_caches_is_not_cut():
    mean = find(with_warm_up("query.search", labels=ZIPF), "query.latency.mean", **ZIPF)
    assert (mean.n, mean.cut) == (600, 0)
    assert mean.value > 1.5


def test_quality_counts_the_searches_of_the_warm_up():
    queries = [f"q{n}" for n in range(600)]
    samples = with_warm_up("memory.search", query=queries, recall_at_10=[n / 599 for n in range(600)])
    recall = find(samples, "memory.recall_at_10")
    assert (recall.value, recall.n, recall.cut) == (pytest.approx(0.5), 600, 0)


def test_nothing_is_cut_of_a_process_that_never_settles():
    drift = np.linspace(1, 3, 600)
    samples = rows("memory.search", drift) + with_warm_up("memory.search", 1)
    mean = find(samples, "memory.search.latency.mean")
    assert (mean.unsettled, mean.n + mean.cut) == (1, 1200)
    assert mean.cut < 150
