"""One row for each request of a load, and what the rows of a step say.

Everything is derived from the rows, exactly: percentiles are those of all requests of all workers. A request
that failed is kept, and counts as one that was never answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.stats import CONFIDENCE, Interval, percentile

if TYPE_CHECKING:  # Locust's processes import the row, and want nothing of the engine's settings
    from bench.arrivals import Closed, Schedule, Step

KINDS = ("search", "ask", "ingest")
ROW = np.dtype(
    [
        ("intended", "<f8"),  # when it was to start; times are seconds since the load's begin
        ("ready", "<f8"),  # when it could: later where its user still waited for the answer before
        ("start", "<f8"),
        ("end", "<f8"),
        ("status", "<i2"),  # of HTTP; 0: no answer; -1: none in time
        ("step", "<i2"),
        ("worker", "<i2"),
        ("query", "<i4"),  # which query was asked, or document ingested; -1: none
        ("kind", "u1"),  # of KINDS
    ]
)
NO_ANSWER, TIMED_OUT = 0, -1
LEAST_ACHIEVED = 0.98  # share of the offered requests that a step must have sent
MOST_LATE = 0.1  # of the objective: what the 99th percentile of lateness may be
_REJECTED, _GATEWAY_TIMED_OUT = 503, 504
_STRETCHES = 20  # of a step, whose means show whether ever more requests are under way
_LEFT_BEHIND = 0.01  # share of the arrivals: where no more than these pile up, the service keeps up

Rows = npt.NDArray[Any]
Outcome = Literal["answered", "rejected", "timed out", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "rejected", "timed out", "failed")
_ANSWERED = 0  # of OUTCOMES


class Kept(NamedTuple):
    """Rows of all workers by intended start, (n,) of `ROW`; how many workers left a torn last row."""

    rows: Rows
    torn: int


class Percentiles(NamedTuple):
    """Seconds: mean and percentiles of the requests of a step, of which one that failed was never answered.

    A percentile is None where the requests are too few to carry it, or where it falls on one that failed; the
    mean, where any failed or there are none.
    """

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, eq=False)
class InFlight:
    """How many requests were under way, on average, around each of `times`: the middles of equal stretches.

    `times` and `requests` are float64 (20,). `slope` is by how many requests a second that number grew, with
    its interval. `grows`: it did, beyond doubt, and by more than a hundredth of the arrivals.
    """

    times: npt.NDArray[np.float64]
    requests: npt.NDArray[np.float64]
    slope: float
    interval: Interval
    grows: bool


@dataclass(frozen=True, eq=False)
class StepResult:
    """What became of the requests that were to start in a step.

    `offered` is how many these were, `achieved` the share of them sent in it; both None in a closed load.
    `lateness` is the 99th percentile of seconds from when a request could be sent to when it was; None where
    none was. `throughput` is answers a second given in the step, to whichever requests.
    """

    step: Step
    offered: int | None
    sent: int
    achieved: float | None
    outcomes: Mapping[Outcome, int]
    latency: Percentiles
    service_time: Percentiles
    lateness: float | None
    throughput: float
    in_flight: InFlight

    @property
    def error_rate(self) -> float:
        """Share of the requests sent that failed, in whichever way; 0 where none was sent."""
        return (self.sent - self.outcomes["answered"]) / self.sent if self.sent else 0.0


class Cpu(NamedTuple):
    """Cores' worth of CPU that generator and service used in a step, of `cores` there are; None: not seen."""

    generator: float | None
    service: float | None
    cores: int


def read(folder: Path) -> Kept:
    """Read what the workers of a load wrote to `rows-<worker>.bin`; a torn last row is left out."""
    paths = sorted(folder.glob("rows-*.bin"))
    rows = np.concatenate([np.empty(0, ROW), *(np.fromfile(path, ROW) for path in paths)])
    torn = sum(path.stat().st_size % ROW.itemsize > 0 for path in paths)
    return Kept(rows[np.argsort(rows["intended"], kind="stable")], torn)


def outcomes(rows: Rows) -> npt.NDArray[np.intp]:
    """How each request ended, (n,): places in `OUTCOMES`."""
    status = rows["status"]
    answered = (status >= 200) & (status < 300)
    timed_out = (status == TIMED_OUT) | (status == _GATEWAY_TIMED_OUT)
    return np.select([answered, status == _REJECTED, timed_out], [_ANSWERED, 1, 2], 3)


def summary(rows: Rows, load: Schedule | Closed) -> tuple[StepResult, ...]:
    """What the rows of a load say of each of its steps, counted or not."""
    from bench.arrivals import Schedule

    if not isinstance(load, Schedule):
        return tuple(_result(rows, number, step, None) for number, step in enumerate(load.steps))
    offered = np.bincount(load.step_of(load.starts), minlength=len(load.steps)).tolist()
    return tuple(_result(rows, number, step, offered[number]) for number, step in enumerate(load.steps))


def _result(rows: Rows, number: int, step: Step, offered: int | None) -> StepResult:
    mine = rows[rows["step"] == number]
    ended = outcomes(mine)
    counts = np.bincount(ended, minlength=len(OUTCOMES)).tolist()
    answered, failures = mine[ended == _ANSWERED], len(mine) - counts[_ANSWERED]
    in_step = rows[(step.begin <= rows["end"]) & (rows["end"] < step.end)]
    return StepResult(
        step=step,
        offered=offered,
        sent=len(mine),
        achieved=int((mine["start"] < step.end).sum()) / offered if offered else None,
        outcomes=dict(zip(OUTCOMES, counts, strict=True)),
        latency=_percentiles(answered["end"] - answered["intended"], failures),
        service_time=_percentiles(answered["end"] - answered["start"], failures),
        # Of all requests there were, not an estimate from some of them: no number of them is too small.
        lateness=float(np.quantile(mine["start"] - mine["ready"], 0.99)) if len(mine) else None,
        throughput=int((outcomes(in_step) == _ANSWERED).sum()) / step.seconds,
        in_flight=_in_flight(rows, step),
    )


def _percentiles(seconds: npt.NDArray[np.float64], failures: int) -> Percentiles:
    mean = float(seconds.mean()) if len(seconds) and not failures else None
    return Percentiles(mean, *(percentile(seconds, quantile, failures) for quantile in (0.5, 0.95, 0.99)))


def _in_flight(rows: Rows, step: Step) -> InFlight:
    """The means are exact; the interval of the slope is Student's, of a straight line through them.

    Neighbouring stretches of a queue resemble each other, so the interval is too narrow, and noise passes for
    growth more often than once in 40 times; hence the bound that the slope has to pass as well.
    """
    from scipy import stats

    edges = np.linspace(step.begin, step.end, _STRETCHES + 1)
    waited = _passed(rows["start"], edges) - _passed(rows["end"], edges)
    requests = np.diff(waited) / np.diff(edges)
    times = (edges[:-1] + edges[1:]) / 2
    line = stats.linregress(times, requests)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, _STRETCHES - 2) * line.stderr)
    slope = float(line.slope)
    interval = Interval(slope - half, slope + half)
    grows = step.rate is not None and interval.low > 0 and slope > _LEFT_BEHIND * step.rate
    return InFlight(times, requests, slope, interval, grows)


def _passed(moments: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """At each of `edges`, the seconds that have passed since each of the `moments` before it, summed."""
    ordered = np.sort(moments)
    before = np.searchsorted(ordered, edges)
    sums: npt.NDArray[np.float64] = np.append(0.0, np.cumsum(ordered))[before]
    return before * edges - sums


def doubt(result: StepResult, objective: float, cpu: Cpu) -> str:
    """Why a step is not VALID, "generator-limited: …"; empty where it is.

    `objective` is seconds of latency: what a generator may be late by is a tenth of it.
    """
    found = []
    if result.achieved is not None and result.achieved < LEAST_ACHIEVED:
        found.append(
            f"{result.achieved:.1%} of {result.offered:,} requests were sent in their step, at least "
            f"{LEAST_ACHIEVED:.0%} should be"
        )
    if result.lateness is not None and result.lateness > MOST_LATE * objective:
        found.append(
            f"p99 of lateness is {1000 * result.lateness:.3g} ms, at most "
            f"{1000 * MOST_LATE * objective:.3g} ms can be believed"
        )
    return f"generator-limited: {'; '.join(found)} ({_used(cpu)})" if found else ""


def _used(cpu: Cpu) -> str:
    """Who used how much of the cores."""
    both = {"generator": cpu.generator, "service": cpu.service}
    used = [f"{name} {cores:.2f}" for name, cores in both.items() if cores is not None]
    return f"CPU: {', '.join(used) or 'not seen'} of {cpu.cores} cores"
