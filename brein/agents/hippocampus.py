"""The agent of memory: retrieves, ingests, reads and forgets."""

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

    def get(self, id_: str) -> Document | None:
        """The document with this id, or None."""

    def delete(self, ids: Sequence[str]) -> int:
        """Forget the documents with these ids; return how many were there."""


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


@dataclass(frozen=True, slots=True)
class Get:
    """Asks for one document; answered with it, or None."""

    id: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Asks to forget documents; answered with how many were there."""

    ids: Sequence[str]


Wish: TypeAlias = Search | Ingest | Get | Delete
Recalled: TypeAlias = Retrieval | Document | int | None
Hippocampus: TypeAlias = Agent[Wish, Recalled]


def open_hippocampus(
    memory: Memory,
    config: AgentConfig,
    clock: Callable[[], float] = time.monotonic,
    threads: Threads | None = None,
) -> Hippocampus:
    """The agent that answers each `Wish` from `memory`; their errors are those of the memory."""

    def answer(wish: Wish) -> Recalled:
        match wish:
            case Search():
                return memory.retrieve(wish.query, wish.k, wish.where)
            case Ingest():
                memory.ingest(wish.documents)
                return None
            case Get():
                return memory.get(wish.id)
            case Delete():
                return memory.delete(wish.ids)

    return Agent("hippocampus", config, InThreads(one_by_one(answer), "hippocampus", threads), clock)
