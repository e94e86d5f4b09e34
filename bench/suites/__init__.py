"""What is measured: a module or a package for each suite, one table (`SUITES`).

`check(experiment)` refuses what a suite cannot measure, `artifacts(experiment)` says what its trials need,
`plan(experiment)` makes that and returns them; its other functions run in the trials' own processes.
"""

from __future__ import annotations

from typing import Protocol

from bench.artifacts import Artifact
from bench.suites import agents, lab, load, memory, peers, query, system
from bench.suites.base import Experiment, facts
from bench.trial import Work


class Suite(Protocol):
    """What a suite's module or package has."""

    def check(self, experiment: Experiment) -> None:
        """Refuse what cannot be measured, before anything is made."""

    def artifacts(self, experiment: Experiment) -> list[Artifact]:
        """What `plan` would make or find made, known without making it; shared ones may come twice."""

    def plan(self, experiment: Experiment) -> list[Work]:
        """Make what the trials need, and return them."""


SUITES: dict[str, Suite] = {
    "memory": memory,
    "query": query,
    "agents": agents,
    "system": system,
    "load": load,
    "lab": lab,
    "peers": peers,
}

__all__ = ["SUITES", "Experiment", "facts"]
