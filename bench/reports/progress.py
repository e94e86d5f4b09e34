"""What a run says while it runs, on standard error: what it prepares, then one line for all its trials."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from bench.durations import Durations
from bench.trial import Ended, Task

_LINES = 10  # where there is no terminal to redraw a line in


class Progress:
    """Says what is going on, with the time since the start; then counts trials, with the time left.

    The line is redrawn between trials only: a thread that draws would be load on the machine measured.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.perf_counter()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(f"[dim]{self._elapsed():6.1f} s[/dim]  ", end="", highlight=False)
        self._console.print(text, highlight=False, markup=False, style="dim")

    def trials(self, tasks: Sequence[Task], durations: Durations) -> _Trials:
        """The line for `tasks`, as a context and as what to call with each that has ended."""
        return _Trials(self, self._console, tasks, durations)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun


class _Trials:
    def __init__(
        self, progress: Progress, console: Console, tasks: Sequence[Task], durations: Durations
    ) -> None:
        self._say, self._left, self._durations = progress.say, list(tasks), durations
        self._total = len(tasks)
        self._drawn = console.is_terminal
        self._failed = 0
        self._bar = Bar(
            TextColumn("trial"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"),
            console=console, auto_refresh=False, disable=not self._drawn,
        )  # fmt: skip
        self._line = self._bar.add_task("", total=self._total)

    def __enter__(self) -> Self:
        self._bar.start()
        self._last = time.perf_counter()
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._durations.save()

    def __call__(self, task: Task, ended: Ended) -> None:
        """Count a trial that has ended."""
        now = time.perf_counter()
        self._durations.learn(task, now - self._last)
        self._last = now
        self._left.remove(task)
        self._failed += ended.trial.status == "failed"
        self._show()

    def _show(self) -> None:
        done = self._total - len(self._left)
        failed = f", {self._failed} failed" if self._failed else ""
        text = lasting(self._durations.expect(self._left)) + " left" + failed
        self._bar.update(self._line, completed=done, description=text, refresh=True)
        tenth = done * _LINES // max(self._total, 1)
        if not self._drawn and done and tenth != (done - 1) * _LINES // self._total:
            self._say(f"trial {done:,} of {self._total:,}, {text}")


def lasting(seconds: float | None) -> str:
    """A duration as people say it: `about 12 min`."""
    if seconds is None:
        return "an unknown time"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
