"""Part `idle`: one client, one question at a time, each once: what coordinating the agents costs.

Nobody else asks, so nobody waits for a slot: the times are the agents' own work, and what lies between. How
much of that is the machine's own is measured in turn: after each answer the event loop has two bare threads
work, one after the other, for as long as memory and reasoning did.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from bench import trial
from bench.suites.agents import coordination
from bench.suites.agents.coordination import Reply
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
        "after each answer: asyncio's run_in_executor with a function that works as long as hippocampus did, "
        "then with one that works as long as prefrontal_cortex did, in threads of their own; less that work"
    )
    plan = Plan("agents", "idle", "bench.suites.agents.idle:ask_one_by_one", argument)
    return Work([plan], conditions=conditions)


def ask_one_by_one(argument: dict[str, Any]) -> Measurement:
    """In a child: ask questions in an order drawn from the seed, and take their answers' traces apart."""
    settings, questions = argument["settings"], argument["questions"]
    order = np.random.default_rng(argument["seed"]).permutation(len(questions))
    texts = [questions[row] for row in order]
    with coordination.opened(argument) as (runner, agents), _threads() as first, _threads() as second:
        ask = partial(agents.ask, k=settings["k"])

        def answer(text: str) -> tuple[Reply, float]:
            reply = runner.run(ask(text))
            times = reply.trace.hippocampus.service_time, reply.trace.prefrontal_cortex.service_time
            return reply, runner.run(bare_handovers((first, second), times))

        for text in texts[-_WARM_UP:]:
            answer(text)
        yield
        timed = time_each(answer, texts[: settings["questions"]])
    yield
    return trial.report(*samples(timed), doubts=_doubts([one.given[0] for one in timed]))


def _threads() -> Executor:
    return ThreadPoolExecutor(1)


async def bare_handovers(threads: Sequence[Executor], work: Sequence[float]) -> float:
    """Seconds beyond the work, if each thread works so many seconds, one after the other, for the event loop.

    No coordination that has threads compute and lives on an event loop is faster.
    """
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    worked = [
        await loop.run_in_executor(thread, _work, seconds)
        for thread, seconds in zip(threads, work, strict=True)
    ]
    return time.perf_counter() - start - sum(worked)


def _work(seconds: float) -> float:
    """Compute for so long, without the interpreter's lock; returns the seconds it took."""
    data, start = bytes(1 << 16), time.perf_counter()
    while time.perf_counter() - start < seconds:
        hashlib.sha256(data)
    return time.perf_counter() - start


def samples(timed: Sequence[Timed[tuple[Reply, float]]]) -> list[Samples]:
    """The traces of the answers as samples: of the whole, of every hop, and agent by agent."""
    ask, overhead = Samples("agents.ask"), Samples("agents.overhead")
    coordination, handover = Samples("agents.coordination"), Samples("agents.handover")
    hops, service, waits = _ByAgent("agents.hop"), _ByAgent("agents.service"), _ByAgent("agents.queue_wait")
    every_hop = Samples("agents.hop")
    for one in timed:
        reply, bare = one.given
        trace = reply.trace
        ask.add(trace.wall, one.start)
        overhead.add(trace.coordination_overhead, one.start)
        coordination.add(trace.coordination_overhead * trace.wall, one.start)
        handover.add(bare, one.start)
        for agent, seconds in trace.hop_latency.items():
            hops[agent].add(seconds, one.start)
            every_hop.add(seconds, one.start)
        for agent, times in trace.agents.items():
            service[agent].add(times.service_time, one.start)
            waits[agent].add(times.queue_wait, one.start)
    return [
        ask,
        overhead,
        coordination,
        handover,
        every_hop,
        *hops.values(),
        *service.values(),
        *waits.values(),
    ]


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
