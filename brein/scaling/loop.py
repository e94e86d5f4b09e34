"""An event loop beside the threads of its callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from threading import Lock, Thread
from typing import Any, TypeVar

from brein.errors import ClosedError

Outcome = TypeVar("Outcome")


class LoopThread:
    """An event loop in a thread of its own until it is closed; `name` is whose, as errors say it.

    Safe to use from several threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._closed = False
        self._lock = Lock()  # what is given to a loop after its end would be waited for without one
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
        """Have the loop do `work`, and wait for its outcome.

        Raises:
            ClosedError: this is closed, or was before the work was done.
        """
        with self._lock:
            if self._closed:
                raise ClosedError(f"the {self._name} are closed; open the engine again")
            working = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return working.result()
        except CancelledError:
            raise ClosedError(f"the {self._name} were closed meanwhile; open the engine again") from None

    def close(self) -> None:
        """Cancel what is being done, and end. Closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
