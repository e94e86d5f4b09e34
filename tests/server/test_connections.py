"""Connections that send nothing, too little, or too many at once; clients that leave, or do not read."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest
from structlog.testing import capture_logs

from brein.server.connections import Gathering

HEAD = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SOON = 0.2  # seconds


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"POST /v1/sea", b"HTTP/1.1 408"),
        (HEAD, b"HTTP/1.1 408"),
        (HEAD + b"Content-Length: 100\r\n\r\n", b"HTTP/1.1 408"),
        (HEAD + b'Content-Length: 100\r\n\r\n{"query": ', b"HTTP/1.1 408"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", b"HTTP/1.1 408"),
    ],
)
def test_what_is_not_sent_in_time_is_closed(running, until, sent, answer):
    with running(read_timeout=SOON) as server, server.connect() as raw:
        raw.sendall(sent)
        received = server.rest_of(raw)
        assert received.startswith(answer)
        assert bool(received) == bool(answer)
        assert server.connections.closed["timed_out"] == 1
        until(lambda: server.connections.open == 0)


def test_dripping_does_not_win_time(running):
    with running(read_timeout=0.5) as server, server.connect() as raw:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in (HEAD * 100)[:1000]:
                raw.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - began < 5
        assert server.connections.closed["timed_out"] == 1


def test_an_answered_connection_is_closed_where_nothing_follows(running):
    with running(read_timeout=SOON) as server, server.connect() as raw:
        raw.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert server.rest_of(raw).startswith(b"HTTP/1.1 200")


def test_a_refused_body_that_never_ends_is_closed(running):
    with running(read_timeout=SOON, max_body=1024) as server, server.connect() as raw:
        raw.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        assert server.rest_of(raw).startswith(b"HTTP/1.1 413")


def test_work_takes_longer_than_reading_may(running, gate):
    with running(read_timeout=SOON) as server, server.client() as client:
        threading.Timer(4 * SOON, gate.open).start()
        assert client.post("/v1/search", json={"query": "zz"}).status_code == 200


def test_a_client_that_does_not_read_its_answers_is_closed(running, until):
    text = "long " * 19_000
    documents = [{"id": str(n), "text": text} for n in range(50)]
    with running(read_timeout=SOON, documents=documents) as server, server.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = b'{"query": "long", "k": 50}'
        request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        raw.sendall(request * 5)
        until(lambda: server.connections.closed["timed_out"] == 1)
        until(lambda: server.connections.open == 0)


def test_the_connection_that_waited_longest_makes_room(running, until):
    with running(max_connections=3) as server, contextlib.ExitStack() as opened:
        idle = [opened.enter_context(server.connect()) for _ in range(3)]
        until(lambda: server.connections.open == 3)
        with server.client() as client:
            assert client.post("/v1/search", json={"query": "violin"}).status_code == 200
        assert server.rest_of(idle[0]) == b""
        assert server.connections.closed["displaced"] == 1


def test_where_all_connections_are_busy_another_is_refused(running, gate):
    with running(max_connections=1) as server, server.client() as client:
        asking = threading.Thread(target=client.post, args=("/v1/search",), kwargs={"json": {"query": "zz"}})
        asking.start()
        assert gate.reached.acquire(timeout=20)
        with server.connect() as raw:
            received = server.rest_of(raw)
        assert received.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in received.lower()
        gate.open()
        asking.join(20)
        assert server.connections.closed["refused"] == 1


@pytest.fixture
def many_files():
    resource = pytest.importorskip("resource")
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip("needs 3,000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_two_thousand_idle_connections_do_no_harm(start):
    import httpx2
    import psutil

    process = start("server.max_connections=300")
    url = process.start()
    port = int(url.rpartition(":")[2])
    with httpx2.Client(base_url=url, trust_env=False, timeout=20) as client, contextlib.ExitStack() as opened:
        client.get("/health/ready")
        before = psutil.Process(process.process.pid).memory_info().rss
        for _ in range(2000):
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        assert client.post("/v1/search", json={"query": "violin"}).status_code == 200
        assert client.get("/health/ready").status_code == 200
        there = psutil.Process(process.process.pid)
        assert there.num_fds() < 400
        assert there.memory_info().rss - before < 50 * 1024**2


def test_a_client_that_leaves_frees_its_place(running, gate, until):
    engine = {"agents": {"hippocampus": {"max_concurrent": 1, "queue_size": 1}}}
    with running(engine=engine) as server, server.client() as client:
        body = b'{"query": "zz"}'
        with server.connect() as working:
            working.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert gate.reached.acquire(timeout=20)
            with server.connect() as waiting:
                waiting.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                until(lambda: server.stats().waiting == 1)
                assert client.post("/v1/search", json={"query": "violin"}).status_code == 503
            until(lambda: server.stats().waiting == 0)
        until(lambda: server.stats().cancelled == 2)
        assert server.stats().abandoned == 1  # its thread cannot be stopped
        assert client.get("/health/ready").status_code == 200


def test_what_is_refused_before_it_is_known_is_told_in_the_log(running):
    with running() as server, capture_logs() as lines:
        received = server.exchange(b"nonsense\r\n\r\n")
        [line] = [line for line in lines if line["event"] == "refused"]
    head, _, body = received.partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert (line["status"], line["reason"]) == (problem["status"], problem["detail"])
    assert line["request_id"] == problem["request_id"]
    assert f"x-request-id: {problem['request_id']}".encode() in head.lower()


def test_what_is_refused_in_its_body_is_one_line_under_the_clients_own_id(running, until):
    with running(read_timeout=SOON) as server, capture_logs() as lines:
        received = server.exchange(HEAD + b"X-Request-ID: mine\r\nContent-Length: 100\r\n\r\n{")
        until(lambda: server.connections.open == 0)
        until(lambda: lines)
    assert received.startswith(b"HTTP/1.1 408")
    assert b'"request_id":"mine"' in received
    [line] = lines
    assert (line["event"], line["route"], line["status"]) == ("request", "/v1/search", 408)


# --- what is written in one turn of the event loop -----------------------------------------------------


def gathered(scenario):
    """Run `scenario(transport, received)`: a gathering transport, and what its peer has got so far."""
    here, there = socket.socketpair()
    there.setblocking(False)

    def received():
        with contextlib.suppress(BlockingIOError):
            return there.recv(1 << 20)
        return None

    async def run():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
        await scenario(Gathering(transport, loop), received)
        transport.abort()

    with there:
        asyncio.run(run())


def test_what_is_written_in_one_turn_is_sent_in_one_piece():
    async def scenario(transport, received):
        transport.write(b"head")
        transport.write(b"body")
        assert (received(), transport.get_write_buffer_size()) == (None, 8)
        await asyncio.sleep(0)
        assert (received(), transport.get_write_buffer_size()) == (b"headbody", 0)
        transport.write(b"next")
        await asyncio.sleep(0)
        assert received() == b"next"

    gathered(scenario)


def test_much_is_sent_at_once_so_that_flow_control_sees_it():
    async def scenario(transport, received):
        transport.write(b"x")
        transport.write(b"y" * 65536)
        assert received() == b"x" + b"y" * 65536
        transport.write(b"z")
        await asyncio.sleep(0)
        assert received() == b"z"

    gathered(scenario)


def test_what_is_held_back_is_sent_before_a_close_and_not_after_an_abort():
    async def closed(transport, received):
        transport.write(b"the last")
        transport.close()
        await asyncio.sleep(0)
        assert (received(), transport.is_closing()) == (b"the last", True)

    async def aborted(transport, received):
        transport.write(b"never")
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert received() == b""

    gathered(closed)
    gathered(aborted)
