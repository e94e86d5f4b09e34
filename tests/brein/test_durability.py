"""What an engine acknowledged outlives kills, failing calls and a full disk; `ingester.py` checks that."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

pytestmark = pytest.mark.slow

STORAGES = {"plain": {}, "sharded": {"shards": 3}}
STEPS = 5  # with replacements, deletions, and a reopening that saves the index
ACTIONS = 1 + STEPS + 1  # opening and closing are actions, too
# Every call that changes a file, and those that would but are not made; the machine lacks some with a "?".
CALLS = (
    "pwrite64,write,fsync,fdatasync,ftruncate,?rename,?renameat,?renameat2,?mkdir,?mkdirat,?unlink,?unlinkat"
)
OTHER_CALLS = "writev,pwritev,pwritev2,truncate,fallocate,copy_file_range,sendfile,splice,?link,linkat"
FAULTS = {"error": ("error=ENOSPC", "error=EIO"), "death": ("signal=KILL",)}  # several take turns


@pytest.fixture
def folder(tmp_path):
    # What is tested is the calls, not the disk: where there is a file system in memory, it saves waiting.
    memory = Path("/dev/shm")  # noqa: S108
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield folder


@pytest.fixture(params=STORAGES)
def config(request, folder):
    return {
        "path": f"{folder}/engine",
        "embedding": {"kind": "hashing", "dimension": 64},
        "index": {"kind": "IndexFlat"},
        "storage": STORAGES[request.param],
    }


@pytest.fixture
def ingester():
    with Ingester() as started:
        yield started


@pytest.fixture(scope="module")
def strace():
    trial = ["strace", "-o", os.devnull, "true"]
    if not shutil.which("strace") or subprocess.run(trial, check=False).returncode:
        missing = "needs strace and the right to trace: apt-get install strace"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(missing)
        pytest.skip(missing)


class Ingester:
    """The parent's end of `ingester.py`."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("ingester.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # several threads would make forking unsafe
        )
        return self

    def __exit__(self, *_):
        self._process.communicate(timeout=90)

    def start(self, config, first, last, pause=0):
        """Fork a process to take the steps from `first` to before `last`; it waits for a line at `pause`."""
        job = {"config": config, "first": first, "last": last, "pause": pause}
        self.tell(json.dumps(job))
        said = [self._hear() for _ in range(pause + 1)]
        assert [word for word, _ in said] == ["done"] * pause + ["waiting"]
        return int(said[-1][1])

    def tell(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def lines(self):
        """What the process says, to its end; a crash fails the test."""
        word = ""
        while word != "ended":
            word, rest = self._hear()
            assert word in ("done", "failed", "ended"), rest.replace(r"\n", "\n")
            yield word, rest

    def _hear(self):
        word, _, rest = self._process.stdout.readline().rstrip("\n").partition(" ")
        return word, rest

    def check(self, config, step):
        """Open the folder in a new process, where `step` is next: done, or not done."""
        self.start(config, step, step)
        self.tell("go")
        for word, rest in self.lines():
            assert (word, rest) in (("done", ""), ("ended", "0"))


@contextmanager
def traced(pid, log, *options):
    """Trace a process from now on."""
    command = ["strace", "-f", "-y", "-s", "0", "-o", log, *options, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        said = tracer.stderr.readline()
        assert "attached" in said, said
        try:
            yield tracer
        finally:
            end(tracer)


def end(tracer):
    """What was traced goes on by itself."""
    tracer.kill()  # a gentler end waits for ever where what is traced ends at that moment
    tracer.wait()


def act(ingester, config, log, options, *, steps=STEPS, trace=(0, ACTIONS), react=None):
    """Open, take the steps, close: from one action to before another under strace; `react` to each failure.

    Returns how many actions are done, how many failures there were, and the status of the process.
    """
    done, until = trace
    failed = 0
    pid = ingester.start(config, 0, steps, pause=done)
    with traced(pid, log, *options) as tracer:
        ingester.tell("go")
        for word, rest in ingester.lines():
            done += word == "done"
            if done == until:
                end(tracer)
            if word == "failed":
                failed += 1
                said = rest.replace(config["path"], "…")
                assert failed < 10, rest
                assert re.match("StorageError: .*(full|space|I/O|Input/output)", said), rest
                react(tracer, failed)
    return done, failed, int(rest)


def test_a_process_killed_at_20_random_moments_loses_nothing_it_acknowledged(ingester, config):
    random = np.random.default_rng(20)
    step = 0
    for _ in range(20):
        answers, delay = random.integers(20), random.uniform(0, 0.02)
        pid = ingester.start(config, step, step + 1000)
        ingester.tell("go")
        lines = ingester.lines()
        said = [next(lines) for _ in range(answers)]
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        said += lines
        step += max(sum(word == "done" for word, _ in said) - 1, 0)
        print(f"killed {delay * 1e3:.1f} ms after {answers} answers; step {step} is next")
        assert said[-1] == ("ended", str(-signal.SIGKILL))
        ingester.check(config, step)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("action", range(ACTIONS))
def test_a_fault_at_each_call_in_turn_loses_nothing(ingester, config, tmp_path, action, fault):
    def try_again(tracer, _):
        end(tracer)  # it counts the calls of each thread apart, and would let another's fail as well
        ingester.tell("go")

    log, steps = tmp_path / "log", min(action, STEPS)
    run = partial(act, ingester, config, log, steps=steps, trace=(action, action + 1))
    assert run(["-e", f"trace={CALLS}"])[1:] == (0, 0)
    calls = Counter(re.findall(r"^(\d+ +\w+)\(", log.read_text(), re.MULTILINE))
    points = {(call.split()[1], number) for call, times in calls.items() for number in range(1, times + 1)}
    for call, number in sorted(points):
        shutil.rmtree(config["path"])
        kind = FAULTS[fault][number % len(FAULTS[fault])]
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:{kind}:when={number}"]
        done, failed, status = run(inject, react=try_again)
        assert (failed <= 1, status) in ((True, 0), (True, -signal.SIGKILL)), f"{call} {number}"
        assert "(INJECTED)" in log.read_text() or status or config["storage"], f"{call} {number}"
        ingester.check(
            config, min(max(done - 1, 0), steps)
        )  # the first action was to open, the last to close
    assert points


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("number", [1, 3, 10, 30])
def test_when_a_full_disk_has_space_again_the_same_engine_goes_on(ingester, config, tmp_path, number):
    def react(tracer, failed):
        if failed == 3:
            end(tracer)
        ingester.tell("go")

    calls = CALLS.removesuffix(",?unlink,?unlinkat")
    options = ["-e", f"trace={calls}", "-e", f"inject={calls}:error=ENOSPC:when={number}+"]
    assert act(ingester, config, tmp_path / "log", options, react=react) == (ACTIONS, 3, 0)
    ingester.check(config, STEPS)


@pytest.mark.usefixtures("strace")
def test_what_is_acknowledged_or_renamed_was_flushed_first(ingester, config, tmp_path):
    options = ["-e", "trace=writev,pwrite64,write,fsync,fdatasync,?rename,?renameat,?renameat2"]
    assert act(ingester, config, tmp_path / "log", options) == (ACTIONS, 0, 0)
    log = (tmp_path / "log").read_text()
    dirty, renamed, acknowledged = set(), 0, 0
    for call, opened, named in re.findall(r'^\d+ +(\w+)\((?:\d+<([^>]+)|.*?"([^"]+))', log, re.MULTILINE):
        if call == "writev":
            acknowledged += 1
            assert not dirty
        elif named:
            renamed += 1
            assert named not in dirty
        elif call.endswith("sync"):
            dirty.discard(opened)
        elif not opened.endswith("-shm"):  # SQLite makes that one again from the -wal file
            dirty.add(opened)
    assert acknowledged == ACTIONS
    assert renamed


@pytest.mark.usefixtures("strace")
def test_no_other_call_changes_a_file(ingester, config, tmp_path):
    options = ["-e", f"trace={OTHER_CALLS}"]
    assert act(ingester, config, tmp_path / "log", options) == (ACTIONS, 0, 0)
    assert config["path"] not in (tmp_path / "log").read_text()
