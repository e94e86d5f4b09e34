"""Every error the engine raises on purpose.

    BreinError
    ├── ConfigError      a setting is unknown, out of bounds, or does not fit another
    ├── DataError        documents, vectors or queries do not have the shape or size asked for
    ├── ModelError       a model is missing, cannot be loaded, or is not the one it claims to be
    ├── GenerationError  a model that writes text cannot be reached, refuses, or answers nonsense
    │   └── GenerationTimeoutError    it took longer than its timeout
    ├── StorageError     a file of the engine is missing, foreign, damaged or cannot be written
    ├── MemoryLimitError what was asked for does not fit into memory_limit
    ├── ClosedError      the engine, or a part of it, was used after close()
    ├── ClusterError     machines that are to serve an index cannot be reached, or do not start
    │   └── ShardsMissingError  some of its shards did not answer a search
    ├── AgentError       an agent's work went wrong
    │   ├── QueueFullError     as many requests wait for an agent as may
    │   └── AgentTimeoutError  an agent had no answer in time
    └── BalancerError    a request to the instances of the service has no answer
        ├── NoHealthyInstancesError  every instance is ejected
        ├── InstanceError            the instance asked broke off, and the request was not repeated
        ├── OverloadedError          as many requests are in hand, or bytes of them, as may
        └── RequestTimeoutError      there was no answer in time

A message names the field, the bound, the value, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class BreinError(Exception):
    """Root of the engine's errors; catch this to catch them all."""


class ConfigError(BreinError, ValueError):
    """A setting is unknown, out of bounds, or does not fit another setting."""


class DataError(BreinError, ValueError):
    """Documents, vectors or queries do not have the shape, type or size asked for."""


class ModelError(BreinError):
    """A model is missing or cannot be loaded, or its weights are not the ones expected."""


class GenerationError(BreinError):
    """A model that writes text cannot be reached, refuses to answer, or answers nonsense."""


class GenerationTimeoutError(GenerationError, TimeoutError):
    """A model that writes text took longer than its timeout."""


class StorageError(BreinError):
    """A file of the engine is missing, foreign, damaged or cannot be written."""


class MemoryLimitError(BreinError):
    """What was asked for does not fit into the engine's `memory_limit`."""


class ClosedError(BreinError, RuntimeError):
    """The engine, or a part of it, was used after `close()`."""


class ClusterError(BreinError):
    """Machines that are to serve an index cannot be reached, or what they are to serve does not start."""


class ShardsMissingError(ClusterError):
    """Some shards of the index did not answer a search.

    `missing` has the number of each, from 0, and why; `found` is what the others found, best first: pairs of
    id and score, or hits, as the call that raises this says.
    """

    def __init__(self, missing: Mapping[int, str], found: Sequence[Any]) -> None:
        reasons = "; ".join(f"shard {number}: {reason}" for number, reason in missing.items())
        super().__init__(f"the answer is partial ({reasons}); ask again, or see that the shards run")
        self.missing = missing
        self.found = found


class AgentError(BreinError):
    """An agent's work went wrong: it was cancelled, or gave no outcome for a request."""


class QueueFullError(AgentError):
    """As many requests wait for an agent as may, or its slots are lost; this one was not admitted."""


class AgentTimeoutError(AgentError, TimeoutError):
    """An agent had no answer to a request in time, or did not come to it."""


class BalancerError(BreinError):
    """A request to the instances of the service has no answer."""


class NoHealthyInstancesError(BalancerError):
    """Every instance of the service is ejected, so none can be asked."""


class InstanceError(BalancerError):
    """An instance broke off or sent too much, and the request was not repeated, or not once more."""


class OverloadedError(BalancerError):
    """As many requests are in hand, or bytes of them held, as may; this one was not admitted."""


class RequestTimeoutError(BalancerError, TimeoutError):
    """No instance answered a request in time."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its name where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
