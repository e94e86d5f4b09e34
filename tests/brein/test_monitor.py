"""Windows say what they hold and no more; false alarms are as rare as stated."""

import itertools
import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from brein.errors import DataError
from brein.monitoring import PerformanceMonitor
from brein.monitoring.monitor import percentile, steady_time


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def monitor(clock):
    return PerformanceMonitor(clock=clock)


def test_a_window_holds_the_values_of_its_seconds(monitor, clock):
    for value in (1.0, 2.0, 6.0):
        monitor.record("latency", value)
        clock.now += 10
    clock.now -= 10
    assert monitor.statistics("latency", 3600).mean == 3
    last = monitor.statistics("latency", 15)
    assert (last.count, last.mean, last.median, last.min, last.max) == (2, 4, 2, 2, 6)


def test_nothing_recorded_is_no_error(monitor):
    empty = monitor.statistics("latency")
    assert (empty.count, empty.mean, empty.median, empty.p95, empty.max) == (0, None, None, None, None)


@pytest.mark.parametrize(
    ("count", "p95", "p99"),
    [(1, None, None), (19, None, None), (20, 19, None), (99, 95, None), (100, 95, 99)],
)
def test_a_percentile_is_there_with_the_samples_to_carry_it(monitor, count, p95, p99):
    for value in range(1, count + 1):
        monitor.record("latency", value)
    found = monitor.statistics("latency")
    assert (found.count, found.p95, found.p99) == (count, p95, p99)
    assert found.median == math.ceil(count / 2)


def test_what_had_no_answer_counts_as_the_slowest(monitor):
    for value in range(1, 96):
        monitor.record("latency", value)
    for _ in range(5):
        monitor.record("failed", 1.0)
    found = monitor.statistics("latency", unanswered="failed")
    assert (found.p95, found.p99, found.max, found.count, found.unanswered) == (95, math.inf, 95, 95, 5)
    monitor.record("failed", 1.0)
    assert monitor.statistics("latency", unanswered="failed").p95 == math.inf
    assert monitor.statistics("latency").p99 is None


def test_what_had_no_answer_is_of_the_same_time_as_the_answers(clock):
    monitor = PerformanceMonitor(capacity=100, clock=clock)
    for turn in range(3000):  # the last 100 answers are of the last 10 s
        clock.now += 0.1
        monitor.record("latency", 0.05)
        if turn % 80 == 0:
            monitor.record("failed", 1.0)
    found = monitor.statistics("latency", 300, unanswered="failed")
    assert (found.count, found.unanswered, found.p95) == (100, 1, 0.05)
    assert found.since == pytest.approx(clock.now - 9.9)
    assert monitor.statistics("failed", 300).count == 38


@given(st.lists(st.floats(0, 1e6), min_size=20, max_size=300), st.sampled_from([0.5, 0.95]))
def test_at_least_the_share_is_within_the_percentile_and_less_is_below_it(values, share):
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)
    assert found == np.quantile(values, share, method="inverted_cdf")


def test_tags_choose_the_series(monitor):
    monitor.record("latency", 1.0, {"kind": "search", "outcome": "answered"})
    monitor.record("latency", 3.0, {"outcome": "answered", "kind": "ask"})
    assert monitor.statistics("latency").mean == 2
    assert monitor.statistics("latency", tags={"kind": "ask"}).mean == 3
    assert monitor.statistics("latency", tags={"kind": "neither"}).count == 0


def test_values_of_several_series_come_in_order_of_time(monitor, clock):
    for value in range(6):
        monitor.record("latency", value, {"kind": "search" if value % 2 else "ask"})
        clock.now += 1
    assert monitor.values("latency", 100)[:, 1].tolist() == [0, 1, 2, 3, 4, 5]


def test_memory_is_bounded_and_the_window_says_where_it_begins(clock):
    monitor = PerformanceMonitor(capacity=10, most_series=3, clock=clock)
    for value in range(25):
        monitor.record("latency", value)
        clock.now += 1
    found = monitor.statistics("latency", 3600)
    assert (found.count, found.min, found.max, found.since) == (10, 15, 24, 1015)
    for series in range(5):
        monitor.record(f"other {series}", 1.0)
    assert monitor.statistics("other 1").count == 1
    assert monitor.statistics("other 2").count == 0


def test_a_window_of_several_series_begins_where_all_of_them_are_whole(clock):
    monitor = PerformanceMonitor(capacity=10, clock=clock)
    for value in range(25):
        monitor.record("latency", value, {"kind": "search"})
        if value % 5 == 0:
            monitor.record("latency", 100 + value, {"kind": "ask"})
        clock.now += 1
    found = monitor.statistics("latency", 3600)
    assert found.since == 1015
    assert monitor.values("latency", 3600)[:, 1].tolist() == [
        15,
        115,
        16,
        17,
        18,
        19,
        20,
        120,
        21,
        22,
        23,
        24,
    ]


def test_a_window_begins_no_earlier_than_the_monitor(monitor, clock):
    clock.now += 5
    assert monitor.statistics("latency", 60).since == 1000
    clock.now += 100
    assert monitor.statistics("latency", 60).since == 1045


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(monitor, value):
    with pytest.raises(DataError, match=r"latency = .*must be a finite number"):
        monitor.record("latency", value)


def test_many_threads_lose_nothing(monitor):
    def record(kind):
        for value in range(2000):
            monitor.record("latency", value, {"kind": kind})

    threads = [threading.Thread(target=record, args=(str(n % 2),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.statistics("latency").count == 8000


def test_times_are_in_order_whichever_thread_comes_first():
    ticks = itertools.count()

    def clock():
        now = float(next(ticks))
        time.sleep(0)  # another thread goes on
        return now

    monitor = PerformanceMonitor(clock=clock)

    def record():
        for _ in range(500):
            monitor.record("latency", 1.0)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = monitor.values("latency", 1e6)[:, 0]
    assert len(times) == 2000
    assert (np.diff(times) > 0).all()


def test_the_clock_is_that_of_the_wall_and_never_goes_back():
    clock = steady_time()
    assert abs(clock() - time.time()) < 1
    assert clock() <= clock()


# --- anomalies ----------------------------------------------------------------------------------------

DISTRIBUTIONS = {
    "normal": lambda random, count: random.normal(0.1, 0.01, count),
    "lognormal, heavy-tailed": lambda random, count: random.lognormal(-4, 1.5, count),
    "Cauchy, without a mean": lambda random, count: random.standard_cauchy(count),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("side", ["high", "low"])
def test_the_false_alarm_rate_is_as_stated_whatever_the_distribution(distribution, side):
    rate, trailing, count = 0.01, 199, 40_000
    monitor = PerformanceMonitor({"latency": side}, rate=rate, trailing=trailing, most_alerts=count)
    for value in DISTRIBUTIONS[distribution](np.random.default_rng(1), count + trailing):
        monitor.record("latency", value)
    alarms = len(monitor.alerts())
    # About 400, with a standard deviation of about 20: alarms hardly depend on each other.
    assert alarms == pytest.approx(rate * count, rel=0.2)


def test_where_the_rate_falls_between_two_ranks_alarms_are_rarer():
    monitor = PerformanceMonitor({"latency": "high"}, rate=0.0299, trailing=99, most_alerts=20_000)
    for value in np.random.default_rng(2).normal(size=20_000):
        monitor.record("latency", value)
    assert len(monitor.alerts()) == pytest.approx(0.02 * 20_000, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trailing", "autocorrelation", "alarms"),
    [
        (1999, 0.0, 0.00101),
        (1999, 0.9, 0.00137),
        (1999, 0.99, 0.00375),
        (999, 0.9, 6 / 3600),
        (999, 0.99, 20 / 3600),
    ],
)
def test_values_that_hang_together_raise_more_alarms_as_the_manual_says(trailing, autocorrelation, alarms):
    count = 300_000
    monitor = PerformanceMonitor({"latency": "high"}, trailing=trailing, most_alerts=count)
    for value in lfilter([1.0], [1.0, -autocorrelation], np.random.default_rng(1).normal(size=count)):
        monitor.record("latency", value)
    assert len(monitor.alerts()) / count == pytest.approx(alarms, rel=0.15)


@pytest.mark.parametrize(("trailing", "seen"), [(99, 0), (499, 4)])
def test_with_one_rank_a_great_value_hides_all_others_for_so_long(trailing, seen):
    monitor = PerformanceMonitor({"latency": "high"}, rate=0.01, trailing=trailing)
    for value in np.random.default_rng(3).uniform(0.01, 0.02, size=trailing):
        monitor.record("latency", value)
    assert monitor.record("latency", 5.0) is not None
    assert sum(monitor.record("latency", 1.0 + turn / 100) is not None for turn in range(4)) == seen


def test_values_that_are_all_the_same_are_no_anomaly(monitor):
    monitor = PerformanceMonitor({"latency": "high"}, rate=0.1, trailing=9)
    assert all(monitor.record("latency", 1.0) is None for _ in range(100))


def test_a_value_out_of_the_ordinary_gives_an_alert_with_all_that_is_known(clock):
    monitor = PerformanceMonitor({"latency": "high"}, rate=0.02, trailing=99, clock=clock)
    for value in range(99):
        assert monitor.record("latency", value, {"kind": "search"}) is None
    clock.now = 2000.0
    alert = monitor.record("latency", 97.5, {"kind": "search"})
    assert alert == monitor.alerts()[-1]
    assert (alert.metric, alert.value, alert.threshold, alert.time) == ("latency", 97.5, 97, 2000)
    assert alert.tags == {"kind": "search"}
    assert monitor.record("latency", 50, {"kind": "search"}) is None


def test_each_series_is_compared_with_itself(clock):
    monitor = PerformanceMonitor({"latency": "high"}, rate=0.1, trailing=9, clock=clock)
    for value in range(9):
        monitor.record("latency", value, {"kind": "search"})
        monitor.record("latency", 1000 + value, {"kind": "ask"})
    assert monitor.record("latency", 50, {"kind": "ask"}) is None
    assert monitor.record("latency", 50, {"kind": "search"}) is not None


def test_low_values_are_anomalies_of_what_should_be_high():
    monitor = PerformanceMonitor({"hit_rate": "low"}, rate=0.1, trailing=9)
    for value in range(10, 19):
        monitor.record("hit_rate", value)
    assert monitor.record("hit_rate", 99) is None
    assert monitor.record("hit_rate", 5).threshold == 11  # 10 has left the trailing values


def test_alerts_are_bounded_and_what_is_not_watched_gives_none():
    monitor = PerformanceMonitor({"latency": "high"}, rate=0.1, trailing=9, most_alerts=5)
    for value in range(100):
        monitor.record("latency", value)
        monitor.record("other", value)
    assert [alert.value for alert in monitor.alerts()] == [95, 96, 97, 98, 99]
    assert monitor.anomalies() == {"latency": 91}, "all that there were"


@pytest.mark.parametrize(("rate", "trailing"), [(0.001, 998), (0, 100), (1, 100), (-0.1, 100)])
def test_a_rate_that_so_few_values_cannot_carry_is_refused(rate, trailing):
    with pytest.raises(DataError, match=r"trailing at least 1 ÷ rate - 1"):
        PerformanceMonitor(rate=rate, trailing=trailing)
