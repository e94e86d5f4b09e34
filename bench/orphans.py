"""A process that does not outlive the one that started it."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def end_with_the_parent() -> None:
    """Have this process killed when the thread that started it ends, where the kernel offers that (Linux).

    Whoever was killed can end none of its own, which would disturb the next measurement. What this process
    starts is not bound by it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
