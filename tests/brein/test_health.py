"""The KPIs are met, missed or unknown for the reasons that are stated; what they are read from is real."""

import json
import math
import os
import resource
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from brein import Engine, EngineConfig
from brein.metrics import Metrics, disk_bytes
from brein.monitoring import TARGETS, Health, PerformanceMonitor, health, http_probe
from brein.monitoring.health import CPU, DISK, FAILED, LATENCY, MEMORY, NETWORK, WAITING, Sampler

ENGINE = EngineConfig.model_validate({"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}})


class Window:
    """A monitor and what happens in its window of 100 seconds."""

    def __init__(self, **bounds):
        self.now = 1000.0
        self.monitor = PerformanceMonitor(clock=lambda: self.now, **bounds)
        self.now = 1100.0  # the window is all of it

    def holds(self, name, *values, **tags):
        for value in values:
            self.monitor.record(name, value, tags)
        return self

    def kpi(self, name):
        return next(kpi for kpi in Health(self.monitor, 100.0).evaluate() if kpi.target.name == name)


@pytest.fixture
def window():
    return Window()


def test_the_targets_are_the_guides():
    assert {target.name: (target.within, target.bound, target.unit) for target in TARGETS} == {
        "cpu": ("below", 0.8, "ratio"),
        "memory": ("below", 0.9, "ratio"),
        "disk": ("below", 50e6, "bytes/s"),
        "network": ("below", 0.01, "seconds"),
        "latency": ("below", 0.2, "seconds"),
        "throughput": ("above", 100, "queries/s"),
        "errors": ("below", 0.001, "ratio"),
        "hit_rate": ("above", 0.7, "ratio"),
    }


def test_of_nothing_nothing_is_known(window):
    kpis = Health(window.monitor).evaluate()
    assert [kpi.target for kpi in kpis] == list(TARGETS)
    assert {kpi.state for kpi in kpis} == {"unknown"}
    assert all(kpi.reason for kpi in kpis)


@pytest.mark.parametrize(
    ("kpi", "name", "good", "bad", "least"),
    [("cpu", CPU, 0.79, 0.81, 30), ("disk", DISK, 49e6, 51e6, 30), ("network", NETWORK, 0.009, 0.011, 10)],
)
def test_a_mean_is_judged_once_there_are_samples_enough(window, kpi, name, *, good, bad, least):
    window.holds(name, *[good] * (least - 1))
    assert (window.kpi(kpi).state, window.kpi(kpi).value) == ("unknown", None)
    assert f"{least - 1} samples, at least {least}" in window.kpi(kpi).reason
    window.holds(name, good)
    assert (window.kpi(kpi).state, window.kpi(kpi).reason) == ("met", None)
    window.holds(name, *[bad + (bad - good)] * least)
    assert window.kpi(kpi).state == "missed"


def test_a_value_at_the_bound_is_not_within_it(window):
    window.holds(CPU, *[0.5] * 30).holds(CPU, *[1.1] * 30)
    assert window.kpi("cpu").value == pytest.approx(0.8)
    window = Window().holds(LATENCY, *[0.2] * 20)
    assert window.kpi("latency").state == "missed"


def test_memory_is_as_bad_as_its_worst_moment(window):
    window.holds(MEMORY, 0.5, 0.95, 0.5)
    assert (window.kpi("memory").state, window.kpi("memory").value) == ("missed", 0.95)


def test_what_is_older_than_the_window_is_forgotten(window):
    window.holds(MEMORY, 0.95)
    window.now += 101
    assert window.kpi("memory").state == "unknown"


def test_latency_counts_failures_as_the_slowest(window):
    window.holds(LATENCY, *[0.1] * 96, kind="search")
    assert window.kpi("latency").state == "met"
    window.holds(FAILED, *[1.0] * 5, kind="search", outcome="failed")
    assert window.kpi("latency").state == "met"
    window.holds(FAILED, 1.0, kind="ask", outcome="failed")
    assert (window.kpi("latency").state, window.kpi("latency").value) == ("missed", math.inf)


def test_latency_needs_twenty_queries(window):
    window.holds(LATENCY, *[0.1] * 19)
    assert window.kpi("latency").reason == "19 queries, at least 20 are needed"
    window.holds(FAILED, 1.0)
    assert window.kpi("latency").value == 0.1


def test_latency_is_of_a_time_of_which_answers_and_failures_are_both_known():
    window = Window(capacity=1000)
    for _ in range(100):  # 1% fails, and of the answers the last 10 s are kept
        window.now += 1
        window.holds(LATENCY, *[0.05] * 100, kind="search").holds(FAILED, 1.0, outcome="refused")
    assert (window.kpi("latency").state, window.kpi("latency").value) == ("met", 0.05)


def test_little_asked_for_is_no_missed_throughput(window):
    window.holds(LATENCY, *[0.001] * 500)
    kpi = window.kpi("throughput")
    assert (kpi.state, kpi.value) == ("unknown", pytest.approx(5))
    assert kpi.reason == "no more was asked for: 5 queries/s, and few waited"


@pytest.mark.parametrize("outcome", ["refused", "timed_out", "failed"])
def test_throughput_is_missed_where_more_was_asked_for(window, outcome):
    window.holds(LATENCY, *[0.001] * 9_900).holds(FAILED, *[1.0] * 100, outcome=outcome)
    assert window.kpi("throughput").state == "unknown"
    window.holds(FAILED, 1.0, outcome=outcome)
    assert (window.kpi("throughput").state, window.kpi("throughput").value) == ("missed", pytest.approx(99))


def test_throughput_is_missed_where_requests_wait_most_of_the_time(window):
    window.holds(LATENCY, *[0.001] * 500).holds(WAITING, *[0, 3] * 14, 1)
    assert window.kpi("throughput").state == "unknown", "29 samples are too few"
    window.holds(WAITING, 1)
    assert window.kpi("throughput").state == "missed"
    window.holds(WAITING, 0, 0, 0)
    assert window.kpi("throughput").state == "unknown"


def test_one_late_query_of_few_is_no_missed_throughput(window):
    window.holds(LATENCY, *[0.001] * 199).holds(FAILED, 1.0, outcome="timed_out")
    assert window.kpi("throughput").state == "unknown"


def test_throughput_above_its_bound_is_met_whatever_was_refused(window):
    window.holds(LATENCY, *[0.001] * 10_001).holds(FAILED, 1.0, outcome="refused")
    assert (window.kpi("throughput").state, window.kpi("throughput").value) == ("met", pytest.approx(100.01))


def test_the_error_rate_needs_a_thousand_queries_or_two_failures(window):
    window.holds(LATENCY, *[0.001] * 998).holds(FAILED, 1.0)
    assert window.kpi("errors").state == "unknown"
    window.holds(LATENCY, *[0.001] * 3)
    assert (window.kpi("errors").state, window.kpi("errors").value) == ("met", pytest.approx(1 / 1002))
    few = Window().holds(LATENCY, *[0.001] * 10).holds(FAILED, 1.0, 1.0)
    assert (few.kpi("errors").state, few.kpi("errors").value) == ("missed", pytest.approx(2 / 12))


def test_the_hit_rate_is_of_all_look_ups_of_the_window(window):
    window.holds(health.CACHE_LOOKUPS, 30, 60, 9).holds(health.CACHE_HITS, 30, 50, 0)
    assert window.kpi("hit_rate").reason == "99 look-ups, at least 100 are needed"
    window.holds(health.CACHE_LOOKUPS, 1)
    assert (window.kpi("hit_rate").state, window.kpi("hit_rate").value) == ("met", pytest.approx(0.8))
    window.holds(health.CACHE_LOOKUPS, 100)
    assert window.kpi("hit_rate").state == "missed"


def value(counted, definition, **labels):
    return counted.registry.get_sample_value(definition.name, labels)


def test_every_kpi_has_one_state_among_the_metrics(window):
    window.holds(MEMORY, 0.5).holds(LATENCY, *[0.3] * 20)
    kpis = Health(window.monitor, 100.0).evaluate()
    counted = Metrics()
    counted.watch(lambda: health.readings(kpis))
    for kpi in kpis:
        states = {
            state: value(counted, health.KPI_STATE, kpi=kpi.target.name, state=state)
            for state in health.STATES
        }
        assert states == {state: float(state == kpi.state) for state in health.STATES}
        labels = {"kpi": kpi.target.name, "unit": kpi.target.unit}
        assert value(counted, health.KPI_TARGET, **labels) == kpi.target.bound
        assert value(counted, health.KPI_VALUE, **labels) == kpi.value


def test_the_report_is_as_bad_as_the_worst_kpi(window):
    assert health.report(Health(window.monitor).evaluate())["state"] == "unknown"
    window.holds(FAILED, *[1.0] * 20)
    report = health.report(Health(window.monitor).evaluate())
    assert report["state"] == "missed"
    latency = next(kpi for kpi in report["kpis"] if kpi["name"] == "latency")
    assert (latency["state"], latency["value"], latency["bound"]) == (
        "missed",
        None,
        0.2,
    )  # no query was answered
    met = tuple(health.Kpi(target, "met", target.bound) for target in TARGETS)
    assert health.report(met)["state"] == "met"
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_each_kpi_has_a_rule_that_fires_where_it_is_missed():
    for rule, target in zip(health.rules(), TARGETS, strict=True):
        for value in (target.bound / 2, target.bound, target.bound * 2):
            assert rule.broken_by(value) != target.holds(value)


# --- samples of the real thing ------------------------------------------------------------------------


class Live(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def port():
    with ThreadingHTTPServer(("127.0.0.1", 0), Live) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_the_machine_is_sampled(port):
    monitor = PerformanceMonitor()
    sampler = Sampler(monitor, probe=http_probe("127.0.0.1", port))
    for _ in range(3):
        sampler.sample()
        sum(range(1_000_000))
    assert monitor.statistics(MEMORY).count == monitor.statistics(NETWORK).count == 3
    assert monitor.statistics(CPU).count == 2
    for name in (CPU, MEMORY):
        assert 0 <= monitor.statistics(name).min <= monitor.statistics(name).max <= 1
    assert 0 < monitor.statistics(NETWORK).min < 1


def test_what_the_process_writes_to_disk_is_counted(tmp_path):
    monitor = PerformanceMonitor()
    sampler = Sampler(monitor)
    sampler.sample()
    if disk_bytes(psutil.Process()) is None:
        pytest.skip("needs a system that counts a process's disk traffic")
    begun = time.monotonic()
    with (tmp_path / "file").open("wb") as file:
        file.write(os.urandom(4_000_000))
        file.flush()
        os.fsync(file.fileno())
    sampler.sample()
    took = time.monotonic() - begun
    written = monitor.statistics(DISK).max * took
    if written == 0:
        pytest.skip("needs a temporary folder on a disk")
    assert written > 3_000_000


def test_a_probe_without_an_answer_counts_as_its_timeout():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monitor = PerformanceMonitor()
    Sampler(monitor, probe=http_probe("127.0.0.1", port), probe_timeout=1.0).sample()
    assert monitor.statistics(NETWORK).max == 1.0


def test_what_the_system_does_not_tell_is_left_out_and_the_rest_is_there(port):
    monitor = PerformanceMonitor()
    sampler = Sampler(monitor, probe=http_probe("127.0.0.1", port))
    sampler.sample()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # no file can be opened any more
    try:
        sampler.sample()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (monitor.statistics(MEMORY).count, monitor.statistics(NETWORK).max) == (1, 1.0)
    sampler.sample()
    assert (monitor.statistics(MEMORY).count, monitor.statistics(NETWORK).count) == (2, 3)


def test_a_slow_probe_counts_as_no_more_than_its_timeout():
    monitor, times = PerformanceMonitor(), iter([0.0, 7.0])
    Sampler(monitor, probe=lambda: None, probe_timeout=1.0, timer=lambda: next(times)).sample()
    assert monitor.statistics(NETWORK).max == 1.0


def test_the_look_ups_of_an_engine_are_sampled():
    monitor = PerformanceMonitor()
    with Engine.open(ENGINE) as engine:
        sampler = Sampler(monitor)
        sampler.count({}, engine.cache_stats())
        for _ in range(5):
            engine.search("the same question")
        sampler.count({}, engine.cache_stats())
    assert monitor.statistics(health.CACHE_LOOKUPS).max == 5
    assert monitor.statistics(health.CACHE_HITS).max == 4
