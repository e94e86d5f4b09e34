"""Storage: documents and vectors on disk, in one SQLite file or in several shards."""

from brein.storage.base import DocumentStore, StorageConfig, check
from brein.storage.filters import Where, canonical
from brein.storage.layout import FORMAT, claim
from brein.storage.rebalance import create, rebalance
from brein.storage.shard import SQLiteStore
from brein.storage.sharded import ShardedStorage

__all__ = [
    "FORMAT",
    "DocumentStore",
    "SQLiteStore",
    "ShardedStorage",
    "StorageConfig",
    "Where",
    "canonical",
    "check",
    "claim",
    "create",
    "rebalance",
]
