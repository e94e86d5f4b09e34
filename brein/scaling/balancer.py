"""Asks several instances of the service as if they were one."""

from __future__ import annotations

import asyncio
import math
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Self

import httpx2

from brein.bounded import Take, bounded, count
from brein.errors import (
    ClosedError,
    ConfigError,
    DataError,
    InstanceError,
    NoHealthyInstancesError,
    OverloadedError,
    RequestTimeoutError,
    first_line,
)
from brein.scaling.checks import check, read_load
from brein.scaling.config import BalancerConfig
from brein.scaling.instance import Instance, InstanceStatus
from brein.scaling.retries import RetryBudget
from brein.scaling.room import Room
from brein.scaling.routing import RequestType, choose

_JITTER = 0.2  # of the interval: checks of several balancers spread by themselves
_KEPT_ALIVE = 2.0  # seconds an idle connection is kept; the service closes it after its read_timeout, 30
_SHORTEST = 0.01  # seconds: the service takes no shorter Request-Timeout
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout)  # then the instance has not seen the request


@dataclass(frozen=True, slots=True)
class Route:
    """What is known of the requests of a route: their type, and whether one may be done twice."""

    type: RequestType
    repeatable: bool


ROUTES = {
    ("POST", "/v1/search"): Route("general", repeatable=True),
    ("POST", "/v1/ask"): Route("cpu_heavy", repeatable=True),
    # By id it could be done twice, but at its full cost, and over what another client wrote in between.
    ("POST", "/v1/documents"): Route("memory_heavy", repeatable=False),
}
_IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")  # RFC 9110, 9.2.2


@dataclass(frozen=True, slots=True)
class _Call:
    """A request, to be sent to one instance or another before `deadline`."""

    method: str
    path: str
    content: bytes
    headers: httpx2.Headers
    repeatable: bool
    deadline: float
    take: Take  # the bytes of its answer

    def to(self, instance: Instance, left: float) -> httpx2.Request:
        """It as it is sent to this instance, which has so many seconds left for it."""
        try:
            raw_path = self.path.encode("ascii")
            url = httpx2.URL(instance.url).copy_with(raw_path=raw_path)
            if url.raw_path != raw_path:  # /v1/../metrics, or something else than was checked before
                raise httpx2.InvalidURL(f"it is {url.raw_path.decode()!r:.80} in its normal form")
            request = httpx2.Request(self.method, url, headers=self.headers, content=self.content)
        except (httpx2.InvalidURL, UnicodeError) as error:
            problem = f"{self.path!r:.80} cannot be asked for: {first_line(error)}; percent-encode it"
            raise DataError(problem) from None
        request.headers["Accept-Encoding"] = "identity"  # as long as it says, and what `max_body` bounds
        request.headers["Request-Timeout"] = f"{left:.3f}"
        request.extensions["take"] = self.take
        return request


class LoadBalancer:
    """Sends requests to instances of the service that are alike: same documents, same configuration.

    `instances` are their URLs. Each is checked at intervals, and only those that pass are asked; see
    `Instance` for when one is ejected and returns, and `choose` for which one gets a request. Used from one
    event loop, whose clock all times are read from, as an async context manager: entering it checks every
    instance once, leaving it closes it. `transport` sends the requests, and chance comes from `random`.
    `room` is where answers are held until `request` gives them to its caller; whoever holds more, such as
    the proxy, takes it from there, too.

    Raises:
        ConfigError: there is no instance, one is no http or https URL of a host, or is there twice; or there
            is no API key where `key_variable` says.
    """

    def __init__(
        self,
        instances: Sequence[str],
        config: BalancerConfig | None = None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        random: Random | None = None,
    ) -> None:
        self.config = config = config or BalancerConfig()
        self.room = Room(config.max_held)
        self._instances = [Instance(url, config) for url in _origins(instances)]
        self._random = random or Random()  # noqa: S311  a choice, no secret
        self._key = _key(config)
        self._budget = RetryBudget(config.retry_share, config.retry_floor)
        self._client = httpx2.AsyncClient(
            transport=transport,
            timeout=None,  # those of checks and requests are ours
            trust_env=False,  # no proxies between
            limits=httpx2.Limits(
                max_keepalive_connections=config.max_in_flight, keepalive_expiry=_KEPT_ALIVE
            ),
            event_hooks={"response": [bounded(config.max_body, self._too_long), _counted]},
        )
        self._watching: list[asyncio.Task[None]] = []
        self._closed = False
        self._in_hand = 0
        self._idle = asyncio.Event()  # set while nothing is in hand
        self._idle.set()

    async def __aenter__(self) -> Self:
        for look in (self._check, self._read_load):
            await asyncio.gather(*map(look, self._instances))
        self._watching = [
            asyncio.create_task(self._watch(look, instance))
            for look in (self._check, self._read_load)
            for instance in self._instances
        ]
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuse new requests, let those in hand have their outcome, and end the checks.

        Takes `timeout` at the longest. Where this is cancelled, requests in hand break off.
        """
        self._closed = True
        try:
            await self._idle.wait()
        finally:
            for task in self._watching:
                task.cancel()
            await asyncio.gather(*self._watching, return_exceptions=True)
            await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] = (),
        request_type: RequestType | None = None,
        timeout: float | None = None,
    ) -> httpx2.Response:
        """Have an instance answer, whatever the status of its answer.

        `path` begins with / and may have a query; it is sent as it is. `timeout` in seconds, at most the
        configured one, is passed on as `Request-Timeout`, less what is gone of it; `X-Request-ID` is made up
        where `headers` have none. Without `request_type` it is that of the route.

        Where an instance breaks off or answers 503, a request that may be done twice is repeated: at once, by
        an instance that has not been asked yet, within the budget and the timeout. Any other is repeated only
        where no connection could be made. Where no repeat is possible the 503 is the answer. Cancelling this
        closes the connection.

        Raises:
            NoHealthyInstancesError: every instance is ejected.
            InstanceError: the last one asked broke off, or sent more than `max_body`.
            RequestTimeoutError: there was no answer in time.
            OverloadedError: `max_in_flight` requests are in hand, or `max_held` bytes held.
            DataError: the path or a header cannot be sent, `content` is longer than `max_body`, or `timeout`
                is not greater than 0.
            ClosedError: the balancer is closed.
        """
        if timeout is not None and not timeout > 0:
            raise DataError(f"timeout = {timeout!r}: must be greater than 0 seconds")
        seconds = self.config.timeout if timeout is None else min(timeout, self.config.timeout)
        route = ROUTES.get((method, path.partition("?")[0]), Route("general", method in _IDEMPOTENT))
        if len(content) > self.config.max_body:
            raise DataError(
                f"content has {len(content)} bytes, max_body = {self.config.max_body}; send less at once"
            )
        with self._admitted(), self.room.held() as take:
            deadline = self._now() + seconds
            call = _Call(method, path, content, _completed(headers), route.repeatable, deadline, take)
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._ask(call, request_type or route.type)
            except TimeoutError:
                raise RequestTimeoutError(
                    f"{method} {path}: no answer within {seconds:g} s; give it longer, or ask again later"
                ) from None

    def get_healthy_instance(self, request_type: RequestType = "general") -> str:
        """The URL of the instance that a request of this type would go to now.

        Raises:
            NoHealthyInstancesError: every instance is ejected.
        """
        return self._choose(request_type).url

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """Every instance at this moment, in the order given."""
        now = self._now()
        return tuple(instance.status(now) for instance in self._instances)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._closed:
            raise ClosedError("the balancer is closed and takes no more requests; make another")
        if self._in_hand >= self.config.max_in_flight:
            raise OverloadedError(
                f"{self._in_hand} requests are in hand, max_in_flight = {self.config.max_in_flight}; "
                "ask again later"
            )
        self._in_hand += 1
        self._idle.clear()
        self._budget.deposit()
        try:
            yield
        finally:
            self._in_hand -= 1
            if not self._in_hand:
                self._idle.set()

    def _healthy(self, asked: Sequence[Instance] = ()) -> list[Instance]:
        return [each for each in self._instances if each.healthy and each not in asked]

    def _choose(self, request_type: RequestType, asked: Sequence[Instance] = ()) -> Instance:
        healthy = self._healthy(asked)
        if not healthy:
            reasons = "; ".join(f"{status.url}: {status.reason}" for status in self.statuses())
            raise NoHealthyInstancesError(
                f"none of {len(self._instances)} instances can be asked ({reasons}); see that they run"
            )
        return choose(healthy, request_type, self._now(), self._random)

    async def _ask(self, call: _Call, request_type: RequestType) -> httpx2.Response:
        """Ask one instance after the other, until one answers or no repeat is possible."""
        asked: list[Instance] = []
        while True:
            instance = self._choose(request_type, asked)
            asked.append(instance)
            answer: httpx2.Response | httpx2.RequestError
            try:
                answer = await self._send(instance, call)
                again = call.repeatable and answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE
            except httpx2.RequestError as error:
                answer = error
                again = call.repeatable or isinstance(error, _UNSENT)
            if again and self._may_repeat(call, asked):
                continue
            if isinstance(answer, httpx2.Response):
                return answer
            raise InstanceError(
                f"{instance.url} broke off at try {len(asked)} ({_reason(answer)}), and the request is not "
                "repeated; ask again later"
            ) from answer

    def _may_repeat(self, call: _Call, asked: Sequence[Instance]) -> bool:
        """Whether there is the time, another instance, and the budget, of which this takes."""
        in_time = call.deadline - self._now() >= _SHORTEST
        return in_time and bool(self._healthy(asked)) and self._budget.withdraw()

    async def _send(self, instance: Instance, call: _Call) -> httpx2.Response:
        """Have this instance answer, and note what that says of it."""
        left = call.deadline - self._now()
        if left < _SHORTEST:
            raise TimeoutError
        request = call.to(instance, left)
        request.extensions["timeout"] = {"connect": self.config.check_timeout}  # the rest is the deadline's
        with instance.asked():
            try:
                response = await self._client.send(request)
            except httpx2.LocalProtocolError as error:
                raise DataError(f"the request cannot be sent: {first_line(error)}; see its headers") from None
            except httpx2.RequestError as error:
                instance.broke(_reason(error))
                raise
        instance.answered()
        if response.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
            instance.rest(_retry_after(response), self._now())
        return response

    async def _watch(self, look: Callable[[Instance], Awaitable[None]], instance: Instance) -> None:
        """Look at intervals, from the beginning of one look to that of the next."""
        await asyncio.sleep(self._pause())
        while True:
            await asyncio.gather(look(instance), asyncio.sleep(self._pause()))

    def _pause(self) -> float:
        return self.config.interval * (1 - _JITTER * self._random.random())

    async def _check(self, instance: Instance) -> None:
        await check(instance, self._client, self.config.check_timeout)

    async def _read_load(self, instance: Instance) -> None:
        if instance.healthy:
            await read_load(instance, self._client, self._key, self.config.check_timeout)

    def _too_long(self) -> InstanceError:
        return InstanceError(f"an instance sends more than max_body = {self.config.max_body} bytes; raise it")


async def _counted(response: httpx2.Response) -> None:
    """Count the body of an answer to a call."""
    take = response.request.extensions.get("take")
    if take is not None:
        count(response, take)


def _origins(instances: Sequence[str]) -> list[str]:
    if not instances:
        raise ConfigError("instances are none; give the URL of at least one")
    origins: list[str] = []
    for instance in instances:
        try:
            url = httpx2.URL(instance)
        except httpx2.InvalidURL as error:
            raise ConfigError(f"an instance is no URL ({first_line(error)}); give http://host:port") from None
        if url.scheme not in ("http", "https") or not url.host or url.raw_path != b"/" or url.userinfo:
            # Its representation hides a password.
            raise ConfigError(
                f"instance {url!r} is no http or https URL of a host alone; give http://host:port"
            )
        origins.append(f"{url.scheme}://{url.netloc.decode()}")
    if len(set(origins)) < len(origins):
        raise ConfigError(f"instances {', '.join(origins)} are not all different; give each once")
    return origins


def _key(config: BalancerConfig) -> str | None:
    if config.key_variable is None:
        return None
    key = os.environ.get(config.key_variable, "").strip()
    if not key or not key.isascii():
        raise ConfigError(
            f"key_variable = {config.key_variable!r}: the environment variable holds no key in ASCII; set it"
        )
    return key


def _completed(headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]]) -> httpx2.Headers:
    try:
        completed = httpx2.Headers(headers)
    except UnicodeError as error:
        raise DataError(f"headers cannot be sent: {first_line(error)}; give bytes, or ASCII") from None
    completed.setdefault("X-Request-ID", uuid.uuid4().hex)
    return completed


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _retry_after(response: httpx2.Response) -> float:
    """Seconds an instance wants to be left alone; 0 where it gives none, or a date."""
    try:
        seconds = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
