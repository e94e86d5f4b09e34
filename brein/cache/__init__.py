"""Caches: in memory (L1), in Redis (L2), on disk (L3). What they hold is bytes in the formats of `codec`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from brein.cache.base import Cache, CacheStats
from brein.cache.disk import DiskCache
from brein.cache.memory import MemoryCache
from brein.cache.tiered import TieredCache
from brein.errors import ConfigError
from brein.settings import Settings, not_used_yet

if TYPE_CHECKING:
    from brein.cache.redis import RedisConnection


class EmbeddingCacheConfig(Settings):
    """L1 cache of query embeddings; the defaults are the performance guide's."""

    maxsize: int = Field(50_000, ge=0, description="entries; 0 switches the cache off")
    ttl: float = Field(3600, gt=0, description="seconds an entry lives")
    hit_rate_target: float | None = not_used_yet(
        0.8, ge=0, le=1, description="hits over look-ups below which the monitor speaks up"
    )


class SearchCacheConfig(Settings):
    """L1 cache of search results; the defaults are the performance guide's."""

    maxsize: int = Field(10_000, ge=0, description="entries; 0 switches the cache off")
    ttl: float = Field(1800, gt=0, description="seconds an entry lives")
    compression: bool = Field(True, description="compress values with zlib in Redis and on disk")


class RedisConfig(Settings):
    """L2: a cache of each kind in Redis; the time to live is the performance guide's."""

    enabled: bool = False
    url: str | None = Field(
        None, description="redis://, rediss:// or unix://; null: a private server that ends with the engine"
    )
    maxsize: int = Field(100_000, ge=0, description="entries of each cache; 0 switches the level off")
    max_bytes: int | None = Field(
        256 * 1024**2, ge=1, description="bound on the values of each cache; null: none"
    )
    ttl: float = Field(3600, gt=0, le=31_536_000, description="seconds an entry lives; at most a year")
    timeout: float = Field(0.05, gt=0, description="seconds to wait for Redis before the level is skipped")


class DiskConfig(Settings):
    """L3: a cache of each kind in an SQLite file; the time to live is the performance guide's."""

    enabled: bool = False
    path: Path | None = Field(None, description="folder of the files; null: inside the engine's folder")
    maxsize: int = Field(1_000_000, ge=0, description="entries of each cache; 0 switches the level off")
    max_bytes: int | None = Field(1024**3, ge=1, description="bound on the values of each cache; null: none")
    ttl: float = Field(86_400, gt=0, description="seconds an entry lives")


class CacheConfig(Settings):
    """Every cache of the engine."""

    embedding: EmbeddingCacheConfig = Field(default_factory=EmbeddingCacheConfig)
    search: SearchCacheConfig = Field(default_factory=SearchCacheConfig)
    max_bytes: int | None = Field(None, ge=1, description="bound on the values of each L1 cache; null: none")
    l2: RedisConfig = Field(default_factory=RedisConfig)
    l3: DiskConfig = Field(default_factory=DiskConfig)


class Caches:
    """The engine's caches, one of each kind, with what they share. Made by `open_caches`."""

    def __init__(self, embedding: TieredCache, search: TieredCache, closing: ExitStack) -> None:
        self.embedding = embedding
        self.search = search
        levels = (embedding.levels["l1"], search.levels["l1"])
        self._l1 = [level for level in levels if isinstance(level, MemoryCache)]
        self._closing = closing

    def l1_bytes(self) -> int:
        """Bytes of values in the larger of the two L1."""
        return max(level.stats().stored_bytes for level in self._l1)

    def shrink(self, stored_bytes: int) -> None:
        """Shrink each L1 to at most `stored_bytes` of values."""
        for level in self._l1:
            level.shrink(stored_bytes)

    def stats(self) -> dict[str, dict[str, CacheStats]]:
        """Counts of each cache, by its name and its level's."""
        return {"embedding": self.embedding.stats(), "search": self.search.stats()}

    def close(self) -> None:
        """Close every level, and the private Redis. Closing twice does nothing."""
        self._closing.close()


def open_caches(config: CacheConfig, folder: Path | None, clock: Callable[[], float] | None = None) -> Caches:
    """Open the levels that are enabled. `folder` is the engine's; L3 lies in `folder/cache` by default.

    `clock` gives the seconds by which entries age in every level, and never goes back; None: the system's.

    Raises:
        ConfigError: the Redis URL cannot be read, the private Redis does not start, L3 has no place, or a
            file that is not a cache lies there.
    """
    uptime, now = clock or time.monotonic, clock or time.time
    with ExitStack() as closing:
        connection = _connect(config.l2, closing) if config.l2.enabled else None
        place = _place(config.l3, folder) if config.l3.enabled else None

        def tiered(kind: str, maxsize: int, ttl: float, compression: bool) -> TieredCache:
            levels: dict[str, Cache] = {"l1": MemoryCache(maxsize, ttl, config.max_bytes, uptime)}
            if connection is not None:
                limits = config.l2.maxsize, config.l2.ttl, config.l2.max_bytes
                levels["l2"] = connection.cache(kind, *limits, now=now)
            if place is not None:
                file = place / f"{kind}.sqlite"
                limits = config.l3.maxsize, config.l3.ttl, config.l3.max_bytes
                levels["l3"] = DiskCache(file, *limits, own_folder=config.l3.path is None, now=now)
            cache = TieredCache(levels, compression)
            closing.callback(cache.close)
            return cache

        return Caches(
            tiered("embedding", config.embedding.maxsize, config.embedding.ttl, compression=False),
            tiered("search", config.search.maxsize, config.search.ttl, config.search.compression),
            closing.pop_all(),
        )


def _connect(config: RedisConfig, closing: ExitStack) -> RedisConnection:
    from brein.cache.redis import RedisConnection, RedisServer, memory_for

    url = config.url
    if url is None:
        server = RedisServer(memory_for(2, config.maxsize, config.max_bytes))
        closing.callback(server.close)
        url = server.url
    connection = RedisConnection(url, config.timeout)
    closing.callback(connection.close)
    return connection


def _place(config: DiskConfig, folder: Path | None) -> Path:
    if config.path is not None:
        return config.path
    if folder is None:
        raise ConfigError("cache.l3.path = null: an engine without a path has no folder for it; give one")
    return folder / "cache"


__all__ = [
    "Cache",
    "CacheConfig",
    "CacheStats",
    "Caches",
    "DiskCache",
    "DiskConfig",
    "EmbeddingCacheConfig",
    "MemoryCache",
    "RedisConfig",
    "SearchCacheConfig",
    "TieredCache",
    "open_caches",
]
