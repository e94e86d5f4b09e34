"""Part `load`: a service under a stated load, as the operating system and its callers see it.

Searches arrive as a Poisson process, whatever became of those before, and count from when they were to be
sent. Meanwhile requests that ask for no work at all say what the way to the service and back takes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, repeat
from typing import Any

import numpy as np
import psutil

from bench import trial
from bench.arrivals import poisson
from bench.machine import usable_cores
from bench.metrics import Outcome
from bench.service import Service, Usage, serving
from bench.suites.agents.generator import Asked, doubt, read_at
from bench.suites.base import Experiment
from bench.suites.system import client
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import popularity
from bench.workload.dataset import TextDataset
from bench.workload.popularity import Stream
from brein.errors import first_line

METRICS: tuple[str, ...] = (
    "system.startup_time",
    "system.latency",
    "system.throughput",
    "system.rejection_rate",
    "system.timeout_rate",
    "system.failure_rate",
    "system.degraded_rate",
    "system.cpu",
    "system.memory",
    "system.resident_memory",
    "system.disk_rate",
    "system.network_latency",
)
LEAD_IN = 1 / 3  # of `seconds`: goes by before anything counts, so that caches are as they will be
_PROBE = 0.1  # seconds between two requests that ask for no work
_LATEST = 1e-3  # seconds that a timer of an event loop may be late: the system counts them in milliseconds
_OUTCOMES: dict[int, Outcome] = {200: "answered", 503: "rejected", 504: "timed out"}  # by status


@dataclass(frozen=True)
class Seen:
    """What became of a load: its searches, those of the lead-in before 0 among them, and its probes.

    `used` is what the service used in `seconds`, `memory` its bytes at their end.
    """

    seconds: float
    searches: Sequence[Asked]
    probes: Sequence[Asked]
    used: Usage
    memory: int

    @property
    def counted(self) -> list[Asked]:
        """The searches that were to be sent in these seconds."""
        return [one for one in self.searches if one.intended >= 0]


def stream(experiment: Experiment, dataset: TextDataset) -> Stream:
    """The searches, as `popularity` describes them."""
    settings = experiment.config.suite.system
    requests = max(1, round(settings.rate * settings.seconds * (1 + LEAD_IN)))
    return popularity.for_queries(
        experiment.config.popularity, [query.id for query in dataset.queries], requests
    )


def plan(experiment: Experiment, argument: dict[str, Any]) -> Work:
    """Plan the load."""
    settings, dataset = experiment.config.suite.system, experiment.text("system")
    requests = stream(experiment, dataset)
    load = (
        f"{settings.rate:g} searches a second for {settings.seconds:g} s, Poisson arrivals, after "
        f"{settings.seconds * LEAD_IN:.3g} s unmeasured; {len(dataset.queries):,} queries, "
        f"{requests.described}, for {settings.k} hits among {len(dataset.documents):,} documents; "
        "the lab asks from the same machine" + experiment.caches_left_out
    )
    conditions = dict.fromkeys(
        ("system.search", "system.answers", "system.memory", "system.disk", "system.network"), load
    )
    conditions["system.cpu"] = f"of {usable_cores()} cores; {load}"
    conditions["system.startup"] = (
        "from the start of the process until it says that it is ready, the model loaded"
    )
    conditions["system.resident_memory"] = "files that are mapped among it; loaded: at the end of the load"
    plan = Plan(
        "system",
        "load",
        "bench.suites.system.load:measure",
        {**argument, "stream": requests.model_dump_json()},
    )
    return Work([plan], conditions=conditions)


def measure(argument: dict[str, Any]) -> Measurement:
    """In a child: start a service, look at it at rest, then put the load to it."""
    settings, queries = argument["settings"], argument["queries"]
    requests = [
        client.search(queries[row], settings["k"])
        for row in Stream.read(argument["stream"]).drawn(argument["seed"])
    ]
    random = np.random.default_rng(argument["seed"])
    yield  # a start is measured too, while nothing else runs
    with serving(argument) as service, asyncio.Runner() as runner:
        at_rest = service.memory()
        seen = runner.run(offer(service, cycle(requests), settings["rate"], settings["seconds"], random))
    yield
    return trial.report(
        Samples.of(service.startup, "system.startup"),
        Samples.of(at_rest, "system.resident_memory", state="at rest"),
        Samples.of(seen.memory, "system.resident_memory", state="loaded"),
        *samples(seen),
        doubts=doubts(seen),
    )


async def offer(
    service: Service, requests: Iterator[bytes], rate: float, seconds: float, random: np.random.Generator
) -> Seen:
    """Offer a load, and see what the service makes of it; ends when each request has its answer."""
    lead = LEAD_IN * seconds
    begin = asyncio.get_running_loop().time() + lead
    spans = ((-lead, 0.0), (0.0, seconds))
    times = np.concatenate([poisson(rate, *span, random) for span in spans]).tolist()
    probing = np.arange(0.0, seconds, _PROBE).tolist()
    async with client.pool(service.port) as searches, client.pool(service.port) as probes:
        searched, probed, before, after, memory = await asyncio.gather(
            _send_at(times, begin, searches, requests),
            _send_at(probing, begin, probes, repeat(client.LIVE)),
            read_at(begin, service.usage),
            read_at(begin + seconds, service.usage),
            read_at(begin + seconds, service.memory),
        )
    used = Usage(after.cpu - before.cpu, after.disk - before.disk)
    # How late one was sent says nothing of the way: no load depends on it.
    return Seen(seconds, searched, [one._replace(intended=one.sent) for one in probed], used, memory)


async def _send_at(
    times: Iterable[float], begin: float, pool: client.Pool, requests: Iterator[bytes]
) -> list[Asked]:
    """Send one request at each of `times`, ascending, whatever became of those before."""
    sending = []
    async with asyncio.TaskGroup() as group:
        for intended in times:
            await _until(begin + intended)
            sending.append(group.create_task(_send(pool, next(requests), intended, begin)))
    return [task.result() for task in sending]


async def _until(moment: float) -> None:
    """Wait for a moment of the event loop's clock; its timers would be up to a millisecond late."""
    now = asyncio.get_running_loop().time
    await asyncio.sleep(max(0.0, moment - now() - _LATEST))
    while now() < moment:
        await asyncio.sleep(0)


async def _send(pool: client.Pool, request: bytes, intended: float, begin: float) -> Asked:
    """Send a request, and say what became of it."""
    now = asyncio.get_running_loop().time
    sent = now() - begin
    try:
        answer = await pool.ask(request)
    except OSError as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
        return Asked(intended, sent, now() - begin, "failed", problem=problem)
    ended = now() - begin
    outcome: Outcome = _OUTCOMES.get(answer.status, "failed")
    if outcome != "answered":
        return Asked(intended, sent, ended, outcome, problem=f"status {answer.status}")
    if request == client.LIVE or answer.is_whole:
        return Asked(intended, sent, ended, outcome)
    return Asked(intended, sent, ended, "degraded", problem=str(json.loads(answer.body)["degraded"]))


def samples(seen: Seen) -> list[Samples]:
    """What was seen, as samples: answers by when they came, all else by when it was to be sent."""
    searches, answers, network = (
        Samples("system.search"),
        Samples("system.answers"),
        Samples("system.network"),
    )
    for series, asked in ((searches, seen.counted), (network, seen.probes)):
        for one in asked:
            series.add(one.ended - one.intended, one.intended, outcome=one.outcome)
    in_time = (one.outcome == "answered" and 0 <= one.ended < seen.seconds for one in seen.searches)
    answers.add(seen.seconds, items=sum(in_time))
    return [
        searches,
        answers,
        network,
        Samples.of(seen.used.cpu / (seen.seconds * usable_cores()), "system.cpu"),
        Samples.of(seen.memory / psutil.virtual_memory().total, "system.memory"),
        Samples.of(seen.used.disk / seen.seconds, "system.disk"),
    ]


def doubts(seen: Seen) -> dict[str, str]:
    """Why not to believe what was made of the searches, or of the probes.

    What the service used it used, whatever became of them.
    """
    of_searches, of_probes = doubt(seen.counted, "searches"), doubt(seen.probes, "requests for no work")
    cast = {"system.search": of_searches, "system.answers": of_searches, "system.network": of_probes}
    return {series: why for series, why in cast.items() if why}
