"""A service to measure, `python -m brein serve` on a copy of the documents, and servers to set beside it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.errors import MeasurementError
from bench.orphans import ending_with_the_parent
from bench.process import THREAD_VARIABLES
from brein import EngineConfig
from brein.errors import first_line

_PATIENCE = 120.0  # seconds that a service may take to be ready, and to end
_LOOK = 0.01  # seconds between two looks
_LONGEST_LOOK = 5.0  # seconds that one may take


@dataclass(frozen=True)
class Usage:
    """What a process has used so far: seconds of CPU, and bytes read from and written to disks."""

    cpu: float
    disk: int


@dataclass(frozen=True)
class Service:
    """A server on this machine that is ready, and the seconds it took to be."""

    port: int
    startup: float
    process: psutil.Process

    @property
    def host(self) -> str:
        """Its URL, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether its process has not ended."""
        try:
            return bool(self.process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def usage(self) -> Usage:
        """What it has used so far."""
        times, io = self.process.cpu_times(), self.process.io_counters()
        return Usage(times.user + times.system, io.read_bytes + io.write_bytes)

    def memory(self) -> int:
        """Bytes of memory that are in use by it now, files among them that it has mapped."""
        return int(self.process.memory_info().rss)


@contextmanager
def serving(
    argument: Mapping[str, Any], engine: EngineConfig | None = None, cores: Sequence[int] | None = None
) -> Iterator[Service]:
    """The configured engine's service, or another engine's, on a copy of the `folder`; ended in the end.

    It keeps to `cores`, with as many threads in each pool, where they are given.
    """
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as scratch:
        copy = Path(scratch) / "engine"
        shutil.copytree(argument["folder"], copy)
        configured = engine or EngineConfig.read(argument["engine"])
        port = _free_port()
        config = Path(scratch) / "service.json"
        parts = {
            "engine": configured.model_copy(update={"path": copy}).model_dump(mode="json"),
            "server": {"port": port},
        }
        config.write_text(json.dumps(parts))
        command = ["-m", "brein", "serve", "--config", str(config)]
        with _started(command, port, "/health/ready", cores) as service:
            yield service


@contextmanager
def echoing() -> Iterator[Service]:
    """A bare uvicorn, on the same event loop and parser, that answers with what it is sent."""
    port = _free_port()
    command = ["-m", "uvicorn", "bench.suites.system.echo:app", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    with _started(command, port, "/") as service:
        yield service


@contextmanager
def balancing(service: Service) -> Iterator[Service]:
    """A balancer as it is by itself, `python -m brein balance`, in front of a service."""
    port = _free_port()
    command = ["-m", "brein", "balance", f"http://127.0.0.1:{service.port}", "--port", str(port)]
    with _started(command, port, "/health/ready") as balancer:
        yield balancer


@contextmanager
def _started(
    command: Sequence[str], port: int, ready: str, cores: Sequence[int] | None = None
) -> Iterator[Service]:
    """A Python process that serves, from when it is ready until it is told to end.

    It ends as well when the thread that started it does.
    """
    threads = {} if cores is None else dict.fromkeys(THREAD_VARIABLES, str(len(cores)))
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        with _confined(cores):  # which it inherits
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=log,
                stderr=log,
                env=os.environ | threads,
                preexec_fn=ending_with_the_parent(),  # noqa: PLW1509  it only calls the kernel
            )
        try:
            while not _answers(port, ready):
                if process.poll() is not None or time.perf_counter() - start > _PATIENCE:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip().splitlines()
                    raise MeasurementError(
                        f"the service did not become ready: {said[-1] if said else 'silent'}"
                    )
                time.sleep(_LOOK)
            yield Service(port, time.perf_counter() - start, psutil.Process(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _confined(cores: Sequence[int] | None) -> Iterator[None]:
    """Keep this thread to cores, where they are given."""
    if cores is None:
        yield
        return
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def ask(port: int, path: str) -> tuple[int, bytes]:
    """The status and body that a server on this machine answers a GET with; through no proxy.

    Raises:
        OSError: there was no answer, or none that is HTTP.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_LONGEST_LOOK)) as connection:
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(first_line(error)) from None


def _answers(port: int, path: str) -> bool:
    try:
        return ask(port, path)[0] == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
