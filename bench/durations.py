"""How long trials take: what tells a plan and a progress line the time to expect."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bench import record
from bench.config import ExperimentConfig
from bench.trial import Task

_KEPT = 0.7  # weight of what was known when something newer is learnt


class Durations:
    """Seconds that trials took, their preparation with them: in this sitting by cell, in any by kind.

    A kind is a suite and a phase. Kinds are kept in a file, which may be absent or unreadable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: dict[str, float] = _read(path)
        self._cells: dict[tuple[str, str], float] = {}

    def learn(self, task: Task, seconds: float) -> None:
        """Remember how long a trial took."""
        kind = f"{task.plan.suite} {task.plan.phase}"
        self._kinds[kind] = _blend(self._kinds.get(kind), seconds)
        self._cells[task.cell.name, kind] = _blend(self._cells.get((task.cell.name, kind)), seconds)

    def expect(self, tasks: Iterable[Task]) -> float | None:
        """Seconds these trials will take, one after another; None where one is of a kind never seen here."""
        each = [self._expect(task.cell.name, f"{task.plan.suite} {task.plan.phase}") for task in tasks]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def _expect(self, cell: str, kind: str) -> float | None:
        return self._cells.get((cell, kind), self._kinds.get(kind))

    def of_cell(self, config: ExperimentConfig) -> float | None:
        """Seconds the trials of a cell will take; None where one of its suites was never seen here."""
        parts = {f"memory {part}" for part in config.suite.memory.parts} | {f"load {config.load.name}"}
        each = [
            [
                seconds
                for kind, seconds in self._kinds.items()
                if kind.partition(" ")[0] == suite and (suite not in ("memory", "load") or kind in parts)
            ]
            for suite in config.suites
        ]
        return config.trial.repeats * sum(map(sum, each)) if all(each) else None

    def save(self) -> None:
        """Keep what was learnt of each kind."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        record.write_atomically(self._path, json.dumps(self._kinds, indent=1).encode())


def _blend(known: float | None, seconds: float) -> float:
    return seconds if known is None else _KEPT * known + (1 - _KEPT) * seconds


def _read(path: Path) -> dict[str, float]:
    try:
        return {str(kind): float(seconds) for kind, seconds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
