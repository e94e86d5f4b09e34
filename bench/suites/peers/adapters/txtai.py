"""txtai: its embeddings database, as it comes: a FAISS index that it chooses, and the texts in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.suites.peers.base import Embed, Parameters, TextPeer


class Txtai(TextPeer):
    """Build: txtai's own configuration, such as `backend` and `faiss`."""

    NEEDS = ("txtai",)
    MODULES = ("txtai",)

    def build(self, texts: Sequence[str], embed: Embed, parameters: Parameters) -> None:
        """Index the texts."""
        from txtai import Embeddings

        # Anything but a plain function txtai takes for a class to make one of.
        own = {"method": "external", "transform": lambda asked: embed(list(asked)), "content": True}
        self._embeddings: Any = Embeddings({**parameters, **own})
        self._embeddings.index(list(enumerate(texts)))

    def search(self, text: str, k: int) -> list[int]:
        """The nearest rows."""
        return [int(hit["id"]) for hit in self._embeddings.search(text, k)]

    def close(self) -> None:
        """Free the index."""
        self._embeddings.close()
