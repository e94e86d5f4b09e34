"""What an agent, its workers and its callers share: a call and its times, a batch, an agent's counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Times:
    """When what happened to a request, in seconds of its agent's clock; None: it did not come that far."""

    admitted: float  # into the queue
    taken: float | None  # by a slot
    started: float | None  # the work on it, where that is done: in a thread, say
    ended: float  # that work; or the wait for its answer, where the request was given up before

    @property
    def queue_wait(self) -> float:
        """Seconds it waited for a slot."""
        return (self.ended if self.taken is None else self.taken) - self.admitted

    @property
    def service_time(self) -> float:
        """Seconds of work on it; a batch's work is done on all of its requests."""
        return 0.0 if self.started is None else self.ended - self.started


class Batch(Generic[Request]):
    """The requests that one slot took at once: what work is given.

    `deadline` is the time on `clock` by which the last of them is given up. `give` lets the request at a
    place have its outcome while the work on others goes on; work may call it from any thread, and returns
    all outcomes in the end as ever.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        deadline: float,
        clock: Callable[[], float],
        give: Callable[[int, Any], None],
    ) -> None:
        self.requests = requests
        self.give = give
        self.taken = clock()
        self.started: float | None = None
        self.ended: float | None = None
        self.wanted = True  # False once nobody waits for any of its answers; work may ask from any thread
        self._deadline = deadline
        self._clock = clock

    def remaining(self) -> float:
        """Seconds the work has left; 0 once nobody waits for an answer. Work that can stop stops then."""
        return max(0.0, self._deadline - self._clock()) if self.wanted else 0.0

    def __enter__(self) -> None:
        """The work starts, and ends where this is left."""
        self.started = self._clock()

    def __exit__(self, *exception: object) -> None:
        self.ended = self._clock()


class Call(Future[Answer], Generic[Request, Answer]):
    """An admitted request: the future of its answer, which may be awaited, on any event loop.

    Cancelling it, or the task that awaits it, gives it up. Once it has an outcome its `times` are there, and
    when it was awaited its place is free. Callbacks run in whichever thread ends it, and hold up the agent.
    """

    times: Times

    def __init__(self, request: Request, admitted: float) -> None:
        super().__init__()
        self.request = request
        self.admitted = admitted
        self.batch: Batch[Request] | None = None  # None: it waits, or left while it did
        self.claimed = False  # by a thread that gives it its outcome

    def __await__(self) -> Generator[Any, None, Answer]:
        return asyncio.wrap_future(self).__await__()


@dataclass(frozen=True, slots=True)
class AgentStats:
    """Counts since the agent was made, and what it has in hand now.

    A request that was admitted is in hand until it is served, failed, timed out or cancelled: exactly one of
    these.
    """

    admitted: int
    rejected: int  # because the queue was full, or the slots lost; not admitted
    served: int
    failed: int
    timed_out: int
    cancelled: int
    waiting: int  # requests in the queue
    most_waiting: int  # at once, so far
    running: int  # slots at work
    abandoned: int  # pieces of work that nobody waits for and that did not end yet; they hold no slot
    slots: int
    busy: float  # slot-seconds of work: from when a slot took requests until it was free again
    elapsed: float  # seconds since the agent was made

    @property
    def utilisation(self) -> float:
        """Busy slot-seconds over all there were; that of a while is made of the differences of two stats."""
        return self.busy / (self.slots * self.elapsed) if self.elapsed else 0.0


async def ended(future: Future[Any]) -> None:
    """Wait until a future of any thread is done, whatever becomes of it; cancelled, this lets it be."""
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: finish(end))
    await end


def finish(end: asyncio.Future[None]) -> None:
    """Have what awaits a future go on, unless it does; from any thread."""
    with suppress(RuntimeError):  # its event loop is closed: nobody waits any more
        end.get_loop().call_soon_threadsafe(_finish, end)


def _finish(end: asyncio.Future[None]) -> None:
    if not end.done():
        end.set_result(None)
