"""What is too large is refused, and costs nothing."""

import json

import psutil
import pytest

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


def exchanged(server, sent):
    """What comes back for raw bytes, until the server closes."""
    with server.connect() as raw:
        raw.sendall(sent)
        received = b""
        while data := raw.recv(65536):
            received += data
    return received


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
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000, b"400"),
    ],
)
def test_what_is_no_request_is_refused_and_closed(server, sent, status):
    try:
        received = exchanged(server, sent)
    except ConnectionResetError:  # it closed while we still sent
        received = b""
    else:
        assert b"HTTP/1.1 " + status in received
        assert b"application/problem+json" in received
    with server.client() as client:
        assert client.get("/health/ready").status_code == 200


def test_requests_may_be_sent_before_the_answer_to_others(server):
    one = b"GET /v1/documents/%s HTTP/1.1\r\nHost: localhost\r\nConnection: %s\r\n\r\n"
    sent = b"".join(
        one % pair for pair in ((b"violin", b"keep-alive"), (b"none", b"keep-alive"), (b"bread", b"close"))
    )
    received = exchanged(server, sent)
    assert [received.count(status) for status in (b"HTTP/1.1 200", b"HTTP/1.1 404")] == [2, 1]
    assert (
        received.index(b"violin has four") < received.index(b"no such document") < received.index(b"Bread is")
    )


def test_an_expected_continue_is_given_before_the_body(server):
    with server.connect() as raw:
        raw.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 19\r\nExpect: 100-continue\r\n\r\n"
        )
        assert raw.recv(65536).startswith(b"HTTP/1.1 100")
        raw.sendall(b'{"query": "violin"}')
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


def test_memory_returns_after_many_refusals(running):
    with running(max_body=1024**2) as server, server.client() as client:
        client.post("/v1/search", content=b"x" * 1024**2, headers=JSON)
        before = psutil.Process().memory_info().rss
        for _ in range(50):
            client.post("/v1/search", content=b"[" * 1024**2, headers=JSON)
        assert psutil.Process().memory_info().rss - before < 30 * 1024**2
