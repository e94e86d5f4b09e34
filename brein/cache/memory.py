"""L1: an in-memory cache of bytes with LRU eviction and a time to live."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from cachetools import TTLCache


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the cache was made, and what it holds now. `stored_bytes` counts values only."""

    hits: int
    misses: int
    evictions: int
    entries: int
    stored_bytes: int

    @property
    def hit_rate(self) -> float | None:
        """Hits over look-ups; None before the first look-up."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else None


class MemoryCache:
    """Maps text keys to bytes; bounded in entries, in bytes of values, and in seconds of life.

    Safe to use from several threads. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        maxsize: int,
        ttl: float,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limit = float("inf") if max_bytes is None else max_bytes
        self._entries: TTLCache[str, bytes] = TTLCache(limit, ttl, timer=clock, getsizeof=len)
        self._maxsize = maxsize
        self._max_bytes = limit
        self._lock = Lock()
        self._hits = self._misses = self._sets = self._evictions = 0

    def get(self, key: str) -> bytes | None:
        """The value under `key`, or None where there is none or its life is over."""
        with self._lock:
            value = self._entries.get(key)
            if value is None:
                self._misses += 1
            else:
                self._hits += 1
            return value

    def set(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`; the least recently used make room; one over the bound is not kept."""
        with self._lock:
            self._entries.pop(key, None)
            if self._maxsize == 0 or len(value) > self._max_bytes:
                return
            self._entries.expire()
            before = len(self._entries)
            while len(self._entries) >= self._maxsize:
                self._entries.popitem()
            self._entries[key] = value
            self._evictions += before + 1 - len(self._entries)

    def clear(self) -> None:
        """Forget every entry; the counts stay."""
        with self._lock:
            self._entries.clear()

    def stats(self) -> CacheStats:
        """Counts so far."""
        with self._lock:
            self._entries.expire()
            return CacheStats(
                self._hits, self._misses, self._evictions, len(self._entries), int(self._entries.currsize)
            )
