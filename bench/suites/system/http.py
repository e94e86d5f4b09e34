"""Part `http`: what the service itself costs: cached searches beside a bare server that echoes, and balanced.

All run all the time and are asked in turns, each by the same clients, with the same request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from bench import trial
from bench.service import balancing, echoing, serving
from bench.suites.base import Experiment
from bench.suites.system import client
from bench.suites.system.saturation import Turn, saturate, together
from bench.timing import time_each
from bench.trial import Measurement, Plan, Samples, Work

METRICS: tuple[str, ...] = ("system.http",)
_TURNS = ("echo", "service", "balancer", "balancer", "service", "echo")  # so that what drifts meets all alike
_COMPARED = ("echo", "service")  # what the ratio is made of
_BUSY = 0.9  # of a core: where neither the server nor the lab used as much, both waited


def plan(experiment: Experiment, argument: dict[str, Any]) -> Work:
    """Plan the turns, or say that no search is kept."""
    settings = experiment.config.suite.system
    if experiment.engine.cache.search.maxsize == 0:
        return Work(skipped={"system.http": "needs a search cache in memory (cache.search.maxsize)"})
    conditions = {
        "system.http": f"one query, found in the cache, for {settings.k} hits; echo: a bare uvicorn on the "
        "same event loop and parser that answers with what it is sent; balancer: the process in front of "
        f"that service, its own CPU alone; {settings.clients} clients, turns of "
        f"{_seconds(settings.seconds):.3g} s: " + ", ".join(_TURNS)
    }
    plan = Plan("system", "http", "bench.suites.system.http:measure", argument)
    return Work([plan], conditions=conditions)


def measure(argument: dict[str, Any]) -> Measurement:
    """In a child: start the servers, and ask them in turns."""
    settings = argument["settings"]
    request = client.search(argument["queries"][0], settings["k"])
    yield
    with (
        echoing() as echo,
        serving(argument) as service,
        balancing(service) as balancer,
        asyncio.Runner() as runner,
    ):
        servers = {"echo": echo, "service": service, "balancer": balancer}
        timed = time_each(
            lambda name: runner.run(
                saturate([servers[name]], repeat(request), settings["clients"], _seconds(settings["seconds"]))
            ),
            _TURNS,
        )
    yield
    turns = {
        name: [one.given for of, one in zip(_TURNS, timed, strict=True) if of == name] for name in servers
    }
    return trial.report(*samples(turns), doubts=doubts(turns))


def _seconds(seconds: float) -> float:
    """How long a turn is, of so many seconds for all."""
    return seconds / len(_TURNS)


def samples(turns: Mapping[str, Sequence[Turn]]) -> list[Samples]:
    """The turns, as samples: requests a second, CPU of a request, the service's over the bare server's."""
    made = []
    for name, of in turns.items():
        rate, cpu = (Samples(series, server=name) for series in ("system.http", "system.http.cpu"))
        for each in of:
            rate.add(each.seconds, items=each.answers)
            cpu.add(each.cpu / each.answers)
        made += [rate, cpu]
    echoes, searches = (sum(turn.answers for turn in turns[name]) for name in _COMPARED)
    ratio = Samples("system.http.ratio")
    ratio.add(searches, reference=echoes)
    return [*made, ratio]


def doubts(turns: Mapping[str, Sequence[Turn]]) -> dict[str, str]:
    """Why not to believe a figure: the server was not what bounded a rate, or gave no whole answers.

    The ratio is as good as both rates that it is made of.
    """
    lacking = {name: together(turn.lack for turn in of) for name, of in turns.items() if name != "echo"}
    rates = {
        name: together([*(turn.limit or _idle(turn) for turn in of), lacking.get(name, "")])
        for name, of in turns.items()
    }
    found = {f"system.http {name}": why for name, why in rates.items()}
    found |= {f"system.http.cpu {name}": why for name, why in lacking.items()}
    found["system.http.ratio"] = together(f"{name}: {rates[name]}" for name in _COMPARED if rates[name])
    return {series: why for series, why in found.items() if why}


def _idle(turn: Turn) -> str:
    """Why neither the server nor the lab was at its limit; empty where one was."""
    if max(turn.cpu, turn.own) >= _BUSY * turn.seconds:
        return ""
    return f"not at its limit: neither it nor the lab used {_BUSY:.0%} of a core; raise suite.system.clients"
