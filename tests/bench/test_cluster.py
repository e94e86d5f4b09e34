"""The trials of a sweep on a real Ray cluster: two nodes on this machine, which is the first of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from itertools import chain, pairwise
from pathlib import Path

import pytest
from children import is_gone

from bench import cluster, record
from bench.config import TrialConfig
from bench.errors import MeasurementError, UsageError
from bench.trial import Cell, Kept, Plan, Task

CONFIG = TrialConfig(repeats=1, seed=7, threads=1, timeout=60.0, memory=None, cores=None, noise=None)
SWEEP = [
    "-m", "+profile=smoke", "suites=[memory]", "suite.memory.parts=[search]", "dataset=synthetic",
    "dataset.vectors=1000", "dataset.clusters=50", "dataset.queries=100", "trial.repeats=1",
    "index=flat,hnsw",
]  # fmt: skip
SETTINGS = {
    "PYTHONPATH": os.path.dirname(__file__),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone, as on those systems
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


@pytest.fixture(scope="module")
def nodes():
    alike = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}  # to notice a node's death
    terminated = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)  # some are read when Ray is imported
        from ray.cluster_utils import Cluster

        started = Cluster()
        try:
            started.add_node(**alike, include_dashboard=False, _system_config=quick)
            started.add_node(**alike)
            yield started
        finally:
            started.shutdown()
            signal.signal(signal.SIGTERM, terminated)  # Ray has put a handler of its own there


def tasks(*plans):
    cell = Cell("", (), CONFIG, Kept(Path(), {}))
    return [Task(cell, Plan("memory", "search", f"children:{function}", of), 0) for function, of in plans]


def when_there(file, act):
    """Act as soon as the file has a process's number in it."""

    def wait():
        while not (file.exists() and file.read_text()):
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def each(found, asked):
    return chain.from_iterable(found.run(asked))


def bench(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench", "run", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def untimed(made):
    """What of a record neither a clock nor the place has a part in."""
    exact = [m for m in made.metrics if m.unit in ("", "B") and m.name != "memory.peak"]
    trials = [(t.suite, t.phase, t.repeat, t.seed, t.status) for t in made.trials]
    asked = {name: value for name, value in made.experiment.items() if name != "launcher"}
    return asked, made.machine.fingerprint, made.versions, made.dataset, made.skipped, exact, trials


@pytest.mark.slow
def test_a_sweep_over_a_cluster_gives_what_it_gives_here(nodes, tmp_path):
    ray = ["launcher.place=ray", f"launcher.address={nodes.address}"]
    here = bench(tmp_path, *SWEEP, "hydra.sweep.dir=here")
    there = bench(tmp_path, *SWEEP, "hydra.sweep.dir=there", *ray)
    assert (here.returncode, there.returncode) == (0, 0), there.stderr
    took_part = set()
    for cell in "01":
        local, spread = (record.read(tmp_path / sweep / cell)[0] for sweep in ("here", "there"))
        assert spread.validity.valid
        assert untimed(spread) == untimed(local)
        took_part |= {trial.facts["node"] for trial in spread.trials}
    assert len(took_part) == 2  # a trial each
    assert not list(tmp_path.rglob(".seen-*"))


@pytest.mark.slow
def test_a_node_measures_one_trial_at_a_time_and_this_one_none_while_a_result_is_used(nodes, tmp_path):
    pauses = []
    ran = defaultdict(list)
    with cluster.connect(nodes.address, [tmp_path]) as found:
        here = next(node.name for node in found.nodes if node.is_here)
        for _, ended in each(found, tasks(*[("last", {"seconds": 0.2 + 0.05 * n}) for n in range(6)])):
            assert ended.trial.status == "ok"
            ran[ended.trial.facts["node"]].append((ended.trial.facts["prepared"], ended.trial.facts["ended"]))
            start = time.monotonic()
            time.sleep(0.1)  # a result is used
            pauses.append((start, time.monotonic()))
    assert sum(len(times) for times in ran.values()) == 6
    assert len(ran) == 2
    for times in [*ran.values(), [*ran[here], *pauses]]:
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(times)))


@pytest.fixture
def interruptible():
    """Where a shell started the tests in the background, they ignore SIGINT."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_ends_its_trials_on_every_node(nodes, tmp_path):
    files = [tmp_path / "one", tmp_path / "two"]

    def interrupt():
        while not (files[1].exists() and files[1].read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    when_there(files[0], interrupt)
    with pytest.raises(KeyboardInterrupt), cluster.connect(nodes.address, [tmp_path]) as found:
        list(found.run(tasks(*[("hang", {"file": str(file)}) for file in files])))
    assert all(is_gone(int(file.read_text())) for file in files)


@pytest.mark.slow
def test_the_trial_of_a_lost_node_goes_to_another_and_after_two_losses_it_failed(nodes, tmp_path):
    import ray

    def lose(node):
        when_there(tmp_path / "first", lambda: nodes.remove_node(node, allow_graceful=False))

    with cluster.connect(nodes.address, [tmp_path]) as found:
        lost, left = found.nodes
        lose(nodes.list_all_nodes()[1])
        again = ("hang_at_first", {"file": str(tmp_path / "first")})
        ended = [ended.trial for _, ended in each(found, tasks(again, ("measure", {})))]
        assert [trial.status for trial in ended] == ["ok", "ok"]
        assert {trial.facts["node"] for trial in ended} == {left.name}

        when_there(tmp_path / "second", lambda: ray.kill(left.worker))
        hangs = ("hang", {"file": str(tmp_path / "second")})
        ((_, failed),) = each(found, tasks(hangs))
        assert failed.trial.reason == f"both nodes that ran it were lost: {lost.name}, then {left.name}"
        assert all(is_gone(int((tmp_path / file).read_text())) for file in ("first", "second"))
        with pytest.raises(MeasurementError, match=r"no node of the cluster is left; 2 trials have not run"):
            list(found.run(tasks(("measure", {}), ("measure", {}))))


@pytest.mark.slow
def test_where_no_cluster_answers_that_is_said_in_time(tmp_path):
    with (
        pytest.raises(
            UsageError, match=r"127\.0\.0\.1:1 \(launcher.address\) cannot be joined: no answer in 3 s"
        ),
        cluster.connect("127.0.0.1:1", [tmp_path], patience=3.0),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["launcher.place=local,ray"], "launcher differs between the cells of the sweep"),
        (["launcher.address=nowhere"], "launcher.address = 'nowhere': string should match"),
    ],
)
def test_a_place_that_cannot_be_is_refused_in_one_line(tmp_path, asked, said):
    ended = bench(tmp_path, *SWEEP[:-1], *asked)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert said in ended.stderr
    assert not list(tmp_path.rglob("record.json"))


def test_without_ray_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'brein-lab\[ray\]'"),
        cluster.connect(None, [tmp_path]),
    ):
        pass


def test_a_node_unlike_this_machine_is_named_with_what_differs():
    here = {"cores": "8", "numpy": "2.1"}
    cluster.check_node("a", here, dict(here), [])
    with pytest.raises(
        UsageError, match=r"node a differs .* in cores \(16, here 8\), faiss \(1, here none\):"
    ):
        cluster.check_node("a", here, {**here, "cores": "16", "faiss": "1"}, [])


def test_a_node_that_lacks_a_shared_folder_is_named_with_the_folder(tmp_path):
    found = cluster.Worker().look(str(tmp_path), f'["{tmp_path}/.seen-1"]')
    with pytest.raises(UsageError, match=f"node a cannot write to the {tmp_path} of this machine"):
        cluster.check_node("a", {}, **json.loads(found))
