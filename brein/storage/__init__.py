"""Storage: documents and vectors on disk."""

from brein.storage.sqlite import DocumentStore, StorageConfig

__all__ = ["DocumentStore", "StorageConfig"]
