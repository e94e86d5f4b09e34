"""The timed loop: one operation after another, with nothing between two clock readings but the operation.

Processes that measure side by side take turns, between two operations: what disturbs the machine for longer
than a turn then meets all of them alike. After another's turn, the core's caches are cold for about 8 ms
(searches of an HNSW index take twice as long at first, and p99 would rise by half). Operations that leave
nothing behind warm them up again, untimed; others take turns so long that it hardly matters.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Generic, NamedTuple, TypeVar

TURN, LONG_TURN = 0.05, 1.0  # seconds of a turn: of repeatable operations, and of others
WARM_UP = 0.01  # seconds of operations done again after a turn of another's
_ALONE = 0.001  # seconds until the next turn, where nobody had one in between
_RECENT = 256  # operations that are done again

# What a turn ends with; `bench.process` sets it in its children. Elsewhere nobody waits.
end_turn: Callable[[], None] | None = None

Asked = TypeVar("Asked")
Given = TypeVar("Given")


class Timed(NamedTuple, Generic[Given]):
    """One timed operation: seconds since the first began, seconds it took, what it gave."""

    start: float
    seconds: float
    given: Given


def time_each(
    operation: Callable[[Asked], Given],
    arguments: Iterable[Asked],
    clock: Callable[[], float] = time.perf_counter,
    *,
    repeatable: bool = False,
) -> list[Timed[Given]]:
    """Call `operation` on each of `arguments`, one after another; drawing an argument is not timed.

    `clock` gives seconds. What the lab checks against known answers is this loop, under a virtual clock.
    `repeatable` says that an operation done again, on an argument it had before, leaves nothing behind.
    """
    timed = []
    recent: deque[Asked] = deque(maxlen=_RECENT if repeatable else 0)
    longest = TURN if repeatable else LONG_TURN
    begin = turn = clock()
    for argument in arguments:
        start = clock()
        given = operation(argument)
        end = clock()
        timed.append(Timed(start - begin, end - start, given))
        recent.append(argument)
        if end_turn is not None and end - turn > longest:
            _let_others(operation, recent)
            turn = clock()
    return timed


def _let_others(operation: Callable[[Asked], object], recent: Iterable[Asked]) -> None:
    """End the turn, wait for the next, and have the caches as they were."""
    assert end_turn is not None  # noqa: S101  the caller has seen it
    start = time.perf_counter()
    end_turn()
    begin = time.perf_counter()
    if begin - start < _ALONE:
        return
    for argument in cycle(recent):
        operation(argument)
        if time.perf_counter() - begin >= WARM_UP:
            return
