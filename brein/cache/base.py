"""The interface of a cache level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the cache was made, and what it holds now; `stored_bytes` counts values only.

    Evictions are live entries that made room, not expired or deleted ones. `errors` are operations that
    failed, timed out or met damage, `skipped` those not tried while backing off after a failure. While a
    level is not `available`, what it holds is not known and given as 0.
    """

    hits: int
    misses: int
    evictions: int
    entries: int
    stored_bytes: int
    errors: int = 0
    skipped: int = 0
    available: bool = True

    @property
    def hit_rate(self) -> float | None:
        """Hits over look-ups; None before the first look-up."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else None


class Cache(ABC):
    """Maps keys, digests of 16 bytes, to values, which `codec.seal` has sealed unless it is `in_process`.

    Bounded in entries (0 switches the cache off), in bytes of values, and in seconds of life: the expired,
    then the least recently used make room. Safe to use from several threads. No operation raises for a
    reason that lies in the cache; a cache that fails or is closed finds nothing.
    """

    in_process: ClassVar[bool] = False  # whether it keeps values in this process's memory

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """The value under `key`, or None where there is none or its life is over."""

    def peek(self, key: bytes) -> bytes | None:
        """As `get` where that is in memory, and a miss does not count: who asks here asks further.

        Levels that take longer find nothing here.
        """
        return None

    @abstractmethod
    def set(self, key: bytes, value: bytes) -> None:
        """Keep `value` under `key`, replacing what was there; a value over the bound is not kept."""

    @abstractmethod
    def delete(self, key: bytes) -> None:
        """Forget what is under `key`."""

    @abstractmethod
    def clear(self) -> None:
        """Forget every entry; the counts stay."""

    @abstractmethod
    def stats(self) -> CacheStats:
        """Counts so far."""

    @abstractmethod
    def close(self) -> None:
        """Release files, connections and memory. Closing twice does nothing."""
