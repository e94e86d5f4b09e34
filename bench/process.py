"""Run one of our functions in a fresh process: isolated, with pinned threads, bounded in time.

The parent of a run imports neither torch nor faiss; whatever needs them happens here, in children.
A child is `python -m bench.process module:function argument.json result.json`; it reads and writes JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError, MeasurementError, UsageError
from brein.errors import BreinError

# Every library that keeps a pool of its own reads one of these when it is loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def call(
    target: str, argument: Mapping[str, Any], *, threads: int, timeout: float | None = None
) -> dict[str, Any]:
    """Call `target`, "module:function", with `argument` in a fresh process and return its result.

    `argument` and the result are JSON objects; anything large goes through files they name. `timeout` is
    in seconds.

    Raises:
        UsageError: the function refused its input; the line is the child's own.
        MeasurementError: the process crashed, was killed, or ran over its time; the line says which.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        given, made, log = (Path(folder) / name for name in ("argument.json", "result.json", "stderr.log"))
        given.write_text(json.dumps(argument))
        command = [sys.executable, "-m", "bench.process", target, str(given), str(made)]
        with log.open("wb") as errors:
            status = _wait(command, errors, threads, timeout)
        outcome = json.loads(made.read_text()) if made.exists() else {}
        if "result" in outcome:
            result: dict[str, Any] = outcome["result"]
            return result
        if "refused" in outcome:
            raise UsageError(outcome["refused"])
        raise MeasurementError(_reason(status, timeout, log.read_text(errors="replace")))


def _wait(command: list[str], errors: Any, threads: int, timeout: float | None) -> int | None:
    """Run to the end; return the exit status, or None where the time ran out."""
    environment = (
        os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"TOKENIZERS_PARALLELISM": "false"}
    )
    # A session of its own, so that Ctrl-C reaches this process alone and the whole group can be ended.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=errors,
        stderr=errors,
        env=environment,
        start_new_session=True,
    )
    try:
        return child.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _reason(status: int | None, timeout: float | None, log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    last = f": {lines[-1].strip()}" if lines else ""
    if status is None:
        return f"stopped after {timeout:g} s, its limit (trial.timeout){last}"
    if status == -signal.SIGKILL:
        return f"killed by SIGKILL, as the kernel does when memory runs out{last}"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}{last}"
    return f"exited with status {status}{last}"


def main(target: str, given: str, made: str) -> int:
    """The child's side: call the function, write its result or its refusal."""
    module, _, function = target.partition(":")
    try:
        result = getattr(importlib.import_module(module), function)(json.loads(Path(given).read_text()))
        outcome = {"result": result}
    except (BreinError, BenchError) as error:
        outcome = {"refused": str(error)}
    draft = Path(made + ".tmp")
    draft.write_text(json.dumps(outcome))
    draft.rename(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
