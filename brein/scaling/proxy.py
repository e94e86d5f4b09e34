"""One address in front of several instances of the service: `python -m brein balance URL URL …`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

import httpx2
import uvicorn

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
from brein.scaling.balancer import LoadBalancer
from brein.scaling.config import BalancerConfig

SUMMARY = "one address in front of several instances of the service"

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

_STATUSES: dict[type[BreinError], HTTPStatus] = {
    ClosedError: HTTPStatus.SERVICE_UNAVAILABLE,
    DataError: HTTPStatus.BAD_REQUEST,
    InstanceError: HTTPStatus.BAD_GATEWAY,
    NoHealthyInstancesError: HTTPStatus.SERVICE_UNAVAILABLE,
    OverloadedError: HTTPStatus.SERVICE_UNAVAILABLE,
    RequestTimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
}
_PASSED_ON = b"/v1/"
# A page in this machine's browser could reach us under a name of its own that leads here.
_THIS_MACHINE = re.compile(rb"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.IGNORECASE)
_OF_ONE_HOP = {  # RFC 9110, 7.6.1; and what describes a body as it was on the wire
    b"connection",
    b"content-encoding",
    b"content-length",
    b"host",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}


class Proxy:
    """An ASGI application that has the instances of a balancer answer what is asked under /v1/.

    It answers /health/live and /health/ready for itself; ready means that an instance is. A body is held
    whole, at most `max_body` bytes of it, so that it can be sent twice, and so that an instance that dies
    does not leave half an answer. Whoever goes away has their request cancelled.
    """

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path: bytes = scope["raw_path"]
        host = next((value for name, value in scope["headers"] if name == b"host"), b"localhost")
        if not _THIS_MACHINE.fullmatch(host):
            await _refuse(send, HTTPStatus.MISDIRECTED_REQUEST, "only localhost is served; ask by that name")
        elif path.startswith(_PASSED_ON):
            await self._pass_on(scope, receive, send)
        elif path == b"/health/live":
            await _tell(send, HTTPStatus.OK, {"status": "live"})
        elif path == b"/health/ready":
            await self._say_whether_ready(send)
        else:
            await _refuse(send, HTTPStatus.NOT_FOUND, "the balancer passes on /v1/ and nothing else")

    async def _say_whether_ready(self, send: Send) -> None:
        statuses = self._balancer.statuses()
        instances = {"instances": [asdict(status) for status in statuses]}
        if any(status.healthy for status in statuses):
            await _tell(send, HTTPStatus.OK, {"status": "ready", **instances})
        else:
            await _refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, "every instance is ejected", **instances)

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except (BalancerError, ClosedError, DataError) as error:
            await _refuse(send, _STATUSES[type(error)], str(error))
        except _TooLongError:
            problem = f"the body is longer than max_body = {self._balancer.config.max_body} bytes"
            await _refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)
        else:
            if response is not None:
                await _respond(
                    send, response.status_code, _end_to_end(response.headers.raw), response.content
                )

    async def _answer(self, scope: Message, receive: Receive) -> httpx2.Response | None:
        """What an instance answers; None where nobody waits for it any more."""
        config = self._balancer.config
        seconds = _timeout(scope["headers"], config.timeout)
        now = asyncio.get_running_loop().time
        deadline = now() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                content = await _body(receive, config.max_body)
        except TimeoutError:
            raise RequestTimeoutError(f"the body was not here within {seconds:g} s; send it faster") from None
        if content is None:
            return None
        query = scope["query_string"]
        asking = self._balancer.request(
            scope["method"],
            (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1"),
            content=content,
            headers=_end_to_end(scope["headers"]),
            timeout=max(deadline - now(), 0.001),
        )
        return await _unless_gone(asking, receive)


class _TooLongError(Exception):
    """A body is longer than it may be."""


async def _body(receive: Receive, most: int) -> bytes | None:
    """The whole body of a request; None where its sender has gone."""
    parts: list[bytes] = []
    room = most
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        room -= len(parts[-1])
        if room < 0:
            raise _TooLongError
        if not message.get("more_body", False):
            return b"".join(parts)


async def _unless_gone(
    asking: Coroutine[Any, Any, httpx2.Response], receive: Receive
) -> httpx2.Response | None:
    """The outcome of `asking`; None, and that cancelled, where whoever waits for it goes away first."""
    answering = asyncio.ensure_future(asking)
    going = asyncio.ensure_future(receive())  # after the body, the next message is that they have gone
    try:
        await asyncio.wait((answering, going), return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        answering.cancel()
        going.cancel()
        await asyncio.gather(answering, going, return_exceptions=True)


def _timeout(headers: Headers, most: float) -> float:
    """Seconds that the caller waits for an answer, `most` where it does not say.

    Raises:
        DataError: it says so in no number greater than 0.
    """
    given = next((value for name, value in headers if name == b"request-timeout"), None)
    if given is None:
        return most
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise DataError(f"Request-Timeout = {given!r:.80}: must be a number of seconds greater than 0")
    return min(seconds, most)


def _end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers that are not those of one connection only."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {
        token.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for token in value.split(b",")
    }
    return [(name, value) for name, value in lowered if name not in _OF_ONE_HOP | named]


async def _refuse(send: Send, status: HTTPStatus, detail: str, **more: object) -> None:
    """Answer with a problem (RFC 9457)."""
    problem = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        **more,
    }
    await _tell(send, status, problem, b"application/problem+json")


async def _tell(
    send: Send, status: HTTPStatus, content: dict[str, Any], media_type: bytes = b"application/json"
) -> None:
    headers = [(b"content-type", media_type)]
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"1"))
    await _respond(send, status, headers, json.dumps(content).encode())


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):  # RFC 9110, 8.6
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("instances", metavar="URL", nargs="+", help="an instance: http://host:port")
    parser.add_argument("--port", type=int, default=8000, help="of 127.0.0.1; 0: any that is free (8000)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON, settings of the balancer")


def run(arguments: argparse.Namespace) -> int:
    """Balance on loopback until SIGTERM or SIGINT; 0 once what was under way has ended.

    Raises:
        ConfigError: a URL, the port or the configuration file does not serve.
    """
    config = BalancerConfig() if arguments.config is None else _read(arguments.config)
    balancer = LoadBalancer(arguments.instances, config)
    with _listening(arguments.port) as listening:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request
        host, port = listening.getsockname()
        sys.stderr.write(f"balancing on http://{host}:{port}\n")
        server = uvicorn.Config(
            Proxy(balancer),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,  # an instance's answer has one
            timeout_graceful_shutdown=math.ceil(config.timeout),
        )
        with asyncio.Runner(loop_factory=server.get_loop_factory()) as runner:
            runner.run(_serve(server, balancer, listening))
    return 0


async def _serve(server: uvicorn.Config, balancer: LoadBalancer, listening: socket.socket) -> None:
    async with balancer:
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more when it has drained
        await uvicorn.Server(server).serve([listening])


def _listening(port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise ConfigError(f"--port = {port}: must be from 0 to 65535")
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(f"--port = {port}: {first_line(error)}; choose another") from None


def _read(path: Path) -> BalancerConfig:
    try:
        return BalancerConfig.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--config = {path}: {first_line(error)}; give a JSON file") from None
