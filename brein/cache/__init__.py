"""Caches. L1 is in memory; what each cache holds is bytes in the formats of `codec`."""

from __future__ import annotations

from pydantic import Field

from brein.cache.memory import CacheStats, MemoryCache
from brein.settings import Settings, not_used_yet


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
    compression: bool = Field(True, description="compress values with zlib")


class CacheConfig(Settings):
    """Every cache of the engine."""

    embedding: EmbeddingCacheConfig = Field(default_factory=EmbeddingCacheConfig)
    search: SearchCacheConfig = Field(default_factory=SearchCacheConfig)
    max_bytes: int | None = Field(None, ge=1, description="bound on the values of each L1 cache; null: none")
    l2_enabled: bool | None = not_used_yet(None, description="a second, shared level; null: not asked for")


__all__ = ["CacheConfig", "CacheStats", "EmbeddingCacheConfig", "MemoryCache", "SearchCacheConfig"]
