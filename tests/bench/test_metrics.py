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
    agents = {
        "agents.hop_latency.mean", "agents.hop_latency.p95", "agents.coordination_overhead",
        "agents.utilisation", "agents.latency.p95", "agents.load.latency.p95", "agents.load.utilisation",
        "agents.load.rejection_rate", "agents.load.timeout_rate", "agents.load.throughput",
    }  # fmt: skip
    load = {
        *(f"load.{of}.{s}" for of in ("latency", "service_time") for s in ("mean", "p50", "p95", "p99")),
        "load.throughput", "load.error_rate", "load.capacity", "load.recall_at_10",
    }  # fmt: skip
    assert latencies | others | agents | load <= set(METRICS)
    known = ("memory", "query", "agents", "system", "load", "lab", "peers")
    assert all(metric.suite in known for metric in METRICS.values())


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


def requests(values, outcomes, repeat=0, load="80%"):
    return rows("agents.load", values, repeat, {"load": load}, "agents", outcome=outcomes)


def test_a_request_without_an_answer_counts_as_slower_than_any_in_a_percentile():
    # Of 400, numbered from 0, p50 lies at 199.5; p95 falls among the forty that were rejected at once.
    values, outcomes = [*range(1, 361), *[0.001] * 40], ["answered"] * 360 + ["rejected"] * 40
    samples = [row for repeat in range(5) for row in requests(values, outcomes, repeat)]
    p50, p95, mean = (find(samples, f"agents.load.latency.{s}", load="80%") for s in ("p50", "p95", "mean"))
    assert p50.value == pytest.approx(200.5)
    assert (p95.value, p95.reason) == (None, "200 of 2,000 requests had no answer")
    assert (mean.value, mean.reason) == (None, "200 of 2,000 requests had no answer")


def test_few_requests_without_an_answer_leave_a_percentile_below_them():
    values = [*range(1, 392), *[0.001] * 9]
    samples = requests(values, ["answered"] * 391 + ["timed out"] * 9)
    # Of 400, numbered from 0, p95 lies at 379.05.
    assert find(samples, "agents.load.latency.p95", load="80%").value == pytest.approx(380.05)
    few = requests([1.0] * 100, ["answered"] * 91 + ["failed"] * 9)
    assert find(few, "agents.load.latency.p95", load="80%").reason.startswith("100 of the 200 samples")


def test_how_requests_ended_are_shares_of_all():
    outcomes = ["answered"] * 5 + ["degraded"] * 2 + ["rejected"] * 2 + ["timed out"]
    samples = [row for repeat in range(5) for row in requests([1.0] * 10, outcomes, repeat)]
    found = {
        end: find(samples, f"agents.load.{end}_rate", load="80%").value
        for end in ("rejection", "timeout", "failure", "degraded")
    }
    assert found == pytest.approx({"rejection": 0.2, "timeout": 0.1, "failure": 0, "degraded": 0.2})


@pytest.mark.parametrize("least", [0.0, -0.5])
def test_a_time_without_a_logarithm_in_some_process_has_a_plain_mean(least):
    """None waited, say, or what a time was reckoned from took longer by chance."""
    samples = [
        row
        for repeat in range(5)
        for row in rows("agents.queue_wait", [least if repeat else 1.0] * 20, repeat, suite="agents")
    ]
    wait = find(samples, "agents.queue_wait.mean")
    assert wait.value == pytest.approx(0.2 + 0.8 * least)
    assert wait.ci_low < wait.value < wait.ci_high


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


def test_one_stall_decides_no_ratio_of_an_ablation():
    made = rows("query.ablation", [2.0, 2.2, 900.0], suite="query", reference=[1.0, 1.0, 1.0])
    (cost,) = (m for m in derive(frame(made)) if m.name == "query.ablation.cost")
    assert cost.value == pytest.approx(2.2)


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
