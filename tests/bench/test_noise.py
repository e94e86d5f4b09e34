"""What is said of the machine, against load, steal and clocks that are planted or known."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from bench import noise

BURN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


def burning(seconds):
    return subprocess.Popen([sys.executable, "-c", BURN.format(seconds)])


def test_the_floor_is_of_a_plausible_machine():
    floor = noise.floor()
    assert 0.001 < floor.loop < 5
    assert floor.spread >= 0
    assert 0 < floor.timer_p50 <= floor.timer_p99 < 0.01
    if os.path.exists("/sys/devices/system/clocksource"):
        assert floor.clock


def test_other_load_is_what_others_use_and_the_watched_process_is_none():
    other, child = burning(30), burning(0.8)
    try:
        watch = noise.Watch([child.pid])
        before, start = cpu_seconds(other.pid), time.monotonic()
        own = cpu_seconds(child.pid)
        while child.poll() is None:
            seen = cpu_seconds(child.pid)
            time.sleep(0.01)
        elapsed = time.monotonic() - start
        planted, own = (cpu_seconds(other.pid) - before) / elapsed, (seen - own) / elapsed
        disturbed = watch.stop()
    finally:
        other.kill()
        other.wait()
    # The machine may do other things as well, but no more than the watched process leaves of it.
    assert planted - 0.15 <= disturbed.other_load <= psutil.cpu_count() - own + 0.15
    assert disturbed.loop_before > 0 < disturbed.loop_after
    assert 0 <= disturbed.steal <= 1
    assert abs(disturbed.clock_jump) < 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_the_load_of_cores_that_may_not_be_used_is_none():
    mine, *others = sorted(os.sched_getaffinity(0))
    if not others:
        pytest.skip("needs 2 cores")
    other, child = burning(30), burning(0.8)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(other.pid, {others[0]})
        os.sched_setaffinity(0, {mine})
        os.sched_setaffinity(child.pid, {mine})
        watch, start, spent = noise.Watch([child.pid]), time.monotonic(), cpu_seconds(child.pid)
        while child.poll() is None:
            seen = cpu_seconds(child.pid)
            time.sleep(0.01)
        own = (seen - spent) / (time.monotonic() - start)
        disturbed = watch.stop()
    finally:
        os.sched_setaffinity(0, before)
        other.kill()
        other.wait()
        child.kill()
        child.wait()
    assert disturbed.other_load <= 1 - own + 0.15, "more than the watched process leaves of the one core"


def test_a_watched_process_that_still_lives_is_no_other_load():
    child = burning(30)
    try:
        watch, start, before = noise.Watch([child.pid]), time.monotonic(), cpu_seconds(child.pid)
        time.sleep(0.8)
        own = (cpu_seconds(child.pid) - before) / (time.monotonic() - start)
        disturbed = watch.stop()
    finally:
        child.kill()
        child.wait()
    assert disturbed.other_load <= psutil.cpu_count() - own + 0.15, "more than the watched process leaves"


def cpu_seconds(pid):
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_a_process_that_is_gone_has_spent_nothing():
    assert noise.Watch([2**22 + 1]).stop().other_load >= 0


def test_a_clock_that_is_set_is_a_jump(monkeypatch):
    watch = noise.Watch([os.getpid()])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert watch.stop().clock_jump == pytest.approx(3600, abs=1)
