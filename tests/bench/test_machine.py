"""What this machine can be asked to be, and how many threads a process really has."""

import json
import subprocess
import sys

import psutil
import pytest

from bench import machine
from bench.config import TierConfig, TrialConfig
from bench.errors import MeasurementError, UsageError

CORES = machine.usable_cores()
ANY = TierConfig(cores=None, memory=None)
TRIAL = TrialConfig(repeats=1, seed=1, threads=None, timeout=1.0, memory=None, cores=None, noise=None)


def trial(**changes):
    return TRIAL.model_copy(update=changes)


def test_a_machine_smaller_than_the_tier_skips_the_run_and_says_what_it_needs():
    machine.check(TRIAL, TierConfig(cores=CORES, memory=psutil.virtual_memory().total))
    with pytest.raises(
        MeasurementError, match=rf"^skipped: needs {CORES + 1} cores \(tier.cores\), {CORES} "
    ):
        machine.check(TRIAL, TierConfig(cores=CORES + 1, memory=None))
    with pytest.raises(MeasurementError, match=r"^skipped: needs 1e\+06 GB of memory \(tier.memory\)"):
        machine.check(TRIAL, TierConfig(cores=None, memory=10**15))


def test_more_threads_than_cores_are_refused(monkeypatch):
    machine.check(trial(threads=CORES, cores=CORES), ANY)
    with pytest.raises(UsageError, match=f"trial.threads = {CORES + 1}: must be at most {CORES}"):
        machine.check(trial(threads=CORES + 1), ANY)
    with pytest.raises(UsageError, match=r"trial.threads = 2: must be at most 1, the cores of a trial"):
        machine.check(trial(threads=2, cores=1), ANY)
    with pytest.raises(UsageError, match=f"trial.cores = {CORES + 1}: must be at most {CORES}"):
        machine.check(trial(cores=CORES + 1), ANY)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    with pytest.raises(UsageError, match=r"trial.threads = 8: must be at most 4, the cores of a trial"):
        machine.check(trial(threads=None, cores=4), ANY)


def test_limits_are_refused_where_the_system_has_none(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    machine.check(TRIAL, ANY)
    with pytest.raises(UsageError, match="need Linux; set both to null"):
        machine.check(trial(memory=10**9), ANY)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_pools_of_a_process_have_the_threads_they_were_pinned_to(threads):
    ask = (
        "import json, sys, numpy, faiss; from bench.machine import thread_pools;"
        "print(json.dumps(thread_pools()));"
        "assert 'torch' not in sys.modules"
    )
    pins = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    made = subprocess.run(
        [sys.executable, "-c", ask], env={**pins, "PATH": ""}, capture_output=True, text=True, check=True
    )
    pools = json.loads(made.stdout)
    assert set(pools.values()) == {int(threads)}
    assert len(pools) >= 2
