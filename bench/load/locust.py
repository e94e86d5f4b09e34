"""Locust as a subprocess: it sends a load to a service, and what became of each request is read back.

gevent's patching must meet neither torch nor asyncio, so Locust runs in processes of its own, headless, on
the files in `locustfiles/` that work without the lab, too.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.arrivals import Closed, Schedule
from bench.errors import MeasurementError
from bench.load import requests

_KEY_VARIABLE = "BREIN_LOAD_KEY"  # a command line, and Locust's protocol, are read by others
_HERE = Path(__file__).resolve().parent
_LOCUSTFILES = next(
    path
    for path in (_HERE.parent / "locustfiles", _HERE.parent.parent / "locustfiles")
    if path.is_dir()  # installed, and in the repository
)
_AROUND = 120.0  # seconds that Locust may take to start and to end, beside those of the load
_TO_END = 10.0  # seconds it may take to end when told to

Kind = Literal["search", "ask", "ingest", "mixed"]


@dataclass(frozen=True)
class Job:
    """A load, and the service it is sent to.

    `host` is a URL without a path; `kind` names the locustfile. `picks` (n,) int64 are rows of `queries` in
    the order they are asked, from the start again where they are fewer than the requests. Of `sample`
    searches or questions one keeps the ids it was answered with; 0: none does. A request fails where the
    service gives no sign for `timeout` seconds. `key` is the service's API key. The processes keep to
    `cores`, where they are given.
    """

    host: str
    kind: Kind
    queries: tuple[str, ...]
    picks: npt.NDArray[np.int64]
    k: int
    load: Schedule | Closed
    workers: int = 1
    sample: int = 0
    timeout: float = 10.0
    key: str | None = None
    cores: Sequence[int] | None = None


class Sampled(NamedTuple):
    """What a search was answered with: the row of its query, the step it was sent in, the ids, best first."""

    query: int
    step: int
    ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Ran:
    """What became of a load.

    `rows` are `requests.ROW`, by intended start; `begin` is the moment of CLOCK_MONOTONIC, in seconds, from
    which their times count. `used` holds for each worker (m, 2) float64: seconds since the begin, and the CPU
    seconds that its process had used by then. So many workers, killed, left a `torn` row. `reason`
    says why the load ended before its end; None where it did not.
    """

    rows: requests.Rows
    answers: list[Sampled]
    begin: float
    used: tuple[npt.NDArray[np.float64], ...]
    torn: int
    reason: str | None

    def cpu(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """CPU seconds that the generator used from `begin` to `end`, seconds since the load's begin."""
        spans = (np.interp([begin, end], one[:, 0], one[:, 1]) for one in self.used if len(one))
        return float(sum(used[1] - used[0] for used in spans))


def run(job: Job, folder: Path) -> Ran:
    """Send the load, wait for its end, and read what the workers wrote into the empty `folder`.

    However this is left, no process of Locust's is. A service that is gone ends the load before its time.

    Raises:
        MeasurementError: Locust could not start, died, or did not end; the line is its own.
    """
    workers = job.workers if isinstance(job.load, Schedule) else min(job.workers, job.load.users)
    log = folder / "locust.log"
    with _started(_command(job, workers, folder), job, log) as locust:
        try:
            status = locust.wait(job.load.end + 2 * job.timeout + _AROUND)
        except subprocess.TimeoutExpired:
            raise MeasurementError("Locust did not end when its load had; it was killed") from None
    if status != 0 or not (folder / "begin").exists():
        said = log.read_text(errors="replace").strip().splitlines()
        raise MeasurementError(f"Locust ended with status {status}: {said[-1] if said else 'silent'}")
    return _read(job, workers, folder)


def _command(job: Job, workers: int, folder: Path) -> list[str]:
    """Locust's command line, with the files it names."""
    (folder / "queries.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in job.queries))
    np.save(folder / "picks.npy", job.picks)
    options: dict[str, object] = {
        "--locustfile": _LOCUSTFILES / f"{job.kind}.py",
        "--host": job.host,
        "--loglevel": "WARNING",
        "--exit-code-on-error": 0,  # an error of the service is a row, none of Locust's
        "--json-file": folder / "statistics",
        "--queries": folder / "queries.jsonl",
        "--picks": folder / "picks.npy",
        "--k": job.k,
        "--timeout": job.timeout,
        "--rows": folder,
        "--sample": job.sample,
    }
    users = workers
    if isinstance(job.load, Schedule):
        np.save(folder / "schedule.npy", job.load.starts)
        options["--schedule"] = folder / "schedule.npy"
    else:
        users = job.load.users
        options |= {"--seconds": job.load.end, "--stagger": job.load.ramp_up / users}
        if job.load.pacing is None:
            options["--think-time"] = job.load.think_time
        else:
            options["--pacing"] = job.load.pacing
    options |= {"--users": users, "--spawn-rate": users}
    if workers > 1:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options |= {"--processes": workers, "--master-bind-host": "127.0.0.1", "--master-bind-port": port}
        options |= {"--master-host": "127.0.0.1", "--master-port": port}
    if job.key is not None:
        options["--key-variable"] = _KEY_VARIABLE
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "locust", "--headless", "--only-summary", "--end-with-parent", *words]


@contextmanager
def _started(command: list[str], job: Job, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Locust and its workers, a process group of their own, of which nothing is left in the end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    if job.key is not None:
        environment[_KEY_VARIABLE] = job.key
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            process_group=0,  # Ctrl-C reaches this process alone, which ends them all
        )
    try:
        if job.cores is not None:
            os.sched_setaffinity(process.pid, job.cores)
        yield process
    finally:
        try:
            process.terminate()  # its workers write what they have, and end with it
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TO_END)
        finally:
            with suppress(ProcessLookupError, PermissionError):  # nothing is left, or (macOS) a zombie
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(job: Job, workers: int, folder: Path) -> Ran:
    rows, torn = requests.read(folder)
    rows["step"] = job.load.step_of(rows["intended"])
    return Ran(
        rows,
        list(_answers(job, folder)),
        float((folder / "begin").read_text()),
        tuple(_used(folder / f"used-{worker}.bin") for worker in range(workers)),
        torn,
        next(filter(None, (_reason(folder, worker) for worker in range(workers))), None),
    )


def _answers(job: Job, folder: Path) -> Iterator[Sampled]:
    for path in sorted(folder.glob("answers-*.jsonl")):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # else its worker was killed
                kept = json.loads(line)
                (step,) = job.load.step_of(np.array([kept["intended"]])).tolist()
                yield Sampled(kept["query"], step, tuple(kept["ids"]))


def _used(path: Path) -> npt.NDArray[np.float64]:
    read = np.fromfile(path) if path.exists() else np.empty(0)
    return read[: len(read) // 2 * 2].reshape(-1, 2)


def _reason(folder: Path, worker: int) -> str:
    """Why a worker ended before its time, empty where it did not."""
    said = folder / f"ended-{worker}"
    return said.read_text() if said.exists() else f"worker {worker} of the generator died"
