"""The embedding model as queries reach it: behind the embedding cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from brein.cache import TieredCache, codec
from brein.cache.tiered import MISS
from brein.embedding import Embedder
from brein.records import FloatArray
from brein.retrieval.pipeline import Embedded


class QueryEmbedder(Embedder):
    """Embeds a text that was embedded before from the cache, so several parts may ask for the same one.

    `model` gives the model, which is loaded when it is first needed; `space` tells its vectors from others.
    """

    def __init__(self, model: Callable[[], Embedder], cache: TieredCache, space: str) -> None:
        self._model = model
        self._cache = cache
        self._space = space

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return self._model().dimension

    def embed_query(self, text: str) -> Embedded:
        """The vector of one text, and whether it had to be computed."""

        def compute() -> bytes:
            return codec.encode_vector(self._model().embed([text])[0])

        data, level = self._cache.get_or_compute(json.dumps([self._space, text]), compute)
        return Embedded(codec.decode_vector(data), computed=level == MISS)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embed `texts` as float32 (n, dimension); one alone goes through the cache."""
        if len(texts) == 1:
            return self.embed_query(texts[0]).vector[None, :]
        return self._model().embed(texts)

    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        """Embed each token of each text."""
        return self._model().embed_tokens(texts)
