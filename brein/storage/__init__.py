"""Storage: documents and vectors on disk."""

from brein.storage.sqlite import FORMAT, DocumentStore, StorageConfig

__all__ = ["FORMAT", "DocumentStore", "StorageConfig"]
