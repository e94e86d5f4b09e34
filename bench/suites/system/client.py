"""A client of HTTP so cheap that the server is what is measured: one connection, one request at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

# How the answer to a search ends that lacks nothing (`brein.cache.codec`): cheaper than to parse it.
_WHOLE = b'"degraded":null,"partial":false,"missing_shards":[]}'


class Answer(NamedTuple):
    """What a server answered: the status, and the body."""

    status: int
    body: bytes

    @property
    def is_whole(self) -> bool:
        """Whether it is the answer to a search, with nothing lacking."""
        return self.status == 200 and self.body.endswith(_WHOLE)


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
        self._answer: asyncio.Future[Answer] | None = None
        self._body: list[bytes] = []

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a server on this machine.

        Raises:
            OSError: none listens.
        """
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> Answer:
        """What the server answers, once all of it is there.

        Raises:
            ConnectionError: the server closed the connection.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._body = []
        if self.is_closed:
            raise ConnectionResetError("the server has closed the connection")
        self._transport.write(request)
        return await self._answer

    @property
    def is_closed(self) -> bool:
        """Whether it can no longer be asked over."""
        return self._transport.is_closing()

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

    def on_body(self, part: bytes) -> None:
        """A part of the body is there."""
        self._body.append(part)

    def on_message_complete(self) -> None:
        """All of the answer is there."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), b"".join(self._body)))


class Pool:
    """As many connections to a server as requests are under way at once; made when needed, and kept.

    A server closes those that nobody has used for a while; they are not used again.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, request: bytes) -> Answer:
        """The answer to a request, over a connection that nobody else uses meanwhile.

        Raises:
            OSError: the server closed the connection, or takes none.
        """
        while self._idle and self._idle[-1].is_closed:
            self._idle.pop()
        connection = self._idle.pop() if self._idle else await Connection.open(self._port)
        answer = await connection.ask(request)
        self._idle.append(connection)
        return answer

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
