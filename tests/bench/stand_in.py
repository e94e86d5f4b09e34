"""A service to try the load lab on: it answers as Brein does, in a time that is known.

Requests queue for virtual servers, so the time each takes costs no CPU. What a query says decides what it
gets: "503" that status, "hang" no answer, "drop" a connection closed; all others the hits "<query> 0",
"<query> 1", ….
"""

from __future__ import annotations

import asyncio
import heapq
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class StandIn:
    """A stand-in that listens; what it tells of itself are seconds of CLOCK_MONOTONIC, and requests."""

    host: str
    process: subprocess.Popen[str]

    def seen(self) -> dict[str, Any]:
        """When it stalled, `stall`, and how many `requests` it has read."""
        with urllib.request.urlopen(self.host, timeout=10) as answer:  # noqa: S310  its own address
            return json.load(answer)


@contextmanager
def standing_in(**settings: Any) -> Iterator[StandIn]:
    """A stand-in in a process of its own, with the settings of `Queue`; ended in the end."""
    command = [sys.executable, str(Path(__file__)), json.dumps(settings)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield StandIn(f"http://127.0.0.1:{int(process.stdout.readline())}", process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Queue:
    """When requests are answered: after exponential seconds, `mean` on average, at one of some `servers`.

    `mean` 0 answers at once. `stall` (after, seconds): from so long after the first request on nothing is
    answered for so long. `key` is asked for where it is given.
    """

    def __init__(
        self,
        mean: float = 0.0,
        servers: int = 1,
        stall: tuple[float, float] = (0.0, 0.0),
        key: str | None = None,
        seed: int = 0,
    ) -> None:
        self.requests = 0
        self.stall = stall
        self.stalled: tuple[float, float] | None = None
        self.key = key
        self._mean = mean
        self._free = [0.0] * servers
        self._random = np.random.default_rng(seed)

    def answered(self, now: float) -> float:
        """When a request that comes now is answered."""
        self.requests += 1
        if self.stalled is None:
            self.stalled = (now + self.stall[0], now + sum(self.stall))
        begin, end = self.stalled
        done = now
        if self._mean:
            done = max(now, self._free[0]) + self._random.exponential(self._mean)
            heapq.heapreplace(self._free, done)
        return end if begin <= done < end else done


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._read = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, rest = self._read.partition(b"\r\n\r\n")
        length = int(match[1]) if (match := _LENGTH.search(head)) else 0
        if found and len(rest) >= length:
            self._read = b""
            self._take(head, rest)

    def _take(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self._answer(200, {"stall": self._queue.stalled, "requests": self._queue.requests})
            return
        loop = asyncio.get_running_loop()
        due = self._queue.answered(loop.time())
        if due <= loop.time():
            self._settle(head, body)
        else:
            loop.call_at(due, self._settle, head, body)

    def _settle(self, head: bytes, body: bytes) -> None:
        asked = json.loads(body)
        text = asked["documents"][0]["text"] if "documents" in asked else asked["query"]
        if self._queue.key and f"Bearer {self._queue.key}".encode() not in head:
            self._answer(401, {})
        elif text == "drop":
            self._transport.close()
        elif text == "503":
            self._answer(503, {})
        elif text != "hang":
            self._answer(200, {"hits": [{"id": f"{text} {rank}"} for rank in range(asked.get("k", 0))]})

    def _answer(self, status: int, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def serve(settings: dict[str, Any]) -> None:
    """Serve on this machine, on a port that is printed, until the process is ended."""
    queue = Queue(**settings)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(queue), "127.0.0.1", 0, backlog=1000
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
