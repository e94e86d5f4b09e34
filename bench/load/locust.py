"""Locust as a subprocess: it sends a load to a service, and what became of each request is read back.

gevent's patching must meet neither torch nor asyncio, so Locust runs in processes of its own, headless, on the
files in `locustfiles/` that work without the lab, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.arrivals import Closed, Schedule

KINDS = ("search", "ask", "ingest", "mixed")


@dataclass(frozen=True)
class Job:
    """A load, and the service it is sent to.

    `host` is a URL without a path; `kind` names the locustfile. `picks` (n,) int64 are rows of `queries` in the
    order they are asked, from the start again where they are fewer than the requests. Of `sample` searches one
    keeps the ids it was answered with; 0: none does. A request fails after `timeout` seconds. `key` is the
    service's API key. The processes keep to `cores`, where they are given.
    """

    host: str
    kind: str
    queries: tuple[str, ...]
    picks: npt.NDArray[np.int64]
    k: int
    load: Schedule | Closed
    workers: int = 1
    sample: int = 0
    timeout: float = 10.0
    key: str | None = None
    cores: Sequence[int] | None = None


class Sampled(NamedTuple):
    """What a search was answered with: the row of its query, the step it was sent in, the ids, best first."""

    query: int
    step: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Ran:
    """What became of a load.

    `rows` are `requests.ROW`, by intended start; `begin` is CLOCK_MONOTONIC's seconds at which the load began,
    from which its rows count. `used` holds for each worker (m, 2) float64: seconds since the begin, and the CPU
    seconds that its process had used by then. `torn` rows were lost with a worker that was killed. `reason`
    says why the load ended before its end; None where it did not.
    """

    rows: npt.NDArray[Any]
    answers: list[Sampled]
    begin: float
    used: tuple[npt.NDArray[np.float64], ...]
    torn: int
    reason: str | None

    def cpu(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """CPU seconds that the generator used from `begin` to `end`, seconds since the load's begin."""
        raise NotImplementedError


def run(job: Job, folder: Path) -> Ran:
    """Send the load, wait for its end, and read what the workers wrote into the empty `folder`.

    However this is left, no process of Locust's is.

    Raises:
        MeasurementError: Locust could not start, or died; the line is its own.
    """
    raise NotImplementedError
