"""The timed loop: one operation after another, with nothing between two clock readings but the operation.

Processes that measure side by side take turns of `TURN` seconds, between two operations: what disturbs the
machine for longer then meets all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

# Seconds of a turn. After another's, a search or two are slower: among hundreds, p99 does not see them.
TURN = 0.02

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
) -> list[Timed[Given]]:
    """Call `operation` on each of `arguments`, one after another; drawing an argument is not timed.

    `clock` gives seconds. What the lab checks against known answers is this loop, under a virtual clock.
    """
    timed = []
    begin = turn = clock()
    for argument in arguments:
        start = clock()
        given = operation(argument)
        end = clock()
        timed.append(Timed(start - begin, end - start, given))
        if end_turn is not None and end - turn > TURN:
            end_turn()
            turn = clock()
    return timed
