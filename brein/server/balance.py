"""`python -m brein balance`: one address in front of several instances of the service."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import httpx2
from pydantic import Field
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from brein.errors import (
    BalancerError,
    BreinError,
    ClosedError,
    ConfigError,
    DataError,
    InstanceError,
    NoHealthyInstancesError,
    OverloadedError,
    RequestTimeoutError,
    first_line,
)
from brein.scaling import BalancerConfig, LoadBalancer
from brein.server import log, process
from brein.server.body import read_body
from brein.server.connections import Connections
from brein.server.guard import Guard
from brein.server.problems import RefusedError

SUMMARY = "one address in front of several instances of the service"

_HOST = "127.0.0.1"
_STATUS: Mapping[type[BreinError], int] = {
    ClosedError: 503,
    DataError: 400,
    InstanceError: 502,
    NoHealthyInstancesError: 503,
    OverloadedError: 503,
    RequestTimeoutError: 504,
}
_PASSED_ON = b"/v1/"
_PART = 64 * 1024  # bytes of an answer that are given to the connection at once
_OF_ONE_HOP = frozenset(
    {  # RFC 9110, 7.6.1; what describes a body as it was on the wire; and what every answer gets here anew
        b"connection",
        b"content-encoding",
        b"content-length",
        b"date",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)

_log = log.logger()


class ProxyConfig(BalancerConfig):
    """Settings of the balancer as a process: also how many connections it has, and how long they may take."""

    max_connections: int = Field(
        500, ge=1, le=100_000, description="open at once; beyond, the one that waited longest is closed"
    )
    read_timeout: float = Field(
        30.0, gt=0, le=3600, description="seconds in which a connection sends its next request, all of it"
    )


class Proxy:
    """An ASGI application, behind a `Guard`, that has the instances of a balancer answer what is under /v1/.

    It answers /health/live and /health/ready for itself; ready means that an instance is. A body is held
    whole, so that it can be sent twice, and so that an instance that dies does not leave half an answer;
    all that are held take no more than the balancer's room.
    """

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            RefusedError: it is not for this, cannot be answered now, or an instance does not.
        """
        try:
            if scope["raw_path"].startswith(_PASSED_ON):
                await self._pass_on(scope, receive, send)
            else:
                await self._own(scope["raw_path"])(scope, receive, send)
        except (BalancerError, ClosedError, DataError) as error:
            raise RefusedError(_STATUS[type(error)], str(error)) from None

    def _own(self, path: bytes) -> Response:
        if path == b"/health/live":
            return JSONResponse({"status": "live"})
        if path == b"/health/ready":
            self._balancer.get_healthy_instance()  # raises where there is none
            statuses = self._balancer.statuses()
            return JSONResponse({"status": "ready", "instances": [asdict(status) for status in statuses]})
        raise RefusedError(404, "the balancer passes on /v1/ and nothing else")

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        balancer, headers = self._balancer, dict(scope["headers"])
        now = asyncio.get_running_loop().time
        begun = now()
        with balancer.room.held() as take:
            content = await read_body(headers, receive, balancer.config.max_body, take)
            limit = headers.get(b"request-timeout")  # in the guard's bounds
            answer = await balancer.request(
                scope["method"],
                _target(scope),
                content=content,
                headers=[
                    *_end_to_end(scope["headers"]),
                    (b"x-request-id", scope["state"]["request_id"].encode()),
                ],
                timeout=None if limit is None else max(float(limit) - (now() - begun), 1e-3),
            )
            take(len(answer.content))  # which the balancer has just given back
            await _reply(scope["method"], answer, send)


def _target(scope: Scope) -> str:
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return (path + (b"?" + query if query else b"")).decode("latin-1")


def _end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that go on to the next."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {
        token.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for token in value.split(b",")
    }
    return [(name, value) for name, value in lowered if name not in _OF_ONE_HOP | named]


async def _reply(method: str, answer: httpx2.Response, send: Send) -> None:
    """Answer as an instance did; where the client does not read, most of it waits here, and is counted."""
    headers, body = _end_to_end(answer.headers.raw), answer.content
    length: str | None = str(len(body))
    if method == "HEAD":  # what the body would have
        length = answer.headers.get("Content-Length")
    elif answer.status_code in (httpx2.codes.NO_CONTENT, httpx2.codes.NOT_MODIFIED):  # RFC 9110, 8.6
        length = None
    if length is not None:
        headers.append((b"content-length", length.encode()))
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    for start in range(0, len(body) or 1, _PART):
        end = start + _PART
        await send({"type": "http.response.body", "body": body[start:end], "more_body": end < len(body)})


# --- the process -------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("instances", metavar="URL", nargs="+", help="an instance: http://host:port")
    parser.add_argument("--port", type=int, default=8000, help=f"of {_HOST}; 0: any that is free (8000)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON, settings of the balancer")


def run(arguments: argparse.Namespace) -> int:
    """Balance on loopback until SIGTERM or SIGINT; 0 once what was under way has ended.

    Raises:
        ConfigError: a URL, the port or the configuration file does not serve.
    """
    config = ProxyConfig() if arguments.config is None else _read(arguments.config)
    balancer = LoadBalancer(arguments.instances, config)
    if not 0 <= arguments.port <= 65_535:
        raise ConfigError(f"--port = {arguments.port}: must be from 0 to 65535")
    with process.listening(_HOST, arguments.port, f"--port = {arguments.port}") as listening:
        log.configure()
        logging.getLogger("brein").setLevel(logging.INFO)  # to tell of instances that come and go
        with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
            runner.run(_serve(balancer, config, listening))
    return 0


async def _serve(balancer: LoadBalancer, config: ProxyConfig, listening: socket.socket) -> None:
    connections = Connections(config.max_connections, config.read_timeout, _uncounted)
    app = Guard(Proxy(balancer), None, _uncounted)
    server = process.http_server(app, connections, config.read_timeout, math.ceil(config.timeout))

    def stop() -> None:
        _log.info("draining")
        server.should_exit = True

    host, port = listening.getsockname()
    with process.stopped_by_signals(stop):
        _log.info("listening", host=host, port=port)
        async with balancer:
            await server.serve(sockets=[listening])
    _log.info("closed")


def _uncounted(route: str | None, status: int) -> None:
    """The instances count what they answer; the log has the rest."""


def _read(path: Path) -> ProxyConfig:
    try:
        return ProxyConfig.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--config = {path}: {first_line(error)}; give a JSON file") from None
