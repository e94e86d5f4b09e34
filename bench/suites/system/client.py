"""A client of HTTP so cheap that the server is what is measured: one connection, one request at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

Ask = Callable[[bytes], Awaitable[int]]


def search(text: str, k: int) -> bytes:
    """A search, as it is sent."""
    body = json.dumps({"query": text, "k": k}).encode()
    head = (
        "POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


LIVE = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Connection(asyncio.Protocol):
    """A connection that is kept; `open` makes one."""

    def __init__(self) -> None:
        import httptools  # a peer's own environment, which imports all suites, need not have it

        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a server on this machine.

        Raises:
            OSError: none listens.
        """
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> int:
        """The status that the server answers with, once all of the answer is there.

        Raises:
            ConnectionError: the server closed the connection.
        """
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    # --- what asyncio and the parser call ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio has connected."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  as of every stream
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A part of an answer has come."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed the connection, or this side has."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))

    def on_message_complete(self) -> None:
        """All of the answer is there."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())


class Pool:
    """As many connections to a server as requests are under way at once; made when needed, and kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, request: bytes) -> int:
        """The status of the answer to a request, over a connection that nobody else uses meanwhile."""
        connection = self._idle.pop() if self._idle else await Connection.open(self._port)
        status = await connection.ask(request)
        self._idle.append(connection)
        return status

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for connection in self._idle:
            connection.close()


@asynccontextmanager
async def pool(port: int) -> AsyncIterator[Pool]:
    """A pool that closes itself."""
    made = Pool(port)
    try:
        yield made
    finally:
        made.close()
