"""An event loop in a thread of its own: what others have it do has an outcome, whenever it is closed."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

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


def test_what_is_asked_while_it_closes_has_an_outcome():
    loop = LoopThread("shards")
    closing = threading.Thread(target=loop.close)

    def work():
        closing.start()
        closing.join(0.2)  # it is to wait until this is the loop's
        return soon()

    with ThreadPoolExecutor(1) as pool, suppress(ClosedError):
        assert pool.submit(loop.run, work).result(LIMIT) == 42
    closing.join(LIMIT)
    assert not closing.is_alive()
