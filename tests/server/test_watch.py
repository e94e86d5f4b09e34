"""What the service shows of itself: metrics, KPIs, the live page."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from brein import EngineConfig
from brein.monitoring import TARGETS, http_probe
from brein.monitoring.health import FAILED
from brein.server.service import Service


@pytest.fixture
def watched(running):
    with running() as server, server.client() as client:
        yield server, client


def scraped(client):
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_count_what_was_asked_and_how_it_ended(watched):
    server, client = watched
    client.post("/v1/search", json={"query": "violin"})
    client.post("/v1/search", json={"query": "violin"})
    client.post("/v1/ask", json={"query": "violin?"})
    client.post("/v1/search", json={"query": " "})
    client.post("/v1/documents", json={"documents": [{"id": "new", "text": "a new one"}]})
    client.get("/nowhere")
    found = scraped(client)
    count = "brein_query_duration_seconds_count"
    assert found[count, "answered", "search"] == 2
    assert found[count, "answered", "ask"] == 1
    assert found["brein_http_requests_total", "/v1/search", "200"] == 2
    assert found["brein_http_requests_total", "404", "none"] == 1
    assert found["brein_documents_ingested_total",] == 1
    assert found["brein_active_connections",] == server.connections.open == 1
    assert found["brein_memory_usage_bytes",] > 1e6
    assert found["brein_agent_served_total", "hippocampus"] == 3  # a search, a question, a batch
    hits = sum(value for name, value in found.items() if name[0] == "brein_cache_hits_total")
    assert hits >= 1, "the second search was in the cache"
    assert scraped(client)["brein_http_requests_total", "/metrics", "200"] == 1, "of the scrape before"


def test_metrics_come_as_openmetrics_where_that_is_asked_for(watched):
    _, client = watched
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_kpis_are_all_there_and_unknown_is_not_met(watched):
    _, client = watched
    report = client.get("/health/kpi").json()
    assert report["state"] in ("unknown", "missed")
    assert {kpi["name"] for kpi in report["kpis"]} == {target.name for target in TARGETS}
    latency = next(kpi for kpi in report["kpis"] if kpi["name"] == "latency")
    assert (latency["state"], latency["value"], latency["bound"]) == ("unknown", None, 0.2)


def test_the_live_page_and_its_figures_are_those_of_the_metrics(watched):
    _, client = watched
    for _ in range(3):
        client.post("/v1/search", json={"query": "cello"})
    page = client.get("/dashboard")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    shown = client.get("/dashboard/data").json()
    found = scraped(client)
    answered = found["brein_query_duration_seconds_count", "answered", "search"]
    assert shown["queries"]["answered"] == answered == 3
    assert shown["process"]["connections"] == found["brein_active_connections",]
    assert client.get("/dashboard/data?since=x").status_code == 400


def test_what_is_not_open_yet_shows_nothing(running):
    service = Service(EngineConfig())
    assert service.monitoring is None
    service.answered("/health/live", 200)  # counted by nobody, and no error
    asyncio.run(service.close())


def test_a_key_is_asked_for_where_figures_are_shown_but_not_for_health_and_the_page(running):
    with running(key=b"secret") as server, server.client() as client:
        for path in ("/metrics", "/dashboard/data"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
        for path in ("/health/kpi", "/dashboard"):  # the page asks for the key to get its figures with
            assert client.get(path).status_code == 200


def test_a_query_past_its_deadline_is_late_and_one_whose_client_left_is_not(running, gate, until):
    with running() as server, server.client() as client:
        response = client.post("/v1/search", json={"query": "zz"}, headers={"Request-Timeout": "0.1"})
        assert response.status_code == 504
        with server.connect() as leaving:
            body = b'{"query": "zz"}'
            head = b"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            leaving.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: server.stats().admitted == 2)
        until(lambda: server.stats().cancelled == 2)
        until(lambda: server.connections.open == 1)
        found = scraped(client)
        outcomes = "brein_query_duration_seconds_count"
        assert (found[outcomes, "search", "timed_out"], found[outcomes, "cancelled", "search"]) == (1, 0)
        assert (found[outcomes, "ask", "timed_out"], found[outcomes, "ask", "cancelled"]) == (0, 1)
        assert found["brein_errors_total", "TimeoutError"] == 1
        assert found["brein_http_requests_total", "/v1/ask", "499"] == 1
        assert server.service.monitoring.monitor.statistics(FAILED, 60.0).count == 1
        gate.open()


def test_a_query_that_draining_ends_is_late(running, gate):
    with running(drain=0.1) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/v1/search", json={"query": "zz"})
        assert gate.reached.acquire(timeout=20)
        server.http.should_exit = True
        assert asked.result(20).status_code == 503
        gate.open()
        monitor = server.service.monitoring.monitor
        assert monitor.statistics(FAILED, 60.0, {"outcome": "timed_out"}).count == 1


def test_connections_that_the_service_closes_are_counted(running):
    with running(max_connections=2) as server, server.connect() as idle, server.client() as client:
        client.get("/health/live")
        assert server.exchange(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert server.rest_of(idle) == b""
        found = scraped(client)
        closed = "brein_connections_closed_total"
        assert [found[closed, reason] for reason in ("displaced", "refused", "timed_out")] == [1, 0, 0]
        assert found["brein_http_requests_total", "400", "none"] == 1


def test_only_200_is_life(server):
    http_probe("127.0.0.1", server.port)()
    with pytest.raises(OSError, match="404"):
        http_probe("127.0.0.1", server.port, "/nowhere")()
