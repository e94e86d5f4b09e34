"""A load as it is sent to a service, and what is known of each of its steps afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import quality
from bench.arrivals import Closed, Schedule
from bench.load import locust, requests
from bench.load.locust import Job, Ran
from bench.load.requests import Cpu, StepResult
from bench.service import Service
from bench.suite_config import LoadConfig
from bench.suites.load.cores import Cores
from bench.suites.load.exact import K
from bench.suites.load.watched import Used, Watched, watching
from bench.workload.dataset import IntArray


@dataclass(frozen=True)
class Judged:
    """An answer that was looked at: the row of its query, and its recall@10."""

    query: int
    recall: float


@dataclass(frozen=True, eq=False)
class Sent:
    """A load that has been sent.

    `results`, `used` and `generator` (the cores that kept busy) are of each step in turn; what a service used
    that is not the lab's own is not known. `judged` are the answers of each step that were.
    """

    load: Schedule | Closed
    ran: Ran
    results: tuple[StepResult, ...]
    used: tuple[Used | None, ...]
    generator: tuple[float, ...]
    judged: tuple[tuple[Judged, ...], ...]
    watched: Watched | None

    @property
    def counted(self) -> list[int]:
        """The numbers of the steps that count."""
        return [number for number, result in enumerate(self.results) if result.step.counted]

    def cpu(self, number: int, cores: int) -> Cpu:
        """Who used how much of so many cores in a step."""
        used = self.used[number]
        return Cpu(self.generator[number], None if used is None else used.cpu, cores)

    def recall(self, number: int) -> float | None:
        """Recall@10 of a step's answers; None where none were judged."""
        recalls = [one.recall for one in self.judged[number]]
        return float(np.mean(recalls)) if recalls else None


@dataclass(frozen=True, eq=False)
class Sender:
    """Sends loads to one service, `service` where it is the lab's own.

    `picks` (n,) int64 are rows of `texts` in the order they are asked. `exact` are the ids that each of them
    finds when nothing is approximate or late; None: no answer is judged.
    """

    settings: LoadConfig
    host: str
    service: Service | None
    key: str | None
    texts: Sequence[str]
    picks: IntArray
    exact: Sequence[Sequence[str]] | None
    cores: Cores
    scratch: Path

    def send(self, load: Schedule | Closed) -> Sent:
        """Send a load, and wait for its end.

        Raises:
            MeasurementError: Locust could not start, or died.
        """
        job = Job(
            host=self.host,
            kind=self.settings.requests,
            queries=tuple(self.texts),
            picks=self.picks,
            k=self.settings.k,
            load=load,
            workers=self.settings.workers,
            sample=self.settings.sample if self.exact is not None else 0,
            timeout=self.settings.timeout,
            key=self.key,
            cores=self.cores.generator,
        )
        watch: AbstractContextManager[Watched | None] = (
            nullcontext() if self.service is None else watching(self.service)
        )
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder, watch as watched:
            ran = locust.run(job, Path(folder))
        steps = load.steps
        return Sent(
            load=load,
            ran=ran,
            results=requests.summary(ran.rows, load),
            used=tuple(None if watched is None else watched.used(step, ran.begin) for step in steps),
            generator=tuple(ran.cpu(step.begin, step.end) / step.seconds for step in steps),
            judged=tuple(tuple(self._judged(ran, number)) for number in range(len(steps))),
            watched=watched,
        )

    def _judged(self, ran: Ran, number: int) -> list[Judged]:
        """The answers of a step beside what an exact search finds; without those that nothing answers."""
        return [
            Judged(one.query, quality.recall(one.ids, dict.fromkeys(relevant, 1), K))
            for one in ran.answers
            if one.step == number and self.exact is not None and (relevant := self.exact[one.query])
        ]
