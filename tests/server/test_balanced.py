"""Three services behind the balancer, each a process: one is killed under load, and comes back."""

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import contextmanager
from threading import Thread

import httpx2
import pytest

pytestmark = pytest.mark.slow

INTERVAL = 1.0  # seconds between two checks, the balancer's default
PATIENCE = 60.0
CLIENTS = 16
DOCUMENTS = [{"id": f"d{n}", "text": f"note {n} on topic {n % 7}"} for n in range(50)]


@contextmanager
def balancing(urls, folder):
    """The URL of `python -m brein balance` in front of these."""
    log = folder / "log"
    command = [sys.executable, "-m", "brein", "balance", "--port", "0", *urls]
    with log.open("wb") as told, subprocess.Popen(command, stderr=told) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not (line := log.read_text().partition("\n"))[1]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield f"http://127.0.0.1:{json.loads(line[0])['port']}"
        finally:
            process.kill()


async def until(condition, seconds=PATIENCE):
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


class Load:
    """Clients that search one after the other; the answers, by status, as ids, and whatever else came."""

    def __init__(self, url):
        self.outcomes, self.answers = Counter(), set()
        self._client = httpx2.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False)
        self._numbers = itertools.count()
        self._ended = False

    async def _search(self):
        while not self._ended:
            number = next(self._numbers)
            try:
                response = await self._client.post("/v1/search", json={"query": f"note {number}", "k": 3})
                self.outcomes[response.status_code] += 1
                self.answers.add(len(response.json().get("hits", ())))
            except httpx2.HTTPError as error:
                self.outcomes[repr(error)] += 1

    async def ready(self):
        return (await self._client.get("/health/ready")).json()["instances"]

    async def more(self, count=300):
        """Wait until so many more were answered."""
        wanted = self.outcomes.total() + count

        async def answered():
            return self.outcomes.total() >= wanted

        await until(answered)

    async def __aenter__(self):
        self._clients = [asyncio.create_task(self._search()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(self, *exception):
        self._ended = True
        await asyncio.gather(*self._clients)
        await self._client.aclose()


def test_a_service_killed_under_load_fails_no_search_and_returns(start, tmp_path):
    def service(number, port=0):
        process = start(f"server.port={port}", f"engine.path={tmp_path / str(number)}")
        url = process.start()
        Thread(target=deque, args=(process.process.stderr, 0)).start()  # or its log would fill the pipe
        return process, url

    async def scenario(processes, urls, balancer):
        async with Load(balancer) as load:
            await load.more()
            processes[1].process.kill()
            killed = asyncio.get_running_loop().time()

            async def healthy():
                return [each["healthy"] for each in await load.ready()]

            async def is_off():
                return await healthy() == [True, False, True]

            async def is_back():
                return await healthy() == [True, True, True]

            await until(is_off)
            assert asyncio.get_running_loop().time() - killed < 2 * INTERVAL
            await load.more()
            await asyncio.to_thread(service, 1, httpx2.URL(urls[1]).port)
            await until(is_back)
            await load.more()
        return load

    processes, urls = zip(*(service(number) for number in range(3)), strict=True)
    with httpx2.Client(trust_env=False) as client:
        for url in urls:
            assert client.post(f"{url}/v1/documents", json={"documents": DOCUMENTS}).status_code == 200
    with balancing(urls, tmp_path) as balancer:
        load = asyncio.run(scenario(processes, urls, balancer))
    assert load.outcomes.keys() == {200}, load.outcomes
    assert load.answers == {3}  # the service that came back has its documents
    processes[0].process.send_signal(signal.SIGTERM)
    assert processes[0].process.wait(PATIENCE) == 0
