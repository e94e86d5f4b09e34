"""Ray itself: whether it is installed, whether a cluster answers, and a connection to one."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from brein.errors import ClusterError, ConfigError

_OBJECTS = 256 * 2**20  # bytes of shared memory of a Ray of our own: vectors pass through it in batches


def require(alone: bool) -> None:
    """See that Ray Serve is installed; `alone` says that one is to be started here, for this process.

    Raises:
        ConfigError: it is not.
    """
    if alone:  # read when Ray is imported: loopback and nothing else, as it does on other systems
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.serve  # noqa: F401
    except ImportError:
        raise ConfigError("scaling.kind = ray needs Ray Serve (pip install 'brein-lab[ray]')") from None


def silence(address: str, patience: float) -> str | None:
    """Why no Ray cluster answers at an address, host:port or auto, in so many seconds; None where one does.

    Tried in a process of its own: where none answers, Ray tries for minutes and cannot be stopped.
    """
    join = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        subprocess.run(
            [sys.executable, "-c", join, address],
            check=True,
            capture_output=True,
            text=True,
            timeout=patience,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {patience:g} s"
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        return str(said[-1]) if said else f"Ray ended with {error.returncode}, without a word"
    return None


@contextmanager
def joined(address: str | None, cores: float, patience: float) -> Iterator[None]:
    """Be connected to the Ray cluster at an address, host:port or auto; None starts one on this machine, for
    this process alone, bound to loopback, that counts so many cores.

    A connection that is there already is used, and left. Leaving the `with` block ends what it started. For a
    thread other than the main one: there Ray does not put a handler of its own on SIGTERM.

    Raises:
        ClusterError: no cluster answers in `patience` seconds; or Ray was imported before `require`, and
            would listen beyond loopback.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    if address is not None and (reason := silence(address, patience)):
        raise ClusterError(
            f"scaling.address = {address!r}: the Ray cluster cannot be joined: {reason}; see that "
            "`ray start` was run on this machine, too, or take null to start Ray for this process alone"
        )
    if address is None:
        ray.init(
            "local",
            num_cpus=math.ceil(cores),
            object_store_memory=_OBJECTS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    else:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        if address is None and (place := ray.util.get_node_ip_address()) != "127.0.0.1":
            raise ClusterError(
                f"scaling.address = null: Ray listens on {place}, as it was imported before; set "
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before that, or give the address of a cluster"
            )
        yield
    finally:
        ray.shutdown()


def last_line(error: BaseException) -> str:
    """What an error of Ray's says in the end; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()[-1:]), "") or type(error).__name__
