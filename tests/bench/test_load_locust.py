"""Locust as the lab runs it, on a service that stands in for Brein's, with loads whose outcome is known."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pytest
from stand_in import standing_in

from bench.arrivals import Closed, Constant, Poisson, drawn
from bench.errors import MeasurementError
from bench.load.locust import Job, run
from bench.load.requests import KINDS, ROW, read

QUERIES = ("first", "second", "third")
PICKS = np.array([2, 0, 1, 1])
LOCUSTFILES = Path(__file__).parents[2] / "locustfiles"
PLAIN = Path(__file__).parent / "plain_locust.py"


def job(host, load, **changes):
    usual = {"kind": "search", "queries": QUERIES, "picks": PICKS, "k": 3}
    return Job(**{"host": host, "load": load, **usual, **changes})


def open_load(rate=50.0, seconds=2.0, warm_up=0.5):
    return drawn(Poisson(rate=rate, seconds=seconds, warm_up=warm_up), seed=3)


def closed_load(**changes):
    usual = {"users": 8, "think_time": 0.1, "pacing": None, "ramp_up": 0.08, "seconds": 2.0, "warm_up": 0.0}
    return Closed(**{**usual, **changes})


def processes_in(folder):
    """Those whose command line names the folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
    ]


def rows_of(folder, workers):
    paths = list(folder.glob("rows-*.bin"))
    return len(paths) == workers and all(path.stat().st_size for path in paths)


def workers_of_mine():
    """Locust's workers, of the Locust that this process runs."""
    return [worker for master in psutil.Process().children() for worker in master.children()]


def kill_once(ready, chosen, patience=60.0):
    """Kill processes once it is time."""
    until = time.monotonic() + patience
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.05)
    for process in chosen():
        process.kill()


def none_left(folder):
    return not psutil.wait_procs(processes_in(folder), timeout=10)[1]


def test_what_runs_in_locust_loads_nothing_that_gevent_must_not_patch():
    code = "import sys, bench.load.driver; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in said.stdout.split()}
    assert "locust" in loaded
    assert not loaded & {"brein", "torch", "faiss", "hydra", "uvicorn", "fastapi", "pandas", "scipy"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_every_request_of_a_schedule_is_sent_once_and_has_a_row_whatever_sends_it(tmp_path, workers):
    load = open_load()
    with standing_in() as service:
        ran = run(job(service.host, load, workers=workers, sample=4), tmp_path)
        assert service.seen()["requests"] == len(load.starts)
    rows = ran.rows
    np.testing.assert_allclose(rows["intended"], load.starts, atol=1e-6)
    np.testing.assert_array_equal(rows["ready"], rows["intended"])
    assert (rows["status"] == 200).all()
    assert (rows["start"] >= rows["intended"] - 1e-3).all()
    assert (rows["end"] > rows["start"]).all()
    np.testing.assert_array_equal(rows["step"], load.step_of(load.starts))
    asked = np.resize(PICKS, len(rows))
    np.testing.assert_array_equal(rows["query"], asked)
    assert sorted(one.query for one in ran.answers) == sorted(asked[::4])
    for query, step, ids in ran.answers:
        assert ids == tuple(f"{QUERIES[query]} {rank}" for rank in range(3))
        assert 0 <= step < len(load.steps)
    # The total is the sum of the workers', and is what Locust itself has counted.
    share = [len(load.starts[worker::workers]) for worker in range(workers)]
    assert np.bincount(rows["worker"]).tolist() == share
    assert [path.stat().st_size // ROW.itemsize for path in sorted(tmp_path.glob("rows-*.bin"))] == share
    counted = json.loads((tmp_path / "statistics.json").read_text())
    assert sum(one["num_requests"] for one in counted) == len(rows)
    assert (ran.torn, ran.reason, len(ran.used)) == (0, None, workers)
    assert 0 < ran.cpu() < workers * load.end
    assert ran.cpu(0, 1) + ran.cpu(1) == pytest.approx(ran.cpu())
    assert none_left(tmp_path)


@pytest.mark.slow
def test_failures_are_rows_of_what_they_were(tmp_path):
    queries = ("well", "503", "hang", "drop")
    load = drawn(Constant(rate=20, seconds=1, warm_up=0), seed=0)
    with standing_in() as service:
        ran = run(
            job(service.host, load, queries=queries, picks=np.arange(4), timeout=0.5, sample=1), tmp_path
        )
    status = [200, 503, -1, 0]
    assert ran.rows["status"].tolist() == [status[query] for query in ran.rows["query"]]
    hung = ran.rows[ran.rows["status"] == -1]
    assert len(hung) == 5
    assert (hung["end"] - hung["start"] >= 0.5).all()
    assert {one.query for one in ran.answers} == {0}


@pytest.mark.slow
def test_a_key_is_sent_and_is_on_no_command_line(tmp_path):
    load = drawn(Constant(rate=20, seconds=1, warm_up=0), seed=0)
    with standing_in(key="secret") as service:
        without = run(job(service.host, load), tmp_path)
        (other := tmp_path / "with").mkdir()
        granted = run(job(service.host, load, key="secret"), other)
    assert set(without.rows["status"]) == {401}
    assert set(granted.rows["status"]) == {200}
    assert not [path for path in other.iterdir() if b"secret" in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ask", "ingest", "mixed"])
def test_each_kind_of_request_is_sent_to_where_it_belongs(tmp_path, kind):
    load = drawn(Constant(rate=100, seconds=1, warm_up=0), seed=0)
    with standing_in() as service:
        ran = run(job(service.host, load, kind=kind), tmp_path)
    assert set(ran.rows["status"]) == {200}
    sent = {KINDS[number] for number in ran.rows["kind"]}
    paths = {"search": "/v1/search", "ask": "/v1/ask", "ingest": "/v1/documents"}
    assert sent == (set(KINDS) if kind == "mixed" else {kind})
    counted = json.loads((tmp_path / "statistics.json").read_text())
    assert {one["name"] for one in counted} == {paths[each] for each in sent}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_users_who_think_ask_so_long_after_each_answer(tmp_path, workers):
    load = closed_load()
    with standing_in(mean=0.01, servers=8) as service:
        ran = run(job(service.host, load, workers=workers), tmp_path)
    rows = ran.rows
    assert (rows["status"] == 200).all()
    assert (rows["intended"] < load.end).all()
    firsts = np.arange(load.users) * load.ramp_up / load.users
    np.testing.assert_allclose(rows["intended"][: load.users], firsts, atol=1e-3)
    # What was intended is what ended, plus the time to think: each but the last of a user has a successor.
    due = np.sort(rows["end"] + load.think_time)
    np.testing.assert_allclose(np.sort(rows["intended"])[load.users :], due[: -load.users], atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_pace_is_kept_whatever_an_answer_takes(tmp_path, workers):
    load = closed_load(users=4, think_time=None, pacing=0.05, ramp_up=0.05, seconds=1.98)
    with standing_in(stall=(1.0, 0.5)) as service:
        ran = run(job(service.host, load, workers=workers), tmp_path)
    rows = ran.rows
    grid = [user * 0.0125 + 0.05 * turn for user in range(4) for turn in range(45)]
    expected = np.sort([at for at in grid if at < load.end])
    np.testing.assert_allclose(rows["intended"], expected, atol=1e-3)
    held = rows[rows["ready"] > rows["intended"]]
    assert len(held)  # by the stall; they were sent right after it
    assert (held["ready"] <= held["start"]).all()


STALL, SECONDS, RATE = 2.0, 20.0, 200.0
USERS, PACING = 10, 0.05


def measured_and_theory(load, workers, folder, theory):
    """p99 of a load while the service stalls, and what it should be, which `theory` says of the stall.

    Four hundred answers come at once when the stall ends. A machine that is busy with something else takes
    its time to read them, and gets two more tries.
    """
    for attempt in range(3):
        (each := folder / str(attempt)).mkdir()
        with standing_in(stall=(5.0, STALL)) as service:
            ran = run(job(service.host, load, workers=workers), each)
            begin, end = service.seen()["stall"]
        assert (ran.rows["status"] == 200).all()
        found = float(np.quantile(ran.rows["end"] - ran.rows["intended"], 0.99))
        expected = theory(begin - ran.begin, end - ran.begin)
        if found == pytest.approx(expected, rel=0.05):
            break
    return found, expected, ran


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("model", ["open", "pacing"])
def test_a_stall_has_the_p99_that_theory_gives_it(tmp_path, model, workers):
    def theory(begin, end):
        held = (intended >= begin) & (intended < end)
        return float(np.quantile(np.where(held, end - intended, 0.0), 0.99))

    if model == "open":
        load = drawn(Constant(rate=RATE, seconds=SECONDS, warm_up=0), seed=0)
        intended = load.starts
    else:
        pace = {"think_time": None, "pacing": PACING, "ramp_up": PACING}
        load = closed_load(users=USERS, seconds=SECONDS - PACING, **pace)
        turns = np.arange(0, SECONDS, PACING)
        intended = (turns[:, None] + np.arange(USERS) * PACING / USERS).ravel()
    found, expected, _ = measured_and_theory(load, workers, tmp_path, theory)
    assert expected == pytest.approx(1.8, rel=0.01)
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_a_stall_hits_each_user_who_thinks_once(tmp_path):
    users, think_time = 60, 0.3
    load = closed_load(users=users, think_time=think_time, ramp_up=think_time, seconds=SECONDS - think_time)
    requests = users * ((SECONDS - STALL) / think_time + 1)
    # Each has asked within one think time of the stall's begin, evenly, and waits until its end.
    expected = STALL - think_time * (0.01 * requests / users)
    found, _, ran = measured_and_theory(load, 1, tmp_path, lambda begin, end: expected)
    assert found == pytest.approx(expected, rel=0.05)
    latency = ran.rows["end"] - ran.rows["intended"]
    assert (latency > STALL - think_time - 0.05).sum() == users


@pytest.mark.slow
def test_plain_locust_does_not_see_a_stall(tmp_path):
    """Why the lab counts from the intended start: the same stall, the same pace, Locust's own figure."""
    with standing_in(stall=(5.0, STALL)) as service:
        command = [sys.executable, "-m", "locust", "-f", PLAIN, "--headless", "--host", service.host]
        command += ["-u", str(USERS), "-r", str(USERS), "-t", f"{SECONDS:g}s", "--csv", tmp_path / "plain"]
        environment = os.environ | {"PACING": str(PACING)}
        subprocess.run(command, env=environment, capture_output=True, check=True)
    with (tmp_path / "plain_stats.csv").open() as file:
        total = next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
    assert float(total["99%"]) < 180  # ms: a tenth of what users had


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_is_killed_ends_the_load_before_its_time(tmp_path, workers):
    load = drawn(Constant(rate=50, seconds=60, warm_up=0), seed=0)
    with standing_in() as service, ThreadPoolExecutor() as aside:
        killed = aside.submit(kill_once, lambda: service.seen()["requests"] > 50, lambda: [service.process])
        ran = run(job(service.host, load, workers=workers), tmp_path)
        killed.result()
    assert ran.reason == "the service took no connection for 10 s"
    assert set(ran.rows["status"]) == {200, 0}
    assert ran.rows["end"].max() < 30
    assert none_left(tmp_path)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_load_with_what_the_others_have(tmp_path):
    load = drawn(Constant(rate=50, seconds=60, warm_up=0), seed=0)
    with standing_in() as service, ThreadPoolExecutor() as aside:
        killed = aside.submit(kill_once, lambda: rows_of(tmp_path, 2), lambda: workers_of_mine()[:1])
        ran = run(job(service.host, load, workers=2), tmp_path)
        killed.result()
    dead = int(re.fullmatch(r"worker (\d) of the generator died", ran.reason)[1])
    assert set(ran.rows["status"]) == {200}
    assert ran.rows["end"][ran.rows["worker"] == dead].max() < ran.rows["end"].max() < load.end
    assert none_left(tmp_path)


LEFT = """
import sys
from pathlib import Path
import numpy as np
from bench.arrivals import Constant, drawn
from bench.load.locust import Job, run
load = drawn(Constant(rate=50, seconds=60, warm_up=0), seed=0)
run(Job(sys.argv[1], "search", ("q",), np.array([0]), 3, load, workers=int(sys.argv[3])), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_lab_is_interrupted_or_killed(tmp_path, how, workers):
    with standing_in() as service:
        command = [sys.executable, "-c", LEFT, service.host, str(tmp_path), str(workers)]
        lab = psutil.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + 60
        while not rows_of(tmp_path, workers):
            assert lab.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        under = lab.children(recursive=True)
        assert len(under) == (1 if workers == 1 else 1 + workers)
        lab.send_signal(how)
        lab.wait(30)
    assert not psutil.wait_procs(under, timeout=10)[1]


@pytest.mark.slow
def test_locust_that_cannot_start_says_why_in_a_line(tmp_path):
    (tmp_path / "begin").mkdir()
    with pytest.raises(MeasurementError, match="status 1: the load cannot be read: IsADir") as raised:
        run(job("http://127.0.0.1:1", open_load()), tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_locustfile_works_without_the_lab(tmp_path):
    with standing_in() as service:
        command = [sys.executable, "-m", "locust", "-f", LOCUSTFILES / "mixed.py", "--headless"]
        command += ["--host", service.host, "-u", "6", "-r", "6", "-t", "4s", "--think-time", "0.1"]
        command += ["--processes", "2", "--tags", "search", "ingest", "--csv", tmp_path / "alone"]
        subprocess.run(command, capture_output=True, check=True)
    with (tmp_path / "alone_stats.csv").open() as file:
        counted = {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(file)}
    assert set(counted) == {"/v1/search", "/v1/documents", "Aggregated"}
    assert counted["/v1/search"] > counted["/v1/documents"] > 0


@pytest.mark.slow
def test_a_master_and_its_workers_can_be_started_apart_as_on_several_machines(tmp_path):
    load = open_load()
    np.save(tmp_path / "starts.npy", load.starts)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    locust = [sys.executable, "-m", "locust", "-f", LOCUSTFILES / "search.py"]
    with standing_in() as service, ExitStack() as ended:
        master = [*locust, "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
        master += ["--headless", "--expect-workers", "2", "-u", "2", "-r", "2", "--host", service.host]
        master += ["--schedule", tmp_path / "starts.npy", "--rows", tmp_path]
        worker = [*locust, "--worker", "--master-host", "127.0.0.1", "--master-port", port]
        all_of_them = []
        for command in (master, worker, worker):
            started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ended.callback(started.kill)
            all_of_them.append(started)
        assert [process.wait(60) for process in all_of_them] == [0, 0, 0]
    rows = read(tmp_path).rows
    np.testing.assert_allclose(rows["intended"], load.starts, atol=1e-6)
    assert set(rows["status"]) == {200}
    assert set(rows["worker"]) == {0, 1}


@pytest.mark.slow
def test_a_load_is_started_and_stopped_from_the_web_page():
    with socket.create_server(("127.0.0.1", 0)) as free:
        page = f"http://127.0.0.1:{free.getsockname()[1]}"
    with standing_in() as service:
        command = [sys.executable, "-m", "locust", "-f", LOCUSTFILES / "search.py", "--host", service.host]
        command += ["--web-host", "127.0.0.1", "--web-port", page.rpartition(":")[2], "--think-time", "0.05"]
        locust = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert eventually(lambda: said(page))
            for _ in range(2):  # what ended can be started anew
                said(f"{page}/swarm", b"user_count=3&spawn_rate=3")
                assert eventually(lambda: json.loads(said(f"{page}/stats/requests"))["total_rps"] > 10)
                said(f"{page}/stop", b"")
                assert eventually(lambda: json.loads(said(f"{page}/stats/requests"))["state"] == "stopped")
        finally:
            locust.terminate()
            assert locust.wait(20) == 0


def said(url, form=None):
    with urlopen(Request(url, form), timeout=5) as answer:  # noqa: S310  this machine's own
        return answer.read()


def eventually(holds, patience=30.0):
    """Whether something holds before long; what cannot be reached does not yet."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        with suppress(OSError):
            if holds():
                return True
        time.sleep(0.1)
    return False
