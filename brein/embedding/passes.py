"""Forward passes of models, each on one thread, as many side by side as there are cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache, partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar

from brein.errors import ModelError

_Queue: TypeAlias = SimpleQueue[tuple[Future[Any], Callable[[], Any]]]
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class Passes:
    """Two sets of `count` threads, for small calls and for large ones, that last as long as the process.

    A small call never stands behind a large one, as a query behind an ingest: the system lets them share the
    cores. The threads are daemons: none keeps the process from ending.

    Raises:
        ModelError: the process can have no more threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._small: _Queue = SimpleQueue()
        self._large: _Queue = SimpleQueue()
        for queue, name in ((self._small, "small"), (self._large, "large")):
            for number in range(count):
                try:
                    Thread(target=_work, args=(queue,), name=f"{name} pass {number}", daemon=True).start()
                except RuntimeError as error:
                    raise ModelError(
                        f"the model can have no thread: {error}; let the process have more"
                    ) from None

    def run(self, function: Callable[[_Part], _Result], parts: Sequence[_Part], large: bool) -> list[_Result]:
        """What `function` returns for each part; the first error that it raises ends the others."""
        queue = self._large if large else self._small
        ends: list[Future[_Result]] = [Future() for _ in parts]
        try:
            for end, part in zip(ends, parts, strict=True):
                queue.put((end, partial(function, part)))
            return [end.result() for end in ends]
        finally:
            for end in ends:
                end.cancel()  # those that no thread has begun


@cache
def passes_of(process: int) -> Passes:
    """The passes of this process, by its number: a forked one has none of its parent's threads."""
    import torch

    return Passes(torch.get_num_threads())


def _work(queue: _Queue) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    torch.get_num_threads()  # its first use in a thread would undo the next line
    threadpool_limits(1, user_api="openmp")  # in this thread alone
    while True:
        end, call = queue.get()
        if end.set_running_or_notify_cancel():
            try:
                end.set_result(call())
            except BaseException as error:
                end.set_exception(error)
        del end, call  # what it worked on is not kept while waiting for the next
