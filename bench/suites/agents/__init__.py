"""Suite `agents`: questions answered by the three agents, through the coordinator.

| part | measures |
|---|---|
| idle | one client: what a hop between agents and the coordination cost, how long each agent works |
| load | questions that arrive at random, at shares of the capacity: latency, utilisation, rejections |

`suite.agents.parts` says which of them run, each in its own process. No search is answered from a cache.
"""

from __future__ import annotations

from typing import Any, Protocol

from bench.artifacts import Artifact
from bench.suites import ingested
from bench.suites.agents import idle, load
from bench.suites.base import Experiment
from bench.trial import Work
from bench.workload import embeddings
from brein import EngineConfig


class Part(Protocol):
    """What a part's module has."""

    METRICS: tuple[str, ...]  # the beginnings of its metrics' names

    def plan(self, experiment: Experiment, argument: dict[str, Any]) -> Work:
        """Say what the part gives; `argument` is what its trials are given, whichever part it is."""


PARTS: dict[str, Part] = {"idle": idle, "load": load}


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: the data set is no text, or has too few documents for the index or for k.
    """
    dataset = experiment.text("agents")
    experiment.check_size(len(dataset.documents), "documents", experiment.config.suite.agents.k)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    if experiment.lacks_gpu():
        return []
    dataset = experiment.text("agents")
    return [
        embeddings.text_artifact(dataset, experiment.config.embedding),
        ingested.artifact(experiment, dataset),
    ]


def plan(experiment: Experiment) -> list[Work]:
    """Make what the trials need, and say what the parts give; a part left out says so."""
    if experiment.lacks_gpu():
        return [Work(skipped={"agents": "needs a GPU"})]
    dataset, settings = experiment.text("agents"), experiment.config.suite.agents
    argument = {
        "engine": _as_if_first_asked(experiment.engine, len(dataset.queries)).model_dump_json(),
        "folder": str(ingested.folder(experiment, dataset, experiment.embedded(dataset))),
        "questions": [query.text for query in dataset.queries],
        "settings": settings.model_dump(mode="json"),
        "scratch": str(experiment.store.scratch()),
    }
    return [
        part.plan(experiment, argument)
        if name in settings.parts
        else Work(skipped=dict.fromkeys(part.METRICS, f"suite.agents.parts leaves {name} out"))
        for name, part in PARTS.items()
    ]


def _as_if_first_asked(engine: EngineConfig, questions: int) -> EngineConfig:
    """The engine without caches but one: of embeddings, for as long as their questions are under way.

    The agents share it, so each question is embedded once, as in use, and again when it comes again. Between
    one agent's use of an embedding and another's, the questions ahead are answered and as many new ones come.
    Where there are so few questions that all would stay there, it holds one less.
    """
    cache, reasoning = engine.cache, engine.agents.prefrontal_cortex
    under_way = reasoning.max_concurrent + reasoning.queue_size
    maxsize = min(2 * under_way, questions - 1)
    changed = {
        "embedding": cache.embedding.model_copy(update={"maxsize": maxsize}),
        "search": cache.search.model_copy(update={"maxsize": 0}),
        "l2": cache.l2.model_copy(update={"enabled": False}),
        "l3": cache.l3.model_copy(update={"enabled": False}),
    }
    return engine.model_copy(update={"cache": cache.model_copy(update=changed)})
