"""The performance guide's KPIs: what must be, and over a window of the last minutes, what is."""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

import psutil

from brein.agents import AgentStats
from brein.cache import CacheStats
from brein.metrics import KPI_STATE, KPI_TARGET, KPI_VALUE, Reading, disk_bytes
from brein.monitoring.alerts import Direction, Rule
from brein.monitoring.monitor import PerformanceMonitor, Statistics, needed

State = Literal["met", "missed", "unknown"]
STATES: tuple[State, ...] = ("met", "missed", "unknown")

# What the monitor knows these by; the lab has the same names where it measures the same.
LATENCY = "query.latency"  # seconds, of answered queries, tagged with their kind
FAILED = "query.failed"  # 1 for every query that the service failed, tagged with kind and outcome
CPU, MEMORY, DISK, NETWORK = "system.cpu", "system.memory", "system.disk_rate", "system.network_latency"
WAITING = "agents.waiting"  # requests that wait for any agent
CACHE_HITS, CACHE_LOOKUPS = "cache.hits", "cache.lookups"  # of the search cache, in any level

LEAST_SAMPLES = 30  # of the machine, for a mean over the window
LEAST_PROBES = 10
LEAST_LOOKUPS = 100
LEAST_QUERIES = 1000  # below, one failure alone would be more than the 0.1% that are allowed
LEAST_FAILURES = 2  # so many are more than 0.1% of fewer queries
_THROUGHPUT = 100.0  # queries a second


class _UnknownError(Exception):
    """Why a KPI cannot be told."""


@dataclass(frozen=True, slots=True)
class Target:
    """A KPI and its bound: met strictly `within` ("below" or "above") it. `measured` says how it is read.

    `excuse` gives the reason why a value beyond the bound is no miss, or None.
    """

    name: str
    title: str
    within: Direction
    bound: float
    unit: Literal["ratio", "seconds", "bytes/s", "queries/s"]
    measured: str
    read: Callable[[_Window], float]
    excuse: Callable[[_Window], str | None] = lambda _: None

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return value < self.bound if self.within == "below" else value > self.bound


@dataclass(frozen=True, slots=True)
class Kpi:
    """A target, and how it stands: the value (None: there is none) and, unless it is met, the reason."""

    target: Target
    state: State
    value: float | None
    reason: str | None = None


class Health:
    """Judges the KPIs by what a monitor has of the last `window` seconds."""

    def __init__(self, monitor: PerformanceMonitor, window: float = 300.0) -> None:
        self._monitor = monitor
        self._window = window

    def evaluate(self) -> tuple[Kpi, ...]:
        """Every KPI of `TARGETS`, as it stands now."""
        window = _Window(self._monitor, self._window)
        return tuple(_judge(target, window) for target in TARGETS)


def _judge(target: Target, window: _Window) -> Kpi:
    try:
        value = target.read(window)
    except _UnknownError as unknown:
        return Kpi(target, "unknown", None, str(unknown))
    if target.holds(value):
        return Kpi(target, "met", value)
    if (excuse := target.excuse(window)) is not None:
        return Kpi(target, "unknown", value, excuse)
    return Kpi(target, "missed", value, f"must be {target.within} {target.bound:g} {target.unit}")


class _Window:
    """What the KPIs are read from."""

    def __init__(self, monitor: PerformanceMonitor, seconds: float) -> None:
        self._monitor = monitor
        self._seconds = seconds
        self._now = monitor.clock()
        self._found: dict[tuple[str, str | None], Statistics] = {}  # several KPIs ask the same

    def of(self, name: str, unanswered: str | None = None) -> Statistics:
        asked = name, unanswered
        if asked not in self._found:
            self._found[asked] = self._monitor.statistics(name, self._seconds, unanswered=unanswered)
        return self._found[asked]

    def rate(self, name: str) -> float:
        """Values a second."""
        found = self.of(name)
        span = self._now - found.since
        return found.count / span if span > 0 else 0.0

    def total(self, name: str) -> float:
        found = self.of(name)
        return found.count * (found.mean or 0.0)

    def mean(self, name: str, least: int) -> float:
        found = self.of(name)
        if found.mean is None or found.count < least:
            raise _UnknownError(f"{found.count} samples, at least {least} are needed")
        return found.mean

    def largest(self, name: str) -> float:
        found = self.of(name)
        if found.max is None:
            raise _UnknownError("no samples")
        return found.max

    def share(self, name: str, least: int) -> float:
        """Of the samples, how many are above 0; none where there are too few to say."""
        values = self._monitor.values(name, self._seconds)[:, 1]
        return float((values > 0).mean()) if len(values) >= least else 0.0


def _p95(window: _Window) -> float:
    found = window.of(LATENCY, unanswered=FAILED)
    if found.p95 is None:
        raise _UnknownError(f"{found.count + found.unanswered} queries, at least {needed(0.95)} are needed")
    return found.p95


def _throughput(window: _Window) -> float:
    return window.rate(LATENCY)


def _not_asked_for_more(window: _Window) -> str | None:
    asked = window.rate(LATENCY) + window.rate(FAILED)
    if asked > _THROUGHPUT or window.share(WAITING, LEAST_SAMPLES) >= 0.5:
        return None
    return f"no more was asked for: {asked:.3g} queries/s, and few waited"


def _errors(window: _Window) -> float:
    failed, answered = window.of(FAILED).count, window.of(LATENCY).count
    if failed + answered < LEAST_QUERIES and failed < LEAST_FAILURES:
        raise _UnknownError(f"{failed + answered} queries, at least {LEAST_QUERIES:,} are needed")
    return window.rate(FAILED) / (window.rate(FAILED) + window.rate(LATENCY))


def _hit_rate(window: _Window) -> float:
    lookups = window.total(CACHE_LOOKUPS)
    if lookups < LEAST_LOOKUPS:
        raise _UnknownError(f"{lookups:g} look-ups, at least {LEAST_LOOKUPS} are needed")
    return window.total(CACHE_HITS) / lookups


TARGETS = (
    Target(
        "cpu", "CPU utilisation", "below", 0.80, "ratio",
        "mean over the machine's cores and the window", partial(_Window.mean, name=CPU, least=LEAST_SAMPLES),
    ),
    Target(
        "memory", "Memory in use", "below", 0.90, "ratio",
        "most in the window of the machine's memory that was not available",
        partial(_Window.largest, name=MEMORY),
    ),
    Target(
        "disk", "Disk traffic", "below", 50e6, "bytes/s",
        "mean of what this process had read and written",
        partial(_Window.mean, name=DISK, least=LEAST_SAMPLES),
    ),
    Target(
        "network", "Network latency", "below", 0.010, "seconds",
        "mean round trip of a request for this instance's own liveness; none: its timeout",
        partial(_Window.mean, name=NETWORK, least=LEAST_PROBES),
    ),
    Target(
        "latency", "Query latency, p95", "below", 0.200, "seconds",
        "of all queries, those that failed as the slowest", _p95,
    ),
    Target(
        "throughput", "Throughput", "above", _THROUGHPUT, "queries/s",
        "answered queries; missed only where more was asked for", _throughput, _not_asked_for_more,
    ),
    Target(
        "errors", "Error rate", "below", 0.001, "ratio",
        "queries refused, timed out or failed, of these and the answered", _errors,
    ),
    Target(
        "hit_rate", "Cache hit rate", "above", 0.70, "ratio",
        "look-ups of search results that any level of the cache answered", _hit_rate,
    ),
)  # fmt: skip


def readings(kpis: tuple[Kpi, ...]) -> Iterator[Reading]:
    """The KPIs as metrics."""
    for kpi in kpis:
        name = kpi.target.name
        yield KPI_TARGET, (name, kpi.target.unit), kpi.target.bound
        if kpi.value is not None:
            yield KPI_VALUE, (name, kpi.target.unit), kpi.value
        for state in STATES:
            yield KPI_STATE, (name, state), float(kpi.state == state)


def report(kpis: tuple[Kpi, ...]) -> dict[str, Any]:
    """The KPIs for JSON: `state` is missed where any is, else met where all are, else unknown.

    A value that is infinite, or not known, is null.
    """
    states = {kpi.state for kpi in kpis}
    return {
        "state": "missed" if "missed" in states else "met" if states == {"met"} else "unknown",
        "kpis": [
            {
                "name": kpi.target.name,
                "title": kpi.target.title,
                "state": kpi.state,
                "value": finite(kpi.value),
                "within": kpi.target.within,
                "bound": kpi.target.bound,
                "unit": kpi.target.unit,
                "measured": kpi.target.measured,
                "reason": kpi.reason,
            }
            for kpi in kpis
        ],
    }


def rules(lasting: float = 60.0) -> tuple[Rule, ...]:
    """A rule for each KPI, by its name, that fires once it was missed for so many seconds."""
    return tuple(
        Rule(
            target.name, target.name, "above" if target.within == "below" else "below", target.bound, lasting
        )
        for target in TARGETS
    )


class Sampler:
    """Reads the machine, and what was counted, once in a while, and has a monitor keep it.

    `probe` asks this instance whether it lives and returns when it has answered; one that raises OSError, or
    takes longer, counts as `probe_timeout` seconds. For one thread at a time.
    """

    def __init__(
        self,
        monitor: PerformanceMonitor,
        probe: Callable[[], object] | None = None,
        *,
        probe_timeout: float = 1.0,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._monitor = monitor
        self._probe = probe
        self._probe_timeout = probe_timeout
        self._timer = timer
        self._process = psutil.Process()
        self._before: dict[str, tuple[float, float]] = {}

    def sample(self) -> None:
        """Read the machine; the first of what is a difference is there with the second.

        What the system does not tell, where it has run out of file descriptors say, is left out.
        """
        for reading in (self._machine(), self._disk(), self._round_trip()):
            with suppress(OSError):
                for name, value in reading:
                    self._monitor.record(name, value)

    def count(self, agents: Mapping[str, AgentStats], caches: Mapping[str, Mapping[str, CacheStats]]) -> None:
        """Note how many requests wait, and what was looked up since the counts before these."""
        self._monitor.record(WAITING, sum(agent.waiting for agent in agents.values()))
        levels = list(caches["search"].values())
        hits = float(sum(level.hits for level in levels))
        looked_up = float(levels[0].hits + levels[0].misses)
        for name, counted in ((CACHE_HITS, hits), (CACHE_LOOKUPS, looked_up)):
            if (grown := self._grown(name, counted)) is not None:
                self._monitor.record(name, grown[0])

    def _machine(self) -> Iterator[tuple[str, float]]:
        used = psutil.cpu_percent() / 100
        if self._grown("cpu", 0.0) is not None:  # the first that a thread asks for is of no time at all
            yield CPU, used
        yield MEMORY, psutil.virtual_memory().percent / 100

    def _disk(self) -> Iterator[tuple[str, float]]:
        counted = disk_bytes(self._process)
        if counted is not None and (grown := self._grown("disk", float(sum(counted)))) is not None:
            amount, seconds = grown
            yield DISK, amount / seconds

    def _round_trip(self) -> Iterator[tuple[str, float]]:
        if self._probe is None:
            return
        begun = self._timer()
        try:
            self._probe()
        except (OSError, http.client.HTTPException):
            yield NETWORK, self._probe_timeout
        else:
            yield NETWORK, min(self._timer() - begun, self._probe_timeout)

    def _grown(self, name: str, amount: float) -> tuple[float, float] | None:
        """By how much it has grown since the last sample, and the seconds since; None at the first."""
        now = self._monitor.clock()
        before, self._before[name] = self._before.get(name), (amount, now)
        if before is None or now <= before[1]:
            return None
        return max(0.0, amount - before[0]), now - before[1]


def memory_used() -> int:
    """Bytes of main memory that this process has."""
    return int(psutil.Process().memory_info().rss)


def http_probe(
    host: str, port: int, path: str = "/health/live", timeout: float = 1.0
) -> Callable[[], object]:
    """A probe that opens a connection, asks for `path` and waits for the answer's end; raises OSError or
    HTTPException where there is none, or its status is not 200."""

    def probe() -> bytes:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise OSError(f"{path} was answered with {answer.status}")
            return answer.read()
        finally:
            connection.close()

    return probe


def finite(value: float | None) -> float | None:
    """A value as JSON can have it: None for infinity."""
    return value if value is not None and math.isfinite(value) else None
