"""Part `http`: what the service itself costs: cached searches beside a bare server that echoes.

Both run all the time and are asked in turns, each by the same clients, with the same request.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from bench import trial
from bench.service import Service, echoing, serving
from bench.suites.base import Experiment
from bench.suites.system import client
from bench.suites.system.processes import saturate
from bench.timing import time_each
from bench.trial import Measurement, Plan, Samples, Work

METRICS: tuple[str, ...] = ("system.http",)
_TURNS = ("echo", "service", "service", "echo")  # so that what drifts meets both alike
_LIMITED = 0.95  # of a core: where the lab itself uses as much, the server may not be what is measured


@dataclass(frozen=True)
class Turn:
    """Answers that a server gave, the CPU seconds that took it, and the share of a core the lab used."""

    answers: int
    cpu: float
    own: float


def plan(experiment: Experiment, argument: dict[str, Any]) -> Work:
    """Plan the turns."""
    settings = experiment.config.suite.system
    share = settings.seconds / len(_TURNS)
    conditions = {
        "system.http": f"one query, found in the cache, for {settings.k} hits; a bare uvicorn on the same "
        f"event loop and parser that answers with what it is sent; {settings.clients} clients, turns of "
        f"{share:g} s: " + ", ".join(_TURNS)
    }
    plan = Plan("system", "http", "bench.suites.system.http:measure", argument)
    return Work([plan], conditions=conditions)


def measure(argument: dict[str, Any]) -> Measurement:
    """In a child: ask both servers in turns."""
    settings = argument["settings"]
    request = client.search(argument["queries"][0], settings["k"])
    with serving(argument) as service, echoing() as echo, asyncio.Runner() as runner:
        servers = {"echo": echo, "service": service}
        yield
        timed = time_each(
            lambda name: runner.run(
                turn(servers[name], request, settings["clients"], settings["seconds"] / len(_TURNS))
            ),
            _TURNS,
        )
    yield
    turns = [one.given for one in timed]
    return trial.report(*samples(turns, settings["seconds"] / len(_TURNS)), doubts=doubts(turns))


async def turn(server: Service, request: bytes, clients: int, seconds: float) -> Turn:
    """Ask one server as fast as it answers."""
    before, own, start = server.usage().cpu, time.process_time(), time.perf_counter()
    answers = await saturate([server], iter(lambda: request, None), clients, seconds)
    took = time.perf_counter() - start
    return Turn(answers, (server.usage().cpu - before) * seconds / took, (time.process_time() - own) / took)


def samples(turns: list[Turn], seconds: float) -> list[Samples]:
    """The turns, as samples: requests a second, CPU of a request, the service's over the bare server's."""
    by_server = {
        name: [turn for of, turn in zip(_TURNS, turns, strict=True) if of == name]
        for name in ("echo", "service")
    }
    made = []
    for name, of in by_server.items():
        rate, cpu = (Samples(series, server=name) for series in ("system.http", "system.http.cpu"))
        for each in of:
            rate.add(seconds, items=each.answers)
            cpu.add(each.cpu / each.answers if each.answers else 0.0)
        made += [rate, cpu]
    answers = {name: sum(turn.answers for turn in of) for name, of in by_server.items()}
    ratio = Samples("system.http.ratio")
    ratio.add(answers["service"], reference=answers["echo"])
    return [*made, ratio]


def doubts(turns: list[Turn]) -> dict[str, str]:
    """Why not to believe a figure: the lab could not ask any faster."""
    return {
        f"system.http {name}": f"client-limited: the lab used {turn.own:.0%} of a core"
        for name, turn in zip(_TURNS, turns, strict=True)
        if turn.own > _LIMITED
    }
