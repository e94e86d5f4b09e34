"""Run our functions in fresh processes: isolated, with pinned threads, bounded in time, memory and cores.

The parent of a run imports neither torch nor faiss; whatever needs them happens here, in children.
A child is `python -m bench.process module:function FOLDER FD`; it reads `argument.json` in the folder, writes
`result.json`, and says through the file descriptor how far it is. A function that yields is prepared when it
does, has measured when it does again, if it does, and goes on when told to: several can prepare side by side,
measure in turns, one at a time, and judge side by side what they have measured. A timed loop ends its turn
now and then (`bench.timing`), and waits until it is told to go on.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import timing
from bench.errors import BenchError, MeasurementError, UsageError
from bench.orphans import end_with_the_parent
from brein.errors import BreinError

# Every library that keeps a pool of its own reads one of these when it is loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_GOES_ON, _MEASURED = b".", b"!"  # what a child says: it has more to measure, or has not
_LONGEST = 24 * 3600.0  # seconds that making an artifact may take
# How Python, C++, the C library, the loader and Torch say that they were refused memory.
_OUT_OF_MEMORY = re.compile(
    r"MemoryError|bad_alloc|annot allocate memory|can't allocate memory|failed to map segment"
)


def call(target: str, argument: Mapping[str, Any], *, threads: int) -> dict[str, Any]:
    """Call `target`, "module:function", with `argument` in a fresh process and return its result.

    `argument` and the result are JSON objects; anything large goes through files they name.

    Raises:
        UsageError: the function refused its input; the line is the child's own.
        MeasurementError: the process crashed, was killed or took over a day; the line says which.
    """
    with Child(target, argument, threads=threads) as child:
        return child.result(_LONGEST)


class Child:
    """One function in a process of its own, from its start to its end; leaving the `with` block ends it.

    So does, on Linux, the end of the thread that started it, however that comes.

    `memory` bounds the bytes that it, and each process it starts, may allocate for itself, touched or not;
    files mapped, memory shared and a GPU's are not bound. `cores` is how many cores it may use: the first
    of those its parent may. Both need Linux.
    """

    def __init__(
        self,
        target: str,
        argument: Mapping[str, Any],
        *,
        threads: int,
        memory: int | None = None,
        cores: int | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        folder = Path(self._folder.name)
        (folder / "argument.json").write_text(json.dumps(argument))
        (folder / "limits.json").write_text(json.dumps({"memory": memory, "cores": cores}))
        self._memory = memory
        self._log = folder / "output.log"
        self._result = folder / "result.json"
        self._said, writable = os.pipe()
        self._overran: float | None = None
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.process", target, str(folder), str(writable)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(writable,),
                env=os.environ | variables | {"TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,  # Ctrl-C reaches the parent alone, and the whole group can be ended
            )
        os.close(writable)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def wait_until_prepared(self, timeout: float) -> None:
        """Wait until the function has yielded or its process has ended; end it after `timeout` seconds."""
        self._wait(timeout, timeout)

    def take_turn(self, timeout: float, limit: float, core: int = 0) -> bool:
        """Tell the function to go on, and wait until it ends its turn: whether it has more to measure.

        It is ended after `timeout` seconds, the rest of its `limit`. Its main thread starts on the core of
        that number, counted round, and stays there as long as the system likes.
        """
        self.go_on(core)
        return self._wait(timeout, limit)

    def go_on(self, core: int = 0) -> None:
        """Tell the function to go on, and do not wait."""
        if self._process.stdin is not None and self._overran is None:
            with suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.write(f"{core}\n".encode())

    def _wait(self, timeout: float, limit: float) -> bool:
        ready = select.poll()  # select.select takes no descriptor beyond 1,023
        ready.register(self._said, select.POLLIN)
        if not ready.poll(timeout * 1000):
            self._overran = limit
            self._end()  # at once: it must not run beside the next measurement
        elif said := os.read(self._said, 1):
            return said == _GOES_ON
        self._process.wait()
        return False

    def result(self, timeout: float, limit: float | None = None) -> dict[str, Any]:
        """Give the function turns to its end, `timeout` seconds at most, and return its result.

        They are the rest of its `limit`, or all of it where that is None.

        Raises:
            UsageError: the function refused its input; the line is the child's own.
            MeasurementError: the process crashed, was killed or ran over its time or memory; the line says
                which.
        """
        until = time.monotonic() + timeout
        while self._process.poll() is None:
            self.take_turn(max(0.0, until - time.monotonic()), limit or timeout)
        if self._overran is not None:
            raise MeasurementError(f"stopped after {self._overran:g} s, its limit (trial.timeout)")
        outcome = json.loads(self._result.read_text()) if self._result.exists() else {}
        if "refused" in outcome:
            raise UsageError(outcome["refused"])
        if "result" not in outcome:
            raise MeasurementError(self._reason())
        result: dict[str, Any] = outcome["result"]
        return result

    def _reason(self) -> str:
        status = self._process.returncode
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1].strip()}" if lines else ""
        if self._memory is not None and any(_OUT_OF_MEMORY.search(line) for line in lines):
            return (
                f"ran out of memory at its limit of {self._memory:,} bytes (trial.memory): raise it, or take "
                f"less data or a smaller index{last}"
            )
        if status == -signal.SIGKILL:
            return f"killed by SIGKILL, as the kernel does when memory runs out{last}"
        if status < 0:
            return f"killed by {signal.Signals(-status).name}{last}"
        return f"exited with status {status}{last}"

    def _end(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nothing is left, or (macOS) a zombie
            os.killpg(self._process.pid, signal.SIGKILL)  # a child that crashed may have left its own
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if self._process.stdin is not None:
            self._process.stdin.close()
        os.close(self._said)
        self._folder.cleanup()


def main(target: str, folder: Path, said: int) -> None:
    """The child's side: call the function, write its result or its refusal."""

    def end_turn(and_say: bytes = _GOES_ON) -> None:
        os.write(said, and_say)
        told = sys.stdin.readline()
        if not told:
            sys.exit("the run is gone")
        _go_to_core(int(told))

    end_with_the_parent()
    module, _, name = target.partition(":")
    argument = json.loads((folder / "argument.json").read_text())
    _confine(**json.loads((folder / "limits.json").read_text()))
    try:
        made = getattr(importlib.import_module(module), name)(argument)
        if inspect.isgenerator(made):
            made = _in_phases(made, end_turn)
        outcome = {"result": made}
    except (BreinError, BenchError) as error:
        outcome = {"refused": str(error)}
    draft = folder / "result.tmp"
    draft.write_text(json.dumps(outcome))
    draft.rename(folder / "result.json")


def _go_to_core(number: int) -> None:
    """Move this thread to a core, and leave it free to be moved on."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        os.sched_setaffinity(0, cores)


def _confine(memory: int | None, cores: int | None) -> None:
    """Bound this process and all that it starts."""
    if cores is not None:
        usable = sorted(os.sched_getaffinity(0))[:cores]
        for thread in os.listdir("/proc/self/task"):  # the pools of what is loaded already have theirs
            os.sched_setaffinity(int(thread), usable)
    if memory is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def _in_phases(function: Iterator[Any], end_turn: Callable[..., None]) -> Any:
    """Let a function that yields prepare, measure and judge, each when it is told to."""
    try:
        next(function)
        end_turn()
        timing.end_turn = end_turn
        next(function)
        timing.end_turn = None
        end_turn(_MEASURED)
        next(function)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a trial's function yields twice at most: prepared, and measured")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
