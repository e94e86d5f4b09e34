"""A process that serves HTTP: its socket, its event loop, its server, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from brein.errors import ConfigError, first_line
from brein.server.connections import Connections

_BACKLOG = 2048  # connections that the system keeps for us before we take them
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def listening(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    """A socket that listens; `setting` is what an error calls the address.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"{setting}: {error.strerror or first_line(error)}; choose another") from None
    with made:
        yield made


def loop_factory() -> Any:
    """What makes the event loop; None: the default."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


class _Server(uvicorn.Server):
    """Leaves the signals alone: it would end the process by them, once it is done."""

    def capture_signals(self) -> Any:
        return nullcontext()


def http_server(app: ASGIApp, connections: Connections, read_timeout: float, drain: float) -> uvicorn.Server:
    """An HTTP server that does not touch signals, for connections that wait `read_timeout` seconds.

    Once its `should_exit` is set, requests under way have `drain` seconds to end.
    """
    return _Server(
        uvicorn.Config(
            app,
            http=connections.protocol,  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=int(read_timeout) + 1,  # that of `connections` comes first
            timeout_graceful_shutdown=drain,  # type: ignore[arg-type]
        )
    )


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Have the event loop call `stop` on the first SIGINT or SIGTERM; the second ends the process at once."""
    loop = asyncio.get_running_loop()
    is_told = False

    def told(number: int, frame: FrameType | None) -> None:
        nonlocal is_told
        if sys.platform != "win32":
            signal.alarm(0)  # of the handler Ray puts before this one: it would abort in 3 s
        if is_told:
            os._exit(128 + number)
        is_told = True
        loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, told) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
