"""Functions that the tests of `bench.process` and `bench.trial` run in children."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bench import timing, trial
from bench.config import TrialConfig
from bench.errors import UsageError
from brein.errors import DataError

_PLAN, _CONFIG = trial.Plan("memory", "search", "", {}), TrialConfig.model_construct(seed=7)
DOOMED = trial.Task(trial.Cell("", (), _CONFIG, trial.Kept(Path(), {})), _PLAN, 1).seed  # the second repeat


def is_gone(pid, within=30.0):
    """Whether a process has ended, or does so within so many seconds; a zombie has."""
    until = time.monotonic() + within
    try:
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() >= until:  # at once where it is to be gone now
                return False
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        pass
    return True


def result_of(function):
    """Run a trial's function in this process, through all its phases."""
    try:
        while True:
            next(function)
    except StopIteration as end:
        return end.value


def echo(argument):
    return {"argument": argument, "threads": os.environ["OMP_NUM_THREADS"], "pid": os.getpid()}


def refuse(argument):
    raise {"lab": UsageError, "engine": DataError}[argument["by"]]("k = 0: must be at least 1")


def crash(argument):
    raise ZeroDivisionError("by chance")


def start_and_crash(argument):
    Path(argument["file"]).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    crash(argument)


def die(argument):
    os.kill(os.getpid(), signal.Signals[argument["signal"]])


def die_when_asked(argument):
    yield
    die(argument)


def hang(argument):
    with open(argument["file"], "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)


def measure(argument):
    prepared = time.monotonic()
    yield
    start = time.monotonic()
    samples = trial.Samples("memory.search")
    for _ in range(3):
        samples.add(argument["seed"] / 1e9, query="q")
    return trial.report(samples, prepared=prepared, measured=(start, time.monotonic()))


def measure_or_die(argument):
    if argument["seed"] == DOOMED:
        die({"signal": "SIGKILL"})
    return (yield from measure(argument))


def hang_when_asked(argument):
    yield
    hang(argument)


def is_alive(argument):
    yield
    with open(argument["file"]) as file:
        pid = int(file.read())
    return trial.report(alive=not is_gone(pid, within=0))


def refuse_when_asked(argument):
    yield
    refuse({"by": "engine"})


def exhaust(argument):
    """Allocate far more than the limit of the tests, each library in its own way."""
    if argument["by"] == "numpy":
        import numpy as np

        np.ones(argument["bytes"] // 8)
    elif argument["by"] == "faiss":
        import faiss
        import numpy as np

        index, block = faiss.IndexFlatL2(256), np.ones((10_000, 256), np.float32)
        while index.ntotal * 1024 < argument["bytes"]:
            index.add(block)
    else:
        bytearray(argument["bytes"])


def exhaust_when_asked(argument):
    yield
    exhaust(argument)


def confined(argument):
    import numpy as np

    np.ones((500, 500)) @ np.ones((500, 500))  # the pool of numpy's BLAS is there
    threads = [int(thread) for thread in os.listdir("/proc/self/task")]
    ask = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
    heir = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    return {"cores": [sorted(os.sched_getaffinity(thread)) for thread in threads], "inherited": int(heir)}


def allocate(argument):
    before = trial.peak_memory()
    block = bytearray(argument["bytes"])
    block[::4096] = b"x" * len(block[::4096])
    return {"grown": trial.peak_memory() - before, **trial.memory_by_kind()}


def last(argument):
    """Prepare, then measure for a known while."""
    prepared = time.monotonic()
    yield
    time.sleep(argument["seconds"])
    return trial.report(prepared=prepared, ended=time.monotonic())


def judge(argument):
    """Measure in turns of a while each, then judge for a while."""
    yield
    measured = take(argument["operations"])
    yield
    start = time.monotonic()
    time.sleep(argument["seconds"])
    return trial.report(ends=measured, judged=(start, time.monotonic()))


def yield_too_often(argument):
    yield
    yield
    yield


def hang_at_first(argument):
    if not Path(argument["file"]).exists():
        hang(argument)
    return (yield from measure(argument))


def take_turns(argument):
    yield
    return trial.report(ends=take(argument["operations"]))


def take(operations):
    ends = []

    def work(_):
        start = time.monotonic()
        while time.monotonic() - start < 0.008:
            pass
        ends.append((start, time.monotonic()))

    timing.time_each(work, range(operations), repeatable=True)
    return ends
