"""What is measured: one file per suite, one table (`SUITES`).

A suite's `plan(experiment)` makes what its trials need and returns them; its other functions run in the
trials' own processes.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.suites import memory, query
from bench.suites.base import Experiment, facts
from bench.trial import Plan

SUITES: dict[str, Callable[[Experiment], list[Plan]]] = {"memory": memory.plan, "query": query.plan}

__all__ = ["SUITES", "Experiment", "facts"]
