"""What tests share: 400 random vectors of 16 components, FAISS on one thread, time that passes at once."""

import asyncio
import selectors

import faiss
import numpy as np
import pytest


@pytest.fixture(scope="module")
def one_thread():
    """For work this small, threads cost more than they do."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32)


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
