"""Part `idle`: one client, one question at a time, each once: what coordinating the agents costs.

Nobody else asks, so nobody waits for a slot: the times are the agents' own work, and what lies between. A
yardstick for that is measured afterwards: the event loop has two bare threads work, one after the other, for
as long as memory and reasoning did.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from bench import trial
from bench.suites.agents import coordination
from bench.suites.agents.coordination import Reply
from bench.suites.agents.handover import BareThread, handovers
from bench.suites.base import Experiment
from bench.timing import Timed, time_each
from bench.trial import Measurement, Plan, Samples, Work

METRICS: tuple[str, ...] = (
    "agents.latency",
    "agents.hop_latency",
    "agents.coordination_overhead",
    "agents.coordination_time",
    "agents.handover_time",
    "agents.service_time",
    "agents.queue_wait",
)
_HANDOVERS = 50  # a mean needs no more
_WARM_UP = 20  # questions asked first, untimed, whose threads and prototypes the others find there


def plan(experiment: Experiment, argument: dict[str, Any]) -> Work:
    """Plan the questions."""
    settings = experiment.config.suite.agents
    asked = min(settings.questions, len(argument["questions"]))
    conditions = dict.fromkeys(
        ("agents.ask", "agents.hop", "agents.overhead", "agents.coordination"),
        f"{asked:,} questions, each once, one client, answered from {settings.k} hits among "
        f"{len(experiment.text('agents').documents):,} documents; no search is cached",
    )
    conditions["agents.handover"] = (
        f"after all questions, for each of the first {min(asked, _HANDOVERS)}: the event loop has a thread "
        "compute for as long as hippocampus did, then another for as long as prefrontal_cortex did; less "
        "that work"
    )
    plan = Plan("agents", "idle", "bench.suites.agents.idle:ask_one_by_one", argument)
    return Work([plan], conditions=conditions)


def ask_one_by_one(argument: dict[str, Any]) -> Measurement:
    """In a child: ask questions in an order drawn from the seed, and take their answers' traces apart."""
    settings, questions = argument["settings"], argument["questions"]
    order = np.random.default_rng(argument["seed"]).permutation(len(questions))
    texts = [questions[row] for row in order]
    with coordination.opened(argument) as (runner, agents):
        ask = partial(agents.ask, k=settings["k"])
        for text in texts[-_WARM_UP:]:
            runner.run(ask(text))
        yield
        timed = time_each(lambda text: runner.run(ask(text)), texts[: settings["questions"]])
        work = [_in_turn(one.given) for one in timed[:_HANDOVERS]]
        with BareThread() as first, BareThread() as second:
            bare = time_each(lambda seconds: runner.run(handovers((first, second), seconds)), work)
    yield
    handover = Samples("agents.handover")
    for one in bare:
        handover.add(one.given, one.start)
    return trial.report(*samples(timed), handover, doubts=_doubts([one.given for one in timed]))


def _in_turn(reply: Reply) -> tuple[float, float]:
    """Seconds that the agents worked that work one after the other."""
    return reply.trace.hippocampus.service_time, reply.trace.prefrontal_cortex.service_time


def samples(timed: Sequence[Timed[Reply]]) -> list[Samples]:
    """The traces of the answers as samples: of the whole, of every hop, and agent by agent."""
    ask, overhead = Samples("agents.ask"), Samples("agents.overhead")
    coordination = Samples("agents.coordination")
    hops, service, waits = _ByAgent("agents.hop"), _ByAgent("agents.service"), _ByAgent("agents.queue_wait")
    every_hop = Samples("agents.hop")
    for one in timed:
        trace = one.given.trace
        ask.add(trace.wall, one.start)
        overhead.add(trace.coordination_overhead, one.start)
        coordination.add(trace.coordination_overhead * trace.wall, one.start)
        for agent, seconds in trace.hop_latency.items():
            hops[agent].add(seconds, one.start)
            every_hop.add(seconds, one.start)
        for agent, times in trace.agents.items():
            service[agent].add(times.service_time, one.start)
            waits[agent].add(times.queue_wait, one.start)
    by_agent = [*hops.values(), *service.values(), *waits.values()]
    return [ask, overhead, coordination, every_hop, *by_agent]


class _ByAgent(dict[str, Samples]):
    """A series for each agent, made when it is first asked for."""

    def __init__(self, series: str) -> None:
        self._series = series

    def __missing__(self, agent: str) -> Samples:
        return self.setdefault(agent, Samples(self._series, agent=agent))


def _doubts(replies: Sequence[Reply]) -> dict[str, str]:
    """Answers that lack a part: less was measured than the figures say."""
    lacking = [reply.degraded for reply in replies if reply.degraded]
    if not lacking:
        return {}
    return {"agents": f"{len(lacking):,} of {len(replies):,} answers were degraded, the first: {lacking[0]}"}
