"""L1: an in-memory cache of bytes with LRU eviction and a time to live."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from cachetools import TTLCache

from brein.cache.base import Cache, CacheStats


class MemoryCache(Cache):
    """A cache in this process's memory. It keeps any bytes as they are.

    `maxsize` in entries, `ttl` in seconds, `max_bytes` of values (None: no bound). `clock` gives seconds
    and never goes back.
    """

    in_process = True

    def __init__(
        self,
        maxsize: int,
        ttl: float,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limit = float("inf") if max_bytes is None else max_bytes
        self._entries: TTLCache[bytes, bytes] = TTLCache(limit, ttl, timer=clock, getsizeof=len)
        self._maxsize = maxsize
        self._max_bytes = limit
        self._lock = Lock()  # with the entries' timer, which then stands still, where they are asked twice
        self._hits = self._misses = self._evictions = 0

    def get(self, key: bytes) -> bytes | None:
        """The value under `key`, or None where there is none or its life is over."""
        with self._lock:
            value = self._entries.get(key)
            if value is None:
                self._misses += 1
            else:
                self._hits += 1
            return value

    def peek(self, key: bytes) -> bytes | None:
        """As `get`, but a miss does not count."""
        with self._lock:
            value = self._entries.get(key)
            self._hits += value is not None
            return value

    def set(self, key: bytes, value: bytes) -> None:
        """Keep `value` under `key`; the least recently used make room; one over the bound is not kept."""
        with self._lock, self._entries.timer:
            self._entries.pop(key, None)
            if self._maxsize == 0 or len(value) > self._max_bytes:
                return
            before = len(self._entries)
            while len(self._entries) >= self._maxsize:
                self._entries.popitem()
            self._entries[key] = value
            self._evictions += before + 1 - len(self._entries)

    def shrink(self, stored_bytes: int) -> None:
        """Evict the least recently used until at most `stored_bytes` of values are left."""
        with self._lock, self._entries.timer:
            before = len(self._entries)
            while self._entries.currsize > stored_bytes:
                self._entries.popitem()
            self._evictions += before - len(self._entries)

    def delete(self, key: bytes) -> None:
        """Forget what is under `key`."""
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget every entry; the counts stay."""
        with self._lock:
            self._entries.clear()

    def stats(self) -> CacheStats:
        """Counts so far."""
        with self._lock, self._entries.timer:
            return CacheStats(
                self._hits, self._misses, self._evictions, len(self._entries), int(self._entries.currsize)
            )

    def close(self) -> None:
        """Forget every entry and keep no more."""
        with self._lock:
            self._maxsize = 0
            self._entries.clear()
