"""What is measured: one file per suite, one table (`SUITES`).

A suite is a module. `check(experiment)` refuses what it cannot measure, `plan(experiment)` makes what its
trials need and returns them; its other functions run in the trials' own processes.
"""

from __future__ import annotations

from typing import Protocol

from bench.suites import memory, query
from bench.suites.base import Experiment, facts
from bench.trial import Plan


class Suite(Protocol):
    """What a suite's module has."""

    def check(self, experiment: Experiment) -> None:
        """Refuse what cannot be measured, before anything is made."""

    def plan(self, experiment: Experiment) -> list[Plan]:
        """Make what the trials need, and return them."""


SUITES: dict[str, Suite] = {"memory": memory, "query": query}

__all__ = ["SUITES", "Experiment", "facts"]
