"""`python -m brein serve`: the engine over HTTP until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from brein.errors import ConfigError, first_line
from brein.monitoring import http_probe
from brein.server import config, log
from brein.server.app import App
from brein.server.config import Reading, ServerConfig
from brein.server.connections import Connections
from brein.server.guard import Guard
from brein.server.service import Service

SUMMARY = "answer searches and questions over HTTP"
_BACKLOG = 2048  # connections that the system keeps for us before we take them
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_log = log.logger()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON or YAML: engine and server, or a guide's profile"
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="server.port=8081, say")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; 0 once what was under way has ended.

    Raises:
        ConfigError: of the configuration, the API key, or the address.
        BreinError: the engine cannot be opened.
    """
    reading = config.read(arguments.config, arguments.overrides)
    server = reading.config.server
    key = server.key(os.environ)
    with _listening(server) as listening:
        log.configure()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(reading, key, listening))
    return 0


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


@contextmanager
def _listening(server: ServerConfig) -> Iterator[socket.socket]:
    """A socket that listens; taken before the engine is opened, which may take long."""
    try:
        family, _, _, _, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ConfigError(
            f"server.host = {server.host!r}, server.port = {server.port}: {reason}; choose another"
        ) from None
    with listening:
        yield listening


async def _serve(reading: Reading, key: bytes | None, listening: socket.socket) -> None:
    service = Service(reading.config.engine, reading.config.monitoring, reading.config.scaling)
    settings = reading.config.server
    http = make_server(service, settings, key)
    for name, value in reading.inert.items():
        _log.warning("inert setting", setting=name, value=value, reason="the chosen index does not have it")
    host, port = listening.getsockname()[:2]
    service.probe = http_probe(_reached(host), port)
    with _stopped_by_signals(service, http, settings.notice):
        serving = asyncio.create_task(http.serve(sockets=[listening]))
        opening = asyncio.create_task(_open(service))
        _log.info("listening", host=host, port=port, secured=key is not None)
        try:
            await asyncio.wait((serving, opening), return_when=asyncio.FIRST_COMPLETED)
            if opening.done() and opening.exception() is not None:
                http.should_exit = True
            await serving
        finally:
            try:
                await opening
            finally:
                await service.close()
    _log.info("closed")


async def _open(service: Service) -> None:
    await service.open()
    if service.obstacle is None:
        _log.info("ready")


class _Server(uvicorn.Server):
    """Leaves the signals alone: it would end the process by them, once it is done."""

    def capture_signals(self) -> Any:
        return nullcontext()


def make_server(service: Service, settings: ServerConfig, key: bytes | None) -> uvicorn.Server:
    """The HTTP server of a service, which does not touch signals."""
    connections = Connections(settings.max_connections, settings.read_timeout, service.answered)
    service.connections = lambda: connections.open
    service.closed = connections.closed
    app = App(service, settings, secured=key is not None)
    app.state.connections = connections
    return _Server(
        uvicorn.Config(
            Guard(app, key, service.answered),
            http=connections.protocol,  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=int(settings.read_timeout) + 1,  # ours comes first
            timeout_graceful_shutdown=settings.drain,  # type: ignore[arg-type]
        )
    )


def _reached(host: str) -> str:
    """An address by which this machine reaches what is bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  nothing is bound here


@contextmanager
def _stopped_by_signals(service: Service, http: uvicorn.Server, notice: float) -> Iterator[None]:
    """Drain on the first signal, end at once on the second."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        _log.info("draining", notice=notice)
        loop.call_later(notice, setattr, http, "should_exit", True)

    def told(number: int, frame: FrameType | None) -> None:
        if service.draining:
            os._exit(128 + number)
        service.draining = True
        loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, told) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
