"""Open connections: how many there may be, and how long one may take to send a request.

uvicorn bounds neither, nor the size of a request's head and trailers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from brein.server import log, problems
from brein.server.identity import new_id

LEFT = "the client left"  # what a task is cancelled with then, and only then
_MOST_HEAD = 64 * 1024  # bytes of a request's line and headers, and of its trailers
_MOST_PIPELINED = 16  # requests that wait for the answer to another on their connection
_MOST_GATHERED = 64 * 1024  # bytes of answers that are held back until the event loop's next turn
_EARLY = 1e-3  # seconds that a timer may be early

_log = log.logger()


class Connections:
    """The open connections of one event loop.

    A connection waits from when it is opened, or its last answer was sent, until it has sent its next
    request, all of it; or while it does not take an answer. Where it waits for `read_timeout` seconds, it is
    closed. Where more than `most` are open, the one that has waited longest is closed; where none waits, the
    newest is refused. `closed` counts all these by reason. `answered` is told the status of each request that
    was refused before it was known.
    """

    def __init__(self, most: int, read_timeout: float, answered: Callable[[None, int], None]) -> None:
        self.open = 0
        self.closed = {"refused": 0, "displaced": 0, "timed_out": 0}  # so far
        self.answered = answered
        self._most = most
        self._read_timeout = read_timeout
        self._waiting: OrderedDict[Connection, float] = OrderedDict()  # by when their time is over
        self._watching = False  # whether a timer runs

    def protocol(self, **arguments: Any) -> Connection:
        """A connection, as uvicorn makes its protocols."""
        return Connection(self, **arguments)

    def enter(self, connection: Connection) -> None:
        """Take in a new connection, or not."""
        self.open += 1
        if self.open > self._most:
            if not self._waiting:
                self.closed["refused"] += 1
                connection.refuse(503, f"{self._most} connections are busy; try again later")
                return
            oldest, _ = self._waiting.popitem(last=False)
            self.closed["displaced"] += 1
            oldest.transport.abort()
        self.wait(connection)

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.open -= 1
        self.proceed(connection)

    def wait(self, connection: Connection) -> None:
        """It is the client's turn from now on."""
        self._waiting[connection] = connection.loop.time() + self._read_timeout
        self._waiting.move_to_end(connection)
        if not self._watching:
            self._watching = True
            connection.loop.call_later(self._read_timeout, self._watch, connection.loop)

    def is_waiting(self, connection: Connection) -> bool:
        """Whether it is the client's turn."""
        return connection in self._waiting

    def proceed(self, connection: Connection) -> None:
        """It is the service's turn."""
        self._waiting.pop(connection, None)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what waited too long, and look again when the next may have."""
        now = loop.time()
        while self._waiting:
            connection, end = next(iter(self._waiting.items()))
            if end > now + _EARLY:
                loop.call_later(end - now, self._watch, loop)
                return
            if connection.is_busy:  # with an earlier request of its connection
                self.wait(connection)
                continue
            del self._waiting[connection]
            self.closed["timed_out"] += 1
            connection.time_out()
        self._watching = False


class Gathering:
    """A transport that sends in one piece what is written to it in one turn of the event loop.

    uvicorn writes the head of an answer and its body apart: two system calls, and two packets for a client to
    wake up for, take longer than a cached search. What is not named here is the transport's own.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0  # of the parts, bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, soon; at once where much is held back, so that the transport can say when it has enough."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)
        self._size += len(data)
        if self._size > _MOST_GATHERED:
            self._send()

    def close(self) -> None:
        """Send what is held back, then close."""
        self._send()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return self._size + self._transport.get_write_buffer_size()

    def _send(self) -> None:
        if self._parts:
            data, self._parts, self._size = b"".join(self._parts), [], 0
            self._transport.write(data)


class Connection(HttpToolsProtocol):
    """One connection. `task` is the one that answers its request; it is cancelled where the client leaves.

    `refused` is the status of the answer that the request under way had from here, if any.
    """

    task: asyncio.Task[Any] | None = None
    refused: int | None = None
    _head: int = 0  # bytes that came since a head or a piece of a body was complete
    _in_head = True

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._connections = connections

    @property
    def is_busy(self) -> bool:
        """Whether the service works on a request of it, and its client takes the answers."""
        if self.flow.write_paused:
            return False
        return bool(self.pipeline) or (
            self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        )

    @property
    def _is_next(self) -> bool:
        """Whether what is sent now is all of the answer to the request that is being read."""
        if self._in_head:
            return self.cycle is None or self.cycle.response_complete
        return not self.pipeline and not self.cycle.response_started

    def time_out(self) -> None:
        """Close: the client took too long. One that had begun to ask is told so."""
        if self.transport.get_write_buffer_size():  # it does not read
            self.transport.abort()
        elif self._in_head and not self._head:
            self.transport.close()
        else:
            self.refuse(408, "the request did not come to its end in time; send it faster")

    def refuse(self, status: int, detail: str) -> None:
        """Answer with a problem that no route knows of, and close; close alone, where the answer would be
        taken for that to an earlier request, or for a part of it."""
        if self._is_next:
            request_id = new_id()
            if self._in_head:
                self._connections.answered(None, status)
                _log.info("refused", request_id=request_id, status=status, reason=detail)
            else:  # the guard has the request, and tells of it
                self.refused = status
                request_id = self.scope["state"].setdefault("request_id", request_id)
            headers = {"Connection": "close", "X-Request-ID": request_id}
            answer = problems.answer(status, detail, request_id, headers)
            lines = (b"%s: %s\r\n" % header for header in answer.raw_headers)
            self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", bytes(answer.body))))
        self.transport.close()

    # --- what uvicorn, its transport and its parser call ---------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(cast(asyncio.Transport, Gathering(transport, self.loop)))
        self._connections.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what is done for the client."""
        self._connections.leave(self)
        super().connection_lost(exc)
        if self.task is not None:
            self.task.cancel(LEFT)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head or the trailers are too large."""
        self._head += len(data)
        super().data_received(data)
        if self._head > _MOST_HEAD and not self.transport.is_closing():
            self.refuse(431, f"the headers or trailers are longer than {_MOST_HEAD:,} bytes; send fewer")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self.refuse(400, msg)

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise ValueError("too many requests at once")  # which ends the connection
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._connections.wait(self)

    def on_headers_complete(self) -> None:
        """Note that the body begins."""
        super().on_headers_complete()
        self._in_head, self._head = False, 0

    def on_body(self, body: bytes) -> None:
        """Note that this is neither head nor trailers."""
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete; it may have been answered already."""
        super().on_message_complete()
        self._in_head, self._head = True, 0
        if self.cycle.response_complete:
            self._connections.wait(self)
        else:
            self._connections.proceed(self)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is there or on its way."""
        super().on_response_complete()
        if self.cycle.response_complete and not self._connections.is_waiting(self):
            self._connections.wait(self)

    def pause_writing(self) -> None:
        """Wait for a client that does not take its answer."""
        super().pause_writing()
        self._connections.wait(self)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self._connections.proceed(self)
