"""What the page shows is what /metrics says; the page asks for nothing from elsewhere and fits a phone."""

import asyncio
import json
import logging
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families as parse

from brein import Document, Engine, EngineConfig
from brein.errors import ConfigError, DataError
from brein.monitoring import Monitoring, MonitoringConfig, PerformanceMonitor, live

ENGINE = EngineConfig.model_validate({"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}})


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def engine():
    with Engine.open(ENGINE) as engine:
        engine.ingest([Document(f"d{n}", f"The train number {n} leaves.") for n in range(30)])
        yield engine


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def agents():
    return {}


@pytest.fixture
def monitoring(engine, agents, clock):
    return Monitoring(engine, lambda: agents, lambda: 4, clock=clock)


def asked_of(engine):
    """The counts of agents that have answered a question."""

    async def ask():
        async with engine.coordinator() as coordinator:
            await coordinator.ask("When does train 3 leave?")
            return coordinator.stats()

    with ThreadPoolExecutor(1) as thread:  # the browser keeps an event loop in ours
        return thread.submit(asyncio.run, ask()).result()


def second(monitoring, clock, answered=(), failed=0):
    """A second goes by in which queries end; it is sampled."""
    clock.now += 1
    for seconds in answered:
        monitoring.query("search", "answered", seconds)
    for _ in range(failed):
        monitoring.query("ask", "timed_out", 1.0)
    monitoring.sample()


def scraped(monitoring):
    text, _ = monitoring.metrics.render()
    return [sample for family in parse(text.decode()) for sample in family.samples]


def value(samples, name, **labels):
    found = [
        sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found)


def test_the_snapshot_agrees_with_a_scrape(monitoring, engine, agents, clock):
    for _ in range(3):
        engine.search("a train")
    agents |= asked_of(engine)
    for _ in range(40):
        second(monitoring, clock, [0.004] * 9 + [0.09], failed=1)
    shown = json.loads(json.dumps(live.snapshot(monitoring), allow_nan=False))
    read = scraped(monitoring)
    count = "brein_query_duration_seconds_count"
    assert shown["queries"]["answered"] == value(read, count, outcome="answered") == 400
    assert shown["queries"]["failed"] == value(read, count, outcome="timed_out") == 40
    assert shown["process"]["documents"] == value(read, "brein_documents") == 30
    assert shown["process"]["connections"] == value(read, "brein_active_connections") == 4
    assert shown["process"]["memory"] == pytest.approx(value(read, "brein_memory_usage_bytes"), rel=0.1)
    levels = {(row["cache"], row["level"]): row for row in shown["caches"]}
    assert (
        levels["search", "l1"]["hit_rate"]
        == value(read, "brein_cache_hit_rate", cache="search", level="l1")
        > 0
    )
    assert [row["agent"] for row in shown["agents"]] == ["hippocampus", "amygdala", "prefrontal_cortex"]
    for row in shown["agents"]:
        assert row["queue"] == value(read, "brein_agent_queue_length", agent=row["agent"])
        assert row["slots"] == value(read, "brein_agent_slots", agent=row["agent"])
    for kpi in shown["kpis"]:
        assert value(read, "brein_kpi_state", kpi=kpi["name"], state=kpi["state"]) == 1
        if kpi["value"] is not None and kpi["name"] not in ("cpu", "memory"):
            assert kpi["value"] == pytest.approx(value(read, "brein_kpi_value", kpi=kpi["name"]))


def test_a_percentile_of_the_page_is_in_the_bucket_that_a_scrape_finds(monitoring, clock):
    second(monitoring, clock, [0.004] * 930 + [0.09] * 60 + [0.7] * 10)
    shown, read = live.snapshot(monitoring)["queries"], scraped(monitoring)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        buckets = sorted(
            (float(sample.labels["le"]), sample.value)
            for sample in read
            if sample.name == "brein_query_duration_seconds_bucket"
            and sample.labels["kind"] == "search" and sample.labels["outcome"] == "answered"
        )  # fmt: skip
        upper = next(bound for bound, count in buckets if count >= share * 1000)
        lower = max((bound for bound, _ in buckets if bound < upper), default=0)
        assert lower < shown[name] <= upper


def test_rates_and_failures_are_over_the_window(monitoring, clock):
    for _ in range(50):
        second(monitoring, clock, [0.01] * 20, failed=2)
    shown = live.snapshot(monitoring)["queries"]
    assert (shown["answered_rate"], shown["failed_rate"]) == (pytest.approx(20), pytest.approx(2))
    assert shown["p50"] == 0.01
    assert shown["p95"] is None  # it falls on queries that had no answer


def test_points_come_once(monitoring, clock):
    for _ in range(5):
        second(monitoring, clock, [0.01] * 20, failed=1)
    points = live.snapshot(monitoring)["points"]
    assert len(points) == 4  # the first sample has none before it
    assert [point["answered"] for point in points] == [20] * 4
    assert [point["failed"] for point in points] == [1] * 4
    assert all(sum(point["latencies"]) == 20 for point in points)
    second(monitoring, clock)
    new = live.snapshot(monitoring, since=points[-1]["time"])["points"]
    assert [point["time"] for point in new] == [clock.now]
    assert live.snapshot(monitoring, since=clock.now)["points"] == []


def test_points_are_bounded_by_the_window(engine, clock):
    monitoring = Monitoring(engine, config=MonitoringConfig(window=60), clock=clock)
    for _ in range(100):
        second(monitoring, clock)
    assert len(monitoring.points) == 61


def test_points_tell_levels_and_agents_of_their_interval(monitoring, engine, agents, clock):
    second(monitoring, clock)
    for _ in range(4):
        engine.search("the very same")
    agents |= asked_of(engine)
    second(monitoring, clock)
    assert monitoring.points[-1].hit_rates["search l1"] == 3 / 5  # the question looked up, too
    second(monitoring, clock)
    assert monitoring.points[-1].hit_rates == {}
    assert monitoring.points[-1].utilisation == dict.fromkeys(agents, 0)


def test_a_kpi_that_is_missed_for_long_is_an_alert(monitoring, clock, caplog):
    for _ in range(62):
        second(monitoring, clock, [0.5] * 30)
    alerts = live.snapshot(monitoring)["alerts"]
    assert [(alert["metric"], alert["value"], alert["threshold"]) for alert in alerts] == [
        ("latency", 0.5, 0.2)
    ]
    for _ in range(300):
        second(monitoring, clock, [0.01] * 30)
    assert "latency" not in monitoring.alerts.firing
    assert [said for said in caplog.messages if "latency" in said] == [
        "alert latency is firing: 0.5, bound 0.2",
        "alert latency is resolved: 0.01, bound 0.2",
    ]


def test_a_second_out_of_the_ordinary_is_an_anomaly(engine, clock):
    config = MonitoringConfig(anomaly_rate=0.05, anomaly_trailing=19)
    monitoring = Monitoring(engine, config=config, clock=clock)
    for turn in range(21):
        second(monitoring, clock, [0.01 + turn % 5 / 1000] * 3 + [1.0])
    assert live.snapshot(monitoring)["anomalies"] == []
    second(monitoring, clock, [0.1] * 4)
    (anomaly,) = live.snapshot(monitoring)["anomalies"]
    assert (anomaly["metric"], anomaly["value"]) == ("query.latency.median", pytest.approx(0.1))
    assert anomaly["threshold"] == pytest.approx(0.014)
    assert value(scraped(monitoring), "brein_anomalies_total", metric="query.latency.median") == 1


def test_it_looks_by_itself_until_it_is_closed(engine):
    with Monitoring(engine, config=MonitoringConfig(interval=0.05)) as monitoring:
        deadline = time.monotonic() + 20
        while len(monitoring.points) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(monitoring.points) >= 2
    assert "monitoring" not in {thread.name for thread in threading.enumerate()}
    monitoring.close()


def test_an_error_that_nobody_foresaw_does_not_end_the_watching(engine, caplog):
    failures = 3

    def agents():
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise RuntimeError("unforeseen")
        return {}

    with Monitoring(engine, agents, config=MonitoringConfig(interval=0.05)) as monitoring:
        deadline = time.monotonic() + 20
        while not monitoring.points and time.monotonic() < deadline:
            time.sleep(0.01)
    assert monitoring.points
    (told,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert str(told.exc_info[1]) == "unforeseen"


def test_what_was_judged_long_ago_is_judged_anew(monitoring, clock):
    for _ in range(40):
        second(monitoring, clock, [0.01])
    before = {kpi.target.name: kpi for kpi in monitoring.kpis()}
    assert before["latency"].state == "met"
    clock.now += 3
    assert {kpi.target.name: kpi for kpi in monitoring.kpis()} == before
    for _ in range(40):
        monitoring.query("search", "failed", 0.01)
    clock.now += 1  # nothing has been sampled for four intervals
    assert {kpi.target.name: kpi.state for kpi in monitoring.kpis()}["latency"] == "missed"
    clock.now += 300
    assert {kpi.state for kpi in monitoring.kpis()} == {"unknown"}


def test_what_is_counted_is_read_once_a_sample(engine, clock):
    reads = Counter()

    class Counting:
        def __len__(self):
            return len(engine)

        def index_bytes(self):
            return engine.index_bytes()

        def cache_stats(self):  # in a process, a script of Redis and a statement of SQLite
            reads["caches"] += 1
            return engine.cache_stats()

    def agents():
        reads["agents"] += 1
        return {}

    monitoring = Monitoring(Counting(), agents, clock=clock)
    second(monitoring, clock)
    assert reads == {"caches": 1, "agents": 1}


def test_a_closed_engine_does_not_end_the_watching(engine, monitoring, clock):
    engine.close()
    second(monitoring, clock)
    second(monitoring, clock)
    assert live.snapshot(monitoring)["process"]["documents"] is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"interval": 0}, "interval"),
        ({"anomaly_rate": 0.0001}, r"anomaly_trailing = 999: must be at least 1 ÷ anomaly_rate - 1 = 9,999"),
        ({"interval": 60}, r"window = 300 s is 5 times interval = 60 s: must be 60 to 7,200 times"),
        ({"interval": 0.05, "window": 3600}, r"is 72,000 times interval"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        MonitoringConfig.read(json.dumps(settings))


@given(st.floats(1e-5, 0.999), st.integers(1, 100_000))
def test_what_the_settings_allow_the_monitor_takes(rate, trailing):
    try:
        config = MonitoringConfig(anomaly_rate=rate, anomaly_trailing=trailing)
    except ValueError:
        with pytest.raises(DataError):
            PerformanceMonitor(rate=rate, trailing=trailing)
    else:
        PerformanceMonitor(rate=config.anomaly_rate, trailing=config.anomaly_trailing)


def test_the_page_asks_for_nothing_from_elsewhere():
    page = live.page()
    outside = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)|@import|https?://[^\s\"]+", page)
    assert {found[0] for found in outside if any(found)} == {"data:,"}
    assert re.findall(r"https?://[^\s\"]+", page) == ["http://www.w3.org/2000/svg"]
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert dangerous not in page


# --- in a browser -------------------------------------------------------------------------------------


@pytest.fixture
def url(monitoring):
    """The page of `monitoring`, served as the service serves it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = urlsplit(self.path)
            if asked.path == "/dashboard":
                kind, body = "text/html; charset=utf-8", live.page().encode()
            else:
                since = float(parse_qs(asked.query)["since"][0])
                kind, body = "application/json", json.dumps(live.snapshot(monitoring, since)).encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", live.policy())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/dashboard"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_the_figures_and_fits(
    browser, url, *, monitoring, engine, agents, clock, width, scheme
):
    agents |= asked_of(engine)
    for _ in range(60):
        second(monitoring, clock, [0.004] * 190 + [0.09] * 15, failed=0)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_selector("#kpis .card")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = dict(
        zip(
            page.locator("#kpis h3").all_text_contents(),
            page.locator("#kpis .value").all_text_contents(),
            strict=True,
        )
    )
    assert shown["Query latency, p95"] == "90 ms"
    assert shown["Throughput"] == "205 /s"
    assert "✓ met" in page.locator("#kpis .card", has_text="Throughput").text_content()
    assert "12300" in page.locator("#facts").text_content().replace(",", "")
    assert page.locator("svg[role=img]").count() == 9
    for title in ("Latency", "Throughput", "Queues"):
        assert (
            page.locator("figure", has=page.get_by_role("heading", name=title, exact=True))
            .locator("path")
            .count()
            > 0
        )
    assert page.locator("figure rect").count() > 0
    assert said == []
    assert {request.split("?")[0] for request in asked} == {url, url + "/data"}
    context.close()


@pytest.mark.slow
def test_the_page_updates_by_itself_and_says_when_it_has_no_answer(browser, url, monitoring, clock):
    second(monitoring, clock)
    second(monitoring, clock, [0.01] * 7)
    page = browser.new_page()
    page.goto(url)
    expect(page.locator("#facts")).to_contain_text("answered7")
    second(monitoring, clock, [0.01] * 11)
    expect(page.locator("#facts")).to_contain_text("answered18", timeout=20_000)
    page.route("**/data*", lambda route: route.abort())
    expect(page.locator("#standing")).to_contain_text("No figures", timeout=20_000)
    page.close()


@pytest.mark.slow
def test_points_that_are_asked_for_twice_are_shown_once(browser, url, monitoring, clock):
    for _ in range(6):
        second(monitoring, clock, [0.01])
    page = browser.new_page()
    page.goto(url)
    expect(page.locator("#main")).to_be_visible()
    page.evaluate("points = []; Promise.all([ask(), ask()])")  # as the form does while the clock asks
    times = page.evaluate("points.map((point) => point.time)")
    assert times == [point.time for point in monitoring.points]
    page.close()
