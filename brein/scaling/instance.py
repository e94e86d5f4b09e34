"""One instance of the service as its balancer sees it: its health, its load, what it is asked now."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from brein.scaling.config import BalancerConfig

_FRESH = 3  # intervals that figures are believed for: two readings may be missed
_LONGEST_REST = 60.0  # seconds, whatever an instance asks for

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """What an instance said of itself at `read_at`, in seconds: `memory` in bytes, `cpu` in busy cores.

    None where it did not say, and for `cpu`, the growth of a counter, until it said so twice.
    """

    memory: float | None
    cpu: float | None
    read_at: float


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """An instance at this moment: why it was ejected, if it was, and its load, if that is known and fresh."""

    url: str
    healthy: bool
    reason: str | None
    in_flight: int
    load: Load | None


class Instance:
    """The health and load of the instance at `url`.

    It is not healthy until it passes a check: the first one decides by itself, then `successes` passed in a
    row bring it back, and `failures` in a row eject it. A request that broke off counts like a failed check
    until another is answered; an answer does not outweigh failed checks, for an instance that drains still
    answers.
    """

    def __init__(self, url: str, config: BalancerConfig) -> None:
        self.url = url
        self.healthy = False
        self.in_flight = 0
        self._config = config
        self._reason: str | None = "not checked yet"
        self._to_pass = 1  # checks in a row, while it is ejected
        self._passed = self._failed = self._broken = 0  # in a row
        self._rests_until = 0.0
        self._load: Load | None = None
        self._counter: tuple[float, float] | None = None  # CPU seconds, and when they were read

    def passed(self) -> None:
        """Note a check that it passed."""
        self._failed = self._broken = 0
        self._passed += 1
        if not self.healthy and self._passed >= self._to_pass:
            self.healthy, self._reason = True, None
            _log.info("%s takes requests", self.url)
        self._to_pass = self._config.successes

    def failed(self, reason: str) -> None:
        """Note a check that it failed."""
        self._passed = 0
        self._failed += 1
        self._to_pass = self._config.successes
        if self.healthy:
            self._judge(reason)
        else:
            self._reason = reason

    def broke(self, reason: str) -> None:
        """Note a request whose connection was refused, reset or could not be made in time."""
        if self.healthy:
            self._broken += 1
            self._judge(reason)

    def answered(self) -> None:
        """Note a request that was answered, whatever the answer."""
        self._broken = 0

    def _judge(self, reason: str) -> None:
        if self._failed + self._broken >= self._config.failures:
            self.healthy, self._reason = False, reason
            self._passed = 0
            _log.warning("%s gets no more requests: %s", self.url, reason)

    def rest(self, seconds: float, now: float) -> None:
        """Ask it last of all for so many seconds at least, as it wants to be."""
        self._rests_until = max(self._rests_until, now + min(seconds, _LONGEST_REST))

    def rests(self, now: float) -> bool:
        """Whether it is to be asked last of all."""
        return now < self._rests_until

    def read(self, memory: float | None, cpu_seconds: float | None, now: float) -> None:
        """Note what it said of its load: bytes, and the seconds of CPU it has used in its life."""
        last, self._counter = self._counter, None
        cpu = None
        if cpu_seconds is not None:
            self._counter = cpu_seconds, now
            if last is not None and last[1] < now and last[0] <= cpu_seconds:  # else it started anew
                cpu = (cpu_seconds - last[0]) / (now - last[1])
        self._load = Load(memory, cpu, now)

    def load(self, now: float) -> Load | None:
        """What it said of itself, unless that is too long ago."""
        if self._load is None or now - self._load.read_at > _FRESH * self._config.interval:
            return None
        return self._load

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Count a request in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def status(self, now: float) -> InstanceStatus:
        """It at this moment."""
        return InstanceStatus(self.url, self.healthy, self._reason, self.in_flight, self.load(now))
