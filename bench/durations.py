"""How long trials take: what tells a plan and a progress line the time to expect."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bench import record
from bench.trial import Task

_KEPT = 0.7  # weight of what was known when something newer is learnt


class Durations:
    """Seconds a trial takes, its preparation with it: of its cell in this sitting, else of its kind in any.

    A kind is the trial's function. Kinds are kept in a file, which may be absent or unreadable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: dict[str, float] = _read(path)
        self._cells: dict[tuple[str, str], float] = {}

    def learn(self, task: Task, seconds: float) -> None:
        """Remember how long a trial took."""
        kind, cell = task.plan.target, _key(task)
        self._kinds[kind] = _blend(self._kinds.get(kind), seconds)
        self._cells[cell] = _blend(self._cells.get(cell), seconds)

    def expect(self, tasks: Iterable[Task]) -> float | None:
        """Seconds these trials will take, one after another; None where one is of a kind never seen here."""
        each = [self._cells.get(_key(task), self._kinds.get(task.plan.target)) for task in tasks]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def save(self) -> None:
        """Keep what was learnt of each kind."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        record.write_atomically(self._path, json.dumps(self._kinds, indent=1).encode())


def _blend(known: float | None, seconds: float) -> float:
    return seconds if known is None else _KEPT * known + (1 - _KEPT) * seconds


def _key(task: Task) -> tuple[str, str]:
    return task.cell.name, task.plan.phase


def _read(path: Path) -> dict[str, float]:
    try:
        return {str(kind): float(seconds) for kind, seconds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
