"""Asks the agents: memory and emotion side by side, then reasoning over what both found."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Self, TypeVar, cast

from brein.agents.agent import Agent
from brein.agents.base import AgentStats, Call, Times, tell
from brein.agents.hippocampus import Delete, Get, Hippocampus, Ingest, Recalled, Search, Wish
from brein.errors import BreinError, ClosedError, QueueFullError
from brein.records import Document, Hit, Retrieval
from brein.storage import Where
from brein.texts import check_question

Emotion = TypeVar("Emotion")
Reasoned = TypeVar("Reasoned")


@dataclass(frozen=True, slots=True)
class Evidence(Generic[Emotion]):
    """Asks for an answer to `query` from `hits`, best first.

    `complexity` is the query's, from 0 to 1. There is no emotion where amygdala gave none.
    """

    query: str
    hits: tuple[Hit, ...]
    emotion: Emotion | None
    complexity: float


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
    """The outcome of a question: the answer, and what it was made from.

    `degraded` says what is missing and why: stages that the retrieval went without, or an emotion. None:
    nothing is.
    """

    answer: Reasoned
    retrieval: Retrieval
    emotion: Emotion | None
    degraded: str | None
    trace: Trace


class Coordinator(Generic[Emotion, Reasoned]):
    """Asks three agents, of one event loop and one clock, which it closes in the end; used from that loop.

    prefrontal_cortex is asked from where the last of the two before it ends, in a thread if that works in
    threads: then it works in threads, too.

    It takes on as many questions at once as prefrontal_cortex, asked by nobody else, has slots and places
    for, and refuses others before any agent works on them.
    """

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
        """Answer `query` from the `k` documents that answer it best and fulfil `where`.

        What amygdala cannot give is left out, and the response says why. Cancelling this gives up what the
        agents do for it.

        Raises:
            DataError: the question is no text, blank, or too long; or what hippocampus says of k and where.
            QueueFullError: there are as many questions as may, or an agent admits no more.
            AgentTimeoutError: hippocampus or prefrontal_cortex had no answer in time.
            ClosedError: the coordinator is closed.
            BreinError: what one of them raised.
        """
        received = self._clock()
        self._check_room()
        query = check_question(query)
        question = _Question[Emotion, Reasoned](query, self._prefrontal_cortex)
        self._asking.add(question.ended)
        try:
            self._hippocampus.check_room()  # amygdala is not to work for nothing
            question.feel(self._amygdala)  # it soon waits for the embedding, and leaves its core to the other
            question.remember(self._hippocampus, k, where)
            await question.ended
            answer = question.answer()
        except BaseException:
            question.give_up()
            raise
        finally:
            question.ended.cancel()  # where it was not awaited
            self._asking.remove(question.ended)
        trace = Trace(received, self._clock(), *question.times)
        degraded = "; ".join(filter(None, (question.retrieval.degraded, question.missing))) or None
        return Response(answer, question.retrieval, question.emotion, degraded, trace)

    async def search(self, query: str, k: int = 10, where: Where | None = None) -> Retrieval:
        """Have hippocampus find the `k` documents that answer `query` best and fulfil `where`.

        Raises:
            QueueFullError: hippocampus admits no more.
            AgentTimeoutError: it had no answer in time.
            ClosedError: the coordinator is closed.
            BreinError: what `Engine.retrieve` raised.
        """
        self._check_open()
        return cast(Retrieval, await self._hippocampus.submit(Search(query, k, where)))

    async def get(self, id_: str) -> Document | None:
        """Have hippocampus read the document with this id; None where there is none. Raises as `search`."""
        self._check_open()
        return cast(Document | None, await self._hippocampus.submit(Get(id_)))

    async def delete(self, ids: Sequence[str]) -> int:
        """Have hippocampus forget the documents with these ids; return how many were there.

        Cancelled or out of time, it no longer waits, but what has begun is done all the same. Raises as
        `search`.
        """
        self._check_open()
        return cast(int, await self._hippocampus.submit(Delete(ids)))

    async def ingest(self, documents: Sequence[Document]) -> None:
        """Have hippocampus remember `documents`; when this returns they are on disk.

        Cancelled or out of time, it no longer waits, but what has begun is written all the same.

        Raises:
            QueueFullError: hippocampus admits no more.
            AgentTimeoutError: it did not come to an end in time.
            ClosedError: the coordinator is closed.
            BreinError: what `Engine.ingest` raised.
        """
        self._check_open()
        await self._hippocampus.submit(Ingest(documents))

    def stats(self) -> dict[str, AgentStats]:
        """The counts of each agent so far, by its name. A question that none has seen is in none of them."""
        return {
            "hippocampus": self._hippocampus.stats(),
            "amygdala": self._amygdala.stats(),
            "prefrontal_cortex": self._prefrontal_cortex.stats(),
        }

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the coordinator is closed and takes no more requests; make another")

    def _check_room(self) -> None:
        self._check_open()
        limits = self._prefrontal_cortex.config
        if len(self._asking) >= limits.max_concurrent + limits.queue_size:
            raise QueueFullError(
                f"{len(self._asking)} questions are under way, prefrontal_cortex has max_concurrent = "
                f"{limits.max_concurrent} and queue_size = {limits.queue_size}; ask again later"
            )
        self._prefrontal_cortex.check_room()  # its slots may be lost

    async def close(self) -> None:
        """Refuse new questions, let those under way have their outcome, then close the agents.

        Where this is cancelled, the agents are closed at once.
        """
        self._closed = True
        agents = self._hippocampus, self._amygdala, self._prefrontal_cortex
        try:
            if self._asking:
                await asyncio.wait(self._asking)  # the agents' timeouts bound each
            await asyncio.gather(*(agent.close() for agent in agents))
        finally:
            for agent in agents:
                agent.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class _Question(Generic[Emotion, Reasoned]):
    """A question on its way; `ended` is done when there is nothing to wait for any more.

    Each step begins where the one before ends, in the same thread: to wake up the event loop, or another
    thread, takes longer than all the rest of the way.
    """

    retrieval: Retrieval
    emotion: Emotion | None = None
    missing: str | None = None  # why there is no emotion

    def __init__(self, query: str, prefrontal_cortex: Agent[Evidence[Emotion], Reasoned]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._query = query
        self._prefrontal_cortex = prefrontal_cortex
        self._given_up = False
        self._memory: Call[Wish, Recalled] | None = None
        self._feeling: Call[str, Emotion] | None = None
        self._reasoning: Call[Evidence[Emotion], Reasoned] | None = None
        self._problem: BaseException | None = None

    def feel(self, amygdala: Agent[str, Emotion]) -> None:
        """Ask amygdala, before hippocampus; it may refuse."""
        try:
            self._feeling = amygdala.submit(self._query)
        except BreinError as error:
            self.missing = _why_missing(error)

    def remember(self, hippocampus: Hippocampus, k: int, where: Where | None) -> None:
        """Ask hippocampus, and in the end prefrontal_cortex.

        Raises:
            BreinError: hippocampus does not admit it.
        """
        self._memory = hippocampus.submit(Search(self._query, k, where))
        self._memory.add_done_callback(self._remembered)

    def answer(self) -> Reasoned:
        """The answer, once it has ended; raises what the question failed with."""
        if self._problem is not None:
            raise self._problem
        return cast(Call[Evidence[Emotion], Reasoned], self._reasoning).result()

    @property
    def times(self) -> tuple[Times, Times | None, Times]:
        """Of hippocampus, amygdala and prefrontal_cortex, once it is answered."""
        memory, feeling, reasoning = self._memory, self._feeling, self._reasoning
        assert memory is not None and reasoning is not None  # noqa: S101, PT018  it is answered
        return memory.times, None if feeling is None else feeling.times, reasoning.times

    def give_up(self) -> None:
        """Cancel what the agents do for it still."""
        self._given_up = True
        for call in (self._memory, self._feeling, self._reasoning):
            if call is not None:
                call.cancel()

    def _remembered(self, memory: Future[Recalled]) -> None:
        try:
            self.retrieval = cast(Retrieval, memory.result())  # as every Search is answered
        except BaseException as error:
            self._fail(error)
            return
        if self._feeling is None:
            self._reason()
        else:
            self._feeling.add_done_callback(self._felt)

    def _felt(self, feeling: Future[Emotion]) -> None:
        try:
            self.emotion = feeling.result()
        except BaseException as error:
            self.missing = _why_missing(error)
        self._reason()

    def _reason(self) -> None:
        if self._given_up:
            return
        try:
            complexity = self.retrieval.analysis.complexity.score
            evidence = Evidence(self._query, self.retrieval.hits, self.emotion, complexity)
            self._reasoning = self._prefrontal_cortex.submit(evidence)
        except BaseException as error:
            self._fail(error)
            return
        if self._given_up:  # meanwhile, by another thread
            self._reasoning.cancel()
        self._reasoning.add_done_callback(lambda _: tell(self.ended))

    def _fail(self, error: BaseException) -> None:
        self._problem = error
        tell(self.ended)


def _why_missing(error: BaseException) -> str:
    try:
        return f"amygdala gave nothing: {type(error).__name__}: {error}"
    except Exception:  # it cannot even say what it is
        return f"amygdala gave nothing: {type(error).__name__}"


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Seconds of the union of the intervals (beginning, end)."""
    covered, reached = 0.0, -math.inf
    for beginning, end in sorted(intervals):
        covered += max(0.0, end - max(beginning, reached))
        reached = max(reached, end)
    return covered
