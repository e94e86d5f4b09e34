"""What the engine still calls the plain store; goes when it opens its store through `storage.create`."""

from __future__ import annotations

from typing import Any

from brein.storage.shard import SQLiteStore


class DocumentStore(SQLiteStore):
    """A plain store whose version is called generation."""

    @property
    def generation(self) -> Any:
        """The version."""
        return self.version
