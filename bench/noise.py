"""How quiet the machine is: its noise floor when a run begins, and what disturbed a measurement."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict, Field

_STEPS = 200_000  # of the calibration loop: 20 to 50 ms, long enough to be interrupted by what disturbs
_LOOPS = 5
_EMPTY_TIMINGS = 10_000
_BUSY = ("user", "nice", "system", "irq", "softirq")
_CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


class NoiseFloor(BaseModel):
    """What the machine makes of work that is always the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loop: float = Field(description="seconds of the calibration loop, one thread, median of five")
    spread: float = Field(description="slowest of these over the fastest, less one")
    timer_p50: float = Field(description="seconds between two clock readings with nothing between")
    timer_p99: float
    clock: str = Field(description="what the system reads the time from; empty where it does not say")


class Disturbance(BaseModel):
    """What went on beside a measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loop_before: float = Field(description="seconds of the calibration loop right before it")
    loop_after: float = Field(description="and right after it")
    steal: float = Field(description="share of the usable cores' time that the hypervisor withheld meanwhile")
    other_load: float = Field(description="usable cores that other processes kept busy meanwhile")
    clock_jump: float = Field(description="seconds by which the wall clock left the monotonic one meanwhile")


def floor() -> NoiseFloor:
    """Measure the machine as it is now, in about a fifth of a second."""
    loops = [calibrate() for _ in range(_LOOPS)]
    readings = np.array([time.perf_counter() for _ in range(_EMPTY_TIMINGS + 1)])
    p50, p99 = np.quantile(np.diff(readings), [0.5, 0.99])
    return NoiseFloor(
        loop=float(np.median(loops)),
        spread=max(loops) / min(loops) - 1,
        timer_p50=float(p50),
        timer_p99=float(p99),
        clock=_CLOCK_SOURCE.read_text().strip() if _CLOCK_SOURCE.exists() else "",
    )


def calibrate() -> float:
    """Seconds that a fixed piece of work takes: integers in one thread, no library, hardly any memory."""
    number = 1
    start = time.perf_counter()
    for _ in range(_STEPS):
        number = (number * 1_103_515_245 + 12_345) & 0x7FFFFFFF
    return time.perf_counter() - start


class _Reading(NamedTuple):
    monotonic: float
    wall_clock: float
    busy: float  # CPU seconds of the cores this process may use
    stolen: float
    ours: float  # CPU seconds of this process, of its children that have ended and of those that measure


class Watch:
    """Watches the machine while the processes `pids`, children of this one, measure."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._loop = calibrate()
        self._pids = list(pids)
        self._begin = _read(self._pids)

    def stop(self) -> Disturbance:
        """What was seen, once the processes rest, or have ended and been waited for."""
        begin, end = self._begin, _read(self._pids)
        elapsed = end.monotonic - begin.monotonic
        others = (end.busy - begin.busy) - (end.ours - begin.ours)
        return Disturbance(
            loop_before=self._loop,
            loop_after=calibrate(),
            steal=(end.stolen - begin.stolen) / (elapsed * len(_usable())),
            other_load=max(0.0, others / elapsed),
            clock_jump=end.wall_clock - begin.wall_clock - elapsed,
        )


def _read(pids: Iterable[int]) -> _Reading:
    cores = _usable()
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return _Reading(
        monotonic=time.monotonic(),
        wall_clock=time.time(),
        # Systems differ in what else they count.
        busy=sum(getattr(core, kind, 0.0) for core in cores for kind in _BUSY),
        stolen=sum(getattr(core, "steal", 0.0) for core in cores),
        ours=sum(usage.ru_utime + usage.ru_stime for usage in usages) + sum(map(_spent, pids)),
    )


def _usable() -> list[Any]:
    """CPU times of each core this process may use: a container's neighbours keep to theirs."""
    cores = psutil.cpu_times(percpu=True)
    if not hasattr(os, "sched_getaffinity"):
        return cores
    numbers = os.sched_getaffinity(0)
    return [core for number, core in enumerate(cores) if number in numbers] or cores


def _spent(pid: int) -> float:
    """CPU seconds that a process and its ended children have used; none once it has been waited for."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system
