"""Questions asked as a load asks them: at times of their own, or by clients who wait for their answers.

Times are seconds after `begin`, a moment of the running event loop's clock from which on is measured. What is
asked before, at negative times, is to fill the queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bench.errors import MeasurementError
from bench.metrics import Outcome
from brein.agents import AgentsConfig, AgentStats, Response, Trace
from brein.errors import QueueFullError

_PAUSE = 0.01  # seconds until a client whose question had no answer asks again
_DRAIN = 120.0  # seconds that agents may take to end what nobody waits for any more
_LOOK = 0.01  # seconds between two looks whether they have
_LATE = 0.05  # of the latency: a generator that is later than that shows in the figures
_LEAST_LATE = 1e-4  # seconds: any event loop takes nearly as many to start a task
_QUANTILES = {0.5: "medians", 0.95: "95th percentiles"}  # of both, which are compared

Ask = Callable[[str], Awaitable[Response[Any, Any]]]
Read = TypeVar("Read")


class Asked(NamedTuple):
    """A question that was meant to be asked at `intended`, was at `sent`, and what became of it at `ended`.

    `trace` is there where agents answered it, `problem` where nobody did, or what the answer lacks and why.
    """

    intended: float
    sent: float
    ended: float
    outcome: Outcome
    trace: Trace | None = None
    problem: str | None = None


def endless(questions: Sequence[str], random: np.random.Generator) -> Iterator[str]:
    """Every question in random order, and in that order again and again: it returns after all others."""
    return cycle([questions[row] for row in random.permutation(len(questions))])


def clients(limits: AgentsConfig) -> int:
    """How many clients keep every slot at work, two for each place in one, without ever filling a queue."""
    agents = (limits.hippocampus, limits.amygdala, limits.prefrontal_cortex)
    wanted = 2 * sum(agent.max_concurrent * agent.batch_size for agent in agents)
    return min(wanted, *(agent.max_concurrent + agent.queue_size for agent in agents))


async def open_loop(ask: Ask, questions: Iterator[str], times: Iterable[float], begin: float) -> list[Asked]:
    """Ask one question at each of `times`, ascending, whatever became of those before.

    Ends when each has its outcome, which the agents' timeouts bound.
    """
    now = asyncio.get_running_loop().time
    asking = []
    async with asyncio.TaskGroup() as group:
        for intended in times:
            await asyncio.sleep(max(0.0, begin + intended - now()))
            asking.append(group.create_task(_outcome(ask, next(questions), begin, intended)))
    return [task.result() for task in asking]


async def closed_loop(
    ask: Ask, questions: Iterator[str], count: int, begin: float, seconds: float
) -> list[Asked]:
    """Let `count` clients each ask, wait for the outcome and ask again, from now until `seconds`.

    Ends when the last questions have their outcome, which the agents' timeouts bound.
    """
    now = asyncio.get_running_loop().time
    asked: list[Asked] = []

    async def client() -> None:
        while (start := now() - begin) < seconds:
            one = await _outcome(ask, next(questions), begin, start)
            asked.append(one)
            if one.trace is None:
                await asyncio.sleep(_PAUSE)

    await asyncio.gather(*(client() for _ in range(count)))
    return asked


async def _outcome(ask: Ask, question: str, begin: float, intended: float) -> Asked:
    now = asyncio.get_running_loop().time
    sent = now() - begin
    try:
        response = await ask(question)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        return Asked(intended, sent, now() - begin, _named(error), problem=problem)
    outcome: Outcome = "degraded" if response.degraded else "answered"
    return Asked(intended, sent, now() - begin, outcome, response.trace, response.degraded)


def _named(error: Exception) -> Outcome:
    if isinstance(error, QueueFullError):
        return "rejected"
    return "timed out" if isinstance(error, TimeoutError) else "failed"


async def read_at(moment: float, read: Callable[[], Read]) -> Read:
    """Read at a moment of the event loop's clock."""
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))
    return read()


async def drained(stats: Callable[[], Mapping[str, AgentStats]]) -> None:
    """Wait until no agent has anything in hand, not even work that nobody waits for.

    Raises:
        MeasurementError: one still has after two minutes.
    """
    try:
        async with asyncio.timeout(_DRAIN):
            while any(each.waiting or each.running or each.abandoned for each in stats().values()):
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        raise MeasurementError(
            f"agents still work {_DRAIN:g} s after the last outcome of a load; lower agents.*.timeout"
        ) from None


def utilisation(before: AgentStats, after: AgentStats) -> float:
    """Busy slot-seconds over all there were between two readings of an agent."""
    return (after.busy - before.busy) / (after.slots * (after.elapsed - before.elapsed))


def doubt(asked: Sequence[Asked], things: str) -> str:
    """Why not to believe figures made of these; empty where nothing is. `things` says what they are.

    They were asked late, or failed, or their answers lack a part.
    """
    found = []
    answered = [one for one in asked if one.outcome in ("answered", "degraded")]
    if late := _late(asked, answered):
        found.append(
            f"generator-limited: {things} were asked late by over {_LATE:.0%} of their latency, by the {late}"
        )
    if failed := [one.problem for one in asked if one.outcome == "failed"]:
        found.append(f"{len(failed):,} {things} failed, the first: {failed[0]}")
    if lacking := [one.problem for one in answered if one.outcome == "degraded"]:
        share = len(lacking) / len(answered)
        found.append(f"{share:.0%} of the answers were degraded, the first: {lacking[0]}")
    return "; ".join(found)


def _late(asked: Sequence[Asked], answered: Sequence[Asked]) -> str:
    """By which quantiles they were asked late; empty where by none."""
    if not answered:
        return ""
    late = np.quantile([one.sent - one.intended for one in asked], list(_QUANTILES))
    latency = np.quantile([one.ended - one.intended for one in answered], list(_QUANTILES))
    named = zip(_QUANTILES.values(), late > np.maximum(_LATE * latency, _LEAST_LATE), strict=True)
    return " and the ".join(name for name, is_late in named if is_late)
