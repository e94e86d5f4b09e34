"""What all tests share: time that passes at once; Hypothesis runs that repeat; no waiting for a network."""

import asyncio
import os
import selectors

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("repeatable")


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose time, from 0, passes only while everything waits, and then at once.

    Where nothing is left that could end the waiting, it fails.
    """

    def __init__(self):
        self.now = 0.0
        super().__init__(_Passing(self))

    def time(self):
        return self.now


class _Passing(selectors.SelectSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits, for nothing"
            self._loop.now += timeout
        return ready


@pytest.fixture(scope="session")
def in_virtual_time():
    """Run a coroutine function on an event loop of its own, in virtual time."""

    def run(scenario):
        with asyncio.Runner(loop_factory=VirtualTime) as runner:
            return runner.run(scenario())

    return run
