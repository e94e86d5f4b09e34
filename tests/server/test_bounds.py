"""What is too large is refused, and costs nothing."""

import contextlib
import json

import psutil
import pytest
from pydantic import ValidationError

from brein.server import schema
from brein.server.config import ServerConfig

JSON = {"Content-Type": "application/json"}
LIMITS = {"max_body": 4096, "max_batch": 2, "max_text": 50, "max_k": 5}


@pytest.fixture
def small(running):
    with running(**LIMITS) as server, server.client() as client:
        yield client


def documents(count, text="Rain."):
    return {"documents": [{"id": str(n), "text": text} for n in range(count)]}


def test_the_bounds_are_those_configured(small):
    assert small.post("/v1/documents", json=documents(2)).status_code == 200
    assert small.post("/v1/documents", json=documents(3)).status_code == 422
    assert small.post("/v1/documents", json=documents(0)).status_code == 422
    assert small.post("/v1/documents", json=documents(1, "a" * 50)).status_code == 200
    assert small.post("/v1/documents", json=documents(1, "a" * 51)).status_code == 422
    assert small.post("/v1/search", json={"query": "rain", "k": 5}).status_code == 200
    assert small.post("/v1/search", json={"query": "rain", "k": 6}).status_code == 422
    assert small.post("/v1/search", json={"query": "rain"}).status_code == 200


def test_a_body_is_bounded_to_the_byte(small):
    whole = json.dumps({"query": "rain"}).encode()
    assert small.post("/v1/search", content=whole.ljust(4096), headers=JSON).status_code == 200
    response = small.post("/v1/search", content=whole.ljust(4097), headers=JSON)
    assert response.status_code == 413
    assert "4,096" in response.json()["detail"]


def test_a_body_in_chunks_is_bounded_too(small):
    def chunks(count):
        yield b'{"query": "rain"}'
        for _ in range(count):
            yield b" " * 1000

    assert small.post("/v1/search", content=chunks(3), headers=JSON).status_code == 200
    assert small.post("/v1/search", content=chunks(40), headers=JSON).status_code == 413


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_mebibytes_are_refused_without_being_held(running, chunked):
    def parts():
        for _ in range(100):
            yield b" " * 1024**2

    headers = JSON if chunked else {**JSON, "Content-Length": str(100 * 1024**2)}
    with running() as server, server.client() as client:
        client.post("/v1/search", json={"query": "violin"})
        before = psutil.Process().memory_info().rss
        assert client.post("/v1/search", content=parts(), headers=headers).status_code == 413
        assert psutil.Process().memory_info().rss - before < 30 * 1024**2
        assert client.post("/v1/search", json={"query": "violin"}).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20_000, b"431"),
        (b"GET /" + b"a" * 200_000, b"431"),
    ],
)
def test_what_is_no_request_is_refused_and_closed(server, sent, status):
    received = server.exchange(sent)
    assert received.startswith(b"HTTP/1.1 " + status)
    assert b"application/problem+json" in received
    assert received.count(b"HTTP/1.1") == 1
    with server.client() as client:
        assert client.get("/health/ready").status_code == 200


CHUNKED = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED += b'Transfer-Encoding: chunked\r\n\r\n13\r\n{"query": "violin"}\r\n'


def test_what_comes_in_chunks_may_have_trailers(server):
    with server.connect() as raw:
        raw.sendall(CHUNKED + b"0\r\nX: a\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begun", [b"0\r\nX: ", b"1;x="])
@pytest.mark.parametrize(("key", "status"), [(None, b"431"), (b"s3cret", b"401")])
def test_trailers_and_what_is_beside_chunks_are_bounded_whoever_sends_them(running, key, status, begun):
    with running(key=key) as server, server.connect() as raw:
        raw.sendall(CHUNKED + begun)
        with contextlib.suppress(ConnectionError):
            for _ in range(1024):
                raw.sendall(b"a" * 65536)
        received = server.rest_of(raw)
        assert received.startswith(b"HTTP/1.1 " + status)
        assert received.count(b"HTTP/1.1") == 1


def test_requests_may_be_sent_before_the_answer_to_others(server):
    one = b"GET /v1/documents/%s HTTP/1.1\r\nHost: localhost\r\nConnection: %s\r\n\r\n"
    sent = b"".join(
        one % pair for pair in ((b"violin", b"keep-alive"), (b"none", b"keep-alive"), (b"bread", b"close"))
    )
    received = server.exchange(sent)
    assert [received.count(status) for status in (b"HTTP/1.1 200", b"HTTP/1.1 404")] == [2, 1]
    assert (
        received.index(b"violin has four") < received.index(b"no such document") < received.index(b"Bread is")
    )


@pytest.mark.parametrize("next_", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 17, b"nonsense\r\n\r\n"])
def test_what_cannot_be_answered_is_not_answered_before_what_can(running, gate, next_):
    body = b'{"query": "zz"}'
    first = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with running() as server, server.connect() as raw:
        raw.sendall(first + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert gate.reached.acquire(timeout=20)
        raw.sendall(next_)
        assert server.rest_of(raw) == b""
        gate.open()


def test_an_expected_continue_is_given_before_the_body(server):
    with server.connect() as raw:
        raw.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 19\r\nExpect: 100-continue\r\n\r\n"
        )
        assert raw.recv(65536).startswith(b"HTTP/1.1 100")
        raw.sendall(b'{"query": "violin"}')
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


MANY = {str(number): [] for number in range(50_000)}
MISTAKEN = {
    "fields of a filter": ("search", {"query": "a", "where": {name: [[]] for name in MANY}}),
    "operators": ("search", {"query": "a", "where": {"a": MANY}}),
    "choices": ("search", {"query": "a", "where": {name: [[]] * 500 for name in "abcdefghij"}}),
    "keys": ("search", {"query": "a", **MANY}),
    "metadata": ("documents", {"documents": [{"id": "a", "text": "a", "metadata": MANY}]}),
    "keys of a document": ("documents", {"documents": [{"id": "a", "text": "a", **MANY}]}),
    "documents": ("documents", {"documents": [{"metadata": {key: [] for key in "abcdefghij"}}] * 1000}),
}


@pytest.mark.parametrize(("route", "body"), MISTAKEN.values(), ids=MISTAKEN)
def test_of_many_mistakes_few_are_looked_at(route, body):
    question, documents = schema.requests(ServerConfig())
    with pytest.raises(ValidationError) as raised:
        (question if route == "search" else documents).model_validate(body)
    assert raised.value.error_count() < 200


@pytest.mark.parametrize(("route", "body"), MISTAKEN.values(), ids=MISTAKEN)
def test_memory_returns_after_many_mistakes(running, route, body):
    content = json.dumps(body)
    with running() as server, server.client() as client:
        client.post(f"/v1/{route}", content=content, headers=JSON)
        before = psutil.Process().memory_info().rss
        for _ in range(5):
            response = client.post(f"/v1/{route}", content=content, headers=JSON)
            assert response.status_code == 422
            assert len(response.content) < 10_000
            assert len(response.json()["errors"]) <= 20
        assert psutil.Process().memory_info().rss - before < 30 * 1024**2


def test_memory_returns_after_many_refusals(running):
    with running(max_body=1024**2) as server, server.client() as client:
        client.post("/v1/search", content=b"x" * 1024**2, headers=JSON)
        before = psutil.Process().memory_info().rss
        for _ in range(50):
            client.post("/v1/search", content=b"[" * 1024**2, headers=JSON)
        assert psutil.Process().memory_info().rss - before < 30 * 1024**2
