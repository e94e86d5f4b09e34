"""The balancer over real instances: processes of their own, on loopback, killed and started again."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
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


@contextmanager
def proxy(ports, folder, **settings):
    """The proxy as a process of its own; gives the process, and a client of it."""
    config = folder / "balancer.json"
    config.write_text(json.dumps(settings))
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    command = [sys.executable, "-m", "brein", "balance", "--port", "0", "--config", str(config), *urls]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = process.stderr.readline().split()[-1]
            with httpx2.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
                yield process, client
        finally:
            process.kill()


def await_status(client, status):
    deadline = time.monotonic() + PATIENCE
    while (response := client.get("/health/ready")).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return response


def test_the_proxy_passes_on_what_it_is_asked_and_what_it_is_answered(running, tmp_path):
    ports = [running.start(status=201)]
    with proxy(ports, tmp_path, max_body=100_000) as (_, client):
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
        assert told["headers"]["authorization"] == "Bearer key"
        assert 4 < float(told["headers"]["request-timeout"]) <= 5
        assert "x-hop" not in told["headers"]
        assert told["headers"]["host"] == f"127.0.0.1:{ports[0]}"
        ids = [client.get("/v1/documents/a").json()["headers"]["x-request-id"] for _ in range(2)]
        assert len(set(ids)) == 2

        problems = {
            413: client.post("/v1/documents", content=bytes(150_000)),
            400: client.get("/v1/documents/a", headers={"Request-Timeout": "soon"}),
            404: client.get("/metrics"),
            421: client.get("/v1/documents/a", headers={"Host": "rebound.example"}),
        }
        for status, problem in problems.items():
            assert problem.status_code == problem.json()["status"] == status
            assert problem.headers["Content-Type"] == "application/problem+json"
        assert client.get("/health/live").json() == {"status": "live"}
        ready = client.get("/health/ready").json()
        assert ready["instances"][0]["healthy"]
        assert ready["instances"][0]["load"]["memory"] == 1e6


def test_the_proxy_is_ready_while_an_instance_is(running, tmp_path):
    ports = [running.start(), running.start()]
    with proxy(ports, tmp_path, interval=0.1) as (_, client):
        await_status(client, 200)
        running.kill(ports[0])
        assert [client.post("/v1/search").status_code for _ in range(20)] == [200] * 20
        running.kill(ports[1])
        assert await_status(client, 503).json()["detail"] == "every instance is ejected"
        response = client.post("/v1/search")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert client.get("/health/live").status_code == 200
        running.start(port=ports[1])
        await_status(client, 200)


def test_the_proxy_gives_up_when_the_time_is_over(running, tmp_path):
    with proxy([running.start(delay=20)], tmp_path) as (_, client):
        response = client.post("/v1/ask", headers={"Request-Timeout": "0.3"})
        assert response.status_code == 504
        assert "no answer within 0." in response.json()["detail"]


def test_the_proxy_ends_what_is_in_hand_before_it_ends(running, tmp_path):
    with proxy([running.start(delay=1.0)], tmp_path) as (process, client):

        async def scenario():
            async with httpx2.AsyncClient(base_url=client.base_url, trust_env=False) as asking:
                answering = asyncio.create_task(asking.post("/v1/search"))
                await until(lambda: client.get("/health/ready").json()["instances"][0]["in_flight"] == 1)
                process.send_signal(signal.SIGTERM)
                assert (await answering).status_code == 200

        asyncio.run(scenario())
        assert process.wait(PATIENCE) == 0


def test_whoever_goes_away_is_not_worked_for_any_more(running, tmp_path):
    with proxy([running.start(delay=20)], tmp_path) as (_, client):
        with pytest.raises(httpx2.ReadTimeout):
            client.post("/v1/search", timeout=0.3)
        deadline = time.monotonic() + PATIENCE
        while client.get("/health/ready").json()["instances"][0]["in_flight"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


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
