"""A trial: one isolated measurement, in a fresh process, repeated; raw samples come out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import record
from bench.config import TrialConfig
from bench.errors import BenchError
from bench.machine import compute_threads
from bench.metrics import COLUMNS, label_text
from bench.process import Child

if TYPE_CHECKING:
    import pandas as pd


# What a trial's function is: see `Plan`.
Measurement = Generator[None, None, dict[str, Any]]


class Samples:
    """Rows of one trial, gathered in its process; see `bench.metrics` for the columns."""

    def __init__(self, series: str, **labels: str) -> None:
        self._fixed = {"series": series, "labels": label_text(labels)}
        self.rows: list[dict[str, Any]] = []

    @classmethod
    def of(cls, value: float, series: str, **labels: str) -> Samples:
        """A series of this one sample."""
        samples = cls(series, **labels)
        samples.add(value)
        return samples

    def add(self, value: float, start: float = 0.0, items: int = 1, **more: Any) -> None:
        """Keep one sample: its `value`, its `start` in seconds, and what else it has a column for."""
        self.rows.append(
            {**self._fixed, "seq": len(self.rows), "start": start, "value": value, "items": items, **more}
        )


@dataclass(frozen=True)
class Plan:
    """One measurement to repeat: a function, "module:function", and its JSON argument.

    The function runs in a child with `argument` and a `seed`. It is a generator: it prepares, yields once,
    measures when it is resumed, and returns what `report` makes.
    """

    suite: str
    phase: str
    target: str
    argument: Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What a suite, or a part of one, has to give.

    `plans` are its trials. `known` are samples taken already, when an artifact was made. By series,
    `conditions` say what it is measured on, and `skipped` why it is not measured.
    """

    plans: Sequence[Plan] = ()
    known: Sequence[Samples] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


def report(*samples: Samples, **facts: Any) -> dict[str, Any]:
    """What a trial's function returns: every row, and facts about the process."""
    return {"rows": [row for series in samples for row in series.rows], "facts": facts}


@dataclass(frozen=True)
class Outcome:
    """What the repeats of all plans gave: one `record.Trial` each, and the samples of those that ended."""

    trials: list[record.Trial]
    samples: pd.DataFrame


def run_all(works: Sequence[Work], config: TrialConfig, say: Callable[[str], None]) -> Outcome:
    """Run every plan `config.repeats` times, in rounds, so that drift of the machine meets all alike.

    The processes of a round prepare side by side, then measure one at a time. A trial that crashes, is killed
    or runs too long is recorded as failed, and the rest goes on.
    """
    plans = [plan for work in works for plan in work.plans]
    trials: list[record.Trial] = []
    rows = [
        {"suite": row["series"].partition(".")[0], "repeat": 0, **row}
        for work in works
        for samples in work.known
        for row in samples.rows
    ]
    for repeat in range(config.repeats):
        say(f"repeat {repeat + 1} of {config.repeats}")
        for trial, made in _run_round(plans, repeat, config):
            trials.append(trial)
            rows += [{"suite": trial.suite, "repeat": repeat, **row} for row in made]
    return Outcome(trials, frame(rows))


def _run_round(
    plans: Sequence[Plan], repeat: int, config: TrialConfig
) -> Iterator[tuple[record.Trial, list[dict[str, Any]]]]:
    threads = compute_threads(config.threads)
    with ExitStack() as stack:
        children = []
        for plan in plans:
            argument = {**plan.argument, "seed": _seed(config.seed, plan, repeat)}
            children.append(stack.enter_context(Child(plan.target, argument, threads=threads)))
        for child in children:
            child.wait_until_prepared(config.timeout)
        for plan, child in zip(plans, children, strict=True):
            yield _measure(plan, child, repeat, config)


def _measure(
    plan: Plan, child: Child, repeat: int, config: TrialConfig
) -> tuple[record.Trial, list[dict[str, Any]]]:
    started_at, start = datetime.now(UTC), time.perf_counter()
    result: dict[str, Any] = {"rows": [], "facts": {}}
    reason = None
    try:
        result = child.result(config.timeout)
    except BenchError as error:
        reason = str(error)
    trial = record.Trial(
        suite=plan.suite,
        phase=plan.phase,
        repeat=repeat,
        seed=_seed(config.seed, plan, repeat),
        status="failed" if reason else "ok",
        reason=reason,
        started_at=started_at.isoformat(timespec="seconds"),
        wall=time.perf_counter() - start,
        facts={"threads": compute_threads(config.threads), **result["facts"]},
    )
    return trial, result["rows"]


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as the table of `bench.metrics`, every column there and typed."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _seed(base: int, plan: Plan, repeat: int) -> int:
    """A seed of its own for every trial, the same in every run."""
    digest = hashlib.sha256(f"{base}/{plan.suite}/{plan.phase}/{repeat}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def peak_memory() -> int:
    """Most bytes this process has held in main memory so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its maximum starts from what the parent held when it forked.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_by_kind() -> dict[str, int]:
    """Bytes this process holds now: anonymous and backed by files; empty where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return {
        name: int(fields[key].split()[0]) * 1024
        for name, key in (("anonymous", "RssAnon"), ("file_backed", "RssFile"))
        if key in fields
    }
