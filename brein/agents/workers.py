"""Where an agent's work is done: in threads, or on the event loop."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Any, Generic, TypeAlias, TypeVar

from brein.agents.base import Answer, Batch, Request
from brein.errors import AgentError

_log = logging.getLogger(__name__)

Outcomes: TypeAlias = Sequence[Answer | Exception]
"""One for each request of a batch, in its order: the answer, or the error that it alone fails with."""

Ended: TypeAlias = Callable[[Outcomes[Answer]], None]
"""Told of the end of work: its outcomes."""


def one_by_one(function: Callable[[Request], Answer]) -> Callable[[Batch[Request]], Outcomes[Answer]]:
    """Work on a batch for a function of one request: one that raises fails that request alone.

    Each has its outcome while the function works on the next.
    """

    def work(batch: Batch[Request]) -> list[Answer | Exception]:
        outcomes: list[Answer | Exception] = []
        given_up = AgentError("nobody waits for the answer any more")
        for place, request in enumerate(batch.requests):
            if place:
                batch.give(place - 1, outcomes[-1])  # the last one comes with the end of the work
            outcomes.append(attempt(function, request) if batch.wanted else given_up)
        return outcomes

    return work


def attempt(function: Callable[[Request], Answer], request: Request) -> Answer | Exception:
    """What the function returns or raises for a request."""
    try:
        return function(request)
    except Exception as error:
        return error


class Worker(ABC, Generic[Request, Answer]):
    """Does an agent's work."""

    @abstractmethod
    def start(self, batch: Batch[Request], ended: Ended[Answer]) -> Callable[[], object]:
        """Begin to work on `batch`, and call `ended` once, from any thread, not from here.

        Returns what stops work that can be stopped, and does nothing to other work.

        Raises:
            AgentError: it cannot begin.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what is idle; what still works, or is started yet, is released when it ends."""


class OnLoop(Worker[Request, Answer]):
    """Work that waits, for a network say: a coroutine function, run on the event loop that it is asked on."""

    def __init__(self, function: Callable[[Batch[Request]], Awaitable[Outcomes[Answer]]]) -> None:
        self._function = function

    def start(self, batch: Batch[Request], ended: Ended[Answer]) -> Callable[[], object]:
        """Begin to work on `batch`; what this returns cancels the work."""
        task = asyncio.get_running_loop().create_task(self._work(batch))
        task.add_done_callback(partial(self._ended, batch, ended))
        return task.cancel

    def _ended(
        self, batch: Batch[Request], ended: Ended[Answer], task: asyncio.Task[Outcomes[Answer]]
    ) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        ended(task.result() if error is None else _all_failed(batch, error))

    async def _work(self, batch: Batch[Request]) -> Outcomes[Answer]:
        with batch:
            return await self._function(batch)

    def close(self) -> None:
        """There is nothing to release."""


class InThreads(Worker[Request, Answer]):
    """Work that computes: a plain function, run in threads, which several workers may share."""

    def __init__(
        self,
        function: Callable[[Batch[Request]], Outcomes[Answer]],
        name: str,
        threads: Threads | None = None,
    ) -> None:
        self._function = function
        self._name = name
        self._threads = Threads(name) if threads is None else threads

    def start(self, batch: Batch[Request], ended: Ended[Answer]) -> Callable[[], object]:
        """Begin to work on `batch`; nothing stops a thread."""
        try:
            self._threads.start(partial(self._outcomes, batch), ended)
        except RuntimeError as error:
            problem = f"{self._name} can have no thread: {error}; let the process have more"
            raise AgentError(problem) from error
        return _nothing

    def close(self) -> None:
        """Close the threads, also those that others share: their work is still done, in threads that end."""
        self._threads.close()

    def _outcomes(self, batch: Batch[Request]) -> Outcomes[Answer]:
        try:
            with batch:
                return self._function(batch)
        except Exception as error:
            return _all_failed(batch, error)
        except BaseException as error:  # an exit, say, which must end neither the thread nor the event loop
            return _all_failed(batch, AgentError(f"{self._name}: its work raised {error!r}"))


Result = TypeVar("Result")


class Threads:
    """Threads that are made when needed and kept, for workers to share.

    There are never more than there are pieces of work at once. What was last to work is first to work again,
    since what it uses is warm. So what `ended` starts goes on in the same thread, as soon as `ended` has
    returned, which must not wait for it. They are daemons: one that hangs does not keep the process from
    ending, as a thread of `concurrent.futures` would. Safe to use from any thread.
    """

    def __init__(self, name: str) -> None:
        self._lock = Lock()  # over what follows
        self._name = name
        self._closed = False
        self._threads: list[_Thread] = []
        self._idle: list[_Thread] = []

    def start(self, work: Callable[[], Result], ended: Callable[[Result], None]) -> None:
        """Have `work` done, which must not raise, and `ended` told what it returned, in the same thread.

        Raises:
            RuntimeError: the system has no thread left.
        """
        with self._lock:
            thread = self._idle.pop() if self._idle else self._new_thread()
            thread.tasks.put(partial(self._run, thread, work, ended))
            if self._closed:
                thread.tasks.put(None)

    def close(self) -> None:
        """End the idle threads, and the others, also those of work that comes later, when their work ends."""
        with self._lock:
            self._closed = True
            for thread in self._threads:
                thread.tasks.put(None)
            idle = self._idle
            self._threads, self._idle = [], []
        for thread in idle:
            if thread is not current_thread():
                thread.join(timeout=1)

    def _new_thread(self) -> _Thread:
        thread = _Thread(f"{self._name}-{len(self._threads)}")
        thread.start()
        self._threads.append(thread)
        return thread

    def _run(self, thread: _Thread, work: Callable[[], Result], ended: Callable[[Result], None]) -> None:
        result = work()
        with self._lock:
            if not self._closed:
                self._idle.append(thread)  # for what `ended` starts
        ended(result)


class _Thread(Thread):
    """Does one task after the other, until it is given None."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self) -> None:
        while (task := self.tasks.get()) is not None:
            try:
                task()
            except BaseException:
                _log.exception("%s: what was told of the end of work raised", self.name)
            del task  # what it worked on is not kept while waiting for the next


def _all_failed(batch: Batch[Any], error: BaseException) -> list[Any]:
    return [error] * len(batch.requests)


def _nothing() -> None:
    """Stop nothing."""
