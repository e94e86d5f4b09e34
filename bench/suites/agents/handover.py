"""What a machine takes to hand work from an event loop to a thread and back, with nothing in between."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Self, TypeAlias

_Task: TypeAlias = tuple[asyncio.Future[float], float]


class BareThread:
    """A thread that computes for as long as it is told; a context manager that ends it."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    async def work(self, seconds: float) -> float:
        """Have it compute for so long; returns the seconds it did."""
        end: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._tasks.put((end, seconds))
        return await end

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            end, seconds = task
            end.get_loop().call_soon_threadsafe(end.set_result, _compute(seconds))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._tasks.put(None)
        self._thread.join()


async def handovers(threads: Sequence[BareThread], work: Sequence[float]) -> float:
    """Seconds beyond the work where the threads compute for so many seconds each, one after the other."""
    start = time.perf_counter()
    worked = [await thread.work(seconds) for thread, seconds in zip(threads, work, strict=True)]
    return time.perf_counter() - start - sum(worked)


def _compute(seconds: float) -> float:
    """Compute for so long, without the interpreter's lock; returns the seconds it took."""
    data, start = bytes(1 << 16), time.perf_counter()
    while time.perf_counter() - start < seconds:
        hashlib.sha256(data)
    return time.perf_counter() - start
