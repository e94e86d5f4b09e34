"""LlamaIndex over its FAISS store: exact search, as its documentation has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.suites.peers.base import Embed, Parameters, TextPeer, pick


class LlamaIndex(TextPeer):
    """A `VectorStoreIndex` over a `FaissVectorStore` of an `IndexFlatIP`."""

    NEEDS = ("llama-index-core", "llama-index-vector-stores-faiss")
    MODULES = ("llama_index.core", "llama_index.vector_stores.faiss")

    def build(self, texts: Sequence[str], embed: Embed, parameters: Parameters) -> None:
        """Add the texts as nodes."""
        import faiss
        from llama_index.core import StorageContext, VectorStoreIndex
        from llama_index.core.schema import TextNode
        from llama_index.vector_stores.faiss import FaissVectorStore

        pick(parameters)
        vectors = embed(texts)
        nodes = [
            TextNode(id_=str(row), text=text, embedding=vector.tolist())
            for row, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
        store = FaissVectorStore(faiss_index=faiss.IndexFlatIP(vectors.shape[1]))
        context = StorageContext.from_defaults(vector_store=store)
        self._index: Any = VectorStoreIndex(nodes, storage_context=context, embed_model=_model(embed))

    def search(self, text: str, k: int) -> list[int]:
        """The nearest rows."""
        return [int(hit.node.node_id) for hit in self._index.as_retriever(similarity_top_k=k).retrieve(text)]

    def close(self) -> None:
        """Free the index."""
        del self._index


def _model(embed: Embed) -> Any:
    """The lab's embedder as LlamaIndex calls one."""
    from llama_index.core.embeddings import BaseEmbedding

    class Model(BaseEmbedding):  # type: ignore[misc]
        def _get_text_embedding(self, text: str) -> list[float]:
            vector: list[float] = embed([text])[0].tolist()
            return vector

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    return Model(model_name="brein")
