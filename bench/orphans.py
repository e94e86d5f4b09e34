"""A process that does not outlive the one that started it."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def end_with_the_parent() -> None:
    """Have this process killed when the thread that started it ends, where the kernel offers that (Linux).

    Whoever was killed can end none of its own, which would disturb the next measurement. What this process
    starts is not bound by it.
    """
    if (end := ending_with_the_parent()) is not None:
        end()


def ending_with_the_parent(by: signal.Signals = signal.SIGKILL) -> Callable[[], object] | None:
    """The same for a program that is none of ours, ended by a signal: what `Popen` takes as `preexec_fn`."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # found now: after a fork, nothing but the call is safe
    return lambda: prctl(_PR_SET_PDEATHSIG, by)
