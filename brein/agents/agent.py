"""An agent: a bounded queue of requests in front of a few slots that work on them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from threading import RLock
from typing import Generic, Self

from brein.agents.base import AgentStats, Answer, Batch, Call, Request, Times, wait_for_end
from brein.agents.limits import AgentConfig
from brein.agents.workers import Outcomes, Worker
from brein.errors import AgentError, AgentTimeoutError, ClosedError, QueueFullError

_GRACE = 1.0  # seconds that close() leaves abandoned work to end
_EARLY = 1e-9  # seconds that a timer may be early


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

    Made for the running event loop, which sees to the timeouts; `clock` gives the seconds that times are
    noted in, at the pace of the loop's own, and never goes back. Safe to use from any thread where its worker
    is. Also an async context manager that closes itself.
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
        # Over what follows. Never held while an outcome is given: its callbacks may do anything.
        self._lock = RLock()
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._made = clock()
        self._closed = False
        self._watching = False  # whether a timer runs, or is about to
        self._timer: asyncio.TimerHandle | None = None
        self._in_hand: OrderedDict[Call[Request, Answer], None] = OrderedDict()  # by when their time is over
        self._waiting: OrderedDict[Call[Request, Answer], None] = OrderedDict()
        self._running: set[_Run[Request, Answer]] = set()
        self._abandoned: dict[_Run[Request, Answer], Future[None]] = {}  # done when they end
        self._run_of: dict[Call[Request, Answer], _Run[Request, Answer]] = {}  # of what is running
        self._counts: Counter[str] = Counter()
        self._most_waiting = 0
        self._busy = 0.0

    def submit(self, request: Request) -> Call[Request, Answer]:
        """Admit `request`, now or not at all, and return the future of its answer. This never waits.

        Raises:
            QueueFullError: as many requests wait as may, or all slots are lost to work that does not end.
            ClosedError: the agent is closed.
        """
        with self._lock:
            self.check_room()
            call = Call(request, self._clock(), self._give_up)
            self._in_hand[call] = self._waiting[call] = None
            self._dispatch()  # before what follows, which is done while a thread wakes up
            self._counts["admitted"] += 1
            self._most_waiting = max(self._most_waiting, len(self._waiting))
            if not self._watching:
                self._watching = True
                with suppress(RuntimeError):  # the event loop is closed: nobody waits for this
                    self._loop.call_soon_threadsafe(self._watch)
        return call

    def check_room(self) -> None:
        """Raise what `submit` would raise now, and count it as a refusal; otherwise do nothing."""
        with self._lock:
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
        with self._lock:
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
        try:
            with self._lock:
                self._closed = True
                in_hand = tuple(self._in_hand)
            for call in in_hand:  # each has its timeout
                await wait_for_end(call)
            with self._lock:
                abandoned = tuple(self._abandoned.values())
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    for end in abandoned:
                        await wait_for_end(end)
        finally:
            self.release()

    def release(self) -> None:
        """Close without waiting: those admitted have their outcome still, and what has worked is released."""
        with self._lock:
            self._closed = True
            self._rest()
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
        while self._waiting and self._has_free_slot:
            if calls := self._next():
                self._start(calls)

    def _start(self, calls: list[Call[Request, Answer]]) -> None:
        deadline = calls[-1].admitted + self.config.timeout
        requests = [call.request for call in calls]
        batch = Batch(requests, deadline, self._clock, partial(self._give, calls))
        run = _Run(calls, batch)
        try:
            run.stop = self._worker.start(batch, partial(self._end, run))
        except Exception as error:
            for call in calls:
                self._loop.call_soon_threadsafe(self._settle, call, error)
            return
        self._running.add(run)
        for call in calls:
            call.batch = batch
            self._run_of[call] = run

    def _next(self) -> list[Call[Request, Answer]]:
        """The batch whose turn it is, empty where all that wait are late."""
        calls: list[Call[Request, Answer]] = []
        while self._waiting and len(calls) < self.config.batch_size:
            call, _ = self._waiting.popitem(last=False)
            if self._time_left(call) > 0:  # of a late one the timer is about to say so
                calls.append(call)
        return calls

    def _give(self, calls: Sequence[Call[Request, Answer]], place: int, outcome: Answer | Exception) -> None:
        """Settle a call before the work on its batch ends."""
        self._settle(calls[place], outcome)

    def _end(self, run: _Run[Request, Answer], outcomes: Outcomes[Answer]) -> None:
        with self._lock:
            if run in self._abandoned:
                self._abandoned.pop(run).set_result(None)
            self._free(run)
            is_loaded = bool(self._waiting)
            self._dispatch()
        for call, outcome in zip(run.calls, self._checked(run, outcomes), strict=True):
            self._settle(call, outcome)
        if is_loaded:  # a thread that goes on at once would keep the interpreter's lock from the event loop
            time.sleep(0)
        if self._loop.is_closed():  # nobody closes the agent
            self._worker.close()

    def _checked(self, run: _Run[Request, Answer], outcomes: Outcomes[Answer]) -> Outcomes[Answer]:
        if isinstance(outcomes, Sequence) and len(outcomes) == len(run.calls):
            return outcomes
        error = AgentError(
            f"{self.name}: its work gave {outcomes!r:.100} for {len(run.calls)} requests; "
            "it must give a sequence with an outcome for each"
        )
        return [error] * len(run.calls)

    def _watch(self) -> None:
        """Time out what is late, and look again when the next may be."""
        with self._lock:
            late = list(takewhile(lambda call: self._time_left(call) <= _EARLY, self._in_hand))
        for call in late:
            self._time_out(call)
        with self._lock:
            first = next(iter(self._in_hand), None)
            self._watching = first is not None
            if first is not None:
                self._timer = self._loop.call_later(self._time_left(first), self._watch)

    def _rest(self) -> None:
        """Have no timer run for nothing any more: it would keep all of this alive."""
        if self._watching and not self._in_hand:
            with suppress(RuntimeError):  # the event loop is closed, and its timers are gone
                self._loop.call_soon_threadsafe(self._cancel_timer)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _time_left(self, call: Call[Request, Answer]) -> float:
        return call.admitted + self.config.timeout - self._clock()

    def _time_out(self, call: Call[Request, Answer]) -> None:
        reached = "the request waited" if call.batch is None else "it worked on the request"
        message = f"{self.name}: {reached} when timeout = {self.config.timeout:g} s was over; ask again later"
        self._settle(call, AgentTimeoutError(message))

    def _settle(self, call: Call[Request, Answer], outcome: Answer | BaseException) -> None:
        """Let a call have its outcome, unless it has one."""
        if isinstance(outcome, StopIteration):  # no future takes one
            outcome = AgentError(f"{self.name}: its work raised {outcome!r}")
        elif isinstance(outcome, (asyncio.CancelledError, CancelledError)):  # as if the caller's own
            outcome = AgentError(f"{self.name}: its work was cancelled")
        if not isinstance(outcome, BaseException):
            if self._leave(call, "served"):
                call.set_result(outcome)
        elif self._leave(call, "timed_out" if isinstance(outcome, AgentTimeoutError) else "failed"):
            call.set_exception(outcome)

    def _give_up(self, call: Call[Request, Answer]) -> bool:
        return self._leave(call, "cancelled")

    def _leave(self, call: Call[Request, Answer], outcome: str) -> bool:
        """Free a call's place and count the outcome that it is given next; False where it has left."""
        with self._lock:
            if call not in self._in_hand:
                return False
            del self._in_hand[call]
            self._waiting.pop(call, None)
            self._counts[outcome] += 1
            call.times = self._times(call)
            call.batch = None
            run = self._run_of.get(call)
            if run is not None and not any(other in self._in_hand for other in run.calls):
                self._abandon(run)
            if self._closed:
                self._rest()
            return True

    def _times(self, call: Call[Request, Answer]) -> Times:
        if call.batch is None:
            return Times(call.admitted, None, None, self._clock())
        started, ended = call.batch.started, call.batch.ended  # a thread may note them at any moment
        return Times(call.admitted, call.batch.taken, started, self._clock() if ended is None else ended)

    def _abandon(self, run: _Run[Request, Answer]) -> None:
        self._abandoned[run] = Future()
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
