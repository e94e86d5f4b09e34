"""Part `load`: questions that arrive at random, at shares of the capacity, whatever became of those before.

The capacity comes first: how many questions a second are answered while clients keep every queue fed. Latency
counts from when a question was to be asked. Each load begins with empty queues, and its first part goes by
unmeasured. The generator lives on the agents' own event loop, as a server's connections would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import trial
from bench.arrivals import poisson
from bench.errors import MeasurementError
from bench.suites.agents import coordination, generator
from bench.suites.agents.coordination import Agents
from bench.suites.agents.generator import Asked
from bench.suites.base import Experiment
from bench.timing import time_each
from bench.trial import Measurement, Plan, Samples, Work
from brein import EngineConfig

METRICS: tuple[str, ...] = ("agents.capacity", "agents.load", "agents.utilisation", "agents.sustained_rate")
LEAD_IN = 0.25  # of `seconds`: goes by before a load is measured, so that queues are as they will be
_SHARE = 0.95  # share of the questions: where so many are answered within the objective, p95 keeps it
_OF_QUESTIONS = (
    "agents.load",
    "agents.load.answers",
    "agents.load.within_objective",
    "agents.load.refusal",
    "agents.load.hop",
    "agents.load.overhead",
)  # series of a load
_OF_KEPT = ("agents.utilisation", "agents.sustained_rate")  # series of the highest that keeps it


@dataclass(frozen=True)
class Offered:
    """What became of a load: `asked` are the questions whose time came in the measured `seconds`.

    `answers` were given in them, to whichever questions; `utilisation` is each agent's, by name.
    """

    load: float
    seconds: float
    asked: Sequence[Asked]
    answers: int
    utilisation: Mapping[str, float]

    @property
    def label(self) -> str:
        """The load in percent of the capacity."""
        return f"{self.load:.0%}"

    def within(self, objective: float) -> float:
        """Share of the questions that were answered, with nothing lacking, in `objective` seconds."""
        kept = [one.outcome == "answered" and one.ended - one.intended <= objective for one in self.asked]
        return sum(kept) / len(kept)


def plan(experiment: Experiment, argument: dict[str, Any]) -> Work:
    """Plan the loads."""
    settings, limits = experiment.config.suite.agents, experiment.config.agents
    slots = ", ".join(
        f"{name} {limit.max_concurrent} at once and {limit.queue_size} waiting" for name, limit in limits
    )
    conditions = {
        "agents.capacity": f"{generator.clients(limits)} clients for {settings.seconds:g} s, each of which "
        "asks again when it has its answer",
        "agents.load": "Poisson arrivals at shares of the capacity measured in the same process, "
        f"{settings.seconds:g} s of work at capacity for each, after a quarter of them unmeasured; answered "
        f"from {settings.k} hits among {len(experiment.text('agents').documents):,} documents; no search "
        f"is cached; {slots}",
        "agents.utilisation": f"at the highest load with a p95 of at most {settings.objective_p95:g} s from "
        "the intended start; 0 where none keeps it",
    }
    plan = Plan("agents", "load", "bench.suites.agents.load:ask_under_load", argument)
    return Work([plan], conditions=conditions)


def ask_under_load(argument: dict[str, Any]) -> Measurement:
    """In a child: find the capacity, then offer one load after another, lowest first."""
    settings, questions = argument["settings"], argument["questions"]
    clients = generator.clients(EngineConfig.read(argument["engine"]).agents)
    random = np.random.default_rng(argument["seed"])
    with coordination.opened(argument) as (runner, agents):
        loads = Loads(agents, questions, settings["k"], settings["seconds"], random)
        runner.run(agents.ask(questions[0]))
        yield
        answers = runner.run(loads.saturate(clients))
        capacity = answers / settings["seconds"]
        timed = time_each(lambda load: runner.run(loads.offer(load, capacity)), settings["loads"])
    yield
    offered = [one.given for one in timed]
    found = Samples("agents.capacity")
    found.add(settings["seconds"], items=answers)
    return trial.report(
        found,
        *(series for one in offered for series in samples(one, settings["objective_p95"])),
        *sustained(offered, capacity, settings["objective_p95"]),
        doubts=doubts(offered, settings["objective_p95"]),
    )


class Loads:
    """Puts questions to agents, `seconds` of work at a time, after a lead-in."""

    def __init__(
        self, agents: Agents, questions: Sequence[str], k: int, seconds: float, random: np.random.Generator
    ) -> None:
        self._agents = agents
        self._ask = partial(agents.ask, k=k)
        self._questions = generator.endless(questions, random)
        self._seconds = seconds
        self._random = random

    async def saturate(self, clients: int) -> int:
        """Have so many clients ask as fast as they are answered, and count the answers in `seconds`.

        Raises:
            MeasurementError: there are none.
        """
        begin = asyncio.get_running_loop().time() + LEAD_IN * self._seconds
        asked = await generator.closed_loop(self._ask, self._questions, clients, begin, self._seconds)
        await generator.drained(self._agents.stats)
        if answers := _answers(asked, self._seconds):
            return answers
        problem = next((f", the first: {one.problem}" for one in asked if one.problem), "")
        raise MeasurementError(
            f"no question was answered in {self._seconds:g} s{problem}; raise suite.agents.seconds"
        )

    async def offer(self, load: float, capacity: float) -> Offered:
        """Offer a share of the capacity, questions a second, and wait until the agents are idle again.

        Every load up to the capacity is as many questions as `seconds` at capacity are.
        """
        stats, seconds = self._agents.stats, self._seconds / min(1.0, load)
        lead = LEAD_IN * self._seconds
        spans = ((-lead, 0.0), (0.0, seconds))
        times = [poisson(load * capacity, *span, self._random) for span in spans]
        begin = asyncio.get_running_loop().time() + lead
        asked, before, after = await asyncio.gather(
            generator.open_loop(self._ask, self._questions, np.concatenate(times).tolist(), begin),
            generator.read_at(begin, stats),
            generator.read_at(begin + seconds, stats),
        )
        await generator.drained(stats)
        return Offered(
            load=load,
            seconds=seconds,
            asked=[one for one in asked if one.intended >= 0],
            answers=_answers(asked, seconds),
            utilisation={name: generator.utilisation(before[name], after[name]) for name in before},
        )


def _answers(asked: Sequence[Asked], seconds: float) -> int:
    """Answers given in the measured `seconds` that lack nothing."""
    return sum(one.outcome == "answered" and 0 <= one.ended < seconds for one in asked)


def samples(offered: Offered, objective: float) -> list[Samples]:
    """A load as samples: its questions, its answers, and its agents."""
    label = offered.label
    requests, answers = Samples("agents.load", load=label), Samples("agents.load.answers", load=label)
    hops, overhead = Samples("agents.load.hop", load=label), Samples("agents.load.overhead", load=label)
    refusals = Samples("agents.load.refusal", load=label)
    waits = {
        agent: Samples("agents.load.queue_wait", agent=agent, load=label) for agent in offered.utilisation
    }
    for one in offered.asked:
        requests.add(one.ended - one.intended, one.intended, outcome=one.outcome)
        if one.outcome == "rejected":
            refusals.add(one.ended - one.intended, one.intended)
        if one.trace:
            for agent, times in one.trace.agents.items():
                waits[agent].add(times.queue_wait, one.intended)
            for seconds in one.trace.hop_latency.values():
                hops.add(seconds, one.intended)
            overhead.add(one.trace.coordination_overhead, one.intended)
    answers.add(offered.seconds, items=offered.answers)
    busy = [
        Samples.of(share, "agents.load.utilisation", agent=agent, load=label)
        for agent, share in offered.utilisation.items()
    ]
    busiest = Samples.of(max(offered.utilisation.values()), "agents.load.busiest", load=label)
    kept = Samples.of(offered.within(objective), "agents.load.within_objective", load=label)
    return [requests, answers, kept, refusals, hops, overhead, *busy, busiest, *waits.values()]


def sustained(offered: Sequence[Offered], capacity: float, objective: float) -> list[Samples]:
    """The highest load that keeps the objective, and the busiest agent's utilisation there.

    Lower ones may break it: a host that stalls for a second does that at any load.
    """
    kept = _highest(offered, objective)
    return [
        Samples.of(max(kept.utilisation.values()) if kept else 0.0, "agents.utilisation"),
        Samples.of(kept.load * capacity if kept else 0.0, "agents.sustained_rate"),
    ]


def _highest(offered: Sequence[Offered], objective: float) -> Offered | None:
    """The highest load that keeps the objective."""
    kept = [one for one in offered if one.within(objective) >= _SHARE]
    return max(kept, key=lambda one: one.load, default=None)


def doubts(offered: Sequence[Offered], objective: float) -> dict[str, str]:
    """Why not to believe what was made of a load's questions, and of the highest that keeps the objective.

    The agents' own figures stand whatever became of the questions.
    """
    cast = {one.label: why for one in offered if (why := doubt(one))}
    found = {f"{series} {load}": why for load, why in cast.items() for series in _OF_QUESTIONS}
    kept = _highest(offered, objective)
    if kept is not None and kept.label in cast:
        found |= dict.fromkeys(_OF_KEPT, f"at {kept.label}: {cast[kept.label]}")
    return found


def doubt(offered: Offered) -> str:
    """Why not to believe a load's figures; empty where nothing is."""
    return generator.doubt(offered.asked, "questions")
