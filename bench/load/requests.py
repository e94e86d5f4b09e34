"""One row for each request of a load, and what the rows of a step say.

Everything is derived from the rows, exactly: percentiles are those of all latencies of all workers. A request
that failed is kept, and counts as never answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.stats import Interval

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

Rows = npt.NDArray[Any]
Outcome = Literal["answered", "rejected", "timed out", "failed"]


class Kept(NamedTuple):
    """Rows of all workers by intended start, (n,) of `ROW`, and how many workers left a torn last row."""

    rows: Rows
    torn: int


def read(folder: Path) -> Kept:
    """Read what the workers of a load wrote to `rows-<worker>.bin`; a torn last row is dropped."""
    raise NotImplementedError


class Times(NamedTuple):
    """Of the requests of a step, in seconds; None where too few carry it, or where one not answered decides it."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, eq=False)
class InFlight:
    """How many requests were under way in a step: the mean of each of equal stretches of it.

    `slope` is requests a second by which that grew, with its interval.
    """

    times: npt.NDArray[np.float64]
    requests: npt.NDArray[np.float64]
    slope: float
    interval: Interval
    grows: bool


@dataclass(frozen=True, eq=False)
class StepResult:
    """What became of the requests of a step, by their intended start."""

    step: Step
    offered: int | None
    sent: int
    achieved: float | None
    outcomes: Mapping[Outcome, int]
    latency: Times
    service_time: Times
    lateness: float
    throughput: float
    in_flight: InFlight


class Cpu(NamedTuple):
    """Cores that were busy on average, of `cores` there are; None: not seen."""

    generator: float | None
    service: float | None
    cores: int


def summary(rows: Rows, load: Schedule | Closed) -> tuple[StepResult, ...]:
    """What the rows of a load say of each of its steps, counted or not."""
    raise NotImplementedError


def doubt(result: StepResult, objective: float, cpu: Cpu) -> str:
    """Why a step is not VALID, "generator-limited: …"; empty where it is."""
    raise NotImplementedError
