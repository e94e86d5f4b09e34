"""Chroma: a collection in memory, with its graph index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from bench.suites.peers.base import Embed, Parameters, TextPeer


class Chroma(TextPeer):
    """Build: Chroma's own settings of its graph: `max_neighbors`, `ef_construction`, `ef_search`."""

    NEEDS = ("chromadb",)
    MODULES = ("chromadb",)

    def build(self, texts: Sequence[str], embed: Embed, parameters: Parameters) -> None:
        """Add the texts, as many at once as Chroma takes."""
        os.environ["ANONYMIZED_TELEMETRY"] = "False"
        import chromadb

        self._embed = embed
        self._client: Any = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
        self._collection = self._client.create_collection(
            "bench", embedding_function=None, configuration={"hnsw": {**parameters, "space": "cosine"}}
        )
        most = self._client.get_max_batch_size()
        for start in range(0, len(texts), most):
            part = list(texts[start : start + most])
            ids = [str(row) for row in range(start, start + len(part))]
            self._collection.add(ids=ids, documents=part, embeddings=embed(part))

    def search(self, text: str, k: int) -> list[int]:
        """The nearest rows, with their texts."""
        found = self._collection.query(
            query_embeddings=self._embed([text]), n_results=k, include=["documents"]
        )
        return [int(id_) for id_ in found["ids"][0]]

    def close(self) -> None:
        """Drop the collection."""
        self._client.delete_collection("bench")
