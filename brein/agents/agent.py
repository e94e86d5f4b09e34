"""An agent: a bounded queue of requests in front of a few slots that work on them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Self

from brein.agents.base import AgentStats, Answer, Batch, Call, Request, Times
from brein.agents.limits import AgentConfig
from brein.agents.workers import Outcomes, Worker
from brein.errors import AgentError, AgentTimeoutError, ClosedError, QueueFullError

_GRACE = 1.0  # seconds that close() leaves abandoned work to end


class Agent(Generic[Request, Answer]):
    """Answers requests in the order of their admission, in `max_concurrent` slots.

    A free slot takes up to `batch_size` waiting requests at once; how their answers come, one by one or
    together, is the work's to say. Every admitted request has exactly one outcome: its answer, its error,
    AgentTimeoutError when `timeout` seconds have gone by since its admission, or that its caller cancelled
    it.

    A request that is given up, timed out or cancelled, leaves the queue at once, and its slot too, unless
    that works for others still. Its work is cancelled where it can be; a thread cannot, so it goes on,
    abandoned, beside the slots. That holds for as many pieces of work as there are slots; a slot given up
    beyond stays taken until one of them ends, and while all slots are lost in this way requests are refused.

    Used from one event loop, whose own clock the timeouts run by; `clock` gives the seconds that times are
    noted in, never goes back, and is read from any thread. Also an async context manager that closes itself.
    """

    def __init__(
        self,
        name: str,
        config: AgentConfig,
        worker: Worker[Request, Answer],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.config = config
        self._worker = worker
        self._clock = clock
        self._made = clock()
        self._closed = False
        self._waiting: OrderedDict[Call[Request, Answer], None] = OrderedDict()
        self._running: set[_Run[Request, Answer]] = set()
        self._abandoned: dict[_Run[Request, Answer], asyncio.Future[None]] = {}  # done when they end
        self._run_of: dict[Call[Request, Answer], _Run[Request, Answer]] = {}  # of what is running
        self._timers: dict[Call[Request, Answer], asyncio.TimerHandle] = {}  # of all that is in hand
        self._counts: Counter[str] = Counter()
        self._most_waiting = 0
        self._busy = 0.0

    def submit(self, request: Request) -> Call[Request, Answer]:
        """Admit `request`, now or not at all, and return the future of its answer. This never waits.

        Raises:
            QueueFullError: as many requests wait as may, or all slots are lost to work that does not end.
            ClosedError: the agent is closed.
        """
        self.check_room()
        call: Call[Request, Answer] = Call(request, self._clock(), self._cancelled)
        self._waiting[call] = None
        self._dispatch()  # before what follows, which is done while a thread wakes up
        if not call.done():
            self._timers[call] = call.get_loop().call_later(self.config.timeout, self._time_out, call)
        self._counts["admitted"] += 1
        self._most_waiting = max(self._most_waiting, len(self._waiting))
        return call

    def check_room(self) -> None:
        """Raise what `submit` would raise now, and count it as a refusal; otherwise do nothing."""
        if self._closed:
            raise ClosedError(f"{self.name} is closed and takes no more requests; make another")
        if self._has_free_slot:
            return
        waiting, most = len(self._waiting), self.config.queue_size
        if not self._running:
            problem = f"{len(self._abandoned)} pieces of work were given up and do not end"
        elif waiting >= most:
            problem = f"{waiting} requests wait, queue_size = {most}"
        else:
            return
        self._counts["rejected"] += 1
        raise QueueFullError(f"{self.name}: {problem}; ask again later")

    def stats(self) -> AgentStats:
        """Counts so far, and what is in hand now."""
        now = self._clock()
        counts = {
            outcome: self._counts[outcome]
            for outcome in ("admitted", "rejected", "served", "failed", "timed_out", "cancelled")
        }
        return AgentStats(
            **counts,
            waiting=len(self._waiting),
            most_waiting=self._most_waiting,
            running=len(self._running),
            abandoned=len(self._abandoned),
            slots=self.config.max_concurrent,
            busy=self._busy + sum(now - run.batch.taken for run in self._running),
            elapsed=now - self._made,
        )

    async def close(self) -> None:
        """Refuse new requests, let those admitted have their outcome, then release the worker.

        Takes `timeout` and a second at the longest; work that hangs even then is left behind, and with it its
        thread, which ends when the work does. Closing twice does nothing. Where this is cancelled, it
        waits no longer.
        """
        self._closed = True
        try:
            if self._timers:
                await asyncio.wait(self._timers)  # each has its timeout
            if self._abandoned:
                await asyncio.wait(self._abandoned.values(), timeout=_GRACE)
        finally:
            self.release()

    def release(self) -> None:
        """Close without waiting: those admitted have their outcome still, and what has worked is released."""
        self._closed = True
        self._worker.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # --- a request's way: admitted, waiting, running, settled ----------------------------------------

    @property
    def _has_free_slot(self) -> bool:
        slots, running = self.config.max_concurrent, len(self._running)
        return running < slots and running + len(self._abandoned) < 2 * slots

    def _dispatch(self) -> None:
        while self._has_free_slot and (calls := self._next()):
            deadline = calls[-1].admitted + self.config.timeout
            requests = [call.request for call in calls]
            batch = Batch(requests, deadline, self._clock, partial(self._give, calls))
            run = _Run(calls, batch)
            run.stop = self._worker.start(batch, partial(self._ended, run))
            self._running.add(run)
            for call in calls:
                call.batch = batch
                self._run_of[call] = run

    def _next(self) -> list[Call[Request, Answer]]:
        """The batch whose turn it is, empty where none waits."""
        calls: list[Call[Request, Answer]] = []
        while self._waiting and len(calls) < self.config.batch_size:
            call, _ = self._waiting.popitem(last=False)
            if self._clock() < call.admitted + self.config.timeout:
                calls.append(call)
            else:  # its timer is about to say so, too
                self._time_out(call)
        return calls

    def _give(self, calls: Sequence[Call[Request, Answer]], place: int, outcome: Answer | Exception) -> None:
        """Settle a call before the work on its batch ends; from any thread."""
        with suppress(RuntimeError):  # the event loop is closed: nobody waits for this
            calls[place].get_loop().call_soon_threadsafe(self._given, calls[place], outcome)

    def _given(self, call: Call[Request, Answer], outcome: Answer | BaseException) -> None:
        if not call.done():
            self._settle(call, outcome)

    def _ended(self, run: _Run[Request, Answer], outcomes: Outcomes[Answer]) -> None:
        if run in self._abandoned:
            self._abandoned.pop(run).set_result(None)
        self._free(run)
        for call, outcome in zip(run.calls, self._checked(run, outcomes), strict=True):
            self._given(call, outcome)
        self._dispatch()

    def _checked(self, run: _Run[Request, Answer], outcomes: Outcomes[Answer]) -> Outcomes[Answer]:
        if isinstance(outcomes, Sequence) and len(outcomes) == len(run.calls):
            return outcomes
        error = AgentError(
            f"{self.name}: its work gave {outcomes!r:.100} for {len(run.calls)} requests; "
            "it must give a sequence with an outcome for each"
        )
        return [error] * len(run.calls)

    def _time_out(self, call: Call[Request, Answer]) -> None:
        reached = "the request waited" if call.batch is None else "it worked on the request"
        message = f"{self.name}: {reached} when timeout = {self.config.timeout:g} s was over; ask again later"
        self._settle(call, AgentTimeoutError(message))

    def _settle(self, call: Call[Request, Answer], outcome: Answer | BaseException) -> None:
        if isinstance(outcome, StopIteration):  # no future takes one
            outcome = AgentError(f"{self.name}: its work raised {outcome!r}")
        elif isinstance(outcome, asyncio.CancelledError):  # the caller's own would read the same
            outcome = AgentError(f"{self.name}: its work was cancelled")
        if isinstance(outcome, BaseException):
            self._counts["timed_out" if isinstance(outcome, AgentTimeoutError) else "failed"] += 1
            call.set_exception(outcome)
            call.exception()  # it is counted: nothing is logged where nobody awaits it
        else:
            self._counts["served"] += 1
            call.set_result(outcome)
        self._leave(call)

    def _cancelled(self, call: Call[Request, Answer]) -> None:
        self._counts["cancelled"] += 1
        self._leave(call)

    def _leave(self, call: Call[Request, Answer]) -> None:
        call.times = self._times(call)
        if timer := self._timers.pop(call, None):  # None: its time was over when it was admitted
            timer.cancel()
        self._waiting.pop(call, None)
        run = self._run_of.get(call)
        if run is not None and all(other.done() for other in run.calls):
            self._abandon(run)

    def _times(self, call: Call[Request, Answer]) -> Times:
        if call.batch is None:
            return Times(call.admitted, None, None, self._clock())
        started, ended = call.batch.started, call.batch.ended  # a thread may note them at any moment
        return Times(call.admitted, call.batch.taken, started, self._clock() if ended is None else ended)

    def _abandon(self, run: _Run[Request, Answer]) -> None:
        self._abandoned[run] = run.calls[0].get_loop().create_future()
        self._free(run)
        run.batch.wanted = False
        run.stop()
        self._dispatch()

    def _free(self, run: _Run[Request, Answer]) -> None:
        if run in self._running:
            self._running.remove(run)
            self._busy += self._clock() - run.batch.taken
            for call in run.calls:
                del self._run_of[call]


@dataclass(eq=False, slots=True)
class _Run(Generic[Request, Answer]):
    """What a slot does: work on the batch that these calls are. `stop` is there once it has begun."""

    calls: list[Call[Request, Answer]]
    batch: Batch[Request]
    stop: Callable[[], object] = field(init=False)
