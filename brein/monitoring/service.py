"""Everything that one process of the service watches of itself, wired up."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from brein.agents import AgentStats
from brein.cache import CacheStats
from brein.errors import BreinError
from brein.metrics import (
    ANOMALIES,
    CONNECTIONS,
    FAILURES,
    LATENCY_BUCKETS,
    Counted,
    Kind,
    Metrics,
    Outcome,
    Reading,
    agent_readings,
    engine_readings,
)
from brein.monitoring import health
from brein.monitoring.alerts import Alerts
from brein.monitoring.health import FAILED, LATENCY, LEAST_SAMPLES, Health, Kpi, Sampler
from brein.monitoring.monitor import PerformanceMonitor, Side, worst_ranks
from brein.settings import Settings

_MEDIAN = f"{LATENCY}.median"  # seconds, of the queries answered since the sample before
# Once a sample, not once a query: where seconds are exchangeable, an anomaly rate of 0.001 is then 3.6 false
# alarms an hour for each of them.
_WATCHED: Mapping[str, Side] = {_MEDIAN: "high", health.NETWORK: "high"}
_RECENT = 10.0  # seconds that a point's percentiles are of
_FRESH = 3  # intervals after which what was judged no longer holds
_LEAST_POINTS = 2 * LEAST_SAMPLES  # in a window: a sample that is late costs another
_MOST_POINTS = 7200  # which the live page gets at once

_log = logging.getLogger(__name__)


class MonitoringConfig(Settings):
    """How a process watches itself."""

    interval: float = Field(1.0, ge=0.05, le=60, description="seconds between two samples of the machine")
    window: float = Field(300.0, ge=30, le=3600, description="seconds that the KPIs are judged over")
    lasting: float = Field(60.0, ge=0, description="seconds a KPI is missed before its alert fires")
    anomaly_rate: float = Field(
        0.001, gt=0, lt=1, description="share of ordinary values that are reported as anomalies, at most"
    )
    anomaly_trailing: int = Field(
        999, ge=1, le=100_000, description="values an anomaly is told from; at least 1 ÷ anomaly_rate - 1"
    )

    @model_validator(mode="after")
    def _window_has_samples(self) -> Self:
        if not _LEAST_POINTS <= round(self.window / self.interval, 9) <= _MOST_POINTS:
            raise ValueError(
                f"window = {self.window:g} s is {self.window / self.interval:,.0f} times interval = "
                f"{self.interval:g} s: must be {_LEAST_POINTS} to {_MOST_POINTS:,} times; change either"
            )
        return self

    @model_validator(mode="after")
    def _rate_has_a_rank(self) -> Self:
        if worst_ranks(self.anomaly_rate, self.anomaly_trailing) < 1:
            raise ValueError(
                f"anomaly_trailing = {self.anomaly_trailing}: must be at least 1 ÷ anomaly_rate - 1 = "
                f"{math.ceil(round(1 / self.anomaly_rate - 1, 6)):,}; raise it, or anomaly_rate"
            )
        return self


@dataclass(frozen=True, slots=True)
class Point:
    """One sample of what the charts show; rates are of the time since the sample before.

    Percentiles, seconds, are of the last 10 s. `latencies` counts what was answered since the sample before
    by `LATENCY_BUCKETS`, the last for what took longer than all of them.
    """

    time: float
    p50: float | None
    p95: float | None
    p99: float | None
    latencies: tuple[int, ...]
    answered: float  # a second
    failed: float  # a second
    cpu: float | None
    memory: float  # bytes
    hit_rates: dict[str, float]  # by "cache level", of the look-ups since the sample before
    queues: dict[str, int]  # by agent
    utilisation: dict[str, float]  # by agent


class Monitoring:
    """The metrics, statistics, KPIs and alerts of one process; `start` has it look once every interval.

    `agents` gives the counts of its agents, `connections` how many are open, `probe` asks this instance
    whether it lives. A context manager that starts and closes itself.
    """

    def __init__(
        self,
        engine: Counted,
        agents: Callable[[], Mapping[str, AgentStats]] = dict,
        connections: Callable[[], int] = int,
        probe: Callable[[], object] | None = None,
        *,
        config: MonitoringConfig | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.config = config or MonitoringConfig()
        self.monitor = PerformanceMonitor(
            _WATCHED, rate=self.config.anomaly_rate, trailing=self.config.anomaly_trailing, clock=clock
        )
        self.started = self.monitor.clock()
        self.metrics = Metrics()
        self.metrics.watch(engine_readings(engine))
        self.metrics.watch(lambda: agent_readings(agents()))
        self.metrics.watch(lambda: [(CONNECTIONS, (), connections())])
        self.metrics.watch(self._kpi_readings)
        self.metrics.watch(self._anomaly_readings)
        self.alerts = Alerts(health.rules(self.config.lasting), self.monitor.clock)
        self.points: deque[Point] = deque(maxlen=int(self.config.window / self.config.interval) + 1)
        self._agents, self._caches = agents, engine.cache_stats
        self._health = Health(self.monitor, self.config.window)
        self._sampler = Sampler(self.monitor, probe)
        self._before: _Counts | None = None
        self._judged: tuple[float, tuple[Kpi, ...]] = (-math.inf, ())  # when, and what was found
        self._stopping = Event()
        self._thread: Thread | None = None

    def query(self, kind: Kind, outcome: Outcome, seconds: float) -> None:
        """Note a query that had its outcome after so many seconds."""
        self.metrics.query(kind, outcome, seconds)
        if outcome == "answered":
            self.monitor.record(LATENCY, seconds, {"kind": kind})
        elif outcome in FAILURES:
            self.monitor.record(FAILED, 1.0, {"kind": kind, "outcome": outcome})

    def kpis(self) -> tuple[Kpi, ...]:
        """The KPIs as they stood at the last sample; where that is long ago, as they stand now."""
        judged, kpis = self._judged
        if self.monitor.clock() - judged > _FRESH * self.config.interval:
            return self._health.evaluate()
        return kpis

    def sample(self) -> None:
        """Look once: sample, judge, note a point."""
        self._sampler.sample()
        counts = self._counts()
        if counts is not None:
            self._sampler.count(counts.agents, counts.caches)
        self._judge()
        if counts is not None and self._before is not None:
            self.points.append(self._point(self._before, counts))
        self._before = counts

    def start(self) -> None:
        """Begin to look, in a thread."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = Thread(target=self._look, name="monitoring", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Look no more; waits for a look that has begun, 5 s at most. Closing twice does nothing."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5.0)
            self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _look(self) -> None:
        failing = False
        while not self._stopping.wait(self.config.interval):
            try:
                self.sample()
            except Exception:  # whatever it is: nobody else would watch, and the next may succeed
                if not failing:  # else the log would be full of it
                    _log.exception("monitoring cannot sample; it tries again each interval")
                failing = True
            else:
                failing = False

    def _counts(self) -> _Counts | None:
        try:
            return _Counts(self.monitor.clock(), self._agents(), self._caches())
        except BreinError:  # closed
            return None

    def _judge(self) -> None:
        kpis = self._health.evaluate()
        self._judged = self.monitor.clock(), kpis
        values = {kpi.target.name: None if kpi.state == "unknown" else kpi.value for kpi in kpis}
        for change in self.alerts.evaluate(values):
            name, alert = change.rule.name, change.alert
            _log.warning("alert %s is %s: %g, bound %g", name, change.state, alert.value, alert.threshold)

    def _kpi_readings(self) -> Iterator[Reading]:
        return health.readings(self.kpis())

    def _anomaly_readings(self) -> Iterator[Reading]:
        return ((ANOMALIES, (metric,), count) for metric, count in self.monitor.anomalies().items())

    def _between(self, name: str, start: float, end: float) -> npt.NDArray[np.float64]:
        """Values after `start`, up to `end`."""
        rows = self.monitor.values(name, self.monitor.clock() - start + 1)
        values: npt.NDArray[np.float64] = rows[(rows[:, 0] > start) & (rows[:, 0] <= end), 1]
        return values

    def _point(self, before: _Counts, now: _Counts) -> Point:
        seconds = max(now.time - before.time, 1e-9)
        recent = self.monitor.statistics(LATENCY, _RECENT, unanswered=FAILED)
        latencies, failed, cpu = (
            self._between(name, before.time, now.time) for name in (LATENCY, FAILED, health.CPU)
        )
        if len(latencies):
            self.monitor.record(_MEDIAN, float(np.median(latencies)))
        return Point(
            time=now.time,
            p50=health.finite(recent.median),
            p95=health.finite(recent.p95),
            p99=health.finite(recent.p99),
            latencies=_by_bucket(latencies),
            answered=len(latencies) / seconds,
            failed=len(failed) / seconds,
            cpu=float(cpu[-1]) if len(cpu) else None,
            memory=health.memory_used(),
            hit_rates=_hit_rates(before.caches, now.caches),
            queues={name: agent.waiting for name, agent in now.agents.items()},
            utilisation={
                name: max(0.0, agent.busy - before.agents[name].busy) / (agent.slots * seconds)
                for name, agent in now.agents.items()
                if name in before.agents
            },
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    """What agents and caches had counted at a time."""

    time: float
    agents: Mapping[str, AgentStats]
    caches: Mapping[str, Mapping[str, CacheStats]]


def _hit_rates(
    before: Mapping[str, Mapping[str, CacheStats]], now: Mapping[str, Mapping[str, CacheStats]]
) -> dict[str, float]:
    """Hits over look-ups between two counts, by "cache level", of levels that were looked into."""
    rates = {}
    for cache, levels in now.items():
        for level, counts in levels.items():
            hits, misses = (
                getattr(counts, name) - getattr(before[cache][level], name) for name in ("hits", "misses")
            )
            if hits + misses:
                rates[f"{cache} {level}"] = hits / (hits + misses)
    return rates


def _by_bucket(latencies: npt.NDArray[np.float64]) -> tuple[int, ...]:
    places = np.searchsorted(LATENCY_BUCKETS, latencies, side="left")
    return tuple(np.bincount(places, minlength=len(LATENCY_BUCKETS) + 1).tolist())
