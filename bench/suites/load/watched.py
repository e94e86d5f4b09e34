"""What a service uses while it is under a load, read once a second beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import psutil

from bench.arrivals import Step
from bench.service import Service, ask

_EVERY = 1.0  # seconds between two readings: one costs the service some milliseconds
# What the service itself counts, by the names of brein/metrics.py and the labels that choose among them.
_HITS = "brein_cache_hits_total"
_MISSES = "brein_cache_misses_total"
_BUSY = "brein_agent_busy_seconds_total"
_SLOTS = "brein_agent_slots"
_REJECTED = "brein_agent_rejected_total"

Counts = dict[str, dict[frozenset[tuple[str, str]], float]]


class Reading(NamedTuple):
    """What a service has used so far, at `time` of the monotonic clock.

    Seconds of CPU, and of those its main thread's, which is its event loop; bytes of memory in use now;
    look-ups of the search cache and those that found something, in any level; by agent, seconds that its
    slots were busy, its slots, and requests it had no place for.
    """

    time: float
    cpu: float
    loop: float
    memory: int
    asked: float
    found: float
    busy: Mapping[str, float]
    slots: Mapping[str, float]
    rejected: Mapping[str, float]


@dataclass(frozen=True)
class Used:
    """What a service used in a step.

    `cpu` and `loop` are cores that were busy on average, the latter at most one; `memory` bytes at the end.
    `cache_hit_rate` is the share of look-ups that the search cache answered (None: there were none), `busy`
    of each agent's slots that were at work; `rejected` are requests that agents had no place for.
    """

    cpu: float
    loop: float
    memory: float
    cache_hit_rate: float | None
    busy: Mapping[str, float]
    rejected: float


@dataclass(frozen=True)
class Watched:
    """The readings so far, oldest first; complete once the watch has ended."""

    readings: list[Reading]

    def used(self, step: Step, begin: float) -> Used:
        """What was used in a step of a load that began at `begin`; between readings, evenly."""
        times = [reading.time for reading in self.readings]

        def at(moment: float, count: Callable[[Reading], float]) -> float:
            return float(np.interp(begin + moment, times, [count(reading) for reading in self.readings]))

        def grown(count: Callable[[Reading], float]) -> float:
            return at(step.end, count) - at(step.begin, count)

        asked = grown(lambda reading: reading.asked)
        return Used(
            cpu=grown(lambda reading: reading.cpu) / step.seconds,
            loop=grown(lambda reading: reading.loop) / step.seconds,
            memory=at(step.end, lambda reading: reading.memory),
            cache_hit_rate=grown(lambda reading: reading.found) / asked if asked >= 1 else None,
            busy={
                agent: grown(partial(_busy, agent)) / (slots * step.seconds)
                for agent, slots in self.readings[0].slots.items()
            },
            rejected=grown(lambda reading: sum(reading.rejected.values())),
        )


@contextmanager
def watching(service: Service) -> Iterator[Watched]:
    """Read what a service uses, from now until the context ends, or the service has."""
    watched, ended = Watched([_read(service)]), threading.Event()

    def watch() -> None:
        with suppress(psutil.Error):  # the service has ended; the load says so
            over = False
            while not over:
                over = ended.wait(_EVERY)
                with suppress(OSError):  # it was too busy to say: the next reading spans both
                    watched.readings.append(_read(service))

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        ended.set()
        thread.join()


def _read(service: Service) -> Reading:
    counts = _counts(service.port)
    hits = {labels: n for labels, n in counts.get(_HITS, {}).items() if ("cache", "search") in labels}
    asked = [found + counts[_MISSES][level] for level, found in hits.items()]
    loop = next(one for one in service.process.threads() if one.id == service.process.pid)
    return Reading(
        time=time.monotonic(),
        cpu=service.usage().cpu,
        loop=loop.user_time + loop.system_time,
        memory=service.memory(),
        asked=max(asked, default=0.0),  # the fastest level is asked for everything
        found=sum(hits.values()),
        busy=_by_agent(counts, _BUSY),
        slots=_by_agent(counts, _SLOTS),
        rejected=_by_agent(counts, _REJECTED),
    )


def _busy(agent: str, reading: Reading) -> float:
    return reading.busy[agent]


def _by_agent(counts: Counts, name: str) -> dict[str, float]:
    return {dict(labels)["agent"]: value for labels, value in counts.get(name, {}).items()}


def _counts(port: int) -> Counts:
    """What a service says of itself: values by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families  # a peer's environment may lack it

    status, text = ask(port, "/metrics")
    if status != 200:
        raise ConnectionError(f"/metrics answered {status}")
    counts: Counts = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            counts.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return counts
