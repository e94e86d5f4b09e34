"""What stands in front of every route: ids, the key, deadlines, the log, and a last answer to any error."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from brein.server import log, problems
from brein.server.identity import id_from
from brein.server.problems import RefusedError

LIVE_PAGE = "/dashboard"  # it asks for the key to get its figures with
LEAST_TIMEOUT, MOST_TIMEOUT = 0.01, 86_400.0  # seconds that a client may allow
_NUMBER = re.compile(rb"\d+(\.\d*)?([eE][-+]?\d+)?")
_THIS_MACHINE = re.compile(rb"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.IGNORECASE)
_HEALTH = "/health/"  # asked every second or so, by balancers and by the service itself
_OPEN = frozenset({LIVE_PAGE, "/docs", "/openapi.json"})  # these, and what is below the next, need no key
_OPEN_BELOW = (_HEALTH, "/docs/parts/")
_LEFT = 499  # logged and counted, never sent: the client left before its answer

_log = log.logger()


class Guard:
    """An ASGI application around another. `key` None: none is asked for, and browsers are kept out by name.
    `answered` is told each request's route and status.

    Plain ASGI and no task of its own: a search that is cached takes little longer than this may.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: bytes | None,
        answered: Callable[[str | None, int], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._key = key
        self._answered = answered
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = self._clock(), _LEFT
        headers: dict[bytes, bytes] = dict(scope["headers"])
        state = scope.setdefault("state", {})
        request_id: str = state.setdefault("request_id", id_from(headers.get(b"x-request-id")))
        bind_contextvars(request_id=request_id)

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        connection = state.get("connection")
        if connection is not None:
            connection.task = asyncio.current_task()
        try:
            problem = await self._problem(scope, headers, receive, reply)
            if problem and status == _LEFT and not (connection and connection.transport.is_closing()):
                await problem(scope, receive, reply)
        finally:
            if connection is not None:
                connection.task = None
                if status == _LEFT and connection.refused:
                    status = connection.refused
            route = getattr(scope.get("route"), "path_format", None)
            self._answered(route, status)
            tell = _log.debug if status == HTTPStatus.OK and scope["path"].startswith(_HEALTH) else _log.info
            tell(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                seconds=round(self._clock() - started, 6),
            )

    async def _problem(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> Response | None:
        """Have a request answered; where it was not, what there is to say."""
        request_id = scope["state"]["request_id"]
        try:
            self._check(scope["path"], headers)
            await self._within(_timeout(headers), scope, receive, send)
        except RefusedError as error:
            return problems.answer(error.status, str(error), request_id, error.headers)
        except asyncio.CancelledError:  # the client left, or the time to drain is over
            return problems.answer(503, "the service is stopping; ask another", request_id)
        except Exception:
            _log.exception("an error of the service itself")
            return problems.answer(500, "an error of the service; its log says more", request_id)
        return None

    def _check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        if self._key is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            known = hmac.compare_digest(given, self._key) and scheme.lower() == b"bearer"
            if not known and path not in _OPEN and not path.startswith(_OPEN_BELOW):
                raise RefusedError(
                    401, "give the API key as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
                )
        elif not _THIS_MACHINE.fullmatch(headers.get(b"host", b"localhost")):
            # A page in this machine's browser could reach us under a name of its own that leads here.
            raise RefusedError(
                421,
                "without an API key only localhost is served; ask for it by that name, or configure a key",
            )

    async def _within(self, seconds: float | None, scope: Scope, receive: Receive, send: Send) -> None:
        if seconds is None:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(seconds) as limit:
                await self._app(scope, receive, send)
        except TimeoutError:
            if not limit.expired():
                raise
            raise RefusedError(504, f"no answer within Request-Timeout: {seconds:g} s") from None


def _timeout(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds that the client waits, as `Request-Timeout` says."""
    given = headers.get(b"request-timeout")
    if given is None:
        return None
    if _NUMBER.fullmatch(given) and LEAST_TIMEOUT <= (seconds := float(given)) <= MOST_TIMEOUT:
        return seconds
    raise RefusedError(
        400, f"Request-Timeout must be a number of seconds from {LEAST_TIMEOUT:g} to {MOST_TIMEOUT:,.0f}"
    )
