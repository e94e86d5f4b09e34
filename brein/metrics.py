"""Every counter, gauge and histogram of the engine: name, unit, help. What is shown anywhere is named here.

A process has one `Metrics`, with a registry of its own. Several processes are several instances, each scraped
by itself; Prometheus adds them up.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from threading import Event, Lock, Thread
from typing import Generic, Literal, Protocol, TypeVar, get_args

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from brein.agents import AgentStats
from brein.cache import CacheStats
from brein.errors import BreinError, ClosedError, DataError, QueueFullError

Kind = Literal["search", "ask"]
Outcome = Literal["answered", "refused", "timed_out", "failed", "invalid", "cancelled"]
FAILURES: tuple[Outcome, ...] = (
    "refused",
    "timed_out",
    "failed",
)  # the service's; the others are the caller's

# Seconds; 0.2 is the bound of a KPI, so the share of queries within it is exact.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.5, 1, 2, 5, 10, 30, 60,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric; `unit` is for people, and the name's last word where Prometheus has that word for it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()


QUERY_DURATION = Definition(
    "brein_query_duration_seconds", "histogram", "seconds",
    "From receiving a query to its outcome, by kind (search, ask) and outcome.", ("kind", "outcome"),
)  # fmt: skip
REQUESTS = Definition(
    "brein_http_requests_total",
    "counter",
    "requests",
    "HTTP requests, by route and status.",
    ("route", "status"),
)
ERRORS = Definition(
    "brein_errors_total", "counter", "errors", "Errors that ended a request, by their class.", ("error",)
)
INGESTED = Definition(
    "brein_documents_ingested_total", "counter", "documents", "Documents ingested since the start."
)
DOCUMENTS = Definition("brein_documents", "gauge", "documents", "Documents there are.")
INDEX = Definition(
    "brein_index_size_bytes", "gauge", "bytes", "What the index holds in main memory, by part.", ("part",)
)
CONNECTIONS = Definition("brein_active_connections", "gauge", "connections", "Open HTTP connections.")
CONNECTIONS_CLOSED = Definition(
    "brein_connections_closed_total", "counter", "connections",
    "Connections the service closed, by reason: refused as all were busy, displaced by another, timed_out.",
    ("reason",),
)  # fmt: skip
MEMORY = Definition(
    "brein_memory_usage_bytes", "gauge", "bytes", "Main memory of this process (resident set)."
)
CPU = Definition("brein_cpu_seconds_total", "counter", "seconds", "CPU time of this process.")
DISK_READ = Definition(
    "brein_disk_read_bytes_total", "counter", "bytes", "Bytes this process had read from disk."
)
DISK_WRITTEN = Definition(
    "brein_disk_written_bytes_total", "counter", "bytes", "Bytes this process had written to disk."
)
_LEVEL = ("cache", "level")
CACHE_HIT_RATE = Definition(
    "brein_cache_hit_rate", "gauge", "ratio", "Hits over look-ups since the start, 0 to 1.", _LEVEL
)
CACHE_HITS = Definition(
    "brein_cache_hits_total", "counter", "look-ups", "Look-ups that found a value.", _LEVEL
)
CACHE_MISSES = Definition(
    "brein_cache_misses_total", "counter", "look-ups", "Look-ups that found none.", _LEVEL
)
CACHE_EVICTIONS = Definition(
    "brein_cache_evictions_total", "counter", "entries", "Live entries that made room for others.", _LEVEL
)
CACHE_ERRORS = Definition(
    "brein_cache_errors_total", "counter", "operations", "Operations of a level that failed.", _LEVEL
)
CACHE_ENTRIES = Definition("brein_cache_entries", "gauge", "entries", "Entries a level holds.", _LEVEL)
CACHE_SIZE = Definition(
    "brein_cache_size_bytes", "gauge", "bytes", "Bytes of the values a level holds.", _LEVEL
)
CACHE_AVAILABLE = Definition(
    "brein_cache_available", "gauge", "boolean", "1 where a level answers, 0 while it is left alone.", _LEVEL
)
_AGENT = ("agent",)
AGENT_QUEUE = Definition(
    "brein_agent_queue_length", "gauge", "requests", "Requests that wait for a slot of an agent.", _AGENT
)
AGENT_SLOTS = Definition("brein_agent_slots", "gauge", "slots", "Slots of an agent.", _AGENT)
AGENT_SLOTS_BUSY = Definition(
    "brein_agent_slots_busy", "gauge", "slots", "Slots of an agent at work.", _AGENT
)
AGENT_ABANDONED = Definition(
    "brein_agent_abandoned", "gauge", "pieces of work", "Work that was given up and has not ended.", _AGENT
)
AGENT_BUSY = Definition(
    "brein_agent_busy_seconds_total", "counter", "seconds",
    "Slot-seconds of work; its rate over the slots is the utilisation.", _AGENT,
)  # fmt: skip
AGENT_ADMITTED = Definition(
    "brein_agent_admitted_total", "counter", "requests", "Requests an agent admitted.", _AGENT
)
AGENT_REJECTED = Definition(
    "brein_agent_rejected_total", "counter", "requests", "Requests an agent had no place for.", _AGENT
)
AGENT_TIMED_OUT = Definition(
    "brein_agent_timed_out_total", "counter", "requests", "Admitted requests whose time was over.", _AGENT
)
AGENT_FAILED = Definition(
    "brein_agent_failed_total", "counter", "requests", "Admitted requests that failed.", _AGENT
)
AGENT_SERVED = Definition(
    "brein_agent_served_total", "counter", "requests", "Admitted requests that were answered.", _AGENT
)
_SHARD = ("shard",)
SHARD_AVAILABLE = Definition(
    "brein_shard_available",
    "gauge",
    "boolean",
    "1 where a shard of the index answers, 0 where it does not.",
    _SHARD,
)
SHARD_REPLICAS = Definition(
    "brein_shard_replicas", "gauge", "replicas", "Replicas of a shard of the index that run.", _SHARD
)
KPI_VALUE = Definition(
    "brein_kpi_value", "gauge", "by label",
    "A KPI over its window, in the unit that its label says; absent while it is unknown.", ("kpi", "unit"),
)  # fmt: skip
KPI_TARGET = Definition(
    "brein_kpi_target", "gauge", "by label", "The bound of a KPI, in the unit that its label says.",
    ("kpi", "unit"),
)  # fmt: skip
KPI_STATE = Definition(
    "brein_kpi_state",
    "gauge",
    "boolean",
    "1 for the state a KPI is in: met, missed or unknown.",
    ("kpi", "state"),
)
ANOMALIES = Definition(
    "brein_anomalies_total", "counter", "anomalies", "Values of a metric that were out of the ordinary.",
    ("metric",),
)  # fmt: skip
UNREADABLE = Definition(
    "brein_unreadable_sources", "gauge", "sources", "Parts that could not be read for this scrape."
)
BUILD = Definition(
    "brein_build_info",
    "gauge",
    "boolean",
    "1, labelled with the versions this runs on.",
    ("version", "python"),
)

DEFINITIONS = {
    definition.name: definition
    for definition in list(globals().values())
    if isinstance(definition, Definition)
}

Reading = tuple[Definition, tuple[str, ...], float]
Source = Callable[[], Iterable[Reading]]
T = TypeVar("T")


class Metrics:
    """The metrics of one process. What others count is read from its source when it is asked for.

    Safe to use from any thread.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._sources: list[Source] = [build_readings, process_readings]
        self._queries = Histogram(
            QUERY_DURATION.name,
            QUERY_DURATION.help,
            QUERY_DURATION.labels,
            registry=self.registry,
            buckets=LATENCY_BUCKETS,
        )
        self._requests, self._errors, self._ingested = (
            Counter(definition.name, definition.help, definition.labels, registry=self.registry)
            for definition in (REQUESTS, ERRORS, INGESTED)
        )
        for kind in get_args(
            Kind
        ):  # a series that begins with its first failure hides that failure from rate()
            for outcome in get_args(Outcome):
                self._queries.labels(kind, outcome)
        self.registry.register(_Sources(self._sources))

    def watch(self, source: Source) -> None:
        """Have `source` read whenever the metrics are; one that raises BreinError is left out and counted."""
        self._sources.append(source)

    def query(self, kind: Kind, outcome: Outcome, seconds: float) -> None:
        """Count a query that had its outcome after so many seconds."""
        self._queries.labels(kind, outcome).observe(seconds)

    def request(self, route: str, status: int) -> None:
        """Count an HTTP request; `route` is its template ("/v1/documents/{id}"), never a path as it came."""
        self._requests.labels(route, status).inc()

    def error(self, error: BaseException) -> None:
        """Count an error that ended a request."""
        self._errors.labels(type(error).__name__).inc()

    def ingested(self, documents: int) -> None:
        """Count documents that were ingested."""
        self._ingested.inc(documents)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics as text, and its content type: OpenMetrics where the header `accept` asks for it.

        Takes milliseconds, but about half a second while an engine that is watched is ingesting: on an event
        loop, have a thread do it.
        """
        if "application/openmetrics-text" in accept:
            text: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return exposition.generate_latest(self.registry), exposition.CONTENT_TYPE_PLAIN_0_0_4


def outcome_of(error: BaseException | None) -> Outcome:
    """The outcome of a query that ended with this error; None: with an answer."""
    if error is None:
        return "answered"
    if isinstance(error, (QueueFullError, ClosedError)):
        return "refused"
    if isinstance(error, TimeoutError):  # the agents' and the generators' are such
        return "timed_out"
    if isinstance(error, DataError):
        return "invalid"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"


# --- what others count --------------------------------------------------------------------------------


class Counted(Protocol):
    """What of an engine is read; `brein.Engine` is one."""

    def __len__(self) -> int: ...

    def index_bytes(self) -> Mapping[str, int]:
        """Bytes the index holds, by part."""

    def cache_stats(self) -> Mapping[str, Mapping[str, CacheStats]]:
        """Counts of each cache, by its name and its level's."""


def engine_readings(engine: Counted) -> Source:
    """A source of an engine's documents, index and caches.

    Documents and index are read beside the scrape, which so never waits for an engine that is ingesting.
    """
    documents = Latest(lambda: len(engine), every=1.0)
    index = Latest(engine.index_bytes, every=60.0)  # it counts every id

    def read() -> Iterator[Reading]:
        if (count := documents.get()) is not None:
            yield DOCUMENTS, (), count
        for part, held in (index.get() or {}).items():
            yield INDEX, (part,), held
        yield from cache_readings(engine.cache_stats())

    return read


def cache_readings(stats: Mapping[str, Mapping[str, CacheStats]]) -> Iterator[Reading]:
    """Counts of caches, by name and level. There is no hit rate before the first look-up."""
    for cache, levels in stats.items():
        for level, counts in levels.items():
            labels = cache, level
            if counts.hit_rate is not None:
                yield CACHE_HIT_RATE, labels, counts.hit_rate
            yield CACHE_HITS, labels, counts.hits
            yield CACHE_MISSES, labels, counts.misses
            yield CACHE_EVICTIONS, labels, counts.evictions
            yield CACHE_ERRORS, labels, counts.errors
            yield CACHE_AVAILABLE, labels, counts.available
            if counts.available:
                yield CACHE_ENTRIES, labels, counts.entries
                yield CACHE_SIZE, labels, counts.stored_bytes


def agent_readings(stats: Mapping[str, AgentStats]) -> Iterator[Reading]:
    """Counts of agents, by name."""
    for agent, counts in stats.items():
        labels = (agent,)
        yield AGENT_QUEUE, labels, counts.waiting
        yield AGENT_SLOTS, labels, counts.slots
        yield AGENT_SLOTS_BUSY, labels, counts.running
        yield AGENT_ABANDONED, labels, counts.abandoned
        yield AGENT_BUSY, labels, counts.busy
        yield AGENT_ADMITTED, labels, counts.admitted
        yield AGENT_REJECTED, labels, counts.rejected
        yield AGENT_SERVED, labels, counts.served
        yield AGENT_FAILED, labels, counts.failed
        yield AGENT_TIMED_OUT, labels, counts.timed_out


def process_readings() -> Iterator[Reading]:
    """What the operating system says of this process; its disk traffic only where the system counts it."""
    process = psutil.Process()
    with process.oneshot():
        cpu = process.cpu_times()
        yield CPU, (), cpu.user + cpu.system
        yield MEMORY, (), process.memory_info().rss
    if (disk := disk_bytes(process)) is not None:
        read, written = disk
        yield DISK_READ, (), read
        yield DISK_WRITTEN, (), written


def disk_bytes(process: psutil.Process) -> tuple[int, int] | None:
    """Bytes a process had read from and written to disk; None where the system does not say."""
    try:
        counters = process.io_counters()
    except (AttributeError, NotImplementedError, psutil.Error):
        return None
    return counters.read_bytes, counters.write_bytes


def build_readings() -> Iterator[Reading]:
    """The versions this runs on."""
    yield BUILD, (version("brein-lab"), platform.python_version()), 1


class Latest(Generic[T]):
    """The latest value of what is slow to read, or held by a lock: asking for it takes at most `patience`.

    It is read in a thread of its own, not again within `every` seconds and never twice at once. None until
    the first reading has ended, and where reading raised BreinError.
    """

    def __init__(
        self,
        read: Callable[[], T],
        every: float,
        patience: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._every = every
        self._patience = patience
        self._clock = clock
        self._lock = Lock()
        self._ended = Event()
        self._ended.set()
        self._begun: float | None = None
        self._value: T | None = None

    def get(self) -> T | None:
        """The latest value."""
        with self._lock:
            now = self._clock()
            if self._ended.is_set() and (self._begun is None or now - self._begun >= self._every):
                self._begun = now
                self._ended.clear()
                Thread(target=self._refresh, name="reading", daemon=True).start()
        self._ended.wait(self._patience)
        return self._value

    def _refresh(self) -> None:
        try:
            self._value = self._read()
        except BreinError:  # it is closed, say
            self._value = None
        finally:
            self._ended.set()


_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class _Sources(Collector):
    """The readings of all sources, as prometheus_client wants them."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for definition, labels, value in self._readings():
            if definition.name not in families:
                made = _FAMILIES[definition.kind]
                families[definition.name] = made(definition.name, definition.help, labels=definition.labels)
            families[definition.name].add_metric(labels, value)
        yield from families.values()

    def _readings(self) -> Iterator[Reading]:
        unreadable = 0
        for source in tuple(self._sources):
            try:
                yield from list(source())
            except BreinError:
                unreadable += 1
        yield UNREADABLE, (), unreadable
