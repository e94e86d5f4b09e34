import os
import resource
import subprocess
import sys
import time

import psutil
import pytest
from children import is_gone

from bench import process
from bench.errors import MeasurementError, UsageError


@pytest.fixture(autouse=True)
def _children_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def test_the_child_is_another_process_with_pinned_threads():
    made = process.call("children:echo", {"a": [1, "ü"]}, threads=3)
    assert made["argument"] == {"a": [1, "ü"]}
    assert made["threads"] == "3"
    assert made["pid"] != os.getpid()


@pytest.mark.parametrize("by", ["lab", "engine"])
def test_a_refusal_comes_back_as_it_was_said(by):
    with pytest.raises(UsageError, match=r"^k = 0: must be at least 1$"):
        process.call("children:refuse", {"by": by}, threads=1)


def test_a_crash_names_the_exception():
    with pytest.raises(MeasurementError, match="exited with status 1: ZeroDivisionError: by chance"):
        process.call("children:crash", {}, threads=1)


@pytest.mark.parametrize(
    ("signal", "said"), [("SIGKILL", "memory runs out"), ("SIGSEGV", "killed by SIGSEGV")]
)
def test_a_killed_child_says_by_what(signal, said):
    with pytest.raises(MeasurementError, match=said):
        process.call("children:die", {"signal": signal}, threads=1)


def test_a_child_over_its_time_is_ended(tmp_path):
    file = tmp_path / "pid"
    start = time.monotonic()
    with (
        pytest.raises(MeasurementError, match=r"stopped after 2 s, its limit \(trial.timeout\)"),
        process.Child("children:hang", {"file": str(file)}, threads=1) as child,
    ):
        child.result(timeout=2)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_a_function_of_too_many_phases_is_a_defect():
    with pytest.raises(MeasurementError, match="yields twice at most"):
        process.call("children:yield_too_often", {}, threads=1)


def test_a_child_is_waited_for_by_a_parent_that_holds_many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2_000), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        with process.Child("children:last", {"seconds": 0}, threads=1) as child:
            child.wait_until_prepared(60)
            assert child.result(60)["rows"] == []
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_a_child_that_crashed_had_started_ends_with_it(tmp_path):
    file = tmp_path / "pid"
    with pytest.raises(MeasurementError, match="by chance"):
        process.call("children:start_and_crash", {"file": str(file)}, threads=1)
    assert is_gone(int(file.read_text()), within=10)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@on_linux
@pytest.mark.parametrize("by", ["python", "numpy", "faiss"])
def test_a_child_over_its_memory_names_the_limit_and_the_remedy(by):
    with (
        process.Child("children:exhaust", {"by": by, "bytes": 4 * 10**9}, threads=1, memory=10**9) as child,
        pytest.raises(
            MeasurementError, match=r"limit of 1,000,000,000 bytes \(trial.memory\): raise it.*: \S"
        ),
    ):
        child.result(timeout=60)


@on_linux
def test_every_thread_and_process_of_a_child_keeps_to_its_cores():
    with process.Child("children:confined", {}, threads=2, cores=1) as child:
        made = child.result(timeout=60)
    assert set(map(tuple, made["cores"])) == {(min(os.sched_getaffinity(0)),)}
    assert made["inherited"] == 1


@on_linux
def test_peak_memory_sees_a_planted_allocation_within_5_percent():
    planted = 200_000_000
    made = process.call("children:allocate", {"bytes": planted}, threads=1)
    assert made["grown"] == pytest.approx(planted, rel=0.05)
    assert made["anonymous"] >= planted


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    file = str(tmp_path / "pid")
    program = f"from bench import process; process.call('children:hang', {{'file': {file!r}}}, threads=1)"
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert parent.poll() is None
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        parent.kill()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
