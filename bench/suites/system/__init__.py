"""Suite `system`: the service as others see it, over HTTP, in a process of its own.

| part | measures |
|---|---|
| load | start to ready, memory at rest; CPU, memory, disk and network while searches arrive at a rate |
| processes | searches answered by 1, 2, … services side by side, each with a copy of the documents |
| http | cached searches beside a bare uvicorn that echoes, and through a balancer: what each costs |

`suite.system.parts` says which of them run, each in its own process. CPU, memory and disk are those of the
services' processes; the lab's own, which asks, is on the same machine and in none of them.
"""

from __future__ import annotations

from typing import Any, Protocol

from bench.artifacts import Artifact
from bench.suites import ingested
from bench.suites.base import Experiment
from bench.suites.system import http, load, processes
from bench.trial import Work
from bench.workload import embeddings


class Part(Protocol):
    """What a part's module has."""

    METRICS: tuple[str, ...]  # the beginnings of its metrics' names

    def plan(self, experiment: Experiment, argument: dict[str, Any]) -> Work:
        """Say what the part gives; `argument` is what its trials are given, whichever part it is."""


PARTS: dict[str, Part] = {"load": load, "processes": processes, "http": http}


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: the data set is no text, or has too few documents for the index or for k; a trace cannot
            be replayed.
    """
    dataset = experiment.text("system")
    experiment.check_size(len(dataset.documents), "documents", experiment.config.suite.system.k)
    load.stream(experiment, dataset)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    if experiment.lacks_gpu():
        return []
    dataset = experiment.text("system")
    return [
        embeddings.text_artifact(dataset, experiment.config.embedding),
        ingested.artifact(experiment, dataset),
    ]


def plan(experiment: Experiment) -> list[Work]:
    """Make what the trials need, and say what the parts give; a part left out says so."""
    if experiment.lacks_gpu():
        return [Work(skipped={"system": "needs a GPU"})]
    dataset, settings = experiment.text("system"), experiment.config.suite.system
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "folder": str(ingested.folder(experiment, dataset, experiment.embedded(dataset))),
        "queries": [query.text for query in dataset.queries],
        "settings": settings.model_dump(mode="json"),
        "scratch": str(experiment.store.scratch()),
    }
    return [
        part.plan(experiment, argument)
        if name in settings.parts
        else Work(skipped=dict.fromkeys(part.METRICS, f"suite.system.parts leaves {name} out"))
        for name, part in PARTS.items()
    ]
