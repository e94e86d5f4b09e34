"""The agent of memory: searches and ingests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from brein.agents.agent import Agent
from brein.agents.limits import AgentConfig
from brein.agents.workers import InThreads, one_by_one
from brein.records import Document, FloatArray, Hit
from brein.storage import Where


class Memory(Protocol):
    """What the hippocampus needs of an engine; `brein.Engine` has it. Used from several threads."""

    def search(self, query: str | FloatArray, k: int, where: Where | None) -> list[Hit]:
        """The `k` documents nearest to a text or a vector, best first."""

    def ingest(self, documents: Sequence[Document]) -> None:
        """Remember `documents`."""


@dataclass(frozen=True, slots=True)
class Search:
    """Asks for the `k` documents nearest to a text, or to a vector, float32 (d,), that fulfil `where`."""

    query: str | FloatArray
    k: int = 10
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class Ingest:
    """Asks to remember documents; answered with no hits once they are on disk."""

    documents: Sequence[Document]


Hippocampus: TypeAlias = Agent[Search | Ingest, list[Hit]]


def open_hippocampus(
    memory: Memory, config: AgentConfig, clock: Callable[[], float] = time.monotonic
) -> Hippocampus:
    """The agent that answers `Search` and `Ingest` from `memory`; their errors are those of the memory."""

    def answer(request: Search | Ingest) -> list[Hit]:
        if isinstance(request, Search):
            return memory.search(request.query, request.k, request.where)
        memory.ingest(request.documents)
        return []

    return Agent("hippocampus", config, InThreads(one_by_one(answer), "hippocampus"), clock)
