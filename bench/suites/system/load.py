"""Part `load`: a service under a stated load, as the operating system and its callers see it.

Searches arrive as a Poisson process, whatever became of those before, and count from when they were to be
sent. Meanwhile a request that asks for no work at all says what the way to the service and back takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import psutil

from bench import trial
from bench.arrivals import poisson
from bench.machine import usable_cores
from bench.metrics import Outcome
from bench.service import Service, Usage, serving
from bench.suites.base import Experiment
from bench.suites.system import client
from bench.timing import time_each
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import popularity
from bench.workload.dataset import TextDataset
from bench.workload.popularity import Stream

METRICS: tuple[str, ...] = (
    "system.startup_time",
    "system.latency",
    "system.throughput",
    "system.rejection_rate",
    "system.timeout_rate",
    "system.failure_rate",
    "system.cpu",
    "system.memory",
    "system.resident_memory",
    "system.disk_rate",
    "system.network_latency",
)
LEAD_IN = 1 / 3  # of `seconds`: goes by before anything counts, so that caches are as they will be
_PROBE = 0.1  # seconds between two requests that ask for no work


@dataclass(frozen=True)
class Sent:
    """A search that was to be sent at `intended`, in seconds since the load counts, and what became of it."""

    intended: float
    ended: float
    outcome: Outcome


@dataclass(frozen=True)
class Seen:
    """A load: its searches that count, the probes' seconds, and what the service used in `seconds`."""

    seconds: float
    sent: Sequence[Sent]
    probes: Sequence[float]
    used: Usage
    memory: int


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
    with serving(argument) as service, asyncio.Runner() as runner:
        at_rest = service.memory()
        yield
        timed = time_each(
            lambda rate: runner.run(offer(service, cycle(requests), rate, settings["seconds"], random)),
            [settings["rate"]],
        )
    yield
    seen = timed[0].given
    return trial.report(
        Samples.of(service.startup, "system.startup"),
        Samples.of(at_rest, "system.resident_memory", state="at rest"),
        Samples.of(seen.memory, "system.resident_memory", state="loaded"),
        *samples(seen),
    )


async def offer(
    service: Service, requests: Iterator[bytes], rate: float, seconds: float, random: np.random.Generator
) -> Seen:
    """Offer a load, and see what the service makes of it; ends when each request has its answer."""
    now = asyncio.get_running_loop().time
    lead = LEAD_IN * seconds
    spans = ((-lead, 0.0), (0.0, seconds))
    times = np.concatenate([poisson(rate, *span, random) for span in spans]).tolist()
    async with client.pool(service.port) as searches, client.pool(service.port) as probes:
        begin = now() + lead

        async def send(request: bytes, intended: float) -> Sent:
            outcome = await _outcome(searches, request)
            return Sent(intended, now() - begin, outcome)

        async with asyncio.TaskGroup() as group:
            used = group.create_task(_used(service, begin, seconds))
            probed = group.create_task(_probe(probes, begin, seconds))
            sending = []
            for intended in times:
                await asyncio.sleep(max(0.0, begin + intended - now()))
                sending.append(group.create_task(send(next(requests), intended)))
    sent = [task.result() for task in sending]
    usage, memory = used.result()
    return Seen(seconds, [one for one in sent if one.intended >= 0], probed.result(), usage, memory)


async def _outcome(pool: client.Pool, request: bytes) -> Outcome:
    try:
        status = await pool.ask(request)
    except OSError:
        return "failed"
    known: dict[int, Outcome] = {200: "answered", 503: "rejected", 504: "timed out"}
    return known.get(status, "failed")


async def _used(service: Service, begin: float, seconds: float) -> tuple[Usage, int]:
    """What the service used from `begin` on, and its memory in the end."""
    now = asyncio.get_running_loop().time
    await asyncio.sleep(begin - now())
    before = service.usage()
    await asyncio.sleep(begin + seconds - now())
    after = service.usage()
    return Usage(after.cpu - before.cpu, after.disk - before.disk), service.memory()


async def _probe(pool: client.Pool, begin: float, seconds: float) -> list[float]:
    """Seconds that each request for no work took."""
    now = asyncio.get_running_loop().time
    await asyncio.sleep(begin - now())
    took = []
    while (start := now()) < begin + seconds:
        await pool.ask(client.LIVE)
        took.append(now() - start)
        await asyncio.sleep(_PROBE)
    return took


def samples(seen: Seen) -> list[Samples]:
    """What was seen, as samples."""
    searches, answers, network = (
        Samples("system.search"),
        Samples("system.answers"),
        Samples("system.network"),
    )
    for one in seen.sent:
        searches.add(one.ended - one.intended, one.intended, outcome=one.outcome)
    answers.add(
        seen.seconds, items=sum(one.outcome == "answered" and one.ended < seen.seconds for one in seen.sent)
    )
    for took in seen.probes:
        network.add(took)
    return [
        searches,
        answers,
        network,
        Samples.of(seen.used.cpu / (seen.seconds * usable_cores()), "system.cpu"),
        Samples.of(seen.memory / psutil.virtual_memory().total, "system.memory"),
        Samples.of(seen.used.disk / seen.seconds, "system.disk"),
    ]
