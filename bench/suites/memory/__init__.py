"""Suite `memory`: the parts of the memory system, each alone.

| part | measures |
|---|---|
| search | a built index, vector in and ids out: single, in batches, filtered; its size and its build |
| ingest | documents embedded, indexed and stored |
| cache | the search cache, level by level |
| shards | one index kind in several numbers of shards |
| storage | documents written and read, in several numbers of SQLite files |
| coding | what scalar codes of vectors, and of their residuals, cost and keep |
| mixed | searches between inserts and deletes |
| streaming | a runbook of inserts, deletes and searches, step by step |

`suite.memory.parts` says which of them run. Only `ingest` loads the embedding model.
"""

from __future__ import annotations

from typing import Protocol

from bench.artifacts import Artifact
from bench.suites.base import Experiment
from bench.suites.memory import cache, coding, ingest, mixed, search, shards, storage, streaming
from bench.trial import Work


class Part(Protocol):
    """What a part's module has."""

    METRICS: tuple[str, ...]  # the beginnings of its metrics' names

    def plan(self, experiment: Experiment) -> Work:
        """Make what the part needs, and say what it gives."""


PARTS: dict[str, Part] = {
    "search": search,
    "ingest": ingest,
    "cache": cache,
    "shards": shards,
    "storage": storage,
    "coding": coding,
    "mixed": mixed,
    "streaming": streaming,
}


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: there are too few vectors or documents for the index or for k; a trace or a runbook asks
            for what is not there.
    """
    wanted = experiment.config.suite.memory.parts
    for name, part in (("search", search), ("ingest", ingest), ("cache", cache), ("streaming", streaming)):
        if name in wanted:
            part.check(experiment)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it; one that several parts share comes for each of them."""
    wanted = experiment.config.suite.memory.parts
    makers = {"search": search, "shards": shards, "coding": coding, "mixed": mixed, "streaming": streaming}
    return [
        artifact for name, part in makers.items() if name in wanted for artifact in part.artifacts(experiment)
    ]


def plan(experiment: Experiment) -> list[Work]:
    """Make what the parts need, and say what they give; a part left out says so."""
    wanted = experiment.config.suite.memory.parts
    return [
        part.plan(experiment)
        if name in wanted
        else Work(skipped=dict.fromkeys(part.METRICS, f"suite.memory.parts leaves {name} out"))
        for name, part in PARTS.items()
    ]
