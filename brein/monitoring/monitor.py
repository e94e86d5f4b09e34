"""Windows of what was measured, and what in them is out of the ordinary."""

from __future__ import annotations

import math
import time
from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from brein.errors import DataError

Tags = Mapping[str, str]
Side = Literal["high", "low"]
NO_TAGS: Tags = MappingProxyType({})


def steady_time() -> Callable[[], float]:
    """A clock of seconds since 1970 that never goes back, whatever is done to the system's."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


@dataclass(frozen=True, slots=True)
class Alert:
    """A value of a metric beyond a threshold; `time` in seconds since 1970."""

    metric: str
    value: float
    threshold: float
    time: float
    tags: Tags = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a window holds: None where there are too few values to say.

    A percentile q needs 1 ÷ (1 - q) values, 20 for p95 and 100 for p99: with fewer it is the largest of them.
    It is the smallest value that at least that share of all values does not exceed; infinity where that
    share includes some that have no value.
    """

    count: int
    mean: float | None
    median: float | None
    p95: float | None
    p99: float | None
    min: float | None
    max: float | None
    since: float  # the beginning of the window, of the monitor, or of what a full series has left
    unanswered: int  # those without a value


class PerformanceMonitor:
    """Keeps the last values of each metric and says what they are like.

    A series is a metric with its tags. Each keeps its last `capacity` values, 16 bytes each; values of more
    than `most_series` series are dropped. `clock` gives seconds since 1970 and never goes back. Safe to use
    from any thread.

    `watched` says of which metrics which side is bad. A value of one of these that ranks among the worst
    `rate` of itself and the `trailing` values of its series before it gives an alert, whose threshold is the
    value it passed. Where values are exchangeable (independent and of one distribution, for one), whichever
    the distribution is, the rank is uniform, and the probability of an alert floor(rate × (trailing + 1)) ÷
    (trailing + 1), at most `rate`; equal values make it smaller (Vovk, Gammerman and Shafer, Algorithmic
    Learning in a Random World, 2005, section 2.2). There are no alerts until `trailing` values are there.
    Where only one rank is an anomaly, one great value hides all lesser ones until it has left the trailing
    values; with n ranks it takes n such values.
    """

    def __init__(
        self,
        watched: Mapping[str, Side] = MappingProxyType({}),
        *,
        rate: float = 0.001,
        trailing: int = 1999,
        capacity: int = 65_536,
        most_series: int = 256,
        most_alerts: int = 1000,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._worst = worst_ranks(rate, trailing)
        if not 0 < rate < 1 or self._worst < 1:
            raise DataError(
                f"rate = {rate:g}, trailing = {trailing}: rate must be between 0 and 1, and "
                "trailing at least 1 ÷ rate - 1; raise trailing, or rate"
            )
        self.clock = clock or steady_time()
        self._started = self.clock()
        self._watched = dict(watched)
        self._trailing = trailing
        self._capacity, self._most_series = capacity, most_series
        self._lock = Lock()
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], _Series] = {}
        self._alerts: deque[Alert] = deque(maxlen=most_alerts)
        self._anomalies = dict.fromkeys(watched, 0)

    def record(self, name: str, value: float, tags: Tags = NO_TAGS) -> Alert | None:
        """Keep a value of now; the alert it gives, if any.

        Raises:
            DataError: the value is not finite.
        """
        if not math.isfinite(value):
            raise DataError(f"{name} = {value}: must be a finite number; leave out what has no value")
        key = name, tuple(sorted(tags.items()))
        with self._lock:
            now = self.clock()  # in here, so that times are in order
            series = self._series.get(key)
            if series is None:
                if len(self._series) >= self._most_series:
                    return None
                series = self._series[key] = _Series(self._capacity, self._ranks(name))
            series.add(now, value)
            threshold = None if series.ranks is None else series.ranks.passed(value)
            if threshold is None:
                return None
            alert = Alert(name, value, threshold, now, dict(tags))
            self._alerts.append(alert)
            self._anomalies[name] += 1
            return alert

    def values(self, name: str, window: float, tags: Tags = NO_TAGS) -> npt.NDArray[np.float64]:
        """Times and values, float64 (n, 2), of the last `window` seconds, of all series that have `tags`, in
        order of time."""
        (rows,), _ = self._look([name], window, tags)
        return rows

    def statistics(
        self, name: str, window: float = 3600.0, tags: Tags = NO_TAGS, unanswered: str | None = None
    ) -> Statistics:
        """What the values of the last `window` seconds are like, over all series that have `tags`.

        Each value of the metric `unanswered` stands for one that is missing: it counts as greater than all in
        the percentiles, and in nothing else. Both metrics are looked at from the same moment on.
        """
        (rows, *others), since = self._look([name, *filter(None, [unanswered])], window, tags)
        values, missing = np.sort(rows[:, 1]), sum(map(len, others))
        some = len(values) > 0
        return Statistics(
            count=len(values),
            mean=float(values.mean()) if some else None,
            median=percentile(values, 0.5, missing),
            p95=percentile(values, 0.95, missing),
            p99=percentile(values, 0.99, missing),
            min=float(values[0]) if some else None,
            max=float(values[-1]) if some else None,
            since=since,
            unanswered=missing,
        )

    def alerts(self) -> tuple[Alert, ...]:
        """The latest alerts, the oldest first."""
        with self._lock:
            return tuple(self._alerts)

    def anomalies(self) -> dict[str, int]:
        """How many alerts each watched metric has given so far."""
        with self._lock:
            return dict(self._anomalies)

    def _ranks(self, name: str) -> _Ranks | None:
        side = self._watched.get(name)
        return None if side is None else _Ranks(side, self._worst, self._trailing)

    def _look(
        self, names: Sequence[str], window: float, tags: Tags
    ) -> tuple[list[npt.NDArray[np.float64]], float]:
        """Times and values of each metric in the last `window` seconds, and from when on all are whole."""
        start, wanted = self.clock() - window, set(tags.items())
        with self._lock:
            found = [
                [
                    series.rows()
                    for (named, tagged), series in self._series.items()
                    if named == name and wanted <= set(tagged)
                ]
                for name in names
            ]
        full = [rows[0, 0] for every in found for rows in every if len(rows) == self._capacity]
        since = float(max([start, self._started, *full]))  # of a full series, older values are gone
        side: Literal["left", "right"] = "left" if since > start else "right"
        return [
            _in_order([rows[np.searchsorted(rows[:, 0], since, side) :] for rows in every]) for every in found
        ], since


def worst_ranks(rate: float, trailing: int) -> int:
    """How many ranks, of a value and the `trailing` ones before it, are an anomaly at this rate."""
    return math.floor(round(rate * (trailing + 1), 9))


def needed(share: float) -> int:
    """How many values a percentile needs: 20 for 0.95, 100 for 0.99."""
    return 1 if share <= 0.5 else round(1 / (1 - share))


def percentile(
    ordered: Sequence[float] | npt.NDArray[np.float64], share: float, unanswered: int = 0
) -> float | None:
    """The smallest of ascending values that at least a `share` of all do not exceed; see `Statistics`."""
    count = len(ordered) + unanswered
    if count < needed(share):
        return None
    place = math.ceil(round(share * count, 9)) - 1
    return float(ordered[place]) if place < len(ordered) else math.inf


def _in_order(parts: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Rows of several series as one, in order of time."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([np.empty((0, 2)), *parts])
    return rows[np.argsort(rows[:, 0], kind="stable")]


class _Series:
    """The last values of a series with their times, in rings that grow up to their capacity."""

    def __init__(self, capacity: int, ranks: _Ranks | None) -> None:
        self.ranks = ranks
        self._capacity = capacity
        self._times, self._values = array("d"), array("d")
        self._next = 0  # where the next goes, once the rings are full

    def add(self, time: float, value: float) -> None:
        if len(self._values) < self._capacity:
            self._times.append(time)
            self._values.append(value)
            return
        self._times[self._next], self._values[self._next] = time, value
        self._next = (self._next + 1) % self._capacity

    def rows(self) -> npt.NDArray[np.float64]:
        """A copy, the oldest first."""
        times, values = (
            np.concatenate([ring[self._next :], ring[: self._next]]) for ring in (self._times, self._values)
        )
        return np.stack([times, values], axis=1)


class _Ranks:
    """The trailing values of a series, in order of time and of size."""

    def __init__(self, side: Side, worst: int, trailing: int) -> None:
        self._sign = 1.0 if side == "high" else -1.0
        self._worst, self._trailing = worst, trailing
        self._by_time: deque[float] = deque()
        self._by_size: list[float] = []

    def passed(self, value: float) -> float | None:
        """The value that this one is worse than, where that makes it an anomaly; it joins them then."""
        value *= self._sign
        threshold = None
        if len(self._by_time) == self._trailing:
            bound = self._by_size[-self._worst]
            threshold = self._sign * bound if value > bound else None
            del self._by_size[bisect_left(self._by_size, self._by_time.popleft())]
        self._by_time.append(value)
        insort(self._by_size, value)
        return threshold
