"""What the routes answer, in the order of a document's life."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

QUESTION = "How many strings has a violin?"


def test_a_search_finds_best_first(client):
    response = client.post("/v1/search", json={"query": "violin strings", "k": 2})
    assert response.status_code == 200
    found = response.json()
    assert [hit["id"] for hit in found["hits"]] == ["violin", "cello"]
    assert found["hits"][0]["text"].startswith("A violin has four strings.")
    assert found["hits"][0]["score"] > found["hits"][1]["score"]
    assert found["degraded"] is None
    assert found["strategy"] in ("single_stage", "two_stage", "multi_stage")


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"shelf": 2}, {"cello"}),
        ({"shelf": [1, 3]}, {"violin", "bread"}),
        ({"shelf": {"gte": 2}, "lang": {"ne": "en"}}, {"cello"}),
        ({"lang": {"in": ["en", "de"]}}, {"bread"}),
        ({"lang": None}, {"violin", "cello"}),
        ({}, {"violin", "cello", "bread"}),
    ],
)
def test_a_search_keeps_to_its_filter(client, where, ids):
    response = client.post("/v1/search", json={"query": "violin", "where": where})
    assert {hit["id"] for hit in response.json()["hits"]} == ids


def test_what_was_found_before_is_found_again_while_memory_is_busy(running, gate):
    limits = {"max_concurrent": 1, "queue_size": 1, "timeout": 15}
    with (
        running(engine={"agents": {"hippocampus": limits}}) as server,
        server.client() as client,
        ThreadPoolExecutor(1) as others,
    ):
        found = client.post("/v1/search", json={"query": "violin", "k": 2}).json()
        busy = others.submit(httpx2.post, f"{server.url}/v1/search", json={"query": "zz"}, trust_env=False)
        assert gate.reached.acquire(timeout=15)
        before = server.stats()
        assert client.post("/v1/search", json={"query": "violin", "k": 2}).json() == found
        assert server.stats().admitted == before.admitted
        gate.open()
        assert busy.result().status_code == 200


def test_an_answer_cites_what_was_found(client):
    answered = client.post("/v1/ask", json={"query": QUESTION, "k": 2}).json()
    assert "A violin has four strings. [1]" in answered["text"]
    assert answered["citations"][0] == "violin"
    assert {hit["id"] for hit in answered["hits"]} >= set(answered["citations"])
    assert answered["model"] == "extractive"
    assert -1 <= answered["emotion"]["valence"] <= 1


@pytest.mark.parametrize("id_", ["a", "with a/slash", "ünïcode ☃", "50%", "a?b#c", "..", "x" * 512])
def test_the_life_of_a_document(client, id_):
    document = {"id": id_, "text": "Rain falls on the roof.", "metadata": {"wet": True, "mm": 2.5, "n": None}}
    assert client.post("/v1/documents", json={"documents": [document]}).json() == {"ingested": 1}
    path = f"/v1/documents/{''.join(f'%{byte:02X}' for byte in id_.encode())}"
    assert client.get(path).json() == document
    assert "Rain" in client.post("/v1/search", json={"query": "rain roof", "k": 1}).json()["hits"][0]["text"]
    deleted = client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(path).status_code == 404
    assert client.delete(path).status_code == 404


def test_a_document_that_is_there_already_is_replaced(running):
    with running() as server, server.client() as client:
        client.post("/v1/documents", json={"documents": [{"id": "bread", "text": "Cake is sweet."}]})
        stored = client.get("/v1/documents/bread").json()
        assert stored == {"id": "bread", "text": "Cake is sweet.", "metadata": {}}


def test_of_a_batch_in_which_something_is_wrong_nothing_is_remembered(client):
    batch = [{"id": "new", "text": "One."}, {"id": "new", "text": "Two."}]
    response = client.post("/v1/documents", json={"documents": batch})
    assert response.status_code == 409
    assert "twice" in response.json()["detail"]
    assert client.get("/v1/documents/new").status_code == 404


def test_it_is_alive_and_ready(client):
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/search/", 404),
        ("GET", "/v1/search", 405),
        ("PUT", "/v1/documents/a", 405),
        ("TRACE", "/health/live", 405),
        ("BREW", "/v1/ask", 400),
    ],
)
def test_what_there_is_no_route_for(client, method, path, status):
    response = client.request(method, path)
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "about:blank"
    assert problem["title"]


def test_a_method_that_is_not_allowed_is_told_those_that_are(client):
    response = client.put("/v1/documents/a")
    assert response.headers["allow"] == "DELETE, GET"
    assert client.post("/docs/parts/x").headers["allow"] == "GET, HEAD"


def test_the_service_describes_itself_with_nothing_from_elsewhere(client):
    assert "/v1/search" in client.get("/openapi.json").json()["paths"]
    page = client.get("/docs")
    assert page.status_code == 200
    parts = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(parts) == 3
    for part in parts:
        assert part.startswith("/docs/parts/")
        assert client.get(part).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "EOF"),
        (b"{", 400, "EOF"),
        (b'{"query": "a"} x', 400, "trailing"),
        (b"\xff\xfe", 400, ""),
        (b'{"query": "\\ud800"}', 400, "escape"),
        (b"[" * 100_000, 400, "recursion"),
        (b'{"where": {"a": ' + b'{"a": ' * 10_000, 400, "recursion"),
        (b"[]", 422, "body"),
        (b"{}", 422, "query"),
        (b'{"query": 1}', 422, "query"),
        (b'{"query": ""}', 422, "query"),
        (b'{"query": " \\u0000\\n"}', 422, "query"),
        (b'{"query": "a", "k": 0}', 422, "k"),
        (b'{"query": "a", "k": 101}', 422, "100"),
        (b'{"query": "a", "k": "1"}', 422, "integer"),
        (b'{"query": "a", "k": 1.5}', 422, "integer"),
        (b'{"query": "a", "k": true}', 422, "integer"),
        (b'{"query": "a", "extra": 1}', 422, "extra"),
        (b'{"query": "a", "' + b"k" * 100_000 + b'": 1}', 422, "kkk"),
        (b'{"query": "a", "k": NaN}', 400, "JSON"),
        (b'{"query": "a", "k": 1' + b"0" * 1000 + b"}", 422, "k"),
        (b'{"query": "a", "where": {"x": {}}}', 422, "where.x"),
        (b'{"query": "a", "where": {"x": {"like": "y"}}}', 422, "like"),
        (b'{"query": "a", "where": {"x": {"gt": null}}}', 422, "gt"),
        (b'{"query": "a", "where": {"x": [[1]]}}', 422, "where.x"),
        (b'{"query": "a", "where": []}', 422, "where"),
        (b'{"query": "' + b"a" * 10_001 + b'"}', 422, "10000"),
    ],
)
def test_a_body_that_is_wrong_is_told_what_is(client, body, status, said):
    response = client.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert said in response.text
    assert len(response.content) < 10_000
    assert "Traceback" not in response.text
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_a_body_that_does_not_say_it_is_json_is_refused(client, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    body = json.dumps({"query": "violin"}).encode()
    assert client.post("/v1/search", content=body, headers=headers).status_code == 415


def test_json_may_name_its_charset(client):
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/search", content=b'{"query": "violin"}', headers=headers).status_code == 200
