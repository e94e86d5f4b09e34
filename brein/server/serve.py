"""`python -m brein serve`: the engine over HTTP until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from pathlib import Path

import uvicorn

from brein.monitoring import http_probe
from brein.server import config, log, process
from brein.server.app import App
from brein.server.config import Reading, ServerConfig
from brein.server.connections import Connections
from brein.server.guard import Guard
from brein.server.service import Service

SUMMARY = "answer searches and questions over HTTP"

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
    address = f"server.host = {server.host!r}, server.port = {server.port}"
    with process.listening(server.host, server.port, address) as listening:  # opening may take long
        log.configure()
        with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
            runner.run(_serve(reading, key, listening))
    return 0


async def _serve(reading: Reading, key: bytes | None, listening: socket.socket) -> None:
    service = Service(reading.config.engine, reading.config.monitoring, reading.config.scaling)
    settings = reading.config.server
    http = make_server(service, settings, key)
    for name, value in reading.inert.items():
        _log.warning("inert setting", setting=name, value=value, reason="the chosen index does not have it")
    host, port = listening.getsockname()[:2]
    service.probe = http_probe(_reached(host), port)

    def stop() -> None:
        service.draining = True
        _log.info("draining", notice=settings.notice)
        asyncio.get_running_loop().call_later(settings.notice, setattr, http, "should_exit", True)

    with process.stopped_by_signals(stop):
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


def make_server(service: Service, settings: ServerConfig, key: bytes | None) -> uvicorn.Server:
    """The HTTP server of a service, which does not touch signals."""
    connections = Connections(settings.max_connections, settings.read_timeout, service.answered)
    service.connections = lambda: connections.open
    service.closed = connections.closed
    app = App(service, settings, secured=key is not None)
    app.state.connections = connections
    guarded = Guard(app, key, service.answered)
    return process.http_server(guarded, connections, settings.read_timeout, settings.drain)


def _reached(host: str) -> str:
    """An address by which this machine reaches what is bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  nothing is bound here
