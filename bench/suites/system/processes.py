"""Part `processes`: how many searches one, two and more services answer, each with a copy of the documents.

Nothing is found in a cache, so that each search is work; clients wait for their answer and search again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import numpy as np

from bench import trial
from bench.machine import usable_cores
from bench.service import Service, serving
from bench.suites.base import Experiment
from bench.suites.system import client
from bench.timing import time_each
from bench.trial import Measurement, Plan, Samples, Work
from brein import EngineConfig

METRICS: tuple[str, ...] = ("system.processes",)
_LEAD_IN = 0.25  # of `seconds`, before answers count


def plan(experiment: Experiment, argument: dict[str, Any]) -> Work:
    """Plan the numbers of services."""
    settings = experiment.config.suite.system
    conditions = {
        "system.processes": f"{settings.clients} clients for each service, {settings.seconds:g} s for each "
        f"number of services on {usable_cores()} cores; no search is cached, every query in turn"
    }
    plan = Plan("system", "processes", "bench.suites.system.processes:measure", argument)
    return Work([plan], conditions=conditions)


def measure(argument: dict[str, Any]) -> Measurement:
    """In a child: start as many services as are wanted at most, then search with the first one, two, …"""
    settings, random = argument["settings"], np.random.default_rng(argument["seed"])
    requests = [client.search(text, settings["k"]) for text in random.permutation(argument["queries"])]
    engine = _uncached(EngineConfig.read(argument["engine"]))
    with ExitStack() as stack, asyncio.Runner() as runner:
        services = [stack.enter_context(serving(argument, engine)) for _ in range(max(settings["processes"]))]
        turns = cycle(requests)
        yield
        timed = time_each(
            lambda count: runner.run(
                saturate(services[:count], turns, settings["clients"], settings["seconds"])
            ),
            settings["processes"],
        )
    yield
    return trial.report(
        *samples(
            dict(zip(settings["processes"], (one.given for one in timed), strict=True)), settings["seconds"]
        )
    )


async def saturate(
    services: Sequence[Service], requests: Iterator[bytes], clients: int, seconds: float
) -> int:
    """Have so many clients of each service search as fast as they are answered; count answers in `seconds`.

    Raises:
        ConnectionError: a service closed a connection.
    """
    now = asyncio.get_running_loop().time
    begin = now() + _LEAD_IN * seconds
    ended: list[float] = []

    async def search(service: Service) -> None:
        connection = await client.Connection.open(service.port)
        while now() < begin + seconds:
            if await connection.ask(next(requests)) == 200:
                ended.append(now())
        connection.close()

    async with asyncio.TaskGroup() as group:
        for service in services:
            for _ in range(clients):
                group.create_task(search(service))
    return sum(begin <= moment < begin + seconds for moment in ended)


def samples(answers: dict[int, int], seconds: float) -> list[Samples]:
    """Answers by the number of services, as samples; the gain is over the fewest services."""
    made = []
    fewest = answers[min(answers)] / seconds
    for count, answered in answers.items():
        rate, gain = (
            Samples(name, processes=str(count)) for name in ("system.processes", "system.processes.gain")
        )
        rate.add(seconds, items=answered)
        gain.add(answered / seconds, reference=fewest)
        made += [rate, gain]
    return made


def _uncached(engine: EngineConfig) -> EngineConfig:
    """The engine, without any cache of what was asked before."""
    cache = engine.cache
    changed = {
        "embedding": cache.embedding.model_copy(update={"maxsize": 0}),
        "search": cache.search.model_copy(update={"maxsize": 0}),
        "l2": cache.l2.model_copy(update={"enabled": False}),
        "l3": cache.l3.model_copy(update={"enabled": False}),
    }
    return engine.model_copy(update={"cache": cache.model_copy(update=changed)})
