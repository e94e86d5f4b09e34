"""An event loop in a thread of its own: what others have it do has an outcome, whenever it is closed."""

import asyncio
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from brein.errors import ClosedError
from brein.scaling.loop import LoopThread

LIMIT = 20  # seconds


async def forever():
    await asyncio.sleep(1e6)


async def soon():
    await asyncio.sleep(0)
    return 42


async def failing():
    raise KeyError("mine")


@pytest.fixture
def hasty():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_the_outcome_of_what_is_done_is_the_callers():
    loop = LoopThread("shards")
    try:
        assert loop.run(soon) == 42
        with pytest.raises(KeyError, match="mine"):
            loop.run(failing)
    finally:
        loop.close()


def test_closing_ends_what_is_being_done_and_refuses_the_rest():
    loop, begun = LoopThread("shards"), threading.Event()

    async def wait():
        begun.set()
        await forever()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, wait)
        assert begun.wait(LIMIT)
        loop.close()
        with pytest.raises(ClosedError, match="the shards were closed meanwhile"):
            waiting.result(LIMIT)
    loop.close()
    with pytest.raises(ClosedError, match="the shards are closed"):
        loop.run(soon)


@pytest.mark.usefixtures("hasty")
def test_nobody_waits_for_a_loop_that_was_closed_while_they_asked():
    for _ in range(50):
        loop = LoopThread("shards")

        def ask(loop=loop):
            with pytest.raises(ClosedError):
                all(loop.run(soon) for _ in itertools.count())

        asking = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for thread in asking:
            thread.start()
        loop.run(soon)
        loop.close()
        for thread in asking:
            thread.join(LIMIT)
            assert not thread.is_alive()
