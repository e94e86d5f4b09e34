"""What all tests share: time that passes at once; Hypothesis runs that repeat; no network; programs."""

import asyncio
import os
import selectors
import shutil
import sys
from pathlib import Path

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


# --- programs that tests run ---------------------------------------------------------------------------

_BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def _absent(missing):
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; while it is open, no other event loop runs in this thread."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(path).exists():
        _absent("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=_BROWSER_FLAGS)
        yield launched
        launched.close()


def _program(name):
    beside = Path(sys.executable).parent  # where `make tools` puts it
    path = shutil.which(name, path=f"{beside}:{os.environ['PATH']}")
    if path is None:
        _absent(f"needs {name}: make tools")
    return path


@pytest.fixture(scope="session")
def promtool():
    """Where Prometheus' checker is."""
    return _program("promtool")


@pytest.fixture(scope="session")
def prometheus():
    """Where Prometheus is."""
    return _program("prometheus")
