"""Deadlines of clients, and overload."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest


def test_a_deadline_that_is_over_is_told_and_frees_the_place(running, gate):
    engine = {"agents": {"hippocampus": {"max_concurrent": 1, "queue_size": 5}}}
    with running(engine=engine) as server, server.client() as client:
        asking = threading.Thread(target=client.post, args=("/v1/search",), kwargs={"json": {"query": "zz"}})
        asking.start()
        assert gate.reached.acquire(timeout=20)
        response = client.post("/v1/search", json={"query": "violin"}, headers={"Request-Timeout": "0.1"})
        assert response.status_code == 504
        assert "0.1 s" in response.json()["detail"]
        assert response.json()["request_id"] == response.headers["x-request-id"]
        assert (server.stats().waiting, server.stats().cancelled) == (0, 1)
        gate.open()
        asking.join(20)


@pytest.mark.parametrize("seconds", ["5", "5.5", "1e1", "86400"])
def test_a_deadline_that_is_kept_changes_nothing(client, seconds):
    response = client.post("/v1/search", json={"query": "violin"}, headers={"Request-Timeout": seconds})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "seconds", ["", "0", "-1", "nan", "inf", "1_0", "soon", "0.009", "86401", "1e999", "٣"]
)
def test_a_deadline_that_is_no_time_is_refused(client, seconds):
    headers = {b"Request-Timeout": seconds.encode()}
    response = client.post("/v1/search", json={"query": "violin"}, headers=headers)
    assert response.status_code == 400
    assert "Request-Timeout" in response.json()["detail"]


def test_what_an_agent_does_not_do_in_time_is_told_too(running, gate):
    engine = {"agents": {"hippocampus": {"timeout": 0.1}}}
    with running(engine=engine) as server, server.client() as client:
        response = client.post("/v1/search", json={"query": "zz"})
        assert response.status_code == 504
        assert "timeout = 0.1 s" in response.json()["detail"]


def test_overload_is_told_at_once_and_how_long_to_wait(running, gate, until):
    engine = {"agents": {"hippocampus": {"max_concurrent": 1, "queue_size": 2}}}
    with running(engine=engine) as server, server.client() as client, ThreadPoolExecutor(8) as pool:

        def ask(n):
            return client.post("/v1/search", json={"query": f"zz {n}"})

        asked = [pool.submit(ask, n) for n in range(8)]
        until(lambda: sum(each.done() for each in asked) == 5)
        gate.open()
        responses = [each.result(20) for each in asked]
        refused = [each for each in responses if each.status_code == 503]
        assert sorted(each.status_code for each in responses) == [200] * 3 + [503] * 5
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        assert "queue_size = 2" in refused[0].json()["detail"]


def test_documents_and_questions_share_the_bound_of_memory(running, gate, until):
    engine = {"agents": {"hippocampus": {"max_concurrent": 1, "queue_size": 1}}}
    with running(engine=engine) as server, server.client() as client, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.post, "/v1/search", json={"query": "zz"}) for _ in range(2)]
        assert gate.reached.acquire(timeout=20)
        until(lambda: server.stats().waiting == 1)
        assert client.post("/v1/documents", json={"documents": [{"id": "a", "text": "b"}]}).status_code == 503
        assert client.get("/v1/documents/bread").status_code == 503
        assert client.delete("/v1/documents/bread").status_code == 503
        assert client.post("/v1/ask", json={"query": "violin"}).status_code == 503
        assert 'brein_errors_total{error="QueueFullError"} 4.0' in client.get("/metrics").text
        assert client.get("/health/ready").status_code == 200
        gate.open()
        assert [each.result(20).status_code for each in asked] == [200, 200]
