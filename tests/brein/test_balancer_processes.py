"""The balancer over real instances: processes of their own, on loopback, killed and started again."""

import asyncio
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from brein.__main__ import main
from brein.errors import InstanceError, NoHealthyInstancesError
from brein.scaling import BalancerConfig, LoadBalancer

pytestmark = pytest.mark.slow

SMALL_SERVICE = Path(__file__).with_name("small_service.py")
PATIENCE = 30.0  # seconds until something is taken never to happen


class Running:
    """Instances that run, by port."""

    def __init__(self):
        self.processes = {}

    def start(self, delay=0.005, status=200, port=0):
        command = [sys.executable, str(SMALL_SERVICE), str(port), str(delay), str(status)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        port = int(process.stdout.readline())
        self.processes[port] = process
        return port

    def kill(self, port):
        process = self.processes.pop(port)
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
        return process.pid


@pytest.fixture
def running():
    running = Running()
    yield running
    for port in list(running.processes):
        running.kill(port)


def balance(ports, **settings):
    return LoadBalancer([f"http://127.0.0.1:{port}" for port in ports], BalancerConfig(**settings))


def search(balancer, **arguments):
    return balancer.request("POST", "/v1/search", content=b'{"query": "viola"}', **arguments)


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def test_kill_9_of_one_of_three_under_load_fails_no_search_and_it_returns(running):
    interval = 1.0
    ports = [running.start() for _ in range(3)]
    outcomes, asked_after = Counter(), Counter()

    async def scenario():
        now = asyncio.get_running_loop().time
        stopped = asyncio.Event()
        async with balance(ports, interval=interval) as balancer:

            async def keep_asking():
                while not stopped.is_set():
                    try:
                        response = await search(balancer)
                        outcomes[response.status_code] += 1
                        asked_after[response.json()["pid"]] += 1
                    except Exception as error:
                        outcomes[repr(error)] += 1

            async with asyncio.TaskGroup() as asking:
                for _ in range(16):
                    asking.create_task(keep_asking())
                await until(lambda: outcomes[200] > 300)
                pid = running.kill(ports[1])
                begun = now()
                await until(lambda: not balancer.statuses()[1].healthy)
                assert now() - begun < 2 * interval
                asked_after.clear()
                await until(lambda: asked_after.total() > 300)
                assert len(asked_after) == 2
                await asyncio.to_thread(running.start, port=ports[1])
                await until(lambda: balancer.statuses()[1].healthy)
                asked_after.clear()
                await until(lambda: asked_after.total() > 300)
                assert len(asked_after) == 3
                assert pid not in asked_after
                stopped.set()

    asyncio.run(scenario())
    assert outcomes.keys() == {200}, outcomes


def test_a_slow_instance_does_not_hold_up_the_others(running):
    ports = [running.start(delay) for delay in (1.0, 0.005, 0.005)]
    slow = running.processes[ports[0]].pid

    async def scenario():
        counts = Counter()
        async with balance(ports) as balancer:

            async def ask(times):
                for _ in range(times):
                    counts[(await search(balancer)).json()["pid"]] += 1

            await asyncio.gather(*(ask(20) for _ in range(10)))
        assert counts.total() == 200
        assert counts[slow] < 40

    asyncio.run(scenario())


def test_an_overloaded_instance_is_passed_over(running):
    ports = [running.start(status=503), running.start()]

    async def scenario():
        async with balance(ports) as balancer:
            responses = await asyncio.gather(*(search(balancer) for _ in range(30)))
            assert {response.status_code for response in responses} == {200}
            ingested = [(await balancer.request("POST", "/v1/documents")).status_code for _ in range(20)]
            assert ingested == [200] * 20, "Retry-After: 30"

    asyncio.run(scenario())


def test_when_all_are_dead_it_says_so_and_recovers(running):
    ports = [running.start(), running.start()]

    async def scenario():
        async with balance(ports, interval=0.1) as balancer:
            for port in ports:
                running.kill(port)
            with pytest.raises(InstanceError, match="broke off at try 2"):
                await search(balancer)
            await until(lambda: not any(status.healthy for status in balancer.statuses()))
            with pytest.raises(NoHealthyInstancesError, match="none of 2 instances can be asked"):
                await search(balancer)
            await asyncio.to_thread(running.start, port=ports[0])
            await until(lambda: balancer.statuses()[0].healthy)
            assert (await search(balancer)).status_code == 200

    asyncio.run(scenario())


def test_an_instance_that_hangs_is_ejected_and_what_waits_for_it_times_out(running):
    ports = [running.start()]
    pid = running.processes[ports[0]].pid

    async def scenario():
        async with balance(ports, interval=0.1, check_timeout=0.5) as balancer:
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
                await search(balancer, timeout=0.2)
            await until(lambda: not balancer.statuses()[0].healthy)
            os.kill(pid, signal.SIGCONT)
            await until(lambda: balancer.statuses()[0].healthy)
            assert (await search(balancer)).status_code == 200

    asyncio.run(scenario())


# The proxy


class Proxy:
    """`python -m brein balance` as a process of its own, a client of it, and its log."""

    def __init__(self, process, log):
        self.process = process
        self._log = log
        self.client = None

    def lines(self):
        return [json.loads(line) for line in self._log.read_text().split("\n")[:-1]]

    def until(self, event):
        """The log's first line of this event."""
        found = []

        def is_there():
            found.extend(line for line in self.lines() if line["event"] == event)
            return found

        soon(is_there)
        return found[0]

    def connect(self):
        return socket.create_connection((self.client.base_url.host, self.client.base_url.port), PATIENCE)


def soon(condition):
    """Wait for a condition; gives what makes it true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@contextmanager
def balancing(ports, folder, **settings):
    config, log = folder / "balancer.json", folder / "log"
    config.write_text(json.dumps(settings))
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    command = [sys.executable, "-m", "brein", "balance", "--port", "0", "--config", str(config), *urls]
    with log.open("wb") as told, subprocess.Popen(command, stderr=told) as process:
        try:
            proxy = Proxy(process, log)
            address = f"http://127.0.0.1:{proxy.until('listening')['port']}"
            with httpx2.Client(base_url=address, timeout=PATIENCE, trust_env=False) as proxy.client:
                yield proxy
        finally:
            process.kill()


def in_flight(client):
    return client.get("/health/ready").json()["instances"][0]["in_flight"]


def test_the_proxy_passes_on_what_it_is_asked_and_what_it_is_answered(running, tmp_path):
    ports = [running.start(status=201)]
    with balancing(ports, tmp_path, max_body=100_000) as proxy:
        client = proxy.client
        headers = {
            "X-Request-ID": "r1",
            "Authorization": "Bearer key",
            "Request-Timeout": "5",
            "Connection": "X-Hop",
        }
        response = client.post("/v1/documents?x=%2F", content="ü" * 10_000, headers={**headers, "X-Hop": "1"})
        told = response.json()
        assert (response.status_code, told["body"]) == (201, "ü" * 10_000)
        assert (told["path"], told["query"]) == ("/v1/documents", "x=%2F")
        assert told["headers"]["x-request-id"] == "r1"
        assert response.headers.get_list("X-Request-ID") == ["r1"]
        assert len(response.headers.get_list("Date")) == 1
        assert told["headers"]["authorization"] == "Bearer key"
        assert 4 < float(told["headers"]["request-timeout"]) <= 5
        assert "x-hop" not in told["headers"]
        assert told["headers"]["host"] == f"127.0.0.1:{ports[0]}"
        ids = [client.get("/v1/documents/a").json()["headers"]["x-request-id"] for _ in range(2)]
        assert len(set(ids)) == 2
        long = client.post("/v1/documents", content="a" * 99_000)  # in more parts than one
        assert long.json()["body"] == "a" * 99_000

        problems = {
            413: client.post("/v1/documents", content=bytes(150_000)),
            400: client.get("/v1/documents/a", headers={"Request-Timeout": "soon"}),
            404: client.get("/metrics"),
            421: client.get("/v1/documents/a", headers={"Host": "rebound.example"}),
        }
        for status, problem in problems.items():
            assert problem.status_code == problem.json()["status"] == status
            assert problem.headers["Content-Type"] == "application/problem+json"
            assert problem.json()["request_id"] == problem.headers["X-Request-ID"]
        assert client.get("/health/live").json() == {"status": "live"}
        ready = client.get("/health/ready").json()
        assert ready["instances"][0]["healthy"]
        assert ready["instances"][0]["load"]["memory"] == 1e6
        logged = [line for line in proxy.lines() if line["event"] == "request"]
        assert {"r1", *(problem.json()["request_id"] for problem in problems.values())} <= {
            line["request_id"] for line in logged
        }


def test_the_proxy_says_how_long_an_answer_would_be(running, tmp_path):
    headers = {"X-Request-ID": "r1", "Request-Timeout": "5"}
    with balancing([running.start()], tmp_path) as proxy:
        length = len(proxy.client.get("/v1/documents/a", headers=headers).content)
        head = proxy.client.head("/v1/documents/a", headers=headers)
        assert (head.status_code, head.headers["Content-Length"]) == (200, str(length))


def test_the_proxy_is_ready_while_an_instance_is(running, tmp_path):
    ports = [running.start(), running.start()]
    with balancing(ports, tmp_path, interval=0.1) as proxy:
        client = proxy.client

        def is_ready(status):
            response = client.get("/health/ready")
            return response if response.status_code == status else None

        soon(lambda: is_ready(200))
        running.kill(ports[0])
        assert [client.post("/v1/search").status_code for _ in range(20)] == [200] * 20
        running.kill(ports[1])
        assert "none of 2 instances can be asked" in soon(lambda: is_ready(503)).json()["detail"]
        response = client.post("/v1/search")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert client.get("/health/live").status_code == 200
        running.start(port=ports[1])
        soon(lambda: is_ready(200))
        told = [line["event"] for line in proxy.lines()]
        assert any("gets no more requests" in event for event in told)
        assert any("takes requests" in event for event in told)


def test_the_proxy_gives_up_when_the_time_is_over(running, tmp_path):
    with balancing([running.start(delay=20)], tmp_path) as proxy:
        response = proxy.client.post("/v1/ask", headers={"Request-Timeout": "0.3"})
        assert response.status_code == 504
        assert "no answer within" in response.json()["detail"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_proxy_ends_what_is_in_hand_before_it_ends(running, tmp_path, number):
    with balancing([running.start(delay=1.0)], tmp_path) as proxy, ThreadPoolExecutor(1) as pool:
        answering = pool.submit(proxy.client.post, "/v1/search")
        with httpx2.Client(base_url=proxy.client.base_url, trust_env=False) as other:
            soon(lambda: in_flight(other) == 1)
        proxy.process.send_signal(number)
        assert answering.result(PATIENCE).status_code == 200
        assert proxy.process.wait(PATIENCE) == 0
        assert [line["event"] for line in proxy.lines()][-1] == "closed"


def test_a_second_signal_ends_the_proxy_at_once(running, tmp_path):
    with balancing([running.start(delay=20)], tmp_path) as proxy, proxy.connect() as raw:
        raw.sendall(b"GET /v1/documents/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        soon(lambda: in_flight(proxy.client) == 1)
        proxy.process.send_signal(signal.SIGINT)
        proxy.until("draining")
        proxy.process.send_signal(signal.SIGINT)
        assert proxy.process.wait(PATIENCE) == 128 + signal.SIGINT


def test_whoever_goes_away_is_not_worked_for_any_more(running, tmp_path):
    port = running.start(delay=20)
    with balancing([port], tmp_path) as proxy:
        with pytest.raises(httpx2.ReadTimeout):
            proxy.client.post("/v1/search", timeout=0.3)
        soon(lambda: in_flight(proxy.client) == 0)
        said = running.processes[port].stdout
        assert select.select([said], [], [], PATIENCE)[0], "the instance was not left"
        assert said.readline() == "left\n"


def head(length):
    return b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length


def test_bodies_beyond_what_may_be_held_are_refused_and_their_room_returns(running, tmp_path):
    with (
        balancing([running.start()], tmp_path, max_body=1_200_000, max_held=2_500_000) as proxy,
        ExitStack() as opened,
    ):
        halves = [opened.enter_context(proxy.connect()) for _ in range(3)]
        for half in halves:
            half.sendall(head(1_000_000) + b"a" * 900_000)
        (refused,), _, _ = select.select(halves, [], [], PATIENCE)
        answer = b""
        while not answer.endswith(b"}"):
            answer += refused.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"max_held = 2500000" in answer

        def status(length):
            return proxy.client.post("/v1/search", content=b"a" * length).status_code

        assert status(100_000) == 200
        assert status(1_000_000) == 503
        for half in halves:
            half.close()
        soon(lambda: status(1_000_000) == 200)


def test_what_is_not_read_takes_room_until_its_client_is_given_up(running, tmp_path):
    settings = {"max_body": 9_000_000, "max_held": 20_000_000, "read_timeout": 2.0}
    with balancing([running.start()], tmp_path, **settings) as proxy, socket.socket() as raw:

        def status():
            return proxy.client.post("/v1/search", content=b"a" * 3_000_000).status_code

        assert status() == 200
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((proxy.client.base_url.host, proxy.client.base_url.port))
        raw.sendall(head(8_000_000) + b"a" * 8_000_000)
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
        assert status() == 503
        soon(lambda: status() == 200)


def test_a_connection_to_the_proxy_that_sends_too_little_is_closed(running, tmp_path):
    with balancing([running.start()], tmp_path, read_timeout=0.2) as proxy:
        with proxy.connect() as idle:
            assert idle.recv(65536) == b""
        with proxy.connect() as half:
            half.sendall(head(100) + b"{")
            assert half.recv(65536).startswith(b"HTTP/1.1 408")


def test_the_proxy_has_no_more_connections_than_it_may(running, tmp_path):
    with balancing([running.start()], tmp_path, max_connections=2) as proxy, ExitStack() as opened:
        idle = [opened.enter_context(proxy.connect()) for _ in range(3)]
        assert proxy.client.post("/v1/search").status_code == 200
        assert idle[0].recv(65536) == b""


@pytest.mark.parametrize(
    ("problem", "arguments"),
    [
        (r"URL\('nowhere'\) is no http or https URL", ["nowhere"]),
        (r"--port = 99999: must be from 0 to 65535", ["http://127.0.0.1:1", "--port", "99999"]),
        (r"--config = absent.json: .*; give a JSON file", ["http://127.0.0.1:1", "--config", "absent.json"]),
    ],
)
def test_what_does_not_serve_is_refused(capsys, problem, arguments):
    assert main(["balance", *arguments]) == 2
    assert re.search(problem, capsys.readouterr().err)
