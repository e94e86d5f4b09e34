"""The agent of memory: retrieves and ingests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from brein.agents.agent import Agent
from brein.agents.limits import AgentConfig
from brein.agents.workers import InThreads, Threads, one_by_one
from brein.records import Document, Retrieval
from brein.storage import Where


class Memory(Protocol):
    """What the hippocampus needs of an engine; `brein.Engine` has it. Used from several threads."""

    def retrieve(self, query: str, k: int, where: Where | None) -> Retrieval:
        """The `k` documents that answer a text best, best first."""

    def ingest(self, documents: Sequence[Document]) -> None:
        """Remember `documents`."""


@dataclass(frozen=True, slots=True)
class Search:
    """Asks for the `k` documents that answer a text best and fulfil `where`; answered with a Retrieval."""

    query: str
    k: int = 10
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class Ingest:
    """Asks to remember documents; answered with None once they are on disk."""

    documents: Sequence[Document]


Hippocampus: TypeAlias = Agent[Search | Ingest, Retrieval | None]


def open_hippocampus(
    memory: Memory,
    config: AgentConfig,
    clock: Callable[[], float] = time.monotonic,
    threads: Threads | None = None,
) -> Hippocampus:
    """The agent that answers `Search` and `Ingest` from `memory`; their errors are those of the memory."""

    def answer(request: Search | Ingest) -> Retrieval | None:
        if isinstance(request, Search):
            return memory.retrieve(request.query, request.k, request.where)
        memory.ingest(request.documents)
        return None

    return Agent("hippocampus", config, InThreads(one_by_one(answer), "hippocampus", threads), clock)
