"""Asks the agents: memory and emotion side by side, then reasoning over what both found."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from brein.agents.agent import Agent
from brein.agents.base import AgentStats, Call, Times
from brein.agents.hippocampus import Hippocampus, Search
from brein.errors import BreinError, ClosedError
from brein.records import Hit
from brein.storage import Where

Emotion = TypeVar("Emotion")
Reasoned = TypeVar("Reasoned")


@dataclass(frozen=True, slots=True)
class Evidence(Generic[Emotion]):
    """What prefrontal_cortex composes an answer from; no emotion where amygdala gave none."""

    query: str
    hits: list[Hit]
    emotion: Emotion | None


@dataclass(frozen=True, slots=True)
class Trace:
    """When what happened to a question, in seconds of one clock; no amygdala where it did not admit it."""

    received: float
    returned: float
    hippocampus: Times
    amygdala: Times | None
    prefrontal_cortex: Times

    @property
    def agents(self) -> dict[str, Times]:
        """The times of the agents that admitted the question, by name."""
        times = {
            "hippocampus": self.hippocampus,
            "amygdala": self.amygdala,
            "prefrontal_cortex": self.prefrontal_cortex,
        }
        return {name: each for name, each in times.items() if each is not None}

    @property
    def wall(self) -> float:
        """Seconds from receiving the question to returning the answer."""
        return self.returned - self.received

    @property
    def hop_latency(self) -> dict[str, float]:
        """Seconds it took to reach an agent, by name, of those whose work on it began.

        From the end of what came before to the beginning of the agent's work, less its wait for a slot.
        What came before is the question's receipt for hippocampus and amygdala, and for prefrontal_cortex
        the work of whichever of these ended last.
        """
        before = dict.fromkeys(self.agents, self.received) | {"prefrontal_cortex": self._last.ended}
        return {
            name: times.started - before[name] - times.queue_wait
            for name, times in self.agents.items()
            if times.started is not None
        }

    @property
    def coordination_overhead(self) -> float:
        """Share of `wall`, 0 to 1, in which no agent worked and none had to be waited for.

        (wall − queue waits on the critical path − union of the agents' service intervals) ÷ wall. The
        critical path is whichever of hippocampus and amygdala ended last, then prefrontal_cortex. The part
        of their waits during which another agent worked is in the union already and counts once.
        """
        services = [(each.started, each.ended) for each in self.agents.values() if each.started is not None]
        waits = [
            (each.admitted, each.admitted + each.queue_wait) for each in (self._last, self.prefrontal_cortex)
        ]
        return max(0.0, 1 - _covered(services + waits) / self.wall) if self.wall else 0.0

    @property
    def _last(self) -> Times:
        first = [self.hippocampus] if self.amygdala is None else [self.hippocampus, self.amygdala]
        return max(first, key=lambda times: times.ended)


@dataclass(frozen=True, slots=True)
class Response(Generic[Emotion, Reasoned]):
    """The outcome of a question. `degraded` says why there is no emotion; None: nothing is missing."""

    answer: Reasoned
    hits: list[Hit]
    emotion: Emotion | None
    degraded: str | None
    trace: Trace


class Coordinator(Generic[Emotion, Reasoned]):
    """Asks three agents, of one event loop and one clock, which it closes in the end."""

    def __init__(
        self,
        hippocampus: Hippocampus,
        amygdala: Agent[str, Emotion],
        prefrontal_cortex: Agent[Evidence[Emotion], Reasoned],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hippocampus = hippocampus
        self._amygdala = amygdala
        self._prefrontal_cortex = prefrontal_cortex
        self._clock = clock
        self._closed = False
        self._asking: set[asyncio.Future[None]] = set()

    async def ask(self, query: str, k: int = 10, where: Where | None = None) -> Response[Emotion, Reasoned]:
        """Answer `query` from the `k` documents nearest to it that fulfil `where`.

        What amygdala cannot give is left out, and the response says why. Cancelling this gives up what the
        agents do for it.

        Raises:
            QueueFullError: hippocampus or prefrontal_cortex admits no more.
            AgentTimeoutError: one of them had no answer in time.
            ClosedError: the coordinator is closed.
            BreinError: what one of them raised.
        """
        if self._closed:
            raise ClosedError("the coordinator is closed and takes no more questions; make another")
        received = self._clock()
        feeling: Call[str, Emotion] | None = None
        emotion: Emotion | None = None
        degraded: str | None = None
        with ExitStack() as over:  # a call that is awaited is cancelled with this; amygdala's may not be yet
            over.callback(self._begun().set_result, None)
            memory = self._hippocampus.submit(Search(query, k, where))
            try:
                feeling = self._amygdala.submit(query)
                over.callback(feeling.cancel)
            except BreinError as error:
                degraded = _reason(error)
            hits = await memory
            if feeling is not None:
                try:
                    emotion = await feeling
                except Exception as error:
                    degraded = _reason(error)
            reasoning = self._prefrontal_cortex.submit(Evidence(query, hits, emotion))
            answer = await reasoning
        felt = None if feeling is None else feeling.times
        trace = Trace(received, self._clock(), memory.times, felt, reasoning.times)
        return Response(answer, hits, emotion, degraded, trace)

    def stats(self) -> dict[str, AgentStats]:
        """The counts of each agent so far, by its name."""
        return {
            "hippocampus": self._hippocampus.stats(),
            "amygdala": self._amygdala.stats(),
            "prefrontal_cortex": self._prefrontal_cortex.stats(),
        }

    def _begun(self) -> asyncio.Future[None]:
        """A future for `close` to wait for, of the end of a question."""
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking.add(end)
        end.add_done_callback(self._asking.discard)
        return end

    async def close(self) -> None:
        """Refuse new questions, let those under way have their outcome, then close the agents."""
        self._closed = True
        if self._asking:
            await asyncio.wait(self._asking)  # the agents' timeouts bound each
        await asyncio.gather(
            self._hippocampus.close(), self._amygdala.close(), self._prefrontal_cortex.close()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


def _reason(error: Exception) -> str:
    return f"amygdala gave nothing: {type(error).__name__}: {error}"


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Seconds of the union of the intervals (beginning, end)."""
    covered, reached = 0.0, -math.inf
    for beginning, end in sorted(intervals):
        covered += max(0.0, end - max(beginning, reached))
        reached = max(reached, end)
    return covered
