"""Suite `lab`: the lab measures itself, so that anybody can see on their machine what its figures are worth.

| part | measures |
|---|---|
| known_answers | how far percentiles, throughput, memory and recall are from what they are known to be |
| aa | whether two equal sides come out equal: one cell measured twice, again and again |
| cost | what a trial costs beside its timed work, and a sweep beside a plain loop over processes and builds |

`suite.lab.parts` says which of them run. The data are `suite.lab.data`, vectors drawn at random: no text, no
embedding model. The figures come from the functions that every run uses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from bench.artifacts import Artifact
from bench.suites.base import Experiment
from bench.suites.lab import aa, cost, known_answers
from bench.suites.memory import search
from bench.trial import Work
from bench.workload import synthetic


class Part(Protocol):
    """What a part's module has."""

    METRICS: tuple[str, ...]  # the beginnings of its metrics' names

    def artifacts(self, experiment: Experiment) -> list[Artifact]:
        """What `plan` makes, known without making it."""

    def plan(self, experiment: Experiment) -> Work:
        """Make what the part needs, and say what it gives."""


PARTS: dict[str, Part] = {"known_answers": known_answers, "aa": aa, "cost": cost}


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: the lab's own data are too few for the index, or cannot be drawn.
    """
    own = _on_own_data(experiment)
    search.check(own)
    search.check(cost.grid(own))


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    wanted, experiment = experiment.config.suite.lab.parts, _on_own_data(experiment)
    return [artifact for name in wanted for artifact in PARTS[name].artifacts(experiment)]


def plan(experiment: Experiment) -> list[Work]:
    """Make what the parts need, and say what they give; a part left out says so."""
    wanted, experiment = experiment.config.suite.lab.parts, _on_own_data(experiment)
    return [
        part.plan(experiment)
        if name in wanted
        else Work(skipped=dict.fromkeys(part.METRICS, f"suite.lab.parts leaves {name} out"))
        for name, part in PARTS.items()
    ]


def _on_own_data(experiment: Experiment) -> Experiment:
    data = synthetic.load(experiment.config.suite.lab.data)
    return replace(experiment, dataset=data, memory_vectors=None)
