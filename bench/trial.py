"""A trial: one isolated measurement, in a fresh process, repeated; raw samples come out."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import record
from bench.config import TrialConfig
from bench.errors import BenchError
from bench.machine import compute_threads, thread_pools, usable_cores
from bench.metrics import COLUMNS, label_text, series_text
from bench.noise import Disturbance, Watch
from bench.process import Child

if TYPE_CHECKING:
    import pandas as pd


_TRIALS = "trials"  # the folder, in a cell's own, of those that have ended
_MOST_SIDE_BY_SIDE = 4  # each holds what it measures on in memory, and all of them judge at once

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

    The function runs in a child with `argument` and a `seed`. It is a generator: it prepares, yields,
    measures when it is resumed, and returns what `report` makes. Where it has much to judge, it yields again
    once it has measured: the processes that measured in turns judge side by side.
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
    """What a trial's function returns: every row, and facts about the process.

    The fact `doubts` says what not to believe, by the beginning of a series and its labels
    ("query.search cold"), and why.
    """
    rows = [row for series in samples for row in series.rows]
    return {"rows": rows, "facts": {"pools": thread_pools(), **facts}}


@dataclass(frozen=True, eq=False)
class Cell:
    """One experiment: what its suites give, how its trials run, and where each is kept once it has ended.

    `name` is its own among the cells of a sweep.
    """

    name: str
    works: Sequence[Work]
    config: TrialConfig
    kept: Kept


@dataclass(frozen=True, eq=False)
class Task:
    """One process to come: a plan of a cell, for the `repeat`-th time."""

    cell: Cell
    plan: Plan
    repeat: int

    @property
    def config(self) -> TrialConfig:
        """How the trial runs."""
        return self.cell.config

    @property
    def seed(self) -> int:
        """A seed for every suite, phase and repeat, the same in every run and in every cell of a sweep."""
        return self._drawn()

    @property
    def rank(self) -> int:
        """A number by which the tasks of a round are put in order, whatever other cells there are."""
        return self._drawn("cell", self.cell.name)

    def _drawn(self, *of: str) -> int:
        parts = (str(self.config.seed), self.plan.suite, self.plan.phase, str(self.repeat), *of)
        return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:4], "big")

    @property
    def argument(self) -> dict[str, Any]:
        """What the plan's function is given."""
        return {**self.plan.argument, "seed": self.seed}


@dataclass(frozen=True)
class Ended:
    """One trial that has ended, and its rows; it has none where it failed."""

    trial: record.Trial
    rows: Sequence[Mapping[str, Any]]

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps({"trial": self.trial.model_dump(mode="json"), "rows": self.rows})

    @classmethod
    def from_json(cls, text: str) -> Ended:
        """A trial as it ended elsewhere, or before."""
        found = json.loads(text)
        return cls(record.Trial.model_validate_json(json.dumps(found["trial"])), found["rows"])


@dataclass(frozen=True)
class Outcome:
    """What the trials of a cell gave: one `record.Trial` each, and the samples of those that ended well."""

    trials: list[record.Trial]
    samples: pd.DataFrame


class Kept:
    """The ended trials of one cell, in its folder: what a resumed sweep need not run again.

    A trial is found again only by what would run the same way: its function, argument and seed, its limits,
    the machine, the versions and the commit.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder / _TRIALS
        self._identity = identity

    def has(self, task: Task) -> bool:
        """Whether the trial has ended before."""
        return self._path(task).exists()

    def get(self, task: Task) -> Ended:
        """The trial as it ended."""
        return Ended.from_json(gzip.decompress(self._path(task).read_bytes()).decode())

    def keep(self, task: Task, ended: Ended) -> None:
        """Write a trial to disk, whole or not at all."""
        self._folder.mkdir(exist_ok=True)
        record.write_atomically(self._path(task), gzip.compress(ended.to_json().encode(), 1))

    def _path(self, task: Task) -> Path:
        content = {
            "target": task.plan.target,
            "argument": task.argument,
            "config": task.config.model_dump(mode="json"),
            **self._identity,
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{task.plan.suite}-{task.repeat}-{digest[:16]}.json.gz"


def kept(folder: Path) -> bool:
    """Whether trials are kept in a cell's folder."""
    return any((folder / _TRIALS).glob("*"))


def forget(folder: Path) -> None:
    """Remove the trials kept in a cell's folder, once its record holds what is in them."""
    shutil.rmtree(folder / _TRIALS, ignore_errors=True)


# Runs tasks, in their order where it runs one at a time, and gives those that have ended, a few at a time.
Place = Callable[[Sequence[Task]], Iterator[Sequence[tuple[Task, Ended]]]]


def schedule(cells: Sequence[Cell]) -> list[Task]:
    """Every trial of every cell, in rounds, so that drift of the machine meets all cells alike.

    A round has each plan of each cell once, in an order drawn from the seed.
    """
    repeats = max((cell.config.repeats for cell in cells), default=0)
    rounds = [
        [
            Task(cell, plan, repeat)
            for cell in cells
            if repeat < cell.config.repeats
            for work in cell.works
            for plan in work.plans
        ]
        for repeat in range(repeats)
    ]
    return [task for tasks in rounds for task in sorted(tasks, key=lambda task: task.rank)]


def run_all(
    cells: Sequence[Cell], missing: Sequence[Task], place: Place, tell: Callable[[Task, Ended], None]
) -> Iterator[tuple[Cell, Outcome]]:
    """Run the trials that are `missing` (see `to_run`), and give each cell with its outcome.

    A cell comes as soon as its last trial has ended. A trial that crashes, is killed or runs too long is
    recorded as failed, and the rest goes on. `tell` is told of each trial run.
    """
    left = Counter(task.cell for task in missing)
    for cell in (cell for cell in cells if not left[cell]):
        yield cell, _outcome(cell)
    for together in place(missing):
        for task, ended in together:
            task.cell.kept.keep(task, ended)
            tell(task, ended)
        left.subtract(task.cell for task, _ in together)
        for cell in dict.fromkeys(task.cell for task, _ in together):
            if not left[cell]:
                yield cell, _outcome(cell)


def to_run(cells: Sequence[Cell]) -> list[Task]:
    """The trials of these cells that have not ended before, in the order in which they run."""
    return [task for task in schedule(cells) if not task.cell.kept.has(task)]


def _outcome(cell: Cell) -> Outcome:
    trials = []
    rows = [
        {"suite": row["series"].partition(".")[0], "repeat": 0, **row}
        for work in cell.works
        for samples in work.known
        for row in samples.rows
    ]
    for task in schedule([cell]):
        ended = cell.kept.get(task)
        trials.append(ended.trial)
        rows += [{"suite": task.plan.suite, "repeat": task.repeat, **row} for row in ended.rows]
    return Outcome(trials, frame(rows))


def here(tasks: Sequence[Task]) -> Iterator[list[tuple[Task, Ended]]]:
    """Run tasks on this machine: a few processes prepare side by side, then measure in turns."""
    many = min(max(2, usable_cores()), _MOST_SIDE_BY_SIDE)
    with ExitStack() as running:
        children = _started(tasks[:many], running)
        for core, following in enumerate(range(many, len(tasks) + many, many)):
            ended = _measured(children, core)
            running.close()
            children = _started(tasks[following : following + many], running)
            yield ended  # what is done with these is done while the following prepare


def _started(tasks: Sequence[Task], running: ExitStack) -> dict[Task, Child]:
    return {task: running.enter_context(_child(task)) for task in tasks}


def _measured(children: Mapping[Task, Child], core: int) -> list[tuple[Task, Ended]]:
    for task, child in children.items():
        child.wait_until_prepared(task.config.timeout)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    watch = Watch(child.pid for child in children.values())
    walls = _in_turns(children, core)
    noise = watch.stop()
    for child in children.values():
        child.go_on()
    # As if each had begun so long ago: judging belongs to a trial's wall, and to its limit.
    begun = {task: time.perf_counter() - wall for task, wall in walls.items()}
    return [(task, _ended(task, child, started_at, begun[task], noise)) for task, child in children.items()]


def _child(task: Task) -> Child:
    return Child(
        task.plan.target,
        task.argument,
        threads=compute_threads(task.config.threads),
        memory=task.config.memory,
        cores=task.config.cores,
    )


def _in_turns(children: Mapping[Task, Child], core: int) -> dict[Task, float]:
    """Let the children measure in turns until all have measured; the seconds that each of them took.

    All take them on one core: where others use the machine, a core can be slower than the next by 40% for
    seconds on end, and that would pass for a difference between the children.
    """
    walls = dict.fromkeys(children, 0.0)
    going = list(children)
    while going:
        for task in tuple(going):
            limit = task.config.timeout
            start = time.perf_counter()
            if not children[task].take_turn(max(0.0, limit - walls[task]), limit, core):
                going.remove(task)
            walls[task] += time.perf_counter() - start
    return walls


def _ended(task: Task, child: Child, started_at: str, begun: float, noise: Disturbance) -> Ended:
    result: dict[str, Any] = {"rows": [], "facts": {}}
    reason = None
    limit = task.config.timeout
    try:
        result = child.result(limit - (time.perf_counter() - begun), limit)
    except BenchError as error:
        reason = str(error)
    wall = time.perf_counter() - begun
    trial = record.Trial(
        suite=task.plan.suite,
        phase=task.plan.phase,
        repeat=task.repeat,
        seed=task.seed,
        status="failed" if reason else "ok",
        reason=reason,
        started_at=started_at,
        wall=wall,
        series=sorted({series_text(row["series"], row["labels"]) for row in result["rows"]}),
        noise=noise,
        facts={"threads": compute_threads(task.config.threads), **result["facts"]},
    )
    return Ended(trial, result["rows"])


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as the table of `bench.metrics`, every column there and typed."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


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
