"""Part `processes`: how many searches one, two and more services answer, each with a copy of the documents.

Nothing is found in a cache, so that each search is work; clients wait for their answer and search again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import numpy as np

from bench import trial
from bench.machine import usable_cores
from bench.service import serving
from bench.suites.base import Experiment
from bench.suites.system import client
from bench.suites.system.saturation import Turn, saturate, together
from bench.timing import time_each
from bench.trial import Measurement, Plan, Samples, Work
from brein import EngineConfig

METRICS: tuple[str, ...] = ("system.processes",)


def plan(experiment: Experiment, argument: dict[str, Any]) -> Work:
    """Plan the numbers of services."""
    settings = experiment.config.suite.system
    conditions = {
        "system.processes": f"{settings.clients} clients for each service, {settings.seconds:g} s for each "
        "number of services, in two turns, the second in reverse order; "
        f"{usable_cores()} cores; no search is cached, every query in turn"
    }
    plan = Plan("system", "processes", "bench.suites.system.processes:measure", argument)
    return Work([plan], conditions=conditions)


def measure(argument: dict[str, Any]) -> Measurement:
    """In a child: start as many services as are wanted at most, then search with the first one, two, …"""
    settings, random = argument["settings"], np.random.default_rng(argument["seed"])
    requests = cycle([client.search(text, settings["k"]) for text in random.permutation(argument["queries"])])
    engine = _uncached(EngineConfig.read(argument["engine"]))
    counts = settings["processes"]
    in_turn = [*counts, *reversed(counts)]  # so that what drifts meets all alike
    yield
    with ExitStack() as stack, asyncio.Runner() as runner:
        services = [stack.enter_context(serving(argument, engine)) for _ in range(max(counts))]
        timed = time_each(
            lambda count: runner.run(
                saturate(services[:count], requests, settings["clients"], settings["seconds"] / 2)
            ),
            in_turn,
        )
    yield
    turns: defaultdict[int, list[Turn]] = defaultdict(list)
    for count, one in zip(in_turn, timed, strict=True):
        turns[count].append(one.given)
    return trial.report(*samples(turns), doubts=doubts(turns))


def samples(turns: Mapping[int, Sequence[Turn]]) -> list[Samples]:
    """The turns by the number of services, as samples; the gain is over the fewest services."""
    made = []
    fewest = _rate(turns[min(turns)])
    for count, of in turns.items():
        rate, gain = (
            Samples(name, processes=str(count)) for name in ("system.processes", "system.processes.gain")
        )
        for turn in of:
            rate.add(turn.seconds, items=turn.answers)
        gain.add(_rate(of), reference=fewest)
        made += [rate, gain]
    return made


def _rate(turns: Sequence[Turn]) -> float:
    return sum(turn.answers for turn in turns) / sum(turn.seconds for turn in turns)


def doubts(turns: Mapping[int, Sequence[Turn]]) -> dict[str, str]:
    """Why not to believe a number's figures: the services did not bound them, or gave no whole answers.

    A gain is as good as the figures of both numbers that it is made of.
    """
    cast = {
        count: together(why for turn in of for why in (turn.limit, turn.lack)) for count, of in turns.items()
    }
    found = {f"system.processes {count}": why for count, why in cast.items()}
    for count in turns:
        of_gain = (f"at {n}: {cast[n]}" for n in (min(turns), count) if cast[n])
        found[f"system.processes.gain {count}"] = together(of_gain)
    return {series: why for series, why in found.items() if why}


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
